//! Migrations rehearsed and watched, and the schema that is there held against them, on real servers.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs that each use a part of it")]
mod support;

use std::path::{Path, PathBuf};

use mainstay_postgres::migrate::{self, Blocks, Difference, MigrateError, Rehearsed, Request, Watched};
use mainstay_postgres::{Access, prepare};
use mainstay_types::Member;
use support::{Cluster, WITHIN};

struct Rig {
    cluster: Cluster,
    application: Access,
    superuser: Access,
}

impl Rig {
    async fn begin() -> Self {
        let mut cluster = Cluster::new("users");
        cluster.init(Member::A).await;
        cluster.start(Member::A, None).await;
        prepare::prepare(&cluster.access[&Member::A], "users", &cluster.passwords).await.unwrap();
        let superuser = cluster.access[&Member::A].in_database("users");
        Self { application: cluster.application(Member::A), cluster, superuser }
    }

    fn request<'a>(&'a self, folder: &'a Path) -> Request<'a> {
        let Self { application, superuser, .. } = self;
        Request { application, superuser, folder, is_out_of_order_allowed: false, held: &[] }
    }

    async fn run(&self, sql: &str) {
        self.application.connect().await.unwrap().batch_execute(sql).await.unwrap();
    }

    fn folder(&self) -> PathBuf {
        let folder = self.cluster.folder().join("migrations");
        std::fs::create_dir(&folder).unwrap();
        folder
    }
}

fn put(folder: &Path, name: &str, sql: &str) {
    std::fs::write(folder.join(name), sql).unwrap();
}

fn locks(watched: &Watched) -> Vec<(&str, &str, Blocks)> {
    watched.locks.iter().map(|lock| (lock.table.as_str(), lock.mode.as_str(), lock.blocks)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_tells_what_each_file_locks_writes_and_rewrites() {
    let rig = Rig::begin().await;
    let folder = rig.folder();
    put(&folder, "V1__a.sql", "CREATE TABLE a (id int PRIMARY KEY, b varchar(9)); CREATE TABLE c (id int);");
    put(&folder, "V2__rows.sql", "INSERT INTO a SELECT n, 'x' FROM generate_series(1, 500) AS n;");
    migrate::migrate(&rig.request(&folder), &mut |_| {}).await.unwrap();
    put(
        &folder,
        "V3__add.sql",
        "ALTER TABLE a ADD d int; SELECT pg_sleep(0.3); UPDATE a SET d = 1 WHERE id <= 40; DELETE FROM a WHERE id > 490;",
    );
    put(&folder, "V4__type.sql", "ALTER TABLE a ALTER b TYPE text USING b || 'y';");
    put(&folder, "V5__index.sql", "CREATE INDEX i ON a (d); CREATE TABLE e (id int); INSERT INTO e VALUES (1);");
    put(&folder, "V6__quiet.sql", "CREATE INDEX CONCURRENTLY j ON a (b);");
    put(&folder, "V7__harmless.sql", "INSERT INTO c VALUES (1);");
    put(&folder, "V8__bad.sql", "CREATE TABLE half (id int);\nSELECT nothing;");
    let Rehearsed { files, failed, .. } = migrate::rehearse(&rig.request(&folder)).await.unwrap();
    let [add, change, index, quiet, harmless] = files.as_slice() else { panic!("{files:#?}") };
    assert!(matches!(&failed, Some(MigrateError::Statement { script, line: 2, .. }) if script == "V8__bad.sql"));

    assert_eq!(locks(add), [("public.a", "AccessExclusiveLock", Blocks::ReadsAndWrites)]);
    // It is held to the end of the file, and sleeping is part of that.
    assert!(add.locks[0].held_ms >= 300 && add.locks[0].held_ms <= add.took_ms + 1_000, "{add:#?}");
    let rows: Vec<_> =
        add.rows.iter().map(|one| (one.table.as_str(), one.inserted, one.updated, one.deleted)).collect();
    assert_eq!(rows, [("public.a", 0, 40, 10)], "and not the 500 of the file before, nor the row of the history");
    assert_eq!(add.rewritten, []);

    assert_eq!(change.rewritten.iter().map(|one| one.table.as_str()).collect::<Vec<_>>(), ["public.a"]);
    assert!(change.rewritten[0].bytes > 0);

    assert_eq!(locks(index), [("public.a", "ShareLock", Blocks::Writes)], "a table that is new keeps nobody waiting");
    assert_eq!(index.rows.iter().map(|one| (one.table.as_str(), one.inserted)).collect::<Vec<_>>(), [("public.e", 1)]);

    assert!(!quiet.is_transactional);
    assert!(quiet.locks.iter().all(|lock| lock.blocks == Blocks::Changes), "{quiet:#?}");
    assert_eq!(locks(harmless), []);
    who_is_in_the_way(&rig).await;
    rig.cluster.end().await;
}

async fn who_is_in_the_way(rig: &Rig) {
    let client = rig.application.connect().await.unwrap();
    client.batch_execute("BEGIN; SELECT count(*) FROM a").await.unwrap();
    let begun = std::time::Instant::now();
    let tables = ["public.a".to_owned(), "public.c".to_owned()];
    loop {
        let found = migrate::in_the_way(&rig.superuser, &tables).await.unwrap();
        if let [one] = found.as_slice() {
            assert_eq!((one.table.as_str(), one.transactions), ("public.a", 1));
            assert!(one.oldest_ms >= 1_000, "{one:?}");
            break;
        }
        assert!(found.is_empty() && begun.elapsed() < WITHIN, "{found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(migrate::in_the_way(&rig.superuser, &tables).await.unwrap(), []);
}

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TYPE nothing AS ENUM ();
    CREATE TYPE bare AS ();
    CREATE DOMAIN age AS int CHECK (VALUE >= 0);
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mood mood DEFAULT 'good',
        age age, twice int GENERATED ALWAYS AS (1 + 1) STORED);
    CREATE TABLE orders (id serial PRIMARY KEY, owner bigint REFERENCES users, made date) PARTITION BY RANGE (id);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (100);
    CREATE INDEX users_name ON users (lower(name)) WHERE age > 3;
    CREATE VIEW names AS SELECT name FROM users;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE users ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON users USING (name = CURRENT_USER);
    CREATE EXTENSION pgcrypto;";

#[tokio::test(flavor = "multi_thread")]
async fn what_no_migration_made_is_named_and_what_they_made_is_not() {
    let (rig, scratch) = tokio::join!(Rig::begin(), Rig::begin());
    let folder = rig.folder();
    put(&folder, "V1__schema.sql", SCHEMA);
    migrate::migrate(&rig.request(&folder), &mut |_| {}).await.unwrap();
    put(&folder, "V2__pending.sql", "CREATE TABLE later (id int);");
    let plan = migrate::plan(&rig.application, &folder).await.unwrap();
    let made = migrate::made(&plan, &scratch.request(&folder)).await.unwrap();
    let there = migrate::objects(&rig.superuser).await.unwrap();
    assert_eq!(migrate::compare(&there, &made), [], "what is pending is in neither");
    assert!(there.len() > 25, "{there:#?}");
    rig.run(
        "ALTER TABLE users ADD by_hand int; ALTER TABLE users ALTER name DROP NOT NULL; DROP INDEX users_name;
         CREATE TABLE loose (id int PRIMARY KEY); ALTER TYPE mood ADD VALUE 'fair'; DROP POLICY own ON users;
         CREATE OR REPLACE VIEW names AS SELECT name FROM users WHERE id > 0; ALTER TABLE users DISABLE TRIGGER touched",
    )
    .await;
    let found = migrate::compare(&migrate::objects(&rig.superuser).await.unwrap(), &made);
    let kinds: Vec<(&str, &str)> = found
        .iter()
        .map(|one| match &one.difference {
            Difference::Extra => (one.object.as_str(), "extra"),
            Difference::Gone => (one.object.as_str(), "gone"),
            Difference::Other { .. } => (one.object.as_str(), "other"),
        })
        .collect();
    let wanted = [
        ("column public.users.by_hand", "extra"),
        ("column public.users.name", "other"),
        ("index public.users_name", "gone"),
        ("policy public.users.own", "gone"),
        ("table public.loose", "extra"),
        ("trigger public.users.touched", "other"),
        ("type public.mood", "other"),
        ("view public.names", "other"),
    ];
    assert_eq!(kinds, wanted, "{found:#?}");
    let Difference::Other { there, made } = &found[1].difference else { panic!("{found:#?}") };
    assert_eq!((there.as_str(), made.as_str()), ("text", "text NOT NULL"));
    rig.cluster.end().await;
    scratch.cluster.end().await;
}
