//! Why migrations stopped.

use std::io;
use std::path::PathBuf;

use super::{Convention, LOCK_WITHIN};
use crate::access::AccessError;

/// Why migrations stopped. Files before the one named are applied and stay so.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The folder or a file cannot be read.
    #[error("cannot read migration {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that looks like a migration's and is none.
    #[error(
        "migration {script} is not named V<version>__<description>.sql, R__<description>.sql (Flyway) or \
         <version>_<description>.sql (sqlx): rename it"
    )]
    Name {
        /// Its name.
        script: String,
    },
    /// Names of two conventions.
    #[error(
        "{flyway} is named as Flyway names migrations, {sqlx} as sqlx does, and each keeps a history of its own: \
         keep the files of one of them in the folder"
    )]
    Mixed {
        /// One of Flyway's.
        flyway: String,
        /// One of sqlx's.
        sqlx: String,
    },
    /// The database was migrated by the other convention.
    #[error("the files are named as {files} names them, and the database has {history}: it was migrated by the other")]
    OtherHistory {
        /// Of the folder.
        files: Convention,
        /// Table that is there.
        history: &'static str,
    },
    /// A folder, a device, a pipe.
    #[error("migration {script} is no regular file")]
    NotFile {
        /// Its name.
        script: String,
    },
    /// Not UTF-8.
    #[error("migration {script} is not UTF-8 text")]
    NotText {
        /// Its name.
        script: String,
    },
    /// Too large, or too many.
    #[error("migration {script} of {bytes} bytes is beyond the bound of 16 MiB a file, 256 MiB and 10000 files in all")]
    TooMuch {
        /// Its name.
        script: String,
        /// Its size.
        bytes: u64,
    },
    /// One version, two files.
    #[error("migrations {first} and {second} have the same version: give one of them another")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// An applied file was changed.
    #[error(
        "migration {script} was changed after it was applied: checksum {} now, {} in {history}; restore the file and \
         put the change into a new version",
        short(found),
        short(applied)
    )]
    Changed {
        /// Its name.
        script: String,
        /// In the history.
        applied: String,
        /// In the folder.
        found: String,
        /// The table.
        history: &'static str,
    },
    /// An applied file is gone.
    #[error("migration {script} (version {version}) is applied and its file is missing: restore the file")]
    Lost {
        /// Name in the history.
        script: String,
        /// Its version.
        version: String,
    },
    /// A new file has a version below one that is applied.
    #[error("migration {script} comes before version {applied}, which is applied: give it a higher version")]
    OutOfOrder {
        /// Its name.
        script: String,
        /// Highest version applied.
        applied: String,
    },
    /// An earlier run failed half-way outside a transaction.
    #[error(
        "migration {script} failed half-way in an earlier run: undo what it left by hand, then \
         DELETE FROM {history} WHERE NOT success"
    )]
    FailedBefore {
        /// Its name.
        script: String,
        /// The table.
        history: &'static str,
    },
    /// The history begins in the middle.
    #[error("{script} is below the baseline of the history: no file tells what was there before it")]
    Baseline {
        /// Name of its file.
        script: String,
    },
    /// Nothing takes the last one back.
    #[error("no file takes {script} back: {wanted} is not there")]
    NoUndo {
        /// Name of its file.
        script: String,
        /// What the file would be called.
        wanted: String,
    },
    /// No versioned one is applied.
    #[error("no migration is applied that could be taken back")]
    NothingToUndo,
    /// Another one than was agreed to is the last by now.
    #[error("{wanted} was to be taken back, and {found} is the last one that is applied now: nothing was taken back")]
    OtherLast {
        /// Name of the file that was the last one.
        wanted: String,
        /// Of the one that is now, or of its other text.
        found: String,
    },
    /// A statement that cannot run here.
    #[error("{script} line {line}: {what} is not possible in a migration; {instead}")]
    Unsupported {
        /// File.
        script: String,
        /// Line.
        line: usize,
        /// The command.
        what: String,
        /// What to do.
        instead: &'static str,
    },
    /// A statement failed.
    #[error("{script} line {line}: {message}; {state}")]
    Statement {
        /// File.
        script: String,
        /// Line.
        line: usize,
        /// PostgreSQL's words.
        message: String,
        /// What is left.
        state: &'static str,
    },
    /// A statement was cut off from outside.
    #[error("{script} was cut off at line {line}: {message}; {state}")]
    Cut {
        /// File.
        script: String,
        /// Line.
        line: usize,
        /// PostgreSQL's words, or the connection's.
        message: String,
        /// What is left.
        state: &'static str,
        /// It was to take one back.
        is_undo: bool,
        /// The table that says that it is half-done; `None`: all of it was rolled back.
        half_done: Option<&'static str>,
    },
    /// The connection broke while a file was committed.
    #[error("whether {script} was committed is not known: {source}; the history says it once the database answers")]
    Unknown {
        /// File.
        script: String,
        /// Why.
        source: AccessError,
    },
    /// Another run holds the lock.
    #[error("another run of migrations did not end within {} s: {holder}", LOCK_WITHIN.as_secs())]
    Locked {
        /// Whose session holds the lock.
        holder: String,
    },
    /// The history could not be read or written.
    #[error("cannot {what}: {source}")]
    History {
        /// Verb and object.
        what: &'static str,
        /// Why not.
        source: AccessError,
    },
    /// The database cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// sqlx's checksums have 96 digits: the first ones tell them apart.
fn short(checksum: &str) -> &str {
    checksum.get(..12).unwrap_or(checksum)
}
