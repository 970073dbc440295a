//! Files of a site: which one a path means, and what is known of it.
//!
//! Never leaves the folder: neither by dots (refused before), nor by encodings, nor by symbolic links.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::coding::Coding;
use crate::strict::percent_decode;

/// An opened file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    /// **Unit**: seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, i64),
    pub(crate) etag: String,
}

/// The file that a path below the site's prefix means; with the folder, all links followed.
pub(crate) fn find(dir: &Path, path: &str, spa: bool) -> Option<(PathBuf, Found)> {
    let root = dir.canonicalize().ok()?;
    let relative = relative(path)?;
    let direct = open(&root, &root.join(&relative));
    let has_extension = relative.file_name().is_some_and(|name| name.as_bytes().contains(&b'.'));
    let found = match direct {
        Some(found) => Some(found),
        None if spa && !has_extension => open(&root, &root.join("index.html")),
        None => None,
    };
    found.map(|found| (root, found))
}

/// The same content encoded beforehand, in a file beside it that is not older.
pub(crate) fn encoded_beside(root: &Path, of: &Found, coding: Coding) -> Option<Found> {
    let mut name = OsString::from(of.path.as_os_str());
    name.push(coding.suffix());
    let found = open_file(root, Path::new(&name).canonicalize().ok()?)?;
    (found.modified >= of.modified).then_some(found)
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
    open_file(root, path)
}

/// `path` has no links in it any more.
fn open_file(root: &Path, path: PathBuf) -> Option<Found> {
    if !path.starts_with(root) {
        return None;
    }
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    metadata.is_file().then(|| Found { etag: etag(&metadata), length: metadata.len(), modified, file, path })
}

/// Whether the file there is still the one with this tag. Blocks, for as long as the system takes to look at a path that
/// it has just looked at.
pub(crate) fn is_still(path: &Path, etag: &str) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| self::etag(&metadata) == etag)
}

fn etag(metadata: &Metadata) -> String {
    format!("\"{:x}-{:x}{:08x}\"", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// A name like `app-3f9aB_x1.js`: its last part before the extension is a hash.
pub(crate) fn is_hashed(path: &Path) -> bool {
    let Some(stem) = path.file_stem().and_then(OsStr::to_str) else { return false };
    let Some((_, hash)) = stem.rsplit_once(['-', '.']) else { return false };
    hash.len() >= 8
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        // A word is no hash, nor is a date: `service-registration.js` and `prices-20261126.csv` must not be kept for a year.
        && hash.bytes().any(|byte| byte.is_ascii_digit())
        && hash.bytes().any(|byte| byte.is_ascii_alphabetic())
}

pub(crate) fn content_type(path: &Path) -> &'static str {
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
    use std::io::Read;

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
        let (_, mut found) = find(&folder.path().join("site"), path, spa)?;
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
            ("prices-20261126.csv", false),
            ("Privacy-Statement.pdf", false),
            ("index.html", false),
            ("a-12.js", false),
        ] {
            assert_eq!(is_hashed(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn an_encoded_file_counts_when_it_is_in_the_folder_and_not_older() {
        let folder = site();
        let dir = folder.path().join("site");
        std::fs::write(dir.join("app.js"), "plain").expect("writes");
        std::fs::write(dir.join("app.js.gz"), "gzip").expect("writes");
        std::fs::create_dir_all(dir.join("app.js.zst")).expect("folder");
        std::os::unix::fs::symlink(folder.path().join("outside"), dir.join("app.js.br")).expect("links");
        let beside = |coding| {
            let (root, found) = find(&dir, "/app.js", false).expect("there");
            encoded_beside(&root, &found, coding).map(|found| found.length)
        };
        assert_eq!([beside(Coding::Gzip), beside(Coding::Zstd), beside(Coding::Brotli)], [Some(4), None, None]);
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
        File::options().append(true).open(dir.join("app.js")).expect("opens").set_modified(later).expect("sets");
        assert_eq!(beside(Coding::Gzip), None, "of an earlier build");
    }
}
