//! What the stack's own events tell of a fault and of the recovery from it.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_api::{Event, Level};
use mainstay_decide::drills::Fault;
use mainstay_types::{InstanceId, Timestamp};

use crate::fault::Victim;
use crate::measure::millis;

/// The kernel's word was taken by the kill; what the stack saw of it is added.
pub(crate) fn killed(victim: &Victim, events: &[Event]) -> String {
    let what = format!("SIGKILL to {} (pid {}), gone from /proc", victim.name, victim.pid);
    let seen = events.iter().find(|event| {
        event.fields.get("pid").and_then(serde_json::Value::as_i64) == Some(i64::from(victim.pid.0))
            && event.kind == "ChildEnded"
    });
    match seen {
        Some(event) => format!("{what}; event {}: {}", event.seq, event.text),
        None => what,
    }
}

/// A promotion without the proof of death before it breaks the first rule of all, whatever came of it.
pub(crate) fn unfenced(fault: Fault, events: &[Event]) -> Vec<String> {
    if !matches!(fault, Fault::DatabaseCrash | Fault::DatabaseFreeze) {
        return Vec::new();
    }
    let mut is_fenced = false;
    let mut reasons = Vec::new();
    for event in events {
        match event.kind.as_str() {
            "PrimaryFenced" => is_fenced = true,
            "StandbyPromoted" => {
                if !is_fenced {
                    reasons.push(format!("event {}: promoted without proof that the old primary is dead", event.seq));
                }
                // One proof is for one promotion.
                is_fenced = false;
            }
            _ => {}
        }
    }
    reasons
}

/// A lost standby that nobody is told of is found when the primary is lost too; so is a disk that was full.
pub(crate) fn untold(fault: Fault, standbys: u32, injected: Timestamp, events: &[Event]) -> Vec<String> {
    let is_after = |event: &&Event| event.at >= injected && event.level != Level::Info;
    if fault == Fault::DiskFull {
        let is_told = events.iter().filter(is_after).any(|event| event.kind == "DiskBallastThrown");
        return if is_told { Vec::new() } else { vec!["no event tells that the disk is full".to_owned()] };
    }
    if fault == Fault::CorruptPage {
        let is_told = events.iter().filter(is_after).any(|event| event.kind == "CorruptPagesFound");
        return if is_told { Vec::new() } else { vec!["no event tells of the damaged page".to_owned()] };
    }
    // With another one commits go on waiting, and nothing has to be said at once.
    let is_loss = fault == Fault::StandbyLoss || fault == Fault::ReplicationLag && standbys == 1;
    if !is_loss {
        return Vec::new();
    }
    let is_alert = |event: &&Event| event.level != Level::Info && event.kind == "CommitsAsynchronous";
    let is_known = |event: &&Event| event.level != Level::Info && event.kind == "BoxDegraded";
    let found = events.iter().filter(|event| event.at >= injected).find(|one| is_alert(one) || is_known(one));
    if found.is_some() { Vec::new() } else { vec!["no event warns that the standby is lost".to_owned()] }
}

/// Who is taken away is out of the rotation before it ends. Where the edge had to find out by itself, requests were led to
/// an instance that was gone, whatever became of them: one that may be repeated was, and its client noticed nothing.
pub(crate) fn unannounced(left: &BTreeSet<InstanceId>, injected: Timestamp, events: &[Event]) -> Vec<String> {
    let is_of = |event: &Event, id: &InstanceId| event.subject.as_deref() == Some(id.to_string().as_str());
    let found = events.iter().filter(|event| event.kind == "EndpointEjected" && event.at >= injected);
    let of_those = found.filter(|event| left.iter().any(|id| is_of(event, id)));
    of_those
        .map(|event| format!("event {}: {}; it was taken away while requests were led to it", event.seq, event.text))
        .collect()
}

/// Steps of recovery by their first event after the fault.
pub(crate) fn timeline(injected: Timestamp, events: &[Event]) -> BTreeMap<String, u64> {
    const STEPS: [(&str, &str); 17] = [
        ("ChildEnded", "detected"),
        ("CorruptPagesFound", "found"),
        ("FailoverBegan", "decided"),
        ("PrimaryFenced", "fenced"),
        ("StandbyPromoted", "promoted"),
        ("RouterRepointed", "repointed"),
        ("StandbyCloned", "recloned"),
        ("CommitsAsynchronous", "unblocked"),
        ("CommitsSynchronous", "synchronous"),
        ("EndpointEjected", "ejected"),
        ("ChildStarted", "restarted"),
        ("InstanceReady", "ready"),
        ("KeepLost", "keep_lost"),
        ("ControlStarted", "control_started"),
        ("DeployBegun", "begun"),
        ("DeployTakenBack", "taken_back"),
        ("DeployDone", "committed"),
    ];
    let mut timeline = BTreeMap::from([("injected".to_owned(), 0)]);
    for (kind, step) in STEPS {
        let first = events.iter().find(|event| event.kind == kind && event.at >= injected);
        if let Some(event) = first {
            timeline.insert(step.to_owned(), millis(event.at.saturating_since(injected)));
        }
    }
    timeline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(kinds: &[&str]) -> Vec<Event> {
        let event = |(seq, kind): (u64, &&str)| Event {
            seq,
            at: Timestamp::from_millis(1),
            kind: (*kind).to_owned(),
            level: Level::Warn,
            subject: None,
            text: String::new(),
            fields: BTreeMap::new(),
        };
        (1..).zip(kinds).map(event).collect()
    }

    #[test]
    fn who_is_taken_away_is_out_of_the_rotation_before_it_ends() {
        let id = |slot| InstanceId { service: mainstay_types::ServiceName::new("web").expect("a name"), slot };
        let mut events = events(&["EndpointEjected", "EndpointEjected", "ChildStopped"]);
        for (event, slot) in events.iter_mut().zip([1, 3, 3]) {
            event.subject = Some(id(slot).to_string());
        }
        let reasons = |left: &[u32], since| {
            let left = left.iter().map(|slot| id(*slot)).collect();
            unannounced(&left, Timestamp::from_millis(since), &events).len()
        };
        assert_eq!(reasons(&[2, 3], 0), 1);
        assert_eq!(reasons(&[2, 3], 2), 0, "it was before");
        assert_eq!(reasons(&[], 0), 0, "another was left out");
    }

    /// With `durability = "fast"` the proof comes before the failover begins: each such drill failed for that.
    #[test]
    fn each_promotion_needs_a_proof_of_its_own_before_or_after_the_failover_began() {
        let reasons = |kinds: &[&str]| unfenced(Fault::DatabaseCrash, &events(kinds)).len();
        assert_eq!(reasons(&["FailoverBegan", "PrimaryFenced", "StandbyPromoted"]), 0);
        assert_eq!(reasons(&["PrimaryFenced", "FailoverBegan", "StandbyPromoted"]), 0);
        assert_eq!(reasons(&["FailoverBegan", "StandbyPromoted", "PrimaryFenced"]), 1);
        let twice = ["PrimaryFenced", "FailoverBegan", "StandbyPromoted", "FailoverBegan", "StandbyPromoted"];
        assert_eq!(reasons(&twice), 1);
    }
}
