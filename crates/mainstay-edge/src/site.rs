//! Static sites: files of one folder, with validators, caching rules and the fallback of single-page applications.
//!
//! Never leaves the folder: neither by dots (refused before), nor by encodings, nor by symbolic links.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::proxy::RequestState;
use crate::strict::percent_decode;

/// Piece in which a file goes out: large enough that a file of a built site is one or two, small enough for many
/// slow clients at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// How long a browser may keep a file whose name changes with its content.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A folder of files.
#[derive(Debug)]
pub(crate) struct Site {
    dir: PathBuf,
    spa: bool,
}

/// An opened file.
#[derive(Debug)]
struct Found {
    file: File,
    path: PathBuf,
    length: u64,
    etag: String,
}

impl Site {
    /// A folder that is not there answers 404: it may come back with the next deployment.
    pub(crate) fn new(dir: &Path, spa: bool) -> Self {
        Self { dir: dir.to_owned(), spa }
    }

    /// Answers a request for `path` (percent-encoded, below the route's prefix).
    ///
    /// **Errors**: the client's connection, or the disk while the answer is under way.
    pub(crate) async fn serve(&self, session: &mut Session, path: &str, ctx: &RequestState) -> Result<()> {
        let method = session.req_header().method.clone();
        if method != Method::GET && method != Method::HEAD {
            let mut head = site_head(405, ctx)?;
            head.insert_header("Allow", "GET, HEAD")?;
            head.insert_header("Content-Length", "0")?;
            session.set_keepalive(None);
            return session.write_response_header(Box::new(head), true).await;
        }
        let (dir, spa, wanted) = (self.dir.clone(), self.spa, path.to_owned());
        let found = tokio::task::spawn_blocking(move || find(&dir, &wanted, spa)).await;
        let found = found.map_err(|error| Error::because(ErrorType::InternalError, "site task ended", error))?;
        let Some(found) = found else {
            let mut head = site_head(404, ctx)?;
            let body = Bytes::from_static(b"not found\n");
            head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
            head.insert_header("Cache-Control", "no-cache")?;
            head.insert_header("Content-Length", body.len())?;
            session.write_response_header(Box::new(head), method == Method::HEAD).await?;
            if method == Method::GET {
                session.write_response_body(Some(body), true).await?;
            }
            return Ok(());
        };
        send(session, found, method == Method::HEAD, ctx).await
    }
}

async fn send(session: &mut Session, found: Found, is_head: bool, ctx: &RequestState) -> Result<()> {
    let is_known = session
        .req_header()
        .headers
        .get_all(http::header::IF_NONE_MATCH)
        .iter()
        .any(|value| value.to_str().is_ok_and(|list| matches(list, &found.etag)));
    let mut head = site_head(if is_known { 304 } else { 200 }, ctx)?;
    head.insert_header("ETag", found.etag.as_str())?;
    head.insert_header("Cache-Control", if is_hashed(&found.path) { IMMUTABLE } else { "no-cache" })?;
    if is_known {
        return session.write_response_header(Box::new(head), true).await;
    }
    head.insert_header("Content-Type", content_type(&found.path))?;
    head.insert_header("Content-Length", found.length)?;
    let is_bodyless = is_head || found.length == 0;
    session.write_response_header(Box::new(head), is_bodyless).await?;
    if is_bodyless {
        return Ok(());
    }
    let mut left = found.length;
    let mut file = found.file;
    while left > 0 {
        let piece = tokio::task::spawn_blocking(move || read_piece(file, left)).await;
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
fn read_piece(mut file: File, left: u64) -> io::Result<(File, Bytes)> {
    let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok((file, Bytes::from(bytes)))
}

fn site_head(status: u16, ctx: &RequestState) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(12))?;
    head.insert_header("X-Request-Id", ctx.identity())?;
    ctx.dress(&mut head)?;
    Ok(head)
}

fn find(dir: &Path, path: &str, spa: bool) -> Option<Found> {
    let root = dir.canonicalize().ok()?;
    let relative = relative(path)?;
    let direct = open(&root, &root.join(&relative));
    if direct.is_some() {
        return direct;
    }
    let has_extension = relative.file_name().is_some_and(|name| name.as_bytes().contains(&b'.'));
    if spa && !has_extension { open(&root, &root.join("index.html")) } else { None }
}

/// The path below the folder; `None` when it names what is never served (hidden files, dots, NUL).
fn relative(path: &str) -> Option<PathBuf> {
    let decoded = percent_decode(path)?;
    let mut relative = PathBuf::new();
    for segment in decoded.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty()) {
        let is_hidden = segment.starts_with(b".") && segment != b".well-known";
        if is_hidden || segment.contains(&0) || segment.contains(&b'\\') {
            return None;
        }
        relative.push(OsStr::from_bytes(segment));
    }
    Some(relative)
}

fn open(root: &Path, wanted: &Path) -> Option<Found> {
    let mut path = wanted.canonicalize().ok()?;
    if path.is_dir() {
        path = path.join("index.html").canonicalize().ok()?;
    }
    // After all symbolic links are followed.
    if !path.starts_with(root) {
        return None;
    }
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then(|| Found { etag: etag(&metadata), length: metadata.len(), file, path })
}

fn etag(metadata: &Metadata) -> String {
    format!("\"{:x}-{:x}{:08x}\"", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn matches(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// A name like `app-3f9aB_x1.js`: its last part before the extension is a hash.
fn is_hashed(path: &Path) -> bool {
    let Some(stem) = path.file_stem().and_then(OsStr::to_str) else { return false };
    let Some((_, hash)) = stem.rsplit_once(['-', '.']) else { return false };
    hash.len() >= 8
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        // A word is no hash: `service-registration.js` must not be kept for a year.
        && hash.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || byte == b'_')
}

fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "txt" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("site");
        std::fs::create_dir_all(dir.join("sub")).expect("folders");
        std::fs::write(dir.join("index.html"), "home").expect("writes");
        std::fs::write(dir.join("sub/index.html"), "sub").expect("writes");
        std::fs::write(dir.join(".hidden"), "no").expect("writes");
        std::fs::write(folder.path().join("outside"), "secret").expect("writes");
        std::os::unix::fs::symlink(folder.path().join("outside"), dir.join("link")).expect("links");
        std::os::unix::fs::symlink(dir.join("index.html"), dir.join("inner.html")).expect("links");
        folder
    }

    fn read(folder: &tempfile::TempDir, path: &str, spa: bool) -> Option<String> {
        let mut found = find(&folder.path().join("site"), path, spa)?;
        let mut text = String::new();
        found.file.read_to_string(&mut text).expect("reads");
        Some(text)
    }

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let folder = site();
        for path in ["/link", "/%2e%2e/outside", "/../outside", "/.hidden", "/sub/%2e%2e/%2e%2e/outside", "/a%00b.html"]
        {
            assert_eq!(read(&folder, path, false), None, "{path}");
        }
        assert_eq!(read(&folder, "/inner.html", false).as_deref(), Some("home"));
    }

    #[test]
    fn an_unknown_path_without_extension_is_the_application() {
        let folder = site();
        assert_eq!(read(&folder, "/users/7", true).as_deref(), Some("home"));
        assert_eq!(read(&folder, "/app.js", true), None);
        assert_eq!(read(&folder, "/users/7", false), None);
        assert_eq!(read(&folder, "/sub", true).as_deref(), Some("sub"));
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_good() {
        for (name, expected) in [
            ("app-3f9aB_x1.js", true),
            ("index.B4cD9e2f.css", true),
            ("service-registration.js", false),
            ("index.html", false),
            ("a-12.js", false),
        ] {
            assert_eq!(is_hashed(Path::new(name)), expected, "{name}");
        }
    }
}
