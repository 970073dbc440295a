//! Files that a server reads: `mainstay.conf`, `pg_hba.conf`, `postgresql.auto.conf`, the password file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use mainstay_decide::past::Moment;
use mainstay_stack::model::Database;
use mainstay_supervisor::protocol::User;
use mainstay_types::{Member, Secret};

use crate::files::{self, At, FileError};
use crate::layout::{LEDGER, Layout, MONITOR_ROLE, PORT, REPLICATION_ROLE, STATISTICS, SUPERUSER};
use crate::past::{self, Past};

/// Our settings file in the data directory.
pub const OURS: &str = "mainstay.conf";

const INCLUDE: &str = "include = 'mainstay.conf'";

/// Settings that hold the cluster together: the stack file must not set them.
pub const RESERVED: &[&str] = &[
    "archive_command",
    "archive_mode",
    "archive_timeout",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "listen_addresses",
    "logging_collector",
    "max_connections",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_target_timeline",
    "restore_command",
    "synchronous_commit",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_level",
];

/// A setting of the stack file that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// It is ours.
    #[error("database setting {0} is mainstay's own and cannot be set in the stack file")]
    Reserved(String),
    /// It is no setting's name.
    #[error("database setting {0:?} is not a name PostgreSQL knows: a-z, 0-9, _ and . only")]
    Name(String),
    /// Its value holds a line end.
    #[error("value of database setting {0} holds a line end")]
    Value(String),
}

/// How finished WAL is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Program and arguments; the file's path is added. PostgreSQL hands them to a shell.
    pub argv: Vec<String>,
    /// A segment is finished at the latest after this time, if anything was written.
    pub timeout: std::time::Duration,
}

impl Archive {
    /// Text of `archive_command`.
    fn command(&self) -> String {
        format!("{} %p", shell(&self.argv))
    }
}

/// Words for the shell in one of PostgreSQL's commands, where `%` begins a placeholder.
fn shell(words: &[String]) -> String {
    let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// What a server that shows the past has different from the one it is a copy of.
pub(crate) fn past_text(past: &Past<'_>) -> String {
    let mut text = String::from("# A look at the past.\n");
    let socket = format!("\"{}\"", past.layout.socket_dir(past::MEMBER).display());
    let target = match past.moment {
        Moment::Latest => None,
        // PostgreSQL reads it in its own time zone otherwise.
        Moment::Time(at) => Some(("recovery_target_time", at.to_string().replace('Z', "+00"))),
        Moment::Lsn(lsn) | Moment::Before(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        Moment::Transaction(xid) => Some(("recovery_target_xid", xid.to_string())),
        Moment::Name(name) => Some(("recovery_target_name", name.clone())),
    };
    let ours = [
        ("archive_mode", "off".to_owned()),
        ("archive_command", String::new()),
        ("cluster_name", "mainstay-past".to_owned()),
        ("default_transaction_read_only", "on".to_owned()),
        ("hot_standby", "on".to_owned()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", past.port.to_string()),
        ("unix_socket_directories", socket),
        ("primary_conninfo", String::new()),
        ("restore_command", format!("{} %f %p", shell(past.restore))),
        ("recovery_target_action", "pause".to_owned()),
        // Of a position it is the record that begins there.
        ("recovery_target_inclusive", if matches!(past.moment, Moment::Before(_)) { "off" } else { "on" }.to_owned()),
        ("recovery_target_timeline", past.timeline.unwrap_or("current").to_owned()),
        ("shared_buffers", "32MB".to_owned()),
        ("ssl", "off".to_owned()),
    ];
    for (name, value) in
        ours.iter().map(|(name, value)| (*name, value)).chain(target.as_ref().map(|(name, value)| (*name, value)))
    {
        line(&mut text, name, value);
    }
    text
}

/// What goes into the settings file.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// How finished WAL is archived; `None`: it is not.
    pub archive: Option<&'a Archive>,
    /// Most connections. Must be the same on all members: a standby with fewer refuses to start.
    pub max_connections: u32,
    /// Its library is installed: count is kept of statements.
    pub has_statistics: bool,
    /// The stack file's own, in force last.
    pub settings: &'a BTreeMap<String, String>,
}

/// Text of `mainstay.conf`.
///
/// **Errors**: a setting of the stack file is reserved or malformed.
pub fn settings_text(
    layout: &Layout,
    member: Member,
    follow: Option<Member>,
    settings: &Settings<'_>,
) -> Result<String, SettingError> {
    let mut text =
        String::from("# Written by mainstay at every start: changes are lost. Use [database] in mainstay.toml.\n");
    let socket = format!("\"{}\"", layout.socket_dir(member).display());
    let connections = settings.max_connections.to_string();
    let cluster = cluster_name(member);
    let conninfo = follow.map(|primary| conninfo(layout, member, primary)).unwrap_or_default();
    let archive = settings.archive.map(|archive| (archive.command(), archive.timeout.as_secs().max(1).to_string()));
    let (command, timeout) = archive.as_ref().map_or(("", "0"), |(command, timeout)| (command, timeout));
    let ours: &[(&str, &str)] = &[
        // Standbys archive what they receive too: what a primary had finished and not yet archived when it died would
        // be a gap otherwise, as a standby that is promoted archives only what comes after.
        ("archive_mode", if archive.is_some() { "always" } else { "off" }),
        ("archive_command", command),
        ("archive_timeout", timeout),
        ("listen_addresses", ""),
        ("unix_socket_directories", &socket),
        ("max_connections", &connections),
        ("cluster_name", &cluster),
        ("wal_level", "replica"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("wal_log_hints", "on"),
        ("hot_standby", "on"),
        ("synchronous_commit", "on"),
        // At the default of 5 s, a third of promotions took 5 s (measured): the startup process sleeps it out.
        ("wal_retrieve_retry_interval", "100ms"),
        ("wal_receiver_timeout", "5s"),
        ("wal_receiver_status_interval", "1s"),
        ("wal_sender_timeout", "5s"),
        // Instead of slots: a standby that was away for more than this is cloned again, and one that never
        // comes back cannot fill the disk. Slots of others are bounded too.
        ("wal_keep_size", "256MB"),
        ("max_slot_wal_keep_size", "1GB"),
        // After a crash: one sync of the file system (0.1-0.5 s, measured) instead of one for each of a thousand
        // files (1.2-2.5 s, even when all of them are clean).
        ("recovery_init_sync_method", "syncfs"),
        ("shared_buffers", "64MB"),
        ("max_wal_size", "1GB"),
        // Compilation of short statements costs more than it gives.
        ("jit", "off"),
        ("log_destination", "stderr"),
        ("logging_collector", "off"),
        ("log_line_prefix", "%m [%p] %q%u@%d/%a "),
        ("log_timezone", "UTC"),
        ("log_lock_waits", "on"),
        ("log_min_duration_statement", "1s"),
        ("primary_conninfo", &conninfo),
        ("recovery_target_timeline", "latest"),
    ];
    for (name, value) in ours {
        line(&mut text, name, value);
    }
    if settings.has_statistics {
        statistics(&mut text);
    }
    text.push_str("# [database.settings]\n");
    for (name, value) in settings.settings {
        check(name, value)?;
        line(&mut text, name, value);
    }
    Ok(text)
}

/// What statements cost is asked when it is too late to begin to count. Costs 1 MiB of shared memory a server at this
/// size and, by PostgreSQL's own measurements, some percent of a statement that takes microseconds. Statements such as
/// `ALTER ROLE … PASSWORD` would be kept with their literals, so those are not counted.
fn statistics(text: &mut String) {
    line(text, "shared_preload_libraries", STATISTICS);
    for (name, value) in [("max", "2000"), ("track_utility", "off")] {
        line(text, &format!("{STATISTICS}.{name}"), value);
    }
}

fn check(name: &str, value: &str) -> Result<(), SettingError> {
    let lower = name.to_ascii_lowercase();
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && lower.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
    if !is_name || lower.starts_with("include") {
        return Err(SettingError::Name(name.to_owned()));
    }
    if RESERVED.contains(&lower.as_str()) {
        return Err(SettingError::Reserved(name.to_owned()));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(SettingError::Value(name.to_owned()));
    }
    Ok(())
}

fn line(text: &mut String, name: &str, value: &str) {
    // In this file a quote is doubled and a backslash begins an escape.
    let quoted = value.replace('\\', "\\\\").replace('\'', "''");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name} = '{quoted}'");
}

fn conninfo(layout: &Layout, member: Member, primary: Member) -> String {
    let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let host = quote(&layout.socket_dir(primary).to_string_lossy());
    let passfile = quote(&layout.passfile(member).to_string_lossy());
    let name = application_name(member);
    format!(
        "host={host} port={PORT} user={REPLICATION_ROLE} passfile={passfile} application_name={name} connect_timeout=5"
    )
}

/// Name of a member's server, in the titles of its processes.
pub(crate) fn cluster_name(member: Member) -> String {
    format!("mainstay-{member}")
}

/// Name under which a standby streams, as in `synchronous_standby_names`.
pub fn application_name(member: Member) -> String {
    format!("mainstay_{member}")
}

/// The member whose socket a standby is set to connect to.
pub(crate) fn followed(conninfo: &str) -> Option<Member> {
    let host = conninfo.strip_prefix("host='")?.split_once("' port=")?.0;
    Member::try_from(host.rsplit_once("/pg-")?.1.to_owned()).ok()
}

/// The member of a standby's name.
pub fn member_of(application_name: &str) -> Option<Member> {
    Member::try_from(application_name.strip_prefix("mainstay_")?.to_owned()).ok()
}

/// Text of a password file for the replication role, on any socket.
pub(crate) fn passfile(password: &Secret) -> String {
    let escaped = password.expose().replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{REPLICATION_ROLE}:{escaped}\n")
}

/// Text of `pg_hba.conf`: who may come in, all on the Unix socket, all by SCRAM.
pub fn hba_text(database: &Database) -> String {
    let mut text = String::from("# Written by mainstay at every start. TYPE DATABASE USER METHOD\n");
    let ours = [("all", SUPERUSER), ("replication", REPLICATION_ROLE), (LEDGER, LEDGER), ("all", MONITOR_ROLE)];
    for (databases, role) in ours {
        let _ = writeln!(text, "local {databases} {role} scram-sha-256");
    }
    for (role, database) in database.connections() {
        let _ = writeln!(text, "local \"{database}\" \"{role}\" scram-sha-256");
    }
    text
}

/// Makes `postgresql.conf` of a new cluster read our file last.
pub(crate) fn include_ours(data: &Path, user: Option<&User>) -> Result<(), FileError> {
    let path = data.join("postgresql.conf");
    let mut text = std::fs::read_to_string(&path).at("read", &path)?;
    if !text.lines().any(|line| line == INCLUDE) {
        let _ = writeln!(text, "\n{INCLUDE}");
        files::write_owned(&path, &text, 0o600, user)?;
    }
    files::write_owned(&data.join(OURS), "", 0o600, user)
}

/// Empties what `ALTER SYSTEM` wrote: on a copy it is the source's, above all its synchronous standbys, and a
/// standby that names itself would wait for itself once promoted.
pub(crate) fn forget_primary(data: &Path, user: Option<&User>) -> Result<(), FileError> {
    files::write_owned(&data.join("postgresql.auto.conf"), "# Emptied by mainstay: this is a standby.\n", 0o600, user)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn text(settings: &[(&str, &str)], follow: Option<Member>) -> Result<String, SettingError> {
        let layout =
            Layout { state: PathBuf::from("/s"), runtime: PathBuf::from("/r's"), bin: PathBuf::from("/b"), user: None };
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings_text(
            &layout,
            Member::B,
            follow,
            &Settings { archive: None, max_connections: 100, has_statistics: true, settings: &settings },
        )
    }

    #[test]
    fn the_stack_files_settings_come_last_and_are_quoted() {
        let text = text(&[("work_mem", "8MB"), ("search_path", "it's")], None).unwrap();
        let ours = text.find("shared_buffers").unwrap();
        assert!(text.find("work_mem = '8MB'").unwrap() > ours);
        assert!(text.contains("search_path = 'it''s'"));
        assert!(text.contains("unix_socket_directories = '\"/r''s/pg-b\"'"));
    }

    #[test]
    fn count_is_kept_of_statements_and_the_stack_file_may_say_otherwise() {
        let text = text(&[("shared_preload_libraries", "auto_explain")], None).unwrap();
        let [ours, theirs] = ["'pg_stat_statements'", "'auto_explain'"]
            .map(|library| text.find(&format!("shared_preload_libraries = {library}")).unwrap());
        assert!(ours < theirs, "PostgreSQL takes the last");
        assert!(text.contains("pg_stat_statements.track_utility = 'off'"), "it would keep passwords");
    }

    #[test]
    fn settings_that_hold_the_cluster_together_are_refused() {
        assert_eq!(text(&[("Fsync", "off")], None), Err(SettingError::Reserved("Fsync".to_owned())));
        assert!(matches!(text(&[("a b", "1")], None), Err(SettingError::Name(_))));
        assert!(matches!(text(&[("include_if_exists", "/x")], None), Err(SettingError::Name(_))));
        assert!(matches!(text(&[("work_mem", "1\nfsync=off")], None), Err(SettingError::Value(_))));
    }

    #[test]
    fn the_archive_command_survives_the_shell_and_the_servers_own_signs() {
        let argv = ["/s/it's 100 %/mainstay", "wal-push"].map(str::to_owned).to_vec();
        let archive = Archive { argv, timeout: std::time::Duration::from_secs(30) };
        assert_eq!(archive.command(), r"'/s/it'\''s 100 %%/mainstay' 'wal-push' %p");
    }

    #[test]
    fn only_a_standby_with_a_primary_has_a_connection() {
        assert!(text(&[], None).unwrap().contains("primary_conninfo = ''\n"));
        let following = text(&[], Some(Member::A)).unwrap();
        assert!(following.contains("application_name=mainstay_b"));
        let layout =
            Layout { state: PathBuf::from("/s"), runtime: PathBuf::from("/r's"), bin: PathBuf::from("/b"), user: None };
        assert_eq!(followed(&conninfo(&layout, Member::B, Member::A)), Some(Member::A));
        assert_eq!(followed(""), None);
        assert_eq!(followed("host='/elsewhere' port=1"), None);
        assert!(!following.contains("\nsynchronous_standby_names"));
    }

    #[test]
    fn names_of_standbys_are_read_back() {
        assert_eq!(member_of(&application_name(Member::B)), Some(Member::B));
        assert_eq!(member_of("pg_basebackup"), None);
        assert_eq!(member_of("mainstay_z"), None);
    }
}
