//! What a command says that the stack gives: the port to listen on, the addresses of database and cache, and values
//! that are secret. They are taken out of it, and that is said; a value that is secret never reaches a proposal.

use std::collections::BTreeMap;

use super::shell::{self, Word};
use super::text::{Command, reason};
use super::{Part, Reason, Service};
use address::Address;

mod address;
mod name;
mod port;
mod secret;

pub(super) use name::{is_secret, is_variable};

/// Where a command stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: Option<usize>,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}:{line}", self.file),
            None => write!(out, "{}", self.file),
        }
    }
}

/// What was taken out of a command, or of a list of variables.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) env: BTreeMap<String, String>,
    pub(super) secrets: Vec<String>,
    pub(super) uses_database: bool,
    pub(super) uses_cache: bool,
    /// What now stands there instead.
    pub(super) said: Vec<(String, String)>,
    pub(super) open: Vec<String>,
    /// A port that could not be taken out.
    fixed: Option<String>,
    /// Secrets of which more was said than that they are generated.
    told: Vec<String>,
    /// The command was not copied at all.
    is_withheld: bool,
}

/// What becomes of a variable that is set.
pub(super) enum Setting {
    /// The stack gives it.
    Given,
    /// Set by this template instead.
    Template(String),
    /// A sealed value.
    Secret,
    /// Left out: its value has the form of a key that others give out, and a generated one is none.
    Withheld,
    /// Nothing of this: it is the application's own.
    Own,
}

/// A command that is made fit, with what was taken out of it.
pub(super) fn fit(command: &Command, has_port: bool, place: Place<'_>) -> (Command, Taken) {
    let mut taken = Taken::default();
    let fitted = match &command.words {
        Some(words) => list(words, has_port, &mut taken),
        None => line(&command.line, has_port, &mut taken).map(Command::new),
    };
    // Whatever was not understood: rather no command than one with a password in it.
    let fitted = fitted.filter(|fitted| !secret::shows(&fitted.line));
    if let Some(port) = &taken.fixed {
        taken.open.push(format!(
            "{place}: it listens on port {port}, whatever PORT says: mainstay does not reach it there, and a second \
             instance cannot start. Make it $PORT, and `mainstay init` again"
        ));
    }
    if fitted.is_none() && secret::shows(&command.line) {
        taken.open.push(format!(
            "{place}: the command holds a password, and was not copied: put it into `run` without, with a name of \
             `secrets` as variable"
        ));
        taken.is_withheld = true;
        return (Command::new("./server"), taken);
    }
    (fitted.unwrap_or_else(|| command.clone()), taken)
}

/// A shell's line; `None` when it is none.
fn line(text: &str, has_port: bool, taken: &mut Taken) -> Option<String> {
    let mut line = shell::read(text)?;
    for command in &mut line.commands {
        nested(command, has_port, taken);
        variables(command, taken);
        words(command, taken);
    }
    if has_port {
        let commands: Vec<&mut Vec<Word>> = line.commands.iter_mut().collect();
        port::take(commands, taken);
    }
    Some(line.changed())
}

/// Words that no shell reads; with a variable in them, one must.
fn list(list: &[String], has_port: bool, taken: &mut Taken) -> Option<Command> {
    let mut command: Vec<Word> = list.iter().map(|word| Word::literal(word)).collect();
    nested(&mut command, has_port, taken);
    variables(&mut command, taken);
    words(&mut command, taken);
    if has_port {
        port::take(vec![&mut command], taken);
    }
    let mut kept = command.iter().zip(list).filter(|(word, before)| !word.text().is_empty() || before.is_empty());
    if command.iter().any(Word::expands) {
        let words: Vec<String> = kept.map(|(word, _)| word.quoted()).collect();
        return Some(Command::new(words.join(" ")));
    }
    let mut words = Vec::new();
    kept.by_ref().for_each(|(word, _)| words.push(word.text()));
    Some(Command::of_words(words))
}

/// The line of `sh -c LINE`.
fn nested(command: &mut [Word], has_port: bool, taken: &mut Taken) {
    let texts: Vec<String> = command.iter().map(Word::text).collect();
    let is_shell = |word: &String| matches!(word.rsplit('/').next(), Some("sh" | "bash" | "ash" | "dash"));
    let at = texts.windows(2).position(|pair| is_shell(&pair[0]) && matches!(pair[1].as_str(), "-c" | "-ec" | "-lc"));
    let Some(at) = at.map(|at| at + 2).filter(|at| command.get(*at).is_some_and(|word| !word.expands())) else {
        return;
    };
    let inner = line(&texts[at], has_port, taken);
    if let Some(inner) = inner.filter(|inner| *inner != texts[at].trim()) {
        command[at].become_text(&inner);
    }
}

/// `NAME=VALUE` before a program, and behind `env`, `cross-env` and `export`.
fn variables(command: &mut [Word], taken: &mut Taken) {
    let mut is_export = false;
    for word in command {
        let text = word.text();
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| is_variable(name)) else {
            is_export |= matches!(text.as_str(), "export" | "declare");
            if is_export || matches!(text.as_str(), "env" | "cross-env" | "exec") {
                continue;
            }
            return;
        };
        let setting = taken.setting(name, value);
        if matches!(setting, Setting::Own) || (matches!(setting, Setting::Given) && name == "PORT") {
            continue;
        }
        taken.take(name, setting);
        // `export` alone would print everything, passwords among it.
        word.become_text(if is_export { name } else { "" });
    }
}

/// Addresses and passwords among the other words.
fn words(command: &mut [Word], taken: &mut Taken) {
    let mut before = String::new();
    let texts: Vec<String> = command.iter().map(Word::text).collect();
    let kind = secret::Kind::of(texts.iter().map(String::as_str));
    for (at_word, word) in command.iter_mut().enumerate() {
        let text = word.text();
        // Here a number is no port.
        let is_of_sshpass = |back: usize| {
            at_word.checked_sub(back).and_then(|at| texts.get(at)).is_some_and(|before| before.ends_with("sshpass"))
        };
        let glued = kind.glued(&text);
        // What is glued may be a cookie, which is a pair itself.
        let option = text.split_once('=').filter(|(name, _)| name.starts_with('-') && glued != Some("-b"));
        let glued = glued.filter(|_| option.is_none());
        let last = std::mem::take(&mut before);
        let (name, at) = match option {
            Some((name, _)) => (name.to_owned(), name.len() + 1),
            None => glued.map_or((last, 0), |option| (option.to_owned(), option.len())),
        };
        let is_written = if at == 0 { secret::is_next } else { secret::is_value };
        let is_sshpass = name == "-p" && is_of_sshpass(if glued.is_some() { 1 } else { 2 });
        let value = &text[at..];
        let is_secret = |address: &Address<'_>| address.has_password() || address.is_ours() && address.has_user();
        if let Some(address) = Address::of(value).filter(|address| is_secret(address) && address.is_whole()) {
            let about = if name.is_empty() { String::new() } else { name::variable_of(&name) };
            let new = taken.address(&about, &address);
            let place = if name.is_empty() { "an address" } else { &format!("the address of {name}") };
            taken.said.push((format!("{place} is {new}"), "another one with a password, not copied".to_owned()));
            word.put(at..text.len(), &as_shell(&new));
        } else if (is_sshpass || name::is_option(&name, value) || secret::is_of_option(&name, value, kind))
            && is_written(value)
            && !word.expands()
        {
            let variable = name::variable_of(&name);
            taken.take(&variable, Setting::Secret);
            word.put(at..text.len(), &format!("${variable}"));
        }
        if option.is_none() && text.starts_with('-') {
            before = text;
        }
    }
}

/// `${NAME}` as a shell takes it where nothing is confused by it.
fn as_shell(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        let goes_on = after.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
        let name = if goes_on { format!("{{{name}}}") } else { name.to_owned() };
        out.push_str(&format!("{before}${name}"));
        rest = after;
    }
    (out + rest).replace("$$", "$")
}

impl Taken {
    /// What becomes of a variable.
    pub(super) fn setting(&mut self, name: &str, value: &str) -> Setting {
        if matches!(name, "PORT" | "MANAGEMENT_PORT") {
            return Setting::Given;
        }
        if let Some(address) = Address::of(value).filter(|address| address.is_ours() || address.has_password()) {
            // What else the address says may be secret, too.
            if secret::shows(&address.template(name).0) {
                return Setting::Withheld;
            }
            let template = self.address(name, &address);
            return if template == format!("${{{name}}}") { Setting::Given } else { Setting::Template(template) };
        }
        if let Some(template) = address::part(name, value) {
            self.uses_database = true;
            return if template == format!("${{{name}}}") { Setting::Given } else { Setting::Template(template) };
        }
        match name {
            "REDIS_PASSWORD" | "REDIS_STORE_PASSWORD" => {
                self.uses_cache = true;
                Setting::Given
            }
            _ if name.to_ascii_uppercase().starts_with("MAINSTAY_") => Setting::Given,
            _ if is_secret(name, value) && secret::is_value(value) => Setting::Secret,
            _ if secret::is_login(name, value) || secret::is_random(name, value) || secret::shows(value) => {
                Setting::Withheld
            }
            _ if name::may_hold(name, value) && secret::is_value(value) => Setting::Withheld,
            _ => Setting::Own,
        }
    }

    /// The template for an address, and what the stack must have for it.
    fn address(&mut self, name: &str, address: &Address<'_>) -> String {
        let (template, secret) = address.template(name);
        self.uses_database |= address.is_database();
        self.uses_cache |= address.is_cache();
        if let Some(secret) = secret {
            self.add_secret(&secret);
            self.told.push(secret.clone());
            self.open.push(format!(
                "{} is of something that mainstay does not run, so the generated {secret} is not its password: set it \
                 there, `mainstay env SERVICE --show-secrets` prints it",
                address.kind_in_words()
            ));
        }
        template
    }

    /// Notes what a variable becomes.
    pub(super) fn take(&mut self, name: &str, setting: Setting) {
        match setting {
            Setting::Own => {}
            Setting::Withheld => self.left_out(name),
            Setting::Given => {
                self.said.push((format!("{name} is the stack's own"), format!("another value of {name}, not copied")));
            }
            Setting::Template(template) => {
                self.said.push((format!("env {name} = {template}"), format!("another value of {name}, not copied")));
                self.env.insert(name.to_owned(), template);
            }
            Setting::Secret => {
                let upper = name.to_ascii_uppercase();
                if upper != name {
                    self.env.insert(name.to_owned(), format!("${{{upper}}}"));
                }
                let found = format!("a value of {name}, not copied");
                self.said.push((format!("secret {upper}, generated"), found));
                self.add_secret(&upper);
            }
        }
    }

    fn left_out(&mut self, name: &str) {
        self.said.push((format!("{name} is left out"), format!("a value of {name}, not copied")));
        self.open.push(format!(
            "the value of {name} looks like a key or an address that lets in whoever knows it, so it was not copied and \
             {name} is not set: if it is harmless put it into `env`, else the application must read it elsewhere"
        ));
    }

    fn add_secret(&mut self, name: &str) {
        if !self.secrets.iter().any(|known| known == name) {
            self.secrets.push(name.to_owned());
        }
    }

    /// Gives a service what was taken, and the part what is said of it.
    pub(super) fn give(self, part: &mut Part, service: Option<&mut Service>, place: Place<'_>) {
        part.has_database |= self.uses_database;
        part.has_cache |= self.uses_cache;
        let say = |(what, found): (String, String)| -> Reason { reason(what, place.file, place.line, found) };
        part.reasons.extend(self.said.into_iter().map(say));
        part.open.extend(self.open);
        let untold: Vec<String> = self.secrets.iter().filter(|name| !self.told.contains(name)).cloned().collect();
        if !untold.is_empty() {
            part.open.push(format!(
                "{place}: what stands there as {} was not copied. A generated value is given instead; one that others \
                 gave you (the key of their interface) cannot be set yet, and the application must read it elsewhere",
                untold.join(", ")
            ));
        }
        let (env, secrets) = match service {
            Some(service) => {
                let note = "NOT KNOWN: the command that stands there holds a password, and was not copied.";
                service.notes.extend(self.is_withheld.then(|| note.to_owned()));
                (&mut service.env, &mut service.secrets)
            }
            None => (&mut part.env, &mut part.secrets),
        };
        for (name, value) in self.env {
            env.entry(name).or_insert(value);
        }
        let new: Vec<String> = self.secrets.into_iter().filter(|name| !secrets.contains(name)).collect();
        secrets.extend(new);
    }
}

#[cfg(test)]
mod tests;
