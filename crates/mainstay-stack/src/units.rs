//! Durations, sizes, shares and CPU amounts as people write them. Whole numbers only, so that nothing is rounded.

use std::time::Duration;

use mainstay_types::{Bytes, Percent};

/// Units of duration in milliseconds, largest first.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size in bytes. `Mi` is Kubernetes' spelling of `MiB`.
const SIZES: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("kB", 1000),
    ("B", 1),
];

/// Why an amount could not be read. The text names the rule; the caller names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits at the front.
    #[error("it does not begin with a number")]
    NoNumber,
    /// A number and nothing after it.
    #[error("the unit is missing")]
    NoUnit,
    /// A unit that this kind of amount does not have.
    #[error("`{0}` is not a unit here")]
    UnknownUnit(String),
    /// Below zero.
    #[error("it is negative")]
    Negative,
    /// Not a whole number.
    #[error("it is not a whole number")]
    Fraction,
    /// Larger than can be counted.
    #[error("it is too large")]
    Overflow,
}

/// Number and unit of an amount; blanks between the two are welcome.
fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(UnitError::Negative);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if unit.starts_with(['.', ',']) {
        return Err(UnitError::Fraction);
    }
    Ok((number.parse().map_err(|_| UnitError::Overflow)?, unit.trim_start()))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let Some((_, size)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(UnitError::UnknownUnit(crate::diagnostic::quote(unit)));
    };
    number.checked_mul(*size).ok_or(UnitError::Overflow)
}

/// `150ms`, `30s`, `5m`, `1h`, `7d`.
///
/// **Errors**: no number, no unit, another unit, negative, fractional, too large.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// `256Mi`, `256MiB`, `10MB`, `512B`.
///
/// **Errors**: as for [`duration`].
pub fn size(text: &str) -> Result<Bytes, UnitError> {
    scaled(text, &SIZES).map(Bytes)
}

/// `500m` (thousandths of a core) or `2` (cores). **Unit** of the answer: thousandths of a core.
///
/// **Errors**: as for [`duration`], save that a missing unit means cores.
pub fn cpu_milli(text: &str) -> Result<u32, UnitError> {
    let (number, unit) = split(text)?;
    let milli = match unit {
        "m" => Some(number),
        "" => number.checked_mul(1000),
        other => return Err(UnitError::UnknownUnit(crate::diagnostic::quote(other))),
    };
    milli.and_then(|milli| u32::try_from(milli).ok()).ok_or(UnitError::Overflow)
}

/// `99.95%`, up to three digits after the point, at most 100 %.
///
/// **Errors**: no number, no `%`, more than three decimals, above 100 %.
pub fn share(text: &str) -> Result<Percent, UnitError> {
    let text = text.trim();
    let number = text.strip_suffix('%').ok_or(UnitError::NoUnit)?.trim_end();
    if number.starts_with('-') {
        return Err(UnitError::Negative);
    }
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(decimals) {
        return Err(UnitError::NoNumber);
    }
    if decimals.len() > 3 {
        return Err(UnitError::Fraction);
    }
    let whole: u32 = whole.parse().map_err(|_| UnitError::Overflow)?;
    let milli: u32 = format!("{decimals:0<3}").parse().map_err(|_| UnitError::Overflow)?;
    match whole.checked_mul(1000).and_then(|whole| whole.checked_add(milli)) {
        Some(share) if share <= 100_000 => Ok(Percent::from_milli(share)),
        _ => Err(UnitError::Overflow),
    }
}

/// A duration as the stack file writes it, in the largest unit that needs no fraction.
pub fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    for (unit, size) in DURATIONS {
        if millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// A size as the stack file writes it, in the largest unit that needs no fraction.
pub fn show_size(value: Bytes) -> String {
    for (unit, size) in &SIZES[..4] {
        if value.0 > 0 && value.0.is_multiple_of(*size) {
            return format!("{}{unit}", value.0 / size);
        }
    }
    format!("{}B", value.0)
}

/// A CPU amount as the stack file writes it.
pub fn show_cpu(milli: u32) -> String {
    if milli.is_multiple_of(1000) { format!("{}", milli / 1000) } else { format!("{milli}m") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_take_their_units() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1 h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
    }

    #[test]
    fn each_way_to_get_an_amount_wrong_has_its_own_reason() {
        assert_eq!(duration("30"), Err(UnitError::NoUnit));
        assert_eq!(duration("-3s"), Err(UnitError::Negative));
        assert_eq!(duration("1.5s"), Err(UnitError::Fraction));
        assert_eq!(duration("s"), Err(UnitError::NoNumber));
        assert_eq!(duration("3 weeks"), Err(UnitError::UnknownUnit("weeks".to_owned())));
        assert_eq!(duration("99999999999999999999s"), Err(UnitError::Overflow));
        assert_eq!(duration("18446744073709551615d"), Err(UnitError::Overflow));
    }

    #[test]
    fn sizes_tell_1024_from_1000() {
        assert_eq!(size("256Mi"), Ok(Bytes::mebi(256)));
        assert_eq!(size("256MiB"), Ok(Bytes::mebi(256)));
        assert_eq!(size("10MB"), Ok(Bytes(10_000_000)));
        assert_eq!(size("10M"), Err(UnitError::UnknownUnit("M".to_owned())));
    }

    #[test]
    fn processors_are_cores_or_thousandths() {
        assert_eq!(cpu_milli("500m"), Ok(500));
        assert_eq!(cpu_milli("2"), Ok(2000));
        assert_eq!(cpu_milli("2 cores"), Err(UnitError::UnknownUnit("cores".to_owned())));
        assert_eq!(cpu_milli("4294968"), Err(UnitError::Overflow));
    }

    #[test]
    fn shares_keep_three_decimals_and_end_at_a_hundred() {
        assert_eq!(share("99.95%"), Ok(Percent::from_milli(99_950)));
        assert_eq!(share("5 %"), Ok(Percent::from_milli(5000)));
        assert_eq!(share("100.001%"), Err(UnitError::Overflow));
        assert_eq!(share("99.9999%"), Err(UnitError::Fraction));
        assert_eq!(share("99"), Err(UnitError::NoUnit));
        assert_eq!(share(".5%"), Err(UnitError::NoNumber));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(millis in 0_u64..1 << 50, bytes in any::<u64>(), milli in any::<u32>()) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
            prop_assert_eq!(size(&show_size(Bytes(bytes))), Ok(Bytes(bytes)));
            prop_assert_eq!(cpu_milli(&show_cpu(milli)), Ok(milli));
        }

        #[test]
        fn no_text_brings_a_reader_down(text in ".{0,24}") {
            let _ = (duration(&text), size(&text), cpu_milli(&text), share(&text));
        }
    }
}
