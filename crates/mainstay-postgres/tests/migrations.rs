//! Migrations against a real server.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs that each use a part of it")]
mod support;

use std::path::{Path, PathBuf};

use mainstay_postgres::migrate::{self, MigrateError, Migrated, Request, State};
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

/// The way in as the application's role, and as superuser.
type Ways = (Access, Access);

async fn migrate((application, superuser): &Ways, folder: &Path) -> Result<Migrated, MigrateError> {
    let request = Request { application, superuser, folder, is_out_of_order_allowed: false, held: &[] };
    migrate::migrate(&request, &mut |_| {}).await
}

async fn names(ways: &Ways, folder: &Path) -> Vec<String> {
    migrate(ways, folder).await.unwrap().applied.into_iter().map(|applied| applied.script).collect()
}

async fn has_table(application: &Access, name: &str) -> bool {
    let client = application.connect().await.unwrap();
    client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&name]).await.unwrap().get(0)
}

async fn begin() -> (Cluster, Ways, PathBuf) {
    let mut cluster = Cluster::new("users");
    cluster.init(Member::A).await;
    cluster.start(Member::A, None).await;
    prepare::prepare(&cluster.access[&Member::A], "users", &cluster.passwords).await.unwrap();
    let ways = (cluster.application(Member::A), cluster.access[&Member::A].clone());
    let folder: PathBuf = cluster.folder().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    (cluster, ways, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_in_order_and_their_history_is_flyways() {
    let (cluster, ways, folder) = begin().await;
    runs_each_once(&ways, &folder).await;
    a_failing_one_is_rolled_back_with_its_line(&ways, &folder).await;
    contradictions_stop_everything(&ways, &folder).await;
    what_cannot_run_is_refused_before_what_is_in_front_of_it(&ways, &folder).await;
    concurrent_indexes_run_outside_of_a_transaction(&ways, &folder).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_is_taken_back_by_its_file_and_a_point_is_named_before_everything() {
    let (cluster, ways, folder) = begin().await;
    a_point_is_named_before_what_runs_and_the_plan_changes_nothing(&ways, &folder).await;
    the_last_one_is_taken_back(&ways, &folder).await;
    what_was_taken_back_is_held_when_nobody_asks_for_it(&ways, &folder).await;
    of_two_that_were_taken_back_neither_is_run(&ways, &folder).await;
    cluster.end().await;
}

async fn runs_each_once(ways: &Ways, folder: &Path) {
    put(folder, "V1__create_users.sql", "CREATE TABLE users (id int);\nINSERT INTO users VALUES (1);\n");
    put(folder, "V10__last.sql", "ALTER TABLE users ADD c text; SET search_path TO pg_catalog;");
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b text;");
    put(folder, "R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id FROM users;");
    put(folder, "README.md", "not a migration");
    let all = ["V1__create_users.sql", "V2__add.sql", "V10__last.sql", "R__view.sql"];
    assert_eq!(names(ways, folder).await, all);
    assert_eq!(names(ways, folder).await, Vec::<String>::new());
    put(folder, "R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id, b FROM users;");
    assert_eq!(names(ways, folder).await, ["R__view.sql"]);
    let rows = history(&ways.0).await;
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[2], (3, Some("10".to_owned()), "V10__last.sql".to_owned(), true));
    assert_eq!(rows[4], (5, None, "R__view.sql".to_owned(), true));

    // Two at once: one waits for the other and finds nothing left to do.
    put(folder, "V11__slow.sql", "SELECT pg_sleep(0.3); CREATE TABLE once (id int);");
    let (one, two) = tokio::join!(migrate(ways, folder), migrate(ways, folder));
    assert_eq!(one.unwrap().applied.len() + two.unwrap().applied.len(), 1);
}

async fn a_failing_one_is_rolled_back_with_its_line(ways: &Ways, folder: &Path) {
    put(folder, "V12__good.sql", "CREATE TABLE good (id int);");
    let broken = "CREATE TABLE half (id int);\n\n-- é\nINSERT INTO half\nVALUES\n  ('x', nothing);\n";
    put(folder, "V13__broken.sql", broken);
    match migrate(ways, folder).await.unwrap_err() {
        MigrateError::Statement { script, line, message, state } => {
            assert_eq!((script.as_str(), line), ("V13__broken.sql", 6), "{message}");
            assert!(message.contains("nothing"), "{message}");
            assert!(state.contains("rolled back"));
        }
        other => panic!("{other}"),
    }
    assert!(has_table(&ways.0, "good").await);
    assert!(!has_table(&ways.0, "half").await);
    assert_eq!(history(&ways.0).await.last().unwrap().2, "V12__good.sql", "the failed one leaves no row");
    put(folder, "V13__broken.sql", "BEGIN; CREATE TABLE half (id int); COMMIT;");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Unsupported { line: 1, .. }), "{error}");
    put(folder, "V13__broken.sql", "CREATE TABLE half (id int);");
    assert_eq!(names(ways, folder).await, ["V13__broken.sql"]);
}

async fn contradictions_stop_everything(ways: &Ways, folder: &Path) {
    let before = history(&ways.0).await;
    put(folder, "V20__never.sql", "CREATE TABLE never (id int);");
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b varchar;");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Changed { script, .. } if script == "V2__add.sql"), "{error}");
    // Another line end is no change.
    put(folder, "V2__add.sql", "ALTER TABLE users ADD b text;\r\n");
    std::fs::rename(folder.join("V12__good.sql"), folder.join("V12__good.txt")).unwrap();
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Lost { version, .. } if version == "12"), "{error}");
    std::fs::rename(folder.join("V12__good.txt"), folder.join("V12__good.sql")).unwrap();
    put(folder, "V3__late.sql", "SELECT 1;");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::OutOfOrder { .. }), "{error}");
    std::fs::remove_file(folder.join("V3__late.sql")).unwrap();
    put(folder, "V13.0__again.sql", "SELECT 1;");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Twice { .. }), "{error}");
    std::fs::remove_file(folder.join("V13.0__again.sql")).unwrap();
    assert_eq!(history(&ways.0).await, before);
    assert!(!has_table(&ways.0, "never").await);
}

async fn what_cannot_run_is_refused_before_what_is_in_front_of_it(ways: &Ways, folder: &Path) {
    let before = history(&ways.0).await;
    put(folder, "V21__psql.sql", "SELECT 1;\n\\d users\n");
    let refusals = migrate::plan(&ways.0, folder).await.unwrap().refusals();
    assert!(matches!(refusals.as_slice(), [MigrateError::Unsupported { line: 2, .. }]), "{refusals:?}");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Unsupported { script, .. } if script == "V21__psql.sql"), "{error}");
    assert_eq!(history(&ways.0).await, before, "V20 in front of it was not run");
    std::fs::remove_file(folder.join("V21__psql.sql")).unwrap();
}

async fn concurrent_indexes_run_outside_of_a_transaction(ways: &Ways, folder: &Path) {
    put(folder, "V20__never.sql", "CREATE INDEX CONCURRENTLY i ON users (id);\nSELECT 1;");
    assert_eq!(names(ways, folder).await, ["V20__never.sql"]);
    put(folder, "V21__half.sql", "CREATE INDEX CONCURRENTLY j ON users (id);\nSELECT nothing;");
    match migrate(ways, folder).await.unwrap_err() {
        MigrateError::Statement { line: 2, state, .. } => assert!(state.contains("without a transaction")),
        other => panic!("{other}"),
    }
    assert!(!history(&ways.0).await.last().unwrap().3, "the history says that it failed half-way");
    let error = migrate(ways, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::FailedBefore { .. }), "{error}");
}

/// Whoever runs a file without a transaction may be killed, or lose its connection: then too the history says that it is
/// not whole, and the error is that of the statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_transaction_that_is_cut_off_is_never_taken_for_applied() {
    let (cluster, ways, folder) = begin().await;
    put(&folder, "V1__a.sql", "CREATE TABLE a (id int);");
    assert_eq!(names(&ways, &folder).await, ["V1__a.sql"]);
    put(&folder, "V2__index.sql", "CREATE INDEX CONCURRENTLY i ON a (id);\nSELECT pg_sleep(600);");
    let superuser = ways.1.in_database("users").connect().await.unwrap();
    let cut = async {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' \
            AND pid <> pg_backend_pid() AND state = 'active'";
        let begun = std::time::Instant::now();
        while superuser.query(sql, &[]).await.unwrap().is_empty() {
            assert!(begun.elapsed() < support::WITHIN, "it never came to its second statement");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    // Another one looks meanwhile: who would run migrations just now is named.
    let looked = async {
        let begun = std::time::Instant::now();
        loop {
            match migrate::running(&ways.1.in_database("users")).await.unwrap() {
                Some(holder) => break holder,
                None => assert!(begun.elapsed() < support::WITHIN, "nobody was seen to run migrations"),
            }
        }
    };
    let (run, holder) = tokio::join!(migrate(&ways, &folder), async {
        let holder = looked.await;
        cut.await;
        holder
    });
    assert!(holder.starts_with("pid ") && holder.contains("mainstay"), "{holder}");
    match run.unwrap_err() {
        MigrateError::Cut { script, line, is_undo: false, half_done: Some("flyway_schema_history"), .. } => {
            assert_eq!((script.as_str(), line), ("V2__index.sql", 2));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(history(&ways.0).await.last().unwrap(), &(2, Some("2".to_owned()), "V2__index.sql".to_owned(), false));
    let error = migrate(&ways, &folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::FailedBefore { .. }), "{error}");
    assert_eq!(migrate::running(&ways.1.in_database("users")).await.unwrap(), None);

    // Given up half-way by who runs it, which is what a kill does too.
    let sql = "DROP INDEX i; DELETE FROM flyway_schema_history WHERE NOT success";
    ways.0.connect().await.unwrap().batch_execute(sql).await.unwrap();
    let until_noted = async {
        let begun = std::time::Instant::now();
        while history(&ways.0).await.len() < 2 {
            assert!(begun.elapsed() < support::WITHIN, "its row was not there while it ran");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        run = migrate(&ways, &folder) => panic!("{run:?}"),
        () = until_noted => {}
    }
    assert!(!history(&ways.0).await.last().unwrap().3);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_cancels_was_cut_off_and_what_its_own_time_ends_was_not() {
    let (cluster, ways, folder) = begin().await;
    put(&folder, "V1__a.sql", "CREATE TABLE a (id int);");
    put(&folder, "U1__a.sql", "SELECT pg_sleep(600);");
    assert_eq!(names(&ways, &folder).await, ["V1__a.sql"]);
    let superuser = ways.1.in_database("users").connect().await.unwrap();
    let cancelled = async {
        let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' \
            AND pid <> pg_backend_pid() AND state = 'active'";
        let begun = std::time::Instant::now();
        while superuser.query(sql, &[]).await.unwrap().is_empty() {
            assert!(begun.elapsed() < support::WITHIN, "it never began");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let error = tokio::join!(undo(&ways, &folder), cancelled).0.unwrap_err();
    assert!(matches!(error, MigrateError::Cut { is_undo: true, half_done: None, .. }), "{error:?}");
    put(&folder, "V2__slow.sql", "SET statement_timeout = '100ms';\nSELECT pg_sleep(600);");
    let error = migrate(&ways, &folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Statement { line: 2, .. }), "{error:?}");
    cluster.end().await;
}

/// Both were agreed to while V2 was the last one.
#[tokio::test(flavor = "multi_thread")]
async fn two_undos_at_once_take_back_one_version() {
    let (cluster, ways, folder) = begin().await;
    for (name, sql) in [
        ("V1__a.sql", "CREATE TABLE a (id int);"),
        ("U1__a.sql", "DROP TABLE a;"),
        ("V2__b.sql", "ALTER TABLE a ADD b text;"),
        ("U2__b.sql", "SELECT pg_sleep(0.5); ALTER TABLE a DROP b;"),
    ] {
        put(&folder, name, sql);
    }
    migrate(&ways, &folder).await.unwrap();
    let request = Request {
        application: &ways.0,
        superuser: &ways.1,
        folder: &folder,
        is_out_of_order_allowed: false,
        held: &[],
    };
    let agreed = migrate::undoing(&ways.0, &folder).await.unwrap();
    assert_eq!((agreed.migration.script.as_str(), agreed.undo.as_str()), ("V2__b.sql", "U2__b.sql"));
    let once = || async { migrate::undo(&request, &agreed, &mut |_| {}).await };
    let (one, two) = tokio::join!(once(), once());
    let (done, refused): (Vec<_>, Vec<_>) = [one, two].into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 1), "{done:?} {refused:?}");
    let refused = refused.into_iter().next().unwrap().unwrap_err();
    assert!(
        matches!(&refused, MigrateError::OtherLast { wanted, found } if wanted == "V2__b.sql" && found == "V1__a.sql"),
        "{refused}"
    );
    assert_eq!(columns(&ways).await, ["id"]);
    // Nor another text than was agreed to.
    let agreed = migrate::undoing(&ways.0, &folder).await.unwrap();
    put(&folder, "U1__a.sql", "DROP TABLE a CASCADE;");
    let error = migrate::undo(&request, &agreed, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, MigrateError::OtherLast { .. }), "{error}");
    assert!(has_table(&ways.0, "a").await);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_run_is_told_whose_it_is() {
    let (cluster, ways, folder) = begin().await;
    put(&folder, "V1__slow.sql", "SELECT pg_sleep(3);");
    let request = Request {
        application: &ways.0,
        superuser: &ways.1,
        folder: &folder,
        is_out_of_order_allowed: false,
        held: &[],
    };
    let told = std::sync::Mutex::new(Vec::new());
    let run = || async {
        let mut tell = |what: migrate::Told<'_>| {
            if let migrate::Told::Waits(holder) = what {
                told.lock().unwrap().push(holder.to_owned());
            }
        };
        migrate::migrate(&request, &mut tell).await.unwrap().applied.len()
    };
    let (one, two) = tokio::join!(run(), run());
    assert_eq!(one + two, 1);
    let told = told.into_inner().unwrap();
    assert!(matches!(told.as_slice(), [holder] if holder.starts_with("pid ")), "told once: {told:?}");
    cluster.end().await;
}

async fn states(ways: &Ways, folder: &Path) -> Vec<(String, State)> {
    let plan = migrate::plan(&ways.0, folder).await.unwrap();
    plan.migrations.into_iter().map(|planned| (planned.script, planned.state)).collect()
}

async fn a_point_is_named_before_what_runs_and_the_plan_changes_nothing(ways: &Ways, folder: &Path) {
    put(folder, "V1__a.sql", "CREATE TABLE a (id int);");
    put(folder, "V2__b.sql", "ALTER TABLE a ADD b text;");
    put(folder, "U2__b.sql", "ALTER TABLE a DROP b;");
    let pending = [("V1__a.sql".to_owned(), State::Pending), ("V2__b.sql".to_owned(), State::Pending)];
    assert_eq!(states(ways, folder).await, pending);
    assert!(!has_table(&ways.0, "flyway_schema_history").await, "a plan makes no table");
    let mut told = Vec::new();
    let request =
        Request { application: &ways.0, superuser: &ways.1, folder, is_out_of_order_allowed: false, held: &[] };
    let done = migrate::migrate(&request, &mut |what| told.push(format!("{what:?}"))).await.unwrap();
    let point = done.restore_point.unwrap();
    assert!(point.name.starts_with("before-V1-20") && point.name.len() < 64, "{point:?}");
    assert!(told[0].starts_with("Named") && told[0].contains(&point.lsn), "{told:?}");
    assert_eq!(told.len(), 5, "the point, and a beginning and an end of each: {told:?}");
    // The point lies before everything that was written.
    let client = ways.1.connect().await.unwrap();
    let sql = "SELECT $1::text::pg_lsn < pg_current_wal_lsn()";
    assert!(client.query_one(sql, &[&point.lsn]).await.unwrap().get::<_, bool>(0));
    assert_eq!(done.versions, ["1", "2"]);
    assert_eq!(migrate(ways, folder).await.unwrap().restore_point, None, "nothing ran, nothing is named");
}

async fn undo(ways: &Ways, folder: &Path) -> Result<Migrated, MigrateError> {
    let request =
        Request { application: &ways.0, superuser: &ways.1, folder, is_out_of_order_allowed: false, held: &[] };
    let agreed = migrate::undoing(&ways.0, folder).await?;
    migrate::undo(&request, &agreed, &mut |_| {}).await
}

async fn columns(ways: &Ways) -> Vec<String> {
    let sql =
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0 AND NOT attisdropped";
    let rows = ways.0.connect().await.unwrap().query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn the_last_one_is_taken_back(ways: &Ways, folder: &Path) {
    let done = undo(ways, folder).await.unwrap();
    assert_eq!(done.applied[0].script, "U2__b.sql");
    assert!(done.restore_point.unwrap().name.starts_with("before-undo-V2-"));
    assert_eq!(columns(ways).await, ["id"]);
    let states = states(ways, folder).await;
    assert_eq!(states[1], ("V2__b.sql".to_owned(), State::Pending));
    let rows = history(&ways.0).await;
    assert_eq!(rows[2], (3, Some("2".to_owned()), "U2__b.sql".to_owned(), true), "Flyway's own row of an undo");
    match undo(ways, folder).await.unwrap_err() {
        MigrateError::NoUndo { script, wanted } => {
            assert_eq!((script.as_str(), wanted.as_str()), ("V1__a.sql", "U1__a.sql"));
        }
        other => panic!("{other}"),
    }
    // One that fails leaves everything as it was.
    put(folder, "U1__a.sql", "DROP TABLE a;\nSELECT nothing;");
    let error = undo(ways, folder).await.unwrap_err();
    assert!(matches!(error, MigrateError::Statement { line: 2, .. }), "{error}");
    assert_eq!(columns(ways).await, ["id"]);
}

async fn what_was_taken_back_is_held_when_nobody_asks_for_it(ways: &Ways, folder: &Path) {
    assert_eq!(names(ways, folder).await, ["V2__b.sql"], "asked for it runs again");
    let held = [undo(ways, folder).await.unwrap().held.unwrap()];
    put(folder, "V3__c.sql", "CREATE TABLE c (id int);");
    let request =
        Request { application: &ways.0, superuser: &ways.1, folder, is_out_of_order_allowed: false, held: &held };
    let done = migrate::migrate(&request, &mut |_| {}).await.unwrap();
    assert_eq!((done.applied.len(), done.versions.as_slice()), (0, ["1".to_owned()].as_slice()));
    assert_eq!(done.held, Some(held[0].clone()));
    assert!(!has_table(&ways.0, "c").await, "what comes after it waits for it");
    put(folder, "V2__b.sql", "ALTER TABLE a ADD b int;");
    let done = migrate::migrate(&request, &mut |_| {}).await.unwrap();
    assert_eq!(done.versions, ["1", "2", "3"], "another text is another migration");
}

/// The one that was taken back first comes last in the folder.
async fn of_two_that_were_taken_back_neither_is_run(ways: &Ways, folder: &Path) {
    put(folder, "U3__c.sql", "DROP TABLE c;");
    let third = undo(ways, folder).await.unwrap().held.unwrap();
    let second = undo(ways, folder).await.unwrap().held.unwrap();
    let held = [third, second.clone()];
    assert_eq!(held.each_ref().map(|held| held.script.as_str()), ["V3__c.sql", "V2__b.sql"]);
    let request =
        Request { application: &ways.0, superuser: &ways.1, folder, is_out_of_order_allowed: false, held: &held };
    let done = migrate::migrate(&request, &mut |_| {}).await.unwrap();
    assert_eq!((done.applied.len(), done.versions.as_slice()), (0, ["1".to_owned()].as_slice()));
    assert_eq!(done.held, Some(second));
    assert_eq!(columns(ways).await, ["id"]);
}
