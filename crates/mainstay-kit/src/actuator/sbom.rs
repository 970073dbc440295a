//! `sbom`: what the program was built from, as CycloneDX 1.5, out of the `Cargo.lock` that it was built with.
//!
//! A lock file names what could be linked on any platform and what builds and tests need, so the list is a little longer
//! than the program: a scanner may report what is not in it, and misses nothing that is.
//!
//! **Source**: CycloneDX 1.5 JSON, cyclonedx.org/docs/1.5/json; Spring Boot's Actuator REST API, "Software Bill of
//! Materials".

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Shared;
use crate::problem::Problem;

/// The only one there is, by Spring's name for it.
const ID: &str = "application";

pub(super) async fn ids(State(management): Shared) -> Response {
    match &management.sbom {
        Some(_) => Json(json!({ "ids": [ID] })).into_response(),
        None => Problem::not_found("the actuator has no such path").into_response(),
    }
}

pub(super) async fn one(State(management): Shared, Path(id): Path<String>) -> Response {
    match &management.sbom {
        Some(document) if id == ID => {
            ([(header::CONTENT_TYPE, "application/vnd.cyclonedx+json")], document.to_string()).into_response()
        }
        _ => Problem::not_found("no bill of materials of that name").into_response(),
    }
}

/// One package of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    is_from_registry: bool,
    checksum: Option<&'a str>,
    /// `name`, or `name version` where there are several.
    needs: Vec<&'a str>,
}

impl Package<'_> {
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn is(&self, need: &str) -> bool {
        let mut words = need.split(' ');
        words.next() == Some(self.name) && words.next().is_none_or(|version| version == self.version)
    }
}

/// Cargo writes a lock file itself and always in this form: a key a line.
fn packages(lock: &str) -> Vec<Package<'_>> {
    let blocks = lock.split("[[package]]\n").skip(1);
    let read = |block| {
        let mut package = Package::default();
        for line in str::lines(block) {
            let quoted = || line.split('"').nth(1).unwrap_or_default();
            match line.split_once(' ').map_or(line, |(key, _)| key) {
                "name" => package.name = quoted(),
                "version" => package.version = quoted(),
                "source" => package.is_from_registry = quoted().starts_with("registry+"),
                "checksum" => package.checksum = Some(quoted()),
                // An element of `dependencies` begins with its indentation.
                "" if line.contains('"') => package.needs.push(quoted()),
                _ => {}
            }
        }
        package
    };
    blocks.map(read).collect()
}

/// The bill of materials of a package of a lock file; `None` when the lock file does not have it.
#[must_use]
pub fn cyclonedx(lock: &str, root: &str) -> Option<Value> {
    let all = packages(lock);
    let root = all.iter().find(|package| package.name == root)?;
    let mut reached: BTreeMap<String, &Package<'_>> = BTreeMap::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut open = vec![root];
    while let Some(package) = open.pop() {
        let purl = package.purl();
        if reached.insert(purl.clone(), package).is_some() {
            continue;
        }
        let needs: Vec<_> =
            package.needs.iter().filter_map(|need| all.iter().find(|package| package.is(need))).collect();
        edges.insert(purl, needs.iter().map(|package| package.purl()).collect());
        open.extend(needs);
    }
    let of_root = root.purl();
    let components = reached.iter().filter(|(purl, _)| **purl != of_root).map(|(purl, package)| {
        let mut component =
            json!({ "type": "library", "bom-ref": purl, "name": package.name, "version": package.version });
        // What lies in the same repository is in no registry.
        if package.is_from_registry {
            component["purl"] = json!(purl);
        }
        if let Some(checksum) = package.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    });
    let components: Vec<Value> = components.collect();
    let dependencies: Vec<Value> = edges.iter().map(|(of, on)| json!({ "ref": of, "dependsOn": on })).collect();
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": of_root, "name": root.name, "version": root.version,
        } },
        "components": components,
        "dependencies": dependencies,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 4

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "kit",
 "sha2 0.10.9",
]

[[package]]
name = "kit"
version = "0.1.0"
dependencies = [
 "sha2 0.11.0",
]

[[package]]
name = "other"
version = "9.9.9"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "00"

[[package]]
name = "sha2"
version = "0.10.9"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "0a"

[[package]]
name = "sha2"
version = "0.11.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "0b"
dependencies = [
 "kit",
]
"#;

    #[test]
    fn lists_what_is_reached_from_the_program_each_version_once() {
        let bill = cyclonedx(LOCK, "app").expect("it is there");
        let names: Vec<&str> =
            bill["components"].as_array().expect("a list").iter().filter_map(|one| one["bom-ref"].as_str()).collect();
        assert_eq!(names, ["pkg:cargo/kit@0.1.0", "pkg:cargo/sha2@0.10.9", "pkg:cargo/sha2@0.11.0"]);
        assert_eq!(bill["metadata"]["component"]["name"], "app");
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "0a");
        assert!(bill["components"][0]["purl"].is_null(), "kit is in no registry");
        let of_app = &bill["dependencies"][0];
        assert_eq!(of_app["dependsOn"], json!(["pkg:cargo/kit@0.1.0", "pkg:cargo/sha2@0.10.9"]));
        assert_eq!(cyclonedx(LOCK, "nobody"), None);
    }
}
