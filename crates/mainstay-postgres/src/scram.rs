//! Whether a stored SCRAM-SHA-256 verifier belongs to a password. **Source**: RFC 5802 section 3, RFC 7677.
//!
//! Only compares: verifiers are made by `postgres-protocol`. Asked so that preparing a prepared database
//! changes nothing.

use sha2::{Digest, Sha256};

/// Bound on the iterations of a stored verifier: PostgreSQL's own are 4096.
const ITERATIONS_MAX: u32 = 1_000_000;

/// A stored verifier: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, base64 already decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Vec<u8>,
}

impl Verifier {
    /// Passwords of ours are ASCII, so no string preparation is done.
    pub(crate) fn is_of(&self, password: &str) -> bool {
        if self.iterations == 0 || self.iterations > ITERATIONS_MAX || !password.is_ascii() {
            return false;
        }
        let salted = salt(password.as_bytes(), &self.salt, self.iterations);
        let stored: [u8; 32] = Sha256::digest(hmac(&salted, b"Client Key")).into();
        stored.as_slice() == self.stored_key
    }
}

/// `Hi` of RFC 5802: one block of PBKDF2.
fn salt(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut block = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut sum = block;
    for _ in 1..iterations {
        block = hmac(password, &block);
        for (sum, byte) in sum.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    sum
}

/// **Source**: RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn salting_is_pbkdf2() {
        // Vector of RFC 7914 section 11 (first 32 bytes of PBKDF2-HMAC-SHA256 with one iteration).
        assert_eq!(
            hex(&salt(b"passwd", b"salt", 1)),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        );
    }

    #[test]
    fn another_password_has_another_verifier() {
        let salted = salt(b"pencil", b"salty", 3);
        let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).to_vec();
        let verifier = Verifier { iterations: 3, salt: b"salty".to_vec(), stored_key };
        assert!(verifier.is_of("pencil"));
        assert!(!verifier.is_of("pencils"));
        assert!(!Verifier { iterations: u32::MAX, ..verifier }.is_of("pencil"));
    }
}
