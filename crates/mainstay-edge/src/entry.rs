//! Who may enter a route: users with a password, and nobody during maintenance.
//!
//! Knows no password, only a salted hash of user and password together. The passwords are the stack's own, made at
//! random with more than a hundred bits: one hash is enough, and a slow one for each request would be a gift to whoever
//! wants the edge busy.
//!
//! **Source**: RFC 7617.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{ACCEPT, AUTHORIZATION};
use mainstay_types::Secret;
use sha2::{Digest, Sha512};
use subtle::{Choice, ConstantTimeEq};

use crate::protocol::BasicAuth;

/// Longest `Authorization` that is looked at.
const MOST_BYTES: usize = 1024;

/// What is sent to people while there is maintenance.
pub(crate) const MAINTENANCE_PAGE: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>Maintenance</title>\n\
<h1>Down for maintenance</h1>\n<p>We will be back soon. Please try again in a while.</p>\n</html>\n";

/// The hash of a user with a password.
pub(crate) fn hash(salt: &str, user: &str, password: &Secret) -> [u8; 64] {
    let mut digest = Sha512::new();
    for part in [salt, user, password.expose()] {
        // With its length, so that no two triples are the same bytes.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// The users of a route.
#[derive(Debug)]
pub(crate) struct Users {
    salt: String,
    known: Vec<(String, [u8; 64])>,
}

impl Users {
    /// `None` when a hash is none.
    pub(crate) fn new(of: &BasicAuth) -> Option<Self> {
        let known = of.users.iter().map(|(user, hash)| {
            let bytes = STANDARD.decode(hash.expose()).ok()?;
            Some((user.clone(), <[u8; 64]>::try_from(bytes).ok()?))
        });
        Some(Self { salt: of.salt.clone(), known: known.collect::<Option<_>>()? })
    }

    /// The user that a request proves to be. Takes as long for a wrong password as for a wrong name.
    pub(crate) fn verify(&self, headers: &HeaderMap) -> Option<String> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return None };
        let (scheme, credentials) = given.to_str().ok().filter(|text| text.len() <= MOST_BYTES)?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        let hash = hash(&self.salt, user, &Secret::new(password));
        let mut is_known = Choice::from(0);
        for (_, known) in &self.known {
            is_known |= known.ct_eq(&hash);
        }
        // The name is in the hash: who has one of them has the right name.
        bool::from(is_known).then(|| user.to_owned())
    }
}

/// Whether a person reads the answer.
pub(crate) fn wants_a_page(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn users() -> Users {
        let of = |user: &str, password: &str| Secret::new(STANDARD.encode(hash("salt", user, &Secret::new(password))));
        let users = [("alice".to_owned(), of("alice", "opensesame")), ("bob".to_owned(), of("bob", "a:b"))];
        Users::new(&BasicAuth { salt: "salt".to_owned(), users: BTreeMap::from(users) }).expect("usable")
    }

    fn verify(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().expect("value"));
        }
        users().verify(&headers)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn only_the_right_password_of_a_known_user_is_taken() {
        assert_eq!(verify(&[&basic("alice:opensesame")]).as_deref(), Some("alice"));
        assert_eq!(verify(&[&basic("bob:a:b")]).as_deref(), Some("bob"), "a password may have a colon");
        assert_eq!(verify(&[&basic("alice:opensesame").replace("Basic", "bAsIc ")]).as_deref(), Some("alice"));
        for wrong in ["alice:opensesamE", "alice:", "alice", ":opensesame", "bob:opensesame", "Alice:opensesame", ""] {
            assert_eq!(verify(&[&basic(wrong)]), None, "{wrong}");
        }
        let right = basic("alice:opensesame");
        assert_eq!(verify(&[]), None);
        assert_eq!(verify(&[&right, &right]), None, "which of the two is meant?");
        let long = basic(&format!("alice:{}", "x".repeat(2000)));
        for wrong in ["Basic", "Basic !!!", "Bearer x", long.as_str(), &right[..right.len() - 1], "Basic /w=="] {
            assert_eq!(verify(&[wrong]), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_hash_is_not_usable_and_nothing_shows_one() {
        for wrong in ["", "nonsense", "YWJj"] {
            let users = BTreeMap::from([("a".to_owned(), Secret::new(wrong))]);
            assert!(Users::new(&BasicAuth { salt: String::new(), users }).is_none(), "{wrong}");
        }
    }
}
