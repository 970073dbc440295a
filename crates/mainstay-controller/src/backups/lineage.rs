//! Which timelines lead to which: after a restore in place, and after its undo, the archive holds some that were left.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_backup::label::Label;
use mainstay_backup::wal::{self, Archive, Name, Segment};
use mainstay_types::{Lsn, Timestamp};

use super::Backups;
use super::check::SEGMENT;

/// A timeline and those that it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lineage {
    pub(super) timeline: u32,
    /// Each with the position at which it was left.
    ancestors: Vec<(u32, Lsn)>,
}

impl Lineage {
    /// Whether a backup leads here.
    pub(super) fn holds(&self, label: &Label) -> bool {
        label.timeline == self.timeline
            || self.ancestors.iter().any(|(timeline, left)| *timeline == label.timeline && label.stop <= *left)
    }

    /// Archived segments on the way here, in the order of positions; of each position the one of the highest timeline,
    /// as replay takes it. Positions of timelines that were left may be higher than any of these.
    pub(super) fn segments(&self, archive: &Archive) -> BTreeMap<u64, Segment> {
        let mut by_position = BTreeMap::new();
        for segment in archive.segments.keys() {
            let start = segment.start(SEGMENT);
            let is_on_way = segment.timeline == self.timeline
                || self.ancestors.iter().any(|(timeline, left)| *timeline == segment.timeline && start < left.as_u64());
            if is_on_way {
                by_position.insert(start, *segment);
            }
        }
        by_position
    }

    /// When the newest of them was archived, and where the last ends.
    pub(super) fn end(&self, archive: &Archive) -> (Timestamp, Lsn) {
        let segments = self.segments(archive);
        let at = segments.values().filter_map(|segment| archive.segments.get(segment)).map(|(_, at)| *at).max();
        let last = segments.keys().next_back().map(|start| start + SEGMENT);
        (at.unwrap_or_default(), Lsn::new(last.unwrap_or_default()))
    }

    /// Of a history file: `TIMELINE<tab>POSITION<tab>why`, one line each.
    pub(super) fn parse(timeline: u32, text: &str) -> Self {
        let ancestor = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        Self { timeline, ancestors: text.lines().filter_map(ancestor).collect() }
    }
}

/// Every timeline that leads somewhere, the newest first. One whose history cannot be read is taken for one without.
fn all(backups: &Backups, system: u64, archive: &Archive) -> Vec<Lineage> {
    let recorded = backups.record().map(|record| record.timeline.0);
    let of = |timeline: u32| {
        let name = Name::History(timeline).to_string();
        let content = wal::content(&backups.place.wal(), &backups.wal_key, system, &name).unwrap_or_default();
        Lineage::parse(timeline, &String::from_utf8_lossy(&content))
    };
    living(archive, recorded).into_iter().rev().map(of).collect()
}

/// Timelines with segments, and the present's, which may have none yet. A history alone is of one that was begun and never
/// became the present.
fn living(archive: &Archive, recorded: Option<u32>) -> BTreeSet<u32> {
    let with_segments = archive.segments.keys().map(|segment| segment.timeline);
    let present = recorded.filter(|timeline| archive.histories.contains(timeline));
    with_segments.chain(present).collect()
}

/// The timeline that is newest.
pub(super) fn newest(backups: &Backups, system: u64, archive: &Archive) -> Lineage {
    all(backups, system, archive).into_iter().next().unwrap_or_default()
}

/// The newest timeline that a backup leads to.
pub(super) fn target(backups: &Backups, archive: &Archive, label: &Label) -> Lineage {
    let leads = |lineage: &Lineage| lineage.holds(label);
    let found = all(backups, label.system, archive).into_iter().find(leads);
    found.unwrap_or(Lineage { timeline: label.timeline, ancestors: Vec::new() })
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

    fn archive(segments: &[(u32, u64)], histories: &[u32]) -> Archive {
        let at = |n: usize| (1, Timestamp::from_millis(i64::try_from(n).expect("fits")));
        let segment = |(timeline, number): &(u32, u64)| Segment::of(*timeline, number * SEGMENT, SEGMENT);
        Archive {
            segments: segments.iter().enumerate().map(|(n, one)| (segment(one), at(n))).collect(),
            histories: histories.to_vec(),
            ..Archive::default()
        }
    }

    #[test]
    fn a_history_without_segments_leads_nowhere_unless_it_is_the_presents() {
        let archive = archive(&[(1, 3), (1, 4), (2, 4)], &[2, 3]);
        let living = |recorded| living(&archive, recorded).into_iter().collect::<Vec<_>>();
        assert_eq!(living(Some(2)), [1, 2], "3 was made for an exchange that never was");
        assert_eq!(living(None), [1, 2]);
        assert_eq!(living(Some(3)), [1, 2, 3]);
        assert_eq!(living(Some(4)), [1, 2], "its history is not there yet");
    }

    #[test]
    fn the_end_of_a_way_is_where_it_leads_and_not_where_another_was_left() {
        // 1 went on to segment 9; 2 left it in segment 4.
        let archive = archive(&[(1, 3), (1, 4), (1, 5), (1, 9), (2, 4), (2, 5)], &[2]);
        let left = Lsn::new(4 * SEGMENT + 100);
        let lineage = Lineage { timeline: 2, ancestors: vec![(1, left)] };
        assert_eq!(lineage.end(&archive).1, Lsn::new(6 * SEGMENT));
        let way: Vec<u32> = lineage.segments(&archive).values().map(|segment| segment.timeline).collect();
        assert_eq!(way, [1, 2, 2], "of a position the higher timeline");
    }
}
