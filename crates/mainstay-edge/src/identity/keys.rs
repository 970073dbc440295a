//! Keys of an issuer, read from a secret, PEM or a JSON Web Key Set; and whether a signature is one of theirs.
//!
//! The arithmetic is `ring`'s, which TLS is made of here too. A key that does not fit the issuer's algorithm is no key.
//! **Source**: RFC 7517; RFC 7518, sections 3 and 6; RFC 8037, section 2; RFC 8410, section 3.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mainstay_decide::identity::KeyUse;
use mainstay_stack::identity::Algorithm;
use mainstay_types::Secret;
use ring::hmac;
use ring::signature::{self, EdDSAParameters, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::token;

/// Keys of one issuer at most: large directories publish some ten.
const MOST_KEYS: usize = 64;
/// Keys that are tried on a token that names none: each costs a signature's check.
const MOST_TRIED: usize = 4;
/// RFC 7518, section 3.2: of the size of the hash at least.
const LEAST_SECRET_BYTES: usize = 32;
/// RFC 7518, section 3.3, and the most that `ring` takes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const RSA: &str = "1.2.840.113549.1.1.1";
const ED25519: &str = "1.3.101.112";

/// A key for one algorithm.
pub(crate) struct Key {
    of: KeyUse,
    check: Check,
}

enum Check {
    Hmac(hmac::Key),
    Rsa(&'static RsaParameters, RsaPublicKeyComponents<Vec<u8>>),
    Curve(UnparsedPublicKey<Vec<u8>>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("of", &self.of).finish_non_exhaustive()
    }
}

/// How a signature turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    Good,
    Bad,
    /// There is no key of this name.
    Unknown,
}

/// Whether one of the keys that a token may mean has signed it.
pub(crate) fn check(keys: &[Key], named: Option<&str>, message: &[u8], signature: &[u8]) -> Signed {
    let is_good = |key: &Key| key.is_signature(message, signature);
    // There is at most one of a name, and then no other is meant.
    if let Some(key) = keys.iter().find(|key| named.is_some() && key.of.id.as_deref() == named) {
        return if is_good(key) { Signed::Good } else { Signed::Bad };
    }
    let mut tried = keys.iter().filter(|key| key.of.answers_to(named)).take(MOST_TRIED).peekable();
    // Where keys have names, one without may be meant, or one that is still to be fetched.
    let is_named = named.is_some() && keys.iter().any(|key| key.of.id.is_some());
    let otherwise = if is_named || tried.peek().is_none() { Signed::Unknown } else { Signed::Bad };
    if tried.any(is_good) { Signed::Good } else { otherwise }
}

impl Key {
    fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            Check::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Check::Rsa(parameters, key) => key.verify(parameters, message, signature).is_ok(),
            Check::Curve(key) => key.verify(message, signature).is_ok(),
        }
    }

    /// A secret of the stack. `None`: it is too short to be one.
    pub(crate) fn of_secret(secret: &Secret) -> Option<Self> {
        let bytes = secret.expose().as_bytes();
        (bytes.len() >= LEAST_SECRET_BYTES).then(|| Self::hmac(bytes))
    }

    fn hmac(bytes: &[u8]) -> Self {
        Self { of: KeyUse::default(), check: Check::Hmac(hmac::Key::new(hmac::HMAC_SHA256, bytes)) }
    }

    fn rsa(of: KeyUse, algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let parameters = rsa(algorithm)?;
        let bare = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (n, e) = (bare(modulus), bare(exponent));
        let is_one = RSA_BYTES.contains(&n.len()) && !e.is_empty() && !is_roca(&n);
        is_one.then_some(Self { of, check: Check::Rsa(parameters, RsaPublicKeyComponents { n, e }) })
    }

    fn point(of: KeyUse, algorithm: Algorithm, bytes: Vec<u8>) -> Option<Self> {
        let key = match algorithm {
            Algorithm::ES256 => {
                (bytes.len() == 65).then(|| UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, bytes))
            }
            Algorithm::ES384 => {
                (bytes.len() == 97).then(|| UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, bytes))
            }
            _ => None,
        };
        Some(Self { of, check: Check::Curve(key?) })
    }

    fn edwards(of: KeyUse, algorithm: Algorithm, bytes: Vec<u8>) -> Option<Self> {
        const ED: &EdDSAParameters = &signature::ED25519;
        let is_one = algorithm == Algorithm::EdDSA && bytes.len() == 32;
        is_one.then(|| Self { of, check: Check::Curve(UnparsedPublicKey::new(ED, bytes)) })
    }
}

/// The curve of an algorithm. **Source**: RFC 7518, section 3.4.
fn curve(algorithm: Algorithm) -> Option<&'static str> {
    match algorithm {
        Algorithm::ES256 => Some("P-256"),
        Algorithm::ES384 => Some("P-384"),
        _ => None,
    }
}

/// Whether a modulus has the mark of the smart cards whose keys can be broken: there is a power of 65537 that it equals
/// modulo each of these primes. By chance one in 2²⁷ has it. **Source**: Nemec and others, The Return of Coppersmith's
/// Attack (CVE-2017-15361), section 2.3.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107,
        109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65_537 % prime));
        powers.take(*prime as usize).any(|power| power == rest)
    })
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::HS256 | Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA => None,
    }
}

/// The keys of a file or an answer, in PEM or as a JSON Web Key Set, that fit the algorithm.
///
/// **Errors**: it holds none, and why.
pub(crate) fn read(bytes: &[u8], algorithm: Algorithm) -> Result<Vec<Key>, String> {
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let keys = if is_json { key_set(bytes, algorithm)? } else { pem(bytes, algorithm)? };
    let names: Vec<&str> = keys.iter().filter_map(|key| key.of.id.as_deref()).collect();
    if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
        // Which of them a token means nobody could say.
        let name: String = name.chars().take(64).collect();
        return Err(format!("two keys in it have one name, {name:?}"));
    }
    match keys.len() {
        0 => Err(format!("no key in it fits {algorithm}")),
        1..=MOST_KEYS => Ok(keys),
        more => Err(format!("it has {more} keys, {MOST_KEYS} are the most")),
    }
}

fn pem(bytes: &[u8], algorithm: Algorithm) -> Result<Vec<Key>, String> {
    let blocks: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(bytes).collect();
    let blocks = blocks.map_err(|_| "it is neither PEM nor a JSON Web Key Set".to_owned())?;
    if blocks.is_empty() {
        return Err("it has no PUBLIC KEY in PEM and is no JSON Web Key Set".to_owned());
    }
    Ok(blocks.iter().filter_map(|block| of_der(block, algorithm)).collect())
}

fn of_der(der: &[u8], algorithm: Algorithm) -> Option<Key> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    let bits = info.subject_public_key.data.as_ref();
    match (info.algorithm.algorithm.to_id_string().as_str(), info.parsed().ok()?) {
        (RSA, PublicKey::RSA(key)) => Key::rsa(KeyUse::default(), algorithm, key.modulus, key.exponent),
        // Which curve it is on says its length, and `ring` looks whether it is a point of it.
        (_, PublicKey::EC(_)) => Key::point(KeyUse::default(), algorithm, bits.to_vec()),
        (ED25519, _) => Key::edwards(KeyUse::default(), algorithm, bits.to_vec()),
        _ => None,
    }
}

fn key_set(bytes: &[u8], algorithm: Algorithm) -> Result<Vec<Key>, String> {
    let fields = token::object(bytes).map_err(|_| "it is no JSON, or has a name twice".to_owned())?;
    let Some(Value::Array(items)) = fields.get("keys") else {
        return Err("it is no JSON Web Key Set: it has no list of keys".to_owned());
    };
    // Kinds that are not known are no mistake (RFC 7517, section 5).
    Ok(items.iter().filter_map(Value::as_object).filter_map(|key| of_jwk(key, algorithm)).collect())
}

fn of_jwk(fields: &Map<String, Value>, algorithm: Algorithm) -> Option<Key> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(fields.get(name)?.as_str()?).ok();
    let operations = fields
        .get("key_ops")
        .map(|all| all.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect());
    let of = KeyUse { id: text("kid"), algorithm: text("alg"), purpose: text("use"), operations };
    if !of.fits(algorithm) {
        return None;
    }
    match (text("kty")?.as_str(), text("crv").as_deref()) {
        ("RSA", _) => Key::rsa(of, algorithm, &bytes("n")?, &bytes("e")?),
        ("EC", Some(curve)) if Some(curve) == self::curve(algorithm) => {
            let point = [vec![4], bytes("x")?, bytes("y")?].concat();
            Key::point(of, algorithm, point)
        }
        ("OKP", Some("Ed25519")) => Key::edwards(of, algorithm, bytes("x")?),
        // Never `oct`: what everybody can fetch is no secret.
        _ => None,
    }
}

#[cfg(test)]
mod tests;
