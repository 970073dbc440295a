//! What a number of runs allows to say, by order statistics; no distribution is assumed.

/// Runs that 95 % confidence in a 95th percentile needs.
pub(super) const RUNS_FOR_P95: u32 = 59;

/// Unlikely enough: one in twenty.
const DOUBT: f64 = 0.05;

/// With 95 % confidence at least this share of all such events is not worse than the worst of `n`. **Unit**: percent,
/// rounded down.
pub(super) fn covered_percent(n: u32) -> u64 {
    percent(share(n).floor())
}

/// With 95 % confidence something that happened in none of `n` runs happens in fewer than this share. **Unit**:
/// percent, rounded up.
pub(super) fn at_most_percent(n: u32) -> u64 {
    percent((100.0 - share(n)).ceil())
}

/// The share s with s^n = 5 %. **Unit**: percent.
fn share(n: u32) -> f64 {
    if n == 0 { 0.0 } else { 100.0 * DOUBT.powf(1.0 / f64::from(n)) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100 by construction")]
fn percent(value: f64) -> u64 {
    value.clamp(0.0, 100.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_nine_runs_speak_of_a_95th_percentile_and_fewer_do_not() {
        assert_eq!(covered_percent(RUNS_FOR_P95), 95);
        assert_eq!(covered_percent(RUNS_FOR_P95 - 1), 94);
        assert_eq!(covered_percent(299), 99);
        assert_eq!([0, 1, 5].map(covered_percent), [0, 5, 54]);
    }

    #[test]
    fn none_of_n_is_not_never() {
        assert_eq!([1, 5, 59, 60, 299].map(at_most_percent), [95, 46, 5, 5, 1]);
    }
}
