//! How often one client may ask: GCRA, exact, for many clients in bounded memory.
//!
//! A client's whole state is one number, the moment at which all that it asked for so far is *due* if it had asked
//! evenly. It may be ahead of now by the burst and no more. **Source**: ITU-T I.371, generic cell rate algorithm.
//!
//! Times are nanoseconds since a moment of the caller's choosing.

use std::time::Duration;

/// Places of one set of a [`Table`]. Sixteen of 16 bytes are four cache lines; with half of all places taken, one set
/// in some hundred is full.
const WAYS: usize = 16;

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two requests that come evenly. **Unit**: nanoseconds.
    interval: u64,
    /// How far ahead of now what is due may be. **Unit**: nanoseconds.
    tolerance: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Admitted {
        /// Requests that would be admitted after it at this moment.
        left: u32,
        /// Time until as many are as ever may be.
        full_in: Duration,
    },
    /// It is one too many.
    Refused {
        /// Time until one is admitted again.
        retry_in: Duration,
    },
}

impl Rate {
    /// `requests` in each `period`, `burst` of them at once. `None` when one of the three is zero, or when there is
    /// less than a nanosecond between two.
    pub fn new(requests: u32, period: Duration, burst: u32) -> Option<Self> {
        let period = u64::try_from(period.as_nanos()).ok()?;
        if requests == 0 || burst == 0 || period < u64::from(requests) {
            return None;
        }
        // Upwards: never more than was promised.
        let interval = period.div_ceil(u64::from(requests));
        Some(Self { interval, tolerance: interval.checked_mul(u64::from(burst - 1))? })
    }

    /// Decides about a request now, of a client whose requests so far are due at `due`; the answer has what is due
    /// after it.
    fn decide(self, due: u64, now: u64) -> (Outcome, u64) {
        let ahead = due.saturating_sub(now);
        if ahead > self.tolerance {
            return (Outcome::Refused { retry_in: Duration::from_nanos(ahead - self.tolerance) }, due);
        }
        let after = ahead + self.interval;
        let left = match self.tolerance.checked_sub(after) {
            Some(room) => room / self.interval + 1,
            None => 0,
        };
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        (Outcome::Admitted { left, full_in: Duration::from_nanos(after) }, now.saturating_add(after))
    }
}

/// The clients of one rate, as many as there are places; each is known by a hash that it cannot choose.
///
/// When all places of a set are taken by clients that still have something due, a new one takes over the place of the
/// one with the least due **and what it has due**. So nobody ever gets more than the rate, however many names a client
/// makes up: what was forgotten of it is less than what it takes over when it comes back. The price is paid by new
/// clients of a full table, which may be refused too early.
#[derive(Debug)]
pub struct Table {
    /// Hash and due; a due of 0 is an empty place.
    places: Vec<[u64; 2]>,
    crowded: u64,
}

impl Table {
    /// A table of at least this many places.
    pub fn new(places: usize) -> Self {
        let sets = places.div_ceil(WAYS).next_power_of_two();
        // Arrays of zeroes come untouched from the system: memory is used as clients come.
        Self { places: vec![[0, 0]; sets * WAYS], crowded: 0 }
    }

    /// Decides about a request of this client at `now`.
    pub fn ask(&mut self, rate: Rate, client: u64, now: u64) -> Outcome {
        let sets = self.places.len() / WAYS;
        let set = usize::try_from(client % sets as u64).unwrap_or(0) * WAYS;
        let places = &mut self.places[set..set + WAYS];
        let mut least = 0;
        let mut own = None;
        for (index, [hash, due]) in places.iter().enumerate() {
            if *hash == client && *due > 0 {
                own = Some(index);
                break;
            }
            if *due < places[least][1] {
                least = index;
            }
        }
        let place = &mut places[own.unwrap_or(least)];
        if own.is_none() && place[1] > now {
            self.crowded += 1;
        }
        let (outcome, due) = rate.decide(place[1], now);
        // Who is refused takes no place: the one who has it keeps it.
        if matches!(outcome, Outcome::Admitted { .. }) {
            *place = [client, due];
        }
        outcome
    }

    /// Requests of clients that took over what another had due, because the table was full.
    pub fn crowded(&self) -> u64 {
        self.crowded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, seconds: u64, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(seconds), burst).expect("a rate")
    }

    fn admitted(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Admitted { .. })
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_each_interval() {
        let (rate, mut table) = (rate(5, 60, 5), Table::new(16));
        for left in (0..5).rev() {
            let full_in = Duration::from_secs(12 * (5 - u64::from(left)));
            assert_eq!(table.ask(rate, 7, SECOND), Outcome::Admitted { left, full_in });
        }
        assert_eq!(table.ask(rate, 7, SECOND), Outcome::Refused { retry_in: Duration::from_secs(12) });
        assert_eq!(table.ask(rate, 7, 12 * SECOND), Outcome::Refused { retry_in: Duration::from_secs(1) });
        assert!(admitted(table.ask(rate, 7, 13 * SECOND)));
        assert!(!admitted(table.ask(rate, 7, 13 * SECOND)));
        assert!(admitted(table.ask(rate, 8, 13 * SECOND)), "another client has a rate of its own");
    }

    #[test]
    fn nothing_is_no_rate() {
        assert_eq!(Rate::new(0, Duration::from_secs(1), 1), None);
        assert_eq!(Rate::new(1, Duration::from_secs(1), 0), None);
        assert_eq!(Rate::new(1, Duration::ZERO, 1), None);
    }

    #[test]
    fn a_client_that_makes_up_names_gets_no_more_for_it() {
        let (rate, mut table) = (rate(10, 1000, 10), Table::new(16));
        while admitted(table.ask(rate, 1, 0)) {}
        // Ten thousand other names in the same few places, then the first one again.
        let other = (2..10_000).filter(|name| admitted(table.ask(rate, *name, 0))).count();
        assert!(other <= 15 * 10, "sixteen places admit no more than sixteen clients, and {other} came through");
        assert!(!admitted(table.ask(rate, 1, 0)));
        assert!(table.crowded() > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn over_any_long_time_the_rate_is_kept_within_a_hundredth(
            requests in 1_u32..5000,
            period in prop_oneof![Just(1_u64), Just(60), Just(3600)],
            burst in 1_u32..5000,
            seed in any::<u64>(),
        ) {
            // Somebody who asks without end, at uneven times and far too often: burst plus rate, and nothing lost.
            let (rate, mut table) = (rate(requests, period, burst), Table::new(16));
            let interval = period * SECOND / u64::from(requests);
            let (mut now, mut random, mut count) = (0_u64, seed | 1, 0_u64);
            let periods = 3 + 20_000 / u64::from(requests).max(1);
            let end = (periods.min(2000) * period * SECOND).min(40_000 * interval);
            while now < end {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                now += random % (interval / 4).max(1);
                if now < end {
                    count += u64::from(admitted(table.ask(rate, 9, now)));
                }
            }
            let ideal = u64::from(burst) + end / interval;
            let slack = 1 + ideal / 100;
            // One that asks at least four times an interval loses nothing once its burst is used up. With a burst of one
            // nothing is saved up either: each request is late by what it comes after its time.
            let used_up = burst > 1 && u128::from(burst) * u128::from(interval) < u128::from(end) * 3;
            prop_assert!(count <= ideal + slack, "{count} admitted, {ideal} promised");
            if used_up {
                prop_assert!(count + slack >= ideal, "{count} admitted, {ideal} promised");
            }
        }

        #[test]
        fn no_window_has_more_than_burst_and_rate(
            requests in 1_u32..100,
            burst in 1_u32..50,
            gaps in prop::collection::vec(0_u64..SECOND / 5, 1..300),
        ) {
            let (rate, mut table) = (rate(requests, 1, burst), Table::new(16));
            let mut now = SECOND;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if admitted(table.ask(rate, 3, now)) {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, until) in passed.iter().enumerate().skip(first) {
                    let most = u64::from(burst) + (until - from) * u64::from(requests) / SECOND;
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }

        #[test]
        fn a_full_table_never_admits_more_than_each_client_may(
            asks in prop::collection::vec((0_u64..60, 0_u64..SECOND / 50), 1..1500),
        ) {
            // Sixty clients in sixteen places, beside a table in which each has a place of its own.
            let rate = rate(10, 1, 4);
            let (mut small, mut now) = (Table::new(16), SECOND);
            let mut due = std::collections::BTreeMap::<u64, u64>::new();
            for (client, gap) in asks {
                now += gap;
                let is_admitted = admitted(small.ask(rate, client, now));
                let own = due.entry(client).or_default();
                if is_admitted {
                    let (outcome, after) = rate.decide(*own, now);
                    prop_assert!(admitted(outcome), "client {client} had used up what it may");
                    *own = after;
                }
            }
        }
    }
}
