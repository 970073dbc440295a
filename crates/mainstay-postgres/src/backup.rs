//! The server's side of a base backup: begin, end, and the segments that it needs.

use mainstay_types::Lsn;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::access::{Access, AccessError, Use};

/// What must be known of a cluster before it is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Identity, as `initdb` gave it.
    pub system: u64,
    /// Major version.
    pub major: u32,
    /// Whether pages have checksums.
    pub has_checksums: bool,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Whether it is a standby and streams.
    pub is_streaming: bool,
    /// Size of a segment of WAL. **Unit**: bytes.
    pub segment_bytes: u64,
}

/// A backup that was begun: it lasts as long as its connection.
pub struct Begun {
    access: Access,
    client: Client,
    /// Where replay must begin.
    pub start: Lsn,
}

/// A backup that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Where the copy becomes consistent.
    pub stop: Lsn,
    /// Content of `backup_label`.
    pub label: String,
    /// Timeline at the start, as the label says.
    pub timeline: u32,
}

fn nonsense(access: &Access, what: &'static str, value: impl Into<String>) -> AccessError {
    AccessError::Nonsense { member: access.member(), what, value: value.into() }
}

async fn row(access: &Access, client: &Client, query: &str, what: &'static str) -> Result<Vec<String>, AccessError> {
    let messages = client.simple_query(query).await.map_err(|error| access.explain(error))?;
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect());
        }
    }
    Err(nonsense(access, what, "no row"))
}

const ABOUT: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
    current_setting('server_version_num')::int / 10000, current_setting('data_checksums'), pg_is_in_recovery(), \
    EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
    (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')";

/// Looks at a member.
///
/// **Errors**: as [`AccessError`].
pub async fn about(access: &Access) -> Result<About, AccessError> {
    let what = "what it is";
    let client = access.client(Use::Work).await?;
    let row = row(access, &client, ABOUT, what).await?;
    let [system, major, checksums, standby, streaming, segment] = row.as_slice() else {
        return Err(nonsense(access, what, row.join(", ")));
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| nonsense(access, what, text));
    // The identifier is shown as a signed number.
    let system: i64 = system.parse().map_err(|_| nonsense(access, what, system.as_str()))?;
    Ok(About {
        system: system.cast_unsigned(),
        major: u32::try_from(number(major)?).unwrap_or_default(),
        has_checksums: checksums == "on",
        is_standby: standby == "t",
        is_streaming: streaming == "t",
        segment_bytes: number(segment)?,
    })
}

/// Begins a backup, with a checkpoint at once.
///
/// **Errors**: as [`AccessError`].
pub async fn begin(access: &Access, label: &str) -> Result<Begun, AccessError> {
    let client = access.connect().await?;
    let quoted = label.replace('\'', "''");
    let query = format!("SET statement_timeout = 0; SELECT pg_backup_start('{quoted}', true)");
    let what = "where the backup begins";
    let row = row(access, &client, &query, what).await?;
    let start = row.first().and_then(|text| text.parse().ok()).ok_or_else(|| nonsense(access, what, row.join(", ")))?;
    Ok(Begun { access: access.clone(), client, start })
}

impl Begun {
    /// Ends the backup. Does not wait for the archive: see [`finish_segment`].
    ///
    /// **Errors**: the server refuses, above all when it was promoted meanwhile; the copy is then worth nothing.
    pub async fn end(self) -> Result<Ended, AccessError> {
        let what = "where the backup ends";
        let row = row(&self.access, &self.client, "SELECT lsn, labelfile FROM pg_backup_stop(false)", what).await?;
        let [stop, label] = row.as_slice() else { return Err(nonsense(&self.access, what, row.join(", "))) };
        let timeline = label.lines().find_map(|line| line.strip_prefix("START TIMELINE: "));
        let timeline = timeline.and_then(|text| text.trim().parse().ok());
        Ok(Ended {
            stop: stop.parse().map_err(|_| nonsense(&self.access, what, stop.as_str()))?,
            label: label.clone(),
            timeline: timeline.ok_or_else(|| nonsense(&self.access, what, label.as_str()))?,
        })
    }
}

/// Makes the primary finish its present segment, so that it is archived now; does nothing when nothing was written
/// since the last.
///
/// **Errors**: as [`AccessError`].
pub async fn finish_segment(primary: &Access) -> Result<(), AccessError> {
    let client = primary.client(Use::Work).await?;
    client.simple_query("SELECT pg_switch_wal()").await.map_err(|error| primary.explain(error)).map(drop)
}

/// Where the primary writes next.
///
/// **Errors**: as [`AccessError`].
pub async fn insert_position(primary: &Access) -> Result<Lsn, AccessError> {
    let client = primary.client(Use::Work).await?;
    let query = "SELECT pg_current_wal_insert_lsn()";
    let [lsn] = row(primary, &client, query, "where it writes").await?.try_into().unwrap_or_default();
    lsn.parse().map_err(|_| nonsense(primary, "where it writes", lsn))
}

/// Writes a named restore point: a record, so that what was written before is followed by something. Answers where it
/// ends.
///
/// **Errors**: as [`AccessError`].
pub async fn restore_point(primary: &Access, name: &str) -> Result<Lsn, AccessError> {
    let client = primary.client(Use::Work).await?;
    let query = format!("SELECT pg_create_restore_point('{}')", name.replace('\'', "''"));
    let what = "where a restore point is";
    let [lsn] = row(primary, &client, &query, what).await?.try_into().unwrap_or_default();
    lsn.parse().map_err(|_| nonsense(primary, what, lsn))
}

/// The timeline that the primary writes.
///
/// **Errors**: as [`AccessError`].
pub async fn timeline(primary: &Access) -> Result<u32, AccessError> {
    let client = primary.client(Use::Work).await?;
    let (what, query) =
        ("its timeline", "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int");
    let [timeline] = row(primary, &client, query, what).await?.try_into().unwrap_or_default();
    timeline.parse().map_err(|_| nonsense(primary, what, timeline))
}

/// The archiver's last failure that no success followed, in the server's words.
///
/// **Errors**: as [`AccessError`].
pub async fn archiver_failure(access: &Access) -> Result<Option<String>, AccessError> {
    let query = "SELECT last_failed_wal FROM pg_stat_archiver WHERE last_failed_time > \
        coalesce(last_archived_time, '-infinity')";
    let client = access.client(Use::Work).await?;
    let messages = client.simple_query(query).await.map_err(|error| access.explain(error))?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
