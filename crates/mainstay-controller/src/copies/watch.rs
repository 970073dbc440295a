//! Looks at the copies of the store for the control plane, and tells of them: in `status`, as events, as metrics.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_api::StoreCopiesStatus;
use mainstay_cache::copies;
use mainstay_decide::store::{self, CopiesSeen, CopySeen};
use mainstay_types::{Bytes, Seen, Timestamp};
use tokio::sync::mpsc;

use super::{record, to_decide};
use crate::clock::now;
use crate::effects::Effects;
use crate::journal::Journal;
use crate::message::Message;
use crate::observers::rest;
use crate::paths::Paths;
use crate::status::Scene;
use crate::store::NewEvent;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// What was told of, in the store of events.
pub(crate) const FACT: &str = "store-copies";

/// What an earlier control plane told of; `None`: there was none, or what it wrote cannot be read.
pub(crate) async fn told(journal: &Journal) -> Option<CopiesSeen> {
    serde_json::from_str(&journal.fact(FACT).await.ok()??).ok()
}

/// What was listed, and the folder's time then: every change of it renames a file in it.
type Listed = (Option<SystemTime>, Vec<CopySeen>);

/// Looks until the end.
pub(crate) async fn observe(effects: Arc<Effects>, sender: mpsc::Sender<Message>) {
    let since = now();
    let paths = effects.paths().clone();
    let mut looks = effects.looks.subscribe();
    let mut listed: Option<Listed> = None;
    loop {
        let begun = now();
        let (of, known) = (paths.clone(), listed.take());
        let looking = tokio::task::spawn_blocking(move || look(&of, known, since));
        let Ok((found, seen)) = looking.await else { return };
        listed = found;
        let seen = Seen::Fact { value: seen, observed_at: begun };
        if sender.send(Message::StoreCopies(seen)).await.is_err() {
            return;
        }
        rest(&mut looks, LOOK).await;
    }
}

fn look(paths: &Paths, listed: Option<Listed>, since: Timestamp) -> (Option<Listed>, CopiesSeen) {
    let mut seen = CopiesSeen { since, list: Vec::new(), job: record(paths), trouble: None };
    let folder = copies::folder(&paths.state);
    let changed = std::fs::metadata(&folder).and_then(|folder| folder.modified()).ok();
    let known = listed.filter(|(then, _)| *then == changed);
    let list = match known {
        Some((_, list)) => Ok(list),
        None => copies::list(&paths.state).map(|list| list.iter().map(to_decide).collect()),
    };
    match list {
        Ok(list) => {
            seen.list.clone_from(&list);
            (Some((changed, list)), seen)
        }
        Err(error) => {
            let text = mainstay_types::full_text(&error);
            seen.trouble = Some(format!("the copies of the store cannot be read: {text}"));
            (None, seen)
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What `status` says; `None`: the stack has none, or nobody has looked yet.
pub(crate) fn status(scene: &Scene<'_>) -> Option<StoreCopiesStatus> {
    let policy = scene.stack.cache.as_ref().and_then(store::policy)?;
    let seen = scene.observed.store_copies.value()?;
    let child = scene.observed.children.value().and_then(|children| children.get(&store::child()));
    let proven = store::last_proven(seen, scene.now);
    Some(StoreCopiesStatus {
        count: seen.list.len() as u64,
        bytes: seen.list.iter().map(|copy| copy.bytes).sum(),
        last: seen.list.last().map(|copy| copy.at),
        next: store::next(policy, seen, scene.now),
        proven: proven.map(|copy| copy.at),
        proven_keys: proven.map(|copy| copy.keys),
        unproven_since: proven.map_or(seen.since, |copy| copy.at),
        every_ms: millis(policy.every),
        is_running: child.is_some_and(|child| child.ended.is_none()),
        failures: seen.job.as_ref().filter(|job| job.ended.is_some()).map_or(0, |job| u64::from(job.attempts)),
        faults: store::faults(policy, seen, scene.now),
    })
}

/// What changed since the last look.
pub(crate) fn events(before: &CopiesSeen, after: &CopiesSeen, at: Timestamp) -> Vec<NewEvent> {
    let mut events = Vec::new();
    match (&before.trouble, &after.trouble) {
        (None, Some(trouble)) => events.push(NewEvent::error(at, "StoreCopiesUnreadable", trouble.clone())),
        (Some(_), None) => {
            events.push(NewEvent::info(at, "StoreCopiesReadable", "the copies of the store can be read again"));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    // Who could not look has no list: what is in the other one is neither new nor gone.
    if before.trouble.is_some() || after.trouble.is_some() {
        return events.into_iter().map(|event| event.about("store")).collect();
    }
    for copy in &after.list {
        let known = before.list.iter().find(|known| known.id == copy.id);
        match copy.proof {
            Some((_, is_right)) if known.is_none_or(|known| known.proof != copy.proof) => {
                events.push(proven(copy, is_right, at))
            }
            Some(_) | None => {}
        }
    }
    let gone = before.list.iter().filter(|copy| !after.list.iter().any(|left| left.id == copy.id)).count();
    if gone > 0 {
        let text = format!("{gone} copies of the store were kept long enough and are gone, {} stay", after.list.len());
        events.push(NewEvent::info(at, "StoreCopiesForgotten", text).with("count", gone as u64));
    }
    if let Some(job) = after.job.as_ref().filter(|job| before.job.as_ref() != Some(*job) && job.ended.is_some())
        && let Some(error) = &job.error
    {
        let text = format!("a copy of the store failed (attempt {}): {error}", job.attempts);
        events.push(NewEvent::error(at, "StoreCopyFailed", text).with("attempts", job.attempts));
    }
    events.into_iter().map(|event| event.about("store")).collect()
}

fn proven(copy: &CopySeen, is_right: bool, at: Timestamp) -> NewEvent {
    let CopySeen { id, keys, bytes, .. } = copy;
    if is_right {
        let size = Bytes(*bytes);
        let text = format!(
            "copy {id} of the store is proven: a second server loaded it, {keys} keys as at its moment, {size}"
        );
        return NewEvent::info(at, "StoreCopyProven", text).with("keys", *keys).with("bytes", *bytes);
    }
    let text = format!("copy {id} of the store is not what the store held: `mainstay store copies` says why");
    NewEvent::error(at, "StoreCopyWrong", text)
}

/// For Prometheus.
pub(crate) fn metrics(page: &mut String, status: &StoreCopiesStatus, at: Timestamp) {
    let mut gauge = |name: &str, help: &str, value: u64| {
        writeln!(page, "# HELP mainstay_store_{name} {help}\n# TYPE mainstay_store_{name} gauge").ok();
        writeln!(page, "mainstay_store_{name} {value}").ok();
    };
    let age = |since: Timestamp| at.saturating_since(since).as_secs();
    gauge("copies", "Whole copies of the store.", status.count);
    gauge("copies_bytes", "Their bytes.", status.bytes);
    gauge("copy_unproven_seconds", "Age of the last copy that was loaded and found right.", age(status.unproven_since));
    gauge("copy_every_seconds", "How often one is taken.", status.every_ms / 1000);
    gauge("copy_failures", "Failures in a row.", status.failures);
    gauge("copy_faults", "What is wrong with the copies.", status.faults.len() as u64);
}

#[cfg(test)]
mod tests {
    use mainstay_decide::backups::JobRecord;

    use super::*;

    fn copy(id: &str, proof: Option<bool>) -> CopySeen {
        let at = Timestamp::from_millis(5);
        CopySeen {
            id: id.to_owned(),
            at,
            keys: 3,
            bytes: 2048,
            proof: proof.map(|is_right| (at, is_right)),
            was_right: proof == Some(true),
        }
    }

    #[test]
    fn a_proof_is_told_once_and_what_went_and_failed_too() {
        let at = Timestamp::from_millis(9);
        let seen = |list: Vec<CopySeen>| CopiesSeen { since: at, list, job: None, trouble: None };
        let codes = |before: &CopiesSeen, after: &CopiesSeen| {
            events(before, after, at).into_iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        let (stored, right, wrong) =
            (seen(vec![copy("a", None)]), seen(vec![copy("a", Some(true))]), seen(vec![copy("a", Some(false))]));
        assert_eq!(codes(&seen(vec![]), &stored), Vec::<&str>::new(), "stored is nothing yet");
        assert_eq!(codes(&stored, &right), ["StoreCopyProven"]);
        assert_eq!(codes(&right, &right), Vec::<&str>::new());
        assert_eq!(codes(&stored, &wrong), ["StoreCopyWrong"]);
        assert_eq!(codes(&right, &seen(vec![])), ["StoreCopiesForgotten"]);
        let job = JobRecord { began: at, ended: Some(at), error: Some("no space".to_owned()), attempts: 2 };
        let failed = CopiesSeen { job: Some(job), ..right.clone() };
        assert_eq!(codes(&right, &failed), ["StoreCopyFailed"]);
        assert_eq!(codes(&failed, &failed), Vec::<&str>::new());
        // As another control plane finds it written down.
        let written = serde_json::to_string(&stored).expect("text");
        let known: CopiesSeen = serde_json::from_str(&written).expect("read");
        assert_eq!(codes(&known, &wrong), ["StoreCopyWrong"]);
        let ill = CopiesSeen { trouble: Some("x".to_owned()), ..seen(vec![]) };
        assert_eq!(codes(&right, &ill), ["StoreCopiesUnreadable"]);
        assert_eq!(codes(&ill, &right), ["StoreCopiesReadable"]);
    }
}
