//! A stack file: whatever stands in it, it is read, or every fault is told with a place that is in the file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for environment in ["production", "staging"] {
        let environment = environment.parse().expect("a name");
        let told = match mainstay_stack::parse(text, "mainstay.toml", &environment) {
            Ok(parsed) => parsed.warnings,
            Err(faults) => {
                assert!(faults.has_errors(), "refused without an error");
                faults
            }
        };
        for fault in &told.list {
            assert!(text.get(fault.span.clone()).is_some(), "a place that is not in the file: {fault:?}");
            assert!(!fault.message.is_empty() && fault.line > 0 && fault.column > 0);
        }
        drop(mainstay_stack::render(&told, text, "mainstay.toml", false));
    }
    mainstay_stack::name_of(text);
    mainstay_stack::keys(text);
});
