//! A client that says what no driver says.

use std::net::SocketAddr;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    address: SocketAddr,
    /// Process and secret, as a cancel request names them.
    key: Vec<u8>,
    /// Read already, and not taken yet.
    back: Option<(u8, Vec<u8>)>,
    /// The newest error, for who finds the connection closed.
    last: String,
}

/// What was answered up to and with ReadyForQuery.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Kinds of the messages; for errors their SQLSTATE.
    pub(crate) kinds: Vec<String>,
    /// The first column of each row, or each line of a COPY.
    pub(crate) rows: Vec<String>,
}

impl Raw {
    /// Logged in, ready for a query.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut raw = Self { stream, address, key: Vec::new(), back: None, last: String::new() };
        let mut startup = vec![0, 3, 0, 0];
        startup.extend_from_slice(b"user\0app\0database\0app\0\0");
        raw.send_sized(&[], &startup).await;
        assert_eq!(raw.next().await.0, b'R');
        let mut scram = ScramSha256::new(super::PASSWORD.as_bytes(), ChannelBinding::unsupported());
        let mut first = b"SCRAM-SHA-256\0".to_vec();
        first.extend_from_slice(&u32::try_from(scram.message().len()).unwrap().to_be_bytes());
        first.extend_from_slice(scram.message());
        raw.send(b'p', &first).await;
        scram.update(&raw.next().await.1[4..]).unwrap();
        let last = scram.message().to_vec();
        raw.send(b'p', &last).await;
        scram.finish(&raw.next().await.1[4..]).unwrap();
        loop {
            match raw.next().await {
                (b'K', key) => raw.key = key,
                (b'Z', _) => return raw,
                _ => {}
            }
        }
    }

    /// Asks on a connection of its own that what this session does is ended.
    pub(crate) async fn cancel(&self) {
        let mut message = vec![0, 0, 0, 16, 4, 210, 22, 46];
        message.extend_from_slice(&self.key);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&message).await.unwrap();
        // Closed by the other side when it was taken.
        stream.read_to_end(&mut Vec::new()).await.ok();
    }

    /// The first message of an answer, which is read again with the rest.
    pub(crate) async fn peek(&mut self) -> u8 {
        let message = self.next().await;
        let kind = message.0;
        self.back = Some(message);
        kind
    }

    async fn send_sized(&mut self, head: &[u8], body: &[u8]) {
        let mut message = head.to_vec();
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).await.unwrap();
    }

    pub(crate) async fn send(&mut self, kind: u8, body: &[u8]) {
        self.send_sized(&[kind], body).await;
    }

    pub(crate) async fn query(&mut self, text: &str) {
        self.send(b'Q', format!("{text}\0").as_bytes()).await;
    }

    /// All in one packet, so that nobody has time in between.
    pub(crate) async fn queries(&mut self, texts: &[&str]) {
        let mut out = Vec::new();
        for text in texts {
            out.push(b'Q');
            out.extend_from_slice(&u32::try_from(text.len() + 5).unwrap().to_be_bytes());
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        self.stream.write_all(&out).await.unwrap();
    }

    /// An unnamed statement up to Execute, without Sync.
    pub(crate) async fn execute(&mut self, text: &str) {
        self.send(b'P', format!("\0{text}\0\0\0").as_bytes()).await;
        self.send(b'B', &[0; 8]).await;
        self.send(b'E', &[0; 5]).await;
    }

    /// The next message; notices and parameters are passed over.
    pub(crate) async fn next(&mut self) -> (u8, Vec<u8>) {
        if let Some(message) = self.back.take() {
            return message;
        }
        loop {
            let mut head = [0; 5];
            let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read_exact(&mut head));
            let read = read.await.expect("a message in 30 s");
            assert!(read.is_ok(), "{read:?} after {:?}", self.last);
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            if head[0] == b'E' {
                self.last = String::from_utf8_lossy(&body).replace('\0', " ");
            }
            if !matches!(head[0], b'N' | b'S') {
                return (head[0], body);
            }
        }
    }

    /// The only column of the only row of a cycle.
    pub(crate) async fn row(&mut self) -> String {
        let mut found = None;
        loop {
            match self.next().await {
                (b'D', body) => found = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
                (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
                (b'Z', _) => return found.expect("a row"),
                _ => {}
            }
        }
    }

    /// Kinds of the messages up to and with ReadyForQuery; for errors their SQLSTATE.
    pub(crate) async fn cycle(&mut self) -> Vec<String> {
        self.whole().await.kinds
    }

    /// The same with what it brought.
    pub(crate) async fn whole(&mut self) -> Answer {
        let mut answer = Answer::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        loop {
            let (kind, body) = self.next().await;
            match kind {
                b'E' => {
                    let at = body.windows(2).position(|part| part == b"\0C").unwrap();
                    answer.kinds.push(text(&body[at + 2..at + 7]));
                    continue;
                }
                b'Z' => {
                    answer.kinds.push(format!("Z{}", char::from(body[0])));
                    return answer;
                }
                b'D' => answer.rows.push(text(&body[6..])),
                b'd' => answer.rows.push(text(&body)),
                _ => {}
            }
            answer.kinds.push(char::from(kind).to_string());
        }
    }
}
