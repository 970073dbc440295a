//! What the checkers' findings mean for the verdict and for the report. Pure.

use std::collections::BTreeMap;

use crate::checker::{Anomaly, Checked, Tally, Validity, append, monotonic};
use crate::counter::NoNumbers;
use crate::figures;
use crate::report::{CheckReport, Counts};
use crate::round::Round;

/// Findings of a checker that a report quotes; all are counted.
const MOST_QUOTED: usize = 5;
/// Numbers of the application's counter below which it proves nothing.
const LEAST_NUMBERS: u64 = 20;

/// Promises that a round's data breaks.
pub(crate) fn broken(round: &Round) -> Vec<String> {
    let number = round.number;
    let wrong = round.seen.examined.checks.iter().filter(|checked| checked.validity == Validity::Invalid);
    wrong
        .map(|checked| {
            let first = checked.findings.first().map(|finding| finding.text.as_str()).unwrap_or_default();
            format!("run {number}: {} found {}: {first}", checked.checker, counted(&checked.count()))
        })
        .collect()
}

/// What could not be judged in a round: then the drill says nothing about its data.
pub(crate) fn unjudged(round: &Round) -> Vec<String> {
    let number = round.number;
    if let Some(error) = &round.seen.examined.contradiction {
        return vec![format!("run {number}: its history contradicts itself: {error}")];
    }
    let is_counter = round.seen.no_numbers == NoNumbers::default();
    let numbers = round.seen.examined.loss.numbers.filter(|_| is_counter);
    if let Some(gone) = numbers.filter(|gone| gone.acknowledged < LEAST_NUMBERS) {
        let given = gone.acknowledged;
        return vec![format!("run {number}: the application gave {given} numbers, {LEAST_NUMBERS} are needed")];
    }
    let unknown = round.seen.examined.checks.iter().filter(|checked| checked.validity == Validity::Unknown);
    unknown
        .map(|checked| format!("run {number}: {} cannot judge: {}", checked.checker, checked.notes.join("; ")))
        .collect()
}

/// "2 lost, 1 duplicated".
pub(crate) fn counted(count: &BTreeMap<Anomaly, u64>) -> String {
    count.iter().map(|(anomaly, count)| format!("{count} {anomaly}")).collect::<Vec<_>>().join(", ")
}

/// What `append` says of the ledger's rows.
pub(crate) fn count_rows(round: &Round, counts: &mut Counts) {
    let loss = &round.seen.examined.loss;
    counts.acknowledged += loss.rows.acknowledged;
    counts.lost += loss.rows.lost;
    counts.duplicated += loss.rows.duplicated;
    counts.ambiguous_present += loss.ambiguous_present;
    let append = round.seen.examined.checks.iter().filter(|checked| checked.checker == append::NAME);
    counts.resurrected += append.map(|checked| checked.count_of(Anomaly::Resurrected)).sum::<u64>();
}

/// Writes of the workloads beside the ledger that failed or whose outcome is unknown, of rounds with a fault.
pub(crate) fn disturbed(rounds: &[Round]) -> u64 {
    let beside = |checked: &&Checked| checked.checker != append::NAME && checked.checker != monotonic::RECEIPTS;
    let writes = figures::proven(rounds)
        .flat_map(|round| &round.seen.examined.checks)
        .filter(beside)
        .map(|checked| checked.writes);
    writes.map(|writes| writes.failed + writes.ambiguous).sum()
}

/// Numbers that the application did not give when it was asked, of rounds with a fault. An answer that is no number is not
/// among them: it says that no counter was asked, not what became of one.
pub(crate) fn unanswered(rounds: &[Round]) -> u64 {
    let of = |round: &Round| {
        let numbers = round.seen.examined.loss.numbers?;
        Some((numbers.failed + numbers.ambiguous).saturating_sub(round.seen.no_numbers.takes))
    };
    figures::proven(rounds).filter_map(of).sum()
}

/// Why nothing is proven of the application's counter where its answers are no numbers, over all rounds.
pub(crate) fn no_numbers(rounds: &[Round]) -> Option<String> {
    let strange = |round: &&Round| round.seen.no_numbers != NoNumbers::default();
    let of = rounds.iter().filter(strange).count();
    let first = rounds.iter().find_map(|round| round.seen.no_numbers.first.as_deref())?;
    let count: u64 = rounds.iter().map(|round| round.seen.no_numbers.takes + round.seen.no_numbers.reads).sum();
    let runs = rounds.len();
    Some(format!(
        "{count} answers of the application's counter are no number, in {of} of {runs} runs, so nothing is proven of it; \
         the first: {first}"
    ))
}

/// Each checker over all rounds.
pub(crate) fn summary(rounds: &[Round]) -> Vec<CheckReport> {
    let mut all: Vec<CheckReport> = Vec::new();
    for round in rounds {
        for checked in &round.seen.examined.checks {
            let index = all.iter().position(|one| one.checker == checked.checker).unwrap_or_else(|| {
                all.push(CheckReport::new(checked.checker, checked.version));
                all.len() - 1
            });
            if let Some(report) = all.get_mut(index) {
                add(report, round.number, checked);
            }
        }
    }
    all
}

fn add(report: &mut CheckReport, number: u32, checked: &Checked) {
    report.rounds += 1;
    report.validity = report.validity.max(checked.validity);
    report.writes = Tally {
        ok: report.writes.ok + checked.writes.ok,
        failed: report.writes.failed + checked.writes.failed,
        ambiguous: report.writes.ambiguous + checked.writes.ambiguous,
    };
    report.ambiguous_seen += checked.ambiguous_seen;
    report.reads += checked.reads;
    for (anomaly, count) in checked.count() {
        *report.anomalies.entry(anomaly).or_default() += count;
    }
    let texts = checked.findings.iter().map(|finding| &finding.text).chain(&checked.notes);
    let room = MOST_QUOTED.saturating_sub(report.quoted.len());
    report.quoted.extend(texts.take(room).map(|text| format!("run {number}: {text}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Element, History, Op, Operation, Outcome};

    fn checked(read: &[Element]) -> Checked {
        let operation =
            |process, start_us, op, outcome| Operation { process, start_us, end_us: start_us + 1, op, outcome };
        let operations = vec![
            operation(0, 0, Op::Append(Element(0, 1)), Outcome::Ok),
            operation(0, 10, Op::Append(Element(0, 2)), Outcome::Ambiguous),
            operation(9, 20, Op::ReadAll(read.to_vec()), Outcome::Ok),
        ];
        append::check(&History::new("a test", None, operations).expect("in order"))
    }

    #[test]
    fn a_summary_keeps_the_worst_and_counts_all() {
        let mut report = CheckReport::new(append::NAME, append::VERSION);
        add(&mut report, 1, &checked(&[Element(0, 1), Element(0, 2)]));
        assert_eq!((report.validity, report.ambiguous_seen), (Validity::Valid, 1));
        for number in 2..=8 {
            add(&mut report, number, &checked(&[]));
        }
        add(&mut report, 9, &checked(&[Element(0, 1)]));
        assert_eq!((report.rounds, report.validity), (9, Validity::Invalid));
        assert_eq!(report.anomalies, BTreeMap::from([(Anomaly::Lost, 7)]));
        assert_eq!((report.writes.ok, report.writes.ambiguous, report.reads), (9, 9, 9));
        assert_eq!(report.quoted.len(), MOST_QUOTED);
        assert!(report.quoted[0].starts_with("run 2: read 2 misses 0-1"), "{:?}", report.quoted);
    }
}
