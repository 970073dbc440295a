//! Releases on disk: `releases/vN` in the state folder, and the record of the rollout under way.
//!
//! A release is a folder that nobody changes: its files, its stack file, `release.json`. What is live is what
//! `launch.json` and `stack.toml` say. A rollout's record in the phase `commit` is the moment from which the new release
//! is live: whoever begins next finishes what it says.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mainstay_api::{Release, ReleaseState};
use mainstay_decide::rollout::{Phase, Rollout};
use mainstay_supervisor::durable;
use mainstay_types::Timestamp;
use rustix::fs::{FlockOperation, flock};

use crate::launch::Launch;
use crate::paths::Paths;

/// Begin of the name of a folder in which a release is put together.
const INCOMING: &str = ".incoming-";
/// The same of one that is being removed: nobody adopts it any more.
const GOING: &str = ".going-";

/// Folder of all releases.
pub fn folder(paths: &Paths) -> PathBuf {
    paths.state.join("releases")
}

/// Folder of one.
pub fn folder_of(paths: &Paths, number: u64) -> PathBuf {
    folder(paths).join(format!("v{number}"))
}

/// The files of one.
pub fn files_of(paths: &Paths, number: u64) -> PathBuf {
    folder_of(paths, number).join("files")
}

/// The stack file of one, as text.
///
/// **Errors**: it is not kept.
pub fn stack_text(paths: &Paths, number: u64) -> io::Result<String> {
    std::fs::read_to_string(folder_of(paths, number).join("stack.toml"))
}

/// What was seen of a release while it was rolled out: a line a second.
pub fn evidence_file(paths: &Paths, number: u64) -> PathBuf {
    folder_of(paths, number).join("evidence.jsonl")
}

fn record_file(paths: &Paths) -> PathBuf {
    paths.state.join("rollout.json")
}

/// One release.
///
/// **Errors**: it is not kept, or cannot be read.
pub fn load(paths: &Paths, number: u64) -> io::Result<Release> {
    let bytes = std::fs::read(folder_of(paths, number).join("release.json"))?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

/// Writes what is known of one durably.
///
/// **Errors**: the file system's.
pub fn save(paths: &Paths, release: &Release) -> io::Result<()> {
    save_in(&folder_of(paths, release.number), release)
}

/// The same in a folder that is being put together.
///
/// **Errors**: the file system's.
pub fn save_in(folder: &Path, release: &Release) -> io::Result<()> {
    durable::replace(&folder.join("release.json"), &serde_json::to_vec_pretty(release)?, 0o644)
}

/// Numbers that are taken, whether their release can be read or not.
fn numbers(paths: &Paths) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder(paths)) else { return Vec::new() };
    let numbers = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.strip_prefix('v')?.parse::<u64>().ok()
    });
    numbers.collect()
}

/// Those that are kept, newest first. One that cannot be read is none.
pub fn list(paths: &Paths) -> Vec<Release> {
    let mut all: Vec<Release> = numbers(paths).into_iter().filter_map(|number| load(paths, number).ok()).collect();
    all.sort_by_key(|release| std::cmp::Reverse(release.number));
    all
}

/// Gives a release that was put together its number and its place.
///
/// **Errors**: it is not there, or the file system's.
pub(crate) fn adopt(paths: &Paths, incoming: &str, live: u64) -> io::Result<Release> {
    if incoming.contains('/') || !incoming.starts_with(INCOMING) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{incoming:?} is no folder of a new release")));
    }
    let from = folder(paths).join(incoming);
    let mut release: Release = serde_json::from_slice(&std::fs::read(from.join("release.json"))?)?;
    release.number = numbers(paths).into_iter().max().unwrap_or(0).max(live) + 1;
    release.state = ReleaseState::Rolling;
    save_in(&from, &release)?;
    std::fs::rename(&from, folder_of(paths, release.number))?;
    File::open(folder(paths))?.sync_all()?;
    Ok(release)
}

/// Makes a folder in which a release is put together. Whoever does so holds the file: what nobody holds was left behind.
///
/// **Errors**: the file system's.
pub fn begin(paths: &Paths, at: Timestamp) -> io::Result<(PathBuf, File)> {
    clear(paths);
    let path = folder(paths).join(format!("{INCOMING}{}-{}", std::process::id(), at.as_micros()));
    std::fs::create_dir_all(&path)?;
    let held = File::open(&path)?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    // Somebody may have found it before it was held.
    std::fs::symlink_metadata(&path)?;
    Ok((path, held))
}

/// Removes what deploys that were killed left behind. What cannot be removed is tried again with the next start.
pub fn clear(paths: &Paths) {
    for entry in std::fs::read_dir(folder(paths)).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.starts_with(GOING) {
            std::fs::remove_dir_all(&path).ok();
        }
        let Some(rest) = name.strip_prefix(INCOMING) else { continue };
        let Ok(held) = File::open(&path) else { continue };
        if flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Under another name nobody can adopt it while it goes.
            let going = path.with_file_name(format!("{GOING}{rest}"));
            if std::fs::rename(&path, &going).is_ok() {
                std::fs::remove_dir_all(&going).ok();
            }
        }
    }
}

/// The record of the rollout under way.
///
/// **Errors**: it cannot be read.
pub fn rollout(paths: &Paths) -> io::Result<Option<Rollout>> {
    match std::fs::read(record_file(paths)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        // No folder of a stack: whoever needs one says so.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn write_rollout(paths: &Paths, rollout: &Rollout) -> io::Result<()> {
    durable::replace(&record_file(paths), &serde_json::to_vec_pretty(rollout)?, 0o644)
}

/// Makes a release of what is live, for a drill. With `is_kept` its files are a copy of those of the one that is live; else
/// it has none, and its instances run where those of the live one do.
///
/// **Errors**: what is live cannot be read, or there is no space.
pub(crate) fn again(paths: &Paths, live: &Launch, is_kept: bool, at: Timestamp) -> io::Result<Release> {
    let before = load(paths, live.release).ok().filter(|_| live.is_deployed(paths));
    let (incoming, _held) = begin(paths, at)?;
    let name = incoming.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let made = || {
        std::fs::create_dir(incoming.join("files"))?;
        for folder in [folder(paths), incoming.clone(), incoming.join("files")] {
            // Services pass through to their files, whatever the umask here.
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        }
        if is_kept {
            copy(&files_of(paths, live.release), &incoming.join("files"))?;
        }
        durable::replace(&incoming.join("stack.toml"), &std::fs::read(paths.stack_file())?, 0o644)?;
        let release = Release {
            number: 0,
            made_at: at,
            by: "a drill".to_owned(),
            environment: live.environment.clone(),
            hash: before.as_ref().map_or_else(String::new, |before| before.hash.clone()),
            files: before.as_ref().map_or(0, |before| before.files),
            bytes: before.as_ref().map_or(0, |before| before.bytes),
            source: if before.is_some() { format!("v{}", live.release) } else { "folder".to_owned() },
            commit: before.as_ref().and_then(|before| before.commit.clone()),
            is_dirty: before.as_ref().is_some_and(|before| before.is_dirty),
            // So that going back from it goes over no migration.
            migrations: before.as_ref().map_or_else(Vec::new, |before| before.migrations.clone()),
            folder: before.as_ref().map_or_else(String::new, |before| before.folder.clone()),
            state: ReleaseState::Rolling,
            since: at,
            reason: None,
            is_trial: true,
        };
        save_in(&incoming, &release)?;
        adopt(paths, &name, live.release)
    };
    made().inspect_err(|_| drop(std::fs::remove_dir_all(&incoming)))
}

/// Copies a folder with all that a release holds: files, folders, links.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            std::fs::create_dir(&target)?;
            copy(&source, &target)?;
            std::fs::set_permissions(&target, std::fs::metadata(&source)?.permissions())?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            // With its mode.
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The run that a release is.
pub(crate) fn launch_of(paths: &Paths, release: &Release, live: &Launch, rollout: &Rollout) -> Launch {
    let files = files_of(paths, release.number);
    if rollout.trial.is_some_and(|trial| !trial.is_kept) {
        return Launch {
            release: release.number,
            fleet: rollout.fleet.clone(),
            generation: live.generation.max(release.number) + 1,
            ..live.clone()
        };
    }
    Launch {
        folder: if release.folder.is_empty() { files.clone() } else { files.join(&release.folder) },
        project: files,
        release: release.number,
        fleet: rollout.fleet.clone(),
        generation: live.generation.max(release.number) + 1,
        ..live.clone()
    }
}

/// Makes the release of a rollout in its phase `commit` what this stack is. The same again changes nothing.
pub(crate) fn commit(paths: &Paths, rollout: &Rollout, at: Timestamp) -> io::Result<()> {
    let mut release = load(paths, rollout.release)?;
    let live = Launch::load(paths)?;
    let text = stack_text(paths, rollout.release)?;
    durable::replace(&paths.stack_file(), text.as_bytes(), 0o644)?;
    launch_of(paths, &release, &live, rollout).save(paths)?;
    if let Ok(mut before) = load(paths, rollout.from) {
        (before.state, before.since) = (ReleaseState::Former, at);
        save(paths, &before)?;
        strip(paths, &before);
    }
    (release.state, release.since, release.reason) = (ReleaseState::Live, at, None);
    save(paths, &release)?;
    prune(paths, rollout);
    forget_rollout(paths)
}

fn forget_rollout(paths: &Paths) -> io::Result<()> {
    match std::fs::remove_file(record_file(paths)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::open(&paths.state)?.sync_all()
}

/// A rollout is over without its release being live.
pub(crate) fn give_up(paths: &Paths, rollout: &Rollout, reason: &str, at: Timestamp) -> io::Result<()> {
    // One that is not there, or cannot be read any more, needs no mark: its rollout is over all the same.
    if let Ok(mut release) = load(paths, rollout.release) {
        let reason = Some(reason.to_owned());
        (release.state, release.since, release.reason) = match &rollout.was {
            // An earlier release is what it was: the one to go back to is the last that was live.
            Some((state, since)) if *state == ReleaseState::Former.to_string() => (ReleaseState::Former, *since, None),
            Some((_, since)) => (ReleaseState::Failed, *since, reason),
            None => (ReleaseState::Failed, at, reason),
        };
        save(paths, &release)?;
        strip(paths, &release);
    }
    forget_rollout(paths)?;
    prune(paths, rollout);
    Ok(())
}

/// A drill's release that is over keeps its number and what was seen of it, and no files: nobody goes back to it.
fn strip(paths: &Paths, release: &Release) {
    if release.is_trial {
        // What cannot be removed goes with the folder, when newer ones push it out.
        std::fs::remove_dir_all(files_of(paths, release.number)).ok();
    }
}

/// What was found where a rollout may have been under way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The one that is under way.
    pub rollout: Option<Rollout>,
    /// What of it is damaged, and what that means, for people.
    pub damage: Option<String>,
}

/// What a control plane, or `up`, finds when it begins: a commit is finished; `is_over`: nothing runs, and a rollout
/// that was under way is given up. What is damaged keeps nobody from beginning: the release that was live before is.
///
/// **Errors**: the file system's.
pub fn settle(paths: &Paths, is_over: bool, at: Timestamp) -> io::Result<Settled> {
    clear(paths);
    let rollout = match rollout(paths) {
        Ok(None) => return Ok(Settled::default()),
        Ok(Some(rollout)) => rollout,
        Err(error) if is_damage(&error) => {
            return set_aside(paths, &error, at).map(|damage| Settled { rollout: None, damage: Some(damage) });
        }
        Err(error) => return Err(error),
    };
    if rollout.phase == Phase::Commit {
        return match whole(paths, rollout.release) {
            Ok(()) => commit(paths, &rollout, at).map(|()| Settled::default()),
            Err(error) if is_damage(&error) => uncommitted(paths, &rollout, &error, (is_over, at)),
            Err(error) => Err(error),
        };
    }
    if is_over {
        let reason = format!("the stack was brought down while it was at {}", rollout.phase.name());
        give_up(paths, &rollout, &reason, at)?;
        return Ok(Settled::default());
    }
    Ok(Settled { rollout: Some(rollout), damage: None })
}

/// Whether something is not what was written there, or is gone; anything else may be better at the next try.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotADirectory | NotFound | UnexpectedEof)
}

/// Whether all of a release is there that a commit needs.
fn whole(paths: &Paths, number: u64) -> io::Result<()> {
    let release = load(paths, number)?;
    stack_text(paths, number)?;
    std::fs::read_dir(files_of(paths, number).join(&release.folder)).map(drop)
}

/// A record that nobody can read: how far its rollout was is not known, and what `launch.json` says is live.
fn set_aside(paths: &Paths, error: &io::Error, at: Timestamp) -> io::Result<String> {
    let aside = record_file(paths).with_extension("json.damaged");
    std::fs::rename(record_file(paths), &aside)?;
    File::open(&paths.state)?.sync_all()?;
    stay(paths)?;
    let live = Launch::load(paths).ok().filter(|live| live.is_deployed(paths)).map(|live| live.release);
    let mut text = format!("the record of a rollout cannot be read ({error}) and is kept as {}", aside.display());
    for mut release in list(paths) {
        let state = match release.state {
            ReleaseState::Rolling | ReleaseState::Live if live == Some(release.number) => ReleaseState::Live,
            ReleaseState::Rolling => {
                text.push_str(&format!("; v{} was on its way and is taken back", release.number));
                release.reason = Some("the record of its rollout could not be read any more".to_owned());
                ReleaseState::Failed
            }
            ReleaseState::Live => ReleaseState::Former,
            ended @ (ReleaseState::Former | ReleaseState::Failed) => ended,
        };
        if state != release.state {
            (release.state, release.since) = (state, at);
            save(paths, &release)?;
        }
    }
    Ok(text)
}

/// A release that was to be live, and whose files are gone or damaged. Until `launch.json` says that it is, the one
/// before it is still; afterwards what runs of it goes on.
fn uncommitted(
    paths: &Paths,
    rollout: &Rollout,
    error: &io::Error,
    (is_over, at): (bool, Timestamp),
) -> io::Result<Settled> {
    let (number, from) = (rollout.release, rollout.from);
    let what = format!("v{number} was about to be live and cannot be read any more ({error})");
    if Launch::load(paths).is_ok_and(|live| live.release == number) {
        for (number, state) in [(from, ReleaseState::Former), (number, ReleaseState::Live)] {
            if let Ok(mut release) = load(paths, number) {
                (release.state, release.since) = (state, at);
                save(paths, &release)?;
            }
        }
        forget_rollout(paths)?;
        let text = format!(
            "{what}: what runs of it goes on, and may not start again; `mainstay rollback` goes back to an earlier one"
        );
        return Ok(Settled { rollout: None, damage: Some(text) });
    }
    stay(paths)?;
    let reason = format!("v{number} cannot be read any more: {error}");
    let damage = Some(format!("{what}: v{from} stays live"));
    if is_over {
        give_up(paths, rollout, &reason, at)?;
        return Ok(Settled { rollout: None, damage });
    }
    // Its instances run until those of the release before are whole again.
    let back = rollout.back(reason, at);
    write_rollout(paths, &back)?;
    Ok(Settled { rollout: Some(back), damage })
}

/// The stack file of the release that stays live, in the place of one that a commit may have put there already.
fn stay(paths: &Paths) -> io::Result<()> {
    // Of the stack file's own folder there is no other copy.
    let Some(live) = Launch::load(paths).ok().filter(|live| live.is_deployed(paths)) else { return Ok(()) };
    match stack_text(paths, live.release) {
        Ok(text) => durable::replace(&paths.stack_file(), text.as_bytes(), 0o644),
        Err(error) if is_damage(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what is not kept any more, the oldest first: more than `deploy.keep` that were live, and as many that failed,
/// besides the two of the rollout. What cannot be removed is tried again with the next.
fn prune(paths: &Paths, rollout: &Rollout) {
    let keep = rollout.rules.keep as usize;
    let is_other = |release: &Release| ![rollout.release, rollout.from].contains(&release.number);
    let (trials, real): (Vec<Release>, Vec<Release>) =
        list(paths).into_iter().filter(is_other).partition(|release| release.is_trial);
    let (failed, former): (Vec<Release>, Vec<Release>) =
        real.into_iter().partition(|release| release.state == ReleaseState::Failed);
    // Failed ones, and those of drills, push out no release that one may go back to.
    let gone = [former, failed, trials].into_iter().flat_map(|kind| kind.into_iter().skip(keep));
    for release in gone {
        std::fs::remove_dir_all(folder_of(paths, release.number)).ok();
    }
    clear(paths);
}

/// The stack file's own folder takes the place of the release that is live.
///
/// **Errors**: the file system's.
pub fn leave(paths: &Paths, at: Timestamp) -> io::Result<()> {
    let Some((_, mut release)) = live(paths) else { return Ok(()) };
    (release.state, release.since) = (ReleaseState::Former, at);
    save(paths, &release)
}

/// The release that is live, when it is one that is kept and not the stack file's own folder.
pub fn live(paths: &Paths) -> Option<(Launch, Release)> {
    let launch = Launch::load(paths).ok()?;
    if !launch.is_deployed(paths) {
        return None;
    }
    let release = load(paths, launch.release).ok()?;
    Some((launch, release))
}

/// Those of these migrations that no file takes back. Flyway's: `U4__x.sql` takes back `V4__…`; sqlx's: `4_x.down.sql`
/// takes back `4_x.up.sql`.
pub fn irreversible(these: &[&String], all: &[String]) -> Vec<String> {
    let is_undo = |name: &str| name.starts_with('U') || name.ends_with(".down.sql");
    let has_undo = |name: &str| {
        let version = name.strip_prefix('V').and_then(|rest| rest.split("__").next());
        let flyway = version.map(|version| format!("U{version}__"));
        let sqlx = name.strip_suffix(".up.sql").map(|stem| format!("{stem}.down.sql"));
        all.iter().any(|other| {
            flyway.as_ref().is_some_and(|prefix| other.starts_with(prefix.as_str())) || sqlx.as_ref() == Some(other)
        })
    };
    these.iter().filter(|name| !is_undo(name) && !has_undo(name)).map(|name| (*name).clone()).collect()
}

#[cfg(test)]
mod tests;
