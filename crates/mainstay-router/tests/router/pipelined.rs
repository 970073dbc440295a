//! Clients that send on without reading: what was meant for a transaction that is lost is nothing of its own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::support::raw::Raw;
use crate::support::*;
use mainstay_router::protocol::{FromRouter, Server, Targets, ToRouter};
use mainstay_types::{Member, Timeline};

async fn rows(router: &Router) -> i64 {
    router.connect().await.query_one("select count(*) from ledger", &[]).await.unwrap().get(0)
}

/// What is sent to a frozen primary is in flight; then it is lost.
async fn lose(primary: &mut Cluster, control: &mut Control) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    primary.kill();
    control.point(1, None, &[]).await;
}

async fn go_on(standby: &Cluster, control: &mut Control) {
    standby.promote().await;
    control.point(2, Some(standby), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_begin_is_begun_again_with_its_options() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.query("begin isolation level serializable").await;
    lose(&mut primary, &mut control).await;
    client.query("insert into ledger values (1)").await;
    go_on(&standby, &mut control).await;
    client.query("insert into ledger select 2 where current_setting('transaction_isolation') = 'serializable'").await;
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    assert_eq!(rows(&router).await, 0, "it is one transaction");
    client.query("commit").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(rows(&router).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_lost_begin_of_the_extended_protocol_is_refused_up_to_its_end() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.execute("begin").await;
    client.send(b'S', b"").await;
    lose(&mut primary, &mut control).await;
    client.query("insert into ledger values (1)").await;
    go_on(&standby, &mut control).await;
    client.query("insert into ledger values (2)").await;
    client.query("commit").await;
    client.query("insert into ledger values (3)").await;
    assert_eq!(client.cycle().await, ["40001", "ZE"]);
    assert_eq!(client.cycle().await, ["25P02", "ZE"]);
    assert_eq!(client.cycle().await, ["25P02", "ZE"]);
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(rows(&router).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_transaction_that_was_lost_in_its_middle_is_refused_up_to_its_end() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.query("insert into ledger values (1)").await;
    client.query("begin").await;
    client.query("insert into ledger values (2)").await;
    lose(&mut primary, &mut control).await;
    go_on(&standby, &mut control).await;
    assert_eq!(client.cycle().await, ["08007", "ZI"]);
    assert_eq!(client.cycle().await, ["08007", "ZE"]);
    assert_eq!(client.cycle().await, ["08007", "ZE"]);
    client.query("insert into ledger values (3)").await;
    assert_eq!(client.cycle().await, ["25P02", "ZE"]);
    client.query("commit").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    client.query("insert into ledger values (4)").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(rows(&router).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_waits_behind_something_lost_begins_nothing_that_its_followers_miss() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.send(b'P', b"s\0insert into ledger values (9)\0\0\0").await;
    client.send(b'S', b"").await;
    assert_eq!(client.cycle().await, ["1", "ZI"]);
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.query("insert into ledger values (1)").await;
    // In transaction mode it waits for the answer, and what follows waits too; in session mode all is in flight.
    client.query("execute s").await;
    client.query("begin").await;
    client.query("insert into ledger values (2)").await;
    lose(&mut primary, &mut control).await;
    client.query("insert into ledger values (3)").await;
    go_on(&standby, &mut control).await;
    client.query("insert into ledger values (4)").await;
    let mut ends = Vec::new();
    for _ in 0..6 {
        let cycle = client.cycle().await;
        assert!(matches!(cycle[0].as_str(), "08007" | "40001" | "25P02"), "{cycle:?}");
        ends.push(cycle.last().unwrap().clone());
    }
    assert_eq!(ends, ["ZI", "ZI", "ZE", "ZE", "ZE", "ZE"]);
    client.query("rollback").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(rows(&router).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_a_batch_that_is_void_leaves_nothing_open() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.query("begin").await;
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.execute("insert into ledger values (1)").await;
    client.send(b'H', b"").await;
    lose(&mut primary, &mut control).await;
    client.execute("commit").await;
    client.send(b'S', b"").await;
    go_on(&standby, &mut control).await;
    assert_eq!(client.cycle().await, ["40001", "ZI"]);
    client.query("insert into ledger values (2)").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    client.execute("begin").await;
    client.execute("insert into ledger values (3)").await;
    client.send(b'S', b"").await;
    assert_eq!(client.cycle().await, ["1", "2", "C", "1", "2", "C", "ZT"]);
    client.query("commit").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(rows(&router).await, 2);
}

/// Says yes to everything, as no PostgreSQL does. Gives what it was asked.
fn yes_man(folder: &std::path::Path) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0);
        stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I").unwrap();
        while let Ok(read) = stream.read(&mut chunk)
            && read > 0
        {
            asked.extend_from_slice(&chunk[..read]);
            stream.write_all(b"C\0\0\0\x07OK\0Z\0\0\0\x05I").unwrap();
        }
        String::from_utf8_lossy(&asked).into_owned()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_refuse_a_lost_transaction_gets_nothing_of_it() {
    let (mut primary, router, mut control) = single().await;
    let mut client = Raw::connect(router.write).await;
    client.query("begin; insert into ledger values (1)").await;
    client.cycle().await;
    primary.kill();
    control.point(1, None, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let server = yes_man(folder.path());
    client.query("insert into ledger values (2)").await;
    client.query("commit").await;
    let write = Server {
        member: Member::nth(1).unwrap(),
        timeline: Timeline(2),
        socket_dir: folder.path().to_owned(),
        port: 5432,
    };
    let targets = Targets { epoch: 2, write: Some(write), read: Vec::new() };
    assert_eq!(control.ask(ToRouter::Targets { targets }).await, FromRouter::Pointed { epoch: 2 });
    let (kind, body) = client.next().await;
    assert!(kind == b'E' && body.windows(5).any(|part| part == b"57P01"), "{}", String::from_utf8_lossy(&body));
    drop(client);
    let asked = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    assert!(asked.contains("ROLLBACK TO SAVEPOINT") && !asked.contains("insert"), "{asked}");
}

/// The second byte of a letter is a backslash in SJIS, so that another quote ends the string than it seems.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_hidden_by_an_encoding_is_not_said_to_be_undone() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.query("set client_encoding = 'SJIS'").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    client.query("begin").await;
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    client.query("insert into ledger values (1)").await;
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    caught_up(&primary, &standby).await;
    primary.freeze();
    client.send(b'Q', b"select E'\x95\x5c'; commit; --'\0").await;
    lose(&mut primary, &mut control).await;
    go_on(&standby, &mut control).await;
    let (kind, body) = client.next().await;
    assert_eq!(kind, b'E');
    assert!(body.windows(6).any(|part| part == b"C08007"), "{}", String::from_utf8_lossy(&body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_ahead_without_an_end_is_answered() {
    let (_primary, router, _control) = single().await;
    let mut client = Raw::connect(router.write).await;
    // Far more text than the router keeps unconfirmed, and fewer answers than a server sends by itself.
    let padding = "x".repeat(15_000);
    for number in 0..450 {
        client.send(b'P', format!("s{number}\0select 1 /* {padding} */\0\0\0").as_bytes()).await;
    }
    client.send(b'S', b"").await;
    let cycle = client.cycle().await;
    assert_eq!(cycle.len(), 451);
    assert!(cycle.iter().take(450).all(|kind| kind == "1"), "{cycle:?}");
    // Behind an error all is passed over up to Sync, however much it is.
    client.send(b'P', b"\0select from from\0\0\0").await;
    for number in 0..30_000 {
        client.send(b'P', format!("t{number}\0select {number}\0\0\0").as_bytes()).await;
        client.send(b'C', format!("Ss{number}\0").as_bytes()).await;
    }
    client.query("insert into ledger values (1)").await;
    client.send(b'S', b"").await;
    assert_eq!(client.cycle().await, ["42601", "ZI"]);
    // What was kept before is there, what was passed over is not.
    for (name, expected) in [("s7", ["2", "D", "C", "ZI"].as_slice()), ("t7", &["26000", "ZI"])] {
        client.send(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes()).await;
        client.send(b'E', &[0; 5]).await;
        client.send(b'S', b"").await;
        assert_eq!(client.cycle().await, expected, "{name}");
    }
    assert_eq!(rows(&router).await, 0);
}
