//! Further databases and roles, and who connects as whom.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use mainstay_stack::{Code, parse};
use mainstay_types::{EnvironmentName, ServiceName};

const BASE: &str = "stack = \"shop\"\n[database]\ndatabases = [\"audit\"]\n[database.roles.reporting]\naccess = \"read\"\n\
    [database.roles.auditor]\naccess = \"write\"\ndatabase = \"audit\"\n[service.backend]\nrun = \"./server\"\n";

fn connection(database: &str) -> (String, String) {
    let text = format!("{BASE}{database}");
    let parsed = parse(&text, "mainstay.toml", &EnvironmentName::default()).unwrap_or_else(|found| panic!("{found:?}"));
    let service = &parsed.stack.services[&ServiceName::new("backend").unwrap()];
    let (role, name) = parsed.stack.database.as_ref().unwrap().connection(service.database.as_ref());
    (role.to_owned(), name.to_owned())
}

#[test]
fn a_service_connects_as_the_owner_unless_it_says_otherwise() {
    let is = |role: &str, name: &str| (role.to_owned(), name.to_owned());
    assert_eq!(connection(""), is("shop", "shop"));
    assert_eq!(connection("database = { role = \"reporting\" }"), is("reporting", "shop"));
    assert_eq!(connection("database = { role = \"auditor\" }"), is("auditor", "audit"));
    assert_eq!(connection("database = { name = \"audit\" }"), is("audit", "audit"));
    assert_eq!(connection("database = { name = \"audit\", role = \"auditor\" }"), is("auditor", "audit"));
    assert_eq!(connection("database = { role = \"audit\" }"), is("audit", "audit"));
}

#[test]
fn a_database_that_would_bear_a_name_of_the_servers_after_its_stack_is_refused() {
    for stack in ["none", "all", "public", "postgres", "replication", "template1", "pg-x", "mainstay-x"] {
        let found = codes(&format!("stack = \"{stack}\"\n[database]\n"));
        assert!(matches!(found.as_slice(), [(Code::BadName, _)]), "{stack}: {found:?}");
        assert_eq!(codes(&format!("stack = \"{stack}\"\n[database]\nname = \"shop\"\n")), [], "{stack}");
        assert_eq!(codes(&format!("stack = \"{stack}\"\n[service.x]\nrun = \"./x\"\n")), [], "{stack}");
    }
}

fn codes(text: &str) -> Vec<(Code, String)> {
    let found = parse(text, "mainstay.toml", &EnvironmentName::default()).err();
    found.into_iter().flat_map(|found| found.list).map(|one| (one.code, one.message)).collect()
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let service = |line: &str| codes(&format!("{BASE}{line}"));
    for line in [
        "database = { role = \"nobody\" }",
        "database = { name = \"nothing\" }",
        "database = { name = \"shop\", role = \"auditor\" }",
        "database = { role = \"reporting\" }\nuses = []",
    ] {
        let found = service(line);
        assert!(matches!(found.as_slice(), [(Code::UsesNothing, _)]), "{line}: {found:?}");
    }
    let stack = |lines: &str| codes(&format!("stack = \"shop\"\n[database]\n{lines}"));
    for (lines, code) in [
        ("databases = [\"shop\"]", Code::SaidTwice),
        ("databases = [\"Audit\"]", Code::BadName),
        ("databases = [\"mainstay_x\"]", Code::BadName),
        ("[database.roles.shop]\naccess = \"read\"", Code::BadName),
        ("[database.roles.pg_read]\naccess = \"read\"", Code::BadName),
        ("[database.roles.x]\n", Code::MissingKey),
        ("[database.roles.x]\naccess = \"own\"", Code::BadValue),
        ("[database.roles.x]\naccess = \"read\"\ndatabase = \"audit\"", Code::UsesNothing),
        ("[database.roles.x]\naccess = \"read\"\npassword = \"p\"", Code::NotSupported),
    ] {
        let found = stack(lines);
        assert!(found.iter().any(|(one, _)| *one == code) && found.len() == 1, "{lines}: {found:?}");
    }
}
