//! `mainstay manual`: manual pages, one for the program and one for each command.

mod chapters;

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use mainstay_types::exit_code;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Command whose page is printed, as in `manual db psql`; without one, the page of mainstay itself
    command: Vec<String>,
    /// Write all pages into this folder instead, as in /usr/local/share/man/man1
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let mut root = crate::Cli::command();
    // Options of every command are handed down to the commands here.
    root.build();
    if let Some(folder) = &options.out {
        return write_all(global, &root, folder);
    }
    let mut command = &root;
    let mut above = "mainstay".to_owned();
    for word in &options.command {
        command = visible(command).find(|inner| inner.get_name() == word).ok_or_else(|| {
            let names: Vec<&str> = visible(command).map(clap::Command::get_name).collect();
            let help = if names.is_empty() { "it has no commands of its own".to_owned() } else { names.join(", ") };
            Failure::user("MS2072", format!("there is no command {:?}", options.command.join(" ")))
                .help(format!("commands of {above}: {help}"))
        })?;
        above = format!("{above} {word}");
    }
    let page = page(command, &options.command.join(" "))?;
    if global.json {
        let name = std::iter::once("mainstay").chain(options.command.iter().map(String::as_str));
        println!("{}", serde_json::json!({"command": name.collect::<Vec<_>>().join(" "), "page": page}));
    } else {
        print!("{page}");
    }
    Ok(exit_code::DONE)
}

fn visible(root: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The page in roff: `man -l FILE` shows it.
fn page(command: &clap::Command, words: &str) -> Result<String, Failure> {
    let name = format!("mainstay {words}").trim().replace(' ', "-");
    let mut text = Vec::new();
    // The name in the page's head is one word; how the command is called stays as it is.
    let command = command.clone().display_name(name.clone());
    let man = clap_mangen::Man::new(command.clone()).title(name.clone()).manual("mainstay");
    man.render(&mut text).map_err(|error| Failure::bug(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|error| Failure::bug(error.to_string()))?;
    Ok(with_chapters(&with_values(&text, &command), words))
}

/// The synopsis with the values of options, which clap leaves out there.
fn with_values(page: &str, command: &clap::Command) -> String {
    let mut out = Vec::new();
    let mut is_synopsis = false;
    for line in page.lines() {
        is_synopsis = if line.starts_with(".SH ") { line == ".SH SYNOPSIS" } else { is_synopsis };
        let mut line = line.to_owned();
        let options =
            command.get_arguments().filter(|_| is_synopsis).filter(|option| option.get_action().takes_values());
        for option in options {
            let (Some(long), Some(names)) = (option.get_long(), option.get_value_names()) else { continue };
            let (name, value) = (roff(&format!("--{long}")), roff(&names.join(" ")));
            line = line.replacen(&format!("\\fB{name}\\fR"), &format!("\\fB{name}\\fR \\fI{value}\\fR"), 1);
        }
        out.push(line);
    }
    out.join("\n") + "\n"
}

/// The page with what clap does not know of a command; the version stays the end.
fn with_chapters(page: &str, words: &str) -> String {
    let end = page.find(".SH VERSION\n").unwrap_or(page.len());
    let (before, version) = page.split_at(end);
    format!("{before}{}{version}", chapters::chapters(words))
}

/// A dash in roff is a hyphen, unless it is escaped.
fn roff(text: &str) -> String {
    text.replace('-', "\\-")
}

fn write_all(global: &Global, root: &clap::Command, folder: &Path) -> Result<u8, Failure> {
    let cannot = |path: &Path, error: &std::io::Error| {
        Failure::environment("MS3031", format!("cannot write {}: {error}", path.display()))
            .help("another folder: --out DIR")
    };
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
    let mut written = Vec::new();
    let mut open = vec![(String::new(), root)];
    while let Some((words, command)) = open.pop() {
        let name = format!("mainstay {words}").trim().replace(' ', "-");
        let file = folder.join(format!("{name}.1"));
        std::fs::write(&file, page(command, &words)?).map_err(|error| cannot(&file, &error))?;
        written.push(file);
        open.extend(visible(command).map(|inner| (format!("{words} {}", inner.get_name()).trim().to_owned(), inner)));
    }
    written.sort();
    if global.json {
        println!("{}", serde_json::json!({ "written": written }));
    } else {
        println!("wrote {} pages into {}", written.len(), folder.display());
    }
    Ok(exit_code::DONE)
}
