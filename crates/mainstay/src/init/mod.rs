//! What a folder of an application says about how it runs, as a proposed stack file.
//!
//! Pure: from the names of its files and the text of some to a [`Proposal`]. Never reads, runs or writes anything;
//! `command/init.rs` does. Each guess carries where it is from; what no file says is an open question with its next
//! step, never a silent assumption.

mod apart;
mod compose;
mod docker;
mod folder;
mod given;
mod java;
mod lacking;
mod node;
mod procfile;
mod python;
mod render;
mod ruby;
mod rust;
mod shell;
mod spring;
mod text;
mod unread;
mod yaml;

use std::collections::BTreeMap;

use serde::Serialize;

use folder::View;
pub(crate) use folder::{Folder, is_manifest, is_program, is_read, is_skipped};
pub(crate) use render::render;
use text::{Command, name_of};
pub(crate) use unread::Unread;

/// Where a guess is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// What was guessed: "service web runs node server.js".
    pub(crate) what: String,
    /// The file that says so.
    pub(crate) file: String,
    /// Its line, from 1, where one line says it.
    pub(crate) line: Option<usize>,
    /// What stands there, in few words.
    pub(crate) found: String,
}

/// A process kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Its name in the file that it is from.
    called: String,
    pub(crate) run: Command,
    /// Folder below the stack file's.
    pub(crate) dir: Option<String>,
    pub(crate) has_port: bool,
    /// It answers whether it is well on a port of its own.
    pub(crate) has_management_port: bool,
    pub(crate) before: Option<Command>,
    pub(crate) health: Option<String>,
    /// How many, where a file says so.
    pub(crate) instances: Option<u32>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: Vec<String>,
    /// Lines of comment above its `run`.
    pub(crate) notes: Vec<String>,
}

impl Service {
    fn new(name: &str, run: Command, has_port: bool) -> Self {
        Self {
            name: name_of(name).unwrap_or_else(|| "web".to_owned()),
            called: name.to_owned(),
            run,
            dir: None,
            has_port,
            has_management_port: false,
            before: None,
            health: None,
            instances: None,
            env: BTreeMap::new(),
            secrets: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A folder of built pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) dir: String,
    /// Lines of comment above its `dir`.
    pub(crate) notes: Vec<String>,
}

/// What one kind of file says. Parts are laid together to a [`Proposal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    /// A name for the stack.
    name: Option<(String, Reason)>,
    services: Vec<Service>,
    sites: Vec<Site>,
    has_database: bool,
    has_cache: bool,
    /// The application brings its own migrations: V-files are its own then.
    migrates_itself: bool,
    /// For every service of this part, those of a Procfile too.
    env: BTreeMap<String, String>,
    secrets: Vec<String>,
    /// Runs before the first instance, unless the Procfile says another.
    before: Option<Command>,
    health: Option<String>,
    /// `health` is asked on a port of its own.
    has_management_port: bool,
    reasons: Vec<Reason>,
    open: Vec<String>,
}

impl Part {
    fn says_something(&self) -> bool {
        !self.services.is_empty() || !self.sites.is_empty() || self.has_database || self.has_cache
    }
}

/// A stack file that probably fits, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) stack: String,
    pub(crate) services: Vec<Service>,
    pub(crate) sites: Vec<Site>,
    pub(crate) has_database: bool,
    pub(crate) migrations: Option<String>,
    /// The application brings its own migrations.
    pub(crate) migrates_itself: bool,
    pub(crate) has_cache: bool,
    pub(crate) reasons: Vec<Reason>,
    /// What is there and could not be read.
    pub(crate) unread: Vec<Unread>,
    /// What no file says, each with its next step.
    pub(crate) open: Vec<String>,
}

/// The files that `init` understands, as people write them.
pub(crate) const KNOWN: &str = "Procfile, Cargo.toml, package.json, Gemfile, requirements.txt, pyproject.toml, \
                                pom.xml, build.gradle, build.gradle.kts, compose.yaml, compose.yml, docker-compose.yaml, \
                                docker-compose.yml";

/// Folders of a repository with several applications that are looked at; more is a collection, not an application.
const MOST_PARTS: usize = 8;

/// Why there is no proposal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nothing {
    /// What could not be read.
    pub(crate) unread: Vec<Unread>,
    /// Files that were read and do not say enough, each with what it lacks.
    pub(crate) lacking: Vec<String>,
}

/// Proposes a stack file.
///
/// # Errors
/// What could not be read and what is lacking, when nothing says how the application is started.
pub(crate) fn propose(folder: &Folder) -> Result<Proposal, Nothing> {
    let root = View::root(folder);
    let mut unread = unread::of(folder, &root);
    let procfile = procfile::read(&root);
    let mut parts = if procfile.is_some() { needs(&root) } else { languages(&root) };
    if procfile.is_none() && parts.iter().all(|part| part.services.is_empty()) {
        for inner in folder.folders().into_iter().take(MOST_PARTS) {
            let view = View::below(folder, &inner);
            unread.extend(unread::of(folder, &view));
            parts.extend(languages(&view));
        }
    }
    for member in rust::members(&root) {
        // Members directly below were looked at, if there was nothing here.
        unread.extend(unread::of(folder, &member).into_iter().filter(|one| one.file.ends_with("/Cargo.toml")));
    }
    unread.extend(unread::of_compose(&root));
    unread.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    unread.dedup();
    let has_services = procfile.is_some() || parts.iter().any(|part| !part.services.is_empty());
    parts.extend(compose::read(&root, has_services));
    if procfile.is_none() && !parts.iter().any(Part::says_something) {
        let inner = folder.folders().into_iter().take(MOST_PARTS);
        let views = std::iter::once(View::root(folder)).chain(inner.map(|inner| View::below(folder, &inner)));
        let mut lacking: Vec<String> = views.flat_map(|view| lacking::of(&view, &unread)).collect();
        // A workspace says it of its members, and they say it of themselves.
        let mut seen = std::collections::BTreeSet::new();
        lacking.retain(|line| seen.insert(line.clone()));
        return Err(Nothing { unread, lacking });
    }
    let mut proposal = lay_together(folder, procfile, parts);
    proposal.open.splice(0..0, unread.iter().map(ToString::to_string));
    proposal.unread = unread;
    Ok(proposal)
}

/// What the files of one folder say: the application's language, and Node beside it for its pages.
fn languages(view: &View<'_>) -> Vec<Part> {
    let first = [ruby::read, python::read, java::read, rust::read]
        .into_iter()
        .find_map(|read| read(view).filter(|part| !part.services.is_empty()));
    let node = node::read(view, first.is_some());
    first.into_iter().chain(node).collect()
}

/// What the files beside a Procfile say of what its programs need: that file names the programs, so that every
/// language counts, whether or not its own program is recognised.
fn needs(view: &View<'_>) -> Vec<Part> {
    let all: Vec<Part> =
        [ruby::read, python::read, java::read, rust::read].into_iter().filter_map(|read| read(view)).collect();
    let has_program = all.iter().any(|part| !part.services.is_empty());
    let node = node::read(view, has_program);
    all.into_iter().chain(node).collect()
}

fn lay_together(folder: &Folder, procfile: Option<Part>, parts: Vec<Part>) -> Proposal {
    let mut proposal = Proposal {
        stack: "app".to_owned(),
        services: Vec::new(),
        sites: Vec::new(),
        has_database: false,
        migrations: None,
        migrates_itself: parts.iter().any(|part| part.migrates_itself || part.before.is_some()),
        has_cache: false,
        reasons: Vec::new(),
        unread: Vec::new(),
        open: Vec::new(),
    };
    name(&mut proposal, folder, &parts);
    if let Some(part) = &procfile {
        proposal.services.clone_from(&part.services);
        for service in &mut proposal.services {
            put_on(service, &part.env, &part.secrets);
        }
        proposal.has_database |= part.has_database;
        proposal.has_cache |= part.has_cache;
        proposal.reasons.extend(part.reasons.clone());
        proposal.open.extend(part.open.clone());
    }
    for part in parts {
        if procfile.is_some() {
            dress(&mut proposal, &part);
            // Which command runs is the Procfile's word.
            let is_kept =
                |reason: &Reason| !reason.what.starts_with("service ") && !reason.what.starts_with("before: ");
            let kept = part.reasons.into_iter().filter(is_kept);
            proposal.reasons.extend(kept);
        } else {
            // A compose file says what is given to what other files start.
            for service in proposal.services.iter_mut().filter(|_| part.services.is_empty()) {
                put_on(service, &part.env, &part.secrets);
            }
            let mut services = part.services;
            for service in &mut services {
                put_on(service, &part.env, &part.secrets);
            }
            proposal.services.extend(services);
            proposal.reasons.extend(part.reasons);
        }
        proposal.sites.extend(part.sites);
        proposal.has_database |= part.has_database;
        proposal.has_cache |= part.has_cache;
        proposal.open.extend(part.open);
    }
    if !proposal.migrates_itself
        && let Some((dir, reason)) = migrations(folder)
    {
        proposal.has_database = true;
        proposal.migrations = Some(dir);
        proposal.reasons.push(reason);
    }
    apart::tell(&mut proposal);
    // Two services with one environment say the same.
    let mut seen = std::collections::BTreeSet::new();
    proposal.open.retain(|line| seen.insert(line.clone()));
    let mut seen = std::collections::BTreeSet::new();
    proposal.reasons.retain(|reason| seen.insert(format!("{reason:?}")));
    proposal
}

/// The first file here that names the application; else its folder. What is below names only parts of it.
fn name(proposal: &mut Proposal, folder: &Folder, parts: &[Part]) {
    let named = parts
        .iter()
        .filter_map(|part| part.name.clone())
        .find(|(_, reason)| !reason.file.contains('/'))
        .and_then(|(name, reason)| Some((name_of(&name)?, reason)));
    let (name, reason) = named.unwrap_or_else(|| {
        let name = name_of(&folder.name).unwrap_or_else(|| "app".to_owned());
        let found = "the folder's name".to_owned();
        (name.clone(), Reason { what: String::new(), file: folder.name.clone(), line: None, found })
    });
    proposal.reasons.push(Reason { what: format!("stack {name}"), ..reason });
    proposal.stack = name;
}

fn put_on(service: &mut Service, env: &BTreeMap<String, String>, secrets: &[String]) {
    for (key, value) in env {
        // What says where it listens is nothing to a worker.
        let is_sealed = service.secrets.contains(key);
        let is_of_port = value.contains("${PORT}") || value.contains("${MANAGEMENT_PORT}");
        if !is_sealed && (service.has_port || !is_of_port) {
            service.env.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let is_new = |name: &&String| !service.secrets.contains(name) && !service.env.contains_key(*name);
    let new: Vec<String> = secrets.iter().filter(is_new).cloned().collect();
    service.secrets.extend(new);
}

/// A Procfile says which processes run; the language's own files say what they need.
fn dress(proposal: &mut Proposal, part: &Part) {
    for service in &mut proposal.services {
        put_on(service, &part.env, &part.secrets);
        if service.has_port && service.health.is_none() {
            service.health.clone_from(&part.health);
            service.has_management_port = part.has_management_port;
        }
    }
    let has_before = proposal.services.iter().any(|service| service.before.is_some());
    if let (false, Some(first)) = (has_before, proposal.services.first_mut()) {
        first.before.clone_from(&part.before);
    }
}

/// The folder of migrations, as Flyway or sqlx names them.
fn migrations(folder: &Folder) -> Option<(String, Reason)> {
    let is_number = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let flyway = |name: &str| {
        let number = name.strip_prefix('V').and_then(|rest| rest.split_once("__")).map(|(number, _)| number);
        name.ends_with(".sql") && number.is_some_and(is_number)
    };
    // Other tools have such names, too.
    let has_sqlx = || {
        let manifests = folder.files.iter().filter(|(path, _)| path.rsplit('/').next() == Some("Cargo.toml"));
        manifests.filter_map(|(_, text)| text.as_deref()).any(|text| text.contains("sqlx"))
    };
    let sqlx = |name: &str| {
        name.ends_with(".sql")
            && name.split_once('_').is_some_and(|(number, _)| number.len() <= 18 && is_number(number))
    };
    let split = |path: &str| path.rsplit_once('/').map(|(dir, name)| (dir.to_owned(), name.to_owned()));
    let found = |is_it: &dyn Fn(&str, &str) -> bool| {
        folder.paths().find(|path| split(path).is_some_and(|(dir, name)| is_it(&dir, &name)))
    };
    let of_flyway = found(&|_, name| flyway(name)).map(|file| (file, "a file named as a migration"));
    let of_sqlx = || {
        let file = found(&|dir, name| dir.rsplit('/').next() == Some("migrations") && sqlx(name))?;
        has_sqlx().then_some((file, "a file named as sqlx names migrations"))
    };
    let (file, found) = of_flyway.or_else(of_sqlx)?;
    let (dir, _) = split(file)?;
    let what = format!("database, with the migrations in {dir}");
    Some((dir, Reason { what, file: file.to_owned(), line: None, found: found.to_owned() }))
}

#[cfg(test)]
mod tests;
