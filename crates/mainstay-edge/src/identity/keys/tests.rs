use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use mainstay_decide::identity::{Fault, check_header};
use mainstay_stack::identity::{Issuer, Keys};
use serde_json::json;

use super::*;
use crate::identity::token::Token;

/// Keys and tokens of this repository.
const SIGNED: &str = include_str!("signed.txt");

struct Sample {
    algorithm: String,
    jwk: Value,
    token: String,
    pem: String,
}

fn samples() -> Vec<Sample> {
    let blocks = SIGNED.split("\nalgorithm ").skip(1);
    let sample = |block: &str| {
        let mut lines = block.lines();
        let algorithm = lines.next().expect("algorithm").to_owned();
        let jwk = lines.next().and_then(|line| line.strip_prefix("jwk ")).expect("a key");
        let token = lines.next().and_then(|line| line.strip_prefix("token ")).unwrap_or_default();
        let jwk = serde_json::from_str(jwk).expect("JSON");
        Sample { algorithm, jwk, token: token.to_owned(), pem: lines.collect::<Vec<_>>().join("\n") }
    };
    blocks.map(sample).collect()
}

fn set(keys: &[&Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn check_token(keys: &[Key], token: &str) -> Signed {
    let token = Token::read(token).expect("a token");
    check(keys, token.header.key.as_deref(), token.signed, &token.signature)
}

#[test]
fn each_algorithm_is_checked_with_keys_of_either_form_and_with_no_other_key() {
    let all: Vec<Sample> = samples().into_iter().filter(|sample| !sample.token.is_empty()).collect();
    assert_eq!(all.len(), Algorithm::ALL.len() - 1, "all but HS256");
    for sample in &all {
        let algorithm: Algorithm = sample.algorithm.parse().expect("an algorithm");
        for bytes in [sample.pem.clone().into_bytes(), set(&[&sample.jwk])] {
            let keys = read(&bytes, algorithm).expect("a key");
            assert_eq!(check_token(&keys, &sample.token), Signed::Good, "{algorithm}");
            let forged = sample.token.replacen(".eyJ", ".eyK", 1);
            assert_eq!(check_token(&keys, &forged), Signed::Bad, "{algorithm}");
            for other in all.iter().filter(|other| other.algorithm != sample.algorithm) {
                assert_eq!(check_token(&keys, &other.token), Signed::Bad, "{algorithm}, {}", other.algorithm);
            }
        }
        let bytes = sample.token.len();
        for at in [bytes - 2, bytes - 10] {
            let mut broken = sample.token.clone().into_bytes();
            broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
            let broken = String::from_utf8(broken).expect("text");
            let keys = read(sample.pem.as_bytes(), algorithm).expect("a key");
            // The last but one letter may have bits that stand for nothing: then it is no spelling at all.
            if Token::read(&broken).is_ok() {
                assert_eq!(check_token(&keys, &broken), Signed::Bad, "{algorithm}");
            }
        }
    }
}

#[test]
fn a_key_of_another_kind_size_or_purpose_is_no_key() {
    let of = |name: &str| samples().into_iter().find(|sample| sample.algorithm == name).expect("is there").jwk;
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let es256 = of("ES256");
    let refused = |bytes: Vec<u8>, algorithm: Algorithm| read(&bytes, algorithm).err().unwrap_or_default();
    for (key, algorithm) in [
        (of("small"), Algorithm::RS256),
        (of("RS256"), Algorithm::ES256),
        (of("ES384"), Algorithm::ES256),
        (of("ES256"), Algorithm::ES384),
        (of("EdDSA"), Algorithm::ES256),
        (with(es256.clone(), "use", json!("enc")), Algorithm::ES256),
        (with(es256.clone(), "alg", json!("ES384")), Algorithm::ES256),
        (with(es256.clone(), "key_ops", json!(["sign"])), Algorithm::ES256),
        (with(es256.clone(), "x", json!("AA")), Algorithm::ES256),
        (with(es256.clone(), "y", json!(7)), Algorithm::ES256),
        (with(es256.clone(), "kty", json!("ec")), Algorithm::ES256),
        (with(es256.clone(), "crv", json!("P-384")), Algorithm::ES256),
        // What everybody can fetch is no secret.
        (json!({ "kty": "oct", "k": "A".repeat(64) }), Algorithm::HS256),
    ] {
        assert!(refused(set(&[&key]), algorithm).contains("no key in it fits"), "{key}");
    }
    let both = set(&[&json!({ "kty": "unknown" }), &es256]);
    assert_eq!(read(&both, Algorithm::ES256).expect("a key").len(), 1, "unknown kinds are no mistake");
    for (bytes, reason) in [
        (b"".to_vec(), "no PUBLIC KEY"),
        (b"nonsense".to_vec(), "no PUBLIC KEY"),
        (b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----".to_vec(), "neither PEM"),
        (b"{}".to_vec(), "no list of keys"),
        (b"{\"keys\":[],\"keys\":[]}".to_vec(), "a name twice"),
        (b"{\"keys\":".to_vec(), "no JSON"),
        (set(&[&with(es256.clone(), "kid", json!("a")), &with(es256.clone(), "kid", json!("a"))]), "one name"),
        (set(&vec![&es256; MOST_KEYS + 1]), "64 are the most"),
    ] {
        let found = refused(bytes, Algorithm::ES256);
        assert!(found.contains(reason), "{found}");
    }
}

#[test]
fn a_token_is_tried_with_the_key_that_it_names_and_with_few_others() {
    let of = |name: &str| samples().into_iter().find(|sample| sample.algorithm == name).expect("is there");
    let sample = of("ES256");
    let named = |kid: &str| {
        let mut key = sample.jwk.clone();
        key["kid"] = json!(kid);
        key
    };
    let keys = read(&set(&[&named("a"), &named("b")]), Algorithm::ES256).expect("keys");
    let token = Token::read(&sample.token).expect("a token");
    let outcome = |kid: Option<&str>| check(&keys, kid, token.signed, &token.signature);
    assert_eq!((outcome(Some("b")), outcome(None), outcome(Some("c"))), (Signed::Good, Signed::Good, Signed::Unknown));
    // One that names no key costs few checks, however many keys there are.
    let foreign = json!({ "kty": "EC", "crv": "P-256", "x": sample.jwk["y"], "y": sample.jwk["x"] });
    let many: Vec<&Value> = std::iter::repeat_n(&foreign, MOST_TRIED).chain([&sample.jwk]).collect();
    let keys = read(&set(&many), Algorithm::ES256).expect("keys");
    assert_eq!(check(&keys, None, token.signed, &token.signature), Signed::Bad);
    // Keys without names stand in nobody's way: not in that of one that is named, nor of one that is still to come.
    let own = named("a");
    let keys = read(&set(&[&foreign, &foreign, &foreign, &foreign, &own]), Algorithm::ES256).expect("keys");
    let outcome = |kid: Option<&str>| check(&keys, kid, token.signed, &token.signature);
    assert_eq!((outcome(Some("a")), outcome(Some("new"))), (Signed::Good, Signed::Unknown));
}

/// RFC 7515, appendices A.1 and A.3; RFC 8037, appendix A.4.
#[test]
fn the_examples_of_the_standards_are_good() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let hmac = Key::hmac(&URL_SAFE_NO_PAD.decode(secret).expect("Base64"));
    let token =
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{payload}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_eq!(check_token(&[hmac], &token), Signed::Good);
    let point = json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
    let keys = read(&set(&[&point]), Algorithm::ES256).expect("a key");
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert_eq!(check_token(&keys, &format!("eyJhbGciOiJFUzI1NiJ9.{payload}.{signature}")), Signed::Good);
    let edwards = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let keys = read(&set(&[&edwards]), Algorithm::EdDSA).expect("a key");
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWb\
                 hijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(check_token(&keys, token), Signed::Good);
}

#[test]
fn a_modulus_with_the_mark_of_broken_cards_is_no_key() {
    // All primes of the mark have 1 as a power of 65537.
    let mut marked = vec![0; 256];
    marked[255] = 1;
    assert!(is_roca(&marked));
    let sample = samples().into_iter().find(|sample| sample.algorithm == "RS256").expect("is there");
    let modulus = URL_SAFE_NO_PAD.decode(sample.jwk["n"].as_str().expect("text")).expect("Base64");
    assert!(!is_roca(&modulus));
}

#[test]
fn a_short_secret_is_no_key() {
    assert!(Key::of_secret(&Secret::new("x".repeat(31))).is_none());
    let key = Key::of_secret(&Secret::new("x".repeat(32))).expect("a key");
    assert!(!format!("{key:?}").contains("xx"));
}

// --- Wycheproof: its vectors are not of this repository. ---------------------------------------------------------

/// A file of the vectors, or `None` after having said that it is not there.
fn vectors(name: &str) -> Option<Value> {
    let folder = std::env::var_os("MAINSTAY_WYCHEPROOF").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/wycheproof"),
        PathBuf::from,
    );
    let file = folder.join(name);
    match std::fs::read(&file) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("JSON")),
        Err(_) => {
            let text = format!(
                "skipped: {name} of Wycheproof is not in {} (MAINSTAY_WYCHEPROOF names the folder)\n",
                folder.display()
            );
            // Not by a macro of printing: the harness keeps that to itself while a test passes.
            std::io::stderr().write_all(text.as_bytes()).expect("writes");
            None
        }
    }
}

/// What the edge would make of a signature under these keys, when an issuer signs with this algorithm.
fn outcome(keys: &[&Value], algorithm: Algorithm, jws: &str) -> Result<(), Fault> {
    let rule = Issuer {
        issuer: None,
        audience: Vec::new(),
        algorithm,
        keys: Keys::Secret { name: String::new() },
        typ: None,
        leeway: std::time::Duration::ZERO,
        roles: Vec::new(),
    };
    let keys = if algorithm == Algorithm::HS256 {
        let bytes = |key: &Value| URL_SAFE_NO_PAD.decode(key["k"].as_str()?).ok();
        let of = |key: &Value| KeyUse { id: key["kid"].as_str().map(str::to_owned), ..KeyUse::default() };
        let long = |bytes: &Vec<u8>| bytes.len() >= LEAST_SECRET_BYTES;
        keys.iter().filter_map(|key| Some(Key { of: of(key), ..Key::hmac(&bytes(key).filter(long)?) })).collect()
    } else {
        read(&set(keys), algorithm).map_err(|_| Fault::Key)?
    };
    let token = Token::read(jws)?;
    check_header(&token.header, &rule)?;
    match check(&keys, token.header.key.as_deref(), token.signed, &token.signature) {
        Signed::Good => Ok(()),
        Signed::Bad => Err(Fault::Signature),
        Signed::Unknown => Err(Fault::Key),
    }
}

/// Good ones for Wycheproof that the edge refuses, and why.
const STRICTER: [(&str, &str); 3] = [
    ("InvalidCharacterInsertedInHeader", "a `?` in Base64 is left out by some and not by others"),
    ("InvalidCharacterInsertedInPayload", "the same"),
    ("Figure20", "the key says that it is for PS256, and the token is signed by PS384"),
];

#[test]
fn wycheproofs_signatures_are_judged_as_it_judges_them() {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for name in ["json_web_signature_test.json", "json_web_crypto_test.json", "json_web_key_test.json"] {
        let Some(file) = vectors(name) else { return };
        for group in file["testGroups"].as_array().expect("groups") {
            let of = if group["public"].is_object() { &group["public"] } else { &group["private"] };
            let keys: Vec<&Value> = of["keys"].as_array().map_or_else(|| vec![of], |keys| keys.iter().collect());
            for test in group["tests"].as_array().expect("tests") {
                // The algorithm is the keys', or, where they do not say it, the one that would be asked of them.
                let said = keys.iter().find_map(|key| key["alg"].as_str());
                let family = match keys[0]["kty"].as_str() {
                    Some("RSA") => "RS256",
                    Some("EC") => "ES256",
                    _ => "HS256",
                };
                let Ok(algorithm) = said.unwrap_or(family).parse::<Algorithm>() else {
                    *counted.entry("not of an algorithm of ours").or_default() += 1;
                    continue;
                };
                let Some(jws) = test["jws"].as_str() else {
                    *counted.entry("not a signature").or_default() += 1;
                    continue;
                };
                if keys.len() > 1 && keys.iter().any(|key| key["kty"] == "oct") {
                    // Whatever is in it, a set with secrets is not read for them.
                    assert!(read(&set(&keys), Algorithm::HS256).is_err());
                    *counted.entry("a set with secrets").or_default() += 1;
                    continue;
                }
                let found = outcome(&keys, algorithm, jws);
                let comment = test["comment"].as_str().unwrap_or_default();
                let place = format!("{name} {} {comment}: {found:?}", test["tcId"]);
                let is_good = test["result"] == "valid";
                if is_good && found.is_err() && STRICTER.iter().any(|(known, _)| *known == comment) {
                    *counted.entry("refused for a reason of ours").or_default() += 1;
                    continue;
                }
                // 367 and 370 of the signatures are to the letter the valid 357: whatever was wrong with them is lost.
                let same = |other: &Value| other["jws"] == test["jws"] && other["result"] == "valid";
                if !is_good && group["tests"].as_array().into_iter().flatten().any(same) {
                    *counted.entry("the file says both").or_default() += 1;
                    continue;
                }
                if found.is_ok() != is_good {
                    wrong.push(place);
                }
                *counted.entry(if found.is_ok() { "good" } else { "refused" }).or_default() += 1;
            }
        }
    }
    std::io::stderr().write_all(format!("wycheproof: {counted:?}\n").as_bytes()).expect("writes");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counted.get("good").is_some_and(|count| *count >= 40), "{counted:?}");
    assert!(counted.get("refused").is_some_and(|count| *count >= 300), "{counted:?}");
}
