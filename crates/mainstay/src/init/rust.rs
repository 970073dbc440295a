//! Cargo.toml: a web framework among the dependencies makes a package's binary a service.

use toml::de::{DeTable, DeValue};

use super::folder::View;
use super::text::{Command, add_health, add_service, data_tier, first_of, line_at, line_of, port_note, reason};
use super::{Part, Service};

const WEB: [&str; 8] = ["axum", "actix-web", "rocket", "poem", "salvo", "warp", "tide", "hyper"];
const DATABASE: [&str; 8] =
    ["sqlx", "tokio-postgres", "deadpool-postgres", "postgres", "diesel", "diesel-async", "sea-orm", "rbatis"];
const CACHE: [&str; 5] = ["redis", "fred", "deadpool-redis", "bb8-redis", "rustis"];

/// Folders of a workspace that are looked at.
const MOST_MEMBERS: usize = 40;

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let text = view.text("Cargo.toml")?;
    let mut part = Part::default();
    if text.contains("[package]") {
        package(&mut part, view, view, text);
    }
    for inner in members(view) {
        if let Some(text) = inner.text("Cargo.toml") {
            package(&mut part, view, &inner, text);
        }
    }
    if part.services.is_empty() {
        if !view.has("Procfile") {
            return None;
        }
        // It names the program: what it needs counts all the same.
        let file = view.full("Cargo.toml");
        let (table, _) = DeTable::parse_recoverable(text);
        data_tier(&mut part, &file, text, &dependencies(table.get_ref()), &DATABASE, &CACHE);
        return part.says_something().then_some(part);
    }
    part.open.push("the program must be there before `mainstay up`: cargo build --release".to_owned());
    add_health(&mut part, view);
    Some(part)
}

/// The folders of a workspace.
pub(super) fn members<'f>(view: &View<'f>) -> Vec<View<'f>> {
    if !view.text("Cargo.toml").is_some_and(|text| text.contains("[workspace]")) {
        return Vec::new();
    }
    let members = view.paths().filter_map(|path| path.strip_suffix("/Cargo.toml")).take(MOST_MEMBERS);
    members.map(|member| view.inner(member)).collect()
}

/// One package, whose program lands in the target folder of the workspace.
fn package(part: &mut Part, root: &View<'_>, view: &View<'_>, text: &str) {
    let (table, _) = DeTable::parse_recoverable(text);
    let table = table.get_ref();
    let names = dependencies(table);
    let Some(web) = first_of(&names, text, &WEB) else { return };
    let Some(package) = inner(table, "package") else { return };
    let Some(name) = text_of(package, "name") else { return };
    // Else a library that others put to use.
    let Some(program) = program(table, package, view, &name) else { return };
    let file = view.full("Cargo.toml");
    let name_line = package.get("name").map(|value| line_at(text, value.span().start));
    let why = reason("", &file, name_line, "`package.name`");
    part.name.get_or_insert((name, why));
    let mut service = Service::new(&program, Command::new(format!("target/release/{program}")), true);
    if web.name == "rocket" {
        service.env.insert("ROCKET_PORT".to_owned(), "${PORT}".to_owned());
        service.env.insert("ROCKET_ADDRESS".to_owned(), "127.0.0.1".to_owned());
    } else {
        port_note(part, &mut service, view);
    }
    let found = format!("the program `{program}`, with `{}`", web.name);
    let line = line_of(text, &format!("\"{program}\"")).or(name_line);
    let relative = file.strip_prefix(&root.full("")).unwrap_or(&file).to_owned();
    add_service(part, root, service, (&relative, line, found));
    data_tier(part, &file, text, &names, &DATABASE, &CACHE);
}

/// The program that a package makes, as Cargo finds it: it is named, or lies where programs do.
fn program(table: &DeTable<'_>, package: &DeTable<'_>, view: &View<'_>, name: &str) -> Option<String> {
    let named = match table.get("bin").map(|bins| bins.get_ref()) {
        Some(DeValue::Array(bins)) => bins.iter().find_map(|bin| text_of(bin.get_ref().as_table()?, "name")),
        _ => None,
    };
    let of_path = |path: &str| {
        let inner = path.strip_prefix("src/bin/")?;
        let name = inner.strip_suffix("/main.rs").or_else(|| inner.strip_suffix(".rs"))?;
        (!name.contains('/')).then(|| name.to_owned())
    };
    let is_main = view.has("src/main.rs");
    let found = named.or_else(|| is_main.then(|| name.to_owned())).or_else(|| view.paths().find_map(of_path))?;
    Some(text_of(package, "default-run").unwrap_or(found))
}

/// A web framework in a package that makes no program: its Cargo.toml and the framework.
pub(super) fn without_program(view: &View<'_>) -> Option<(String, &'static str)> {
    let mut all = std::iter::once(view.clone()).chain(members(view));
    all.find_map(|view| {
        let text = view.text("Cargo.toml")?;
        let (table, _) = DeTable::parse_recoverable(text);
        let table = table.get_ref();
        let web = first_of(&dependencies(table), text, &WEB)?.name;
        let package = inner(table, "package")?;
        let name = text_of(package, "name")?;
        program(table, package, &view, &name).is_none().then(|| (view.full("Cargo.toml"), web))
    })
}

fn inner<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t DeTable<'i>> {
    table.get(key)?.get_ref().as_table()
}

fn text_of(table: &DeTable<'_>, key: &str) -> Option<String> {
    table.get(key)?.get_ref().as_str().map(str::to_owned)
}

fn dependencies(table: &DeTable<'_>) -> Vec<String> {
    let keys = |table: &DeTable<'_>| table.keys().map(|key| key.get_ref().to_string()).collect::<Vec<_>>();
    inner(table, "dependencies").map(keys).unwrap_or_default()
}
