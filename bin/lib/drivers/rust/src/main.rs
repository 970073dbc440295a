//! The same small script in sqlx and tokio-postgres: `driver-smoke DRIVER`; DATABASE_URL says where, CA whom to trust.
//! `driver-smoke DRIVER through`: one connection is idle, one in a transaction, while the primary dies (see smoke.py).
//! And sqlx's own view of a folder of migrations: `driver-smoke migrations FOLDER [run|undo]`.

type Smoke = Result<(), Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Smoke {
    let url = std::env::var("DATABASE_URL")?;
    let is_through = std::env::args().nth(2).as_deref() == Some("through");
    match std::env::args().nth(1).as_deref() {
        Some("sqlx") if is_through => sqlx_through(&url).await,
        Some("tokio-postgres") if is_through => tokio_through(&url).await,
        Some("sqlx") => sqlx_smoke(&url).await,
        Some("tokio-postgres") => tokio_smoke(&url).await,
        Some("migrations") => {
            let folder = std::env::args().nth(2).ok_or("which folder?")?;
            migrations(&url, &folder, std::env::args().nth(3).as_deref()).await
        }
        _ => Err("usage: driver-smoke sqlx|tokio-postgres|migrations FOLDER [run|undo]".into()),
    }
}

/// What `sqlx migrate info` prints of each, by the same calls; before that, what `sqlx migrate run` or `revert` does.
async fn migrations(url: &str, folder: &str, what: Option<&str>) -> Smoke {
    use sqlx::Connection as _;
    use sqlx::migrate::{Migrate as _, Migrator};

    let migrator = Migrator::new(std::path::Path::new(folder)).await?;
    let mut connection = sqlx::PgConnection::connect(url).await?;
    match what {
        Some("run") => migrator.run(&mut connection).await?,
        Some("undo") => {
            let versions = migrator.iter().map(|one| one.version);
            let before = versions.collect::<std::collections::BTreeSet<_>>().into_iter().rev().nth(1).unwrap_or(0);
            migrator.undo(&mut connection, before).await?;
        }
        _ => {}
    }
    if let Some(version) = connection.dirty_version().await? {
        println!("{version}/dirty");
    }
    let applied = connection.list_applied_migrations().await?;
    for one in migrator.iter().filter(|one| !one.migration_type.is_down_migration()) {
        let state = match applied.iter().find(|row| row.version == one.version) {
            Some(row) if row.checksum == one.checksum => "installed",
            Some(_) => "installed (different checksum)",
            None => "pending",
        };
        println!("{}/{state} {}", one.version, one.description);
    }
    Ok(())
}

async fn sqlx_smoke(url: &str) -> Smoke {
    use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode};
    use sqlx::{Connection as _, Executor as _, Row as _};

    let plain: PgConnectOptions = url.parse()?;
    let encrypted = plain.clone().ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(std::env::var("CA")?);
    for options in [plain.ssl_mode(PgSslMode::Disable), encrypted] {
        // More connections than the router's pool has servers in transaction mode.
        let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await?;
        for number in 0..12 {
            let next: i32 = sqlx::query_scalar("select $1::int + 1").bind(number).fetch_one(&pool).await?;
            assert_eq!(next, number + 1);
        }
        pool.execute("create table sqlx_t (id int, t text)").await?;
        let mut inserts = tokio::task::JoinSet::new();
        for number in 0..40 {
            let pool = pool.clone();
            inserts.spawn(async move {
                let mut transaction = pool.begin().await?;
                let insert = sqlx::query("insert into sqlx_t values ($1, $2)");
                insert.bind(number).bind("x".repeat(50)).execute(&mut *transaction).await?;
                // A savepoint that is given up.
                let mut inner = transaction.begin().await?;
                sqlx::query("delete from sqlx_t").execute(&mut *inner).await?;
                inner.rollback().await?;
                transaction.commit().await
            });
        }
        while let Some(done) = inserts.join_next().await {
            done??;
        }
        let mut connection = pool.acquire().await?;
        let mut copy = connection.copy_in_raw("copy sqlx_t from stdin").await?;
        copy.send("1\ta\n".repeat(1000).as_bytes()).await?;
        assert_eq!(copy.finish().await?, 1000);
        let rows = sqlx::query("select count(*) from sqlx_t").fetch_one(&mut *connection).await?;
        assert_eq!(rows.get::<i64, _>(0), 1040);
        let failed = sqlx::query("select 1/0").execute(&mut *connection).await.unwrap_err();
        assert_eq!(failed.as_database_error().and_then(|error| error.code()).as_deref(), Some("22012"));
        connection.ping().await?;
        drop(connection);
        // Dropped without an end: rolled back before anybody else has the connection.
        let mut left = pool.begin().await?;
        sqlx::query("delete from sqlx_t").execute(&mut *left).await?;
        drop(left);
        let count: i64 = sqlx::query_scalar("select count(*) from sqlx_t").fetch_one(&pool).await?;
        assert_eq!(count, 1040);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen("sqlx_news").await?;
        pool.execute("notify sqlx_news, 'hello'").await?;
        assert_eq!(listener.recv().await?.payload(), "hello");
        pool.execute("drop table sqlx_t").await?;
        drop(listener);
        pool.close().await;
    }
    Ok(())
}

async fn tokio_smoke(url: &str) -> Smoke {
    use futures_util::{SinkExt as _, TryStreamExt as _, future, pin_mut};
    use tokio_postgres::NoTls;

    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let add = client.prepare("select $1::int + 1").await?;
    // All at once, on one connection.
    let numbers: Vec<i32> = (0..50).collect();
    let rows = future::try_join_all(numbers.iter().map(|number| {
        let (client, add) = (&client, &add);
        async move { client.query_one(add, &[number]).await }
    }));
    for (number, row) in rows.await?.iter().enumerate() {
        assert_eq!(row.get::<_, i32>(0), i32::try_from(number)? + 1);
    }
    client.batch_execute("create table tokio_t (id int, t text)").await?;
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>("copy tokio_t from stdin").await?;
    pin_mut!(sink);
    let rows = std::io::Cursor::new("1\ta\n".repeat(1000).into_bytes());
    sink.send(rows).await?;
    assert_eq!(sink.finish().await?, 1000);
    let out: Vec<_> = client.copy_out("copy tokio_t to stdout").await?.try_collect().await?;
    assert_eq!(out.iter().map(|part: &_| AsRef::<[u8]>::as_ref(part).len()).sum::<usize>(), 4000);
    let mut transaction = client.transaction().await?;
    let portal = transaction.bind("select id from tokio_t", &[]).await?;
    assert_eq!(transaction.query_portal(&portal, 100).await?.len(), 100);
    let inner = transaction.savepoint("here").await?;
    inner.execute("delete from tokio_t", &[]).await?;
    inner.rollback().await?;
    assert_eq!(transaction.query_portal(&portal, 0).await?.len(), 900);
    transaction.rollback().await?;
    let failed = client.query("select 1/0", &[]).await.unwrap_err();
    assert_eq!(failed.code().map(|code| code.code()), Some("22012"));
    let cancel = client.cancel_token();
    let stop = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cancel.cancel_query(NoTls).await
    };
    let (slept, stopped) = future::join(client.batch_execute("select pg_sleep(20)"), stop).await;
    stopped?;
    assert_eq!(slept.unwrap_err().code().map(|code| code.code()), Some("57014"));
    client.batch_execute("drop table tokio_t").await?;
    Ok(())
}

async fn wait_for_the_failover(name: &str) -> Smoke {
    let ready = std::path::PathBuf::from(std::env::var("READY")?);
    std::fs::write(ready.join(name), "")?;
    while !ready.join("over").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn sqlx_through(url: &str) -> Smoke {
    use sqlx::{Connection as _, Executor as _, PgConnection};

    let (mut idle, mut busy) = (PgConnection::connect(url).await?, PgConnection::connect(url).await?);
    let add = "select $1::int + 1";
    assert_eq!(sqlx::query_scalar::<_, i32>(add).bind(1).fetch_one(&mut idle).await?, 2);
    let mut transaction = busy.begin().await?;
    transaction.execute("insert into held (driver) values ('sqlx, lost')").await?;
    wait_for_the_failover("sqlx").await?;
    assert_eq!(sqlx::query_scalar::<_, i32>(add).bind(1).fetch_one(&mut idle).await?, 2);
    let told = transaction.execute("select 1").await.unwrap_err();
    assert_eq!(told.as_database_error().and_then(|error| error.code()).as_deref(), Some("40001"));
    transaction.rollback().await?;
    busy.execute("insert into held (driver) values ('sqlx')").await?;
    Ok(())
}

async fn tokio_through(url: &str) -> Smoke {
    let (idle, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let (mut busy, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let add = idle.prepare("select $1::int + 1").await?;
    assert_eq!(idle.query_one(&add, &[&1]).await?.get::<_, i32>(0), 2);
    let transaction = busy.transaction().await?;
    transaction.batch_execute("insert into held (driver) values ('tokio-postgres, lost')").await?;
    wait_for_the_failover("tokio-postgres").await?;
    assert_eq!(idle.query_one(&add, &[&1]).await?.get::<_, i32>(0), 2);
    let told = transaction.query("select 1", &[]).await.unwrap_err();
    assert_eq!(told.code().map(|code| code.code()), Some("40001"));
    transaction.rollback().await?;
    busy.batch_execute("insert into held (driver) values ('tokio-postgres')").await?;
    Ok(())
}
