//! A server that shows the past: a restored copy that replays WAL to a moment, stops there and answers reads.
//!
//! It is no member of the cluster: a folder, a socket and a port of its own, nothing archived, nobody followed. It
//! never comes out of recovery by itself; [`free_locks`] lets it out where nothing could be read otherwise, and then
//! only the default of its sessions keeps anybody from writing into the copy.

use std::io;
use std::path::{Path, PathBuf};

use mainstay_decide::past::Moment;
use mainstay_supervisor::protocol::{Limits, SpawnSpec};
use mainstay_types::{ChildName, ChildRole, Lsn, Member, Nonce, Secret, Timestamp};
use tokio_postgres::SimpleQueryMessage;

use crate::access::{Access, AccessError, Role, Use};
use crate::config;
use crate::files::{self, FileError};
use crate::layout::{Layout, SUPERUSER};
use crate::proof::{self, Proof};
use crate::task;

/// Its place in a layout of its own.
pub const MEMBER: Member = Member::A;

/// A restored copy.
#[derive(Clone, Debug)]
pub struct Past<'a> {
    /// A layout of its own; its data directory holds the restored files.
    pub layout: &'a Layout,
    /// Loopback port, and number of its socket.
    pub port: u16,
    /// Program and arguments that bring a file of WAL; its name and where it is wanted are added.
    pub restore: &'a [String],
    /// Where it stops.
    pub moment: &'a Moment,
    /// The timeline that it follows. `None`: it replays what is there of its own and comes out of recovery by itself, on
    /// a new one.
    pub timeline: Option<&'a str>,
    /// Its log.
    pub log: &'a Path,
}

/// Folders before anything is restored into them.
///
/// **Errors**: the file system's.
pub fn make_folders(layout: &Layout) -> Result<(), FileError> {
    for folder in [&layout.state, &layout.runtime, &layout.base()] {
        files::own_folder(folder, 0o711, None)?;
    }
    files::own_folder(&layout.member_dir(MEMBER), 0o700, layout.user.as_ref())?;
    // Whoever passes this folder is let in without a password: the server's user and root, who have the files anyway.
    files::own_folder(&layout.socket_dir(MEMBER), 0o700, layout.user.as_ref())
}

/// Writes the key that opens archived WAL, for the server's user alone.
///
/// **Errors**: the file system's.
pub fn write_key(layout: &Layout, key: &Secret) -> Result<PathBuf, FileError> {
    let path = layout.member_dir(MEMBER).join("wal-key");
    files::write_owned(&path, key.expose(), 0o600, layout.user.as_ref())?;
    Ok(path)
}

/// Makes the restored files ready for this start and says what to run.
///
/// **Errors**: the file system's.
pub fn prepare(past: &Past<'_>, nonce: Nonce) -> Result<SpawnSpec, FileError> {
    let Past { layout, .. } = *past;
    let data = layout.data(MEMBER);
    let user = layout.user.as_ref();
    files::give_tree(&data, user)?;
    files::own_folder(&data, 0o700, user)?;
    config::forget_primary(&data, user)?;
    // The settings of the copied server hold (a standby with fewer connections than its primary had does not start),
    // and ours come last.
    let path = data.join(config::OURS);
    let settings = std::fs::read_to_string(&path).unwrap_or_default();
    files::write_owned(&path, &(settings + &config::past_text(past)), 0o600, user)?;
    let hba = "# Written by mainstay: a look at the past.\n\
        local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    files::write_owned(&data.join("pg_hba.conf"), hba, 0o600, user)?;
    // A standby waits for more at the end of the archive; with a moment to stop at, not reaching it is an error.
    let waits = *past.moment == Moment::Latest && past.timeline.is_some();
    let signal = if waits { "standby.signal" } else { "recovery.signal" };
    files::write_owned(&data.join(signal), "", 0o600, user)?;
    files::sync_file_system(&data)?;
    Ok(SpawnSpec {
        name: ChildName::postgres(MEMBER),
        role: ChildRole::Postgres,
        nonce,
        argv: vec![layout.program("postgres"), "-D".to_owned(), data.to_string_lossy().into_owned()],
        env: task::environment(),
        dir: layout.member_dir(MEMBER),
        user: layout.user.clone(),
        log: past.log.to_owned(),
        listeners: Vec::new(),
        limits: Limits::default(),
        restart: false,
        project: None,
        shown: Vec::new(),
    })
}

/// The way in, as superuser.
pub fn access(layout: &Layout, port: u16, superuser: &Secret) -> Access {
    Access::on_port(layout, MEMBER, port, Role { name: SUPERUSER, database: "postgres", password: superuser })
}

/// As this role in this database, to write into a copy that was let out of recovery: it asks nobody for a password.
pub fn writing(layout: &Layout, port: u16, (name, database): (&str, &str)) -> Access {
    let password = Secret::new("");
    Access::on_port(layout, MEMBER, port, Role { name, database, password: &password }).that_writes()
}

/// Where replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// It stopped at its moment.
    pub is_paused: bool,
    /// It is still no primary.
    pub is_in_recovery: bool,
    /// What was replayed.
    pub lsn: Option<Lsn>,
    /// When the last replayed transaction committed.
    pub last_commit: Option<Timestamp>,
}

const REPLAY: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END, pg_last_wal_replay_lsn(), \
    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint";

/// Looks how far it is.
///
/// **Errors**: as [`AccessError`]; before it is consistent it takes no connections.
pub async fn replay(access: &Access) -> Result<Replay, AccessError> {
    let client = access.client(Use::Look).await?;
    let messages = client.simple_query(REPLAY).await.map_err(|error| access.explain(error))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |column: usize| row.and_then(|row| row.get(column));
    Ok(Replay {
        is_in_recovery: text(0) == Some("t"),
        is_paused: text(1) == Some("paused"),
        lsn: text(2).and_then(|text| text.parse().ok()),
        last_commit: text(3).and_then(|text| text.parse().ok()).map(Timestamp::from_micros),
    })
}

const LOCKS: &str = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid \
    WHERE a.backend_type = 'startup' AND l.mode = 'AccessExclusiveLock' AND l.granted";

/// Replay that stands just before the commit of a `DROP TABLE` holds the table's lock for that transaction: the very
/// table that is looked for could not be read. Then the server is let out of recovery, which ends the transaction as
/// if it had never committed; sessions read only by their default. True: that was done.
///
/// **Errors**: as [`AccessError`].
pub async fn free_locks(access: &Access) -> Result<bool, AccessError> {
    let client = access.client(Use::Look).await?;
    let held = client.simple_query(LOCKS).await.map_err(|error| access.explain(error))?;
    let is_held = held.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) != Some("0")));
    if !is_held {
        return Ok(false);
    }
    leave_recovery(access).await?;
    Ok(true)
}

/// Asks it to end recovery. Of a paused server resuming is the promotion; one that waits for more WAL takes it by name.
///
/// **Errors**: as [`AccessError`].
pub async fn leave_recovery(access: &Access) -> Result<(), AccessError> {
    let client = access.client(Use::Look).await?;
    let query = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN '' WHEN pg_is_wal_replay_paused() THEN \
        pg_wal_replay_resume()::text ELSE pg_promote(false)::text END";
    client.simple_query(query).await.map_err(|error| access.explain(error)).map(drop)
}

/// Ends a server that an earlier look left behind, at once: it has nothing to lose. True: nothing runs there.
///
/// **Errors**: its process cannot be killed.
pub fn end_left_over(layout: &Layout) -> io::Result<bool> {
    if proof::check(layout, MEMBER) == Proof::Dead {
        return Ok(true);
    }
    let text = match std::fs::read_to_string(layout.data(MEMBER).join("postmaster.pid")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
    // The number may be another process's by now; a server works in its data directory.
    let is_it = |pid: &rustix::process::Pid| {
        let works_in = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        works_in.is_ok_and(|folder| std::fs::canonicalize(layout.data(MEMBER)).is_ok_and(|data| data == folder))
    };
    if let Some(pid) = pid.filter(is_it) {
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT)?;
    }
    Ok(false)
}

/// The end of what a server wrote.
pub fn last_words(log: &Path) -> String {
    files::last_lines(log, 0)
}
