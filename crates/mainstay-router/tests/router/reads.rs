//! Readers that must see what was written, by standbys that are late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::raw::Raw;
use crate::support::*;
use mainstay_router::protocol::{FromRouter, PoolState, ToRouter};
use tokio_postgres::{Client, NoTls};

const COUNT: &str = "select count(*)::text || ' ' || pg_is_in_recovery()::text from ledger";

async fn text(client: &Client, question: &str) -> String {
    client.query_one(question, &[]).await.unwrap().get(0)
}

/// Writes a row, and gives the position behind it.
async fn write(writer: &Client) -> String {
    writer.execute("insert into ledger values (1)", &[]).await.unwrap();
    text(writer, "select pg_current_wal_insert_lsn()::text").await
}

async fn pause(standby: &Cluster, is_paused: bool) {
    let admin = standby.admin("postgres").await;
    let what = if is_paused { "pause" } else { "resume" };
    admin.batch_execute(&format!("select pg_wal_replay_{what}()")).await.unwrap();
    while is_paused && text(&admin, "select pg_get_wal_replay_pause_state()").await != "paused" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_pool(control: &mut Control) -> PoolState {
    match control.ask(ToRouter::Pools).await {
        FromRouter::Pools { pools } => pools.into_iter().find(|pool| pool.door == "read").expect("a pool"),
        other => panic!("{other:?}"),
    }
}

/// A primary with a standby behind a router, and how long readers wait.
async fn with_standby(read_wait_ms: u64) -> (Cluster, Cluster, Router, Control) {
    let (primary, standby, router, mut control) = pair().await;
    let mut patient = policy();
    patient.generation = mainstay_types::Generation(2);
    patient.pool.read_wait_ms = read_wait_ms;
    control.policy(patient).await;
    control.point(1, Some(&primary), &[&standby]).await;
    caught_up(&primary, &standby).await;
    (primary, standby, router, control)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_what_was_written() {
    let (_primary, standby, router, mut control) = with_standby(60_000).await;
    let (writer, reader) = (router.connect().await, Arc::new(connect(router.read).await));
    pause(&standby, true).await;
    let position = write(&writer).await;
    // Without a position it sees what the standby has.
    assert_eq!(text(&reader, COUNT).await, "0 true");
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    let waiting = Arc::clone(&reader);
    let waiting = tokio::spawn(async move { text(&waiting, COUNT).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    pause(&standby, false).await;
    assert_eq!(waiting.await.unwrap(), "1 true");
    let pool = read_pool(&mut control).await;
    assert!(pool.behind >= 1 && pool.to_primary == 0 && pool.clients_tied == 0, "{pool:?}");
    assert!(pool.behind_p95_us.is_some_and(|wait| wait > 300_000), "{pool:?}");
    // Written by the extended protocol, and seen by a session that has waited before.
    for count in 2..6 {
        let position = write(&writer).await;
        reader.execute(&format!("set mainstay.read_after to '{position}'"), &[]).await.unwrap();
        assert_eq!(text(&reader, COUNT).await, format!("{count} true"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_serves_a_reader_when_no_standby_can_in_time() {
    let (_primary, standby, router, mut control) = with_standby(300).await;
    let (writer, reader) = (router.connect().await, connect(router.read).await);
    pause(&standby, true).await;
    let position = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    let begun = Instant::now();
    assert_eq!(text(&reader, COUNT).await, "1 false");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(code(&reader.execute("insert into ledger values (2)", &[]).await.unwrap_err()), "25006");
    // From the start, by a parameter of the connection.
    let (other, connection) =
        config(router.read).options(format!("-c mainstay.read_after={position}")).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(&other, COUNT).await, "0 true", "options are the server's to read");
    let pool = read_pool(&mut control).await;
    assert!(pool.to_primary >= 1 && pool.to_primary <= pool.behind, "{pool:?}");
    // Nobody who does not ask for it.
    assert_eq!(text(&connect(router.read).await, COUNT).await, "0 true");
    reader.batch_execute("reset mainstay.read_after").await.unwrap();
    assert_eq!(text(&reader, COUNT).await, "0 true");
    pause(&standby, false).await;
    let position = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // A machine that is slow may be late once.
    while text(&reader, COUNT).await != "2 true" {
        assert!(Instant::now() < deadline);
        let position = text(&writer, "select pg_current_wal_insert_lsn()::text").await;
        reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_counts_for_what_is_pipelined_behind_it() {
    let (_primary, standby, router, _control) = with_standby(300).await;
    let writer = router.connect().await;
    let mut reader = Raw::connect(router.read).await;
    pause(&standby, true).await;
    let position = write(&writer).await;
    // All at once: a read of before, the position, one in a transaction, one by the extended protocol.
    reader.query("select 1 from ledger").await;
    reader.query(&format!("set mainstay.read_after = '{position}'")).await;
    reader.query("begin").await;
    reader.query("select 1 from ledger").await;
    reader.query("commit").await;
    reader.execute("select 1 from ledger").await;
    reader.send(b'S', b"").await;
    assert_eq!(reader.cycle().await, ["T", "C", "ZI"]);
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    assert_eq!(reader.cycle().await, ["C", "ZT"]);
    assert_eq!(reader.cycle().await, ["T", "D", "C", "ZT"]);
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    assert_eq!(reader.cycle().await, ["1", "2", "D", "C", "ZI"]);
    // On the write port the setting is a setting.
    writer.batch_execute("set mainstay.read_after = 'F/0'").await.unwrap();
    assert_eq!(text(&writer, COUNT).await, "1 false");
    pause(&standby, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_with_state_is_told_that_its_standby_is_late() {
    let (primary, standby, router, _control) = with_standby(2_000).await;
    let (writer, reader) = (router.connect().await, connect(router.read).await);
    reader.batch_execute("set app.tenant = 'x'").await.unwrap();
    let position = write(&writer).await;
    caught_up(&primary, &standby).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    assert_eq!(text(&reader, COUNT).await, "1 true");
    pause(&standby, true).await;
    let position = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    // It cannot go to the primary, and is not given what it must not see.
    assert!(reader.query_one(COUNT, &[]).await.is_err());
    assert!(reader.is_closed());
    pause(&standby, false).await;
}
