//! Which job the backups need next: take one, prove one by restoring it, free what is kept no longer. One at a time,
//! in a process of its own that keep starts; its record is on disk, so whoever comes after a crash goes by it.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_stack::model::Backup as Policy;
use mainstay_types::{BoxId, ChildName, Seen, State, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

pub use crate::copy::{CopySeen, faults as copy_faults};
use crate::draft::Draft;
use crate::plan::{BoxPlan, Step};
use crate::retention::{self, Backup, Proof};
use crate::schedule::moment;
use crate::view::{Life, View};

/// Pause after a first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(900);
/// How long a standby is waited for that does not stream, before the primary is read.
const STANDBY_WITHIN: Duration = Duration::from_secs(300);
/// A finished segment of WAL that waits longer than this is behind: the archiver takes 0.1 s for one.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(30);
/// A first look at the store of the second copy takes seconds.
const COPY_BEGUN_WITHIN: Duration = Duration::from_secs(60);
/// The first base backup of a new stack may take so long before it is missed.
const FIRST_WITHIN: Duration = Duration::from_secs(900);

/// What a process of the backups does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Takes a base backup.
    Take,
    /// Restores one and compares.
    Prove,
    /// Forgets what is kept no longer and frees its space.
    Prune,
}

impl Job {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Prove => "prove",
            Self::Prune => "prune",
        }
    }

    /// What it does, for people.
    pub fn what(self) -> &'static str {
        match self {
            Self::Take => "the base backup",
            Self::Prove => "the restore that proves a backup",
            Self::Prune => "freeing space of backups",
        }
    }
}

/// What is on disk of a kind of job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// When the last one began.
    pub began: Timestamp,
    /// When it ended; `None`: it runs, or was killed.
    pub ended: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    /// Failures in a row, this one included until it ended well.
    pub attempts: u32,
}

/// The archive, as far as alerts go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSeen {
    /// Segments in it.
    pub segments: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// When the newest was archived.
    pub newest: Option<Timestamp>,
    /// Places after the window's anchor where segments are missing, one line each.
    pub gaps: Vec<String>,
    /// Finished segments of the primary that wait to be archived.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Timestamp>,
}

/// What is known of a stack's backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupsSeen {
    /// Since when somebody looks.
    pub since: Timestamp,
    /// Whole base backups, oldest first.
    pub list: Vec<Backup>,
    /// The archive.
    pub archive: ArchiveSeen,
    /// The last job of each kind.
    pub jobs: BTreeMap<Job, JobRecord>,
    /// The place cannot be read: why.
    pub trouble: Option<String>,
    /// Which deploys there were is not known: why.
    #[serde(default)]
    pub unknown_deploys: Option<String>,
    /// The second copy; `None`: the stack file asks for none, or nothing was noted of it yet.
    #[serde(default)]
    pub copy: Option<CopySeen>,
}

impl BackupsSeen {
    /// Of a look that broke off.
    pub fn broken(since: Timestamp) -> Self {
        let trouble =
            Some("the look at the backups broke off: a bug, or a damaged file; the log of control says which");
        Self {
            since,
            list: Vec::new(),
            archive: ArchiveSeen::default(),
            jobs: BTreeMap::new(),
            trouble: trouble.map(str::to_owned),
            unknown_deploys: None,
            copy: None,
        }
    }
}

/// The process that does a job.
pub fn child() -> ChildName {
    crate::children::child("backup-run")
}

/// What is wrong with the backups, the worst first.
pub fn faults(policy: &Policy, seen: &BackupsSeen, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    faults.extend(seen.trouble.clone());
    let last =
        seen.list.iter().filter_map(|one| one.proof).filter(|(at, _)| is_past(*at, now)).max_by_key(|(at, _)| *at);
    if let Some((_, Proof::Failed)) = last {
        faults.push("the last restore of a backup failed: `mainstay backup list` says which, and why".to_owned());
    }
    faults.extend(seen.archive.gaps.iter().take(3).cloned());
    faults.extend(seen.unknown_deploys.clone());
    if let Some(since) = seen.archive.waiting_since.filter(|since| now.saturating_since(*since) > ARCHIVED_WITHIN) {
        let (count, seconds) = (seen.archive.waiting, now.saturating_since(since).as_secs());
        faults.push(format!("{count} segments of WAL are not archived, the oldest waits for {seconds} s"));
    }
    for (job, record) in &seen.jobs {
        if let Some(error) = record.error.as_ref().filter(|_| record.ended.is_some()) {
            faults.push(format!("{} failed ({} in a row): {error}", job.what(), record.attempts));
        }
    }
    let looks_long = now.saturating_since(seen.since) > COPY_BEGUN_WITHIN;
    let is_noted = |to: &str| seen.copy.as_ref().is_some_and(|copy| copy.to == to);
    let away = policy.away().filter(|away| looks_long || is_noted(&away.store.address.to_string()));
    faults.extend(away.into_iter().flat_map(|away| crate::copy::faults(away, seen.copy.as_ref(), now)));
    let oldest = seen.list.iter().map(|one| one.ended).min();
    let proven = last_proven(seen, now).map(|(at, _)| at);
    let counts_from = proven.or(oldest);
    if let Some(from) = counts_from.filter(|from| now.saturating_since(*from) > policy.proof) {
        let what = if proven.is_some() { "the last proven restore is of" } else { "no restore was proven since" };
        faults.push(format!("{what} {}, promised is one in {}", moment(from), days_or_hours(policy.proof)));
    }
    // Who could not look has no list.
    let is_missed = seen.trouble.is_none() && seen.list.is_empty() && now.saturating_since(seen.since) > FIRST_WITHIN;
    if is_missed && retention::next(policy, now).is_some() {
        faults.push("there is no base backup yet".to_owned());
    }
    faults
}

fn days_or_hours(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    if hours.is_multiple_of(24) { format!("{} d", hours / 24) } else { format!("{hours} h") }
}

/// Whether a moment that was noted can be believed. What lies ahead is of a clock that was wrong; looks and notes of one
/// moment differ by less than a minute.
pub(crate) fn is_past(noted: Timestamp, now: Timestamp) -> bool {
    noted <= now.after(Duration::from_secs(60))
}

/// The last proven restore: when, and of which backup.
pub fn last_proven(seen: &BackupsSeen, now: Timestamp) -> Option<(Timestamp, &Backup)> {
    let proven = seen.list.iter().filter_map(|one| match one.proof {
        Some((at, Proof::Proven)) if is_past(at, now) => Some((at, one)),
        Some((_, Proof::Proven | Proof::Failed)) | None => None,
    });
    proven.max_by_key(|(at, _)| *at)
}

/// Plans the next job and draws the box; `None`: the stack has no backups.
pub(crate) fn plan(draft: &mut Draft<'_>) -> Option<BoxPlan> {
    let policy = draft.view.stack.database.as_ref()?.backup.as_ref()?;
    let mut shown = BoxPlan {
        id: BoxId::Backups,
        label: "base backups and WAL".to_owned(),
        state: State::Ready,
        waiting: Vec::new(),
        reason: None,
    };
    let Seen::Fact { value: seen, observed_at } = &draft.view.observed.backups else {
        shown.state = State::Unknown;
        shown.waiting.push(Waiting::Observation { of: "the folder of the backups".to_owned() });
        return Some(shown);
    };
    let now = draft.view.now;
    shown.label = label(seen, now);
    let life = draft.view.life(&child());
    match life {
        Life::Runs(running) => {
            let what = seen.jobs.iter().max_by_key(|(_, record)| record.began).map_or("a job", |(job, _)| job.what());
            shown.waiting.push(Waiting::Step { what: format!("{what} is under way"), since: running.since });
        }
        // What was seen before its end says nothing of what it did.
        Life::Ended { at, .. } if *observed_at < at => {
            shown.waiting.push(Waiting::Observation { of: "what the last job did".to_owned() });
        }
        Life::Ended { .. } | Life::Never => {
            if let Some(job) = next_job(draft, policy, seen) {
                let waiting = draft.start(life, Step::StartBackupJob { job });
                shown.waiting.push(waiting);
            }
        }
    }
    if let Some(next) = retention::next(policy, now) {
        draft.wake(next);
    }
    let faults = faults(policy, seen, now);
    if let Some(first) = faults.first() {
        shown.state = State::Degraded;
        shown.reason = Some(match faults.len() {
            1 => first.clone(),
            count => format!("{first} (and {} more: `mainstay backup list`)", count - 1),
        });
    } else if seen.list.is_empty() && retention::next(policy, now).is_some() {
        shown.state = State::Starting;
    }
    Some(shown)
}

fn label(seen: &BackupsSeen, now: Timestamp) -> String {
    if seen.list.is_empty() {
        return "no base backup yet".to_owned();
    }
    // A box is narrow: what matters is the last restore that was proven, in UTC.
    last_proven(seen, now).map_or("no restore proven yet".to_owned(), |(at, _)| {
        let text = at.to_string();
        format!("restore proven {}", text.get(5..16).unwrap_or(&text).replace('T', " "))
    })
}

/// The job that is due, unless it waits out the pause after a failure.
fn next_job(draft: &mut Draft<'_>, policy: &Policy, seen: &BackupsSeen) -> Option<Job> {
    let now = draft.view.now;
    if seen.trouble.is_some() {
        return None;
    }
    let wanted = [
        (Job::Take, is_take_due(&draft.view, policy, seen)),
        (Job::Prove, seen.list.iter().any(|one| one.proof.is_none())),
        (Job::Prune, is_prune_due(seen, now)),
    ];
    for (job, _) in wanted.into_iter().filter(|(_, is_due)| *is_due) {
        match pause_until(seen.jobs.get(&job), now) {
            Some(until) => draft.wake(until),
            None => return Some(job),
        }
    }
    None
}

/// When a failed job may be tried again; `None`: at once.
pub(crate) fn pause_until(record: Option<&JobRecord>, now: Timestamp) -> Option<Timestamp> {
    let record = record.filter(|record| record.attempts > 0)?;
    let from = record.ended.unwrap_or(record.began);
    let pause = FIRST_PAUSE.saturating_mul(1 << (record.attempts - 1).min(10)).min(LONGEST_PAUSE);
    let until = from.after(pause);
    // A beginning that lies ahead is of a clock that was wrong.
    (from <= now && now < until).then_some(until)
}

fn is_take_due(view: &View<'_>, policy: &Policy, seen: &BackupsSeen) -> bool {
    let Some(due) = retention::due(policy, seen.list.iter().map(|one| one.began), view.now) else { return false };
    let Some(record) = view.record().filter(|record| record.promoting.is_none()) else { return false };
    let answers = |member| view.member(member).is_some_and(|seen| seen.answer.value().is_some());
    if !answers(record.primary) || view.observed.wish.is_some() || !view.observed.is_database_prepared {
        return false;
    }
    let standbys = view.stack.database.as_ref().map_or(0, |database| database.standbys);
    let is_streaming = view.database().is_some_and(|database| {
        database.members.values().any(|member| member.answer.value().is_some_and(|answer| answer.is_streaming))
    });
    let since = due.since.max(seen.since);
    standbys == 0 || is_streaming || view.now.saturating_since(since) > STANDBY_WITHIN
}

/// After each new backup there is something to free: an older one, or WAL that left the window.
fn is_prune_due(seen: &BackupsSeen, now: Timestamp) -> bool {
    // A backup that ended in a future is newer than every run that frees: one after the other would be due.
    let newest = seen.list.iter().map(|one| one.ended).filter(|ended| is_past(*ended, now)).max();
    let last = seen.jobs.get(&Job::Prune).map(|record| record.began).filter(|began| is_past(*began, now));
    newest.is_some_and(|newest| last.is_none_or(|last| last < newest))
        || seen.jobs.get(&Job::Prune).is_some_and(|record| record.attempts > 0)
}
