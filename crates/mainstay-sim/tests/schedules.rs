//! Services that run on a schedule: whatever dies, no time is lost, none has two runs, and never two run at once.

use std::collections::BTreeSet;

use mainstay_sim::{Bug, Ending, Fault, Intensity, Kind, Mark, Options, Report, Scenario, run, scheduled};
use mainstay_stack::model::Durability;
use mainstay_types::ChildName;

/// Runs of the default budget.
const RUNS: u64 = 40;
/// Seeds within which each planted bug is found.
const WITHIN: u64 = 40;

fn run_of(seed: u64, bug: Option<Bug>, is_blind: bool) -> Report {
    let mut options = Options::new(seed, Scenario::Random);
    (options.bug, options.is_blind) = (bug, is_blind);
    if seed.is_multiple_of(2) {
        options.intensity = Intensity { lost: 15, stale: 10, failing: 10 };
    }
    // The control plane dies in the middle of what it does, again and again.
    options.crash_at = (1..40).map(|n| n * (seed % 17 + 5)).collect();
    run(&scheduled(Durability::Balanced), &options)
}

#[test]
fn faults_and_crashes_lose_no_run_and_double_none() {
    let mut met = BTreeSet::new();
    for seed in 1..=RUNS {
        let report = run_of(seed, None, false);
        if let Some(broken) = report.broken.first() {
            panic!("seed = {seed}: {broken}\n{}", report.story.join("\n"));
        }
        met.extend(report.marks);
    }
    let wanted = [Mark::RunEnded, Mark::RunSkipped, Mark::RunTakenUp, Mark::RunTimedOut];
    let missed: Vec<Mark> = wanted.into_iter().filter(|mark| !met.contains(mark)).collect();
    assert!(missed.is_empty(), "never met over {RUNS} seeds: {missed:?}");
}

#[test]
fn a_crash_at_any_boundary_of_the_first_runs_is_healed() {
    let stack = scheduled(Durability::Balanced);
    let kill = Fault::Kill(ChildName::new("report-run").expect("a valid name"));
    let scenario = Scenario::Faults(vec![(1_500, kill.clone()), (3_000, kill)]);
    let plain = run(&stack, &Options::new(11, scenario.clone()));
    assert!(plain.broken.is_empty(), "without a crash: {}", plain.broken[0]);
    assert!(plain.boundaries > 40, "{} boundaries are no scenario", plain.boundaries);
    for boundary in 1..=plain.boundaries {
        for second in [0, 2] {
            let mut options = Options::new(11, scenario.clone());
            options.crash_at = BTreeSet::from([boundary, boundary + second]);
            let report = run(&stack, &options);
            if let Some(broken) = report.broken.first() {
                panic!("crash at {boundary} and {}: {broken}\n{}", boundary + second, report.story.join("\n"));
            }
        }
    }
}

#[test]
fn a_stack_goes_down_in_the_middle_of_a_run() {
    for seed in 1..=10 {
        let report = run(&scheduled(Durability::Balanced), &Options::new(seed, Scenario::Down));
        assert!(report.broken.is_empty(), "seed = {seed}: {}", report.broken[0]);
        assert_eq!(report.ending, Ending::Finished, "seed = {seed}");
    }
}

fn found(bug: Bug, is_blind: bool) -> Option<Kind> {
    (1..=WITHIN).find_map(|seed| run_of(seed, Some(bug), is_blind).broken.first().map(|broken| broken.kind))
}

#[test]
fn every_planted_bug_of_schedules_is_found_with_and_without_the_invariants() {
    for bug in Bug::OF_SCHEDULES {
        assert!(found(bug, false).is_some(), "{bug:?} was not found within {WITHIN} seeds");
        assert!(found(bug, true).is_some(), "{bug:?} was not found by the world within {WITHIN} seeds");
    }
}
