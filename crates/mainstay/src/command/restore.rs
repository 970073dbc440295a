//! `mainstay restore`: the past of the database beside the present.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use mainstay_api::{ErrandAsked, ErrandKind};
use mainstay_backup::wal::{self, GetError};
use mainstay_client::Client;
use mainstay_controller::backups::find::{self, Asked};
use mainstay_controller::backups::swap::{self, Incoming};
use mainstay_controller::backups::{Backups, PATIENCE, card, jobs, past};
use mainstay_controller::paths::Paths;
use mainstay_decide::past::{Nudge, Wanted};
use mainstay_types::{Bytes, Secret, exit_code, full_text};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::backup::{failure, launch, patience};
use super::backup_copy::{self, From, StoreOptions};
use super::interrupt;
use super::restore_show::{self, Beside, millis};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// The moment: a time in UTC, a position (0/3000060), `xid N`, `name NAME`, `release N`, `before TABLE was dropped`,
    /// or `latest`
    #[arg(long, value_name = "MOMENT", required_unless_present_any = ["undo", "from"])]
    to: Option<String>,
    /// Move the moment that is given or found, as in -30s or +5m
    #[arg(long, value_name = "±TIME", allow_hyphen_values = true, conflicts_with = "undo")]
    nudge: Option<String>,
    /// The folder of a repository, or its copy in an object store as s3://BUCKET/PREFIX, on a machine that has nothing
    /// else of the stack: its database is restored into the state folder, for `mainstay up`
    #[arg(long, value_name = "DIR", requires = "card", conflicts_with_all = ["swap", "undo", "once", "dry_run"])]
    from: Option<PathBuf>,
    /// File of the recovery card, or of its password; `-` reads it
    #[arg(long, value_name = "FILE", requires = "from")]
    card: Option<PathBuf>,
    #[command(flatten)]
    store: StoreOptions,
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
    /// Put it in the place of the present, behind the router; what was there is kept beside it
    #[arg(long, conflicts_with_all = ["once", "dry_run"])]
    swap: bool,
    /// Put the present that an earlier --swap replaced back into its place
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "swap", "once", "dry_run"])]
    undo: Option<String>,
    /// Longest time to wait for who works on the backups now, as the control plane does by itself
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    wait: u64,
    /// The stack's name: agrees to --swap or --undo without being asked
    #[arg(long, value_name = "STACK")]
    confirm: Option<String>,
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
    /// The archive is supplied from a store: ask for what is not there, and wait
    #[arg(long)]
    ask: bool,
    /// Name of the file of WAL
    name: String,
    /// Where it is wanted
    into: PathBuf,
}

/// A restore was ended before it was there.
const GIVEN_UP: &str = "given up; nothing of the present was touched, and what was restored so far is removed by now or \
    by the next restore";

/// Above 128 PostgreSQL ends recovery instead of taking it for the end of the archive (`RestoreArchivedFile`).
const DAMAGED: u8 = 200;

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    if let (Some(from), Some(card)) = (&options.from, &options.card) {
        return by_card(global, options, from, card).await;
    }
    let paths = crate::place::paths(global)?;
    let launch = launch(&paths)?;
    if let Some(kept) = &options.undo {
        return Box::pin(undo(global, options, (&paths, launch.stack.as_str()), kept)).await;
    }
    let asked = asked(options, "")?;
    let Into::Scratch = options.into;
    // A stack that is down has no folder for sockets, and this server needs one.
    paths.create().map_err(|error| crate::place::folder_failure(&error))?;
    let backups = Arc::new(open_backups(options, &paths, launch.stack.as_str())?);
    // What is planned with must still be there when it is restored.
    let held = if options.dry_run { None } else { Some(backups.hold().await.map_err(|error| failure(&error))?) };
    let finding = async { find::plan(&backups, &paths, &asked).await.map_err(|error| failure(&error)) };
    let (found, plan) = interrupt::or(Box::pin(finding), GIVEN_UP).await?;
    let from = options.backup.as_deref();
    let Some(held) = held else {
        let beside = restore_show::Beside::planned(&backups, &paths, &plan, from).await;
        return restore_show::dry_run(global, (&found, &plan), &beside);
    };
    if !global.json {
        let size = Bytes(plan.backup.label.bytes);
        eprintln!("restoring backup {} ({size}), then replaying to {}", restore_show::short(&plan), plan.moment);
    }
    // Without a control plane nothing can be put in place: better known before a restore than after it.
    let client = if options.swap { Some(crate::place::client(global)?) } else { None };
    if let Some(client) = &client {
        client.status().await?;
    }
    let opening = async {
        let open = past::open_held(Arc::clone(&backups), &paths, &plan, held).await.map_err(|error| failure(&error))?;
        if let Err(error) = find::check(&found, &open).await {
            open.close().await;
            return Err(failure(&error));
        }
        // A test of the backups asks for no more than that the moment is reached.
        let beside = match options.once {
            true => None,
            false => Some(restore_show::Beside::opened(&backups, &paths, (&plan, from), &open).await),
        };
        Ok((open, beside))
    };
    let (open, beside) = interrupt::or(Box::pin(opening), GIVEN_UP).await?;
    if let (Some(client), Some(beside)) = (client, &beside) {
        // One document for programs: that of the exchange.
        if !global.json {
            restore_show::opened(global, &open, (&found, &plan), Some(beside), false);
        }
        let stack = launch.stack.as_str();
        let swapping = swap_in(global, options, (&paths, stack), &client, (backups.as_ref(), open, beside));
        return interrupt::or(Box::pin(swapping), "given up; the past may be the present by now").await;
    }
    restore_show::opened(global, &open, (&found, &plan), beside.as_ref(), !options.once);
    if options.once {
        open.close().await;
        return Ok(exit_code::DONE);
    }
    stay(open).await
}

/// The moment that is asked for.
fn asked(options: &Options, otherwise: &str) -> Result<Asked, Failure> {
    let wanted = Wanted::parse(options.to.as_deref().unwrap_or(otherwise)).map_err(|error| {
        Failure::user("MS2110", error.to_string()).help("as in --to \"2026-11-21 08:00\" (UTC) or --to latest")
    })?;
    let nudge = options.nudge.as_deref().map(nudge).transpose()?;
    Ok(Asked { wanted, nudge, backup: options.backup.clone() })
}

fn nudge(text: &str) -> Result<Nudge, Failure> {
    let (is_back, by) = match text.trim().split_at_checked(1) {
        Some(("-", by)) => (true, by),
        Some(("+", by)) => (false, by),
        _ => (false, text),
    };
    let by = mainstay_stack::units::duration(by.trim())
        .map_err(|error| Failure::user("MS2110", format!("--nudge {text}: {error}")).help("as in --nudge -30s"))?;
    Ok(Nudge { by, is_back })
}

fn open_backups(options: &Options, paths: &Paths, stack: &str) -> Result<Backups, Failure> {
    let opened = Backups::open(paths, stack).map_err(|error| failure(&error))?;
    Ok(opened.patient(patience(options.wait)))
}

/// With the repository and the card alone.
async fn by_card(global: &Global, options: &Options, from: &Path, card: &Path) -> Result<u8, Failure> {
    let text =
        if card == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(card) };
    let text =
        text.map_err(|error| Failure::environment("MS3110", format!("cannot read {}: {error}", card.display())))?;
    let password = card::password(&text).ok_or_else(|| {
        Failure::user("MS2110", format!("{} is no recovery card", card.display()))
            .help("it has a line `password …`, as `mainstay backup card` prints it")
    })?;
    let asked = asked(options, "latest")?;
    let come_from = backup_copy::folder_of(global, from, &options.store).await?;
    let folder = come_from.folder().to_owned();
    let mut opened = card::open(&folder, password, card::says(&text)).map_err(|error| failure(&error))?;
    opened.patience = patience(options.wait);
    match &come_from {
        From::Folder(_) => {}
        From::Fetched(_) => backup_copy::hand_over(&opened, &folder)?,
        From::Store(_, store) => opened = opened.in_store(Arc::clone(store)),
    }
    let paths = card::paths(&opened, &crate::place::state_base(global)?).map_err(|error| failure(&error))?;
    paths.create().map_err(|error| crate::place::folder_failure(&error))?;
    let io = |error: std::io::Error| Failure::environment("MS3031", format!("cannot copy the program: {error}"));
    let me = std::env::current_exe().map_err(io)?;
    super::up::copy_program(&me, &paths.program()).map_err(io)?;
    let (stack, environment) = (opened.about.stack.clone(), opened.about.environment.clone());
    if !global.json {
        eprintln!("restoring the stack {stack} ({environment}) from {}", folder.display());
    }
    let made = card::restore(opened, &paths, &asked).await;
    let made = made.map_err(|error| failure(&error))?;
    if global.json {
        println!(
            "{}",
            json!({
                "asked": made.found.asked, "found_at": made.found.at, "notes": made.found.notes,
                "stack": stack, "environment": environment, "backup": made.plan.backup.id, "lsn": made.lsn,
                "state": paths.state, "repository": folder, "restored_ms": millis(made.restored_in), "replayed_ms": millis(made.replayed_in),
            })
        );
        return Ok(exit_code::DONE);
    }
    let taken = (screen::took(millis(made.restored_in)), screen::took(millis(made.replayed_in)));
    println!("{} {} at {}; files {}, WAL {}", screen::green("restored"), made.plan.moment, made.lsn, taken.0, taken.1);
    for note in &made.found.notes {
        println!("{note}");
    }
    println!("in {}", paths.state.display());
    let next = format!(
        "`mainstay up` with the stack file of {stack} starts it, and runs migrations that are pending then: the environment \
         is {environment}"
    );
    println!("{}", again::text(&next));
    match come_from {
        From::Folder(_) => {}
        From::Fetched(_) => {
            let folder = folder.display();
            println!("the repository lies in {folder}: name it as database.backup.target, and the copy goes on");
            println!("where the target is the store itself, it goes on there, and {folder} can be removed");
        }
        From::Store(..) => {
            let (folder, from) = (folder.display(), from.display());
            println!("with database.backup.target = \"{from}\" it goes on there; {folder} can be removed");
        }
    }
    Ok(exit_code::DONE)
}

/// The past takes the place of the present, once a person agreed.
async fn swap_in(
    global: &Global,
    options: &Options,
    (paths, stack): (&Paths, &str),
    client: &Client,
    (backups, open, beside): (&Backups, past::Open, &Beside),
) -> Result<u8, Failure> {
    let what =
        "puts the past in the place of the present; what was written since is set aside. Sessions wait meanwhile";
    let (asked, confirm, of) = (global.clone(), options.confirm.clone(), stack.to_owned());
    // Beside everything else: who ends the command instead of answering is heard.
    let asking = tokio::task::spawn_blocking(move || {
        agree(&asked, confirm.as_deref(), &of, ("a restore in place of the present", what))
    });
    let said = asking.await.map_err(|error| Failure::bug(error.to_string()))?;
    if let Err(refused) = said {
        open.close().await;
        return Err(refused);
    }
    let incoming = swap::of_past(backups, open).await.map_err(|error| failure(&error))?;
    exchange(global, options, (paths, stack), (client, &incoming), Some(beside)).await
}

async fn undo(global: &Global, options: &Options, (paths, stack): (&Paths, &str), kept: &str) -> Result<u8, Failure> {
    let what =
        "puts back what an earlier restore replaced; what was written since is set aside. Sessions wait meanwhile";
    agree(global, options.confirm.as_deref(), stack, ("a restore in place of the present", what))?;
    let client = crate::place::client(global)?;
    client.status().await?;
    let backups = Backups::open(paths, stack).map_err(|error| failure(&error))?;
    let incoming = swap::of_kept(&backups, paths, kept).await.map_err(|error| failure(&error))?;
    exchange(global, options, (paths, stack), (&client, &incoming), None).await
}

/// A person agrees to what cannot be taken back without loss: to what, and what it does.
pub(super) fn agree(
    global: &Global,
    confirm: Option<&str>,
    stack: &str,
    (noun, what): (&str, &str),
) -> Result<(), Failure> {
    let refused = |text: String| {
        Failure::refused("MS4002", text).help(format!("nothing was changed; to agree: --confirm {stack}"))
    };
    if let Some(typed) = confirm {
        return if typed == stack {
            Ok(())
        } else {
            Err(refused(format!("--confirm says {typed:?}, the stack is {stack:?}")))
        };
    }
    if global.json || !std::io::stdin().is_terminal() {
        return Err(refused(format!("{noun} of {stack} must be agreed to")));
    }
    eprint!("This {what}.\nType the stack's name to go on: ");
    std::io::stderr().flush().ok();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| refused(format!("no answer: {error}")))?;
    if line.trim() == stack { Ok(()) } else { Err(refused(format!("the answer was {:?}", line.trim()))) }
}

async fn exchange(
    global: &Global,
    options: &Options,
    (paths, stack): (&Paths, &str),
    (client, incoming): (&Client, &Incoming),
    beside: Option<&Beside>,
) -> Result<u8, Failure> {
    let asked = ErrandAsked {
        errand: ErrandKind::Restore,
        member: None,
        drain_ms: None,
        is_forced: false,
        incoming: Some(incoming.path.clone()),
    };
    let status = super::errand::carry_out(client, &asked).await?;
    let again = format!("the restored data lies in pg/{} of the state folder", incoming.path);
    if !status.is_done {
        let reason = status.reason.unwrap_or_default();
        return Err(Failure::failed("MS1080", reason).help(format!("{again}; `mainstay status` shows the cluster")));
    }
    let took = status.ended_at.map(|ended| ended.saturating_since(status.asked_at).as_millis()).unwrap_or_default();
    let undo = format!("mainstay restore --undo {}", incoming.kept_as);
    let backups = open_backups(options, paths, stack)?;
    // Of the new timeline: what was taken before is of the one that was left.
    let taken = jobs::take(paths, backups, Some("after a restore in place".to_owned()), |_| {}).await;
    let pending = super::migrate::pending(global).await;
    if global.json {
        let backup = taken.as_ref().ok().map(|backup| backup.id.clone());
        let longest = status.sessions.map(|sessions| sessions.longest_hold_ms);
        println!(
            "{}",
            json!({"kept_as": incoming.kept_as, "undo": undo, "took_ms": took, "longest_hold_ms": longest, "backup": backup, "pending": pending.ok(), "beside": beside.map(Beside::json)})
        );
    } else {
        println!("{} the past is the present, after {took} ms; standbys are cloned again", screen::green("done"));
        println!("what was there is kept in pg/{} of the state folder", incoming.kept_as);
        if let Some(whose) = &status.migration {
            println!("a run of migrations was cut off: {whose}");
        }
        println!("back again: {undo}");
        match pending {
            Ok(scripts) if scripts.is_empty() => {}
            Ok(scripts) => {
                println!("pending again: {}; nothing was run", scripts.join(" "));
                let next = "`mainstay db migrate` runs them, and so does the next `mainstay up`: what is not wanted must go from the folder";
                println!("{}", again::text(next));
            }
            Err(error) => eprintln!("no migration was run; what is pending cannot be told: {}", error.text),
        }
        match &taken {
            Ok(backup) => println!("a new base backup: {}", super::backup::shorten(&backup.id)),
            Err(error) => eprintln!("no base backup yet ({error}); the control plane takes one when it is due"),
        }
    }
    Ok(exit_code::DONE)
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
    if options.ask {
        wal::supply::ask(&options.archive, options.system, &options.name)
            .map_err(|error| Failure { code: DAMAGED, ..Failure::environment("MS3112", error.to_string()) })?;
    }
    match wal::get(&options.archive, &Secret::new(key.trim()), options.system, &options.name, &options.into) {
        Ok(()) => Ok(exit_code::DONE),
        Err(GetError::Missing(_)) => Ok(exit_code::FAILED),
        Err(error) => Err(Failure { code: DAMAGED, ..Failure::failed("MS1111", full_text(&error)) }),
    }
}
