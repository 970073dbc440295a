//! The examples of the error pages do what the pages say.

use mainstay_stack::{Code, parse, render};
use mainstay_types::EnvironmentName;

/// The example of a page, with the one line that every stack file has.
fn example(page: &str) -> String {
    let (_, rest) = page.split_once("## Example\n\n```toml\n").expect("an example in TOML");
    let (example, _) = rest.split_once("\n```").expect("the example ends");
    if example.contains("stack = ") { example.to_owned() } else { format!("stack = \"shop\"\n{example}") }
}

#[test]
fn the_example_of_each_page_yields_its_code() {
    for code in Code::ALL {
        let environment = if *code == Code::UnknownEnvironment { "stagin" } else { "development" };
        let environment = EnvironmentName::new(environment).unwrap();
        let mut text = example(code.page());
        if *code == Code::TooLarge {
            text.push_str(&"#".repeat(mainstay_stack::MAX_BYTES));
        }
        let found = match parse(&text, "mainstay.toml", &environment) {
            Ok(parsed) => parsed.warnings,
            Err(diagnostics) => diagnostics,
        };
        let codes: Vec<Code> = found.list.iter().map(|diagnostic| diagnostic.code).collect();
        assert!(
            codes.contains(code),
            "{code}: its example yields {codes:?}\n{}",
            render(&found, &text, "mainstay.toml", false)
        );
    }
}
