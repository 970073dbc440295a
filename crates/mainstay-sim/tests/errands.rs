//! What a person asks the cluster for: done without losing a statement, or given up without a trace; and whatever dies
//! on the way, the cluster is whole afterwards.

use std::collections::BTreeSet;

use mainstay_decide::observed::Errand;
use mainstay_sim::{Ending, FOR_EVER, Fault, Mark, Options, Report, Scenario, full, run, small};
use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::{ChildName, Member};

fn switchover(drain_ms: u64) -> Fault {
    Fault::Ask(Errand::Switchover { to: Member::B, drain_ms, is_forced: false })
}

fn whole(stack: &Stack, seed: u64, faults: Vec<(u64, Fault)>) -> Report {
    let report = run(stack, &Options::new(seed, Scenario::Faults(faults)));
    if let Some(broken) = report.broken.first() {
        panic!("seed = {seed}: {broken}\n{}", report.story.join("\n"));
    }
    report
}

#[test]
fn a_switchover_is_done_with_every_durability_and_the_old_primary_follows_as_it_is() {
    for durability in [Durability::Fast, Durability::Balanced, Durability::Strict] {
        for seed in 1..=10 {
            for stack in [small(durability), full(durability)] {
                let report = whole(&stack, seed, vec![(100, switchover(1_000)), (3_000, switchover(1))]);
                for mark in [Mark::ErrandDone, Mark::FailedOver, Mark::FollowedAsItWas] {
                    assert!(report.marks.contains(&mark), "{durability:?}, seed = {seed}: no {mark:?}");
                }
                assert_eq!(report.lost_allowed, 0, "{durability:?}, seed = {seed}: nothing is lost even in `fast`");
            }
        }
    }
}

#[test]
fn a_failover_by_hand_and_a_restart_of_a_standby_are_done() {
    for durability in [Durability::Balanced, Durability::Strict] {
        for seed in 1..=10 {
            let failover = Fault::Ask(Errand::Failover { to: Member::B });
            let report = whole(&small(durability), seed, vec![(100, failover)]);
            assert!(report.marks.contains(&Mark::ErrandDone), "{durability:?}, seed = {seed}");
            let restart = Fault::Ask(Errand::Restart { member: Member::B });
            let report = whole(&small(durability), seed, vec![(100, restart), (5_000, Fault::ControlCrash)]);
            assert!(report.marks.contains(&Mark::Restarted), "{durability:?}, seed = {seed}");
        }
    }
}

#[test]
fn a_switchover_to_a_standby_that_hangs_is_refused_and_the_primary_stays() {
    let freeze = Fault::Freeze(ChildName::new("postgres-b").expect("a valid name"), FOR_EVER);
    let report = whole(&small(Durability::Strict), 3, vec![(100, freeze), (400, switchover(1_500))]);
    assert!(!report.marks.contains(&Mark::ErrandDone));
    assert!(!report.marks.contains(&Mark::FailedOver));
}

#[test]
fn a_crash_at_any_boundary_of_an_errand_is_healed() {
    let stack = small(Durability::Balanced);
    let errands = [
        switchover(1_000),
        Fault::Ask(Errand::Failover { to: Member::B }),
        Fault::Ask(Errand::Restart { member: Member::B }),
    ];
    for errand in errands {
        let scenario = Scenario::Faults(vec![(100, errand.clone())]);
        let plain = run(&stack, &Options::new(11, scenario.clone()));
        assert!(plain.broken.is_empty(), "without a crash: {}", plain.broken[0]);
        for boundary in 1..=plain.boundaries {
            for second in [0, 2] {
                let mut options = Options::new(11, scenario.clone());
                options.crash_at = BTreeSet::from([boundary, boundary + second]);
                let report = run(&stack, &options);
                if let Some(broken) = report.broken.first() {
                    panic!("{errand:?}, crash at {boundary} + {second}: {broken}\n{}", report.story.join("\n"));
                }
                assert_eq!(report.ending, Ending::Settled, "{errand:?}, crash at {boundary} + {second}");
            }
        }
    }
}
