//! Golden files: a stack file, a line of dashes, and what a person reads about it.
//!
//! `MAINSTAY_BLESS=1 cargo test -p mainstay-stack --test golden` rewrites the expected parts; look at the difference.
#![expect(clippy::disallowed_methods, reason = "the fence is for the crate; its golden files lie on disk")]

use std::path::Path;

use mainstay_stack::{parse, render};
use mainstay_types::EnvironmentName;

const RULE: &str = "\n----------------\n";

fn rendered(text: &str) -> String {
    // The first line may name the environment: `# environment: staging`.
    let wanted = text.lines().next().and_then(|line| line.strip_prefix("# environment: "));
    let environment = EnvironmentName::new(wanted.unwrap_or("development")).expect("a valid environment");
    match parse(text, "mainstay.toml", &environment) {
        Ok(parsed) if parsed.warnings.is_empty() => "no complaints\n".to_owned(),
        Ok(parsed) => format!("accepted\n\n{}", render(&parsed.warnings, text, "mainstay.toml", false)),
        Err(diagnostics) => render(&diagnostics, text, "mainstay.toml", false),
    }
}

#[test]
fn diagnostics_read_as_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let is_blessing = std::env::var("MAINSTAY_BLESS").is_ok();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder of golden files") {
        let path = entry.expect("an entry").path();
        let whole = std::fs::read_to_string(&path).expect("readable");
        let (input, expected) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let input = format!("{}\n", input.trim_end());
        let found = format!("{}\n", rendered(&input).trim_end());
        seen += 1;
        if is_blessing {
            std::fs::write(&path, format!("{}{RULE}{found}", input.trim_end_matches('\n'))).expect("writable");
        } else if found != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- found\n{found}", path.display()));
        }
    }
    assert!(seen >= 10, "only {seen} golden files were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
