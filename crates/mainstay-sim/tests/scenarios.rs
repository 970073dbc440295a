//! One run each of what the product promises, without chance but for durations.

use mainstay_sim::{Ending, Fault, Options, Report, Scenario, full, run, small};
use mainstay_stack::model::Durability;
use mainstay_types::ChildName;

fn name(text: &str) -> ChildName {
    ChildName::new(text).expect("a valid name")
}

fn assert_whole(report: &Report) {
    assert!(report.broken.is_empty(), "{}", report.broken[0]);
}

#[test]
fn everything_comes_up_and_goes_down() {
    for durability in [Durability::Fast, Durability::Balanced, Durability::Strict] {
        for stack in [small(durability), full(durability)] {
            let report = run(&stack, &Options::new(7, Scenario::Down));
            assert_whole(&report);
            assert_eq!(report.ending, Ending::Finished);
        }
    }
}

#[test]
fn a_killed_primary_loses_no_acknowledged_write() {
    for durability in [Durability::Balanced, Durability::Strict] {
        let faults = vec![(200, Fault::Kill(name("postgres-a")))];
        let report = run(&small(durability), &Options::new(7, Scenario::Faults(faults)));
        assert_whole(&report);
        assert!(report.marks.contains(&mainstay_sim::Mark::FailedOver));
        println!(
            "{durability:?}: {} boundaries, {} writes, {} ms",
            report.boundaries, report.acknowledged, report.took_ms
        );
    }
}
