use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn b64(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn token(header: &str, payload: &str) -> String {
    format!("{}.{}.{}", b64(header), b64(payload), b64("signature"))
}

fn fault(text: &str) -> Option<Fault> {
    Token::read(text).err()
}

fn claims_by(payload: &str, roles: &[&str]) -> Result<Claims, Fault> {
    let text = token("{\"alg\":\"ES256\"}", payload);
    let roles: Vec<String> = roles.iter().map(|name| (*name).to_owned()).collect();
    Token::read(&text).expect("a token").claims(&roles)
}

fn claims(payload: &str) -> Result<Claims, Fault> {
    claims_by(payload, &["roles"])
}

fn headers(values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a value"));
    }
    headers
}

#[test]
fn one_bearer_token_is_taken_and_nothing_that_could_be_two() {
    assert_eq!(bearer(&headers(&[b"Bearer a.b.c"])), Ok("a.b.c"));
    assert_eq!(bearer(&headers(&[b"bEARER   a.b.c "])), Ok("a.b.c"));
    for missing in [&b""[..], b"Basic eDp5", b"Bearer", b"Bear", b"Bearera.b.c", b"Token a.b.c"] {
        let given = headers(&[missing]);
        let found = bearer(&given);
        assert!(matches!(found, Err(Fault::Missing) | Ok("")), "{missing:?}: {found:?}");
    }
    assert_eq!(bearer(&headers(&[])), Err(Fault::Missing));
    assert_eq!(bearer(&headers(&[b"Bearer a.b.c", b"Bearer a.b.c"])), Err(Fault::Several));
    assert_eq!(bearer(&headers(&[b"Basic eDp5", b"Bearer a.b.c"])), Err(Fault::Several));
    assert_eq!(bearer(&headers(&[b"Bearer \xff"])), Err(Fault::Malformed));
    // Bound before anything is decoded.
    let long = format!("Bearer {}", "a".repeat(MOST_BYTES));
    assert_eq!(bearer(&headers(&[long.as_bytes()])), Err(Fault::TooLong));
    assert_eq!(fault(&"a.".repeat(MOST_BYTES)), Some(Fault::TooLong));
}

#[test]
fn what_is_not_of_the_form_is_no_token() {
    let good = token("{\"alg\":\"ES256\",\"kid\":\"a\",\"typ\":\"JWT\"}", "{}");
    let read = Token::read(&good).expect("a token");
    assert_eq!((read.header.key.as_deref(), read.header.typ.as_deref()), (Some("a"), Some("JWT")));
    assert_eq!(read.signed, good.rsplit_once('.').expect("parts").0.as_bytes());
    let (h, p) = (b64("{\"alg\":\"ES256\"}"), b64("{}"));
    for wrong in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        h.clone(),
        format!("{h}.{p}"),
        format!("{h}.{p}.AA.AA"),
        format!("{h}.{p}.AA.AA.AA"),
        format!(".{p}.AA"),
        format!("{h}=.{p}.AA"),
        format!("{h}.{p}.AA=="),
        format!("{h}.{p}?.AA"),
        format!("{h}.AB.AA"),
        // The last letter has bits that stand for nothing: two spellings of one signature.
        format!("{h}.{p}.AB"),
        format!("{h}.{p}.A+"),
        format!("{h} .{p}.AA"),
        format!("{h}\n.{p}.AA"),
        token("[]", "{}"),
        token("\"alg\"", "{}"),
        token("{}", "{}"),
        token("{\"alg\":7}", "{}"),
        token("{\"alg\":null}", "{}"),
        token("{\"alg\":\"ES256\",\"kid\":7}", "{}"),
        token("{\"alg\":\"ES256\"} x", "{}"),
        token(&format!("{{\"alg\":\"ES256\",\"x\":{}{}}}", "[".repeat(500), "]".repeat(500)), "{}"),
    ] {
        assert_eq!(fault(&wrong), Some(Fault::Malformed), "{wrong}");
    }
    for twice in [
        "{\"alg\":\"none\",\"alg\":\"ES256\"}",
        "{\"alg\":\"ES256\",\"\\u0061lg\":\"none\"}",
        "{\"alg\":\"ES256\",\"x\":{\"a\":1,\"a\":2}}",
    ] {
        assert_eq!(fault(&token(twice, "{}")), Some(Fault::Twice), "{twice}");
    }
    assert!(Token::read(&token("{\"alg\":\"ES256\",\"crit\":[]}", "{}")).expect("a token").header.is_critical);
}

#[test]
fn claims_are_of_their_types_or_the_token_is_none() {
    let found = claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"a\",\"exp\":10,\"nbf\":5,\"x\":{}}").expect("claims");
    assert_eq!((found.issuer.as_deref(), found.subject.as_deref()), (Some("i"), Some("s")));
    assert_eq!((found.audience, found.expires), (Some(vec!["a".to_owned()]), Some(Timestamp::from_millis(10_000))));
    assert_eq!(claims("{\"aud\":[\"a\",\"b\"]}").expect("claims").audience.map(|all| all.len()), Some(2));
    for wrong in [
        "{\"iss\":7}",
        "{\"sub\":null}",
        "{\"aud\":7}",
        "{\"aud\":[7]}",
        "{\"exp\":\"10\"}",
        "{\"nbf\":null}",
        "[]",
        "7",
        "",
        "{\"exp\":1e999}",
    ] {
        assert_eq!(claims(wrong), Err(Fault::Malformed), "{wrong}");
    }
    assert_eq!(claims("{\"sub\":\"a\",\"sub\":\"b\"}"), Err(Fault::Twice));
    // Fractions count against who shows the token, and no time is too far away.
    let times = claims("{\"exp\":10.0019,\"nbf\":5.0001}").expect("claims");
    assert_eq!(times.expires, Some(Timestamp::from_millis(10_001)));
    assert_eq!(times.not_before, Some(Timestamp::from_millis(5001)));
    for far in ["1e300", "-1e300", "9223372036854775807", "18446744073709551615", "-9223372036854775808"] {
        assert!(claims(&format!("{{\"exp\":{far}}}")).expect("claims").expires.is_some(), "{far}");
    }
}

#[test]
fn roles_are_where_the_stack_file_says_and_none_of_them_is_two() {
    let roles = |payload: &str, way: &[&str]| claims_by(payload, way).map(|claims| claims.roles.join("|"));
    let of = |text: &str| Ok(text.to_owned());
    assert_eq!(roles("{\"roles\":[\"a\",\"b\",\"a\"]}", &["roles"]), of("a|b"));
    assert_eq!(roles("{\"role\":\"a\"}", &["role"]), of("a"));
    assert_eq!(roles("{\"realm_access\":{\"roles\":[\"a\"]},\"roles\":[\"b\"]}", &["realm_access", "roles"]), of("a"));
    assert_eq!(roles("{\"https://x.example/roles\":[\"a\"]}", &["https://x.example/roles"]), of("a"));
    assert_eq!(roles("{\"scope\":\"read write\"}", &["scope"]), of("read|write"));
    assert_eq!(roles("{\"role\":\"read write\"}", &["role"]), of(""), "only a scope is made of words");
    assert_eq!(roles("{\"roles\":[\"a,admin\",\"b admin\",\"c\\r\\nX: y\",\"\",7,null,\"d\"]}", &["roles"]), of("d"));
    for none in ["{}", "{\"roles\":null}", "{\"roles\":{\"admin\":true}}", "{\"roles\":7}"] {
        assert_eq!(roles(none, &["roles"]), of(""), "{none}");
    }
    assert_eq!(roles("{\"realm_access\":[\"admin\"]}", &["realm_access", "roles"]), of(""));
    let many: Vec<String> = (0..=MOST_ROLES).map(|role| format!("\"{role}\"")).collect();
    assert_eq!(roles(&format!("{{\"roles\":[{}]}}", many.join(",")), &["roles"]), Err(Fault::Roles));
    let long: Vec<String> = (0..40).map(|role| format!("\"{role}{}\"", "x".repeat(110))).collect();
    assert_eq!(roles(&format!("{{\"roles\":[{}]}}", long.join(",")), &["roles"]), Err(Fault::Roles));
}

proptest! {
    #[test]
    fn nothing_that_comes_makes_it_fall_over(text in ".{0,200}", parts in prop::collection::vec(any::<Vec<u8>>(), 3)) {
        let _ = Token::read(&text);
        let made: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        let made = made.join(".");
        if let Ok(token) = Token::read(&made) {
            let _ = token.claims(&["roles".to_owned()]);
        }
        let _ = object(&parts[0]);
    }

    /// A token says what was put into it, and a name more than once is refused wherever it stands.
    #[test]
    fn what_is_put_in_comes_out(subject in "[!-~]{1,40}", exp in any::<i32>(), roles in prop::collection::btree_set("[!-+\\--~]{1,20}", 0..8)) {
        let payload = serde_json::json!({ "sub": subject, "exp": exp, "roles": roles });
        let found = claims(&payload.to_string()).expect("claims");
        prop_assert_eq!(found.subject.as_deref(), Some(subject.as_str()));
        prop_assert_eq!(found.expires, Some(Timestamp::from_millis(i64::from(exp) * 1000)));
        prop_assert_eq!(found.roles, roles.into_iter().collect::<Vec<_>>());
        let text = payload.to_string();
        let twice = format!("{},\"sub\":\"other\"}}", &text[..text.len() - 1]);
        prop_assert_eq!(claims(&twice), Err(Fault::Twice));
    }
}
