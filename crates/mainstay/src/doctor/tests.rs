//! Machines with one thing wrong each: it is found, explained and mended, and nothing else is.

use super::*;

fn good() -> Machine {
    let here =
        |name| Program { name, is_required: true, found: Ok("version 7.0.15, /usr/bin/redis-server".to_owned()) };
    let doors = vec![Door { key: "edge.https_port", port: 8443, is_fixed: false, holder: None }];
    Machine {
        programs: vec![here("redis")],
        user: 0,
        is_user_known: Some(true),
        kernel: ((6, 1), "6.1.0-25-amd64".to_owned()),
        controllers: vec![("memory", Controller::V2), ("cpu", Controller::V2), ("pids", Controller::V1)],
        descriptors: u64::MAX,
        processes: u64::MAX,
        state: "/var/lib/mainstay".to_owned(),
        state_fault: None,
        free: 60 << 30,
        free_inodes: Some(1 << 20),
        memory: Some(8 << 30),
        is_synchronised: Some(true),
        stack: Stack::Known(Box::new(Known {
            name: "shop".to_owned(),
            running: None,
            has_database: false,
            backups: None,
            one_disk: None,
            authority: None,
            doors,
            disk_need: Some(200 << 20),
            has_state: true,
            last_drill: Some(("database-crash".to_owned(), "PASS".to_owned(), Duration::from_hours(2))),
            event_ahead: Some(Duration::from_secs(1)),
        })),
    }
}

fn known(change: impl Fn(&mut Known)) -> Machine {
    let mut machine = good();
    if let Stack::Known(known) = &mut machine.stack {
        change(known);
    }
    machine
}

/// With backups that the stack file asks for.
fn backed_up(seen: Option<(u64, Vec<String>)>) -> Machine {
    known(|known| {
        known.has_database = true;
        known.backups = Some(Backups { target: "/mnt/backups/shop".to_owned(), seen: seen.clone() });
    })
}

/// With a certificate of a public authority.
fn ordered(listen: &str, http_port: u16, https_port: u16) -> Machine {
    let authority = Authority {
        directory: "https://acme.example.com/directory".to_owned(),
        listen: listen.to_owned(),
        http_port,
        https_port,
    };
    known(|known| known.authority = Some(authority.clone()))
}

fn with(change: impl Fn(&mut Machine)) -> Machine {
    let mut machine = good();
    change(&mut machine);
    machine
}

/// Every way to be less than well: what is said about it, and how bad it is.
fn ill() -> Vec<(&'static str, Health, Machine)> {
    use Health::{Limited, Missing};
    let absent =
        || Err(("Redis 7 or newer is needed, 6.0 was found".to_owned(), "sudo apt-get install redis".to_owned()));
    let door =
        |is_fixed| Door { key: "edge.https_port", port: 8443, is_fixed, holder: Some("nginx (pid 7)".to_owned()) };
    let drilled = |verdict: &str, ago| Some(("keep-crash".to_owned(), verdict.to_owned(), ago));
    vec![
        ("redis", Missing, with(|m| m.programs[0].found = absent())),
        ("redis", Limited, with(|m| m.programs[0] = Program { name: "redis", is_required: false, found: absent() })),
        ("kernel", Limited, with(|m| m.kernel = ((5, 4), "5.4.0".to_owned()))),
        ("cgroups", Limited, with(|m| m.controllers[0].1 = Controller::Disabled)),
        ("cgroups", Limited, with(|m| m.controllers[1].1 = Controller::Absent)),
        ("cgroups", Limited, with(|m| m.user = 1000)),
        ("user", Missing, with(|m| m.is_user_known = Some(false))),
        ("open files", Limited, with(|m| m.descriptors = 4096)),
        ("memory", Limited, with(|m| m.memory = Some(300 << 20))),
        ("state", Missing, with(|m| m.state_fault = Some("/srv cannot be written to: Permission denied".to_owned()))),
        ("disk", Limited, with(|m| m.free = 1 << 30)),
        ("inodes", Limited, with(|m| m.free_inodes = Some(100))),
        ("clock", Limited, with(|m| m.is_synchronised = Some(false))),
        ("clock", Limited, known(|k| k.event_ahead = Some(Duration::from_hours(3)))),
        ("stack", Limited, with(|m| m.stack = Stack::Broken("mainstay.toml has 3 mistakes".to_owned()))),
        ("ports", Missing, known(|k| k.doors = vec![door(true)])),
        ("ports", Limited, known(|k| k.doors = vec![door(false)])),
        ("drills", Limited, known(|k| k.last_drill = None)),
        ("drills", Limited, known(|k| k.last_drill = drilled("FAIL", Duration::from_secs(5)))),
        ("drills", Limited, known(|k| k.last_drill = drilled("PASS", Duration::from_hours(24 * 90)))),
        ("backups", Limited, known(|k| k.has_database = true)),
        ("backups", Limited, backed_up(Some((0, Vec::new())))),
        ("backups", Limited, backed_up(Some((3, vec!["take failed 2 times".to_owned()])))),
        ("certificate", Limited, ordered("127.0.0.1", 80, 443)),
        ("certificate", Limited, ordered("0.0.0.0", 8080, 8443)),
        ("standby", Limited, known(|k| k.one_disk = Some((vec![Member::A, Member::B], "/s/pg/b".to_owned())))),
    ]
}

#[test]
fn a_machine_with_everything_is_fine_throughout() {
    for finding in judge(&good()) {
        assert_eq!(finding.health, Health::Fine, "{finding:?}");
        assert!(finding.why.is_none() && finding.mend.is_empty(), "{finding:?}");
    }
}

#[test]
fn each_lack_is_found_alone_with_why_it_matters_and_the_command_that_mends_it() {
    for (what, health, machine) in ill() {
        let found: Vec<Finding> =
            judge(&machine).into_iter().filter(|finding| finding.health != Health::Fine).collect();
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert_eq!((found[0].what, found[0].health), (what, health), "{found:?}");
        assert!(found[0].why.as_ref().is_some_and(|why| !why.is_empty()), "{found:?}");
        assert!(!found[0].mend.is_empty(), "{found:?}");
    }
}

#[test]
fn backups_that_are_configured_are_not_called_missing() {
    for seen in [None, Some((3, Vec::new()))] {
        let found = judge(&backed_up(seen));
        let backups = found.iter().find(|finding| finding.what == "backups").expect("a finding");
        assert_eq!(backups.health, Health::Fine, "{backups:?}");
        assert!(backups.found.contains("/mnt/backups/shop"), "{backups:?}");
    }
}

#[test]
fn an_authority_that_reaches_the_edge_at_its_ports_is_fine() {
    for listen in ["0.0.0.0", "::", "203.0.113.7"] {
        assert!(judge(&ordered(listen, 80, 443)).iter().all(|finding| finding.health == Health::Fine), "{listen}");
    }
}

#[test]
fn few_processes_matter_to_parts_that_are_not_root_whoever_starts_them() {
    for user in [0, 1000] {
        let few = with(|m| (m.processes, m.user) = (100, user));
        assert!(judge(&few).iter().any(|finding| finding.what == "processes" && finding.health == Health::Limited));
    }
}

#[test]
fn a_disk_without_room_for_a_start_is_an_obstacle() {
    let health = |free: u64| {
        let machine = with(|m| m.free = free);
        judge(&machine).into_iter().find(|finding| finding.what == "disk").map(|finding| finding.health)
    };
    assert_eq!(health(60 << 30), Some(Health::Fine));
    assert_eq!(health(201 << 20), Some(Health::Limited), "it starts, with less");
    assert_eq!(health(199 << 20), Some(Health::Missing));
}

#[test]
fn ports_of_a_stack_that_runs_are_its_own() {
    let machine = known(|known| {
        known.running = Some("up, ready".to_owned());
        known.doors =
            vec![Door { key: "edge.https_port", port: 8443, is_fixed: true, holder: Some("keep".to_owned()) }];
    });
    assert!(judge(&machine).iter().all(|finding| finding.what != "ports"));
}

#[test]
fn what_is_printed_fits_into_80_columns() {
    for (_, _, machine) in ill() {
        for finding in judge(&machine) {
            let text = crate::command::doctor::text(&finding);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
            }
        }
    }
}
