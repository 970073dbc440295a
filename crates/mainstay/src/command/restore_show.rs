//! What `mainstay restore` says of a moment: how it would be reached, what differs from the present, what is left out.

use std::time::Duration;

use mainstay_controller::backups::compare::{self, Compared, Difference};
use mainstay_controller::backups::find::{self, Found, Left};
use mainstay_controller::backups::{Backups, past};
use mainstay_controller::paths::Paths;
use mainstay_postgres::compare::Rows;
use mainstay_types::{Bytes, exit_code, full_text};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Tables that are listed: who must decide reads no more.
const MOST_TABLES: usize = 30;

/// What a moment leaves out, and how it differs from the present. Each by itself: that one cannot be told hides nothing
/// of the other.
pub(super) struct Beside {
    left: Result<Left, String>,
    compared: Option<Result<Compared, String>>,
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn short(plan: &past::Plan) -> &str {
    plan.backup.id.get(..8).unwrap_or(&plan.backup.id)
}

impl Beside {
    /// Of a moment that was not opened.
    pub(super) async fn planned(backups: &Arc<Backups>, paths: &Paths, plan: &past::Plan, from: Option<&str>) -> Self {
        let left = find::left(backups, paths, plan, from).await.map_err(|error| full_text(&error));
        Self { left, compared: None }
    }

    /// Of one that is open.
    pub(super) async fn opened(
        backups: &Arc<Backups>,
        paths: &Paths,
        (plan, from): (&past::Plan, Option<&str>),
        open: &past::Open,
    ) -> Self {
        let (planned, compared) =
            tokio::join!(Self::planned(backups, paths, plan, from), compare::compare(backups, open));
        Self { compared: Some(compared.map_err(|error| full_text(&error))), ..planned }
    }

    pub(super) fn json(&self) -> Value {
        let left = self.left.as_ref().map_or_else(
            |error| json!({ "error": error }),
            |left| {
                json!({
                    "commits": left.around.after, "is_complete": left.is_complete,
                    "counts_what_is_not_archived": left.sees_the_present, "last_commit_in_it": left.around.last_before,
                    "first_commit_left_out": left.around.first_after, "last_commit": left.around.last,
                })
            },
        );
        let compared = self.compared.as_ref().map(|compared| match compared {
            Ok(compared) => json!({
                "alike": compared.alike,
                "tables": compared.different.iter().map(table_json).collect::<Vec<_>>(),
            }),
            Err(error) => json!({ "error": error }),
        });
        json!({ "leaves_out": left, "differs": compared })
    }

    /// For a person.
    pub(super) fn say(&self) {
        match &self.left {
            Ok(left) => say_left(left),
            Err(error) => println!("leaves out what cannot be told: {error}"),
        }
        match &self.compared {
            Some(Ok(compared)) => say_compared(compared),
            Some(Err(error)) => println!("not compared with the present: {error}"),
            None => {}
        }
    }
}

fn say_left(left: &Left) {
    let around = &left.around;
    let last = around.last_before.map_or_else(
        || "none since the base backup".to_owned(),
        |commit| format!("{} (transaction {}, {})", commit.at, commit.xid, commit.lsn),
    );
    println!("last commit in it   {last}");
    let (Some(first), Some(end)) = (around.first_after, around.last) else {
        println!("commits left out    none{}", until(left));
        return;
    };
    let least = if left.is_complete { "" } else { "at least " };
    println!(
        "commits left out    {}",
        screen::bold(&format!("{least}{}, from {} to {}{}", around.after, first.at, end.at, until(left)))
    );
}

/// How far was looked.
fn until(left: &Left) -> &'static str {
    if left.sees_the_present { "" } else { ", of what is archived" }
}

fn say_compared(compared: &Compared) {
    if compared.different.is_empty() {
        println!(
            "tables              all {} have as many rows as now; their contents were not compared",
            compared.alike
        );
        return;
    }
    println!("{:<40} {:>14} {:>14}  (~ is an estimate)", "rows of", "now", "then");
    for one in compared.different.iter().take(MOST_TABLES) {
        let name = format!("{} {}", one.database, one.table);
        let what = match (&one.now, &one.then) {
            (Some(_), None) => "  only now: it would be gone",
            (None, Some(_)) => "  only then: it comes back",
            _ => "",
        };
        println!("{:<40} {:>14} {:>14}{what}", screen::tame(&name), rows(one.now), rows(one.then));
    }
    if let Some(more) = compared.different.len().checked_sub(MOST_TABLES).filter(|more| *more > 0) {
        println!("and {more} more tables that differ (--json lists all)");
    }
    println!("{} tables have as many rows in both; their contents were not compared", compared.alike);
}

fn rows(rows: Option<Rows>) -> String {
    match rows {
        None => "-".to_owned(),
        Some(Rows::Exact(count)) => count.to_string(),
        Some(Rows::Estimate(count)) => format!("~{count}"),
        Some(Rows::Unknown) => "not known".to_owned(),
    }
}

fn table_json(one: &Difference) -> Value {
    let side = |rows: Option<Rows>| match rows {
        None => Value::Null,
        Some(Rows::Exact(count)) => json!({ "rows": count, "is_estimate": false }),
        Some(Rows::Estimate(count)) => json!({ "rows": count, "is_estimate": true }),
        Some(Rows::Unknown) => json!({ "rows": null, "is_estimate": true }),
    };
    json!({ "database": one.database, "table": one.table, "now": side(one.now), "then": side(one.then) })
}

fn merged(mut document: Value, more: Value) -> Value {
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}

pub(super) fn dry_run(global: &Global, (found, plan): (&Found, &past::Plan), beside: &Beside) -> Result<u8, Failure> {
    let label = &plan.backup.label;
    if global.json {
        let document = json!({
            "backup": plan.backup.id, "consistent_at": label.ended, "consistent_lsn": label.stop.to_string(),
            "asked": found.asked, "found_at": found.at, "notes": found.notes,
            "to": plan.moment.to_string(), "bytes": label.bytes, "segments": plan.segments,
            "wal_bytes": plan.wal_bytes, "wanted_bytes": plan.wanted_bytes, "free_bytes": plan.free_bytes,
            "expected_ms": plan.expected.map(|expected| expected.as_millis()),
        });
        println!("{}", merged(document, beside.json()));
        return Ok(exit_code::DONE);
    }
    say_found(found, plan);
    println!("backup   {}, consistent at {} ({}), {}", short(plan), label.ended, label.stop, Bytes(label.bytes));
    println!("WAL      at most {} segments, {} in the archive", plan.segments, Bytes(plan.wal_bytes));
    println!("space    {} needed, {} free", Bytes(plan.wanted_bytes), Bytes(plan.free_bytes));
    let expected = plan.expected.map_or_else(
        || "not known: nothing was restored here yet".to_owned(),
        |expected| format!("about {} by the rates of the last restore", screen::took(millis(expected))),
    );
    println!("time     {expected}");
    beside.say();
    println!("nothing was restored");
    Ok(exit_code::DONE)
}

/// What was asked for, and what that is.
pub(super) fn say_found(found: &Found, plan: &past::Plan) {
    let to = plan.moment.to_string();
    if found.asked == to {
        println!("to       {to}");
    } else {
        println!("to       {}: {to}", found.asked);
    }
    for note in &found.notes {
        println!("         {note}");
    }
}

/// What was reached, and the way in while it `stays`.
pub(super) fn opened(
    global: &Global,
    open: &past::Open,
    (found, plan): (&Found, &past::Plan),
    beside: Option<&Beside>,
    stays: bool,
) {
    let replay = &open.replay;
    let lsn = replay.lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    if global.json {
        let document = json!({
            "asked": found.asked, "found_at": found.at, "notes": found.notes,
            "to": plan.moment.to_string(), "backup": plan.backup.id, "lsn": lsn, "last_commit": replay.last_commit,
            "conninfo": open.conninfo(), "port": open.port, "restored_ms": millis(open.restored_in), "replayed_ms": millis(open.replayed_in),
        });
        println!("{}", beside.map_or(document.clone(), |beside| merged(document, beside.json())));
        return;
    }
    let commit = replay.last_commit.map_or_else(|| "none after the backup".to_owned(), |at| at.to_string());
    println!("{} {} at {lsn}; last commit {commit}", screen::green("reached"), plan.moment);
    for note in &found.notes {
        println!("{note}");
    }
    println!("files {}, WAL {}", screen::took(millis(open.restored_in)), screen::took(millis(open.replayed_in)));
    if let Some(beside) = beside {
        beside.say();
    }
    if stays {
        println!("psql \"{} dbname=NAME\"", open.conninfo());
        println!("or 127.0.0.1:{} with the application's own role and password", open.port);
    }
}
