//! When a base backup is due, and which ones are kept, by which rule, for how long.
//!
//! Every backup is whole by itself: a family (hourly, daily, …) is not another kind of backup, it keeps the first one
//! of each of its periods. Ages are counted to the newest backup, not to the clock: a stack that takes none any more
//! loses none.
//!
//! Clocks are wrong at times, by years. So what came after what is told by timelines and positions, which no clock
//! touches, and ages grow at most twice as fast as the machine really runs (see [`Reckoning`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_stack::model::{Backup as Policy, Keep};
use mainstay_types::{Lsn, Timestamp};
use serde::{Deserialize, Serialize};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// What time that the machine was off may add to ages at most: nobody can tell it from a clock that was set wrong.
const OFF_MOST: Duration = Duration::from_secs(24 * 3600);
/// 1970-01-01 was a Thursday; weeks begin on Mondays.
const FIRST_MONDAY: i64 = 4;

/// Backups of which the first of each period is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The first of each hour.
    Hourly,
    /// The first of each day.
    Daily,
    /// The first of each week, from Monday.
    Weekly,
    /// The first of each month.
    Monthly,
    /// The first of each year.
    Yearly,
}

impl Family {
    /// All, the finest first.
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Its name in the stack file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// How long its backups are kept; zero: there is none.
    pub fn kept(self, keep: &Keep) -> Duration {
        match self {
            Self::Hourly => keep.hourly,
            Self::Daily => keep.daily,
            Self::Weekly => keep.weekly,
            Self::Monthly => keep.monthly,
            Self::Yearly => keep.yearly,
        }
    }

    /// Beginning of the period that holds `at`, and of the one after it. `begins`: of a day, from midnight UTC.
    fn period(self, at: Timestamp, begins: Duration) -> (Timestamp, Timestamp) {
        let offset = i64::try_from(begins.as_secs()).unwrap_or(0);
        let shifted = at.as_micros().div_euclid(1_000_000) - offset;
        let day = shifted.div_euclid(DAY);
        let (from, to) = match self {
            Self::Hourly => {
                let hour = shifted.div_euclid(HOUR);
                (hour * HOUR, (hour + 1) * HOUR)
            }
            Self::Daily => (day * DAY, (day + 1) * DAY),
            Self::Weekly => {
                let monday = (day - FIRST_MONDAY).div_euclid(7) * 7 + FIRST_MONDAY;
                (monday * DAY, (monday + 7) * DAY)
            }
            Self::Monthly => {
                let (year, month, _) = civil(day);
                let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                (days(year, month, 1) * DAY, days(next.0, next.1, 1) * DAY)
            }
            Self::Yearly => {
                let (year, ..) = civil(day);
                (days(year, 1, 1) * DAY, days(year + 1, 1, 1) * DAY)
            }
        };
        let moment = |seconds: i64| Timestamp::from_micros((seconds + offset) * 1_000_000);
        (moment(from), moment(to))
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
///
/// **Source**: H. Hinnant, chrono-Compatible Low-Level Date Algorithms, `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`]: year, month, day.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted - era * 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// How the last try of a restore ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Everything was as it should be.
    Proven,
    /// Something was not.
    Failed,
}

/// A base backup, as far as its keeping goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Identity of its snapshot.
    pub id: String,
    /// When it began.
    pub began: Timestamp,
    /// When it became consistent.
    pub ended: Timestamp,
    /// Identity of the cluster.
    pub system: u64,
    /// Timeline at its start.
    pub timeline: u32,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to here it needs WAL: where it is consistent, or where it was compared.
    pub needs: Lsn,
    /// A person took it.
    pub is_by_hand: bool,
    /// Whether a restore of it was tried, when, and how that ended.
    pub proof: Option<(Timestamp, Proof)>,
}

/// A deploy: the restore point that it named before its migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Number of its release.
    pub release: u64,
    /// When.
    pub at: Timestamp,
    /// Identity of the cluster.
    pub system: u64,
    /// Timeline of the primary.
    pub timeline: u32,
    /// Where the record ends.
    pub lsn: Lsn,
}

/// Why a backup is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Rule {
    /// It is the first of a period.
    Family {
        /// Of which.
        family: Family,
        /// Until then.
        until: Timestamp,
    },
    /// A person took it.
    ByHand {
        /// Until then.
        until: Timestamp,
    },
    /// The state before a deploy is reached from it.
    BeforeDeploy {
        /// Number of the release.
        release: u64,
        /// Until then.
        until: Timestamp,
    },
    /// Which deploys there were is not known: the state before one may be reached from it.
    PerhapsBeforeDeploy {
        /// Until then.
        until: Timestamp,
    },
    /// From it every moment of the window is reached.
    Window,
    /// It is the newest.
    Newest,
    /// It is the last that was restored and found right.
    LastProven,
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which.
    pub id: String,
    /// The rules that keep it; none: it goes now.
    pub rules: Vec<Rule>,
}

impl Decision {
    /// Whether it goes now.
    pub fn goes(&self) -> bool {
        self.rules.is_empty()
    }

    /// The last moment that a rule with an end keeps it for.
    pub fn until(&self) -> Option<Timestamp> {
        self.rules
            .iter()
            .filter_map(|rule| match rule {
                Rule::Family { until, .. }
                | Rule::ByHand { until }
                | Rule::BeforeDeploy { until, .. }
                | Rule::PerhapsBeforeDeploy { until } => Some(*until),
                Rule::Window | Rule::Newest | Rule::LastProven => None,
            })
            .max()
    }

    /// Kept also past every date: until another takes its part.
    pub fn has_part(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::Window | Rule::Newest | Rule::LastProven))
    }
}

/// How far time has come as far as forgetting goes; kept from one run to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reckoning {
    /// Ages count to here.
    pub at: Timestamp,
    /// Identity of the machine's boot.
    pub boot: String,
    /// How long the machine had run then. **Unit**: milliseconds.
    pub up_ms: u64,
}

impl Reckoning {
    /// The next one. It follows the newest backup's end, but goes on no faster than twice the time that the machine has
    /// run, and by a day more for each time that it was off: a clock that is ahead by a year forgets nothing at once,
    /// and what lags after a long rest catches up. It never goes back: a clock that was set back is set right again.
    pub fn next(before: Option<&Self>, backups: &[Backup], boot: &str, up: Duration) -> Option<Self> {
        let by_order = in_order(backups);
        let (newest, elder) = (by_order.last()?.ended, by_order.iter().rev().nth(1).map(|backup| backup.ended));
        let (from, passed) = match before {
            Some(before) if before.boot == boot => {
                (before.at, up.saturating_sub(Duration::from_millis(before.up_ms)).saturating_mul(2))
            }
            Some(before) => (before.at, OFF_MOST + up.saturating_mul(2)),
            // Nothing is known: of a first run, or on another machine.
            None => (elder.unwrap_or(newest), OFF_MOST),
        };
        let at = newest.min(from.after(passed)).max(from);
        Some(Self { at, boot: boot.to_owned(), up_ms: u64::try_from(up.as_millis()).unwrap_or(u64::MAX) })
    }
}

/// The lowest position of archived WAL on timelines that no backup is of yet, by cluster: after a restore in place
/// positions go on from where the restored moment was.
pub type Unsaved = BTreeMap<u64, Lsn>;

/// Oldest first. Of one cluster the order is that of timelines and positions: a new timeline has a higher number than
/// all before it, and on one positions rise. Clusters are in the order in which their first backup ended.
fn in_order(backups: &[Backup]) -> Vec<&Backup> {
    let mut first: BTreeMap<u64, Timestamp> = BTreeMap::new();
    for backup in backups {
        let known = first.entry(backup.system).or_insert(backup.ended);
        *known = (*known).min(backup.ended);
    }
    let mut all: Vec<&Backup> = backups.iter().collect();
    all.sort_by_key(|one| (first.get(&one.system), one.system, one.timeline, one.start, one.needs, &one.id));
    all
}

/// What decides.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// What there is, in any order.
    pub backups: &'a [Backup],
    /// What the stack file says.
    pub policy: &'a Policy,
    /// See [`Unsaved`].
    pub unsaved: &'a Unsaved,
    /// Deploys, in any order; `None`: nobody knows which there were.
    pub deploys: Option<&'a [Deploy]>,
    /// How far time has come; `None`: it stands where the newest backup ended.
    pub reckoning: Option<&'a Reckoning>,
}

impl<'a> Scene<'a> {
    /// One of a future has none.
    fn age(&self, newest: &Backup, of: Timestamp) -> Duration {
        let at = self.reckoning.map_or(newest.ended, |reckoning| reckoning.at.min(newest.ended));
        at.saturating_since(of)
    }

    /// Decides about every backup; the answer is in their order.
    pub fn decide(&self) -> Vec<Decision> {
        let in_order = in_order(self.backups);
        let Some(newest) = in_order.last().copied() else { return Vec::new() };
        let proven = in_order.iter().rev().find(|backup| matches!(backup.proof, Some((_, Proof::Proven))));
        let anchors: BTreeSet<&str> = self.anchors(&in_order).values().map(|anchor| anchor.id.as_str()).collect();
        let firsts = self.firsts(&in_order);
        let deploys = self.before_deploys(&in_order);
        let perhaps = self.perhaps_before_deploys(&in_order);
        let decide = |backup: &Backup| {
            let mut rules = Vec::new();
            let age = self.age(newest, backup.ended);
            for family in firsts.get(backup.id.as_str()).into_iter().flatten() {
                let kept = family.kept(&self.policy.keep);
                if age < kept {
                    rules.push(Rule::Family { family: *family, until: backup.ended.after(kept) });
                }
            }
            if backup.is_by_hand && age < self.policy.keep.by_hand {
                rules.push(Rule::ByHand { until: backup.ended.after(self.policy.keep.by_hand) });
            }
            for (deploy, _) in deploys.iter().filter(|(_, base)| base.id == backup.id) {
                let until = deploy.at.after(self.policy.keep.deploys);
                rules.push(Rule::BeforeDeploy { release: deploy.release, until });
            }
            if let Some((_, until)) = perhaps.iter().find(|(base, _)| base.id == backup.id) {
                rules.push(Rule::PerhapsBeforeDeploy { until: *until });
            }
            let parts = [
                (anchors.contains(backup.id.as_str()), Rule::Window),
                (backup.id == newest.id, Rule::Newest),
                (proven.is_some_and(|proven| proven.id == backup.id), Rule::LastProven),
            ];
            rules.extend(parts.into_iter().filter(|(is_so, _)| *is_so).map(|(_, rule)| rule));
            Decision { id: backup.id.clone(), rules }
        };
        self.backups.iter().map(decide).collect()
    }

    /// Deploys that are kept, each with the backup that its state is reached from: the last before it. One whose restore
    /// failed is none, while there is another. A timeline before the deploy's is taken for one that leads to it, as after
    /// a failover; after a restore in place there is a base backup of the new one.
    fn before_deploys(&self, in_order: &[&'a Backup]) -> Vec<(&'a Deploy, &'a Backup)> {
        let Some(newest) = in_order.last() else { return Vec::new() };
        let deploys = self.deploys.unwrap_or_default();
        let kept = deploys.iter().filter(|deploy| self.age(newest, deploy.at) < self.policy.keep.deploys);
        let found = kept.filter_map(|deploy| {
            let is_before = |backup: &&&Backup| {
                backup.system == deploy.system && backup.timeline <= deploy.timeline && backup.needs <= deploy.lsn
            };
            let is_whole = |backup: &&&Backup| !matches!(backup.proof, Some((_, Proof::Failed)));
            let last = in_order.iter().rev().filter(is_before).find(is_whole);
            let base = last.or_else(|| in_order.iter().rev().find(is_before))?;
            Some((deploy, *base))
        });
        found.collect()
    }

    /// When nobody knows which deploys there were: each backup that one may have come after, as late as the next began
    /// whose restore did not fail, and until when it is kept for that.
    fn perhaps_before_deploys(&self, in_order: &[&'a Backup]) -> Vec<(&'a Backup, Timestamp)> {
        let (Some(newest), None) = (in_order.last(), self.deploys) else { return Vec::new() };
        let found = in_order.iter().enumerate().filter_map(|(at, base)| {
            let later = in_order.get(at + 1..).unwrap_or_default();
            let next = later.iter().find(|next| !matches!(next.proof, Some((_, Proof::Failed))));
            let last = next.or(later.last())?.began;
            let keep = self.policy.keep.deploys;
            (self.age(newest, last) < keep).then(|| (*base, last.after(keep)))
        });
        found.collect()
    }

    /// The families of which each is the first of a period. Where a clock was set back into an earlier period it begins
    /// anew: nothing else stands for what was taken since.
    fn firsts(&self, in_order: &[&'a Backup]) -> BTreeMap<&'a str, Vec<Family>> {
        let mut firsts: BTreeMap<&str, Vec<Family>> = BTreeMap::new();
        for family in Family::ALL.into_iter().filter(|family| !family.kept(&self.policy.keep).is_zero()) {
            let mut last = None;
            for backup in in_order {
                let period = Some((backup.system, family.period(backup.began, self.policy.day_begins).0));
                if period != last {
                    firsts.entry(&backup.id).or_default().push(family);
                }
                last = period;
            }
        }
        firsts
    }

    /// Of each cluster the backup from which the window's moments are reached: the newest that is as old as the window,
    /// else the oldest. One whose restore failed is none, nor is one whose position is above what was written after it:
    /// a restore in place made positions fall.
    fn anchors(&self, in_order: &[&'a Backup]) -> BTreeMap<u64, &'a Backup> {
        let mut anchors: BTreeMap<u64, &Backup> = BTreeMap::new();
        let Some(newest) = in_order.last() else { return anchors };
        let (mut lowest, mut found) = (self.unsaved.clone(), BTreeSet::new());
        for backup in in_order.iter().rev() {
            let known = lowest.entry(backup.system).or_insert(backup.start);
            let is_below = backup.start <= *known;
            *known = backup.start.min(*known);
            if found.contains(&backup.system) || matches!(backup.proof, Some((_, Proof::Failed))) || !is_below {
                continue;
            }
            anchors.insert(backup.system, backup);
            if self.age(newest, backup.ended) >= self.policy.window {
                found.insert(backup.system);
            }
        }
        anchors
    }

    /// WAL that the backups need: each its own, and from the anchor of the window on all of it. What is in none of
    /// these, of a cluster that has a backup, is needed by nothing.
    pub fn needed(&self) -> Vec<Needed> {
        let in_order = in_order(self.backups);
        let anchors = self.anchors(&in_order);
        let own = |backup: &Backup| Needed { system: backup.system, from: backup.start, to: Some(backup.needs) };
        let mut needed: Vec<Needed> = self.backups.iter().map(own).collect();
        needed.extend(anchors.values().map(|anchor| Needed { system: anchor.system, from: anchor.start, to: None }));
        let deploys = self.before_deploys(&in_order).into_iter();
        needed.extend(deploys.map(|(deploy, base)| Needed {
            system: base.system,
            from: base.start,
            to: Some(deploy.lsn),
        }));
        let perhaps = self.perhaps_before_deploys(&in_order).into_iter();
        needed.extend(perhaps.map(|(base, _)| Needed { system: base.system, from: base.start, to: None }));
        // A cluster without one keeps everything: nobody knows what will be wanted.
        let without = self.backups.iter().filter(|backup| !anchors.contains_key(&backup.system));
        needed.extend(without.map(|backup| Needed { system: backup.system, from: Lsn::new(0), to: None }));
        needed
    }
}

/// WAL that is needed of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// Identity of the cluster.
    pub system: u64,
    /// From this position.
    pub from: Lsn,
    /// To this one; `None`: everything after.
    pub to: Option<Lsn>,
}

/// A backup that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Since when: the beginning of its period.
    pub since: Timestamp,
    /// Periods before it that had none, since the last backup.
    pub missed: u32,
}

/// The family that is taken; the others keep some of its backups.
fn finest(policy: &Policy) -> Option<Family> {
    Family::ALL.into_iter().find(|family| !family.kept(&policy.keep).is_zero())
}

/// Whether a backup is due: none was begun in this period of the finest family. However many periods had none, one
/// makes up for all. One of a future is of a clock that was wrong: it says nothing of this period.
pub fn due(policy: &Policy, began: impl Iterator<Item = Timestamp>, now: Timestamp) -> Option<Due> {
    let (since, until) = finest(policy)?.period(now, policy.day_begins);
    let Some(last) = began.filter(|began| *began < until).max() else { return Some(Due { since, missed: 0 }) };
    if last >= since {
        return None;
    }
    let between = since.saturating_since(last).as_secs();
    let length = until.saturating_since(since).as_secs().max(1);
    let missed = u32::try_from(between / length).unwrap_or(u32::MAX);
    Some(Due { since, missed })
}

/// When the next one will be due; `None`: the stack file asks for none.
pub fn next(policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    Some(finest(policy)?.period(now, policy.day_begins).1)
}

#[cfg(test)]
mod tests;
