//! Addresses: of a database and a cache that the stack has itself, and of others, whose passwords are not copied.

use super::{name, secret};

/// `SCHEME://USER:PASSWORD@HOST/PATH?QUERY`, or `USER:PASSWORD@HOST/PATH` as some drivers have it.
pub(super) struct Address<'a> {
    whole: &'a str,
    /// `jdbc:` or `r2dbc:`, which say user and password elsewhere.
    kind: &'static str,
    /// It has no scheme; `scheme` is what it is for.
    is_bare: bool,
    scheme: &'a str,
    /// What stands behind the host: path and query.
    behind: &'a str,
    credentials: Option<&'a str>,
    rest: &'a str,
}

impl<'a> Address<'a> {
    pub(super) fn of(text: &'a str) -> Option<Self> {
        if !text.contains("://") {
            return Self::bare(text);
        }
        let kind = ["jdbc:", "r2dbc:"].into_iter().find(|kind| text.starts_with(kind)).unwrap_or_default();
        let plain = &text[kind.len()..];
        let (scheme, rest) = plain.split_once("://")?;
        let is_scheme = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return None;
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may hold a slash that nobody has written otherwise.
        let end = rest
            .rfind('@')
            .filter(|at| *at > end && rest[..*at].contains(':'))
            .map_or(end, |at| at + rest[at..].find(['/', '?', '#']).unwrap_or(rest.len() - at));
        let (authority, behind) = rest.split_at(end);
        let credentials = authority.rsplit_once('@').map(|(credentials, _)| credentials);
        Some(Self { whole: text, kind, is_bare: false, scheme, behind, credentials, rest })
    }

    /// `USER:PASSWORD@tcp(HOST:PORT)/NAME`, as Go's driver of MySQL has it, and `USER:PASSWORD@HOST:PORT`.
    ///
    /// **Source**: <https://github.com/go-sql-driver/mysql#dsn-data-source-name>: the name is behind the last slash,
    /// and the password before the last `@` in front of it.
    fn bare(text: &'a str) -> Option<Self> {
        let slash = text.rfind('/').filter(|slash| text[..*slash].contains('@')).unwrap_or(text.len());
        let at = text[..slash].rfind('@')?;
        let (credentials, rest) = (&text[..at], &text[at + 1..]);
        let (user, password) = credentials.split_once(':')?;
        // `mailto:you@example.com` is nobody's password, and `npm:name@1.2.3` none either.
        let is_other =
            ["mailto", "acct", "sip", "sips", "xmpp", "npm", "jsr", "workspace", "git", "ssh"].contains(&user);
        let is_number = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
        let is_user = !is_other && !is_number && !user.starts_with('-') && !user.contains(['/', '=', '"', '\'']);
        let protocol = rest.split_once('(').filter(|(word, _)| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let (host, port) = host.rsplit_once(':').unwrap_or((host, ""));
        let is_host = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_driver = protocol.is_some() || rest.starts_with('/');
        let is_whole = is_user && !password.is_empty() && !text.contains(char::is_whitespace);
        (is_whole && (is_driver || is_host)).then_some(Self {
            whole: text,
            kind: "",
            is_bare: true,
            scheme: if is_driver { "mysql" } else { "app" },
            behind: "",
            credentials: Some(credentials),
            rest: text,
        })
    }

    /// Whether it has no scheme.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare
    }

    pub(super) fn kind_in_words(&self) -> String {
        if self.is_bare {
            "the address without a scheme".to_owned()
        } else {
            format!("the address with the scheme {}://", self.scheme)
        }
    }

    fn base(&self) -> &str {
        self.scheme.split('+').next().unwrap_or(self.scheme)
    }

    pub(super) fn is_database(&self) -> bool {
        matches!(self.base(), "postgres" | "postgresql" | "postgis" | "pgsql")
    }

    pub(super) fn is_cache(&self) -> bool {
        matches!(self.base(), "redis" | "rediss" | "valkey")
    }

    /// The stack has what it leads to.
    pub(super) fn is_ours(&self) -> bool {
        self.is_database() || self.is_cache()
    }

    fn password(&self) -> Option<&'a str> {
        let of_user =
            self.credentials.and_then(|credentials| credentials.split_once(':')).map(|(_, password)| password);
        of_user.or_else(|| query(self.behind, "password"))
    }

    /// One that is written out, and not a variable.
    pub(super) fn has_password(&self) -> bool {
        self.password().is_some_and(secret::is_value)
    }

    /// Somebody is named, with a password or without.
    pub(super) fn has_user(&self) -> bool {
        self.credentials.is_some_and(secret::is_value)
    }

    /// Whether nothing follows that is no part of it.
    pub(super) fn is_whole(&self) -> bool {
        !self.rest.contains(char::is_whitespace)
    }

    /// What to write instead, as a template, and the secret that it uses if the stack does not have what it leads to.
    pub(super) fn template(&self, name: &str) -> (String, Option<String>) {
        if self.is_database() {
            if self.scheme == "postgres" && self.kind.is_empty() && self.options().is_empty() {
                return ("${DATABASE_URL}".to_owned(), None);
            }
            let place = "${DATABASE_HOST}:${DATABASE_PORT}/${DATABASE_NAME}";
            let options = self.options();
            if self.kind.is_empty() {
                let who = "${DATABASE_USER}:${DATABASE_PASSWORD}";
                return (format!("{}://{who}@{place}{options}", self.scheme), None);
            }
            let has_user = query(self.behind, "password").is_some();
            let who = if has_user { "?user=${DATABASE_USER}&password=${DATABASE_PASSWORD}" } else { "" };
            let options = if has_user { options.replacen('?', "&", 1) } else { options };
            return (format!("{}{}://{place}{who}{options}", self.kind, self.scheme), None);
        }
        if self.is_cache() {
            // What waits in a queue must not be evicted.
            let upper = name.to_ascii_uppercase();
            let words = ["BROKER", "QUEUE", "CELERY", "SIDEKIQ", "RESQUE", "BULL", "JOB"];
            let is_store = words.iter().any(|word| upper.contains(word));
            let of = if is_store || name == "REDIS_STORE_URL" { "${REDIS_STORE_URL}" } else { "${REDIS_URL}" };
            return (of.to_owned(), None);
        }
        let stem = name.trim_end_matches("_URL").trim_end_matches("_URI").trim_end_matches("_DSN");
        let stem = if stem.is_empty() { self.base() } else { stem };
        let secret = format!("{}_PASSWORD", name::variable_of(stem));
        let password = self.password().unwrap_or_default();
        // Where it stands, and not where the same letters stand first: users have passwords that are their names.
        let behind = |mark: &str, end: &str| Some(self.whole.find(&format!("{mark}{password}{end}"))? + mark.len());
        let at = behind(":", "@").or_else(|| behind("password=", "")).unwrap_or_default();
        let (before, after) = (&self.whole[..at], &self.whole[at + password.len()..]);
        let plain = |text: &str| text.replace('$', "$$");
        (format!("{}${{{secret}}}{}", plain(before), plain(after)), Some(secret))
    }

    /// What a driver is told in the query, the password and what is about TLS to another machine aside.
    fn options(&self) -> String {
        let Some((_, all)) = self.behind.split_once('?') else { return String::new() };
        let is_place =
            |key: &str| ["user", "username", "password", "host", "port"].contains(&key) || key.starts_with("ssl");
        let kept = all.split('&').filter(|pair| !is_place(pair.split('=').next().unwrap_or_default()));
        let kept: Vec<&str> = kept.filter(|pair| !pair.is_empty() && !pair.contains('$')).collect();
        if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) }
    }
}

fn query<'a>(behind: &'a str, key: &str) -> Option<&'a str> {
    let (_, all) = behind.split_once('?')?;
    all.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// Variables that name a part of the database's address: `DB_HOST`, `PGPASSWORD`, `POSTGRES_USER`.
pub(super) fn part(name: &str, value: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let stem = ["DATABASE_", "POSTGRESQL_", "POSTGRES_", "DB_", "PG_", "PG", "SPRING_DATASOURCE_"]
        .iter()
        .find_map(|prefix| upper.strip_prefix(prefix))?;
    let of = match stem {
        "HOST" | "HOSTNAME" | "SERVER" => "HOST",
        // Another database's port is not ours to change.
        "PORT" if value == "5432" || value.is_empty() => "PORT",
        "USER" | "USERNAME" => "USER",
        "PASSWORD" | "PASS" | "PASSWD" | "PWD" => "PASSWORD",
        "NAME" | "DB" | "DATABASE" | "DBNAME" => "NAME",
        _ => return None,
    };
    Some(format!("${{DATABASE_{of}}}"))
}
