//! Positions in PostgreSQL's write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Position in the write-ahead log of one timeline.
///
/// **Unit**: bytes. **Source**: PostgreSQL manual, `pg_lsn` type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(u64);

/// Text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN: expected two hexadecimal numbers and a slash, as in 0/3000148")]
pub struct ParseLsnError(String);

impl Lsn {
    /// From the byte position.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The byte position.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// How far `self` trails `primary`; `None` when it is ahead (diverged).
    pub fn lag_behind(self, primary: Self) -> Option<Bytes> {
        primary.0.checked_sub(self.0).map(Bytes)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;
    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = ParseLsnError;
    fn try_from(text: String) -> Result<Self, ParseLsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

/// PostgreSQL timeline: each promotion begins a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_postgresqls() {
        let lsn: Lsn = "16/B374D848".parse().expect("valid");
        assert_eq!(lsn.as_u64(), 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16B374D848".parse::<Lsn>().is_err());
        assert!("1/100000000".parse::<Lsn>().is_err());
    }

    #[test]
    fn being_ahead_is_divergence_not_lag() {
        assert_eq!(Lsn::new(5).lag_behind(Lsn::new(7)), Some(Bytes(2)));
        assert_eq!(Lsn::new(7).lag_behind(Lsn::new(5)), None);
    }
}
