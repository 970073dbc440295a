//! As much of RESP2 as PING and INFO need, on the Unix socket. Not a client for applications.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_types::Secret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Bound on an answer; INFO is some 6 KB.
const ANSWER_MAX: u64 = 256 * 1024;

/// Why a server did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// Nobody listens.
    #[error("nobody listens on {path}")]
    NotListening {
        /// The socket.
        path: PathBuf,
    },
    /// It did not answer in time.
    #[error("{path} did not answer within {} ms", within.as_millis())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The deadline.
        within: Duration,
    },
    /// It answered with an error: wrong password, or still loading its data.
    #[error("{path} answered: {message}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its words.
        message: String,
    },
    /// It answered what is no answer.
    #[error("{path} answered {answer:?}, which is not understood")]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// The beginning of it.
        answer: String,
    },
    /// The connection broke.
    #[error("connection to {path} broke: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ResponseError {
    /// It is there and does not answer.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}

/// The way into one server.
#[derive(Clone, Debug)]
pub struct Door {
    /// Its socket.
    pub socket: PathBuf,
    /// Its password.
    pub password: Secret,
    /// Longest wait for an answer.
    pub within: Duration,
}

impl Door {
    /// Sends one command on a connection of its own and returns the answer's text.
    ///
    /// **Errors**: as [`ResponseError`].
    pub async fn ask(&self, command: &[&str]) -> Result<String, ResponseError> {
        match tokio::time::timeout(self.within, self.exchange(command)).await {
            Ok(answer) => answer,
            Err(_) => Err(ResponseError::Silent { path: self.socket.clone(), within: self.within }),
        }
    }

    /// Sends several commands at once. The server reads them in one piece and does nothing else in between.
    ///
    /// **Errors**: as [`ResponseError`]; what it refused of the commands is in their places.
    pub async fn ask_all(&self, commands: &[&[&str]]) -> Result<Vec<Result<String, ResponseError>>, ResponseError> {
        let exchanging = async {
            let mut stream = self.enter(commands).await?;
            let mut answers = Vec::with_capacity(commands.len());
            for _ in commands {
                answers.push(match self.answer(&mut stream).await {
                    Err(error) if !matches!(error, ResponseError::Refused { .. }) => return Err(error),
                    answer => answer,
                });
            }
            Ok(answers)
        };
        match tokio::time::timeout(self.within, exchanging).await {
            Ok(answers) => answers,
            Err(_) => Err(ResponseError::Silent { path: self.socket.clone(), within: self.within }),
        }
    }

    async fn exchange(&self, command: &[&str]) -> Result<String, ResponseError> {
        let mut stream = self.enter(&[command]).await?;
        self.answer(&mut stream).await
    }

    /// Connects, asks, and takes the answer to the password.
    async fn enter(&self, commands: &[&[&str]]) -> Result<BufReader<UnixStream>, ResponseError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.failed(error))?;
        let mut stream = BufReader::new(stream);
        let mut request = encode(&["AUTH", self.password.expose()]);
        commands.iter().for_each(|command| request.extend(encode(command)));
        stream.get_mut().write_all(&request).await.map_err(|error| self.failed(error))?;
        self.answer(&mut stream).await?;
        Ok(stream)
    }

    async fn answer(&self, stream: &mut BufReader<UnixStream>) -> Result<String, ResponseError> {
        let nonsense = |answer: &str| {
            let answer = answer.chars().take(40).collect();
            ResponseError::Nonsense { path: self.socket.clone(), answer }
        };
        let mut line = String::new();
        (&mut *stream).take(ANSWER_MAX).read_line(&mut line).await.map_err(|error| self.failed(error))?;
        let line = line.strip_suffix("\r\n").ok_or_else(|| nonsense(&line))?;
        match line.split_at_checked(1) {
            Some(("+" | ":", text)) => Ok(text.to_owned()),
            Some(("-", message)) => {
                Err(ResponseError::Refused { path: self.socket.clone(), message: message.to_owned() })
            }
            Some(("$", length)) => {
                let length: u64 = length.parse().ok().filter(|n| *n < ANSWER_MAX).ok_or_else(|| nonsense(line))?;
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0) + 2];
                stream.read_exact(&mut bytes).await.map_err(|error| self.failed(error))?;
                let text = bytes.strip_suffix(b"\r\n").and_then(|text| std::str::from_utf8(text).ok());
                text.map(str::to_owned).ok_or_else(|| nonsense(line))
            }
            Some(_) | None => Err(nonsense(line)),
        }
    }

    fn failed(&self, source: io::Error) -> ResponseError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ResponseError::NotListening { path },
            _ => ResponseError::Broken { path, source },
        }
    }
}

fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}
