//! Words and figures for people.

use mainstay_types::Timestamp;

/// What a report says for what was not measured.
pub(super) const NOT_MEASURED: &str = "not measured";

/// Text that is safe between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Control characters have no place in HTML; a marker shows that something was there.
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// 12,345.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 363 ms, 1.02 s, 12.4 s, 2 min 5 s.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        // Rounded: cut off, what was measured would look better than it was.
        1000..9995 => match (ms + 5) / 10 {
            hundredths if hundredths.is_multiple_of(100) => format!("{} s", hundredths / 100),
            hundredths => format!("{}.{:02} s", hundredths / 100, hundredths % 100),
        },
        9995..119_950 => match (ms + 50) / 100 {
            tenths if tenths.is_multiple_of(10) => format!("{} s", tenths / 10),
            tenths => format!("{}.{} s", tenths / 10, tenths % 10),
        },
        119_950..120_000 => duration(120_000),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// As [`duration`], for microseconds: 0.83 ms below ten.
pub(super) fn micros(us: u64) -> String {
    if us < 10_000 { format!("{}.{:02} ms", us / 1000, us % 1000 / 10) } else { duration(us / 1000) }
}

/// "1 run", "5 runs".
pub(super) fn count(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { many })
}

/// "once", "twice", "5 times".
pub(super) fn times(value: u64) -> String {
    match value {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{} times", number(value)),
    }
}

/// 2026-11-26 05:30 UTC.
pub(super) fn date(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => text,
    }
}

/// A name with its first letter large and its dashes gone: Database crash.
pub(super) fn title(name: &str) -> String {
    let spaced = name.replace(['-', '_'], " ");
    let mut letters = spaced.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_escaped_can_end_a_tag_or_an_attribute() {
        assert_eq!(escape("<script>\"&'\u{0}\u{1b}[1m"), "&lt;script&gt;&quot;&amp;&#39;\u{fffd}\u{fffd}[1m");
    }

    #[test]
    fn figures_are_written_as_people_say_them() {
        assert_eq!([number(0), number(999), number(1000), number(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        let spoken = [363, 1024, 5000, 9999, 12_450, 60_000, 125_000].map(duration);
        assert_eq!(spoken, ["363 ms", "1.02 s", "5 s", "10 s", "12.5 s", "60 s", "2 min 5 s"]);
        assert_eq!([micros(830), micros(12_345), micros(1_500_000)], ["0.83 ms", "12 ms", "1.50 s"]);
        assert_eq!(title("database-crash"), "Database crash");
        assert_eq!(date(Timestamp::from_millis(0)), "1970-01-01 00:00 UTC");
    }
}
