use proptest::prelude::*;

use super::*;

fn instances(count: usize) -> Vec<Candidate> {
    let name = |index: usize| hash(format!("backend-{index}").as_bytes());
    (0..count).map(|index| Candidate { name: name(index), in_flight: 0, warmth: WARM, is_tried: false }).collect()
}

/// How many of so many requests each instance gets.
fn spread(candidates: &[Candidate], requests: u64, way: impl Fn(u64) -> Way) -> Vec<u64> {
    let mut counts = vec![0; candidates.len()];
    for turn in 0..requests {
        counts[choose(candidates, way(turn), turn).expect("one of them")] += 1;
    }
    counts
}

#[test]
fn in_turn_is_exact() {
    for count in 1..=7 {
        let counts = spread(&instances(count), 700 * count as u64, |_| Way::Turn);
        assert!(counts.iter().all(|count| *count == 700), "{counts:?}");
    }
    assert_eq!(choose(&[], Way::Turn, 3), None);
}

#[test]
fn what_was_tried_is_the_last_resort() {
    let mut candidates = instances(3);
    candidates[0].is_tried = true;
    candidates[2].is_tried = true;
    for way in [Way::Turn, Way::Least, Way::Hash(7)] {
        assert!((0..50).all(|turn| choose(&candidates, way, turn) == Some(1)), "{way:?}");
    }
    candidates[1].is_tried = true;
    let counts = spread(&candidates, 300, |_| Way::Turn);
    assert_eq!(counts, [100, 100, 100]);
}

#[test]
fn a_cold_instance_gets_its_share_and_the_others_the_rest_evenly() {
    let mut candidates = instances(4);
    candidates[1].warmth = 250;
    let counts = spread(&candidates, 100_000, |_| Way::Turn);
    // A quarter of its turns is its own, and some of what it passes on comes back to it through nobody.
    assert!((6_000..6_600).contains(&counts[1]), "{counts:?}");
    for other in [0, 2, 3] {
        assert!((30_800..31_700).contains(&counts[other]), "{counts:?}");
    }
    let all_cold: Vec<Candidate> = candidates.iter().map(|one| Candidate { warmth: COLD, ..*one }).collect();
    let counts = spread(&all_cold, 100_000, |_| Way::Turn);
    assert!(counts.iter().all(|count| (24_000..26_000).contains(count)), "{counts:?}");
}

#[test]
fn warmth_grows_evenly_from_a_tenth_to_the_whole() {
    let slow_start = Duration::from_secs(10);
    let at = |ms| warmth(Duration::from_millis(ms), slow_start);
    assert_eq!([at(0), at(500), at(5_000), at(9_990), at(10_000), at(70_000)], [100, 100, 500, 999, 1000, 1000]);
    assert_eq!(warmth(Duration::ZERO, Duration::ZERO), WARM);
}

#[test]
fn of_two_the_less_busy_one_is_taken() {
    let mut candidates = instances(5);
    let even = spread(&candidates, 100_000, |_| Way::Least);
    assert!(even.iter().all(|count| (19_000..21_000).contains(count)), "{even:?}");
    candidates[3].in_flight = 10;
    assert_eq!(spread(&candidates, 10_000, |_| Way::Least)[3], 0, "it loses to every other");
    candidates[3].in_flight = 0;
    candidates[3].warmth = 200;
    assert_eq!(spread(&candidates, 10_000, |_| Way::Least)[3], 0, "one request is as five to a cold one");
}

#[test]
fn the_slower_instance_gets_less_by_two_choices() {
    // Instance 0 takes ten times as long: a queue in steps of time, one request a step.
    let mut candidates = instances(4);
    let mut ends: Vec<(u64, usize)> = Vec::new();
    let mut counts = [0_u64; 4];
    for turn in 0..20_000_u64 {
        ends.retain(|(end, index)| {
            let is_over = *end <= turn;
            if is_over {
                candidates[*index].in_flight -= 1;
            }
            !is_over
        });
        let index = choose(&candidates, Way::Least, turn).expect("one of them");
        candidates[index].in_flight += 1;
        counts[index] += 1;
        ends.push((turn + if index == 0 { 40 } else { 4 }, index));
    }
    assert!(counts[0] * 4 < counts[1], "{counts:?}");
}

#[test]
fn a_client_stays_and_only_those_of_a_lost_instance_move() {
    let all = instances(5);
    let without: Vec<Candidate> = all.iter().copied().filter(|one| one.name != all[2].name).collect();
    let of = |candidates: &[Candidate], client: u64, turn| {
        candidates[choose(candidates, Way::Hash(client), turn).expect("one")].name
    };
    let mut counts = [0; 5];
    for number in 0..20_000_u64 {
        let client = hash(&number.to_be_bytes());
        let before = of(&all, client, number);
        assert_eq!(before, of(&all, client, number + 1));
        let after = of(&without, client, number);
        if before == all[2].name {
            assert_ne!(after, before)
        } else {
            assert_eq!(after, before)
        }
        counts[all.iter().position(|one| one.name == before).expect("one")] += 1;
    }
    assert!(counts.iter().all(|count| (3_800..4_200).contains(count)), "{counts:?}");
}

fn answers(of: &[(u64, u64)]) -> Vec<Answers> {
    of.iter().map(|(requests, errors)| Answers { requests: *requests, errors: *errors, is_out: false }).collect()
}

#[test]
fn who_alone_fails_is_an_outlier() {
    let rules = Eject::default();
    let of = |list: &[(u64, u64)]| outliers(&answers(list), &rules);
    assert_eq!(of(&[(100, 60), (100, 1)]), [0]);
    assert_eq!(of(&[(100, 49), (100, 1)]), [0; 0], "below the limit");
    assert_eq!(of(&[(19, 19), (100, 0)]), [0; 0], "too few to tell");
    assert_eq!(of(&[(100, 60), (100, 30)]), [0; 0], "the other does not do well");
    assert_eq!(of(&[(100, 100)]), [0; 0]);
    assert_eq!(of(&[(100, 100), (0, 0)]), [0; 0], "nobody to compare with");
    assert_eq!(of(&[(100, 70), (100, 90), (100, 0), (100, 0)]), [1, 0], "the worst first");
    assert_eq!(of(&[(100, 70), (100, 90), (100, 0)]), [1], "half of three is one");
}

#[test]
fn no_more_are_out_than_may_be() {
    let rules = Eject::default();
    let mut four = answers(&[(100, 90), (100, 90), (100, 0), (100, 0)]);
    four[3].is_out = true;
    assert_eq!(outliers(&four, &rules).len(), 1);
    four[2].is_out = true;
    assert!(outliers(&four, &rules).is_empty());
    assert!(!may_eject(0, 1, &Eject { most_percent: 100, ..rules.clone() }), "the last one is better than none");
    assert!(may_eject(1, 3, &Eject { most_percent: 100, ..rules }));
}

#[test]
fn retries_are_the_share_of_requests() {
    let mut budget = Budget::default();
    while budget.withdraw() {}
    (0..10).for_each(|_| budget.deposit(20));
    assert_eq!([budget.withdraw(), budget.withdraw(), budget.withdraw()], [true, true, false]);
    (0..10).for_each(|_| budget.deposit(0));
    assert!(!budget.withdraw());
    (0..10_000_000).for_each(|_| budget.deposit(100));
    assert_eq!((0..2000).filter(|_| budget.withdraw()).count(), 1000, "savings are bounded");
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let rules = BreakerRules::default();
    let mut breaker = Breaker::default();
    for nth in 0..19 {
        breaker.record(&rules, nth, false, Outcome::Bad);
    }
    assert_eq!(breaker.ask(&rules, 20), Verdict::Pass, "too few to tell");
    breaker.record(&rules, 20, false, Outcome::Bad);
    assert_eq!(breaker.ask(&rules, 20), Verdict::Refuse { retry_in: Duration::from_secs(5) });
    breaker.record(&rules, 30, false, Outcome::Good);
    assert!(breaker.is_open(), "what was under way decides nothing");
    assert_eq!(breaker.ask(&rules, 5020), Verdict::Try);
    assert!(matches!(breaker.ask(&rules, 5021), Verdict::Refuse { .. }), "one at a time");
    breaker.record(&rules, 5030, true, Outcome::Bad);
    assert_eq!(breaker.ask(&rules, 10_029), Verdict::Refuse { retry_in: Duration::from_millis(1) });
    assert_eq!(breaker.ask(&rules, 10_030), Verdict::Try);
    breaker.record(&rules, 10_031, true, Outcome::Unknown);
    assert_eq!(breaker.ask(&rules, 10_031), Verdict::Try, "that said nothing");
    assert_eq!(breaker.ask(&rules, 15_031), Verdict::Try, "one that is lost is not waited for");
    breaker.record(&rules, 15_040, true, Outcome::Good);
    assert_eq!(breaker.ask(&rules, 15_040), Verdict::Pass);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let rules = BreakerRules { requests: 10, ..BreakerRules::default() };
    let mut breaker = Breaker::default();
    for nth in 0..9 {
        breaker.record(&rules, nth, false, Outcome::Bad);
    }
    breaker.record(&rules, 10_000, false, Outcome::Bad);
    assert!(!breaker.is_open());
    for _ in 0..9 {
        breaker.record(&rules, 10_500, false, Outcome::Good);
    }
    breaker.record(&rules, 11_000, false, Outcome::Bad);
    assert!(!breaker.is_open(), "two of eleven");
}

proptest! {
    #[test]
    fn whatever_is_chosen_is_one_of_them_and_untried_if_one_is(
        states in prop::collection::vec((any::<u64>(), 0_u64..50, 0_u32..=WARM, any::<bool>()), 1..12),
        turn: u64,
        client: u64,
    ) {
        let candidates: Vec<Candidate> = states
            .iter()
            .map(|(name, in_flight, warmth, is_tried)| Candidate {
                name: *name, in_flight: *in_flight, warmth: *warmth, is_tried: *is_tried,
            })
            .collect();
        let has_untried = candidates.iter().any(|one| !one.is_tried);
        for way in [Way::Turn, Way::Least, Way::Hash(client)] {
            let chosen = candidates[choose(&candidates, way, turn).unwrap()];
            prop_assert_eq!(chosen.is_tried, !has_untried);
        }
    }

    #[test]
    fn outliers_never_exceed_the_ceiling(
        list in prop::collection::vec((0_u64..200, 0_u64..200, any::<bool>()), 0..12),
        most in 1_u32..=100,
    ) {
        let all: Vec<Answers> = list
            .iter()
            .map(|(requests, errors, is_out)| Answers { requests: *requests, errors: *errors.min(requests), is_out: *is_out })
            .collect();
        let rules = Eject { most_percent: most, ..Eject::default() };
        let found = outliers(&all, &rules);
        let out = all.iter().filter(|one| one.is_out).count();
        if !found.is_empty() {
            prop_assert!((out + found.len()) * 100 <= all.len() * most as usize);
            prop_assert!(out + found.len() < all.len());
        }
    }
}
