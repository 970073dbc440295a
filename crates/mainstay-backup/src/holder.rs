//! Who holds a lock of the place, as the kernel knows it. For people who wait: nothing is decided by it.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use mainstay_supervisor::proc;
use mainstay_types::Pid;

/// Longest command line that is shown.
const LONGEST: usize = 80;

/// A process that works on a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: Pid,
    /// What it does, for people.
    pub what: String,
    /// How long it has run.
    pub runs_for: Option<Duration>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, what, runs_for } = self;
        match runs_for {
            Some(time) => write!(f, "{what} (pid {pid}, since {} s)", time.as_secs()),
            None => write!(f, "{what} (pid {pid})"),
        }
    }
}

/// Those who hold a lock on the file. Empty: the kernel does not say, as for a lock from another machine.
pub(crate) fn of(file: &File) -> Vec<Holder> {
    let (Ok(metadata), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let (device, inode) = (metadata.dev(), metadata.ino());
    let named = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().filter_map(|line| pid(line, &named)).map(holder).collect()
}

/// Of a line such as `9: FLOCK  ADVISORY  WRITE 17570 fe:00:10388351 0 EOF`. One that waits has `->` behind its number.
fn pid(line: &str, file: &str) -> Option<Pid> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [_, "FLOCK", _, _, pid, of, ..] if *of == file => pid.parse().ok().map(Pid),
        _ => None,
    }
}

fn holder(pid: Pid) -> Holder {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Holder { pid, what: what(&words), runs_for: runs_for(pid) }
}

fn what(words: &[String]) -> String {
    if let [_, command, job, ..] = words
        && command == "backup-job"
    {
        let does = match job.as_str() {
            "take" => "takes a base backup",
            "prove" => "proves a backup",
            "prune" => "frees space of old backups",
            _ => "works on the backups",
        };
        return format!("the control plane {does}");
    }
    let program = words.first().map(String::as_str).unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let line = std::iter::once(program).chain(words.iter().skip(1).map(String::as_str)).collect::<Vec<_>>().join(" ");
    let line = line.trim();
    match line.char_indices().nth(LONGEST) {
        _ if line.is_empty() => "a process".to_owned(),
        Some((end, _)) => format!("`{} …`", line.get(..end).unwrap_or_default()),
        None => format!("`{line}`"),
    }
}

fn runs_for(pid: Pid) -> Option<Duration> {
    let up = std::fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = up.split_whitespace().next()?.parse().ok()?;
    let begun = proc::stat(pid)?.start_time as f64 / rustix::param::clock_ticks_per_second().max(1) as f64;
    Duration::try_from_secs_f64(up - begun).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_names_the_process_of_that_file_alone() {
        let line = "9: FLOCK  ADVISORY  WRITE 17570 fe:00:10388351 0 EOF";
        assert_eq!(pid(line, "fe:00:10388351"), Some(Pid(17570)));
        assert_eq!(pid(line, "fe:00:1038835"), None);
        assert_eq!(pid("9: -> FLOCK  ADVISORY  WRITE 17571 fe:00:10388351 0 EOF", "fe:00:10388351"), None);
        assert_eq!(pid("8: POSIX  ADVISORY  READ 17577 fe:00:10388351 1 2", "fe:00:10388351"), None);
    }

    #[test]
    fn people_read_what_it_does() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let job = "/state/bin/mainstay backup-job prune --state /state --runtime /run";
        assert_eq!(what(&words(job)), "the control plane frees space of old backups");
        assert_eq!(what(&words("/usr/bin/mainstay backup check")), "`mainstay backup check`");
        assert_eq!(what(&[String::new()]), "a process");
    }
}
