//! Which values are secret: rather one too many, which is generated anew, than one that is written down.

use super::address::Address;
use super::name::{is_option, is_secret, may_hold};

/// Whether a value is written out: neither empty, nor a switch, nor a variable and nothing else. What stands behind an
/// option may be the next one: [`is_next`].
pub(super) fn is_value(value: &str) -> bool {
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let inner = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).or_else(|| value.strip_prefix('$'));
    let is_switch = ["true", "false", "yes", "no", "on", "off", "0", "1", "null", "none"];
    let is_switch = is_switch.iter().any(|word| value.eq_ignore_ascii_case(word));
    !value.is_empty() && !is_switch && !inner.is_some_and(is_name)
}

/// Whether the word behind an option is a value of it, and not the next option.
pub(super) fn is_next(word: &str) -> bool {
    is_value(word) && !word.starts_with('-')
}

/// Whether a value has the form of what a program draws at random: a long hexadecimal number, or letters of both kinds
/// with digits, without a word between them. What is named as a revision or a checksum has that form, too.
pub(super) fn is_random(name: &str, value: &str) -> bool {
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let harmless = ["COMMIT", "SHA", "REV", "REVISION", "DIGEST", "CHECKSUM", "VERSION", "ID", "UUID", "BUILD", "TAG"];
    let is_harmless = upper.split('_').any(|part| harmless.contains(&part));
    let count = |is_it: fn(&u8) -> bool| value.bytes().filter(is_it).count();
    let (digits, small, large) =
        (count(u8::is_ascii_digit), count(u8::is_ascii_lowercase), count(u8::is_ascii_uppercase));
    let is_hexadecimal = value.len() >= 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) && digits >= 4;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'=' | b'_' | b'-' | b'/');
    let is_mixed = value.len() >= 24 && digits >= 3 && small >= 3 && large >= 3 && value.bytes().all(is_letter);
    let is_place = value.starts_with(['/', '-']);
    (is_hexadecimal || is_mixed && !is_place) && !is_harmless
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
const CLIENTS: [&str; 10] = [
    "mysql",
    "mysqldump",
    "mysqladmin",
    "mariadb",
    "mariadb-dump",
    "psql",
    "redis-cli",
    "mongosh",
    "mongodump",
    "sshpass",
];
/// Programs whose `-u` is a user's name and password, and `-b` a cookie.
const FETCHERS: [&str; 2] = ["curl", "curlie"];

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
    let is_written = |word: Option<&&str>| word.is_some_and(|word| is_next(word) && !word.starts_with('$'));
    let is_scheme = |word: &str| ["bearer", "basic", "token"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
    words.iter().enumerate().any(|(at, word)| {
        if let Some(name) = word.strip_suffix(':') {
            let is_login = ["authorization", "proxy-authorization", "x-auth", "cookie"]
                .contains(&name.to_ascii_lowercase().as_str());
            let behind = at + 1 + usize::from(words.get(at + 1).is_some_and(|word| is_scheme(word)));
            let value = words.get(behind);
            return (is_login || value.is_some_and(|value| is_secret(name, value))) && is_written(value);
        }
        // `basic` is a word like any other, but where a value begins with it.
        let is_begun = at == 0 && matches!(*word, "Basic" | "basic");
        (is_begun || matches!(*word, "Bearer" | "bearer")) && is_written(words.get(at + 1))
    })
}

/// Addresses with a password, or with somebody who needs none.
fn has_user(text: &str) -> bool {
    let is_bare = |word: &str| Address::of(word).is_some_and(|address| address.is_bare() && address.has_password());
    let mut words = text.split(|letter| is_end(letter) || matches!(letter, ',' | '`'));
    words.any(|word| is_bare(word) || word.split_once('=').is_some_and(|(_, value)| is_bare(value)))
        || has_user_of_scheme(text)
}

fn has_user_of_scheme(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let authority = rest.split(|letter| is_end(letter) || matches!(letter, '/' | '?')).next().unwrap_or_default();
        let who = authority.rsplit_once('@').map(|(who, _)| who.split_once(':').map_or(who, |(_, password)| password));
        who.is_some_and(is_value)
    })
}

/// What short options of a command mean.
#[derive(Clone, Copy, Default)]
pub(super) struct Kind {
    /// `-p` is a password.
    is_client: bool,
    /// `-u` is a name and a password, `-b` a cookie.
    is_fetcher: bool,
}

impl Kind {
    pub(super) fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut kind = Self::default();
        for word in words {
            let program = word.rsplit('/').next().unwrap_or(word);
            kind.is_client |= CLIENTS.contains(&program);
            kind.is_fetcher |= FETCHERS.contains(&program);
        }
        kind
    }

    /// The short option that a word begins with, when its value follows without a space: `-phunter2`.
    pub(super) fn glued(self, word: &str) -> Option<&'static str> {
        let is_glued = |option: &str| word.starts_with(option) && word.len() > option.len();
        let option = (self.is_client && is_glued("-p")).then_some("-p");
        let fetched = || ["-u", "-b"].into_iter().filter(|_| self.is_fetcher).find(|&option| is_glued(option));
        option.or_else(fetched)
    }
}

/// `NAME:PASSWORD`.
fn is_pair(text: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let pair = text.split_once(':');
    pair.is_some_and(|(name, password)| {
        let is_place = password.starts_with("//") || is_number(password);
        is_value(password) && !is_place && !password.starts_with('$') && name != password
    })
}

/// Whether a variable of that name holds `NAME:PASSWORD`, and this does.
pub(super) fn is_login(name: &str, value: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    ["AUTH", "USERPWD", "USER_PASS", "USERPASS"].iter().any(|end| upper.ends_with(end)) && is_pair(value)
}

/// Whether an option's value is secret: by its form, or because it is a user's name and password.
pub(super) fn is_of_option(option: &str, value: &str, kind: Kind) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let bare = option.trim_start_matches('-').replace('_', "-");
    // A header is more than its value.
    if !option.starts_with('-') || !is_value(value) || matches!(bare.as_str(), "H" | "header") {
        return false;
    }
    match bare.as_str() {
        "p" | "a" if kind.is_client => !is_number(value),
        "u" if kind.is_fetcher => is_pair(value),
        // Without a name it is the file that holds cookies.
        "b" if kind.is_fetcher => value.contains('='),
        "auth" | "basic-auth" | "credentials" | "user" | "proxy-user" | "userpwd" if is_pair(value) => true,
        "key" | "auth" | "license" | "licence" | "license-key" | "dsn" => {
            let is_long =
                value.len() >= 8 && !value.contains(['/', '\\']) && value.bytes().any(|byte| byte.is_ascii_digit());
            is_long || is_told_by_value(value) || may_hold(option, value)
        }
        _ => is_told_by_value(value) || is_random(option, value) || may_hold(option, value),
    }
}

/// Whether a text still shows something secret, however it is written: the last look before anything is said.
pub(super) fn shows(text: &str) -> bool {
    is_told_by_value(text) || has_pair(text) || has_member(text) || text.split(['|', '&', ';', '\n']).any(has_option)
}

/// Whether a name inside a value or a command holds something secret: of a driver's, of Java's, of a query's.
fn is_secret_inside(name: &str, value: &str) -> bool {
    is_secret(name, value) || ["pass", "pwd"].iter().any(|word| name.eq_ignore_ascii_case(word))
}

fn is_written(value: &str) -> bool {
    is_value(value) && !value.starts_with(['$', '%'])
}

/// `/NAME:VALUE`, as programs from Windows have it.
fn slashed(word: &str) -> Option<(&str, &str)> {
    word.strip_prefix('/')?.split_once(':').filter(|(name, _)| !name.contains('/'))
}

/// `NAME=VALUE`, as in `-Dapp.password=X`, `?token=X`, `Host=db;Password=X`.
fn has_pair(text: &str) -> bool {
    let is_of_value = |letter: char| is_end(letter) || matches!(letter, ',' | '?' | '#');
    text.split(is_of_value).filter_map(|word| word.split_once('=').or_else(|| slashed(word))).any(|(name, value)| {
        let name = name.trim().trim_start_matches('-');
        let is_path = name.eq_ignore_ascii_case("pwd") && value.starts_with('/');
        !name.is_empty() && is_secret_inside(name, value) && is_written(value) && !is_path
    })
}

/// `"NAME": "VALUE"`, as JSON has it.
fn has_member(text: &str) -> bool {
    let bare = |word: &str| word.trim_matches(['\\', '{', '}', '[', ']', ',']).to_owned();
    let words: Vec<String> =
        text.split(is_end).flat_map(str::split_whitespace).map(bare).filter(|word| !word.is_empty()).collect();
    words.windows(2).enumerate().any(|(at, pair)| {
        let value = match pair[1].strip_prefix(':') {
            Some("") => words.get(at + 2).map(String::as_str),
            value => value,
        };
        value.is_some_and(|value| is_secret_inside(&pair[0], value) && is_written(value))
    })
}

/// `--password X`, `-u NAME:X`, in a command that nobody could read as one.
fn has_option(command: &str) -> bool {
    let words: Vec<&str> =
        command.split(|letter| is_end(letter) || matches!(letter, '(' | '`')).filter(|word| !word.is_empty()).collect();
    let kind = Kind::of(words.iter().copied());
    let is_it = |name: &str, value: &str| {
        let is_name = !name.contains(['$', '=']);
        is_name && is_written(value) && (is_option(name, value) || is_of_option(name, value, kind))
    };
    let is_pair = |word: &&str| {
        let pair = word.split_once('=').or_else(|| kind.glued(word).map(|option| (option, &word[option.len()..])));
        pair.is_some_and(|(name, value)| is_it(name, value))
    };
    words.iter().any(is_pair) || words.windows(2).any(|pair| is_next(pair[1]) && is_it(pair[0], pair[1]))
}
