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
    assert_eq!(text(&other, COUNT).await, "1 false");
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
    let told = reader.query_one(COUNT, &[]).await.unwrap_err();
    assert_eq!(code(&told), "57P03", "{told}");
    assert!(told.as_db_error().unwrap().message().contains("a setting made with SET is there"), "{told:?}");
    // The session is over, not only its statement.
    let again = tokio::time::timeout(Duration::from_secs(20), reader.query_one("select 1", &[])).await;
    assert!(again.expect("no answer comes").is_err());
    pause(&standby, false).await;
}

/// What `question` gives, sent alone; for errors their SQLSTATE.
async fn told(client: &Client, question: &str) -> String {
    let asked = tokio::time::timeout(Duration::from_secs(20), client.query_one(question, &[])).await;
    match asked.expect("an answer long before `read_wait`") {
        Ok(row) => row.get(0),
        Err(error) => code(&error).to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_for_a_standby_that_leaves_goes_elsewhere() {
    for (state, expected) in [("select 1", "1 false"), ("set app.tenant = 'x'", "57P01")] {
        let (primary, standby, router, mut control) = with_standby(600_000).await;
        let (writer, reader) = (router.connect().await, Arc::new(connect(router.read).await));
        reader.batch_execute(state).await.unwrap();
        pause(&standby, true).await;
        let position = write(&writer).await;
        reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
        let waiting = Arc::clone(&reader);
        let waiting = tokio::spawn(async move { told(&waiting, COUNT).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished());
        control.point(1, Some(&primary), &[]).await;
        assert_eq!(waiting.await.unwrap(), expected, "{state}");
        // And the router is there for others.
        assert_eq!(told(&connect(router.read).await, COUNT).await, "1 false");
        pause(&standby, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_with_state_at_the_primary_is_served_there() {
    let (primary, standby, router, mut control) = with_standby(300).await;
    let (writer, reader) = (router.connect().await, connect(router.read).await);
    pause(&standby, true).await;
    let position = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{position}'")).await.unwrap();
    assert_eq!(told(&reader, COUNT).await, "1 false");
    reader.batch_execute("set app.tenant = 'x'").await.unwrap();
    pause(&standby, false).await;
    let position = write(&writer).await;
    caught_up(&primary, &standby).await;
    // Another position, and none: a standby would do now, but the state is here.
    for what in [format!("set mainstay.read_after = '{position}'"), "reset mainstay.read_after".to_owned()] {
        reader.batch_execute(&what).await.unwrap();
        assert_eq!(told(&reader, COUNT).await, "2 false", "{what}");
        assert_eq!(told(&reader, "select current_setting('app.tenant')").await, "x", "{what}");
    }
    // The same of one that came while there was no standby.
    control.point(1, Some(&primary), &[]).await;
    let early = connect(router.read).await;
    early.batch_execute("set app.tenant = 'y'").await.unwrap();
    control.point(1, Some(&primary), &[&standby]).await;
    assert_eq!(told(&early, COUNT).await, "2 false");
    assert_eq!(told(&early, "select current_setting('app.tenant')").await, "y");
    // Who has none goes to the standby.
    assert_eq!(told(&connect(router.read).await, COUNT).await, "2 true");
    early.batch_execute("discard all").await.unwrap();
    assert_eq!(told(&early, COUNT).await, "2 true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_go_with_a_reader_that_is_moved() {
    let (_primary, standby, router, _control) = with_standby(300).await;
    let writer = router.connect().await;
    let mut reader = Raw::connect(router.read).await;
    pause(&standby, true).await;
    let position = write(&writer).await;
    // All at once: nobody had the time to ask for the setting before the move.
    reader
        .queries(&[
            "set work_mem = '3MB'",
            &format!("set mainstay.read_after = '{position}'"),
            "select current_setting('work_mem') || ' ' || pg_is_in_recovery()",
        ])
        .await;
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    assert_eq!(reader.row().await, "3MB false");
    // Taken back at the primary, it is not made again at the standby.
    pause(&standby, false).await;
    reader.queries(&["set timezone = 'Asia/Tokyo'", "reset all", "reset mainstay.read_after"]).await;
    for _ in 0..3 {
        assert_eq!(reader.cycle().await.last().unwrap(), "ZI");
    }
    reader
        .query(
            "select (current_setting('work_mem') = '4MB' and current_setting('timezone') <> 'Asia/Tokyo') || ' ' || \
             pg_is_in_recovery()",
        )
        .await;
    assert_eq!(reader.row().await, "true true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_does_not_keep_a_former_primary() {
    let (_primary, standby, router, mut control) = with_standby(300).await;
    let (writer, reader) = (router.connect().await, Arc::new(connect(router.read).await));
    pause(&standby, true).await;
    let first = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{first}'")).await.unwrap();
    assert_eq!(told(&reader, COUNT).await, "1 false");
    let second = write(&writer).await;
    reader.batch_execute(&format!("set mainstay.read_after = '{second}'")).await.unwrap();
    let mut patient = policy();
    patient.generation = mainstay_types::Generation(3);
    patient.pool.read_wait_ms = 600_000;
    control.policy(patient).await;
    let waiting = Arc::clone(&reader);
    let waiting = tokio::spawn(async move { told(&waiting, COUNT).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    // Refused after 5 s if somebody keeps a connection to the former one. There is still a standby to wait for: it
    // is the new primary too, and not promoted, so that it does not have what the reader must see.
    control.point(2, Some(&standby), &[&standby]).await;
    assert!(!waiting.is_finished());
    pause(&standby, false).await;
    assert_eq!(waiting.await.unwrap(), "2 true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_not_understood_is_an_error_at_its_place() {
    let (_primary, standby, router, _control) = with_standby(300).await;
    let writer = router.connect().await;
    let mut reader = Raw::connect(router.read).await;
    pause(&standby, true).await;
    let position = write(&writer).await;
    for text in [
        "set mainstay.read_after = 'junk'",
        "set local mainstay.read_after = '0/1'",
        "select 1; set mainstay.read_after = '0/1'",
        "select set_config('mainstay.read_after', '0/1', false)",
    ] {
        reader.query(text).await;
        let (kind, body) = reader.next().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(kind == b'E' && body.contains("C22P02") && body.contains("takes one position"), "{text}: {body}");
        assert_eq!(reader.cycle().await, ["ZI"], "{text}");
    }
    // By the extended protocol, in a transaction, with something pipelined behind it.
    reader.query("begin").await;
    reader.execute("set mainstay.read_after = 'junk'").await;
    reader.send(b'S', b"").await;
    reader.query("select 1").await;
    reader.query("rollback").await;
    assert_eq!(reader.cycle().await, ["C", "ZT"]);
    assert_eq!(reader.cycle().await, ["22P02", "ZE"]);
    assert_eq!(reader.cycle().await, ["25P02", "ZE"]);
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    // With comments, as some libraries add to every statement, it is what it is without them.
    reader.query(&format!("/* app:'x' */ set mainstay.read_after = '{position}' -- y")).await;
    assert_eq!(reader.cycle().await, ["C", "ZI"]);
    reader.query(COUNT).await;
    assert_eq!(reader.row().await, "1 false");
    // From the start.
    let refused = config(router.read).options("-c mainstay.read_after=junk").connect(NoTls).await;
    assert_eq!(code(&refused.err().unwrap()), "22P02");
    pause(&standby, false).await;
}
