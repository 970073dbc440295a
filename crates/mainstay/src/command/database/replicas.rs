//! `mainstay db replicas`.

use mainstay_postgres::inspect::{self, Replica};
use mainstay_types::{BoxId, Bytes, Member, Waiting, exit_code};
use serde::Serialize;

use super::{Here, print, row, time, unanswered};
use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// A standby that the stack wants, and how the primary sees it.
#[derive(Debug, Serialize)]
struct Standby {
    member: Member,
    state: String,
    label: String,
    /// What it waits for, when it does not stream.
    waiting: Option<String>,
    /// As the primary sees it; `None`: it does not stream.
    replica: Option<Replica>,
}

pub(crate) async fn replicas(global: &Global) -> Result<u8, Failure> {
    let here = Here::find(global).await?;
    let seen = inspect::replicas(&here.primary()?).await.map_err(unanswered)?;
    let of = |one: &mainstay_api::BoxStatus| {
        let BoxId::Postgres { member } = one.id else { return None };
        (Some(member) != here.database.primary).then(|| Standby {
            member,
            state: one.state.to_string(),
            label: one.label.clone(),
            waiting: one.reason.clone().or_else(|| one.waiting.first().map(Waiting::to_string)),
            replica: seen.iter().find(|replica| replica.member == member).cloned(),
        })
    };
    let standbys: Vec<Standby> = here.status.boxes.iter().filter_map(of).collect();
    if global.json {
        return print(&standbys);
    }
    lines(&standbys).iter().for_each(|line| println!("{line}"));
    Ok(exit_code::DONE)
}

fn lines(standbys: &[Standby]) -> Vec<String> {
    if standbys.is_empty() {
        return vec!["no standby: `standbys = 1` in [database] gives one".to_owned()];
    }
    let mut lines = vec![
        screen::bold("                                  NOT YET FLUSHED       NOT YET READABLE"),
        screen::bold("STANDBY      STATE      COMMITS        BYTES     TIME        BYTES     TIME"),
    ];
    for one in standbys {
        let name = format!("postgres-{}", one.member);
        let Some(replica) = &one.replica else {
            let waiting = one.waiting.as_deref().map(|waiting| format!(": {waiting}")).unwrap_or_default();
            lines.push(row(&name, &format!("{}, does not stream{waiting}", one.state)));
            continue;
        };
        let commits = match replica.sync_state.as_str() {
            "quorum" | "sync" => "wait",
            "potential" => "next",
            _ => "go on",
        };
        let [flush, replay] = [replica.flush_lag_bytes, replica.replay_lag_bytes].map(|bytes| Bytes(bytes).to_string());
        let [flush_time, replay_time] =
            [replica.flush_lag_ms, replica.replay_lag_ms].map(|ms| ms.map_or("-".to_owned(), time));
        lines.push(format!(
            "{name:<12} {:<10} {commits:<8} {flush:>11} {flush_time:>8} {replay:>12} {replay_time:>8}",
            replica.state
        ));
    }
    lines.push("TIME is of the latest writes; - means that nothing was written lately".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_a_line_of_eighty_columns_and_one_that_does_not_stream_says_why() {
        let replica = Replica {
            member: Member::B,
            state: "streaming".to_owned(),
            sync_state: "quorum".to_owned(),
            flushed: None,
            flush_lag_bytes: 1023 << 30,
            replay_lag_bytes: 1023 << 30,
            flush_lag_ms: Some(59_999.0),
            replay_lag_ms: None,
        };
        let standby = |member, replica| Standby {
            member,
            state: "starting".to_owned(),
            label: String::new(),
            waiting: Some("clones postgres-a to postgres-c".to_owned()),
            replica,
        };
        let third = Member::nth(2).expect("a letter");
        let lines = lines(&[standby(Member::B, Some(replica)), standby(third, None)]);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[2].contains("wait") && lines[2].contains("1023 GiB"), "{lines:#?}");
        assert!(lines[3].contains("does not stream: clones postgres-a"), "{lines:#?}");
    }
}
