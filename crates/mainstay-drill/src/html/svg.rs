//! Pictures as inline SVG. All horizontal places are percentages and all text keeps its size, so that a picture is as
//! readable on a phone as on paper.

use std::fmt::Write;

use super::text::{count, duration, escape};
use crate::strip::{Slice, Strip};

/// Height of one half of a strip. **Unit**: pixels.
const HALF: u64 = 46;
/// Height of the histogram's bars. **Unit**: pixels.
const TALL: u64 = 110;
/// Bars of a histogram.
const BARS: u64 = 24;

/// A share of a whole as a percentage with two digits: integers, so that the same report is the same file.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// A bar from one moment to another on an axis that is `whole` long.
pub(super) fn bar(from: u64, to: u64, whole: u64, class: &str) -> String {
    let length = to.saturating_sub(from).max(whole / 250);
    format!(
        "<svg height=\"12\" aria-hidden=\"true\"><rect class=\"track\" width=\"100%\" height=\"12\"/>\
         <rect class=\"{class}\" x=\"{}\" width=\"{}\" height=\"12\"/></svg>",
        percent(from, whole),
        percent(length, whole)
    )
}

/// What one kind of clients saw over time: successes upward, failures and unknown ends downward.
pub(super) fn strip(strip: &Strip, kind: &str, slices: &[Slice], back_ms: Option<u64>) -> String {
    let length = strip.slice_ms * slices.len() as u64;
    let tallest = slices.iter().map(|slice| slice.ok).max().unwrap_or(0).max(1);
    let deepest = slices.iter().map(|slice| slice.failed + slice.unknown).max().unwrap_or(0);
    let (ok, bad) = slices.iter().fold((0, 0), |(ok, bad), slice| (ok + slice.ok, bad + slice.failed + slice.unknown));
    let label = format!(
        "{kind} over time: {ok} succeeded, {bad} did not; the fault came {} after the load began",
        duration(strip.before_ms)
    );
    // Where nothing failed there is nothing below the axis.
    let tall = if deepest == 0 { HALF } else { 2 * HALF };
    let mut text = format!("<svg height=\"{}\" role=\"img\" aria-label=\"{}\">", tall + 40, escape(&label));
    if let Some(back) = back_ms {
        let (x, width) = (percent(strip.before_ms, length), percent(back, length));
        write!(text, "<rect class=\"gap\" x=\"{x}\" y=\"18\" width=\"{width}\" height=\"{tall}\"/>").ok();
    }
    let axis = 18 + HALF;
    for (index, slice) in slices.iter().enumerate() {
        let (x, width) = (percent(index as u64 * strip.slice_ms, length), percent(strip.slice_ms * 9 / 10, length));
        let mut rect = |class: &str, y: u64, height: u64| {
            if height > 0 {
                write!(text, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>")
                    .ok();
            }
        };
        // One is seen, however many the others are.
        let ok = (slice.ok * HALF).div_ceil(tallest);
        rect("ok", axis - ok, ok);
        let scale = deepest.max(4);
        let failed = (slice.failed * HALF).div_ceil(scale);
        rect("failed", axis, failed);
        rect("unknown", axis + failed, (slice.unknown * HALF).div_ceil(scale).min(HALF.saturating_sub(failed)));
    }
    write!(text, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{axis}\" y2=\"{axis}\"/>").ok();
    rule(&mut text, strip.before_ms, length, "fault", tall + 18);
    ticks(&mut text, strip.before_ms, length, tall + 34);
    text + "</svg>"
}

fn rule(text: &mut String, at: u64, length: u64, name: &str, bottom: u64) {
    let x = percent(at, length);
    // Near an end the word would leave the picture.
    let anchor = if at * 10 < length {
        "start"
    } else if at * 10 > length * 9 {
        "end"
    } else {
        "middle"
    };
    write!(
        text,
        "<line class=\"rule\" x1=\"{x}\" x2=\"{x}\" y1=\"16\" y2=\"{bottom}\"/>\
         <text x=\"{x}\" y=\"12\" text-anchor=\"{anchor}\">{}</text>",
        escape(name)
    )
    .ok();
}

/// Times after the fault, at round places.
fn ticks(text: &mut String, fault: u64, length: u64, y: u64) {
    let after = length.saturating_sub(fault);
    let step = [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000].into_iter().find(|step| after / step <= 5);
    let step = step.unwrap_or(after.max(1));
    let mut at = 0;
    while at <= after {
        let anchor = if (fault + at) * 20 > length * 19 { "end" } else { "middle" };
        let name = if at == 0 { "0".to_owned() } else { short(at) };
        let x = percent(fault + at, length);
        write!(text, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{name}</text>").ok();
        at += step;
    }
}

fn short(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else if ms.is_multiple_of(1000) {
        format!("{} s", ms / 1000)
    } else {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    }
}

/// How often each duration was measured. **Unit** of `values`: milliseconds.
pub(super) fn histogram(values: &[u64], what: &str) -> String {
    let most = values.iter().copied().max().unwrap_or(0);
    let width = round_up(most / BARS + 1);
    let bars = most / width + 1;
    let mut counts = vec![0_u64; usize::try_from(bars).unwrap_or(1)];
    for value in values {
        if let Some(count) = usize::try_from(value / width).ok().and_then(|index| counts.get_mut(index)) {
            *count += 1;
        }
    }
    let tallest = counts.iter().copied().max().unwrap_or(0).max(1);
    let label = format!("{what}: {}, the longest {}", count(values.len() as u64, "run", "runs"), duration(most));
    let mut text = format!("<svg height=\"{}\" role=\"img\" aria-label=\"{}\">", TALL + 36, escape(&label));
    for (index, many) in counts.iter().enumerate().filter(|(_, many)| **many > 0) {
        let height = (many * TALL).div_ceil(tallest);
        let (x, wide) = (percent(index as u64, bars), percent(9, bars * 10));
        let middle = percent(index as u64 * 2 + 1, bars * 2);
        let y = 16 + TALL - height;
        write!(
            text,
            "<rect class=\"bar\" x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{height}\"/>\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{many}</text>",
            y - 4
        )
        .ok();
    }
    let axis = 16 + TALL;
    write!(text, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{axis}\" y2=\"{axis}\"/>").ok();
    let end = width * bars;
    for (at, anchor) in [(0, "start"), (end / 2, "middle"), (end, "end")] {
        let x = percent(at, end);
        write!(text, "<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>", axis + 16, duration(at)).ok();
    }
    text + "</svg>"
}

fn round_up(width: u64) -> u64 {
    let mut unit = 1;
    loop {
        if let Some(found) = [1, 2, 5].into_iter().map(|factor| factor * unit).find(|found| *found >= width) {
            return found;
        }
        unit *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bar() {
        for values in [vec![0], vec![5, 5, 5], (0..1000).collect::<Vec<u64>>(), vec![1, 119_999]] {
            let picture = histogram(&values, "RTO");
            let counted: u64 = picture
                .split("text-anchor=\"middle\">")
                .filter_map(|rest| rest.split('<').next())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum();
            assert_eq!(counted, values.len() as u64, "{values:?}");
        }
    }

    #[test]
    fn places_are_percentages() {
        assert_eq!(
            [percent(0, 7), percent(1, 3), percent(7, 7), percent(1, 0)],
            ["0.00%", "33.33%", "100.00%", "100.00%"]
        );
    }
}
