//! `mainstay trust`: the local authority that signs the stack's certificates, and who trusts it.
//!
//! What is to be done is decided purely ([`plan`]) from what was seen of the machine, then done step by step.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use mainstay_types::exit_code;

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Put it into this machine's trust store (as root), and into this user's browser databases
    #[arg(long, conflicts_with_all = ["remove", "path"])]
    install: bool,
    /// Take it out again
    #[arg(long, conflicts_with = "path")]
    remove: bool,
    /// Print the path of its certificate alone, as for `curl --cacert`
    #[arg(long)]
    path: bool,
    /// Work below this folder instead of /
    #[arg(long, value_name = "DIR", hide = true, default_value = "/")]
    root: PathBuf,
}

/// Where Debian takes certificates of one's own from.
const STORE: &str = "usr/local/share/ca-certificates";
/// Puts them into the bundle that programs read.
const UPDATE: &str = "update-ca-certificates";

/// What was seen of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    is_root: bool,
    /// `update-ca-certificates` is there.
    has_store: bool,
    /// The authority's file in the store, and whether it holds this very certificate.
    installed: Option<bool>,
    has_certutil: bool,
    /// This user's NSS databases (Chromium, Firefox): folder, and whether it has the authority.
    databases: Vec<(PathBuf, bool)>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Put the certificate into the store.
    Copy,
    /// Take it out.
    Delete,
    /// Let the system read its store anew.
    Update,
    /// Into a browser's database.
    Add(PathBuf),
    /// Out of it.
    Drop(PathBuf),
}

/// Why nothing can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// The system's store wants root.
    NotRoot,
    /// No store that we know, and no database of a browser.
    NoStore,
}

/// The steps that lead to `wanted`; none when all is so already.
fn plan(seen: &Seen, wanted: bool) -> Result<Vec<Step>, Obstacle> {
    let mut steps = Vec::new();
    let is_so = if wanted { seen.installed == Some(true) } else { seen.installed.is_none() };
    if !is_so {
        if !seen.is_root {
            return Err(Obstacle::NotRoot);
        }
        if seen.has_store {
            // A certificate of an earlier state is replaced.
            steps.push(if wanted { Step::Copy } else { Step::Delete });
            steps.push(Step::Update);
        } else if !wanted {
            steps.push(Step::Delete);
        }
    }
    if seen.has_certutil {
        let databases = seen.databases.iter().filter(|(_, has)| *has != wanted);
        steps
            .extend(databases.map(|(path, _)| if wanted { Step::Add(path.clone()) } else { Step::Drop(path.clone()) }));
    }
    if wanted && !seen.has_store && seen.databases.is_empty() {
        return Err(Obstacle::NoStore);
    }
    Ok(steps)
}

/// The authority of a stack, and where it goes.
struct Authority {
    file: PathBuf,
    name: String,
    fingerprint: String,
    from: String,
    until: String,
    /// What it may sign for; `None`: any name.
    limits: Option<Vec<String>>,
    /// Its file in the system's store.
    store: PathBuf,
    root: PathBuf,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    // Root trusts the authority of somebody's stack for the whole machine.
    let is_root = rustix::process::geteuid().is_root();
    let paths = if is_root { crate::place::paths_of_anybody(global)? } else { crate::place::paths(global)? };
    let file = mainstay_controller::ca_file(&paths);
    let pem = std::fs::read(&file).map_err(|error| {
        Failure::failed("MS1070", format!("the stack has no authority yet: {}: {error}", file.display()))
            .help("`mainstay up` makes it; `--env` and `--state` must be those of its `up`")
    })?;
    if options.path {
        if global.json {
            println!("{}", serde_json::json!({"certificate": file}));
        } else {
            println!("{}", file.display());
        }
        return Ok(exit_code::DONE);
    }
    let said = mainstay_edge::ca::describe(&pem).ok_or_else(|| {
        Failure::environment("MS3070", format!("{} holds no certificate", file.display()))
            .help("delete the folder `ca` while the stack is down: the next `up` makes a new authority")
    })?;
    let name = paths.state.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let name: Vec<String> = name.collect();
    let certificate = format!("mainstay-{}.crt", name.into_iter().rev().collect::<Vec<_>>().join("-"));
    let day = |at: mainstay_types::Timestamp| at.to_string().chars().take(10).collect::<String>();
    let authority = Authority {
        file,
        name: said.name,
        fingerprint: said.fingerprint,
        from: day(said.from),
        until: day(said.until),
        limits: said.limited_to,
        store: options.root.join(STORE).join(certificate),
        root: options.root.clone(),
    };
    if !options.install && !options.remove {
        return show(global, &authority, &look(&authority, &pem));
    }
    change(global, &authority, &pem, options.install)
}

/// Looks at the machine; nothing is changed by it.
fn look(authority: &Authority, pem: &[u8]) -> Seen {
    let has_certutil = found("certutil");
    let databases = browsers(&authority.root).into_iter().map(|database| {
        let has = has_certutil && certutil(&database, &["-L", "-n", &authority.name]).is_ok();
        (database, has)
    });
    Seen {
        // Below a folder of one's own nobody needs to be root.
        is_root: rustix::process::geteuid().is_root() || authority.root != Path::new("/"),
        has_store: found(UPDATE),
        installed: std::fs::read(&authority.store).ok().map(|there| there == pem),
        databases: databases.collect(),
        has_certutil,
    }
}

fn found(program: &str) -> bool {
    path_of(program).is_some()
}

/// Programs of administrators are not in every user's PATH.
fn path_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Databases of this user's browsers: Chromium has one, Firefox one a profile.
fn browsers(root: &Path) -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return Vec::new() };
    let home = if root == Path::new("/") { home } else { root.join(home.strip_prefix("/").unwrap_or(&home)) };
    let mut found = vec![home.join(".pki/nssdb")];
    for profiles in [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox"] {
        let entries = std::fs::read_dir(home.join(profiles)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()));
    }
    found.retain(|folder| folder.join("cert9.db").is_file());
    found.sort();
    found
}

fn certutil(database: &Path, arguments: &[&str]) -> Result<(), String> {
    let folder = format!("sql:{}", database.display());
    let mut command = Command::new("certutil");
    command.args(["-d", &folder]).args(arguments);
    ran(command)
}

fn ran(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, text.trim().lines().last().unwrap_or_default()))
}

fn change(global: &Global, authority: &Authority, pem: &[u8], wanted: bool) -> Result<u8, Failure> {
    let option = if wanted { "--install" } else { "--remove" };
    let seen = look(authority, pem);
    let steps = plan(&seen, wanted).map_err(|obstacle| match obstacle {
        Obstacle::NotRoot => {
            Failure::environment("MS3071", "the trust store of this machine can be changed by root only")
                .help(format!("`sudo {}`", again::for_another_user(global, &format!("trust {option}"))))
        }
        Obstacle::NoStore => {
            Failure::environment("MS3072", format!("this machine has no {UPDATE} and no browser database"))
                .help("apt-get install ca-certificates; or import the file by hand: `mainstay trust` says how")
        }
    })?;
    let mut done = Vec::new();
    for step in &steps {
        let text = words(step, authority);
        perform(step, authority, pem).map_err(|error| {
            Failure::environment("MS3073", format!("cannot {text}: {error}"))
                .help("what was done before it is kept; the same command goes on from there")
        })?;
        done.push(text);
    }
    if global.json {
        println!(
            "{}",
            serde_json::json!({"trusted": wanted, "done": done, "fingerprint_sha256": authority.fingerprint})
        );
    } else {
        for text in &done {
            println!("done: {text}");
        }
        match (done.is_empty(), wanted) {
            (true, true) => println!("{} is trusted already; nothing was changed", authority.name),
            (true, false) => println!("{} is in no store; nothing was changed", authority.name),
            (false, true) => {
                eprintln!("hint: browsers that run must be restarted; `mainstay trust --remove` undoes it")
            }
            (false, false) => eprintln!("hint: the authority itself is still in {}", authority.file.display()),
        }
    }
    Ok(exit_code::DONE)
}

fn words(step: &Step, authority: &Authority) -> String {
    match step {
        Step::Copy => format!("write {}", authority.store.display()),
        Step::Delete => format!("delete {}", authority.store.display()),
        Step::Update => format!("run {UPDATE}"),
        Step::Add(database) => format!("add it to {}", database.display()),
        Step::Drop(database) => format!("take it out of {}", database.display()),
    }
}

fn perform(step: &Step, authority: &Authority, pem: &[u8]) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    match step {
        Step::Copy => {
            let folder = authority.store.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(folder).map_err(text)?;
            mainstay_supervisor::durable::replace(&authority.store, pem, 0o644).map_err(text)
        }
        Step::Delete => std::fs::remove_file(&authority.store).map_err(text),
        Step::Update => {
            let mut command = Command::new(path_of(UPDATE).unwrap_or_else(|| PathBuf::from(UPDATE)));
            if authority.root != Path::new("/") {
                let below = |folder: &str| authority.root.join(folder);
                let hooks = below("etc/ca-certificates/update.d");
                std::fs::create_dir_all(below("etc/ssl/certs")).map_err(text)?;
                std::fs::create_dir_all(&hooks).map_err(text)?;
                command.arg("--hooksdir").arg(hooks);
                command.arg("--localcertsdir").arg(below(STORE));
                command.arg("--etccertsdir").arg(below("etc/ssl/certs"));
            }
            ran(command)
        }
        // C: trusted to sign servers' certificates, and nothing else.
        Step::Add(database) => {
            let file = authority.file.display().to_string();
            certutil(database, &["-A", "-t", "C,,", "-n", &authority.name, "-i", &file])
        }
        Step::Drop(database) => certutil(database, &["-D", "-n", &authority.name]),
    }
}

fn show(global: &Global, authority: &Authority, seen: &Seen) -> Result<u8, Failure> {
    if global.json {
        let databases: Vec<_> =
            seen.databases.iter().map(|(path, has)| serde_json::json!({"folder": path, "has_it": has})).collect();
        let value = serde_json::json!({"certificate": authority.file, "name": authority.name,
            "fingerprint_sha256": authority.fingerprint, "valid_from": authority.from, "valid_until": authority.until, "limited_to": authority.limits,
            "in_system_store": seen.installed == Some(true), "browser_databases": databases});
        println!("{value}");
        return Ok(exit_code::DONE);
    }
    println!("authority    {}", authority.name);
    println!("certificate  {}", authority.file.display());
    println!("valid        {} to {}", authority.from, authority.until);
    println!("signs for    {}", authority.limits.as_ref().map_or("any name".to_owned(), |limits| limits.join(", ")));
    let (first, second) = authority.fingerprint.split_at(48.min(authority.fingerprint.len()));
    println!("SHA-256      {first}\n             {second}");
    let system = match seen.installed {
        Some(true) => format!("trusts it ({})", authority.store.display()),
        Some(false) => format!("trusts an earlier authority of this stack ({})", authority.store.display()),
        None => "does not trust it".to_owned(),
    };
    println!("this machine {system}");
    for (database, has) in &seen.databases {
        let has = match (seen.has_certutil, has) {
            (false, _) => "not known: certutil is missing (apt-get install libnss3-tools)",
            (true, true) => "has it",
            (true, false) => "does not have it",
        };
        println!("browser      {} {has}", database.display());
    }
    advise(global, authority, seen);
    Ok(exit_code::DONE)
}

/// What can be done, on stderr.
fn advise(global: &Global, authority: &Authority, seen: &Seen) {
    let key = authority.file.with_file_name("ca.key");
    let lines = [
        format!("one program: curl --cacert {} https://…", authority.file.display()),
        format!("this machine: sudo {}", again::for_another_user(global, "trust --install")),
        "Chromium: Settings, Privacy and security, Security, Manage certificates, Authorities, Import".to_owned(),
        "Firefox: Settings, Privacy & Security, View Certificates, Authorities, Import".to_owned(),
        match &authority.limits {
            // Completed before it is broken into lines: a command must not be in two.
            None => again::text(&format!(
                "who trusts it trusts whoever can read {}: it was made by an earlier mainstay and can sign for any \
                 name, so trust it on machines for development only. A new one is limited: `mainstay down`, delete {}, \
                 `mainstay up`",
                key.display(),
                authority.file.display()
            )),
            Some(limits) => format!(
                "who trusts it trusts whoever can read {}, for {} and names below these alone: its certificate says \
                 so, and OpenSSL and rustls hold it to that",
                key.display(),
                limits.join(", ")
            ),
        },
    ];
    let skipped = if seen.installed == Some(true) { 2 } else { 0 };
    for line in lines.iter().skip(skipped) {
        eprintln!("{}", screen::wrap(line, "  ", "    "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Seen {
        Seen { is_root: true, has_store: true, ..Seen::default() }
    }

    #[test]
    fn trusting_writes_the_certificate_and_then_lets_the_system_read_it() {
        assert_eq!(plan(&machine(), true), Ok(vec![Step::Copy, Step::Update]));
        let old = Seen { installed: Some(false), ..machine() };
        assert_eq!(plan(&old, true), Ok(vec![Step::Copy, Step::Update]));
    }

    #[test]
    fn what_is_so_already_is_not_done_again() {
        let trusted = Seen { installed: Some(true), ..machine() };
        assert_eq!(plan(&trusted, true), Ok(Vec::new()));
        assert_eq!(plan(&machine(), false), Ok(Vec::new()));
        let everyone = Seen { is_root: false, ..trusted };
        assert_eq!(plan(&everyone, true), Ok(Vec::new()));
    }

    #[test]
    fn removing_undoes_both_whichever_authority_is_there() {
        for installed in [true, false] {
            let seen = Seen { installed: Some(installed), ..machine() };
            assert_eq!(plan(&seen, false), Ok(vec![Step::Delete, Step::Update]));
        }
    }

    #[test]
    fn the_system_store_is_roots_and_nothing_is_begun_without() {
        let seen = Seen { is_root: false, ..machine() };
        assert_eq!(plan(&seen, true), Err(Obstacle::NotRoot));
        assert_eq!(plan(&Seen { installed: Some(true), ..seen }, false), Err(Obstacle::NotRoot));
    }

    #[test]
    fn browsers_are_served_where_certutil_is_there_and_only_once() {
        let databases = vec![(PathBuf::from("/a"), true), (PathBuf::from("/b"), false)];
        let seen = Seen { has_certutil: true, databases, installed: Some(true), ..machine() };
        assert_eq!(plan(&seen, true), Ok(vec![Step::Add(PathBuf::from("/b"))]));
        assert_eq!(plan(&seen, false), Ok(vec![Step::Delete, Step::Update, Step::Drop(PathBuf::from("/a"))]));
        assert_eq!(plan(&Seen { has_certutil: false, ..seen }, true), Ok(Vec::new()));
    }

    #[test]
    fn a_machine_without_any_store_is_said_to_have_none() {
        assert_eq!(plan(&Seen { has_store: false, ..machine() }, true), Err(Obstacle::NoStore));
    }
}
