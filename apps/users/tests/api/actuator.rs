//! The actuator: Spring's shapes, and what its endpoints change.

use serde_json::{Value, json};

use crate::World;
use mainstay_rig::{ADMIN_PASSWORD, Call, wait_until};

crate::scenarios![
    every_endpoint_has_the_shape_that_spring_documents,
    the_index_names_what_is_there_and_nothing_else,
    shows_no_secret_anywhere,
    levels_change_what_is_written_while_it_runs,
    levels_reach_the_other_instances,
    caches_are_thrown_away,
    says_what_it_was_built_from,
    operators_end_sessions,
    strangers_see_no_components,
    administrators_reach_it_through_the_main_port,
];

const HISTORY: &str = "CREATE TABLE IF NOT EXISTS flyway_schema_history (
    installed_rank integer PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, type varchar(20) NOT NULL,
    script varchar(1000) NOT NULL, checksum integer, installed_by varchar(100) NOT NULL,
    installed_on timestamp NOT NULL DEFAULT now(), execution_time integer NOT NULL, success boolean NOT NULL);
    INSERT INTO flyway_schema_history VALUES (1, '1', 'Create users table', 'SQL', 'V1__Create_users_table.sql', 17, 'users', now(), 12, true)";

/// Everything under a path of keys; `*` is every key, `[]` every element. `None` stands for "not there".
fn reach<'a>(value: &'a Value, path: &str) -> Vec<Option<&'a Value>> {
    let mut reached = vec![Some(value)];
    // Property names hold dots; only our own keys are taken apart.
    for key in path.split('.') {
        reached = reached
            .into_iter()
            .flat_map(|at| match (at, key) {
                (None, _) => vec![None],
                (Some(at), "*") => at.as_object().map(|o| o.values().map(Some).collect()).unwrap_or(vec![None]),
                (Some(at), "[]") => at.as_array().map(|a| a.iter().map(Some).collect()).unwrap_or(vec![None]),
                (Some(at), key) => vec![at.get(key)],
            })
            .collect();
    }
    reached
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "String" => value.is_string(),
        "Number" => value.is_number(),
        "Boolean" => value.is_boolean(),
        "Array" => value.is_array(),
        "Object" => value.is_object(),
        other => panic!("no kind {other}"),
    }
}

fn every_endpoint_has_the_shape_that_spring_documents(world: &mut World) {
    world.app.management("/actuator/flyway").is(404);
    world.rig.sql("users", HISTORY);
    world.app.get(&world.admin, "/api/users/1").is(200);
    let shapes: Value = serde_json::from_str(include_str!("spring.json")).unwrap();
    for (endpoint, paths) in shapes.as_object().unwrap().iter().filter(|(name, _)| *name != "about") {
        let answer = world.app.management(&format!("/actuator/{endpoint}")).is(200).json();
        for (path, kind) in paths.as_object().unwrap() {
            let kind = kind.as_str().unwrap();
            let (kind, is_optional) = (kind.trim_end_matches('?'), kind.ends_with('?'));
            let found = reach(&answer, path);
            assert!(is_optional || !found.is_empty(), "{endpoint}: nothing at {path} in {answer}");
            for value in found {
                match value {
                    None | Some(Value::Null) => assert!(is_optional, "{endpoint}: no {path} in {answer}"),
                    Some(value) => assert!(is_of(value, kind), "{endpoint}: {path} is {value}, wanted {kind}"),
                }
            }
        }
    }
    world.rig.sql("users", "DROP TABLE flyway_schema_history");
}

fn the_index_names_what_is_there_and_nothing_else(world: &mut World) {
    let index = world.app.management("/actuator").is(200).json();
    let links = index["_links"].as_object().unwrap();
    for (name, link) in links {
        let path = link["href"].as_str().unwrap().strip_prefix("http://app.localhost").unwrap();
        assert_eq!(link["templated"].as_bool().unwrap(), path.contains('{'), "{name}");
        // The table of migrations is not there: the rig ran them by hand.
        if !path.contains('{') && name != "flyway" {
            world.app.management(path).is(200);
        }
    }
    for absent in ["beans", "conditions", "heapdump", "shutdown"] {
        assert!(!links.contains_key(absent));
        world.app.management(&format!("/actuator/{absent}")).is(404);
    }
}

fn says_what_it_was_built_from(world: &mut World) {
    let answer = world.app.management("/actuator/sbom/application").is(200);
    assert_eq!(answer.header("content-type"), Some("application/vnd.cyclonedx+json"));
    let bill = answer.json();
    let has = |name: &str| bill["components"].as_array().unwrap().iter().any(|one| one["name"] == name);
    assert!(has("axum") && has("mainstay-kit") && has("tokio-postgres"), "what it stands on is missing");
    assert!(!has("pingora-core"), "what others of the lock file need is no part of it");
    world.app.management("/actuator/sbom/other").is(404);
    let git = world.app.management("/actuator/info").is(200).json()["git"].clone();
    let head = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    match head.ok().filter(|head| head.status.success()) {
        Some(head) => assert_eq!(git["commit"]["id"], String::from_utf8_lossy(&head.stdout).trim()),
        None => assert!(git.is_null(), "{git}"),
    }
}

fn shows_no_secret_anywhere(world: &mut World) {
    for endpoint in ["env", "env/ADMIN_PASSWORD", "configprops", "httpexchanges", "sessions", "startup", "info"] {
        let text = world.app.management(&format!("/actuator/{endpoint}")).is(200).text;
        for secret in [ADMIN_PASSWORD, &world.admin, "user=postgres", "Bearer "] {
            assert!(!text.contains(secret), "{endpoint} shows {secret}");
        }
    }
    let shown = world.app.management("/actuator/env/ADMIN_PASSWORD").is(200).json();
    assert_eq!(shown["property"]["value"], "******");
    assert_eq!(world.app.management("/actuator/env/PORT").is(200).json()["property"]["value"], "0");
    world.app.management("/actuator/env/NOT_THERE").is(404);
    let properties = world.app.management("/actuator/configprops").is(200).json();
    let bean = &properties["contexts"]["application"]["beans"]["users.Config"];
    assert_eq!(bean["properties"]["databasePool"], "10");
    assert_eq!(bean["inputs"]["databasePool"]["origin"], "default");
}

fn set(world: &World, logger: &str, level: Value) -> mainstay_rig::Answer {
    let path = format!("/actuator/loggers/{logger}");
    world.app.manage(Call::new("POST", &path).body(json!({ "configuredLevel": level })))
}

fn levels_change_what_is_written_while_it_runs(world: &mut World) {
    let read = || world.app.get(&world.admin, "/api/users/1").is(200);
    let (lines, debug) = ("\"event\":\"RequestAnswered\"", "\"event\":\"CacheLookedUp\"");
    read();
    wait_until("requests are logged", || world.app.logged(lines) > 0);
    assert_eq!(world.app.logged(debug), 0, "not before it is asked for");
    set(world, "mainstay_kit.cache", json!("debug")).is(204);
    read();
    wait_until("lookups are logged", || world.app.logged(debug) > 0);
    let answer = world.app.management("/actuator/loggers/mainstay_kit.cache").is(200).json();
    assert_eq!(answer, json!({ "configuredLevel": "DEBUG", "effectiveLevel": "DEBUG" }));
    set(world, "mainstay_kit", json!("OFF")).is(204);
    set(world, "mainstay_kit.cache", Value::Null).is(204);
    let answer = world.app.management("/actuator/loggers/mainstay_kit.cache").is(200).json();
    assert_eq!(answer, json!({ "effectiveLevel": "OFF" }));
    let before = (world.app.logged(lines), world.app.logged(debug));
    for _ in 0..5 {
        read();
    }
    set(world, "mainstay_kit", Value::Null).is(204);
    read();
    wait_until("requests are logged again", || world.app.logged(lines) > before.0);
    assert_eq!(world.app.logged(lines), before.0 + 1, "nothing was written while it was off");
    assert_eq!(world.app.logged(debug), before.1);
    set(world, "ROOT", json!("LOUD")).is(422);
    set(world, "a..b", json!("INFO")).is(422);
    world.app.management("/actuator/loggers/not.there").is(404);
}

fn levels_reach_the_other_instances(world: &mut World) {
    let other = world.rig.app_with(&[("REQUESTS_PER_MINUTE", "0")]);
    set(world, "users.somewhere", json!("TRACE")).is(204);
    let level = || other.management("/actuator/loggers/users.somewhere");
    wait_until("the other instance follows", || level().status == 200);
    assert_eq!(level().json()["configuredLevel"], "TRACE");
    set(world, "users.somewhere", Value::Null).is(204);
    wait_until("and follows again", || level().status == 404);
}

fn caches_are_thrown_away(world: &mut World) {
    let read = || world.app.get(&world.admin, "/api/users/1").is(200).header("x-cache").unwrap().to_owned();
    read();
    assert_eq!(read(), "hit");
    world.app.manage(Call::new("DELETE", "/actuator/caches/users")).is(204);
    assert_eq!(read(), "miss");
    assert_eq!(read(), "hit");
    world.app.manage(Call::new("DELETE", "/actuator/caches")).is(204);
    assert_eq!(read(), "miss");
    world.app.manage(Call::new("DELETE", "/actuator/caches/none")).is(404);
}

fn operators_end_sessions(world: &mut World) {
    let (_, token) = world.user("ended-by-operator", "viewer");
    let list = world.app.management("/actuator/sessions?username=ended-by-operator").is(200).json();
    let id = list["sessions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 1);
    world.app.management(&format!("/actuator/sessions/{id}")).is(200);
    let end = || world.app.manage(Call::new("DELETE", &format!("/actuator/sessions/{id}")));
    end().is(204);
    world.app.get(&token, "/api/auth/me").is(401);
    end().is(404);
}

fn strangers_see_no_components(world: &mut World) {
    let through_edge = |token: Option<&str>| {
        let call = Call::new("GET", "/actuator/health").header("x-forwarded-for", "192.0.2.7");
        world.app.manage(match token {
            Some(token) => call.token(token),
            None => call,
        })
    };
    assert_eq!(through_edge(None).is(200).json(), json!({ "status": "UP", "groups": ["liveness", "readiness"] }));
    let viewer = world.user("curious", "viewer").1;
    assert!(through_edge(Some(&viewer)).is(200).json().get("components").is_none());
    assert_eq!(through_edge(Some(&world.admin)).is(200).json()["components"]["db"]["status"], "UP");
    let one = Call::new("GET", "/actuator/health/db").header("x-forwarded-for", "192.0.2.7");
    world.app.manage(one).is(404);
}

fn administrators_reach_it_through_the_main_port(world: &mut World) {
    let get = |path: &str| world.app.get(&world.admin, &format!("/api/admin/actuator/{path}"));
    assert_eq!(get("health").is(200).json()["components"]["db"]["status"], "UP");
    assert!(get("metrics").is(200).json()["names"].as_array().unwrap().len() > 10);
    get("prometheus").is(404);
    get("env").is(404);
    let path = "/api/admin/actuator/loggers/users.elsewhere";
    world.app.send("POST", &world.admin, path, json!({ "configuredLevel": "WARN" })).is(204);
    let entry = world.app.get(&world.admin, "/api/audit?limit=1").is(200).json()["content"][0].clone();
    assert_eq!(
        (&entry["action"], &entry["details"]["path"]),
        (&json!("operation.changed"), &json!("/actuator/loggers/users.elsewhere"))
    );
    assert_eq!(get("loggers/users.elsewhere").is(200).json()["effectiveLevel"], "WARN");
    world.app.send("POST", &world.admin, path, json!({ "configuredLevel": null })).is(204);
    let tasks = get("scheduledtasks").is(200).json();
    assert!(tasks.to_string().contains("users.purge-expired-sessions"), "{tasks}");
}
