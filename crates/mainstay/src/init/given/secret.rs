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
    // `-p` and its like say nothing.
    let text = if text.len() == 1 { "APP_PASSWORD".to_owned() } else { text };
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

/// How keys begin that others give out, and how many letters are behind it at least.
const KEYS: [(&str, usize); 20] = [
    ("sk_live_", 1),
    ("sk_test_", 1),
    ("rk_live_", 1),
    ("rk_test_", 1),
    ("whsec_", 1),
    ("AKIA", 8),
    ("ASIA", 8),
    ("AIza", 4),
    ("ghp_", 1),
    ("gho_", 1),
    ("ghs_", 1),
    ("github_pat_", 1),
    ("glpat-", 1),
    ("xoxa-", 1),
    ("xoxb-", 1),
    ("xoxp-", 1),
    ("xoxr-", 1),
    ("xoxs-", 1),
    ("SG.", 8),
    // A JSON object in base64: a JWT.
    ("eyJ", 8),
];
/// Addresses that let everybody in who knows them.
const HOOKS: [&str; 4] =
    ["hooks.slack.com/", "discord.com/api/webhooks", "discordapp.com/api/webhooks", "webhook.office.com"];
/// Programs whose `-p` or `-a` is a password, unless it is a number: then it is a port.
const CLIENTS: [&str; 9] =
    ["mysql", "mysqldump", "mysqladmin", "mariadb", "mariadb-dump", "psql", "redis-cli", "mongosh", "mongodump"];

/// Where a word ends, in a shell's line as in a value.
fn is_end(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '"' | '\'' | ';' | '|' | '&' | '<' | '>' | ')')
}

/// Whether a value is secret by its form, whatever its name is.
pub(super) fn is_told_by_value(value: &str) -> bool {
    has_key(value) || logs_in(value) || has_user(value)
}

fn has_key(text: &str) -> bool {
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let mut words = text.split(|letter| !is_of_word(letter));
    let is_key = |word: &str| {
        KEYS.iter().any(|(begin, least)| word.strip_prefix(begin).is_some_and(|rest| rest.len() >= *least))
    };
    text.contains("-----BEGIN") || HOOKS.iter().any(|hook| text.contains(hook)) || words.any(is_key)
}

/// `Bearer X`, `Basic X`, and headers that are named as something secret is.
fn logs_in(text: &str) -> bool {
    let words: Vec<&str> = text.split(is_end).filter(|word| !word.is_empty()).collect();
    let is_written = |word: Option<&&str>| word.is_some_and(|word| is_value(word) && !word.starts_with('$'));
    let is_scheme = |word: &str| ["bearer", "basic", "token"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
    words.iter().enumerate().any(|(at, word)| {
        if let Some(name) = word.strip_suffix(':') {
            let is_login =
                ["authorization", "proxy-authorization", "cookie"].contains(&name.to_ascii_lowercase().as_str());
            let behind = at + 1 + usize::from(words.get(at + 1).is_some_and(|word| is_scheme(word)));
            return (is_login || is_secret(name)) && is_written(words.get(behind));
        }
        // `basic` is a word like any other, but where a value begins with it.
        let is_begun = at == 0 && matches!(*word, "Basic" | "basic");
        (is_begun || matches!(*word, "Bearer" | "bearer")) && is_written(words.get(at + 1))
    })
}

/// Addresses with a password, or with somebody who needs none.
fn has_user(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let authority = rest.split(|letter| is_end(letter) || matches!(letter, '/' | '?')).next().unwrap_or_default();
        let who = authority.rsplit_once('@').map(|(who, _)| who.split_once(':').map_or(who, |(_, password)| password));
        who.is_some_and(is_value)
    })
}

/// Whether a program of these takes its password in short options.
pub(super) fn is_client(program: &str) -> bool {
    CLIENTS.contains(&program.rsplit('/').next().unwrap_or(program))
}

/// Whether an option's value is secret: by its form, or because it is a user's name and password.
pub(super) fn is_of_option(option: &str, value: &str, is_of_client: bool) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let bare = option.trim_start_matches('-');
    // A header is more than its value.
    if !option.starts_with('-') || !is_value(value) || matches!(bare, "H" | "header") {
        return false;
    }
    let pair = value.split_once(':').filter(|(_, password)| is_value(password) && !is_number(password));
    match bare {
        "p" | "a" if is_of_client => !is_number(value),
        "auth" | "basic-auth" | "credentials" if pair.is_some() => true,
        "key" | "auth" | "license" | "licence" | "license-key" | "dsn" => {
            let is_long =
                value.len() >= 8 && !value.contains(['/', '\\']) && value.bytes().any(|byte| byte.is_ascii_digit());
            is_long || is_told_by_value(value)
        }
        _ => is_told_by_value(value),
    }
}

/// Whether a text still shows something secret, however it is written: the last look before anything is said.
pub(super) fn shows(text: &str) -> bool {
    let words = text.split(is_end).filter_map(|word| word.split_once('='));
    is_told_by_value(text)
        || words.into_iter().any(|(name, value)| {
            let name = name.rsplit(['?', '&']).next().unwrap_or(name).trim_start_matches('-');
            !name.is_empty() && is_secret(name) && is_value(value) && !value.starts_with('$')
        })
}
