//! Every effective value with its origin: what `mainstay config --computed` prints.
//!
//! Each struct of the model is taken apart without `..`, so that a new field cannot be forgotten here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use mainstay_types::{Bytes, StoreKind};
use serde::{Deserialize, Serialize};

use crate::Parsed;
use crate::balance::{Balancing, Breaker, Eject, Resilience};
use crate::browser::{Cors, Headers};
use crate::deploy::Deploy;
use crate::drills::{Counter, Drills};
use crate::edits::{Edits, Lines};
use crate::identity::{Entry, Issuer, Keys};
use crate::limit::Limit;
use crate::model::{
    Backup, BackupCopy, BackupTarget, Cache, Console, Database, DatabaseRole, DatabaseUse, Edge, Health, Keep,
    ObjectStore, Observe, OwnCertificate, PoolLimits, PoolMode, Probe, Promise, Route, RouteTarget, Schedule, Service,
    Site, SiteCache, Stack, StoreCopies, Target, TlsVersion,
};
use crate::network::Admission;
use crate::origin::{Origin, Origins};
use crate::read::name_of;
use crate::scale::{Period, Policy, Query, Rules, Scale, Targets};
use crate::tls::{Acme, Challenge, ClientCertificate, LETS_ENCRYPT_STAGING};
use crate::units::{show_cpu, show_duration, show_size};

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputedValue {
    /// Its path in the stack file's own words.
    pub path: String,
    /// The value as the stack file writes it; `none` when there is none.
    pub value: String,
    /// Who says it.
    pub origin: Origin,
    /// What it means for people, where the value alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// All values of a stack, in the order of the stack file.
pub fn computed(parsed: &Parsed) -> Vec<ComputedValue> {
    let mut list = List { origins: &parsed.origins, values: Vec::new() };
    let Stack { name, environment, edge, services, sites, database, cache, observe, console, deploy, target, drills } =
        &parsed.stack;
    list.push("stack", name);
    list.push("environment", environment);
    list.edge(edge);
    for (name, service) in services {
        list.service(&format!("service.{name}"), service);
    }
    for (name, Site { dir, spa, cache }) in sites {
        list.push(&format!("site.{name}.dir"), dir.display());
        list.push(&format!("site.{name}.spa"), spa);
        let cache = match cache {
            SiteCache::Assets => "assets".to_owned(),
            SiteCache::Revalidate => "revalidate".to_owned(),
            SiteCache::NoStore => "none".to_owned(),
            SiteCache::For { time } => show_duration(*time),
        };
        list.push(&format!("site.{name}.cache"), cache);
    }
    match database {
        Some(database) => list.database(database, crate::check::pool_size(&parsed.stack)),
        None => list.push("database", "none"),
    }
    match cache {
        Some(cache) => list.cache(cache),
        None => list.push("cache", "none"),
    }
    let Observe { enabled, scrape, retention } = observe;
    list.push("observe.enabled", enabled);
    list.duration("observe.scrape", *scrape);
    list.duration("observe.retention", *retention);
    let Console { port } = console;
    list.push("console.port", port);
    list.deploy(deploy);
    list.target(target);
    list.drills(drills);
    list.values
}

struct List<'p> {
    origins: &'p Origins,
    values: Vec<ComputedValue>,
}

impl List<'_> {
    fn push(&mut self, path: &str, value: impl Display) {
        let origin = self.origins.of(path);
        self.values.push(ComputedValue { path: path.to_owned(), value: value.to_string(), origin, note: None });
    }

    /// Of the value that was pushed last.
    fn note(&mut self, note: &str) {
        if let Some(last) = self.values.last_mut() {
            last.note = Some(note.to_owned());
        }
    }

    fn duration(&mut self, path: &str, value: Duration) {
        self.push(path, show_duration(value));
    }

    fn size(&mut self, path: &str, value: Bytes) {
        self.push(path, show_size(value));
    }

    /// Texts as an array of the stack file.
    fn texts<T: Display>(&mut self, path: &str, values: impl IntoIterator<Item = T>) {
        let items: Vec<String> = values.into_iter().map(|value| format!("{:?}", value.to_string())).collect();
        self.push(path, format!("[{}]", items.join(", ")));
    }

    fn edge(&mut self, edge: &Edge) {
        let Edge {
            host,
            aliases,
            https_port,
            http_port,
            listen,
            limits,
            admission,
            hold,
            hold_requests,
            connections_per_ip,
            least_tls,
            certificate,
            acme,
            client_ca,
            resilience,
            maintenance,
            identities,
            routes,
        } = edge;
        self.push("edge.host", host);
        self.texts("edge.aliases", aliases);
        self.push("edge.https_port", https_port);
        self.push("edge.http_port", http_port);
        self.push("edge.listen", listen);
        self.limits("edge.limit", limits);
        self.admission("edge", admission);
        self.duration("edge.hold", *hold);
        self.push("edge.hold_requests", hold_requests);
        match connections_per_ip {
            Some(count) => self.push("edge.connections_per_ip", count),
            None => self.push("edge.connections_per_ip", "none"),
        }
        let least = match least_tls {
            TlsVersion::Tls12 => "1.2",
            TlsVersion::Tls13 => "1.3",
        };
        self.push("edge.tls.min", least);
        self.acme(edge, acme.as_ref());
        match certificate {
            Some(OwnCertificate { cert, key }) => {
                self.push("edge.tls.cert", cert.display());
                self.push("edge.tls.key", key.display());
            }
            None => {
                self.push("edge.tls.cert", "none");
                if edge.authority().is_none() {
                    self.note("of the local authority, which `mainstay trust` shows");
                }
            }
        }
        self.push(
            "edge.tls.client_ca",
            client_ca.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
        );
        self.resilience(resilience);
        self.maintenance("edge.maintenance", *maintenance);
        self.identities(identities);
        if routes.is_empty() {
            self.push("edge.route", "[]");
        }
        for (index, route) in routes.iter().enumerate() {
            self.route(&format!("edge.route[{index}]"), route, !edge.limits.is_empty());
        }
    }

    fn acme(&mut self, edge: &Edge, acme: Option<&Acme>) {
        let Some(Acme { directory, email, challenge, roots, external_account }) = acme else {
            self.push("edge.tls.mode", "local");
            return;
        };
        self.push("edge.tls.mode", "acme");
        if edge.authority().is_none() {
            self.note("not here: no public authority signs for this host");
        }
        self.push("edge.tls.directory", directory);
        if directory == LETS_ENCRYPT_STAGING {
            self.note("staging: no browser trusts what it signs");
        }
        self.push("edge.tls.email", email.as_deref().unwrap_or("none"));
        self.push("edge.tls.challenge", challenge.map_or("none", Challenge::text));
        if challenge.is_none() {
            self.note("http-01 and tls-alpn-01 in turn");
        }
        let path =
            |path: Option<&std::path::PathBuf>| path.map_or("none".to_owned(), |path| path.display().to_string());
        self.push("edge.tls.roots", path(roots.as_ref()));
        self.push("edge.tls.external_account.kid", external_account.as_ref().map_or("none", |of| of.kid.as_str()));
        let key_file = external_account.as_ref().map(|of| &of.key_file);
        self.push("edge.tls.external_account.key_file", path(key_file));
    }

    fn route(&mut self, at: &str, route: &Route, has_edge_limits: bool) {
        let Route {
            path,
            to,
            timeout,
            limits,
            is_exempt,
            admission,
            headers,
            cors,
            body_limit,
            balancing,
            compress,
            edits,
            basic_auth,
            identity,
            client_certificate,
            maintenance,
        } = route;
        self.push(&format!("{at}.path"), path);
        match to {
            RouteTarget::Redirect { location, status } => {
                self.push(&format!("{at}.redirect"), format!("{location} ({status})"));
            }
            RouteTarget::Service { .. } | RouteTarget::Site { .. } => self.push(&format!("{at}.to"), name_of(to)),
        }
        self.duration(&format!("{at}.timeout"), *timeout);
        self.limits(&format!("{at}.limit"), limits);
        if limits.is_empty() && !is_exempt && has_edge_limits {
            self.note("those of `edge.limit` count");
        }
        self.admission(at, admission);
        self.headers(&format!("{at}.headers"), headers);
        match cors {
            Some(cors) => self.cors(&format!("{at}.cors"), cors),
            None => self.push(&format!("{at}.cors"), "none"),
        }
        self.size(&format!("{at}.body_limit"), *body_limit);
        if matches!(to, RouteTarget::Service { .. }) {
            self.balancing(at, balancing);
        }
        match compress {
            Some(from) => self.size(&format!("{at}.compress.from"), *from),
            None => self.push(&format!("{at}.compress"), "false"),
        }
        self.edits(at, edits);
        match basic_auth.is_empty() {
            true => self.push(&format!("{at}.basic_auth"), "none"),
            false => self.texts(&format!("{at}.basic_auth"), basic_auth.keys()),
        }
        match identity {
            None => self.push(&format!("{at}.identity"), "none"),
            Some(Entry { issuer, roles }) => {
                self.push(&format!("{at}.identity"), issuer);
                self.push(&format!("{at}.roles"), roles);
            }
        }
        self.push(&format!("{at}.client_certificate"), client_certificate.map_or("none", ClientCertificate::text));
        self.maintenance(&format!("{at}.maintenance"), *maintenance);
    }

    fn identities(&mut self, identities: &BTreeMap<String, Issuer>) {
        for (name, Issuer { issuer, audience, algorithm, keys, typ, leeway, roles }) in identities {
            let at = format!("edge.identity.{name}");
            self.push(&format!("{at}.issuer"), issuer.as_deref().unwrap_or("none"));
            match audience.is_empty() {
                true => self.push(&format!("{at}.audience"), "none"),
                false => self.texts(&format!("{at}.audience"), audience),
            }
            self.push(&format!("{at}.algorithm"), algorithm);
            match keys {
                Keys::Secret { name } => self.push(&format!("{at}.secret"), name),
                Keys::File { path } => self.push(&format!("{at}.key_file"), path.display()),
                Keys::Url { url, roots, is_private, max_age } => {
                    self.push(&format!("{at}.jwks.url"), url);
                    let roots = roots.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
                    self.push(&format!("{at}.jwks.roots"), roots);
                    self.push(&format!("{at}.jwks.private"), is_private);
                    self.duration(&format!("{at}.jwks.max_age"), *max_age);
                }
            }
            self.push(&format!("{at}.type"), typ.as_deref().unwrap_or("none"));
            self.duration(&format!("{at}.leeway"), *leeway);
            self.texts(&format!("{at}.roles"), roles);
        }
    }

    fn edits(&mut self, at: &str, Edits { rewrite, request, response }: &Edits) {
        self.push(&format!("{at}.rewrite"), rewrite.as_deref().unwrap_or("none"));
        for (key, Lines { set, remove }) in [("request_headers", request), ("response_headers", response)] {
            for (name, value) in set {
                self.push(&format!("{at}.{key}.set.{name}"), format!("{value:?}"));
            }
            if !remove.is_empty() {
                self.texts(&format!("{at}.{key}.remove"), remove);
            }
        }
    }

    fn maintenance(&mut self, path: &str, maintenance: Option<Duration>) {
        self.push(path, maintenance.map_or("false".to_owned(), show_duration));
    }

    fn balancing(&mut self, at: &str, Balancing { method, sticky, retries, retry_percent }: &Balancing) {
        self.push(&format!("{at}.balance"), method);
        self.push(&format!("{at}.sticky"), sticky.as_deref().unwrap_or("false"));
        self.push(&format!("{at}.retries"), retries);
        self.push(&format!("{at}.retry_percent"), retry_percent);
    }

    fn resilience(&mut self, Resilience { slow_start, eject, breaker }: &Resilience) {
        self.duration("edge.slow_start", *slow_start);
        match eject {
            None => self.push("edge.eject", "none"),
            Some(Eject { failures, errors_percent, requests, most_percent, least }) => {
                self.push("edge.eject.failures", failures);
                self.push("edge.eject.errors_percent", errors_percent);
                self.push("edge.eject.requests", requests);
                self.push("edge.eject.most_percent", most_percent);
                self.duration("edge.eject.least", *least);
            }
        }
        match breaker {
            None => self.push("edge.breaker", "none"),
            Some(Breaker { errors_percent, requests, open }) => {
                self.push("edge.breaker.errors_percent", errors_percent);
                self.push("edge.breaker.requests", requests);
                self.duration("edge.breaker.open", *open);
            }
        }
    }

    fn admission(&mut self, at: &str, Admission { allow, deny }: &Admission) {
        if allow.is_empty() {
            self.push(&format!("{at}.allow"), "all")
        } else {
            self.texts(&format!("{at}.allow"), allow)
        }
        if deny.is_empty() { self.push(&format!("{at}.deny"), "none") } else { self.texts(&format!("{at}.deny"), deny) }
    }

    fn headers(&mut self, at: &str, Headers { is_strict, overwrites, set }: &Headers) {
        let preset = if *is_strict { "strict" } else { "none" };
        if set.is_empty() && !overwrites {
            return self.push(at, preset);
        }
        self.push(&format!("{at}.preset"), preset);
        self.push(&format!("{at}.overwrite"), overwrites);
        for (name, value) in set {
            self.push(&format!("{at}.set.{name}"), format!("{value:?}"));
        }
    }

    fn cors(&mut self, at: &str, cors: &Cors) {
        let Cors { origins, methods, headers, expose, has_credentials, max_age } = cors;
        self.texts(&format!("{at}.origins"), origins);
        self.texts(&format!("{at}.methods"), methods);
        self.texts(&format!("{at}.headers"), headers);
        self.texts(&format!("{at}.expose"), expose);
        self.push(&format!("{at}.credentials"), has_credentials);
        self.duration(&format!("{at}.max_age"), *max_age);
    }

    fn limits(&mut self, path: &str, limits: &[Limit]) {
        if limits.is_empty() { self.push(path, "none") } else { self.texts(path, limits) }
    }

    fn service(&mut self, at: &str, service: &Service) {
        let Service {
            run,
            dir,
            has_port,
            has_management_port,
            instances,
            scale,
            schedule,
            env,
            secrets,
            health,
            needs,
            uses_database,
            database,
            uses_cache,
            pool,
            before,
            drain,
            metrics,
            memory,
            cpu_milli,
        } = service;
        self.texts(&format!("{at}.run"), run);
        self.push(&format!("{at}.dir"), dir.display());
        self.push(&format!("{at}.port"), has_port);
        self.push(&format!("{at}.management_port"), has_management_port);
        self.push(&format!("{at}.instances"), instances);
        self.scale(&format!("{at}.scale"), scale.as_ref());
        self.schedule(at, schedule.as_ref());
        if env.is_empty() {
            self.push(&format!("{at}.env"), "{}");
        }
        for (name, value) in env {
            self.push(&format!("{at}.env.{name}"), value);
        }
        self.texts(&format!("{at}.secrets"), secrets);
        self.health(&format!("{at}.health"), health);
        self.texts(&format!("{at}.needs"), needs);
        self.push(&format!("{at}.uses.database"), uses_database);
        self.push(&format!("{at}.uses.cache"), uses_cache);
        match database {
            None => self.push(&format!("{at}.database"), "none"),
            Some(DatabaseUse { name, role }) => {
                self.push(&format!("{at}.database.name"), name.as_deref().unwrap_or("none"));
                self.push(&format!("{at}.database.role"), role.as_deref().unwrap_or("none"));
            }
        }
        self.push(&format!("{at}.pool"), pool);
        match before {
            Some(before) => self.texts(&format!("{at}.before"), before),
            None => self.push(&format!("{at}.before"), "none"),
        }
        self.duration(&format!("{at}.drain"), *drain);
        self.push(&format!("{at}.metrics"), metrics.as_deref().unwrap_or("none"));
        self.push(&format!("{at}.resources.memory"), memory.map_or("none".to_owned(), show_size));
        self.push(&format!("{at}.resources.cpu"), cpu_milli.map_or("none".to_owned(), show_cpu));
    }

    fn scale(&mut self, at: &str, scale: Option<&Scale>) {
        let Some(scale) = scale else { return self.push(at, "none") };
        let Scale { min, max, policy, targets, up_tolerance, down_tolerance, up, down, schedule } = scale;
        self.push(&format!("{at}.min"), min);
        self.push(&format!("{at}.max"), max);
        self.push(&format!("{at}.policy"), policy.word());
        let Targets { cpu_percent, memory_percent, requests, latency_p95, query } = targets;
        for (key, value) in [("cpu", cpu_percent), ("memory", memory_percent), ("requests", requests)] {
            self.push(&format!("{at}.{key}"), value.map_or("none".to_owned(), |value| value.to_string()));
        }
        self.push(&format!("{at}.latency_p95"), latency_p95.map_or("none".to_owned(), show_duration));
        match query {
            None => self.push(&format!("{at}.query"), "none"),
            Some(Query { expression, target, is_per_instance }) => {
                self.push(&format!("{at}.query.expression"), format!("{expression:?}"));
                self.push(&format!("{at}.query.target"), target);
                self.push(&format!("{at}.query.per"), if *is_per_instance { "instance" } else { "service" });
            }
        }
        match policy {
            Policy::Hpa => {
                self.push(&format!("{at}.tolerance"), format!("{up_tolerance} up, {down_tolerance} down"));
                for (key, Rules { window, rates, select }) in [("up", up), ("down", down)] {
                    self.duration(&format!("{at}.{key}.window"), *window);
                    self.texts(&format!("{at}.{key}.policies"), rates);
                    self.push(&format!("{at}.{key}.select"), select.word());
                }
            }
            Policy::Step { step, low, cooldown } => {
                self.push(&format!("{at}.step"), step);
                self.push(&format!("{at}.low"), low);
                self.duration(&format!("{at}.cooldown"), *cooldown);
            }
            Policy::TargetTracking { cooldown } => self.duration(&format!("{at}.cooldown"), *cooldown),
            Policy::Schedule => {}
        }
        let periods = schedule.iter().map(|Period { when, min, max }| format!("{when}: {min} to {max}"));
        self.texts(&format!("{at}.schedule"), periods);
    }

    fn schedule(&mut self, at: &str, schedule: Option<&Schedule>) {
        let Some(Schedule { every, timeout, catch_up }) = schedule else {
            return self.push(&format!("{at}.every"), "none");
        };
        self.push(&format!("{at}.every"), every);
        self.duration(&format!("{at}.timeout"), *timeout);
        self.push(&format!("{at}.catch_up"), catch_up);
    }

    fn health(&mut self, at: &str, health: &Health) {
        let Health { probe, interval, timeout, up_after, down_after, start_within } = health;
        match probe {
            Probe::Http { path, management } => {
                self.push(&format!("{at}.path"), path);
                self.push(&format!("{at}.port"), if *management { "management" } else { "main" });
            }
            Probe::Tcp => self.push(&format!("{at}.path"), "tcp"),
            Probe::Process => self.push(&format!("{at}.path"), "process"),
        }
        self.duration(&format!("{at}.interval"), *interval);
        self.duration(&format!("{at}.timeout"), *timeout);
        self.push(&format!("{at}.up_after"), up_after);
        self.push(&format!("{at}.down_after"), down_after);
        self.duration(&format!("{at}.start_within"), *start_within);
    }

    fn database(&mut self, database: &Database, pool_size: u32) {
        let Database {
            name,
            standbys,
            durability,
            hang_after,
            hold,
            max_connections,
            pool_mode,
            pool_size: _,
            pool,
            migrations,
            write_port,
            read_port,
            databases,
            roles,
            settings,
            backup,
        } = database;
        self.push("database.name", name);
        self.push("database.standbys", standbys);
        self.push("database.durability", durability.word());
        self.note(durability.risk(*standbys));
        self.duration("database.hang_after", *hang_after);
        self.duration("database.hold", *hold);
        self.push("database.max_connections", max_connections);
        let mode = match pool_mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        self.push("database.pool_mode", mode);
        self.push("database.pool_size", pool_size);
        let PoolLimits { wait, queue, idle, idle_timeout, lifetime, read_wait } = pool;
        self.duration("database.pool_wait", *wait);
        self.push("database.pool_queue", queue);
        self.push("database.pool_idle", idle);
        self.duration("database.pool_idle_timeout", *idle_timeout);
        self.duration("database.pool_lifetime", *lifetime);
        self.duration("database.read_wait", *read_wait);
        let migrations = migrations.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        self.push("database.migrations", migrations);
        self.push("database.write_port", write_port);
        self.push("database.read_port", read_port);
        match backup {
            None => self.push("database.backup", "none"),
            Some(backup) => self.backup(backup),
        }
        self.texts("database.databases", databases);
        if roles.is_empty() {
            self.push("database.roles", "{}");
        }
        for (name, DatabaseRole { access, database }) in roles {
            self.push(&format!("database.roles.{name}.access"), access.word());
            self.push(&format!("database.roles.{name}.database"), database);
        }
        if settings.is_empty() {
            self.push("database.settings", "{}");
        }
        for (name, value) in settings {
            self.push(&format!("database.settings.{name}"), value);
        }
    }

    fn backup(&mut self, backup: &Backup) {
        let Backup { target, rpo, day_begins, window, proof, keep, asserts, copy } = backup;
        let Keep { hourly, daily, weekly, monthly, yearly, by_hand, deploys } = keep;
        self.push("database.backup.target", target);
        if let BackupTarget::Store(store) = target {
            self.store("database.backup", store);
        }
        self.duration("database.backup.rpo", *rpo);
        let minutes = day_begins.as_secs() / 60;
        self.push("database.backup.at", format!("{:02}:{:02}", minutes / 60, minutes % 60));
        self.duration("database.backup.window", *window);
        self.duration("database.backup.proof", *proof);
        self.texts("database.backup.assert", asserts);
        for (family, kept) in [
            ("hourly", hourly),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
            ("yearly", yearly),
            ("by_hand", by_hand),
            ("deploys", deploys),
        ] {
            self.duration(&format!("database.backup.keep.{family}"), *kept);
        }
        let Some(copy) = copy else { return self.push("database.backup.copy", "none") };
        let BackupCopy { store, rpo } = copy;
        self.push("database.backup.copy.to", &store.address);
        self.store("database.backup.copy", store);
        self.duration("database.backup.copy.rpo", *rpo);
    }

    fn store(&mut self, at: &str, store: &ObjectStore) {
        let ObjectStore { address, endpoint, region, access_key, secret_key, ca } = store;
        let whose = match address.kind() {
            StoreKind::S3 => "Amazon's",
            StoreKind::Google => "Google's",
            StoreKind::Azure => "Azure's",
        };
        self.push(&format!("{at}.endpoint"), endpoint.as_ref().map_or(whose.to_owned(), ToString::to_string));
        self.push(&format!("{at}.region"), region);
        self.push(&format!("{at}.access_key"), access_key);
        self.push(&format!("{at}.secret_key"), secret_key);
        let ca = ca.as_ref().map_or("the system's".to_owned(), |ca| ca.display().to_string());
        self.push(&format!("{at}.ca"), ca);
    }

    fn cache(&mut self, cache: &Cache) {
        let Cache { cache_memory, store_memory, store_persists, store_replicas, copies } = cache;
        self.size("cache.max_memory", *cache_memory);
        self.size("cache.store_max_memory", *store_memory);
        self.push("cache.persist", if *store_persists { "aof" } else { "none" });
        self.push("cache.store_replicas", store_replicas);
        let StoreCopies { every, keep, keep_daily } = copies;
        self.duration("cache.copies.every", *every);
        self.duration("cache.copies.keep", *keep);
        self.duration("cache.copies.keep_daily", *keep_daily);
    }

    fn deploy(&mut self, deploy: &Deploy) {
        let Deploy { strategy, timeout, bake, steps, step, requests, slow, smoke, keep } = deploy;
        self.push("deploy.strategy", strategy);
        self.duration("deploy.timeout", *timeout);
        self.duration("deploy.bake", *bake);
        let share =
            |step: &u16| mainstay_types::Percent::from_milli(u32::from(*step) * 10).to_string().replace(' ', "");
        self.texts("deploy.steps", steps.iter().map(share));
        self.duration("deploy.step", *step);
        self.push("deploy.requests", requests);
        self.duration("deploy.slow", *slow);
        self.texts("deploy.smoke", smoke);
        self.push("deploy.keep", keep);
    }

    fn drills(&mut self, drills: &Drills) {
        let Drills { counter } = drills;
        // The service is no key: it follows from `take` and the routes.
        let Some(Counter { take, read, header, variable, service: _ }) = counter else {
            self.push("drills.counter", "none");
            return;
        };
        self.push("drills.counter.take", take);
        self.push("drills.counter.read", read);
        self.push("drills.counter.header", header);
        self.push("drills.counter.variable", variable.as_deref().unwrap_or("none"));
    }

    fn target(&mut self, target: &Target) {
        let Target {
            instance_crash,
            database_failure,
            database_freeze,
            standby_loss,
            switchover,
            scale_up,
            scale_down,
            deploy,
            replication_lag,
            pool_exhaustion,
            corrupt_page,
            disk_full,
            edge_crash,
            router_crash,
            cache_crash,
            cache_loss,
            store_crash,
            control_plane_crash,
            keep_crash,
            restore,
            machine_loss,
            p95,
        } = target;
        let promises = [
            ("instance_crash", instance_crash),
            ("database_failure", database_failure),
            ("database_freeze", database_freeze),
            ("standby_loss", standby_loss),
            ("switchover", switchover),
            ("scale_up", scale_up),
            ("scale_down", scale_down),
            ("deploy", deploy),
            ("replication_lag", replication_lag),
            ("pool_exhaustion", pool_exhaustion),
            ("corrupt_page", corrupt_page),
            ("disk_full", disk_full),
            ("edge_crash", edge_crash),
            ("router_crash", router_crash),
            ("cache_crash", cache_crash),
            ("cache_loss", cache_loss),
            ("store_crash", store_crash),
            ("control_plane_crash", control_plane_crash),
            ("keep_crash", keep_crash),
            ("restore", restore),
            ("machine_loss", machine_loss),
        ];
        for (key, Promise { rto, rpo, is_declared: _ }) in promises {
            self.duration(&format!("target.{key}.rto"), *rto);
            self.duration(&format!("target.{key}.rpo"), *rpo);
        }
        self.push("target.p95", p95.map_or("none".to_owned(), show_duration));
    }
}
