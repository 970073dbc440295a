//! Which names and values are secret: rather one too many, which is generated anew, than one that is written down.

/// Whether this can be the name of a variable that a stack file sets.
pub(crate) fn is_variable(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.len() <= 64 && name.bytes().all(is_word) && name.starts_with(|first: char| !first.is_ascii_digit())
}

/// Whether a variable of that name holds something secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let about = [
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
        "PUBLIC_KEY",
        "PUBLISHABLE_KEY",
    ];
    if about.iter().any(|end| upper.ends_with(end)) {
        return false;
    }
    let words = [
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "TOKEN",
        "CREDENTIAL",
        "APIKEY",
        "API_KEY",
        "PRIVATE_KEY",
        "ACCESS_KEY",
    ];
    words.iter().any(|word| upper.contains(word))
        || upper.ends_with("_KEY")
        || upper.ends_with("_PWD")
        || upper.ends_with("_PASS")
        || upper.ends_with("_SALT")
}

/// `--password`, `--secret-key`; the file of a key is none.
pub(super) fn is_option(name: &str) -> bool {
    let bare = name.trim_start_matches('-');
    name.starts_with('-') && bare.len() > 3 && !bare.eq_ignore_ascii_case("pass-env") && is_secret(bare)
        || matches!(bare, "requirepass" | "masterauth")
}

/// The variable for an option's value: `--secret-key` is `SECRET_KEY`.
pub(super) fn variable_of(name: &str) -> String {
    let bare = name.trim_start_matches('-');
    let upper = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let text: String = bare.chars().map(upper).collect();
    let text = text.trim_matches('_').chars().take(48).collect::<String>();
    let is_odd = text.is_empty() || text.starts_with(|first: char| first.is_ascii_digit());
    // What begins so is the stack's own.
    let is_ours = ["MAINSTAY", "DATABASE", "REDIS"].iter().any(|ours| text.starts_with(ours));
    if is_odd || is_ours { format!("APP_{text}") } else { text }
}

/// Whether a value is written out: neither empty, nor a switch, nor a variable and nothing else.
pub(super) fn is_value(value: &str) -> bool {
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let inner = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).or_else(|| value.strip_prefix('$'));
    let is_switch = ["true", "false", "yes", "no", "on", "off", "0", "1", "null", "none"];
    let is_switch = is_switch.iter().any(|word| value.eq_ignore_ascii_case(word));
    !value.is_empty() && !is_switch && !value.starts_with('-') && !inner.is_some_and(is_name)
}

/// Whether a text still shows something secret, however it is written: the last look before anything is said.
pub(super) fn shows(text: &str) -> bool {
    let is_end =
        |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | ';' | '|' | '&' | '<' | '>' | ')');
    let addresses = text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let authority = rest.split(|letter| is_end(letter) || matches!(letter, '/' | '?')).next().unwrap_or_default();
        let credentials = authority.rsplit_once('@').and_then(|(who, _)| who.split_once(':'));
        credentials.is_some_and(|(_, password)| is_value(password))
    });
    let words = text.split(is_end).filter_map(|word| word.split_once('='));
    addresses
        || words.into_iter().any(|(name, value)| {
            let name = name.rsplit(['?', '&']).next().unwrap_or(name).trim_start_matches('-');
            !name.is_empty() && is_secret(name) && is_value(value) && !value.starts_with('$')
        })
}
