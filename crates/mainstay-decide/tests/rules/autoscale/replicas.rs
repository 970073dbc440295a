//! `TestReplicaCalc…`: from a measure to a number.

use std::time::Duration;

use mainstay_decide::autoscale::replicas::{
    Group, Kind, Phase, Pod, Sample, Timing, Tolerance, average, group, utilisation, value, value_per_instance,
};
use mainstay_types::Timestamp;

const NOW: Timestamp = Timestamp::from_micros(1_795_737_600_000_000);
/// The times of those tests.
const TIMING: Timing = Timing { initialisation: Duration::from_secs(120), readiness: Duration::from_secs(10) };

fn ago(seconds: u64) -> Timestamp {
    let micros = i64::try_from(seconds * 1_000_000).expect("a past");
    Timestamp::from_micros(NOW.as_micros() - micros)
}

/// Ready since its start three minutes ago, and measured.
fn ready(usage: u64) -> Pod {
    let sample = Sample { value: usage, at: NOW, window: Duration::from_secs(60) };
    Pod {
        phase: Phase::Running,
        started_at: Some(ago(180)),
        readiness: Some((true, ago(180))),
        sample: Some(sample),
        request: Some(2000),
    }
}

/// Never ready.
fn unready(usage: u64) -> Pod {
    Pod { readiness: Some((false, ago(180))), ..ready(usage) }
}

/// Ready and started so recently that its CPU is that of its start.
fn hot(usage: u64) -> Pod {
    Pod { started_at: Some(NOW), readiness: Some((true, NOW)), ..ready(usage) }
}

fn missing() -> Pod {
    Pod { sample: None, ..ready(0) }
}

fn pending() -> Pod {
    Pod { phase: Phase::Pending, ..missing() }
}

fn leaving() -> Pod {
    Pod { phase: Phase::Leaving, ..unready(0) }
}

fn asking(request: u64, pod: Pod) -> Pod {
    Pod { request: Some(request), ..pod }
}

fn tolerance(down: f64, up: f64) -> Tolerance {
    Tolerance { down, up }
}

const USUAL: Tolerance = Tolerance { down: 0.1, up: 0.1 };

struct Case {
    name: &'static str,
    current: u32,
    target: u64,
    tolerance: Tolerance,
    pods: Vec<Pod>,
    expected: (u32, u64),
}

fn case(name: &'static str, current: u32, target: u64, pods: Vec<Pod>, expected: (u32, u64)) -> Case {
    Case { name, current, target, tolerance: USUAL, pods, expected }
}

fn mixed(usages: [u64; 3]) -> Vec<Pod> {
    [1800, 2000, 2200].into_iter().zip(usages).map(|(request, usage)| asking(request, ready(usage))).collect()
}

fn with(tolerance: Tolerance, case: Case) -> Case {
    Case { tolerance, ..case }
}

fn scale_cases() -> Vec<Case> {
    let five = || [200, 600, 1000, 500, 500].map(ready).to_vec();
    let and = |mut pods: Vec<Pod>, more: Vec<Pod>| {
        pods.extend(more);
        pods
    };
    vec![
        case("scale up", 3, 30, [600, 1000, 1400].map(ready).to_vec(), (5, 50)),
        case("unready pod scales less", 3, 30, vec![unready(600), ready(1000), ready(1400)], (4, 60)),
        case("hot-CPU pod scales less", 3, 30, vec![hot(600), ready(1000), ready(1400)], (4, 60)),
        case("unready pods ignored", 3, 30, vec![ready(800), unready(1000), unready(1400)], (3, 40)),
        case("hot-CPU pods ignored", 3, 30, vec![ready(800), hot(1000), hot(1400)], (3, 40)),
        case("failed pods ignored", 2, 30, vec![ready(1000), ready(1400), leaving(), leaving()], (4, 60)),
        case("scale down", 5, 50, five(), (3, 28)),
        case(
            "exclude unready pods",
            5,
            50,
            and([200, 600, 1000].map(ready).to_vec(), vec![unready(500), unready(500)]),
            (2, 30),
        ),
        case("exclude unscheduled pods", 5, 50, and(vec![ready(200)], vec![pending(); 4]), (1, 10)),
        case(
            "ignore hot-CPU pods",
            5,
            50,
            and([200, 600, 1000].map(ready).to_vec(), vec![hot(500), hot(500)]),
            (2, 30),
        ),
        case("pods being deleted are ignored", 5, 50, and(five(), vec![leaving(), leaving()]), (3, 28)),
    ]
}

fn tolerance_cases() -> Vec<Case> {
    vec![
        case("within default tolerance", 3, 100, mixed([2020, 2060, 2040]), (3, 102)),
        with(tolerance(0.0, 0.0), case("outside 0% tolerance", 3, 100, mixed([1818, 2020, 2222]), (4, 101))),
        with(tolerance(0.1, 2.0), case("within 200% scale-up", 3, 100, mixed([3780, 3820, 3800]), (3, 190))),
        with(tolerance(2.0, 0.08), case("outside 8% scale-up", 3, 100, mixed([2200, 2160, 2180]), (4, 109))),
        with(tolerance(0.36, 0.1), case("within 36% scale-down", 3, 100, mixed([1320, 1280, 1300]), (3, 65))),
        with(tolerance(0.34, 0.1), case("outside 34% scale-down", 3, 100, mixed([1320, 1280, 1300]), (2, 65))),
    ]
}

fn missing_cases() -> Vec<Case> {
    vec![
        case("metrics far above", 4, 100, [8000, 19000, 6000, 14000].map(ready).to_vec(), (24, 587)),
        case(
            "some pods missing metrics scales down",
            4,
            100,
            vec![ready(800), ready(190), missing(), missing()],
            (3, 24),
        ),
        case("metric equal to target", 2, 100, vec![ready(2000), missing()], (2, 100)),
        case("metric above target", 2, 100, vec![ready(3800), missing()], (2, 190)),
        case("metric below target", 2, 100, vec![ready(1200), missing()], (2, 60)),
        case("unready pod metric missing", 3, 50, vec![unready(200), ready(900), missing()], (3, 45)),
        case("hot-CPU pod metric missing", 3, 50, vec![hot(200), ready(900), missing()], (3, 45)),
        case("scale up, unready and missing", 3, 50, vec![unready(200), ready(4000), missing()], (4, 200)),
        case("scale down, unready and missing", 4, 50, vec![unready(200), ready(200), ready(200), missing()], (3, 10)),
        case(
            "target over 100",
            4,
            300,
            vec![unready(400), ready(200), asking(4000, ready(200)), asking(4000, missing())],
            (2, 6),
        ),
        case("rolling update: extra pod missing metric", 2, 50, vec![ready(200), ready(200), missing()], (2, 10)),
    ]
}

#[test]
fn utilisation_gives_the_number_of_kubernetes_in_each_case() {
    for case in scale_cases().into_iter().chain(tolerance_cases()).chain(missing_cases()) {
        let read = utilisation(case.current, &case.pods, case.target, case.tolerance, (Kind::Cpu, NOW, TIMING));
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!((read.proposal, read.usage), case.expected, "{}", case.name);
    }
}

#[test]
fn what_cannot_be_computed_is_an_error() {
    let read = |pods: &[Pod]| utilisation(1, pods, 100, USUAL, (Kind::Cpu, NOW, TIMING)).expect_err("an error");
    assert_eq!(read(&[]), "no instance runs");
    assert_eq!(read(&[missing()]), "no instance that works was measured yet");
    assert_eq!(read(&[unready(100)]), "no instance that works was measured yet");
    assert_eq!(read(&[Pod { request: None, ..ready(200) }]), "an instance reserves nothing of it");
}

/// `TestReplicaCalcComputedToleranceAlgImplementation`: the least change that is one.
#[test]
fn the_smallest_change_beyond_the_tolerance_is_made_and_the_largest_within_it_is_not() {
    let requests = [400, 200, 310, 290, 302, 298, 301, 299, 300, 300].map(|request| request * 2);
    let pods: Vec<Pod> = requests.into_iter().map(|request| asking(request, ready(300))).collect();
    let at = |target| utilisation(10, &pods, target, USUAL, (Kind::Cpu, NOW, TIMING)).expect("a reading");
    // 1 / (2 × 0.9) = 55.5 %: a hundredth more is a change, four thousandths are none.
    assert_eq!((at(56).proposal, at(56).usage), (9, 50));
    assert_eq!(at(55).proposal, 10);
}

#[test]
fn plain_metrics_give_the_number_of_kubernetes_in_each_case() {
    let usual = |usages: &[u64]| usages.iter().map(|usage| ready(*usage)).collect::<Vec<_>>();
    let and_missing = |usages: &[u64], count| {
        let mut pods = usual(usages);
        pods.extend(vec![missing(); count]);
        pods
    };
    let cases = [
        case("scale up", 3, 15_000, usual(&[20_000, 10_000, 30_000]), (4, 20_000)),
        case(
            "unready hot-CPU pod is counted: it is no CPU metric",
            3,
            15_000,
            vec![ready(50_000), ready(10_000), unready(30_000)],
            (6, 30_000),
        ),
        case(
            "unready hot-CPU pods avoid scale-down",
            3,
            15_000,
            vec![unready(50_000), ready(15_000), unready(30_000)],
            (7, 31_666),
        ),
        case("scale down", 5, 20_000, usual(&[12_000; 5]), (3, 12_000)),
        case("within default tolerance", 3, 20_000, usual(&[20_000, 21_000, 21_000]), (3, 20_666)),
        with(tolerance(0.1, 0.01), case("outside 1%", 3, 20_000, usual(&[20_000, 21_000, 21_000]), (4, 20_666))),
        case("missing metrics", 5, 20_000, and_missing(&[20_000, 19_000, 21_000], 2), (5, 20_000)),
        case("rolling update with maxSurge", 2, 17_000, and_missing(&[10_000, 10_000], 1), (2, 10_000)),
    ];
    for case in cases {
        let read = average(case.current, &case.pods, case.target, case.tolerance, (Kind::Other, NOW, TIMING));
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!((read.proposal, read.usage), case.expected, "{}", case.name);
    }
}

#[test]
fn object_and_external_metrics_give_the_number_of_kubernetes_in_each_case() {
    // Current, ready, usage, target, tolerance up, replicas.
    let cases = [
        (3, 3, 20_000, 15_000, 0.1, 4),
        (3, 1, 50_000, 10_000, 0.1, 5),
        (5, 5, 12_000, 20_000, 0.1, 3),
        (3, 3, 20_666, 20_000, 0.1, 3),
        (3, 3, 20_666, 20_000, 0.01, 4),
        (3, 1, 8_600, 4_400, 0.1, 2),
        (5, 5, 8_600, 14_334, 0.1, 3),
        (3, 3, 8_600, 8_888, 0.1, 3),
        (3, 3, 8_900, 8_800, 0.01, 4),
    ];
    for (current, ready, usage, target, up, expected) in cases {
        let read = value(current, ready, usage, target, tolerance(0.1, up));
        assert_eq!(read.proposal, expected, "{usage} against {target} with {ready} of {current}");
    }
    assert_eq!(value(3, 3, u64::MAX / 2, 1, USUAL).proposal, 2_147_483_647, "as many as can be counted");
}

#[test]
fn metrics_per_pod_give_the_number_of_kubernetes_in_each_case() {
    // Current, usage, target, tolerance up, replicas, usage of each.
    let cases = [
        (3, 8_600, 2_150, 0.1, 4, 2_867),
        (5, 8_600, 2_867, 0.1, 3, 1_720),
        (3, 8_600, 2_900, 0.1, 3, 2_867),
        (3, 8_600, 2_800, 0.01, 4, 2_867),
        (3, 20_000, 5_000, 0.1, 4, 6_667),
        (5, 6_000, 2_000, 0.1, 3, 1_200),
        (4, 20_166, 5_000, 0.1, 4, 5_042),
        (4, 20_208, 5_000, 0.01, 5, 5_052),
        (0, 20_000, 5_000, 0.1, 4, 0),
        (0, 0, 5_000, 0.1, 0, 0),
    ];
    for (current, usage, target, up, expected, each) in cases {
        let read = value_per_instance(current, usage, target, tolerance(0.1, up));
        assert_eq!((read.proposal, read.usage), (expected, each), "{usage} of {current} against {target}");
    }
}

/// `TestGroupPods`, and the two times of the rules for CPU.
#[test]
fn an_instance_is_what_kubernetes_calls_it() {
    let of = |pod: Pod, kind| group(&pod, kind, NOW, TIMING);
    assert_eq!(of(Pod { started_at: None, readiness: None, ..ready(1) }, Kind::Other), Group::Ready);
    assert_eq!(of(Pod { readiness: None, ..ready(1) }, Kind::Cpu), Group::Unready);
    assert_eq!(of(Pod { started_at: None, ..ready(1) }, Kind::Cpu), Group::Unready);
    assert_eq!(of(missing(), Kind::Cpu), Group::Missing);
    assert_eq!(of(pending(), Kind::Other), Group::Unready);
    assert_eq!(of(leaving(), Kind::Other), Group::Ignored);
    let young = |is_ready, since, measured| {
        let sample = Sample { value: 1, at: measured, window: Duration::from_secs(15) };
        Pod { started_at: Some(ago(60)), readiness: Some((is_ready, since)), sample: Some(sample), ..ready(1) }
    };
    assert_eq!(of(young(true, ago(30), NOW), Kind::Cpu), Group::Ready, "a whole window since it became ready");
    assert_eq!(of(young(true, ago(10), NOW), Kind::Cpu), Group::Unready, "measured over its start");
    assert_eq!(of(young(false, ago(30), NOW), Kind::Cpu), Group::Unready);
    let old = |since| Pod { readiness: Some((false, since)), ..ready(1) };
    assert_eq!(of(old(ago(175)), Kind::Cpu), Group::Unready, "it was never ready");
    assert_eq!(of(old(ago(60)), Kind::Cpu), Group::Ready, "it was ready once: its load is real");
}
