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
use crate::observed::{Errand, Observed, Record};
use crate::restart;
use crate::view::{Life, View};

/// Pause after a change of the primary for damaged pages was asked for: one that was given up met long transactions, and
/// a disk that damages page after page is not to move the primary all the time.
pub const PAUSE: Duration = Duration::from_secs(60);

/// Time for statements at a damaged standby before it is stopped; those that take longer are ended with it.
const READS_WITHIN: Duration = Duration::from_secs(30);

/// Pages that are remembered by their names, of one member: more say nothing more.
const MOST_PAGES: usize = 64;

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
}

impl Damage {
    /// Pages that are damaged, at the least.
    pub fn count(&self) -> u64 {
        (self.pages.len() as u64).max(1)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pages.first() {
            None => write!(f, "a page with a wrong checksum"),
            Some(page) if self.pages.len() == 1 => write!(f, "a damaged page ({page})"),
            Some(page) => write!(f, "{} damaged pages ({page} and others)", self.pages.len()),
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
        let is_new = damage.pages.len() < MOST_PAGES && damage.pages.insert(page);
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
        // One that was never named may be anywhere: it is known by its number alone, and not given up.
        let is_mended = before > 0 && damage.pages.is_empty();
        if is_mended {
            self.of.remove(&member);
        }
        is_mended
    }

    /// Another directory is in this member's place, made of whole pages.
    pub fn replaced(&mut self, member: Member) {
        self.of.remove(&member);
        self.counts.remove(&member);
    }

    fn entry(&mut self, member: Member, at: Timestamp) -> &mut Damage {
        self.of.entry(member).or_insert_with(|| Damage { since: at, met: 0, pages: BTreeSet::new() })
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
    let is_next = |member: &Member| *member != record.primary && of(view, *member).is_some();
    // In `strict` writes would wait for as long as a clone takes: a person decides.
    let member = view.wanted_members().into_iter().find(is_next)?;
    wish::is_given_up(view, member).then_some(member)
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
        damages.replaced(Member::B);
        assert_eq!(damages, Damages { ever: BTreeMap::from([(Member::B, 1)]), ..Damages::default() });
        assert_eq!(damages.look(Member::B, 3, at(2)), 3);
    }
}
