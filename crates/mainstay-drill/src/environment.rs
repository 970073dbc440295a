//! What a drill ran on: a figure means little without it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The machine and the programs. What could not be found out is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The stack and its environment.
    pub stack: Option<String>,
    /// SHA-256 of its file.
    pub stack_sha256: Option<String>,
    /// Version of mainstay, and how it was built.
    pub mainstay: Option<String>,
    /// Commit that the program was built from, where whoever built it said so.
    #[serde(default)]
    pub commit: Option<String>,
    /// Whether it had changes that are not in that commit.
    #[serde(default)]
    pub is_dirty: Option<bool>,
    /// SHA-256 of the program that runs the stack.
    pub program_sha256: Option<String>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Processors that may be used.
    pub cpus: Option<u64>,
    /// Their model.
    pub cpu_model: Option<String>,
    /// Memory. **Unit**: bytes.
    pub memory_bytes: Option<u64>,
    /// Versions of programs that the stack runs, by name.
    pub programs: BTreeMap<String, String>,
    /// Share of time in which something waited, by resource, as the kernel's `some avg10` had it at most while the
    /// drill ran. **Unit**: percent, hundredths.
    pub pressure: BTreeMap<String, u64>,
    /// Most processes that wanted to run, averaged over a minute. **Unit**: hundredths.
    pub load_hundredths: Option<u64>,
    /// What this machine lacks.
    pub missing: Vec<String>,
}

/// Resources that the kernel accounts waiting for.
const RESOURCES: [&str; 3] = ["cpu", "io", "memory"];

impl Environment {
    /// Looks at the machine.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let line_of = |text: &Option<String>, name: &str| {
            let line = text.as_deref()?.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let memory_kib = line_of(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            cpus: std::thread::available_parallelism().ok().map(|count| count.get() as u64),
            cpu_model: line_of(&cpuinfo, "model name"),
            memory_bytes: memory_kib.map(|kib| kib * 1024),
            ..Self::default()
        }
    }

    /// Looks again at how busy the machine is, and keeps the most.
    pub(crate) fn look_at_load(&mut self) {
        for resource in RESOURCES {
            let text = std::fs::read_to_string(format!("/proc/pressure/{resource}")).unwrap_or_default();
            if let Some(found) = some_avg10(&text) {
                let most = self.pressure.entry(resource.to_owned()).or_default();
                *most = found.max(*most);
            }
        }
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.load_hundredths = self.load_hundredths.max(text.split(' ').next().and_then(hundredths));
    }
}

/// `some avg10=1.23 …` → 123.
fn some_avg10(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split(' ').find_map(|field| hundredths(field.strip_prefix("avg10=")?))
}

fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 2 {
        return None;
    }
    Some(whole.parse::<u64>().ok()? * 100 + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=12.05 avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(1205));
        assert_eq!(some_avg10("full avg10=1.00"), None);
        assert_eq!((hundredths("0.07"), hundredths("x"), hundredths("1.5")), (Some(7), None, None));
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_processor() {
        let mut here = Environment::look();
        here.look_at_load();
        assert!(here.kernel.is_some() && here.cpus >= Some(1) && here.memory_bytes > Some(0));
        assert!(here.load_hundredths.is_some());
    }
}
