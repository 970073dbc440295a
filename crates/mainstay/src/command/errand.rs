//! `mainstay db switchover`, `db failover`, `db restart`: asked of the control plane, watched until they are over.

use std::time::{Duration, Instant};

use clap::Args;
use mainstay_api::{DatabaseStatus, ErrandAsked, ErrandKind, ErrandStatus};
use mainstay_client::Client;
use mainstay_types::{BoxId, Member, exit_code};

use crate::Global;
use crate::failure::Failure;

/// Pause between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// The control plane may be restarted on the way: time for the next one.
const CONTROL_BACK: Duration = Duration::from_secs(20);
/// Time for the router to tell what became of its sessions, once the new primary is in force.
const SESSIONS_WITHIN: Duration = Duration::from_secs(2);
/// Time for a member to become a standby that may take over: a clone of a large database takes that long.
const WHOLE_WITHIN: Duration = Duration::from_mins(60);

#[derive(Args)]
pub(crate) struct Switchover {
    /// The member that is to be primary: a letter, as in postgres-b (default: the first standby that may)
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// Time for transactions and statements that are begun to end
    #[arg(long, value_name = "TIME", default_value = "10s")]
    drain_timeout: String,
    /// End what has not ended by then, instead of giving up
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub(crate) struct Failover {
    /// The member that is to be primary (default: the first standby that may)
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
}

#[derive(Args)]
pub(crate) struct Restart {
    /// Only this standby; otherwise every member, the primary by a switchover
    #[arg(value_name = "MEMBER")]
    member: Option<String>,
    /// Time for transactions and statements that are begun to end before the switchover
    #[arg(long, value_name = "TIME", default_value = "10s")]
    drain_timeout: String,
}

/// `b` or `postgres-b`.
fn member(name: &str) -> Result<Member, Failure> {
    let letter = name.strip_prefix("postgres-").unwrap_or(name);
    Member::try_from(letter.to_owned()).map_err(|_| {
        Failure::user("MS2080", format!("{name:?} is no member of a cluster: they are a to f"))
            .help("`mainstay status` lists them")
    })
}

fn milliseconds(text: &str) -> Result<u64, Failure> {
    let wrong = || {
        Failure::user("MS2080", format!("{text:?} is no time"))
            .help("a whole number with ms, s, m or h: 500ms, 10s, 2m")
    };
    let time = mainstay_stack::units::duration(text).map_err(|_| wrong())?;
    u64::try_from(time.as_millis()).map_err(|_| wrong())
}

pub(crate) async fn switchover(global: &Global, options: &Switchover) -> Result<u8, Failure> {
    let asked = ErrandAsked {
        errand: ErrandKind::Switchover,
        member: options.to.as_deref().map(member).transpose()?,
        drain_ms: Some(milliseconds(&options.drain_timeout)?),
        is_forced: options.force,
        incoming: None,
    };
    let client = crate::place::client(global)?;
    let status = carry_out(&client, &asked).await?;
    finish(global, &[status])
}

pub(crate) async fn failover(global: &Global, options: &Failover) -> Result<u8, Failure> {
    let to = options.to.as_deref().map(member).transpose()?;
    let asked =
        ErrandAsked { errand: ErrandKind::Failover, member: to, drain_ms: None, is_forced: false, incoming: None };
    let client = crate::place::client(global)?;
    let status = carry_out(&client, &asked).await?;
    finish(global, &[status])
}

/// Every standby, then a switchover, which restarts the former primary as a standby.
pub(crate) async fn restart(global: &Global, options: &Restart) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    let only = options.member.as_deref().map(member).transpose()?;
    let drain_ms = Some(milliseconds(&options.drain_timeout)?);
    let database = cluster(&client).await?;
    let primary = database.primary.ok_or_else(|| Failure::failed("MS1080", "nobody is recorded as primary yet"))?;
    let standbys: Vec<Member> = match only {
        Some(member) => vec![member],
        None => standbys(&client, &database, primary).await?,
    };
    if standbys.is_empty() {
        return Err(Failure::refused("MS1080", "no standby streams, so a restart of the primary would be an outage")
            .help("set `standbys = 1` in [database]; or `mainstay down` and `mainstay up` at a time of your choice"));
    }
    let mut done = Vec::new();
    for member in &standbys {
        let asked = ErrandAsked {
            errand: ErrandKind::Restart,
            member: Some(*member),
            drain_ms: None,
            is_forced: false,
            incoming: None,
        };
        done.push(carry_out(&client, &asked).await?);
    }
    if only.is_none() && done.iter().all(|status| status.is_done) {
        let asked =
            ErrandAsked { errand: ErrandKind::Switchover, member: None, drain_ms, is_forced: false, incoming: None };
        let status = carry_out(&client, &asked).await?;
        let is_done = status.is_done;
        done.push(status);
        if is_done {
            whole_again(&client, primary).await?;
        }
    }
    finish(global, &done)
}

/// Every standby, in order; one that does not stream cannot be waited for, and what it runs nobody would know.
async fn standbys(client: &Client, database: &DatabaseStatus, primary: Member) -> Result<Vec<Member>, Failure> {
    let boxes = client.status().await?.boxes;
    let members = boxes.iter().filter_map(|one| match one.id {
        BoxId::Postgres { member } if member != primary => Some(member),
        _ => None,
    });
    let members: Vec<Member> = members.collect();
    match members.iter().find(|member| !database.lag_bytes.contains_key(member)) {
        None => Ok(members),
        Some(absent) => Err(Failure::refused(
            "MS1080",
            format!("postgres-{absent} does not stream just now; nothing was restarted"),
        )
        .help("`mainstay db replicas` says what it waits for")),
    }
}

/// Until the former primary streams: it runs the program that is installed now, like the others.
async fn whole_again(client: &Client, former: Member) -> Result<(), Failure> {
    eprintln!("  postgres-{former} is started as a standby");
    let begun = Instant::now();
    while begun.elapsed() < WHOLE_WITHIN {
        // A control plane that is being restarted answers the next look.
        if let Ok(database) = cluster(client).await
            && database.lag_bytes.contains_key(&former)
        {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Failure::failed(
        "MS1080",
        format!("postgres-{former} does not stream after {} min", WHOLE_WITHIN.as_secs() / 60),
    )
    .help("`mainstay status` says what it waits for"))
}

async fn cluster(client: &Client) -> Result<DatabaseStatus, Failure> {
    let none = || Failure::failed("MS1002", "the stack has no database");
    client.status().await?.database.ok_or_else(none)
}

/// Asks, and shows its stages until it is over.
pub(super) async fn carry_out(client: &Client, asked: &ErrandAsked) -> Result<ErrandStatus, Failure> {
    let mut known = client.errand(asked).await?;
    let (asked_at, mut shown) = (known.asked_at, 0);
    let mut lost_since: Option<Instant> = None;
    let mut over_since: Option<Instant> = None;
    let mut unseen_since: Option<Instant> = None;
    loop {
        match client.status().await.map(|status| status.database) {
            Ok(Some(database)) => {
                let was_lost = lost_since.take().is_some();
                match database.errand.clone().filter(|errand| errand.asked_at == asked_at) {
                    Some(errand) => (known, unseen_since) = (errand, None),
                    None if was_lost => return Ok(forgotten(known, &database)),
                    // The picture is older than the answer, or another control plane has taken over between two looks.
                    None => {
                        if unseen_since.get_or_insert_with(Instant::now).elapsed() >= CONTROL_BACK {
                            return Ok(forgotten(known, &database));
                        }
                    }
                }
            }
            Ok(None) | Err(_) => {
                let since = *lost_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CONTROL_BACK {
                    return Err(Failure::failed("MS1003", "the control plane does not answer any more")
                        .help("`mainstay status` says who is primary"));
                }
            }
        }
        for reached in known.stages.iter().skip(shown) {
            eprintln!("  {}", describe(&reached.stage, &known));
        }
        shown = known.stages.len();
        if known.ended_at.is_some() {
            let since = *over_since.get_or_insert_with(Instant::now);
            let is_told = known.sessions.is_some() || known.errand == ErrandKind::Restart || !known.is_done;
            if is_told || since.elapsed() >= SESSIONS_WITHIN {
                return Ok(known);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The control plane was restarted and forgot the wish: what became of it is read off the cluster.
fn forgotten(known: ErrandStatus, now: &DatabaseStatus) -> ErrandStatus {
    let is_change = matches!(known.errand, ErrandKind::Switchover | ErrandKind::Failover);
    let is_done = is_change && now.primary == Some(known.member);
    let reason = (!is_done).then(|| "the control plane was restarted on the way; ask again".to_owned());
    // When it ended nobody knows.
    ErrandStatus { is_done, reason, ended_at: None, ..known }
}

fn describe(stage: &str, status: &ErrandStatus) -> String {
    let (member, primary) = (status.member, status.primary);
    match stage {
        "checkpoint" => format!("a checkpoint of postgres-{primary}, while everybody works on"),
        "drain" => "new transactions wait; those that are begun end".to_owned(),
        "stop" => format!("postgres-{primary} ends in order"),
        "promote" => format!("postgres-{member} takes over"),
        "lead" => format!("sessions are led to postgres-{member}"),
        "detach" => format!("nobody waits for postgres-{member} or reads there any more"),
        "restart" => format!("postgres-{member} ends in order and is started again"),
        "catch-up" => format!("postgres-{member} catches up"),
        "end" => "sessions are held, and every PostgreSQL ends in order".to_owned(),
        "swap" => format!("the restored data takes the place of postgres-{primary}'s"),
        other => other.to_owned(),
    }
}

fn finish(global: &Global, all: &[ErrandStatus]) -> Result<u8, Failure> {
    if global.json {
        let text = match all {
            [one] => serde_json::to_string_pretty(one),
            many => serde_json::to_string_pretty(many),
        };
        println!("{}", text.map_err(|error| Failure::bug(error.to_string()))?);
        let is_done = all.iter().all(|status| status.is_done);
        return Ok(if is_done { exit_code::DONE } else { exit_code::FAILED });
    }
    for status in all {
        match &status.reason {
            Some(reason) => {
                return Err(Failure::failed("MS1080", reason.clone()).help(match status.errand {
                    ErrandKind::Switchover => {
                        "pg_stat_activity has the transaction; --drain-timeout waits longer, --force ends them"
                    }
                    ErrandKind::Failover | ErrandKind::Restart | ErrandKind::Restore => {
                        "`mainstay status` shows the cluster"
                    }
                }));
            }
            None => println!("{}", sentence(status)),
        }
    }
    Ok(exit_code::DONE)
}

fn sentence(status: &ErrandStatus) -> String {
    let (member, primary) = (status.member, status.primary);
    let took = status.ended_at.map(|ended| ended.saturating_since(status.asked_at).as_millis());
    let took = took.map_or_else(
        || "in a time that a restarted control plane does not know".to_owned(),
        |ms| format!("after {ms} ms"),
    );
    if status.errand == ErrandKind::Restart {
        return format!("postgres-{member} was restarted and is a standby again, {took}");
    }
    let sessions = match &status.sessions {
        None => String::new(),
        Some(counts) => format!(
            "; sessions held for at most {} ms: {} carried over, {} ended for their state, {} with a statement cut off",
            counts.longest_hold_ms, counts.carried, counts.ended, counts.in_flight
        ),
    };
    let migration = status.migration.as_ref().map(|whose| format!("; a run of migrations was cut off: {whose}"));
    let migration = migration.unwrap_or_default();
    format!("postgres-{member} is primary, postgres-{primary} becomes a standby, {took}{sessions}{migration}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_by_letter_or_in_full() {
        assert_eq!(member("b").ok(), Some(Member::B));
        assert_eq!(member("postgres-b").ok(), Some(Member::B));
        assert!(member("postgres").is_err() && member("z").is_err());
    }
}
