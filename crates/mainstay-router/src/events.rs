//! What the router says of itself: one JSON object a line on standard error, which the control plane follows.
//!
//! Never a role's password, never the text of a statement.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// A state change worth a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    RouterStarted { generation: Option<u64>, epoch: Option<u64> },
    PolicyAccepted { generation: u64, roles: usize, max_clients: u32 },
    TargetsPointed { epoch: u64, write: Option<String>, read: Vec<String>, took_us: u64 },
    FrameRejected { reason: String },
    FailoverEnded { epoch: u64, carried: u64, ended: u64, aborted: u64, in_flight: u64, longest_hold_ms: u64 },
    ClientTurnedAway { sqlstate: &'static str, reason: String },
    RouterStopped { cut_off: u64 },
}

impl Event {
    fn level(&self) -> &'static str {
        match self {
            Self::FrameRejected { .. } | Self::ClientTurnedAway { .. } => "warn",
            Self::RouterStopped { cut_off } if *cut_off > 0 => "warn",
            Self::RouterStarted { .. }
            | Self::PolicyAccepted { .. }
            | Self::TargetsPointed { .. }
            | Self::FailoverEnded { .. }
            | Self::RouterStopped { .. } => "info",
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time_us: u64,
    level: &'static str,
    part: &'static str,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes the line, unless one of this kind was written in this second: for what a stranger can make happen.
pub(crate) fn emit_seldom(event: &Event, last_second: &AtomicU64) {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if last_second.swap(second, Ordering::Relaxed) != second {
        emit(event);
    }
}

/// Writes the line. A full disk must not stop traffic: what cannot be written is dropped.
pub(crate) fn emit(event: &Event) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    if let Ok(mut line) = serde_json::to_vec(&Line { time_us, level: event.level(), part: "router", event }) {
        line.push(b'\n');
        std::io::stderr().lock().write_all(&line).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let event = Event::RouterStopped { cut_off: 1 };
        let line = Line { time_us: 1, level: event.level(), part: "router", event: &event };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(text, r#"{"time_us":1,"level":"warn","part":"router","event":"router-stopped","cut_off":1}"#);
    }
}
