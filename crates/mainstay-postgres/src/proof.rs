//! Proof that a member is dead: nothing is attached to its shared memory and no server process works in its
//! directory. Killing is only the means; without this proof nothing is promoted.
//!
//! A killed postmaster leaves backends that go on acknowledging writes for 10-40 ms (measured), each a process
//! group of its own: that the postmaster is gone proves nothing. Every process that can touch data is attached
//! to the segment which line 7 of `postmaster.pid` names, from before it can touch anything.

use std::io;
use std::path::Path;

use mainstay_supervisor::shared_memory;
use mainstay_types::{Member, Seen, Timestamp};

use crate::config;
use crate::layout::Layout;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No process can write.
    Dead,
    /// Some process may write.
    Alive,
    /// Nobody could look.
    Unknown(String),
}

/// Whether any process may still write to the member's directory. `Fact(false)` is the proof of death.
pub fn is_alive(layout: &Layout, member: Member, now: Timestamp) -> Seen<bool> {
    match check(layout, member) {
        Proof::Dead => Seen::Fact { value: false, observed_at: now },
        Proof::Alive => Seen::Fact { value: true, observed_at: now },
        Proof::Unknown(_) => Seen::Unknown,
    }
}

/// The same, with the reason.
pub fn check(layout: &Layout, member: Member) -> Proof {
    match look(&layout.data(member), &config::cluster_name(member)) {
        Ok(true) => Proof::Alive,
        Ok(false) => Proof::Dead,
        Err(error) => Proof::Unknown(error.to_string()),
    }
}

fn look(data: &Path, cluster_name: &str) -> io::Result<bool> {
    let lock = match std::fs::read_to_string(data.join("postmaster.pid")) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(segment) = lock.as_deref().and_then(segment_of)
        && let Some(count) = attached(segment)?
    {
        return Ok(count > 0);
    }
    // No segment yet (it is starting), none any more, or none that we may see (another IPC namespace): look for
    // the processes themselves. Servers work in their data directory.
    works_in(data, cluster_name)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    key: i64,
    id: i64,
}

/// Line 7: `key id` of the segment.
fn segment_of(lock: &str) -> Option<Segment> {
    let mut words = lock.lines().nth(6)?.split_whitespace();
    let key = words.next()?.parse().ok()?;
    let id = words.next()?.parse().ok()?;
    Some(Segment { key, id })
}

/// Attachments of the segment; `None` when it is not there.
fn attached(segment: Segment) -> io::Result<Option<u64>> {
    let id = i32::try_from(segment.id).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match shared_memory::state(id) {
        // PostgreSQL prints the key unsigned; both are 32 bits.
        Ok(found) => {
            let is_it = |key: i32| i64::from(key) & 0xFFFF_FFFF == segment.key & 0xFFFF_FFFF;
            Ok(found.filter(|found| is_it(found.key)).map(|found| found.attached))
        }
        // Another user's: everybody may read the list.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            attachments(&std::fs::read_to_string("/proc/sysvipc/shm")?, segment)
        }
        Err(error) => Err(error),
    }
}

/// Attachments of the segment in the kernel's table; `None` when it is not there.
fn attachments(table: &str, segment: Segment) -> io::Result<Option<u64>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "/proc/sysvipc/shm has an unknown form");
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().ok_or_else(bad)?.split_whitespace().collect();
    let column = |name: &str| header.iter().position(|title| *title == name).ok_or_else(bad);
    let (key, id, count) = (column("key")?, column("shmid")?, column("nattch")?);
    for line in lines {
        // A machine may have thousands of segments: only what is asked is read.
        let number = |at: usize| line.split_whitespace().nth(at).and_then(|field| field.parse().ok()).ok_or_else(bad);
        // PostgreSQL prints the key unsigned, the kernel signed; both are 32 bits.
        let found: i64 = number(id)?;
        if found == segment.id && number(key)? & 0xFFFF_FFFF == segment.key & 0xFFFF_FFFF {
            return u64::try_from(number(count)?).map(Some).map_err(|_| bad());
        }
    }
    Ok(None)
}

/// Removes the segment that a dead member's server left, before its directory is replaced or its lock file taken away:
/// only PostgreSQL's next start beside that lock file would, and the kernel has room for 4096. Removed is what the lock file names by key, id
/// and maker, which belongs to the member's user and has nobody attached. Answers whether there was one.
///
/// **Errors**: the kernel's. It costs a segment, nothing else.
pub fn remove_segment(layout: &Layout, member: Member) -> io::Result<bool> {
    let lock = match std::fs::read_to_string(layout.data(member).join("postmaster.pid")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        read => read?,
    };
    let uid = layout.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    match left_behind(&table, &lock, uid) {
        Some(segment) => {
            let id = i32::try_from(segment.id).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            shared_memory::remove_unused(id, uid)
        }
        None => Ok(false),
    }
}

/// The segment of a lock file, when the kernel's table says that the same process made it, as this user, and that
/// nobody is attached to it.
fn left_behind(table: &str, lock: &str, uid: u32) -> Option<Segment> {
    let segment = segment_of(lock)?;
    let maker: i64 = lock.lines().next()?.trim().parse().ok()?;
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next()?.split_whitespace().collect();
    lines.find_map(|line| {
        let fields: Vec<i64> = line.split_whitespace().map(|field| field.parse().unwrap_or(-1)).collect();
        let field = |name: &str| fields.get(header.iter().position(|title| *title == name)?).copied();
        let is_it = field("shmid")? == segment.id
            && field("key")? & 0xFFFF_FFFF == segment.key & 0xFFFF_FFFF
            && field("cpid")? == maker
            && field("uid")? == i64::from(uid)
            && field("cuid")? == i64::from(uid)
            && field("nattch")? == 0;
        is_it.then_some(segment)
    })
}

/// Whether a process named `postgres` has `data` as its working directory. Zombies have none.
fn works_in(data: &Path, cluster_name: &str) -> io::Result<bool> {
    let data = match std::fs::canonicalize(data) {
        Ok(path) => path,
        // Deleted under a server that still runs: the kernel shows it so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match data.parent().map(std::fs::canonicalize) {
            Some(Ok(folder)) => {
                let mut name = data.file_name().unwrap_or_default().to_owned();
                name.push(" (deleted)");
                folder.join(name)
            }
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Some(Err(_)) | None => return Ok(false),
        },
        Err(error) => return Err(error),
    };
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?.path();
        let is_process = process.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if !is_process || !is_postgres(&process) {
            continue;
        }
        match std::fs::read_link(process.join("cwd")) {
            Ok(folder) if folder == data => return Ok(true),
            Ok(_) => {}
            // Gone, or a zombie.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_gone(&process) => {}
            // Another user's, and we may not look (root in a container without CAP_SYS_PTRACE may not).
            Err(error) => match by_command_line(&process, &data, cluster_name) {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => return Err(error),
            },
        }
    }
    Ok(false)
}

/// What everybody may read: a postmaster shows its `-D`, its children their cluster's name. `None`: a child of
/// a cluster named as ours, which may be another stack's.
fn by_command_line(process: &Path, data: &Path, cluster_name: &str) -> Option<bool> {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    if words.any(|word| word == data.as_os_str().as_encoded_bytes()) {
        return Some(true);
    }
    let title = format!("postgres: {cluster_name}: ");
    if line.starts_with(title.as_bytes()) { None } else { Some(false) }
}

fn is_postgres(process: &Path) -> bool {
    std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
}

fn is_gone(process: &Path) -> bool {
    std::fs::read_to_string(process.join("stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
  16918544         32   600                    56  1234  5678      7   101   104   101   104 1 1 1 4096 0
-1640531527         33   600                    56  1234  5678      0   101   104   101   104 1 1 1 4096 0
";

    #[test]
    fn the_segment_is_the_seventh_line() {
        let lock = "1234\n/data\n1700000000\n5432\n/run/pg\n\n16918544        32\nready   \n";
        assert_eq!(segment_of(lock), Some(Segment { key: 16_918_544, id: 32 }));
        assert_eq!(segment_of("1234\n/data\n1700000000\n5432\n/run/pg\n\n"), None, "it is starting");
    }

    #[test]
    fn attachments_are_those_of_key_and_id() {
        let count = |key, id| attachments(TABLE, Segment { key, id }).unwrap();
        assert_eq!(count(16_918_544, 32), Some(7));
        assert_eq!(count(16_918_544, 33), None, "the number was taken by another segment");
        assert_eq!(count(2_654_435_769, 33), Some(0), "keys are compared as 32 bits");
        assert!(attachments("no table", Segment { key: 1, id: 1 }).is_err());
    }

    #[test]
    fn only_what_its_own_dead_server_made_is_left_behind() {
        let lock = |pid: u32, segment: &str| format!("{pid}\n/data\n1700000000\n5432\n/run/pg\n\n{segment}\n");
        let ours = Some(Segment { key: 2_654_435_769, id: 33 });
        assert_eq!(left_behind(TABLE, &lock(1234, "2654435769 33"), 101), ours);
        assert_eq!(left_behind(TABLE, &lock(1234, "2654435769 33"), 102), None, "another user's");
        assert_eq!(left_behind(TABLE, &lock(1235, "2654435769 33"), 101), None, "another process made it");
        assert_eq!(left_behind(TABLE, &lock(1234, "2654435768 33"), 101), None, "another key");
        assert_eq!(left_behind(TABLE, &lock(1234, "2654435769 34"), 101), None, "another id");
        assert_eq!(left_behind(TABLE, &lock(1234, "16918544 32"), 101), None, "seven are attached");
        assert_eq!(left_behind(TABLE, "1234\n/data\n", 101), None, "none is named");
    }

    #[test]
    fn a_process_whose_folder_is_hidden_is_known_by_its_command_line() {
        let process = tempfile::tempdir().unwrap();
        let is_ours = |line: &[u8]| {
            std::fs::write(process.path().join("cmdline"), line).unwrap();
            by_command_line(process.path(), Path::new("/s/pg/a/data"), "mainstay-a")
        };
        assert_eq!(is_ours(b"/bin/postgres\0-D\0/s/pg/a/data\0"), Some(true));
        assert_eq!(is_ours(b"/bin/postgres\0-D\0/s/pg/b/data\0"), Some(false));
        assert_eq!(is_ours(b"postgres: mainstay-b: walwriter "), Some(false));
        assert_eq!(is_ours(b"postgres: mainstay-a: walwriter "), None, "it may be another stack's");
    }

    #[test]
    fn a_server_whose_directory_was_deleted_under_it_is_not_dead() {
        let folder = tempfile::tempdir().unwrap();
        let (data, program) = (folder.path().join("data"), folder.path().join("postgres"));
        std::fs::create_dir(&data).unwrap();
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut server = std::process::Command::new(&program).arg("60").current_dir(&data).spawn().unwrap();
        std::fs::remove_dir(&data).unwrap();
        // Whoever starts a program goes on before the kernel has given the process its new name.
        let begun = std::time::Instant::now();
        let mut is_found = look(&data, "mainstay-a").unwrap();
        while !is_found && begun.elapsed() < std::time::Duration::from_secs(20) {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_found = look(&data, "mainstay-a").unwrap();
        }
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(is_found);
        assert!(!look(&data, "mainstay-a").unwrap());
    }

    #[test]
    fn a_lock_file_that_cannot_be_read_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in its place cannot be read as text, whoever reads.
        std::fs::create_dir(folder.path().join("postmaster.pid")).unwrap();
        assert!(look(folder.path(), "mainstay-a").is_err());
    }
}
