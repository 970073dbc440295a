//! What the router holds of a session. Alone in its process: it looks at the process's memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by unwrapping")]

#[path = "router/support/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::time::Duration;

use support::raw::Raw;
use support::single;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Against rows and texts of 100 MiB.
const LIMIT: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_messages_and_slow_clients_take_little_memory() {
    let (_primary, router, _control) = single().await;
    let mut client = Raw::connect(router.write).await;
    client.query("select 1").await;
    client.cycle().await;
    let before = resident_bytes();
    let mut most = before;

    client.query("select repeat('x', 100 * 1024 * 1024)").await;
    // Nobody reads: the router must not read on for them.
    tokio::time::sleep(Duration::from_millis(700)).await;
    most = most.max(resident_bytes());
    let mut chunk = vec![0; 64 << 10];
    let mut total = 0;
    while total < 100 << 20 {
        total += client.stream.read(&mut chunk).await.unwrap();
        most = most.max(resident_bytes());
    }
    // What is left are the ends of the row and of the cycle.
    let mut last = chunk;
    while !last.ends_with(b"Z\0\0\0\x05I") {
        last.truncate(0);
        client.stream.read_buf(&mut last).await.unwrap();
    }

    let text = 100_u32 << 20;
    client.stream.write_all(&[b"Q".as_slice(), &(text + 4).to_be_bytes(), b"select length('"].concat()).await.unwrap();
    let piece = vec![b'y'; 1 << 20];
    for _ in 0..99 {
        client.stream.write_all(&piece).await.unwrap();
        most = most.max(resident_bytes());
    }
    let rest = (1 << 20) - b"select length('".len() - b"')\0".len();
    client.stream.write_all(&piece[..rest]).await.unwrap();
    client.stream.write_all(b"')\0").await.unwrap();
    assert_eq!(client.cycle().await, ["T", "D", "C", "ZI"]);
    assert!(most - before < LIMIT, "{} MiB", (most - before) >> 20);
}
