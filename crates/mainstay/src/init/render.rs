//! A proposal as a short commented stack file.

use super::text::quoted;
use super::{Proposal, Service};

/// Lines of comment are broken here, so that the file reads well at 80 columns.
const WIDTH: usize = 78;

/// The text of `mainstay.toml`.
pub(crate) fn render(proposal: &Proposal) -> String {
    let mut out = String::new();
    out.push_str("# Proposed by `mainstay init`: read it, `mainstay check` it, `mainstay up`.\n");
    out.push_str(&format!("stack = {}\n", quoted(&proposal.stack)));
    routes(&mut out, proposal);
    for service in &proposal.services {
        service_table(&mut out, service);
    }
    for site in &proposal.sites {
        out.push_str(&format!("\n[site.{}]\n", site.name));
        for note in &site.notes {
            comment(&mut out, "# ", "# ", note);
        }
        out.push_str(&format!("dir = {}\n", quoted(&site.dir)));
        out.push_str("spa = true # unknown paths answer with index.html\n");
    }
    if proposal.has_database {
        out.push_str("\n[database] # PostgreSQL, a primary and a standby, given as DATABASE_URL\n");
        match &proposal.migrations {
            Some(dir) => out.push_str(&format!("migrations = {}\n", quoted(dir))),
            None if proposal.migrates_itself || proposal.services.iter().any(|service| service.before.is_some()) => {}
            None => out.push_str("# migrations = \"migrations\" # a folder of V1__name.sql, V2__name.sql\n"),
        }
    }
    if proposal.has_cache {
        out.push_str("\n[cache] # Redis, given as REDIS_URL; REDIS_STORE_URL keeps what must not be evicted\n");
    }
    if !proposal.open.is_empty() {
        out.push_str("\n# Not known, or to be done first:\n");
        for line in &proposal.open {
            comment(&mut out, "# - ", "#   ", line);
        }
    }
    out
}

/// Routes, where more than one part could answer.
fn routes(out: &mut String, proposal: &Proposal) {
    let services: Vec<&str> =
        proposal.services.iter().filter(|service| service.has_port).map(|service| service.name.as_str()).collect();
    let sites: Vec<&str> = proposal.sites.iter().map(|site| site.name.as_str()).collect();
    if services.len() + sites.len() < 2 {
        return;
    }
    let mut routes: Vec<(String, &str)> = Vec::new();
    let (first, others) = match sites.split_first() {
        Some((first, others)) => {
            // The pages are in front, the only service is their API.
            match services.as_slice() {
                [only] => routes.push(("/api/*".to_owned(), only)),
                several => routes.extend(several.iter().map(|name| (format!("/{name}/*"), *name))),
            }
            (*first, others)
        }
        None => (services.first().copied().unwrap_or_default(), services.get(1..).unwrap_or_default()),
    };
    routes.extend(others.iter().map(|name| (format!("/{name}/*"), *name)));
    routes.push(("/*".to_owned(), first));
    comment(out, "\n# ", "# ", "Which path leads where: a guess, since several parts could answer.");
    for (path, to) in routes {
        out.push_str(&format!("[[edge.route]]\npath = {}\nto = {}\n", quoted(&path), quoted(to)));
    }
}

fn service_table(out: &mut String, service: &Service) {
    out.push_str(&format!("\n[service.{}]\n", service.name));
    for note in &service.notes {
        comment(out, "# ", "# ", note);
    }
    out.push_str(&format!("run = {}\n", service.run.toml()));
    if let Some(dir) = &service.dir {
        out.push_str(&format!("dir = {}\n", quoted(dir)));
    }
    if let Some(before) = &service.before {
        out.push_str(&format!("before = {} # once per release\n", before.toml()));
    }
    if service.has_port {
        match service.instances {
            Some(number) => out.push_str(&format!("instances = {number} # as the compose file says\n")),
            None => out.push_str("instances = 2 # one may die, and the other serves\n"),
        }
        if service.has_management_port {
            out.push_str("management_port = true # given as MANAGEMENT_PORT\n");
        }
        match &service.health {
            Some(path) if service.has_management_port => {
                out.push_str(&format!("health = {{ path = {}, port = \"management\" }}\n", quoted(path)));
            }
            Some(path) => out.push_str(&format!("health = {}\n", quoted(path))),
            None => out.push_str("# health = \"/healthz\" # a path that answers 200 when ready\n"),
        }
    } else {
        out.push_str("port = false # a worker\n");
        if let Some(number) = service.instances {
            out.push_str(&format!("instances = {number} # as the compose file says\n"));
        }
    }
    if !service.secrets.is_empty() {
        let names: Vec<String> = service.secrets.iter().map(|name| quoted(name)).collect();
        out.push_str(&format!("secrets = [{}] # generated once, kept sealed\n", names.join(", ")));
    }
    if !service.env.is_empty() {
        out.push_str(&format!("\n[service.{}.env]\n", service.name));
        for (name, value) in &service.env {
            out.push_str(&format!("{name} = {}\n", quoted(value)));
        }
    }
}

/// A comment, broken at blanks.
fn comment(out: &mut String, first: &str, next: &str, text: &str) {
    let mut line = first.to_owned();
    let mut is_empty = true;
    // Names of files may hold anything, and TOML takes no such letter even in a comment.
    let text: String =
        text.chars().map(|letter| if letter.is_control() && letter != '\n' { '?' } else { letter }).collect();
    for word in text.split_whitespace() {
        let width = line.trim_start_matches('\n').chars().count() + word.chars().count();
        if !is_empty && width > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            next.clone_into(&mut line);
        }
        line.push_str(word);
        line.push(' ');
        is_empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}
