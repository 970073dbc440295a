#![no_main]
use std::sync::LazyLock;

static USABLE: LazyLock<serde_json::Value> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    mainstay_edge::fuzz::usable_policy(folder.path()).expect("a policy")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_edge::fuzz::policy(&USABLE, bytes));
