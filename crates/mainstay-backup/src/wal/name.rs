//! Names of WAL files.

use std::fmt;

/// A segment's place: timeline and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Timeline.
    pub timeline: u32,
    /// Upper half of its position.
    pub log: u32,
    /// Number within that half.
    pub part: u32,
}

impl Segment {
    /// Where it begins.
    pub fn start(self, size: u64) -> u64 {
        (u64::from(self.log) << 32) + u64::from(self.part) * size
    }

    /// The one that holds a position.
    pub fn of(timeline: u32, position: u64, size: u64) -> Self {
        let part = (position & 0xFFFF_FFFF) / size;
        let log = u32::try_from(position >> 32).unwrap_or(u32::MAX);
        Self { timeline, log, part: u32::try_from(part).unwrap_or(u32::MAX) }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.part)
    }
}

/// A file that PostgreSQL archives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A segment.
    Segment(Segment),
    /// The last, unfinished segment of a timeline that another one left.
    Partial(Segment),
    /// Where timelines branched.
    History(u32),
    /// Note of a backup in a segment: `….00000028.backup`.
    Backup(Segment, u32),
}

impl Name {
    /// Reads a file's name; `None`: not one that is archived. It holds no `/`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(timeline) = text.strip_suffix(".history") {
            return Some(Self::History(number(timeline)?));
        }
        let segment = Segment {
            timeline: number(text.get(..8)?)?,
            log: number(text.get(8..16)?)?,
            part: number(text.get(16..24)?)?,
        };
        match text.get(24..)? {
            "" => Some(Self::Segment(segment)),
            ".partial" => Some(Self::Partial(segment)),
            other => {
                let offset = other.strip_prefix('.')?.strip_suffix(".backup")?;
                Some(Self::Backup(segment, number(offset)?))
            }
        }
    }

    /// The folder in a cluster's: 256 segments each.
    pub(super) fn folder(&self) -> String {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup(segment, _) => {
                format!("{:08X}{:08X}", segment.timeline, segment.log)
            }
            Self::History(_) => "history".to_owned(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "{segment}"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::History(timeline) => write!(f, "{timeline:08X}.history"),
            Self::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// Eight digits, as PostgreSQL writes them: in upper case.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if is_plain { u32::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike_and_nothing_else_is_a_name() {
        for text in [
            "0000000100000002000000FE",
            "0000000100000002000000FE.partial",
            "0000000A.history",
            "000000010000000000000003.00000028.backup",
        ] {
            assert_eq!(Name::parse(text).map(|name| name.to_string()).as_deref(), Some(text));
        }
        for text in ["", "xlogtemp.1", "../../etc/passwd", "0000000100000002000000fe", "000000010000000200000", "é000"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_position_is_in_the_segment_that_begins_before_it() {
        let size = 16 << 20;
        let segment = Segment::of(1, 0x2_FE00_0028, size);
        assert_eq!(segment.to_string(), "0000000100000002000000FE");
        assert_eq!(segment.start(size), 0x2_FE00_0000);
    }
}
