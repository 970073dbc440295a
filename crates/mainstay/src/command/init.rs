//! `mainstay init`: proposes a stack file for the application in a folder, and says from what it guessed.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use mainstay_types::{EnvironmentName, exit_code};

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::init::{self, Folder, Nothing, Proposal, Reason, Unread};
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Folder of the application (default: this one)
    dir: Option<PathBuf>,
    /// Print the proposal, write nothing
    #[arg(long)]
    print: bool,
}

impl Options {
    /// The folder, when it is named.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.dir.as_deref()
    }
}

/// Deeper than this lie an application's sources, not what says how it runs.
const DEPTH: usize = 5;
/// More names than this are data: looking at them all would take long and say nothing.
const MOST_FILES: usize = 20_000;
/// Larger files are not written by people.
const MOST_BYTES: u64 = 512 * 1024;

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let dir = options.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let dir = entered(&dir)?;
    let file = dir.join("mainstay.toml");
    let print = printing(options.dir.as_deref());
    if !options.print && file.symlink_metadata().is_ok() {
        return Err(refuse(&file, &print));
    }
    let folder = look(&dir);
    let proposal = init::propose(&folder).map_err(|nothing| refused(&dir, &nothing))?;
    let text = init::render(&proposal);
    // What we propose must be right: else it is our bug, and no file is left behind.
    mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default())
        .map_err(|found| Failure::bug(format!("the proposal breaks a rule of the stack file:\n{found}{text}")))?;
    if !options.print {
        write_new(&file, &text, &print)?;
    }
    if global.json {
        let written = (!options.print).then_some(&file);
        let value = serde_json::json!({"stack": proposal.stack, "written": written, "toml": text,
            "guessed": proposal.reasons, "unread": proposal.unread, "open": proposal.open});
        println!("{value}");
        return Ok(exit_code::DONE);
    }
    tell(&proposal);
    if options.print {
        print!("{text}");
    } else {
        println!("wrote {}", screen::tame(&file.display().to_string()));
        eprintln!("next: read it, `mainstay check`, `mainstay up`");
    }
    Ok(exit_code::DONE)
}

/// The folder as it is called from everywhere.
fn entered(dir: &Path) -> Result<PathBuf, Failure> {
    let (text, help) = match std::fs::canonicalize(dir) {
        Ok(full) if full.is_dir() => return Ok(full),
        Ok(_) => (format!("{} is not a folder", dir.display()), "as in `mainstay init path/to/app`"),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            (format!("there is no folder {}", dir.display()), "as in `mainstay init path/to/app`")
        }
        Err(error) => (
            format!("cannot enter the folder {}: {error}", dir.display()),
            "init reads it as this user: as one who may enter it and the folders above it, or `chmod` them",
        ),
    };
    Err(Failure::user("MS2071", text).help(help))
}

/// Nothing is there, or nothing that can be read, or what is there does not say enough.
fn refused(dir: &Path, nothing: &Nothing) -> Failure {
    let mut text = format!("nothing in {} says how the application is started", dir.display());
    let lacking = nothing.lacking.iter().map(|line| tame(line));
    if nothing.unread.is_empty() {
        text.extend(lacking.map(|line| format!("\n  {line}")));
        return Failure::user("MS2070", text).help(format!(
            "it understands {}; docs/guide/stack-file.md shows a stack file to begin with",
            init::KNOWN
        ));
    }
    let unread = nothing.unread.iter().map(|one| tame(&one.to_string()));
    let lines: Vec<String> = unread.chain(lacking).collect();
    Failure::user("MS2073", lines.join("\n")).help("mend the file, and `mainstay init` again")
}

/// The command that only shows the proposal, for the same folder.
fn printing(dir: Option<&Path>) -> String {
    let dir = dir.map(|dir| format!(" {}", again::quoted(&dir.display().to_string()))).unwrap_or_default();
    let show = again::command(&format!("init --print{dir}"));
    format!("`{show}` shows the proposal without writing it")
}

fn refuse(file: &Path, print: &str) -> Failure {
    Failure::refused("MS4070", format!("{} is there already, and init never overwrites", file.display())).help(print)
}

/// Only ever a new file: another `init` may run at the same time.
fn write_new(file: &Path, text: &str, print: &str) -> Result<(), Failure> {
    let mut new = match std::fs::OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(new) => new,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(refuse(file, print)),
        Err(error) => return Err(cannot_write(file, &error, print)),
    };
    new.write_all(text.as_bytes()).map_err(|error| {
        // Half a file would be in the way of the next try.
        std::fs::remove_file(file).ok();
        cannot_write(file, &error, print)
    })
}

fn cannot_write(file: &Path, error: &std::io::Error, print: &str) -> Failure {
    Failure::environment("MS3031", format!("cannot write {}: {error}", file.display())).help(print)
}

/// What was guessed and from what, on stderr: stdout is for the proposal.
fn tell(proposal: &Proposal) {
    for Reason { what, file, line, found } in &proposal.reasons {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        eprintln!("{}", tame(what));
        eprintln!("    {}", tame(&format!("{file}{line}  {found}")));
    }
    for line in &proposal.open {
        eprintln!("{}", screen::wrap(&tame(line), "to do: ", "       "));
    }
}

/// Names come from files of others, and must not act on a terminal.
fn tame(text: &str) -> String {
    text.replace('\n', " ").chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// The listing, and the text of what says something. What is wanted and cannot be read is noted with its reason.
fn look(dir: &Path) -> Folder {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut folder = Folder { name, ..Folder::default() };
    // Nearer folders first: what says how the application runs lies at the top.
    let mut open = VecDeque::from([(dir.to_owned(), String::new(), 0)]);
    while let Some((path, prefix, depth)) = open.pop_front() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                let name = if prefix.is_empty() { "." } else { prefix.trim_end_matches('/') };
                let reason = format!("the folder cannot be listed: {error}");
                folder.unread.insert(name.to_owned(), Unread::new(name, None, reason));
                continue;
            }
        };
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let relative = format!("{prefix}{name}");
            // Beyond the limit only what is wanted right here.
            if folder.files.len() >= MOST_FILES && !(depth == 0 && init::is_read(&relative)) {
                let reason = format!("there are more than {MOST_FILES} files: not all were looked at");
                folder.unread.insert(".".to_owned(), Unread::new(".", None, reason));
                open.clear();
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && init::is_manifest(&name) {
                folder.unread.insert(relative.clone(), Unread::new(&relative, None, "it is a folder, not a file"));
            }
            if kind.is_dir() && !init::is_skipped(&name) {
                if depth < DEPTH {
                    open.push_back((entry.path(), format!("{relative}/"), depth + 1));
                }
            } else if init::is_skipped(&name) && entry.path().is_dir() {
                // That it is there is known, not what is in it.
                folder.files.insert(format!("{relative}/."), None);
            } else {
                file(&mut folder, &entry.path(), relative);
            }
        }
    }
    folder
}

/// One file. Links are followed to files, never to folders: those may lead in a circle, or out of the application.
fn file(folder: &mut Folder, path: &Path, relative: String) {
    if !init::is_read(&relative) {
        let is_folder = path.is_dir();
        let is_told = is_folder && !relative.contains('/') && holds_something(path);
        folder.files.insert(relative.clone(), None);
        if is_told {
            let reason = "it is a link to a folder, which init does not follow: copy it here, or `init` over there";
            folder.unread.insert(relative.clone(), Unread::new(&relative, None, reason));
        }
        return;
    }
    // Large programs are made by machines, and say nothing that is looked for.
    let is_made = |bytes| bytes > MOST_BYTES && init::is_program(&relative);
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => folder.put_unread(relative, "it is not a file"),
        Ok(meta) if is_made(meta.len()) => _ = folder.files.insert(relative, None),
        Ok(meta) if meta.len() > MOST_BYTES => {
            let reason = format!("it has {} bytes, and init reads files of at most {MOST_BYTES}", meta.len());
            folder.put_unread(relative, reason);
        }
        Ok(_) => match std::fs::read(path) {
            Ok(bytes) => folder.put(relative, &bytes),
            Err(error) => folder.put_unread(relative, error.to_string()),
        },
        Err(error) => folder.put_unread(relative, error.to_string()),
    }
}

/// Whether a folder has a file that init understands.
fn holds_something(dir: &Path) -> bool {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_str().is_some_and(init::is_read))
}
