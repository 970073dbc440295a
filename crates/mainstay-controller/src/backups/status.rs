//! What is told of backups: in `status`, as events, as metrics.

use std::fmt::Write;

use mainstay_api::{BackupsStatus, CopyStatus, ProvenRestore};
use mainstay_backup::proof::Proof;
use mainstay_decide::backups::{self, BackupsSeen, CopySeen, Job};
use mainstay_decide::retention;
use mainstay_stack::model::Backup as Policy;
use mainstay_types::{Bytes, ChildName, Timestamp};

use super::second::{self, Change};
use crate::status::Scene;
use crate::store::NewEvent;

/// What a proof left out, named one by one.
const MOST_NAMED: usize = 3;

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn policy<'a>(scene: &'a Scene<'_>) -> Option<&'a Policy> {
    scene.stack.database.as_ref()?.backup.as_ref()
}

/// What `status` says; `None`: the stack has none, or nobody has looked yet.
pub(crate) fn status(scene: &Scene<'_>) -> Option<BackupsStatus> {
    let policy = policy(scene)?;
    let seen = scene.observed.backups.value()?;
    let child = scene.observed.children.value().and_then(|children| children.get(&backups::child()));
    let is_running = child.is_some_and(|child| child.ended.is_none());
    let running = seen.jobs.iter().filter(|(_, record)| is_running && record.ended.is_none());
    let newest = seen.list.last();
    Some(BackupsStatus {
        folder: policy.target.to_string(),
        count: seen.list.len() as u64,
        last: newest.map(|one| one.ended),
        next: retention::next(policy, scene.now),
        overdue_since: retention::due(policy, seen.list.iter().map(|one| one.began), scene.now).map(|due| due.since),
        proven: backups::last_proven(seen, scene.now)
            .map(|(at, backup)| ProvenRestore { at, backup: backup.id.clone() }),
        unproven_since: backups::last_proven(seen, scene.now)
            .map(|(at, _)| at)
            .or_else(|| seen.list.iter().map(|one| one.ended).min()),
        proof_within_ms: millis(policy.proof),
        running: running.map(|(job, _)| job.name().to_owned()).next(),
        failures: seen.jobs.iter().map(|(job, record)| (job.name().to_owned(), u64::from(record.attempts))).collect(),
        segments: seen.archive.segments,
        wal_bytes: seen.archive.bytes,
        newest_wal: seen.archive.newest,
        waiting: seen.archive.waiting,
        waiting_since: seen.archive.waiting_since,
        gaps: seen.archive.gaps.clone(),
        rpo_ms: millis(policy.rpo),
        faults: backups::faults(policy, seen, scene.now),
        copy: copy(policy, seen, scene.now),
    })
}

fn copy(policy: &Policy, seen: &BackupsSeen, at: Timestamp) -> Option<CopyStatus> {
    let wanted = policy.away()?;
    let copy = seen.copy.as_ref().filter(|copy| copy.to == wanted.store.address.to_string())?;
    Some(CopyStatus {
        to: copy.to.clone(),
        is_target: wanted.is_target,
        up_to: copy.up_to(),
        behind_ms: copy.behind(at).map(millis),
        rpo_ms: millis(wanted.rpo),
        backups: copy.backups,
        files: copy.files,
        bytes: copy.bytes,
        waiting: copy.waiting,
        waiting_bytes: copy.waiting_bytes,
        extra: copy.extra,
        error: copy.error.clone(),
        failing_since: copy.failing_since,
    })
}

/// What changed since the last look.
pub(crate) fn events(before: &BackupsSeen, after: &BackupsSeen, proofs: &[Proof], at: Timestamp) -> Vec<NewEvent> {
    let mut events = Vec::new();
    let about = |event: NewEvent| event.about("backups");
    match (&before.trouble, &after.trouble) {
        (None, Some(trouble)) => events.push(about(NewEvent::error(at, "BackupsUnreadable", trouble.clone()))),
        (Some(_), None) => {
            events.push(about(NewEvent::info(at, "BackupsReadable", "the backups can be read again".to_owned())));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    // Who could not look has no list: what is in the other one is neither new nor gone.
    if before.trouble.is_some() || after.trouble.is_some() {
        return events;
    }
    for one in &after.list {
        let known = before.list.iter().find(|known| known.id == one.id);
        let short = one.id.get(..8).unwrap_or(&one.id);
        if known.is_none() {
            let text = format!("base backup {short} is stored, whole with its WAL up to {}", one.needs);
            let took = one.ended.saturating_since(one.began);
            events.push(about(NewEvent::info(at, "BackupTaken", text)).with("took_ms", millis(took)));
        }
        if one.proof.is_some() && known.is_none_or(|known| known.proof != one.proof) {
            events.extend(
                proofs.iter().find(|proof| proof.backup == one.id).map(|proof| about(proven(proof, short, at))),
            );
        }
    }
    match (&before.unknown_deploys, &after.unknown_deploys) {
        (None, Some(why)) => events.push(about(NewEvent::error(at, "ReleasePointsUnknown", why.clone()))),
        (Some(_), None) => {
            let text = "which deploys there were is known again, as far back as the state before one is kept";
            events.push(about(NewEvent::info(at, "ReleasePointsKnown", text)));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    for (job, record) in &after.jobs {
        let is_new = before.jobs.get(job) != Some(record) && record.ended.is_some();
        if let Some(error) = record.error.as_ref().filter(|_| is_new) {
            let text = format!("{} failed (attempt {}): {error}", job.what(), record.attempts);
            events.push(about(NewEvent::error(at, "BackupJobFailed", text)).with("attempts", record.attempts));
        }
        if *job == Job::Prune && is_new && record.error.is_none() && after.list.len() < before.list.len() {
            let gone = before.list.iter().filter(|one| !after.list.iter().any(|left| left.id == one.id)).count();
            let text = format!("{gone} base backups were kept long enough and are gone, {} stay", after.list.len());
            events.push(about(NewEvent::info(at, "BackupsForgotten", text)).with("count", gone as u64));
        }
    }
    let is_new = |gap: &&String| !before.archive.gaps.contains(*gap);
    let gaps = after.archive.gaps.iter().filter(is_new);
    events.extend(gaps.map(|gap| about(NewEvent::error(at, "WalMissing", gap.clone()))));
    let changes = second::changed(before.copy.as_ref(), after.copy.as_ref());
    if let Some(copy) = &after.copy {
        events.extend(changes.into_iter().map(|change| about(of_copy(copy, change, at))));
    }
    events
}

fn of_copy(copy: &CopySeen, change: Change, at: Timestamp) -> NewEvent {
    let named = format!("the {} {}", if copy.is_target { "store" } else { "second copy to" }, copy.to);
    match change {
        Change::Stopped(error) => {
            let what = if copy.is_target { "takes nothing" } else { "does not go on" };
            NewEvent::error(at, "CopyStopped", format!("{named} {what}: {error}"))
        }
        Change::GoesOn { waiting } => {
            let what = if copy.is_target { "takes again what is archived" } else { "goes on" };
            NewEvent::info(at, "CopyResumed", format!("{named} {what}: {waiting} files wait")).with("waiting", waiting)
        }
        Change::BackupThere { backups } => {
            let text = format!("a base backup is in {named} with all that it needs: {backups} by now");
            NewEvent::info(at, "BackupCopied", text).with("backups", backups)
        }
    }
}

fn proven(proof: &Proof, short: &str, at: Timestamp) -> NewEvent {
    let took = millis(proof.ended.saturating_since(proof.began));
    if !proof.is_proven {
        let text = format!("the restore of backup {short} failed: {}", proof.faults.join("; "));
        return NewEvent::error(at, "RestoreFailed", text).with("took_ms", took);
    }
    let whole =
        format!("{} and WAL to {}", Bytes(proof.bytes), proof.reached.map(|lsn| lsn.to_string()).unwrap_or_default());
    let compared = format!("{} tables with {} rows as at the source", proof.tables, proof.rows);
    let text = match proof.left_out.as_slice() {
        [] => format!("backup {short} was restored and is right: {whole}, {compared}"),
        left_out => {
            let (right, compared) = match proof.tables {
                0 => ("", "no row was compared"),
                _ => (" and is right", compared.as_str()),
            };
            let more = left_out.len().saturating_sub(MOST_NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let left_out = left_out.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
            format!("backup {short} was restored{right}: {whole}, {compared}; not looked at: {left_out}{more}")
        }
    };
    NewEvent::info(at, "RestoreProven", text).with("took_ms", took).with("rows", proof.rows)
}

/// For Prometheus.
pub(crate) fn metrics(page: &mut String, status: &BackupsStatus, at: Timestamp) {
    let seconds = |at: Timestamp| at.as_micros().div_euclid(1_000_000);
    let age = |since: Option<Timestamp>| since.map_or(0, |since| at.saturating_since(since).as_secs());
    let mut gauge = |name: &str, help: &str, value: String| {
        writeln!(page, "# HELP mainstay_backup_{name} {help}\n# TYPE mainstay_backup_{name} gauge").ok();
        writeln!(page, "mainstay_backup_{name} {value}").ok();
    };
    gauge("count", "Whole base backups.", status.count.to_string());
    if let Some(last) = status.last {
        gauge("last_timestamp_seconds", "When the newest base backup became consistent.", seconds(last).to_string());
    }
    gauge("overdue_seconds", "Since when a base backup is due.", age(status.overdue_since).to_string());
    if let Some(proven) = &status.proven {
        gauge("proven_timestamp_seconds", "When a restore was last proven.", seconds(proven.at).to_string());
    }
    gauge("unproven_seconds", "Age of the last proven restore.", age(status.unproven_since).to_string());
    gauge("proof_promised_seconds", "What that may be.", (status.proof_within_ms / 1000).to_string());
    gauge("archived_segments", "Segments of WAL in the archive.", status.segments.to_string());
    gauge("archived_bytes", "Their bytes.", status.wal_bytes.to_string());
    gauge("archive_waiting_segments", "Finished segments that are not archived.", status.waiting.to_string());
    gauge("archive_lag_seconds", "How long the oldest of them waits.", age(status.waiting_since).to_string());
    gauge("rpo_seconds", "What may be lost with the machine, in time.", (status.rpo_ms / 1000).to_string());
    gauge("wal_gaps", "Places where archived WAL is missing.", status.gaps.len().to_string());
    gauge("faults", "What is wrong with the backups.", status.faults.len().to_string());
    if let Some(copy) = &status.copy {
        if let Some(behind) = copy.behind_ms {
            gauge("copy_behind_seconds", "How far the second copy is behind.", (behind / 1000).to_string());
        }
        gauge("copy_rpo_seconds", "How far it may be.", (copy.rpo_ms / 1000).to_string());
        gauge("copy_failing_seconds", "How long it does not go on.", age(copy.failing_since).to_string());
        gauge("copy_waiting_bytes", "What is not in it yet.", copy.waiting_bytes.to_string());
        gauge("copy_base_backups", "Whole base backups in it.", copy.backups.to_string());
    }
    writeln!(page, "# HELP mainstay_backup_job_failures Failures in a row.\n# TYPE mainstay_backup_job_failures gauge")
        .ok();
    for (job, count) in &status.failures {
        writeln!(page, "mainstay_backup_job_failures{{job=\"{job}\"}} {count}").ok();
    }
}

/// The name of the process that does jobs, as logs have it.
pub(crate) fn child() -> ChildName {
    backups::child()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstay_decide::backups::ArchiveSeen;

    use super::*;

    #[test]
    fn a_proof_says_what_it_did_not_compare() {
        let at = Timestamp::from_millis(5);
        let told = |tables: u64, left_out: &[&str]| {
            let proof = Proof {
                version: 1,
                backup: "ab".repeat(32),
                release: "1".to_owned(),
                began: at,
                ended: at,
                is_proven: true,
                faults: Vec::new(),
                wanted: mainstay_types::Lsn::new(1),
                reached: Some(mainstay_types::Lsn::new(1)),
                last_commit: None,
                bytes: 1,
                took_ms: BTreeMap::new(),
                tables,
                rows: tables * 3,
                asserts: 0,
                left_out: left_out.iter().map(|text| (*text).to_owned()).collect(),
            };
            proven(&proof, "abab", at).text
        };
        assert!(told(2, &[]).ends_with("and is right: 1 B and WAL to 0/1, 2 tables with 6 rows as at the source"));
        let broke = told(0, &["the rows of the source were not counted: it broke off"]);
        assert!(
            broke.contains("no row was compared; not looked at: the rows of the source were not counted"),
            "{broke}"
        );
        assert!(!broke.contains("as at the source") && !broke.contains("right"), "{broke}");
        let some = told(1, &["a", "b", "c", "d"]);
        assert!(some.contains("1 tables with 3 rows as at the source; not looked at: a; b; c; and 1 more"), "{some}");
    }

    #[test]
    fn trouble_is_told_once_and_its_end_too_and_no_backup_is_new_by_it() {
        let at = Timestamp::from_millis(5);
        let backup = retention::Backup {
            id: "ab".repeat(32),
            began: at,
            ended: at,
            system: 7,
            timeline: 1,
            start: mainstay_types::Lsn::new(1),
            needs: mainstay_types::Lsn::new(2),
            is_by_hand: false,
            proof: None,
        };
        let well = BackupsSeen {
            since: at,
            list: vec![backup],
            archive: ArchiveSeen::default(),
            jobs: BTreeMap::new(),
            trouble: None,
            unknown_deploys: None,
            copy: None,
        };
        let ill = BackupsSeen::broken(at);
        let codes = |before: &BackupsSeen, after: &BackupsSeen| {
            events(before, after, &[], at).into_iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        assert_eq!(codes(&well, &ill), ["BackupsUnreadable"]);
        assert_eq!(codes(&ill, &ill), Vec::<&str>::new());
        assert_eq!(codes(&ill, &well), ["BackupsReadable"]);
        let unknown = BackupsSeen { unknown_deploys: Some("damaged".to_owned()), ..well.clone() };
        assert_eq!(codes(&well, &unknown), ["ReleasePointsUnknown"]);
        assert_eq!(codes(&unknown, &unknown), Vec::<&str>::new());
        assert_eq!(codes(&unknown, &well), ["ReleasePointsKnown"]);
    }
}
