//! `every`: when a service that has no standing instances runs. All times are UTC, so that no hour is there twice.
//!
//! Every form is a period and an offset from 1970-01-01 00:00 UTC: the times are known without remembering any, and
//! a restart changes none of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::units::{self, show_duration};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
/// Longest period. What is rarer is done by hand.
const LONGEST: u64 = 366 * DAY;

/// Days by their distance from the one on which 1970 began, a Thursday.
const DAYS: [&str; 7] = ["thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday"];

/// What `every` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every {
    form: Form,
    /// **Unit**: seconds.
    period: u64,
    /// From the beginning of a period. **Unit**: seconds.
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Interval,
    Hour,
    Day,
    Week,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Five fields of cron.
    #[error("it has cron's form")]
    Cron,
    /// Neither an interval nor `… at …`.
    #[error("it is neither an interval nor a day and a time")]
    Form,
    /// No hour and minute of a day.
    #[error("`{0}` is no time of day from 00:00 to 23:59")]
    Time(String),
    /// No minute of an hour.
    #[error("`{0}` is no minute from :00 to :59")]
    Minute(String),
    /// An interval that is no whole number of seconds, or out of bounds.
    #[error("it is not a whole number of seconds from 1s to 366d")]
    Interval,
}

impl Every {
    /// An interval of whole seconds, counted from 1970-01-01 00:00 UTC.
    fn interval(every: Duration) -> Result<Self, ScheduleError> {
        let period = every.as_secs();
        if every.subsec_nanos() > 0 || period == 0 || period > LONGEST {
            return Err(ScheduleError::Interval);
        }
        Ok(Self { form: Form::Interval, period, offset: 0 })
    }

    /// Time between two runs.
    pub fn period(self) -> Duration {
        Duration::from_secs(self.period)
    }

    /// The latest time of the schedule that is not after `at`.
    pub fn latest(self, at: Timestamp) -> Timestamp {
        let micros = |seconds: u64| i64::try_from(seconds * 1_000_000).unwrap_or(i64::MAX);
        let (period, offset) = (micros(self.period), micros(self.offset));
        let number = at.as_micros().saturating_sub(offset).div_euclid(period);
        Timestamp::from_micros(number * period + offset)
    }

    /// The first time of the schedule after `at`.
    pub fn next(self, at: Timestamp) -> Timestamp {
        self.latest(at).after(self.period())
    }
}

impl FromStr for Every {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim().to_ascii_lowercase();
        if let Ok(every) = units::duration(&text) {
            return Self::interval(every);
        }
        let is_field = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit() || b"*/,-".contains(&byte));
        if text.starts_with('@') || text.split_whitespace().filter(|word| is_field(word)).count() >= 4 {
            return Err(ScheduleError::Cron);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let [what, "at", time] = words.as_slice() else { return Err(ScheduleError::Form) };
        if *what == "hour" {
            let minute = time.strip_prefix(':').and_then(|text| two_digits(text, 59));
            let minute = minute.ok_or_else(|| ScheduleError::Minute(crate::diagnostic::quote(time)))?;
            return Ok(Self { form: Form::Hour, period: HOUR, offset: minute * MINUTE });
        }
        let day = DAYS.iter().zip(0..).find(|(day, _)| *day == what).map(|(_, day)| day);
        if day.is_none() && *what != "day" {
            return Err(ScheduleError::Form);
        }
        let of_day = time_of_day(time).ok_or_else(|| ScheduleError::Time(crate::diagnostic::quote(time)))?;
        Ok(match day {
            None => Self { form: Form::Day, period: DAY, offset: of_day },
            Some(day) => Self { form: Form::Week, period: WEEK, offset: day * DAY + of_day },
        })
    }
}

fn two_digits(text: &str, most: u64) -> Option<u64> {
    let is_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && *number <= most)
}

/// `03:00`. **Unit** of the answer: seconds from midnight.
pub(crate) fn time_of_day(text: &str) -> Option<u64> {
    let (hour, minute) = text.split_once(':')?;
    Some(two_digits(hour, 23)? * HOUR + two_digits(minute, 59)? * MINUTE)
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hour, minute) = (self.offset % DAY / HOUR, self.offset % HOUR / MINUTE);
        match self.form {
            Form::Interval => f.write_str(&show_duration(self.period())),
            Form::Hour => write!(f, "hour at :{minute:02}"),
            Form::Day => write!(f, "day at {hour:02}:{minute:02}"),
            Form::Week => {
                let day = usize::try_from(self.offset / DAY).ok().and_then(|day| DAYS.get(day)).unwrap_or(&"day");
                write!(f, "{day} at {hour:02}:{minute:02}")
            }
        }
    }
}

impl TryFrom<String> for Every {
    type Error = ScheduleError;
    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every(text: &str) -> Every {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// 2026-11-26T05:12:28.5Z, a Thursday.
    fn then() -> Timestamp {
        Timestamp::from_millis(1_795_669_948_500)
    }

    fn next(text: &str) -> String {
        every(text).next(then()).to_string()
    }

    #[test]
    fn each_form_has_its_next_time_in_utc() {
        assert_eq!(then().to_string(), "2026-11-26T05:12:28.500Z");
        assert_eq!(next("10m"), "2026-11-26T05:20:00.000Z");
        assert_eq!(next("1s"), "2026-11-26T05:12:29.000Z");
        assert_eq!(next("hour at :15"), "2026-11-26T05:15:00.000Z");
        assert_eq!(next("hour at :05"), "2026-11-26T06:05:00.000Z");
        assert_eq!(next("day at 05:30"), "2026-11-26T05:30:00.000Z");
        assert_eq!(next("day at 03:00"), "2026-11-27T03:00:00.000Z");
        assert_eq!(next("thursday at 05:12"), "2026-12-03T05:12:00.000Z");
        assert_eq!(next("Monday at 04:30"), "2026-11-30T04:30:00.000Z");
    }

    #[test]
    fn a_time_of_the_schedule_is_its_own_latest() {
        let at = every("day at 03:00").next(then());
        assert_eq!(every("day at 03:00").latest(at), at);
        assert_eq!(every("day at 03:00").next(at), at.after(Duration::from_secs(DAY)));
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        let why = |text: &str| text.parse::<Every>().expect_err(text);
        assert_eq!(why("0 3 * * *"), ScheduleError::Cron);
        assert_eq!(why("*/5 * * * *"), ScheduleError::Cron);
        assert_eq!(why("@daily"), ScheduleError::Cron);
        assert_eq!(why("daily"), ScheduleError::Form);
        assert_eq!(why("mon at 03:00"), ScheduleError::Form);
        assert_eq!(why(""), ScheduleError::Form);
        assert_eq!(why("day at 24:00"), ScheduleError::Time("24:00".to_owned()));
        assert_eq!(why("day at 3:00"), ScheduleError::Time("3:00".to_owned()));
        assert_eq!(why("hour at 15"), ScheduleError::Minute("15".to_owned()));
        assert_eq!(why("hour at :60"), ScheduleError::Minute(":60".to_owned()));
        assert_eq!(why("500ms"), ScheduleError::Interval);
        assert_eq!(why("1500ms"), ScheduleError::Interval);
        assert_eq!(why("0s"), ScheduleError::Interval);
        assert_eq!(why("367d"), ScheduleError::Interval);
    }

    proptest! {
        #[test]
        fn times_follow_each_other_without_a_gap(micros in 0_i64..4_000_000_000_000_000, form in 0_usize..6) {
            let every = every(["7s", "10m", "hour at :59", "day at 23:59", "sunday at 00:00", "36h"][form]);
            let at = Timestamp::from_micros(micros);
            prop_assert!(every.latest(at) <= at && at < every.next(at));
            prop_assert_eq!(every.next(every.latest(at)), every.next(at));
            prop_assert_eq!(every.to_string().parse::<Every>(), Ok(every));
        }

        #[test]
        fn no_text_brings_the_reader_down(text in ".{0,24}") {
            text.parse::<Every>().ok();
        }
    }
}
