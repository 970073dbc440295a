//! The one clock of the control plane; decisions get its value as an argument.
//!
//! Wall-clock time as of the first call, moved on by the monotonic clock: a clock that is set back or forth while
//! we run changes no order of what we saw.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mainstay_types::Timestamp;

static ANCHOR: OnceLock<(Instant, u128)> = OnceLock::new();

/// Now. A clock before 1970 reads as 1970.
pub(crate) fn now() -> Timestamp {
    let (began, wall) = ANCHOR.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros());
        (Instant::now(), wall)
    });
    let micros = wall.saturating_add(began.elapsed().as_micros());
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
