//! `mainstay down --delete-data`: the state of one stack in one environment is removed, after its name was typed.
//!
//! The folder is first given another name, under keep's lock: from then on the next `up` begins from nothing, and a
//! removal that is cut off leaves a folder that only waits to be removed again.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use mainstay_controller::backups::Target;
use mainstay_controller::launch::Launch;
use mainstay_controller::paths::Paths;
use rustix::fs::{FlockOperation, flock};

use crate::again;
use crate::failure::Failure;
use crate::screen;

/// End of the name of a folder whose removal has begun.
const DELETING: &str = ".deleting";

/// What `--delete-data` was told.
pub(crate) struct Consent<'a> {
    /// Value of `--confirm`.
    pub(crate) typed: Option<&'a str>,
    /// JSON is wanted: nobody is asked.
    pub(crate) json: bool,
}

/// Says what would be lost and wants the stack's name. Nothing is stopped or removed before that.
pub(crate) fn confirm(paths: &Paths, consent: &Consent<'_>) -> Result<(), Failure> {
    if !paths.state.is_dir() {
        if !leftovers(paths).is_empty() {
            // A removal that was cut off: agreed to already.
            return Ok(());
        }
        let text = format!("there is no data of this stack in {}", paths.state.display());
        return Err(Failure::user("MS2030", text).help("`--env` and `--state` must be those of its `up`"));
    }
    let name = ours(&paths.state)?;
    let refused = |text: String| {
        Failure::refused("MS4002", text).help(format!("nothing was stopped or deleted; to agree: --confirm {name}"))
    };
    if let Some(typed) = consent.typed {
        return if typed == name {
            Ok(())
        } else {
            Err(refused(format!("--confirm says {typed:?}, the stack is {name:?}")))
        };
    }
    if consent.json || !io::stdin().is_terminal() {
        return Err(refused(format!("deleting the data of {name} must be agreed to")));
    }
    eprintln!(
        "{} all data of stack {name} in {}: databases, stores, logs, events, generated passwords.",
        screen::red("This deletes"),
        paths.state.display()
    );
    eprintln!("{}", way_back(paths));
    eprint!("Type the stack's name to go on: ");
    io::stderr().flush().ok();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| refused(format!("cannot read the answer: {error}")))?;
    if line.trim() == name { Ok(()) } else { Err(refused(format!("the answer was {:?}, not {name:?}", line.trim()))) }
}

/// What is left of the data afterwards.
fn way_back(paths: &Paths) -> String {
    again::text(&match Target::load(paths) {
        Ok(Some(target)) => format!(
            "The backups in {} stay. What opens them is deleted here: afterwards the recovery card alone does. `mainstay \
             backup card` prints it now; after this nothing can.",
            target.folder.display()
        ),
        Ok(None) => {
            "There is no way back. No backups were configured: `mainstay db psql` or pg_dump makes a copy first."
                .to_owned()
        }
        Err(error) => format!(
            "Whether there are backups is not known: {} cannot be read: {error}. Without backups there is no way back, and \
             with them only by the recovery card, which is lost with this folder.",
            paths.state.join("backup.json").display()
        ),
    })
}

/// The folder was made by `up`: its stack's name. Anything else is not ours to delete.
fn ours(state: &Path) -> Result<String, Failure> {
    let foreign = |why: String| {
        Failure::refused("MS4003", format!("{} is not a state folder of mainstay: {why}", state.display()))
            .help("nothing was deleted; look at the folder, and remove it by hand if it is yours")
    };
    let (environment, stack) = (state.file_name(), state.parent().and_then(Path::file_name));
    let text = match std::fs::read(state.join("launch.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let strange = strangers(state).map_err(|error| foreign(error.to_string()))?;
            if let Some(strange) = strange.first() {
                return Err(foreign(format!("it has no launch.json, and holds {}", strange.display())));
            }
            return Ok(stack.unwrap_or_default().to_string_lossy().into_owned());
        }
        read => read.map_err(|error| foreign(format!("launch.json: {error}")))?,
    };
    let launch: Launch = serde_json::from_slice(&text).map_err(|error| foreign(format!("launch.json: {error}")))?;
    if stack != Some(launch.stack.as_str().as_ref()) || environment != Some(launch.environment.as_str().as_ref()) {
        return Err(foreign(format!("launch.json speaks of {} in {}", launch.stack, launch.environment)));
    }
    Ok(launch.stack.to_string())
}

/// What a start that was refused before it wrote `launch.json` may have left in a state folder, as earlier versions
/// did. It ran nothing: there are no data.
const OF_A_REFUSED_START: [&str; 11] = [
    "backup.json",
    "bin",
    "bin/mainstay",
    "bin/mainstay.new",
    "identity.age",
    "keep.lock",
    "logs",
    "ports.json",
    "runtime",
    "secrets.age",
    "stack.toml",
];

/// What is in the folder besides.
fn strangers(state: &Path) -> io::Result<Vec<PathBuf>> {
    let mut strange = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(state.join(&folder))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            if !OF_A_REFUSED_START.iter().any(|known| name == Path::new(known)) {
                strange.push(name);
            } else if entry.file_type()?.is_dir() {
                folders.push(name);
            }
        }
    }
    Ok(strange)
}

/// Removes the state and the sockets; the stack must be down. Answers how many bytes the files held.
pub(crate) fn delete(paths: &Paths) -> Result<u64, Failure> {
    let broken = |path: &Path, error: &io::Error| {
        Failure::failed("MS1009", format!("cannot delete {}: {error}", path.display()))
            .help("`mainstay down --delete-data` goes on where this one ended")
    };
    if paths.state.is_dir() {
        let _lock = locked(&paths.state)?;
        let aside = aside(paths);
        std::fs::rename(&paths.state, &aside).map_err(|error| broken(&paths.state, &error))?;
        sync_parent(&aside).map_err(|error| broken(&aside, &error))?;
    }
    let mut bytes = 0;
    for folder in leftovers(paths) {
        bytes += size(&folder);
        std::fs::remove_dir_all(&folder).map_err(|error| broken(&folder, &error))?;
    }
    match std::fs::remove_dir_all(&paths.runtime) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(&paths.runtime, &error)),
        _ => {}
    }
    // The stack's own folder, if no other environment is in it.
    if let Some(stack) = paths.state.parent() {
        std::fs::remove_dir(stack).ok();
    }
    Ok(bytes)
}

/// keep's lock: whoever starts the stack in this moment is refused, and who runs it refuses us.
pub(super) fn locked(state: &Path) -> Result<File, Failure> {
    let path = state.join("keep.lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file =
        file.map_err(|error| Failure::environment("MS3031", format!("cannot open {}: {error}", path.display())))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::refused("MS4001", format!("somebody starts or runs this stack: {} is locked", path.display()))
            .help("nothing was deleted; `mainstay down --delete-data` again")
    })?;
    Ok(file)
}

fn aside(paths: &Paths) -> PathBuf {
    let name = paths.state.file_name().unwrap_or_default().to_string_lossy();
    paths.state.with_file_name(format!("{name}.{}{DELETING}", std::process::id()))
}

/// Folders whose removal has begun, by this process or by one that was cut off.
fn leftovers(paths: &Paths) -> Vec<PathBuf> {
    let prefix = format!("{}.", paths.state.file_name().unwrap_or_default().to_string_lossy());
    let Some(Ok(entries)) = paths.state.parent().map(std::fs::read_dir) else { return Vec::new() };
    let is_begun = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(DELETING)
    };
    entries.flatten().map(|entry| entry.path()).filter(is_begun).collect()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Bytes of the files below; what cannot be looked at counts nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_refused_start_are_ours_and_anything_beside_them_is_not() {
        let base = tempfile::tempdir().expect("a folder");
        let state = base.path().join("shop/development");
        for folder in ["bin", "logs"] {
            std::fs::create_dir_all(state.join(folder)).expect("made");
        }
        for file in ["keep.lock", "ports.json", "runtime", "bin/mainstay"] {
            std::fs::write(state.join(file), b"").expect("written");
        }
        assert_eq!(ours(&state).expect("ours"), "shop");
        for stranger in ["logs/web.log", "bin/tool", "pg"] {
            std::fs::write(state.join(stranger), b"").expect("written");
            let refused = ours(&state).expect_err("refused");
            assert!(refused.name == "MS4003" && refused.text.contains(stranger), "{refused:?}");
            std::fs::remove_file(state.join(stranger)).expect("removed");
        }
        std::fs::write(state.join("launch.json"), b"{}").expect("written");
        assert!(ours(&state).is_err(), "a launch.json that cannot be read is not taken for none");
    }
}
