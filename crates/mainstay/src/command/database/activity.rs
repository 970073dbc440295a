//! `mainstay db slow`, `db locks`, `db cancel`: statements, who waits for whom, and how to end one.

use clap::Args;
use mainstay_postgres::inspect::{self, Blocked, End, Ended, Running, Slow, Total};
use mainstay_types::exit_code;

use super::{Here, print, time, unanswered};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::{board, screen};

/// Lines fit this.
const COLUMNS: usize = 80;

#[derive(Args)]
pub(crate) struct Cancel {
    /// The server process, as `db slow` and `db locks` show it
    pid: i32,
    /// End its whole session, not only its statement: for one that is idle in a transaction
    #[arg(long)]
    terminate: bool,
}

pub(crate) async fn slow(global: &Global) -> Result<u8, Failure> {
    let found = inspect::slow(&Here::find(global).await?.primary()?).await.map_err(unanswered)?;
    if global.json {
        return print(&found);
    }
    slow_lines(&found).iter().for_each(|line| println!("{line}"));
    Ok(exit_code::DONE)
}

fn slow_lines(found: &Slow) -> Vec<String> {
    let mut lines = Vec::new();
    if found.running.is_empty() {
        lines.push("nothing runs just now".to_owned());
    } else {
        lines.push(screen::bold("RUNNING      FOR  TRANSACTION  ROLE@DATABASE         STATE"));
        lines.extend(found.running.iter().flat_map(running_lines));
    }
    lines.push(String::new());
    match (&found.totals, &found.missing) {
        (Some(totals), _) if totals.is_empty() => lines.push("no statement was counted yet".to_owned()),
        (Some(totals), _) => {
            lines.push(screen::bold("OF ALL RUNS, BY THEIR TIME TOGETHER"));
            lines.push(screen::bold("     TOTAL      CALLS      MEAN       MAX  ROWS/CALL  ROLE@DATABASE"));
            lines.extend(totals.iter().flat_map(total_lines));
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or("nobody keeps count");
            lines.extend(board::wrap(&format!("of all runs nothing is known: {why}"), COLUMNS));
        }
    }
    lines.push("texts are without their literals: `?` stands for each".to_owned());
    lines
}

fn whose(role: &str, database: &str) -> String {
    if role == database { role.to_owned() } else { format!("{role}@{database}") }
}

fn running_lines(one: &Running) -> Vec<String> {
    let waits = if one.waits_for.is_empty() { String::new() } else { format!(", waits {}", one.waits_for) };
    let head = format!(
        "{:>7} {:>8}  {:>11}  {:<21.21} {}{waits}",
        one.pid,
        time(one.since_ms),
        time(one.open_ms),
        whose(&one.role, &one.database),
        one.state
    );
    vec![board::cut(&head, COLUMNS), board::cut(&format!("        {}", one.text), COLUMNS)]
}

fn total_lines(one: &Total) -> Vec<String> {
    let rows = one.rows / one.calls.max(1);
    let head = format!(
        "{:>10} {:>10} {:>9} {:>9} {rows:>10}  {}",
        time(one.total_ms),
        one.calls,
        time(one.mean_ms),
        time(one.max_ms),
        whose(&one.role, &one.database)
    );
    vec![board::cut(&head, COLUMNS), board::cut(&format!("           {}", one.text), COLUMNS)]
}

pub(crate) async fn locks(global: &Global) -> Result<u8, Failure> {
    let found = inspect::locks(&Here::find(global).await?.application()?).await.map_err(unanswered)?;
    if global.json {
        return print(&found);
    }
    lock_lines(&found).iter().for_each(|line| println!("{line}"));
    Ok(exit_code::DONE)
}

fn lock_lines(found: &[Blocked]) -> Vec<String> {
    if found.is_empty() {
        return vec!["nobody waits for a lock".to_owned()];
    }
    let mut lines = Vec::new();
    for one in found {
        let whose = whose(&one.role, &one.database);
        let head = format!("{} {whose} waits {} for {}", one.pid, time(one.waits_ms), one.wants);
        lines.push(screen::bold(&board::cut(&head, COLUMNS)));
        lines.push(board::cut(&format!("    {}", one.text), COLUMNS));
        for by in &one.blocked_by {
            let waits = if by.is_waiting { ", waits itself" } else { "" };
            let open = time(by.open_ms);
            let head = format!("  behind {} {}, {}{waits}, transaction open for {open}", by.pid, by.role, by.state);
            lines.push(board::cut(&head, COLUMNS));
            lines.push(board::cut(&format!("    {}", by.text), COLUMNS));
        }
    }
    lines.extend(next(found));
    lines
}

/// Who stands before all the others, and how to end that.
fn next(found: &[Blocked]) -> Option<String> {
    let first = found.iter().flat_map(|one| &one.blocked_by).find(|by| !by.is_waiting)?;
    let (what, option) = match first.state.as_str() {
        "active" => ("its statement", ""),
        _ => ("its session", " --terminate"),
    };
    let text = format!("next: `mainstay db cancel {}{option}` ends {what} and transaction", first.pid);
    Some(again::text(&text))
}

pub(crate) async fn cancel(global: &Global, options: &Cancel) -> Result<u8, Failure> {
    let here = Here::find(global).await?;
    let how = if options.terminate { End::Terminate } else { End::Cancel };
    let pid = options.pid;
    match inspect::end(&here.primary()?, pid, how).await.map_err(unanswered)? {
        Ended::Sent { role, state } => {
            if global.json {
                return print(&serde_json::json!({"pid": pid, "role": role, "state": state, "ended": match how {
                    End::Cancel => "statement",
                    End::Terminate => "session",
                }}));
            }
            match how {
                End::Cancel if state != "active" => {
                    println!("{pid} of {role} was {state}: it runs no statement that could be cancelled");
                    eprintln!("hint: `mainstay db cancel {pid} --terminate` ends its session");
                    return Ok(exit_code::FAILED);
                }
                End::Cancel => println!("the statement of {pid} ({role}) is cancelled; its client is told 57014"),
                End::Terminate => println!("the session of {pid} ({role}) is ended; its client is told 57P01"),
            }
            Ok(exit_code::DONE)
        }
        Ended::NotThere => Err(Failure::failed("MS1081", format!("no client's session has the server process {pid}"))
            .help("`mainstay db locks` and `mainstay db slow` show those that are there now")),
        Ended::Ours => Err(Failure::refused("MS1081", format!("{pid} is mainstay's own connection"))
            .help("`mainstay db locks` shows whom clients wait for")),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_postgres::inspect::Blocker;

    use super::*;

    fn blocked(state: &str) -> Blocked {
        let long = "UPDATE orders SET state = ? WHERE ".repeat(5);
        let by = |pid, is_waiting| Blocker {
            pid,
            role: "shop".to_owned(),
            state: state.to_owned(),
            is_waiting,
            open_ms: 75_000.0,
            text: long.clone(),
        };
        Blocked {
            pid: 4_100_001,
            role: "shop".to_owned(),
            database: "shop".to_owned(),
            waits_ms: 61_000.0,
            wants: "AccessExclusiveLock on a_schema.a_table_with_a_name_that_is_rather_long".to_owned(),
            text: long.clone(),
            blocked_by: vec![by(7, true), by(8, false)],
        }
    }

    #[test]
    fn who_waits_for_whom_fits_eighty_columns_and_names_the_first_in_line() {
        let lines = lock_lines(&[blocked("idle in transaction")]);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines.last().is_some_and(|line| line.contains("mainstay db cancel 8 --terminate")), "{lines:#?}");
        let lines = lock_lines(&[blocked("active")]);
        assert!(lines.last().is_some_and(|line| line.contains("`mainstay db cancel 8`")), "{lines:#?}");
        assert_eq!(lock_lines(&[]), ["nobody waits for a lock"]);
    }

    #[test]
    fn statements_fit_eighty_columns_and_what_is_not_known_is_said() {
        let running = Running {
            pid: 4_100_001,
            database: "a_long_name_of_a_database".to_owned(),
            role: "a_role".to_owned(),
            state: "idle in transaction (aborted)".to_owned(),
            since_ms: 3.0,
            open_ms: 7_200_000.0,
            waits_for: "Client/ClientRead".to_owned(),
            text: "SELECT ?".repeat(30),
        };
        let total = Total {
            database: "shop".to_owned(),
            role: "shop".to_owned(),
            calls: 1_000_000_000,
            mean_ms: 0.1,
            max_ms: 59_000.0,
            total_ms: 100_000_000.0,
            rows: 5_000_000_000,
            text: "SELECT ?".repeat(30),
        };
        let slow = Slow { running: vec![running], totals: Some(vec![total]), missing: None };
        let lines = slow_lines(&slow);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let unknown = Slow { running: vec![], totals: None, missing: Some("it is not loaded".to_owned()) };
        let text = slow_lines(&unknown).join("\n");
        assert!(
            text.contains("nothing runs just now") && text.contains("nothing is known: it is not loaded"),
            "{text}"
        );
    }
}
