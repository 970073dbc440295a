//! A real store and a real server that follows it.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use mainstay_cache::replicas::{self, PartError};
use mainstay_cache::{Door, Kind, Part, Settings};
use mainstay_decide::replicas::{StoreAnswer, StoreRecord};
use mainstay_types::{Member, Secret, Timestamp};
use rustix::process::Signal;

use super::{Server, WITHIN};

/// A server of the same stack as another, in this part.
fn beside(server: &Server, member: Member, is_primary: bool) -> Server {
    let part = Part { member, is_primary, is_alone: false, command: Secret::new("takeover") };
    let settings = Settings { part: Some(part), ..server.settings.clone() };
    Server { folder: tempfile::tempdir().unwrap(), settings, child: None }
}

async fn answer(server: &Server) -> Option<StoreAnswer> {
    replicas::look(&server.settings, Timestamp::default()).await.0.value().cloned()
}

/// Waits until the replica has all that the primary has.
async fn in_step(primary: &Server, replica: &Server) {
    let begun = Instant::now();
    loop {
        if let (Some(one), Some(other)) = (answer(primary).await, answer(replica).await)
            && other.has_link
            && (&one.history, one.offset) == (&other.history, other.offset)
            && other.is_on_disk
        {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "{:?} {:?}", answer(primary).await, answer(replica).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a client gets that knows the port and nothing else.
fn ask_at_port(port: u16, command: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("AUTH geheim\r\n{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_replica_takes_over_at_the_same_address_with_all_that_was_acknowledged() {
    let stack = Server::new(Kind::Store);
    let record = StoreRecord::default();
    let (mut a, mut b) = (beside(&stack, Member::A, true), beside(&stack, Member::B, false));
    for server in [&mut a, &mut b] {
        replicas::prepare(&server.settings, &record).unwrap();
        server.start().await;
    }
    for n in 0..200 {
        a.ask(&["SET", &format!("key:{n}"), "acknowledged"]).await;
    }
    in_step(&a, &b).await;
    let refused = b.settings.door().ask(&["SET", "x", "1"]).await.unwrap_err();
    assert!(refused.to_string().contains("READONLY"), "{refused}");
    let port = a.settings.port;
    assert_eq!((answer(&a).await.unwrap().port, answer(&b).await.unwrap().port), (port, 0));

    // While it writes all that it has, what it has is not in its file.
    let slowly = |delay: &'static str| ["CONFIG", "SET", "rdb-key-save-delay", delay];
    b.ask(&slowly("20000")).await;
    b.ask(&["BGREWRITEAOF"]).await;
    assert!(!answer(&b).await.unwrap().is_on_disk);
    b.ask(&slowly("0")).await;
    in_step(&a, &b).await;

    a.end(Signal::KILL).await;
    let begun = Instant::now();
    let record = StoreRecord { epoch: 1, primary: Member::B, former: Some(Member::A) };
    replicas::write_record(&b.settings.state, &record).unwrap();
    b.settings.part.as_mut().unwrap().is_primary = true;
    let part = b.settings.part.clone().unwrap();
    replicas::promote(&b.settings, &part).await.unwrap();
    println!("took over in {:?}", begun.elapsed());
    assert!(ask_at_port(port, "GET key:199").contains("acknowledged"));
    assert!(ask_at_port(port, "SET later 1").contains("+OK\r\n+OK"));
    let public = Door { socket: b.settings.public_socket(), ..b.settings.door() };
    assert_eq!(public.ask(&["GET", "later"]).await.unwrap(), "1", "its socket's path leads elsewhere");
    // The same again, as after a crash in the middle.
    replicas::promote(&b.settings, &part).await.unwrap();

    // The former primary, with a write that nobody else has.
    a.settings.part.as_mut().unwrap().is_primary = false;
    replicas::prepare(&a.settings, &record).unwrap();
    assert!(a.settings.dir().join("replaced").is_dir(), "what it had is not kept");
    a.start().await;
    in_step(&b, &a).await;
    assert_eq!(a.ask(&["GET", "later"]).await, "1");
    // Put aside once: after a restart it begins with what it has by now.
    a.end(Signal::TERM).await;
    replicas::prepare(&a.settings, &record).unwrap();
    assert!(a.settings.dir().join("appendonlydir").exists() || a.settings.dir().join("appendonly.aof").exists());
    b.end(Signal::TERM).await;
}

#[tokio::test]
async fn a_primary_without_its_file_is_not_begun_and_a_record_never_goes_back() {
    let stack = Server::new(Kind::Store);
    let mut a = beside(&stack, Member::A, true);
    let record = StoreRecord::default();
    replicas::prepare(&a.settings, &record).unwrap();
    // A first start that came to nothing, as with a port that somebody has, is no loss.
    replicas::prepare(&a.settings, &record).unwrap();
    a.start().await;
    a.ask(&["SET", "a", "1"]).await;
    replicas::note_served(&a.settings.state).unwrap();
    a.end(Signal::KILL).await;
    replicas::prepare(&a.settings, &record).unwrap();
    std::fs::remove_dir_all(a.settings.dir().join("appendonlydir")).unwrap();
    let gone = replicas::prepare(&a.settings, &record).unwrap_err();
    assert!(matches!(gone, PartError::Gone(_)), "{gone}");

    let state = &a.settings.state;
    let taken = StoreRecord { epoch: 2, primary: Member::B, former: Some(Member::A) };
    replicas::write_record(state, &taken).unwrap();
    replicas::write_record(state, &taken).unwrap();
    for epoch in [1, 2] {
        let other = StoreRecord { epoch, primary: Member::A, former: None };
        assert!(matches!(replicas::write_record(state, &other), Err(PartError::Older { .. })));
    }
    assert_eq!(replicas::record(state).unwrap(), Some(taken));
}
