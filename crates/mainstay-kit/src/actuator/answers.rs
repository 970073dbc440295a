//! `env`, `configprops`, `mappings`, `caches`: what the service was told, where its paths lead, and
//! what it remembers.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{ManagedCache, Setting, Shared};
use crate::problem::Problem;

/// Spring's text for what must not be shown.
const MASKED: &str = "******";
/// Variables whose values say nothing that must be hidden; every other one is masked.
const HARMLESS: [&str; 9] = [
    "PORT",
    "MANAGEMENT_PORT",
    "MAINSTAY_STACK",
    "MAINSTAY_ENVIRONMENT",
    "MAINSTAY_SERVICE",
    "MAINSTAY_INSTANCE",
    "MAINSTAY_RELEASE",
    "LANG",
    "TZ",
];
const SOURCE: &str = "systemEnvironment";

fn environment(settings: &[Setting]) -> Map<String, Value> {
    let mut properties = Map::new();
    for (name, value) in std::env::vars() {
        let shown = settings.iter().find(|setting| setting.variable == name).and_then(|setting| setting.value.clone());
        let shown = shown.or_else(|| HARMLESS.contains(&name.as_str()).then_some(value));
        let origin = format!("System Environment Property \"{name}\"");
        properties.insert(name, json!({ "value": shown.as_deref().unwrap_or(MASKED), "origin": origin }));
    }
    properties
}

fn defaults(settings: &[Setting]) -> Map<String, Value> {
    let default = |setting: &&Setting| !setting.is_given;
    let shown = |setting: &Setting| json!({ "value": setting.value.as_deref().unwrap_or(MASKED) });
    settings.iter().filter(default).map(|setting| (setting.variable.to_owned(), shown(setting))).collect()
}

fn profiles() -> Value {
    std::env::var("MAINSTAY_ENVIRONMENT").map_or_else(|_| json!([]), |name| json!([name]))
}

pub(super) async fn env(State(management): Shared) -> Json<Value> {
    Json(json!({
        "activeProfiles": profiles(),
        "defaultProfiles": ["default"],
        "propertySources": [
            { "name": SOURCE, "properties": environment(&management.settings) },
            { "name": "defaultProperties", "properties": defaults(&management.settings) },
        ],
    }))
}

pub(super) async fn env_of(State(management): Shared, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let sources = [
        (SOURCE, environment(&management.settings).remove(&name)),
        ("defaultProperties", defaults(&management.settings).remove(&name)),
    ];
    let Some((source, property)) = sources.iter().find_map(|(source, found)| found.as_ref().map(|p| (source, p)))
    else {
        return Err(Problem::not_found("no property of that name"));
    };
    let shown: Vec<Value> = sources
        .iter()
        .map(|(source, found)| match found {
            Some(property) => json!({ "name": source, "property": property }),
            None => json!({ "name": source }),
        })
        .collect();
    Ok(Json(json!({
        "property": { "source": source, "value": property["value"] },
        "activeProfiles": profiles(),
        "defaultProfiles": ["default"],
        "propertySources": shown,
    })))
}

pub(super) async fn configprops(State(management): Shared) -> Json<Value> {
    let (mut properties, mut inputs) = (Map::new(), Map::new());
    for setting in &management.settings {
        let value = json!(setting.value.as_deref().unwrap_or(MASKED));
        let origin = match setting.is_given {
            true => format!("System Environment Property \"{}\"", setting.variable),
            false => "default".to_owned(),
        };
        inputs.insert(setting.name.to_owned(), json!({ "value": value, "origin": origin }));
        properties.insert(setting.name.to_owned(), value);
    }
    let name = management.base.info["app"]["name"].as_str().unwrap_or("application").to_owned();
    let bean = json!({ "prefix": name, "properties": properties, "inputs": inputs });
    Json(json!({ "contexts": { "application": { "beans": { format!("{name}.Config"): bean } } } }))
}

pub(super) async fn mappings(State(management): Shared) -> Json<Value> {
    let shown: Vec<Value> = management
        .routes
        .iter()
        .map(|route| {
            json!({
                "handler": route.handler,
                "predicate": format!("{{{} {}}}", route.method, route.path),
                "details": { "requestMappingConditions": {
                    "consumes": [], "headers": [], "methods": [route.method], "params": [],
                    "patterns": [route.path], "produces": [],
                } },
            })
        })
        .collect();
    // Spring's name for handlers outside a servlet container.
    Json(json!({ "contexts": { "application": { "mappings": { "dispatcherHandlers": { "webHandler": shown } } } } }))
}

fn target(managed: &ManagedCache) -> Value {
    json!({ "target": format!("redis {}*", managed.prefix) })
}

pub(super) async fn caches(State(management): Shared) -> Json<Value> {
    let caches: Map<String, Value> =
        management.caches.iter().map(|managed| (managed.name.to_owned(), target(managed))).collect();
    Json(json!({ "cacheManagers": { "cacheManager": { "caches": caches } } }))
}

pub(super) async fn cache(State(management): Shared, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let managed = management.caches.iter().find(|managed| managed.name == name).ok_or_else(no_cache)?;
    let mut answer = target(managed);
    answer["name"] = json!(name);
    answer["cacheManager"] = json!("cacheManager");
    Ok(Json(answer))
}

pub(super) async fn clear_caches(State(management): Shared) -> Result<StatusCode, Problem> {
    for managed in &management.caches {
        clear(managed).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn clear_cache(State(management): Shared, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let managed = management.caches.iter().find(|managed| managed.name == name).ok_or_else(no_cache)?;
    clear(managed).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(managed: &ManagedCache) -> Result<(), Problem> {
    let forgotten = managed.cache.forget_all(managed.prefix).await;
    forgotten.map(|_| ()).ok_or_else(|| Problem::unavailable("Redis does not answer, nothing was thrown away"))
}

fn no_cache() -> Problem {
    Problem::not_found("no cache of that name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_masked_unless_known_to_be_harmless() {
        let settings = [
            Setting { name: "pool", variable: "PATH", value: Some("shown".into()), is_given: true },
            Setting { name: "key", variable: "KEY", value: None, is_given: false },
        ];
        let shown = environment(&settings);
        assert_eq!(shown["PATH"]["value"], "shown", "the service says that this one may be seen");
        for (name, property) in &shown {
            let is_known = name == "PATH" || HARMLESS.contains(&name.as_str());
            assert!(is_known || property["value"] == MASKED, "{name}");
        }
        assert_eq!(defaults(&settings)["KEY"]["value"], MASKED);
    }
}
