//! Small readings of text: lines, names, commands, routes.

use mainstay_types::ServiceName;

use super::folder::{View, is_program};
use super::{Part, Reason, Service, shell};

/// A name in the letters of the rule for names, whatever it begins with and however long it is.
pub(super) fn plain(wished: &str) -> String {
    // `@scope/shop` is `shop`.
    let last = wished.rsplit('/').next().unwrap_or(wished);
    let plain = |letter: char| if letter.is_ascii_lowercase() || letter.is_ascii_digit() { letter } else { '-' };
    last.to_lowercase().chars().map(plain).collect()
}

/// A name by the rule for names, as near to the given one as possible.
pub(super) fn name_of(wished: &str) -> Option<String> {
    let plain = plain(wished);
    let plain = plain.trim_start_matches(|letter: char| !letter.is_ascii_lowercase());
    let plain: String = plain.chars().take(32).collect();
    let plain = plain.trim_end_matches('-');
    let plain = if mainstay_stack::OUR_PARTS.contains(&plain) { format!("my-{plain}") } else { plain.to_owned() };
    ServiceName::new(plain.as_str()).ok().map(|_| plain)
}

/// A command as the stack file takes it: words without a shell where that is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// As a person types it.
    pub(crate) line: String,
    /// The words of a list, which no shell reads: `["prog", "$HOME"]` is given `$HOME`.
    pub(super) words: Option<Vec<String>>,
}

impl Command {
    /// What a shell reads.
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into().trim().to_owned(), words: None }
    }

    /// What a program is given word by word.
    pub(super) fn of_words(words: Vec<String>) -> Self {
        let line = words.iter().map(|word| one_word(word)).collect::<Vec<_>>().join(" ");
        Self { line, words: Some(words) }
    }

    fn sets_variables(&self) -> bool {
        let first = self.line.split_whitespace().next().unwrap_or_default();
        first.contains('=') && !first.starts_with(['-', '/', '.'])
    }

    /// A quotation mark that is not closed, or nothing behind the last backslash: as it stands, whatever it means.
    fn has_open_end(&self) -> bool {
        let is_odd = |mark| self.line.matches(mark).count() % 2 == 1;
        is_odd('\'') || is_odd('"') || self.line.ends_with('\\')
    }

    /// Whether only a shell understands it.
    pub(super) fn wants_shell(&self) -> bool {
        self.sets_variables()
            || self.has_open_end()
            || self.line.contains(['$', '|', '&', ';', '<', '>', '`', '*', '?', '~', '(', ')', '{', '}', '#'])
    }

    /// Whether a shell has nothing to do but to put variables in.
    pub(super) fn is_simple(&self) -> bool {
        !self.has_open_end()
            && !self.line.contains(['|', '&', ';', '<', '>', '`', '*', '?', '~', '(', ')', '{', '}', '#', '\n'])
    }

    /// The value in TOML.
    pub(super) fn toml(&self) -> String {
        if let Some(words) = &self.words {
            // As text it would be split into the same words; as a list it is seen that nothing is put in.
            let is_plain = words.iter().all(|word| !word.is_empty() && word.chars().all(shell::is_plain));
            if is_plain {
                return quoted(&self.line);
            }
            return format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "));
        }
        if !self.wants_shell() {
            return quoted(&self.line);
        }
        // Without `exec` the shell stays in between and signals end there; of several commands none can be exec'd.
        let is_simple = !self.line.contains(['|', '&', ';', '`', '(', ')', '{', '}', '#']);
        let is_script = self.line.starts_with("exec ") || self.line.starts_with("cd ") || !is_simple;
        let line = match (is_script, self.sets_variables()) {
            (true, _) => self.line.clone(),
            (false, true) => format!("exec env {}", self.line),
            (false, false) => format!("exec {}", self.line),
        };
        format!("[\"sh\", \"-c\", {}]", quoted(&line))
    }
}

/// A text in TOML.
pub(super) fn quoted(text: &str) -> String {
    if !text.contains('\'') && (text.contains('"') || text.contains('\\')) && !text.contains(char::is_control) {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A word of a command line.
pub(super) fn one_word(word: &str) -> String {
    let is_plain = !word.is_empty() && word.chars().all(shell::is_plain);
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The line, from 1, at which a needle stands first.
pub(super) fn line_of(text: &str, needle: &str) -> Option<usize> {
    text.find(needle).map(|at| line_at(text, at))
}

pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count() + 1
}

/// The line of a whole word: `pg` is not in `pgbouncer`.
pub(super) fn line_of_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_');
    let found = text.match_indices(word).find(|(at, _)| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    });
    found.map(|(at, _)| line_at(text, at))
}

/// A dependency that says something.
pub(super) struct Known<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The line that names it.
    pub(super) line: Option<usize>,
}

/// The first of `wanted` among the dependencies of a file.
pub(super) fn first_of<'a>(names: &[String], text: &str, wanted: &[&'a str]) -> Option<Known<'a>> {
    let name = wanted.iter().find(|wanted| names.iter().any(|name| name == *wanted))?;
    Some(Known { name, line: line_of_word(text, name) })
}

/// Notes database and cache from a file's dependencies.
pub(super) fn data_tier(part: &mut Part, file: &str, text: &str, names: &[String], database: &[&str], cache: &[&str]) {
    if let Some(found) = first_of(names, text, database) {
        part.has_database = true;
        part.reasons.push(reason("database (PostgreSQL)", file, found.line, format!("`{}`", found.name)));
    }
    if let Some(found) = first_of(names, text, cache) {
        part.has_cache = true;
        part.reasons.push(reason("cache (Redis)", file, found.line, format!("`{}`", found.name)));
    }
}

pub(super) fn reason(what: impl Into<String>, file: &str, line: Option<usize>, found: impl Into<String>) -> Reason {
    Reason { what: what.into(), file: file.to_owned(), line, found: found.into() }
}

/// Notes a service together with where its command is from.
pub(super) fn add_service(part: &mut Part, view: &View<'_>, mut service: Service, from: (&str, Option<usize>, String)) {
    service.dir = view.dir();
    let (file, line, found) = from;
    let what = format!("service {} runs {}", service.name, service.run.line);
    part.reasons.push(reason(what, &view.full(file), line, found));
    part.services.push(service);
}

/// What a person must see to, unless a program's text reads `PORT` already.
pub(super) fn port_note(part: &mut Part, service: &mut Service, view: &View<'_>) {
    let reads = |text: &str| ["\"PORT\"", "'PORT'", "env.PORT"].iter().any(|needle| text.contains(needle));
    let programs = || view.texts().filter(|(file, _)| is_program(file));
    if service.run.line.contains("PORT") || programs().any(|(_, text)| reads(text)) {
        return;
    }
    let fixed = programs().find_map(|(file, text)| {
        text.lines().enumerate().find_map(|(index, line)| Some((file, index + 1, fixed_port(line)?)))
    });
    if let Some((file, line, port)) = fixed {
        part.open.push(format!(
            "{}:{line}: it seems to listen on port {port}, whatever PORT says: mainstay does not reach it there, and a \
             second instance cannot start. Make it the port in the environment variable PORT, on 127.0.0.1",
            view.full(file)
        ));
    }
    service.notes.push("It must listen on 127.0.0.1 and the port in the environment variable PORT.".to_owned());
}

/// The port on which a line of a program listens: `listen(3000`, `run(port=5000`, `bind("0.0.0.0:3000")`,
/// `const port = 3000`.
fn fixed_port(line: &str) -> Option<u16> {
    let code = line.trim_start();
    if code.starts_with("//") || code.starts_with('#') {
        return None;
    }
    let lower = code.to_lowercase();
    let is_about_other = ["redis", "postgres", "smtp", "mongo", "mysql", "database", "db"];
    let listens = ["listen", "bind", "serve", "run("].iter().any(|word| lower.contains(word));
    if !listens && is_about_other.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let in_call = ["listen(", "0.0.0.0:", "127.0.0.1:", "localhost:", "[::]:", "port:", "], "];
    let anywhere = ["port=", "port ="];
    let markers = in_call.into_iter().filter(|_| listens).chain(anywhere);
    markers.into_iter().find_map(|marker| {
        let (_, rest) = lower.split_once(marker)?;
        let rest = rest.trim_start();
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u16>().ok().filter(|port| *port >= 80)
    })
}

/// Paths under which programs answer whether they are well, the most telling first: ready before alive.
const HEALTH: [&str; 14] = [
    "/readyz",
    "/health/ready",
    "/api/readyz",
    "/healthz",
    "/api/healthz",
    "/health",
    "/api/health",
    "/_health",
    "/healthcheck",
    "/health/",
    "/up",
    "/livez",
    "/heartbeat",
    "/ping",
];

/// A health path that stands in quotation marks in a program's text.
pub(super) fn health(view: &View<'_>) -> Option<(String, Reason)> {
    for path in HEALTH {
        for (file, text) in view.texts().filter(|(file, _)| is_program(file)) {
            // Django writes its paths without the first slash.
            let bare = if file.ends_with("urls.py") { path.trim_start_matches('/') } else { path };
            let spellings = [format!("\"{bare}\""), format!("'{bare}'"), format!("`{bare}`")];
            if let Some(line) = spellings.iter().find_map(|spelling| line_of(text, spelling)) {
                let why =
                    reason(format!("health {path}"), &view.full(file), Some(line), format!("the path \"{bare}\""));
                return Some((path.to_owned(), why));
            }
        }
    }
    None
}

/// Gives the web services of a part the health path that its texts name.
pub(super) fn add_health(part: &mut Part, view: &View<'_>) {
    let Some((path, why)) = health(view) else {
        part.open.push(
            "no health path was seen: `health = \"/path\"` in [service.NAME] names one that answers 200 when ready; \
             until then an instance is ready when its port accepts a connection"
                .to_owned(),
        );
        return;
    };
    part.health = Some(path.clone());
    for service in part.services.iter_mut().filter(|service| service.has_port && service.health.is_none()) {
        service.health = Some(path.clone());
    }
    part.reasons.push(why);
}
