//! Migrations named as sqlx names them, against a real server.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs that each use a part of it")]
mod support;

use std::path::{Path, PathBuf};

use mainstay_postgres::migrate::{self, Convention, MigrateError, Migrated, Request, State};
use mainstay_postgres::{Access, prepare};
use mainstay_types::Member;
use support::Cluster;

struct Rig {
    cluster: Cluster,
    application: Access,
    superuser: Access,
    folder: PathBuf,
}

impl Rig {
    async fn begin() -> Self {
        let mut cluster = Cluster::new("users");
        cluster.init(Member::A).await;
        cluster.start(Member::A, None).await;
        prepare::prepare(&cluster.access[&Member::A], "users", &cluster.passwords).await.unwrap();
        let folder = cluster.folder().join("migrations");
        std::fs::create_dir(&folder).unwrap();
        let (application, superuser) = (cluster.application(Member::A), cluster.access[&Member::A].clone());
        Self { cluster, application, superuser, folder }
    }

    fn put(&self, name: &str, sql: &str) {
        std::fs::write(self.folder.join(name), sql).unwrap();
    }

    fn request(&self, is_out_of_order_allowed: bool) -> Request<'_> {
        let Self { application, superuser, folder, .. } = self;
        Request { application, superuser, folder, is_out_of_order_allowed, held: &[] }
    }

    async fn migrate(&self) -> Result<Migrated, MigrateError> {
        migrate::migrate(&self.request(false), &mut |_| {}).await
    }

    async fn undo(&self) -> Result<Migrated, MigrateError> {
        let agreed = migrate::undoing(&self.application, &self.folder).await?;
        migrate::undo(&self.request(false), &agreed, &mut |_| {}).await
    }

    async fn text(&self, sql: &str) -> String {
        self.application.connect().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }
}

const ROWS: &str =
    "SELECT coalesce(string_agg(version || ' ' || description || ' ' || success, ', ' ORDER BY version), '')
    FROM _sqlx_migrations";

#[tokio::test(flavor = "multi_thread")]
async fn sqlxs_files_and_history_are_kept_as_sqlx_keeps_them() {
    let rig = Rig::begin().await;
    what_ran_is_in_sqlxs_table(&rig).await;
    contradictions_are_refused(&rig).await;
    without_a_transaction_only_when_the_file_says_so(&rig).await;
    the_last_one_goes_by_its_down_file(&rig).await;
    both_conventions_are_not_mixed(&rig.folder, &rig).await;
    rig.cluster.end().await;
}

async fn what_ran_is_in_sqlxs_table(rig: &Rig) {
    rig.put("20260101000000_create_users.up.sql", "CREATE TABLE users (id int);\n");
    rig.put("20260101000000_create_users.down.sql", "DROP TABLE users;");
    rig.put("20260102000000_add.sql", "ALTER TABLE users ADD b text; SET search_path TO pg_catalog;");
    let done = rig.migrate().await.unwrap();
    assert_eq!(done.convention, Convention::Sqlx);
    assert_eq!(done.versions, ["20260101000000", "20260102000000"]);
    assert!(done.restore_point.unwrap().name.starts_with("before-20260101000000-"));
    assert_eq!(rig.text(ROWS).await, "20260101000000 create users true, 20260102000000 add true");
    // What `sha384sum` says of the file's bytes.
    let checksum = "SELECT encode(checksum, 'hex') FROM _sqlx_migrations WHERE version = 20260101000000";
    let by_postgres = "SELECT encode(sha384(convert_to('CREATE TABLE users (id int);' || chr(10), 'UTF8')), 'hex')";
    assert_eq!(rig.text(checksum).await, rig.text(by_postgres).await);
    let types = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull, ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = '_sqlx_migrations'::regclass AND attnum > 0";
    assert_eq!(
        rig.text(types).await,
        "version bigint true, description text true, installed_on timestamp with time zone true, success boolean true, \
         checksum bytea true, execution_time bigint true"
    );
    assert_eq!(rig.migrate().await.unwrap().applied.len(), 0);
}

async fn contradictions_are_refused(rig: &Rig) {
    rig.put("20260102000000_add.sql", "ALTER TABLE users ADD b text; SET search_path TO pg_catalog;\r\n");
    let error = rig.migrate().await.unwrap_err();
    // Other than for Flyway, a line end is a change.
    assert!(matches!(&error, MigrateError::Changed { script, .. } if script == "20260102000000_add.sql"), "{error}");
    rig.put("20260102000000_add.sql", "ALTER TABLE users ADD b text; SET search_path TO pg_catalog;");
    rig.put("20260101120000_late.sql", "CREATE TABLE late (id int);");
    assert!(matches!(rig.migrate().await.unwrap_err(), MigrateError::OutOfOrder { .. }));
    let done = migrate::migrate(&rig.request(true), &mut |_| {}).await.unwrap();
    assert_eq!(done.applied[0].script, "20260101120000_late.sql");
    let file = rig.folder.join("20260101120000_late.sql");
    std::fs::rename(&file, rig.folder.join("aside")).unwrap();
    let error = rig.migrate().await.unwrap_err();
    assert!(matches!(&error, MigrateError::Lost { version, .. } if version == "20260101120000"), "{error}");
    std::fs::rename(rig.folder.join("aside"), &file).unwrap();
}

async fn without_a_transaction_only_when_the_file_says_so(rig: &Rig) {
    rig.put("20260103000000_index.sql", "CREATE INDEX CONCURRENTLY i ON users (id);");
    let error = rig.migrate().await.unwrap_err().to_string();
    assert!(error.contains("25001") && error.contains("-- no-transaction"), "{error}");
    let sql =
        "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON users (id);\nCREATE INDEX CONCURRENTLY j ON users (b);";
    rig.put("20260103000000_index.sql", sql);
    let done = rig.migrate().await.unwrap();
    assert!(!done.applied[0].is_transactional);
    rig.put("20260104000000_half.sql", "-- no-transaction\nCREATE TABLE half (id int);\nSELECT nothing;");
    let error = rig.migrate().await.unwrap_err();
    assert!(matches!(error, MigrateError::Statement { line: 3, .. }), "{error}");
    assert!(rig.text(ROWS).await.ends_with("20260104000000 half false"), "sqlx takes that for a dirty version");
    let error = rig.migrate().await.unwrap_err();
    assert!(matches!(&error, MigrateError::FailedBefore { .. }), "{error}");
    assert!(error.to_string().contains("DELETE FROM _sqlx_migrations"), "{error}");
    let client = rig.application.connect().await.unwrap();
    client.batch_execute("DROP TABLE half; DELETE FROM _sqlx_migrations WHERE NOT success").await.unwrap();
    std::fs::remove_file(rig.folder.join("20260104000000_half.sql")).unwrap();
}

async fn the_last_one_goes_by_its_down_file(rig: &Rig) {
    let error = rig.undo().await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::NoUndo { wanted, .. } if wanted == "20260103000000_index.down.sql"),
        "{error}"
    );
    rig.put(
        "20260103000000_index.down.sql",
        "-- no-transaction\nDROP INDEX CONCURRENTLY i;\nDROP INDEX CONCURRENTLY j;",
    );
    let done = rig.undo().await.unwrap();
    assert_eq!(done.applied[0].script, "20260103000000_index.down.sql");
    assert!(!rig.text(ROWS).await.contains("20260103000000"), "sqlx keeps no row of what was taken back");
    let plan = migrate::plan(&rig.application, &rig.folder).await.unwrap();
    assert_eq!(plan.migrations.last().map(|last| last.state.clone()), Some(State::Pending));
}

async fn both_conventions_are_not_mixed(folder: &Path, rig: &Rig) {
    let elsewhere = folder.join("flyway");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("V1__a.sql"), "SELECT 1;").unwrap();
    let error = migrate::plan(&rig.application, &elsewhere).await.unwrap_err();
    assert!(matches!(error, MigrateError::OtherHistory { history: "_sqlx_migrations", .. }), "{error}");
    rig.put("V1__a.sql", "SELECT 1;");
    let error = migrate::plan(&rig.application, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Mixed { .. }), "{error}");
}
