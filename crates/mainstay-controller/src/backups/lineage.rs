//! Which timelines lead to which: after a restore in place, and after its undo, the archive holds some that were left.

use mainstay_backup::label::Label;
use mainstay_backup::wal::{self, Archive, Name};
use mainstay_types::Lsn;

use super::Backups;

/// A timeline and those that it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lineage {
    timeline: u32,
    /// Each with the position at which it was left.
    ancestors: Vec<(u32, Lsn)>,
}

impl Lineage {
    /// Whether a backup leads here.
    pub(super) fn holds(&self, label: &Label) -> bool {
        label.timeline == self.timeline
            || self.ancestors.iter().any(|(timeline, left)| *timeline == label.timeline && label.stop <= *left)
    }

    /// Of a history file: `TIMELINE<tab>POSITION<tab>why`, one line each.
    fn parse(timeline: u32, text: &str) -> Self {
        let ancestor = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        Self { timeline, ancestors: text.lines().filter_map(ancestor).collect() }
    }
}

/// Every timeline of the archive, the newest first. One whose history cannot be read is taken for one without.
fn all(backups: &Backups, system: u64, archive: &Archive) -> Vec<Lineage> {
    let mut timelines: Vec<u32> = archive.segments.keys().map(|segment| segment.timeline).collect();
    timelines.extend(&archive.histories);
    timelines.sort_unstable();
    timelines.dedup();
    let of = |timeline: u32| {
        let name = Name::History(timeline).to_string();
        let content = wal::content(&backups.place.wal(), &backups.wal_key, system, &name).unwrap_or_default();
        Lineage::parse(timeline, &String::from_utf8_lossy(&content))
    };
    timelines.into_iter().rev().map(of).collect()
}

/// The timeline that is newest.
pub(super) fn newest(backups: &Backups, system: u64, archive: &Archive) -> Lineage {
    all(backups, system, archive).into_iter().next().unwrap_or_default()
}

/// The newest timeline that a backup leads to, as `recovery_target_timeline` wants it.
pub(super) fn target(backups: &Backups, archive: &Archive, label: &Label) -> String {
    let leads = |lineage: &Lineage| lineage.holds(label);
    let found = all(backups, label.system, archive).into_iter().find(leads);
    found.map_or_else(|| "latest".to_owned(), |lineage| lineage.timeline.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_knows_where_each_before_it_was_left() {
        let text = "1\t0/5146E88\tbefore 2026-11-26\n\n3\t0/A000000\tno recovery target specified\n";
        let lineage = Lineage::parse(4, text);
        let lsn = |text: &str| text.parse::<Lsn>().expect("a position");
        assert_eq!(lineage.ancestors, [(1, lsn("0/5146E88")), (3, lsn("0/A000000"))]);
    }
}
