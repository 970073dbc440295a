//! Whether a token (JWT) is good now, what its user may, and when an issuer's keys are fetched.
//!
//! Sees neither bytes nor keys: the edge has taken the token apart, and asks here before and after it has checked the
//! signature. **Source**: RFC 7519, section 4.1; RFC 7515, section 4.1; RFC 8725; RFC 6750, section 3.1.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mainstay_stack::identity::{Algorithm, Issuer, Roles};
use mainstay_types::Timestamp;

/// Shortest time between two fetches that unknown keys ask for: whoever makes up names of keys must not make us a
/// nuisance to the issuer.
pub const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(30);
/// Pause after a first failed fetch; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause: after an outage of the issuer its new keys are here in so long.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What a token says of itself, before anything is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: String,
    /// `kid`.
    pub key: Option<String>,
    /// `typ`.
    pub typ: Option<String>,
    /// Whether there is a `crit`: something that must be understood, and nothing is.
    pub is_critical: bool,
}

/// What a token says of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`, of which there may be several; `None`: there is no such claim.
    pub audience: Option<Vec<String>>,
    /// `exp`.
    pub expires: Option<Timestamp>,
    /// `nbf`.
    pub not_before: Option<Timestamp>,
    /// Of the claim that the stack file names.
    pub roles: Vec<String>,
}

/// Why a token is refused. None of these says what was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// There is none.
    Missing,
    /// There is more than one `Authorization`, so that it is not clear which one counts.
    Several,
    /// Longer than any token is taken apart.
    TooLong,
    /// Not of the form of a signed token.
    Malformed,
    /// A name is there twice, so that two readers may read two things.
    Twice,
    /// Signed otherwise than the issuer signs.
    Algorithm,
    /// It asks for something to be understood.
    Critical,
    /// Another kind of token.
    Type,
    /// The issuer has no such key.
    Key,
    /// The signature is not the key's.
    Signature,
    /// It ends never, or at no time.
    NoEnd,
    /// It is over.
    Expired,
    /// It has not begun.
    Early,
    /// Of another issuer.
    Issuer,
    /// For somebody else.
    Audience,
    /// It names nobody, or somebody whose name no header holds.
    Subject,
    /// More roles than a header holds.
    Roles,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Missing,
        Self::Several,
        Self::TooLong,
        Self::Malformed,
        Self::Twice,
        Self::Algorithm,
        Self::Critical,
        Self::Type,
        Self::Key,
        Self::Signature,
        Self::NoEnd,
        Self::Expired,
        Self::Early,
        Self::Issuer,
        Self::Audience,
        Self::Subject,
        Self::Roles,
    ];

    /// For people; also the `error_description` of RFC 6750, so without quotes and backslashes.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "a bearer token is needed",
            Self::Several => "there is more than one Authorization",
            Self::TooLong => "token is longer than 8 KiB",
            Self::Malformed => "token is not of the form of a signed JWT",
            Self::Twice => "token has a name twice",
            Self::Algorithm => "token is not signed with the issuer's algorithm",
            Self::Critical => "token has critical headers, none of which is understood",
            Self::Type => "token is of another type",
            Self::Key => "issuer has no such key",
            Self::Signature => "signature of the token is wrong",
            Self::NoEnd => "token has no exp",
            Self::Expired => "token is expired",
            Self::Early => "token is not valid yet",
            Self::Issuer => "token is of another issuer",
            Self::Audience => "token is for another audience",
            Self::Subject => "token has no sub of 1 to 256 visible ASCII characters",
            Self::Roles => "token has too many roles",
        }
    }

    /// The error of RFC 6750, section 3.1; `None` when nothing was tried.
    pub fn error(self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            Self::Several => Some("invalid_request"),
            _ => Some("invalid_token"),
        }
    }

    /// The status of the answer.
    pub fn status(self) -> u16 {
        if self == Self::Several { 400 } else { 401 }
    }
}

/// Whether a token may be of this issuer, before its signature is looked at.
///
/// **Errors**: the first fault.
pub fn check_header(header: &Header, rule: &Issuer) -> Result<(), Fault> {
    // As it is written: `none` and `None` are no algorithm of ours, and what is nearly one is none.
    if header.algorithm != rule.algorithm.text() {
        return Err(Fault::Algorithm);
    }
    if header.is_critical {
        return Err(Fault::Critical);
    }
    // RFC 7515, section 4.1.9: `application/` may be left out, case does not count.
    let short = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
    };
    match &rule.typ {
        Some(wanted) if header.typ.as_deref().map(short) != Some(short(wanted)) => Err(Fault::Type),
        Some(_) | None => Ok(()),
    }
}

/// Whether a token with a good signature counts now.
///
/// **Errors**: the first fault.
pub fn check_claims(claims: &Claims, rule: &Issuer, now: Timestamp) -> Result<(), Fault> {
    let Some(expires) = claims.expires else { return Err(Fault::NoEnd) };
    if now >= expires.after(rule.leeway) {
        return Err(Fault::Expired);
    }
    if claims.not_before.is_some_and(|begin| now.after(rule.leeway) < begin) {
        return Err(Fault::Early);
    }
    if rule.issuer.is_some() && rule.issuer != claims.issuer {
        return Err(Fault::Issuer);
    }
    // RFC 7519, section 4.1.3: who is not named in an audience that there is must refuse.
    let is_ours = match &claims.audience {
        None => rule.audience.is_empty(),
        Some(of) => of.iter().any(|one| rule.audience.contains(one)),
    };
    if !is_ours {
        return Err(Fault::Audience);
    }
    let is_name = |name: &str| (1..=256).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if claims.subject.as_deref().is_some_and(is_name) { Ok(()) } else { Err(Fault::Subject) }
}

/// Whether who has these roles may ask with this method.
pub fn permits(roles: &Roles, method: &str, held: &[String]) -> bool {
    roles.needed(method).is_some_and(|needed| needed.is_empty() || held.iter().any(|role| needed.contains(role)))
}

/// Whether an address is one of the internet, and not of this machine or of a network behind it, where whoever names an
/// address makes us ask what he cannot reach himself. **Source**: IANA's special-purpose address registries (RFC 6890).
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let segments = address.segments();
            // 64:ff9b::/96 and 2002::/16 lead to addresses of the older kind.
            let [high, low] = match segments {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => [high, low],
                // 2000::/3 without 2001::/23 (of protocols) and 2001:db8::/32 (of examples) is the internet.
                [0x2001, 0..0x200 | 0xdb8, ..] => return false,
                [0x2000..0x4000, ..] => return true,
                _ => return false,
            };
            is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127 | 224..=255, ..]
            | [100, 64..128, ..]
            | [169, 254, ..]
            | [172, 16..32, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

/// What a key is said to be for, where that is said. **Source**: RFC 7517, section 4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// `kid`.
    pub id: Option<String>,
    /// `alg`.
    pub algorithm: Option<String>,
    /// `use`.
    pub purpose: Option<String>,
    /// `key_ops`.
    pub operations: Option<Vec<String>>,
}

impl KeyUse {
    /// Whether the key may check signatures of this kind at all.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.algorithm.as_deref().is_none_or(|named| named == algorithm.text())
            && self.operations.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"))
    }

    /// Whether a token that names this key, or none, may be signed with it.
    pub fn answers_to(&self, key: Option<&str>) -> bool {
        match (self.id.as_deref(), key) {
            (Some(id), Some(key)) => id == key,
            // A key without a name is all there is to choose by; a token without one is tried.
            (None, _) | (_, None) => true,
        }
    }
}

/// When the keys of one issuer are fetched. Keys that are there stay while fetching fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    max_age: Duration,
    good_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
    /// Fetches in a row that failed.
    pub failures: u32,
    is_wanted: bool,
}

impl Refresh {
    /// Nothing is there yet.
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, good_at: None, tried_at: None, failures: 0, is_wanted: false }
    }

    /// When the next fetch is due.
    pub fn due(&self, now: Timestamp) -> Timestamp {
        let Some(tried) = self.tried_at else { return now };
        if self.failures > 0 {
            let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures - 1)).min(LONGEST_PAUSE);
            return tried.after(pause);
        }
        if self.is_wanted { now } else { tried.after(self.max_age) }
    }

    /// A token names a key that is not there. Whether a fetch comes of it that is worth waiting for: not when the one
    /// before failed.
    pub fn want(&mut self, now: Timestamp) -> bool {
        self.is_wanted |= self.tried_at.is_none_or(|tried| now >= tried.after(UNKNOWN_KEY_PAUSE));
        self.is_wanted && self.failures == 0
    }

    /// A fetch has ended.
    pub fn tried(&mut self, now: Timestamp, is_good: bool) {
        (self.tried_at, self.is_wanted) = (Some(now), false);
        if is_good {
            (self.good_at, self.failures) = (Some(now), 0);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// How old the keys are.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.good_at.map(|good| now.saturating_since(good))
    }
}

#[cfg(test)]
mod tests;
