//! When a busy machine, not a hang, explains silence. Whoever looks and whoever measures go by the same figures.

/// Share of the last ten seconds in which some task waited for CPU or disk, above which silence has an explanation.
/// **Unit**: hundredths of a percent (PSI avg10). 60 %: at less, a local query of 250 ms gets through.
pub const EXPLAINS_SILENCE: u32 = 6000;

/// Pressure explains silence, so more of it is needed to mean a hang; yet on a machine that is always busy a frozen
/// server must be noticed too. Where another member answers all the while it is given none of this. At the default of 3 s this is 15 s: half of what the router holds sessions.
pub const PATIENCE: u32 = 5;
