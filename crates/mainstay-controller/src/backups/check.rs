//! Reads what the repository and the archive hold, and says what is damaged or missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_backup::place::About;
use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, GetError, Name, Segment};
use mainstay_decide::retention;
use mainstay_types::{Lsn, Member, Timestamp, full_text};

use super::{Backups, Error, keeping, lineage, prove, second};

/// Size of segments of a cluster that mainstay made: `initdb`'s default. **Unit**: bytes.
pub(super) const SEGMENT: u64 = 16 << 20;

/// Longest that a missing segment is believed to be still on its way. A member that runs no more has notes that stay for
/// ever, and nobody archives by them.
const COMES_WITHIN: Duration = Duration::from_mins(10);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Base backups.
    pub backups: Vec<Backup>,
    /// Segments of archived WAL.
    pub segments: usize,
    /// Bytes of archived WAL. **Unit**: bytes.
    pub wal_bytes: u64,
    /// When the newest segment was archived.
    pub newest: Option<Timestamp>,
    /// What is damaged or missing, one line each; empty: nothing.
    pub faults: Vec<String>,
    /// What is strange and costs nothing but space.
    pub warnings: Vec<String>,
}

/// Checks everything. With `read_data` every byte is read and compared with its hash.
///
/// **Errors**: nothing could be read at all.
pub fn check(backups: &Backups, read_data: bool) -> Result<Checked, Error> {
    if let Some(store) = &backups.store {
        store.answers().map_err(|error| Error::Copy(error.into()))?;
    }
    let _held = backups.hold_blocking()?;
    let found = backups.repository.check(read_data)?;
    let mut faults = found.faults;
    faults.extend(doors(backups)?);
    if let Some(store) = &backups.store {
        faults.extend(second::compare(store, &backups.place, read_data, backups.policy.rpo)?);
    }
    let unreadable = keeping::unreadable(backups)?;
    faults.extend(unreadable.into_iter().map(|what| format!("{what} cannot be read")));
    let listed = keeping::list(backups)?;
    faults.extend(listed.iter().flat_map(|(backup, _)| prove::faults_of_point(backups, backup)));
    let seen: Vec<retention::Backup> = listed.iter().map(keeping::to_decide).collect();
    let listed = listed.into_iter().map(|(backup, _)| backup).collect();
    let mut checked = Checked { backups: listed, warnings: found.warnings, ..Checked::default() };
    let mut systems: Vec<u64> = checked.backups.iter().map(|backup| backup.label.system).collect();
    systems.sort_unstable();
    systems.dedup();
    let folder = backups.place.wal();
    for system in systems {
        let io = |source| Error::Io { action: "list", path: folder.clone(), source };
        let awaited = awaited(backups);
        let archive = wal::list(&folder, system).map_err(io)?;
        checked.segments += archive.segments.len();
        checked.wal_bytes += archive.bytes();
        checked.newest = checked.newest.max(archive.newest());
        faults.extend(gaps(backups, (&checked.backups, &seen), system, (&archive, &awaited))?);
        if read_data {
            for name in wal::names(&folder, system).map_err(io)? {
                faults.extend(read(backups, system, &name)?);
            }
        }
    }
    checked.faults = faults;
    Ok(checked)
}

/// Segments that are missing: of each backup's own WAL, and after the backup from which the window's moments are
/// reached, on the way to the present. Older WAL between backups goes when it leaves the window.
///
/// **Errors**: the archive cannot be listed.
pub(super) fn gaps(
    backups: &Backups,
    (all, seen): (&[Backup], &[retention::Backup]),
    system: u64,
    (archive, awaited): (&wal::Archive, &BTreeSet<Segment>),
) -> Result<Vec<String>, Error> {
    let runs = archive.runs(SEGMENT);
    let mut faults = Vec::new();
    for backup in all.iter().filter(|backup| backup.label.system == system) {
        let label = &backup.label;
        let first = Segment::of(label.timeline, label.start.as_u64(), SEGMENT);
        let last = Segment::of(label.timeline, label.stop.as_u64().saturating_sub(1), SEGMENT);
        if !runs.iter().any(|run| run.first <= first && last <= run.last) {
            faults
                .push(format!("backup {}: WAL from {first} to {last} is not whole in the archive", short(&backup.id)));
        }
    }
    // What retention keeps is what must be there.
    let needed = keeping::needed(backups, seen)?;
    let open = needed.iter().filter(|one| one.system == system && one.to.is_none() && one.from > Lsn::new(0));
    if let Some(from) = open.map(|one| one.from).min() {
        faults.extend(on_way(&lineage::newest(backups, system, archive).segments(archive), awaited, from));
    }
    Ok(faults)
}

/// Segments that a member has finished within [`COMES_WITHIN`] and not archived yet. To be asked **before** the archive is
/// listed: what is in neither of the two then is nowhere.
pub(super) fn awaited(backups: &Backups) -> BTreeSet<Segment> {
    let folder = |member| backups.layout.data(member).join("pg_wal/archive_status");
    let members = (0..).map_while(Member::nth);
    let entries = members.filter_map(|member| std::fs::read_dir(folder(member)).ok()).flatten().flatten();
    let is_new = |entry: &std::fs::DirEntry| {
        let since = entry.metadata().and_then(|metadata| metadata.modified());
        since.is_ok_and(|since| since.elapsed().is_ok_and(|age| age < COMES_WITHIN))
    };
    let segment = |entry: std::fs::DirEntry| {
        let Name::Segment(segment) = Name::parse(entry.file_name().to_str()?.strip_suffix(".ready")?)? else {
            return None;
        };
        is_new(&entry).then_some(segment)
    };
    entries.filter_map(segment).collect()
}

/// Positions after `from` that no segment of the way holds. Every member archives what it receives, so a standby that
/// was just cloned may be ahead of the primary: what still waits there is no gap.
fn on_way(way: &BTreeMap<u64, Segment>, awaited: &BTreeSet<Segment>, from: Lsn) -> Vec<String> {
    let first = from.as_u64() / SEGMENT * SEGMENT;
    let mut faults = Vec::new();
    let mut before: Option<Segment> = None;
    for segment in way.range(first..).map(|(_, segment)| *segment) {
        let comes = |before: &Segment, number: u64| {
            let of = |timeline| Segment::of(timeline, number * SEGMENT, SEGMENT);
            awaited.contains(&of(before.timeline)) || awaited.contains(&of(segment.timeline))
        };
        let is_missing = |before: &Segment| {
            let mut between = before.start(SEGMENT) / SEGMENT + 1..segment.start(SEGMENT) / SEGMENT;
            between.any(|number| !comes(before, number))
        };
        if let Some(before) = before.filter(is_missing) {
            faults.push(format!("gap in the archive: between {before} and {segment}"));
        }
        before = Some(segment);
    }
    faults
}

/// What opens the place on a machine that has nothing else. Here nobody reads it, as the keys are in the state folder:
/// damaged unseen it would be missed when it is all that there is.
fn doors(backups: &Backups) -> Result<Vec<String>, Error> {
    let mut faults = backups.repository.check_doors()?;
    let file = |name: &str| backups.place.folder().join(name).display().to_string();
    if let Some(password) = &backups.password {
        match backups.place.wal_key(password) {
            Ok(key) if key == backups.wal_key => {}
            Ok(_) => faults.push(format!("{} holds the key of another archive", file("wal-key.age"))),
            Err(error) => faults.push(full_text(&error)),
        }
    }
    let (stack, environment) = (backups.stack.as_str(), backups.environment.as_str());
    let about = About::new(stack, environment, backups.repository.identity()?, backups.recipient.clone());
    match backups.place.says(&about) {
        Ok(true) => {}
        Ok(false) => faults.push(format!("{} does not say whose the backups are", file("mainstay.json"))),
        Err(error) => faults.push(format!("{} cannot be read: {error}", file("mainstay.json"))),
    }
    Ok(faults)
}

fn read(backups: &Backups, system: u64, name: &Name) -> Result<Option<String>, Error> {
    match backups.archived(system, &name.to_string()) {
        Ok(_) => Ok(None),
        // Of a store that was told, by its name there.
        Err(Error::Get(GetError::Missing(_))) if backups.store.is_some() => Ok(None),
        Err(Error::Get(error @ (GetError::Damaged { .. } | GetError::Missing(_)))) => Ok(Some(error.to_string())),
        Err(Error::Get(GetError::Io { action, path, source })) => Err(Error::Io { action, path, source }),
        Err(error) => Err(error),
    }
}

/// As people call a backup.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_on_the_way_to_the_present_and_nowhere_else() {
        let way = |numbers: &[(u32, u64)]| {
            let segment = |(timeline, number): &(u32, u64)| Segment::of(*timeline, number * SEGMENT, SEGMENT);
            numbers.iter().map(|one| (one.1 * SEGMENT, segment(one))).collect::<BTreeMap<_, _>>()
        };
        let from = Lsn::new(3 * SEGMENT + 40);
        let none = BTreeSet::new();
        assert_eq!(
            on_way(&way(&[(1, 1), (1, 3), (1, 4), (2, 5)]), &none, from),
            Vec::<String>::new(),
            "1 to 3 is older"
        );
        let with_gap = way(&[(1, 3), (1, 4), (2, 7)]);
        let found = on_way(&with_gap, &none, from);
        assert!(matches!(found.as_slice(), [one] if one.contains("gap in the archive")), "{found:?}");
        let awaited = |numbers: &[(u32, u64)]| way(numbers).into_values().collect::<BTreeSet<_>>();
        assert_eq!(on_way(&with_gap, &awaited(&[(2, 6)]), from).len(), 1, "5 is nowhere");
        assert_eq!(on_way(&with_gap, &awaited(&[(3, 5), (2, 6)]), from).len(), 1, "on a way of its own");
        assert_eq!(on_way(&with_gap, &awaited(&[(1, 5), (2, 6)]), from), Vec::<String>::new(), "both still come");
    }
}
