//! `mainstay backup`: base backups and the WAL archive of the stack's database.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use mainstay_backup::RepositoryError;
use mainstay_backup::proof::Proof;
use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, PushError, Until};
use mainstay_controller::backups::jobs::{self, Done};
use mainstay_controller::backups::second;
use mainstay_controller::backups::{self, Backups, Checked, Error, Established, Patience, Progress, Pruned, Whose};
use mainstay_controller::launch::Launch;
use mainstay_controller::paths::Paths;
use mainstay_types::{Bytes, exit_code, full_text};
use serde_json::{Value, json};

use super::backup_copy;
use crate::Global;
use crate::again;
use crate::board;
use crate::failure::Failure;
use crate::place::Place;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
    /// Longest time to wait for who works on the backups now, as the control plane does by itself
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = backups::PATIENCE.as_secs())]
    wait: u64,
}

#[derive(Subcommand)]
enum What {
    /// Take a base backup now, from a standby when one streams
    Now {
        /// What it is for, shown in the list: "before v42"
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
    },
    /// Base backups, oldest first, and how far the archive reaches
    List,
    /// Read everything that is stored and compare it with its hashes; look for gaps in the archive
    Check {
        /// Only what is there, not every byte of it
        #[arg(long)]
        quick: bool,
        /// The second copy off the machine instead: compare it with the folder, object by object
        #[arg(long)]
        copy: bool,
        /// With --copy: what is missing or damaged there is put again from the folder
        #[arg(long, requires = "copy")]
        mend: bool,
    },
    /// Restore one beside the present and compare it with its source; without ID the newest that has no proof yet
    Prove {
        /// Its identity or how that begins, as `mainstay backup list` shows it
        id: Option<String>,
    },
    /// Forget what is kept no longer and free its space; `mainstay retention --explain` says what that is
    Prune,
    /// Print the recovery card: with it and the repository a restore needs nothing else
    Card,
}

/// PostgreSQL's `archive_command`: its working folder is the data directory.
#[derive(Args)]
pub(crate) struct WalPush {
    /// Folder of the archive
    #[arg(long)]
    archive: PathBuf,
    /// What it is sealed to
    #[arg(long)]
    recipient: String,
    /// The archive is a store: wait until it has the file
    #[arg(long)]
    store: bool,
    /// The finished file
    path: PathBuf,
}

/// What a backup may take from those who serve: as low as it goes without waiting for an idle machine.
const NICE: i32 = 10;

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let launch = launch(&paths)?;
    let patience = patience(options.wait);
    let open = || {
        let opened = Backups::open(&paths, launch.stack.as_str());
        opened.map(|opened| opened.patient(patience.clone())).map_err(|error| failure(&error))
    };
    match &options.what {
        What::Now { name } => now(global, &paths, open()?, name.clone()).await,
        What::Prove { id } => prove(global, &paths, open()?, id.as_deref()).await,
        What::Prune => prune(global, &paths, open()?).await,
        What::List => list(global, &paths, &open()?),
        What::Check { quick, copy: true, mend } => backup_copy::check(global, &paths, &open()?, (!quick, *mend)).await,
        What::Check { quick, .. } => check(global, &paths, open()?, !quick).await,
        What::Card => card(global, &paths, &launch),
    }
}

/// Waits so long, and says for whom.
pub(super) fn patience(seconds: u64) -> Patience {
    Patience::new(Duration::from_secs(seconds), |text| eprintln!("{text}"))
}

/// What this state folder was up with last.
pub(super) fn launch(paths: &Paths) -> Result<Launch, Failure> {
    Launch::load(paths).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::user("MS4111", "this stack was never up: it has no backups").help("`mainstay up` starts it")
        }
        _ => Failure::environment("MS3110", format!("cannot read {}: {error}", paths.launch_file().display()))
            .help("the backups are untouched; their folder's README.txt says how they are read without this file"),
    })
}

/// A job that the control plane starts.
#[derive(Args)]
pub(crate) struct Job {
    #[arg(value_enum)]
    what: JobKind,
    /// State folder of the stack and environment
    #[arg(long)]
    state: PathBuf,
    /// Folder of its sockets
    #[arg(long)]
    runtime: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum JobKind {
    Take,
    Prove,
    Prune,
}

/// Does what is due and says in its log what came of it.
pub(crate) async fn job(options: &Job) -> Result<u8, Failure> {
    let paths = Paths { state: options.state.clone(), runtime: options.runtime.clone() };
    let launch = launch(&paths)?;
    let job = match options.what {
        JobKind::Take => jobs::Job::Take,
        JobKind::Prove => jobs::Job::Prove,
        JobKind::Prune => jobs::Job::Prune,
    };
    let done = match jobs::run(&paths, launch.stack.as_str(), job).await {
        // Nothing was tried and nothing is wrong: the control plane comes again.
        Err(error @ Error::Busy { .. }) => {
            println!("{error}; tried again later");
            return Ok(exit_code::DONE);
        }
        done => done.map_err(|error| failure(&error))?,
    };
    match done {
        Done::Taken(backup) => println!("backup {} is stored", short(&backup)),
        Done::Proven(proof) => print_proof(&proof),
        Done::Pruned(pruned) => print_pruned(&pruned),
    }
    Ok(exit_code::DONE)
}

async fn prove(global: &Global, paths: &Paths, backups: Backups, id: Option<&str>) -> Result<u8, Failure> {
    let is_quiet = global.json;
    let tell = |text: &str| {
        rustix::process::nice(NICE).ok();
        if !is_quiet {
            eprintln!("{text}");
        }
    };
    paths.create().map_err(|error| crate::place::folder_failure(&error))?;
    let proof = jobs::prove(paths, backups, id, tell).await.map_err(|error| failure(&error))?;
    if global.json {
        println!("{}", serde_json::to_string(&proof).map_err(|error| Failure::bug(error.to_string()))?);
        return Ok(if proof.is_proven { exit_code::DONE } else { exit_code::FAILED });
    }
    print_proof(&proof);
    if proof.is_proven {
        return Ok(exit_code::DONE);
    }
    let text = format!("the restore of {} is no proof: {} faults", shorten(&proof.backup), proof.faults.len());
    Err(Failure::failed("MS1113", text).help("a new base backup is whole by itself: `mainstay backup now`"))
}

fn print_proof(proof: &Proof) {
    let reached = proof.reached.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
    let verdict = if proof.is_proven { screen::green("proven") } else { screen::red("not proven") };
    println!("{verdict} {}: replayed to {reached}, wanted {}", shorten(&proof.backup), proof.wanted);
    println!(
        "{} tables with {} rows are as at the source; {} assertions hold",
        proof.tables, proof.rows, proof.asserts
    );
    let took = proof.took_ms.iter().map(|(what, took)| format!("{what} {}", screen::took(*took)));
    println!("took: {}", took.collect::<Vec<_>>().join(", "));
    for fault in &proof.faults {
        println!("{} {fault}", screen::red("fault:"));
    }
    for text in &proof.left_out {
        println!("not looked at: {text}");
    }
}

async fn prune(global: &Global, paths: &Paths, backups: Backups) -> Result<u8, Failure> {
    let pruned = jobs::prune(paths, backups).await.map_err(|error| failure(&error))?;
    if global.json {
        println!(
            "{}",
            json!({"forgotten": pruned.forgotten, "repository_bytes": pruned.repository_bytes, "segments": pruned.segments, "wal_bytes": pruned.wal_bytes})
        );
    } else {
        print_pruned(&pruned);
    }
    Ok(exit_code::DONE)
}

fn print_pruned(pruned: &Pruned) {
    println!(
        "{} base backups forgotten, {} freed; {} files of WAL removed, {} freed",
        pruned.forgotten.len(),
        Bytes(pruned.repository_bytes),
        pruned.segments,
        Bytes(pruned.wal_bytes)
    );
}

async fn now(global: &Global, paths: &Paths, backups: Backups, name: Option<String>) -> Result<u8, Failure> {
    let (begun, is_quiet) = (Instant::now(), global.json);
    let tell = |progress: Progress| match progress {
        Progress::Began { member, from_standby } => {
            // From here on what serves goes first. Whoever may not be nicer goes on as it is.
            rustix::process::nice(NICE).ok();
            if !is_quiet {
                let what = if from_standby { "a standby" } else { "the primary: no standby streams" };
                eprintln!("reading postgres-{member}, {what}");
            }
        }
        Progress::Read { segment } if !is_quiet => eprintln!("all is stored; waiting for its WAL, up to {segment}"),
        Progress::Whole { backup } if !is_quiet => {
            eprintln!("backup {} is whole; counting its source, for the proof", shorten(&backup));
        }
        Progress::Read { .. } | Progress::Whole { .. } => {}
    };
    let backup = jobs::take(paths, backups, name, tell).await.map_err(|error| failure(&error))?;
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if global.json {
        let mut value = value(&backup);
        value["took_ms"] = took.into();
        println!("{value}");
        return Ok(exit_code::DONE);
    }
    let label = &backup.label;
    println!(
        "backup {}  {} in {} files, {} added to the repository, {} pages checked, {}",
        short(&backup),
        Bytes(label.bytes),
        label.files,
        Bytes(label.stored_bytes),
        label.pages,
        screen::took(took),
    );
    Ok(exit_code::DONE)
}

fn list(global: &Global, paths: &Paths, backups: &Backups) -> Result<u8, Failure> {
    let listed = backups::list(backups).map_err(|error| failure(&error))?;
    if global.json {
        let with_proof = |(backup, proof): &(Backup, Option<Proof>)| {
            let mut value = value(backup);
            value["proof"] = json!(proof);
            value
        };
        let all: Vec<Value> = listed.iter().map(with_proof).collect();
        println!(
            "{}",
            json!({"repository": backups.policy.target.to_string(), "backups": all, "copy": backup_copy::value(paths)?})
        );
        return Ok(exit_code::DONE);
    }
    if listed.is_empty() {
        println!("{}", again::text("no base backup yet: `mainstay backup now` takes one"));
        return Ok(exit_code::DONE);
    }
    println!(
        "{}",
        screen::bold("ID        CONSISTENT AT             SIZE        ADDED       FROM        RESTORE PROVEN    FOR")
    );
    for (backup, proof) in &listed {
        let label = &backup.label;
        println!(
            "{}  {}  {:<10}  {:<10}  postgres-{}  {}  {}",
            short(backup),
            label.ended,
            Bytes(label.bytes).to_string(),
            Bytes(label.stored_bytes).to_string(),
            label.member,
            proven(proof.as_ref()),
            label.name.as_deref().unwrap_or(if label.is_scheduled { "-" } else { "by hand" }),
        );
        for fault in proof.iter().flat_map(|proof| &proof.faults) {
            println!("          {} {fault}", screen::red("fault:"));
        }
    }
    println!("in {}", backups.policy.target);
    if let Some(line) = backup_copy::line(paths)? {
        println!("{line}");
    }
    Ok(exit_code::DONE)
}

/// When its restore was proven, in the width of its column.
fn proven(proof: Option<&Proof>) -> String {
    match proof {
        None => screen::dim(&format!("{:<16}", "not yet")),
        Some(proof) => {
            let text = proof.ended.to_string();
            let when = text.get(..16).unwrap_or(&text).replace('T', " ");
            if proof.is_proven { screen::green(&when) } else { screen::red(&format!("{:<16}", "FAILED")) }
        }
    }
}

async fn check(global: &Global, paths: &Paths, backups: Backups, read_data: bool) -> Result<u8, Failure> {
    let checking = tokio::task::spawn_blocking(move || backups::check(&backups, read_data));
    let checked = checking.await.map_err(|error| Failure::bug(error.to_string()))?;
    let Checked { backups, segments, wal_bytes, newest, mut faults, warnings } =
        checked.map_err(|error| failure(&error))?;
    faults.extend(second::faults(paths).map_err(|error| failure(&error))?);
    if global.json {
        let count = backups.len();
        println!(
            "{}",
            json!({"backups": count, "segments": segments, "wal_bytes": wal_bytes, "newest_wal_at": newest, "read_data": read_data, "faults": faults, "warnings": warnings})
        );
    } else {
        let newest = newest.map_or_else(|| "none".to_owned(), |at| at.to_string());
        println!(
            "{} base backups, {segments} segments of WAL ({}), the newest of {newest}",
            backups.len(),
            Bytes(wal_bytes)
        );
        if let Some(line) = backup_copy::line(paths)? {
            println!("{line}");
        }
        for fault in &faults {
            println!("{} {fault}", screen::red("fault:"));
        }
        if !warnings.is_empty() {
            let count = warnings.len();
            println!("{} {count} packs that no backup refers to take space until it is freed", screen::yellow("note:"));
        }
    }
    if faults.is_empty() {
        if !global.json {
            println!(
                "{}",
                if read_data {
                    "every byte is as it was written"
                } else {
                    "everything is there; its bytes were not read"
                }
            );
        }
        return Ok(exit_code::DONE);
    }
    let text = if global.json { String::new() } else { format!("{} faults in the backups", faults.len()) };
    let help = "a new base backup is whole by itself: `mainstay backup now`; look at the disk below the folder";
    if global.json { Ok(exit_code::FAILED) } else { Err(Failure::failed("MS1111", text).help(help)) }
}

fn card(global: &Global, paths: &Paths, launch: &Launch) -> Result<u8, Failure> {
    let card = backups::card_text(paths, launch.stack.as_str(), launch.environment.as_str());
    let card = card.map_err(|error| failure(&error))?;
    if global.json {
        println!("{}", json!({"card": card}));
    } else {
        print!("{card}");
    }
    backups::card_was_shown(paths);
    Ok(exit_code::DONE)
}

fn short(backup: &Backup) -> &str {
    shorten(&backup.id)
}

/// As people call a backup.
pub(super) fn shorten(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

pub(super) fn value(backup: &Backup) -> Value {
    json!({"id": backup.id, "label": backup.label})
}

/// For `up`: the folder is made, or known again; nothing was started when it is not right.
pub(crate) fn establish(place: &Place) -> Result<Option<Established>, Failure> {
    let stack = &place.parsed.stack;
    let whose = Whose { name: stack.name.as_str(), environment: stack.environment.as_str(), folder: &place.origin };
    let backup = stack.database.as_ref().and_then(|database| database.backup.as_ref());
    if let Some(away) = backup.and_then(mainstay_stack::model::Backup::away) {
        let store = away.store;
        second::seal_keys(&place.paths, store).map_err(|error| failure(&error))?;
        [&store.access_key, &store.secret_key].iter().for_each(|variable| mainstay_supervisor::launch::hide(variable));
    }
    backups::establish(&place.paths, whose, backup).map_err(|error| failure(&error))
}

/// For `up`: where backups go, and the card until it was shown once.
pub(crate) fn say(established: &Established) {
    board::say(
        "backups",
        &format!("WAL goes to {}; `{}` takes a base backup", established.target, again::command("backup now")),
    );
    if established.is_same_device {
        board::say("", "this is the disk of the data: it does not outlive that disk");
    }
    if let Some(copy) = &established.copy {
        board::say("", &format!("the folder is copied to {copy}"));
    }
    if let Some(card) = &established.card {
        for line in card.lines() {
            board::say("", line);
        }
    }
}

/// A finished file of WAL goes into the archive. PostgreSQL keeps it and asks again until this ends well.
pub(crate) fn wal_push(options: &WalPush) -> Result<u8, Failure> {
    let io = |error: std::io::Error| Failure::environment("MS3110", format!("cannot see the data directory: {error}"));
    let data = std::env::current_dir().map_err(io)?;
    let until = if options.store { Until::InStore } else { Until::OnDisk };
    match wal::push(&options.archive, &options.recipient, (&data, &options.path), until) {
        Ok(_) => Ok(exit_code::DONE),
        Err(error @ PushError::Different { .. }) => Err(Failure::refused("MS4110", full_text(&error))),
        Err(error) => Err(Failure::environment("MS3110", full_text(&error))),
    }
}

pub(super) fn failure(error: &Error) -> Failure {
    // What the library adds to a key that does not fit are pages of its own trace.
    let is_key = matches!(error, Error::Repository(RepositoryError::Key { .. }));
    let text = if is_key { error.to_string() } else { full_text(error) };
    match error {
        Error::Stack(_) => Failure::environment("MS3110", text).help("`mainstay up` writes it again"),
        Error::NotConfigured => Failure::refused("MS4111", text)
            .help("write [database.backup] with target = \"/some/folder\" into the stack file, then `down` and `up`"),
        Error::OtherStack { .. } | Error::OtherState(_) | Error::OtherStore(_) => Failure::refused("MS4110", text)
            .help("name another folder as database.backup.target; this one is left as it is"),
        Error::OtherCard { .. } => Failure::refused("MS4110", text).help(
            "take the card of that repository, or name the repository of this card as --from; if they belong together, the \
             files in restic/keys are damaged or gone: take another copy of the folder. Nothing was changed",
        ),
        Error::Closed { folder, .. } => Failure::environment("MS3110", text).help(format!(
            "another target, as below /srv; or `chmod o+x {}`, if others may pass through it",
            folder.display()
        )),
        Error::InUse(_) => Failure::refused("MS4111", text).help(
            "another state folder: --state DIR; or `mainstay restore --to MOMENT --swap` on the stack that is there",
        ),
        Error::NoKey(variable) => Failure::refused("MS4111", text).help(format!(
            "give it in the environment as {variable}, or name a file of it by {variable}_FILE; it is sealed in the state folder"
        )),
        Error::NoCopy => Failure::refused("MS4111", text)
            .help("write copy = { to = \"s3://bucket/prefix\" } into [database.backup], then `down` and `up`"),
        Error::Copy(_) => Failure::environment("MS3112", text)
            .help("the words after the store's name are its own; the folder of the backups is untouched"),
        Error::NotKept(_) => Failure::user("MS2110", text).help("`--swap` said the name when it was done"),
        Error::NoBackup(_) | Error::Unreachable(_) => {
            Failure::user("MS2110", text).help("`mainstay backup list` shows the base backups")
        }
        Error::NotFound(_) => Failure::user("MS2110", text).help(
            "nothing was restored; --dry-run says of any moment whether it can be reached, and what it leaves out",
        ),
        Error::Unreadable(_) => Failure::failed("MS1111", text).help(
            "`mainstay backup prove ID` writes a proof anew; a label that cannot be read may be a later mainstay's",
        ),
        Error::NotReached { .. } => Failure::failed("MS1112", text)
            .help("nothing is left of the attempt; `mainstay backup check` looks for damage and gaps"),
        Error::Busy { .. } => Failure::environment("MS3111", text)
            .help("`mainstay ps` shows what the control plane runs; --wait SECONDS waits longer; nothing was changed"),
        Error::NoSpace { .. } => Failure::environment("MS3110", text).help("make space there"),
        Error::File(_) | Error::Place(_) | Error::Io { .. } | Error::Secrets(_) => Failure::environment("MS3110", text)
            .help("the folder of database.backup.target must be there for mainstay to write, with space"),
        Error::Repository(_)
        | Error::Backup(_)
        | Error::Access(_)
        | Error::NoServer(_)
        | Error::Past(_)
        | Error::Dump(_)
        | Error::Get(_)
        | Error::NoWal { .. } => {
            Failure::failed("MS1110", text).help("earlier backups are untouched; `mainstay status` shows the database")
        }
    }
}
