//! Metrics pages at `/metrics/NAME` of the console's port, for Prometheus.

use std::collections::BTreeSet;
use std::fmt::Write;

use mainstay_stack::model::Durability;
use mainstay_types::{Member, State};

use crate::api::Shared;

/// A page in Prometheus text form; `None`: there is no such page.
///
/// **Errors**: the part that would answer does not.
pub(crate) async fn page(shared: &Shared, name: &str) -> Result<Option<String>, String> {
    let text = match name {
        "edge" => shared.effects.edge_metrics().await?,
        "router" => shared.effects.router_metrics().await?,
        "postgres" => once(&shared.effects.postgres_metrics().await?),
        "redis" => once(&shared.effects.redis_metrics().await?),
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
        let wanted = &shared.effects.settings.stack.database;
        let wants = wanted.as_ref().is_some_and(|one| one.standbys > 0 && one.durability != Durability::Fast);
        page.push_str("# HELP mainstay_database_wants_synchronous Whether commits should wait for a standby.\n");
        page.push_str("# TYPE mainstay_database_wants_synchronous gauge\n");
        writeln!(page, "mainstay_database_wants_synchronous {}", u8::from(wants)).ok();
        let standbys = wanted.as_ref().map_or(0, |one| one.standbys);
        page.push_str("# HELP mainstay_database_standbys_wanted Standbys that the stack file asks for.\n");
        page.push_str("# TYPE mainstay_database_standbys_wanted gauge\n");
        writeln!(page, "mainstay_database_standbys_wanted {standbys}").ok();
        page.push_str("# HELP mainstay_database_standbys_streaming Standbys that stream from the primary.\n");
        page.push_str("# TYPE mainstay_database_standbys_streaming gauge\n");
        writeln!(page, "mainstay_database_standbys_streaming {}", database.lag_bytes.len()).ok();
        let is_strict = wanted.as_ref().is_some_and(|one| one.durability == Durability::Strict);
        let waits = is_strict && standbys > 0 && database.lag_bytes.is_empty();
        page.push_str("# HELP mainstay_database_writes_wait Whether commits wait for a standby that is not there.\n");
        page.push_str("# TYPE mainstay_database_writes_wait gauge\n");
        writeln!(page, "mainstay_database_writes_wait {}", u8::from(waits)).ok();
        if let Some(disk) = database.disk {
            page.push_str(
                "# HELP mainstay_database_ballast_bytes The file that is thrown off when the disk is full.\n",
            );
            page.push_str("# TYPE mainstay_database_ballast_bytes gauge\n");
            writeln!(page, "mainstay_database_ballast_bytes {}", disk.ballast_bytes).ok();
        }
        damaged(&mut page, database);
        page.push_str("# TYPE mainstay_database_writable gauge\n");
        writeln!(page, "mainstay_database_writable {}", u8::from(database.is_writable)).ok();
    }
    if let Some(seen) = *shared.effects.certificate.borrow() {
        certificate(&mut page, seen);
    }
    if let Some(backups) = &status.backups {
        crate::backups::status::metrics(&mut page, backups, crate::clock::now());
    }
    scales(&mut page, &shared.published.scales.borrow());
    if let Some(copies) = &status.store_copies {
        crate::copies::watch::metrics(&mut page, copies, crate::clock::now());
    }
    let children = shared.published.children.borrow().clone();
    page.push_str("# HELP mainstay_process_resident_pss_bytes Proportional set size of a supervised process tree.\n");
    page.push_str("# TYPE mainstay_process_resident_pss_bytes gauge\n");
    let keep = shared.published.keep.borrow().clone();
    for process in crate::processes::list(keep.as_ref(), &children, &status, &shared.effects.settings) {
        if let Some(bytes) = process.memory_bytes {
            let (name, role) = (process.name.as_str(), process.role);
            writeln!(page, "mainstay_process_resident_pss_bytes{{name=\"{name}\",role=\"{role}\"}} {bytes}").ok();
        }
    }
    page
}

/// How many instances each service has, and between which bounds.
fn scales(page: &mut String, scales: &[mainstay_api::ScaleStatus]) {
    page.push_str("# HELP mainstay_service_instances Instances of a service: wanted, ready, fewest, most.\n");
    page.push_str("# TYPE mainstay_service_instances gauge\n");
    for scale in scales {
        let name = scale.service.as_str();
        let all = [("wanted", scale.wanted), ("ready", scale.ready), ("min", scale.min), ("max", scale.max)];
        for (kind, count) in all {
            writeln!(page, "mainstay_service_instances{{service=\"{name}\",kind=\"{kind}\"}} {count}").ok();
        }
    }
}

/// The certificate of a public authority.
fn certificate(page: &mut String, seen: crate::acme::Seen) {
    page.push_str("# HELP mainstay_certificate_left_ratio How much of the life of the edge's certificate is left.\n");
    page.push_str("# TYPE mainstay_certificate_left_ratio gauge\n");
    let left = seen.validity.map_or(0, |validity| validity.left_milli(crate::clock::now()));
    writeln!(page, "mainstay_certificate_left_ratio {}.{:03}", left / 1000, left % 1000).ok();
    page.push_str("# HELP mainstay_certificate_failures Orders in a row that brought no certificate.\n");
    page.push_str("# TYPE mainstay_certificate_failures gauge\n");
    writeln!(page, "mainstay_certificate_failures {}", seen.failures).ok();
}

/// Damaged pages; a member that is cloned anew within seconds is told by what was found, ever.
fn damaged(page: &mut String, database: &mainstay_api::DatabaseStatus) {
    page.push_str("# HELP mainstay_database_damaged_pages Pages that are known to be damaged now, at the least.\n");
    page.push_str("# TYPE mainstay_database_damaged_pages gauge\n");
    let members: Vec<Member> = database.lag_bytes.keys().copied().chain(database.primary).collect();
    let all: BTreeSet<Member> = members.into_iter().chain(database.damaged_pages_ever.keys().copied()).collect();
    for member in &all {
        let pages = database.damaged_pages.get(member).unwrap_or(&0);
        writeln!(page, "mainstay_database_damaged_pages{{member=\"{member}\"}} {pages}").ok();
    }
    page.push_str("# HELP mainstay_damaged_pages_found_total Damaged pages that were found.\n");
    page.push_str("# TYPE mainstay_damaged_pages_found_total counter\n");
    for member in &all {
        let pages = database.damaged_pages_ever.get(member).unwrap_or(&0);
        writeln!(page, "mainstay_damaged_pages_found_total{{member=\"{member}\"}} {pages}").ok();
    }
}

/// Pages of several members joined to one: each family once, with its comments.
fn once(pages: &str) -> String {
    let mut families: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    let mut current = "";
    for line in pages.lines() {
        if let Some(comment) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) {
            current = comment.split(' ').next().unwrap_or_default();
        }
        let index = families.iter().position(|(name, ..)| *name == current).unwrap_or_else(|| {
            families.push((current, Vec::new(), Vec::new()));
            families.len() - 1
        });
        let (_, comments, samples) = &mut families[index];
        if !line.starts_with('#') {
            samples.push(line);
        } else if !comments.contains(&line) {
            comments.push(line);
        }
    }
    let lines = families.into_iter().flat_map(|(_, comments, samples)| comments.into_iter().chain(samples));
    lines.fold(String::new(), |page, line| page + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_two_members_become_one_with_each_family_once() {
        let one =
            "# HELP pg_up Up.\n# TYPE pg_up gauge\npg_up{member=\"a\"} 1\n# TYPE pg_x gauge\npg_x{member=\"a\"} 2\n";
        let both = format!("{one}{}", one.replace("\"a\"", "\"b\""));
        let page = once(&both);
        assert_eq!(page.matches("# TYPE pg_up").count(), 1);
        assert!(page.contains("pg_up{member=\"a\"} 1\npg_up{member=\"b\"} 1\n"), "{page}");
    }
}
