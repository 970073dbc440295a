//! What a base backup is: kept with it in the repository, and enough to restore it.

use mainstay_types::{Lsn, Timestamp};
use serde::{Deserialize, Serialize};

/// Version of [`Label`].
pub const LABEL_VERSION: u32 = 1;

/// What a base backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// [`LABEL_VERSION`].
    pub version: u32,
    /// The stack.
    pub stack: String,
    /// Identity of the cluster, as `initdb` gave it.
    pub system: u64,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// Timeline at its start.
    pub timeline: u32,
    /// Where replay must begin.
    pub start: Lsn,
    /// Where it becomes consistent: nothing earlier can be restored from it.
    pub stop: Lsn,
    /// Member that was copied.
    pub member: String,
    /// Whether that was a standby then.
    pub from_standby: bool,
    /// When it began.
    pub began: Timestamp,
    /// When it became consistent.
    pub ended: Timestamp,
    /// Files.
    pub files: u64,
    /// Bytes of the data directory. **Unit**: bytes.
    pub bytes: u64,
    /// Bytes that the repository grew by. **Unit**: bytes.
    pub stored_bytes: u64,
    /// Pages whose checksum was looked at.
    pub pages: u64,
    /// What it was taken for: "before v42".
    pub name: Option<String>,
    /// It was taken because its time had come; else a person took it.
    #[serde(default)]
    pub is_scheduled: bool,
    /// Position of the source when it was counted for comparison; what was seen then lies beside the proofs.
    #[serde(default)]
    pub point: Option<Lsn>,
}

impl Label {
    /// Up to here a restore of it needs WAL.
    pub fn needs(&self) -> Lsn {
        self.point.map_or(self.stop, |point| point.max(self.stop))
    }
}
