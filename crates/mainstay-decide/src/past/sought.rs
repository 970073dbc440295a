//! Moments that must be looked for: what a person names by what happened, found among the records of the WAL.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mainstay_types::{Lsn, Timestamp};

use super::{Moment, NoMoment, moment_of, time};

/// PostgreSQL's kind of statistics that every table has (`PGSTAT_KIND_RELATION`): a commit names those that go with it.
pub const RELATION: u32 = 2;

/// A moment as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Where it is, or what bears its name.
    Moment(Moment),
    /// Just before the migrations of this release: the restore point that its deploy made.
    Release(u64),
    /// Just before a table was dropped.
    Dropped(Dropped),
}

/// A table that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its schema; `None`: any.
    pub schema: Option<String>,
    /// Its name, as the catalog has it.
    pub table: String,
    /// The last drop that was not after this; `None`: the last of all.
    pub until: Option<Timestamp>,
}

impl Wanted {
    /// Reads a moment as people write it.
    ///
    /// **Errors**: it is none.
    pub fn parse(text: &str) -> Result<Self, NoMoment> {
        let no = || NoMoment(text.to_owned());
        let plain = text.trim();
        if let Some(number) = plain.strip_prefix("release ") {
            let number = number.trim();
            return number.strip_prefix('v').unwrap_or(number).parse().map(Self::Release).map_err(|_| no());
        }
        if let Some(rest) = plain.strip_prefix("before ")
            && let Some((table, until)) = rest.split_once(" was dropped")
        {
            let until = match until.trim() {
                "" => None,
                until => Some(until.strip_prefix("at ").and_then(|at| time(at.trim())).ok_or_else(no)?),
            };
            let (schema, table) = table_name(table.trim()).ok_or_else(no)?;
            return Ok(Self::Dropped(Dropped { schema, table, until }));
        }
        moment_of(plain).map(Self::Moment).ok_or_else(no)
    }

    /// Whether it says by itself where it is.
    pub fn is_placed(&self) -> bool {
        matches!(self, Self::Moment(Moment::Latest | Moment::Time(_) | Moment::Lsn(_) | Moment::Before(_)))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moment(moment) => moment.fmt(f),
            Self::Release(number) => write!(f, "release {number}"),
            Self::Dropped(dropped) => {
                write!(f, "before {dropped} was dropped")?;
                dropped.until.map_or(Ok(()), |at| write!(f, " at {at}"))
            }
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema.as_ref().map_or_else(String::new, |schema| format!("{}.", quoted(schema)));
        write!(f, "{schema}{}", quoted(&self.table))
    }
}

impl Dropped {
    /// Whether this is its name, as SQL writes it with its schema.
    pub fn is(&self, qualified: &str) -> bool {
        table_name(qualified)
            .is_some_and(|(schema, table)| table == self.table && (self.schema.is_none() || schema == self.schema))
    }
}

/// The name of the restore point that the deploy of a release makes.
pub fn release_point(number: u64) -> String {
    format!("release_v{number}")
}

fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_plain && !name.starts_with(|first: char| first.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Schema and name, in lower case unless they are quoted, as PostgreSQL reads them.
fn table_name(text: &str) -> Option<(Option<String>, String)> {
    let (first, rest) = identifier(text)?;
    let (schema, name) = match rest.strip_prefix('.') {
        None if rest.is_empty() => (None, first),
        None => return None,
        Some(second) => match identifier(second)? {
            (second, "") => (Some(first), second),
            _ => return None,
        },
    };
    // PostgreSQL's own bound (NAMEDATALEN).
    (name.len() < 64).then_some((schema, name))
}

/// The first identifier, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(inner) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = inner;
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '"');
    is_name.then(|| (name.to_lowercase(), rest))
}

/// How far a moment is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nudge {
    /// How far.
    pub by: Duration,
    /// Back.
    pub is_back: bool,
}

impl Nudge {
    /// A time, moved.
    pub fn of(self, at: Timestamp) -> Timestamp {
        let micros = i64::try_from(self.by.as_micros()).unwrap_or(i64::MAX);
        let at = at.as_micros();
        Timestamp::from_micros(if self.is_back { at.saturating_sub(micros) } else { at.saturating_add(micros) })
    }
}

/// A record of the WAL that says when something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub lsn: Lsn,
    /// When it was written; `None`: it does not say.
    pub at: Option<Timestamp>,
    /// What it is.
    pub what: What,
}

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A transaction committed.
    Commit {
        /// Which: the lower half of its number.
        xid: u32,
        /// What was part of it.
        subxacts: Vec<u32>,
        /// Relations that went with it: database and number.
        dropped: Vec<(u32, u32)>,
    },
    /// A transaction was rolled back.
    Abort {
        /// Which.
        xid: u32,
        /// What was part of it.
        subxacts: Vec<u32>,
    },
    /// A restore point.
    Point(String),
}

/// A commit, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Commit {
    /// Where its record begins.
    pub lsn: Lsn,
    /// When.
    pub at: Timestamp,
    /// Which transaction: the lower half of its number.
    pub xid: u32,
}

/// Commits on both sides of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Around {
    /// The last one that is in it.
    pub last_before: Option<Commit>,
    /// The first that is not.
    pub first_after: Option<Commit>,
    /// How many are not.
    pub after: u64,
    /// The last of all.
    pub last: Option<Commit>,
}

impl Around {
    /// Looks at the next record: in the order of the WAL.
    pub fn see(&mut self, record: &Record, moment: &Moment) {
        let (What::Commit { xid, .. }, Some(at)) = (&record.what, record.at) else { return };
        let commit = Commit { lsn: record.lsn, at, xid: *xid };
        let is_in = self.after == 0
            && match moment {
                Moment::Time(to) => at <= *to,
                Moment::Lsn(to) => record.lsn <= *to,
                Moment::Before(to) => record.lsn < *to,
                Moment::Latest | Moment::Transaction(_) | Moment::Name(_) => true,
            };
        self.last = Some(commit);
        if is_in {
            self.last_before = Some(commit);
        } else {
            self.first_after.get_or_insert(commit);
            self.after += 1;
        }
    }
}

/// A place in the WAL that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where its record begins.
    pub lsn: Lsn,
    /// When.
    pub at: Option<Timestamp>,
    /// The restore point's name, or the relation that went: database and number.
    pub what: Landmark,
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landmark {
    /// A restore point.
    Point(String),
    /// A relation was dropped.
    Drop {
        /// The transaction.
        xid: u32,
        /// Its database.
        database: u32,
        /// Its number.
        relation: u32,
    },
    /// A transaction ended.
    End {
        /// It was kept.
        is_commit: bool,
    },
}

/// Most places that are remembered of one part of the WAL: an application that makes and drops tables all the time does
/// not fill the memory. **Basis**: some 20 MB; an hour of 50 temporary tables a second.
const MOST_PLACES: usize = 200_000;

/// What is looked for in a part of the WAL, and what of it was found.
#[derive(Clone, Debug, Default)]
pub struct Search {
    xid: Option<u32>,
    /// In the order of the WAL.
    pub places: Vec<Place>,
    /// There were more than can be remembered: the first are gone.
    pub has_forgotten: bool,
    /// When the last transaction ended that was seen.
    pub last_end: Option<Timestamp>,
}

impl Search {
    /// For restore points and drops, and for the end of a transaction when one is named.
    pub fn new(xid: Option<u32>) -> Self {
        Self { xid, ..Self::default() }
    }

    /// Looks at the next record.
    pub fn see(&mut self, record: &Record) {
        let place = |what, at: Option<Timestamp>| Place { lsn: record.lsn, at, what };
        let before = self.places.len();
        match &record.what {
            What::Point(name) => {
                let at = record.at.or(self.last_end);
                self.places.push(place(Landmark::Point(name.clone()), at));
            }
            What::Commit { xid, subxacts, dropped } => {
                self.last_end = record.at.or(self.last_end);
                for (database, relation) in dropped {
                    let (xid, database, relation) = (*xid, *database, *relation);
                    self.places.push(place(Landmark::Drop { xid, database, relation }, record.at));
                }
                if self.xid.is_some_and(|wanted| wanted == *xid || subxacts.contains(&wanted)) {
                    self.places.push(place(Landmark::End { is_commit: true }, record.at));
                }
            }
            What::Abort { xid, subxacts } => {
                self.last_end = record.at.or(self.last_end);
                if self.xid.is_some_and(|wanted| wanted == *xid || subxacts.contains(&wanted)) {
                    self.places.push(place(Landmark::End { is_commit: false }, record.at));
                }
            }
        }
        if self.places.len() > MOST_PLACES && before > 0 {
            // The oldest half goes: the last ones are what is asked for.
            self.places.drain(..before.min(MOST_PLACES / 2));
            self.has_forgotten = true;
        }
    }

    /// Restore points of a name.
    pub fn points<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Place> {
        self.places.iter().filter(move |place| matches!(&place.what, Landmark::Point(one) if one == name))
    }

    /// Names of all restore points that people, migrations and deploys made.
    pub fn point_names(&self) -> BTreeSet<&str> {
        let name = |place: &'_ Place| matches!(&place.what, Landmark::Point(name) if !name.starts_with(COUNTED));
        self.places
            .iter()
            .filter(|place| name(place))
            .filter_map(|place| match &place.what {
                Landmark::Point(name) => Some(name.as_str()),
                Landmark::Drop { .. } | Landmark::End { .. } => None,
            })
            .collect()
    }

    /// Drops of these relations, in the order of the WAL.
    pub fn drops(&self, relations: &BTreeSet<u32>) -> Vec<&Place> {
        let is_it =
            |place: &&Place| matches!(place.what, Landmark::Drop { relation, .. } if relations.contains(&relation));
        self.places.iter().filter(is_it).collect()
    }

    /// How the transaction ended.
    pub fn end(&self) -> Option<(&Place, bool)> {
        self.places.iter().find_map(|place| match place.what {
            Landmark::End { is_commit } => Some((place, is_commit)),
            Landmark::Point(_) | Landmark::Drop { .. } => None,
        })
    }
}

/// How names of restore points begin that mainstay makes for its proofs.
pub const COUNTED: &str = "mainstay counted ";

/// Of several drops the one that is meant: the last, or the last that was not after a time.
pub fn drop_meant<'a>(drops: &[&'a Place], until: Option<Timestamp>) -> Option<&'a Place> {
    // Times are written with milliseconds, and records have microseconds.
    let is_by =
        |place: &&&Place| until.is_none_or(|until| place.at.is_some_and(|at| at.as_millis() <= until.as_millis()));
    drops.iter().rfind(is_by).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(at: u64) -> Lsn {
        Lsn::new(at)
    }

    fn commit(at: u64, dropped: &[(u32, u32)]) -> Record {
        let what =
            What::Commit { xid: u32::try_from(at).expect("fits"), subxacts: vec![7_000], dropped: dropped.to_vec() };
        Record { lsn: lsn(at), at: Some(Timestamp::from_millis(i64::try_from(at).expect("fits"))), what }
    }

    #[test]
    fn moments_that_must_be_looked_for_are_read_as_people_write_them() {
        let text = |text: &str| Wanted::parse(text).map(|wanted| wanted.to_string()).map_err(|_| ());
        assert_eq!(text("release 42").as_deref(), Ok("release 42"));
        assert_eq!(text("release v42").as_deref(), Ok("release 42"));
        assert_eq!(text("before Orders was dropped").as_deref(), Ok("before orders was dropped"));
        assert_eq!(
            text("before shop.\"Or\"\"ders\" was dropped").as_deref(),
            Ok("before shop.\"Or\"\"ders\" was dropped")
        );
        assert_eq!(
            text("before orders was dropped at 2026-11-21 08:00:01.5").as_deref(),
            Ok("before orders was dropped at 2026-11-21T08:00:01.500Z")
        );
        assert_eq!(Wanted::parse("before 0/3000060"), Ok(Wanted::Moment(Moment::Before(lsn(0x300_0060)))));
        for no in ["release x", "release ", "before  was dropped", "before a b was dropped", "before a.b.c was dropped"]
        {
            assert!(Wanted::parse(no).is_err(), "{no}");
        }
        assert!(Wanted::parse("before orders was dropped yesterday").is_err());
    }

    #[test]
    fn a_name_of_a_table_is_compared_as_sql_writes_it() {
        let dropped = |text: &str| match Wanted::parse(&format!("before {text} was dropped")) {
            Ok(Wanted::Dropped(dropped)) => dropped,
            other => panic!("{other:?}"),
        };
        assert!(dropped("orders").is("public.orders"));
        assert!(!dropped("orders").is("public.\"Orders\""));
        assert!(dropped("\"Orders\"").is("public.\"Orders\""));
        assert!(!dropped("shop.orders").is("public.orders"));
    }

    #[test]
    fn of_several_drops_the_last_is_meant_unless_a_time_is_given() {
        let mut search = Search::new(None);
        for record in [commit(10, &[(5, 100)]), commit(20, &[(5, 101)]), commit(30, &[(5, 102)])] {
            search.see(&record);
        }
        let drops = search.drops(&BTreeSet::from([100, 102]));
        assert_eq!(drops.len(), 2);
        let meant = |until: Option<i64>| drop_meant(&drops, until.map(Timestamp::from_millis)).map(|place| place.lsn);
        assert_eq!(
            (meant(None), meant(Some(29)), meant(Some(10)), meant(Some(9))),
            (Some(lsn(30)), Some(lsn(10)), Some(lsn(10)), None)
        );
    }

    #[test]
    fn a_transaction_is_found_by_its_part_and_a_rollback_is_no_moment() {
        let mut search = Search::new(Some(7_000));
        search.see(&commit(10, &[]));
        assert_eq!(search.end().map(|(place, is_commit)| (place.lsn, is_commit)), Some((lsn(10), true)));
        let mut search = Search::new(Some(3));
        let at = Some(Timestamp::from_millis(1));
        search.see(&Record { lsn: lsn(9), at, what: What::Abort { xid: 3, subxacts: Vec::new() } });
        assert_eq!(search.end().map(|(_, is_commit)| is_commit), Some(false));
    }

    #[test]
    fn commits_after_a_moment_are_those_that_replay_does_not_come_to() {
        let around = |moment: &Moment| {
            let mut around = Around::default();
            // The clock was set back between the second and the third.
            for (at, millis) in [(10, 100), (20, 300), (30, 200)] {
                let record = commit(at, &[]);
                around.see(&Record { at: Some(Timestamp::from_millis(millis)), ..record }, moment);
            }
            (around.last_before.map(|one| one.lsn), around.after)
        };
        assert_eq!(
            around(&Moment::Time(Timestamp::from_millis(250))),
            (Some(lsn(10)), 2),
            "replay stops at the second"
        );
        assert_eq!(around(&Moment::Lsn(lsn(20))), (Some(lsn(20)), 1));
        assert_eq!(around(&Moment::Before(lsn(20))), (Some(lsn(10)), 2));
        assert_eq!(around(&Moment::Latest), (Some(lsn(30)), 0));
    }

    #[test]
    fn points_that_proofs_made_are_not_offered() {
        let mut search = Search::new(None);
        for name in ["mainstay counted 0/1", "release_v2", "release_v2"] {
            search.see(&Record { lsn: lsn(1), at: None, what: What::Point(name.to_owned()) });
        }
        assert_eq!(search.point_names().into_iter().collect::<Vec<_>>(), ["release_v2"]);
        assert_eq!(search.points("release_v2").count(), 2);
    }

    #[test]
    fn a_nudge_moves_a_time_both_ways() {
        let at = Timestamp::from_millis(60_000);
        let nudge = |is_back| Nudge { by: Duration::from_secs(30), is_back }.of(at).as_millis();
        assert_eq!((nudge(false), nudge(true)), (90_000, 30_000));
    }
}
