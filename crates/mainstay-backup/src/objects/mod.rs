//! Objects in a store that speaks S3, or Azure's own. Puts, gets, lists and removes whole objects below one prefix, and nothing else.
//!
//! Speaks only to the endpoint that it was given. It signs requests itself and speaks HTTP by the client that is in the
//! tree anyway: the crates for such stores bring a second HTTP client, and most a second TLS.

mod azure;
mod claim;
mod link;
mod sign;
mod waiting;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode};
use mainstay_types::{Endpoint, ObjectAddress, StoreKind, Timestamp, full_text};
use sha2::{Digest, Sha256};

pub(crate) use claim::{AGAIN as CLAIMED_WITHIN, Asked};
pub use claim::{CLAIM, Claim};
use link::{Link, Pieces, Sent, patient};
pub use sign::Keys;
use sign::Unsigned;
pub use waiting::Waiting;

/// A request that failed by chance is made again after these pauses; what lasts longer is for who asked.
const AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];
/// Longest answer that is kept in memory: a list of 1000 objects has some 400 KiB.
const LONGEST_ANSWER: usize = 8 << 20;
/// Longest object that counts as small: an index of a repository has some megabytes.
const LONGEST_SMALL: u64 = 64 << 20;
/// When the file was written, milliseconds since 1970: a store knows only when it got it. That of S3, and of Azure.
const WRITTEN: [&str; 2] = ["x-amz-meta-written", "x-ms-meta-written"];
/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Which store, and what opens it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bucket and prefix.
    pub address: ObjectAddress,
    /// The server; `None`: Amazon's in the region.
    pub endpoint: Option<Endpoint>,
    /// The region that requests are signed for.
    pub region: String,
    /// What opens the bucket.
    pub keys: Keys,
    /// Certificates that the server's is signed by; `None`: the system's.
    pub ca: Option<PathBuf>,
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not reached, or what it said breaks off.
    #[error("{server} does not answer: {reason}")]
    Away {
        /// Which.
        server: String,
        /// What was seen.
        reason: String,
    },
    /// It said no, in its own words.
    #[error("{server} refused to {action}: {status} {words}")]
    Refused {
        /// Which.
        server: String,
        /// What was asked.
        action: String,
        /// The status.
        status: u16,
        /// Its code and text.
        words: String,
    },
    /// Another state folder adds to it by now.
    #[error("{store} was taken over by the machine {machine} at {since}: nothing is added or removed from here")]
    Taken {
        /// Which.
        store: String,
        /// By whom.
        machine: String,
        /// When.
        since: Timestamp,
    },
    /// It has no such object.
    #[error("{0} is not there")]
    Missing(String),
    /// It answered what no such store answers.
    #[error("{server} answered what is not understood: {reason}")]
    Strange {
        /// Which.
        server: String,
        /// What was seen.
        reason: String,
    },
    /// A file of this machine.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where it should be written to.
    #[error("cannot write what was fetched")]
    Sink(#[source] io::Error),
    /// The certificates to trust.
    #[error("cannot trust any server")]
    Trust(#[source] io::Error),
}

impl StoreError {
    /// The key may not do that.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403 | 405 | 409, .. })
    }
}

/// An object as a list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// **Unit**: bytes.
    pub bytes: u64,
    /// When the store got it.
    pub stored: Timestamp,
}

/// An object that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// **Unit**: bytes.
    pub bytes: u64,
    /// SHA-256 of what came.
    pub hash: String,
    /// When the file was written that it was made of, as far as the store knows.
    pub written: Option<Timestamp>,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Stored,
    /// There was one of this name, and it was left as it is.
    AlreadyThere,
}

/// A file to put.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// The object's name below the prefix.
    pub name: &'a str,
    /// The file.
    pub path: &'a Path,
    /// SHA-256 that its content must have.
    pub hash: &'a str,
    /// When it was written.
    pub written: Timestamp,
    /// Leave one of this name as it is.
    pub only_new: bool,
}

/// A prefix in a bucket.
pub struct Store {
    options: Options,
    link: Link,
    host: String,
    /// Before the names: of the bucket, when it is not in the host's name, and of the prefix.
    root: String,
    knows_conditions: AtomicBool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("address", &self.options.address).finish_non_exhaustive()
    }
}

/// What is sent.
enum Payload<'a> {
    Nothing,
    File(&'a Upload<'a>),
    Bytes(&'a [u8]),
    /// Parts of one content, with its hash.
    Parts(&'a [Bytes], &'a str),
}

struct Ask<'a> {
    method: Method,
    /// Below the prefix; `None`: the bucket itself.
    name: Option<&'a str>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    payload: Payload<'a>,
    /// For people: "put wal/…".
    action: String,
}

/// Headers, and the signature over all that is asked.
type Signed<'a> = (Vec<(&'a str, String)>, String);

/// An answer whose head is there.
struct Answer {
    response: Response<Incoming>,
    sender: SendRequest<Sent>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Store {
    /// **Errors**: the certificates to trust cannot be read. Nothing is asked of the server yet.
    pub fn new(options: Options) -> Result<Self, StoreError> {
        let bucket = options.address.bucket();
        let kind = options.address.kind();
        let account = options.keys.access.expose();
        // Amazon names the bucket in the host, and its certificate knows no dots there; others want it in the path.
        let (endpoint, root) = match (&options.endpoint, kind) {
            // Azure names the account in the host, and who stands in for it before the container.
            (Some(endpoint), StoreKind::Azure) if !endpoint.host().starts_with(&format!("{account}.")) => {
                (endpoint.clone(), format!("/{account}/{bucket}"))
            }
            (Some(endpoint), _) => (endpoint.clone(), format!("/{bucket}")),
            (None, StoreKind::Azure) => {
                (Endpoint::of_host(format!("{account}.blob.core.windows.net")), format!("/{bucket}"))
            }
            (None, StoreKind::Google) => (Endpoint::of_host("storage.googleapis.com".to_owned()), format!("/{bucket}")),
            (None, StoreKind::S3) if bucket.contains('.') => {
                (Endpoint::of_host(format!("s3.{}.amazonaws.com", options.region)), format!("/{bucket}"))
            }
            (None, StoreKind::S3) => {
                (Endpoint::of_host(format!("{bucket}.s3.{}.amazonaws.com", options.region)), String::new())
            }
        };
        let host = endpoint.authority();
        let link = Link::new(endpoint, options.ca.as_deref()).map_err(StoreError::Trust)?;
        // Google's part that speaks S3 has other words for conditions.
        let knows_conditions = AtomicBool::new(kind != StoreKind::Google);
        Ok(Self { options, link, host, root, knows_conditions })
    }

    /// Where it is.
    pub fn address(&self) -> &ObjectAddress {
        &self.options.address
    }

    /// All objects below the prefix, by their name below it.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn list(&self) -> Result<BTreeMap<String, Object>, StoreError> {
        self.list_below("").await
    }

    /// Those whose name below the prefix begins with `folder`, which ends with `/` or is empty.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn list_below(&self, folder: &str) -> Result<BTreeMap<String, Object>, StoreError> {
        let (root, prefix) = (self.key(""), self.key(folder));
        let mut found = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let is_azure = self.is_azure();
            let (mut query, next) = if is_azure {
                (vec![("restype", "container".to_owned()), ("comp", "list".to_owned())], "marker")
            } else {
                (vec![("list-type", "2".to_owned())], "continuation-token")
            };
            query.push(("prefix", prefix.clone()));
            query.extend(after.clone().map(|token| (next, token)));
            let action = format!("list {}", self.options.address);
            let (method, headers) = (Method::GET, Vec::new());
            let ask = Ask { method, name: None, query, headers, payload: Payload::Nothing, action };
            let (_, body) = self.whole(&ask).await?;
            let page = if is_azure { azure::page(&body) } else { page(&body) };
            let page = page.map_err(|reason| self.strange(reason))?;
            let known = found.len();
            for (key, object) in page.objects {
                if let Some(name) = key.strip_prefix(&root) {
                    found.insert(name.to_owned(), object);
                }
            }
            if page.next.is_some() && page.next == after && found.len() == known {
                return Err(self.strange("a list that goes on where it was"));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Puts a file. It becomes an object only when its content has the hash.
    ///
    /// **Errors**: see [`StoreError`]; [`StoreError::File`] when it is damaged or gone.
    pub async fn put(&self, upload: &Upload<'_>) -> Result<Put, StoreError> {
        let headers = vec![(WRITTEN[usize::from(self.is_azure())], upload.written.as_millis().to_string())];
        let payload = || Payload::File(upload);
        self.put_any(upload.name, headers, &payload, upload.only_new).await
    }

    /// Puts some bytes, when there is no object of this name.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn put_new(&self, name: &str, content: &[u8]) -> Result<Put, StoreError> {
        self.put_any(name, Vec::new(), &|| Payload::Bytes(content), true).await
    }

    /// Puts a content that lies in memory in parts, and has the hash. One of this name is replaced.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn put_parts(&self, name: &str, parts: &[Bytes], hash: &str) -> Result<(), StoreError> {
        self.put_any(name, Vec::new(), &|| Payload::Parts(parts, hash), false).await.map(drop)
    }

    async fn put_any<'a>(
        &self,
        name: &'a str,
        headers: Vec<(&'static str, String)>,
        payload: &(impl Fn() -> Payload<'a> + Sync),
        only_new: bool,
    ) -> Result<Put, StoreError> {
        let put = |has_condition: bool| {
            let mut headers = headers.clone();
            if has_condition {
                headers.push(("if-none-match", "*".to_owned()));
            }
            let action = format!("put {name}");
            Ask { method: Method::PUT, name: Some(name), query: Vec::new(), headers, payload: payload(), action }
        };
        let is_asked = only_new && self.knows_conditions.load(Ordering::Relaxed);
        match self.whole(&put(is_asked)).await {
            Ok(_) => Ok(Put::Stored),
            Err(StoreError::Refused { status: 412, .. }) if is_asked => Ok(Put::AlreadyThere),
            Err(StoreError::Refused { status: 409, words, .. })
                if is_asked && words.starts_with("BlobAlreadyExists") =>
            {
                Ok(Put::AlreadyThere)
            }
            // It knows no condition; names bear hashes, so that another put of the same is the same.
            Err(StoreError::Refused { status: 501, .. }) if is_asked => {
                self.knows_conditions.store(false, Ordering::Relaxed);
                self.whole(&put(false)).await.map(|_| Put::Stored)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches an object into `sink`.
    ///
    /// **Errors**: see [`StoreError`]. What came until then is in the sink.
    pub async fn get(&self, name: &str, sink: &mut impl Write) -> Result<Got, StoreError> {
        self.get_with(name, Vec::new(), (sink, u64::MAX)).await
    }

    /// Fetches a whole object into memory. Who answers is not trusted: one that is longer than `most` bytes is not taken.
    ///
    /// **Errors**: see [`StoreError`]; [`StoreError::Strange`] when it is longer.
    pub async fn get_whole(&self, name: &str, most: u64) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        self.get_with(name, Vec::new(), (&mut content, most)).await?;
        Ok(content)
    }

    /// Fetches a part of an object.
    ///
    /// **Errors**: see [`StoreError`]; [`StoreError::Strange`] when it has not so many bytes.
    pub async fn get_part(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let Some(last) = length.checked_sub(1) else { return Ok(Vec::new()) };
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let headers = vec![("range", format!("bytes={offset}-{}", offset + last))];
        // A server that knows of no parts answers with all of it.
        let got = self.get_with(name, headers, (&mut content, length)).await?;
        if got.bytes != length {
            return Err(self.strange(format!("{} bytes of {name} instead of {length}", got.bytes)));
        }
        Ok(content)
    }

    async fn get_with(
        &self,
        name: &str,
        headers: Vec<(&'static str, String)>,
        (sink, most): (&mut impl Write, u64),
    ) -> Result<Got, StoreError> {
        let (method, query) = (Method::GET, Vec::new());
        let action = format!("get {name}");
        let ask = Ask { method, name: Some(name), query, headers, payload: Payload::Nothing, action };
        let mut answer = self.ask(&ask).await?;
        let written = WRITTEN.iter().find_map(|name| number(answer.response.headers(), name));
        let written = written.map(Timestamp::from_millis);
        let promised = number(answer.response.headers(), "content-length").and_then(|bytes| u64::try_from(bytes).ok());
        let (mut bytes, mut hash) = (0_u64, Sha256::new());
        while let Some(piece) = self.piece(&mut answer.response).await? {
            bytes += piece.len() as u64;
            if bytes > most {
                return Err(self.strange(format!("more than {most} bytes of {name}")));
            }
            hash.update(&piece);
            sink.write_all(&piece).map_err(StoreError::Sink)?;
        }
        if promised.is_some_and(|promised| promised != bytes) {
            return Err(self.away("the object broke off"));
        }
        self.link.keep(answer.sender);
        Ok(Got { bytes, hash: crate::hex(&hash.finalize()), written })
    }

    /// Fetches a small object; `None`: there is none.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn get_small(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.get_whole(name, LONGEST_SMALL).await {
            Ok(content) => Ok(Some(content)),
            Err(StoreError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an object; one that is not there is removed.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let (method, query, headers) = (Method::DELETE, Vec::new(), Vec::new());
        let action = format!("remove {name}");
        let ask = Ask { method, name: Some(name), query, headers, payload: Payload::Nothing, action };
        match self.whole(&ask).await {
            Ok(_) | Err(StoreError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_azure(&self) -> bool {
        self.options.address.kind() == StoreKind::Azure
    }

    fn key(&self, name: &str) -> String {
        let prefix = self.options.address.prefix();
        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
    }

    fn away(&self, reason: impl ToString) -> StoreError {
        StoreError::Away { server: self.host.clone(), reason: reason.to_string() }
    }

    fn strange(&self, reason: impl ToString) -> StoreError {
        StoreError::Strange { server: self.host.clone(), reason: reason.to_string() }
    }

    /// Asks and reads the whole answer.
    async fn whole(&self, ask: &Ask<'_>) -> Result<(HeaderMap, Vec<u8>), StoreError> {
        let mut answer = self.ask(ask).await?;
        let body = self.body(&mut answer.response).await?;
        self.link.keep(answer.sender);
        Ok((answer.response.headers().clone(), body))
    }

    async fn body(&self, response: &mut Response<Incoming>) -> Result<Vec<u8>, StoreError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(response).await? {
            if body.len() + piece.len() > LONGEST_ANSWER {
                return Err(self.strange("it has no end"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn piece(&self, response: &mut Response<Incoming>) -> Result<Option<Bytes>, StoreError> {
        loop {
            let frame = patient(response.frame(), &AtomicU64::new(0)).await.map_err(|error| self.away(error))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.away(full_text(&error)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Asks until there is an answer that is no accident.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, StoreError> {
        for pause in AGAIN {
            match self.once(ask).await {
                Err(StoreError::Away { .. } | StoreError::Refused { status: 429 | 500 | 502 | 503 | 504, .. }) => {
                    tokio::time::sleep(pause).await;
                }
                answer => return answer,
            }
        }
        self.once(ask).await
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Answer, StoreError> {
        let moved = Arc::new(AtomicU64::new(0));
        let request = self.request(ask, &moved)?;
        let (mut response, sender) = match self.link.send(request, &moved).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.broken(ask, &error)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Answer { response, sender });
        }
        let body = self.body(&mut response).await.unwrap_or_default();
        // It may not have read all that was sent: the connection is not used again.
        drop(sender);
        let words = words(&body, status);
        if status == StatusCode::NOT_FOUND
            && !words.starts_with("NoSuchBucket")
            && !words.starts_with("ContainerNotFound")
        {
            return Err(StoreError::Missing(ask.name.unwrap_or_default().to_owned()));
        }
        let (server, action) = (self.host.clone(), ask.action.clone());
        Err(StoreError::Refused { server, action, status: status.as_u16(), words })
    }

    /// A request that broke off: by our own file, or on the way.
    fn broken(&self, ask: &Ask<'_>, error: &io::Error) -> StoreError {
        let text = error.to_string();
        match &ask.payload {
            Payload::File(upload) if text.contains(link::DAMAGED) => StoreError::File {
                path: upload.path.to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, link::DAMAGED),
            },
            Payload::File(_) | Payload::Bytes(_) | Payload::Parts(..) | Payload::Nothing => self.away(text),
        }
    }

    fn request(&self, ask: &Ask<'_>, moved: &Arc<AtomicU64>) -> Result<Request<Sent>, StoreError> {
        let (hash, length, body) = body_of(&ask.payload, moved)?;
        let path = match ask.name {
            Some(name) => format!("{}/{}", self.root, sign::encode(&self.key(name), true)),
            None if self.root.is_empty() => "/".to_owned(),
            None => self.root.clone(),
        };
        let (headers, authorization) =
            if self.is_azure() { self.sign_for_azure(ask, &path, length)? } else { self.sign(ask, &path, &hash) };
        let query = sign::query(&ask.query);
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(&ask.method).uri(target).header("authorization", authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request = request.header("user-agent", "mainstay");
        if ask.method == Method::PUT && !self.is_azure() {
            request = request.header("content-length", length);
        }
        request.body(body).map_err(|error| self.strange(error))
    }

    /// What goes with a request besides what it asks, and the signature over all of it.
    fn sign<'a>(&self, ask: &Ask<'a>, path: &str, hash: &str) -> Signed<'a> {
        let at = now();
        let mut headers = vec![
            ("host", self.host.clone()),
            ("x-amz-date", sign::moment(at)),
            ("x-amz-content-sha256", hash.to_owned()),
        ];
        headers.extend(ask.headers.iter().cloned());
        let unsigned =
            Unsigned { method: ask.method.as_str(), path, query: &ask.query, headers: &headers, payload: hash };
        let authorization = sign::authorization(&unsigned, &self.options.keys, &self.options.region, at);
        (headers, authorization)
    }

    fn sign_for_azure<'a>(&self, ask: &Ask<'a>, path: &str, length: u64) -> Result<Signed<'a>, StoreError> {
        let mut headers = vec![
            ("host", self.host.clone()),
            ("x-ms-date", azure::moment(now())),
            ("x-ms-version", azure::VERSION.to_owned()),
        ];
        headers.extend(ask.headers.iter().cloned());
        if ask.method == Method::PUT {
            headers.push(("x-ms-blob-type", "BlockBlob".to_owned()));
            headers.push(("content-length", length.to_string()));
        }
        let unsigned = azure::Unsigned { method: ask.method.as_str(), path, query: &ask.query, headers: &headers };
        let authorization = azure::authorization(&unsigned, &self.options.keys);
        let wrong = || StoreError::Refused {
            server: self.host.clone(),
            action: ask.action.clone(),
            status: 403,
            words: "the secret key is no key of a storage account, which is base64".to_owned(),
        };
        Ok((headers, authorization.ok_or_else(wrong)?))
    }
}

fn body_of(payload: &Payload<'_>, moved: &Arc<AtomicU64>) -> Result<(String, u64, Sent), StoreError> {
    let whole = |bytes: &[u8]| {
        let content = Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {});
        (crate::hex(&Sha256::digest(bytes)), bytes.len() as u64, content.boxed_unsync())
    };
    match payload {
        Payload::Nothing => Ok(whole(&[])),
        Payload::Bytes(bytes) => Ok(whole(bytes)),
        Payload::Parts(parts, hash) => {
            let parts = link::Parts::new(parts.to_vec(), Arc::clone(moved));
            Ok(((*hash).to_owned(), parts.left(), parts.boxed_unsync()))
        }
        Payload::File(upload) => {
            let at = |source| StoreError::File { path: upload.path.to_owned(), source };
            let file = File::open(upload.path).map_err(at)?;
            let length = file.metadata().map_err(at)?.len();
            if length == 0 && upload.hash != EMPTY {
                return Err(at(io::Error::new(io::ErrorKind::InvalidData, link::DAMAGED)));
            }
            let pieces = Pieces::new(file, length, upload.hash, Arc::clone(moved));
            Ok((upload.hash.to_owned(), length, pieces.boxed_unsync()))
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// What a store says of an error: its code and text. The rest of such an answer may name keys and signatures.
fn words(body: &[u8], status: StatusCode) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(body);
    let document = roxmltree::Document::parse(&text).ok();
    let of = |name: &str| {
        let document = document.as_ref()?;
        let node = document.root_element().children().find(|node| node.tag_name().name() == name)?;
        node.text().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let said = [of("Code"), of("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let said = if said.is_empty() { status.canonical_reason().unwrap_or("no word why").to_owned() } else { said };
    said.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[derive(Debug, PartialEq)]
struct Page {
    objects: Vec<(String, Object)>,
    next: Option<String>,
}

/// A page of a list.
fn page(body: &[u8]) -> Result<Page, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let document = roxmltree::Document::parse(text).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if root.tag_name().name() != "ListBucketResult" {
        return Err(format!("a list that is a {:?}", root.tag_name().name()));
    }
    let of = |node: roxmltree::Node<'_, '_>, name: &str| {
        let found = node.children().find(|child| child.tag_name().name() == name)?;
        Some(found.text().unwrap_or_default().to_owned())
    };
    let mut objects = Vec::new();
    for one in root.children().filter(|node| node.tag_name().name() == "Contents") {
        let key = of(one, "Key").ok_or("an object without a key")?;
        let bytes = of(one, "Size").and_then(|text| text.parse().ok()).ok_or("an object without a size")?;
        let stored = of(one, "LastModified").and_then(|text| moment(&text)).unwrap_or_default();
        objects.push((key, Object { bytes, stored }));
    }
    let is_cut = of(root, "IsTruncated").is_some_and(|text| text == "true");
    let next = of(root, "NextContinuationToken").filter(|_| is_cut);
    if is_cut && next.is_none() {
        return Err("a list that is cut and does not say where it goes on".to_owned());
    }
    Ok(Page { objects, next })
}

/// `2026-11-26T16:40:12.000Z`, to the second.
fn moment(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Civil date to days: the era arithmetic of the proleptic Gregorian calendar.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(Timestamp::from_millis((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_page_by_page() {
        let text = br#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>true</IsTruncated>
<Contents><Key>shop/wal/a</Key><LastModified>2026-11-26T16:40:12.000Z</LastModified><ETag>"x"</ETag><Size>5</Size></Contents>
<NextContinuationToken>more</NextContinuationToken></ListBucketResult>"#;
        let found = page(text).expect("a page");
        assert_eq!(found.next.as_deref(), Some("more"));
        let (key, object) = &found.objects[0];
        assert_eq!((key.as_str(), object.bytes), ("shop/wal/a", 5));
        assert_eq!(object.stored.to_string(), "2026-11-26T16:40:12.000Z");
        assert!(page(b"<html/>").is_err());
        assert!(page(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>").is_err());
    }

    /// A store whose answer to all is one of so many bytes, whatever part was asked for.
    fn of_length(length: usize) -> Store {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().expect("the same")).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                // Who has read enough hangs up.
                (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&vec![0; length])).ok();
            }
        });
        let keys = Keys { access: mainstay_types::Secret::new("a"), secret: mainstay_types::Secret::new("b") };
        let endpoint = Some(format!("http://127.0.0.1:{port}").parse().expect("an endpoint"));
        let address = "s3://bucket/shop".parse().expect("an address");
        Store::new(Options { address, endpoint, region: "x".to_owned(), keys, ca: None }).expect("a store")
    }

    /// A store could fill the memory of who asked it.
    #[test]
    fn an_object_that_is_longer_than_it_may_be_is_not_taken() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let store = of_length(100_000);
            assert_eq!(store.get_whole("a", 100_000).await.expect("of that length").len(), 100_000);
            let longer = store.get_whole("a", 99_999).await.expect_err("longer");
            assert!(matches!(&longer, StoreError::Strange { reason, .. } if reason == "more than 99999 bytes of a"));
            assert_eq!(store.get_part("a", 0, 100_000).await.expect("all of it").len(), 100_000);
            assert!(matches!(store.get_part("a", 5, 10).await, Err(StoreError::Strange { .. })));
        });
    }

    #[test]
    fn a_refusal_is_told_in_the_stores_words_and_without_what_may_name_a_key() {
        let text = b"<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature\n does not match.</Message><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        let said = words(text, StatusCode::FORBIDDEN);
        assert_eq!(said, "SignatureDoesNotMatch: The request signature does not match.");
        assert_eq!(words(b"", StatusCode::BAD_GATEWAY), "Bad Gateway");
    }
}
