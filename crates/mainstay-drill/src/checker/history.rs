//! The history: JSON lines, one head and then one operation a line, so that anybody can read and check it again.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the format; raised when a field changes its meaning.
pub const VERSION: u32 = 1;

/// How an operation ended, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Acknowledged.
    Ok,
    /// Certainly not done.
    Failed,
    /// Perhaps done: the connection broke, or the server said that the outcome is unknown.
    Ambiguous,
}

/// What is added to a set, and by whom. Nobody adds the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Element(pub u32, pub u64);

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// What was done. A read that has no answer has none in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Adds an element.
    Append(Element),
    /// Reads all elements, each as often as it is there.
    ReadAll(Vec<Element>),
    /// Adds one to a key's counter and learns its new value.
    Increment {
        /// Which counter.
        key: u32,
        /// The new value; known when acknowledged.
        value: Option<u64>,
    },
    /// Reads a key's counter.
    Read {
        /// Which counter.
        key: u32,
        /// What it was; known when acknowledged.
        value: Option<u64>,
    },
    /// Moves money.
    Transfer {
        /// Loses it.
        from: u32,
        /// Gets it.
        to: u32,
        /// How much.
        amount: i64,
    },
    /// Reads the balances of all accounts at one moment.
    Balances(BTreeMap<u32, i64>),
    /// Asks the application something through the edge. No checker looks at it; who draws what clients saw does.
    Request,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who did it. A process does one thing after the other.
    pub process: u32,
    /// When it began. **Unit**: microseconds since the history began, on one monotonic clock.
    pub start_us: u64,
    /// When its client knew the outcome or gave up. **Unit**: as `start_us`.
    pub end_us: u64,
    /// What.
    pub op: Op,
    /// How it ended.
    pub outcome: Outcome,
}

/// First line of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub history: u32,
    /// What it is the history of: `database-crash round 3`.
    pub of: String,
    /// When the fault came. **Unit**: microseconds since the history began.
    pub injected_us: Option<u64>,
    /// Lines that follow.
    pub operations: u64,
}

/// Why a text is no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line is not what it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// It ends before its head says so.
    #[error("it ends after {found} of {wanted} operations")]
    Short {
        /// Operations found.
        found: u64,
        /// Operations that the head announces.
        wanted: u64,
    },
    /// Clocks or processes contradict themselves.
    #[error("operation {operation}: {what}")]
    Disordered {
        /// Which, from 0.
        operation: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// What clients did and saw, in the order in which they learnt the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    header: Header,
    operations: Vec<Operation>,
}

impl History {
    /// From operations in any order.
    ///
    /// **Errors**: an operation ends before it begins, or a process does two things at once.
    pub fn new(
        of: impl Into<String>,
        injected_us: Option<u64>,
        mut operations: Vec<Operation>,
    ) -> Result<Self, HistoryError> {
        operations.sort_by_key(|operation| (operation.end_us, operation.start_us));
        let mut free: BTreeMap<u32, u64> = BTreeMap::new();
        for (index, operation) in operations.iter().enumerate() {
            if operation.end_us < operation.start_us {
                return Err(HistoryError::Disordered { operation: index, what: "it ends before it begins" });
            }
            let before = free.insert(operation.process, operation.end_us);
            if before.is_some_and(|end| operation.start_us < end) {
                return Err(HistoryError::Disordered { operation: index, what: "its process did two things at once" });
            }
        }
        let header = Header { history: VERSION, of: of.into(), injected_us, operations: operations.len() as u64 };
        Ok(Self { header, operations })
    }

    /// Its head.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its operations, by the time of their end.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The same, but that nobody knows whether these acknowledged operations were done.
    pub(crate) fn doubting(&self, is_doubted: impl Fn(&Operation) -> bool) -> Self {
        let mut doubting = self.clone();
        for operation in doubting.operations.iter_mut().filter(|one| one.outcome == Outcome::Ok) {
            if is_doubted(operation) {
                operation.outcome = Outcome::Ambiguous;
            }
        }
        doubting
    }

    /// True when `a` was over before `b` began. At the same microsecond two processes count as concurrent.
    pub(crate) fn precedes(&self, a: usize, b: usize) -> bool {
        let (Some(one), Some(other)) = (self.operations.get(a), self.operations.get(b)) else { return false };
        one.end_us < other.start_us || (one.process == other.process && a < b)
    }

    /// As JSON lines.
    pub fn to_lines(&self) -> String {
        let mut text = serde_json::to_string(&self.header).unwrap_or_default();
        text.push('\n');
        for operation in &self.operations {
            text.push_str(&serde_json::to_string(operation).unwrap_or_default());
            text.push('\n');
        }
        text
    }

    /// One or more histories from JSON lines.
    ///
    /// **Errors**: a line that is none, another version, too few lines, operations that contradict themselves.
    pub fn parse(text: &str) -> Result<Vec<Self>, HistoryError> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next() {
            let wrong = |what: String| HistoryError::Line { line: number + 1, what };
            let header: Header = serde_json::from_str(line).map_err(|error| wrong(format!("no head: {error}")))?;
            if header.history != VERSION {
                return Err(wrong(format!("a history of version {}, this reads {VERSION}", header.history)));
            }
            let mut operations = Vec::new();
            while (operations.len() as u64) < header.operations {
                let Some((number, line)) = lines.next() else {
                    return Err(HistoryError::Short { found: operations.len() as u64, wanted: header.operations });
                };
                operations.push(
                    serde_json::from_str(line)
                        .map_err(|error| HistoryError::Line { line: number + 1, what: error.to_string() })?,
                );
            }
            all.push(Self::new(header.of, header.injected_us, operations)?);
        }
        Ok(all)
    }
}
