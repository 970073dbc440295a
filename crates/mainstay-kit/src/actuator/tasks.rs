//! Work that is done again and again, and `scheduledtasks`, which shows it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use crate::telemetry::{Level, log};
use crate::time::rfc3339;

#[derive(Clone, Debug)]
struct Task {
    name: &'static str,
    every: Duration,
    next: SystemTime,
    last: Option<(SystemTime, Result<(), String>)>,
}

/// The tasks of a process. Cloning shares them.
#[derive(Clone, Default)]
pub struct Tasks {
    list: Arc<Mutex<Vec<Task>>>,
}

impl Tasks {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` again and again, `every` after the end of the last time. A failure is logged and
    /// waits for the next time; the task ends with the runtime.
    pub fn spawn<F, W>(&self, name: &'static str, every: Duration, work: W)
    where
        F: Future<Output = Result<(), String>> + Send,
        W: Fn() -> F + Send + 'static,
    {
        let index = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(Task { name, every, next: SystemTime::now() + every, last: None });
            list.len() - 1
        };
        let tasks = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let result = work().await;
                if let Err(cause) = &result {
                    log(Level::Warn, "ScheduledTaskFailed", &[("task", name), ("cause", cause)]);
                }
                let now = SystemTime::now();
                let mut list = tasks.list.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(task) = list.get_mut(index) {
                    task.last = Some((now, result));
                    task.next = now + every;
                }
            }
        });
    }

    fn shown(&self) -> Vec<Value> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(shown).collect()
    }
}

fn shown(task: &Task) -> Value {
    let every = u64::try_from(task.every.as_millis()).unwrap_or(u64::MAX);
    let mut shown = json!({
        "runnable": { "target": task.name },
        "initialDelay": every,
        "interval": every,
        "nextExecution": { "time": rfc3339(task.next) },
    });
    match &task.last {
        None => {}
        Some((at, Ok(()))) => shown["lastExecution"] = json!({ "status": "SUCCESS", "time": rfc3339(*at) }),
        Some((at, Err(cause))) => {
            shown["lastExecution"] =
                json!({ "status": "ERROR", "time": rfc3339(*at), "exception": { "message": cause, "type": "error" } });
        }
    }
    shown
}

pub(super) async fn answer(State(management): Shared) -> Json<Value> {
    let tasks = management.tasks.shown();
    Json(json!({ "cron": [], "custom": [], "fixedDelay": tasks, "fixedRate": [] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shows_when_it_ran_last_and_how_it_ended() {
        let tasks = Tasks::new();
        tasks.spawn("purge", Duration::from_secs(60), || async { Ok(()) });
        tasks.spawn("broken", Duration::from_secs(60), || async { Err("no".to_owned()) });
        assert!(tasks.shown()[0].get("lastExecution").is_none());
        tokio::time::sleep(Duration::from_secs(61)).await;
        let shown = tasks.shown();
        assert_eq!(shown[0]["lastExecution"]["status"], "SUCCESS");
        assert_eq!(shown[1]["lastExecution"]["exception"]["message"], "no");
        assert_eq!((&shown[0]["interval"], &shown[0]["runnable"]["target"]), (&json!(60_000), &json!("purge")));
    }
}
