//! Certificates of a public authority: ordered, proven at the edge, and what happens when they are not to be had.

use std::os::unix::fs::PermissionsExt;

use mainstay_edge::acme::{AcmeError, begin};
use mainstay_edge::own::inspect;
use mainstay_edge::protocol::{Certificate, Challenges, Policy};
use mainstay_stack::tls::Challenge;

use crate::support::pebble::{EXTERNAL, NAMES, Pebble};
use crate::support::{Control, Edge, HOST, eventually, now};

/// A policy for the names that are to be proven. Without a certificate of theirs they have the first one.
fn policy(edge: &Edge, generation: u64, challenges: Challenges) -> Policy {
    let mut policy = edge.policy();
    policy.generation.0 = generation;
    policy.hosts.extend(NAMES.map(str::to_owned));
    policy.certificates[0].hosts.extend(NAMES.map(str::to_owned));
    policy.challenges = challenges;
    policy
}

/// Orders once, and leaves the certificate in force.
async fn order(
    edge: &Edge,
    control: &mut Control,
    pebble: &Pebble,
    challenge: Challenge,
    generation: u64,
) -> Result<Certificate, AcmeError> {
    let (pending, challenges) = begin(&pebble.ask(challenge)).await?;
    control.accept(&policy(edge, generation, challenges)).await;
    let (certificate, validity) = pending.finish().await?;
    assert_eq!(inspect(&certificate, now().max(validity.begins)), Ok(validity));
    let mut next = policy(edge, generation + 1, Challenges::default());
    next.certificates = vec![edge.certificate.certificate.clone(), certificate.clone()];
    control.accept(&next).await;
    Ok(certificate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_proven_over_http_or_in_the_handshake_and_the_account_is_kept() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let pebble = Pebble::start(&edge, false).await;
    let mut account = None;
    for (nth, challenge) in [Challenge::Http01, Challenge::TlsAlpn01].into_iter().enumerate() {
        let certificate =
            order(&edge, &mut control, &pebble, challenge, 2 + 2 * nth as u64).await.expect("a certificate");
        assert_eq!(certificate.hosts, NAMES);
        let files: Vec<_> =
            std::fs::read_dir(pebble.accounts()).expect("folder").map(|one| one.expect("file")).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].metadata().expect("file").permissions().mode() & 0o777, 0o600);
        let kept = std::fs::read(files[0].path()).expect("reads");
        assert_eq!(*account.get_or_insert_with(|| kept.clone()), kept, "one account for all orders");
    }
    // What is proven is shown no longer, and a handshake that asks for a proof gets none.
    let client = edge.client();
    eventually("the end of the proof", async || client.tls(NAMES[0], &["acme-tls/1"]).await.is_err().then_some(()))
        .await;
    client.tls(HOST, &["http/1.1"]).await.expect("an ordinary handshake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_sees_no_proof_says_which_name_and_why() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    control.accept(&policy(&edge, 2, Challenges::default())).await;
    let pebble = Pebble::start(&edge, false).await;
    for challenge in [Challenge::TlsAlpn01, Challenge::Http01] {
        let (pending, _) = begin(&pebble.ask(challenge)).await.expect("begins");
        let error = pending.finish().await.expect_err("no proof was shown");
        let AcmeError::Unproven { name, challenge: by, .. } = &error else { panic!("{error}") };
        assert!(NAMES.contains(&name.as_str()) && *by == challenge, "{error}");
        assert!(error.to_string().len() > 40, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_is_away_is_no_certificate_and_one_that_forgot_the_account_gets_another() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let mut pebble = Pebble::start(&edge, false).await;
    order(&edge, &mut control, &pebble, Challenge::Http01, 2).await.expect("a certificate");
    pebble.stop();
    let error = begin(&pebble.ask(Challenge::Http01)).await.err().expect("nobody is there");
    let text = error.to_string();
    assert!(text.contains("reach the directory") && text.contains("no connection to localhost"), "{text}");
    pebble.start_again().await;
    order(&edge, &mut control, &pebble, Challenge::Http01, 4).await.expect("a certificate of another account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_wants_an_account_elsewhere_gets_its_key_and_nobody_else_an_account() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    control.accept(&policy(&edge, 2, Challenges::default())).await;
    let pebble = Pebble::start(&edge, true).await;
    let mut ask = pebble.ask(Challenge::Http01);
    let error = begin(&ask).await.err().expect("refused").to_string();
    assert!(error.contains("make an account"), "{error}");
    let key = pebble.accounts().join("external.key");
    std::fs::write(&key, "AAECAwQFBgcICQ").expect("writes");
    ask.external_account = Some((EXTERNAL.0.to_owned(), key.clone()));
    let error = begin(&ask).await.err().expect("another key").to_string();
    assert!(error.contains("make an account") && !error.contains("AAECAwQFBgcICQ"), "{error}");
    std::fs::write(&key, EXTERNAL.1).expect("writes");
    begin(&ask).await.expect("an account");
    ask.roots = None;
    ask.accounts = pebble.accounts().join("other");
    let error = begin(&ask).await.err().expect("the system trusts no test authority").to_string();
    assert!(error.contains("not who its certificate should say") || error.contains("ca-certificates"), "{error}");
}
