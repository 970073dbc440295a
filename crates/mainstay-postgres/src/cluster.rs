//! What changes who is primary and what a commit waits for.

use std::time::{Duration, Instant};

use mainstay_types::{Lsn, Member, Timeline};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::access::{Access, AccessError, Use};
use crate::config;
#[cfg(test)]
use crate::probe;

/// Pause between two promote requests. A single one took 5 s in a third of runs, repeated ones at most 87 ms.
pub const PROMOTE_EVERY: Duration = Duration::from_millis(30);
/// When a promotion is given up.
pub const PROMOTE_WITHIN: Duration = Duration::from_secs(30);
/// When a change of the synchronous standbys is given up.
pub const SYNCHRONOUS_WITHIN: Duration = Duration::from_secs(30);
/// When a server that reads its settings anew is given up: it answers at once, or hangs.
pub const RELOAD_WITHIN: Duration = Duration::from_secs(5);
/// When a checkpoint ahead of time is given up: 10 GB of changed pages on a disk that writes 20 MB/s.
pub const CHECKPOINT_WITHIN: Duration = Duration::from_mins(10);
/// Pause between two looks at whether a setting is in force.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A promotion that came true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: Timeline,
    /// Where it begins.
    pub lsn: Lsn,
    /// How long it took.
    pub took: Duration,
}

/// Why a promotion or a change of the synchronous standbys failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The deadline passed.
    #[error("postgres-{member}: {what} did not become true within {} s (last: {last})", within.as_secs())]
    NotInTime {
        /// Which member.
        member: Member,
        /// What was waited for.
        what: &'static str,
        /// The deadline.
        within: Duration,
        /// What was seen last.
        last: String,
    },
    /// The primary is no primary.
    #[error("postgres-{0} is a standby: synchronous standbys are set on the primary")]
    IsStandby(Member),
    /// It cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Asks for promotion again and again until the member is out of recovery. Fence the old primary first.
///
/// **Errors**: not true within [`PROMOTE_WITHIN`].
pub async fn promote(access: &Access) -> Result<Promoted, ClusterError> {
    let begun = Instant::now();
    let mut last = "nothing".to_owned();
    while begun.elapsed() < PROMOTE_WITHIN {
        let left = PROMOTE_WITHIN.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left.min(Duration::from_secs(1)), ask_promotion(access)).await {
            Ok(Ok(true)) => {
                let (timeline, lsn) = beginning(access).await?;
                return Ok(Promoted { timeline, lsn, took: begun.elapsed() });
            }
            Ok(Ok(false)) => "it is in recovery".clone_into(&mut last),
            Ok(Err(error @ AccessError::Denied { .. })) => return Err(error.into()),
            Ok(Err(error)) => {
                access.let_go(Use::Look);
                last = error.to_string();
            }
            Err(_) => {
                access.let_go(Use::Look);
                "it does not answer".clone_into(&mut last);
            }
        }
        tokio::time::sleep(PROMOTE_EVERY).await;
    }
    Err(ClusterError::NotInTime { member: access.member(), what: "promotion", within: PROMOTE_WITHIN, last })
}

/// Whether it is out of recovery; if not, it was asked again to be.
async fn ask_promotion(access: &Access) -> Result<bool, AccessError> {
    let client = access.client(Use::Look).await?;
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(|error| access.explain(error))?;
    if !row.get::<_, bool>(0) {
        return Ok(true);
    }
    match client.execute("SELECT pg_promote(false)", &[]).await {
        Ok(_) => Ok(false),
        // It came true between the two questions.
        Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Ok(true),
        Err(error) => Err(access.explain(error)),
    }
}

/// Timeline of a primary and where it began, from the history file that the promotion wrote.
async fn beginning(access: &Access) -> Result<(Timeline, Lsn), AccessError> {
    let client = access.client(Use::Look).await?;
    let row = client
        .query_one("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), pg_current_wal_lsn()::text", &[])
        .await
        .map_err(|error| access.explain(error))?;
    let (digits, now): (String, String) = (row.get(0), row.get(1));
    let nonsense = |what, value: &str| AccessError::Nonsense { member: access.member(), what, value: value.to_owned() };
    let timeline = u32::from_str_radix(&digits, 16).map_err(|_| nonsense("its timeline", &digits))?;
    let history: Option<String> = client
        .query_one("SELECT pg_read_file('pg_wal/' || $1 || '.history', 0, 1048576, true)", &[&digits])
        .await
        .map_err(|error| access.explain(error))?
        .get(0);
    // Last line: "parent timeline, where it was left, reason". The first timeline has no file: it begins at zero.
    let lsn = match history.as_deref().and_then(|text| text.lines().rfind(|line| !line.trim().is_empty())) {
        Some(line) => line.split_whitespace().nth(1).and_then(|lsn| lsn.parse().ok()),
        None if timeline <= 1 => Some(Lsn::default()),
        None => now.parse().ok(),
    };
    Ok((Timeline(timeline), lsn.ok_or_else(|| nonsense("the beginning of its timeline", &digits))?))
}

/// Writes a checkpoint, so that the next one is short.
///
/// **Errors**: it is no primary, cannot be asked, or was not done within [`CHECKPOINT_WITHIN`].
pub async fn checkpoint(access: &Access) -> Result<(), ClusterError> {
    // A connection of its own: the held ones must not wait for the disk.
    let client = access.connect().await?;
    match tokio::time::timeout(CHECKPOINT_WITHIN, client.batch_execute("CHECKPOINT")).await {
        Ok(done) => done.map_err(|error| ClusterError::Access(access.explain(error))),
        Err(_) => Err(ClusterError::NotInTime {
            member: access.member(),
            what: "a checkpoint",
            within: CHECKPOINT_WITHIN,
            last: "it was being written".to_owned(),
        }),
    }
}

/// Makes a server read its settings anew, which also wakes a primary's checkpointer: that fell asleep while its server
/// was in recovery, for up to `checkpoint_timeout` (5 min), and minds `archive_timeout` only when it is awake.
///
/// **Errors**: it cannot be asked, or has not answered within [`RELOAD_WITHIN`].
pub async fn reload(access: &Access) -> Result<(), ClusterError> {
    let ask = async {
        let client = access.client(Use::Work).await?;
        client.execute("SELECT pg_reload_conf()", &[]).await.map_err(|error| access.explain(error))
    };
    let Ok(asked) = tokio::time::timeout(RELOAD_WITHIN, ask).await else {
        access.let_go(Use::Work);
        let last = "no answer".to_owned();
        return Err(ClusterError::NotInTime { member: access.member(), what: "a reload", within: RELOAD_WITHIN, last });
    };
    Ok(asked.map(drop)?)
}

/// Sets which standbys a commit waits for (any one of them; none: off) and waits until that is in force.
///
/// On: when this returns, every commit acknowledged from now on waits, and every one acknowledged before is
/// on those of `standbys` that stream. Off: backends that waited are released; nothing here waits itself.
///
/// **Errors**: not in force within [`SYNCHRONOUS_WITHIN`]; it may come into force later, so ask again.
pub async fn set_synchronous(access: &Access, standbys: &[Member]) -> Result<Duration, ClusterError> {
    let begun = Instant::now();
    let mut last = "nothing".to_owned();
    let change = change_synchronous(access, standbys, &mut last);
    let done = tokio::time::timeout(SYNCHRONOUS_WITHIN, change).await;
    match done {
        Ok(result) => {
            if result.is_err() {
                access.let_go(Use::Work);
            }
            result.map(|()| begun.elapsed())
        }
        Err(_) => {
            access.let_go(Use::Work);
            let (member, what) = (access.member(), "synchronous_standby_names");
            Err(ClusterError::NotInTime { member, what, within: SYNCHRONOUS_WITHIN, last })
        }
    }
}

async fn change_synchronous(access: &Access, standbys: &[Member], last: &mut String) -> Result<(), ClusterError> {
    // A held connection: a new one costs its authentication, while writers wait for a dead standby.
    let client = access.client(Use::Work).await?;
    let explain = |error| ClusterError::Access(access.explain(error));
    if text(&client, "SELECT pg_is_in_recovery()::text").await.map_err(explain)? == "true" {
        return Err(ClusterError::IsStandby(access.member()));
    }
    let value = setting(standbys);
    // Nothing that this connection does must wait for a standby. It stays so: it is used for control only.
    client.batch_execute("SET synchronous_commit = local").await.map_err(explain)?;
    if text(&client, "SHOW synchronous_standby_names").await.map_err(explain)? != value {
        // Only letters of our own go into it.
        client
            .batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"))
            .await
            .map_err(explain)?;
        client.execute("SELECT pg_reload_conf()", &[]).await.map_err(explain)?;
    }
    loop {
        *last = text(&client, "SHOW synchronous_standby_names").await.map_err(explain)?;
        if *last == value {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if standbys.is_empty() {
        return Ok(());
    }
    // What a commit looks at is a flag in shared memory that the checkpointer sets when it reads the settings
    // anew, later than this session does. A checkpoint answered is the proof that it has.
    client.batch_execute("CHECKPOINT").await.map_err(explain)?;
    // Commits that saw the old flag were flushed before this position.
    let flushed = text(&client, "SELECT pg_current_wal_flush_lsn()::text").await.map_err(explain)?;
    let names: Vec<String> = standbys.iter().map(|member| config::application_name(*member)).collect();
    loop {
        let behind = client
            .query(
                "SELECT application_name || ' ' || sync_state || ' ' || coalesce(flush_lsn, '0/0')::text
                 FROM pg_stat_replication
                 WHERE application_name = ANY ($1) AND state = 'streaming'
                   AND (sync_state NOT IN ('sync', 'quorum') OR coalesce(flush_lsn, '0/0') < $2::text::pg_lsn)",
                &[&names, &flushed],
            )
            .await
            .map_err(explain)?;
        let Some(first) = behind.first() else { return Ok(()) };
        *last = first.get(0);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn text(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Value of `synchronous_standby_names`.
fn setting(standbys: &[Member]) -> String {
    if standbys.is_empty() {
        return String::new();
    }
    let names: Vec<String> = standbys.iter().map(|member| config::application_name(*member)).collect();
    format!("ANY 1 ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_back_as_it_was_meant() {
        let members = [Member::A, Member::B];
        assert_eq!(setting(&members), "ANY 1 (mainstay_a, mainstay_b)");
        assert_eq!(probe::named(&setting(&members)), members);
        assert_eq!(setting(&[]), "");
    }
}
