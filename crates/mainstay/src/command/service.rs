//! `mainstay service`: the stack starts with the machine, as a unit of systemd.
//!
//! The unit's text and the plan are pure; only [`run`] writes and calls systemctl.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};
use mainstay_supervisor::durable;
use mainstay_types::exit_code;

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::place;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write the unit, enable it and start it
    Install {
        /// Print the unit; nothing is written
        #[arg(long)]
        print: bool,
        /// Write and enable it, start it with the next boot only
        #[arg(long)]
        no_start: bool,
    },
    /// Stop the stack, disable and remove the unit; data stays
    Remove,
    /// Whether there is a unit, and what systemd says of it
    Status,
}

/// systemd runs, and as whose manager.
const SYSTEMD: &str = "/run/systemd/system";
/// Restarts that Ubuntu's needrestart makes after a package's upgrade would take the database down for a library.
const NEEDRESTART: &str = "/etc/needrestart/conf.d";

/// The unit of a stack.
pub(crate) fn unit_name(stack: &str, environment: &str) -> String {
    format!("mainstay-{stack}-{environment}.service")
}

/// One unit, all of it decided.
struct Unit {
    name: String,
    file: PathBuf,
    is_root: bool,
    /// The program as the unit runs it.
    program: PathBuf,
    arguments: Vec<String>,
    stack: String,
    environment: String,
}

impl Unit {
    fn of(global: &Global) -> Result<Self, Failure> {
        let place = place::read(global)?;
        let is_root = rustix::process::geteuid().is_root();
        let (stack, environment) = (place.parsed.stack.name.to_string(), place.parsed.stack.environment.to_string());
        let name = unit_name(&stack, &environment);
        let home = || {
            std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or_else(|| {
                Failure::environment("MS3035", "HOME is not set, so a unit of this user has no place")
                    .help("run it as root for a unit of the machine")
            })
        };
        let folder = if is_root { PathBuf::from("/etc/systemd/system") } else { home()?.join(".config/systemd/user") };
        let me = std::env::current_exe()
            .map_err(|error| Failure::environment("MS3002", format!("cannot find the program that runs: {error}")))?;
        let is_installed = ["/usr", "/opt"].iter().any(|base| me.starts_with(base));
        let bin = if is_root { PathBuf::from("/usr/local/bin") } else { home()?.join(".local/bin") };
        let program = if is_installed { me } else { bin.join("mainstay") };
        let file = std::fs::canonicalize(&place.file)
            .map_err(|error| Failure::user("MS2003", format!("cannot find {}: {error}", place.file.display())))?;
        let base = place::state_base(global)?;
        let base = std::path::absolute(&base).map_err(|error| {
            Failure::environment("MS3002", format!("cannot make an absolute path of {}: {error}", base.display()))
        })?;
        let arguments = ["--file", &file.display().to_string(), "--env", &environment, "--state"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain([base.display().to_string()])
            .collect();
        Ok(Self { file: folder.join(&name), name, is_root, program, arguments, stack, environment })
    }

    /// The unit's text.
    fn text(&self) -> String {
        let words: Vec<String> = std::iter::once(self.program.display().to_string())
            .chain(self.arguments.iter().cloned())
            .map(|word| quoted(&word))
            .collect();
        let call = words.join(" ");
        let target = if self.is_root { "multi-user.target" } else { "default.target" };
        let Self { stack, environment, .. } = self;
        format!(
            "# Written by `mainstay service install`; `mainstay service remove` takes it away.\n\
             [Unit]\n\
             Description=mainstay: stack {stack} ({environment})\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             \n\
             [Service]\n\
             Type=notify\n\
             NotifyAccess=main\n\
             ExecStart={call} up --service --wait 240\n\
             # Stops everything in order. Its failure means that nothing ran.\n\
             ExecStop=-{call} down\n\
             # A crash of the one process that systemd watches leaves databases and services running: the next one\n\
             # takes them over. `mainstay down` ends it with success, and then it stays down.\n\
             Restart=on-failure\n\
             RestartSec=1\n\
             KillMode=process\n\
             # What runs is in a scope of its own beside this unit, where limits of services are set.\n\
             # A service that is killed for want of memory takes nobody with it.\n\
             OOMPolicy=continue\n\
             TimeoutStartSec=300\n\
             TimeoutStopSec=330\n\
             LimitNOFILE=1048576\n\
             TasksMax=infinity\n\
             \n\
             [Install]\n\
             WantedBy={target}\n"
        )
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = self.systemctl_command();
        let shown = format!("systemctl {}", arguments.join(" "));
        let output =
            command.args(arguments).output().map_err(|error| no_systemd(&format!("cannot run it: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        let journal = if self.is_root { "journalctl" } else { "journalctl --user" };
        Err(Failure::failed("MS1014", format!("{shown} failed: {words}")).help(format!(
            "`{journal} -u {} -n 50` shows what it said; `mainstay service remove` takes it away",
            self.name
        )))
    }

    fn systemctl_command(&self) -> Command {
        let mut command = Command::new("systemctl");
        if !self.is_root {
            command.arg("--user");
        }
        command
    }
}

/// A word of an `ExecStart=` line.
///
/// **Source**: systemd.service(5), "Command lines": quotes, `$` and `%` have meanings.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = word.chars().all(|c| c.is_alphanumeric() || "/._-=:@+,".contains(c));
    if is_plain { word } else { format!("\"{word}\"") }
}

fn no_systemd(why: &str) -> Failure {
    Failure::environment("MS3035", format!("systemd does not run here: {why}")).help(
        "`mainstay service install --print` shows the unit; elsewhere `mainstay up -d` at the machine's start does",
    )
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    match options.what {
        What::Install { print: true, .. } => {
            let unit = Unit::of(global)?;
            if global.json {
                let value = serde_json::json!({"unit": unit.name, "file": unit.file, "program": unit.program,
                    "text": unit.text()});
                println!("{value}");
            } else {
                print!("{}", unit.text());
            }
            Ok(exit_code::DONE)
        }
        What::Install { no_start, .. } => install(global, &Unit::of(global)?, !no_start).await,
        What::Remove => remove(global, &Unit::of(global)?),
        What::Status => status(global, &Unit::of(global)?),
    }
}

async fn install(global: &Global, unit: &Unit, start: bool) -> Result<u8, Failure> {
    if !Path::new(SYSTEMD).is_dir() {
        return Err(no_systemd(&format!("there is no {SYSTEMD}")));
    }
    if start {
        // The unit's `up` would take a stack over that was started in somebody's session, and end with that session.
        let is_up = place::client(global)?.status().await.is_ok();
        if is_up && !is_active(unit) {
            return Err(Failure::refused("MS4005", format!("stack {} is up already, outside of systemd", unit.stack))
                .help("`mainstay down`, then `mainstay service install` again; or --no-start, for the next boot"));
        }
    }
    let cannot = |path: &Path, error: &std::io::Error| {
        Failure::environment("MS3036", format!("cannot write {}: {error}", path.display()))
            .help("as root for a unit of the machine; --print shows it")
    };
    put_program(&unit.program).map_err(|error| cannot(&unit.program, &error))?;
    if let Some(folder) = unit.file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
    }
    durable::replace(&unit.file, unit.text().as_bytes(), 0o644).map_err(|error| cannot(&unit.file, &error))?;
    let guard = spare_from_needrestart(unit.is_root);
    unit.systemctl(&["daemon-reload"])?;
    unit.systemctl(&["enable", &unit.name])?;
    if start {
        eprintln!("starting {} (systemd waits until everything is ready)", unit.name);
        unit.systemctl(&["start", &unit.name])?;
    }
    if global.json {
        let value =
            serde_json::json!({"unit": unit.name, "file": unit.file, "program": unit.program, "started": start});
        println!("{value}");
        return Ok(exit_code::DONE);
    }
    println!("unit     {}", unit.file.display());
    let renew = again::command("service install");
    println!("program  {} (`{renew}` again after an update of mainstay)", unit.program.display());
    if let Some(guard) = guard {
        println!("spared   from automatic restarts by needrestart: {}", guard.display());
    }
    println!("{}", if start { "runs now, and from now on with the machine" } else { "runs from the next boot on" });
    if !unit.is_root {
        println!("{}", lingering(is_lingering(Path::new(LINGER), &user_name())));
    }
    println!("undo: {}", again::command("service remove"));
    Ok(exit_code::DONE)
}

/// Where systemd notes whose units outlive their sessions, a file for each user.
const LINGER: &str = "/var/lib/systemd/linger";

fn is_lingering(folder: &Path, user: &str) -> bool {
    !user.is_empty() && folder.join(user).exists()
}

fn lingering(is_on: bool) -> &'static str {
    if is_on {
        "it outlives your sessions: lingering is on"
    } else {
        "it ends with your last session, unless: loginctl enable-linger"
    }
}

/// The name of who calls; of users who stand elsewhere than in the machine's own list, as their session says.
fn user_name() -> String {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&users, uid).or_else(|| std::env::var("USER").ok()).filter(|name| !name.contains('/')).unwrap_or_default()
}

fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Copies the running program to where the unit looks for it, if it is not that one.
fn put_program(to: &Path) -> std::io::Result<()> {
    let me = std::env::current_exe()?;
    if me == to {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let aside = to.with_extension("new");
    std::fs::copy(&me, &aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&aside, to)
}

/// Where needrestart is there, it is told to leave stacks alone; answers which file says so.
fn spare_from_needrestart(is_root: bool) -> Option<PathBuf> {
    let folder = Path::new(NEEDRESTART);
    if !is_root || !folder.is_dir() {
        return None;
    }
    let file = folder.join("mainstay.conf");
    let text = "# Written by `mainstay service install`: parts of a stack are restarted by mainstay, one after the other.\n\
        $nrconf{override_rc}{qr(^mainstay-)} = 0;\n";
    // Without it a package's upgrade restarts the stack, in order: worse, and no reason to fail.
    durable::replace(&file, text.as_bytes(), 0o644).ok().map(|()| file)
}

fn is_active(unit: &Unit) -> bool {
    unit.systemctl_command().args(["is-active", "--quiet", &unit.name]).status().is_ok_and(|status| status.success())
}

fn remove(global: &Global, unit: &Unit) -> Result<u8, Failure> {
    if !unit.file.exists() {
        return Err(Failure::user("MS2033", format!("there is no unit {}", unit.file.display()))
            .help("`mainstay service install` makes one; `--file` and `--env` choose the stack"));
    }
    eprintln!("stopping {}", unit.name);
    unit.systemctl(&["disable", "--now", &unit.name])?;
    std::fs::remove_file(&unit.file).map_err(|error| {
        Failure::environment("MS3036", format!("cannot remove {}: {error}", unit.file.display())).help("as root?")
    })?;
    unit.systemctl(&["daemon-reload"])?;
    if global.json {
        println!("{}", serde_json::json!({"removed": unit.name}));
    } else {
        println!("{} is stopped and removed; data stays, and so does {}", unit.name, unit.program.display());
    }
    Ok(exit_code::DONE)
}

fn status(global: &Global, unit: &Unit) -> Result<u8, Failure> {
    let is_there = unit.file.exists();
    let ask = |what: &str| {
        let output = unit.systemctl_command().args([what, &unit.name]).output();
        output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is_current = std::fs::read_to_string(&unit.file).is_ok_and(|text| text == unit.text());
    let (active, enabled) = if is_there { (ask("is-active"), ask("is-enabled")) } else { Default::default() };
    if global.json {
        let value = serde_json::json!({"unit": unit.name, "installed": is_there, "active": active, "enabled": enabled,
            "is_current": is_current});
        println!("{value}");
    } else if is_there {
        println!("{}  {active}, {enabled}", unit.name);
        if !is_current {
            let renew = again::command("service install");
            println!("its text is not what this mainstay writes: `{renew}` renews it");
        }
    } else {
        println!("not installed: `{}` makes {}", again::command("service install"), unit.name);
    }
    Ok(exit_code::DONE)
}

/// Tells the service manager that everything is ready, if one asked for it.
///
/// **Source**: sd_notify(3): a datagram to the socket in `NOTIFY_SOCKET`, `@` for the abstract namespace.
pub(crate) fn tell_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        eprintln!("cannot tell the service manager that all is ready: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_leaves_children_alone_and_names_the_stack_whatever_its_path_looks_like() {
        let unit = Unit {
            name: "mainstay-shop-production.service".to_owned(),
            file: PathBuf::from("/etc/systemd/system/mainstay-shop-production.service"),
            is_root: true,
            program: PathBuf::from("/usr/local/bin/mainstay"),
            arguments: vec!["--file".to_owned(), "/srv/my shop/100%/mainstay.toml".to_owned()],
            stack: "shop".to_owned(),
            environment: "production".to_owned(),
        };
        let text = unit.text();
        let call = "/usr/local/bin/mainstay --file \"/srv/my shop/100%%/mainstay.toml\"";
        for line in [
            &format!("ExecStart={call} up --service --wait 240"),
            &format!("ExecStop=-{call} down"),
            "KillMode=process",
            "OOMPolicy=continue",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|one| one == line), "{line:?} is not in:\n{text}");
        }
    }

    #[test]
    fn lingering_is_asked_for_only_where_it_is_off() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("ada"), "").expect("written");
        assert!(lingering(is_lingering(folder.path(), "ada")).contains("lingering is on"));
        for other in ["ben", ""] {
            assert!(lingering(is_lingering(folder.path(), other)).contains("loginctl enable-linger"));
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_in(users, 1000).as_deref(), Some("ada"));
        assert_eq!(name_in(users, 4711), None);
    }

    #[test]
    fn words_that_systemd_would_read_otherwise_are_quoted() {
        assert_eq!(quoted("/a/b-c.toml"), "/a/b-c.toml");
        assert_eq!(quoted("a\"b$c"), "\"a\\\"b$$c\"");
    }
}
