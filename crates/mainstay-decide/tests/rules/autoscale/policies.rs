//! Steps ([001]), a target with pauses ([002]), the schedule alone ([001], [004]).

use std::time::Duration;

use mainstay_decide::autoscale::rates::Limit;
use mainstay_decide::autoscale::replicas::value;
use mainstay_decide::autoscale::{Decision, Inputs, Measure, Memory, changed, decide, tolerance};
use mainstay_stack::scale::Scale;
use mainstay_types::Timestamp;

use super::documents::{FRIDAY, measure, scale};

fn after(seconds: u64) -> Timestamp {
    FRIDAY.after(Duration::from_secs(seconds))
}

/// Decides, and remembers the change.
fn at(scale: &Scale, memory: &mut Memory, current: u32, measures: &[Measure], now: Timestamp) -> Decision {
    let decision = decide(&Inputs { scale, current, measures, room: None, now }, memory);
    changed(memory, scale, current, decision.count, now);
    decision
}

fn cpu(scale: &Scale, current: u32, percent: u64, now: Timestamp) -> Measure {
    measure(scale, "cpu", 70, &vec![percent; current as usize], now)
}

fn latency(scale: &Scale, current: u32, millis: u64) -> Measure {
    Measure { name: "latency_p95", target: 500, reading: Ok(value(current, current, millis, 500, tolerance(scale))) }
}

#[test]
fn a_step_adds_a_share_when_any_measure_is_above_and_removes_one_when_cpu_is_low() {
    let scale = scale("min = 2\nmax = 8\ncpu = 70\nlatency_p95 = \"500ms\"\npolicy = \"step\"");
    let memory = &mut Memory::default();
    let both = |current, percent, millis, now| [cpu(&scale, current, percent, now), latency(&scale, current, millis)];
    let up = at(&scale, memory, 5, &both(5, 71, 100, FRIDAY), FRIDAY);
    assert_eq!((up.count, up.by, up.limit), (7, Some("cpu"), Limit::WithinRange), "30 % of 5, rounded up");
    let again = at(&scale, memory, 7, &both(7, 99, 900, after(299)), after(299));
    assert_eq!((again.count, again.limit), (7, Limit::Cooldown));
    let slow = at(&scale, memory, 7, &both(7, 40, 501, after(300)), after(300));
    assert_eq!((slow.count, slow.by, slow.limit), (8, Some("latency_p95"), Limit::TooMany));
    let kept = at(&scale, memory, 8, &both(8, 30, 100, after(600)), after(600));
    assert_eq!((kept.count, kept.limit), (8, Limit::WithinRange), "not below 30");
    let down = at(&scale, memory, 8, &both(8, 29, 100, after(615)), after(615));
    assert_eq!((down.count, down.limit), (5, Limit::WithinRange), "30 % of 8 fewer, cut off");
    let busy = at(&scale, memory, 5, &both(5, 10, 600, after(915)), after(915));
    assert_eq!(busy.count, 7, "CPU is low, and clients wait: more, not fewer");
    let unknown = Measure { reading: Err("no answer".to_owned()), ..latency(&scale, 7, 1) };
    let low = at(&scale, memory, 7, &[cpu(&scale, 7, 10, after(2000)), unknown], after(2000));
    assert_eq!(low.count, 7, "nothing is removed while a measure is unknown");
}

#[test]
fn a_target_with_pauses_is_that_of_002() {
    let scale = scale("min = 2\nmax = 10\ncpu = 70\npolicy = \"target-tracking\"\ncooldown = \"300s\"");
    let memory = &mut Memory::default();
    let mut step = |current, percent, seconds| {
        let now = after(seconds);
        let decision = at(&scale, memory, current, &[cpu(&scale, current, percent, now)], now);
        (decision.count, decision.limit)
    };
    assert_eq!(step(2, 100, 0), (3, Limit::WithinRange), "100 / 70 × 2, rounded up");
    assert_eq!(step(3, 100, 299), (3, Limit::Cooldown));
    assert_eq!(step(3, 100, 300), (5, Limit::WithinRange));
    assert_eq!(step(5, 65, 700), (5, Limit::WithinRange), "not below 90 % of the target");
    assert_eq!(step(5, 20, 599), (5, Limit::Cooldown), "none is removed so soon after one was added");
    assert_eq!(step(5, 20, 700), (2, Limit::WithinRange));
    assert_eq!(step(2, 10, 1100), (2, Limit::TooFew));
}

#[test]
fn under_the_schedule_alone_no_measure_counts() {
    let scale = scale(
        "min = 2\nmax = 4\ncpu = 70\npolicy = \"schedule\"\nschedule = [{ when = \"22:00-06:00\", min = 1, max = 1 }]",
    );
    let count = |seconds, current| {
        let now = after(seconds);
        let measures = [cpu(&scale, current, 100, now)];
        decide(&Inputs { scale: &scale, current, measures: &measures, room: None, now }, &mut Memory::default()).count
    };
    assert_eq!((count(0, 2), count(6 * 3600, 1), count(21 * 3600, 4), count(22 * 3600, 2)), (1, 2, 2, 1));
}
