//! Passwords: argon2id for new ones, bcrypt only to check old ones.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::problem::Problem;

/// **Unit**: KiB. **Source**: ASVS 5.0.0 Appendix C, argon2id t=2 m≥19 MiB p=1.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Hashes computed at once; times [`MEMORY`] this bounds what sign-ins can take.
const AT_ONCE: usize = 2;
/// bcrypt silently cuts longer passwords, so such a pair must not be accepted.
const BCRYPT_MAX: usize = 72;

/// Hashes and checks passwords off the async threads, a bounded number at once.
#[derive(Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// Hash of nobody's password: checked for unknown users, so that they take as long.
    decoy: Arc<str>,
}

impl Passwords {
    /// Computes the decoy, which takes one hash.
    ///
    /// **Panics** if our parameters are not valid, which a test rules out.
    #[must_use]
    pub fn new() -> Self {
        let decoy = hash(&crate::random::token::<16>()).expect("our argon2 parameters are valid");
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), decoy: decoy.into() }
    }

    /// A PHC string for storage.
    ///
    /// **Errors**: 500 if hashing fails.
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        self.run(move || hash(&password)).await?.ok_or_else(Problem::internal)
    }

    /// Whether the password fits. `None` stands for an unknown user: same work, always false.
    ///
    /// **Errors**: 500 if the work cannot be done.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Problem> {
        let is_known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.to_string());
        let fits = self.run(move || verify(&password, &stored)).await?;
        Ok(fits && is_known)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Problem::internal())?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit; // until the memory is free again, even when the caller has gone
            work()
        })
        .await
        .map_err(|_| Problem::internal())
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a stored hash should be replaced at the next successful sign-in.
#[must_use]
pub fn needs_rehash(stored: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(stored) else { return true };
    let is_as_strong = |params: Params| params.m_cost() >= MEMORY && params.t_cost() >= PASSES;
    parsed.algorithm.as_str() != "argon2id" || !Params::try_from(&parsed).is_ok_and(is_as_strong)
}

fn argon2() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY, PASSES, 1, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Option<String> {
    argon2()?.hash_password(password.as_bytes()).ok().map(|hash| hash.to_string())
}

fn verify(password: &str, stored: &str) -> bool {
    if stored.starts_with("$2") {
        return password.len() <= BCRYPT_MAX && bcrypt::verify(password, stored).unwrap_or(false);
    }
    // The parameters are those of the stored hash.
    PasswordHash::new(stored)
        .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published known answer of the bcrypt test suites (password "U*U", cost 5).
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    #[tokio::test]
    async fn accepts_only_the_password_that_was_hashed() {
        let passwords = Passwords::new();
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(passwords.verify("correct horse".into(), Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("correct horsf".into(), Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("correct horse".into(), None).await.unwrap());
        assert!(!needs_rehash(&stored));
    }

    #[test]
    fn checks_old_bcrypt_hashes_and_wants_them_replaced() {
        assert!(verify("U*U", BCRYPT));
        assert!(!verify("U*V", BCRYPT));
        assert!(needs_rehash(BCRYPT));
    }

    #[test]
    fn refuses_bcrypt_beyond_what_it_can_tell_apart() {
        let long = "x".repeat(73);
        let stored = bcrypt::hash(&long[..72], 4).unwrap();
        assert!(verify(&long[..72], &stored));
        assert!(!verify(&long, &stored));
    }

    #[test]
    fn a_broken_hash_fits_no_password() {
        for stored in ["", "$2a$", "$argon2id$", "plain"] {
            assert!(!verify("plain", stored), "{stored}");
            assert!(needs_rehash(stored));
        }
    }
}
