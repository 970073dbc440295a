//! Counters of the router: windows for the control plane's report, and a page for Prometheus.
//!
//! Never locks on the path of a statement.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::protocol::{Counts, PoolMode, PoolState};

/// Four steps an octave up to 2^31 µs: a quantile is at most 25 % too high.
const BUCKETS: usize = 128;

/// More SQLSTATEs than PostgreSQL has classes in use; what comes beyond is counted as `other`.
const MAX_CODES: usize = 256;

/// Durations, counted by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_us: AtomicU64::new(0) }
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < 4 {
        return micros as usize;
    }
    let octave = 63 - micros.leading_zeros() as usize;
    let quarter = (micros >> (octave - 2)) as usize & 3;
    ((octave - 1) * 4 + quarter).min(BUCKETS - 1)
}

/// The first value above a bucket.
fn upper_us(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64 + 1;
    }
    let (octave, quarter) = (bucket / 4 + 1, bucket as u64 % 4);
    (quarter + 5) << (octave - 2)
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many, and the 95th percentile in microseconds.
    pub(crate) fn summary(&self) -> (u64, Option<u64>) {
        let buckets = self.snapshot();
        (buckets.iter().sum(), quantile_us(&buckets, 95))
    }

    fn snapshot(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }

    fn page(&self, out: &mut String, name: &str, door: &str) {
        let buckets = self.snapshot();
        let mut below = 0;
        for (index, count) in buckets.iter().enumerate() {
            below += count;
            // One line an octave from 64 µs to 67 s is enough to look at.
            let upper = upper_us(index);
            if upper.is_power_of_two() && (1 << 6..=1 << 26).contains(&upper) {
                let seconds = Duration::from_micros(upper).as_secs_f64();
                writeln!(out, "{name}_bucket{{door=\"{door}\",le=\"{seconds}\"}} {below}").ok();
            }
        }
        let total: u64 = buckets.iter().sum();
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        writeln!(out, "{name}_bucket{{door=\"{door}\",le=\"+Inf\"}} {total}").ok();
        writeln!(out, "{name}_sum{{door=\"{door}\"}} {sum}\n{name}_count{{door=\"{door}\"}} {total}").ok();
    }
}

/// What goes through one door.
#[derive(Debug, Default)]
pub(crate) struct DoorCounters {
    pub(crate) clients: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) servers: AtomicU64,
    /// Client sessions that have no server and need none.
    pub(crate) detached: AtomicU64,
    statements: AtomicU64,
    failures: AtomicU64,
    cycle: Histogram,
    pub(crate) hold: Histogram,
    /// From the need of a server to having it.
    pub(crate) acquire: Histogram,
    codes: Mutex<BTreeMap<String, u64>>,
}

impl DoorCounters {
    /// A query cycle ended.
    pub(crate) fn cycle(&self, took: Duration) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.cycle.record(took);
    }

    /// An error went to a client.
    pub(crate) fn error(&self, code: &str, is_ours: bool) {
        if is_ours {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = codes.contains_key(code);
        let code = if is_known || codes.len() < MAX_CODES { code } else { "other" };
        *codes.entry(code.to_owned()).or_default() += 1;
    }
}

/// What a window started from.
#[derive(Debug)]
pub(crate) struct Window {
    statements: u64,
    failures: u64,
    cycle: [u64; BUCKETS],
}

impl Window {
    pub(crate) fn open(door: &DoorCounters) -> Self {
        Self {
            statements: door.statements.load(Ordering::Relaxed),
            failures: door.failures.load(Ordering::Relaxed),
            cycle: door.cycle.snapshot(),
        }
    }

    /// Closes this window and opens the next.
    pub(crate) fn turn(&mut self, door: &DoorCounters) -> Counts {
        let next = Self::open(door);
        let cycle: Vec<u64> = next.cycle.iter().zip(&self.cycle).map(|(now, before)| now - before).collect();
        let counts = Counts {
            clients: door.clients.load(Ordering::Relaxed),
            held: door.held.load(Ordering::Relaxed),
            servers: door.servers.load(Ordering::Relaxed),
            statements: next.statements - self.statements,
            errors: next.failures - self.failures,
            p95_us: quantile_us(&cycle, 95),
        };
        *self = next;
        counts
    }
}

fn quantile_us(buckets: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = buckets.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut below = 0;
    let bucket = buckets.iter().position(|count| {
        below += count;
        below >= rank && rank > 0
    })?;
    Some(upper_us(bucket))
}

/// The metrics page.
pub(crate) fn page(doors: [(&str, &DoorCounters); 2], pools: &[PoolState], epoch: Option<u64>) -> String {
    let mut out = String::new();
    let gauge = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    type Field = fn(&DoorCounters) -> &AtomicU64;
    let single: [(&str, &str, &str, Field); 5] = [
        ("mainstay_router_clients", "gauge", "Client sessions now.", |door| &door.clients),
        ("mainstay_router_held", "gauge", "Client sessions held now.", |door| &door.held),
        ("mainstay_router_servers", "gauge", "Server connections now.", |door| &door.servers),
        ("mainstay_router_statements_total", "counter", "Query cycles finished.", |door| &door.statements),
        ("mainstay_router_failures_total", "counter", "Errors that the router itself gave.", |door| &door.failures),
    ];
    for (name, kind, help, field) in single {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        for (label, door) in doors {
            writeln!(out, "{name}{{door=\"{label}\"}} {}", gauge(field(door))).ok();
        }
    }
    let name = "mainstay_router_errors_total";
    writeln!(out, "# HELP {name} Errors sent to clients.\n# TYPE {name} counter").ok();
    for (label, door) in doors {
        for (code, count) in door.codes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // From the server's own wire: five letters and digits, but nothing promises that.
            let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
            writeln!(out, "{name}{{door=\"{label}\",sqlstate=\"{code}\"}} {count}").ok();
        }
    }
    for (name, help, field) in [
        (
            "mainstay_router_cycle_seconds",
            "Query cycles, from the request to ReadyForQuery.",
            (|door| &door.cycle) as fn(&DoorCounters) -> &Histogram,
        ),
        ("mainstay_router_hold_seconds", "How long sessions were held.", |door| &door.hold),
        ("mainstay_router_acquire_seconds", "From the need of a server to having it.", |door| &door.acquire),
    ] {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram").ok();
        for (label, door) in doors {
            field(door).page(&mut out, name, label);
        }
    }
    put_pools(&mut out, pools);
    let (name, bytes) = ("mainstay_router_statement_bytes", crate::statements::bytes());
    writeln!(out, "# HELP {name} Prepared statements kept for clients.\n# TYPE {name} gauge\n{name} {bytes}").ok();
    if let Some(epoch) = epoch {
        let name = "mainstay_router_epoch";
        writeln!(out, "# HELP {name} Epoch of the targets in force.\n# TYPE {name} gauge\n{name} {epoch}").ok();
    }
    out
}

/// How full each pool is. Databases and roles are the policy's, so there are few.
fn put_pools(out: &mut String, pools: &[PoolState]) {
    type Field = fn(&PoolState) -> u64;
    let fields: [(&str, &str, &str, Field); 4] = [
        ("mainstay_router_pool_size", "gauge", "Most server connections of a pool.", |pool| pool.size),
        ("mainstay_router_pool_active", "gauge", "Clients that have a server now.", |pool| pool.clients_active),
        ("mainstay_router_pool_waiting", "gauge", "Clients that wait for a server now.", |pool| pool.clients_waiting),
        ("mainstay_router_pool_refused_total", "counter", "Clients that waited too long.", |pool| pool.refused),
    ];
    for (name, kind, help, field) in fields {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        for pool in pools {
            let (database, role) = (label(&pool.database), label(&pool.role));
            let mode = match pool.mode {
                PoolMode::Session => "session",
                PoolMode::Transaction => "transaction",
            };
            let labels = format!("door=\"{}\",database=\"{database}\",role=\"{role}\",mode=\"{mode}\"", pool.door);
            writeln!(out, "{name}{{{labels}}} {}", field(pool)).ok();
        }
    }
}

/// A value as Prometheus' text form has it.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_buckets_bound() {
        for micros in (0..5_000).chain([1 << 20, (1 << 30) + 12_345]) {
            let bucket = bucket_of(micros);
            assert!(upper_us(bucket) > micros, "{micros}");
            assert!(bucket == 0 || upper_us(bucket - 1) <= micros, "{micros}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_window_counts_what_happened_in_it() {
        let door = DoorCounters::default();
        door.cycle(Duration::from_micros(10));
        let mut window = Window::open(&door);
        assert_eq!(window.turn(&door).p95_us, None);
        for _ in 0..100 {
            door.cycle(Duration::from_micros(100));
        }
        door.cycle(Duration::from_secs(1));
        door.error("08007", true);
        door.error("42P01", false);
        let counts = window.turn(&door);
        assert_eq!((counts.statements, counts.errors, counts.p95_us), (101, 1, Some(112)));
        let doors = [("write", &door), ("read", &DoorCounters::default())];
        let page = page(doors, &[], Some(3));
        assert!(page.contains("mainstay_router_errors_total{door=\"write\",sqlstate=\"42P01\"} 1\n"), "{page}");
        assert!(page.contains("mainstay_router_cycle_seconds_count{door=\"write\"} 102\n"), "{page}");
        assert!(page.contains("mainstay_router_cycle_seconds_bucket{door=\"write\",le=\"0.000128\"} 101\n"), "{page}");
    }
    #[test]
    fn a_page_tells_how_full_a_pool_is() {
        let pool = PoolState {
            door: "write".to_owned(),
            database: "shop".to_owned(),
            role: "a\"b".to_owned(),
            mode: PoolMode::Transaction,
            size: 10,
            clients_active: 9,
            clients_idle: 1,
            clients_waiting: 2,
            clients_tied: 0,
            tied_by: std::collections::BTreeMap::new(),
            servers_idle: 0,
            acquired: 7,
            waited: 3,
            wait_p95_us: None,
            refused: 1,
            held: 0,
            behind: 0,
            behind_p95_us: None,
            to_primary: 0,
        };
        let door = DoorCounters::default();
        let page = page([("write", &door), ("read", &door)], &[pool], None);
        for (name, value) in [("size", 10), ("active", 9), ("waiting", 2), ("refused_total", 1)] {
            let line = format!(
                "mainstay_router_pool_{name}{{door=\"write\",database=\"shop\",role=\"a\\\"b\",mode=\"transaction\"}} {value}\n"
            );
            assert!(page.contains(&line), "{line} {page}");
        }
    }
}
