//! Money moves between accounts and never comes or goes: the sum is constant in every read, and the balances at the
//! end are what the transfers lead to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Checked, History, Op, Outcome};

/// Its name in reports.
pub const NAME: &str = "bank";
/// Its version.
pub const VERSION: u32 = 1;

/// Transfers that may or may not be in a read, up to which all combinations are tried: 4096 for each read.
const MOST_OPTIONAL: usize = 12;

/// Whether a balance may be below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Negative {
    /// Never.
    #[default]
    Forbidden,
    /// As the transfers lead to it.
    Allowed,
}

/// What is expected of the accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Sum of all balances.
    pub total: i64,
    /// Balances before the first transfer. Without it only totals and signs are checked.
    pub initial: Option<Balances>,
    /// Balances below zero.
    pub negative: Negative,
}

type Balances = BTreeMap<u32, i64>;

/// A read of all balances and its place in the history.
type Read<'a> = (usize, &'a Balances);

/// A transfer and where it stands in the history.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    at: usize,
    from: u32,
    to: u32,
    amount: i64,
    outcome: Outcome,
}

/// Checks every read of all balances.
pub fn check(history: &History, rules: &Rules) -> Checked {
    let mut checked = Checked::new(NAME, VERSION);
    let (mut transfers, mut reads) = (Vec::new(), Vec::new());
    for (at, operation) in history.operations().iter().enumerate() {
        match (&operation.op, operation.outcome) {
            (Op::Transfer { from, to, amount }, outcome) => {
                checked.writes.add(outcome);
                transfers.push(Transfer { at, from: *from, to: *to, amount: *amount, outcome });
            }
            (Op::Balances(balances), Outcome::Ok) => reads.push((at, balances)),
            _ => {}
        }
    }
    checked.reads = reads.len() as u64;
    reads.sort_by_key(|(at, _)| history.operations().get(*at).map_or(0, |operation| operation.start_us));
    totals(history, &transfers, &reads, rules, &mut checked);
    if rules.negative == Negative::Forbidden {
        signs(history, &transfers, &reads, &mut checked);
    }
    if let Some(initial) = &rules.initial {
        explain(history, &transfers, &reads, rules.total, initial, &mut checked);
    }
    checked.conclude()
}

/// Every total is right. A wrong one that stays is named once, by the first read that has it.
fn totals(history: &History, transfers: &[Transfer], reads: &[Read<'_>], rules: &Rules, checked: &mut Checked) {
    let (mut before, mut right) = (0, None);
    for (at, balances) in reads {
        let off = balances.values().sum::<i64>() - rules.total;
        if off != 0 && off != before {
            let suspects = suspects(history, transfers, right, *at, off);
            let text = format!("read {at} has a total of {}, it must be {}: {off:+}", rules.total + off, rules.total);
            checked.find(Anomaly::WrongTotal, std::iter::once(*at).chain(suspects).collect(), text);
        }
        if off == 0 {
            right = Some(*at);
        }
        before = off;
        if let Some(initial) = &rules.initial
            && !balances.keys().eq(initial.keys())
        {
            let text = format!("read {at} shows {} accounts, there are {}", balances.len(), initial.len());
            checked.find(Anomaly::Unexpected, vec![*at], text);
        }
    }
}

/// Transfers that may be half seen: not over before the last right read, begun before this one was over. When one of
/// them has just the amount that is off, it alone.
fn suspects(history: &History, transfers: &[Transfer], right: Option<usize>, read: usize, off: i64) -> Vec<usize> {
    let near: Vec<&Transfer> = transfers
        .iter()
        .filter(|one| !right.is_some_and(|right| is_over(history, one, right)) && !history.precedes(read, one.at))
        .collect();
    let exact: Vec<&Transfer> = near.iter().copied().filter(|one| one.amount.abs() == off.abs()).collect();
    if exact.is_empty() { near } else { exact }.iter().map(|transfer| transfer.at).collect()
}

/// No balance is below zero. Named once for each account, with the last two transfers that took from it.
fn signs(history: &History, transfers: &[Transfer], reads: &[Read<'_>], checked: &mut Checked) {
    let mut below: BTreeSet<u32> = BTreeSet::new();
    for (at, balances) in reads {
        for (account, balance) in *balances {
            if *balance >= 0 {
                below.remove(account);
                continue;
            }
            if !below.insert(*account) {
                continue;
            }
            let takes = |one: &&Transfer| one.from == *account && one.outcome != Outcome::Failed;
            let mut operations: Vec<usize> =
                transfers.iter().filter(takes).map(|one| one.at).filter(|one| !history.precedes(*at, *one)).collect();
            operations.drain(..operations.len().saturating_sub(2));
            operations.push(*at);
            let text = format!("read {at} shows {balance} on account {account}");
            checked.find(Anomaly::NegativeBalance, operations, text);
        }
    }
}

/// One of unknown outcome may still come: it is never over.
fn is_over(history: &History, transfer: &Transfer, read: usize) -> bool {
    transfer.outcome != Outcome::Ambiguous && history.precedes(transfer.at, read)
}

/// A read against the transfers: what must be in it, what may be, and what the latter have to explain.
struct Account<'a> {
    read: usize,
    done: Vec<&'a Transfer>,
    optional: Vec<&'a Transfer>,
    rest: Balances,
}

impl<'a> Account<'a> {
    fn of(history: &History, transfers: &'a [Transfer], read: &Read<'_>, initial: &Balances) -> Self {
        let (at, balances) = *read;
        let begun = |one: &&Transfer| !history.precedes(at, one.at);
        let done: Vec<&Transfer> =
            transfers.iter().filter(|one| one.outcome == Outcome::Ok && is_over(history, one, at)).collect();
        let optional: Vec<&Transfer> = transfers
            .iter()
            .filter(|one| one.outcome != Outcome::Failed && !is_over(history, one, at))
            .filter(begun)
            .collect();
        let mut rest = balances.clone();
        for (account, balance) in initial {
            *rest.entry(*account).or_default() -= balance;
        }
        for transfer in &done {
            apply(&mut rest, transfer, -1);
        }
        Self { read: at, done, optional, rest }
    }

    /// Some of the optional transfers that lead to `rest`; how many of unknown outcome they are.
    fn explained(&self, rest: &Balances) -> Option<u64> {
        (0_u32..1 << self.optional.len()).find_map(|choice| {
            let chosen = self.optional.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1);
            let (mut left, mut ambiguous) = (rest.clone(), 0);
            for (_, transfer) in chosen {
                apply(&mut left, transfer, -1);
                ambiguous += u64::from(transfer.outcome == Outcome::Ambiguous);
            }
            left.values().all(|balance| *balance == 0).then_some(ambiguous)
        })
    }

    /// The one transfer among `candidates` whose effect, taken with `sign`, makes the rest explainable.
    fn culprit<'t>(&self, candidates: impl Iterator<Item = &'t Transfer>, sign: i64) -> Option<&'t Transfer> {
        candidates.into_iter().find(|transfer| {
            let mut rest = self.rest.clone();
            apply(&mut rest, transfer, sign);
            self.explained(&rest).is_some()
        })
    }

    fn difference(&self) -> String {
        let off: Vec<String> = self
            .rest
            .iter()
            .filter(|(_, balance)| **balance != 0)
            .map(|(account, balance)| format!("account {account} by {balance:+}"))
            .collect();
        off.join(", ")
    }
}

fn apply(balances: &mut Balances, transfer: &Transfer, sign: i64) {
    *balances.entry(transfer.from).or_default() -= sign * transfer.amount;
    *balances.entry(transfer.to).or_default() += sign * transfer.amount;
}

/// Each read with the right total must be the initial balances, all transfers that were over, and some of those that
/// may have been. What the last read lacks is lost; what only an earlier one lacked, that read was stale.
fn explain(
    history: &History,
    transfers: &[Transfer],
    reads: &[Read<'_>],
    total: i64,
    initial: &Balances,
    checked: &mut Checked,
) {
    let last = reads.last().map(|last| Account::of(history, transfers, last, initial));
    let is_last_right =
        last.is_some_and(|last| last.optional.len() <= MOST_OPTIONAL && last.explained(&last.rest).is_some());
    for (number, read) in reads.iter().enumerate().filter(|(_, (_, read))| read.values().sum::<i64>() == total) {
        let account = Account::of(history, transfers, read, initial);
        let is_last = number + 1 == reads.len();
        if account.optional.len() > MOST_OPTIONAL {
            if is_last {
                let text = format!(
                    "the last read, {}, may hold any of {} transfers: too many to try all combinations",
                    account.read,
                    account.optional.len()
                );
                checked.notes.push(text);
            }
            continue;
        }
        if let Some(ambiguous) = account.explained(&account.rest) {
            if is_last {
                checked.ambiguous_seen = ambiguous;
            }
            continue;
        }
        // What the last read lacks, reads before it lack too: named once, there.
        if is_last || is_last_right {
            let failed =
                transfers.iter().filter(|one| one.outcome == Outcome::Failed && history.precedes(one.at, read.0));
            blame(&account, failed, is_last, checked);
        }
    }
}

fn blame<'t>(account: &Account<'_>, failed: impl Iterator<Item = &'t Transfer>, is_last: bool, checked: &mut Checked) {
    let read = account.read;
    // The latest first: it is the likeliest.
    if let Some(missing) = account.culprit(account.done.iter().rev().copied(), 1) {
        let anomaly = if is_last { Anomaly::Lost } else { Anomaly::StaleRead };
        let text = format!("read {read} misses transfer {}, which was acknowledged before", missing.at);
        checked.find(anomaly, vec![missing.at, read], text);
    } else if let Some(risen) = account.culprit(failed, -1) {
        let text = format!("transfer {} failed, and read {read} shows it", risen.at);
        checked.find(Anomaly::Resurrected, vec![risen.at, read], text);
    } else {
        let text = format!("read {read} is not what the transfers lead to: {}", account.difference());
        let optional = account.optional.iter().map(|one| one.at);
        checked.find(Anomaly::Unexplained, std::iter::once(read).chain(optional).collect(), text);
    }
}
