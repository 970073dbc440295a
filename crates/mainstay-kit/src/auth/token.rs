//! Access tokens: JWT with HS256 and nothing else.
//!
//! `jsonwebtoken` reads and checks the token; the HMAC is RustCrypto's `hmac` with `sha2`, given to
//! it as a provider. Rejected: its `rust_crypto` feature, which pulls `rsa` (RUSTSEC-2023-0071, no
//! fix), and `aws_lc_rs`, which builds a C library for the sake of one HMAC.

use std::time::SystemTime;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{ACCESS_TTL, Role};
use crate::time::unix_seconds;

/// RFC 7518, 3.2: a key of the same size as the hash output or larger.
pub const KEY_MIN: usize = 32;
/// Clocks of one machine agree; a second covers rounding. **Unit**: seconds.
const LEEWAY: u64 = 1;
const KIND: &str = "access";

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it: the service's name.
    pub iss: String,
    /// User id as text, as RFC 7519 wants it.
    pub sub: String,
    /// User name at sign-in.
    pub name: String,
    /// Role at sign-in; rights are decided by the session's present role.
    pub role: Role,
    /// Session.
    pub sid: String,
    /// Made at. **Unit**: seconds since 1970.
    pub iat: u64,
    /// Valid before. **Unit**: seconds since 1970.
    pub exp: u64,
    /// `access`, so that no other token of ours is taken for one.
    pub kind: String,
}

/// Makes and checks access tokens.
#[derive(Clone)]
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    csrf: Vec<u8>,
    issuer: String,
}

/// A key that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing key has {0} bytes, at least {KEY_MIN} are needed")]
pub struct ShortKey(usize);

impl Tokens {
    /// **Errors**: a key below [`KEY_MIN`] bytes.
    pub fn new(issuer: &str, key: &[u8]) -> Result<Self, ShortKey> {
        if key.len() < KEY_MIN {
            return Err(ShortKey(key.len()));
        }
        // Fails only when one is installed already: ours, from an earlier call.
        let _ = PROVIDER.install_default();
        Ok(Self {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            csrf: key.to_vec(),
            issuer: issuer.to_owned(),
        })
    }

    /// A token for a session, valid for [`ACCESS_TTL`] from `now`. `None` if it cannot be encoded.
    #[must_use]
    pub fn issue(&self, now: SystemTime, user_id: i64, username: &str, role: Role, session_id: &str) -> Option<String> {
        let iat = unix_seconds(now);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: user_id.to_string(),
            name: username.to_owned(),
            role,
            sid: session_id.to_owned(),
            iat,
            exp: iat + ACCESS_TTL.as_secs(),
            kind: KIND.to_owned(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).ok()
    }

    /// What a request of this browser session must carry when it may change something: bound to the
    /// session, and known to nobody who has not been told it by us.
    #[must_use]
    pub fn csrf(&self, session_id: &str) -> String {
        let mac = Hs256(self.csrf.clone()).mac(format!("csrf:{}:{session_id}", self.issuer).as_bytes());
        // HMAC takes keys of every length, so there always is one.
        mac.map(|mac| crate::random::hex(&mac.finalize().into_bytes())).unwrap_or_default()
    }

    /// The claims of a token that is ours and in time.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        (claims.kind == KIND).then_some(claims)
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(key.as_bytes().to_vec()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(key.try_get_as_bytes()?.to_vec()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    key_utils: KeyUtils::new_unimplemented(), // only for JWK, which we neither read nor write
};

struct Hs256(Vec<u8>);

impl Hs256 {
    fn mac(&self, message: &[u8]) -> Result<Hmac<Sha256>, SignatureError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|_| SignatureError::new())?;
        mac.update(message);
        Ok(mac)
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(self.mac(message)?.finalize().into_bytes().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        // Compares in constant time and refuses shortened tags.
        self.mac(message)?.verify_slice(signature).map_err(|_| SignatureError::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn tokens() -> Tokens {
        Tokens::new("users", &KEY).unwrap()
    }

    fn issue(tokens: &Tokens, now: SystemTime) -> String {
        tokens.issue(now, 17, "ada", Role::Editor, "s1").unwrap()
    }

    fn signed(header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let tag = Hs256(KEY.to_vec()).try_sign(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// RFC 4231, test case 2.
    #[test]
    fn computes_the_published_mac() {
        let tag = Hs256(b"Jefe".to_vec()).try_sign(b"what do ya want for nothing?").unwrap();
        let wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(crate::random::hex(&tag), wanted);
    }

    /// RFC 7515, appendix A.1: a token made by others.
    #[test]
    fn checks_the_published_signature() {
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let tag = URL_SAFE_NO_PAD.decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert!(Hs256(key).verify(message.as_bytes(), &tag).is_ok());
    }

    #[test]
    fn accepts_its_own_tokens_for_an_hour() {
        let tokens = tokens();
        let now = SystemTime::now();
        let claims = tokens.verify(&issue(&tokens, now)).unwrap();
        assert_eq!((claims.sub.as_str(), claims.role, claims.sid.as_str()), ("17", Role::Editor, "s1"));
        assert_eq!(claims.exp - claims.iat, 3_600);
        assert!(tokens.verify(&issue(&tokens, now - Duration::from_secs(3_610))).is_none());
    }

    #[test]
    fn refuses_other_keys_issuers_and_changed_texts() {
        let token = issue(&tokens(), SystemTime::now());
        assert!(Tokens::new("users", &[8; 32]).unwrap().verify(&token).is_none());
        assert!(Tokens::new("orders", &KEY).unwrap().verify(&token).is_none());
        let (message, tag) = token.rsplit_once('.').unwrap();
        assert!(tokens().verify(&format!("{message}.{}", &tag[..20])).is_none());
        assert!(tokens().verify(&format!("{message}.")).is_none());
        assert!(tokens().verify(&format!("{message}x.{tag}")).is_none());
        assert!(tokens().verify("").is_none());
    }

    #[test]
    fn refuses_other_algorithms_and_other_kinds() {
        let exp = unix_seconds(SystemTime::now()) + 60;
        let claims = |kind: &str| {
            format!(
                r#"{{"iss":"users","sub":"1","name":"a","role":"admin","sid":"s","iat":1,"exp":{exp},"kind":"{kind}"}}"#
            )
        };
        let good = r#"{"alg":"HS256","typ":"JWT"}"#;
        assert!(
            tokens().verify(&signed(good, &claims("access"))).is_some(),
            "the forged ones must differ in one thing"
        );
        assert!(tokens().verify(&signed(good, &claims("refresh"))).is_none());
        for algorithm in ["none", "HS384", "RS256", "EdDSA"] {
            let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#);
            assert!(tokens().verify(&signed(&header, &claims("access"))).is_none(), "{algorithm}");
        }
        let none =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims("access")));
        assert!(tokens().verify(&none).is_none());
    }

    #[test]
    fn the_csrf_value_belongs_to_one_session_and_key() {
        let value = tokens().csrf("s1");
        assert_eq!(value.len(), 64);
        assert_ne!(value, tokens().csrf("s2"));
        assert_ne!(value, Tokens::new("users", &[8; 32]).unwrap().csrf("s1"));
    }

    #[test]
    fn wants_a_key_as_long_as_the_hash() {
        assert_eq!(Tokens::new("users", &[1; 31]).err(), Some(ShortKey(31)));
    }
}
