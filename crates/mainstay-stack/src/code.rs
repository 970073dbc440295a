//! The codes of the diagnostics. Each has one page under `docs/errors`, compiled in here.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What rule of the stack file was broken. A code keeps its meaning for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name: `MS0001`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Its page: what it means, an example, how to mend it.
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../../docs/errors/", $text, ".md")),)+
                }
            }
        }
    };
}

codes! {
    /// The text is not TOML.
    Syntax = "MS0001",
    /// A key or table that no stack file has.
    UnknownKey = "MS0002",
    /// A value of another type than the key takes.
    WrongType = "MS0003",
    /// A key without a default is absent.
    MissingKey = "MS0004",
    /// A key of a capability that this release does not have.
    NotSupported = "MS0005",
    /// A key or table is there twice.
    DefinedTwice = "MS0006",
    /// The file is larger than any stack file.
    TooLarge = "MS0007",
    /// A duration, size, share or CPU amount that cannot be read.
    BadUnit = "MS0008",
    /// A text value that its key does not take.
    BadValue = "MS0009",
    /// A name that breaks the rule for names.
    BadName = "MS0010",
    /// A port that no socket can have.
    PortRange = "MS0011",
    /// Two listeners on one port.
    PortTwice = "MS0012",
    /// A command line that cannot be split into words.
    BadCommand = "MS0013",
    /// A folder outside the folder of the stack file.
    PathEscapes = "MS0014",
    /// A number or duration outside its bounds.
    OutOfRange = "MS0015",
    /// Two keys that say the same thing.
    SaidTwice = "MS0016",
    /// A route leads to nothing.
    RouteToNothing = "MS0020",
    /// Two routes with one path.
    RouteTwice = "MS0021",
    /// A route path that is neither exact nor a prefix.
    RoutePath = "MS0022",
    /// No route is written and the default is not obvious.
    RouteUnclear = "MS0023",
    /// A port is used that the service does not have.
    NoSuchPort = "MS0024",
    /// A service and a site share a name.
    NameShared = "MS0025",
    /// A text that is no limit of the edge.
    BadLimit = "MS0026",
    /// The lower bound is above the upper one.
    MinAboveMax = "MS0030",
    /// The upper bound of a scale that measures nothing (warning).
    ScaleFixed = "MS0031",
    /// A service needs one that does not exist.
    NeedsNothing = "MS0032",
    /// Services need each other in a circle.
    NeedsCycle = "MS0033",
    /// A health probe may last longer than the pause between two (warning).
    SlowProbe = "MS0034",
    /// A service uses what the stack does not have.
    UsesNothing = "MS0035",
    /// A text that says no time.
    BadSchedule = "MS0036",
    /// A key of standing instances, or a need of them, in or of a service that runs on a schedule.
    NotForSchedules = "MS0037",
    /// A key of scheduled runs in a service without `every`.
    OnlyForSchedules = "MS0038",
    /// A share of a reservation that the service does not make.
    ScaleUnreserved = "MS0039",
    /// The services may open more connections than the database admits.
    ConnectionBudget = "MS0040",
    /// Writes that wait for a standby that will never come.
    StrictAlone = "MS0041",
    /// A server setting that mainstay sets itself.
    ManagedSetting = "MS0042",
    /// A template names nothing.
    UnknownTemplate = "MS0050",
    /// A `$` that begins no template.
    BadTemplate = "MS0051",
    /// A secret or environment variable whose name no shell accepts, or that is reserved.
    VariableName = "MS0052",
    /// A template names what this service is not given.
    TemplateNotGiven = "MS0053",
    /// The environment asked for is nowhere in the file.
    UnknownEnvironment = "MS0060",
    /// An override of something that the stack does not have.
    OverridesNothing = "MS0061",
    /// The stack runs nothing (warning).
    NothingRuns = "MS0070",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The page of a code, given as people type it (`MS0020`, `ms0020`).
pub fn explain(code: &str) -> Option<&'static str> {
    Code::ALL.iter().find(|known| known.as_str().eq_ignore_ascii_case(code)).map(|known| known.page())
}

/// Every code with its page.
pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    Code::ALL.iter().map(|code| (code.as_str(), code.page()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_with_meaning_example_and_mending() {
        for code in Code::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {code}: ")), "{code} has no title");
            assert!(page.contains("## Example\n"), "{code} has no example");
            assert!(page.contains("## How to mend it\n"), "{code} does not say how to mend it");
        }
    }

    #[test]
    fn codes_are_found_in_either_case_and_nothing_else_is() {
        assert!(explain("ms0020").is_some_and(|page| page.starts_with("# MS0020")));
        assert_eq!(explain("MS9999"), None);
        assert_eq!(explain(""), None);
    }
}
