//! Metrics pages at `/metrics/NAME` of the console's port, for Prometheus.

use std::fmt::Write;

use mainstay_types::State;

use crate::api::Shared;

/// A page in Prometheus text form; `None`: there is no such page.
///
/// **Errors**: the part that would answer does not.
pub(crate) async fn page(shared: &Shared, name: &str) -> Result<Option<String>, String> {
    let text = match name {
        "edge" => shared.effects.edge_metrics().await?,
        "router" => shared.effects.router_metrics().await?,
        "postgres" => shared.effects.postgres_metrics().await?,
        "redis" => shared.effects.redis_metrics().await?,
        "host" => mainstay_telemetry::host_metrics(&shared.effects.paths().state),
        "control" => control(shared),
        _ => return Ok(None),
    };
    Ok(Some(text))
}

/// What the control plane knows: the state of every box, and each process of ours.
fn control(shared: &Shared) -> String {
    let mut page = String::new();
    let Some(status) = shared.published.status.borrow().clone() else { return page };
    page.push_str("# HELP mainstay_box_ready Whether a box of the diagram does its work.\n");
    page.push_str("# TYPE mainstay_box_ready gauge\n");
    for one in &status.boxes {
        let ready = u8::from(one.state == State::Ready);
        writeln!(page, "mainstay_box_ready{{box=\"{}\",state=\"{}\"}} {ready}", one.name, one.state).ok();
    }
    if let Some(database) = &status.database {
        page.push_str("# HELP mainstay_failovers_total Changes of primary that this control plane carried out.\n");
        page.push_str("# TYPE mainstay_failovers_total counter\n");
        writeln!(page, "mainstay_failovers_total {}", database.failovers).ok();
        page.push_str("# TYPE mainstay_database_synchronous gauge\n");
        writeln!(page, "mainstay_database_synchronous {}", u8::from(database.is_synchronous)).ok();
        page.push_str("# TYPE mainstay_database_writable gauge\n");
        writeln!(page, "mainstay_database_writable {}", u8::from(database.is_writable)).ok();
    }
    let children = shared.published.children.borrow().clone();
    page.push_str("# HELP mainstay_process_resident_pss_bytes Proportional set size of a supervised process tree.\n");
    page.push_str("# TYPE mainstay_process_resident_pss_bytes gauge\n");
    for process in crate::processes::list(&children, &status) {
        if let Some(bytes) = process.memory_bytes {
            let (name, role) = (process.name.as_str(), process.role);
            writeln!(page, "mainstay_process_resident_pss_bytes{{name=\"{name}\",role=\"{role}\"}} {bytes}").ok();
        }
    }
    page
}
