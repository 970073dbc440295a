//! Sessions through the router to a real PostgreSQL, with nothing going wrong but the client.

use std::time::Duration;

use crate::support::*;
use futures_util::{SinkExt as _, StreamExt as _, pin_mut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::{AsyncMessage, NoTls};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simple_and_extended_statements_and_copies_pass() {
    let (_primary, router, mut control) = single().await;
    let mut client = router.connect().await;
    assert_eq!(client.simple_query("select 1; select 2").await.unwrap().len(), 6);
    let row = client.query_one("select $1::int + 1", &[&41]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    let failed = client.query("select 1/$1::int", &[&0]).await.unwrap_err();
    assert_eq!(code(&failed), "22012");
    let tx = client.transaction().await.unwrap();
    tx.execute("insert into ledger values (1)", &[]).await.unwrap();
    tx.rollback().await.unwrap();

    let sink = client.copy_in("copy ledger (id) from stdin").await.unwrap();
    pin_mut!(sink);
    for number in 0..1_000 {
        sink.send(bytes(format!("{number}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 1_000);
    let copied: Vec<_> = client.copy_out("copy ledger (id) to stdout").await.unwrap().collect().await;
    assert_eq!(copied.len(), 1_000);
    let bad = client.copy_in("copy ledger (id) from stdin").await.unwrap();
    pin_mut!(bad);
    bad.send(bytes("x\n".to_owned())).await.unwrap();
    assert!(bad.finish().await.is_err());
    assert_eq!(client.query_one("select count(*) from ledger", &[]).await.unwrap().get::<_, i64>(0), 1_000);

    let page = control.metrics().await;
    assert!(page.contains("mainstay_router_errors_total{door=\"write\",sqlstate=\"22012\"} 1"), "{page}");
    assert!(page.contains("mainstay_router_clients{door=\"write\"} 1"), "{page}");
}

fn bytes(text: String) -> std::io::Cursor<Vec<u8>> {
    std::io::Cursor::new(text.into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_stream_both_ways() {
    let (_primary, router, _control) = single().await;
    let client = router.connect().await;
    let huge = "y".repeat(60 << 20);
    let row = client.query_one("select length($1), repeat('x', 60 * 1024 * 1024)", &[&huge]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 60 << 20);
    assert_eq!(row.get::<_, &str>(1).len(), 60 << 20);
    client.execute("select 1", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_unknown_roles_and_databases_are_turned_away() {
    let (_primary, router, _control) = single().await;
    for (user, password, database, expected) in [
        ("app", "wrong", "app", "28P01"),
        ("postgres", PASSWORD, "app", "28P01"),
        ("absent", PASSWORD, "app", "28P01"),
        ("app", PASSWORD, "postgres", "3D000"),
        ("app", PASSWORD, "nowhere", "3D000"),
    ] {
        let mut config = config(router.write);
        config.user(user).password(password).dbname(database);
        let error = config.connect(NoTls).await.err().expect("refused");
        assert_eq!(code(&error), expected, "{user} {database}: {error:?}");
    }
    let mut config = config(router.write);
    let (client, connection) = config.user("näm'e").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one("select current_user::text", &[]).await.unwrap().get::<_, String>(0), "näm'e");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_reaches_the_server() {
    let (_primary, router, _control) = single().await;
    let client = router.connect().await;
    let token = client.cancel_token();
    let sleeping = tokio::spawn(async move { client.simple_query("select pg_sleep(20)").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    token.cancel_query(NoTls).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), sleeping).await.expect("cancelled").unwrap();
    assert_eq!(code(&ended.unwrap_err()), "57014");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_pass() {
    let (_primary, router, _control) = single().await;
    let (listener, mut connection) = config(router.write).connect(NoTls).await.unwrap();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            tx.send(message).ok();
        }
    });
    listener.batch_execute("listen news").await.unwrap();
    router.connect().await.batch_execute("notify news, 'hello'").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(5), rx.recv()).await.expect("a notification").unwrap();
    assert!(matches!(next, AsyncMessage::Notification(note) if note.payload() == "hello"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_clients_than_allowed_are_told_so() {
    let (_primary, router, mut control) = single().await;
    let mut narrow = policy();
    narrow.generation = mainstay_types::Generation(2);
    narrow.max_clients = 2;
    control.policy(narrow).await;
    let (first, _second) = (router.connect().await, router.connect().await);
    let error = config(router.write).connect(NoTls).await.err().expect("refused");
    assert_eq!(code(&error), "53300");
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while config(router.write).connect(NoTls).await.is_err() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_door_only_reads() {
    let (primary, standby, router, mut control) = pair().await;
    let reader = connect(router.read).await;
    let on_primary = reader.execute("insert into ledger values (1)", &[]).await.unwrap_err();
    assert_eq!(code(&on_primary), "25006");
    control.point(1, Some(&primary), &[&standby]).await;
    // Moved while idle: the same session, another server.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !reader.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0) {
        assert!(std::time::Instant::now() < deadline, "still on the primary");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    control.point(1, Some(&primary), &[]).await;
    let moved_back = reader.execute("insert into ledger values (1)", &[]).await.unwrap_err();
    assert_eq!(code(&moved_back), "25006");
}

/// Bytes as they are, for what no driver sends.
async fn raw(router: &Router, packet: &[u8]) -> Vec<u8> {
    let mut stream = tokio::net::TcpStream::connect(router.write).await.unwrap();
    stream.write_all(packet).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading).await.expect("closed in 5 s").ok();
    answer
}

fn packet(version: u32, text: &[u8]) -> Vec<u8> {
    let mut packet = u32::try_from(text.len() + 8).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&version.to_be_bytes());
    packet.extend_from_slice(text);
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_startup_packets_end_the_connection_and_nothing_else() {
    let (_primary, router, _control) = single().await;
    for wrong in [
        vec![0, 0, 0, 1],
        vec![0xff; 8],
        vec![0, 0, 0x27, 0x11, 0, 3, 0, 0],
        packet(3 << 16, b"user\0"),
        packet(3 << 16, b"user\0app\0database"),
        packet(2 << 16, b"\0"),
        packet(3 << 16, b"user\0app\0replication\0database\0\0"),
    ] {
        let answer = raw(&router, &wrong).await;
        assert_eq!(answer.first(), Some(&b'E'), "{wrong:?}");
    }
    let mut asks = packet(80_877_103, b"");
    asks.extend(packet((3 << 16) + 2, b"_pq_.x\0y\0user\0app\0\0"));
    asks.extend_from_slice(b"Q\0\0\0\x05\0");
    let answer = raw(&router, &asks).await;
    assert_eq!(&answer[..2], b"Nv");
    assert!(answer.windows(6).any(|part| part == b"_pq_.x"));
    router.connect().await.simple_query("select 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_remembers_its_policy_and_targets() {
    let (_primary, router, control) = single().await;
    drop(control);
    let idle = router.connect().await;
    let folder = router.stop().await;
    let told = idle.simple_query("select 1").await.unwrap_err();
    assert!(told.is_closed() || code(&told) == "57P01", "{told:?}");
    let router = Router::start_in(folder);
    router.connect().await.simple_query("select 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_finishes_what_is_in_flight() {
    let (_primary, router, _control) = single().await;
    let busy = router.connect().await;
    let working = tokio::spawn(async move { busy.simple_query("select pg_sleep(0.5), 7").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    router.stop().await;
    assert!(working.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_epochs_and_policies_are_refused() {
    use mainstay_router::protocol::{FromRouter, Targets, ToRouter};
    let (primary, router, mut control) = single().await;
    control.point(5, Some(&primary), &[]).await;
    control.point(5, Some(&primary), &[]).await;
    let old = Targets { epoch: 4, write: None, read: vec![] };
    let answer = control.ask(ToRouter::Targets { targets: old }).await;
    assert!(matches!(answer, FromRouter::Rejected { .. }), "{answer:?}");
    let mut older = policy();
    older.generation = mainstay_types::Generation(0);
    let answer = control.ask(ToRouter::Policy { policy: Box::new(older) }).await;
    assert!(matches!(answer, FromRouter::Rejected { .. }), "{answer:?}");
    router.connect().await.simple_query("select 1").await.unwrap();
}
