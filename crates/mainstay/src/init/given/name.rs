//! Which names are those of something secret, by what people call such things.

/// Whether this can be the name of a variable that a stack file sets.
pub(crate) fn is_variable(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.len() <= 64 && name.bytes().all(is_word) && name.starts_with(|first: char| !first.is_ascii_digit())
}

/// How names end of what is only about something secret.
const ABOUT: [&str; 31] = [
    "_FILE",
    "_PATH",
    "_DIR",
    "_TTL",
    "_SECONDS",
    "_MINUTES",
    "_DAYS",
    "_EXPIRY",
    "_EXPIRES",
    "_EXPIRES_IN",
    "_EXPIRATION",
    "_LIFETIME",
    "_AGE",
    "_NAME",
    "_HEADER",
    "_ALGORITHM",
    "_LENGTH",
    "_ROUNDS",
    "_COST",
    "_ID",
    "_COUNT",
    "_LIMIT",
    "_SIZE",
    "_MAX",
    "_MIN",
    "_PREFIX",
    "_TYPE",
    "_URL",
    "_URI",
    "_ENABLED",
    "_REQUIRED",
];
/// Words of names whose value is always secret.
const WORDS: [&str; 18] = [
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASSCODE",
    "PASSKEY",
    "TOKEN",
    "BEARER",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "PRIVATE_KEY",
    "PRIVATEKEY",
    "ACCESS_KEY",
    "ACCESSKEY",
    "PEPPER",
    "MNEMONIC",
    "SIGNINGKEY",
];
/// How names end whose value is always secret.
const ENDS: [&str; 6] = ["_KEY", "_KEYS", "_PWD", "_PASS", "_SALT", "_PIN"];
/// Words of names whose value is secret, unless it is a word that everybody knows.
const PERHAPS: [&str; 7] = ["HMAC", "ENCRYPT", "LICENSE", "LICENCE", "COOKIE", "SIGNING", "SIGNATURE"];
/// The same, where they stand alone or between `_`: in longer words they mean something else.
const PERHAPS_WHOLE: [&str; 9] = ["SALT", "SALTS", "PIN", "OTP", "TOTP", "PSK", "JWT", "CSRF", "SEED"];
/// How names of [`PERHAPS`] end that are only about it.
const PERHAPS_ABOUT: [&str; 22] = [
    "_DOMAIN",
    "_SAMESITE",
    "_SAME_SITE",
    "_SECURE",
    "_HTTPONLY",
    "_HTTP_ONLY",
    "_ALG",
    "_ALGO",
    "_MODE",
    "_METHOD",
    "_PROVIDER",
    "_BACKEND",
    "_DRIVER",
    "_VERSION",
    "_HOST",
    "_PORT",
    "_ISSUER",
    "_AUDIENCE",
    "_ACCEPTED",
    "_FORMAT",
    "_SERVER",
    "_ENDPOINT",
];
/// Values that everybody knows: of a mail server's `ENCRYPTION`, a `COOKIE`, a `LICENSE`.
const KNOWN: [&str; 24] = [
    "tls",
    "ssl",
    "starttls",
    "smtps",
    "lax",
    "strict",
    "mit",
    "isc",
    "mpl-2.0",
    "bsd",
    "trial",
    "community",
    "enterprise",
    "proprietary",
    "accept",
    "accepted",
    "auto",
    "default",
    "disabled",
    "enabled",
    "secure",
    "memory",
    "rsa",
    "ecdsa",
];
/// How the names of algorithms and licences begin.
const ALGORITHMS: [&str; 17] = [
    "sha1", "sha-", "sha2", "sha3", "sha5", "md5", "aes", "hs2", "hs3", "hs5", "rs2", "es2", "bcrypt", "argon2",
    "gpl-", "agpl-", "apache",
];

fn upper(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

/// Whether a variable of that name always holds something secret.
fn is_certain(upper: &str) -> bool {
    // The half of a login at a vault that is no name.
    if upper.ends_with("SECRET_ID") {
        return true;
    }
    let is_public = ["PUBLIC_KEY", "PUBLISHABLE_KEY"].iter().any(|end| upper.ends_with(end));
    if is_public || ABOUT.iter().any(|end| upper.ends_with(end)) {
        return false;
    }
    WORDS.iter().any(|word| upper.contains(word)) || ENDS.iter().any(|end| upper.ends_with(end))
}

/// Whether a variable of that name may hold something secret: the value says.
fn is_possible(upper: &str) -> bool {
    let is_about = ABOUT.iter().chain(&PERHAPS_ABOUT).any(|end| upper.ends_with(end));
    let is_whole = || upper.split('_').any(|part| PERHAPS_WHOLE.contains(&part));
    !is_about && (PERHAPS.iter().any(|word| upper.contains(word)) || is_whole())
}

/// A word that everybody knows, a small number or a time, a place without a password.
fn is_known(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let number = lower.trim_end_matches(['s', 'm', 'h', 'd']);
    let is_number = number.len() <= 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_place = lower.starts_with(['/', '.']) || lower.contains("://");
    is_number || is_place || KNOWN.contains(&lower.as_str()) || ALGORITHMS.iter().any(|begin| lower.starts_with(begin))
}

/// Last words of names whose value may be a key or a login, and as often is a file, a place or a way to log in.
const MAY_HOLD: [&str; 11] =
    ["AUTH", "AUTHORIZATION", "PEM", "PFX", "P12", "PKCS12", "JKS", "KEYSTORE", "CERT", "CERTIFICATE", "CREDS"];
/// The same, where nothing stands before them.
const MAY_HOLD_ALONE: [&str; 3] = ["KEY", "KEYS", "PASS"];
/// How something is written that is in the variable itself.
const WRITTEN_AS: [&str; 5] = ["_BASE64", "_B64", "_DATA", "_CONTENT", "_CONTENTS"];
/// Ways to log in, which are no login.
const WAYS: [&str; 28] = [
    "anonymous",
    "basic",
    "bearer",
    "cookie",
    "digest",
    "external",
    "forward",
    "github",
    "google",
    "header",
    "internal",
    "jwt",
    "kerberos",
    "ldap",
    "local",
    "login",
    "oauth",
    "oauth2",
    "oidc",
    "optional",
    "password",
    "plain",
    "required",
    "saml",
    "session",
    "token",
    "trust",
    "user",
];

/// A host, one with its port, or a file, with or without its folder.
fn is_place(value: &str) -> bool {
    let is_host = |text: &str| {
        let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let mut parts = text.split('.');
        parts.all(|part| !part.is_empty() && part.bytes().all(is_of_host))
    };
    let port = value.rsplit_once(':').filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let end = value.rsplit_once('.').map(|(_, end)| end).unwrap_or_default();
    let is_end =
        matches!(end, "p12" | "pkcs12") || !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_lowercase());
    port.is_some_and(|(host, _)| is_host(host)) || value.contains(['/', '\\']) || is_end && end.len() <= 8
}

/// Whether what stands under that name is probably something secret: of a name that also has harmless values.
pub(super) fn may_hold(name: &str, value: &str) -> bool {
    let upper = upper(name);
    let bare = WRITTEN_AS.iter().find_map(|end| upper.strip_suffix(*end)).unwrap_or(&upper);
    let last = bare.rsplit('_').next().unwrap_or(bare);
    let is_named = MAY_HOLD.contains(&last) || MAY_HOLD_ALONE.contains(&bare.trim_matches('_'));
    let is_way = WAYS.iter().any(|way| value.eq_ignore_ascii_case(way));
    is_named && !is_way && !is_known(value) && !is_place(value) && !value.contains("${")
}

/// Whether a variable of that name and value holds something secret.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    let upper = upper(name);
    is_certain(&upper) || is_possible(&upper) && !is_known(value)
}

/// `--password X`, `--secret-key X`; the file of a key is none.
pub(super) fn is_option(name: &str, value: &str) -> bool {
    let bare = name.trim_start_matches('-');
    let is_word = bare.len() > 3 || PERHAPS_WHOLE.contains(&upper(bare).as_str());
    name.starts_with('-') && is_word && !bare.eq_ignore_ascii_case("pass-env") && is_secret(bare, value)
        || matches!(bare, "requirepass" | "masterauth" | "pass" | "pwd")
}

/// The variable for an option's value: `--secret-key` is `SECRET_KEY`.
pub(super) fn variable_of(name: &str) -> String {
    let bare = name.trim_start_matches('-');
    let upper = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let text: String = bare.chars().map(upper).collect();
    let text = text.trim_matches('_').chars().take(48).collect::<String>();
    // `-p` and its like say nothing.
    let text = match text.as_str() {
        // Only curl's is asked for.
        "B" => "APP_COOKIE".to_owned(),
        _ if text.len() == 1 => "APP_PASSWORD".to_owned(),
        _ => text,
    };
    let is_odd = text.is_empty() || text.starts_with(|first: char| first.is_ascii_digit());
    // What begins so is the stack's own.
    let is_ours = ["MAINSTAY", "DATABASE", "REDIS"].iter().any(|ours| text.starts_with(ours));
    // Every process has these, and they mean something else.
    let is_ours = is_ours || matches!(text.as_str(), "USER" | "PASS" | "PWD");
    if is_odd || is_ours { format!("APP_{text}") } else { text }
}
