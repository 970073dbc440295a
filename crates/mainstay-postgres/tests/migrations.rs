//! Migrations against a real server.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs that each use a part of it")]
mod support;

use std::path::{Path, PathBuf};

use mainstay_postgres::migrate::{MigrateError, migrate};
use mainstay_postgres::{Access, prepare};
use mainstay_types::Member;
use support::Cluster;

fn put(folder: &Path, name: &str, sql: &str) {
    std::fs::write(folder.join(name), sql).unwrap();
}

async fn history(application: &Access) -> Vec<(i32, Option<String>, String, bool)> {
    let client = application.connect().await.unwrap();
    let sql = "SELECT installed_rank, version, script, success FROM flyway_schema_history ORDER BY 1";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

async fn names(application: &Access, folder: &Path) -> Vec<String> {
    migrate(application, folder).await.unwrap().into_iter().map(|applied| applied.script).collect()
}

async fn has_table(application: &Access, name: &str) -> bool {
    let client = application.connect().await.unwrap();
    client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&name]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_in_order_and_their_history_is_flyways() {
    let mut cluster = Cluster::new("users");
    cluster.init(Member::A).await;
    cluster.start(Member::A, None).await;
    prepare::prepare(&cluster.access[&Member::A], "users", &cluster.passwords).await.unwrap();
    let application = cluster.application(Member::A);
    let folder: PathBuf = cluster.folder().join("migrations");
    std::fs::create_dir(&folder).unwrap();

    runs_each_once(&application, &folder).await;
    a_failing_one_is_rolled_back_with_its_line(&application, &folder).await;
    contradictions_stop_everything(&application, &folder).await;
    concurrent_indexes_run_outside_of_a_transaction(&application, &folder).await;
    cluster.end().await;
}

async fn runs_each_once(application: &Access, folder: &Path) {
    put(folder, "V1__create_users.sql", "CREATE TABLE users (id int);\nINSERT INTO users VALUES (1);\n");
    put(folder, "V10__last.sql", "ALTER TABLE users ADD c text; SET search_path TO pg_catalog;");
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b text;");
    put(folder, "R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id FROM users;");
    put(folder, "README.md", "not a migration");
    let all = ["V1__create_users.sql", "V2__add.sql", "V10__last.sql", "R__view.sql"];
    assert_eq!(names(application, folder).await, all);
    assert_eq!(names(application, folder).await, Vec::<String>::new());
    put(folder, "R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id, b FROM users;");
    assert_eq!(names(application, folder).await, ["R__view.sql"]);
    let rows = history(application).await;
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[2], (3, Some("10".to_owned()), "V10__last.sql".to_owned(), true));
    assert_eq!(rows[4], (5, None, "R__view.sql".to_owned(), true));

    // Two at once: one waits for the other and finds nothing left to do.
    put(folder, "V11__slow.sql", "SELECT pg_sleep(0.3); CREATE TABLE once (id int);");
    let (one, two) = tokio::join!(migrate(application, folder), migrate(application, folder));
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
}

async fn a_failing_one_is_rolled_back_with_its_line(application: &Access, folder: &Path) {
    put(folder, "V12__good.sql", "CREATE TABLE good (id int);");
    let broken = "CREATE TABLE half (id int);\n\n-- é\nINSERT INTO half\nVALUES\n  ('x', nothing);\n";
    put(folder, "V13__broken.sql", broken);
    match migrate(application, folder).await.unwrap_err() {
        MigrateError::Statement { script, line, message, state } => {
            assert_eq!((script.as_str(), line), ("V13__broken.sql", 6), "{message}");
            assert!(message.contains("nothing"), "{message}");
            assert!(state.contains("rolled back"));
        }
        other => panic!("{other}"),
    }
    assert!(has_table(application, "good").await);
    assert!(!has_table(application, "half").await);
    assert_eq!(history(application).await.last().unwrap().2, "V12__good.sql", "the failed one leaves no row");
    put(folder, "V13__broken.sql", "BEGIN; CREATE TABLE half (id int); COMMIT;");
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Unsupported { line: 1, .. }), "{error}");
    put(folder, "V13__broken.sql", "CREATE TABLE half (id int);");
    assert_eq!(names(application, folder).await, ["V13__broken.sql"]);
}

async fn contradictions_stop_everything(application: &Access, folder: &Path) {
    let before = history(application).await;
    put(folder, "V20__never.sql", "CREATE TABLE never (id int);");
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b varchar;");
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Changed { script, .. } if script == "V2__add.sql"), "{error}");
    // Another line end is no change.
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b text;\r\n");
    std::fs::rename(folder.join("V12__good.sql"), folder.join("V12__good.txt")).unwrap();
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Lost { version, .. } if version == "12"), "{error}");
    std::fs::rename(folder.join("V12__good.txt"), folder.join("V12__good.sql")).unwrap();
    put(folder, "V3__late.sql", "SELECT 1;");
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::OutOfOrder { .. }), "{error}");
    std::fs::remove_file(folder.join("V3__late.sql")).unwrap();
    put(folder, "V13.0__again.sql", "SELECT 1;");
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Twice { .. }), "{error}");
    std::fs::remove_file(folder.join("V13.0__again.sql")).unwrap();
    assert_eq!(history(application).await, before);
    assert!(!has_table(application, "never").await);
}

async fn concurrent_indexes_run_outside_of_a_transaction(application: &Access, folder: &Path) {
    put(folder, "V20__never.sql", "CREATE INDEX CONCURRENTLY i ON users (id);\nSELECT 1;");
    assert_eq!(names(application, folder).await, ["V20__never.sql"]);
    put(folder, "V21__half.sql", "CREATE INDEX CONCURRENTLY j ON users (id);\nSELECT nothing;");
    match migrate(application, folder).await.unwrap_err() {
        MigrateError::Statement { line: 2, state, .. } => assert!(state.contains("CONCURRENTLY")),
        other => panic!("{other}"),
    }
    assert!(!history(application).await.last().unwrap().3, "the history says that it failed half-way");
    let error = migrate(application, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::FailedBefore { .. }), "{error}");
}
