//! Where a stack keeps its state and its sockets.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_types::{EnvironmentName, StackName};
use sha2::{Digest, Sha256};

/// Folders of one stack in one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Durable state: databases, `state.db`, logs.
    pub state: PathBuf,
    /// Sockets. Short, because a socket's path has at most 108 bytes.
    pub runtime: PathBuf,
}

/// Why folders could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else's folder.
    #[error("{path} belongs to user {owner}, mainstay runs as user {me}")]
    WrongOwner {
        /// Which folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// Neither root nor a home: nowhere to keep state.
    #[error("no place for state: neither XDG_STATE_HOME nor HOME is set (use --state DIR)")]
    NoHome,
}

/// What was not there before, in the order in which it was made.
#[derive(Debug, Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Makes a folder and those above it; only those that were not there are taken back.
    fn folder(&mut self, folder: &Path) -> Result<(), Error> {
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| path.symlink_metadata().is_err()).collect();
        self.0.extend(missing.iter().rev().map(|path| (*path).to_owned()));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
        made.map_err(|source| Error::Io { action: "make the folder", path: folder.to_owned(), source })
    }

    /// Takes note of a file that is about to be written.
    pub fn file(&mut self, file: &Path) {
        if file.symlink_metadata().is_err() {
            self.0.push(file.to_owned());
        }
    }

    /// Removes what was made, the last first. A folder that somebody else has put something into stays.
    pub fn take_back(self) {
        for path in self.0.iter().rev() {
            // What is gone or not empty is no longer ours to remove.
            if path.is_dir() {
                std::fs::remove_dir(path).ok();
            } else {
                std::fs::remove_file(path).ok();
            }
        }
    }
}

/// In the state folder: where its sockets are.
const RUNTIME: &str = "runtime";

/// The folder for sockets that an earlier `up` of ours wrote down, when it is still there. `short` is of this state:
/// in a copy of a state folder the note speaks of another stack.
fn written_down(state: &Path, short: &str) -> Option<PathBuf> {
    let note = std::fs::read_to_string(state.join(RUNTIME)).ok()?;
    let runtime = PathBuf::from(note);
    let is_ours = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == me());
    let is_meant = runtime.is_absolute() && runtime.file_name().is_some_and(|name| name == short);
    (is_meant && is_ours(state) && is_ours(&runtime)).then_some(runtime)
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The folder under which all stacks keep their state.
///
/// **Errors**: not root, and no home is set.
pub fn default_state_base() -> Result<PathBuf, Error> {
    if me() == 0 {
        return Ok(PathBuf::from("/var/lib/mainstay"));
    }
    let non_empty = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    non_empty("XDG_STATE_HOME")
        .or_else(|| non_empty("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("mainstay"))
        .ok_or(Error::NoHome)
}

impl Paths {
    /// The folders of a stack under `base` (see [`default_state_base`]).
    ///
    /// **Errors**: `base` is relative and the current folder cannot be read.
    pub fn new(base: &Path, stack: &StackName, environment: &EnvironmentName) -> Result<Self, Error> {
        let base = std::path::absolute(base).map_err(|source| Error::Io {
            action: "make an absolute path of",
            path: base.to_owned(),
            source,
        })?;
        let state = base.join(stack.as_str()).join(environment.as_str());
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        // What an `up` wrote down holds: another session of the same user may have another folder for sockets, or none.
        if let Some(runtime) = written_down(&state, &short) {
            return Ok(Self { state, runtime });
        }
        let runtime_base = if me() == 0 {
            PathBuf::from("/run/mainstay")
        } else {
            std::env::var_os("XDG_RUNTIME_DIR")
                .filter(|value| !value.is_empty() && Path::new(value).is_dir())
                .map_or_else(
                    || PathBuf::from(format!("/tmp/mainstay-{}", me())),
                    |dir| PathBuf::from(dir).join("mainstay"),
                )
        };
        Ok(Self { state, runtime: runtime_base.join(short) })
    }

    /// Makes both folders, checks their owner and that one can write. What it made is told, so that a start that is
    /// refused can take it back; when it fails itself, it has done so already.
    ///
    /// Mode 0711: children that dropped root pass through to their own folders, and list nothing.
    ///
    /// **Errors**: the file system's, or a folder of somebody else's.
    pub fn create(&self) -> Result<Made, Error> {
        let mut made = Made::default();
        match self.create_all(&mut made) {
            Ok(()) => Ok(made),
            Err(error) => {
                made.take_back();
                Err(error)
            }
        }
    }

    fn create_all(&self, made: &mut Made) -> Result<(), Error> {
        for folder in [&self.state, &self.runtime] {
            made.folder(folder)?;
            let metadata = std::fs::metadata(folder).map_err(|source| Error::Io {
                action: "look at",
                path: folder.clone(),
                source,
            })?;
            if metadata.uid() != me() {
                return Err(Error::WrongOwner { path: folder.clone(), owner: metadata.uid(), me: me() });
            }
            let probe = folder.join(".probe");
            std::fs::write(&probe, b"mainstay").and_then(|()| std::fs::remove_file(&probe)).map_err(|source| {
                // Half a file on a full disk.
                std::fs::remove_file(&probe).ok();
                Error::Io { action: "write to", path: folder.clone(), source }
            })?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).map_err(|source| Error::Io {
                action: "set the mode of",
                path: folder.clone(),
                source,
            })?;
        }
        let note = self.state.join(RUNTIME);
        made.file(&note);
        std::fs::write(&note, self.runtime.as_os_str().as_encoded_bytes()).map_err(|source| Error::Io {
            action: "write",
            path: note,
            source,
        })?;
        ["logs", "bin"].iter().try_for_each(|name| made.folder(&self.state.join(name)))
    }

    /// Says whose the state is, when it is there and somebody else's: no socket of that stack is for us.
    ///
    /// **Errors**: the state has another owner, or cannot be looked at.
    pub fn refuse_foreign(&self) -> Result<(), Error> {
        match std::fs::metadata(&self.state) {
            Ok(metadata) if metadata.uid() != me() => {
                Err(Error::WrongOwner { path: self.state.clone(), owner: metadata.uid(), me: me() })
            }
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::Io { action: "look at", path: self.state.clone(), source })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The admin API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.runtime.join("api.sock")
    }

    /// Log of a child.
    pub fn log(&self, child: &str) -> PathBuf {
        self.state.join("logs").join(format!("{child}.log"))
    }

    /// What the edge answered, a line of JSON for each request.
    pub fn access_log(&self) -> PathBuf {
        self.state.join("edge").join("access.log")
    }

    /// The stack file as it was at `up`.
    pub fn stack_file(&self) -> PathBuf {
        self.state.join("stack.toml")
    }

    /// Where it came from and with which options.
    pub fn launch_file(&self) -> PathBuf {
        self.state.join("launch.json")
    }

    /// The history of drills.
    pub fn drill_history(&self) -> PathBuf {
        self.state.join("drills/history.jsonl")
    }

    /// Our own program, copied so that children that dropped root can run it and a rebuild cannot change it.
    pub fn program(&self) -> PathBuf {
        self.state.join("bin/mainstay")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_paths_are_short_however_deep_the_state_is() {
        let deep = PathBuf::from(format!("/{}", "x/".repeat(80)));
        let stack = StackName::new("users").expect("valid");
        let paths = Paths::new(&deep, &stack, &EnvironmentName::default()).expect("absolute");
        assert!(paths.runtime.join("pg-a/.s.PGSQL.5432.lock").as_os_str().len() < 104);
    }

    #[test]
    fn sockets_are_where_up_put_them_whatever_the_session_says() {
        let base = tempfile::tempdir().expect("a folder");
        let stack = StackName::new("users").expect("valid");
        let paths = || Paths::new(base.path(), &stack, &EnvironmentName::default()).expect("absolute");
        let computed = paths();
        let short = computed.runtime.file_name().expect("a name").to_owned();
        // As another session of ours made it: not where this one would look.
        let elsewhere = Paths { runtime: base.path().join("session").join(&short), ..computed.clone() };
        elsewhere.create().expect("made");
        assert_eq!(paths(), elsewhere);
        // Of a copy, of somebody else's or of a session that is over nothing is taken.
        let note = base.path().join("users/development/runtime");
        let other = base.path().join("session/0123456789");
        std::fs::create_dir(&other).expect("made");
        std::fs::write(&note, other.display().to_string()).expect("written");
        assert_eq!(paths(), computed);
        std::fs::write(&note, elsewhere.runtime.display().to_string()).expect("written");
        assert_eq!(paths(), elsewhere);
        std::fs::remove_dir_all(base.path().join("session")).expect("removed");
        assert_eq!(paths(), computed);
    }

    #[test]
    fn what_was_made_is_taken_back_and_nothing_else() {
        let base = tempfile::tempdir().expect("a folder");
        let stack = StackName::new("users").expect("valid");
        let state = base.path().join("users/development");
        let paths = Paths { runtime: base.path().join("run/0123456789"), state: state.clone() };
        let below = |folder: &Path| std::fs::read_dir(folder).expect("lists").count();
        paths.create().expect("made").take_back();
        assert_eq!(below(base.path()), 0, "a first start that was refused left something");
        std::fs::create_dir_all(state.join("logs")).expect("made");
        std::fs::write(state.join("kept"), b"mine").expect("written");
        let made = paths.create().expect("made");
        std::fs::write(state.join("bin/another"), b"of somebody else").expect("written");
        made.take_back();
        assert!(state.join("logs").is_dir() && state.join("kept").is_file() && state.join("bin/another").is_file());
        assert!(!state.join(RUNTIME).exists() && !base.path().join("run").exists());
        // One that fails in the middle has taken back what it made.
        let blocked =
            Paths { runtime: base.path().join("users/development/kept/run"), state: base.path().join("new/one") };
        blocked.create().expect_err("a file is in the way");
        assert!(!base.path().join("new").exists());
        assert_eq!(Paths::new(base.path(), &stack, &EnvironmentName::default()).expect("absolute").state, state);
    }

    #[test]
    fn environments_do_not_share_state() {
        let stack = StackName::new("users").expect("valid");
        let one = Paths::new(Path::new("/s"), &stack, &EnvironmentName::new("staging").expect("valid")).expect("ok");
        let two = Paths::new(Path::new("/s"), &stack, &EnvironmentName::new("production").expect("valid")).expect("ok");
        assert_ne!(one.state, two.state);
        assert_ne!(one.runtime, two.runtime);
    }
}
