//! What init finds and cannot read: said with file, line and reason, never passed over as if it were not there.

use serde::Serialize;
use serde_json::Value;
use toml::de::DeTable;

use super::compose;
use super::folder::{Folder, View, is_program};
use super::text::line_at;

/// A file, or a line of one, that says something and was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unread {
    pub(crate) file: String,
    /// Its line, from 1, where one line is at fault.
    pub(crate) line: Option<usize>,
    pub(crate) reason: String,
}

impl Unread {
    pub(crate) fn new(file: &str, line: Option<usize>, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, reason: reason.into() }
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        write!(out, "{}{line} was not read: {}", self.file, self.reason)
    }
}

/// The text of a file, whatever editor wrote it: with a byte order mark, in UTF-16, with lines ended as elsewhere.
///
/// # Errors
/// Where it is no text. Programs are only searched for words in ASCII, and are read all the same.
pub(crate) fn decoded(path: &str, bytes: &[u8]) -> Result<String, Unread> {
    let unread = |line, reason: &str| Unread::new(path, line, reason);
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => {
            utf16(rest, u16::from_le_bytes).ok_or_else(|| unread(None, "it is broken UTF-16"))?
        }
        [0xfe, 0xff, rest @ ..] => {
            utf16(rest, u16::from_be_bytes).ok_or_else(|| unread(None, "it is broken UTF-16"))?
        }
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => match std::str::from_utf8(rest) {
            Ok(text) => text.to_owned(),
            // Java's properties are Latin 1 of old.
            Err(_) if is_program(path) || path.ends_with(".properties") => String::from_utf8_lossy(rest).into_owned(),
            Err(error) => {
                let at = error.valid_up_to();
                let line = rest.get(..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() + 1;
                return Err(unread(Some(line), "it is not UTF-8 there"));
            }
        },
    };
    if let Some(at) = text.find('\0').filter(|_| !is_program(path)) {
        return Err(unread(Some(line_at(&text, at)), "it holds a NUL byte, and is no text"));
    }
    Ok(if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text })
}

fn utf16(bytes: &[u8], of: fn([u8; 2]) -> u16) -> Option<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok().filter(|_| bytes.len().is_multiple_of(2))
}

/// What of the files of this very folder was not read.
pub(super) fn of(folder: &Folder, view: &View<'_>) -> Vec<Unread> {
    let here = |path: &str| view.relative(path).is_some_and(|inner| !inner.contains('/'));
    let mut all: Vec<Unread> =
        folder.unread.iter().filter(|(path, _)| here(path)).map(|(_, unread)| unread.clone()).collect();
    for (name, check) in [
        ("package.json", json as fn(&str, &str) -> Vec<Unread>),
        ("Cargo.toml", toml_file),
        ("pyproject.toml", toml_file),
        ("pom.xml", xml),
        ("Procfile", procfile),
        ("requirements.txt", requirements),
    ] {
        if let Some(text) = view.text(name) {
            all.extend(check(&view.full(name), text));
        }
    }
    all
}

/// Why the compose file was not read.
pub(super) fn of_compose(view: &View<'_>) -> Option<Unread> {
    let name = compose::file(view)?;
    compose::root(&view.full(name), view.text(name)?).err()
}

fn json(file: &str, text: &str) -> Vec<Unread> {
    let package: Value = match serde_json::from_str(text) {
        Ok(package) => package,
        Err(error) => {
            let reason = error.to_string();
            // The place is said by us, as for every file.
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            return vec![Unread::new(file, Some(error.line().max(1)), format!("it is no JSON: {reason}"))];
        }
    };
    if !package.is_object() {
        return vec![Unread::new(file, Some(1), "it is no JSON object")];
    }
    let line = |key: &str| super::text::line_of(text, &format!("\"{key}\""));
    let mut all = Vec::new();
    for key in ["scripts", "dependencies", "devDependencies"] {
        match &package[key] {
            Value::Null | Value::Object(_) => {}
            _ => all.push(Unread::new(file, line(key), format!("`{key}` is no object"))),
        }
    }
    for key in ["start:prod", "start", "worker"] {
        match &package["scripts"][key] {
            Value::Null | Value::String(_) => {}
            _ => all.push(Unread::new(file, line(key), format!("`scripts.{key}` is no text"))),
        }
    }
    all
}

fn toml_file(file: &str, text: &str) -> Vec<Unread> {
    let Err(error) = DeTable::parse(text) else { return Vec::new() };
    let line = error.span().map(|span| line_at(text, span.start));
    vec![Unread::new(file, line, format!("it is no TOML: {}", error.message()))]
}

fn xml(file: &str, text: &str) -> Vec<Unread> {
    let Err(error) = roxmltree::Document::parse(text) else { return Vec::new() };
    let line = usize::try_from(error.pos().row).ok();
    let reason = error.to_string();
    // The place is said by us, as for every file.
    let reason = reason.rsplit_once(" at ").map_or(reason.as_str(), |(reason, _)| reason);
    vec![Unread::new(file, line, format!("it is no XML: {reason}"))]
}

fn procfile(file: &str, text: &str) -> Vec<Unread> {
    let is_process = |line: &str| line.is_empty() || line.starts_with('#') || super::procfile::process(line).is_some();
    let lines = text.lines().enumerate().filter(|(_, line)| !is_process(line.trim()));
    let none = lines.map(|(index, _)| Unread::new(file, Some(index + 1), "the line is no `NAME: COMMAND`"));
    let again = super::procfile::repeated(text);
    let again =
        again.into_iter().map(|index| Unread::new(file, Some(index + 1), "a process of that name stands above"));
    none.chain(again).collect()
}

fn requirements(file: &str, text: &str) -> Vec<Unread> {
    let is_further = |line: &str| ["-r", "--requirement"].iter().any(|option| line.starts_with(option));
    let lines = text.lines().enumerate().filter(|(_, line)| is_further(line.trim()));
    lines
        .map(|(index, line)| {
            let reason = format!("init does not follow `{}` to another file", line.trim());
            Unread::new(file, Some(index + 1), reason)
        })
        .collect()
}
