//! `mainstay status`: every box, its state, since when, what it waits for.

use std::time::Duration;

use clap::Args;
use mainstay_api::{
    BackupsStatus, CopyStatus, DiskStatus, DrillStanding, ScheduleStatus, Standing, Status, StoreCopiesStatus,
};
use mainstay_types::{Bytes, State, Timestamp, exit_code};

use crate::Global;
use crate::again;
use crate::board;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Draw it again whenever it changes, until Ctrl-C
    #[arg(long, short = 'w')]
    watch: bool,
}

/// Pause between two looks of `--watch`.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    if !options.watch {
        let status = client.status().await?;
        print(&status, global.json)?;
        let is_fine = matches!(status.overall, State::Ready);
        return Ok(if is_fine { exit_code::DONE } else { exit_code::FAILED });
    }
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut last: Option<Status> = None;
    loop {
        match client.status().await {
            Ok(status) => {
                let same = last.as_ref().is_some_and(|known| Status { at: status.at, ..known.clone() } == status);
                if !same || on_terminal {
                    if on_terminal && !global.json {
                        print!("\x1b[H\x1b[2J");
                    }
                    print(&status, global.json)?;
                }
                last = Some(status);
            }
            Err(error) if last.is_some() => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A remark below a box, as wide as there is room.
fn note(width: usize, text: &str, colour: fn(&str) -> String) {
    let room = board::columns().saturating_sub(width + 4).max(20);
    for line in text.lines().flat_map(|line| board::wrap(line, room)) {
        println!("  {:<width$}  {}", "", colour(&line));
    }
}

/// The last run of a schedule, and the next.
fn runs(schedule: &ScheduleStatus, at: Timestamp) -> String {
    let mut parts = Vec::new();
    if let Some(run) = &schedule.running {
        let since = run
            .since
            .map_or("is being started".to_owned(), |since| format!("for {}", screen::age(at.saturating_since(since))));
        parts.push(format!("runs {since}"));
    }
    parts.push(schedule.last.as_ref().map_or("no run yet".to_owned(), |last| {
        let took = u64::try_from(last.ended.saturating_since(last.began).as_millis()).unwrap_or(u64::MAX);
        let ago = screen::age(at.saturating_since(last.ended));
        let how = if last.is_timed_out { format!("too long ({})", last.exit) } else { last.exit.to_string() };
        format!("last {ago} ago: {how}, took {}", screen::took(took))
    }));
    let next = schedule.next.to_string();
    let next = next.get(..16).unwrap_or(&next).replace('T', " ");
    parts.push(format!("next in {} ({next} UTC)", screen::age(schedule.next.saturating_since(at))));
    parts.join("; ")
}

fn print(status: &Status, json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(status).map_err(|error| Failure::bug(error.to_string()))?);
        return Ok(());
    }
    println!("{}  {}  {}", screen::bold(status.stack.as_str()), status.environment, screen::state(status.overall, 0));
    let width = status.boxes.iter().map(|one| one.name.len()).max().unwrap_or(8);
    for one in &status.boxes {
        let since = screen::age(status.at.saturating_since(one.since));
        println!("  {:<width$}  {}  {since:<7} {}", one.name, screen::state(one.state, 14), one.label);
        if let Some(schedule) = status.schedules.iter().find(|(name, _)| name.as_str() == one.name) {
            note(width, &runs(schedule.1, status.at), screen::dim);
        }
        for waiting in &one.waiting {
            note(width, &again::text(&waiting.to_string()), screen::dim);
        }
        if let Some(reason) = &one.reason {
            note(width, &again::text(reason), screen::yellow);
        }
    }
    if let Some(database) = &status.database {
        let primary = database.primary.map_or("none".to_owned(), |member| format!("postgres-{member}"));
        let lag: Vec<String> = database
            .lag_bytes
            .iter()
            .map(|(member, bytes)| format!("postgres-{member} {bytes} bytes behind"))
            .collect();
        let commits = if database.is_synchronous { "synchronous" } else { "asynchronous" };
        let text = format!(
            "database: primary {primary}, timeline {}, commits {commits}, failovers {}{}{}",
            database.timeline,
            database.failovers,
            if lag.is_empty() { "" } else { "; " },
            lag.join(", ")
        );
        board::wrap(&text, board::columns()).iter().for_each(|line| println!("{line}"));
    }
    if let Some(line) = status.progress.iter().find(|line| line.what == "migrate" && line.state == State::Ready) {
        let text = again::text(&format!("migrations: {}", line.text));
        board::wrap(&text, board::columns()).iter().for_each(|line| println!("{line}"));
    }
    if let Some(line) = status.database.as_ref().and_then(|database| disk(database.disk?)) {
        board::wrap(&line, board::columns()).iter().for_each(|line| println!("{line}"));
    }
    if let Some(backups) = &status.backups {
        board::wrap(&self::backups(backups, status.at), board::columns()).iter().for_each(|line| println!("{line}"));
    }
    if let Some(copies) = &status.store_copies {
        board::wrap(&store_copies(copies, status.at), board::columns()).iter().for_each(|line| println!("{line}"));
    }
    for (name, url) in &status.urls {
        println!("{name}: {url}");
    }
    if let Some(line) = drills(&status.drills) {
        // Colours count as letters here: lines are broken a little early, never too late.
        board::wrap(&format!("drills: {line}"), board::columns()).iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

/// A disk that is or will be full; nothing about one that has room.
fn disk(disk: DiskStatus) -> Option<String> {
    let free = Bytes(disk.free_bytes);
    let is_short = disk.total_bytes > 0 && disk.free_bytes < disk.total_bytes / 20;
    match disk.full_in_s {
        Some(seconds) => {
            let when = screen::age(Duration::from_secs(seconds));
            Some(screen::yellow(&format!("disk: {free} free, full in {when} if it goes on as in the last minutes")))
        }
        None if is_short => Some(screen::red(&format!("disk: only {free} free: a full disk stops the database"))),
        None => None,
    }
}

/// How the backups are, in a line: above all when a restore was proven last.
fn backups(backups: &BackupsStatus, at: Timestamp) -> String {
    let ago = |then: Timestamp| format!("{} ago", screen::age(at.saturating_since(then)));
    let proven = backups.proven.as_ref().map_or_else(
        || screen::yellow("no restore proven yet"),
        |proven| {
            let is_late = at.saturating_since(proven.at).as_millis() > u128::from(backups.proof_within_ms);
            let short = proven.backup.get(..8).unwrap_or(&proven.backup);
            let text = format!("last proven restore {} ({short})", ago(proven.at));
            if is_late { screen::red(&text) } else { text }
        },
    );
    let last = backups.last.map_or("none yet".to_owned(), |last| format!("last {}", ago(last)));
    let mut parts = vec![format!("{} base backups, {last}", backups.count), proven];
    if let Some(next) = backups.next.filter(|next| *next > at) {
        parts.push(format!("next in {}", screen::age(next.saturating_since(at))));
    }
    if let Some(job) = &backups.running {
        parts.push(format!("{job} runs"));
    }
    let archived = backups.newest_wal.map_or("no WAL archived".to_owned(), |at| format!("WAL archived {}", ago(at)));
    parts.push(archived);
    parts.extend(backups.copy.as_ref().map(|copy| second_copy(copy, at)));
    parts.extend(backups.faults.iter().map(|fault| screen::red(fault)));
    format!("backups: {}", parts.join("; "))
}

/// How the copies of the store are, in a line: above all which was proven last.
fn store_copies(copies: &StoreCopiesStatus, at: Timestamp) -> String {
    let ago = |then: Timestamp| format!("{} ago", screen::age(at.saturating_since(then)));
    let proven = copies.proven.map_or_else(
        || screen::yellow("no copy proven yet"),
        |then| format!("last proven copy {} ({} keys)", ago(then), copies.proven_keys.unwrap_or(0)),
    );
    let next = match copies.next {
        _ if copies.is_running => "one is taken now".to_owned(),
        next if next <= at => "the next is due".to_owned(),
        next => format!("the next in {}", screen::age(next.saturating_since(at))),
    };
    let line = format!("store: {proven}; {} copies, {}; {next}", copies.count, Bytes(copies.bytes));
    match copies.faults.as_slice() {
        [] => line,
        [fault, ..] => format!("{line}; {}", screen::red(fault)),
    }
}

/// How far the second copy is.
fn second_copy(copy: &CopyStatus, at: Timestamp) -> String {
    let named = if copy.is_target { "store" } else { "copy" };
    let Some(up_to) = copy.up_to else {
        return screen::yellow(&format!("{named}: no base backup in it yet, {} wait", Bytes(copy.waiting_bytes)));
    };
    let text = format!("{named}: everything up to {} ago", screen::age(at.saturating_since(up_to)));
    if copy.behind_ms.is_some_and(|behind| behind > copy.rpo_ms) { screen::red(&text) } else { text }
}

/// What the drills are owed, in a line; nothing when there are none.
fn drills(standings: &[DrillStanding]) -> Option<String> {
    let named = |wanted: Standing, what: &str| {
        let of = standings.iter().filter(|one| one.standing == wanted).map(|one| one.drill.as_str());
        let names: Vec<&str> = of.collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let fine = standings.iter().filter(|one| one.standing == Standing::Fine).count();
    let owed = standings.iter().filter(|one| !matches!(one.standing, Standing::Fine | Standing::NotApplicable)).count();
    let all = [
        named(Standing::Failing, "failing").map(|text| screen::red(&text)),
        named(Standing::Stale, "stale").map(|text| screen::yellow(&text)),
        named(Standing::NeverRun, "never run").map(|text| screen::yellow(&text)),
        (fine > 0).then(|| format!("{fine} fine")),
        extended(standings).map(|text| screen::yellow(&text)),
        (owed > 0).then(|| again::text("`mainstay drill --all` runs them")),
    ];
    (!standings.is_empty()).then(|| all.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Passes that needed a wider bar than was promised.
fn extended(standings: &[DrillStanding]) -> Option<String> {
    let held = standings.iter().filter_map(|one| {
        let extended = one.extended.as_ref()?;
        Some(format!("{} ({} ms in place of {} ms)", one.drill, extended.bar_ms, extended.promised_ms))
    });
    let held: Vec<String> = held.collect();
    (!held.is_empty()).then(|| format!("against an extended bar {}", held.join(", ")))
}

#[cfg(test)]
mod tests {
    use mainstay_api::Extended;

    use super::*;

    fn standing(drill: &str, standing: Standing) -> DrillStanding {
        DrillStanding {
            drill: drill.to_owned(),
            what: String::new(),
            subject: String::new(),
            promise: String::new(),
            standing,
            reason: String::new(),
            last_ended: None,
            last_verdict: None,
            extended: None,
        }
    }

    #[test]
    fn the_copies_of_the_store_are_a_line_with_what_is_wrong_at_its_end() {
        let at = Timestamp::from_millis(7_200_000);
        let hour = Timestamp::from_millis(3_600_000);
        let well = StoreCopiesStatus {
            count: 2,
            bytes: 2048,
            last: Some(hour),
            next: Timestamp::from_millis(9_000_000),
            proven: Some(hour),
            proven_keys: Some(12),
            unproven_since: hour,
            every_ms: 3_600_000,
            is_running: false,
            failures: 0,
            faults: vec![],
        };
        let line = "store: last proven copy 1 h ago (12 keys); 2 copies, 2 KiB; the next in 30 min";
        assert_eq!(store_copies(&well, at), line);
        let ill = StoreCopiesStatus { proven: None, next: at, faults: vec!["disk full".to_owned()], ..well };
        assert!(store_copies(&ill, at).ends_with("no copy proven yet; 2 copies, 2 KiB; the next is due; disk full"));
    }

    #[test]
    fn what_drills_are_owed_is_a_line_with_the_worst_first() {
        let all = [
            standing("edge-crash", Standing::Fine),
            standing("store-crash", Standing::NotApplicable),
            standing("keep-crash", Standing::NeverRun),
            standing("router-crash", Standing::Failing),
        ];
        let line = "failing router-crash; never run keep-crash; 1 fine; `mainstay drill --all` runs them";
        assert_eq!(drills(&all).as_deref(), Some(line));
        assert_eq!(drills(&all[..1]).as_deref(), Some("1 fine"));
        assert_eq!(drills(&[]), None);
        let reason = "the machine was busy".to_owned();
        let extended = Extended { rounds: 1, of: 1, promised_ms: 3000, bar_ms: 15_000, reason };
        let held = DrillStanding { extended: Some(extended), ..standing("database-freeze", Standing::Fine) };
        let line = "1 fine; against an extended bar database-freeze (15000 ms in place of 3000 ms)";
        assert_eq!(drills(&[held]).as_deref(), Some(line));
    }
}
