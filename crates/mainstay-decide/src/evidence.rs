//! Whether a new release does worse than the one before it: sequential tests over every request that the edge saw.
//!
//! Valid at any moment one looks (Wald 1945; the mixture over alternatives as in Robbins 1970): under "no worse" the
//! evidence is a supermartingale that begins at 1, so that it reaches `1/alpha` with a chance of at most `alpha`,
//! whenever one stops. There is no window, and with too few requests it simply says nothing.

use serde::{Deserialize, Serialize};

/// How many times as often bad events may happen, in the alternatives that are mixed.
const TIMES: [f64; 7] = [1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];
/// Chance of a false verdict for a whole deploy.
pub const ALPHA: f64 = 0.001;
/// Tests that share it: errors and slow answers, each beside the old release and beside its history.
const TESTS: f64 = 4.0;
/// Evidence at which a release is taken back.
pub const LIMIT: f64 = TESTS / ALPHA;
/// Least share of bad answers that is borne where there is no old release beside the new one to compare with.
const BORNE: f64 = 0.01;
/// What the old release is taken to have done before anybody looked: of so many requests so many errors, slow answers.
const PRIOR: f64 = 100.0;
const PRIOR_ERRORS: f64 = 5.0;
const PRIOR_SLOW: f64 = 10.0;

/// What an instance or a release answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests finished.
    pub requests: u64,
    /// Of these 5xx, or no answer.
    pub errors: u64,
    /// Of these slow.
    pub slow: u64,
}

impl Tally {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            slow: self.slow + other.slow,
        }
    }
}

/// What the edge saw of both releases in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Of the new release.
    pub new: Tally,
    /// Of the old one.
    pub old: Tally,
}

/// A mixture of likelihood ratios, by alternative, as logarithms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Mixture([f64; TIMES.len()]);

impl Default for Mixture {
    fn default() -> Self {
        Self([0.0; TIMES.len()])
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Twice the share of what the old release did.
fn borne(bad: u64, requests: u64, prior: f64) -> f64 {
    (2.0 * (float(bad) + prior) / (float(requests) + PRIOR)).clamp(BORNE, 0.98)
}

impl Mixture {
    /// `1`: nothing is known.
    fn evidence(&self) -> f64 {
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.0.iter().map(|log| (log - most).exp()).sum();
        // More than any limit, and still a number of JSON.
        (most + (sum / float(TIMES.len() as u64)).ln()).exp().min(1e12)
    }

    /// Bad events of a window in which the new release had this share of the requests: under "no worse" each of them is
    /// the new release's with a chance of that share.
    fn beside(&mut self, new_bad: u64, old_bad: u64, share: f64) {
        if !(0.0..1.0).contains(&share) || share == 0.0 {
            return;
        }
        for (log, times) in self.0.iter_mut().zip(TIMES) {
            let alternative = share * times / (share * times + 1.0 - share);
            *log += float(new_bad) * (alternative / share).ln()
                + float(old_bad) * ((1.0 - alternative) / (1.0 - share)).ln();
        }
    }

    /// Requests of the new release alone, of which a share of `borne` may be bad.
    fn alone(&mut self, requests: u64, bad: u64, borne: f64) {
        let bad = bad.min(requests);
        for (log, times) in self.0.iter_mut().zip(TIMES) {
            let alternative = (borne * times).min(0.99);
            if alternative > borne {
                *log += float(bad) * (alternative / borne).ln()
                    + float(requests - bad) * ((1.0 - alternative) / (1.0 - borne)).ln();
            }
        }
    }
}

/// What is known of a new release so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// All that was seen.
    pub seen: Window,
    errors_beside: Mixture,
    slow_beside: Mixture,
    errors_alone: Mixture,
    slow_alone: Mixture,
}

/// How strong it is, by what it is about. Above [`LIMIT`] the release is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// Of more errors than the old release has, or than are borne.
    pub errors: f64,
    /// Of more slow answers.
    pub slow: f64,
}

impl Evidence {
    /// Takes a window in.
    #[must_use]
    pub fn and(mut self, window: Window) -> Self {
        let Window { new, old } = window;
        let both = new.requests + old.requests;
        if both == 0 {
            return self;
        }
        // Decided by what was seen before this window, so that the evidence stays fair.
        let history = self.seen.old;
        self.errors_alone.alone(new.requests, new.errors, borne(history.errors, history.requests, PRIOR_ERRORS));
        self.slow_alone.alone(new.requests, new.slow, borne(history.slow, history.requests, PRIOR_SLOW));
        let share = float(new.requests) / float(both);
        self.errors_beside.beside(new.errors, old.errors, share);
        self.slow_beside.beside(new.slow, old.slow, share);
        self.seen = Window { new: self.seen.new.and(new), old: self.seen.old.and(old) };
        self
    }

    /// How strong it is.
    pub fn strength(&self) -> Strength {
        Strength {
            errors: self.errors_beside.evidence().max(self.errors_alone.evidence()),
            slow: self.slow_beside.evidence().max(self.slow_alone.evidence()),
        }
    }

    /// Why the release is taken back, if it is.
    pub fn verdict(&self) -> Option<String> {
        let Strength { errors, slow } = self.strength();
        let Window { new, old } = self.seen;
        let share = |bad: u64, all: u64| if all == 0 { 0.0 } else { float(bad) * 100.0 / float(all) };
        let told = |what: &str, new_bad: u64, old_bad: u64, evidence: f64| {
            format!(
                "{what}: {new_bad} of {} requests ({:.2} %), the old release {old_bad} of {} ({:.2} %); evidence {:.0} of {LIMIT:.0}",
                new.requests,
                share(new_bad, new.requests),
                old.requests,
                share(old_bad, old.requests),
                evidence
            )
        };
        if errors >= LIMIT {
            return Some(told("more errors", new.errors, old.errors, errors));
        }
        (slow >= LIMIT).then(|| told("more slow answers", new.slow, old.slow, slow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of its own, so that a seed gives the same run everywhere.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, parts: u64, of: u64) -> bool {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            crate::balance::hash(&self.0.to_le_bytes()) % of < parts
        }
    }

    /// Requests until a verdict; rates in parts of 10,000.
    fn run(seed: u64, share: u64, (old_rate, new_rate): (u64, u64), most: u64) -> Option<(u64, u64)> {
        let mut chance = Chance(seed);
        let mut evidence = Evidence::default();
        for second in 1..=most / 20 {
            let mut window = Window::default();
            for _ in 0..20 {
                let is_new = chance.below(share, 10_000);
                let is_bad = chance.below(if is_new { new_rate } else { old_rate }, 10_000);
                let tally = if is_new { &mut window.new } else { &mut window.old };
                tally.requests += 1;
                tally.errors += u64::from(is_bad);
            }
            evidence = evidence.and(window);
            if evidence.verdict().is_some() {
                return Some((second * 20, evidence.seen.new.errors));
            }
        }
        None
    }

    #[test]
    fn two_hundred_canaries_of_the_same_release_are_not_taken_back() {
        for rate in [0, 10, 100, 300] {
            let wrong = (0..200).filter(|seed| run(*seed, 1000, (rate, rate), 20_000).is_some()).count();
            assert_eq!(wrong, 0, "at {rate} errors in 10,000");
        }
    }

    #[test]
    fn five_percent_of_errors_are_found_within_thirty_seconds_of_the_first_at_20_requests_a_second() {
        let mut took: Vec<u64> = (0..200)
            .map(|seed| run(seed, 1000, (10, 500), 20_000).expect("five percent of errors are found").0)
            .collect();
        took.sort_unstable();
        // 812 requests at the median by an independent simulation of the same test.
        assert!((500..1300).contains(&took[100]), "median {}", took[100]);
    }

    #[test]
    fn nothing_is_said_without_requests_and_little_about_few() {
        assert_eq!(Evidence::default().verdict(), None);
        let one = Tally { requests: 1, errors: 1, slow: 1 };
        let few = Evidence::default().and(Window { new: one, old: Tally { requests: 19, ..Tally::default() } });
        assert_eq!(few.verdict(), None, "one bad answer takes nothing back");
    }

    #[test]
    fn a_release_that_has_all_traffic_is_held_to_what_the_old_one_did_before() {
        let old = Window { old: Tally { requests: 1000, errors: 0, slow: 0 }, new: Tally::default() };
        let well = Window { new: Tally { requests: 1000, errors: 4, slow: 8 }, old: Tally::default() };
        assert_eq!(Evidence::default().and(old).and(well).verdict(), None);
        let ill = Window { new: Tally { requests: 200, errors: 30, slow: 0 }, old: Tally::default() };
        assert!(Evidence::default().and(old).and(ill).verdict().is_some_and(|why| why.contains("more errors")));
        let slow = Window { new: Tally { requests: 200, errors: 0, slow: 190 }, old: Tally::default() };
        assert!(Evidence::default().and(old).and(slow).verdict().is_some_and(|why| why.contains("slow")));
    }
}
