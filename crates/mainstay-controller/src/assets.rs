//! The console's built pages, part of the binary: `cargo build` needs no Node.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use include_dir::{Dir, include_dir};

static CONSOLE: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../web/console/dist");

/// Compressed once, at the first request: what a compressor writes depends on its version, so it is not committed.
static PACKED: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(pack);

/// A page or a part of one.
pub(crate) struct Asset {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: &'static [u8],
    /// The same as gzip, where that is smaller.
    pub(crate) gzip: Option<&'static [u8]>,
}

/// A page or asset by its path.
pub(crate) fn find(path: &str) -> Option<Asset> {
    let file = CONSOLE.get_file(path)?;
    let content_type = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    Some(Asset { content_type, bytes: file.contents(), gzip: PACKED.get(path).map(Vec::as_slice) })
}

fn pack() -> BTreeMap<String, Vec<u8>> {
    let mut packed = BTreeMap::new();
    let mut folders = vec![&CONSOLE];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files() {
            let Some(path) = file.path().to_str() else { continue };
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // A page that cannot be compressed is sent as it is.
            let Ok(bytes) = encoder.write_all(file.contents()).and_then(|()| encoder.finish()) else { continue };
            if bytes.len() < file.contents().len() {
                packed.insert(path.to_owned(), bytes);
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first load, all of it, as a browser gets it. **Unit**: bytes.
    const MOST: usize = 100 * 1000;

    #[test]
    fn the_page_is_in_the_binary_and_a_path_out_of_it_is_not() {
        assert!(find("index.html").is_some_and(|asset| !asset.bytes.is_empty()));
        assert!(find("../package.json").is_none());
    }

    #[test]
    fn the_first_load_of_the_console_is_at_most_100_kb() {
        let sum: usize = PACKED.values().map(Vec::len).sum();
        assert!(PACKED.contains_key("index.html"));
        assert!(PACKED.keys().any(|path| path.ends_with(".js")), "{:?}", PACKED.keys());
        assert!(sum <= MOST, "{sum} bytes");
    }
}
