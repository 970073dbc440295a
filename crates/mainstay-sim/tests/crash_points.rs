//! The control plane dies at every action boundary of every scenario: before a step, between its effect and the
//! knowledge of it, and after. Exhaustive, not sampled.

use std::collections::BTreeSet;

use mainstay_sim::{Ending, Fault, Options, Scenario, run, small};
use mainstay_stack::model::Durability;
use mainstay_types::ChildName;

fn kill(name: &str) -> Scenario {
    Scenario::Faults(vec![(100, Fault::Kill(ChildName::new(name).expect("a valid name")))])
}

/// Dies once at each boundary, and again two boundaries later.
fn exhaust(scenario: Scenario, ending: Ending) {
    let stack = small(Durability::Balanced);
    let plain = run(&stack, &Options::new(11, scenario.clone()));
    assert!(plain.broken.is_empty(), "without a crash: {}", plain.broken[0]);
    assert_eq!(plain.ending, ending);
    assert!(plain.boundaries > 20, "{} boundaries are no scenario", plain.boundaries);
    let mut failed = Vec::new();
    for boundary in 1..=plain.boundaries {
        for second in [0, 2] {
            let mut options = Options::new(11, scenario.clone());
            options.crash_at = BTreeSet::from([boundary, boundary + second]);
            let report = run(&stack, &options);
            if let Some(broken) = report.broken.first() {
                failed.push(format!("crash at {boundary} and {}: {broken}", boundary + second));
            } else {
                assert_eq!(report.ending, ending, "crash at {boundary} and {}", boundary + second);
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} runs: {}", failed.len(), plain.boundaries * 2, failed[0]);
}

#[test]
fn a_crash_at_any_boundary_of_up_and_down_is_healed() {
    exhaust(Scenario::Down, Ending::Finished);
}

#[test]
fn a_crash_at_any_boundary_of_a_failover_is_healed() {
    exhaust(kill("postgres-a"), Ending::Settled);
}

#[test]
fn a_crash_at_any_boundary_of_a_standbys_loss_is_healed() {
    exhaust(kill("postgres-b"), Ending::Settled);
}

#[test]
fn a_crash_at_any_boundary_of_an_instances_loss_is_healed() {
    exhaust(kill("backend-1"), Ending::Settled);
}
