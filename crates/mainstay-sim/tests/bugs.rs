//! Planted bugs: each must be found within a stated number of seeds, or the simulation is blind to its kind.

use mainstay_sim::{Bug, FOR_EVER, Fault, Intensity, Kind, Options, Scenario, run, small};
use mainstay_stack::model::Durability;
use mainstay_types::ChildName;

/// Seeds within which each planted bug is found.
const WITHIN: u64 = 40;

fn found(bug: Bug, is_blind: bool) -> Option<(u64, Kind)> {
    (1..=WITHIN).find_map(|seed| {
        let mut options = Options::new(seed, Scenario::Random);
        options.bug = Some(bug);
        options.is_blind = is_blind;
        if seed % 2 == 0 {
            options.intensity = Intensity { lost: 15, stale: 20, failing: 5 };
        }
        let report = run(&small(Durability::Balanced), &options);
        report.broken.first().map(|broken| (seed, broken.kind))
    })
}

#[test]
fn every_planted_bug_is_found_within_forty_seeds() {
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| found(*bug, false).is_none()).collect();
    assert!(missed.is_empty(), "not found within {WITHIN} seeds: {missed:?}");
}

#[test]
fn the_world_alone_finds_bugs_that_hurt_data_without_the_invariants() {
    let hurting = [
        Bug::PromoteAnyStandby,
        Bug::RouterBeforeRecord,
        Bug::CandidateBeforeSynchronous,
        Bug::UnblockBeforeRecord,
        Bug::UnknownAsEmpty,
        Bug::PrimaryStoppedFirst,
        Bug::SameEpoch,
        Bug::CloneCandidate,
        Bug::PromoteUnrecorded,
    ];
    let missed: Vec<Bug> = hurting.into_iter().filter(|bug| found(*bug, true).is_none()).collect();
    assert!(missed.is_empty(), "not found by the world within {WITHIN} seeds: {missed:?}");
}

#[test]
fn a_failover_without_a_fence_is_seen_as_two_primaries() {
    let freeze = Fault::Freeze(ChildName::new("postgres-a").unwrap(), FOR_EVER);
    let mut options = Options::new(1, Scenario::Faults(vec![(100, freeze)]));
    let report = run(&small(Durability::Balanced), &options);
    assert!(report.broken.is_empty(), "fenced: {}", report.broken[0]);
    options.is_sabotaged = true;
    let report = run(&small(Durability::Balanced), &options);
    assert_eq!(report.broken.first().map(|broken| broken.kind), Some(Kind::SplitBrain));
}
