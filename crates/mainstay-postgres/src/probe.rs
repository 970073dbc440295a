//! One look at a member: what it says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_decide::observed::MemberAnswer;
use mainstay_types::{Lsn, Member, Timeline};
use tokio_postgres::Row;

use crate::access::{Access, AccessError, Use};
use crate::config;

/// Time for one look: it is taken every 250 ms.
pub const LOOK_WITHIN: Duration = Duration::from_millis(250);

// A standby that followed its primary onto a new timeline writes that into its control file at its next restart point,
// minutes later. Once the stream has ended its files of WAL tell: those of a timeline are there when it was received.
const QUESTION: &str = "
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN
         greatest((SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'),
                  (SELECT timeline_id FROM pg_control_checkpoint()),
                  (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                  CASE WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN
                    (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_waldir()
                     WHERE name ~ '^[0-9A-F]{24}$') END)
       ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       CASE WHEN pg_is_in_recovery() THEN
         coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
       ELSE pg_current_wal_lsn() END::text,
       EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
       current_setting('synchronous_standby_names'),
       coalesce((SELECT string_agg(application_name || '=' || coalesce(flush_lsn, '0/0')::text, ' ')
                 FROM pg_stat_replication
                 WHERE state = 'streaming' AND starts_with(application_name, 'mainstay_')), ''),
       current_setting('primary_conninfo')";

/// After this a question counts as lost, and so does its connection.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks once, within [`LOOK_WITHIN`], over the held connection.
///
/// **Errors**: `Silent` when it is there and does not answer; the others say why it cannot be asked.
pub async fn probe(access: &Access) -> Result<MemberAnswer, AccessError> {
    ask_within(access, LOOK_WITHIN).await
}

/// The same within [`ANSWER_WITHIN`], for who goes on waiting over several looks: on a busy machine a new
/// connection takes longer than one look, and to begin anew at each would never end.
///
/// **Errors**: as [`probe`].
pub async fn ask(access: &Access) -> Result<MemberAnswer, AccessError> {
    ask_within(access, ANSWER_WITHIN).await
}

async fn ask_within(access: &Access, within: Duration) -> Result<MemberAnswer, AccessError> {
    let look = async {
        let client = access.client(Use::Look).await?;
        let row = client.query_one(QUESTION, &[]).await.map_err(|error| access.explain(error))?;
        read(access.member(), &row)
    };
    match tokio::time::timeout(within, look).await {
        Ok(answer) => {
            if answer.is_err() {
                access.let_go(Use::Look);
            }
            answer
        }
        Err(_) => {
            access.let_go(Use::Look);
            Err(AccessError::Silent { member: access.member(), within })
        }
    }
}

fn read(member: Member, row: &Row) -> Result<MemberAnswer, AccessError> {
    let bad = |what, value: String| AccessError::Nonsense { member, what, value };
    let timeline: i32 = row.get(1);
    let lsn: String = row.get(2);
    let names: String = row.get(4);
    let standbys: String = row.get(5);
    let conninfo: String = row.get(6);
    let is_in_recovery: bool = row.get(0);
    Ok(MemberAnswer {
        is_in_recovery,
        timeline: Timeline(u32::try_from(timeline).map_err(|_| bad("its timeline", timeline.to_string()))?),
        lsn: lsn.parse().map_err(|_| bad("its position", lsn))?,
        is_streaming: row.get(3),
        // A promoted server keeps the setting that it had as a standby.
        follows: config::followed(&conninfo).filter(|_| is_in_recovery),
        synchronous: named(&names),
        standbys: streaming(&standbys).ok_or_else(|| bad("its standbys", standbys.clone()))?,
    })
}

/// Members in `synchronous_standby_names`.
pub(crate) fn named(setting: &str) -> Vec<Member> {
    let words = setting.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter_map(config::member_of).collect()
}

fn streaming(text: &str) -> Option<BTreeMap<Member, Lsn>> {
    let mut standbys = BTreeMap::new();
    for pair in text.split_whitespace() {
        let (name, lsn) = pair.split_once('=')?;
        // A name like ours that is no member's is somebody else's replica.
        if let Some(member) = config::member_of(name) {
            standbys.insert(member, lsn.parse().ok()?);
        }
    }
    Some(standbys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronous_members_are_read_from_the_setting() {
        assert_eq!(named("ANY 1 (mainstay_b, mainstay_c)"), vec![Member::B, Member::nth(2).unwrap()]);
        assert_eq!(named(""), vec![]);
        assert_eq!(named("*"), vec![]);
    }

    #[test]
    fn standbys_are_read_with_their_positions() {
        let standbys = streaming("mainstay_b=0/3000148 mainstay_report=0/1").unwrap();
        assert_eq!(standbys.len(), 1);
        assert_eq!(standbys[&Member::B].to_string(), "0/3000148");
        assert!(streaming("mainstay_b=x").is_none());
    }
}
