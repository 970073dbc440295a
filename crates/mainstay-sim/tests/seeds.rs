//! Faults that seeds choose: many small runs, each replayed by its seed alone.

use std::collections::BTreeSet;

use mainstay_sim::{Intensity, Mark, Options, Report, Scenario, full, run, seed_from_environment, small};
use mainstay_stack::Stack;
use mainstay_stack::model::Durability;

/// Runs of the default budget; the night runs more by `MAINSTAY_SEEDS`.
const RUNS: u64 = 120;

/// The seed decides the stack and how unreliable looks and steps are, too.
fn of_seed(seed: u64) -> (Stack, Options) {
    let durability = match seed % 4 {
        0 => Durability::Fast,
        1 => Durability::Strict,
        _ => Durability::Balanced,
    };
    let mut stack = if seed.is_multiple_of(5) { full(durability) } else { small(durability) };
    // From a primary alone to five standbys; most seeds have one.
    if let (Some(standbys), Some(database)) = ([0, 2, 3, 4, 5].get((seed % 12) as usize), &mut stack.database) {
        database.standbys = *standbys;
        if *standbys == 0 && database.durability == Durability::Strict {
            database.durability = Durability::Balanced;
        }
    }
    let mut options = Options::new(seed, Scenario::Random);
    options.intensity = match seed % 3 {
        0 => Intensity::default(),
        1 => Intensity { lost: 15, stale: 10, failing: 5 },
        _ => Intensity { lost: 40, stale: 25, failing: 15 },
    };
    (stack, options)
}

fn check(seed: u64) -> Report {
    let (stack, options) = of_seed(seed);
    let report = run(&stack, &options);
    if let Some(broken) = report.broken.first() {
        panic!("seed = {seed}: {broken}\n{}", report.story.join("\n"));
    }
    report
}

#[test]
fn random_faults_break_no_promise_and_meet_every_case() {
    if let Some(seed) = seed_from_environment() {
        println!("{:#?}", check(seed));
        return;
    }
    let runs = std::env::var("MAINSTAY_SEEDS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let mut met = BTreeSet::new();
    let mut failed = Vec::new();
    for seed in 1..=runs {
        match std::panic::catch_unwind(|| check(seed)) {
            Ok(report) => met.extend(report.marks),
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "{} of {runs} seeds failed: {failed:?}", failed.len());
    let missed: Vec<Mark> = Mark::ALL.into_iter().filter(|mark| !met.contains(mark)).collect();
    assert!(missed.is_empty(), "never met over {runs} seeds: {missed:?}");
}
