use std::collections::{BTreeMap, BTreeSet};

use mainstay_stack::identity::Keys;
use proptest::prelude::*;

use super::*;

fn rule() -> Issuer {
    Issuer {
        issuer: Some("https://login.example.com/".to_owned()),
        audience: vec!["shop".to_owned(), "admin".to_owned()],
        algorithm: Algorithm::ES256,
        keys: Keys::Secret { name: "JWT_KEY".to_owned() },
        typ: None,
        leeway: Duration::from_secs(30),
        roles: vec!["roles".to_owned()],
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn claims() -> Claims {
    Claims {
        issuer: Some("https://login.example.com/".to_owned()),
        subject: Some("alice".to_owned()),
        audience: Some(vec!["other".to_owned(), "shop".to_owned()]),
        expires: Some(at(2000)),
        not_before: Some(at(1000)),
        roles: Vec::new(),
    }
}

#[test]
fn a_token_counts_from_its_beginning_to_its_end_and_clocks_may_differ_a_little() {
    let judge = |seconds: i64| check_claims(&claims(), &rule(), at(seconds));
    assert_eq!(judge(969), Err(Fault::Early));
    assert_eq!(judge(970), Ok(()));
    assert_eq!(judge(2029), Ok(()));
    assert_eq!(judge(2030), Err(Fault::Expired), "RFC 7519, section 4.1.4: on or after which it must not be accepted");
    let exact = Issuer { leeway: Duration::ZERO, ..rule() };
    assert_eq!(check_claims(&claims(), &exact, at(999)), Err(Fault::Early));
    assert_eq!(check_claims(&claims(), &exact, at(1000)), Ok(()));
    assert_eq!(check_claims(&claims(), &exact, at(2000)), Err(Fault::Expired));
    let endless = Claims { expires: None, ..claims() };
    assert_eq!(check_claims(&endless, &rule(), at(1500)), Err(Fault::NoEnd));
    let always = Claims { not_before: None, ..claims() };
    assert_eq!(check_claims(&always, &rule(), at(0)), Ok(()));
    // Times beyond all bounds end no arithmetic.
    for far in [Timestamp::from_micros(i64::MAX), Timestamp::from_micros(i64::MIN)] {
        let odd = Claims { expires: Some(far), not_before: Some(far), ..claims() };
        let judged = check_claims(&odd, &rule(), at(1500));
        assert_eq!(judged, Err(if far > at(0) { Fault::Early } else { Fault::Expired }));
    }
}

#[test]
fn a_token_is_of_the_issuer_for_the_audience_and_about_somebody() {
    let judge = |claims: Claims| check_claims(&claims, &rule(), at(1500));
    for issuer in [None, Some("https://login.example.com"), Some("https://evil.example/"), Some("")] {
        assert_eq!(judge(Claims { issuer: issuer.map(str::to_owned), ..claims() }), Err(Fault::Issuer), "{issuer:?}");
    }
    for audience in [None, Some(vec![]), Some(vec!["sho"]), Some(vec!["Shop", "shop "])] {
        let audience = audience.map(|all| all.into_iter().map(str::to_owned).collect());
        assert_eq!(judge(Claims { audience, ..claims() }), Err(Fault::Audience));
    }
    let long = "x".repeat(257);
    for subject in [None, Some(""), Some("a b"), Some("a\r\nX-Role: admin"), Some("ä"), Some(long.as_str())] {
        let odd = Claims { subject: subject.map(str::to_owned), ..claims() };
        assert_eq!(judge(odd), Err(Fault::Subject), "{subject:?}");
    }
    let open = Issuer { issuer: None, audience: Vec::new(), ..rule() };
    let plain = Claims { issuer: None, audience: None, ..claims() };
    assert_eq!(check_claims(&plain, &open, at(1500)), Ok(()));
    assert_eq!(check_claims(&claims(), &open, at(1500)), Err(Fault::Audience), "it is for somebody in particular");
}

#[test]
fn a_token_does_not_choose_how_it_is_looked_at() {
    let header = |algorithm: &str| Header { algorithm: algorithm.to_owned(), ..Header::default() };
    assert_eq!(check_header(&header("ES256"), &rule()), Ok(()));
    for other in ["none", "None", "", "es256", "HS256", "RS256", "ES384", "ES256 "] {
        assert_eq!(check_header(&header(other), &rule()), Err(Fault::Algorithm), "{other}");
    }
    let critical = Header { is_critical: true, ..header("ES256") };
    assert_eq!(check_header(&critical, &rule()), Err(Fault::Critical));
    let typed = Issuer { typ: Some("at+jwt".to_owned()), ..rule() };
    for (typ, expected) in [
        (Some("at+jwt"), Ok(())),
        (Some("application/AT+JWT"), Ok(())),
        (Some("JWT"), Err(Fault::Type)),
        (None, Err(Fault::Type)),
    ] {
        let header = Header { typ: typ.map(str::to_owned), ..header("ES256") };
        assert_eq!(check_header(&header, &typed), expected, "{typ:?}");
        assert_eq!(check_header(&header, &rule()), Ok(()));
    }
}

#[test]
fn one_of_the_roles_is_enough_and_a_method_that_is_not_named_is_nobodys() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let roles = Roles(BTreeMap::from([("GET".to_owned(), set(&["reader", "admin"])), ("PUT".to_owned(), set(&[]))]));
    let held = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(permits(&roles, "GET", &held(&["x", "admin"])));
    assert!(permits(&roles, "HEAD", &held(&["reader"])));
    assert!(!permits(&roles, "GET", &held(&["Admin", "reader admin"])));
    assert!(permits(&roles, "PUT", &held(&[])));
    assert!(!permits(&roles, "DELETE", &held(&["admin"])));
    assert!(!permits(&Roles::default(), "GET", &held(&["admin"])));
}

#[test]
fn a_key_is_used_for_what_it_is_said_to_be_for() {
    let is = |of: KeyUse| of.fits(Algorithm::ES256);
    let text = |text: &str| Some(text.to_owned());
    assert!(is(KeyUse::default()));
    assert!(is(KeyUse { algorithm: text("ES256"), purpose: text("sig"), ..KeyUse::default() }));
    assert!(!is(KeyUse { algorithm: text("ES384"), ..KeyUse::default() }));
    assert!(!is(KeyUse { purpose: text("enc"), ..KeyUse::default() }));
    assert!(is(KeyUse { operations: Some(vec!["sign".to_owned(), "verify".to_owned()]), ..KeyUse::default() }));
    assert!(!is(KeyUse { operations: Some(vec!["sign".to_owned()]), ..KeyUse::default() }));
    let named = KeyUse { id: text("a"), ..KeyUse::default() };
    assert!(named.answers_to(Some("a")) && named.answers_to(None) && !named.answers_to(Some("b")));
    assert!(KeyUse::default().answers_to(Some("b")));
}

#[test]
fn keys_are_fetched_when_they_are_old_or_one_is_unknown_but_not_for_everybody_who_asks() {
    let mut refresh = Refresh::new(Duration::from_mins(10));
    assert_eq!(refresh.due(at(5)), at(5), "at once");
    assert!(refresh.want(at(5)), "the first fetch is worth waiting for");
    refresh.tried(at(5), true);
    assert_eq!(refresh.due(at(6)), at(605));
    assert!(!refresh.want(at(34)));
    assert_eq!(refresh.due(at(34)), at(605));
    assert!(refresh.want(at(35)));
    assert!(refresh.want(at(35)), "everybody waits for the same one");
    assert_eq!(refresh.due(at(35)), at(35));
    refresh.tried(at(36), false);
    assert_eq!(
        (refresh.due(at(36)), refresh.failures, refresh.age(at(40))),
        (at(38), 1, Some(Duration::from_secs(35)))
    );
    assert!(!refresh.want(at(40)));
    for round in 0..10 {
        refresh.tried(at(100 + round), false);
    }
    assert_eq!(refresh.due(at(110)), at(169), "not rarer than each minute");
    assert!(!refresh.want(at(200)), "nobody waits for an issuer that is away");
    assert_eq!(refresh.due(at(120)), at(169), "not before its pause");
    refresh.tried(at(200), true);
    assert_eq!((refresh.due(at(200)), refresh.failures), (at(800), 0));
}

#[test]
fn every_fault_has_words_of_its_own_that_a_header_can_hold() {
    let texts: BTreeSet<&str> = Fault::ALL.into_iter().map(Fault::text).collect();
    assert_eq!(texts.len(), Fault::ALL.len());
    // RFC 6750, section 3: %x20-21 / %x23-5B / %x5D-7E.
    let is_allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    assert!(texts.iter().all(|text| text.bytes().all(is_allowed)), "{texts:?}");
    assert_eq!((Fault::Missing.error(), Fault::Missing.status()), (None, 401));
    assert_eq!((Fault::Several.error(), Fault::Several.status()), (Some("invalid_request"), 400));
    assert_eq!((Fault::Expired.error(), Fault::Expired.status()), (Some("invalid_token"), 401));
}

#[test]
fn addresses_of_this_machine_and_of_networks_behind_it_are_not_public() {
    for text in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.0.1",
        "172.32.0.1",
        "192.167.1.1",
        "192.0.1.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00::1",
        "::ffff:1.1.1.1",
        "2002:101:101::1",
    ] {
        assert!(is_public(text.parse().expect("address")), "{text}");
    }
    for text in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:a00:1::1",
        "2001:db8::1",
        "2001::1",
        "::127.0.0.1",
    ] {
        assert!(!is_public(text.parse().expect("address")), "{text}");
    }
}

proptest! {
    /// Whatever is asked in whatever order, unknown keys cause no more than a fetch in thirty seconds, and a fetch is
    /// never later than the age of keys or the longest pause allows.
    #[test]
    fn fetches_have_a_pace(events in prop::collection::vec((0_i64..20_000, any::<bool>(), any::<bool>()), 1..200)) {
        let max_age = Duration::from_mins(10);
        let mut refresh = Refresh::new(max_age);
        let mut now = at(0);
        let mut last: Option<Timestamp> = None;
        for (step, wants, is_good) in events {
            now = now.after(Duration::from_millis(u64::try_from(step).expect("positive")));
            if wants {
                refresh.want(now);
            }
            let due = refresh.due(now);
            if let Some(last) = last {
                prop_assert!(due <= last.after(max_age).max(now));
                if due <= now && refresh.failures == 0 {
                    prop_assert!(now >= last.after(UNKNOWN_KEY_PAUSE));
                }
            }
            if due <= now {
                refresh.tried(now, is_good);
                last = Some(now);
            }
        }
    }

    /// Nobody is let in by a claim that is missing or by one more role.
    #[test]
    fn a_role_more_never_takes_a_permission_away(
        needed in prop::collection::btree_map("[A-Z]{3,4}|\\*", prop::collection::btree_set("[a-c]", 0..3), 0..4),
        held in prop::collection::vec("[a-d]", 0..4),
        more in "[a-d]",
        method in "GET|HEAD|PUT|POST",
    ) {
        let roles = Roles(needed);
        let before = permits(&roles, &method, &held);
        let after = permits(&roles, &method, &[held.clone(), vec![more]].concat());
        prop_assert!(!before || after);
        if roles.needed(&method).is_none() {
            prop_assert!(!after);
        }
    }
}
