//! What the documents say of their scaling, beside what the rules make of it.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_decide::autoscale::rates::Limit;
use mainstay_decide::autoscale::replicas::{Kind, Phase, Pod, Sample, Timing, utilisation};
use mainstay_decide::autoscale::{Decision, Inputs, Machine, Measure, Memory, changed, decide, room, tolerance};
use mainstay_stack::Stack;
use mainstay_stack::scale::Scale;
use mainstay_types::{Bytes, EnvironmentName, ServiceName, Timestamp};

/// 2026-11-27 00:00 UTC, a Friday.
pub(super) const FRIDAY: Timestamp = Timestamp::from_micros(1_795_737_600_000_000);

pub(super) fn stack(scale: &str, rest: &str) -> Stack {
    let text = format!(
        "stack = \"s\"\n[[edge.route]]\npath = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"x\"\nresources = {{ cpu = \"1\", \
         memory = \"512MiB\" }}\n[service.web.scale]\n{scale}\n{rest}"
    );
    let parsed = mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default());
    parsed.unwrap_or_else(|error| panic!("{error:?}")).stack
}

pub(super) fn scale(text: &str) -> Scale {
    let web = ServiceName::new("web").expect("a name");
    stack(text, "").services[&web].scale.clone().expect("a scale")
}

/// `[004]`: 2 to 10; CPU 70 %, memory 80 %; 2 instances or 100 % each 30 s up, 1 or 50 % each 60 s down.
const DOCUMENT: &str = "min = 2\nmax = 10\ncpu = 70\nmemory = 80\n\
    up = { window = \"0s\", policies = [{ instances = 2, every = \"30s\" }, { percent = 100, every = \"30s\" }], select = \"max\" }\n\
    down = { window = \"300s\", policies = [{ instances = 1, every = \"60s\" }, { percent = 50, every = \"60s\" }], select = \"min\" }\n\
    schedule = [{ when = \"sat,sun\", min = 1, max = 1 }]";

/// Instances that were ready long ago, with CPU in per cent of what they reserve.
fn cpu(percent: &[u64], now: Timestamp) -> Vec<Pod> {
    let long_ago = Timestamp::from_micros(now.as_micros() - 3_600_000_000);
    let pod = |usage: &u64| Pod {
        phase: Phase::Running,
        started_at: Some(long_ago),
        readiness: Some((true, long_ago)),
        sample: Some(Sample { value: usage * 10, at: now, window: Duration::from_secs(15) }),
        request: Some(1000),
    };
    percent.iter().map(pod).collect()
}

pub(super) fn measure(scale: &Scale, name: &'static str, target: u64, percent: &[u64], now: Timestamp) -> Measure {
    let current = u32::try_from(percent.len()).expect("few");
    let rules = (Kind::Cpu, now, Timing::default());
    Measure { name, target, reading: utilisation(current, &cpu(percent, now), target, tolerance(scale), rules) }
}

fn proposal(target: u64, percent: &[u64]) -> (u32, u64) {
    let scale = scale(DOCUMENT);
    let read = measure(&scale, "cpu", target, percent, FRIDAY).reading.expect("a reading");
    (read.proposal, read.usage)
}

#[test]
fn the_examples_of_the_documents_by_their_own_formula() {
    // [003] calls this 72 % and 71 %, and goes from 3 to 5: both are within the tolerance.
    assert_eq!(proposal(70, &[45, 78, 92]), (3, 71));
    assert_eq!(proposal(75, &[60, 70, 85]), (3, 71));
    // [004] goes from 2 to 4 at 85 % and from 4 to 6 at 80 %.
    assert_eq!(proposal(70, &[85, 85]), (3, 85));
    assert_eq!(proposal(70, &[80; 4]), (5, 80));
    assert_eq!(proposal(70, &[65; 6]), (6, 65), "no further scaling, as it says");
    assert_eq!(proposal(70, &[30; 6]), (3, 30), "what its rate then makes 5");
}

/// Decides every 15 s while the load is worth so many full instances, and tells each change with its second.
fn replay(
    scale: &Scale,
    memory: &mut Memory,
    mut current: u32,
    ticks: std::ops::Range<u32>,
    load: u64,
) -> Vec<(u32, u32)> {
    let mut changes = Vec::new();
    for tick in ticks {
        let now = FRIDAY.after(Duration::from_secs(u64::from(tick) * 15));
        let each = (load * 100 / u64::from(current)).min(10_000) / 100;
        let measures = [measure(scale, "cpu", 70, &vec![each; current as usize], now)];
        let decision = decide(&Inputs { scale, current, measures: &measures, room: None, now }, memory);
        if decision.count != current {
            changed(memory, scale, current, decision.count, now);
            current = decision.count;
            changes.push((tick * 15, current));
        }
    }
    changes
}

#[test]
fn the_policies_of_004_replayed_give_the_sequence_that_its_formula_gives() {
    let scale = scale(DOCUMENT);
    // Two instances at 85 %: one more, then 57 %, which calls for no change beyond it.
    assert_eq!(replay(&scale, &mut Memory::default(), 2, 0..20, 170), [(0, 3)]);
    // Work for six full instances: the document's 2, 4, 6 is 2, 3, 4, 6, 8 in 45 s, and 75 % is within the tolerance.
    assert_eq!(replay(&scale, &mut Memory::default(), 2, 0..40, 600), [(0, 3), (15, 4), (30, 6), (45, 8)]);
}

#[test]
fn a_drop_removes_one_a_minute_after_five_minutes() {
    let scale = scale(DOCUMENT);
    let mut memory = Memory::default();
    assert_eq!(replay(&scale, &mut memory, 6, 0..1, 420), [], "six at 70 %");
    let changes = replay(&scale, &mut memory, 6, 1..60, 60);
    // The document has the last one at 15 minutes; by its own rate it is 8.
    assert_eq!(changes, [(300, 5), (360, 4), (420, 3), (480, 2)]);
}

#[test]
fn at_the_weekend_the_bounds_are_others() {
    let scale = scale(DOCUMENT);
    let at = |now: Timestamp, current: u32, percent: u64| {
        let measures = [measure(&scale, "cpu", 70, &vec![percent; current as usize], now)];
        decide(&Inputs { scale: &scale, current, measures: &measures, room: None, now }, &mut Memory::default())
    };
    let saturday = FRIDAY.after(Duration::from_secs(86_400));
    let Decision { count, limit, why, .. } = at(saturday, 4, 95);
    assert_eq!((count, limit), (1, Limit::TooMany));
    assert!(why.contains("schedule: saturday,sunday"), "{why}");
    assert_eq!(at(saturday, 1, 100).count, 1, "also under load");
    let monday = FRIDAY.after(Duration::from_secs(3 * 86_400));
    assert_eq!((at(monday, 1, 10).count, at(monday, 1, 10).limit), (2, Limit::TooFew));
}

#[test]
fn what_the_machine_has_no_room_for_is_not_started_and_what_runs_stays() {
    let stack = stack(DOCUMENT, "[database]\n[cache]\n");
    let web = ServiceName::new("web").expect("a name");
    let scale = stack.services[&web].scale.clone().expect("a scale");
    let each = BTreeMap::from([(web.clone(), Bytes::mebi(512))]);
    let at = |memory: u64, available: u64, current: u32| {
        let machine = Machine { memory: Bytes::mebi(memory), available: Bytes::mebi(available) };
        room(&stack, machine, &web, &each, &BTreeMap::from([(web.clone(), current)])).expect("known")
    };
    // 8192 less 10 %, two servers of 128 + 100 × 4, 192, 256 and twice 256: 5356 MiB are left, ten times 512.
    assert_eq!(at(8192, 8000, 2).most, 10);
    assert_eq!(at(4096, 4000, 2).most, 3);
    assert_eq!(at(8192, 1500, 2).most, 4, "others use the machine");
    let now = FRIDAY;
    let measures = [measure(&scale, "cpu", 70, &[100, 100, 100], now)];
    let full = at(4096, 4000, 3);
    let inputs = Inputs { scale: &scale, current: 3, measures: &measures, room: Some(&full), now };
    let decision = decide(&inputs, &mut Memory::default());
    assert_eq!((decision.count, decision.limit), (3, Limit::Capacity));
    assert!(decision.why.contains("kept for the database"), "{}", decision.why);
    let none = at(1024, 1000, 3);
    let inputs = Inputs { room: Some(&none), ..inputs };
    assert_eq!(decide(&inputs, &mut Memory::default()).count, 3, "nothing that runs is taken away");
}
