//! The console's built pages, part of the binary: `cargo build` needs no Node.

use include_dir::{Dir, include_dir};

static CONSOLE: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../web/console/dist");

/// A page or asset with its content type.
pub(crate) fn find(path: &str) -> Option<(&'static str, &'static [u8])> {
    let file = CONSOLE.get_file(path)?;
    let content_type = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    Some((content_type, file.contents()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_the_binary_and_a_path_out_of_it_is_not() {
        assert!(find("index.html").is_some_and(|(_, bytes)| !bytes.is_empty()));
        assert!(find("../package.json").is_none());
    }
}
