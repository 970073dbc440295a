//! `threaddump`: the threads of this process as the kernel sees them. A Rust program does not know
//! its threads' stacks while they run, so `stackTrace` is empty; tasks of the runtime are not threads.

use axum::Json;
use serde_json::{Value, json};

/// **Source**: proc(5), `/proc/[pid]/task/[tid]/stat`.
pub(super) async fn threads() -> Json<Value> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // A thread may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        threads.extend(thread(&stat));
    }
    Json(json!({ "threads": threads }))
}

fn thread(stat: &str) -> Option<Value> {
    // The name may hold blanks and brackets; it ends at the last closing one.
    let (head, tail) = stat.rsplit_once(')')?;
    let (id, name) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let state = match *fields.first()? {
        "R" => "RUNNABLE",
        "Z" | "X" => "TERMINATED",
        // Waiting for the disk or for an event; the kernel does not say which lock.
        _ => "WAITING",
    };
    let priority: i64 = fields.get(15)?.parse().ok()?;
    Some(json!({
        "threadName": name,
        "threadId": id.trim().parse::<u64>().ok()?,
        "threadState": state,
        "priority": priority,
        "daemon": false,
        "inNative": true,
        "suspended": *fields.first()? == "T",
        "blockedCount": -1, "blockedTime": -1, "waitedCount": -1, "waitedTime": -1,
        "lockOwnerId": -1,
        "lockedMonitors": [], "lockedSynchronizers": [],
        "stackTrace": [],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_with_brackets_and_blanks() {
        let stat = "4242 (tokio (x) 1) S 1 4242 4242 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 8 0 100 0 0";
        let thread = thread(stat).unwrap();
        assert_eq!((&thread["threadName"], &thread["threadId"]), (&json!("tokio (x) 1"), &json!(4242)));
        assert_eq!((&thread["threadState"], &thread["priority"]), (&json!("WAITING"), &json!(20)));
    }
}
