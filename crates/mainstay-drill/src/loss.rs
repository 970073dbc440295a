//! What of the acknowledged is gone, and whether a promise allows it. Pure.
//!
//! It is counted before anything is excused. Where commits wait for no standby, a failover may lose the last of them: then
//! the smallest age is looked for at which the loss of everything younger explains all that was read. That age is what is
//! compared with the promise.

use serde::{Deserialize, Serialize};

use crate::checker::{Anomaly, Checked, History, Op, Operation, Outcome, Validity, append, monotonic};

/// Ages that are tried: of the oldest row or number that is known to be gone, then of one transfer after the other.
const MOST_TRIES: usize = 24;

/// Acknowledged writes of one kind that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Of these, gone.
    pub lost: u64,
    /// Values that were given to more than one.
    pub duplicated: u64,
    /// Certainly not done.
    pub failed: u64,
    /// Nobody knows.
    pub ambiguous: u64,
    /// Age that the oldest of what is gone had when the fault came. **Unit**: microseconds.
    pub oldest_us: u64,
}

impl Gone {
    /// Of several rounds.
    pub(crate) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.failed += other.failed;
        self.ambiguous += other.ambiguous;
        self.oldest_us = self.oldest_us.max(other.oldest_us);
    }
}

/// What is gone in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The ledger's rows.
    pub(crate) rows: Gone,
    /// Rows of unknown outcome that are there.
    pub(crate) ambiguous_present: u64,
    /// Numbers of the application's own counter, where it has one.
    pub(crate) numbers: Option<Gone>,
    /// The age at which the loss of everything younger explains what was read; none when nothing is gone, or when
    /// nothing may be. **Unit**: microseconds.
    pub(crate) explained_us: Option<u64>,
}

/// What a promise lets go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuse {
    /// Age that it may have had when the fault came.
    pub(crate) rpo_us: u64,
    /// When the fault came.
    pub(crate) injected_us: u64,
    /// When it was proven: what was asked later met the stack without its victim.
    pub(crate) gone_us: u64,
}

impl Excuse {
    /// The history if everything that was acknowledged within this age of the fault may be gone.
    fn applied(&self, history: &History, age_us: u64) -> History {
        let from = self.injected_us.saturating_sub(age_us);
        history.doubting(|one| one.start_us < self.gone_us && one.end_us >= from)
    }
}

/// What is gone.
pub(crate) fn of(history: &History, checks: &[Checked], injected_us: Option<u64>) -> Loss {
    let oldest = |lost: &[usize]| {
        let ends = lost.iter().filter_map(|at| history.operations().get(*at)).map(|one| one.end_us);
        ends.min().zip(injected_us).map_or(0, |(end, injected)| injected.saturating_sub(end))
    };
    let mut loss = Loss::default();
    for checked in checks {
        let mut gone = Gone {
            acknowledged: checked.writes.ok,
            failed: checked.writes.failed,
            ambiguous: checked.writes.ambiguous,
            ..Gone::default()
        };
        if checked.checker == append::NAME {
            let findings = checked.findings.iter().filter(|finding| finding.anomaly == Anomaly::Lost);
            let lost: Vec<usize> = findings.filter_map(|finding| finding.operations.first().copied()).collect();
            (gone.lost, gone.oldest_us) = (lost.len() as u64, oldest(&lost));
            gone.duplicated = checked.count_of(Anomaly::Duplicated);
            (loss.rows, loss.ambiguous_present) = (gone, checked.ambiguous_seen);
        }
        if checked.checker == monotonic::RECEIPTS {
            let lost = monotonic::forgotten(history, true);
            (gone.lost, gone.oldest_us) = (lost.len() as u64, oldest(&lost));
            gone.duplicated = checked.count_of(Anomaly::Duplicated);
            loss.numbers = Some(gone);
        }
    }
    loss
}

/// What the checkers say when the promise is granted, and the age that it took.
///
/// A loss that the promise does not allow stays what it is.
pub(crate) fn excused(
    history: &History,
    loss: &Loss,
    excuse: Excuse,
    check: impl Fn(&History) -> Vec<Checked>,
) -> (Vec<Checked>, Option<u64>) {
    let own = monotonic::forgotten(history, false);
    let own = own.iter().filter_map(|at| history.operations().get(*at)).map(|one| one.end_us).min();
    let own = own.map_or(0, |end| excuse.injected_us.saturating_sub(end));
    let known = loss.rows.oldest_us.max(loss.numbers.map_or(0, |gone| gone.oldest_us)).max(own);
    let mut first = None;
    for age in ages(history, known, excuse.injected_us).into_iter().filter(|age| *age <= excuse.rpo_us) {
        let checks = check(&excuse.applied(history, age));
        if checks.iter().all(|checked| checked.validity == Validity::Valid) {
            return (checks, Some(age));
        }
        first.get_or_insert(checks);
    }
    (first.unwrap_or_else(|| check(&excuse.applied(history, excuse.rpo_us))), None)
}

/// The age that is known, then those of transfers that are a little older: they may be gone with it, and no row tells.
fn ages(history: &History, known: u64, injected_us: u64) -> Vec<u64> {
    let is_transfer = |one: &&Operation| matches!(one.op, Op::Transfer { .. }) && one.outcome == Outcome::Ok;
    let ends = history.operations().iter().rev().filter(is_transfer).map(|one| one.end_us);
    let older = ends.filter(|end| *end <= injected_us).map(|end| injected_us - end).filter(|age| *age > known);
    std::iter::once(known).chain(older.take(MOST_TRIES - 1)).collect()
}

#[cfg(test)]
mod tests;
