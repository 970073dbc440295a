//! Counters, gauges and histograms, shown as Prometheus text and as Spring's `/actuator/metrics`.
//!
//! Names are given the Prometheus way (`http_server_requests_seconds`). Label values must come
//! from small fixed sets: a metric with more than [`SERIES_MAX`] series stops taking new ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bound on label combinations of one metric, so that a caller cannot fill our memory.
pub const SERIES_MAX: usize = 1_000;

/// Upper bounds for durations. **Unit**: seconds. They hold the promises of the stack files
/// (50, 150, 200, 300, 500 ms) as exact bounds.
pub const SECONDS_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];

/// Label names and values, sorted by name.
pub type Labels = Vec<(&'static str, String)>;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in seconds.
    Histogram,
}

/// One series' value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram {
        /// Observations per bucket of [`SECONDS_BUCKETS`], the last one is `+Inf`; not cumulative.
        buckets: Vec<u64>,
        /// Sum of observations. **Unit**: seconds.
        sum: f64,
        /// Largest observation since start. **Unit**: seconds.
        max: f64,
    },
}

/// A metric with its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// What it is.
    pub kind: Kind,
    /// One line of explanation.
    pub help: &'static str,
    /// Values by labels.
    pub series: BTreeMap<Labels, Value>,
}

/// All metrics of the process. Cloning shares them.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<&'static str, Family>>>,
}

impl Metrics {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a metric known, so that its help is shown and it exists before its first event.
    pub fn describe(&self, name: &'static str, kind: Kind, help: &'static str) {
        self.lock().entry(name).or_insert_with(|| Family { kind, help, series: BTreeMap::new() });
    }

    /// Adds to a counter.
    pub fn add(&self, name: &'static str, labels: &[(&'static str, &str)], amount: f64) {
        self.update(name, Kind::Counter, labels, |value| {
            if let Value::Number(number) = value {
                *number += amount;
            }
        });
    }

    /// Sets a gauge.
    pub fn set(&self, name: &'static str, labels: &[(&'static str, &str)], to: f64) {
        self.update(name, Kind::Gauge, labels, |value| *value = Value::Number(to));
    }

    /// Adds to a gauge.
    pub fn shift(&self, name: &'static str, labels: &[(&'static str, &str)], by: f64) {
        self.update(name, Kind::Gauge, labels, |value| {
            if let Value::Number(number) = value {
                *number += by;
            }
        });
    }

    /// Records a duration in seconds.
    pub fn observe(&self, name: &'static str, labels: &[(&'static str, &str)], seconds: f64) {
        self.update(name, Kind::Histogram, labels, |value| {
            if let Value::Histogram { buckets, sum, max } = value {
                let index = SECONDS_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS_BUCKETS.len());
                buckets[index] += 1;
                *sum += seconds;
                *max = max.max(seconds);
            }
        });
    }

    /// A copy of all metrics, by Prometheus name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, Family> {
        self.lock().clone()
    }

    /// Prometheus text format 0.0.4. A histogram `x_seconds` also shows `x_total`, its count,
    /// because dashboards of Spring applications ask for that name.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, family) in &self.snapshot() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, value) in &family.series {
                write_series(&mut out, name, labels, value);
            }
            if family.kind == Kind::Histogram {
                write_histogram_companions(&mut out, name, family);
            }
        }
        out
    }

    fn update(&self, name: &'static str, kind: Kind, labels: &[(&'static str, &str)], change: impl FnOnce(&mut Value)) {
        let mut key: Labels = labels.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        key.sort_unstable();
        let mut families = self.lock();
        let family =
            families.entry(name).or_insert_with(|| Family { kind, help: "undocumented", series: BTreeMap::new() });
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&key) {
            return;
        }
        change(family.series.entry(key).or_insert_with(|| match kind {
            Kind::Counter | Kind::Gauge => Value::Number(0.0),
            Kind::Histogram => Value::Histogram { buckets: vec![0; SECONDS_BUCKETS.len() + 1], sum: 0.0, max: 0.0 },
        }));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        // A panic while holding the lock leaves numbers, never broken structure: go on counting.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_series(out: &mut String, name: &str, labels: &Labels, value: &Value) {
    match value {
        Value::Number(number) => {
            let _ = writeln!(out, "{name}{} {number}", label_text(labels, None));
        }
        Value::Histogram { buckets, sum, .. } => {
            let mut cumulative = 0;
            for (index, count) in buckets.iter().enumerate() {
                cumulative += count;
                let bound = SECONDS_BUCKETS.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
                let text = label_text(labels, Some(&bound));
                let _ = writeln!(out, "{name}_bucket{text} {cumulative}");
            }
            let text = label_text(labels, None);
            let _ = writeln!(out, "{name}_sum{text} {sum}\n{name}_count{text} {cumulative}");
        }
    }
}

fn write_histogram_companions(out: &mut String, name: &str, family: &Family) {
    let total = format!("{}_total", name.trim_end_matches("_seconds"));
    let _ = writeln!(out, "# HELP {name}_max Largest observation since start\n# TYPE {name}_max gauge");
    for (labels, value) in &family.series {
        if let Value::Histogram { max, .. } = value {
            let _ = writeln!(out, "{name}_max{} {max}", label_text(labels, None));
        }
    }
    let _ = writeln!(out, "# HELP {total} Observations of {name}\n# TYPE {total} counter");
    for (labels, value) in &family.series {
        if let Value::Histogram { buckets, .. } = value {
            let count: u64 = buckets.iter().sum();
            let _ = writeln!(out, "{total}{} {count}", label_text(labels, None));
        }
    }
}

fn label_text(labels: &Labels, le: Option<&str>) -> String {
    let mut parts: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if let Some(bound) = le {
        parts.push(format!("le=\"{bound}\""));
    }
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_cumulative_buckets_and_the_alias_dashboards_ask_for() {
        let metrics = Metrics::new();
        metrics.describe("http_server_requests_seconds", Kind::Histogram, "Requests");
        for seconds in [0.0005, 0.15, 0.16, 99.0] {
            metrics.observe("http_server_requests_seconds", &[("status", "200")], seconds);
        }
        let text = metrics.text();
        for line in [
            "http_server_requests_seconds_bucket{status=\"200\",le=\"0.001\"} 1",
            "http_server_requests_seconds_bucket{status=\"200\",le=\"0.15\"} 2",
            "http_server_requests_seconds_bucket{status=\"200\",le=\"0.2\"} 3",
            "http_server_requests_seconds_bucket{status=\"200\",le=\"+Inf\"} 4",
            "http_server_requests_seconds_count{status=\"200\"} 4",
            "http_server_requests_seconds_max{status=\"200\"} 99",
            "http_server_requests_total{status=\"200\"} 4",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn stops_taking_new_series_at_the_bound() {
        let metrics = Metrics::new();
        for index in 0..SERIES_MAX + 5 {
            metrics.add("hits_total", &[("path", &index.to_string())], 1.0);
        }
        metrics.add("hits_total", &[("path", "0")], 1.0);
        let family = &metrics.snapshot()["hits_total"];
        assert_eq!(family.series.len(), SERIES_MAX);
        assert_eq!(family.series[&vec![("path", "0".to_owned())]], Value::Number(2.0));
    }

    #[test]
    fn escapes_label_values() {
        let metrics = Metrics::new();
        metrics.set("up", &[("why", "a \"b\"\n\\")], 1.0);
        assert!(metrics.text().contains(r#"up{why="a \"b\"\n\\"} 1"#));
    }
}
