//! Releases: what was deployed, what is live, and the rollout that is under way.

use mainstay_types::{EnvironmentName, Timestamp};
use serde::{Deserialize, Serialize};

/// A release that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number: the `7` of `v7`.
    pub number: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// Who made it: a user of this machine.
    pub by: String,
    /// For which environment.
    pub environment: EnvironmentName,
    /// SHA-256 over paths, modes and contents of its files, and its stack file.
    pub hash: String,
    /// Files in it.
    pub files: u64,
    /// **Unit**: bytes.
    pub bytes: u64,
    /// Where it came from: `folder`, a git reference, an archive.
    pub source: String,
    /// The commit that was checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether files differed from that commit.
    #[serde(default)]
    pub is_dirty: bool,
    /// Names of its migration files, in order.
    #[serde(default)]
    pub migrations: Vec<String>,
    /// Folder of its stack file, below its files.
    pub folder: String,
    /// How it fared.
    pub state: ReleaseState,
    /// Since when.
    pub since: Timestamp,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A drill made it, as a copy of the one that was live: nobody goes back to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_trial: bool,
}

/// How a release fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// It is on its way.
    Rolling,
    /// It is what this stack is.
    Live,
    /// It was, until another took its place.
    Former,
    /// It was taken back.
    Failed,
}

impl std::fmt::Display for ReleaseState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Rolling => "rolling",
            Self::Live => "live",
            Self::Former => "former",
            Self::Failed => "failed",
        })
    }
}

/// All that is known of releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// The one that is live.
    pub live: u64,
    /// Whether that one runs from the stack file's own folder, and is kept nowhere.
    pub is_from_folder: bool,
    /// Those that are kept, newest first.
    pub releases: Vec<Release>,
    /// The one under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// A rollout under way, or the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The new release.
    pub release: u64,
    /// The live one.
    pub from: u64,
    /// Whether a person goes back.
    pub is_rollback: bool,
    /// `rolling`, `blue-green` or `canary`.
    pub strategy: String,
    /// When it began.
    pub began_at: Timestamp,
    /// `migrate`, `before`, `start`, `smoke`, `shift`, `watch`, `drain`, `commit` or `back`.
    pub phase: String,
    /// Since when it is there.
    pub since: Timestamp,
    /// The share of clients that go to the new release. **Unit**: hundredths of a percent. `None`: each instance has its
    /// part.
    pub share: Option<u16>,
    /// What it waits for.
    pub waiting: String,
    /// Why it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A person wants it to stay where it is.
    pub is_paused: bool,
    /// Requests that the new release answered, errors and slow ones among them.
    pub answered: [u64; 3],
    /// The same of the old release meanwhile.
    pub old_answered: [u64; 3],
}

/// Ask for a new release, or for an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployAsked {
    /// Folder in which the release was put together, below that of all releases; `None`: `release` is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<String>,
    /// The release to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Another strategy than that of its stack file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// A rollback over migrations that cannot be taken back.
    #[serde(default)]
    pub is_schema_kept: bool,
    /// A drill rolls out what is live already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// A rollout that a drill asks for: what is live, once more. No migration and no release command runs, its times are
/// short, and nobody goes back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// It takes the place of what is live; else it is taken back at the end of its watch. What runs from the stack file's
    /// own folder cannot be gone back to: it is never replaced by a trial.
    pub is_kept: bool,
}

/// What a person wants of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutWish {
    /// Go on without waiting for time and requests.
    Promote,
    /// Take it back.
    Abort,
    /// Stay here.
    Pause,
    /// Go on after a pause.
    Resume,
}
