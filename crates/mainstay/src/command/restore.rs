//! `mainstay restore`: the past of the database beside the present.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mainstay_backup::wal::{self, GetError};
use mainstay_controller::backups::{Backups, past};
use mainstay_decide::past::Moment;
use mainstay_types::{Bytes, Secret, exit_code, full_text};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::backup::{failure, launch};
use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// The moment: a time in UTC, a position (0/3000060), `xid N`, `name NAME`, or `latest`
    #[arg(long, value_name = "MOMENT")]
    to: String,
    /// Where to: `scratch` is a server of its own, beside the present one, that only reads and goes when it is closed
    #[arg(long, value_name = "WHERE", default_value = "scratch")]
    into: Into,
    /// Say which backup, which WAL, how much and how long, and restore nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin from this base backup instead of the newest before the moment
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Close it as soon as the moment is proven to be reached
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Into {
    Scratch,
}

/// PostgreSQL's `restore_command`.
#[derive(Args)]
pub(crate) struct WalGet {
    /// Folder of the archive
    #[arg(long)]
    archive: PathBuf,
    /// File of the key that opens it
    #[arg(long)]
    key: PathBuf,
    /// Identity of the cluster
    #[arg(long)]
    system: u64,
    /// Name of the file of WAL
    name: String,
    /// Where it is wanted
    into: PathBuf,
}

/// Above 128 PostgreSQL ends recovery instead of taking it for the end of the archive (`RestoreArchivedFile`).
const DAMAGED: u8 = 200;

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let moment = Moment::parse(&options.to).map_err(|error| {
        Failure::user("MS2110", error.to_string()).help("as in --to \"2026-11-21 08:00\" (UTC) or --to latest")
    })?;
    let Into::Scratch = options.into;
    let paths = crate::place::paths(global)?;
    let launch = launch(&paths)?;
    // A stack that is down has no folder for sockets, and this server needs one.
    paths.create().map_err(|error| crate::place::folder_failure(&error))?;
    let backups = Backups::open(&paths, launch.stack.as_str()).map_err(|error| failure(&error))?;
    let plan = past::plan(&backups, &paths, &moment, options.backup.as_deref()).map_err(|error| failure(&error))?;
    if options.dry_run {
        return dry_run(global, &plan);
    }
    if !global.json {
        eprintln!("restoring backup {} ({}), then replaying to {moment}", short(&plan), Bytes(plan.backup.label.bytes));
    }
    let open = past::open(backups, &paths, &plan).await.map_err(|error| failure(&error))?;
    show(global, &open, &plan, !options.once);
    if options.once {
        open.close().await;
        return Ok(exit_code::DONE);
    }
    stay(open).await
}

fn short(plan: &past::Plan) -> &str {
    plan.backup.id.get(..8).unwrap_or(&plan.backup.id)
}

fn dry_run(global: &Global, plan: &past::Plan) -> Result<u8, Failure> {
    let label = &plan.backup.label;
    if global.json {
        println!(
            "{}",
            json!({
                "backup": plan.backup.id, "consistent_at": label.ended, "consistent_lsn": label.stop.to_string(),
                "to": plan.moment.to_string(), "bytes": label.bytes, "segments": plan.segments,
                "wal_bytes": plan.wal_bytes, "wanted_bytes": plan.wanted_bytes, "free_bytes": plan.free_bytes,
                "expected_ms": plan.expected.map(|expected| expected.as_millis()),
            })
        );
        return Ok(exit_code::DONE);
    }
    println!("to       {}", plan.moment);
    println!("backup   {}, consistent at {} ({}), {}", short(plan), label.ended, label.stop, Bytes(label.bytes));
    println!("WAL      at most {} segments, {} in the archive", plan.segments, Bytes(plan.wal_bytes));
    println!("space    {} needed, {} free", Bytes(plan.wanted_bytes), Bytes(plan.free_bytes));
    let expected = plan.expected.map_or_else(
        || "not known: nothing was restored here yet".to_owned(),
        |expected| {
            format!(
                "about {} by the rates of the last restore",
                screen::took(u64::try_from(expected.as_millis()).unwrap_or(u64::MAX))
            )
        },
    );
    println!("time     {expected}");
    println!("nothing was restored");
    Ok(exit_code::DONE)
}

/// What was reached, and the way in while it `stays`.
fn show(global: &Global, open: &past::Open, plan: &past::Plan, stays: bool) {
    let replay = &open.replay;
    let lsn = replay.lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if global.json {
        println!(
            "{}",
            json!({
                "to": plan.moment.to_string(), "backup": plan.backup.id, "lsn": lsn, "last_commit": replay.last_commit,
                "conninfo": open.conninfo(), "port": open.port, "restored_ms": millis(open.restored_in), "replayed_ms": millis(open.replayed_in),
            })
        );
        return;
    }
    let commit = replay.last_commit.map_or_else(|| "none after the backup".to_owned(), |at| at.to_string());
    println!("{} {} at {lsn}; last commit {commit}", screen::green("reached"), plan.moment);
    println!("files {}, WAL {}", screen::took(millis(open.restored_in)), screen::took(millis(open.replayed_in)));
    if stays {
        println!("psql \"{} dbname=NAME\"", open.conninfo());
        println!("or 127.0.0.1:{} with the application's own role and password", open.port);
    }
}

async fn stay(mut open: past::Open) -> Result<u8, Failure> {
    let stream = |kind| signal(kind).map_err(|error| Failure::environment("MS3001", error.to_string()));
    let (mut interrupt, mut terminate) = (stream(SignalKind::interrupt())?, stream(SignalKind::terminate())?);
    let mut hangup = stream(SignalKind::hangup())?;
    eprintln!("it only reads; Ctrl-C closes it and removes it");
    let has_ended = tokio::select! {
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
        _ = hangup.recv() => false,
        () = open.ended() => true,
    };
    let words = if has_ended { mainstay_postgres::past::last_words(&open.log) } else { String::new() };
    open.close().await;
    if has_ended {
        return Err(Failure::failed("MS1112", format!("the server of the past ended by itself: {words}")));
    }
    Ok(exit_code::DONE)
}

/// A file of WAL for a server that replays. Exit status 1: it is not there, which ends the archive.
pub(crate) fn wal_get(options: &WalGet) -> Result<u8, Failure> {
    let key = std::fs::read_to_string(&options.key).map_err(|error| Failure {
        code: DAMAGED,
        ..Failure::environment("MS3110", format!("cannot read {}: {error}", options.key.display()))
    })?;
    match wal::get(&options.archive, &Secret::new(key.trim()), options.system, &options.name, &options.into) {
        Ok(()) => Ok(exit_code::DONE),
        Err(GetError::Missing(_)) => Ok(exit_code::FAILED),
        Err(error) => Err(Failure { code: DAMAGED, ..Failure::failed("MS1111", full_text(&error)) }),
    }
}
