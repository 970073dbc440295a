//! Twelve lines run: everything else has a default.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_stack::balance::{Balancing, Resilience};
use mainstay_stack::browser::Headers;
use mainstay_stack::edits::Edits;
use mainstay_stack::model::{
    Cache, Console, Database, Durability, Edge, Health, Observe, PoolLimits, PoolMode, Probe, Promise, Route,
    RouteTarget, Service, Stack, StoreCopies, Target, TlsVersion,
};
use mainstay_stack::network::Admission;
use mainstay_stack::{Origin, computed, parse};
use mainstay_types::{Bytes, EnvironmentName, ServiceName, StackName};

const TWELVE_LINES: &str = r#"# The whole architecture of a small shop.
stack = "my-shop"

[service.backend]
run = "./target/debug/shop --listen 'all of them'"
instances = 2
health = "/healthz"

[database]
migrations = "migrations"

[cache]
"#;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn promise(rto: u64) -> Promise {
    Promise { rto: seconds(rto), rpo: Duration::ZERO, is_declared: false }
}

fn backend() -> Service {
    Service {
        run: ["./target/debug/shop", "--listen", "all of them"].map(str::to_owned).to_vec(),
        dir: PathBuf::from("."),
        has_port: true,
        has_management_port: false,
        instances: 2,
        scale: None,
        schedule: None,
        env: [].into(),
        secrets: [].into(),
        health: Health {
            probe: Probe::Http { path: "/healthz".to_owned(), management: false },
            interval: seconds(10),
            timeout: seconds(5),
            up_after: 2,
            down_after: 3,
            start_within: seconds(60),
        },
        needs: [].into(),
        uses_database: true,
        database: None,
        uses_cache: true,
        pool: 10,
        before: None,
        drain: seconds(30),
        metrics: None,
        memory: None,
        cpu_milli: None,
    }
}

fn edge(service: &ServiceName) -> Edge {
    Edge {
        host: "my-shop.localhost".to_owned(),
        aliases: Vec::new(),
        https_port: 8443,
        http_port: 8080,
        listen: "127.0.0.1".to_owned(),
        limits: Vec::new(),
        admission: Admission::default(),
        hold: seconds(30),
        hold_requests: 1024,
        connections_per_ip: None,
        least_tls: TlsVersion::Tls12,
        certificate: None,
        acme: None,
        client_ca: None,
        resilience: Resilience::default(),
        maintenance: None,
        identities: [].into(),
        routes: vec![Route {
            path: "/*".to_owned(),
            to: RouteTarget::Service { name: service.clone(), management: false },
            timeout: seconds(60),
            limits: Vec::new(),
            is_exempt: false,
            admission: Admission::default(),
            headers: Headers { is_strict: false, overwrites: false, set: [].into() },
            cors: None,
            body_limit: Bytes::mebi(100),
            balancing: Balancing::default(),
            compress: None,
            edits: Edits::default(),
            basic_auth: [].into(),
            identity: None,
            client_certificate: None,
            maintenance: None,
        }],
    }
}

#[test]
fn twelve_lines_are_a_whole_stack() {
    assert_eq!(TWELVE_LINES.lines().count(), 12);
    let environment = EnvironmentName::default();
    let parsed = parse(TWELVE_LINES, "mainstay.toml", &environment).expect("keeps every rule");
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let name = ServiceName::new("backend").unwrap();
    let expected = Stack {
        name: StackName::new("my-shop").unwrap(),
        environment,
        edge: edge(&name),
        services: [(name, backend())].into(),
        sites: [].into(),
        database: Some(Database {
            name: "my_shop".to_owned(),
            standbys: 1,
            durability: Durability::Balanced,
            hang_after: seconds(3),
            hold: seconds(30),
            max_connections: 100,
            pool_mode: PoolMode::Session,
            pool_size: None,
            pool: PoolLimits::default(),
            migrations: Some(PathBuf::from("migrations")),
            write_port: 6432,
            read_port: 6433,
            backup: None,
            databases: [].into(),
            roles: [].into(),
            settings: [].into(),
        }),
        cache: Some(Cache {
            cache_memory: Bytes::mebi(256),
            store_memory: Bytes::mebi(256),
            store_persists: true,
            store_replicas: 0,
            copies: StoreCopies { every: seconds(3600), keep: seconds(86_400), keep_daily: seconds(7 * 86_400) },
        }),
        observe: Observe { enabled: true, scrape: seconds(15), retention: seconds(15 * 86_400) },
        deploy: mainstay_stack::deploy::Deploy::new(None),
        console: Console { port: 7700 },
        target: Target {
            instance_crash: promise(10),
            database_failure: promise(60),
            database_freeze: promise(4),
            standby_loss: Promise { rto: Duration::from_millis(200), ..promise(1) },
            switchover: promise(1),
            scale_up: promise(1),
            scale_down: promise(1),
            deploy: promise(1),
            replication_lag: promise(8),
            pool_exhaustion: promise(5),
            corrupt_page: promise(15),
            disk_full: promise(5),
            edge_crash: promise(1),
            router_crash: promise(1),
            cache_crash: promise(5),
            cache_loss: promise(1),
            store_crash: Promise { rpo: seconds(2), ..promise(5) },
            control_plane_crash: promise(10),
            keep_crash: promise(10),
            restore: Promise { rpo: seconds(60), ..promise(1800) },
            machine_loss: Promise { rpo: seconds(360), ..promise(3600) },
            p95: None,
        },
        drills: mainstay_stack::drills::Drills::default(),
    };
    assert_eq!(parsed.stack, expected);
}

#[test]
fn every_value_says_where_it_comes_from() {
    let parsed = parse(TWELVE_LINES, "mainstay.toml", &EnvironmentName::default()).expect("keeps every rule");
    let values = computed(&parsed);
    let of = |path: &str| {
        let found = values.iter().find(|value| value.path == path);
        let value = found.unwrap_or_else(|| panic!("{path} is missing"));
        (value.value.as_str(), value.origin.clone())
    };
    assert_eq!(of("stack"), ("my-shop", Origin::File { line: 2 }));
    assert_eq!(of("environment"), ("development", Origin::Caller));
    assert_eq!(of("service.backend.instances"), ("2", Origin::File { line: 6 }));
    assert_eq!(of("service.backend.health.path"), ("/healthz", Origin::File { line: 7 }));
    assert_eq!(of("service.backend.health.interval"), ("10s", Origin::Default));
    assert_eq!(of("database.name"), ("my_shop", Origin::Derived { from: "stack".to_owned() }));
    assert_eq!(of("cache.max_memory"), ("256MiB", Origin::Default));
    let paths: std::collections::BTreeSet<&str> = values.iter().map(|value| value.path.as_str()).collect();
    assert_eq!(paths.len(), values.len(), "a path is there twice");
}
