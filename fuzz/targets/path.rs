#![no_main]
use std::path::PathBuf;
use std::sync::LazyLock;

static SITE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let site = mainstay_edge::fuzz::site(folder.path()).expect("a site");
    (folder, site)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_edge::fuzz::path(&SITE.1, bytes));
