//! The `host` page: what the machine is doing, under the names that node_exporter made usual.
//!
//! Reads `/proc` and the state directory's file system, nothing else. What the kernel does not offer (PSI on
//! old kernels) is left out: an absent series is honest, a zero is not.

use std::fmt::Write as _;
use std::path::Path;

/// Clock ticks per second in `/proc/stat`. **Source**: proc(5); `USER_HZ` is 100 on every Linux ABI that
/// Rust supports as a host.
const USER_HZ: f64 = 100.0;

/// Columns of a `cpu` line. **Source**: proc(5). Guest time is in `user` already.
const CPU_MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// Lines of `/proc/meminfo` that become series.
const MEMORY_FIELDS: [&str; 7] = ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree"];

/// The page, in Prometheus text form.
pub fn host_metrics(state_dir: &Path) -> String {
    let mut page = String::with_capacity(8 * 1024);
    if let Some(text) = read("/proc/stat") {
        cpu(&mut page, &text);
    }
    if let Some(text) = read("/proc/meminfo") {
        memory(&mut page, &text);
    }
    if let Some(text) = read("/proc/loadavg") {
        load(&mut page, &text);
    }
    pressure(&mut page, |resource| read(&format!("/proc/pressure/{resource}")));
    disk(&mut page, state_dir);
    page
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = page.write_fmt(text);
    page.push('\n');
}

fn cpu(page: &mut String, stat: &str) {
    family(page, "node_cpu_seconds_total", "counter", "Seconds the processors spent in each mode.");
    for row in stat.lines() {
        let mut words = row.split_ascii_whitespace();
        let Some(cpu) = words.next().and_then(|word| word.strip_prefix("cpu")).filter(|cpu| !cpu.is_empty()) else {
            continue; // the first row is the sum of all
        };
        for (mode, ticks) in CPU_MODES.iter().zip(words) {
            if let Ok(ticks) = ticks.parse::<f64>() {
                line(page, format_args!("node_cpu_seconds_total{{cpu=\"{cpu}\",mode=\"{mode}\"}} {}", ticks / USER_HZ));
            }
        }
    }
    if let Some(boot) = stat.lines().find_map(|row| row.strip_prefix("btime ")) {
        family(page, "node_boot_time_seconds", "gauge", "When the machine was started, in seconds since 1970.");
        line(page, format_args!("node_boot_time_seconds {}", boot.trim()));
    }
}

fn memory(page: &mut String, meminfo: &str) {
    for field in MEMORY_FIELDS {
        let kibibytes = meminfo
            .lines()
            .find_map(|row| row.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        if let Some(kibibytes) = kibibytes {
            let name = format!("node_memory_{field}_bytes");
            family(page, &name, "gauge", &format!("{field} of /proc/meminfo."));
            line(page, format_args!("{name} {}", kibibytes.saturating_mul(1024)));
        }
    }
}

fn load(page: &mut String, loadavg: &str) {
    for (name, value) in ["node_load1", "node_load5", "node_load15"].iter().zip(loadavg.split_ascii_whitespace()) {
        if value.parse::<f64>().is_ok() {
            family(page, name, "gauge", "Mean number of runnable and uninterruptible tasks.");
            line(page, format_args!("{name} {value}"));
        }
    }
}

/// Pressure stall information. **Source**: Linux `Documentation/accounting/psi.rst`; `some` is node_exporter's
/// "waiting", `full` its "stalled". Totals are microseconds.
fn pressure(page: &mut String, read: impl Fn(&str) -> Option<String>) {
    for (resource, kinds) in [
        ("cpu", &[("some", "waiting")][..]),
        ("io", &[("some", "waiting"), ("full", "stalled")][..]),
        ("memory", &[("some", "waiting"), ("full", "stalled")][..]),
    ] {
        let Some(text) = read(resource) else { continue };
        for (kind, word) in kinds {
            let total = text
                .lines()
                .find(|row| row.split_ascii_whitespace().next() == Some(kind))
                .and_then(|row| row.split_ascii_whitespace().find_map(|field| field.strip_prefix("total=")))
                .and_then(|total| total.parse::<f64>().ok());
            if let Some(total) = total {
                let name = format!("node_pressure_{resource}_{word}_seconds_total");
                family(page, &name, "counter", &format!("Seconds in which tasks were {word} for {resource}."));
                line(page, format_args!("{name} {}", total / 1_000_000.0));
            }
        }
    }
}

fn disk(page: &mut String, state_dir: &Path) {
    let Ok(stat) = rustix::fs::statvfs(state_dir) else { return };
    let mount = escape(&state_dir.display().to_string());
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    for (name, help, value) in [
        ("node_filesystem_size_bytes", "Size of the file system that holds the state.", bytes(stat.f_blocks)),
        ("node_filesystem_free_bytes", "Free space, the superuser's reserve included.", bytes(stat.f_bfree)),
        ("node_filesystem_avail_bytes", "Free space for everybody.", bytes(stat.f_bavail)),
        ("node_filesystem_files", "File nodes in all.", stat.f_files),
        ("node_filesystem_files_free", "File nodes still free.", stat.f_ffree),
    ] {
        family(page, name, "gauge", help);
        line(page, format_args!("{name}{{mountpoint=\"{mount}\"}} {value}"));
    }
}

/// A label value. **Source**: Prometheus text format 0.0.4.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_seconds_and_the_sum_line_is_not_a_processor() {
        let mut page = String::new();
        cpu(&mut page, "cpu  300 0 0 0 0 0 0 0\ncpu0 150 1 2 3 4 5 6 7 9 9\ncpu1 150 0 0 0\nbtime 1700000000\n");
        assert!(page.contains("node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 1.5\n"), "{page}");
        assert!(page.contains("node_cpu_seconds_total{cpu=\"0\",mode=\"steal\"} 0.07\n"), "{page}");
        assert!(!page.contains("cpu=\"\""), "{page}");
        assert!(page.contains("node_boot_time_seconds 1700000000\n"), "{page}");
    }

    #[test]
    fn memory_is_bytes_and_free_is_not_mistaken_for_available() {
        let mut page = String::new();
        memory(&mut page, "MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:   7 kB\nSwapCached: 5 kB\nCached: 3 kB\n");
        assert!(page.contains("\nnode_memory_MemFree_bytes 1024\n"), "{page}");
        assert!(page.contains("\nnode_memory_MemAvailable_bytes 7168\n"), "{page}");
        assert!(page.contains("\nnode_memory_Cached_bytes 3072\n"), "{page}");
        assert!(!page.contains("node_memory_SwapTotal_bytes"), "{page}");
    }

    #[test]
    fn pressure_the_kernel_does_not_offer_is_absent_not_zero() {
        let mut page = String::new();
        pressure(&mut page, |resource| {
            (resource == "io").then(|| "some avg10=0.00 total=2500000\nfull avg10=0.00 total=500000\n".to_owned())
        });
        assert!(page.contains("node_pressure_io_waiting_seconds_total 2.5\n"), "{page}");
        assert!(page.contains("node_pressure_io_stalled_seconds_total 0.5\n"), "{page}");
        assert!(!page.contains("memory"), "{page}");
    }

    #[test]
    fn odd_characters_in_the_path_stay_inside_the_label() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
