//! Where a member keeps its data and its socket, and where PostgreSQL's programs are.

use std::io;
use std::path::{Path, PathBuf};

use mainstay_decide::observed::DataDirectory;
use mainstay_supervisor::protocol::User;
use mainstay_types::Member;

/// All members use this port: it only names the socket file, each in a folder of its own.
pub const PORT: u16 = 5432;

/// Oldest major version that is supported: roles and settings used here are those of 15.
pub const OLDEST_MAJOR: u32 = 15;

/// Longest socket folder: `sun_path` holds 107 bytes and a zero, and `/.s.PGSQL.5432` is added.
pub const SOCKET_DIR_MAX: usize = 93;

/// Name of the completion mark. It lies in the data directory, so that it moves with it: a directory is made
/// under another name and renamed into place when it is whole, so the mark is never there too early.
pub const MARK: &str = "mainstay.complete";

/// Superuser of every cluster; the control plane's own role.
pub const SUPERUSER: &str = "mainstay";
/// Role of standbys and clones.
pub const REPLICATION_ROLE: &str = "mainstay_replication";
/// Role and database of the ledger that drills write.
pub const LEDGER: &str = "mainstay_ledger";
/// Role that may look at statistics and nothing else.
pub const MONITOR_ROLE: &str = "mainstay_monitor";

/// The extension that keeps count of statements.
pub const STATISTICS: &str = "pg_stat_statements";

/// Folders and user of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// State folder of the stack; data directories are under `pg/` in it.
    pub state: PathBuf,
    /// Runtime folder of the stack; socket folders are in it.
    pub runtime: PathBuf,
    /// Folder of PostgreSQL's programs.
    pub bin: PathBuf,
    /// User that servers and tools run as; `None`: the one we are (never root, PostgreSQL refuses it).
    pub user: Option<User>,
}

/// PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Their folder.
    pub bin: PathBuf,
    /// Major version.
    pub major: u32,
}

/// No usable PostgreSQL on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL {wanted} is missing ({found}); install it with: {install}")]
pub struct Missing {
    /// Which version would do.
    pub wanted: String,
    /// What was found instead.
    pub found: String,
    /// The command that installs it.
    pub install: String,
}

impl Layout {
    /// Folder of all members and the record.
    pub fn base(&self) -> PathBuf {
        self.state.join("pg")
    }

    /// Everything of one member.
    pub fn member_dir(&self, member: Member) -> PathBuf {
        self.base().join(member.to_string())
    }

    /// Its data directory.
    pub fn data(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("data")
    }

    /// A data directory being made.
    pub fn unfinished(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("data.new")
    }

    /// Folder of its Unix socket.
    pub fn socket_dir(&self, member: Member) -> PathBuf {
        self.runtime.join(format!("pg-{member}"))
    }

    /// Its replication password file.
    pub fn passfile(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("replication.pass")
    }

    /// The durable record of who is primary.
    pub fn record(&self) -> PathBuf {
        self.base().join("record")
    }

    /// A program of PostgreSQL's.
    pub fn program(&self, name: &str) -> String {
        self.bin.join(name).to_string_lossy().into_owned()
    }

    /// Whether the library that keeps count of statements is installed beside the programs: Debian and PGDG have it in
    /// the server's own package or in `contrib`.
    pub fn has_statistics(&self) -> bool {
        let library = self.bin.parent().map(|folder| folder.join("lib").join(format!("{STATISTICS}.so")));
        library.is_some_and(|path| path.is_file())
    }

    /// What lies in the member's place. Looks only.
    pub fn look(&self, member: Member) -> DataDirectory {
        match look_at(&self.data(member)) {
            Ok(DataDirectory::Absent) => match std::fs::symlink_metadata(self.unfinished(member)) {
                Ok(_) => DataDirectory::Unfinished,
                Err(error) if error.kind() == io::ErrorKind::NotFound => DataDirectory::Absent,
                Err(_) => DataDirectory::Unknown,
            },
            Ok(found) => found,
            Err(_) => DataDirectory::Unknown,
        }
    }

    /// Members that have a folder, whether wanted or not.
    ///
    /// **Errors**: the file system's; a folder that is not there holds none.
    pub fn members(&self) -> io::Result<Vec<Member>> {
        let entries = match std::fs::read_dir(self.base()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut members = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            members.extend(Member::try_from(name).ok());
        }
        members.sort_unstable();
        Ok(members)
    }
}

/// Whether a folder holds a data directory of ours that was made to its end.
pub fn is_complete(data: &Path) -> bool {
    matches!(look_at(data), Ok(DataDirectory::Complete))
}

fn look_at(data: &Path) -> io::Result<DataDirectory> {
    let mut entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataDirectory::Absent),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(DataDirectory::Foreign),
        Err(error) => return Err(error),
    };
    if entries.next().transpose()?.is_none() {
        return Ok(DataDirectory::Absent);
    }
    let is_whole = data.join(MARK).try_exists()? && data.join("PG_VERSION").try_exists()?;
    Ok(if is_whole { DataDirectory::Complete } else { DataDirectory::Foreign })
}

/// The major version that made the data of a stack, if there are any.
pub fn data_major(state: &Path) -> Option<u32> {
    let members = std::fs::read_dir(state.join("pg")).ok()?.flatten();
    let made_by = |member: std::fs::DirEntry| {
        let text = std::fs::read_to_string(member.path().join("data/PG_VERSION")).ok()?;
        text.trim().parse().ok()
    };
    members.filter_map(made_by).max()
}

/// Finds PostgreSQL's programs: those of the version that made the data in `state`, as a package of a later one may
/// have come beside it; for new data the highest version. The distributions' folders, then `PATH`.
///
/// **Errors**: none is there, only older ones, or not the one that made the data.
pub fn find_programs(state: Option<&Path>) -> Result<Programs, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = versioned_folders(Path::new("/usr/lib/postgresql"), "");
    folders.extend(versioned_folders(Path::new("/usr"), "pgsql-"));
    folders.extend(std::env::split_paths(&path));
    let is_whole = |bin: &Path| ["postgres", "initdb", "pg_basebackup"].iter().all(|name| bin.join(name).is_file());
    let found: Vec<Programs> = folders
        .into_iter()
        .filter(|bin| is_whole(bin))
        .filter_map(|bin| major_version(&bin).map(|major| Programs { bin, major }))
        .collect();
    choose(found, state.and_then(data_major))
}

fn choose(found: Vec<Programs>, made_by: Option<u32>) -> Result<Programs, Missing> {
    let highest = found.iter().map(|programs| programs.major).max();
    let found_text = highest.map_or_else(|| "none was found".to_owned(), |major| format!("version {major} was found"));
    let is_usable = |major: u32| made_by.map_or(major >= OLDEST_MAJOR, |made_by| major == made_by);
    let mut usable: Vec<Programs> = found.into_iter().filter(|programs| is_usable(programs.major)).collect();
    // The first of the highest: a stable sort keeps the distributions' folders before PATH.
    usable.sort_by_key(|programs| std::cmp::Reverse(programs.major));
    usable.into_iter().next().ok_or_else(|| Missing {
        wanted: made_by
            .map_or_else(|| format!("{OLDEST_MAJOR} or newer"), |major| format!("{major}, which made the data,")),
        found: found_text,
        install: install_command(made_by),
    })
}

fn versioned_folders(base: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok())
        })
        .map(|entry| entry.path().join("bin"))
        .collect()
}

fn major_version(bin: &Path) -> Option<u32> {
    let output = std::process::Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn install_command(major: Option<u32>) -> String {
    if Path::new("/etc/debian_version").exists() {
        let version = major.map_or_else(String::new, |major| format!("-{major}"));
        format!("sudo apt-get install --no-install-recommends postgresql{version}")
    } else if Path::new("/etc/redhat-release").exists() {
        "sudo dnf install postgresql-server postgresql-contrib".to_owned()
    } else {
        "your distribution's package postgresql (server and client programs)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(state: &Path) -> Layout {
        Layout { state: state.to_owned(), runtime: state.join("run"), bin: PathBuf::from("/nowhere"), user: None }
    }

    #[test]
    fn data_of_an_older_version_are_run_by_it_and_new_ones_by_the_highest() {
        let of = |major| Programs { bin: PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")), major };
        let majors = |made_by| choose(vec![of(14), of(15), of(17)], made_by).map(|programs| programs.major);
        assert_eq!(majors(None), Ok(17));
        assert_eq!(majors(Some(15)), Ok(15));
        let missing = majors(Some(16)).unwrap_err();
        assert!(missing.to_string().contains("PostgreSQL 16, which made the data, is missing (version 17 was found)"));
        assert!(choose(vec![of(14)], None).is_err());
        let state = tempfile::tempdir().unwrap();
        assert_eq!(data_major(state.path()), None);
        std::fs::create_dir_all(state.path().join("pg/a/data")).unwrap();
        std::fs::write(state.path().join("pg/a/data/PG_VERSION"), "15\n").unwrap();
        assert_eq!(data_major(state.path()), Some(15));
    }

    #[test]
    fn a_directory_without_our_mark_is_foreign_and_never_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        assert_eq!(layout.look(Member::A), DataDirectory::Absent);
        std::fs::create_dir_all(layout.unfinished(Member::A)).unwrap();
        assert_eq!(layout.look(Member::A), DataDirectory::Unfinished);
        let data = layout.data(Member::A);
        std::fs::create_dir_all(&data).unwrap();
        assert_eq!(layout.look(Member::A), DataDirectory::Unfinished, "an empty folder holds nothing to lose");
        std::fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(layout.look(Member::A), DataDirectory::Foreign);
        std::fs::write(data.join(MARK), "{}").unwrap();
        assert_eq!(layout.look(Member::A), DataDirectory::Complete);
        assert_eq!(layout.members().unwrap(), vec![Member::A]);
    }
}
