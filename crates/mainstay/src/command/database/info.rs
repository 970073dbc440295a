//! `mainstay db info`.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mainstay_api::{DatabaseStatus, Status};
use mainstay_postgres::inspect::{self, Overview, Slot};
use mainstay_types::{BoxId, Bytes, Member, exit_code};
use serde::Serialize;

use super::{Here, print, row, unanswered};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

/// The cluster in figures.
#[derive(Debug, Serialize)]
struct Info {
    /// Data directories that lie on one device: its loss is the loss of all of them.
    same_device: Vec<Member>,
    status: DatabaseStatus,
    members: Vec<MemberInfo>,
    /// What the primary says; `None`: it does not answer.
    overview: Option<Overview>,
    /// Why it does not.
    unanswered: Option<String>,
}

#[derive(Debug, Serialize)]
struct MemberInfo {
    member: Member,
    label: String,
    state: String,
    reason: Option<String>,
    /// The device of its data directory.
    device: Option<u64>,
}

pub(crate) async fn info(global: &Global) -> Result<u8, Failure> {
    let here = Here::find(global).await?;
    let members = members(&here.status, &crate::place::paths(global)?.state);
    let answer = match here.primary() {
        Ok(access) => inspect::overview(&access).await.map_err(unanswered),
        Err(failure) => Err(failure),
    };
    let unanswered = answer.as_ref().err().map(|failure| failure.text.clone());
    let same_device = same_device(&members);
    let info = Info { same_device, status: here.database, members, overview: answer.ok(), unanswered };
    if global.json {
        return print(&info);
    }
    lines(&info).iter().for_each(|line| println!("{line}"));
    // What the primary cannot say is not known: nobody should take this for a whole answer.
    Ok(if info.overview.is_some() { exit_code::DONE } else { exit_code::FAILED })
}

fn members(status: &Status, state: &Path) -> Vec<MemberInfo> {
    let of = |one: &mainstay_api::BoxStatus| {
        let BoxId::Postgres { member } = one.id else { return None };
        Some(MemberInfo {
            member,
            label: one.label.clone(),
            state: one.state.to_string(),
            reason: one.reason.clone(),
            device: device(state, member),
        })
    };
    status.boxes.iter().filter_map(of).collect()
}

/// The device of a member's data directory.
fn device(state: &Path, member: Member) -> Option<u64> {
    let data = state.join("pg").join(member.to_string()).join("data");
    std::fs::metadata(data).ok().map(|metadata| metadata.dev())
}

/// Members whose data directory shares its device with another's, in a state folder.
pub(crate) fn members_on_one_device(state: &Path) -> Vec<Member> {
    let members = (0..).map_while(Member::nth).map(|member| (member, device(state, member)));
    shared(&members.collect::<Vec<_>>())
}

fn shared(members: &[(Member, Option<u64>)]) -> Vec<Member> {
    let shares = |(member, device): &&(Member, Option<u64>)| {
        device.is_some() && members.iter().any(|(other, there)| other != member && there == device)
    };
    members.iter().filter(shares).map(|(member, _)| *member).collect()
}

fn same_device(members: &[MemberInfo]) -> Vec<Member> {
    shared(&members.iter().map(|one| (one.member, one.device)).collect::<Vec<_>>())
}

fn lines(info: &Info) -> Vec<String> {
    let status = &info.status;
    let primary = status.primary.map_or("nobody yet".to_owned(), |member| format!("postgres-{member}"));
    let mut lines = vec![row("primary", &format!("{primary}, timeline {}", status.timeline))];
    let commits = match (status.is_synchronous, status.standbys) {
        (_, Some(0)) => "there is no standby to wait for",
        (true, _) => "commits wait for a standby now",
        (false, _) => "commits wait for no standby now",
    };
    lines.push(row("durability", &format!("{}; {commits}. {}", status.durability, status.risk)));
    for one in &info.members {
        let reason = one.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let behind = status.lag_bytes.get(&one.member).map_or(String::new(), |lag| format!(", {} behind", Bytes(*lag)));
        let text = format!("{}, {}{behind}{reason}", one.label, one.state);
        lines.push(row(&format!("postgres-{}", one.member), &text));
    }
    if info.same_device.len() > 1 {
        lines.push(row("one disk", &on_one_disk(&info.same_device)));
    }
    if let Some(disk) = status.disk {
        let full = disk.full_in_s.map_or(String::new(), |seconds| {
            format!("; full in {} if it goes on so", screen::age(std::time::Duration::from_secs(seconds)))
        });
        let ballast = match disk.ballast_bytes {
            0 => "no ballast (thrown off, or too little room for one)".to_owned(),
            bytes => format!("ballast {}", Bytes(bytes)),
        };
        let text = format!("{} of {} free{full}; {ballast}", Bytes(disk.free_bytes), Bytes(disk.total_bytes));
        lines.push(row("disk", &text));
    }
    match (&info.overview, &info.unanswered) {
        (Some(overview), _) => figures(&mut lines, overview, &primary),
        (None, Some(why)) => lines.push(row("not known", &format!("the primary does not say more: {why}"))),
        (None, None) => {}
    }
    lines
}

/// A second data directory on the same device is called what it is.
pub(crate) fn on_one_disk(members: &[Member]) -> String {
    let names: Vec<String> = members.iter().map(|member| format!("postgres-{member}")).collect();
    format!(
        "{}: a standby on the same disk protects against a crash, not against the loss of the disk",
        names.join(", ")
    )
}

fn figures(lines: &mut Vec<String>, overview: &Overview, primary: &str) {
    let Overview { version, has_checksums, max_connections, connections, wal_bytes, databases, slots } = overview;
    lines.push(row("PostgreSQL", version));
    lines.push(row("clients", &format!("{connections} of {max_connections} connections")));
    let failures: u64 = databases.iter().map(|one| one.checksum_failures).sum();
    let checksums = match (has_checksums, failures) {
        (false, _) => "off: pages that the disk damaged are not noticed".to_owned(),
        (true, 0) => "on, no page failed".to_owned(),
        (true, count) => {
            screen::red(&again::text(&format!("{count} pages FAILED; `mainstay logs {primary}` names them")))
        }
    };
    lines.push(row("checksums", &checksums));
    let slots_text = if slots.is_empty() { "no slot retains any" } else { "slots retain" };
    lines.push(row("WAL", &format!("{} on disk; {slots_text}", Bytes(*wal_bytes))));
    lines.extend(slots.iter().map(slot));
    for one in databases {
        lines.push(row(&one.name, &format!("{}, {} connections", Bytes(one.bytes), one.connections)));
    }
}

fn slot(slot: &Slot) -> String {
    let Slot { name, is_active, retained_bytes, left_bytes, is_lost } = slot;
    let used = if *is_active { "in use" } else { "used by nobody" };
    let text = match (is_lost, left_bytes) {
        (true, _) => format!("slot {name}, {used}: given up, its WAL is gone"),
        (false, Some(left)) => {
            format!("slot {name}, {used}: {}, given up after {} more", Bytes(*retained_bytes), Bytes(*left))
        }
        (false, None) => format!("slot {name}, {used}: {}, without bound", Bytes(*retained_bytes)),
    };
    row("", &text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstay_api::DiskStatus;
    use mainstay_postgres::inspect::Size;
    use mainstay_types::Timeline;

    use super::*;

    fn member(member: Member, device: Option<u64>) -> MemberInfo {
        let label = "standby, synchronous".to_owned();
        MemberInfo { member, label, state: "ready".to_owned(), reason: None, device }
    }

    #[test]
    fn members_on_one_device_are_called_so_and_unknown_ones_are_not() {
        let [a, b] = [Member::A, Member::B];
        assert_eq!(same_device(&[member(a, Some(7)), member(b, Some(7))]), vec![a, b]);
        assert_eq!(same_device(&[member(a, Some(7)), member(b, Some(8))]), vec![]);
        assert_eq!(same_device(&[member(a, None), member(b, None)]), vec![]);
    }

    fn info() -> Info {
        let status = DatabaseStatus {
            primary: Some(Member::A),
            timeline: Timeline(3),
            lsn: None,
            is_synchronous: true,
            is_writable: true,
            durability: "balanced".to_owned(),
            risk: mainstay_stack::model::Durability::Balanced.risk(2).to_owned(),
            standbys: Some(2),
            lag_bytes: BTreeMap::from([(Member::B, 1 << 20)]),
            failovers: 0,
            damaged_pages: BTreeMap::new(),
            damaged_pages_ever: BTreeMap::new(),
            disk: Some(DiskStatus {
                free_bytes: 5 << 30,
                total_bytes: 100 << 30,
                full_in_s: Some(7_200),
                ballast_bytes: 0,
            }),
            errand: None,
        };
        let slot = |name: &str, left_bytes| Slot {
            name: name.to_owned(),
            is_active: false,
            retained_bytes: 900 << 20,
            left_bytes,
            is_lost: false,
        };
        let size =
            Size { name: "a_database_with_a_long_name".to_owned(), bytes: 7, connections: 1, checksum_failures: 2 };
        let overview = Overview {
            version: "15.18 (Debian 15.18-0+deb12u1)".to_owned(),
            has_checksums: true,
            max_connections: 100,
            connections: 5,
            wal_bytes: 48 << 20,
            databases: vec![size],
            slots: vec![slot("theirs", Some(1 << 20)), slot("unbounded", None)],
        };
        let members = vec![member(Member::A, Some(1)), member(Member::B, Some(1))];
        Info { same_device: same_device(&members), status, members, overview: Some(overview), unanswered: None }
    }

    #[test]
    fn the_cluster_is_told_in_eighty_columns_with_what_it_risks() {
        let text = lines(&info()).join("\n");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for wanted in
            ["1 MiB behind", "not against the loss of the disk", "full in 2 h", "no ballast", "2 pages FAILED"]
        {
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(wanted), "{wanted} in\n{text}");
        }
        assert!(text.contains("given up after 1 MiB more") && text.contains("without bound"), "{text}");
    }

    #[test]
    fn what_the_primary_does_not_say_is_told_as_not_known() {
        let why = Some("postgres-a does not listen on its socket".to_owned());
        let text = lines(&Info { overview: None, unanswered: why, ..info() }).join("\n");
        assert!(text.contains("not known") && !text.contains("checksums"), "{text}");
    }
}
