//! Which base backup a moment of the past is restored from, and whether it can be reached at all.

mod sought;

use mainstay_types::{Lsn, Timestamp};

pub use sought::{
    Around, COUNTED, Commit, Dropped, Landmark, Nudge, Place, RELATION, Record, Search, Wanted, What, drop_meant,
    release_point,
};

/// A moment of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// All that is archived.
    Latest,
    /// Before the first commit after this time.
    Time(Timestamp),
    /// When this position was written.
    Lsn(Lsn),
    /// Everything before this position, and nothing that begins at it.
    Before(Lsn),
    /// After this transaction committed.
    Transaction(u64),
    /// At this named restore point.
    Name(String),
}

/// A base backup, as far as the choice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where it is consistent: nothing earlier can be restored from it.
    pub stop: Lsn,
    /// When that was.
    pub ended: Timestamp,
}

/// Why a moment cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Nothing is there to begin from.
    #[error("there is no base backup yet")]
    NoBackup,
    /// Before the first base backup.
    #[error("{wanted} is before the oldest base backup; reachable is {reach}")]
    TooEarly {
        /// What was asked for.
        wanted: String,
        /// What can be had.
        reach: Reach,
    },
    /// After the end of the archive.
    #[error("{wanted} is after the end of the archive; reachable is {reach}")]
    TooLate {
        /// What was asked for.
        wanted: String,
        /// What can be had.
        reach: Reach,
    },
}

/// What can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// From this moment, the end of the oldest base backup.
    pub from: (Timestamp, Lsn),
    /// To this one: when the newest segment was archived, and where it ends.
    pub to: (Timestamp, Lsn),
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((from, from_lsn), (to, to_lsn)) = (self.from, self.to);
        write!(f, "{from} ({from_lsn}) to {to} ({to_lsn})")
    }
}

/// A text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no moment: write a time in UTC (2026-11-21T08:00:00Z), a position (0/3000060; before 0/3000060), a transaction (xid 745), a restore point (name NAME), a release (release 42), what happened (before TABLE was dropped) or latest"
)]
pub struct NoMoment(pub String);

impl Moment {
    /// Reads a moment as people write it.
    ///
    /// **Errors**: it is none.
    pub fn parse(text: &str) -> Result<Self, NoMoment> {
        moment_of(text.trim()).ok_or_else(|| NoMoment(text.to_owned()))
    }
}

/// A text without blanks around it.
fn moment_of(text: &str) -> Option<Moment> {
    if text == "latest" {
        return Some(Moment::Latest);
    }
    if let Some(xid) = text.strip_prefix("xid ") {
        return xid.trim().parse().ok().map(Moment::Transaction);
    }
    if let Some(name) = text.strip_prefix("name ") {
        let name = name.trim();
        // PostgreSQL's own bound (MAXFNAMELEN).
        let is_name = !name.is_empty() && name.len() < 64 && !name.contains(['\'', '\\', '\n']);
        return is_name.then(|| Moment::Name(name.to_owned()));
    }
    if let Some(lsn) = text.strip_prefix("before ") {
        return lsn.trim().parse().ok().map(Moment::Before);
    }
    if text.contains('/') {
        return text.parse().ok().map(Moment::Lsn);
    }
    time(text).map(Moment::Time)
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(at) => write!(f, "{at}"),
            Self::Lsn(lsn) => write!(f, "{lsn}"),
            Self::Before(lsn) => write!(f, "before {lsn}"),
            Self::Transaction(xid) => write!(f, "xid {xid}"),
            Self::Name(name) => write!(f, "name {name}"),
        }
    }
}

/// `2026-11-21T08:00[:00[.000]][Z]`, also with a blank instead of `T`. UTC.
fn time(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, clock) = text.split_once(['T', ' '])?;
    let date: Vec<i64> = parts(date, '-')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock: Vec<i64> = parts(clock, ':')?;
    let ([year, month, day], [hour, minute, rest @ ..]) = (date.as_slice(), clock.as_slice()) else { return None };
    let second = match rest {
        [] => 0,
        [second] => *second,
        _ => return None,
    };
    let is_plain = (1970..10_000).contains(year) && (1..=12).contains(month) && (1..=days(*year, *month)).contains(day);
    if !is_plain || *hour > 23 || *minute > 59 || second > 59 {
        return None;
    }
    let is_fraction = !fraction.is_empty() && fraction.len() <= 6 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let micros: i64 = is_fraction.then(|| format!("{fraction:0<6}"))?.parse().ok()?;
    let earlier_years: i64 = (1970..*year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let earlier_months: i64 = (1..*month).map(|month| days(*year, month)).sum();
    let whole = ((earlier_years + earlier_months + day - 1) * 24 + hour) * 3600 + minute * 60 + second;
    Some(Timestamp::from_micros(whole * 1_000_000 + micros))
}

fn parts(text: &str, between: char) -> Option<Vec<i64>> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() <= 4;
    text.split(between).map(|part| digits(part).then(|| part.parse().ok())?).collect()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The base backup to begin from, of those in a row, the oldest first: the newest that is not after the moment. Of
/// transactions and names nobody knows where they are, so it is the newest of all; an older one can be asked for.
///
/// **Errors**: the moment is outside what can be reached.
pub fn choose(backups: &[Base], moment: &Moment, end: (Timestamp, Lsn)) -> Result<usize, Unreachable> {
    let oldest = backups.first().ok_or(Unreachable::NoBackup)?;
    let reach = Reach { from: (oldest.ended, oldest.stop), to: end };
    // By their row and not by their times: a clock may have been wrong.
    let newest = |is_before: &dyn Fn(&Base) -> bool| backups.iter().rposition(is_before);
    let (found, is_late) = match moment {
        Moment::Latest | Moment::Transaction(_) | Moment::Name(_) => (newest(&|_| true), false),
        Moment::Time(at) => (newest(&|base| base.ended <= *at), *at > end.0),
        Moment::Lsn(lsn) | Moment::Before(lsn) => (newest(&|base| base.stop <= *lsn), *lsn > end.1),
    };
    let wanted = moment.to_string();
    match found {
        _ if is_late => Err(Unreachable::TooLate { wanted, reach }),
        None => Err(Unreachable::TooEarly { wanted, reach }),
        Some(index) => Ok(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(stop: u64, ended: i64) -> Base {
        Base { stop: Lsn::new(stop), ended: Timestamp::from_millis(ended) }
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let at = |text: &str| Moment::parse(text).map(|moment| moment.to_string());
        assert_eq!(at("2026-11-21 08:00").as_deref(), Ok("2026-11-21T08:00:00.000Z"));
        assert_eq!(at("2024-02-29T23:59:59.25Z").as_deref(), Ok("2024-02-29T23:59:59.250Z"));
        assert_eq!(Moment::parse("0/3000060"), Ok(Moment::Lsn(Lsn::new(0x300_0060))));
        assert_eq!(Moment::parse("xid 745"), Ok(Moment::Transaction(745)));
        assert_eq!(Moment::parse("name before v42"), Ok(Moment::Name("before v42".to_owned())));
        for text in [
            "",
            "yesterday",
            "2026-02-29 08:00",
            "2026-11-21",
            "2026-11-21 24:00",
            "xid x",
            "name it's",
            "x/y",
            "2026-11-21 08:00:00.",
        ] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_newest_backup_that_is_not_after_the_moment_is_taken() {
        let backups = [base(10, 1000), base(20, 2000), base(30, 3000)];
        let end = (Timestamp::from_millis(9000), Lsn::new(90));
        let time = |millis| choose(&backups, &Moment::Time(Timestamp::from_millis(millis)), end);
        assert_eq!((time(2999), time(3000), time(1000)), (Ok(1), Ok(2), Ok(0)));
        assert_eq!(choose(&backups, &Moment::Lsn(Lsn::new(25)), end), Ok(1));
        assert_eq!(choose(&backups, &Moment::Latest, end), Ok(2));
        let ahead = [base(10, 1000), base(20, 9_000_000), base(30, 3000)];
        assert_eq!(choose(&ahead, &Moment::Latest, end), Ok(2), "the clock was ahead for the second");
    }

    #[test]
    fn a_moment_outside_is_refused_with_the_reachable_range() {
        let backups = [base(10, 1000)];
        let end = (Timestamp::from_millis(9000), Lsn::new(90));
        let early = choose(&backups, &Moment::Time(Timestamp::from_millis(999)), end).expect_err("refused").to_string();
        assert!(early.contains("1970-01-01T00:00:01.000Z (0/A) to 1970-01-01T00:00:09.000Z (0/5A)"), "{early}");
        assert!(matches!(choose(&backups, &Moment::Lsn(Lsn::new(91)), end), Err(Unreachable::TooLate { .. })));
        assert_eq!(choose(&[], &Moment::Latest, end), Err(Unreachable::NoBackup));
    }
}
