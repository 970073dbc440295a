//! What a service does with the words a router says during a failover, against a small server that
//! speaks the PostgreSQL protocol and says them on purpose.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_kit::pool::{ATTEMPTS_MAX, Database, Failure, PoolOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How the driver opens a transaction.
const BEGIN: &str = "START TRANSACTION";

/// What the server does about a statement.
#[derive(Clone, Copy)]
enum Reply {
    Good,
    /// An error with this code; the session goes on.
    Error(&'static str),
    /// An error with this code, then the end of the connection.
    Goodbye(&'static str),
    /// The end of the connection without a word.
    Silence,
}

type Script = fn(nth_of_its_kind: usize, statement: &str) -> Reply;

/// A server and the statements it was sent.
struct Server {
    database: Database,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Ends when its client goes; errors are the end of a connection.
                tokio::spawn(serve(stream, script, shared.clone()));
            }
        });
        let database = Database::new(&PoolOptions {
            url: format!("postgres://users@127.0.0.1:{port}/users?sslmode=disable"),
            size: 2,
            acquire_timeout: Duration::from_secs(5),
            application_name: "switchover".to_owned(),
        })
        .expect("a usable url");
        Self { database, seen }
    }

    async fn write(&self) -> Result<(), Failure> {
        self.database
            .transaction(|transaction| {
                Box::pin(async move {
                    transaction.query_typed("INSERT", &[]).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn read(&self) -> Result<(), Failure> {
        self.database
            .read(|client| {
                Box::pin(async move {
                    client.query_typed("SELECT", &[]).await?;
                    Ok(())
                })
            })
            .await
    }

    fn count(&self, statement: &str) -> usize {
        let seen = self.seen.lock().expect("no panic while locked");
        seen.iter().filter(|s| s.as_str() == statement).count()
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0Msaid on purpose\0\0").as_bytes())
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let length = stream.read_u32().await? as usize;
    stream.read_exact(&mut vec![0; length - 4]).await?;
    stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
    let mut parsed = String::new();
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).split('\0').next().unwrap_or_default().to_owned();
        let (statement, good) = match kind {
            b'Q' => (text(&body), message(b'C', b"OK\0")),
            b'P' => {
                parsed = text(&body[1..]); // after the empty name of the statement
                continue;
            }
            b'S' => {
                let parts = [message(b'1', b""), message(b'2', b""), message(b'n', b""), message(b'C', b"OK\0")];
                (parsed.clone(), parts.concat())
            }
            b'X' => return Ok(()),
            _ => continue,
        };
        let nth = {
            let mut seen = seen.lock().expect("no panic while locked");
            seen.push(statement.clone());
            seen.iter().filter(|s| **s == statement).count()
        };
        let ready = message(b'Z', b"I");
        match script(nth, &statement) {
            Reply::Good => stream.write_all(&[good, ready].concat()).await?,
            Reply::Error(code) => stream.write_all(&[error(code), ready].concat()).await?,
            Reply::Goodbye(code) => return stream.write_all(&error(code)).await,
            Reply::Silence => return Ok(()),
        }
    }
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_said_and_never_repeated() {
    let scripts: [Script; 3] = [
        |_, statement| if statement == "COMMIT" { Reply::Error("08007") } else { Reply::Good },
        |_, statement| if statement == "COMMIT" { Reply::Goodbye("57P01") } else { Reply::Good },
        |_, statement| if statement == "COMMIT" { Reply::Silence } else { Reply::Good },
    ];
    for script in scripts {
        let server = Server::start(script).await;
        let failure = server.write().await.expect_err("nobody knows");
        assert!(matches!(failure, Failure::OutcomeUnknown), "{failure:?}");
        assert_eq!((server.count("INSERT"), server.count("COMMIT")), (1, 1));
    }
}

#[tokio::test]
async fn an_insert_of_unknown_outcome_is_not_repeated_either() {
    let server = Server::start(|_, s| if s == "INSERT" { Reply::Error("08007") } else { Reply::Good }).await;
    assert!(matches!(server.write().await, Err(Failure::OutcomeUnknown)));
    assert_eq!(server.count("INSERT"), 1);
}

#[tokio::test]
async fn a_transaction_that_was_cut_before_its_commit_is_repeated_once_more() {
    let scripts: [Script; 5] = [
        |nth, s| if s == "INSERT" && nth == 1 { Reply::Error("40001") } else { Reply::Good },
        |nth, s| if s == "INSERT" && nth == 1 { Reply::Goodbye("57P01") } else { Reply::Good },
        |nth, s| if s == "INSERT" && nth == 1 { Reply::Silence } else { Reply::Good },
        |nth, s| if s == BEGIN && nth == 1 { Reply::Goodbye("57P03") } else { Reply::Good },
        |nth, s| if s == "COMMIT" && nth == 1 { Reply::Error("40001") } else { Reply::Good },
    ];
    for (index, script) in scripts.into_iter().enumerate() {
        let server = Server::start(script).await;
        server.write().await.unwrap_or_else(|failure| panic!("script {index}: {failure:?}"));
        assert_eq!(server.count(BEGIN), 2, "script {index}");
    }
}

#[tokio::test]
async fn repeating_ends() {
    let server = Server::start(|_, s| if s == "INSERT" { Reply::Goodbye("57P01") } else { Reply::Good }).await;
    assert!(matches!(server.write().await, Err(Failure::Refused(_))));
    assert_eq!(server.count("INSERT"), ATTEMPTS_MAX as usize);
    assert_eq!(server.count("COMMIT"), 0);
}

#[tokio::test]
async fn a_refused_statement_is_not_repeated() {
    let server = Server::start(|_, s| if s == "INSERT" { Reply::Error("23505") } else { Reply::Good }).await;
    assert!(matches!(server.write().await, Err(Failure::Refused(_))));
    assert_eq!((server.count("INSERT"), server.count("ROLLBACK")), (1, 1));
}

#[tokio::test]
async fn a_read_is_repeated_whatever_ended_it() {
    let scripts: [Script; 3] = [
        |nth, s| if s == "SELECT" && nth == 1 { Reply::Error("08007") } else { Reply::Good },
        |nth, s| if s == "SELECT" && nth == 1 { Reply::Goodbye("57P01") } else { Reply::Good },
        |nth, s| if s == "SELECT" && nth == 1 { Reply::Silence } else { Reply::Good },
    ];
    for script in scripts {
        let server = Server::start(script).await;
        server.read().await.expect("the second time");
        assert_eq!(server.count("SELECT"), 2);
    }
}
