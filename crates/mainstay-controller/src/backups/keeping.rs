//! What is kept and what goes: `mainstay_decide::retention` decides, here it is carried out.

use std::collections::BTreeSet;

use mainstay_backup::place::Alone;
use mainstay_backup::proof::{self, Proof};
use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, Segment};
use mainstay_decide::retention::{self, Decision};

use super::check::SEGMENT;
use super::{Backups, Error};

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
    let decided = retention::decide(&all.iter().map(to_decide).collect::<Vec<_>>(), &backups.policy);
    let explained = all.into_iter().zip(decided);
    Ok(explained.map(|((backup, proof), decision)| Explained { backup, proof, decision }).collect())
}

/// Forgets what is kept no longer, then WAL that nothing needs, and frees the space. In this order, so that a kill at
/// any moment leaves at most too much.
///
/// **Errors**: the place's.
pub(super) fn prune(backups: &Backups, _deleting: &Alone) -> Result<Pruned, Error> {
    let explained = explain(backups)?;
    let forgotten: Vec<String> =
        explained.iter().filter(|one| one.decision.goes()).map(|one| one.backup.id.clone()).collect();
    backups.repository.forget(&forgotten)?;
    let mut pruned = Pruned { repository_bytes: backups.repository.prune()?, forgotten, ..Pruned::default() };

    let kept = list(backups)?;
    let seen: Vec<retention::Backup> = kept.iter().map(to_decide).collect();
    let needed = retention::needed(&seen, &backups.policy);
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
