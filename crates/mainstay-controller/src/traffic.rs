//! Traffic over the arrows, from the reports of edge and router: every request is counted, none sampled.

use std::collections::BTreeMap;

use mainstay_api::{Flow, Traffic};
use mainstay_edge::protocol::{Counts, EndpointReport, LATENCY_BOUNDS_MS};
use mainstay_stack::Stack;
use mainstay_types::{BoxId, InstanceId, Member, ServiceName, Timestamp};

/// Reports that the picture is averaged over: the console moves smoothly and shows a burst within a second.
const WINDOWS: usize = 5;

/// The last windows of what edge and router reported.
#[derive(Default)]
pub(crate) struct TrafficMeter {
    edge: Vec<EdgeWindow>,
    router: Vec<(u64, mainstay_router::protocol::Counts, mainstay_router::protocol::Counts)>,
}

struct EdgeWindow {
    window_ms: u64,
    upstreams: BTreeMap<String, Counts>,
    endpoints: BTreeMap<String, EndpointReport>,
}

#[derive(Default)]
struct Sum {
    requests: u64,
    errors: u64,
    latency: Vec<u64>,
}

impl Sum {
    fn add(&mut self, counts: &Counts) {
        self.requests += counts.requests;
        self.errors += counts.errors;
        self.latency.resize(self.latency.len().max(counts.latency.len()), 0);
        for (sum, count) in self.latency.iter_mut().zip(&counts.latency) {
            *sum += count;
        }
    }

    /// Upper bound of the bucket in which the 95th percentile lies.
    fn p95_ms(&self) -> Option<f64> {
        let total: u64 = self.latency.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = (total * 95).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.latency.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(LATENCY_BOUNDS_MS.get(bucket).copied().unwrap_or(f64::INFINITY).min(60_000.0));
            }
        }
        None
    }

    fn flow(&self, from: Option<BoxId>, to: BoxId, window_ms: u64) -> Flow {
        Flow {
            from,
            to,
            per_second: per_second(self.requests, window_ms),
            p95_ms: self.p95_ms(),
            error_share: share(self.errors, self.requests),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
fn per_second(count: u64, window_ms: u64) -> f64 {
    if window_ms == 0 { 0.0 } else { (count as f64) * 1000.0 / (window_ms as f64) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64) / (whole as f64) }
}

impl TrafficMeter {
    /// Takes a report of the edge.
    pub(crate) fn edge(
        &mut self,
        window_ms: u64,
        upstreams: BTreeMap<String, Counts>,
        endpoints: BTreeMap<String, EndpointReport>,
    ) {
        self.edge.push(EdgeWindow { window_ms, upstreams, endpoints });
        let surplus = self.edge.len().saturating_sub(WINDOWS);
        self.edge.drain(..surplus);
    }

    /// Takes a report of the router.
    pub(crate) fn router(
        &mut self,
        window_ms: u64,
        write: mainstay_router::protocol::Counts,
        read: mainstay_router::protocol::Counts,
    ) {
        self.router.push((window_ms, write, read));
        let surplus = self.router.len().saturating_sub(WINDOWS);
        self.router.drain(..surplus);
    }

    /// The flows at present.
    pub(crate) fn picture(&self, stack: &Stack, primary: Option<Member>, read: &[Member], at: Timestamp) -> Traffic {
        let window_ms: u64 = self.edge.iter().map(|window| window.window_ms).sum();
        let mut flows = self.edge_flows(stack, window_ms);
        flows.extend(self.router_flows(primary, read));
        Traffic { at, window_ms, flows }
    }

    fn edge_flows(&self, stack: &Stack, window_ms: u64) -> Vec<Flow> {
        let mut front = Sum::default();
        let mut sites = Sum::default();
        let mut instances: BTreeMap<InstanceId, Sum> = BTreeMap::new();
        for window in &self.edge {
            for (name, counts) in &window.upstreams {
                front.add(counts);
                if name.is_empty() {
                    sites.add(counts);
                }
            }
            for (id, report) in &window.endpoints {
                if let Some(instance) = instance_of(id) {
                    instances.entry(instance).or_default().add(&report.counts);
                }
            }
        }
        let mut flows = vec![front.flow(None, BoxId::Edge, window_ms)];
        flows.extend(
            instances.into_iter().map(|(id, sum)| sum.flow(Some(BoxId::Edge), BoxId::Instance { id }, window_ms)),
        );
        if let [name] = stack.sites.keys().collect::<Vec<_>>().as_slice() {
            flows.push(sites.flow(Some(BoxId::Edge), BoxId::Site { name: (*name).clone() }, window_ms));
        }
        flows
    }

    fn router_flows(&self, primary: Option<Member>, read: &[Member]) -> Vec<Flow> {
        let Some((_, last_write, last_read)) = self.router.last() else { return Vec::new() };
        let window_ms: u64 = self.router.iter().map(|(window_ms, ..)| window_ms).sum();
        let flow = |to: Member, statements: u64, errors: u64, p95_us: Option<u64>| Flow {
            from: Some(BoxId::Router),
            to: BoxId::Postgres { member: to },
            per_second: per_second(statements, window_ms),
            p95_ms: p95_us.map(|micros| per_second(micros, 1_000_000)),
            error_share: share(errors, statements),
        };
        let mut flows = Vec::new();
        if let Some(primary) = primary {
            let statements = self.router.iter().map(|(_, write, _)| write.statements).sum();
            let errors = self.router.iter().map(|(_, write, _)| write.errors).sum();
            flows.push(flow(primary, statements, errors, last_write.p95_us));
        }
        if let [standby] = read {
            let statements = self.router.iter().map(|(_, _, read)| read.statements).sum();
            let errors = self.router.iter().map(|(_, _, read)| read.errors).sum();
            flows.push(flow(*standby, statements, errors, last_read.p95_us));
        }
        flows
    }
}

/// `backend-1/3f…` names instance 1 of backend.
pub(crate) fn instance_of(endpoint: &str) -> Option<InstanceId> {
    let (service, slot) = endpoint.split('/').next()?.rsplit_once('-')?;
    Some(InstanceId { service: ServiceName::new(service).ok()?, slot: slot.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_buckets() {
        let mut latency = vec![0; LATENCY_BOUNDS_MS.len() + 1];
        latency[3] = 96;
        latency[12] = 4;
        let mut sum = Sum::default();
        sum.add(&Counts { requests: 100, errors: 1, latency });
        assert_eq!(sum.p95_ms(), Some(3.0));
        assert!((share(sum.errors, sum.requests) - 0.01).abs() < 1e-9);
    }

    #[test]
    fn endpoint_ids_name_their_instance() {
        let id = instance_of("my-backend-2/00ff").expect("an instance");
        assert_eq!((id.service.as_str(), id.slot), ("my-backend", 2));
    }
}
