//! `mainstay db migrate --rehearse`: pending files on a copy of the newest backup, and what they would do to the present.

use std::sync::Arc;
use std::time::Duration;

use mainstay_controller::backups::rehearse::{self, Rehearsal};
use mainstay_controller::backups::{Backups, PATIENCE};
use mainstay_postgres::migrate::{self, Blocks, InTheWay, Locked, State, TABLE_LOCK_WITHIN, Watched};
use mainstay_types::{Bytes, exit_code};
use serde_json::json;

use super::{Options, Place, backup, failure, on_copy, show};
use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Where what is said here happened.
const COPY: &str = "on the copy";

pub(super) async fn run(global: &Global, options: &Options, place: &Place) -> Result<u8, Failure> {
    let plan = migrate::plan(&place.application, &place.folder).await.map_err(|error| failure(&error))?;
    if plan.pending().next().is_none() {
        if global.json {
            println!("{:#}", json!({"files": [], "failed": null}));
        } else {
            println!("nothing is pending, so nothing was restored");
        }
        return Ok(exit_code::DONE);
    }
    let launch = backup::launch(&place.paths)?;
    let opened = Backups::open(&place.paths, launch.stack.as_str()).map_err(|error| backup::failure(&error))?;
    let backups = Arc::new(opened.patient(backup::patience(PATIENCE.as_secs())));
    let is_silent = global.json;
    let tell = move |text: &str| {
        if !is_silent {
            eprintln!("{text}");
        }
    };
    let done = rehearse::rehearse(backups, &place.paths, &place.folder, options.out_of_order, tell).await;
    let rehearsal = done.map_err(|error| backup::failure(&error))?;
    let done = rehearsal.done.as_ref().map_err(|error| on_copy(COPY, failure(error)))?;
    let mut tables: Vec<String> = done.files.iter().flat_map(|one| &one.locks).map(|lock| lock.table.clone()).collect();
    tables.sort();
    tables.dedup();
    // The present may be too busy to say so; the rehearsal stands all the same.
    let present = place.superuser.as_in_same(&place.application);
    let busy = migrate::in_the_way(&present, &tables).await.unwrap_or_default();
    // The copy may be older than what ran since.
    let is_applied =
        |script: &str| plan.migrations.iter().any(|one| one.script == script && one.state == State::Applied);
    let applied: Vec<&str> = done.files.iter().map(|one| one.script.as_str()).filter(|one| is_applied(one)).collect();
    let failed = done.failed.as_ref().map(|error| on_copy(COPY, failure(error)));
    if global.json {
        println!(
            "{:#}",
            json!({
                "backup": rehearsal.backup, "lsn": rehearsal.lsn.map(|lsn| lsn.to_string()),
                "last_commit": rehearsal.last_commit, "restored_ms": millis(rehearsal.restored_in),
                "replayed_ms": millis(rehearsal.replayed_in), "files": done.files, "in_the_way": busy, "applied_since": applied,
                "failed": failed.as_ref().map(Failure::value),
            })
        );
        return Ok(failed.map_or(exit_code::DONE, |failed| failed.code));
    }
    println!("{}", head(&rehearsal));
    for file in &done.files {
        lines(file, &busy, applied.contains(&file.script.as_str())).iter().for_each(|line| println!("{line}"));
    }
    println!("nothing of the present was touched; the copy is gone");
    match failed {
        None => Ok(exit_code::DONE),
        Some(failed) => Err(failed),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn head(rehearsal: &Rehearsal) -> String {
    let short = rehearsal.backup.get(..8).unwrap_or(&rehearsal.backup);
    let commit = rehearsal.last_commit.map_or_else(|| "none after the backup".to_owned(), |at| at.to_string());
    let text = format!(
        "backup {short}, files in {}, WAL in {}; last commit in the copy: {commit}",
        screen::took(millis(rehearsal.restored_in)),
        screen::took(millis(rehearsal.replayed_in))
    );
    screen::wrap(&text, "copy   ", "       ")
}

/// A file, whom it would hold up and what it wrote.
fn lines(file: &Watched, busy: &[InTheWay], is_applied: bool) -> Vec<String> {
    let applied = migrate::Applied {
        version: None,
        script: file.script.clone(),
        took_ms: file.took_ms,
        is_transactional: file.is_transactional,
    };
    let mut lines = vec![show::ran(&applied)];
    let mut say = |text: String| lines.push(screen::wrap(&text, "    ", "      "));
    if is_applied {
        say("was applied to the present after what the copy has: it will not be run there again".to_owned());
    }
    // A weaker lock on the same table, held no longer, holds up nobody else: the strongest come first.
    let is_covered = |at: usize, lock: &Locked| {
        file.locks[..at].iter().any(|other| other.table == lock.table && other.held_ms >= lock.held_ms)
    };
    for (_, lock) in file.locks.iter().enumerate().filter(|(at, lock)| !is_covered(*at, lock)) {
        say(waits(lock));
    }
    for one in &file.rewritten {
        let bytes = Bytes(u64::try_from(one.bytes).unwrap_or_default());
        say(format!("{} is written anew: {bytes}", one.table));
    }
    for one in &file.rows {
        let counts = [(one.inserted, "inserted"), (one.updated, "updated"), (one.deleted, "deleted")];
        let counts: Vec<_> =
            counts.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{rows} {what}")).collect();
        say(format!("rows of {}: {}", one.table, counts.join(", ")));
    }
    let is_locked = |one: &&InTheWay| file.locks.iter().any(|lock| lock.table == one.table);
    for one in busy.iter().filter(is_locked) {
        let (who, uses, them) = if one.transactions == 1 {
            ("a transaction".to_owned(), "uses", "it")
        } else {
            (format!("{} transactions", one.transactions), "use", "them")
        };
        let oldest = screen::took(u64::try_from(one.oldest_ms).unwrap_or_default());
        let (table, limit) = (&one.table, TABLE_LOCK_WITHIN.as_secs());
        say(format!(
            "just now {who} of the present {uses} {table}, for {oldest} at most: the file would wait for {them}, and give up after {limit} s"
        ));
    }
    if file.locks.is_empty() && file.rows.is_empty() && file.rewritten.is_empty() {
        say("holds up nobody".to_owned());
    }
    lines
}

fn waits(lock: &Locked) -> String {
    let who = match lock.blocks {
        Blocks::ReadsAndWrites => "who reads or writes",
        Blocks::Writes => "who writes",
        Blocks::Changes => "who changes the schema of",
    };
    format!("{who} {} waits up to {} ({})", lock.table, screen::took(lock.held_ms), lock.mode)
}

#[cfg(test)]
mod tests {
    use mainstay_postgres::migrate::{Rewritten, Touched};

    use super::*;

    #[test]
    fn a_file_says_in_eighty_columns_whom_it_would_hold_up() {
        let table = "a_schema_with_a_name.a_table_with_a_rather_long_name_of_its_own".to_owned();
        let file = Watched {
            script: "V4__a_file_with_a_name_that_says_all_there_is_to_say_about_it_and_more.sql".to_owned(),
            is_transactional: true,
            took_ms: 75_000,
            locks: [
                ("AccessExclusiveLock", Blocks::ReadsAndWrites, 74_000),
                ("ShareLock", Blocks::Writes, 74_000),
                ("ShareUpdateExclusiveLock", Blocks::Changes, 75_000),
            ]
            .map(|(mode, blocks, held_ms)| Locked { table: table.clone(), mode: mode.to_owned(), blocks, held_ms })
            .to_vec(),
            rows: vec![Touched { table: table.clone(), inserted: 0, updated: 7, deleted: 0 }],
            rewritten: vec![Rewritten { table: table.clone(), bytes: 3 << 20 }],
        };
        let busy = [InTheWay { table, transactions: 2, oldest_ms: 9_000 }];
        let text = lines(&file, &busy, true).join("\n");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [
            "who reads or writes a_schema",
            "waits up to 1 min 14 s",
            "7 updated",
            "3 MiB",
            "give up after 10 s",
            "was applied",
        ] {
            assert!(flat.contains(wanted), "{wanted} in\n{text}");
        }
        assert!(
            !flat.contains("ShareLock") && flat.contains("ShareUpdateExclusiveLock"),
            "what is covered is left out: {text}"
        );
        let idle = Watched { locks: Vec::new(), rows: Vec::new(), rewritten: Vec::new(), ..file };
        let text = lines(&idle, &busy, false).join("\n");
        assert!(text.contains("holds up nobody") && !text.contains("was applied"), "{text}");
    }
}
