//! Client of the admin API over its Unix socket (L3): for the CLI, drills and tests.
//!
//! Holds no state but the socket's path; every call is a connection of its own and has a deadline.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mainstay_api::{
    CommandContext, ConsoleLink, DatabaseAccess, ErrandAsked, ErrandStatus, Event, LogLine, MaintenanceAsked, Pool,
    Problem, Process, RouteStatus, RouteSwitched, RunAsked, Sabotage, ScaleAsked, ScaleStatus, SchemaChanged,
    ServiceEnv, Status, Top, Traffic,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Time for one call: the control plane answers from memory, so more means that it hangs.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is read into memory (an events page of 10,000 rows is some MiB).
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: the stack is not up, or the control plane is just being restarted.
    #[error("the control plane does not answer on {socket}")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("the control plane gave no answer to {path} within {} s", DEADLINE.as_secs())]
    Timeout {
        /// What was asked.
        path: String,
    },
    /// The API refused.
    #[error("{}", .0.title)]
    Refused(Problem),
    /// The connection broke, or the answer is not of this API's form.
    #[error("no usable answer to {path}: {reason}")]
    Broken {
        /// What was asked.
        path: String,
        /// How.
        reason: String,
    },
}

/// The admin API at one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Newline-delimited JSON that arrives as it is written.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    path: String,
}

impl Lines {
    /// The next value; `None` at the end.
    ///
    /// **Errors**: the connection broke, or a line is not the JSON of a `T`.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line[..end]).map(Some).map_err(|error| broken(&self.path, &error));
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(broken(&self.path, &"a line over the limit"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.path, &error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn broken(path: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Broken { path: path.to_owned(), reason: reason.to_string() }
}

impl Client {
    /// The API that listens at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole stack at a moment.
    ///
    /// **Errors**: as [`Error`]; so for every call below.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/api/v1/status").await
    }

    /// Every supervised process.
    pub async fn processes(&self) -> Result<Vec<Process>, Error> {
        self.get("/api/v1/processes").await
    }

    /// Events after `seq`, oldest first, at most `limit`; with `after = None` the newest `limit`.
    pub async fn events(&self, after: Option<u64>, limit: u32) -> Result<Vec<Event>, Error> {
        match after {
            Some(seq) => self.get(&format!("/api/v1/events?after={seq}&limit={limit}")).await,
            None => self.get(&format!("/api/v1/events?limit={limit}")).await,
        }
    }

    /// Traffic in the last window.
    pub async fn traffic(&self) -> Result<Traffic, Error> {
        self.get("/api/v1/traffic").await
    }

    /// What each drill is owed.
    pub async fn drills(&self) -> Result<Vec<mainstay_api::DrillStanding>, Error> {
        self.get("/api/v1/drills").await
    }

    /// What a service is given.
    pub async fn service_env(&self, service: &str) -> Result<ServiceEnv, Error> {
        self.get(&format!("/api/v1/services/{service}/env")).await
    }

    /// What a command needs to run as a service does; `is_running`: as a running instance of it.
    pub async fn context(&self, name: &str, is_running: bool) -> Result<CommandContext, Error> {
        self.get(&format!("/api/v1/context/{name}?running={is_running}")).await
    }

    /// Asks for a run of a schedule now.
    pub async fn run_now(&self, service: &str) -> Result<RunAsked, Error> {
        self.post(&format!("/api/v1/services/{service}/run"), &()).await
    }

    /// How many instances of services there are, and why.
    pub async fn scales(&self) -> Result<Vec<ScaleStatus>, Error> {
        self.get("/api/v1/scale").await
    }

    /// Asks for another number of instances, or for the load to move it.
    pub async fn scale(&self, service: &str, asked: &ScaleAsked) -> Result<ScaleStatus, Error> {
        self.post(&format!("/api/v1/services/{service}/scale"), asked).await
    }

    /// Routes of the edge, and which of them are in maintenance.
    pub async fn routes(&self) -> Result<Vec<RouteStatus>, Error> {
        self.get("/api/v1/routes").await
    }

    /// Puts a route into maintenance, or lets it serve again.
    pub async fn route_maintenance(&self, asked: &MaintenanceAsked) -> Result<RouteSwitched, Error> {
        self.post("/api/v1/routes/maintenance", asked).await
    }

    /// What every process uses.
    pub async fn top(&self) -> Result<Top, Error> {
        self.get("/api/v1/top").await
    }

    /// How to reach the database.
    pub async fn database(&self) -> Result<DatabaseAccess, Error> {
        self.get("/api/v1/database").await
    }

    /// Asks the cluster for a switchover, a failover or a restart; how far it is shows in the status.
    pub async fn errand(&self, asked: &ErrandAsked) -> Result<ErrandStatus, Error> {
        self.post("/api/v1/database/errand", asked).await
    }

    /// Tells what a command has done to the schema.
    pub async fn schema_changed(&self, changed: &SchemaChanged) -> Result<(), Error> {
        self.post("/api/v1/database/schema", changed).await
    }

    /// The router's pools.
    pub async fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.get("/api/v1/pools").await
    }

    /// A one-time console link.
    pub async fn console_link(&self) -> Result<ConsoleLink, Error> {
        self.post("/api/v1/console-link", &()).await
    }

    /// Breaks something on purpose, for a positive control.
    pub async fn sabotage(&self, sabotage: Sabotage) -> Result<(), Error> {
        self.post("/api/v1/sabotage", &sabotage).await
    }

    /// Asks for an ordered end.
    pub async fn down(&self) -> Result<(), Error> {
        self.post("/api/v1/down", &()).await
    }

    /// Log lines of one child, or of all; with `follow` without an end.
    pub async fn logs(&self, child: Option<&str>, lines: u32, follow: bool) -> Result<Lines, Error> {
        let child = child.map(|name| format!("&child={name}")).unwrap_or_default();
        let path = format!("/api/v1/logs?lines={lines}&follow={follow}{child}");
        let response = self.call(Method::GET, &path, Bytes::new()).await?;
        let body = self.checked(&path, response).await?;
        Ok(Lines { body, buffer: Vec::new(), path })
    }

    /// Reads the next line of [`Client::logs`].
    pub async fn next_line(lines: &mut Lines) -> Result<Option<LogLine>, Error> {
        lines.next().await
    }

    /// `GET path` as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with a JSON body; an empty answer reads as `null`.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(|error| broken(path, &error))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let whole = async {
            let response = self.call(method, path, body).await?;
            let body = self.checked(path, response).await?;
            let limited = http_body_util::Limited::new(body, MAX_ANSWER);
            let bytes = limited.collect().await.map_err(|error| broken(path, &error))?.to_bytes();
            let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
            serde_json::from_slice(&bytes).map_err(|error| broken(path, &error))
        };
        tokio::time::timeout(DEADLINE, whole).await.map_err(|_| Error::Timeout { path: path.to_owned() })?
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Error::NotRunning { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(path, &error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "mainstay")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| broken(path, &error))?;
        let answer = tokio::time::timeout(DEADLINE, sender.send_request(request)).await;
        answer.map_err(|_| Error::Timeout { path: path.to_owned() })?.map_err(|error| broken(path, &error))
    }

    async fn checked(&self, path: &str, response: Response<Incoming>) -> Result<Incoming, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = http_body_util::Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| broken(path, &error))?
            .to_bytes();
        Err(Error::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            status: status.as_u16(),
            code: if status == StatusCode::NOT_FOUND { "MS4040".to_owned() } else { "MS5000".to_owned() },
            title: format!("{path} answered {status}"),
            help: None,
        })))
    }
}
