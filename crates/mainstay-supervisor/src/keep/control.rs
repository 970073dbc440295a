//! The control plane as keep's first child, and restarting it.

use std::time::{Duration, Instant};

use mainstay_types::{ChildName, ChildRole};
use rustix::process::Signal;

use super::{Error, Keep, emit};
use crate::protocol::{Limits, SpawnSpec};

/// At most one start in this time.
const SHORTEST_DELAY: Duration = Duration::from_millis(200);
/// Delay after many ends in a row, each within [`STEADY`].
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Who runs this long did not end because of how it was started.
const STEADY: Duration = Duration::from_secs(2);
const CONTROL: &str = "control";

/// A child that keep starts again by itself.
pub(super) struct Restart {
    spec: SpawnSpec,
    last_start: Instant,
    delay: Duration,
    /// When to start it; `None` while it runs.
    pub(super) due: Option<Instant>,
}

impl Restart {
    /// After an end at `now`: when to start again.
    fn schedule(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_start) >= STEADY {
            self.delay = SHORTEST_DELAY;
        }
        self.due = Some((self.last_start + self.delay).max(now));
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }
}

impl Keep {
    /// Starts the control plane, unless one that an earlier keep started still runs.
    pub(super) fn start_control(&mut self) -> Result<(), Error> {
        let failed = |reason: String| Error::Control { reason };
        let Some(control) = self.options.control.clone() else { return Ok(()) };
        let spec = SpawnSpec {
            name: ChildName::new(CONTROL).map_err(|error| failed(error.to_string()))?,
            role: ChildRole::Control,
            nonce: crate::ids::nonce().map_err(|error| failed(error.to_string()))?,
            argv: control.argv,
            env: control.env,
            dir: control.dir,
            user: None,
            log: control.log,
            listeners: Vec::new(),
            limits: Limits::default(),
            restart: true,
            project: None,
            shown: Vec::new(),
        };
        if self.is_control_running() {
            self.will_restart(spec);
            return Ok(());
        }
        self.spawn(spec).map(drop).map_err(|refused| failed(refused.reason))
    }

    /// Remembers how to start a child again.
    pub(super) fn will_restart(&mut self, spec: SpawnSpec) {
        let delay = self.restarts.get(&spec.name).map_or(SHORTEST_DELAY, |known| known.delay);
        let restart = Restart { last_start: Instant::now(), delay, due: None, spec };
        self.restarts.insert(restart.spec.name.clone(), restart);
    }

    /// After an end of `name`: starts it again soon, or, when the control plane ended orderly, leaves.
    pub(super) fn consider_restart(&mut self, name: &ChildName, is_success: bool) {
        let Some(restart) = self.restarts.get_mut(name) else { return };
        if is_success || self.leave_at.is_some() {
            // An orderly end of the control plane is the end of keep; the children go on.
            self.is_done |= restart.spec.role == ChildRole::Control;
            self.restarts.remove(name);
        } else {
            restart.schedule(Instant::now());
        }
    }

    pub(super) fn restart_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |restart: &&mut Restart| restart.due.is_some_and(|due| due <= now);
        let mut specs = Vec::new();
        for restart in self.restarts.values_mut().filter(is_due) {
            restart.due = None;
            restart.last_start = now;
            specs.push(restart.spec.clone());
        }
        for mut spec in specs {
            let name = spec.name.clone();
            let spawned = match crate::ids::nonce() {
                Ok(nonce) => {
                    spec.nonce = nonce;
                    self.spawn(spec).map_err(|refused| refused.reason)
                }
                Err(error) => Err(error.to_string()),
            };
            match spawned {
                Ok(pid) => emit("child-restarted", &format!("{name}: pid {pid}")),
                Err(reason) => {
                    emit("child-not-restarted", &format!("{name}: {reason}"));
                    if let Some(restart) = self.restarts.get_mut(&name) {
                        restart.schedule(now);
                    }
                }
            }
        }
    }

    fn control_names(&self) -> Vec<ChildName> {
        let is_control = |role| role == ChildRole::Control;
        let running = self.children.values().filter(|entry| entry.is_running() && is_control(entry.record.role));
        running.map(|entry| entry.record.name.clone()).collect()
    }

    pub(super) fn is_control_running(&self) -> bool {
        !self.control_names().is_empty()
    }

    pub(super) fn signal_control(&mut self, signal: Signal) {
        for name in self.control_names() {
            if let Some(entry) = self.children.get_mut(&name) {
                // It may have ended a moment ago, which is what is wanted.
                entry.signal(signal).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_ends_are_backed_off_and_a_steady_run_forgives_them() {
        let spec = serde_json::json!({
            "name": "control", "role": "control", "nonce": "0".repeat(32), "argv": ["x"], "env": {}, "dir": "/",
            "user": null, "log": "/x", "listeners": [], "restart": true,
            "limits": { "memory": null, "cpu_milli": null, "pids": null },
        });
        let start = Instant::now();
        let spec = serde_json::from_value(spec).expect("valid");
        let mut restart = Restart { spec, last_start: start, delay: SHORTEST_DELAY, due: None };
        let mut delays = Vec::new();
        for _ in 0..7 {
            restart.schedule(restart.last_start);
            let due = restart.due.expect("scheduled");
            delays.push((due - restart.last_start).as_millis());
            restart.last_start = due;
        }
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
        let end = restart.last_start + STEADY;
        restart.schedule(end);
        assert_eq!(restart.due, Some(end), "a steady run is restarted at once");
    }
}
