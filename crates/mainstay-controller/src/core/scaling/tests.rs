use mainstay_types::EnvironmentName;

use super::measures::p95_ms;
use super::*;

fn stack(text: &str) -> Stack {
    let text =
        format!("stack = \"s\"\n[[edge.route]]\npath = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"x\"\n{text}");
    let parsed = mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default());
    parsed.unwrap_or_else(|error| panic!("{error:?}")).stack
}

fn web() -> ServiceName {
    ServiceName::new("web").expect("a name")
}

/// What an earlier control plane with this stack would have kept.
fn kept(stack: &Stack, count: u32, is_auto: bool) -> String {
    let record = Record { count, is_auto, ..Record::of(&stack.services[&web()]) };
    serde_json::to_string(&BTreeMap::from([(web(), record)])).expect("data")
}

/// The number that counts, and whether the load moves it.
fn resumed(stack: &Stack, fact: Option<&str>) -> (Option<u32>, bool) {
    let mut counts = BTreeMap::from([(web(), 99)]);
    let at = Timestamp::from_micros(0);
    let scaling = Scaling::new(stack, fact, &mut counts, watch::Sender::default(), at);
    (counts.get(&web()).copied(), scaling.records[&web()].is_auto)
}

const SCALE: &str = "scale = { min = 2, max = 6, requests = 10 }";

#[test]
fn a_number_survives_the_control_plane() {
    let stack = stack(SCALE);
    assert_eq!(resumed(&stack, Some(&kept(&stack, 5, true))), (Some(5), true));
    assert_eq!(resumed(&stack, Some(&kept(&stack, 5, false))), (Some(5), false));
    assert_eq!(resumed(&stack, None), (None, true), "the stack file counts");
    assert_eq!(resumed(&stack, Some("nonsense")), (None, true));
}

#[test]
fn another_stack_file_has_the_last_word() {
    let before = stack(SCALE);
    let fact = kept(&before, 6, false);
    let lower = stack("scale = { min = 2, max = 4, requests = 10 }");
    assert_eq!(resumed(&lower, Some(&fact)), (Some(4), true), "within its bounds, and the load moves it again");
    let fixed = stack("instances = 3");
    assert_eq!(resumed(&fixed, Some(&fact)), (None, false), "its own number");
    assert_eq!(resumed(&fixed, Some(&kept(&fixed, 1, false))), (Some(1), false));
}

#[test]
fn requests_are_counted_by_service_and_not_those_of_the_management_port() {
    let mut counts = BTreeMap::new();
    let mut scaling =
        Scaling::new(&stack(SCALE), None, &mut counts, watch::Sender::default(), Timestamp::from_micros(0));
    let report = |requests| Counts { requests, errors: 0, latency: vec![0, requests] };
    let upstreams = BTreeMap::from([("web".to_owned(), report(7)), ("web:management".to_owned(), report(100))]);
    scaling.edge(1000, &upstreams);
    scaling.edge(1000, &upstreams);
    let asked = &scaling.asked[&web()];
    assert_eq!((asked.requests, scaling.asked_ms, asked.latency.clone()), (14, 2000, vec![0, 14]));
}

#[test]
fn the_percentile_lies_within_its_bucket() {
    let mut latency = vec![0; mainstay_edge::protocol::LATENCY_BOUNDS_MS.len() + 1];
    assert_eq!(p95_ms(&latency), 0, "nobody asked");
    // 300 to 500 ms: three quarters of it are below the 95th percentile.
    (latency[0], latency[14]) = (80, 20);
    assert_eq!(p95_ms(&latency), 450);
    (latency[0], latency[14]) = (0, 0);
    latency[18] = 5;
    assert_eq!(p95_ms(&latency), 60_000, "beyond the last bound, that bound");
}
