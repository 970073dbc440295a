//! The list of service endpoints that Prometheus scrapes; rewritten whenever instances come and go.

use std::path::Path;

use mainstay_supervisor::durable;
use mainstay_types::InstanceId;
use serde_json::{Value, json};

use crate::config::{ConfigError, TARGETS_FILE};

/// One endpoint in Prometheus text form, on 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The instance that serves it.
    pub instance: InstanceId,
    /// Its port.
    pub port: u16,
    /// The path, with its leading `/`.
    pub path: String,
}

/// Replaces the list; Prometheus sees it by itself within a moment. `Ok(false)`: it was so already.
///
/// **Errors**: the file cannot be written.
pub fn write_targets(dir: &Path, targets: &[Target]) -> Result<bool, ConfigError> {
    let mut sorted = targets.to_vec();
    sorted.sort();
    let groups: Vec<Value> = sorted.iter().map(group).collect();
    let text = format!("{:#}\n", Value::Array(groups));
    let path = dir.join(TARGETS_FILE);
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    // Readable by all who may enter the folder: a change of owner after the rename would come too late for
    // Prometheus, which reads the file the moment it appears. There is no secret in it.
    durable::replace(&path, text.as_bytes(), 0o644).map_err(|source| ConfigError::Write { path, source })?;
    Ok(true)
}

fn group(target: &Target) -> Value {
    json!({
        "targets": [format!("127.0.0.1:{}", target.port)],
        "labels": {
            "__metrics_path__": target.path,
            "instance": target.instance.to_string(),
            "service": target.instance.service.as_str(),
        },
    })
}

#[cfg(test)]
mod tests {
    use mainstay_types::ServiceName;

    use super::*;

    fn target(slot: u32, port: u16) -> Target {
        let service = ServiceName::new("backend").expect("valid");
        Target { instance: InstanceId { service, slot }, port, path: "/actuator/prometheus".into() }
    }

    #[test]
    fn the_same_instances_in_another_order_are_not_a_change() {
        let dir = tempfile::tempdir().expect("folder");
        assert!(write_targets(dir.path(), &[target(2, 4002), target(1, 4001)]).expect("writes"));
        assert!(!write_targets(dir.path(), &[target(1, 4001), target(2, 4002)]).expect("reads"));
        assert!(write_targets(dir.path(), &[target(1, 4001)]).expect("writes"));
        let read: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(TARGETS_FILE)).expect("reads")).expect("is JSON");
        assert_eq!(read[0]["labels"]["instance"], "backend-1");
        assert_eq!(read[0]["targets"][0], "127.0.0.1:4001");
    }
}
