//! What is kept and what goes: `mainstay_decide::retention` decides, here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mainstay_backup::place::Alone;
use mainstay_backup::proof::{self, Proof};
use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, Segment};
use mainstay_decide::retention::{self, Decision, Deploy, Needed, Reckoning, Scene, Unsaved};
use mainstay_supervisor::durable;
use mainstay_types::Lsn;

use super::check::SEGMENT;
use super::{Backups, Error, deploys};

/// A base backup, what its restore found, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The backup.
    pub backup: Backup,
    /// Its last proof.
    pub proof: Option<Proof>,
    /// Which rules keep it.
    pub decision: Decision,
}

/// What was freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups that went.
    pub forgotten: Vec<String>,
    /// Bytes that the repository shrank by. **Unit**: bytes.
    pub repository_bytes: u64,
    /// Files of WAL that went.
    pub segments: u64,
    /// Their bytes. **Unit**: bytes.
    pub wal_bytes: u64,
}

/// Base backups, oldest first, each with its last proof.
///
/// **Errors**: the place's. A proof that cannot be read is none.
pub fn list(backups: &Backups) -> Result<Vec<(Backup, Option<Proof>)>, Error> {
    let folder = backups.place.proofs();
    let with_proof = |backup: Backup| {
        let proof = proof::read_proof(&folder, &backups.wal_key, &backup.id).ok().flatten();
        (backup, proof)
    };
    Ok(backups.repository.backups()?.into_iter().map(with_proof).collect())
}

/// As far as keeping goes.
pub(super) fn to_decide((backup, proof): &(Backup, Option<Proof>)) -> retention::Backup {
    let label = &backup.label;
    retention::Backup {
        id: backup.id.clone(),
        began: label.began,
        ended: label.ended,
        system: label.system,
        timeline: label.timeline,
        start: label.start,
        needs: label.needs(),
        is_by_hand: !label.is_scheduled,
        proof: proof.as_ref().map(|proof| {
            (proof.ended, if proof.is_proven { retention::Proof::Proven } else { retention::Proof::Failed })
        }),
    }
}

/// Which backup is kept by which rule.
///
/// **Errors**: the place's.
pub fn explain(backups: &Backups) -> Result<Vec<Explained>, Error> {
    let all = list(backups)?;
    let seen: Vec<retention::Backup> = all.iter().map(to_decide).collect();
    let (unsaved, reckoning) = (unsaved(backups, &seen)?, reckoning(backups, &seen));
    let deploys = deploys::known(&backups.layout.state, backups.policy.keep.deploys).ok();
    let decided = scene(backups, &seen, (&unsaved, deploys.as_deref()), reckoning.as_ref()).decide();
    let explained = all.into_iter().zip(decided);
    Ok(explained.map(|((backup, proof), decision)| Explained { backup, proof, decision }).collect())
}

fn scene<'a>(
    backups: &'a Backups,
    seen: &'a [retention::Backup],
    (unsaved, deploys): (&'a Unsaved, Option<&'a [Deploy]>),
    reckoning: Option<&'a Reckoning>,
) -> Scene<'a> {
    Scene { backups: seen, policy: &backups.policy, unsaved, deploys, reckoning }
}

/// WAL that is needed of what there is.
pub(super) fn needed(backups: &Backups, seen: &[retention::Backup]) -> Result<Vec<Needed>, Error> {
    let (unsaved, reckoning) = (unsaved(backups, seen)?, reckoning(backups, seen));
    let deploys = deploys::known(&backups.layout.state, backups.policy.keep.deploys).ok();
    Ok(scene(backups, seen, (&unsaved, deploys.as_deref()), reckoning.as_ref()).needed())
}

/// The lowest positions of timelines that no backup is of yet.
fn unsaved(backups: &Backups, seen: &[retention::Backup]) -> Result<Unsaved, Error> {
    let mut newest: BTreeMap<u64, u32> = BTreeMap::new();
    for one in seen {
        let known = newest.entry(one.system).or_default();
        *known = one.timeline.max(*known);
    }
    let folder = backups.place.wal();
    let mut unsaved = Unsaved::new();
    for (system, timeline) in newest {
        let io = |source| Error::Io { action: "list", path: folder.clone(), source };
        let archive = wal::list(&folder, system).map_err(io)?;
        let later = archive.segments.keys().filter(|segment| segment.timeline > timeline);
        if let Some(lowest) = later.map(|segment| segment.start(SEGMENT)).min() {
            unsaved.insert(system, Lsn::new(lowest));
        }
    }
    Ok(unsaved)
}

/// How far time has come; beside the other records of the stack.
fn reckoning_file(backups: &Backups) -> PathBuf {
    backups.layout.state.join("backup-time.json")
}

fn reckoning(backups: &Backups, seen: &[retention::Backup]) -> Option<Reckoning> {
    let before = std::fs::read(reckoning_file(backups)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let up = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up = up.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    let up = Duration::try_from_secs_f64(up).unwrap_or_default();
    Reckoning::next(before.as_ref(), seen, boot.trim(), up)
}

fn keep_reckoning(backups: &Backups, seen: &[retention::Backup]) -> Result<(), Error> {
    let Some(reckoning) = reckoning(backups, seen) else { return Ok(()) };
    let path = reckoning_file(backups);
    let text = serde_json::to_vec(&reckoning).map_err(std::io::Error::from);
    let written = text.and_then(|text| durable::replace(&path, &text, 0o644));
    written.map_err(|source| Error::Io { action: "write", path, source })
}

/// What cannot be read decides nothing, and nothing is decided without it.
pub(super) fn unreadable(backups: &Backups) -> Result<Vec<String>, Error> {
    let labels = backups.repository.unreadable()?;
    let label = |id: &String| format!("the label of backup {}", id.get(..8).unwrap_or(id));
    let mut found: Vec<String> = labels.iter().map(label).collect();
    let folder = backups.place.proofs();
    for backup in backups.repository.backups()? {
        if let Err(error) = proof::read_proof(&folder, &backups.wal_key, &backup.id) {
            found.push(format!("the proof of backup {} ({error})", backup.id.get(..8).unwrap_or(&backup.id)));
        }
    }
    Ok(found)
}

/// Forgets what is kept no longer, then WAL that nothing needs, and frees the space. In this order, so that a kill at
/// any moment leaves at most too much.
///
/// **Errors**: the place's; also when a label or proof cannot be read. Nothing was freed then.
pub(super) fn prune(backups: &Backups, _deleting: &Alone) -> Result<Pruned, Error> {
    let unreadable = unreadable(backups)?;
    if !unreadable.is_empty() {
        return Err(Error::Unreadable(unreadable.join(", ")));
    }
    let explained = explain(backups)?;
    let before: Vec<retention::Backup> =
        explained.iter().map(|one| to_decide(&(one.backup.clone(), one.proof.clone()))).collect();
    keep_reckoning(backups, &before)?;
    let forgotten: Vec<String> =
        explained.iter().filter(|one| one.decision.goes()).map(|one| one.backup.id.clone()).collect();
    backups.repository.forget(&forgotten)?;
    let mut pruned = Pruned { repository_bytes: backups.repository.prune()?, forgotten, ..Pruned::default() };

    let kept = list(backups)?;
    let seen: Vec<retention::Backup> = kept.iter().map(to_decide).collect();
    let needed = needed(backups, &seen)?;
    let folder = backups.place.wal();
    let systems: BTreeSet<u64> = seen.iter().map(|backup| backup.system).collect();
    for system in systems {
        let is_needed = |segment: Segment| {
            let (from, to) = (segment.start(SEGMENT), segment.start(SEGMENT) + SEGMENT);
            let of_system = needed.iter().filter(|one| one.system == system);
            // One more on either side than is needed: a record may cross into the next.
            of_system.into_iter().any(|one| {
                one.from.as_u64() < to.saturating_add(SEGMENT)
                    && one.to.is_none_or(|end| from <= end.as_u64().saturating_add(SEGMENT))
            })
        };
        let io = |source| Error::Io { action: "remove old WAL in", path: folder.clone(), source };
        let removed = wal::remove(&folder, system, is_needed).map_err(io)?;
        pruned.segments += removed.segments;
        pruned.wal_bytes += removed.bytes;
    }
    let of_kept = |(backup, _): &(Backup, Option<Proof>)| (backup.id.clone(), backup.label.system, backup.label.point);
    let proofs = backups.place.proofs();
    proof::remove_others(&proofs, &kept.iter().map(of_kept).collect::<Vec<_>>()).map_err(|source| Error::Io {
        action: "remove old proofs in",
        path: proofs,
        source,
    })?;
    Ok(pruned)
}
