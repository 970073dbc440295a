//! What one run of a stack is made of: names, ports, passwords. Put together once at the start.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_decide::fleet::Fleet;
use mainstay_decide::maintenance::{self, Switched};
use mainstay_stack::Stack;
use mainstay_stack::identity::{Issuer, Keys};
use mainstay_stack::model::{Probe, RouteTarget};
use mainstay_types::{ChildName, Generation, InstanceId, Secret, ServiceName};
use tokio::sync::watch;

use crate::launch::Launch;
use crate::paths::Paths;
use crate::ports::{self, Ports, Wish};
use crate::secrets::{self, Secrets};

/// Role and database of mainstay's own ledger.
pub(crate) const LEDGER: &str = "mainstay_ledger";

/// Of the command's name among the secrets.
pub(crate) const REDIS_COMMAND: &str = "redis:command";

/// Passwords of a run, by use.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    pub(crate) superuser: Secret,
    pub(crate) replication: Secret,
    pub(crate) monitor: Secret,
    pub(crate) application: Secret,
    pub(crate) ledger: Secret,
    pub(crate) redis_cache: Secret,
    pub(crate) redis_store: Secret,
    /// The name of the command by which a server of the store takes over.
    pub(crate) redis_command: Secret,
    pub(crate) telemetry: Secret,
    pub(crate) pages_token: Secret,
    /// Of further databases' owners and roles, by role.
    pub(crate) further: BTreeMap<String, Secret>,
    /// Secrets that services and routes of the stack file name.
    pub(crate) named: BTreeMap<String, Secret>,
}

impl Passwords {
    pub(crate) fn open(secrets: &mut Secrets, stack: &Stack) -> Result<Self, secrets::Error> {
        let mut named = BTreeMap::new();
        for service in stack.services.values() {
            for name in &service.secrets {
                named.insert(name.clone(), secrets.get_or_make(&format!("named:{name}"))?);
            }
        }
        for name in edge_secrets(stack) {
            named.insert(name.clone(), secrets.get_or_make(&format!("named:{name}"))?);
        }
        let mut further = BTreeMap::new();
        if let Some(database) = &stack.database {
            for role in database.databases.iter().chain(database.roles.keys()) {
                further.insert(role.clone(), secrets.get_or_make(&format!("postgres:role:{role}"))?);
            }
        }
        Ok(Self {
            superuser: secrets.get_or_make("postgres:superuser")?,
            replication: secrets.get_or_make("postgres:replication")?,
            monitor: secrets.get_or_make("postgres:monitor")?,
            application: secrets.get_or_make("postgres:application")?,
            ledger: secrets.get_or_make("postgres:ledger")?,
            redis_cache: secrets.get_or_make("redis:cache")?,
            redis_store: secrets.get_or_make("redis:store")?,
            redis_command: secrets.get_or_make(REDIS_COMMAND)?,
            telemetry: secrets.get_or_make("telemetry")?,
            pages_token: secrets.get_or_make("pages-token")?,
            further,
            named,
        })
    }
}

/// Ports of a run, by use.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) https: u16,
    pub(crate) http: u16,
    pub(crate) console: u16,
    pub(crate) write: u16,
    pub(crate) read: u16,
    pub(crate) redis_cache: u16,
    pub(crate) redis_store: u16,
    pub(crate) prometheus: u16,
    pub(crate) alertmanager: u16,
    pub(crate) instances: BTreeMap<InstanceId, u16>,
    pub(crate) management: BTreeMap<InstanceId, u16>,
}

impl Doors {
    /// Every port that the stack needs. Those of doors were chosen by `up`; the others are chosen here once.
    pub(crate) fn choose(ports: &mut Ports, stack: &Stack, fleet: &Fleet) -> Result<Self, ports::Error> {
        let mut any = |purpose: &str| ports.choose(purpose, Wish::Any, false);
        let mut instances = BTreeMap::new();
        let mut management = BTreeMap::new();
        for (name, service) in &stack.services {
            for id in fleet.most(name, service) {
                if service.has_port {
                    instances.insert(id.clone(), any(&format!("instance:{id}"))?);
                }
                if service.has_management_port {
                    management.insert(id.clone(), any(&format!("management:{id}"))?);
                }
            }
        }
        let redis_cache = any("redis-cache")?;
        let redis_store = any("redis-store")?;
        let prometheus = any("prometheus")?;
        let alertmanager = any("alertmanager")?;
        let mut door = |purpose: &str, port: u16| ports.choose(purpose, Wish::Default(port), false);
        let database = stack.database.as_ref();
        Ok(Self {
            https: door("edge-https", stack.edge.https_port)?,
            http: door("edge-http", stack.edge.http_port)?,
            console: door("console", stack.console.port)?,
            write: door("router-write", database.map_or(6432, |database| database.write_port))?,
            read: door("router-read", database.map_or(6433, |database| database.read_port))?,
            redis_cache,
            redis_store,
            prometheus,
            alertmanager,
            instances,
            management,
        })
    }

    /// The port that a probe or scrape of an instance goes to.
    pub(crate) fn of(&self, id: &InstanceId, management: bool) -> Option<u16> {
        if management { self.management.get(id) } else { self.instances.get(id) }.copied()
    }
}

/// Everything about this run that does not change, and what persons switched of it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) paths: Paths,
    pub(crate) launch: Launch,
    pub(crate) stack: Stack,
    /// SHA-256 of the stack file: drills are remembered with it.
    pub(crate) stack_hash: String,
    pub(crate) passwords: Passwords,
    pub(crate) doors: Doors,
    pub(crate) generation: Generation,
    /// How the database's WAL is archived, when it is.
    pub(crate) archive: Option<mainstay_postgres::config::Archive>,
    /// Who signs certificates of clients, in PEM; empty: nobody.
    pub(crate) client_ca: watch::Sender<String>,
    /// Routes in maintenance by hand.
    pub(crate) switched: watch::Sender<Switched>,
}

impl Settings {
    /// The name of the application's role and database.
    pub(crate) fn database_name(&self) -> Option<&str> {
        self.stack.database.as_ref().map(|database| database.name.as_str())
    }

    /// Addresses people use, by what they are.
    pub(crate) fn urls(&self) -> BTreeMap<String, String> {
        let doors = &self.doors;
        let mut urls = BTreeMap::from([
            ("site".to_owned(), format!("https://{}:{}", self.stack.edge.host, doors.https)),
            ("console".to_owned(), format!("http://console.localhost:{}", doors.console)),
        ]);
        if self.stack.database.is_some() {
            let router = format!("127.0.0.1:{} (write) :{} (read)", doors.write, doors.read);
            urls.insert("router".to_owned(), router);
        }
        if self.stack.observe.enabled {
            urls.insert("prometheus".to_owned(), format!("http://127.0.0.1:{}", doors.prometheus));
        }
        urls
    }

    /// Where a child answers, as text for people.
    pub(crate) fn address_of(&self, child: &ChildName) -> Option<String> {
        let doors = &self.doors;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let name = child.as_str();
        let address = match name {
            "edge" => {
                let host = &self.stack.edge.host;
                format!("https://{host}:{}, http://{host}:{}", doors.https, doors.http)
            }
            "router" => format!("{} (write), {} (read)", local(doors.write), local(doors.read)),
            "cache" => local(doors.redis_cache),
            "store" | "store-b" | "store-c" => {
                let record = mainstay_cache::replicas::record(&self.paths.state).ok()?.unwrap_or_default();
                if mainstay_decide::replicas::child_of(record.primary) == *child {
                    local(doors.redis_store)
                } else {
                    // A replica has no port.
                    let member = name.strip_prefix("store-").unwrap_or("a");
                    self.paths.runtime.join(format!("redis-store-{member}/redis.sock")).display().to_string()
                }
            }
            "prometheus" => local(doors.prometheus),
            "alertmanager" => local(doors.alertmanager),
            "control" => local(doors.console),
            _ => {
                if let Some(member) = name.strip_prefix("postgres-") {
                    return Some(self.paths.runtime.join(format!("pg-{member}")).display().to_string());
                }
                let is_it = |id: &&InstanceId| id.to_string() == name;
                let id = doors.instances.keys().find(is_it)?;
                match (doors.of(id, false), doors.of(id, true)) {
                    (Some(port), Some(management)) => format!("{}, management {}", local(port), local(management)),
                    (Some(port), None) => local(port),
                    (None, _) => return None,
                }
            }
        };
        Some(address)
    }

    fn dsn(&self, role: &str, database: &str, password: &Secret, port: u16) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{port}/{database}", password.expose())
    }

    /// The password of a role that applications connect as.
    fn password_of(&self, role: &str) -> &Secret {
        self.passwords.further.get(role).unwrap_or(&self.passwords.application)
    }

    /// DSN of the application; `read`: through the read door.
    pub(crate) fn application_dsn(&self, read: bool) -> Option<Secret> {
        let name = self.database_name()?;
        let port = if read { self.doors.read } else { self.doors.write };
        Some(Secret::new(self.dsn(name, name, &self.passwords.application, port)))
    }

    /// DSN of the ledger.
    pub(crate) fn ledger_dsn(&self) -> Secret {
        Secret::new(self.dsn(LEDGER, LEDGER, &self.passwords.ledger, self.doors.write))
    }

    /// Everything a service may use in templates, and is given as it is; `PORT` and the instance come on top.
    pub(crate) fn service_names(&self, name: &ServiceName) -> BTreeMap<String, String> {
        let launch = &self.launch;
        let mut names = BTreeMap::from([
            ("MAINSTAY_STACK".to_owned(), launch.stack.to_string()),
            ("MAINSTAY_ENVIRONMENT".to_owned(), launch.environment.to_string()),
            ("MAINSTAY_SERVICE".to_owned(), name.to_string()),
            ("MAINSTAY_RELEASE".to_owned(), format!("v{}", launch.release)),
        ]);
        let Some(service) = self.stack.services.get(name) else { return names };
        let mut put = |name: &str, value: String| {
            names.insert(name.to_owned(), value);
        };
        if let (true, Some(known)) = (service.uses_database, &self.stack.database) {
            let (role, database) = known.connection(service.database.as_ref());
            let password = self.password_of(role);
            put("DATABASE_URL", self.dsn(role, database, password, self.doors.write));
            put("DATABASE_READ_URL", self.dsn(role, database, password, self.doors.read));
            put("DATABASE_HOST", "127.0.0.1".to_owned());
            put("DATABASE_PORT", self.doors.write.to_string());
            put("DATABASE_READ_PORT", self.doors.read.to_string());
            put("DATABASE_NAME", database.to_owned());
            put("DATABASE_USER", role.to_owned());
            put("DATABASE_POOL", service.pool.to_string());
            put("DATABASE_PASSWORD", password.expose().to_owned());
        }
        if service.uses_cache && self.stack.cache.is_some() {
            let url = |password: &Secret, port: u16| format!("redis://:{}@127.0.0.1:{port}/0", password.expose());
            let socket = |kind: &str| self.paths.runtime.join(format!("redis-{kind}/redis.sock")).display().to_string();
            put("REDIS_URL", url(&self.passwords.redis_cache, self.doors.redis_cache));
            put("REDIS_STORE_URL", url(&self.passwords.redis_store, self.doors.redis_store));
            put("REDIS_SOCKET", socket("cache"));
            put("REDIS_STORE_SOCKET", socket("store"));
            put("REDIS_PASSWORD", self.passwords.redis_cache.expose().to_owned());
            put("REDIS_STORE_PASSWORD", self.passwords.redis_store.expose().to_owned());
        }
        for secret in &service.secrets {
            if let Some(value) = self.passwords.named.get(secret) {
                put(secret, value.expose().to_owned());
            }
        }
        names
    }

    /// The environment of a service's processes. With an instance: its ports too.
    ///
    /// **Errors**: a template of the stack file does not expand; the stack crate checks that beforehand.
    pub(crate) fn service_env(
        &self,
        name: &ServiceName,
        instance: Option<&InstanceId>,
    ) -> Result<BTreeMap<String, Secret>, String> {
        let mut names = self.service_names(name);
        if let Some(id) = instance {
            names.insert("MAINSTAY_INSTANCE".to_owned(), id.to_string());
            if let Some(port) = self.doors.of(id, false) {
                names.insert("PORT".to_owned(), port.to_string());
            }
            if let Some(port) = self.doors.of(id, true) {
                names.insert("MANAGEMENT_PORT".to_owned(), port.to_string());
            }
        }
        let mut env: BTreeMap<String, String> = names.clone();
        for inherited in ["PATH", "LANG", "TZ"] {
            if let Ok(value) = std::env::var(inherited) {
                env.insert(inherited.to_owned(), value);
            }
        }
        let home = self.paths.state.join("home").join(name.as_str());
        env.insert("HOME".to_owned(), home.display().to_string());
        let service = self.stack.services.get(name).ok_or_else(|| format!("there is no service {name}"))?;
        for (key, template) in &service.env {
            // A template that needs an instance's port means nothing to the service as a whole.
            match mainstay_stack::template::expand(template, &names) {
                Ok(value) => {
                    env.insert(key.clone(), value);
                }
                Err(_) if instance.is_none() => {}
                Err(error) => return Err(format!("env {key} of service {name}: {error}")),
            }
        }
        Ok(env.into_iter().map(|(key, value)| (key, Secret::new(value))).collect())
    }

    /// The edge's policy, but for certificates.
    pub(crate) fn edge_policy(
        &self,
        certificate: mainstay_edge::protocol::Certificate,
    ) -> mainstay_edge::protocol::Policy {
        use mainstay_edge::protocol::{Policy, Route, Target};
        let routes = self.stack.edge.routes.iter().map(|route| Route {
            path: route.path.clone(),
            to: match &route.to {
                RouteTarget::Service { name, management } => {
                    Target::Upstream { name: upstream_name(name, *management) }
                }
                RouteTarget::Site { name } => {
                    let site = self.stack.sites.get(name);
                    let dir = site.map_or_else(PathBuf::new, |site| self.launch.folder.join(&site.dir));
                    let cache = site.map_or_else(Default::default, |site| site.cache);
                    Target::Site { dir, spa: site.is_some_and(|site| site.spa), cache }
                }
                RouteTarget::Redirect { location, status } => {
                    Target::Redirect { location: location.clone(), status: *status }
                }
            },
            timeout_ms: u64::try_from(route.timeout.as_millis()).unwrap_or(u64::MAX),
            limits: route.limits.clone(),
            is_exempt: route.is_exempt,
            admission: route.admission.clone(),
            headers: self.edge_headers(&route.headers),
            cors: route.cors.clone(),
            body_limit: route.body_limit.0,
            balancing: route.balancing.clone(),
            compress: route.compress.map(|from| from.0),
            edits: route.edits.clone(),
            basic_auth: self.basic_auth(route),
            identity: route.identity.clone(),
            client_certificate: route.client_certificate,
            maintenance_s: self.maintenance_s(&route.path),
        });
        let issuers = self.issuers();
        let client_ca = self.stack.edge.client_ca.as_ref().map(|_| self.client_ca.borrow().clone());
        Policy {
            schema: Policy::schema_of(&issuers, client_ca.as_ref()),
            generation: self.generation,
            hosts: self.stack.edge.hosts(),
            certificates: vec![certificate],
            challenges: Default::default(),
            https_port: self.doors.https,
            limits: self.stack.edge.limits.clone(),
            admission: self.stack.edge.admission.clone(),
            connections_per_ip: self.stack.edge.connections_per_ip,
            least_tls: self.stack.edge.least_tls,
            issuers,
            client_ca,
            routes: routes.collect(),
            upstreams: self.edge_upstreams(),
            access_log: self.paths.access_log(),
        }
    }

    /// What clients of a route are told to wait while it is in maintenance, by the stack file or by hand.
    pub(crate) fn maintenance_s(&self, route: &str) -> Option<u64> {
        maintenance::retry_after_s(&self.stack, &self.switched.borrow(), route)
    }

    fn edge_upstreams(&self) -> BTreeMap<String, mainstay_edge::protocol::Upstream> {
        let mut upstreams = BTreeMap::new();
        let hold_ms = u64::try_from(self.stack.edge.hold.as_millis()).unwrap_or(u64::MAX);
        for (name, service) in self.stack.services.iter().filter(|(_, service)| service.has_port) {
            for management in [false, true] {
                if management && !service.has_management_port {
                    continue;
                }
                let health_path = match &service.health.probe {
                    Probe::Http { path, management: on_management } if *on_management == management => {
                        Some(path.clone())
                    }
                    Probe::Http { .. } | Probe::Tcp | Probe::Process => None,
                };
                let hold_requests = self.stack.edge.hold_requests;
                let resilience = self.stack.edge.resilience.clone();
                let upstream = mainstay_edge::protocol::Upstream { health_path, hold_ms, hold_requests, resilience };
                upstreams.insert(upstream_name(name, management), upstream);
            }
        }
        upstreams
    }

    /// The users of a route. The salt is the same in each run: a policy that says the same is the same.
    fn basic_auth(&self, route: &mainstay_stack::model::Route) -> Option<mainstay_edge::protocol::BasicAuth> {
        if route.basic_auth.is_empty() {
            return None;
        }
        let users = route.basic_auth.iter();
        let users = users.filter_map(|(user, secret)| Some((user.as_str(), self.passwords.named.get(secret)?)));
        let salt = format!("{}{}", self.stack.name, route.path);
        Some(mainstay_edge::protocol::BasicAuth::new(&salt, users))
    }

    /// The folder of the edge's own state.
    pub(crate) fn edge_folder(&self) -> PathBuf {
        self.paths.state.join("edge")
    }

    fn issuers(&self) -> BTreeMap<String, mainstay_edge::protocol::Issuer> {
        let issuer = |(name, issuer): (&String, &Issuer)| {
            let secret = match &issuer.keys {
                Keys::Secret { name } => self.passwords.named.get(name).cloned(),
                Keys::File { .. } | Keys::Url { .. } => None,
            };
            let rule = crate::issuers::beside(&self.edge_folder(), name, issuer);
            (name.clone(), mainstay_edge::protocol::Issuer { rule, secret })
        };
        self.stack.edge.identities.iter().map(issuer).collect()
    }

    /// The passwords and keys that routes ask for, by the names of the secrets.
    pub(crate) fn edge_env(&self) -> BTreeMap<String, Secret> {
        let names = edge_secrets(&self.stack);
        names.filter_map(|name| Some((name.clone(), self.passwords.named.get(name)?.clone()))).collect()
    }

    fn edge_headers(&self, of: &mainstay_stack::browser::Headers) -> Vec<mainstay_edge::protocol::Header> {
        let lines = of.lines(&self.stack.edge.host).into_iter();
        let overwrites = of.overwrites;
        lines.map(|(name, value)| mainstay_edge::protocol::Header { name, value, overwrites }).collect()
    }

    /// The router's policy.
    pub(crate) fn router_policy(
        &self,
        certificate: &mainstay_edge::protocol::Certificate,
    ) -> Option<mainstay_router::protocol::Policy> {
        use mainstay_router::protocol::{Identity, PROTOCOL_VERSION, Policy, PoolMode, PoolPolicy};
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let database = self.stack.database.as_ref()?;
        let reserve = mainstay_stack::OWN_CONNECTIONS.min(database.max_connections / 2);
        Some(Policy {
            schema: PROTOCOL_VERSION,
            generation: self.generation,
            roles: database
                .connections()
                .into_iter()
                .map(|(role, _)| (role.to_owned(), self.password_of(role).clone()))
                .chain([(LEDGER.to_owned(), self.passwords.ledger.clone())])
                .collect(),
            databases: std::iter::once(&database.name)
                .chain(&database.databases)
                .cloned()
                .chain([LEDGER.to_owned()])
                .collect(),
            max_clients: MAX_CLIENTS,
            max_servers: database.max_connections.saturating_sub(reserve),
            hold_ms: millis(database.hold),
            pool: PoolPolicy {
                mode: match database.pool_mode {
                    mainstay_stack::model::PoolMode::Session => PoolMode::Session,
                    mainstay_stack::model::PoolMode::Transaction => PoolMode::Transaction,
                },
                size: mainstay_stack::pool_size(&self.stack),
                wait_ms: millis(database.pool.wait),
                queue: database.pool.queue,
                least_idle: database.pool.idle,
                idle_ms: millis(database.pool.idle_timeout),
                lifetime_ms: millis(database.pool.lifetime),
                read_wait_ms: millis(database.pool.read_wait),
            },
            tls: Some(Identity { chain_pem: certificate.chain_pem.clone(), key_pem: certificate.key_pem.clone() }),
        })
    }
}

/// Names of the secrets that the edge needs: passwords of routes, and keys of issuers.
fn edge_secrets(stack: &Stack) -> impl Iterator<Item = &String> {
    let passwords = stack.edge.routes.iter().flat_map(|route| route.basic_auth.values());
    let keys = stack.edge.identities.values().filter_map(|issuer| match &issuer.keys {
        Keys::Secret { name } => Some(name),
        Keys::File { .. } | Keys::Url { .. } => None,
    });
    passwords.chain(keys)
}

/// Client sessions over both doors; an idle one takes about 8 KiB.
const MAX_CLIENTS: u32 = 12_000;

/// The upstream's name: the service's, `NAME:management` for its management port.
pub(crate) fn upstream_name(name: &ServiceName, management: bool) -> String {
    if management { format!("{name}:management") } else { name.to_string() }
}
