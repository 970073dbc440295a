//! Rules that look at more than one value: ports, needs, connections, durability.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_types::ServiceName;

use crate::balance::Method;
use crate::code::Code;
use crate::context::Context;
use crate::limit::{Limit, LimitKey};
use crate::model::{Database, Durability, PoolMode, Route, Service, Stack};
use crate::read::Draft;
use crate::words::nearest;

/// Connections that mainstay keeps for itself out of `max_connections`: three are PostgreSQL's own for superusers
/// (`superuser_reserved_connections`); the rest are two probes, one exporter, one migration, one drill ledger, one
/// `db psql`, and one spare.
pub const OWN_CONNECTIONS: u32 = 10;

/// Connections of a pool of the router at least: as many as one instance that says nothing has.
const LEAST_POOL: u32 = 10;

/// Circles that are told: mending a few changes the others, and a dense graph has very many.
const MOST_CIRCLES: usize = 8;

/// Checks the whole. Where values are missing, their own diagnostics have been made already.
pub(crate) fn whole(draft: &Draft, ctx: &mut Context<'_>) {
    let stack = &draft.stack;
    ports(stack, ctx);
    needs(&stack.services, ctx);
    child_names(&stack.services, ctx);
    queries(stack, ctx);
    users(stack, ctx);
    clients(stack, ctx);
    if let Some(database) = &stack.database {
        connections(draft, database, ctx);
        roles(&stack.services, database, ctx);
        if database.durability == Durability::Strict && database.standbys == 0 {
            let place = ctx.place(&["database.durability", "database.standbys", "database"]);
            let message = "`database.durability` is \"strict\" with 0 standbys: every write would wait for ever";
            let help = "set `standbys = 1` or more, or `durability = \"balanced\"`";
            ctx.error(Code::StrictAlone, &place, message.to_owned(), help.to_owned());
        }
    }
    if stack.services.is_empty() && stack.sites.is_empty() && stack.database.is_none() && stack.cache.is_none() {
        let message = "this stack runs nothing: it has no service, site, database or cache".to_owned();
        let help = "add a `[service.NAME]` with `run`".to_owned();
        ctx.warning(Code::NothingRuns, &ctx.place(&["stack"]), message, help);
    }
}

/// What counts by user needs somebody who knows users.
fn users(stack: &Stack, ctx: &mut Context<'_>) {
    let help = "add `identity` or `basic_auth`, or write \"ip\", \"header NAME\" or \"cookie NAME\"".to_owned();
    let counts = |limits: &[Limit]| limits.iter().any(|limit| limit.per == LimitKey::User);
    if counts(&stack.edge.limits) && !stack.edge.routes.iter().any(Route::knows_users) {
        let message = "`edge.limit` counts by user, and no route verifies who that is".to_owned();
        ctx.error(Code::BadLimit, &ctx.place(&["edge.limit"]), message, help.clone());
    }
    for (index, route) in stack.edge.routes.iter().enumerate().filter(|(_, route)| !route.knows_users()) {
        let refuse = |key: &str, what: &str, code: Code, ctx: &mut Context<'_>| {
            let path = format!("edge.route[{index}].{key}");
            let message = format!("`{path}` {what} by user, and the route does not verify who that is");
            ctx.error(code, &ctx.place(&[&path]), message, help.clone());
        };
        if counts(&route.limits) {
            refuse("limit", "counts", Code::BadLimit, ctx);
        }
        if route.balancing.method == (Method::Hash { by: LimitKey::User }) {
            refuse("balance", "chooses", Code::BadValue, ctx);
        }
    }
}

/// Certificates of clients need somebody who signs them, and somebody who asks for them.
fn clients(stack: &Stack, ctx: &mut Context<'_>) {
    let asks = |route: &Route| route.client_certificate.is_some();
    if stack.edge.client_ca.is_some() {
        if !stack.edge.routes.iter().any(asks) {
            let message = "`edge.tls.client_ca` is of no use: no route asks clients for a certificate".to_owned();
            let help = "add `client_certificate = \"required\"` to a route, or remove it".to_owned();
            ctx.warning(Code::UsesNothing, &ctx.place(&["edge.tls.client_ca"]), message, help);
        }
        return;
    }
    for (index, _) in stack.edge.routes.iter().enumerate().filter(|(_, route)| asks(route)) {
        let path = format!("edge.route[{index}].client_certificate");
        let message = format!("`{path}` asks for certificates, and the stack does not say who signs them");
        let help =
            "add `client_ca = \"tls/clients.pem\"` to [edge.tls], the certificates of their authorities".to_owned();
        ctx.error(Code::UsesNothing, &ctx.place(&[&path]), message, help);
    }
}

/// A query is answered by Prometheus, which must run.
fn queries(stack: &Stack, ctx: &mut Context<'_>) {
    if stack.observe.enabled {
        return;
    }
    for (name, service) in &stack.services {
        if service.scale.as_ref().is_some_and(|scale| scale.targets.query.is_some()) {
            let path = format!("service.{name}.scale.query");
            let message = format!("`{path}` asks Prometheus, and `observe.enabled` is false");
            ctx.error(Code::UsesNothing, &ctx.place(&[&path]), message, "remove one of the two".to_owned());
        }
    }
}

/// Services connect as roles that there are, to the database that the role may enter.
fn roles(services: &BTreeMap<ServiceName, Service>, database: &Database, ctx: &mut Context<'_>) {
    let databases: BTreeSet<&str> =
        std::iter::once(database.name.as_str()).chain(database.databases.iter().map(String::as_str)).collect();
    for (name, service) in services {
        let Some(wanted) = &service.database else { continue };
        let at = format!("service.{name}.database");
        let known = database.connections();
        let mut refuse = |key: &str, value: &str, what: &str, names: &mut dyn Iterator<Item = &str>| {
            let path = format!("{at}.{key}");
            let help = match nearest(value, names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("declare it in `[database]`, or remove `{key}`"),
            };
            let message =
                format!("`{path}` names \"{}\", which is no {what} of the stack", crate::diagnostic::quote(value));
            ctx.error(Code::UsesNothing, &ctx.place(&[&path]), message, help);
        };
        let role = wanted.role.as_ref().map(|role| (role, known.iter().find(|(one, _)| one == role)));
        match (role, &wanted.name) {
            (Some((role, None)), _) => refuse("role", role, "role", &mut known.iter().map(|(role, _)| *role)),
            (_, Some(of)) if !databases.contains(of.as_str()) => {
                refuse("name", of, "database", &mut databases.iter().copied());
            }
            (Some((role, Some((_, enters)))), Some(of)) if enters != of => {
                let message = format!("`{at}.role` is \"{role}\", which may enter \"{enters}\" and not \"{of}\"");
                let help = format!("remove `name`, or write `name = \"{enters}\"`");
                ctx.error(Code::UsesNothing, &ctx.place(&[&format!("{at}.name")]), message, help);
            }
            _ => {}
        }
    }
}

fn ports(stack: &Stack, ctx: &mut Context<'_>) {
    let mut listeners = vec![
        ("edge.https_port", stack.edge.https_port),
        ("edge.http_port", stack.edge.http_port),
        ("console.port", stack.console.port),
    ];
    if let Some(database) = &stack.database {
        listeners.push(("database.write_port", database.write_port));
        listeners.push(("database.read_port", database.read_port));
    }
    let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
    // The default in the place of a refused port is nobody's wish.
    listeners.retain(|(path, _)| !ctx.is_refused(path));
    for (path, port) in listeners {
        let Some(other) = taken.get(&port).copied() else {
            taken.insert(port, path);
            continue;
        };
        // The one that the file says is the one to change; the other may be a default.
        let (at, against) = if ctx.is_said(path) { (path, other) } else { (other, path) };
        let message = format!("`{at}` is {port}, and so is `{against}`");
        let help = "give one of the two another port from 1024 to 65535".to_owned();
        ctx.error(Code::PortTwice, &ctx.place(&[at]), message, help);
    }
}

/// A service `web-2` beside a service `web` could not be told from its second instance, nor `web-run` from its runs.
fn child_names(services: &BTreeMap<ServiceName, Service>, ctx: &mut Context<'_>) {
    for name in services.keys() {
        let Some((other, end)) = name.as_str().rsplit_once('-') else { continue };
        let Some((_, service)) = services.iter().find(|(one, _)| one.as_str() == other) else { continue };
        let of = match end {
            "before" if service.before.is_some() => "the release command",
            "run" if service.schedule.is_some() => "a run",
            _ if end.bytes().all(|byte| byte.is_ascii_digit()) => "an instance",
            _ => continue,
        };
        let message = format!("service \"{name}\" has the name of {of} of service \"{other}\"");
        let help = format!("name it by what it does, as in `{other}-two`");
        ctx.error(Code::NameShared, &ctx.place(&[&format!("service.{name}")]), message, help);
    }
}

fn needs(services: &BTreeMap<ServiceName, Service>, ctx: &mut Context<'_>) {
    for (name, service) in services {
        let place = ctx.place(&[&format!("service.{name}.needs")]);
        for needed in &service.needs {
            if services.get(needed).is_some_and(|needed| needed.schedule.is_some()) {
                let message = format!("`service.{name}.needs` names \"{needed}\", which runs on a schedule");
                let help = "remove it: what runs on a schedule is never ready to be used".to_owned();
                ctx.error(Code::NotForSchedules, &place, message, help);
                continue;
            }
            if services.contains_key(needed) || ctx.declared.contains(needed.as_str()) && !is_site(needed, ctx) {
                continue;
            }
            let help = match needed.as_str() {
                "database" | "cache" => {
                    "remove it: a service starts after the database and cache that it uses".to_owned()
                }
                other => match nearest(other, services.keys().map(ServiceName::as_str)) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "name a service of this stack, or remove it".to_owned(),
                },
            };
            let message = format!("`service.{name}.needs` names \"{needed}\", which is no service");
            ctx.error(Code::NeedsNothing, &place, message, help);
        }
    }
    for circle in circles(services) {
        let first = circle.first().map(ToString::to_string).unwrap_or_default();
        let mut words: Vec<String> = circle.iter().map(ToString::to_string).collect();
        words.push(first.clone());
        let message = format!("these services wait for each other: {}", words.join(" → "));
        let help = "remove one of them from the `needs` of another: none of them could start first".to_owned();
        ctx.error(Code::NeedsCycle, &ctx.place(&[&format!("service.{first}.needs")]), message, help);
    }
}

/// A site is declared too, and cannot be needed.
fn is_site(name: &ServiceName, ctx: &Context<'_>) -> bool {
    ctx.is_said(&format!("site.{name}"))
}

/// Circles of `needs`, each once, beginning with its first service by name.
fn circles(services: &BTreeMap<ServiceName, Service>) -> Vec<Vec<&ServiceName>> {
    let mut found: Vec<Vec<&ServiceName>> = Vec::new();
    let mut done: BTreeSet<&ServiceName> = BTreeSet::new();
    for start in services.keys() {
        if done.contains(start) || found.len() >= MOST_CIRCLES {
            continue;
        }
        // Depth first with a stack of our own: a long chain must not exhaust the thread's.
        let mut path: Vec<(&ServiceName, Vec<&ServiceName>)> = vec![(start, known_needs(services, start))];
        while let Some((current, pending)) = path.last_mut() {
            let current = *current;
            let Some(next) = pending.pop() else {
                done.insert(current);
                path.pop();
                continue;
            };
            if let Some(at) = path.iter().position(|(name, _)| *name == next) {
                let mut circle: Vec<_> = path[at..].iter().map(|(name, _)| *name).collect();
                let least = circle.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(index, _)| index);
                circle.rotate_left(least);
                if !found.contains(&circle) && found.len() < MOST_CIRCLES {
                    found.push(circle);
                }
            } else if !done.contains(next) {
                path.push((next, known_needs(services, next)));
            }
        }
    }
    found
}

fn known_needs<'s>(services: &'s BTreeMap<ServiceName, Service>, name: &ServiceName) -> Vec<&'s ServiceName> {
    let Some(service) = services.get(name) else { return Vec::new() };
    service.needs.iter().filter_map(|needed| services.get_key_value(needed).map(|(key, _)| key)).collect()
}

/// Connections that the router opens for a role in a database by one port, in transaction mode: as many as the
/// services may have open, so that nobody waits who would not have in session mode.
pub fn pool_size(stack: &Stack) -> u32 {
    let Some(database) = &stack.database else { return 0 };
    let most = database.max_connections.saturating_sub(OWN_CONNECTIONS).max(1);
    let users = stack.services.values().filter(|service| service.uses_database);
    let sum =
        users.fold(0_u32, |sum, service| sum.saturating_add(service.most_instances().saturating_mul(service.pool)));
    database.pool_size.unwrap_or(sum.max(LEAST_POOL)).min(most)
}

/// In session mode every instance may fill its pool at the same moment: after a failover they all do. In transaction
/// mode the router's pool is the bound.
fn connections(draft: &Draft, database: &Database, ctx: &mut Context<'_>) {
    if database.pool_mode == PoolMode::Transaction {
        return pool(database, ctx);
    }
    let users: Vec<_> = draft.stack.services.iter().filter(|(_, service)| service.uses_database).collect();
    let sum = |instances: &dyn Fn(&ServiceName, &Service) -> u32| -> u64 {
        users.iter().map(|(name, service)| u64::from(instances(name, service)) * u64::from(service.pool)).sum()
    };
    if ctx.is_refused("database.max_connections") {
        return;
    }
    let limit = u64::from(database.max_connections);
    let now = sum(&|_, service| service.most_at_once()) + u64::from(OWN_CONNECTIONS);
    let most = |name: &ServiceName, service: &Service| {
        draft.scale_max.get(name).copied().unwrap_or(0).max(service.most_at_once())
    };
    let scaled = sum(&most) + u64::from(OWN_CONNECTIONS);
    if now <= limit && scaled <= limit {
        return;
    }
    let is_now = now > limit;
    let parts: Vec<String> = users
        .iter()
        .map(|(name, service)| {
            let instances = if is_now { service.most_at_once() } else { most(name, service) };
            format!("{name} {instances} × {}", service.pool)
        })
        .collect();
    let wanted = if is_now { now } else { scaled };
    let message = format!(
        "the services may open {} connections ({}), mainstay keeps {OWN_CONNECTIONS}: {wanted} in all, and \
         `database.max_connections` is {limit}",
        wanted - u64::from(OWN_CONNECTIONS),
        parts.join(", "),
    );
    let help = format!("set `max_connections = {wanted}` in `[database]`, or lower `pool` or the number of instances");
    let place = connection_place(&users, ctx);
    if is_now {
        ctx.error(Code::ConnectionBudget, &place, message, help);
    } else {
        // Reached by load, or by hand: the router then makes the surplus wait.
        ctx.warning(Code::ConnectionBudget, &place, message, help);
    }
}

fn pool(database: &Database, ctx: &mut Context<'_>) {
    let Some(size) = database.pool_size else { return };
    let wanted = u64::from(size) + u64::from(OWN_CONNECTIONS);
    let limit = database.max_connections;
    if wanted <= u64::from(limit) || ctx.is_refused("database.max_connections") {
        return;
    }
    let message = format!(
        "the router may open {size} connections (`database.pool_size`), mainstay keeps {OWN_CONNECTIONS}: {wanted} in \
         all, and `database.max_connections` is {limit}"
    );
    let help = format!("set `max_connections = {wanted}` in `[database]`, or lower `pool_size`");
    ctx.error(Code::ConnectionBudget, &ctx.place(&["database.pool_size"]), message, help);
}

/// The value to point at: the limit if it is written, else what the largest user writes.
fn connection_place(users: &[(&ServiceName, &Service)], ctx: &Context<'_>) -> std::ops::Range<usize> {
    let largest = users.iter().max_by_key(|(_, service)| u64::from(service.most_at_once()) * u64::from(service.pool));
    let mut paths = vec!["database.max_connections".to_owned()];
    if let Some((name, _)) = largest {
        for key in ["pool", "instances", "scale.max", "scale.min"] {
            paths.push(format!("service.{name}.{key}"));
        }
    }
    paths.push("database".to_owned());
    ctx.place(&paths.iter().map(String::as_str).collect::<Vec<_>>())
}
