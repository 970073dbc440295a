//! Finds the distribution's Prometheus and Alertmanager, and says how to install what is missing.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Debian and Ubuntu call it by the first name, everybody else by the second.
const ALERTMANAGER_NAMES: [&str; 2] = ["prometheus-alertmanager", "alertmanager"];
const PROMETHEUS_NAMES: [&str; 1] = ["prometheus"];

/// Looked into after `PATH`: services and `sudo` often have a `PATH` without them.
const USUAL_FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/opt/prometheus"];

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Prometheus.
    pub prometheus: Result<PathBuf, MissingProgram>,
    /// Alertmanager.
    pub alertmanager: Result<PathBuf, MissingProgram>,
}

/// A program that is not on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{program} is not installed")]
pub struct MissingProgram {
    /// What people call it.
    pub program: &'static str,
    /// The command that installs it.
    pub hint: &'static str,
}

/// Looks for both programs in `PATH` and in the usual folders.
pub fn find_programs() -> Programs {
    find_programs_in(std::env::var_os("PATH").as_deref())
}

/// Looks for both programs in the given search path and in the usual folders.
pub fn find_programs_in(path: Option<&OsStr>) -> Programs {
    let mut folders: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    folders.extend(USUAL_FOLDERS.iter().map(PathBuf::from));
    find_in(&folders)
}

fn find_in(folders: &[PathBuf]) -> Programs {
    Programs {
        prometheus: find(folders, &PROMETHEUS_NAMES).ok_or(MissingProgram {
            program: "Prometheus",
            hint: "sudo apt-get install --no-install-recommends prometheus",
        }),
        alertmanager: find(folders, &ALERTMANAGER_NAMES).ok_or(MissingProgram {
            program: "Alertmanager",
            hint: "sudo apt-get install --no-install-recommends prometheus-alertmanager",
        }),
    }
}

fn find(folders: &[PathBuf], names: &[&str]) -> Option<PathBuf> {
    // A relative folder in PATH means another place for every working directory: not for a supervisor.
    for folder in folders.iter().filter(|folder| folder.is_absolute()) {
        for name in names {
            let candidate = folder.join(name);
            if is_executable(&candidate) {
                return Some(candidate);
            }
        }
    }
    None
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, "").expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets mode");
        path
    }

    #[test]
    fn either_name_of_alertmanager_is_found_and_debians_comes_first() {
        let folder = tempfile::tempdir().expect("folder");
        let short = program(folder.path(), "alertmanager", 0o755);
        let folders = [folder.path().to_path_buf()];
        assert_eq!(find_in(&folders).alertmanager, Ok(short));
        let debian = program(folder.path(), "prometheus-alertmanager", 0o755);
        assert_eq!(find_in(&folders).alertmanager, Ok(debian));
    }

    #[test]
    fn what_is_missing_comes_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().expect("folder");
        program(folder.path(), "prometheus", 0o644);
        let missing = find_in(&[folder.path().to_path_buf()]).prometheus.expect_err("not executable");
        assert_eq!(missing.to_string(), "Prometheus is not installed");
        assert!(missing.hint.contains("apt-get install"));
    }
}
