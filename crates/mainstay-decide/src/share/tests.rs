use proptest::prelude::*;

use super::*;
use crate::balance::{Candidate, WARM, Way, choose};

fn share(release: u64, basis_points: u16) -> Share {
    Share { release, basis_points }
}

/// Clients as an edge knows them: hashes of texts that differ little.
fn client(nth: u64) -> u64 {
    hash(format!("10.0.{}.0 Mozilla/5.0", nth).as_bytes())
}

fn count(of: Share, clients: u64) -> u64 {
    (0..clients).map(|nth| u64::from(of.side(client(nth)) == Side::New)).sum()
}

#[test]
fn a_share_is_what_it_says_within_chance() {
    const CLIENTS: u64 = 40_000;
    for release in 1..=8 {
        for basis_points in [1, 10, 100, 1000, 2500, 5000, 9000, 9999] {
            let expected = CLIENTS * u64::from(basis_points) / u64::from(ALL);
            // Five deviations of a binomial distribution: once in a million, and these clients are always the same.
            let variance = expected * u64::from(ALL - basis_points) / u64::from(ALL);
            let found = count(share(release, basis_points), CLIENTS);
            assert!(
                found.abs_diff(expected) <= 5 * variance.isqrt() + 5,
                "{found} instead of {expected} of {CLIENTS} for release {release} at {basis_points}"
            );
        }
    }
}

#[test]
fn nobody_and_everybody_are_exact() {
    assert_eq!(count(share(3, 0), 100_000), 0);
    assert_eq!(count(share(3, ALL), 100_000), 100_000);
    assert_eq!(count(share(3, u16::MAX), 1000), 1000);
    assert_eq!((share(3, 0).side(u64::MAX), share(3, ALL).side(u64::MAX)), (Side::Old, Side::New));
}

#[test]
fn it_is_not_always_the_same_people_who_go_first() {
    let (first, second) = (share(7, 1000), share(8, 1000));
    let both = (0..40_000).filter(|nth| [first, second].iter().all(|of| of.side(client(*nth)) == Side::New)).count();
    // A tenth of a tenth.
    assert!((300..500).contains(&both), "{both}");
}

#[test]
fn the_clients_of_one_instance_do_not_come_together() {
    let candidate = |name: &str| Candidate { name: hash(name.as_bytes()), in_flight: 0, warmth: WARM, is_tried: false };
    let instances = ["backend-1", "backend-2", "backend-3", "backend-4"].map(candidate);
    let (mut all, mut gone) = ([0_u32; 4], [0_u32; 4]);
    for nth in 0..20_000 {
        let at = choose(&instances, Way::Hash(client(nth)), nth).expect("one");
        all[at] += 1;
        gone[at] += u32::from(share(5, 2000).side(client(nth)) == Side::New);
    }
    for (all, gone) in all.into_iter().zip(gone) {
        assert!((170..230).contains(&(gone * 1000 / all)), "{gone} of {all}");
    }
}

#[test]
fn an_unproven_release_stands_in_for_nobody() {
    assert_eq!(share(2, 0).stand_in(Side::Old), None);
    assert_eq!(share(2, 1).stand_in(Side::Old), Some(Side::New));
    for basis_points in [0, 1, ALL] {
        assert_eq!(share(2, basis_points).stand_in(Side::New), Some(Side::Old), "availability first");
    }
    let keeps = |basis_points| [Side::New, Side::Old].map(|side| share(2, basis_points).keeps(side));
    assert_eq!(
        [keeps(0), keeps(1), keeps(9999), keeps(ALL)],
        [[false, true], [true, true], [true, true], [true, false]]
    );
    assert_eq!([0, 1, 2, 3].map(|release| share(2, 1).side_of(release)), [Side::Old, Side::Old, Side::New, Side::Old]);
}

proptest! {
    #[test]
    fn a_rising_share_moves_clients_only_towards_the_new_release(
        client: u64, release: u64, low in 0..=ALL, high in 0..=ALL,
    ) {
        let (low, high) = (low.min(high), low.max(high));
        let is_new = |basis_points| share(release, basis_points).side(client) == Side::New;
        prop_assert!(!is_new(low) || is_new(high));
        prop_assert_eq!(is_new(low), is_new(low), "and it stays there");
    }
}
