//! What the kernel says of processes: `/proc`, read and never written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use mainstay_types::{Bytes, Nonce, Pid};

/// One line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// State letter: `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    /// Parent.
    pub parent: Pid,
    /// Session.
    pub session: Pid,
    /// CPU time of the process and the children it has waited for.
    pub cpu: Duration,
    /// Start time. **Unit**: clock ticks since boot.
    pub start_time: u64,
    /// Wait status of a zombie, where we may see it (else 0).
    pub exit_code: i32,
}

impl Stat {
    /// Whether it still runs any code.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The command's name is in brackets and may hold anything; what follows the last bracket is regular.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
    let pid = |index: usize| fields.get(index - 3)?.parse::<i32>().ok().map(Pid);
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: pid(4)?,
        session: pid(6)?,
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1)),
        start_time: number(22)?,
        exit_code: fields.get(52 - 3).and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

/// Status of a process; `None` when there is none of that id.
pub fn stat(pid: Pid) -> Option<Stat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// All processes.
pub fn all() -> BTreeMap<Pid, Stat> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    folder
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid))
        .filter_map(|pid| stat(pid).map(|stat| (pid, stat)))
        .collect()
}

/// The direct children of a process.
pub fn children(pid: Pid) -> BTreeSet<Pid> {
    all().into_iter().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| child).collect()
}

/// All processes at one moment, for who asks about many.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<Pid, Stat>);

impl Snapshot {
    /// Looks once.
    pub fn take() -> Self {
        Self(all())
    }

    /// A process and all its descendants.
    pub fn tree(&self, root: Pid) -> BTreeSet<Pid> {
        descendants(&self.0, BTreeSet::from([root]))
    }

    /// Proportional set size of a process and its descendants; what ended meanwhile counts nothing.
    pub fn tree_pss(&self, root: Pid) -> Bytes {
        Bytes(self.tree(root).into_iter().filter_map(|pid| pss(pid).ok()).map(|bytes| bytes.0).sum())
    }

    /// CPU time of these processes, and of the children that they have waited for.
    pub fn cpu<'p>(&self, pids: impl IntoIterator<Item = &'p Pid>) -> Duration {
        pids.into_iter().filter_map(|pid| self.0.get(pid)).map(|stat| stat.cpu).sum()
    }
}

/// A process and all its descendants, as the parents stand now.
pub fn tree(root: Pid) -> BTreeSet<Pid> {
    descendants(&all(), BTreeSet::from([root]))
}

/// `found` and every descendant of one of them.
pub(crate) fn descendants(all: &BTreeMap<Pid, Stat>, mut found: BTreeSet<Pid>) -> BTreeSet<Pid> {
    loop {
        let more: Vec<Pid> = all
            .iter()
            .filter(|(pid, stat)| !found.contains(pid) && found.contains(&stat.parent))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Proportional set size of a process: its own memory, and its share of what it shares.
///
/// **Errors**: no such process, or not ours to see.
pub fn pss(pid: Pid) -> io::Result<Bytes> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kibi = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kibi.map(|kibi: u64| Bytes(kibi * 1024)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Pss line"))
}

/// CPU time of a process and its living descendants.
pub fn tree_cpu(root: Pid) -> Duration {
    let all = all();
    descendants(&all, BTreeSet::from([root])).iter().filter_map(|pid| all.get(pid)).map(|stat| stat.cpu).sum()
}

/// Whether a process was started under `nonce`: it, or an ancestor that passed its environment on.
pub fn is_nonce(pid: Pid, nonce: &Nonce) -> bool {
    let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{}={nonce}", crate::NONCE_VARIABLE);
    environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
}

/// Whether a process has `path` open. Costs a system call a descriptor.
pub(crate) fn has_open(pid: Pid, path: &Path) -> bool {
    let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    folder.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path))
}

/// Identity of this boot of the kernel; process ids and start times of another one mean nothing.
///
/// **Errors**: `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A resource that tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Disk.
    Io,
    /// Memory.
    Memory,
}

/// Share of the last ten seconds in which some task waited for `resource`.
///
/// **Unit**: hundredths of a percent. `None` where the kernel has no pressure information.
/// **Source**: kernel documentation, accounting/psi.
pub fn pressure(resource: Resource) -> Option<u32> {
    let name = match resource {
        Resource::Cpu => "cpu",
        Resource::Io => "io",
        Resource::Memory => "memory",
    };
    parse_pressure(&std::fs::read_to_string(format!("/proc/pressure/{name}")).ok()?)
}

fn parse_pressure(text: &str) -> Option<u32> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    let (whole, hundredths) = average.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 100 + hundredths.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Pid {
        Pid(i32::try_from(std::process::id()).expect("small"))
    }

    #[test]
    fn a_command_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        fields[52 - 4] = "256".to_owned();
        let stat = parse_stat(&format!("7 (a) Z 1 (b) Z {}", fields.join(" "))).expect("parses");
        assert_eq!((stat.state, stat.parent, stat.session), ('Z', Pid(4), Pid(6)));
        assert_eq!((stat.start_time, stat.exit_code, stat.is_alive()), (22, 256, false));
    }

    #[test]
    fn this_process_is_seen() {
        let stat = stat(me()).expect("it runs");
        assert!(stat.is_alive() && children(stat.parent).contains(&me()));
        assert!(pss(me()).expect("ours").0 > 100 * 1024);
        assert!(Snapshot::take().tree_pss(me()) >= Bytes(100 * 1024));
        assert_eq!(boot_id().expect("reads").len(), 36);
    }

    #[test]
    fn pressure_is_read_in_hundredths_of_a_percent() {
        let text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(parse_pressure(text), Some(1234));
        assert_eq!(parse_pressure(""), None);
    }
}
