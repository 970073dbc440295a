//! Environments override by path; the rest of the file stays as it is.

use std::time::Duration;

use mainstay_stack::model::{Probe, Service};
use mainstay_stack::{Code, Origin, Parsed, Stack, computed, parse};
use mainstay_types::{EnvironmentName, ServiceName};

fn read(text: &str, environment: &str) -> Parsed {
    let environment = EnvironmentName::new(environment).expect("a valid environment");
    parse(text, "mainstay.toml", &environment).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

fn codes(text: &str, environment: &str) -> Vec<Code> {
    let environment = EnvironmentName::new(environment).expect("a valid environment");
    match parse(text, "mainstay.toml", &environment) {
        Ok(parsed) => parsed.warnings.list.iter().map(|found| found.code).collect(),
        Err(diagnostics) => diagnostics.list.iter().map(|found| found.code).collect(),
    }
}

fn backend(stack: &Stack) -> &Service {
    &stack.services[&ServiceName::new("backend").expect("valid")]
}

const TEXT: &str = r#"stack = "shop"
domain = "shop.example.com"

[service.backend]
run = "./server"
instances = 2
health = "/healthz"
env = { LEVEL = "info", MODE = "plain" }

[database]
standbys = 1

[env.development.database]
replicas = 0

[env.staging]
service.backend.instances = 4
service.backend.health.interval = "2s"
service.backend.env.LEVEL = "debug"
edge.host = "staging.shop.example.com"

[env.staging.service.mailbox]
run = "./mailbox"
port = false

[env.load]
service.backend.scale.min = 8
"#;

#[test]
fn an_environment_overrides_single_values_and_leaves_their_neighbours() {
    let parsed = read(TEXT, "staging");
    let service = backend(&parsed.stack);
    assert_eq!(service.instances, 4);
    assert_eq!(service.env["LEVEL"], "debug");
    assert_eq!(service.env["MODE"], "plain");
    assert_eq!(parsed.stack.edge.host, "staging.shop.example.com");
}

#[test]
fn a_health_path_survives_an_override_of_its_timings() {
    let parsed = read(TEXT, "staging");
    let health = &backend(&parsed.stack).health;
    assert_eq!(health.probe, Probe::Http { path: "/healthz".to_owned(), management: false });
    assert_eq!(health.interval, Duration::from_secs(2));
    assert_eq!(health.timeout, Duration::from_secs(2), "an answer may not take longer than the pause");
}

#[test]
fn a_complete_service_may_exist_in_one_environment_only() {
    let mailbox = ServiceName::new("mailbox").expect("valid");
    assert!(read(TEXT, "staging").stack.services.contains_key(&mailbox));
    assert!(!read(TEXT, "production").stack.services.contains_key(&mailbox));
}

#[test]
fn either_spelling_of_a_value_overrides_the_other() {
    assert_eq!(read(TEXT, "development").stack.database.expect("there").standbys, 0);
    assert_eq!(backend(&read(TEXT, "load").stack).instances, 8);
}

#[test]
fn only_production_answers_to_the_domain() {
    assert_eq!(read(TEXT, "production").stack.edge.host, "shop.example.com");
    assert_eq!(read(TEXT, "development").stack.edge.host, "shop.localhost");
}

#[test]
fn origins_name_the_environment_and_its_line() {
    let parsed = read(TEXT, "staging");
    let name = EnvironmentName::new("staging").expect("valid");
    let values = computed(&parsed);
    let of = |path: &str| &values.iter().find(|value| value.path == path).expect("computed").origin;
    assert_eq!(*of("service.backend.instances"), Origin::Environment { name, line: 17 });
    assert_eq!(*of("service.backend.env.MODE"), Origin::File { line: 8 });
    assert_eq!(*of("database.standbys"), Origin::File { line: 11 });
}

#[test]
fn a_mistake_for_production_shows_in_development() {
    let text = format!("{TEXT}\n[env.production]\ndatabase.standbys = 0\ndatabase.durability = \"strict\"\n");
    assert_eq!(codes(&text, "development"), [Code::StrictAlone]);
}

#[test]
fn usual_environments_need_no_table_and_others_do() {
    assert_eq!(codes(TEXT, "production"), []);
    assert_eq!(codes(TEXT, "load"), []);
    assert_eq!(codes(TEXT, "prodution"), [Code::UnknownEnvironment]);
}

#[test]
fn routes_of_an_environment_replace_those_of_the_file() {
    let text = format!("{TEXT}\n[[env.load.edge.route]]\npath = \"/only/*\"\nto = \"backend\"\n");
    let routes = read(&text, "load").stack.edge.routes;
    assert_eq!(routes.iter().map(|route| route.path.as_str()).collect::<Vec<_>>(), ["/only/*"]);
    assert_eq!(read(&text, "staging").stack.edge.routes[0].path, "/*");
}

#[test]
fn a_foreign_application_takes_its_parts_of_the_database_apart() {
    let text = r#"stack = "notes"
[service.notes]
run = ".venv/bin/notes start --port 8888"
before = [".venv/bin/notes", "migrate"]
health = "/v1/__heartbeat__"
secrets = ["NOTES_USERID_HMAC_SECRET"]
[service.notes.env]
NOTES_STORAGE_URL = "postgresql+psycopg2://${DATABASE_USER}:${DATABASE_PASSWORD}@${DATABASE_HOST}:${DATABASE_PORT}/${DATABASE_NAME}"
NOTES_CACHE_URL = "${REDIS_URL}"
NOTES_SALT = "${NOTES_USERID_HMAC_SECRET}"
[database]
[cache]
"#;
    let parsed = read(text, "development");
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let service = &parsed.stack.services[&ServiceName::new("notes").expect("valid")];
    assert_eq!(service.before.as_deref(), Some(&[".venv/bin/notes".to_owned(), "migrate".to_owned()][..]));
    assert!(service.uses_database && service.uses_cache);
}
