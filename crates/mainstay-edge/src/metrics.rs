//! Counters of the edge and their page in Prometheus' text form.
//!
//! Everything here only grows; a report is the difference of two readings. The application's own
//! `http_server_requests_…` are its business, not the edge's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_decide::balance::Budget;

use crate::identity::Issuers;
use crate::limit::Limiter;
use crate::protocol::{Counts, LATENCY_BOUNDS_MS};
use crate::upstream::{Group, Groups};

/// Number of latency buckets, the one for the rest included.
const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;
/// Most route series kept: a policy has some dozens of routes, and those of older policies stay until a restart.
const MAX_SERIES: usize = 1024;

/// Requests, errors and latencies.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: AtomicU64,
    errors: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    latency_sum_us: AtomicU64,
}

impl Tally {
    /// One request finished.
    pub(crate) fn record(&self, took: Duration, is_error: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let took_ms = took.as_secs_f64() * 1000.0;
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < took_ms);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Requests and errors so far.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.errors.load(Ordering::Relaxed))
    }

    /// What it stands at.
    pub(crate) fn read(&self) -> Counts {
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            latency: self.latency.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// `now - before`; a reading that was never taken counts as zero.
pub(crate) fn difference(now: &Counts, before: Option<&Counts>) -> Counts {
    let Some(before) = before else { return now.clone() };
    Counts {
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
        latency: now.latency.iter().zip(&before.latency).map(|(now, before)| now.saturating_sub(*before)).collect(),
    }
}

/// `one + other`: an instance with two ports is an endpoint of two upstreams under one id.
pub(crate) fn sum(one: &Counts, other: &Counts) -> Counts {
    let buckets = one.latency.len().max(other.latency.len());
    let at = |latency: &[u64], bucket: usize| latency.get(bucket).copied().unwrap_or(0);
    Counts {
        requests: one.requests + other.requests,
        errors: one.errors + other.errors,
        latency: (0..buckets).map(|bucket| at(&one.latency, bucket) + at(&other.latency, bucket)).collect(),
    }
}

/// What went over one route.
#[derive(Debug)]
pub(crate) struct RouteTally {
    route: String,
    upstream: String,
    /// By the first digit of the status; 0 is no answer.
    by_class: [AtomicU64; 6],
    tally: Tally,
    pub(crate) in_flight: AtomicU64,
    budget: Mutex<Budget>,
}

impl RouteTally {
    /// What the route has saved up for retries.
    pub(crate) fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(5);
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
        self.tally.record(took, class == 0 || class == 5);
    }
}

/// The edge's own counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    routes: Mutex<BTreeMap<(String, String), Arc<RouteTally>>>,
    /// What no upstream saw.
    pub(crate) local: Tally,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
}

impl Metrics {
    /// The series of a route, kept over policies.
    pub(crate) fn route(&self, route: &str, upstream: &str) -> Arc<RouteTally> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if routes.len() < MAX_SERIES { (route.to_owned(), upstream.to_owned()) } else { Default::default() };
        let new = || RouteTally {
            route: key.0.clone(),
            upstream: key.1.clone(),
            by_class: Default::default(),
            tally: Tally::default(),
            in_flight: AtomicU64::new(0),
            budget: Mutex::default(),
        };
        Arc::clone(routes.entry(key.clone()).or_insert_with(|| Arc::new(new())))
    }

    /// The page.
    pub(crate) fn page(
        &self,
        groups: &Groups,
        limits: &[Arc<Limiter>],
        generation: Option<u64>,
        log_lost: u64,
    ) -> String {
        let mut page = Page::default();
        let routes: Vec<_> = {
            let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            routes.values().cloned().collect()
        };
        write_routes(&mut page, &routes);
        let groups = groups.all();
        write_groups(&mut page, &groups);
        write_releases(&mut page, &groups);
        write_limits(&mut page, limits);
        page.head("mainstay_edge_connections", "gauge", "client connections open");
        page.sample("mainstay_edge_connections", "", self.connections.load(Ordering::Relaxed));
        page.head("mainstay_edge_connections_total", "counter", "client connections accepted");
        page.sample("mainstay_edge_connections_total", "", self.connections_total.load(Ordering::Relaxed));
        let refused = "connections refused by address: denied, or too many of one";
        page.head("mainstay_edge_connections_refused_total", "counter", refused);
        page.sample("mainstay_edge_connections_refused_total", "", self.connections_refused.load(Ordering::Relaxed));
        page.head("mainstay_edge_handshakes_failed_total", "counter", "TLS handshakes that failed");
        page.sample("mainstay_edge_handshakes_failed_total", "", self.handshakes_failed.load(Ordering::Relaxed));
        page.head("mainstay_edge_access_log_dropped_total", "counter", "access log lines dropped");
        page.sample("mainstay_edge_access_log_dropped_total", "", log_lost);
        page.head("mainstay_edge_policy_generation", "gauge", "generation of the policy in force");
        page.sample("mainstay_edge_policy_generation", "", generation.unwrap_or(0));
        page.text
    }
}

fn write_routes(page: &mut Page, routes: &[Arc<RouteTally>]) {
    page.head("mainstay_edge_requests_total", "counter", "requests finished");
    for route in routes {
        for (class, count) in route.by_class.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let class = class_label(class);
                let labels =
                    labels(&[("route", &route.route), ("upstream", &route.upstream), ("status_class", &class)]);
                page.sample("mainstay_edge_requests_total", &labels, count);
            }
        }
    }
    page.head("mainstay_edge_requests_in_flight", "gauge", "requests under way");
    for route in routes {
        let labels = labels(&[("route", &route.route), ("upstream", &route.upstream)]);
        page.sample("mainstay_edge_requests_in_flight", &labels, route.in_flight.load(Ordering::Relaxed));
    }
    page.head(
        "mainstay_edge_request_duration_seconds",
        "histogram",
        "time from the request's head to the answer's end",
    );
    for route in routes {
        let of = [("route", route.route.as_str()), ("upstream", route.upstream.as_str())];
        write_histogram(page, "mainstay_edge_request_duration_seconds", of, &route.tally);
    }
}

fn class_label(class: usize) -> String {
    if class == 0 { "none".to_owned() } else { format!("{class}xx") }
}

/// What went through each release that has endpoints.
fn write_releases(page: &mut Page, groups: &BTreeMap<String, Arc<Group>>) {
    let all: Vec<_> = groups.values().map(|group| (group.name.as_str(), group.releases())).collect();
    let all = || all.iter().flat_map(|(name, releases)| releases.iter().map(move |release| (*name, release)));
    let name = "mainstay_edge_release_requests_total";
    page.head(name, "counter", "requests sent to a release, each attempt counted");
    for (upstream, release) in all() {
        for (class, count) in release.by_class.iter().enumerate() {
            let class = class_label(class);
            let labels = labels(&[("upstream", upstream), ("release", &release.label), ("status_class", &class)]);
            page.sample(name, &labels, count.load(Ordering::Relaxed));
        }
    }
    let name = "mainstay_edge_release_duration_seconds";
    page.head(name, "histogram", "time from the request's head to the end of the release's answer");
    for (upstream, release) in all() {
        write_histogram(page, name, [("upstream", upstream), ("release", &release.label)], &release.tally);
    }
}

fn write_histogram(page: &mut Page, name: &str, of: [(&str, &str); 2], tally: &Tally) {
    let [first, second] = of;
    let mut total = 0;
    for (index, bucket) in tally.latency.iter().enumerate() {
        total += bucket.load(Ordering::Relaxed);
        let bound =
            LATENCY_BOUNDS_MS.get(index).map_or_else(|| "+Inf".to_owned(), |bound| format!("{}", bound / 1000.0));
        let labels = labels(&[first, second, ("le", &bound)]);
        page.sample(&format!("{name}_bucket"), &labels, total);
    }
    let labels = labels(&of);
    let sum_us = tally.latency_sum_us.load(Ordering::Relaxed);
    page.line(&format!("{name}_sum"), &labels, &format!("{}.{:06}", sum_us / 1_000_000, sum_us % 1_000_000));
    page.sample(&format!("{name}_count"), &labels, total);
}

type Reading = fn(&Group) -> u64;

fn write_groups(page: &mut Page, groups: &BTreeMap<String, Arc<Group>>) {
    let counters: [(&str, &str, Reading); 10] = [
        ("mainstay_edge_retries_total", "requests sent again", |group| group.retries.load(Ordering::Relaxed)),
        ("mainstay_edge_retries_refused_total", "retries the budget refused", |group| {
            group.retries_refused.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_ejections_total", "endpoints ejected", |group| group.ejections.load(Ordering::Relaxed)),
        ("mainstay_edge_readmissions_total", "endpoints readmitted", |group| {
            group.readmissions.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_outliers_total", "of the ejections, those for answers that were errors", |group| {
            group.outliers.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_breaker_refused_total", "requests answered 503 by the circuit breaker", |group| {
            group.broken.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_holds_held_total", "requests that had to wait for an endpoint", |group| {
            group.held.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_holds_released_total", "of these, given an endpoint", |group| {
            group.released.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_holds_shed_total", "requests answered 503 because no endpoint came", |group| {
            group.shed.load(Ordering::Relaxed)
        }),
        (
            "mainstay_edge_release_strayed_total",
            "requests served by another release than theirs, which was not there",
            |group| group.strayed.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, read) in counters {
        page.head(name, "counter", help);
        for group in groups.values() {
            page.sample(name, &labels(&[("upstream", &group.name)]), read(group));
        }
    }
    page.head("mainstay_edge_holds_waiting", "gauge", "requests waiting for an endpoint");
    for group in groups.values() {
        page.sample("mainstay_edge_holds_waiting", &labels(&[("upstream", &group.name)]), u64::from(group.waiting()));
    }
    page.head("mainstay_edge_breaker_open", "gauge", "1 while the circuit breaker keeps requests away");
    for group in groups.values() {
        let is_open = u64::from(group.is_breaker_open());
        page.sample("mainstay_edge_breaker_open", &labels(&[("upstream", &group.name)]), is_open);
    }
    page.head("mainstay_edge_endpoint_in", "gauge", "1 when the endpoint is in the rotation");
    for group in groups.values() {
        for endpoint in group.endpoints().iter() {
            let labels = labels(&[("upstream", &group.name), ("endpoint", &endpoint.id)]);
            page.sample("mainstay_edge_endpoint_in", &labels, u64::from(endpoint.is_in()));
        }
    }
}

/// What tokens came to, by issuer.
pub(crate) fn write_issuers(text: &mut String, issuers: &Issuers) {
    let mut page = Page { text: std::mem::take(text) };
    let all = issuers.all();
    page.head("mainstay_edge_identity_verified_total", "counter", "requests of verified users");
    for issuer in &all {
        let labels = labels(&[("identity", &issuer.name)]);
        page.sample("mainstay_edge_identity_verified_total", &labels, issuer.verified.load(Ordering::Relaxed));
    }
    let refused = "mainstay_edge_identity_refused_total";
    page.head(refused, "counter", "requests refused for their token");
    for issuer in &all {
        let no_role = ("user has no role for it", issuer.no_role.load(Ordering::Relaxed));
        let faults = issuer.refused().map(|(fault, count)| (fault.text(), count));
        for (reason, count) in faults.chain([no_role]).filter(|(_, count)| *count > 0) {
            page.sample(refused, &labels(&[("identity", &issuer.name), ("reason", reason)]), count);
        }
    }
    page.head("mainstay_edge_identity_keys", "gauge", "keys of the issuer that are there");
    for issuer in &all {
        let count = issuer.key_count() as u64;
        page.sample("mainstay_edge_identity_keys", &labels(&[("identity", &issuer.name)]), count);
    }
    let now = issuers.now();
    let fetched = || all.iter().filter_map(|issuer| Some((issuer, issuer.freshness(now)?)));
    page.head("mainstay_edge_identity_keys_failing", "gauge", "1 while the issuer's keys cannot be fetched");
    for (issuer, (is_failing, _)) in fetched() {
        let labels = labels(&[("identity", &issuer.name)]);
        page.sample("mainstay_edge_identity_keys_failing", &labels, u64::from(is_failing));
    }
    page.head("mainstay_edge_identity_keys_age_seconds", "gauge", "time since the keys were last fetched");
    for (issuer, (_, age)) in fetched() {
        let labels = labels(&[("identity", &issuer.name)]);
        if let Some(age) = age {
            page.sample("mainstay_edge_identity_keys_age_seconds", &labels, age.as_secs());
        }
    }
    page.head("mainstay_edge_identity_fetch_failures_total", "counter", "fetches of keys that failed");
    for (issuer, _) in fetched() {
        let labels = labels(&[("identity", &issuer.name)]);
        page.sample("mainstay_edge_identity_fetch_failures_total", &labels, issuer.failed.load(Ordering::Relaxed));
    }
    *text = page.text;
}

fn write_limits(page: &mut Page, limits: &[Arc<Limiter>]) {
    type Reading = fn(&Limiter) -> u64;
    let counters: [(&str, &str, Reading); 2] = [
        ("mainstay_edge_limit_refused_total", "requests refused by a limit", |limit| {
            limit.refused.load(Ordering::Relaxed)
        }),
        ("mainstay_edge_limit_crowded_total", "requests counted for another client too: the table was full", |limit| {
            limit.crowded()
        }),
    ];
    for (name, help, read) in counters {
        page.head(name, "counter", help);
        for limit in limits {
            let labels = labels(&[("route", &limit.scope), ("limit", &limit.text)]);
            page.sample(name, &labels, read(limit));
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        self.line(name, labels, &value.to_string());
    }

    fn line(&mut self, name: &str, labels: &str, value: &str) {
        writeln!(self.text, "{name}{labels} {value}").ok();
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_on_a_bound_belongs_to_that_bound() {
        let tally = Tally::default();
        tally.record(Duration::from_micros(500), false);
        tally.record(Duration::from_millis(61_000), true);
        let counts = tally.read();
        assert_eq!((counts.latency[0], counts.latency[BUCKETS - 1]), (1, 1));
        assert_eq!((counts.requests, counts.errors), (2, 1));
        let later = Counts { requests: 5, ..counts.clone() };
        assert_eq!(difference(&later, Some(&counts)).requests, 3);
        let both = sum(&Counts::default(), &sum(&counts, &later));
        assert_eq!((both.requests, both.errors), (7, 2));
        assert_eq!((both.latency[0], both.latency[BUCKETS - 1]), (2, 2));
    }

    #[test]
    fn the_histogram_is_cumulative_and_ends_with_the_count() {
        let metrics = Metrics::default();
        metrics.route("/api/*", "backend").record(200, Duration::from_millis(4));
        metrics.route("/api/*", "backend").record(503, Duration::from_millis(400));
        let page = metrics.page(&Groups::new(), &[], Some(7), 0);
        for line in [
            "mainstay_edge_requests_total{route=\"/api/*\",upstream=\"backend\",status_class=\"2xx\"} 1",
            "mainstay_edge_requests_total{route=\"/api/*\",upstream=\"backend\",status_class=\"5xx\"} 1",
            "mainstay_edge_request_duration_seconds_bucket{route=\"/api/*\",upstream=\"backend\",le=\"0.005\"} 1",
            "mainstay_edge_request_duration_seconds_bucket{route=\"/api/*\",upstream=\"backend\",le=\"+Inf\"} 2",
            "mainstay_edge_request_duration_seconds_sum{route=\"/api/*\",upstream=\"backend\"} 0.404000",
            "mainstay_edge_policy_generation 7",
        ] {
            assert!(page.lines().any(|other| other == line), "{line} is missing in\n{page}");
        }
    }
}
