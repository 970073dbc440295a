//! What the exit status of a `mainstay` command means. Documented, stable.

/// The command did what was asked.
pub const DONE: u8 = 0;
/// The command ran and what was asked did not happen.
pub const FAILED: u8 = 1;
/// Wrong use, or a stack file that breaks a rule.
pub const USER: u8 = 2;
/// The machine lacks something: a program, a port, disk, a right.
pub const ENVIRONMENT: u8 = 3;
/// Refused for safety, or another mainstay holds the lock.
pub const REFUSED: u8 = 4;
/// A bug in mainstay.
pub const BUG: u8 = 70;
/// Of the control plane alone: it begins anew with another release, and keep starts the next one.
pub const AGAIN: u8 = 75;
/// A drill ran and a promise was broken.
pub const DRILL_FAIL: u8 = 10;
/// A drill whose fault or load could not be proven: it says nothing.
pub const DRILL_VOID: u8 = 11;
/// A drill that met its stop condition.
pub const DRILL_ABORTED: u8 = 12;
