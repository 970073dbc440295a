//! What a machine has and lacks: facts in, findings out. Pure; [`look`] gathers the facts.
//!
//! Each finding that is not fine says why it matters and which command mends it.

pub(crate) mod look;

use std::time::Duration;

use mainstay_types::{Bytes, Member};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Health {
    Fine,
    /// The stack runs, with less.
    Limited,
    /// A stack that needs it cannot run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) health: Health,
    /// What is so.
    pub(crate) found: String,
    /// What it means, unless all is well.
    pub(crate) why: Option<String>,
    /// Commands that mend it, in order; or a sentence where no command can.
    pub(crate) mend: Vec<String>,
}

impl Finding {
    fn fine(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, health: Health::Fine, found: found.into(), why: None, mend: Vec::new() }
    }

    fn limited(what: &'static str, found: impl Into<String>, why: impl Into<String>) -> Self {
        Self { health: Health::Limited, why: Some(why.into()), ..Self::fine(what, found) }
    }

    fn missing(what: &'static str, found: impl Into<String>, why: impl Into<String>) -> Self {
        Self { health: Health::Missing, why: Some(why.into()), ..Self::fine(what, found) }
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }
}

/// A program that mainstay runs and does not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) is_required: bool,
    /// Version and path; or what was found instead, and the command that installs it.
    pub(crate) found: Result<String, (String, String)>,
}

/// A controller of the kernel's control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    V2,
    V1,
    /// Built in and switched off at boot.
    Disabled,
    Absent,
}

/// A port that people know, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    /// Its key in the stack file.
    pub(crate) key: &'static str,
    pub(crate) port: u16,
    /// The stack file or an earlier `up` says this one: no other will do.
    pub(crate) is_fixed: bool,
    /// Somebody else listens there: who, as far as that can be seen.
    pub(crate) holder: Option<String>,
}

/// The stack that the command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// No stack file here.
    None,
    /// Its file is broken: how many mistakes.
    Broken(String),
    /// It is there.
    Known(Box<Known>),
}

/// A stack with a valid file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// Its state in words, when it is up.
    pub(crate) running: Option<String>,
    pub(crate) has_database: bool,
    pub(crate) backups: Option<Backups>,
    /// Members of the database whose data lie on one device, and a folder at which another disk could be mounted.
    pub(crate) one_disk: Option<(Vec<Member>, String)>,
    /// The authority that its certificate is ordered from, if one is.
    pub(crate) authority: Option<Authority>,
    pub(crate) doors: Vec<Door>,
    /// Space that its start needs; `None` when it runs.
    pub(crate) disk_need: Option<u64>,
    /// Its state folder was there before: an `up` was.
    pub(crate) has_state: bool,
    /// The last drill that said something: its name, its verdict, how long ago.
    pub(crate) last_drill: Option<(String, String, Duration)>,
    /// How far the newest event lies in the future.
    pub(crate) event_ahead: Option<Duration>,
}

/// Where certificates are ordered, and what it would reach here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) directory: String,
    pub(crate) listen: String,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
}

/// Backups that the stack file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backups {
    pub(crate) target: String,
    /// Base backups, and what is wrong with them; `None` while the stack is not up.
    pub(crate) seen: Option<(u64, Vec<String>)>,
}

/// Everything that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) programs: Vec<Program>,
    pub(crate) user: u32,
    /// The user database has an entry for it; `None` where that cannot be asked.
    pub(crate) is_user_known: Option<bool>,
    /// Major and minor number, and the whole text.
    pub(crate) kernel: ((u32, u32), String),
    pub(crate) controllers: Vec<(&'static str, Controller)>,
    /// Hard limits of a process.
    pub(crate) descriptors: u64,
    pub(crate) processes: u64,
    pub(crate) state: String,
    /// Why nothing can be kept there.
    pub(crate) state_fault: Option<String>,
    pub(crate) free: u64,
    /// Free inodes; `None` where the file system has no fixed number.
    pub(crate) free_inodes: Option<u64>,
    pub(crate) memory: Option<u64>,
    /// What the kernel says of its clock.
    pub(crate) is_synchronised: Option<bool>,
    pub(crate) stack: Stack,
}

/// Free space below which a database is at risk soon.
const LEAST_FREE: u64 = 2 * 1024 * 1024 * 1024;
/// A database of a small application has some thousand files, Prometheus some hundred.
const LEAST_INODES: u64 = 20_000;
/// Descriptors that an edge with ten thousand connections needs.
const DESCRIPTORS: u64 = 20_000;
/// PostgreSQL has a process per connection, on each of two members.
const PROCESSES: u64 = 2_000;
/// PostgreSQL twice, Redis twice, Prometheus, and the application: with less something is killed sooner or later.
const LEAST_MEMORY: u64 = 1024 * 1024 * 1024;
/// close_range and openat2 (5.9) are used; Debian 11 has this one.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// A drill that is older says little of what runs now.
const DRILL_AGE: Duration = Duration::from_hours(30 * 24);
/// Less than this is a step of NTP.
const JUMP: Duration = Duration::from_mins(1);

const PACKAGES: &str = "sudo apt-get install --no-install-recommends";

/// Judges all that was seen, in the order in which people mend things.
pub(crate) fn judge(machine: &Machine) -> Vec<Finding> {
    let mut findings: Vec<Finding> = machine.programs.iter().map(program).collect();
    findings.push(kernel(machine));
    findings.push(cgroups(machine));
    findings.push(user(machine));
    findings.push(descriptors(machine));
    findings.push(processes(machine));
    findings.extend(memory(machine));
    findings.push(state(machine));
    findings.push(disk(machine));
    findings.extend(inodes(machine));
    findings.push(clock(machine));
    findings.extend(stack(&machine.stack));
    findings
}

fn program(program: &Program) -> Finding {
    match &program.found {
        Ok(found) => Finding::fine(program.name, found),
        Err((found, help)) if program.is_required => {
            Finding::missing(program.name, found, "stacks with that part do not start").mend(help)
        }
        Err((found, help)) => {
            Finding::limited(program.name, found, "stacks run without it, and without metrics or alerts").mend(help)
        }
    }
}

fn kernel(machine: &Machine) -> Finding {
    let (version, text) = &machine.kernel;
    if *version >= OLDEST_KERNEL {
        return Finding::fine("kernel", text);
    }
    let (major, minor) = OLDEST_KERNEL;
    let why = format!("{major}.{minor} is the oldest that mainstay is made for: descriptors leak without close_range");
    Finding::limited("kernel", text, why).mend("sudo apt-get update && sudo apt-get full-upgrade && sudo reboot")
}

fn cgroups(machine: &Machine) -> Finding {
    let version = |controller: Controller| match controller {
        Controller::V2 => "v2",
        Controller::V1 => "v1",
        Controller::Disabled => "switched off",
        Controller::Absent => "missing",
    };
    let words: Vec<String> =
        machine.controllers.iter().map(|(name, controller)| format!("{name} {}", version(*controller))).collect();
    let found = words.join(", ");
    let lacks = |wanted: Controller| machine.controllers.iter().find(|(_, controller)| *controller == wanted);
    if let Some((name, _)) = lacks(Controller::Disabled).or_else(|| lacks(Controller::Absent)) {
        let why = format!("the limits of a service that need `{name}` are not enforced; everything else runs");
        return Finding::limited("cgroups", found, why)
            .mend("sudoedit /etc/default/grub  # GRUB_CMDLINE_LINUX=cgroup_enable=memory")
            .mend("sudo update-grub && sudo reboot");
    }
    if machine.user != 0 {
        let why = "an ordinary user's limits of memory and CPU are enforced in a delegated group only";
        return Finding::limited("cgroups", found, why).mend("systemd-run --user --scope -p Delegate=yes mainstay up");
    }
    Finding::fine("cgroups", found)
}

fn user(machine: &Machine) -> Finding {
    let number = machine.user;
    if machine.is_user_known == Some(false) {
        let why = "initdb and PostgreSQL want a user with a name, so a stack with a database does not start";
        return Finding::missing("user", format!("user {number} has no entry in the user database (passwd)"), why)
            .mend(format!("sudo useradd --uid {number} --create-home app  # any name that is free"))
            .mend("sudo -u NAME mainstay up  # or as a user that has one");
    }
    if machine.user == 0 {
        Finding::fine("user", "root: every part drops to an unprivileged user of its own")
    } else {
        Finding::fine("user", format!("user {}: all parts run as this user", machine.user))
    }
}

fn amount(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { format!("at most {limit}") }
}

fn descriptors(machine: &Machine) -> Finding {
    let found = amount(machine.descriptors);
    if machine.descriptors >= DESCRIPTORS {
        return Finding::fine("open files", found);
    }
    let why = format!("10,000 connections at the edge need {DESCRIPTORS}");
    Finding::limited("open files", found, why)
        .mend("echo '* hard nofile 65536' | sudo tee /etc/security/limits.d/nofile.conf")
        .mend("log in again, then `ulimit -Hn` says 65536")
}

fn processes(machine: &Machine) -> Finding {
    let found = amount(machine.processes);
    // root is not held to it, but its parts are not root.
    if machine.processes >= PROCESSES {
        return Finding::fine("processes", found);
    }
    let why = "PostgreSQL has a process for each connection, on both members";
    Finding::limited("processes", found, why)
        .mend("echo '* hard nproc 8192' | sudo tee /etc/security/limits.d/nproc.conf")
        .mend("log in again, then `ulimit -Hu` says 8192")
}

fn memory(machine: &Machine) -> Option<Finding> {
    let bytes = machine.memory?;
    let found = format!("{} available", Bytes(bytes));
    Some(if bytes >= LEAST_MEMORY {
        Finding::fine("memory", found)
    } else {
        Finding::limited("memory", found, "the kernel may kill parts of the stack for want of memory")
            .mend("ps -eo rss,pid,args --sort=-rss | head  # who has it")
    })
}

fn state(machine: &Machine) -> Finding {
    let Some(fault) = &machine.state_fault else { return Finding::fine("state", &machine.state) };
    Finding::missing("state", fault, "databases, logs and passwords of a stack are kept there, so none can be started")
        .mend("mainstay --state DIR up  # a folder that this user may write to")
}

fn disk(machine: &Machine) -> Finding {
    let found = format!("{} free for {}", Bytes(machine.free), machine.state);
    if machine.free >= LEAST_FREE {
        return Finding::fine("disk", found);
    }
    let need = match &machine.stack {
        Stack::Known(known) => known.disk_need.filter(|need| machine.free < *need),
        Stack::None | Stack::Broken(_) => None,
    };
    let finding = match need {
        Some(need) => Finding::missing("disk", found, format!("a start of the stack needs {}", Bytes(need))),
        None => {
            let why = format!("below {} a database stops soon, and writes fail", Bytes(LEAST_FREE));
            Finding::limited("disk", found, why)
        }
    };
    finding
        .mend(format!("sudo du -xh --max-depth=2 {} | sort -h | tail", machine.state))
        .mend("mainstay --state DIR up  # keeps the state on another disk")
}

fn inodes(machine: &Machine) -> Option<Finding> {
    let free = machine.free_inodes?;
    Some(if free >= LEAST_INODES {
        Finding::fine("inodes", format!("{free} free"))
    } else {
        Finding::limited("inodes", format!("{free} free"), "no file can be made when they are used up, space or not")
            .mend(format!("sudo du -x --inodes --max-depth=2 {} | sort -n | tail", machine.state))
    })
}

fn clock(machine: &Machine) -> Finding {
    let ahead = match &machine.stack {
        Stack::Known(known) => known.event_ahead.filter(|ahead| *ahead > JUMP),
        Stack::None | Stack::Broken(_) => None,
    };
    let set = "sudo timedatectl set-ntp true";
    if let Some(ahead) = ahead {
        let found = format!("{} behind the newest event of the stack", age(ahead));
        return Finding::limited("clock", found, "it was set back: ages are wrong, certificates may not count yet")
            .mend(set);
    }
    match machine.is_synchronised {
        Some(true) => Finding::fine("clock", "follows a time source"),
        Some(false) => {
            let why = "nothing sets it: certificates, tokens and the times of events drift away from the world's";
            Finding::limited("clock", "the kernel says that it is not synchronised", why)
                .mend(format!("{PACKAGES} systemd-timesyncd"))
                .mend(set)
        }
        None => Finding::fine("clock", "the kernel does not say whether it follows a time source"),
    }
}

fn stack(stack: &Stack) -> Vec<Finding> {
    match stack {
        Stack::None => {
            vec![Finding::fine("stack", "no stack file here: its ports, drills and backups were not looked at")]
        }
        Stack::Broken(why) => {
            vec![
                Finding::limited("stack", why, "its ports, drills and backups were not looked at")
                    .mend("mainstay check"),
            ]
        }
        Stack::Known(known) => {
            let text = known.running.clone().unwrap_or_else(|| "not up".to_owned());
            let mut findings = vec![Finding::fine("stack", format!("{}: {text}", known.name))];
            findings.extend(ports(known));
            findings.extend(known.authority.as_ref().map(authority));
            findings.extend(drill(known));
            findings.extend(known.one_disk.as_ref().map(one_disk));
            findings.extend(known.has_database.then(|| backups(known.backups.as_ref())));
            findings
        }
    }
}

fn backups(backups: Option<&Backups>) -> Finding {
    let why = "a dead disk is the end of the data";
    let Some(Backups { target, seen }) = backups else {
        return Finding::limited("backups", "not configured", why)
            .mend("add [database.backup] with a `target` on another disk to the stack file");
    };
    match seen {
        None => Finding::fine("backups", format!("go to {target}; how they are is seen while the stack is up")),
        Some((0, _)) => Finding::limited("backups", format!("none in {target} yet"), why).mend("mainstay backup now"),
        Some((count, wrong)) if wrong.is_empty() => Finding::fine("backups", format!("{count} in {target}")),
        Some((count, wrong)) => {
            let found = format!("{count} in {target}; {}", wrong.join(", "));
            Finding::limited("backups", found, "a restore may lose more than the stack promises, or fail")
                .mend("mainstay status")
                .mend("mainstay backup list")
        }
    }
}

/// An authority comes from outside, to the ports that the protocol names (RFC 8555, 8.3; RFC 8737).
fn authority(of: &Authority) -> Finding {
    let Authority { directory, listen, http_port, https_port } = of;
    let is_here = listen.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_here {
        let found = format!("ordered from {directory}, which cannot reach {listen}");
        return Finding::limited(
            "certificate",
            found,
            "no order succeeds while nothing leads from outside to the edge",
        )
        .mend("set `listen = \"0.0.0.0\"` in [edge], or lead ports 80 and 443 here");
    }
    if (*http_port, *https_port) != (80, 443) {
        let found = format!("ordered from {directory}; the edge listens at {http_port} and {https_port}");
        return Finding::limited("certificate", found, "the authority asks at ports 80 and 443")
            .mend("set `http_port = 80` and `https_port = 443` in [edge]")
            .mend(format!("or lead 80 to {http_port} and 443 to {https_port} from outside"));
    }
    Finding::fine("certificate", format!("ordered from {directory}"))
}

/// A second data directory on the same device is called what it is.
fn one_disk((members, folder): &(Vec<Member>, String)) -> Finding {
    let names: Vec<String> = members.iter().map(|member| format!("postgres-{member}")).collect();
    let why = "a standby on the same disk protects against a crash, not against the loss of the disk";
    Finding::limited("standby", format!("{} are on one disk", names.join(" and ")), why)
        .mend(format!("mount another disk at {folder}, while the stack is down"))
}

fn ports(known: &Known) -> Vec<Finding> {
    if known.running.is_some() {
        return Vec::new();
    }
    let taken: Vec<&Door> = known.doors.iter().filter(|door| door.holder.is_some()).collect();
    if taken.is_empty() {
        let all: Vec<String> = known.doors.iter().map(|door| door.port.to_string()).collect();
        return vec![Finding::fine("ports", format!("{} are free", all.join(", ")))];
    }
    let finding = |door: &&Door| {
        let holder = door.holder.clone().unwrap_or_default();
        let found = format!("{} ({}) is taken by {holder}", door.port, door.key);
        let look = format!("sudo ss -ltnp 'sport = :{}'  # who it is; end it, or", door.port);
        if door.is_fixed {
            Finding::missing("ports", found, "`up` refuses to start: the port is declared, or was chosen before")
                .mend(look)
                .mend(format!("set another `{}` in the stack file", door.key))
        } else {
            Finding::limited("ports", found, "`up` takes the next free one, and keeps it from then on")
                .mend(look)
                .mend(format!("set `{}` in the stack file, if the number matters", door.key))
        }
    };
    taken.iter().map(finding).collect()
}

fn drill(known: &Known) -> Option<Finding> {
    if !known.has_state {
        return None;
    }
    let again = "mainstay drill database-crash";
    let again = if known.has_database { again } else { "mainstay drill instance-crash" };
    Some(match &known.last_drill {
        None => Finding::limited("drills", "no drill has been run", "what the stack promises was never measured here")
            .mend(again),
        Some((name, verdict, ago)) => {
            let found = format!("{name}: {verdict}, {} ago", age(*ago));
            if verdict != "PASS" {
                Finding::limited("drills", found, "the last one did not pass").mend(format!("mainstay drill {name}"))
            } else if *ago > DRILL_AGE {
                Finding::limited("drills", found, "that long ago says little of what runs now").mend(again)
            } else {
                Finding::fine("drills", found)
            }
        }
    })
}

fn age(duration: Duration) -> String {
    crate::screen::age(duration)
}

#[cfg(test)]
mod tests;
