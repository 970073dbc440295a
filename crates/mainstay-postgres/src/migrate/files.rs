//! Migration files: Flyway's names and checksums.

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;

use super::MigrateError;

/// Bound on one file.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Bound on the number of files.
const FILES_MAX: usize = 10_000;

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

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `None`: repeatable, run again whenever its checksum changed.
    pub version: Option<Version>,
    /// From its name.
    pub description: String,
    /// Name of the file.
    pub script: String,
    /// Flyway's.
    pub checksum: i32,
    /// Its text.
    pub sql: String,
}

/// Reads a folder: versioned ones in order of version, then repeatable ones in order of description.
pub(crate) fn read(folder: &Path) -> Result<Vec<Migration>, MigrateError> {
    let failed = |path: &Path, source| MigrateError::File { path: path.to_owned(), source };
    let mut migrations = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some((version, description)) = parse_name(&name)? else { continue };
        let length = std::fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
        if length > FILE_MAX || migrations.len() >= FILES_MAX {
            return Err(MigrateError::TooMuch { script: name, bytes: length });
        }
        let bytes = std::fs::read(&path).map_err(|error| failed(&path, error))?;
        let sql = String::from_utf8(bytes).map_err(|_| MigrateError::NotText { script: name.clone() })?;
        let sql = sql.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(sql);
        migrations.push(Migration { version, description, script: name, checksum: checksum(&sql), sql });
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
            return Err(MigrateError::Twice { first: pair[0].script.clone(), second: pair[1].script.clone() });
        }
    }
    Ok(migrations)
}

/// Version and description from a name; `None` for a file that is no migration (also `U1__x.sql`, undo).
fn parse_name(name: &str) -> Result<Option<(Option<Version>, String)>, MigrateError> {
    let Some(stem) = name.strip_suffix(".sql") else { return Ok(None) };
    let bad = || MigrateError::Name { script: name.to_owned() };
    if let Some(rest) = stem.strip_prefix("R__") {
        return if rest.is_empty() { Err(bad()) } else { Ok(Some((None, rest.replace('_', " ")))) };
    }
    let Some(rest) = stem.strip_prefix('V').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) else {
        return Ok(None);
    };
    let (version, description) = rest.split_once("__").ok_or_else(bad)?;
    let version = Version::parse(version).ok_or_else(bad)?;
    Ok(Some((Some(version), description.replace('_', " "))))
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

    #[test]
    fn names_are_flyways() {
        let parse = |name| parse_name(name).unwrap();
        let (version, description) = parse("V1_1__create_the_users.sql").unwrap();
        assert_eq!(version.unwrap().to_string(), "1.1");
        assert_eq!(description, "create the users");
        assert_eq!(parse("R__views.sql"), Some((None, "views".to_owned())));
        assert_eq!(parse("U1__undo.sql"), None);
        assert_eq!(parse("README.md"), None);
        assert_eq!(parse("Views.sql"), None);
        assert!(parse_name("V1_one_underscore.sql").is_err());
        assert!(parse_name("V1x__a.sql").is_err());
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
}
