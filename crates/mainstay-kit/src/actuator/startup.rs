//! `startup`: what the process did before it served, and how long each step took.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::exchanges::iso_duration;
use crate::time::rfc3339;

/// The steps. Cloning shares them.
#[derive(Clone)]
pub struct Startup {
    began: SystemTime,
    steps: Arc<Mutex<Vec<Value>>>,
}

/// A step that is under way.
pub struct Step {
    startup: Startup,
    name: &'static str,
    at: SystemTime,
    since: Instant,
}

impl Default for Startup {
    fn default() -> Self {
        Self::new()
    }
}

impl Startup {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { began: SystemTime::now(), steps: Arc::default() }
    }

    /// A step begins; it ends when the value is dropped.
    #[must_use]
    pub fn step(&self, name: &'static str) -> Step {
        Step { startup: self.clone(), name, at: SystemTime::now(), since: Instant::now() }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let mut steps = self.startup.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let id = steps.len();
        steps.push(json!({
            "startupStep": { "name": self.name, "id": id, "tags": [] },
            "startTime": rfc3339(self.at),
            "endTime": rfc3339(self.at + took),
            "duration": iso_duration(took.as_secs_f64()),
        }));
    }
}

pub(super) async fn answer(State(management): Shared) -> Json<Value> {
    let startup = &management.startup;
    let steps = startup.steps.lock().unwrap_or_else(PoisonError::into_inner);
    Json(json!({ "timeline": { "startTime": rfc3339(startup.began), "events": *steps } }))
}
