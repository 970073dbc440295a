//! `[service.NAME.scale]`: between which bounds the number of instances follows the load, and by which rules.
//!
//! Names and defaults are those of Kubernetes' HorizontalPodAutoscaler (`autoscaling/v2`), with instances for pods.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mainstay_types::{Percent, Timestamp};
use serde::{Deserialize, Serialize};

use crate::schedule::time_of_day;

const DAY: u64 = 24 * 3600;
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// How the number of instances of a service follows its load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Fewest instances; the service's `instances`.
    pub min: u32,
    /// Most instances.
    pub max: u32,
    /// The rule that turns measures into a number. Default `hpa`.
    pub policy: Policy,
    /// What is measured.
    pub targets: Targets,
    /// How far a measure may be above its target without effect. Default 10 %.
    pub up_tolerance: Percent,
    /// How far a measure may be below its target without effect. Default 10 %.
    pub down_tolerance: Percent,
    /// How fast instances are added.
    pub up: Rules,
    /// How fast instances are removed.
    pub down: Rules,
    /// Other bounds at certain times; the first that holds counts.
    pub schedule: Vec<Period>,
}

impl Scale {
    /// The bounds at a moment, and the period that sets them.
    pub fn bounds(&self, at: Timestamp) -> (u32, u32, Option<&Period>) {
        match self.schedule.iter().find(|period| period.when.holds(at)) {
            Some(period) => (period.min, period.max, Some(period)),
            None => (self.min, self.max, None),
        }
    }

    /// Whether anything moves the number: a measure, or the time.
    pub fn is_moved(&self) -> bool {
        !self.targets.is_empty() || !self.schedule.is_empty()
    }

    /// The most instances at any time.
    pub fn most(&self) -> u32 {
        self.schedule.iter().map(|period| period.max).fold(self.max, u32::max)
    }
}

/// The rule that turns measures into a number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Policy {
    /// As Kubernetes' HorizontalPodAutoscaler.
    Hpa,
    /// A share more when any measure is above its target, a share less when CPU is low and none is.
    Step {
        /// How many more or less. **Unit**: per cent. Default 30.
        step: u32,
        /// CPU below which instances are removed. **Unit**: per cent. Default 30.
        low: u32,
        /// Between two changes. Default 300 s.
        cooldown: Duration,
    },
    /// As many as bring the measure back to its target, with a pause after each change.
    TargetTracking {
        /// After a change. Default 300 s.
        cooldown: Duration,
    },
    /// Only `schedule` counts.
    Schedule,
}

impl Policy {
    /// As the stack file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hpa => "hpa",
            Self::Step { .. } => "step",
            Self::TargetTracking { .. } => "target-tracking",
            Self::Schedule => "schedule",
        }
    }
}

/// What is measured, and where it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// CPU of an instance against `resources.cpu`. **Unit**: per cent.
    pub cpu_percent: Option<u32>,
    /// Memory of an instance against `resources.memory`. **Unit**: per cent.
    pub memory_percent: Option<u32>,
    /// Requests an instance should have. **Unit**: per second.
    pub requests: Option<u32>,
    /// 95th percentile of the latency at the edge.
    pub latency_p95: Option<Duration>,
    /// The answer of Prometheus to a question of one's own.
    pub query: Option<Query>,
}

impl Targets {
    /// Whether nothing is measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A question to Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// In PromQL; its answer is one number, or a vector that is summed.
    pub expression: String,
    /// Where the answer should be.
    pub target: u32,
    /// Whether the target is for each instance; else for the service as a whole. Default true.
    pub is_per_instance: bool,
}

/// How fast the number may change in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Over how long the most careful of the recommendations counts. Default 0 s up, 300 s down.
    pub window: Duration,
    /// Bounds of the change. Default: 4 instances and 100 % each 15 s up, 100 % each 15 s down.
    pub rates: Vec<Rate>,
    /// Which of the bounds counts. Default the one that allows most.
    pub select: Select,
}

impl Rules {
    /// What holds for adding instances when the file says nothing.
    pub fn up() -> Self {
        let every = Duration::from_secs(15);
        let rates = vec![Rate { change: Change::Instances(4), every }, Rate { change: Change::Percent(100), every }];
        Self { window: Duration::ZERO, rates, select: Select::Max }
    }

    /// What holds for removing instances when the file says nothing.
    pub fn down() -> Self {
        let rates = vec![Rate { change: Change::Percent(100), every: Duration::from_secs(15) }];
        Self { window: Duration::from_secs(300), rates, select: Select::Max }
    }

    /// The longest time that one of the bounds is about.
    pub fn longest(&self) -> Duration {
        self.rates.iter().map(|rate| rate.every).max().unwrap_or_default()
    }
}

/// A bound of the change within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// By how much.
    pub change: Change,
    /// In how long.
    pub every: Duration,
}

/// An amount of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// So many.
    Instances(u32),
    /// A share of those that there were. **Unit**: per cent.
    Percent(u32),
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = crate::units::show_duration(self.every);
        match self.change {
            Change::Instances(1) => write!(f, "1 instance each {every}"),
            Change::Instances(count) => write!(f, "{count} instances each {every}"),
            Change::Percent(share) => write!(f, "{share} % each {every}"),
        }
    }
}

/// Which of several bounds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest.
    Min,
    /// None is allowed.
    Disabled,
}

impl Select {
    /// Each.
    pub const ALL: [Self; 3] = [Self::Max, Self::Min, Self::Disabled];

    /// As the stack file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Min => "min",
            Self::Disabled => "disabled",
        }
    }
}

/// Bounds at certain times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// When.
    pub when: When,
    /// Fewest instances then.
    pub min: u32,
    /// Most instances then.
    pub max: u32,
}

/// Days of the week and a time of day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct When {
    /// From Monday on.
    days: [bool; 7],
    /// From and until, in seconds from midnight; it may end on the next day. `None`: all day.
    time: Option<(u64, u64)>,
}

/// Why a text is no [`When`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// Neither days nor a time.
    #[error("it names neither days nor a time of day")]
    Form,
    /// A word that is no day of the week.
    #[error("`{0}` is no day of the week")]
    Day(String),
    /// No time from 00:00 to 23:59, or both ends are the same.
    #[error("`{0}` is no time from HH:MM to another HH:MM")]
    Time(String),
}

impl When {
    /// Whether it is so at a moment. A time that crosses midnight belongs to the day on which it begins.
    pub fn holds(self, at: Timestamp) -> bool {
        let seconds = at.as_micros().div_euclid(1_000_000);
        let day_length = i64::try_from(DAY).unwrap_or(86_400);
        let of_day = u64::try_from(seconds.rem_euclid(day_length)).unwrap_or_default();
        // 1970 began on a Thursday.
        let day = usize::try_from((seconds.div_euclid(day_length) + 3).rem_euclid(7)).unwrap_or_default();
        let yesterday = (day + 6) % 7;
        match self.time {
            None => self.days[day],
            Some((from, until)) if from < until => self.days[day] && (from..until).contains(&of_day),
            Some((from, until)) => (self.days[day] && of_day >= from) || (self.days[yesterday] && of_day < until),
        }
    }
}

/// `saturday`, `Sat`: three letters tell each from the others.
fn day(word: &str) -> Result<usize, WhenError> {
    let is_it = |name: &str| word.len() >= 3 && name.starts_with(word);
    DAYS.iter().position(|name| is_it(name)).ok_or_else(|| WhenError::Day(crate::diagnostic::quote(word)))
}

fn days(text: &str) -> Result<[bool; 7], WhenError> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Ok(days)
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let text = text.trim().to_ascii_lowercase();
        let time = |word: &str| {
            let ends = word.split_once('-').and_then(|(from, until)| Some((time_of_day(from)?, time_of_day(until)?)));
            ends.filter(|(from, until)| from != until).ok_or_else(|| WhenError::Time(crate::diagnostic::quote(word)))
        };
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [word] if word.starts_with(|first: char| first.is_ascii_digit()) => {
                Ok(Self { days: [true; 7], time: Some(time(word)?) })
            }
            [word] => Ok(Self { days: days(word)?, time: None }),
            [word, hours] => Ok(Self { days: days(word)?, time: Some(time(hours)?) }),
            _ => Err(WhenError::Form),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = DAYS.iter().zip(self.days).filter(|(_, is_in)| *is_in).map(|(name, _)| *name).collect();
        let is_every_day = named.len() == DAYS.len();
        let time = self.time.map(|(from, until)| {
            let show = |seconds: u64| format!("{:02}:{:02}", seconds / 3600, seconds % 3600 / 60);
            format!("{}-{}", show(from), show(until))
        });
        match time {
            Some(time) if is_every_day => f.write_str(&time),
            Some(time) => write!(f, "{} {time}", named.join(",")),
            None => f.write_str(&named.join(",")),
        }
    }
}

impl TryFrom<String> for When {
    type Error = WhenError;
    fn try_from(text: String) -> Result<Self, WhenError> {
        text.parse()
    }
}

impl From<When> for String {
    fn from(when: When) -> Self {
        when.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(when: &str, seconds: i64) -> bool {
        when.parse::<When>().expect(when).holds(Timestamp::from_micros(seconds * 1_000_000))
    }

    /// 2026-11-27 00:00 UTC, a Friday.
    const FRIDAY: i64 = 1_795_737_600;
    const HOUR: i64 = 3600;

    #[test]
    fn days_hold_from_midnight_to_midnight() {
        assert!(holds("fri", FRIDAY) && holds("Friday", FRIDAY + 24 * HOUR - 1) && !holds("fri", FRIDAY - 1));
        assert!(!holds("sat,sun", FRIDAY) && holds("Sat,Sun", FRIDAY + 24 * HOUR));
        assert!(holds("wednesday-friday", FRIDAY) && holds("fri-mon", FRIDAY + 48 * HOUR));
        assert!(!holds("mon-thu", FRIDAY));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        assert!(holds("22:00-06:00", FRIDAY + 22 * HOUR) && holds("22:00-06:00", FRIDAY + 5 * HOUR));
        assert!(!holds("22:00-06:00", FRIDAY + 6 * HOUR));
        assert!(holds("thu 22:00-06:00", FRIDAY + HOUR) && !holds("fri 22:00-06:00", FRIDAY + HOUR));
        assert!(holds("fri 08:00-18:00", FRIDAY + 8 * HOUR) && !holds("fri 08:00-18:00", FRIDAY + 18 * HOUR));
    }

    #[test]
    fn what_says_no_time_says_why() {
        let why = |text: &str| text.parse::<When>().expect_err(text);
        assert_eq!(why("so"), WhenError::Day("so".to_owned()));
        assert_eq!(why("weekend"), WhenError::Day("weekend".to_owned()));
        assert_eq!(why("22:00-25:00"), WhenError::Time("22:00-25:00".to_owned()));
        assert_eq!(why("mon 08:00"), WhenError::Time("08:00".to_owned()));
        assert_eq!(why("08:00-08:00"), WhenError::Time("08:00-08:00".to_owned()));
        assert_eq!(why(""), WhenError::Form);
        assert_eq!(why("mon tue wed"), WhenError::Form);
    }

    #[test]
    fn it_reads_as_it_is_shown() {
        for text in ["saturday,sunday", "22:00-06:00", "monday,friday 08:00-18:30"] {
            assert_eq!(text.parse::<When>().map(|when| when.to_string()), Ok(text.to_owned()));
        }
        let days = "monday,tuesday,wednesday,thursday,friday,saturday,sunday";
        assert_eq!("mon-sun".parse::<When>().map(|when| when.to_string()), Ok(days.to_owned()));
    }
}
