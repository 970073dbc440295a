//! What holds of every decision.

use std::time::Duration;

use mainstay_decide::autoscale::rates::{History, normalise};
use mainstay_decide::autoscale::replicas::{value, value_per_instance};
use mainstay_decide::autoscale::{Inputs, Measure, Memory, changed, combine, decide, tolerance};
use mainstay_stack::scale::{Change, Rate, Rules, Scale, Select};
use proptest::prelude::*;

use super::documents::{FRIDAY, scale};

fn rules() -> impl Strategy<Value = Rules> {
    let rate = (any::<bool>(), 1_u32..200, 1_u64..120).prop_map(|(is_share, amount, every)| Rate {
        change: if is_share { Change::Percent(amount) } else { Change::Instances(amount) },
        every: Duration::from_secs(every),
    });
    let select = prop_oneof![Just(Select::Max), Just(Select::Min), Just(Select::Disabled)];
    (0_u64..400, prop::collection::vec(rate, 1..4), select).prop_map(|(window, rates, select)| Rules {
        window: Duration::from_secs(window),
        rates,
        select,
    })
}

fn policy() -> impl Strategy<Value = Scale> {
    let policies = ["", "policy = \"step\"", "policy = \"target-tracking\""];
    (0..policies.len(), 1_u32..5, 0_u32..20, rules(), rules()).prop_map(move |(policy, min, more, up, down)| {
        let text =
            format!("min = {min}\nmax = {}\ncpu = 70\nlatency_p95 = \"500ms\"\n{}", min + more, policies[policy]);
        Scale { up, down, ..scale(&text) }
    })
}

#[test]
fn the_largest_proposal_counts_and_a_missing_measure_removes_nothing() {
    assert_eq!(combine(3, &[Some(4), Some(7), Some(7)]), Some((1, 7)));
    assert_eq!(combine(3, &[None, Some(4)]), Some((1, 4)), "TestScaleUpOneMetricEmpty");
    assert_eq!(combine(5, &[Some(3), None]), None, "TestNoScaleDownOneMetricEmpty");
    assert_eq!(combine(5, &[Some(5), None]), Some((0, 5)));
    assert_eq!(combine(3, &[None, None]), None);
}

proptest! {
    #[test]
    fn no_decision_leaves_the_bounds_or_goes_the_wrong_way(
        scale in policy(),
        start in 1_u32..30,
        loads in prop::collection::vec((prop::option::of(0_u64..400), prop::option::of(0_u64..3000)), 1..60),
    ) {
        let mut memory = Memory::default();
        let mut current = start;
        for (tick, (cpu, latency)) in (0_u64..).zip(loads) {
            let now = FRIDAY.after(Duration::from_secs(tick * 15));
            let read = |usage: Option<u64>, target| usage
                .map(|usage| value(current, current, usage, target, tolerance(&scale)))
                .ok_or_else(|| "unknown".to_owned());
            let measures = [
                Measure { name: "cpu", target: 70, reading: read(cpu, 70) },
                Measure { name: "latency_p95", target: 500, reading: read(latency, 500) },
            ];
            let decision = decide(&Inputs { scale: &scale, current, measures: &measures, room: None, now }, &mut memory);
            prop_assert!((scale.min..=scale.max).contains(&decision.count), "{decision:?}");
            let is_within = (scale.min..=scale.max).contains(&current);
            if is_within && cpu.is_none_or(|cpu| cpu <= 70) && latency.is_none_or(|latency| latency <= 500) {
                prop_assert!(decision.count <= current, "nothing is above its target: {decision:?}");
            }
            let is_one_above = cpu.is_some_and(|cpu| cpu > 70) || latency.is_some_and(|latency| latency > 500);
            if is_within && (is_one_above || cpu.is_none() || latency.is_none()) {
                prop_assert!(decision.count >= current, "one is above, or unknown: {decision:?}");
            }
            prop_assert!(!decision.why.is_empty());
            changed(&mut memory, &scale, current, decision.count, now);
            current = decision.count;
        }
        // What is remembered is bounded by what the rules look at: one of each 15 s, and what has no place yet.
        prop_assert!(memory.history.recommendations.len() <= 400 / 15 + 2);
    }

    #[test]
    fn held_back_numbers_lie_between_what_is_and_what_is_wanted(
        current in 1_u32..50, desired in 0_u32..200, up in rules(), down in rules(), raised in 0_u32..20, lowered in 0_u32..20,
    ) {
        let moment = |count| mainstay_decide::autoscale::rates::Moment { count, at: FRIDAY };
        let mut history =
            History { recommendations: vec![], raised: vec![moment(raised)], lowered: vec![moment(lowered)] };
        let now = FRIDAY.after(Duration::from_secs(10));
        let found = normalise(current, desired, (1, 100), (&up, &down), &mut history, now);
        let wanted = desired.clamp(1, 100);
        prop_assert!(found.count >= current.min(wanted) && found.count <= current.max(wanted), "{found:?}");
    }

    #[test]
    fn requests_for_each_instance_are_served_by_the_fewest_that_do(total in 0_u64..100_000, target in 1_u64..1000, current in 1_u32..100) {
        let none = mainstay_decide::autoscale::replicas::Tolerance { down: 0.0, up: 0.0 };
        let found = u64::from(value_per_instance(current, total, target, none).proposal);
        prop_assert!(found * target >= total && found.saturating_sub(1) * target <= total);
    }
}
