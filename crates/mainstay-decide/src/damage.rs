//! Pages that a member's disk or memory damaged: what is remembered of them, and who takes a damaged primary's place.
//!
//! A page that is damaged on one member is sound on the others: they got what was written by the log, not from its disk.
//! So reads go elsewhere, a damaged standby is cloned anew from a primary that met none, and a damaged primary makes
//! place for a standby that met none. A copy is made of whole pages only (`pg_basebackup` looks at every checksum), and
//! what it replaces stays until it is made: where every member is damaged, nothing is thrown away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_types::{Member, Seen, Timestamp};
use serde::{Deserialize, Serialize};

use crate::database::wish;
use crate::observed::{Errand, FailedStep, Observed, Record};
use crate::restart;
use crate::view::{Life, View};

/// Pause after a change of the primary for damaged pages was asked for: one that was given up met long transactions, and
/// a disk that damages page after page is not to move the primary all the time.
pub const PAUSE: Duration = Duration::from_secs(60);

/// Time for statements at a damaged standby before it is stopped; those that take longer are ended with it.
const READS_WITHIN: Duration = Duration::from_secs(30);

/// Pages that are remembered by their names, of one member: more say nothing more.
pub const MOST_PAGES: usize = 64;

/// So many copies of one member are made for damage without a pause. What damages pages again and again is the disk or
/// memory under them, and each copy reads the whole primary. As many as a person's few drills in a row need.
const COPIES_AT_ONCE: u32 = 6;
/// Copies further apart than this, and the pause before, are not of one row.
const IN_A_ROW: Duration = Duration::from_hours(1);
/// Pause after as many, doubled with each further one.
const FIRST_REST: Duration = Duration::from_mins(10);
/// Longest pause: a disk that is replaced meanwhile is found so in the same shift.
const LONGEST_REST: Duration = Duration::from_hours(6);

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Page {
    /// File of the relation, from the data directory, without the number of its segment.
    pub file: String,
    /// Number of the page in the relation.
    pub block: u32,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} of {}", self.block, self.file)
    }
}

/// Damaged pages in a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Since when it is known.
    pub since: Timestamp,
    /// How often one was met.
    pub met: u64,
    /// Those whose names are known.
    pub pages: BTreeSet<Page>,
    /// More were found than are remembered by name.
    #[serde(default)]
    pub has_more: bool,
}

impl Damage {
    /// Pages that are damaged, at the least.
    pub fn count(&self) -> u64 {
        (self.pages.len() as u64).max(1)
    }

    /// Whether damage may be where no name says: only a look at every page can tell that it is gone.
    pub fn is_unnamed(&self) -> bool {
        self.pages.is_empty() || self.has_more
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pages.first() {
            None => write!(f, "a page with a wrong checksum"),
            Some(page) if self.has_more => {
                write!(f, "more than {} damaged pages ({page} and others)", self.pages.len())
            }
            Some(page) if self.pages.len() == 1 => write!(f, "a damaged page ({page})"),
            Some(page) => write!(f, "{} damaged pages ({page} and others)", self.pages.len()),
        }
    }
}

/// Copies of a member that were made in a row because of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// When the last was made.
    pub at: Timestamp,
    /// How many.
    pub count: u32,
}

impl Copies {
    /// Pause before the next.
    fn rest(self) -> Duration {
        match self.count.checked_sub(COPIES_AT_ONCE) {
            None => Duration::ZERO,
            Some(further) => FIRST_REST.saturating_mul(1 << further.min(8)).min(LONGEST_REST),
        }
    }
}

/// What is known of damaged pages, by member. Durable: a page stays damaged whoever looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damages {
    /// Members that met some, since their directories were made.
    pub of: BTreeMap<Member, Damage>,
    /// What each member's statistics said last.
    pub counts: BTreeMap<Member, u64>,
    /// Damaged pages that were found in each member since the beginning, also of directories that were replaced.
    pub ever: BTreeMap<Member, u64>,
    /// Copies that were made of members because of damage.
    #[serde(default)]
    pub copies: BTreeMap<Member, Copies>,
    /// When another primary was asked for last, for damaged pages. Dies with the control plane, as what was asked for does.
    #[serde(skip)]
    pub asked_at: Option<Timestamp>,
}

impl Damages {
    /// Takes a look at how often a member says that it met a page with a wrong checksum. Returns how often it did since
    /// the last look.
    pub fn look(&mut self, member: Member, count: u64, at: Timestamp) -> u64 {
        let before = self.counts.insert(member, count).unwrap_or(0);
        // A crash empties the statistics: they begin anew.
        let new = count.checked_sub(before).unwrap_or(count);
        if new > 0 {
            if !self.of.contains_key(&member) {
                *self.ever.entry(member).or_default() += 1;
            }
            self.entry(member, at).met += new;
        }
        new
    }

    /// A page of this member was found to be damaged. True: it was not known.
    pub fn found(&mut self, member: Member, page: Page, at: Timestamp) -> bool {
        let damage = self.entry(member, at);
        if damage.pages.len() >= MOST_PAGES && !damage.pages.contains(&page) {
            damage.has_more = true;
            return false;
        }
        let is_new = damage.pages.insert(page);
        if is_new {
            *self.ever.entry(member).or_default() += 1;
        }
        is_new
    }

    /// These pages of a member are sound now, or are not there any more. True: nothing damaged is known of it now.
    pub fn mended(&mut self, member: Member, pages: &[Page]) -> bool {
        let Some(damage) = self.of.get_mut(&member) else { return false };
        let before = damage.pages.len();
        damage.pages.retain(|page| !pages.contains(page));
        // One that was never named, or is one too many to be remembered, may be anywhere: it is not given up.
        let is_mended = before > 0 && damage.pages.is_empty() && !damage.has_more;
        if is_mended {
            self.of.remove(&member);
        }
        is_mended
    }

    /// Every page of a member was looked at on its disk, and those that are damaged were told by [`Damages::found`]. It had
    /// met so many when the look began: what it met meanwhile may be elsewhere. True: nothing damaged is known of it now.
    pub fn looked(&mut self, member: Member, met: u64) -> bool {
        let Some(damage) = self.of.get_mut(&member).filter(|damage| damage.met == met) else { return false };
        damage.has_more = damage.has_more && damage.pages.len() >= MOST_PAGES;
        let is_mended = damage.pages.is_empty();
        if is_mended {
            self.of.remove(&member);
        }
        is_mended
    }

    /// Another directory is in this member's place, made of whole pages.
    pub fn replaced(&mut self, member: Member, at: Timestamp) {
        self.counts.remove(&member);
        if self.of.remove(&member).is_some() {
            let before = self.copies.get(&member).copied();
            let in_a_row = before.filter(|copies| at.saturating_since(copies.at) <= copies.rest() + IN_A_ROW);
            let count = in_a_row.map_or(0, |copies| copies.count).saturating_add(1);
            self.copies.insert(member, Copies { at, count });
        }
    }

    fn entry(&mut self, member: Member, at: Timestamp) -> &mut Damage {
        self.of.entry(member).or_insert_with(|| Damage { since: at, met: 0, pages: BTreeSet::new(), has_more: false })
    }
}

/// Who is to take the place of a primary that met damaged pages: a standby that met none and may take over as planned,
/// without losing a statement. `None`: the primary met none, or nobody may just now.
pub fn successor(stack: &Stack, observed: &Observed, now: Timestamp) -> Option<Member> {
    let Seen::Fact { value: children, .. } = &observed.children else { return None };
    let view = View { stack, observed, children, now };
    let record = view.record()?;
    let damages = &view.database()?.damages;
    let is_due = damages.asked_at.is_none_or(|at| now >= at.after(PAUSE));
    if !damages.of.contains_key(&record.primary) || !is_due || observed.wish.is_some() {
        return None;
    }
    let to = record.candidates.iter().copied().find(|member| !damages.of.contains_key(member))?;
    let errand = Errand::Switchover { to, drain_ms: 0, is_forced: false };
    wish::refusal(stack, observed, &errand, now).is_none().then_some(to)
}

/// What a member met.
pub(crate) fn of<'a>(view: &View<'a>, member: Member) -> Option<&'a Damage> {
    view.database()?.damages.of.get(&member)
}

/// The standby that is to be cloned anew for its damaged pages: one at a time, of a primary that met none.
pub(crate) fn to_clone(view: &View<'_>) -> Option<Member> {
    let record = view.record().filter(|record| record.promoting.is_none())?;
    // What was asked for comes first, until it has its other primary: it may be about the very standby.
    let is_asked = view.observed.wish.as_ref().is_some_and(|wish| wish.epoch == record.epoch);
    if of(view, record.primary).is_some() || is_asked {
        return None;
    }
    let is_next = |member: &Member| {
        *member != record.primary && of(view, *member).is_some() && rests_until(view, *member).is_none()
    };
    // In `strict` writes would wait for as long as a clone takes: a person decides.
    let member = view.wanted_members().into_iter().find(is_next)?;
    wish::is_given_up(view, member).then_some(member)
}

/// Until when a damaged member is not cloned anew: it was, often, and its pages were damaged again.
pub(crate) fn rests_until(view: &View<'_>, member: Member) -> Option<Timestamp> {
    of(view, member)?;
    let copies = view.database()?.damages.copies.get(&member)?;
    // One of a clock that was ahead holds nothing up.
    let until = copies.at.after(copies.rest());
    (copies.at <= view.now && view.now < until).then_some(until)
}

/// Pause between two copies of a source that is known to be damaged: each reads all of it and fails.
const OF_DAMAGED_AGAIN: Duration = Duration::from_mins(10);

/// Until when no further copy is made of a source with damaged pages; `None`: it has none, or no copy of it failed.
pub(crate) fn not_copied_until(view: &View<'_>, source: Member, failed: Option<&FailedStep>) -> Option<Timestamp> {
    of(view, source)?;
    let failed = failed?;
    let until = failed.at.after(OF_DAMAGED_AGAIN);
    (failed.at <= view.now && view.now < until).then_some(until)
}

/// How often a member was cloned anew in a row because of damage.
pub(crate) fn copies_of(view: &View<'_>, member: Member) -> u32 {
    view.database().and_then(|database| database.damages.copies.get(&member)).map_or(0, |copies| copies.count)
}

/// Until when statements that read at a damaged standby are waited for; `None`: nobody reads there, or they had their time.
pub(crate) fn read_until(view: &View<'_>, member: Member) -> Option<Timestamp> {
    let is_read = match &view.observed.router {
        Seen::Fact { value: router, .. } => {
            router.read.contains(&member) || router.leaving.as_ref().is_none_or(|leaving| leaving.contains_key(&member))
        }
        // It is started again and told its targets.
        Seen::Unknown | Seen::Silent { .. } => true,
    };
    let until = of(view, member)?.since.after(READS_WITHIN);
    (is_read && view.now < until).then_some(until)
}

/// Whether this candidate does not take over because the primary's own data is the better copy: it met no damaged page,
/// is whole, and is started in place.
pub(crate) fn is_worse(view: &View<'_>, record: &Record, candidate: Member) -> bool {
    let primary = record.primary;
    let is_looping = matches!(view.member_life(primary), Life::Ended { child, .. } if restart::is_crash_loop(child));
    of(view, candidate).is_some()
        && of(view, primary).is_none()
        && view.member(primary).is_some_and(|seen| seen.data == crate::observed::DataDirectory::Complete)
        && !is_looping
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn page(block: u32) -> Page {
        Page { file: "base/5/16384".to_owned(), block }
    }

    #[test]
    fn what_is_new_is_told_once_also_after_statistics_began_anew() {
        let mut damages = Damages::default();
        let new: Vec<u64> = [0, 2, 2, 5, 1, 1, 0].map(|count| damages.look(Member::A, count, at(1))).to_vec();
        assert_eq!(new, [0, 2, 0, 3, 1, 0, 0]);
        assert_eq!(damages.of[&Member::A].met, 6);
        assert!(!damages.of.contains_key(&Member::B));
    }

    #[test]
    fn a_member_is_mended_when_every_page_that_has_a_name_is() {
        let mut damages = Damages::default();
        damages.look(Member::A, 2, at(1));
        assert!(!damages.mended(Member::A, &[page(1)]), "nobody knows which page it was");
        assert!(damages.found(Member::A, page(1), at(2)) && damages.found(Member::A, page(2), at(3)));
        assert!(!damages.found(Member::A, page(2), at(4)));
        assert!(!damages.mended(Member::A, &[page(1)]));
        assert!(damages.mended(Member::A, &[page(2)]));
        assert_eq!(damages.of, BTreeMap::new());
        assert_eq!(damages.look(Member::A, 2, at(9)), 0, "what was told stays told");
    }

    #[test]
    fn another_directory_begins_without_damage() {
        let mut damages = Damages::default();
        damages.look(Member::B, 3, at(1));
        damages.replaced(Member::B, at(2));
        let copies = BTreeMap::from([(Member::B, Copies { at: at(2), count: 1 })]);
        assert_eq!(damages, Damages { ever: BTreeMap::from([(Member::B, 1)]), copies, ..Damages::default() });
        assert_eq!(damages.look(Member::B, 3, at(2)), 3);
    }

    /// It was told as gone when the 64 that are remembered were.
    #[test]
    fn more_pages_than_are_remembered_are_not_gone_when_those_are() {
        let mut damages = Damages::default();
        let all: Vec<Page> = (0..70).map(page).collect();
        let new = all.iter().filter(|page| damages.found(Member::A, (*page).clone(), at(1))).count();
        assert_eq!(new, MOST_PAGES);
        assert!(damages.of[&Member::A].to_string().starts_with("more than 64"), "{}", damages.of[&Member::A]);
        assert!(!damages.mended(Member::A, &all[..64]), "six are damaged still");
        assert!(damages.of[&Member::A].is_unnamed());
        assert!(damages.found(Member::A, page(65), at(2)), "a look at every page names them");
        assert!(!damages.looked(Member::A, 0) && !damages.of[&Member::A].is_unnamed());
        assert!(damages.mended(Member::A, &all[64..]));
    }

    /// Such damage stayed for ever where no clone could take it away, also once the table was dropped.
    #[test]
    fn damage_that_was_never_named_is_gone_when_every_page_was_looked_at() {
        let mut damages = Damages::default();
        damages.look(Member::A, 2, at(1));
        assert!(damages.of[&Member::A].is_unnamed());
        damages.look(Member::A, 3, at(2));
        assert!(!damages.looked(Member::A, 2), "it met another one while the look was under way");
        assert!(damages.looked(Member::A, 3));
        assert_eq!(damages.of, BTreeMap::new());
        assert!(!damages.looked(Member::B, 0), "nothing is known of it");
    }

    #[test]
    fn copies_in_a_row_are_counted_and_a_quiet_time_ends_the_row() {
        let mut damages = Damages::default();
        let mut clone = |minutes: i64| {
            let now = at(minutes * 60_000);
            damages.found(Member::A, page(1), now);
            damages.replaced(Member::A, now);
            let copies = damages.copies[&Member::A];
            (copies.count, copies.rest().as_secs() / 60)
        };
        let rests: Vec<(u32, u64)> = [0, 1, 2, 3, 4, 5, 20, 50, 100].map(&mut clone).to_vec();
        assert_eq!(rests, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 10), (7, 20), (8, 40), (9, 80)]);
        assert_eq!(clone(100 + 80 + 61), (1, 0), "it was well for an hour after it rested");
        assert_eq!(Copies { at: at(0), count: u32::MAX }.rest(), LONGEST_REST);
        damages.replaced(Member::B, at(5));
        assert!(!damages.copies.contains_key(&Member::B), "a clone for another reason is none of these");
    }
}
