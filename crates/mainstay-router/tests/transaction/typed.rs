//! What users type: PostgreSQL gives it back as it was, and no server connection is kept for it.

use crate::pooling::{pooled, text, until};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Words and signs that would mean something outside of a string.
const PARTS: [&str; 20] = [
    "listen x",
    "; commit; ",
    "; set role y; ",
    "pg_temp",
    "select pg_advisory_lock(1)",
    "set_config('a.b', 'c', false)",
    "create temp table t ()",
    "'",
    "''",
    "\"",
    "\\",
    "$$",
    "$a$",
    "$",
    "/*",
    "*/",
    "--",
    "\n",
    "E'",
    "\u{e9}",
];

/// A literal, and what a server makes of it.
fn literal() -> impl Strategy<Value = (String, String)> {
    let content = proptest::collection::vec(proptest::sample::select(&PARTS[..]), 1..8);
    (content, 0..6).prop_map(|(parts, form)| {
        let content = parts.concat();
        let doubled = content.replace('\'', "''");
        // A comment that is not closed, or closed twice, would be no statement.
        let is_comment = !content.contains("/*") && !content.contains("*/");
        let text = match form {
            0 => format!("E'{}'", content.replace('\\', "\\\\").replace('\'', "\\'")),
            1 => format!("e''\n -- '\n '{}'", doubled.replace('\\', "\\\\")),
            2 => format!("$tag_1${content}$tag_1$"),
            3 => format!("U&'{}'", doubled.replace('\\', "\\\\")),
            4 if is_comment => format!("/* {content} */ '{doubled}'"),
            _ => format!("'{doubled}'"),
        };
        (content, text)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_users_type_ties_no_server() {
    let (_primary, router, mut control) = pooled(1).await;
    let (one, two) = (router.connect().await, router.connect().await);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..300 {
        let (content, literal) = literal().new_tree(&mut runner).unwrap().current();
        let question = format!("select {literal}");
        assert_eq!(text(&one, &question).await, content, "{question}");
        let row = two.query_one(&question, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), content, "{question}");
    }
    let pool = control.pool().await;
    assert_eq!((pool.clients_tied, pool.refused), (0, 0), "{pool:?}");
    // The same words outside of strings do.
    one.batch_execute("select '; '; listen x").await.unwrap();
    until(&mut control, "tied", |pool| pool.clients_tied == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_cannot_be_read_ties_its_server() {
    let (_primary, router, mut control) = pooled(2).await;
    let client = router.connect().await;
    client.batch_execute("set client_encoding to 'SJIS'").await.unwrap();
    until(&mut control, "tied", |pool| pool.clients_tied == 1).await;
    let reasons = control.pool().await.tied_by;
    assert!(reasons.keys().any(|reason| reason.contains("client_encoding")), "{reasons:?}");
    client.batch_execute("discard all").await.unwrap();
    let other = router.connect().await;
    assert_eq!(text(&other, "show client_encoding").await, "UTF8");
}
