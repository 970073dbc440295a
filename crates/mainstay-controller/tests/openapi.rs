//! The routes of the sources and the paths of `docs/reference/openapi.json` are the same, method by method.

use std::collections::BTreeSet;
use std::path::Path;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Every `.route("PATH", METHOD(…))` of a source text.
fn routes(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in text.split(".route(").skip(1) {
        let Some((path, handlers)) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
            panic!("a route whose path is no plain text: {}", &rest[..rest.len().min(60)]);
        };
        let handlers = inside(handlers);
        let methods: Vec<&str> = METHODS.into_iter().filter(|method| calls(handlers, method)).collect();
        assert!(!methods.is_empty(), "the route {path} has no method that this test knows");
        found.extend(methods.into_iter().map(|method| format!("{method} {path}")));
    }
    found
}

/// The text up to the bracket that closes the call.
fn inside(text: &str) -> &str {
    let mut depth = 1;
    let end = text.char_indices().find(|(_, letter)| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

fn calls(handlers: &str, method: &str) -> bool {
    handlers.match_indices(&format!("{method}(")).any(|(at, _)| {
        let before = handlers[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}

fn described() -> BTreeSet<String> {
    let document: serde_json::Value = serde_json::from_str(mainstay_api::OPENAPI).expect("it is JSON");
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, methods): (&String, &serde_json::Value)| {
        let methods = methods.as_object().expect("methods").keys().cloned().collect::<Vec<_>>();
        methods.into_iter().map(|method| format!("{method} {path}")).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).expect("readable"));
        }
    }
}

#[test]
fn every_route_is_described_and_every_description_is_of_a_route() {
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let (routes, described) = (routes(&text), described());
    assert!(routes.len() >= 14, "the routes were not found: {routes:?}");
    let silent: Vec<_> = routes.difference(&described).collect();
    let empty: Vec<_> = described.difference(&routes).collect();
    assert!(silent.is_empty(), "routes that docs/reference/openapi.json does not describe: {silent:?}");
    assert!(empty.is_empty(), "docs/reference/openapi.json describes what is no route: {empty:?}");
}

#[test]
fn the_reader_of_routes_sees_paths_methods_and_line_breaks() {
    let text = "Router::new()\n.route(\n  \"/a/{b}\",\n  get(x).post(forget(y)),\n)\n.route(\"/c\", delete(z))";
    let wanted = ["delete /c", "get /a/{b}", "post /a/{b}"].map(str::to_owned);
    assert_eq!(routes(text), BTreeSet::from(wanted));
}
