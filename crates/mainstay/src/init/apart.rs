//! Names that the rules of the stack file take: each once, none that would be an instance of another service's. The
//! rules themselves are asked, so that one that is added there holds here, too.

use mainstay_types::EnvironmentName;

use super::text::{plain, reason};
use super::{Proposal, Service};

/// The rule for names, in few words.
const RULE: &str = "names are a-z, 0-9 and -, begin with a letter, and have at most 32 of these";

/// Gives services and sites names that a stack file takes, and says which are not those that their files say.
pub(super) fn tell(proposal: &mut Proposal) {
    stack(proposal);
    let services = proposal.services.iter().map(|service| service.name.clone());
    let wished: Vec<String> = services.chain(proposal.sites.iter().map(|site| site.name.clone())).collect();
    for (index, chosen) in choose(&wished).into_iter().enumerate() {
        match index.checked_sub(proposal.services.len()) {
            None => service(proposal, index, chosen),
            Some(index) => site(proposal, index, chosen),
        }
    }
}

/// A name, and why it is not the one that was wished.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    name: String,
    why: Option<String>,
}

fn choose(wished: &[String]) -> Vec<Chosen> {
    let mut all: Vec<Chosen> = Vec::new();
    for (index, name) in wished.iter().enumerate() {
        let taken: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        let later: Vec<&str> = wished.iter().skip(index + 1).map(String::as_str).collect();
        let why = fault(name, &taken, &later);
        let fits = |other: &String| !later.contains(&other.as_str()) && fault(other, &taken, &later).is_none();
        let other = why.as_ref().and_then(|_| others(name).find(fits));
        all.push(Chosen { name: other.unwrap_or_else(|| name.clone()), why });
    }
    all
}

/// Why a name cannot be had beside those that are taken and those that are still to come.
fn fault(name: &str, taken: &[&str], later: &[&str]) -> Option<String> {
    if taken.contains(&name) {
        return Some("another part has that name".to_owned());
    }
    if !keeps_the_rules(&[name]) {
        return Some("no service may have that name".to_owned());
    }
    // Of two that cannot stand side by side, the one that begins with the other gives way.
    let to_come = later.iter().filter(|other| name.starts_with(&format!("{other}-")));
    let other = taken.iter().chain(to_come).find(|other| !keeps_the_rules(&[**other, name]))?;
    Some(format!("beside `{other}` it would be the name of an instance"))
}

/// What the rules of the stack file say of services with these names.
fn keeps_the_rules(names: &[&str]) -> bool {
    let tables = names.iter().map(|name| format!("[service.{name}]\nrun = \"x\"\nport = false\n"));
    is_valid(&format!("stack = \"x\"\n{}", tables.collect::<String>()))
}

fn is_valid(text: &str) -> bool {
    mainstay_stack::parse(text, "mainstay.toml", &EnvironmentName::default()).is_ok()
}

/// Names in the place of one that cannot be had: `worker2` for `worker-2`, `web-b` for a second `web`.
fn others(name: &str) -> impl Iterator<Item = String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = name.rsplit_once('-').filter(|(_, number)| is_number(number));
    let stem = numbered.map_or(name, |(stem, _)| stem);
    // With room for what is put behind it.
    let stem = stem.chars().take(26).collect::<String>().trim_end_matches('-').to_owned();
    let glued = numbered.map(|(_, number)| format!("{stem}{number}"));
    let lettered: Vec<String> = ('b'..='z').map(|letter| format!("{stem}-{letter}")).collect();
    glued.into_iter().chain(lettered).chain((2..10_000_u32).map(move |number| format!("{stem}{number}")))
}

/// The stack's name is that of its database, too.
fn stack(proposal: &mut Proposal) {
    let old = proposal.stack.clone();
    let database = if proposal.has_database { "[database]\n" } else { "" };
    let is_free = |name: &str| is_valid(&format!("stack = \"{name}\"\n{database}[cache]\n"));
    let new = format!("my-{}", old.chars().take(29).collect::<String>().trim_end_matches('-'));
    if is_free(&old) || !is_free(&new) {
        return;
    }
    for reason in proposal.reasons.iter_mut().filter(|reason| reason.what == format!("stack {old}")) {
        reason.what = format!("stack {new}, not {old}: PostgreSQL or mainstay uses that name itself");
    }
    proposal.stack = new;
}

fn service(proposal: &mut Proposal, index: usize, chosen: Chosen) {
    let Some(service) = proposal.services.get_mut(index) else { return };
    let called = service.called.clone();
    let old = std::mem::replace(&mut service.name, chosen.name);
    let Some(why) = chosen.why.or_else(|| (plain(&called) != old).then(|| why_of(&called))) else { return };
    service.notes.insert(0, format!("Named {}, not {called}: {why}.", service.name));
    let service = service.clone();
    let new = &service.name;
    let at = proposal.reasons.iter().rposition(|reason| {
        let is_there = service.dir.as_ref().is_none_or(|dir| reason.file.starts_with(dir.as_str()));
        is_there
            && rest_of(&reason.what, &old).is_some_and(|rest| rest.ends_with(&format!("runs {}", service.run.line)))
    });
    // The first reason is that of the stack's name: it is always there.
    let at = at.unwrap_or_default();
    if let Some(of) = proposal.reasons.get_mut(at) {
        if let Some(rest) = rest_of(&of.what, &old).map(str::to_owned) {
            of.what = format!("service {new}{rest}");
        }
        let said = reason(format!("service {new}, not {called}"), &of.file.clone(), of.line, why);
        proposal.reasons.insert(at + 1, said);
    }
    rename(proposal, &old, &service);
}

/// What follows the name in "service NAME, a worker, runs …".
fn rest_of<'t>(what: &'t str, name: &str) -> Option<&'t str> {
    what.strip_prefix("service ")?.strip_prefix(name).filter(|rest| rest.starts_with([' ', ',']))
}

/// What else was said of a service under its old name, when it is nobody's now.
fn rename(proposal: &mut Proposal, old: &str, service: &Service) {
    let new = &service.name;
    if proposal.services.iter().any(|service| service.name == old) {
        return;
    }
    for line in &mut proposal.open {
        *line = line.replace(&format!("[service.{old}]"), &format!("[service.{new}]"));
    }
    for reason in &mut proposal.reasons {
        let rest = reason.what.strip_prefix(old).filter(|rest| rest.starts_with(" is a worker") || *rest == " serves");
        if let Some(rest) = rest {
            reason.what = format!("{new}{rest}");
        } else if let Some(number) = reason.what.strip_suffix(&format!(" instances of {old}")) {
            reason.what = format!("{number} instances of {new}");
        }
    }
}

/// Why a name became another before it met any other.
fn why_of(called: &str) -> String {
    if mainstay_stack::OUR_PARTS.contains(&plain(called).as_str()) {
        return "that is the name of a part of mainstay".to_owned();
    }
    RULE.to_owned()
}

fn site(proposal: &mut Proposal, index: usize, chosen: Chosen) {
    let Some(site) = proposal.sites.get_mut(index) else { return };
    let old = std::mem::replace(&mut site.name, chosen.name);
    let Some(why) = chosen.why else { return };
    site.notes.push(format!("Named {}, not {old}: {why}.", site.name));
    let (new, folder) = (site.name.clone(), site.dir.clone());
    let what = format!("site {old} is the folder {folder}");
    if let Some(at) = proposal.reasons.iter().position(|reason| reason.what == what) {
        let of = &mut proposal.reasons[at];
        of.what = format!("site {new} is the folder {folder}");
        let said = reason(format!("site {new}, not {old}"), &of.file.clone(), of.line, why);
        proposal.reasons.insert(at + 1, said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{Folder, propose, render};

    fn chosen(wished: &[&str]) -> Vec<String> {
        let wished: Vec<String> = wished.iter().map(|name| (*name).to_owned()).collect();
        choose(&wished).into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn a_name_that_the_rules_refuse_beside_another_becomes_one_that_they_take() {
        for (wished, names) in [
            (&["web", "worker", "worker-2"][..], &["web", "worker", "worker2"][..]),
            (&["web-1", "web"], &["web1", "web"]),
            (&["web", "web", "web"], &["web", "web-b", "web-c"]),
            (&["worker", "worker-2", "worker2"], &["worker", "worker-b", "worker2"]),
            (&["a-1-2", "a-1", "a"], &["a-1-b", "a1", "a"]),
            (&["web-2", "worker"], &["web-2", "worker"]),
        ] {
            let found = chosen(wished);
            let all: Vec<&str> = found.iter().map(String::as_str).collect();
            assert!(keeps_the_rules(&all), "{wished:?}: {found:?}");
            assert_eq!(all, names, "{wished:?}");
        }
    }

    /// Every proposal of such files passes, and says which name it changed and why.
    #[test]
    fn a_name_that_was_changed_is_said_in_the_file_and_in_the_reasons() {
        let image = "services:\n  web:\n    build: .\n    ports: [\"1:1\"]\n  web-1:\n    build: .\n    command: ./b\n    scale: 3\n";
        for (file, text, old, new) in [
            ("Procfile", "web: node a.js\nworker: node w.js\nworker-2: node w2.js\n", "worker-2", "worker2"),
            ("Procfile", "web: node a.js\nWeb_2: node w.js\n", "Web_2", "web2"),
            ("Procfile", "web: node a.js\nredis: redis-server\n", "redis", "my-redis"),
            ("Procfile", "web: node a.js\n1web: node b.js\n", "1web", "web-b"),
            ("compose.yaml", image, "web-1", "web1"),
        ] {
            let mut folder = Folder { name: "shop".to_owned(), ..Folder::default() };
            folder.put(file.to_owned(), text.as_bytes());
            let proposal = propose(&folder).expect("a proposal");
            let toml = render(&proposal);
            let parsed = mainstay_stack::parse(&toml, "x", &EnvironmentName::default());
            assert!(parsed.is_ok(), "{text}: {}", parsed.err().map(|found| found.to_string()).unwrap_or_default());
            assert!(toml.contains(&format!("# Named {new}, not {old}: ")), "{toml}");
            let all = format!("{:?}{:?}", proposal.reasons, proposal.open);
            assert!(all.contains(&format!("service {new}, not {old}")), "{all}");
            assert!(
                all.contains(&format!("service {new} runs")) || all.contains(&format!("service {new}, a")),
                "{all}"
            );
            assert!(!all.contains(&format!("service {old} ")) && !all.contains(&format!("[service.{old}]")), "{all}");
            assert!(!all.contains(&format!("{old} is a worker")) && !all.contains(&format!("instances of {old}\"")));
        }
    }

    #[test]
    fn services_of_one_name_in_several_folders_make_a_file_that_is_valid() {
        let mut folder = Folder { name: "public".to_owned(), ..Folder::default() };
        for name in ["a", "b", "c"] {
            let text =
                "{\"name\": \"web\", \"scripts\": {\"start\": \"node x.js\"}, \"dependencies\": {\"pg\": \"8\"}}";
            folder.put(format!("{name}/package.json"), text.as_bytes());
        }
        let proposal = propose(&folder).expect("a proposal");
        let names: Vec<&str> = proposal.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["web", "web-b", "web-c"]);
        assert_eq!(proposal.stack, "my-public", "a database is named after it, and `public` is a schema");
        let text = render(&proposal);
        assert!(mainstay_stack::parse(&text, "x", &EnvironmentName::default()).is_ok(), "{text}");
        let of = |what: &str| proposal.reasons.iter().find(|reason| reason.what.starts_with(what)).map(|one| &one.file);
        assert_eq!(of("service web-c runs").map(String::as_str), Some("c/package.json"), "{:?}", proposal.reasons);
    }
}
