//! Further databases and roles, with a real server: each may do what the stack file says and nothing else.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs")]
mod support;

use std::collections::BTreeMap;

use mainstay_postgres::access::{AccessError, Role};
use mainstay_postgres::{Access, prepare};
use mainstay_stack::model::{DatabaseRole, RoleAccess};
use mainstay_types::{Member, Secret};
use support::Cluster;
use tokio_postgres::error::SqlState;

const A: Member = Member::A;

fn cluster() -> Cluster {
    let mut cluster = Cluster::new("shop");
    let role = |access, database: &str| DatabaseRole { access, database: database.to_owned() };
    cluster.database.databases = ["audit".to_owned()].into();
    cluster.database.roles = BTreeMap::from([
        ("reporting".to_owned(), role(RoleAccess::Read, "shop")),
        ("auditor".to_owned(), role(RoleAccess::Write, "audit")),
        ("worker".to_owned(), role(RoleAccess::Write, "shop")),
    ]);
    cluster
}

fn passwords() -> BTreeMap<String, Secret> {
    ["audit", "reporting", "auditor", "worker"].map(|name| (name.to_owned(), Secret::new(format!("{name}'s")))).into()
}

fn access(cluster: &Cluster, name: &str, database: &str) -> Access {
    let password = passwords()[name].clone();
    Access::as_role(&cluster.layout, A, Role { name, database, password: &password })
}

async fn refused(access: &Access, sql: &str) -> Option<SqlState> {
    let error = access.connect().await.unwrap().batch_execute(sql).await.err()?;
    error.code().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_do_what_the_stack_file_says_and_nothing_else() {
    let mut cluster = cluster();
    cluster.init(A).await;
    cluster.start(A, None).await;
    prepare::prepare(&cluster.access[&A], "shop", &cluster.passwords).await.unwrap();
    let owner = cluster.application(A).connect().await.unwrap();
    owner.batch_execute("CREATE TABLE before (id serial PRIMARY KEY); CREATE SCHEMA more").await.unwrap();
    prepare::further(&cluster.access[&A], &cluster.database, &passwords()).await.unwrap();
    prepare::further(&cluster.access[&A], &cluster.database, &passwords()).await.unwrap();
    owner
        .batch_execute(
            "CREATE TABLE later (id serial PRIMARY KEY, whose text);
             CREATE TABLE more.there (id int); INSERT INTO later (whose) VALUES ('reporting'), ('another');
             ALTER TABLE later ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON later USING (whose = current_user)",
        )
        .await
        .unwrap();

    let denied = Some(SqlState::INSUFFICIENT_PRIVILEGE);
    let reporting = access(&cluster, "reporting", "shop");
    assert_eq!(refused(&reporting, "SELECT * FROM before, more.there").await, None);
    let client = reporting.connect().await.unwrap();
    let rows: i64 = client.query_one("SELECT count(*) FROM later", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1, "row-level security counts for it");
    for sql in ["INSERT INTO before DEFAULT VALUES", "DELETE FROM later", "CREATE TABLE mine ()", "DROP TABLE before"] {
        assert_eq!(refused(&reporting, sql).await, denied, "{sql}");
    }
    let worker = access(&cluster, "worker", "shop");
    assert_eq!(
        refused(&worker, "INSERT INTO before DEFAULT VALUES; UPDATE before SET id = 9; DELETE FROM before").await,
        None
    );
    for sql in ["CREATE TABLE mine ()", "TRUNCATE before", "ALTER TABLE before ADD x int", "SET ROLE shop"] {
        assert_eq!(refused(&worker, sql).await, denied, "{sql}");
    }
    for (name, elsewhere) in [("reporting", "audit"), ("auditor", "shop"), ("worker", "postgres"), ("audit", "shop")] {
        let error = access(&cluster, name, elsewhere).connect().await.unwrap_err();
        assert!(matches!(error, AccessError::Denied { .. }), "{name} in {elsewhere}: {error}");
    }
    let error = cluster.application(A).in_database("audit").connect().await.unwrap_err();
    assert!(matches!(error, AccessError::Denied { .. }), "{error}");
    assert_eq!(refused(&access(&cluster, "audit", "audit"), "CREATE TABLE trail (id int)").await, None);
    assert_eq!(refused(&access(&cluster, "auditor", "audit"), "INSERT INTO trail VALUES (1)").await, None);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_do_less_than_before_can_do_less() {
    let mut cluster = cluster();
    cluster.init(A).await;
    cluster.start(A, None).await;
    prepare::prepare(&cluster.access[&A], "shop", &cluster.passwords).await.unwrap();
    let owner = cluster.application(A).connect().await.unwrap();
    owner.batch_execute("CREATE TABLE t (id serial)").await.unwrap();
    prepare::further(&cluster.access[&A], &cluster.database, &passwords()).await.unwrap();
    let worker = access(&cluster, "worker", "shop");
    assert_eq!(refused(&worker, "INSERT INTO t DEFAULT VALUES").await, None);
    cluster.database.roles.get_mut("worker").unwrap().access = RoleAccess::Read;
    prepare::further(&cluster.access[&A], &cluster.database, &passwords()).await.unwrap();
    owner.batch_execute("CREATE TABLE u (id serial)").await.unwrap();
    for table in ["t", "u"] {
        assert_eq!(refused(&worker, &format!("SELECT * FROM {table}")).await, None);
        let insert = format!("INSERT INTO {table} DEFAULT VALUES");
        assert_eq!(refused(&worker, &insert).await, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{table}");
    }
    cluster.end().await;
}

/// Where statements are logged for their duration, a slow machine had the roles' verifiers in the server's log.
#[tokio::test(flavor = "multi_thread")]
async fn no_verifier_is_written_to_the_log() {
    let mut cluster = cluster();
    cluster.init(A).await;
    cluster.start(A, None).await;
    let superuser = cluster.access[&A].connect().await.unwrap();
    let settings = [
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_min_duration_sample = 0",
        "log_statement_sample_rate = 1",
        "log_transaction_sample_rate = 1",
    ];
    for setting in settings {
        superuser.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    prepare::prepare(&cluster.access[&A], "shop", &cluster.passwords).await.unwrap();
    prepare::further(&cluster.access[&A], &cluster.database, &passwords()).await.unwrap();
    let log = std::fs::read_to_string(cluster.log("postgres-a")).unwrap();
    assert!(log.contains("duration: "), "statements are logged: {log}");
    assert!(!log.contains("SCRAM-SHA-256$"), "{log}");
    cluster.end().await;
}
