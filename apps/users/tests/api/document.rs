//! The description of the interface against the interface.

use serde_json::{Value, json};

use crate::World;
use crate::access::{OPEN, PROTECTED};
use mainstay_rig::Call;

crate::scenarios![
    what_is_described_is_served_and_nothing_else,
    says_of_every_operation_whether_it_needs_a_token,
    shows_its_description_on_a_page_that_loads_nothing_from_elsewhere,
];

fn document(world: &World) -> Value {
    world.app.call(Call::new("GET", "/openapi.json")).is(200).json()
}

/// Placeholders filled with something that nobody has.
fn filled(path: &str) -> String {
    path.replace("{id}", "999999")
        .replace("{username}", "nobody")
        .replace("{email}", "nobody@example.org")
        .replace("{session}", "none")
        .replace("{name}", "none")
}

fn what_is_described_is_served_and_nothing_else(world: &mut World) {
    let document = document(world);
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            // Without a token nothing happens, but the path and the method are looked at first.
            let answer = world.app.call(Call::new(method, &filled(path)));
            let is_described = item.get(method.to_lowercase()).is_some();
            operations += usize::from(is_described);
            let needs_token = item[method.to_lowercase()]["security"] != json!([]);
            let is_behind_the_guard = path.starts_with("/api/admin/");
            match (is_described, needs_token) {
                (true, true) => assert_eq!(answer.status, 401, "{method} {path}"),
                (true, false) => assert!(![401, 404, 405].contains(&answer.status), "{method} {path}: {answer:?}"),
                // The guard of the administration is asked before the method is known.
                (false, _) if is_behind_the_guard => assert!([401, 405].contains(&answer.status), "{method} {path}"),
                (false, _) => {
                    assert_eq!(answer.status, 405, "{method} {path} is served and not described");
                    assert!(answer.header("allow").is_some(), "{method} {path}");
                }
            }
        }
    }
    assert_eq!(operations, PROTECTED.len() + OPEN.len(), "the lists of these tests hold every operation");
}

fn says_of_every_operation_whether_it_needs_a_token(world: &mut World) {
    let document = document(world);
    for (method, path) in OPEN {
        assert_eq!(document["paths"][path][method.to_lowercase()]["security"], json!([]), "{method} {path}");
    }
    let mut ids = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            let has_refusal = operation["responses"].get("401").is_some();
            assert!(has_refusal || operation["security"] == json!([]), "{operation}");
        }
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "operation ids are unique");
}

fn shows_its_description_on_a_page_that_loads_nothing_from_elsewhere(world: &mut World) {
    for path in ["/docs", "/docs/docs.js", "/docs/docs.css"] {
        let answer = world.app.call(Call::new("GET", path)).is(200);
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'self'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}
