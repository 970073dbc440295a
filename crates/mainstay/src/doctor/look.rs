//! Looks at the machine for [`super::judge`]; changes nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use mainstay_api::Status;
use mainstay_controller::paths::Paths;
use mainstay_controller::ports::{self, Ports};
use mainstay_controller::programs::{Found, all};
use mainstay_types::{Member, Timestamp};
use rustix::process::Resource;

use super::{Authority, Backups, Controller, Door, Known, Machine, Program, Stack};
use crate::Global;
use crate::failure::Failure;

pub(crate) async fn machine(global: &Global) -> Result<Machine, Failure> {
    let base = crate::place::state_base(global)?;
    // Of a relative one, the folders above it are those of the current folder.
    let base = std::path::absolute(&base).unwrap_or(base);
    let there = base.ancestors().find(|folder| folder.exists()).unwrap_or(&base).to_owned();
    let stat = rustix::fs::statvfs(&there)
        .map_err(|error| Failure::environment("MS3031", format!("cannot look at {}: {error}", there.display())))?;
    let hard = |resource: Resource| rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    Ok(Machine {
        programs: programs(state_of_stack(global).as_deref()),
        user: rustix::process::geteuid().as_raw(),
        is_user_known: is_user_known(rustix::process::geteuid().as_raw()),
        kernel: kernel(),
        controllers: controllers(),
        descriptors: hard(Resource::Nofile),
        processes: hard(Resource::Nproc),
        state: base.display().to_string(),
        state_fault: state_fault(&base, &there),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        // btrfs and others make inodes as they go.
        free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
        memory: available_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        is_synchronised: mainstay_supervisor::clock_is_synchronised(),
        stack: stack(global).await,
    })
}

/// Why nothing can be kept in the state folder, which may not be there yet; `there` is it or the first folder above it.
fn state_fault(base: &Path, there: &Path) -> Option<String> {
    use rustix::fs::Access;
    // A file in its place, or in that of a folder above it.
    if !there.is_dir() {
        return Some(format!("{} is not a folder", there.display()));
    }
    let is_its = if there == base { "" } else { ", in which it would be made," };
    match rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => None,
        Err(error) => Some(format!("{}{is_its} cannot be written to: {error}", there.display())),
    }
}

/// The state folder of the stack here, if there is one.
fn state_of_stack(global: &Global) -> Option<std::path::PathBuf> {
    crate::place::stack_file(global).ok()?;
    Some(crate::place::paths_of_anybody(global).ok()?.state)
}

fn programs(state: Option<&Path>) -> Vec<Program> {
    let look = |program: mainstay_controller::programs::Look| {
        let found = match program.found {
            Found::Here(what) => Ok(version(&what).map_or(what.clone(), |version| format!("{version}, {what}"))),
            // "… is not installed; install it with: COMMAND"
            Found::Missing(help) => Err(match help.split_once("install it with: ").or_else(|| help.split_once(": ")) {
                Some((found, command)) => (found.trim_end_matches([' ', ';', ':']).to_owned(), command.to_owned()),
                None => ("not on this machine".to_owned(), help),
            }),
        };
        Program { name: program.name, is_required: program.is_required, found }
    };
    all(state).into_iter().map(look).collect()
}

/// What a program at a path says of itself: the first word with a point between digits.
fn version(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let output = std::process::Command::new(path).arg("--version").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let word = text.split_whitespace().map(|word| word.trim_start_matches("v=").trim_matches([',', ')', '(']));
    let mut words = word.filter(|word| word.starts_with(|letter: char| letter.is_ascii_digit()) && word.contains('.'));
    words.next().map(|version| format!("version {version}"))
}

/// `getent` asks all that the machine is told to, as PostgreSQL does: users may be in a directory, not in a file.
fn is_user_known(user: u32) -> Option<bool> {
    // It has no entry with that key (getent(1), exit status).
    const NONE: i32 = 2;
    let output = std::process::Command::new("getent").args(["passwd", &user.to_string()]).output().ok()?;
    match output.status.code() {
        Some(0) => Some(true),
        Some(NONE) => Some(false),
        _ => None,
    }
}

fn mistakes(file: &Path, count: usize) -> String {
    format!("{} has {count} {}", file.display(), if count == 1 { "mistake" } else { "mistakes" })
}

fn kernel() -> ((u32, u32), String) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    ((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)), release)
}

fn controllers() -> Vec<(&'static str, Controller)> {
    let v2 = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    let v2: String = v2.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    let v1 = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    ["memory", "cpu", "pids"].map(|name| (name, controller(name, &v2, &v1))).to_vec()
}

/// v2 by its list, v1 by its mounted hierarchies.
fn controller(name: &str, v2: &str, v1: &str) -> Controller {
    if v2.split_whitespace().any(|controller| controller == name) {
        return Controller::V2;
    }
    let line =
        v1.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|line| line.first() == Some(&name));
    match line.as_deref() {
        Some([_, _, _, "0"]) => Controller::Disabled,
        Some([_, hierarchy, ..]) if *hierarchy != "0" => Controller::V1,
        _ => Controller::Absent,
    }
}

fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

async fn stack(global: &Global) -> Stack {
    let Ok(file) = crate::place::stack_file(global) else { return Stack::None };
    let Ok(text) = std::fs::read_to_string(&file) else { return Stack::None };
    let Ok(environment) = crate::place::environment(global) else { return Stack::None };
    let parsed = match mainstay_stack::parse(&text, &file.display().to_string(), &environment) {
        Ok(parsed) => parsed,
        Err(found) => return Stack::Broken(mistakes(&file, found.list.len())),
    };
    let Ok(paths) = crate::place::paths_of_anybody(global) else { return Stack::None };
    let client = mainstay_client::Client::new(paths.api_socket());
    let status = client.status().await.ok();
    let running = status.as_ref().map(|status| format!("up, {}", status.overall));
    let newest = match &running {
        Some(_) => client.events(None, 1).await.ok().and_then(|events| events.last().map(|event| event.at)),
        None => newest_event(&paths),
    };
    let now = crate::screen::now();
    Stack::Known(Box::new(Known {
        name: parsed.stack.name.to_string(),
        has_database: parsed.stack.database.is_some(),
        backups: backups(&parsed, status.as_ref()),
        one_disk: one_disk(&paths.state),
        authority: authority(&parsed.stack.edge),
        doors: if running.is_some() { Vec::new() } else { doors(&parsed, &paths) },
        disk_need: if running.is_some() {
            None
        } else {
            crate::command::preflight::disk_need(&parsed.stack, &paths.state).ok()
        },
        running,
        has_state: paths.state.join("state.db").exists(),
        last_drill: last_drill(&paths.state.join("drills/history.jsonl"), now),
        event_ahead: newest.map(|newest| newest.saturating_since(now)),
    }))
}

fn authority(edge: &mainstay_stack::model::Edge) -> Option<Authority> {
    let directory = edge.authority()?.directory.clone();
    let (listen, http_port, https_port) = (edge.listen.clone(), edge.http_port, edge.https_port);
    Some(Authority { directory, listen, http_port, https_port })
}

/// What the stack file asks for, and what the running stack says of it.
fn backups(parsed: &mainstay_stack::Parsed, status: Option<&Status>) -> Option<Backups> {
    let target = parsed.stack.database.as_ref()?.backup.as_ref()?.target.to_string();
    let seen = status.and_then(|status| status.backups.as_ref()).map(|backups| {
        let failing = backups.failures.iter().filter(|(_, times)| **times > 0);
        let mut wrong: Vec<String> = failing.map(|(job, times)| format!("{job} failed {times} times")).collect();
        wrong.extend(backups.overdue_since.map(|since| format!("one is due since {since}")));
        (backups.count, wrong)
    });
    Some(Backups { target, seen })
}

/// Members that share a device, and the folder of the last of them.
fn one_disk(state: &Path) -> Option<(Vec<Member>, String)> {
    let shared = crate::command::members_on_one_device(state);
    let last = *shared.last()?;
    Some((shared, state.join("pg").join(last.to_string()).display().to_string()))
}

/// The newest event of a stack that does not run. Only the owner's own files are opened: SQLite leaves files beside.
fn newest_event(paths: &Paths) -> Option<Timestamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = paths.state.join("state.db").metadata().ok()?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let store = mainstay_controller::store::Store::open(&paths.state).ok()?;
    store.events(None, 1).ok()?.last().map(|event| event.at)
}

fn doors(parsed: &mainstay_stack::Parsed, paths: &Paths) -> Vec<Door> {
    let stack = &parsed.stack;
    let kept = Ports::load(&paths.state).ok();
    let mut doors = vec![
        ("edge-https", "edge.https_port", stack.edge.https_port),
        ("edge-http", "edge.http_port", stack.edge.http_port),
        ("console", "console.port", stack.console.port),
    ];
    if let Some(database) = &stack.database {
        doors.push(("router-write", "database.write_port", database.write_port));
        doors.push(("router-read", "database.read_port", database.read_port));
    }
    let door = |(purpose, key, wished): (&str, &'static str, u16)| {
        let is_declared = parsed.origins.of(key) != mainstay_stack::Origin::Default;
        let kept = kept.as_ref().and_then(|kept| kept.get(purpose)).filter(|_| !is_declared);
        let port = kept.unwrap_or(wished);
        Door { key, port, is_fixed: is_declared || kept.is_some(), holder: holder(port) }
    };
    doors.into_iter().map(door).collect()
}

fn holder(port: u16) -> Option<String> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
        return None;
    }
    Some(ports::holder(port).unwrap_or_else(|| "a process that this user cannot see".to_owned()))
}

/// The last line of the history of drills that has a verdict and no mistake put in on purpose.
fn last_drill(history: &Path, now: Timestamp) -> Option<(String, String, Duration)> {
    let text = std::fs::read_to_string(history).ok()?;
    text.lines().rev().find_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let verdict = record["verdict"].as_str()?;
        if !record["sabotage"].is_null() {
            return None;
        }
        let ended = Timestamp::from_micros(record["ended"].as_i64()?);
        Some((record["drill"].as_str()?.to_owned(), verdict.to_owned(), now.saturating_since(ended)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t189\t1\ncpu\t0\t1\t0\nnet_cls\t0\t1\t1\n";

    #[test]
    fn one_mistake_is_not_counted_as_several() {
        assert_eq!(mistakes(Path::new("mainstay.toml"), 1), "mainstay.toml has 1 mistake");
        assert_eq!(mistakes(Path::new("mainstay.toml"), 2), "mainstay.toml has 2 mistakes");
    }

    #[test]
    fn the_user_database_knows_root_and_not_the_last_number() {
        assert_eq!(is_user_known(0), Some(true));
        // One below that which means none.
        assert_eq!(is_user_known(u32::MAX - 1), Some(false));
    }

    #[test]
    fn a_controller_is_told_by_either_version_and_so_is_its_absence() {
        assert_eq!(controller("pids", "cpuset cpu pids\n", V1), Controller::V2);
        assert_eq!(controller("memory", "", V1), Controller::V1);
        assert_eq!(controller("cpu", "", V1), Controller::Disabled);
        assert_eq!(controller("net_cls", "", V1), Controller::Absent);
        assert_eq!(controller("pids", "", V1), Controller::Absent);
    }

    #[test]
    fn a_state_folder_that_cannot_be_one_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(state_fault(folder.path(), folder.path()), None);
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(state_fault(&file.join("state"), &file).is_some_and(|fault| fault.ends_with("file is not a folder")));
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(available_memory("MemTotal: 8 kB\nMemAvailable:   2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(available_memory(""), None);
    }

    #[test]
    fn the_last_drill_is_the_last_one_that_says_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history.jsonl");
        let line = |drill: &str, ended: &str, verdict: &str, sabotage: &str| {
            format!("{{\"drill\":\"{drill}\",\"ended\":{ended},\"verdict\":{verdict},\"sabotage\":{sabotage}}}\n")
        };
        let text = [
            line("instance-crash", "1000000", "\"PASS\"", "null"),
            line("database-crash", "2000000", "\"FAIL\"", "\"promote-without-fencing\""),
            line("keep-crash", "null", "null", "null"),
            "{\"drill\":\"cut o".to_owned(),
        ];
        std::fs::write(&file, text.concat()).expect("written");
        let found = last_drill(&file, Timestamp::from_micros(61_000_000));
        assert_eq!(found, Some(("instance-crash".to_owned(), "PASS".to_owned(), Duration::from_secs(60))));
        assert_eq!(last_drill(&folder.path().join("none"), Timestamp::from_micros(0)), None);
    }
}
