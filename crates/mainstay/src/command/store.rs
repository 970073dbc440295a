//! `mainstay store`: copies of what the store (Redis) holds, and the way back to one.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_cache::copies::{self, Laid, Wanted};
use mainstay_cache::{Copy, CopyError};
use mainstay_controller::copies::{self as store, Error, Opened};
use mainstay_controller::paths::Paths;
use mainstay_types::{Bytes, exit_code, full_text};
use serde_json::{Value, json};

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

/// Longest wait for the store to be there again with the copy. **Basis**: Redis loads some 50 MB a second on a busy core.
const BACK_WITHIN: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(50);
/// What a person's copy may take from those who serve: as low as it goes without waiting for an idle machine.
const NICE: i32 = 10;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
    /// Longest time to wait for who takes or loads a copy now, as the control plane does by itself
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = store::PATIENCE.as_secs())]
    wait: u64,
}

#[derive(Subcommand)]
enum What {
    /// Copies of the store, oldest first, with when each was loaded and counted
    Copies,
    /// Take a copy now; a second server loads it and counts its keys
    Copy {
        /// What it is for, shown in the list: "before the import"
        #[arg(long, value_name = "TEXT", value_parser = purpose)]
        name: Option<String>,
    },
    /// Load a copy in a second server again and count its keys; without COPY the newest
    Prove {
        /// Its name or how that begins
        copy: Option<String>,
    },
    /// Put a copy in the place of what the store holds; that is copied first and its files are kept
    Restore {
        /// The copy: its name, how that begins, or `latest`, the newest proven one that no restore took of what it replaced
        #[arg(long, value_name = "COPY")]
        from: String,
    },
}

/// Longest purpose of a copy: a line of a list. **Unit**: characters.
const PURPOSE_MAX: usize = 200;

/// What a copy is for: it is shown in a list, and kept in a note that is read at every look.
fn purpose(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("it has a line break or another control character; it is one line of a list".to_owned());
    }
    match text.chars().count() {
        count if count > PURPOSE_MAX => Err(format!("it has {count} characters, at most {PURPOSE_MAX} are kept")),
        _ => Ok(text.to_owned()),
    }
}

/// The process that the control plane starts.
#[derive(Args)]
pub(crate) struct Job {
    /// State folder of the stack and environment
    #[arg(long)]
    state: PathBuf,
    /// Folder of its sockets
    #[arg(long)]
    runtime: PathBuf,
}

pub(crate) async fn job(options: &Job) -> Result<u8, Failure> {
    let paths = Paths { state: options.state.clone(), runtime: options.runtime.clone() };
    match store::run(&paths).await.map_err(|error| failure(&error))? {
        Some(copy) => println!("{}", line_of_proof(&copy)),
        None => println!("another process works on the copies; tried again later"),
    }
    Ok(exit_code::DONE)
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    if !paths.launch_file().exists() {
        return Err(Failure::refused("MS4130", "this stack was never up: its store has no copies")
            .help("`mainstay up` starts it"));
    }
    let opened = Opened::open(&paths).map_err(|error| failure(&error))?;
    let wait = Duration::from_secs(options.wait);
    match &options.what {
        What::Copies => list(global, &opened),
        What::Copy { name } => take(global, &opened, wait, name.clone()).await,
        What::Prove { copy } => prove(global, &opened, wait, copy.as_deref()).await,
        What::Restore { from } => restore(global, &opened, wait, from).await,
    }
}

fn tell(global: &Global) -> impl Fn(&str) {
    let is_quiet = global.json;
    move |text: &str| {
        if !is_quiet {
            eprintln!("{text}");
        }
    }
}

fn list(global: &Global, opened: &Opened) -> Result<u8, Failure> {
    let copies = opened.list().map_err(|error| failure(&error))?;
    if global.json {
        println!("{}", json!({"copies": copies.iter().map(value).collect::<Vec<_>>()}));
        return Ok(exit_code::DONE);
    }
    if copies.is_empty() {
        println!("{}", again::text("no copy of the store yet: `mainstay store copy` takes one"));
        return Ok(exit_code::DONE);
    }
    println!("{}", screen::bold("COPY              MOMENT, UTC         SIZE        KEYS        LOADED, COUNTED   FOR"));
    for copy in &copies {
        let moment = copy.at.to_string().get(..19).unwrap_or_default().replace('T', " ");
        println!(
            "{:<16}  {moment}  {:<10}  {:<10}  {}  {}",
            copy.id,
            Bytes(copy.bytes).to_string(),
            copies::keys(&copy.before),
            proven(copy),
            screen::tame(copy.name.as_deref().unwrap_or(if copy.is_scheduled { "-" } else { "by hand" })),
        );
        for fault in copy.proof.iter().flat_map(|proof| &proof.faults) {
            println!("{:<16}  {} {}", "", screen::red("fault:"), screen::tame(fault));
        }
    }
    println!("the state folder keeps them: they do not outlive its disk");
    Ok(exit_code::DONE)
}

/// When it was proven, in the width of its column.
fn proven(copy: &Copy) -> String {
    match &copy.proof {
        None => screen::dim(&format!("{:<16}", "not yet")),
        Some(proof) if proof.faults.is_empty() => {
            let text = proof.at.to_string();
            screen::green(&text.get(..16).unwrap_or(&text).replace('T', " "))
        }
        Some(_) => screen::red(&format!("{:<16}", "FAILED")),
    }
}

async fn take(global: &Global, opened: &Opened, wait: Duration, name: Option<String>) -> Result<u8, Failure> {
    rustix::process::nice(NICE).ok();
    let alone = opened.alone(wait, tell(global)).await.map_err(|error| failure(&error))?;
    let opened = opened.again().map_err(|error| failure(&error))?;
    let wanted = Wanted::Asked { name };
    let copy = opened.take(&alone, wanted, tell(global)).await.map_err(|error| failure(&error))?;
    print(global, &copy);
    Ok(exit_code::DONE)
}

async fn prove(global: &Global, opened: &Opened, wait: Duration, name: Option<&str>) -> Result<u8, Failure> {
    rustix::process::nice(NICE).ok();
    let alone = opened.alone(wait, tell(global)).await.map_err(|error| failure(&error))?;
    let list = opened.list().map_err(|error| failure(&error))?;
    let copy = match name {
        Some(name) => copies::find(&list, name).map_err(|error| failure(&error.into()))?,
        None => list.last().cloned().ok_or_else(|| failure(&CopyError::NoCopy("yet".to_owned()).into()))?,
    };
    let copy = opened.prove(&alone, &copy).await.map_err(|error| failure(&error))?;
    print(global, &copy);
    Ok(exit_code::DONE)
}

async fn restore(global: &Global, opened: &Opened, wait: Duration, from: &str) -> Result<u8, Failure> {
    let tell = tell(global);
    let alone = opened.alone(wait, &tell).await.map_err(|error| failure(&error))?;
    let opened = &opened.again().map_err(|error| failure(&error))?;
    let list = opened.list().map_err(|error| failure(&error))?;
    let copy = copies::find(&list, from).map_err(|error| failure(&error.into()))?;
    tell(&format!("copy {} is loaded by a second server once more", copy.id));
    let copy = opened.prove(&alone, &copy).await.map_err(|error| failure(&error))?;
    // Before anything is laid beside its files: one that is there and cannot be asked is left as it is.
    let present = opened.copies.present().await.map_err(|error| not_asked(&error.into()))?;
    let before = match present {
        Some(_) => {
            let before = opened.keep_present(&alone, &copy).await.map_err(|error| failure(&error))?;
            tell(&format!("what the store holds now is copy {}", before.id));
            Some(before)
        }
        None => None,
    };
    opened.still_serves().map_err(|error| failure(&error))?;
    let laid = opened.copies.replace(&alone, &copy).await.map_err(|error| match error {
        CopyError::Response(_) | CopyError::NotOurs { .. } => not_asked(&error),
        error => failure(&error.into()),
    })?;
    // A store that ends again and again is started by the control plane, and begins with the copy then.
    let is_up = laid == Laid::Begins || crate::place::client(global)?.status().await.is_ok();
    let now = if is_up { Some(back(opened).await?) } else { None };
    let held = copies::keys(&copy.before);
    if global.json {
        let before = before.as_ref().map(value);
        println!("{}", json!({"restored": value(&copy), "before": before, "is_in_place": now.is_some(), "keys": now}));
        return Ok(exit_code::DONE);
    }
    match now {
        Some(now) => {
            println!("the store holds copy {} again: {now} keys of {held}; those whose time is over are gone", copy.id)
        }
        None => println!(
            "{}",
            again::text(&format!("the store does not run: the next `mainstay up` starts it with copy {}", copy.id))
        ),
    }
    if let Some(before) = before {
        println!("{}", again::text(&format!("undo: `mainstay store restore --from {}`", before.id)));
    }
    Ok(exit_code::DONE)
}

/// Waits for the store to be there with the copy; how many keys it holds.
async fn back(opened: &Opened) -> Result<u64, Failure> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < BACK_WITHIN {
        if !opened.copies.waits()
            && let Ok(Some(counts)) = opened.copies.present().await
        {
            // One that serves no more has put the copy away, and answers as well.
            opened.still_serves().map_err(|error| failure(&error))?;
            return Ok(copies::keys(&counts));
        }
        tokio::time::sleep(LOOK).await;
    }
    let text = format!("the store is not there again with the copy after {} s", BACK_WITHIN.as_secs());
    Err(Failure::failed("MS1130", text)
        .help("`mainstay status` and `mainstay logs store` say why; what it held is kept"))
}

fn line_of_proof(copy: &Copy) -> String {
    let keys = copies::keys(&copy.before);
    let took = copy.proof.as_ref().map_or(0, |proof| proof.took_ms);
    let size = Bytes(copy.bytes);
    format!(
        "copy {} is proven: {keys} keys as the store held, {size}; taken in {} ms, loaded and counted in {took} ms",
        copy.id, copy.took_ms
    )
}

fn print(global: &Global, copy: &Copy) {
    if global.json {
        println!("{}", value(copy));
    } else {
        println!("{}", line_of_proof(copy));
    }
}

fn value(copy: &Copy) -> Value {
    let keys = copies::keys(&copy.before);
    json!({
        "id": copy.id, "at": copy.at, "name": copy.name, "is_scheduled": copy.is_scheduled, "bytes": copy.bytes,
        "sha256": copy.sha256, "keys": keys, "took_ms": copy.took_ms, "is_proven": copy.is_proven(), "proof": copy.proof,
    })
}

/// The store is there, and no restore can be made of it now.
fn not_asked(error: &CopyError) -> Failure {
    let text = format!("the store runs and cannot be asked or ended now: {}", full_text(error));
    Failure::failed("MS1132", text).help(
        "nothing was changed, and no copy waits for its next start; try again when `mainstay status` shows it ready",
    )
}

fn failure(error: &Error) -> Failure {
    let text = full_text(error);
    match error {
        Error::NotConfigured => Failure::refused("MS4130", text)
            .help("write [cache] without persist = \"none\" into the stack file, then `down` and `up`"),
        Error::Copy(CopyError::NoCopy(_) | CopyError::Ambiguous(..)) => {
            Failure::user("MS2130", text).help("`mainstay store copies` shows them")
        }
        Error::Copy(CopyError::Busy(_)) => Failure::environment("MS3131", text)
            .help("`mainstay ps` shows what the control plane runs; --wait SECONDS waits longer; nothing was changed"),
        Error::NotRight(..) | Error::Copy(CopyError::Damaged { .. }) => Failure::failed("MS1131", text).help(
            "the store is untouched; `mainstay store copies` shows the others, `mainstay store copy` takes a new one",
        ),
        Error::Copy(CopyError::NotSaved(_) | CopyError::Response(_) | CopyError::NotOurs { .. }) => {
            Failure::failed("MS1130", text).help("earlier copies are untouched; `mainstay status` shows the store")
        }
        Error::Moved(_) => Failure::failed("MS1130", text).help(
            "nothing was restored, and no copy waits; `mainstay store restore` again, to the one that serves now",
        ),
        Error::Stack(_) => Failure::environment("MS3130", text).help("`mainstay up` writes it again"),
        Error::Copy(CopyError::NoSpace { .. }) => Failure::environment("MS3130", text)
            .help("free space on that disk; the store and earlier copies are untouched"),
        Error::Copy(CopyError::Io { .. } | CopyError::NoLook(_))
        | Error::Missing(_)
        | Error::Part(_)
        | Error::Record { .. }
        | Error::Secrets(_) => Failure::environment("MS3130", text).help("the store and earlier copies are untouched"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_copy_is_for_is_one_line_of_bounded_length() {
        assert_eq!(purpose("before the import").as_deref(), Ok("before the import"));
        assert_eq!(purpose(&"ü".repeat(PURPOSE_MAX)).map(|text| text.chars().count()), Ok(PURPOSE_MAX));
        for bad in ["two\nlines", "a\ttab", "\u{1b}[2J", "nul\0"] {
            assert!(purpose(bad).is_err(), "{bad:?}");
        }
        assert!(purpose(&"x".repeat(PURPOSE_MAX + 1)).is_err());
    }
}
