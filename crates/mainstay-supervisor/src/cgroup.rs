//! Control groups: limits, accounting and killing, by v1 or v2, whichever carries the controller.
//!
//! A child's group is one folder in each hierarchy. What a folder can do is told by the files in it, so a
//! group that an earlier keep made is used without knowing how. Nothing here is needed: without cgroups a
//! child runs without limits, and [`Cgroups::describe`] says what is missing.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use mainstay_types::Pid;
use serde::{Deserialize, Serialize};

use crate::protocol::Limits;

/// Controllers that limit or account.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];
/// v1 hierarchies that are joined: the above, accounting, and freezing (for drills).
const JOINED_V1: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
/// Period of a CPU quota. **Unit**: microseconds. The kernel's default, and long enough for fair sharing.
const CPU_PERIOD: u64 = 100_000;

/// The hierarchies usable here.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// v1: controllers and our folder in the hierarchy.
    v1: Vec<(Vec<String>, PathBuf)>,
    /// v2: our folder and the controllers its children have.
    v2: Option<(PathBuf, Vec<String>)>,
}

/// The folders of one child.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Group(Vec<PathBuf>);

struct Mount {
    point: PathBuf,
    root: String,
    is_v2: bool,
    options: Vec<String>,
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let is_v2 = match *right.first()? {
                "cgroup2" => true,
                "cgroup" => false,
                _ => return None,
            };
            Some(Mount {
                point: PathBuf::from(left.get(4)?),
                root: (*left.get(3)?).to_owned(),
                is_v2,
                options: right.get(2)?.split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// Path of this process in a hierarchy, below the mount's root. The part that is ours already (this keep
/// was started by a child of an earlier one) is cut off.
fn own_path(cgroup: &str, mount: &Mount, ours: &str) -> PathBuf {
    let path = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_here = if mount.is_v2 {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| !name.is_empty() && mount.options.iter().any(|option| option == name))
        };
        is_here.then_some(path)
    });
    let path = path.unwrap_or("/");
    let path = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or("/");
    let path = path.split_once(ours).map_or(path, |(outside, _)| outside);
    mount.point.join(path.trim_start_matches('/'))
}

/// Our folders below whatever group this process is in.
fn ours(state: &Path) -> String {
    let hash = format!("{:016x}", crate::ids::stable_hash(state.as_os_str().as_encoded_bytes()));
    format!("mainstay/{hash}")
}

impl Cgroups {
    /// Finds what is usable, and moves this process out of a child's group if it was started in one.
    pub(crate) fn detect(state: &Path) -> Self {
        let ours = ours(state);
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self { v1: Vec::new(), v2: None };
        for mount in mounts(&mountinfo) {
            let own = own_path(&cgroup, &mount, &ours);
            if mount.is_v2 {
                found.v2 = found.v2.or_else(|| detect_v2(&mount, &own, &ours));
            } else if let Some(v1) = detect_v1(&mount, &own, &ours, &found.v1) {
                found.v1.push(v1);
            }
        }
        found
    }

    /// What is usable, for people.
    pub(crate) fn describe(&self) -> String {
        let mut parts = Vec::new();
        let v1: Vec<&str> = self.v1.iter().flat_map(|(names, _)| names.iter().map(String::as_str)).collect();
        if !v1.is_empty() {
            parts.push(format!("v1 {}", v1.join(",")));
        }
        if let Some((folder, controllers)) = &self.v2 {
            let kill = if folder.join("cgroup.kill").exists() { Some("kill") } else { None };
            let names: Vec<&str> = controllers.iter().map(String::as_str).chain(kill).collect();
            parts.push(format!("v2 {}", if names.is_empty() { "without kill".to_owned() } else { names.join(",") }));
        }
        let lacks: Vec<&str> = WANTED.into_iter().filter(|name| !self.carries(name)).collect();
        if !lacks.is_empty() {
            parts.push(format!("no limits for {} (not writable here)", lacks.join(",")));
        }
        parts.join("; ")
    }

    fn carries(&self, controller: &str) -> bool {
        let in_v1 = self.v1.iter().any(|(names, _)| names.iter().any(|name| name == controller));
        in_v1 || self.v2.as_ref().is_some_and(|(_, names)| names.iter().any(|name| name == controller))
    }

    /// Makes the folders of a child and sets its limits as far as the hierarchies carry them.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> Group {
        let folders = self.v1.iter().map(|(_, folder)| folder).chain(self.v2.iter().map(|(folder, _)| folder));
        let made: Vec<PathBuf> =
            folders.map(|folder| folder.join(name)).filter(|folder| make(folder).is_ok()).collect();
        let group = Group(made);
        group.limit(limits);
        group
    }
}

impl Cgroups {
    /// At an orderly end: leaves our own leaf, and removes our folders if no child is in one any more.
    pub(crate) fn leave(&self) {
        if let Some((folder, _)) = &self.v2
            && let Some(base) = folder.parent().and_then(Path::parent)
        {
            // Refused where `base` has controllers for its children: then the leaf stays until the service ends.
            put(&base.join("cgroup.procs"), "0").ok();
            std::fs::remove_dir(folder.join("keep")).ok();
        }
        for folder in self.v1.iter().map(|(_, folder)| folder).chain(self.v2.iter().map(|(folder, _)| folder)) {
            std::fs::remove_dir(folder).ok();
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn put(file: &Path, value: &str) -> io::Result<()> {
    // Never created: a missing control file means that this hierarchy does not carry the controller.
    io::Write::write_all(&mut OpenOptions::new().write(true).open(file)?, value.as_bytes())
}

fn pids_in(folder: &Path) -> BTreeSet<Pid> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok().map(Pid)).collect()
}

type V1 = (Vec<String>, PathBuf);

fn detect_v1(mount: &Mount, own: &Path, ours: &str, known: &[V1]) -> Option<V1> {
    let is_new = |name: &&str| !known.iter().any(|(names, _)| names.iter().any(|other| other == *name));
    let names: Vec<String> = JOINED_V1
        .into_iter()
        .filter(|name| mount.options.iter().any(|option| option == name))
        .filter(is_new)
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return None;
    }
    let base = [own, &mount.point].into_iter().find(|base| make(&base.join(ours)).is_ok())?;
    if base == own {
        // Out of a child's group, which is killed as a whole; else this changes nothing.
        put(&base.join("cgroup.procs"), "0").ok();
    }
    Some((names, base.join(ours)))
}

fn detect_v2(mount: &Mount, own: &Path, ours: &str) -> Option<(PathBuf, Vec<String>)> {
    let mut best: Option<(PathBuf, Vec<String>)> = None;
    for base in [own, &mount.point] {
        let folder = base.join(ours);
        if best.as_ref().is_some_and(|(known, _)| *known == folder) || make(&folder).is_err() {
            continue;
        }
        let usable = enable(base, &folder);
        if best.as_ref().is_none_or(|(_, controllers)| controllers.len() < usable.len()) {
            best = Some((folder, usable));
        } else {
            std::fs::remove_dir(&folder).ok();
        }
    }
    let (folder, _) = best.as_ref()?;
    // Out of whatever group this process was started in: a group with controllers for its children may hold
    // no process of its own, and a child's group is killed as a whole.
    let leaf = folder.join("keep");
    if make(&leaf).is_ok() {
        put(&leaf.join("cgroup.procs"), "0").ok();
    }
    best
}

/// Hands the controllers down from `base` to the children of `folder`; answers which arrived.
fn enable(base: &Path, folder: &Path) -> Vec<String> {
    let me = Pid(i32::try_from(std::process::id()).unwrap_or(0));
    let is_only_us = pids_in(base) == BTreeSet::from([me]);
    if is_only_us && make(&folder.join("keep")).is_ok() {
        put(&folder.join("keep/cgroup.procs"), "0").ok();
    }
    let middle = folder.parent().unwrap_or(base);
    for level in [base, middle, folder] {
        for name in WANTED {
            // A controller bound to v1, or a level that is not ours, refuses; what arrived is read below.
            put(&level.join("cgroup.subtree_control"), &format!("+{name}")).ok();
        }
    }
    let text = std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    text.split_whitespace().filter(|name| WANTED.contains(name)).map(str::to_owned).collect()
}

/// The files through which a process joins the groups that another is in.
pub(crate) fn doors_of(pid: Pid) -> Vec<File> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let is_joined = |mount: &Mount| mount.is_v2 || mount.options.iter().any(|name| JOINED_V1.contains(&name.as_str()));
    mounts(&mountinfo)
        .iter()
        .filter(|mount| is_joined(mount))
        // No path holds a zero byte: nothing of the path is cut off.
        .map(|mount| own_path(&cgroup, mount, "\0").join("cgroup.procs"))
        .filter_map(|file| OpenOptions::new().write(true).open(file).ok())
        .collect()
}

impl Group {
    fn limit(&self, limits: &Limits) {
        let set = |file: &str, value: String| {
            for folder in &self.0 {
                put(&folder.join(file), &value).ok();
            }
        };
        if let Some(memory) = limits.memory {
            set("memory.limit_in_bytes", memory.0.to_string());
            // Swap would turn a limit into slowness.
            set("memory.memsw.limit_in_bytes", memory.0.to_string());
            set("memory.max", memory.0.to_string());
            set("memory.swap.max", "0".to_owned());
        }
        if let Some(milli) = limits.cpu_milli {
            let quota = (u64::from(milli) * CPU_PERIOD / 1000).max(1000);
            set("cpu.cfs_period_us", CPU_PERIOD.to_string());
            set("cpu.cfs_quota_us", quota.to_string());
            set("cpu.max", format!("{quota} {CPU_PERIOD}"));
        }
        if let Some(pids) = limits.pids {
            set("pids.max", pids.to_string());
        }
    }

    /// The files through which a process joins.
    pub(crate) fn doors(&self) -> Vec<File> {
        self.0
            .iter()
            .filter_map(|folder| OpenOptions::new().write(true).open(folder.join("cgroup.procs")).ok())
            .collect()
    }

    /// All processes in it.
    pub(crate) fn members(&self) -> BTreeSet<Pid> {
        self.0.iter().flat_map(|folder| pids_in(folder)).collect()
    }

    /// Lets frozen processes run, so that a signal reaches them, and kills all at once where v2 can.
    pub(crate) fn kill(&self) {
        for folder in &self.0 {
            put(&folder.join("freezer.state"), "THAWED").ok();
            put(&folder.join("cgroup.kill"), "1").ok();
        }
    }

    /// Processes in it that the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        ["memory.oom_control", "memory.events"]
            .into_iter()
            .flat_map(|file| self.0.iter().map(move |folder| folder.join(file)))
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok()))
            .sum()
    }

    /// Removes the folders; `false` while one still holds a process.
    pub(crate) fn remove(&self) -> bool {
        let is_gone = |folder: &PathBuf| match std::fs::remove_dir(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        self.0.iter().filter(|folder| !is_gone(folder)).count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        32 23 0:27 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
        34 23 0:29 / /tmp rw - tmpfs tmpfs rw\n";
    const OWN: &str = "4:memory:/a/mainstay/h/control\n2:cpu,cpuacct:/docker/x/y\n0::/\n";

    #[test]
    fn the_own_group_is_found_below_the_mounts_root_and_outside_of_our_own_folders() {
        let mounts = mounts(MOUNTS);
        let paths: Vec<PathBuf> = mounts.iter().map(|mount| own_path(OWN, mount, "mainstay/h")).collect();
        let expected = ["/sys/fs/cgroup/memory/a/", "/sys/fs/cgroup/cpu/y", "/sys/fs/cgroup/unified/"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn without_hierarchies_it_says_what_is_missing() {
        let none = Cgroups { v1: vec![], v2: None };
        assert_eq!(none.describe(), "no limits for memory,cpu,pids (not writable here)");
        let group = none.create("x", &Limits::default());
        assert_eq!((group.members().len(), group.oom_kills(), group.remove()), (0, 0, true));
    }
}
