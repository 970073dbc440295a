//! `TestScalingWithRules`, `TestStoreScaleEvents`, `TestNormalizeDesiredReplicasWithBehavior`.

use std::time::Duration;

use mainstay_decide::autoscale::rates::{History, Limit, Moment, bound, stabilise, store_change, within};
use mainstay_stack::scale::{Change, Rate, Rules, Select};
use mainstay_types::Timestamp;

const NOW: Timestamp = Timestamp::from_micros(1_795_737_600_000_000);

fn moment(count: u32, seconds: u64) -> Moment {
    let micros = i64::try_from(seconds * 1_000_000).expect("a past");
    Moment { count, at: Timestamp::from_micros(NOW.as_micros() - micros) }
}

/// In the middle of equal parts of the last 120 s, as `generateEventsUniformDistribution` spreads them.
fn spread(changes: &[u32]) -> Vec<Moment> {
    let count = changes.len() as u64;
    let middle = |index: usize| 120 - (120 * (2 * index as u64 + 1)) / (2 * count.max(1));
    changes.iter().enumerate().map(|(index, change)| moment(*change, middle(index))).collect()
}

fn rules(instances: (u32, u64), percent: (u32, u64)) -> Option<Rules> {
    let rate = |change, every| Rate { change, every: Duration::from_secs(every) };
    let mut rates = Vec::new();
    if instances.0 > 0 {
        rates.push(rate(Change::Instances(instances.0), instances.1));
    }
    if percent.0 > 0 {
        rates.push(rate(Change::Percent(percent.0), percent.1));
    }
    (!rates.is_empty()).then_some(Rules { window: Duration::ZERO, rates, select: Select::Max })
}

struct Case {
    numbers: (u32, u32),
    bounds: (u32, u32),
    up: Option<Rules>,
    down: Option<Rules>,
    raised: &'static [u32],
    lowered: &'static [u32],
    expected: (u32, Limit),
}

impl Case {
    fn of(numbers: (u32, u32), bounds: (u32, u32), expected: (u32, Limit)) -> Self {
        Self { numbers, bounds, up: None, down: None, raised: &[], lowered: &[], expected }
    }

    fn up(mut self, instances: (u32, u64), percent: (u32, u64)) -> Self {
        self.up = rules(instances, percent);
        self
    }

    fn down(mut self, instances: (u32, u64), percent: (u32, u64)) -> Self {
        self.down = rules(instances, percent);
        self
    }

    fn after(mut self, raised: &'static [u32], lowered: &'static [u32]) -> Self {
        (self.raised, self.lowered) = (raised, lowered);
        self
    }
}

const WIDE: (u32, u32) = (1, 1000);
const NONE: (u32, u64) = (0, 0);

fn up_cases() -> Vec<Case> {
    use Limit::{TooMany, Up, WithinRange};
    vec![
        Case::of((5, 7), (3, 8), (7, WithinRange)),
        Case::of((20, 1000), (1, 10), (10, TooMany)),
        Case::of((100, 1000), (100, 150), (150, TooMany)),
        Case::of((3, 1000), (1, 2000), (4, Up)).up(NONE, (1, 60)),
        Case::of((10, 50), WIDE, (20, Up)),
        Case::of((10, 500), WIDE, (110, Up)).up((100, 60), (100, 60)),
        Case::of((10, 500), WIDE, (20, Up)).up((2, 60), (100, 60)),
        Case::of((10, 50), WIDE, (50, WithinRange)).up((100, 60), NONE),
        Case::of((10, 50), WIDE, (50, WithinRange)).up((10_000, 60), NONE),
        Case::of((10, 50), WIDE, (40, Up)).up((30, 60), NONE),
        Case::of((10, 50), WIDE, (30, Up)).up(NONE, (200, 60)),
        Case::of((100, 500), (1, 200), (200, TooMany)).up((300, 60), NONE).after(&[1, 5, 9], &[]),
        Case::of((100, 500), (1, 200), (200, TooMany)).up(NONE, (10_000, 60)).after(&[1, 5, 9], &[]),
        Case::of((100, 500), WIDE, (100, Up)).up((5, 120), NONE).after(&[1, 5, 9], &[]),
        Case::of((100, 500), WIDE, (235, Up)).up((150, 120), NONE).after(&[1, 5, 9], &[]),
        Case::of((100, 500), WIDE, (255, Up)).up(NONE, (200, 120)).after(&[1, 5, 9], &[]),
        Case::of((6, 24), WIDE, (16, Up)).up(NONE, (300, 300)).after(&[4], &[2]),
        Case::of((100, 200), WIDE, (200, WithinRange)).up((1000, 60), NONE).after(&[8, 12, 9, 11], &[]),
        Case::of((100, 200), WIDE, (200, WithinRange)).up((1000, 120), (100, 60)).after(&[8, 12, 9, 11], &[]),
        Case::of((100, 200), WIDE, (200, WithinRange)).up((1000, 30), (100, 60)).after(&[8, 12, 9, 11], &[]),
    ]
}

fn down_cases() -> Vec<Case> {
    use Limit::{Down, TooFew, WithinRange};
    vec![
        Case::of((3, 1), (2, 8), (2, TooFew)),
        Case::of((1, 0), (0, 10), (0, WithinRange)),
        Case::of((100, 2), WIDE, (80, Down)).down((20, 60), (1, 60)),
        Case::of((100, 2), WIDE, (98, Down)).down((2, 60), (1, 60)),
        Case::of((10, 0), WIDE, (1, TooFew)).down((100, 60), NONE),
        Case::of((10, 2), (5, 1000), (5, TooFew)).down(NONE, (100, 60)),
        Case::of((10, 2), WIDE, (5, Down)).down((5, 60), NONE),
        Case::of((10, 5), WIDE, (5, WithinRange)).down(NONE, (50, 60)),
        Case::of((10, 5), WIDE, (5, WithinRange)).after(&[], &[1, 5, 9]),
        Case::of((100, 0), WIDE, (1, TooFew)).down((115, 120), NONE).after(&[], &[1, 5, 9]),
        Case::of((100, 0), (5, 1000), (5, TooFew)).down((130, 120), NONE).after(&[], &[1, 5, 9]),
        Case::of((100, 2), (5, 1000), (5, TooFew)).down(NONE, (100, 120)).after(&[], &[1, 5, 9]),
        Case::of((100, 2), WIDE, (100, Down)).down((5, 120), NONE).after(&[], &[1, 5, 9]),
        Case::of((100, 0), WIDE, (56, Down)).down(NONE, (50, 120)).after(&[], &[2, 4, 6]),
        Case::of((10, 1), WIDE, (6, Down)).down(NONE, (50, 180)).after(&[2], &[4]),
        Case::of((100, 0), WIDE, (100, Down)).down(NONE, (10, 120)).after(&[], &[10, 10, 10]),
        Case::of((10, 5), WIDE, (5, WithinRange)).down(NONE, (1000, 120)).after(&[], &[10, 10, 10]),
        Case::of((100, 5), WIDE, (5, WithinRange)).down((1000, 60), NONE).after(&[], &[8, 12, 9, 11]),
        Case::of((100, 5), WIDE, (5, WithinRange)).down((1000, 120), (100, 60)).after(&[], &[8, 12, 9, 11]),
        Case::of((100, 5), WIDE, (5, WithinRange)).down((1000, 30), (100, 60)).after(&[], &[8, 12, 9, 11]),
    ]
}

#[test]
fn rates_and_bounds_hold_back_as_kubernetes_does() {
    for (index, case) in up_cases().into_iter().chain(down_cases()).enumerate() {
        let history = History { recommendations: vec![], raised: spread(case.raised), lowered: spread(case.lowered) };
        let (up, down) = (case.up.unwrap_or_else(Rules::up), case.down.unwrap_or_else(Rules::down));
        let (current, desired) = case.numbers;
        let found = bound(current, desired, case.bounds, (&up, &down), &history, NOW);
        assert_eq!(found, case.expected, "case {index}: {current} to {desired}");
    }
}

/// `TestCalculateScaleUpLimitWithScalingRules`, `TestCalculateScaleDownLimitWithBehaviors`, and `Disabled`.
#[test]
fn the_policy_that_is_selected_counts() {
    let select = |select| Rules { select, ..rules((2, 60), (50, 60)).expect("two rates") };
    let at = |from, to, choice| bound(from, to, WIDE, (&select(choice), &select(choice)), &History::default(), NOW);
    assert_eq!(at(1, 100, Select::Min), (2, Limit::Up), "50 % of 1, rounded up, is less than 2 more");
    assert_eq!(at(1, 100, Select::Max), (3, Limit::Up));
    assert_eq!(at(5, 1, Select::Min), (3, Limit::Down), "2 fewer is less than 50 % of 5");
    assert_eq!(at(5, 1, Select::Max), (2, Limit::Down), "50 % of 5 is cut off");
    assert_eq!(at(5, 100, Select::Disabled), (5, Limit::Up));
    assert_eq!(at(5, 1, Select::Disabled), (5, Limit::Down));
}

#[test]
fn the_most_careful_recommendation_of_the_window_counts() {
    let old = |list: &[(u32, u64)]| list.iter().map(|(count, age)| moment(*count, *age)).collect::<Vec<_>>();
    // Current, desired, recommendations with ages, windows up and down, result, what is remembered.
    type Row = (u32, u32, &'static [(u32, u64)], (u64, u64), u32, Option<&'static [u32]>);
    let cases: [Row; 11] = [
        (100, 5, &[], (0, 0), 5, Some(&[5])),
        (100, 3, &[(4, 120), (5, 60)], (0, 180), 5, Some(&[4, 5, 3])),
        (1, 7, &[(4, 120), (5, 60)], (300, 0), 4, Some(&[4, 5, 7])),
        (100, 3, &[(1, 120), (2, 60)], (300, 0), 3, Some(&[1, 2, 3])),
        (1, 3, &[(4, 120), (5, 60)], (0, 300), 3, Some(&[4, 5, 3])),
        (100, 3, &[(10, 600), (9, 540)], (0, 0), 3, Some(&[10, 3])),
        (1, 100, &[(10, 600), (9, 540)], (0, 0), 100, Some(&[10, 100])),
        (100, 3, &[(10, 600), (4, 60), (5, 120), (9, 540)], (0, 180), 5, Some(&[10, 4, 5, 3])),
        (1, 100, &[(10, 6000), (6, 60), (5, 120), (9, 180)], (300, 0), 5, Some(&[100, 6, 5, 9])),
        (2, 1, &[(2, 6000), (3, 180)], (300, 300), 2, None),
        (2, 3, &[(2, 6000), (1, 180)], (300, 300), 2, None),
    ];
    for (index, (current, desired, list, (up, down), expected, kept)) in cases.into_iter().enumerate() {
        let mut recommendations = old(list);
        let windows = (Duration::from_secs(up), Duration::from_secs(down));
        assert_eq!(stabilise(current, desired, windows, &mut recommendations, NOW), expected, "case {index}");
        if let Some(kept) = kept {
            let found: Vec<u32> = recommendations.iter().map(|past| past.count).collect();
            assert_eq!(found, kept, "case {index}");
        }
    }
}

#[test]
fn changes_are_remembered_as_long_as_a_rule_looks_at_them() {
    // Changes with ages, rates, their sum within 60 s, changes afterwards.
    type Row = (&'static [(u32, u64)], (u32, u64), (u32, u64), i64, &'static [u32]);
    let cases: [Row; 6] = [
        (&[], (10, 60), (100, 60), 0, &[5]),
        (&[(7, 61)], (10, 60), (100, 60), 0, &[5]),
        (&[(7, 58)], (10, 60), (100, 60), 7, &[7, 5]),
        (&[(7, 61), (6, 59)], (10, 60), NONE, 6, &[5, 6]),
        (&[(8, 29), (6, 59), (7, 61), (9, 61)], (10, 60), (100, 30), 14, &[8, 6, 7, 5]),
        (&[(7, 58), (6, 59)], (10, 120), (100, 30), 13, &[7, 6, 5]),
    ];
    for (index, (list, instances, percent, sum, kept)) in cases.into_iter().enumerate() {
        let list: Vec<Moment> = list.iter().map(|(count, age)| moment(*count, *age)).collect();
        assert_eq!(within(&list, Duration::from_secs(60), NOW), sum, "case {index}");
        let rules = rules(instances, percent).expect("rates");
        let counts = |list: &[Moment]| list.iter().map(|past| past.count).collect::<Vec<_>>();
        let mut history = History { raised: list.clone(), ..History::default() };
        store_change(&mut history, &rules, &rules, 10, 15, NOW);
        assert_eq!(counts(&history.raised), kept, "case {index}, up");
        let mut history = History { lowered: list, ..History::default() };
        store_change(&mut history, &rules, &rules, 10, 5, NOW);
        assert_eq!(counts(&history.lowered), kept, "case {index}, down");
    }
}
