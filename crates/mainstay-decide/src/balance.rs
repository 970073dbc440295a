//! Which instance a request goes to, which one is left out for what it answers, and when a service is left alone.
//!
//! Chance comes as a number from the caller, time as milliseconds since a moment of the caller's choosing.

use std::time::Duration;

use mainstay_stack::balance::{Breaker as BreakerRules, Eject};

/// Whole warmth: an instance that gets its whole share.
pub const WARM: u32 = 1000;
/// Least warmth, so that a cold instance gets some requests to warm up with.
const COLD: u32 = 100;
/// How far back shares of errors are counted. **Unit**: seconds.
pub const WINDOW_SECONDS: usize = 10;
/// Most retries saved up: one crash may break as many requests as are under way at once. **Unit**: thousandths.
const MOST_SAVED_MILLI: u64 = 1_000_000;
/// Retries available to a route that is new or idle. **Unit**: thousandths.
const SAVED_AT_START_MILLI: u64 = 100_000;

/// An instance that takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Hash of its name, the same for its next process.
    pub name: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Its share, in thousandths of a whole one; [`warmth`].
    pub warmth: u32,
    /// Whether the request has been there.
    pub is_tried: bool,
}

/// A way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In turn.
    Turn,
    /// Of two taken by chance, the one with fewer requests under way for its warmth.
    Least,
    /// By the hash of the client: each instance keeps its clients when others come or go.
    Hash(u64),
}

/// A hash of a name or client.
pub fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a, then mixed: its low bits alone are poor.
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Spreads a number over all 64 bits. **Source**: Steele, Lea, Flood 2014 (SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn below(number: u64, bound: usize) -> usize {
    usize::try_from(number % (bound.max(1) as u64)).unwrap_or(0)
}

/// The share of an instance that became ready so long ago, in thousandths.
pub fn warmth(since: Duration, slow_start: Duration) -> u32 {
    if since >= slow_start {
        return WARM;
    }
    let share = since.as_millis() * u128::from(WARM) / slow_start.as_millis().max(1);
    u32::try_from(share).unwrap_or(WARM).clamp(COLD, WARM)
}

/// The index of the instance for a request, one it has not been at if there is one. `turn` is the number of the
/// request; chance is made of it.
pub fn choose(candidates: &[Candidate], way: Way, turn: u64) -> Option<usize> {
    let has_untried = candidates.iter().any(|candidate| !candidate.is_tried);
    let eligible: Vec<usize> =
        (0..candidates.len()).filter(|index| !has_untried || !candidates[*index].is_tried).collect();
    match (eligible.as_slice(), way) {
        ([], _) => None,
        ([only], _) => Some(*only),
        (many, Way::Turn) => Some(in_turn(candidates, many, turn)),
        (many, Way::Least) => {
            let chance = mix(turn);
            let first = below(chance, many.len());
            let second = (first + 1 + below(mix(chance), many.len() - 1)) % many.len();
            let load = |index: usize| {
                let Candidate { in_flight, warmth, .. } = candidates[many[index]];
                (in_flight + 1) * u64::from(WARM) / u64::from(warmth.max(1))
            };
            Some(many[if load(second) < load(first) { second } else { first }])
        }
        // Rendezvous hashing: Thaler and Ravishankar 1998.
        (many, Way::Hash(client)) => {
            many.iter().copied().max_by_key(|index| mix(client ^ mix(candidates[*index].name)))
        }
    }
}

/// In turn; an instance that is not warm passes some of its turns on, to any of the others.
fn in_turn(candidates: &[Candidate], eligible: &[usize], turn: u64) -> usize {
    let count = eligible.len();
    let mut at = below(turn, count);
    let mut chance = turn;
    for _ in 0..count {
        chance = mix(chance);
        if chance % u64::from(WARM) < u64::from(candidates[eligible[at]].warmth) {
            return eligible[at];
        }
        at = (at + 1 + below(chance >> 16, count - 1)) % count;
    }
    eligible[at]
}

/// What an instance answered in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Requests finished.
    pub requests: u64,
    /// Of these 5xx or none.
    pub errors: u64,
    /// Whether it is out already.
    pub is_out: bool,
}

impl Answers {
    fn errors_milli(self) -> u64 {
        self.errors * 1000 / self.requests.max(1)
    }
}

/// Whether one more of so many instances may be left out for its answers. Never the last one.
pub fn may_eject(out: usize, all: usize, rules: &Eject) -> bool {
    (out + 1) * 100 <= all * rules.most_percent as usize && out + 1 < all
}

/// The instances to be left out for their share of errors, the worst first: half of the others must do well, else it is
/// the service that fails and not the instance.
pub fn outliers(all: &[Answers], rules: &Eject) -> Vec<usize> {
    let limit = u64::from(rules.errors_percent) * 10;
    let is_bad = |one: &Answers| {
        !one.is_out && one.requests >= u64::from(rules.requests).max(1) && one.errors_milli() >= limit.max(1)
    };
    let mut bad: Vec<usize> = (0..all.len())
        .filter(|index| {
            let others =
                all.iter().enumerate().filter(|(other, one)| other != index && !one.is_out && one.requests > 0);
            let mut shares: Vec<u64> = others.map(|(_, one)| one.errors_milli()).collect();
            shares.sort_unstable();
            // The lower one of the two in the middle: of three, two may be bad.
            let middle = shares.len().checked_sub(1).and_then(|last| shares.get(last / 2));
            is_bad(&all[*index]) && middle.is_some_and(|share| share * 2 < limit)
        })
        .collect();
    bad.sort_by_key(|index| std::cmp::Reverse(all[*index].errors_milli()));
    let mut out = all.iter().filter(|one| one.is_out).count();
    bad.retain(|_| {
        let may = may_eject(out, all.len(), rules);
        out += usize::from(may);
        may
    });
    bad
}

/// Retries that a route has saved up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    saved_milli: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved_milli: SAVED_AT_START_MILLI }
    }
}

impl Budget {
    /// One more request: it saves up for a share of a retry.
    pub fn deposit(&mut self, percent: u32) {
        self.saved_milli = (self.saved_milli + u64::from(percent) * 10).min(MOST_SAVED_MILLI);
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&mut self) -> bool {
        let left = self.saved_milli.checked_sub(1000);
        self.saved_milli = left.unwrap_or(self.saved_milli);
        left.is_some()
    }
}

/// What became of a request, for the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, and not with 5xx.
    Good,
    /// 5xx, or no answer.
    Bad,
    /// It says nothing of the service: the client left, or no instance was there.
    Unknown,
}

/// What the breaker says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It goes on alone, and its outcome decides.
    Try,
    /// It does not.
    Refuse {
        /// Time until one may try.
        retry_in: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until_ms: u64 },
    Trying { since_ms: u64 },
}

/// Second, good, bad.
type Bucket = (u64, u32, u32);

/// The circuit breaker of a service.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    window: [Bucket; WINDOW_SECONDS],
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, window: [(0, 0, 0); WINDOW_SECONDS] }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Breaker {
    /// Whether requests are kept away.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Decides about a request.
    pub fn ask(&mut self, rules: &BreakerRules, now_ms: u64) -> Verdict {
        let free_at = match self.state {
            State::Closed => return Verdict::Pass,
            State::Open { until_ms } => until_ms,
            // One that never came back is no reason to wait for ever.
            State::Trying { since_ms } => since_ms.saturating_add(ms(rules.open).max(1000)),
        };
        if now_ms < free_at {
            return Verdict::Refuse { retry_in: Duration::from_millis(free_at - now_ms) };
        }
        self.state = State::Trying { since_ms: now_ms };
        Verdict::Try
    }

    /// Learns what became of a request; `is_try`: the verdict about it was [`Verdict::Try`].
    pub fn record(&mut self, rules: &BreakerRules, now_ms: u64, is_try: bool, outcome: Outcome) {
        match (self.state, is_try, outcome) {
            (State::Trying { .. }, true, Outcome::Good) => *self = Self::default(),
            (State::Trying { .. }, true, Outcome::Bad) => self.open(rules, now_ms),
            (State::Trying { .. }, true, Outcome::Unknown) => self.state = State::Open { until_ms: now_ms },
            (State::Closed, _, Outcome::Good | Outcome::Bad) => self.count(rules, now_ms, outcome == Outcome::Bad),
            (State::Closed | State::Open { .. } | State::Trying { .. }, _, _) => {}
        }
    }

    fn open(&mut self, rules: &BreakerRules, now_ms: u64) {
        *self = Self { state: State::Open { until_ms: now_ms.saturating_add(ms(rules.open)) }, ..Self::default() };
    }

    fn count(&mut self, rules: &BreakerRules, now_ms: u64, is_bad: bool) {
        let second = now_ms / 1000 + 1;
        let bucket = &mut self.window[below(second, WINDOW_SECONDS)];
        if bucket.0 != second {
            *bucket = (second, 0, 0);
        }
        if is_bad {
            bucket.2 += 1
        } else {
            bucket.1 += 1
        }
        let first = (second + 1).saturating_sub(WINDOW_SECONDS as u64).max(1);
        let recent = self.window.iter().filter(|(at, _, _)| *at >= first);
        let (good, bad) =
            recent.fold((0_u64, 0_u64), |sum, (_, good, bad)| (sum.0 + u64::from(*good), sum.1 + u64::from(*bad)));
        let all = good + bad;
        if all >= u64::from(rules.requests) && bad * 100 >= all * u64::from(rules.errors_percent) {
            self.open(rules, now_ms);
        }
    }
}

#[cfg(test)]
mod tests;
