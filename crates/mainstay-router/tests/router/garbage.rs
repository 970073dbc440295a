//! Clients that mean harm, or mean nothing: told so or cut off, and nobody else notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::raw::Raw;
use crate::support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

/// Numbers that are the same for the same seed: `MAINSTAY_SEED=N` runs one again.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        // Knuth's MMIX constants; the low bits are weak, so the high ones are used.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = self.next(most + 1);
        (0..length).map(|_| u8::try_from(self.next(256)).unwrap()).collect()
    }
}

fn seed() -> u64 {
    std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2026)
}

/// A client that works all the while, and finds nothing wrong.
struct Witness {
    is_over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u32>,
}

impl Witness {
    async fn start(address: SocketAddr) -> Self {
        let client = connect(address).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            let statement = client.prepare("select $1::int + 1").await.unwrap();
            let mut rounds = 0;
            while !flag.load(Ordering::Relaxed) {
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&rounds];
                let asked = tokio::time::timeout(Duration::from_secs(10), client.query_one(&statement, &parameters));
                let answer = asked.await.expect("served in 10 s").unwrap();
                assert_eq!(answer.get::<_, i32>(0), rounds + 1);
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            u32::try_from(rounds).unwrap()
        });
        Self { is_over, task }
    }

    async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        assert!(self.task.await.unwrap() > 5);
    }
}

/// What a stranger may send first, with something wrong in it.
fn stranger(numbers: &mut Numbers) -> Vec<u8> {
    let mut packet = b"\0\0\0\x21\0\x03\0\0user\0app\0database\0app\0\0p\0\0\0\x0cSCRAM-SHA-256\0".to_vec();
    match numbers.next(4) {
        0 => packet = numbers.bytes(200),
        1 => packet.truncate(usize::try_from(numbers.next(60)).unwrap()),
        _ => {
            for _ in 0..=numbers.next(4) {
                let at = usize::try_from(numbers.next(packet.len() as u64)).unwrap();
                packet[at] = u8::try_from(numbers.next(256)).unwrap();
            }
        }
    }
    if numbers.next(3) == 0 {
        packet.extend(numbers.bytes(300));
    }
    packet
}

/// What one who came in may send: known and unknown kinds, bodies that mean nothing, lengths that lie.
fn message(numbers: &mut Numbers) -> Vec<u8> {
    let kinds = b"QPBEDSCHFdcfXp~\0";
    let kind = kinds[usize::try_from(numbers.next(kinds.len() as u64)).unwrap()];
    let most = if numbers.next(20) == 0 { 40_000 } else { 40 };
    let body = numbers.bytes(most);
    let mut length = u32::try_from(body.len() + 4).unwrap();
    if numbers.next(12) == 0 {
        length = u32::try_from(numbers.next(1 << 32)).unwrap();
    }
    [&[kind], length.to_be_bytes().as_slice(), &body].concat()
}

async fn throw(stream: &mut TcpStream, bytes: &[u8]) {
    // Cut off in the middle is fine; so is silence, which the router bears for a while.
    stream.write_all(bytes).await.ok();
    let mut answer = vec![0; 4096];
    tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_disturbs_nobody_else() {
    let (_primary, router, mut control) = single().await;
    let witness = Witness::start(router.write).await;
    let seed = seed();
    println!("seed = {seed}");
    let mut numbers = Numbers(seed);
    for _ in 0..150 {
        let mut stream = TcpStream::connect(router.write).await.unwrap();
        throw(&mut stream, &stranger(&mut numbers)).await;
    }
    for _ in 0..40 {
        let mut raw = Raw::connect(router.write).await;
        for _ in 0..=numbers.next(12) {
            let bytes = message(&mut numbers);
            throw(&mut raw.stream, &bytes).await;
        }
    }
    witness.end().await;
    router.connect().await.batch_execute("insert into ledger values (1)").await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let page = control.metrics().await;
        let is_empty = |line: &str| line.starts_with("mainstay_router_clients{door=\"write\"}") && line.ends_with(" 0");
        if page.lines().any(is_empty) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "sessions of nobody stay: {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_or_know_no_password_disturb_nobody_else() {
    let (_primary, router, _control) = single().await;
    let witness = Witness::start(router.write).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::connect(router.write).await;
        raw.query("select repeat('x', 1000000) from generate_series(1, 1000)").await;
        silent.push(raw);
    }
    for _ in 0..20 {
        let mut wrong = config(router.write);
        let error = wrong.password("wrong").connect(NoTls).await.err().expect("refused");
        assert_eq!(code(&error), "28P01");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    witness.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_longer_than_any_can_be_is_told_and_ends_its_session_only() {
    let (_primary, router, _control) = single().await;
    let witness = Witness::start(router.write).await;
    for length in [3_u32, (1 << 30) + 1, u32::MAX] {
        let mut raw = Raw::connect(router.write).await;
        raw.query("select 1").await;
        assert_eq!(raw.cycle().await, ["T", "D", "C", "ZI"]);
        raw.stream.write_all(&[b"Q", length.to_be_bytes().as_slice()].concat()).await.unwrap();
        let (kind, body) = raw.next().await;
        assert_eq!(kind, b'E');
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("08P01") && text.contains("limits are 4"), "{text}");
        assert_eq!(raw.stream.read(&mut [0; 1]).await.unwrap(), 0, "the session ends");
    }
    witness.end().await;
}
