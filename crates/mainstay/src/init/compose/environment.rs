//! `environment` of a compose file's service: what the stack gives is left out, what is secret is named and not copied,
//! what leads to another container is said, and the rest is the service's `env`.

use super::given::{self, Place};
use super::{Entry, Node, Value, interpolated, reason};
use crate::init::given::{Setting, Taken, is_secret, is_variable};
use crate::init::{Part, Service};

/// One variable and its line; without a value Compose takes it from whoever calls it.
struct Variable<'n> {
    name: &'n str,
    value: Option<String>,
    line: usize,
}

pub(super) fn take(part: &mut Part, mut service: Option<&mut Service>, file: &str, entry: &Entry<'_>) {
    if let Some(node) = entry.node.get("env_file").filter(|node| !node.is_empty()) {
        part.open.push(format!(
            "{file}:{}: init does not read what `env_file` of {} names: put what it still needs into [service.NAME.env], \
             passwords as names in `secrets`",
            node.line, entry.name
        ));
    }
    let Some(node) = entry.node.get("environment").filter(|node| !node.is_empty()) else { return };
    let mut own = Vec::new();
    for variable in variables(node) {
        let place = Place { file, line: Some(variable.line) };
        let mut taken = Taken::default();
        if let Some(text) = one(&mut taken, &variable, entry, place) {
            own.push(variable.name);
            taken.env.insert(variable.name.to_owned(), text);
        }
        taken.give(part, service.as_deref_mut(), place);
    }
    if !own.is_empty() {
        let what = format!("env {}", own.join(", "));
        part.reasons.push(reason(what, file, Some(node.line), format!("`environment` of {}", entry.name)));
    }
}

/// The line that says PORT: who is told where to listen does so.
pub(super) fn line_of_port(entry: &Entry<'_>) -> Option<usize> {
    let node = entry.node.get("environment")?;
    variables(node).iter().find(|variable| variable.name == "PORT").map(|variable| variable.line)
}

/// The value of a variable of the application's own; everything else is noted.
fn one(taken: &mut Taken, variable: &Variable<'_>, entry: &Entry<'_>, place: given::Place<'_>) -> Option<String> {
    let name = variable.name;
    if !is_variable(name) || name.starts_with("MAINSTAY_") {
        taken.open.push(format!("{place}: a variable of that name cannot be set, and was left out"));
        return None;
    }
    let Some(value) = &variable.value else {
        taken.open.push(format!("{place}: Compose takes {name} from whoever starts it: give it in `env` or `secrets`"));
        return None;
    };
    let setting = match taken.setting(name, value) {
        // Its value is said elsewhere, and is secret all the same.
        Setting::Own if is_secret(name, value) && value.starts_with('$') => Setting::Secret,
        setting => setting,
    };
    let host = entry.hosts.iter().find(|host| leads_to(name, value, host));
    if !matches!(setting, Setting::Own) {
        let is_others = !taken.uses_database && !taken.uses_cache && matches!(setting, Setting::Template(_));
        if let Some(host) = host.filter(|_| is_others) {
            taken.open.push(no_such_name(name, host, place));
        }
        // What is given is no news where nothing else was said.
        if !(matches!(setting, Setting::Given) && name == "PORT") {
            taken.take(name, setting);
        }
        return None;
    }
    if let Some(host) = host {
        taken.open.push(no_such_name(name, host, place));
        return None;
    }
    let plain = value.replace("$$", "");
    if plain.contains('$') {
        taken
            .open
            .push(format!("{place}: {name} is made of variables that Compose takes from elsewhere: give it in `env`"));
        return None;
    }
    Some(value.clone())
}

fn no_such_name(name: &str, host: &str, place: Place<'_>) -> String {
    format!(
        "{place}: {name} leads to the container {host}, and there are no such names here: give it the address that \
         {host} has then, in `env`"
    )
}

/// `api:8000`, `http://api:8000/x`, `amqp://user@api`, and `api` for a variable that is named as an address.
fn leads_to(name: &str, value: &str, host: &str) -> bool {
    let place = value.split_once("://").map_or(value, |(_, rest)| rest);
    let place = place.split(['/', '?', ',']).next().unwrap_or(place);
    let place = place.rsplit('@').next().unwrap_or(place);
    let (bare, port) = place.split_once(':').map_or((place, None), |(bare, port)| (bare, Some(port)));
    let is_place = ["HOST", "HOSTNAME", "SERVER", "SERVERS", "ADDR", "ADDRESS"].iter().any(|end| name.ends_with(end));
    let is_address =
        is_place || value.contains("://") || port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    bare == host && is_address
}

fn variables(node: &Node) -> Vec<Variable<'_>> {
    let value = |node: &Node| match &node.value {
        Value::Text(text) => Some(interpolated(text)),
        Value::Empty | Value::List(_) | Value::Map(_) => None,
    };
    match &node.value {
        Value::Map(entries) => {
            entries.iter().map(|(name, node)| Variable { name, value: value(node), line: node.line }).collect()
        }
        Value::List(items) => items
            .iter()
            .filter_map(|item| {
                let text = item.text()?;
                let (name, value) =
                    text.split_once('=').map_or((text, None), |(name, value)| (name, Some(interpolated(value))));
                Some(Variable { name, value, line: item.line })
            })
            .collect(),
        Value::Empty | Value::Text(_) => Vec::new(),
    }
}
