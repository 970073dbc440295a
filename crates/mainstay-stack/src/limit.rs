//! A limit of the edge: `100/min per ip`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most requests of a period: beyond it there is less than a microsecond between two.
pub const MOST_REQUESTS: u32 = 1_000_000;

/// Periods by their names; the first of equal ones is how it is shown.
const PERIODS: [(&str, u64); 9] = [
    ("s", 1),
    ("second", 1),
    ("min", 60),
    ("minute", 60),
    ("m", 60),
    ("h", 3600),
    ("hour", 3600),
    ("d", 86_400),
    ("day", 86_400),
];

/// How often one client may ask.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limit {
    /// Requests in each period.
    pub requests: u32,
    /// The period: a second, minute, hour or day.
    pub period: Duration,
    /// How many may come at once. Default: all of a period.
    pub burst: u32,
    /// What makes two requests those of one client.
    pub per: LimitKey,
}

/// What makes two requests those of one client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LimitKey {
    /// The address; of IPv6 its first 64 bits, which are one subscriber's.
    Ip,
    /// The value of a header; without it, the address.
    Header {
        /// Which, in lower case.
        name: String,
    },
    /// The value of a cookie; without it, the address.
    Cookie {
        /// Which.
        name: String,
    },
    /// The user that the edge has verified, by a token or a password; where it verifies nobody, the address.
    User,
}

/// Why a text is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Not `RATE per WHOM`, and no profile.
    #[error("it is not of the form \"100/min per ip\"")]
    Form,
    /// No rate.
    #[error("`{0}` is no rate from 1 to {MOST_REQUESTS} in a period of s, min, h or d")]
    Rate(String),
    /// No key.
    #[error("`{0}` is not \"ip\", \"user\", \"header NAME\" or \"cookie NAME\"")]
    Key(String),
}

/// Limits with a name: what architectures commonly ask for.
pub const PROFILES: [(&str, &[&str]); 3] = [
    ("ingress", &["100/min per ip"]),
    ("api", &["1000/min per ip", "100/min per header authorization"]),
    ("login", &["5/min per ip"]),
];

impl Limit {
    /// The limits of a profile.
    pub fn profile(name: &str) -> Option<Vec<Self>> {
        let (_, limits) = PROFILES.iter().find(|(known, _)| *known == name)?;
        Some(limits.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// `100/min`, with all of a period at once.
    ///
    /// **Errors**: no number, no period, or out of bounds.
    pub fn rate(text: &str) -> Result<(u32, Duration), LimitError> {
        let wrong = || LimitError::Rate(crate::diagnostic::quote(text));
        let (number, period) = text.split_once('/').ok_or_else(wrong)?;
        let requests = number.trim().parse::<u32>().ok().filter(|requests| (1..=MOST_REQUESTS).contains(requests));
        let seconds = PERIODS.iter().find(|(name, _)| *name == period.trim()).map(|(_, seconds)| *seconds);
        match (requests, seconds) {
            (Some(requests), Some(seconds)) => Ok((requests, Duration::from_secs(seconds))),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (rate, per) = text.split_once(" per ").ok_or(LimitError::Form)?;
        let (requests, period) = Self::rate(rate.trim())?;
        Ok(Self { requests, period, burst: requests, per: per.parse()? })
    }
}

impl FromStr for LimitKey {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        // The characters of a header's or cookie's name. **Source**: RFC 9110, section 5.6.2.
        let is_token = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["ip"] => Ok(Self::Ip),
            ["user"] => Ok(Self::User),
            ["header", name] if is_token(name) => Ok(Self::Header { name: name.to_ascii_lowercase() }),
            ["cookie", name] if is_token(name) => Ok(Self::Cookie { name: (*name).to_owned() }),
            _ => Err(LimitError::Key(crate::diagnostic::quote(text))),
        }
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Header { name } => write!(f, "header {name}"),
            Self::Cookie { name } => write!(f, "cookie {name}"),
            Self::User => f.write_str("user"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period =
            PERIODS.iter().find(|(_, seconds)| *seconds == self.period.as_secs()).map_or("?", |(name, _)| name);
        write!(f, "{}/{period} per {}", self.requests, self.per)?;
        if self.burst == self.requests { Ok(()) } else { write!(f, ", {} at once", self.burst) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_reads_as_it_is_shown() {
        for text in
            ["100/min per ip", "5/s per header x-api-key", "1/d per cookie sid", "1000000/h per ip", "9/s per user"]
        {
            assert_eq!(text.parse::<Limit>().map(|limit| limit.to_string()), Ok(text.to_owned()));
        }
        let limit: Limit = "7 / minute per  header X-Api-Key".parse().expect("reads");
        assert_eq!(limit.to_string(), "7/min per header x-api-key");
        assert_eq!(limit.burst, 7);
    }

    #[test]
    fn each_way_to_get_a_limit_wrong_has_its_own_reason() {
        assert_eq!("100/min".parse::<Limit>(), Err(LimitError::Form));
        for rate in ["0/min", "1000001/s", "x/s", "-1/s", "5/week", "5"] {
            assert_eq!(format!("{rate} per ip").parse::<Limit>(), Err(LimitError::Rate(rate.to_owned())), "{rate}");
        }
        for key in ["", "address", "user x", "header", "header a b", "cookie a=b"] {
            assert!(matches!(format!("5/s per {key}").parse::<Limit>(), Err(LimitError::Key(_))), "{key}");
        }
    }

    #[test]
    fn every_profile_is_made_of_limits() {
        for (name, texts) in PROFILES {
            assert_eq!(Limit::profile(name).map(|limits| limits.len()), Some(texts.len()), "{name}");
        }
        assert_eq!(Limit::profile("none"), None);
    }
}
