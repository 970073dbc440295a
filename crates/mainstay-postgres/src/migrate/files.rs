//! Migration files of a folder: the names of Flyway and of sqlx, and the checksums that each of them keeps.

use std::cmp::Ordering;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Serialize;
use sha2::{Digest as _, Sha384};

use super::MigrateError;
use crate::sql::{self, Statement};

/// Bound on one file.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Bound on all of them: they are held in memory.
const ALL_MAX: u64 = 256 * 1024 * 1024;
/// Bound on the number of files.
const FILES_MAX: usize = 10_000;
/// What a file of sqlx begins with that is to run without a transaction.
const NO_TRANSACTION: &str = "-- no-transaction";

/// Whose names and whose history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// `V1__name.sql`, `R__name.sql`, `U1__name.sql`; `flyway_schema_history`.
    Flyway,
    /// `1_name.sql`, `1_name.up.sql`, `1_name.down.sql`; `_sqlx_migrations`.
    Sqlx,
}

impl Convention {
    /// Table of what was applied.
    pub fn history(self) -> &'static str {
        match self {
            Self::Flyway => "flyway_schema_history",
            Self::Sqlx => "_sqlx_migrations",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Flyway => Self::Sqlx,
            Self::Sqlx => Self::Flyway,
        }
    }

    /// Name of the file that takes another one back.
    pub(crate) fn undo_of(self, script: &str) -> String {
        match self {
            Self::Flyway => format!("U{}", script.get(1..).unwrap_or_default()),
            Self::Sqlx => {
                let stem = script.strip_suffix(".sql").unwrap_or(script);
                format!("{}.down.sql", stem.strip_suffix(".up").unwrap_or(stem))
            }
        }
    }

    /// A version as files are named by it: `V3`, `20261126120000`.
    pub fn label(self, version: &str) -> String {
        match self {
            Self::Flyway => format!("V{version}"),
            Self::Sqlx => version.to_owned(),
        }
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flyway => "Flyway",
            Self::Sqlx => "sqlx",
        })
    }
}

/// Version of a migration: numbers, compared one by one; `1` and `1.0` are the same.
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    parts: Vec<u64>,
}

impl Version {
    /// From `1`, `1.1`, `1_1`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace('_', ".");
        let mut parts = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
        while parts.len() > 1 && parts.last() == Some(&0) {
            parts.pop();
        }
        Some(Self { text, parts })
    }

    /// As sqlx keeps it.
    pub(crate) fn number(&self) -> Option<i64> {
        i64::try_from(*self.parts.first()?).ok()
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a file's text is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Flyway's: CRC-32 over the lines without their ends, as a signed number.
    Lines(i32),
    /// sqlx's: SHA-384 over every byte.
    Bytes(Vec<u8>),
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lines(crc) => write!(f, "{crc}"),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl Checksum {
    fn of(convention: Convention, text: &str) -> Self {
        match convention {
            Convention::Flyway => Self::Lines(checksum(without_mark(text))),
            Convention::Sqlx => Self::Bytes(Sha384::digest(text.as_bytes()).to_vec()),
        }
    }
}

/// A file that is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// Of its text.
    pub checksum: Checksum,
    /// Its text.
    pub sql: String,
    /// All of it is one transaction.
    pub is_transactional: bool,
    /// The first statement that cannot run in a migration.
    pub unsupported: Option<Unsupported>,
    /// Its statements: where in the text, and the line.
    pieces: Vec<(Range<usize>, usize)>,
}

/// A statement that cannot run in a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Its line.
    pub line: usize,
    /// The command.
    pub what: String,
    /// What to do.
    pub instead: &'static str,
}

impl Script {
    /// Reads a text once: what is asked of it later costs nothing.
    pub(crate) fn new(convention: Convention, name: String, text: &str) -> Self {
        let checksum = Checksum::of(convention, text);
        let sql = without_mark(text).to_owned();
        let statements = sql::split(&sql);
        let is_transactional = match convention {
            Convention::Flyway => !statements.iter().any(|statement| needs_no_transaction(statement.text)),
            Convention::Sqlx => !text.starts_with(NO_TRANSACTION),
        };
        let unsupported = statements.iter().find_map(|statement| unsupported(statement, is_transactional));
        let pieces = statements.iter().map(|one| (one.at..one.at + one.text.len(), one.line)).collect();
        Self { name, checksum, is_transactional, unsupported, pieces, sql }
    }

    pub(crate) fn statements(&self) -> impl Iterator<Item = Statement<'_>> {
        self.pieces.iter().map(|(at, line)| Statement { text: &self.sql[at.clone()], at: at.start, line: *line })
    }

    /// Whether it can run at all.
    pub(crate) fn check(&self) -> Result<(), MigrateError> {
        self.unsupported.as_ref().map_or(Ok(()), |found| Err(found.of(&self.name)))
    }
}

impl Unsupported {
    pub(crate) fn of(&self, script: &str) -> MigrateError {
        let Self { line, what, instead } = self;
        MigrateError::Unsupported { script: script.to_owned(), line: *line, what: what.clone(), instead }
    }
}

fn unsupported(statement: &Statement<'_>, is_transactional: bool) -> Option<Unsupported> {
    let first = sql::first_word(statement.text);
    let instead = match first.as_str() {
        "copy" if sql::has_word(statement.text, "stdin") => "use INSERT",
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" if is_transactional => {
            "each file is one transaction already: remove it"
        }
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
            "each statement of this file commits alone: remove it"
        }
        "\\" => "commands of psql are not SQL: remove it",
        _ => return None,
    };
    let what = if first == "\\" { "a command of psql".to_owned() } else { first.to_ascii_uppercase() };
    Some(Unsupported { line: statement.line, what, instead })
}

/// A migration of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `None`: repeatable, run again whenever its checksum changed.
    pub version: Option<Version>,
    /// From its name.
    pub description: String,
    /// What it does.
    pub script: Script,
    /// What takes it back, when there is such a file.
    pub undo: Option<Script>,
}

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) convention: Convention,
    /// Versioned ones in order of version, then repeatable ones in order of description.
    pub(crate) migrations: Vec<Migration>,
}

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Up { convention: Convention, version: Option<Version>, description: String },
    Undo { convention: Convention, version: Version },
}

impl Named {
    fn convention(&self) -> Convention {
        match self {
            Self::Up { convention, .. } | Self::Undo { convention, .. } => *convention,
        }
    }
}

/// Reads a folder, beside everything else: large files take their time.
pub(crate) async fn read(folder: &Path) -> Result<Folder, MigrateError> {
    let path = folder.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_now(&path)).await;
    reading.map_err(|error| MigrateError::File { path: folder.to_owned(), source: std::io::Error::other(error) })?
}

fn read_now(folder: &Path) -> Result<Folder, MigrateError> {
    let failed = |path: &Path, source| MigrateError::File { path: path.to_owned(), source };
    let (mut named, mut unknown) = (Vec::new(), Vec::new());
    let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match parse_name(&name)? {
            Some(found) => named.push((found, name, path)),
            None if name.ends_with(".sql") && name.contains('_') => unknown.push(name),
            None => {}
        }
    }
    // In the order of names, so that what is told of two files does not depend on the file system.
    named.sort_by(|a, b| a.1.cmp(&b.1));
    let convention = convention_of(&named, &unknown)?;
    if named.len() > FILES_MAX {
        let script = named.last().map(|(_, name, _)| name.clone()).unwrap_or_default();
        return Err(MigrateError::TooMuch { script, bytes: 0 });
    }
    let (mut migrations, mut undos, mut all) = (Vec::new(), Vec::new(), 0);
    for (found, name, path) in named {
        let text = read_text(&name, &path)?;
        all += text.len() as u64;
        if all > ALL_MAX {
            return Err(MigrateError::TooMuch { script: name, bytes: text.len() as u64 });
        }
        let script = Script::new(convention, name, &text);
        match found {
            Named::Up { version, description, .. } => {
                migrations.push(Migration { version, description, script, undo: None });
            }
            Named::Undo { version, .. } => undos.push((version, script)),
        }
    }
    migrations.sort_by(|a, b| match (&a.version, &b.version) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.description.cmp(&b.description),
    });
    for pair in migrations.windows(2) {
        let is_same_version = pair[0].version.is_some() && pair[0].version == pair[1].version;
        let is_same_repeatable =
            pair.iter().all(|one| one.version.is_none()) && pair[0].description == pair[1].description;
        if is_same_version || is_same_repeatable {
            let [first, second] = [&pair[0], &pair[1]].map(|one| one.script.name.clone());
            return Err(MigrateError::Twice { first, second });
        }
    }
    for (version, script) in undos {
        // One that takes back what is not there is of no use, and does no harm.
        let Some(of) = migrations.iter_mut().find(|one| one.version.as_ref() == Some(&version)) else { continue };
        if let Some(first) = of.undo.replace(script) {
            let second = of.undo.as_ref().map(|undo| undo.name.clone()).unwrap_or_default();
            return Err(MigrateError::Twice { first: first.name, second });
        }
    }
    Ok(Folder { convention, migrations })
}

/// Whose names they are. Those of both in one folder would be two histories of one database.
fn convention_of(
    named: &[(Named, String, std::path::PathBuf)],
    unknown: &[String],
) -> Result<Convention, MigrateError> {
    let first = |of: Convention| named.iter().find(|(found, ..)| found.convention() == of).map(|(_, name, _)| name);
    match (first(Convention::Flyway), first(Convention::Sqlx)) {
        (Some(flyway), Some(sqlx)) => Err(MigrateError::Mixed { flyway: flyway.clone(), sqlx: sqlx.clone() }),
        (None, Some(_)) => match unknown.first() {
            // sqlx itself cannot read a folder with such a name.
            Some(name) => Err(MigrateError::Name { script: name.clone() }),
            None => Ok(Convention::Sqlx),
        },
        (_, None) => Ok(Convention::Flyway),
    }
}

/// Its text. A pipe would be waited for, and a device never ends.
fn read_text(name: &str, path: &Path) -> Result<String, MigrateError> {
    let failed = |source| MigrateError::File { path: path.to_owned(), source };
    let not_file = || MigrateError::NotFile { script: name.to_owned() };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(not_file());
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    // What was looked at may be another by now.
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(not_file());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(MigrateError::TooMuch { script: name.to_owned(), bytes: about.len().max(bytes.len() as u64) });
    }
    String::from_utf8(bytes).map_err(|_| MigrateError::NotText { script: name.to_owned() })
}

/// Statements that PostgreSQL runs in no transaction; Flyway knows them by their words too.
fn needs_no_transaction(statement: &str) -> bool {
    match sql::first_word(statement).as_str() {
        "vacuum" => true,
        "reindex" => ["schema", "database", "system", "concurrently"].iter().any(|word| sql::has_word(statement, word)),
        _ => sql::has_word(statement, "concurrently"),
    }
}

/// The mark of byte order that some editors begin a file with is no SQL.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// What a name says; `None` for a file that is no migration.
fn parse_name(name: &str) -> Result<Option<Named>, MigrateError> {
    let Some(stem) = name.strip_suffix(".sql") else { return Ok(None) };
    if stem.starts_with(|first: char| first.is_ascii_digit()) {
        return parse_sqlx(name, stem);
    }
    let convention = Convention::Flyway;
    let bad = || MigrateError::Name { script: name.to_owned() };
    if let Some(rest) = stem.strip_prefix("R__") {
        let description = rest.replace('_', " ");
        return if rest.is_empty() {
            Err(bad())
        } else {
            Ok(Some(Named::Up { convention, version: None, description }))
        };
    }
    let numbered = |letter| stem.strip_prefix(letter).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let (rest, is_undo) = match (numbered('V'), numbered('U')) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Ok(None),
    };
    let (version, description) = rest.split_once("__").ok_or_else(bad)?;
    let version = Version::parse(version).ok_or_else(bad)?;
    if is_undo {
        return Ok(Some(Named::Undo { convention, version }));
    }
    Ok(Some(Named::Up { convention, version: Some(version), description: description.replace('_', " ") }))
}

/// `1_name`, `1_name.up`, `1_name.down`. A number without `_` is no migration for sqlx.
fn parse_sqlx(name: &str, stem: &str) -> Result<Option<Named>, MigrateError> {
    let convention = Convention::Sqlx;
    let Some((number, rest)) = stem.split_once('_') else { return Ok(None) };
    // sqlx keeps it as a signed number of 64 bits.
    let is_number = number.parse::<i64>().is_ok();
    let version = Version::parse(number).filter(|_| is_number);
    let version = version.ok_or_else(|| MigrateError::Name { script: name.to_owned() })?;
    if rest.ends_with(".down") {
        return Ok(Some(Named::Undo { convention, version }));
    }
    let description = rest.strip_suffix(".up").unwrap_or(rest).replace('_', " ");
    Ok(Some(Named::Up { convention, version: Some(version), description }))
}

/// Flyway's: CRC-32 over the lines without their ends, as a signed number.
pub(crate) fn checksum(text: &str) -> i32 {
    let mut crc = !0_u32;
    for line in lines(text) {
        for byte in line.bytes() {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                // 0xEDB88320: the reflected polynomial of CRC-32 (ISO 3309), as java.util.zip.CRC32 has it.
                crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
        }
    }
    (!crc).cast_signed()
}

/// Lines as Java's `BufferedReader` sees them: ended by `\n`, `\r` or `\r\n`. The line ends themselves do not
/// count, so it is enough to leave them out.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(name: &str) -> Option<(Convention, Option<String>, String)> {
        match parse_name(name).unwrap()? {
            Named::Up { convention, version, description } => {
                Some((convention, version.map(|version| version.to_string()), description))
            }
            Named::Undo { .. } => None,
        }
    }

    #[test]
    fn names_are_flyways() {
        let versioned = Some((Convention::Flyway, Some("1.1".to_owned()), "create the users".to_owned()));
        assert_eq!(up("V1_1__create_the_users.sql"), versioned);
        assert_eq!(up("R__views.sql"), Some((Convention::Flyway, None, "views".to_owned())));
        let undo = Named::Undo { convention: Convention::Flyway, version: Version::parse("1").unwrap() };
        assert_eq!(parse_name("U1__undo.sql").unwrap(), Some(undo));
        assert_eq!(parse_name("README.md").unwrap(), None);
        assert_eq!(parse_name("Views.sql").unwrap(), None);
        assert!(parse_name("V1_one_underscore.sql").is_err());
        assert!(parse_name("V1x__a.sql").is_err());
    }

    #[test]
    fn names_are_sqlxs() {
        let simple = Some((Convention::Sqlx, Some("20261126120000".to_owned()), "create users".to_owned()));
        assert_eq!(up("20261126120000_create_users.sql"), simple);
        assert_eq!(up("3_a.up.sql"), Some((Convention::Sqlx, Some("3".to_owned()), "a".to_owned())));
        let undo = Named::Undo { convention: Convention::Sqlx, version: Version::parse("3").unwrap() };
        assert_eq!(parse_name("3_a.down.sql").unwrap(), Some(undo));
        assert_eq!(parse_name("2024.sql").unwrap(), None);
        assert!(parse_name("3x_a.sql").is_err());
        assert!(parse_name("99999999999999999999_a.sql").is_err());
    }

    #[test]
    fn what_takes_a_file_back_is_named_after_it() {
        assert_eq!(Convention::Flyway.undo_of("V3__a.sql"), "U3__a.sql");
        assert_eq!(Convention::Sqlx.undo_of("3_a.up.sql"), "3_a.down.sql");
        assert_eq!(Convention::Sqlx.undo_of("3_a.sql"), "3_a.down.sql");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("2") < version("10"));
        assert!(version("1.2") < version("1.10"));
        assert_eq!(version("1"), version("1.0"));
        assert!(Version::parse("1.").is_none());
    }

    #[test]
    fn the_checksum_ignores_line_ends_and_nothing_else() {
        // CRC-32 of "123456789" is the check value of the algorithm, 0xCBF43926.
        assert_eq!(checksum("123456789").cast_unsigned(), 0xCBF4_3926);
        assert_eq!(checksum("1234\r\n56789\n"), checksum("123456789"));
        assert_ne!(checksum("1234 56789"), checksum("123456789"));
        assert_eq!(checksum(""), 0);
    }

    #[test]
    fn sqlxs_checksum_is_of_every_byte() {
        let text = |text: &str| Checksum::of(Convention::Sqlx, text).to_string();
        // SHA-384 of "abc", the example of FIPS 180-4.
        assert!(text("abc").starts_with("cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"));
        assert_ne!(text("abc\n"), text("abc\r\n"));
    }

    #[test]
    fn what_runs_in_no_transaction_is_known_by_its_words() {
        for statement in ["CREATE INDEX CONCURRENTLY i ON t (a)", "vacuum t", "REINDEX SCHEMA public"] {
            assert!(needs_no_transaction(statement), "{statement}");
        }
        for statement in ["REINDEX INDEX i", "CREATE INDEX i ON t (a)", "SELECT 'vacuum concurrently'"] {
            assert!(!needs_no_transaction(statement), "{statement}");
        }
    }

    #[test]
    fn what_is_no_regular_file_or_has_no_end_is_refused_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("V1__a.sql");
        let refused = || {
            let error = read_now(folder.path()).unwrap_err();
            std::fs::remove_file(&file).unwrap();
            error
        };
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(refused(), MigrateError::NotFile { script } if script == "V1__a.sql"));
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(matches!(refused(), MigrateError::NotFile { .. }));
        std::fs::File::create(&file).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(matches!(refused(), MigrateError::TooMuch { bytes, .. } if bytes == FILE_MAX + 1));
        // A link to a file is one.
        std::fs::write(folder.path().join("elsewhere"), "SELECT 1;").unwrap();
        std::os::unix::fs::symlink("elsewhere", &file).unwrap();
        assert_eq!(read_now(folder.path()).unwrap().migrations.len(), 1);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(matches!(read_now(folder.path()), Err(MigrateError::NotFile { .. })));
    }

    #[test]
    fn what_cannot_run_in_a_migration_is_known_before_anything_runs() {
        let of = |text: &str| Script::new(Convention::Flyway, "V1__a.sql".to_owned(), text).unsupported;
        let found = of("SELECT 1;\n\\d users\n;").unwrap();
        assert_eq!((found.line, found.what.as_str()), (2, "a command of psql"));
        assert_eq!(of("\n\nCOMMIT;").unwrap().line, 3);
        assert_eq!(of("COPY t FROM stdin;").unwrap().instead, "use INSERT");
        assert_eq!(of("SELECT 'COMMIT'; COPY t TO '/tmp/x'; /* BEGIN; */"), None);
    }

    #[test]
    fn a_folder_is_flyways_or_sqlxs_and_pairs_what_undoes_with_what_it_undoes() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(folder.path().join(name), "SELECT 1;").unwrap();
        for name in ["2_b.up.sql", "2_b.down.sql", "1_a.sql", "10_c.up.sql", "7_orphan.down.sql", "notes.txt"] {
            put(name);
        }
        let found = read_now(folder.path()).unwrap();
        assert_eq!(found.convention, Convention::Sqlx);
        let names: Vec<_> = found.migrations.iter().map(|one| (one.script.name.as_str(), one.undo.is_some())).collect();
        assert_eq!(names, [("1_a.sql", false), ("2_b.up.sql", true), ("10_c.up.sql", false)]);
        put("seed_data.sql");
        assert!(matches!(read_now(folder.path()), Err(MigrateError::Name { script }) if script == "seed_data.sql"));
        std::fs::remove_file(folder.path().join("seed_data.sql")).unwrap();
        put("02_twice.sql");
        assert!(matches!(read_now(folder.path()), Err(MigrateError::Twice { .. })));
        std::fs::remove_file(folder.path().join("02_twice.sql")).unwrap();
        put("V1__a.sql");
        assert!(matches!(read_now(folder.path()), Err(MigrateError::Mixed { .. })));
    }
}
