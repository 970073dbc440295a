//! TLS between clients and the router, by libpq: psql is the client that most drivers stand on.

use std::process::{Command, Output};

use crate::support::*;
use mainstay_router::protocol::{FromRouter, Identity, ToRouter};
use mainstay_types::{Generation, Secret};

/// A certificate for 127.0.0.1 that signs itself.
fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    Identity { chain_pem: made.cert.pem(), key_pem: Secret::new(made.signing_key.serialize_pem()) }
}

fn psql(router: &Router, options: &str, text: &str) -> Output {
    let url = format!("host=127.0.0.1 port={} user=app dbname=app {options}", router.write.port());
    let mut psql = Command::new("/usr/lib/postgresql/15/bin/psql");
    psql.env("PGPASSWORD", PASSWORD).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", text]).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_offered_with_the_certificate_that_the_policy_has() {
    let (_primary, router, mut control) = single().await;
    let refused = psql(&router, "sslmode=require", "select 1");
    assert!(said(&refused).contains("does not support SSL"), "{}", said(&refused));
    let identity = identity();
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), &identity.chain_pem).unwrap();
    let mut encrypted = policy();
    encrypted.generation = Generation(2);
    encrypted.tls = Some(identity);
    control.policy(encrypted).await;
    let full = format!("sslmode=verify-full sslrootcert={}", authority.path().display());
    for options in [full.as_str(), "sslmode=require", "sslmode=disable"] {
        let done = psql(&router, options, "select length(repeat('x', 5000000)), 7");
        assert_eq!(said(&done).trim(), "5000000|7", "{options}");
    }
    // Long answers, long questions, a copy each way.
    let done = psql(&router, &full, "select repeat('x', 3000000)");
    assert_eq!(done.stdout.len(), 3_000_001);
    let long = format!("select length('{}')", "y".repeat(100_000));
    assert_eq!(said(&psql(&router, &full, &long)).trim(), "100000");
    let done = psql(&router, &full, "copy (select generate_series(1, 200000)) to stdout");
    assert_eq!(done.stdout.iter().filter(|byte| **byte == b'\n').count(), 200_000);
    let stranger = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(stranger.path(), &self::identity().chain_pem).unwrap();
    let wrong = format!("sslmode=verify-full sslrootcert={}", stranger.path().display());
    assert!(said(&psql(&router, &wrong, "select 1")).contains("certificate verify failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_none_is_refused_with_its_policy() {
    let (_primary, router, mut control) = single().await;
    let mut wrong = policy();
    wrong.generation = Generation(2);
    wrong.tls = Some(Identity { chain_pem: "nothing".to_owned(), key_pem: Secret::new("nothing") });
    let answer = control.ask(ToRouter::Policy { policy: Box::new(wrong) }).await;
    assert!(matches!(&answer, FromRouter::Rejected { reason } if reason.contains("key")), "{answer:?}");
    router.connect().await.simple_query("select 1").await.unwrap();
}
