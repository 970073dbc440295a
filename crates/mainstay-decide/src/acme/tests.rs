use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).after(Duration::from_secs(seconds))
}

fn lasting(life: Duration) -> Validity {
    Validity { begins: at(0), ends: at(0).after(life) }
}

fn tried(failures: u32, last: u64) -> Attempts {
    Attempts { failures, last: Some(at(last)), asked_until: None }
}

fn until(decision: Decision) -> Timestamp {
    match decision {
        Decision::Wait { until } => until,
        Decision::Order => panic!("orders"),
    }
}

#[test]
fn without_a_certificate_one_is_ordered_at_once() {
    assert_eq!(decide(None, &Attempts::default(), 7, at(0)), Decision::Order);
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_at_the_latest() {
    for life in [Duration::from_secs(60), 6 * DAY, 90 * DAY, 397 * DAY] {
        let certificate = lasting(life);
        let due = |chance| until(decide(Some(certificate), &Attempts::default(), chance, at(0)));
        let (latest, earliest) = (at(0).after(life * 2 / 3), at(0).after(life * 61 / 100));
        for chance in 0..2000 {
            assert!((earliest..=latest).contains(&due(chance)), "{life:?} {chance}");
        }
        assert!(due(0) > due(900), "not all stacks at one moment");
        assert_eq!(decide(Some(certificate), &Attempts::default(), 0, latest), Decision::Order);
    }
}

#[test]
fn failures_of_a_first_certificate_stay_below_what_an_authority_counts_in_an_hour() {
    let (mut now, mut attempts, mut times) = (at(0), Attempts::default(), Vec::new());
    while times.len() < 40 {
        match decide(None, &attempts, 0, now) {
            Decision::Wait { until } => now = until,
            Decision::Order => {
                times.push(now);
                attempts.last = Some(now);
                attempts.failed(now, None);
            }
        }
    }
    for (nth, begin) in times.iter().enumerate() {
        let within = times[nth..].iter().filter(|time| time.saturating_since(*begin) < Duration::from_hours(1)).count();
        assert!(within <= 4, "{within} from {begin}");
    }
    let last = times[39].saturating_since(times[38]);
    assert_eq!(last, Duration::from_hours(6));
    assert_eq!(times[1].saturating_since(times[0]), Duration::from_mins(2));
}

#[test]
fn a_short_certificate_is_tried_for_again_before_it_ends() {
    let certificate = lasting(Duration::from_secs(60));
    for failures in 1..30 {
        let next = until(decide(Some(certificate), &tried(failures, 41), 0, at(41)));
        assert!(next <= at(43), "{failures}");
    }
    // One of 90 days waits as a first one does, up to six hours.
    let next = until(decide(Some(lasting(90 * DAY)), &tried(9, 60 * 86_400), 0, at(60 * 86_400)));
    assert_eq!(next, at(60 * 86_400 + 6 * 3600));
}

#[test]
fn an_attempt_that_the_machine_did_not_survive_is_not_repeated_at_once() {
    let attempts = Attempts { failures: 0, last: Some(at(0)), asked_until: None };
    assert_eq!(until(decide(None, &attempts, 0, at(1))), at(120));
}

#[test]
fn the_wait_that_an_authority_asks_for_is_kept_up_to_a_week() {
    let mut attempts = tried(0, 0);
    attempts.failed(at(0), Some(Duration::from_hours(10)));
    assert_eq!(until(decide(None, &attempts, 0, at(0))), at(36_000));
    attempts.failed(at(0), Some(400 * DAY));
    assert_eq!(until(decide(None, &attempts, 0, at(0))), at(7 * 86_400));
    attempts.failed(at(0), None);
    assert!(until(decide(None, &attempts, 0, at(0))) < at(7 * 86_400), "the last word counts");
}

#[test]
fn the_two_proofs_take_turns_unless_the_stack_chooses() {
    assert_eq!(
        [0, 1, 2].map(|failures| challenge(None, failures)),
        [Challenge::Http01, Challenge::TlsAlpn01, Challenge::Http01]
    );
    assert!((0..5).all(|failures| challenge(Some(Challenge::TlsAlpn01), failures) == Challenge::TlsAlpn01));
}

#[test]
fn what_is_left_is_a_share_of_its_life() {
    let certificate = lasting(90 * DAY);
    let left = |seconds| certificate.left_milli(at(seconds));
    assert_eq!([left(0), left(45 * 86_400), left(90 * 86_400), left(400 * 86_400)], [1000, 500, 0, 0]);
    assert_eq!(certificate.left_milli(Timestamp::from_millis(0)), 1000, "a clock that is behind");
}

proptest! {
    #[test]
    fn whatever_happened_the_next_attempt_comes_and_never_two_at_once(
        life in 1_u64..40_000_000, failures in 0_u32..100, last in 0_u64..40_000_000, now in 0_u64..80_000_000,
        chance: u64, has_certificate: bool,
    ) {
        let certificate = has_certificate.then(|| lasting(Duration::from_secs(life)));
        let attempts = tried(failures, last.min(now));
        match decide(certificate, &attempts, chance, at(now)) {
            Decision::Order => prop_assert!(at(now).saturating_since(at(last.min(now))) >= SHORTEST_PAUSE),
            Decision::Wait { until } => {
                prop_assert!(until > at(now));
                prop_assert!(until <= at(now.max(life)).after(LONGEST_PAUSE));
                prop_assert_eq!(decide(certificate, &attempts, chance, until), Decision::Order);
            }
        }
    }
}
