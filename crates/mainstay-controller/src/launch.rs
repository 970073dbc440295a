//! What `up` decided, for every control plane of this run: `launch.json` in the state folder.

use std::io;
use std::path::PathBuf;

use mainstay_decide::fleet::Fleet;
use mainstay_supervisor::durable;
use mainstay_types::{EnvironmentName, StackName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// The run of a stack that `up` began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Version of the file.
    pub version: u32,
    /// The stack.
    pub stack: StackName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The stack file, as the user named it.
    pub stack_file: PathBuf,
    /// Folder of the stack file; relative paths in it are relative to this.
    pub folder: PathBuf,
    /// The stack file's own folder, whatever release runs: certificates and folders of backups are relative to this.
    #[serde(default)]
    pub origin: PathBuf,
    /// Folder that services may see even if it lies in somebody's closed home: the checkout, or `folder`.
    pub project: PathBuf,
    /// Counts runs; `before` commands run once for each.
    pub release: u64,
    /// Place of its policies in the order of all: rises with every run and rollout, also with one that goes back.
    #[serde(default)]
    pub generation: u64,
    /// Which slots its instances have, and how many are wanted.
    #[serde(default)]
    pub fleet: Fleet,
    /// When `up` began.
    pub since: Timestamp,
    /// Uses the stack file declares a port for: these ports or none.
    pub declared_ports: Vec<String>,
}

/// Version of the file.
pub const VERSION: u32 = 1;

impl Launch {
    /// Reads `launch.json`.
    ///
    /// **Errors**: not there, unreadable, or of a later version.
    pub fn load(paths: &Paths) -> io::Result<Self> {
        let mut launch: Self = serde_json::from_slice(&std::fs::read(paths.launch_file())?)?;
        if launch.origin.as_os_str().is_empty() {
            // Written before there were releases.
            launch.origin.clone_from(&launch.folder);
        }
        launch.generation = launch.generation.max(launch.release);
        if launch.version > VERSION {
            let text = format!("launch.json has version {}, this mainstay reads up to {VERSION}", launch.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(launch)
    }

    /// Whether a release that was deployed runs, and not what is in the stack file's own folder.
    pub fn is_deployed(&self, paths: &Paths) -> bool {
        self.folder.starts_with(crate::releases::folder(paths))
    }

    /// Writes it durably.
    ///
    /// **Errors**: the file system's.
    pub fn save(&self, paths: &Paths) -> io::Result<()> {
        durable::replace(&paths.launch_file(), &serde_json::to_vec_pretty(self)?, 0o644)
    }
}
