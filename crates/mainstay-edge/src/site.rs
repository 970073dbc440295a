//! Static sites: files of one folder, with validators, parts, codings, caching rules and the fallback of single-page
//! applications.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, Method};
use mainstay_stack::model::SiteCache;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::Instant;

use crate::coding::{self, Coding};
use crate::file::{self, Found};
use crate::kept::{self, Kept};
use crate::proxy::RequestState;
use crate::range::{self, Wanted};

/// Piece in which a file goes out: large enough that a file of a built site is one or two, small enough for many
/// slow clients at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// How long a browser may keep a file whose name changes with its content.
const IMMUTABLE: &str = "max-age=31536000, immutable";
/// Largest file that is encoded here. The scripts of large applications have 2 MB; what is larger, a build encodes.
const MOST_ENCODED: u64 = 8 * 1024 * 1024;
/// Files of all sites that are encoded at once: the threads are those that every site is read by.
const MOST_ENCODING: usize = 2;
/// Encoded files kept of one site.
const MOST_HELD: usize = 32 * 1024 * 1024;

/// A folder of files.
#[derive(Debug)]
pub(crate) struct Site {
    dir: PathBuf,
    spa: bool,
    cache: SiteCache,
    encoded: Arc<Encoded>,
    kept: Arc<Kept<Representation>>,
}

/// What goes out of a file.
enum Content {
    File(File),
    Held(Bytes),
}

/// A file as a client takes it.
#[derive(Debug)]
struct Representation {
    path: PathBuf,
    length: u64,
    /// The file's tag on the disk.
    on_disk: String,
    etag: String,
    modified: String,
    coding: Option<Coding>,
    /// Whether another client would get another one.
    varies: bool,
}

impl Site {
    /// A folder that is not there answers 404: it may come back with the next deployment.
    pub(crate) fn new(dir: &Path, spa: bool, cache: SiteCache) -> Self {
        Self {
            dir: dir.to_owned(),
            spa,
            cache,
            encoded: Arc::new(Encoded::new(MOST_HELD)),
            kept: Arc::new(Kept::new()),
        }
    }

    /// Answers a request for `path` (percent-encoded, below the route's prefix); files from `floor` on are encoded.
    ///
    /// **Errors**: the client's connection, or the disk while the answer is under way.
    pub(crate) async fn serve(
        &self,
        session: &mut Session,
        path: &str,
        floor: Option<u64>,
        ctx: &RequestState,
    ) -> Result<()> {
        let request = session.req_header();
        let is_head = request.method == Method::HEAD;
        if request.method != Method::GET && !is_head {
            let mut head = site_head(405, ctx)?;
            head.insert_header("Allow", "GET, HEAD")?;
            head.insert_header(CONTENT_LENGTH, "0")?;
            ctx.dress(&mut head)?;
            session.set_keepalive(None);
            return session.write_response_header(Box::new(head), true).await;
        }
        // A part of an encoded file is of no use to somebody who has a part of the plain one.
        let codings = match floor {
            Some(_) if !request.headers.contains_key(RANGE) => coding::accepted(&request.headers, Coding::SMALLEST),
            Some(_) | None => Vec::new(),
        };
        let (key, since) = ((path.to_owned(), codings), Instant::now());
        let kept = self.kept.get(&key, since).filter(|(found, _)| file::is_still(&found.path, &found.on_disk));
        if let Some((found, content)) = kept {
            return self.send(session, &found, Content::Held(content), is_head, ctx).await;
        }
        let (dir, spa, encoded, kept) = (self.dir.clone(), self.spa, Arc::clone(&self.encoded), Arc::clone(&self.kept));
        let look = move || {
            let (found, content) = look(&dir, &key.0, spa, floor, &key.1, &encoded)?;
            let content = content.in_memory(found.length);
            let found = Arc::new(found);
            if let Content::Held(bytes) = &content {
                kept.keep(key, since, &found, bytes);
            }
            Some((found, content))
        };
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.map_err(|error| Error::because(ErrorType::InternalError, "site task ended", error))?;
        match found {
            Some((found, content)) => self.send(session, &found, content, is_head, ctx).await,
            None => not_found(session, is_head, ctx).await,
        }
    }

    async fn send(
        &self,
        session: &mut Session,
        found: &Representation,
        content: Content,
        is_head: bool,
        ctx: &RequestState,
    ) -> Result<()> {
        let headers = &session.req_header().headers;
        let is_known = is_known(headers, found);
        let wanted = if is_known || is_head { Wanted::Whole } else { part(headers, found) };
        let status = match wanted {
            _ if is_known => 304,
            Wanted::Whole => 200,
            Wanted::Part { .. } => 206,
            Wanted::Nothing => 416,
        };
        let mut head = site_head(status, ctx)?;
        head.insert_header(ETAG, found.etag.as_str())?;
        head.insert_header(LAST_MODIFIED, found.modified.as_str())?;
        head.insert_header(CACHE_CONTROL, self.rule(&found.path, ctx.is_known()).as_str())?;
        if is_known {
            dress(&mut head, found, ctx)?;
            return session.write_response_header(Box::new(head), true).await;
        }
        head.insert_header(CONTENT_TYPE, file::content_type(&found.path))?;
        match found.coding {
            Some(coding) => head.insert_header(CONTENT_ENCODING, coding.token())?,
            None => head.insert_header(ACCEPT_RANGES, "bytes")?,
        }
        let (first, count) = match wanted {
            Wanted::Whole => (0, found.length),
            Wanted::Part { first, last } => {
                head.insert_header(CONTENT_RANGE, format!("bytes {first}-{last}/{}", found.length))?;
                (first, last - first + 1)
            }
            Wanted::Nothing => {
                head.insert_header(CONTENT_RANGE, format!("bytes */{}", found.length))?;
                (0, 0)
            }
        };
        head.insert_header(CONTENT_LENGTH, count)?;
        dress(&mut head, found, ctx)?;
        let is_bodyless = is_head || count == 0;
        session.write_response_header(Box::new(head), is_bodyless).await?;
        match content {
            _ if is_bodyless => Ok(()),
            Content::Held(bytes) => session.write_response_body(Some(slice(&bytes, first, count)), true).await,
            Content::File(file) => send_file(session, file, first, count).await,
        }
    }

    /// How long clients may keep a file. What was behind a password nobody keeps for others.
    fn rule(&self, path: &Path, is_private: bool) -> String {
        let is_page = file::content_type(path).starts_with("text/html");
        let whose = if is_private { "private" } else { "public" };
        match self.cache {
            SiteCache::Assets if !is_page && file::is_hashed(path) => format!("{whose}, {IMMUTABLE}"),
            SiteCache::For { time } if !is_page => format!("{whose}, max-age={}", time.as_secs()),
            SiteCache::Assets | SiteCache::Revalidate | SiteCache::For { .. } => "no-cache".to_owned(),
            SiteCache::NoStore => "no-store".to_owned(),
        }
    }
}

impl Content {
    /// A small file as its bytes, if it is as long as was found. Blocks on the disk.
    fn in_memory(self, length: u64) -> Self {
        let small = usize::try_from(length).ok().filter(|length| *length <= kept::MOST_BYTES);
        let (mut file, length) = match (self, small) {
            (Self::File(file), Some(length)) => (file, length),
            (other, _) => return other,
        };
        let mut bytes = vec![0; length];
        match file.read_exact(&mut bytes).and_then(|()| file.rewind()) {
            Ok(()) => Self::Held(Bytes::from(bytes)),
            // Told where a file is sent: by then it may be whole again.
            Err(_) => Self::File(file),
        }
    }
}

/// The part of it that is wanted.
fn slice(bytes: &Bytes, first: u64, count: u64) -> Bytes {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(place(first)..place(first.saturating_add(count)))
}

/// Whether the client has it already.
fn is_known(headers: &HeaderMap, found: &Representation) -> bool {
    let mut tags = headers.get_all(IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        return tags.any(|value| value.to_str().is_ok_and(|list| matches(list, &found.etag)));
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|since| since.to_str().ok()).and_then(range::parse_date);
    since.zip(range::parse_date(&found.modified)).is_some_and(|(since, modified)| modified <= since)
}

fn matches(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// Which part of it the client wants, unless it has a part of another one.
fn part(headers: &HeaderMap, found: &Representation) -> Wanted {
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Wanted::Whole };
    // Exactly the same, by a validator that is a strong one: parts are put together byte by byte.
    let is_same = headers
        .get(IF_RANGE)
        .is_none_or(|same| same.as_bytes() == found.etag.as_bytes() || same.as_bytes() == found.modified.as_bytes());
    let range = range.to_str().ok().filter(|_| is_same && found.coding.is_none());
    range.map_or(Wanted::Whole, |range| range::wanted(range, found.length))
}

/// Finds a file, and the best of its codings that the client takes. Blocks on the disk and on the encoder.
fn look(
    dir: &Path,
    path: &str,
    spa: bool,
    floor: Option<u64>,
    codings: &[Coding],
    encoded: &Encoded,
) -> Option<(Representation, Content)> {
    let (root, mut found) = file::find(dir, path, spa)?;
    let is_worth_it = floor.is_some_and(|floor| found.length >= floor)
        && coding::is_worth_it(file::content_type(&found.path).as_bytes());
    let modified = range::date(found.modified.0);
    if is_worth_it {
        for coding in codings {
            let beside = file::encoded_beside(&root, &found, *coding);
            let (content, length) = match beside {
                Some(beside) => (Content::File(beside.file), beside.length),
                None => continue,
            };
            let (etag, on_disk) = (etag_of(&found, *coding), found.etag.clone());
            let coding = Some(*coding);
            let found = Representation { path: found.path, length, on_disk, etag, modified, coding, varies: true };
            return Some((found, content));
        }
        if let Some(coding) = codings.first()
            && let Some(bytes) = encoded.get(&mut found, *coding)
        {
            let (etag, on_disk) = (etag_of(&found, *coding), found.etag.clone());
            let (length, coding) = (bytes.len() as u64, Some(*coding));
            let content = Content::Held(bytes);
            let found = Representation { path: found.path, length, on_disk, etag, modified, coding, varies: true };
            return Some((found, content));
        }
    }
    let Found { file, path, length, etag, .. } = found;
    let on_disk = etag.clone();
    let found = Representation { path, length, on_disk, etag, modified, coding: None, varies: is_worth_it };
    Some((found, Content::File(file)))
}

/// Another content has another tag.
fn etag_of(found: &Found, coding: Coding) -> String {
    format!("{}-{}\"", found.etag.trim_end_matches('"'), coding.token())
}

/// Files that were encoded here.
#[derive(Debug)]
struct Encoded {
    held: Mutex<Held>,
    /// **Unit**: bytes.
    most: usize,
}

impl Encoded {
    fn new(most: usize) -> Self {
        Self { held: Mutex::default(), most }
    }
}

#[derive(Debug, Default)]
struct Held {
    files: BTreeMap<(PathBuf, Coding), HeldFile>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
    /// Being encoded; who asks meanwhile gets the plain file.
    under_way: BTreeSet<(PathBuf, Coding)>,
}

#[derive(Debug)]
struct HeldFile {
    etag: String,
    /// `None`: it does not become smaller.
    content: Option<Bytes>,
    used: u64,
}

impl Encoded {
    /// The encoded content of a file, from memory or made now. `None`: it goes out as it is.
    fn get(&self, found: &mut Found, coding: Coding) -> Option<Bytes> {
        if found.length > MOST_ENCODED {
            return None;
        }
        let key = (found.path.clone(), coding);
        let place;
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.clock += 1;
            let clock = held.clock;
            if let Some(file) = held.files.get_mut(&key).filter(|file| file.etag == found.etag) {
                file.used = clock;
                return file.content.clone();
            }
            if held.under_way.contains(&key) {
                return None;
            }
            place = Turn::take()?;
            held.under_way.insert(key.clone());
        }
        let made = encode(found, coding).ok();
        drop(place);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.under_way.remove(&key);
        let content = made?.filter(|content| (content.len() as u64) < found.length);
        held.keep(key, HeldFile { etag: found.etag.clone(), content: content.clone(), used: 0 }, self.most);
        content
    }
}

/// One of the files that may be encoded at this moment.
struct Turn;

static ENCODING: AtomicUsize = AtomicUsize::new(0);

impl Turn {
    fn take() -> Option<Self> {
        let more = |count: usize| (count < MOST_ENCODING).then_some(count + 1);
        ENCODING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ENCODING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Keeps a file; those that were used longest ago go.
    fn keep(&mut self, key: (PathBuf, Coding), mut file: HeldFile, most: usize) {
        let size = |file: &HeldFile| file.content.as_ref().map_or(0, Bytes::len) + 256;
        file.used = self.clock;
        self.bytes += size(&file);
        if let Some(before) = self.files.insert(key, file) {
            self.bytes -= size(&before);
        }
        while self.bytes > most {
            let oldest = self.files.iter().min_by_key(|(_, file)| file.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| self.files.remove(&key)) else { return };
            self.bytes -= size(&gone);
        }
    }
}

/// `None` when the file became another one meanwhile. The file is at its beginning afterwards.
fn encode(found: &mut Found, coding: Coding) -> io::Result<Option<Bytes>> {
    let mut content = Vec::with_capacity(usize::try_from(found.length).unwrap_or(0));
    (&found.file).take(found.length).read_to_end(&mut content)?;
    found.file.seek(SeekFrom::Start(0))?;
    if content.len() as u64 != found.length {
        return Ok(None);
    }
    coding::encode_whole(coding, &content).map(Some)
}

async fn not_found(session: &mut Session, is_head: bool, ctx: &RequestState) -> Result<()> {
    let mut head = site_head(404, ctx)?;
    let body = Bytes::from_static(b"not found\n");
    head.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(CACHE_CONTROL, "no-cache")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    ctx.dress(&mut head)?;
    session.write_response_header(Box::new(head), is_head).await?;
    if is_head { Ok(()) } else { session.write_response_body(Some(body), true).await }
}

async fn send_file(session: &mut Session, mut file: File, first: u64, count: u64) -> Result<()> {
    let mut left = count;
    let mut seek = (first > 0).then_some(first);
    while left > 0 {
        let from = seek.take();
        let piece = tokio::task::spawn_blocking(move || read_piece(file, from, left)).await;
        let piece = piece.map_err(|error| Error::because(ErrorType::InternalError, "site task ended", error))?;
        let (rest, bytes) =
            piece.map_err(|error| Error::because(ErrorType::FileReadError, "reading a site file", error))?;
        file = rest;
        left = left.saturating_sub(bytes.len() as u64);
        session.write_response_body(Some(bytes), left == 0).await?;
    }
    Ok(())
}

/// The next piece; a file that became shorter is an error, because its length is promised.
fn read_piece(mut file: File, from: Option<u64>, left: u64) -> io::Result<(File, Bytes)> {
    if let Some(from) = from {
        file.seek(SeekFrom::Start(from))?;
    }
    let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok((file, Bytes::from(bytes)))
}

fn site_head(status: u16, ctx: &RequestState) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(16))?;
    head.insert_header("X-Request-Id", ctx.identity())?;
    Ok(head)
}

/// What the route says of answers, which wins over what the site says; but not over which codings there are.
fn dress(head: &mut ResponseHeader, found: &Representation, ctx: &RequestState) -> Result<()> {
    ctx.dress(head)?;
    if found.varies {
        head.append_header(VARY, "Accept-Encoding")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_encoded_here_are_bounded_and_follow_their_file() {
        let folder = tempfile::tempdir().expect("folder");
        let most = 300_000;
        let encoded = Encoded::new(most);
        let mut noise = 1_u64;
        for nth in 0..50_u32 {
            // Half of it noise: it becomes some more than half of it.
            let content: Vec<u8> = (0..20_000_u32)
                .map(|at| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if at % 2 == 0 { 0 } else { (noise >> 33) as u8 }
                })
                .collect();
            std::fs::write(folder.path().join(format!("{nth}.txt")), content).expect("writes");
        }
        let find = |name: &str| file::find(folder.path(), name, false).expect("there").1;
        for nth in 0..50 {
            assert!(encoded.get(&mut find(&format!("{nth}.txt")), Coding::Zstd).is_some());
            assert!(encoded.get(&mut find("0.txt"), Coding::Zstd).is_some());
        }
        {
            let held = encoded.held.lock().expect("alive");
            assert!(held.bytes <= most, "{}", held.bytes);
            assert!(held.files.len() > 10 && held.files.len() < 40, "{}", held.files.len());
            assert!(held.files.keys().any(|(path, _)| path.ends_with("0.txt")), "what is used stays");
        }
        let first = encoded.get(&mut find("0.txt"), Coding::Zstd);
        std::fs::write(folder.path().join("0.txt"), "another".repeat(1000)).expect("writes");
        assert_ne!(encoded.get(&mut find("0.txt"), Coding::Zstd), first);
        std::fs::write(folder.path().join("small.txt"), "a").expect("writes");
        assert_eq!(encoded.get(&mut find("small.txt"), Coding::Zstd), None, "it would become larger");
    }
}
