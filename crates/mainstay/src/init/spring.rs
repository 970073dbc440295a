//! What application.properties and application.yml say of a Spring Boot application: where it listens, and under which
//! path it answers whether it is well.
//!
//! **Source**: Spring Boot's reference, "Externalized Configuration" and "Actuator: Monitoring and Management over
//! HTTP". Files of a profile are not read: which profile is active is said elsewhere.

use std::collections::BTreeMap;

use super::Part;
use super::folder::View;
use super::text::reason;
use super::yaml::{self, Node, Value};

/// Where they lie, the one that counts more last.
const FILES: [&str; 3] = [
    "src/main/resources/application.yaml",
    "src/main/resources/application.yml",
    "src/main/resources/application.properties",
];

/// A value, and where it stands.
struct Setting {
    value: String,
    file: String,
    line: usize,
}

/// Values by name, written as Spring compares names: `context-path` and `contextPath` are one.
pub(super) struct Settings(BTreeMap<String, Setting>);

/// Where it answers whether it is well.
pub(super) struct Health {
    pub(super) path: String,
    /// On a port of its own.
    pub(super) is_on_management: bool,
    /// The names of the settings that say so.
    names: Vec<&'static str>,
}

/// Paths that stand before all that the application answers.
const CONTEXT: [&str; 3] = ["server.servlet.context-path", "spring.webflux.base-path", "spring.mvc.servlet.path"];
/// The same, on a port of its own.
const MANAGEMENT_CONTEXT: [&str; 2] = ["management.server.base-path", "management.server.servlet.context-path"];
const PORT: &str = "server.port";
const MANAGEMENT_PORT: &str = "management.server.port";
const BASE: &str = "management.endpoints.web.base-path";
const MAPPED: &str = "management.endpoints.web.path-mapping.health";

impl Settings {
    pub(super) fn read(part: &mut Part, view: &View<'_>) -> Self {
        let mut all = BTreeMap::new();
        for name in FILES {
            let Some(text) = view.text(name) else { continue };
            let file = view.full(name);
            let found = if name.ends_with(".properties") { Ok(properties(text)) } else { documents(&file, text) };
            match found {
                Ok(found) => {
                    let placed = found
                        .into_iter()
                        .map(|(name, value, line)| (plain(&name), Setting { value, file: file.clone(), line }));
                    all.extend(placed);
                }
                Err(unread) => part.open.push(unread),
            }
        }
        Self(all)
    }

    fn get(&self, name: &str) -> Option<&Setting> {
        self.0.get(&plain(name))
    }

    /// Says that the port that is set gives way, since the environment goes before these files.
    pub(super) fn port(&self, part: &mut Part) {
        let Some(setting) = self.get(PORT) else { return };
        if setting.value.contains("{PORT") {
            return;
        }
        let what = format!("it listens on PORT instead of {}", setting.value);
        part.reasons.push(reason(what, &setting.file, Some(setting.line), format!("`{PORT}`")));
    }

    /// Where the actuator answers; an error is what to do about it.
    pub(super) fn health(&self) -> Result<Health, String> {
        let mut health = Health { path: String::new(), is_on_management: false, names: Vec::new() };
        if let Some(setting) = self.get(MANAGEMENT_PORT) {
            if setting.value.starts_with('-') {
                return Err(format!(
                    "{}:{}: `{MANAGEMENT_PORT}` switches the actuator off, so no health path is known: give it a port, or \
                     name another path in `health`",
                    setting.file, setting.line
                ));
            }
            health.is_on_management = self.get(PORT).is_none_or(|port| port.value != setting.value);
            health.names.push(MANAGEMENT_PORT);
        }
        let contexts: &[&'static str] = if health.is_on_management { &MANAGEMENT_CONTEXT } else { &CONTEXT };
        for name in contexts.iter().copied() {
            self.add(&mut health, name, None)?;
        }
        self.add(&mut health, BASE, Some("/actuator"))?;
        self.add(&mut health, MAPPED, Some("/health"))?;
        Ok(health)
    }

    /// Lays one more part to the path.
    fn add(&self, health: &mut Health, name: &'static str, fallback: Option<&str>) -> Result<(), String> {
        let part = match self.get(name) {
            Some(setting) => {
                health.names.push(name);
                let is_path = setting.value.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"\\{}".contains(&byte));
                is_path.then_some(setting.value.as_str()).ok_or_else(|| {
                    format!(
                        "{}:{}: init does not know what `{name}` comes to, and so not the health path: name it in `health`",
                        setting.file, setting.line
                    )
                })?
            }
            None => fallback.unwrap_or_default(),
        };
        let part = part.trim_matches('/');
        if !part.is_empty() {
            health.path.push('/');
            health.path.push_str(part);
        }
        Ok(())
    }

    /// Says where the path is from, as far as these files say it.
    pub(super) fn say(&self, part: &mut Part, health: &Health) {
        for name in &health.names {
            let Some(setting) = self.get(name) else { continue };
            let what = if *name == MANAGEMENT_PORT && health.is_on_management {
                format!("the actuator listens on MANAGEMENT_PORT instead of {}", setting.value)
            } else {
                format!("health {}", health.path)
            };
            part.reasons.push(reason(what, &setting.file, Some(setting.line), format!("`{name}`")));
        }
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|letter| !matches!(letter, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// `${NAME:value}` is `value`: the one that holds where nobody says another.
fn resolved(value: &str) -> String {
    let inner = value.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    // What is `${PORT:8080}` listens on PORT already.
    let fallback = inner.filter(|inner| !inner.starts_with("PORT:")).and_then(|inner| inner.split_once(':'));
    fallback.map_or(value.trim(), |(_, value)| value).to_owned()
}

type Found = Vec<(String, String, usize)>;

/// Whether a document holds only for some.
fn is_conditional(found: &Found) -> bool {
    found.iter().any(|(name, _, _)| {
        let name = plain(name);
        name.starts_with("spring.config.activate.") || name == "spring.profiles"
    })
}

/// `NAME = VALUE` and `NAME: VALUE`; `#---` begins another document.
fn properties(text: &str) -> Found {
    let mut all = Vec::new();
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if matches!(line, "#---" | "!---") {
            all.push(std::mem::take(&mut found));
        } else if !line.starts_with(['#', '!'])
            && let Some((name, value)) = line.split_once(['=', ':'])
        {
            found.push((name.trim().to_owned(), resolved(value), index + 1));
        }
    }
    all.push(found);
    all.into_iter().filter(|found| !is_conditional(found)).flatten().collect()
}

/// What the documents of a YAML file say.
fn documents(file: &str, text: &str) -> Result<Found, String> {
    let mut documents = vec![String::new()];
    for (index, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            // Lines keep their numbers.
            documents.push("\n".repeat(index));
        }
        let last = documents.last_mut();
        let line = if line.trim_end() == "---" { "" } else { line };
        last.into_iter().for_each(|last| last.push_str(&format!("{line}\n")));
    }
    let mut all = Vec::new();
    for document in documents.iter().filter(|document| !document.trim().is_empty()) {
        let root = yaml::read(file, document).map_err(|unread| unread.to_string())?;
        let mut found = Vec::new();
        flatten(&root, "", &mut found);
        if !is_conditional(&found) {
            all.extend(found);
        }
    }
    Ok(all)
}

fn flatten(node: &Node, before: &str, found: &mut Found) {
    match &node.value {
        Value::Map(entries) => {
            for (name, inner) in entries {
                let name = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
                flatten(inner, &name, found);
            }
        }
        Value::Text(text) => found.push((before.to_owned(), resolved(text), node.line)),
        // A list is none of the settings that are looked at; of a profile's condition it is that there is one.
        Value::List(_) | Value::Empty => found.push((before.to_owned(), String::new(), node.line)),
    }
}
