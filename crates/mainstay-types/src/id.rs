//! Names and ids. Each is checked once, where it is made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct IdError {
    /// What kind of name it should have been.
    pub kind: &'static str,
    /// What was given.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Names become parts of paths, host names and database names, so they keep to the strictest of these.
const NAME_RULE: &str = "1 to 32 of a-z, 0-9 and -, beginning with a letter, not ending in -";

fn is_name(value: &str) -> bool {
    let bytes = value.as_bytes();
    (1..=32).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// **Errors**: the name breaks the rule for names.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                if is_name(&value) {
                    Ok(Self(value))
                } else {
                    Err(IdError { kind: $kind, value, rule: NAME_RULE })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }
    };
}

name_type!(
    /// Name of a stack: the whole architecture of one application.
    StackName, "stack name"
);
name_type!(
    /// Name of an environment of a stack: `development`, `staging`, `production` or the user's own.
    EnvironmentName, "environment name"
);
name_type!(
    /// Name of a service (an application process kind) of the stack.
    ServiceName, "service name"
);

impl Default for EnvironmentName {
    /// The environment of a stack file that says nothing.
    fn default() -> Self {
        Self("development".to_owned())
    }
}

/// One instance of a service; counted from 1 and reused after the instance is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId {
    /// The service.
    pub service: ServiceName,
    /// The slot, from 1.
    pub slot: u32,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.slot)
    }
}

/// A PostgreSQL member: one data directory of the cluster, `a` to `f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Member(u8);

impl Member {
    /// The first member, which `up` makes the primary of a new cluster.
    pub const A: Self = Self(b'a');
    /// The second member.
    pub const B: Self = Self(b'b');

    /// The n-th member from zero; `None` past `f`: a primary and five standbys is the most.
    pub fn nth(n: usize) -> Option<Self> {
        (n < 6).then(|| Self(b'a' + u8::try_from(n).unwrap_or(0)))
    }

    /// Its letter.
    pub fn letter(self) -> char {
        char::from(self.0)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

impl TryFrom<String> for Member {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        match value.as_bytes() {
            [letter @ b'a'..=b'f'] => Ok(Self(*letter)),
            _ => Err(IdError { kind: "database member", value, rule: "one letter, a to f" }),
        }
    }
}

impl From<Member> for String {
    fn from(member: Member) -> String {
        member.letter().to_string()
    }
}

/// Name of a supervised child process, unique in its stack: `postgres-a`, `backend-2`, `edge`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChildName(String);

impl ChildName {
    /// Checks and takes a child name: 1 to 64 of a-z, 0-9 and `-`.
    ///
    /// **Errors**: another character, or too long.
    pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
        let value = value.into();
        let fits = (1..=64).contains(&value.len())
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(value))
        } else {
            Err(IdError { kind: "child name", value, rule: "1 to 64 of a-z, 0-9 and -" })
        }
    }

    /// The child that serves a database member.
    pub fn postgres(member: Member) -> Self {
        Self(format!("postgres-{member}"))
    }

    /// The child that is one service instance.
    pub fn instance(instance: &InstanceId) -> Self {
        Self(instance.to_string())
    }

    /// The child that is a run of a scheduled service; there is never more than one.
    pub fn run(service: &ServiceName) -> Self {
        Self(format!("{service}-run"))
    }

    /// The child that is a release command.
    pub fn before(service: &ServiceName) -> Self {
        Self(format!("{service}-before"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ChildName {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl From<ChildName> for String {
    fn from(name: ChildName) -> String {
        name.0
    }
}

/// Identity of one started process for all time: 128 random bits, in 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

impl Nonce {
    /// From 16 random bytes of the caller's.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Nonce {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        if value.len() == 32 && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(value))
        } else {
            Err(IdError { kind: "nonce", value, rule: "32 lower-case hexadecimal digits" })
        }
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> String {
        nonce.0
    }
}

/// Counts the configurations of a stack; an executor refuses a step of an older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// A box of the diagram.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BoxId {
    /// The front door.
    Edge,
    /// A static site served by the edge.
    Site {
        /// Its name in the stack file.
        name: String,
    },
    /// One instance of a service.
    Instance {
        /// Which.
        id: InstanceId,
    },
    /// A service as a whole.
    Service {
        /// Which.
        name: ServiceName,
    },
    /// The PostgreSQL router.
    Router,
    /// One PostgreSQL member.
    Postgres {
        /// Which.
        member: Member,
    },
    /// A Redis: `cache` or `store`.
    Cache {
        /// Which.
        name: String,
    },
    /// The real Prometheus.
    Prometheus,
    /// The real Alertmanager.
    Alertmanager,
    /// Base backups and archived WAL.
    Backups,
    /// keep and the control plane.
    Control,
}

impl fmt::Display for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge => f.write_str("edge"),
            Self::Site { name } => write!(f, "site {name}"),
            Self::Instance { id } => write!(f, "{id}"),
            Self::Service { name } => write!(f, "{name}"),
            Self::Router => f.write_str("router"),
            Self::Postgres { member } => write!(f, "postgres-{member}"),
            Self::Cache { name } => f.write_str(name),
            Self::Prometheus => f.write_str("prometheus"),
            Self::Alertmanager => f.write_str("alertmanager"),
            Self::Backups => f.write_str("backups"),
            Self::Control => f.write_str("control"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in ["", "../x", "A", "1a", "a-", "a/b", "a b", "a.b", &"a".repeat(33)] {
            assert!(StackName::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(StackName::new("users-2").is_ok());
    }

    #[test]
    fn members_end_at_five_standbys() {
        assert_eq!(Member::nth(0), Some(Member::A));
        assert_eq!(Member::nth(5).map(Member::letter), Some('f'));
        assert_eq!(Member::nth(6), None);
    }
}
