//! SCRAM-SHA-256, both sides: the router checks its clients and proves itself to servers with the same password.
//!
//! Never sends or compares a password itself; comparisons take constant time, and a role that does not exist takes
//! the same steps as one that does.
//! **Source**: RFC 5802, RFC 7677; PostgreSQL manual, "SASL Authentication".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) const MECHANISM: &str = "SCRAM-SHA-256";

/// PostgreSQL's default (`scram_iterations`).
pub(crate) const ITERATIONS: u32 = 4096;

/// A server that asks for more would keep a worker thread busy; PostgreSQL's own default is far below.
const MAX_ITERATIONS: u32 = 1_000_000;

/// Bytes of randomness in a nonce, as PostgreSQL has (`SCRAM_RAW_NONCE_LEN`).
const NONCE_LENGTH: usize = 18;

type Key = [u8; 32];

/// Why an exchange fails.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ScramError {
    #[error("SCRAM message is malformed")]
    Malformed,
    #[error("channel binding is not offered")]
    ChannelBinding,
    #[error("proof does not match")]
    Proof,
    #[error("server asks for {0} iterations, limit is {MAX_ITERATIONS}")]
    Iterations(u32),
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hash(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let mut block = hmac(password, &[salt, &1u32.to_be_bytes()]);
    let mut result = block;
    for _ in 1..iterations {
        block = hmac(password, &[&block]);
        result = xor(&result, &block);
    }
    result
}

/// What the owner of a password knows, for one salt.
#[derive(Clone)]
pub(crate) struct ClientKeys {
    client: Key,
    server: Key,
}

impl ClientKeys {
    /// Derives them; takes some milliseconds.
    pub(crate) fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password.as_bytes(), salt, iterations);
        Self { client: hmac(&salted, &[b"Client Key"]), server: hmac(&salted, &[b"Server Key"]) }
    }
}

/// What a server keeps of a password: it checks a proof with it and cannot make one.
#[derive(Clone)]
pub(crate) struct Verifier {
    pub(crate) salt: [u8; 16],
    stored: Key,
    server: Key,
}

impl Verifier {
    pub(crate) fn derive(password: &str, salt: [u8; 16]) -> Self {
        let keys = ClientKeys::derive(password, &salt, ITERATIONS);
        Self { salt, stored: hash(&keys.client), server: keys.server }
    }

    /// A verifier that no proof passes, for a role that does not exist. **Source**: `mock_scram_secret`.
    pub(crate) fn mock(salt: [u8; 16], secret: &[u8; 32]) -> Self {
        Self { salt, stored: hmac(secret, &[b"stored", &salt]), server: hmac(secret, &[b"server", &salt]) }
    }
}

/// The salt of a role: the same formula whether the role exists or not, stable while `secret` is.
pub(crate) fn salt_of(role: &str, secret: &[u8; 32]) -> [u8; 16] {
    let digest = hmac(secret, &[b"salt", role.as_bytes()]);
    std::array::from_fn(|index| digest[index])
}

/// A fresh nonce in printable form.
pub(crate) fn nonce() -> std::io::Result<String> {
    let mut bytes = [0; NONCE_LENGTH];
    crate::random::fill(&mut bytes)?;
    Ok(BASE64.encode(bytes))
}

fn attribute(part: Option<&str>, name: char) -> Result<&str, ScramError> {
    part.and_then(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or(ScramError::Malformed)
}

fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(bytes).map_err(|_| ScramError::Malformed)
}

/// The side that checks, between its first and its final message.
pub(crate) struct Check {
    verifier: Verifier,
    gs2_header: String,
    nonce: String,
    /// `client-first-bare,server-first,`
    transcript: String,
    /// What the client gets.
    pub(crate) server_first: String,
}

impl Check {
    /// Takes the client's first message.
    pub(crate) fn start(verifier: Verifier, client_first: &[u8], server_nonce: &str) -> Result<Self, ScramError> {
        let message = text(client_first)?;
        let mut parts = message.splitn(3, ',');
        match parts.next() {
            Some("n" | "y") => {}
            Some(flag) if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed),
        }
        // An authorization identity other than the role's own is not supported, as in PostgreSQL.
        if parts.next() != Some("") {
            return Err(ScramError::Malformed);
        }
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        let gs2_header = message[..message.len() - bare.len()].to_owned();
        let mut attributes = bare.split(',');
        // The role is the startup packet's; what stands here is ignored, as in PostgreSQL.
        attribute(attributes.next(), 'n')?;
        let client_nonce = attribute(attributes.next(), 'r')?;
        if client_nonce.is_empty() || attributes.next().is_some() {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", BASE64.encode(verifier.salt));
        let transcript = format!("{bare},{server_first},");
        Ok(Self { verifier, gs2_header, nonce, transcript, server_first })
    }

    /// Takes the client's final message and gives the server's final one.
    pub(crate) fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let message = text(client_final)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = BASE64.decode(attribute(attributes.next(), 'c')?).map_err(|_| ScramError::Malformed)?;
        let nonce = attribute(attributes.next(), 'r')?;
        let proof: Key =
            BASE64.decode(proof).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(ScramError::Malformed)?;
        if binding != self.gs2_header.as_bytes() || nonce != self.nonce || attributes.next().is_some() {
            return Err(ScramError::Malformed);
        }
        let transcript: [&[u8]; 2] = [self.transcript.as_bytes(), without_proof.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.verifier.stored, &transcript));
        if !bool::from(hash(&client_key).ct_eq(&self.verifier.stored)) {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", BASE64.encode(hmac(&self.verifier.server, &transcript))))
    }
}

/// The side that proves, towards a server.
pub(crate) struct Proof {
    nonce: String,
    server_signature: Option<Key>,
}

/// What a server's first message says of the key to derive.
pub(crate) struct Challenge {
    nonce: String,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
    server_first: String,
}

impl Proof {
    pub(crate) fn new(nonce: String) -> Self {
        Self { nonce, server_signature: None }
    }

    pub(crate) fn client_first(&self) -> String {
        format!("n,,n=,r={}", self.nonce)
    }

    /// Reads the server's first message.
    pub(crate) fn challenge(&self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let message = text(server_first)?;
        let mut attributes = message.split(',');
        let nonce = attribute(attributes.next(), 'r')?;
        let salt = BASE64.decode(attribute(attributes.next(), 's')?).map_err(|_| ScramError::Malformed)?;
        let iterations: u32 = attribute(attributes.next(), 'i')?.parse().map_err(|_| ScramError::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || iterations == 0 {
            return Err(ScramError::Malformed);
        }
        if iterations > MAX_ITERATIONS {
            return Err(ScramError::Iterations(iterations));
        }
        Ok(Challenge { nonce: nonce.to_owned(), salt, iterations, server_first: message.to_owned() })
    }

    /// The final message for that challenge.
    pub(crate) fn client_final(&mut self, challenge: &Challenge, keys: &ClientKeys) -> String {
        // "biws" is base64 of "n,,".
        let without_proof = format!("c=biws,r={}", challenge.nonce);
        let transcript = format!("n=,r={},{},{without_proof}", self.nonce, challenge.server_first);
        let signature = hmac(&hash(&keys.client), &[transcript.as_bytes()]);
        self.server_signature = Some(hmac(&keys.server, &[transcript.as_bytes()]));
        format!("{without_proof},p={}", BASE64.encode(xor(&keys.client, &signature)))
    }

    /// Checks that the server knows the password too.
    pub(crate) fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let signature = BASE64.decode(attribute(Some(text(server_final)?), 'v')?).map_err(|_| ScramError::Malformed)?;
        match self.server_signature {
            Some(expected) if bool::from(expected.as_slice().ct_eq(&signature)) => Ok(()),
            _ => Err(ScramError::Proof),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn verifier() -> Verifier {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        Verifier::derive("pencil", salt)
    }

    #[test]
    fn the_checking_side_follows_rfc_7677() {
        let check = Check::start(verifier(), CLIENT_FIRST, SERVER_NONCE).unwrap();
        assert_eq!(check.server_first, SERVER_FIRST);
        assert_eq!(check.finish(CLIENT_FINAL).unwrap(), SERVER_FINAL);
    }

    #[test]
    fn the_salted_password_is_pbkdf2() {
        // RFC 7914, section 11, first 32 bytes of PBKDF2-HMAC-SHA-256 (P="passwd", S="salt", c=1).
        let expected = [
            0x55, 0xac, 0x04, 0x6e, 0x56, 0xe3, 0x08, 0x9f, 0xec, 0x16, 0x91, 0xc2, 0x25, 0x44, 0xb6, 0x05, 0xf9, 0x41,
            0x85, 0x21, 0x6d, 0xde, 0x04, 0x65, 0xe6, 0x8b, 0x9d, 0x57, 0xc2, 0x0d, 0xac, 0xbc,
        ];
        assert_eq!(salted_password(b"passwd", b"salt", 1), expected);
    }

    #[test]
    fn both_sides_agree_and_a_wrong_password_or_an_unknown_role_does_not_pass() {
        for (verifier, password, passes) in [
            (Verifier::derive("right", [1; 16]), "right", true),
            (Verifier::derive("right", [1; 16]), "wrong", false),
            (Verifier::mock([1; 16], &[7; 32]), "right", false),
        ] {
            let mut proof = Proof::new("abc".to_owned());
            let check = Check::start(verifier, proof.client_first().as_bytes(), "def").unwrap();
            let challenge = proof.challenge(check.server_first.as_bytes()).unwrap();
            let keys = ClientKeys::derive(password, &challenge.salt, challenge.iterations);
            let last = proof.client_final(&challenge, &keys);
            match check.finish(last.as_bytes()) {
                Ok(server_final) => {
                    assert!(passes);
                    assert_eq!(proof.verify(server_final.as_bytes()), Ok(()));
                    assert_eq!(proof.verify(b"v=AAAA"), Err(ScramError::Proof));
                }
                Err(error) => assert_eq!((passes, error), (false, ScramError::Proof)),
            }
        }
    }

    #[test]
    fn malformed_and_tampered_messages_are_refused() {
        for first in ["", "n", "n,,", "n,,n=", "n,,n=,r=", "x,,n=,r=a", "n,a=b,n=,r=a", "n,,n=,r=a,x=y"] {
            assert!(Check::start(verifier(), first.as_bytes(), "x").is_err(), "{first}");
        }
        let bound = Check::start(verifier(), b"p=tls-unique,,n=,r=a", "x");
        assert_eq!(bound.err(), Some(ScramError::ChannelBinding));
        // "eSws" is "y,,": not what the client said first.
        let check = Check::start(verifier(), CLIENT_FIRST, SERVER_NONCE).unwrap();
        let tampered = String::from_utf8(CLIENT_FINAL.to_vec()).unwrap().replace("biws", "eSws");
        assert_eq!(check.finish(tampered.as_bytes()), Err(ScramError::Malformed));
        assert!(Proof::new("abc".to_owned()).challenge(b"r=abc,s=AA==,i=4096").is_err());
        assert!(Proof::new("abc".to_owned()).challenge(b"r=abcd,s=AA==,i=4000000000").is_err());
    }
}
