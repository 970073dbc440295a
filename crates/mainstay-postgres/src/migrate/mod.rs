//! Migrations: the file names of Flyway and of sqlx with their own history tables, so that an application can come from
//! either and leave for it.
//!
//! Each file runs in one transaction with its row of the history, unless it holds what PostgreSQL runs in none
//! (`CONCURRENTLY`, `VACUUM`; for sqlx only when its first line says `-- no-transaction`): then each statement commits
//! alone, and a failure leaves a row that says so. Not supported, with a clear error: `COPY` from standard input,
//! transaction commands inside a file. Flyway's placeholders and callbacks are not known.

mod drift;
mod error;
mod files;
mod history;
mod lock;
mod plan;
mod rehearse;
mod run;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

pub use drift::{Difference, Drifted, Objects, compare, made, objects};
pub use error::MigrateError;
pub use files::{Checksum, Convention, Migration, Script, Unsupported, Version};
pub use lock::{KeptAway, keep_away, running};
pub use plan::{Planned, State};
pub use rehearse::{Blocks, InTheWay, Locked, Rehearsed, Rewritten, Touched, Watched, in_the_way, rehearse};

use crate::access::Access;
use files::Folder;
use history::History;
use run::{Run, Way};

/// How long another run of migrations is waited for.
pub const LOCK_WITHIN: Duration = Duration::from_secs(60);
/// How long a migration waits for a lock on a table. Longer, and every statement behind it waits too.
pub const TABLE_LOCK_WITHIN: Duration = Duration::from_secs(10);

/// Versions that are named one by one.
const MOST_NAMED: usize = 8;

/// What to run, and where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The role that migrations run as, in its database.
    pub application: &'a Access,
    /// Names restore points, which only a superuser may.
    pub superuser: &'a Access,
    /// Where the files are.
    pub folder: &'a Path,
    /// A file whose version is below one that is applied is run all the same.
    pub is_out_of_order_allowed: bool,
    /// What was taken back and is not to be run by itself, in any order: the first of it in the order of the files, and
    /// what comes after that, stay pending.
    pub held: &'a [Held],
}

/// A migration that a person took back. Its file is pending again, as Flyway and sqlx have it, and whoever runs
/// migrations without being asked to must leave it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Name of its file.
    pub script: String,
    /// Of its text: another text is another migration.
    pub checksum: String,
}

/// A migration that was run, or taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Its version; `None`: repeatable.
    pub version: Option<String>,
    /// Name of its file.
    pub script: String,
    /// How long it took. **Unit**: milliseconds.
    pub took_ms: u64,
    /// All of it was one transaction.
    pub is_transactional: bool,
}

/// A named position in the log: the state before anything was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestorePoint {
    /// For `restore --to "name NAME"`.
    pub name: String,
    /// Where it is.
    pub lsn: String,
}

/// What happened on the way, as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// Another run is waited for: whose it is.
    Waits(&'a str),
    /// What is done from here on can be gone back behind.
    Named(&'a RestorePoint),
    /// A file begins.
    Begins(&'a str),
    /// It is done.
    Ran {
        /// What.
        applied: &'a Applied,
        /// What the schema is at now.
        schema: &'a str,
    },
}

/// Where told things go.
pub type Tell<'a> = &'a mut (dyn FnMut(Told<'_>) + Send);

/// A run of migrations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Whose files they are.
    pub convention: Convention,
    /// Before anything was run; `None`: nothing was to be run.
    pub restore_point: Option<RestorePoint>,
    /// What ran.
    pub applied: Vec<Applied>,
    /// All versions that are applied now, oldest first.
    pub versions: Vec<String>,
    /// What is still pending because it was taken back; of [`undo`]: what it took back.
    pub held: Option<Held>,
}

impl Migrated {
    /// The versions in a line: all of a few, the first and the last of many.
    pub fn summary(&self) -> String {
        summary(self.convention, &self.versions)
    }
}

fn summary(convention: Convention, versions: &[String]) -> String {
    match versions {
        [] => "nothing applied".to_owned(),
        [first, .., last] if versions.len() > MOST_NAMED => {
            format!("{} … {} ({} in all)", convention.label(first), convention.label(last), versions.len())
        }
        all => all.iter().map(|version| convention.label(version)).collect::<Vec<_>>().join(" "),
    }
}

/// A folder and its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Whose files they are.
    pub convention: Convention,
    /// In the order of versions; repeatable ones come last.
    pub migrations: Vec<Planned>,
}

impl Plan {
    /// As after a run in which nothing was to be done.
    pub fn as_it_is(&self) -> Migrated {
        Migrated {
            convention: self.convention,
            restore_point: None,
            applied: Vec::new(),
            versions: versions_of(&self.migrations),
            held: None,
        }
    }

    /// What is still to be run.
    pub fn pending(&self) -> impl Iterator<Item = &Planned> {
        self.migrations.iter().filter(|one| one.is_pending())
    }

    /// The same, as it is held back.
    pub fn held(&self) -> Vec<Held> {
        let of = |one: &Planned| Held { script: one.script.clone(), checksum: one.checksum.clone() };
        self.pending().map(of).collect()
    }

    /// What stands against running anything, in the order of the files.
    pub fn refusals(&self) -> Vec<MigrateError> {
        let unsupported = |planned: &Planned| {
            planned.unsupported.as_ref().filter(|_| planned.is_pending()).map(|found| found.of(&planned.script))
        };
        let of = |planned: &Planned| planned.refusal(self.convention).into_iter().chain(unsupported(planned));
        self.migrations.iter().flat_map(of).collect()
    }
}

/// Runs what is not applied yet, straight on the primary's socket.
///
/// **Errors**: as [`MigrateError`]; nothing runs when the folder and the history contradict each other.
pub async fn migrate(request: &Request<'_>, tell: Tell<'_>) -> Result<Migrated, MigrateError> {
    run_pending(request, None, tell).await
}

/// The same of these files alone.
pub(crate) async fn migrate_these(request: &Request<'_>, scripts: &[String]) -> Result<Migrated, MigrateError> {
    run_pending(request, Some(scripts), &mut |_| {}).await
}

async fn run_pending(request: &Request<'_>, only: Option<&[String]>, tell: Tell<'_>) -> Result<Migrated, MigrateError> {
    let folder = files::read(request.folder).await?;
    let client = request.application.connect().await?;
    let run = Run { access: request.application, client: &client, convention: folder.convention };
    lock::take(&run, tell).await?;
    let history = History::open(&run).await?;
    let plan = plan::hold_against(&folder, &history);
    plan::refusal(&plan, folder.convention, request.is_out_of_order_allowed)?;
    let mut pending = plan::pending(&folder, &plan);
    let held = plan::hold_back(&mut pending, request.held);
    if let Some(only) = only {
        pending.retain(|one| only.contains(&one.script.name));
    }
    // All of them before anything of it is done.
    pending.iter().try_for_each(|one| one.script.check())?;
    let restore_point = match pending.first() {
        Some(first) => Some(name_restore_point(request.superuser, folder.convention, first, Way::Up).await?),
        None => None,
    };
    if let Some(point) = &restore_point {
        tell(Told::Named(point));
    }
    let (mut applied, mut versions) = (Vec::new(), versions_of(&plan));
    for (rank, migration) in (history.next_rank()..).zip(&pending) {
        tell(Told::Begins(&migration.script.name));
        let took = run.apply(migration, Way::Up, rank).await?;
        let one = ran(migration, &migration.script, took);
        versions.extend(one.version.clone());
        versions.sort_by_cached_key(|version| Version::parse(version));
        tell(Told::Ran { applied: &one, schema: &summary(folder.convention, &versions) });
        applied.push(one);
    }
    run.unlock().await;
    Ok(Migrated { convention: folder.convention, restore_point, applied, versions, held })
}

/// What an undo would take back, and by which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undoing {
    /// The migration.
    pub migration: Held,
    /// Name of the file that takes it back.
    pub undo: String,
    /// Of its text.
    pub checksum: String,
}

impl Undoing {
    /// The last one that is applied, and its way back.
    fn of<'a>(folder: &'a Folder, history: &History) -> Result<(&'a Migration, &'a Script, Self), MigrateError> {
        let plan = plan::hold_against(folder, history);
        plan::refusal(&plan, folder.convention, true)?;
        let migration = plan::last(folder, &plan)?;
        let undo = migration.undo.as_ref().ok_or_else(|| MigrateError::NoUndo {
            script: migration.script.name.clone(),
            wanted: folder.convention.undo_of(&migration.script.name),
        })?;
        undo.check()?;
        let held = Held { script: migration.script.name.clone(), checksum: migration.script.checksum.to_string() };
        let undoing = Self { migration: held, undo: undo.name.clone(), checksum: undo.checksum.to_string() };
        Ok((migration, undo, undoing))
    }
}

/// What [`undo`] would do now; nothing is changed.
///
/// **Errors**: as [`MigrateError`], as it would.
pub async fn undoing(application: &Access, folder: &Path) -> Result<Undoing, MigrateError> {
    let folder = files::read(folder).await?;
    let client = application.connect().await?;
    let run = Run { access: application, client: &client, convention: folder.convention };
    Ok(Undoing::of(&folder, &History::look(&run).await?)?.2)
}

/// Takes the last one back, by the file that is there for it: that which was agreed to, and no other.
///
/// **Errors**: as [`MigrateError`]; nothing is done without such a file, while the folder and the history contradict
/// each other, or when another one is the last by now.
pub async fn undo(request: &Request<'_>, agreed: &Undoing, tell: Tell<'_>) -> Result<Migrated, MigrateError> {
    let folder = files::read(request.folder).await?;
    let client = request.application.connect().await?;
    let run = Run { access: request.application, client: &client, convention: folder.convention };
    lock::take(&run, tell).await?;
    let history = History::look(&run).await?;
    let wanted = || agreed.migration.script.clone();
    let (migration, undo, found) = match Undoing::of(&folder, &history) {
        // Somebody else has taken it back: what could be said of the one before it is beside the point.
        Err(MigrateError::NoUndo { script, .. }) if script != agreed.migration.script => {
            return Err(MigrateError::OtherLast { wanted: wanted(), found: script });
        }
        found => found?,
    };
    if found != *agreed {
        let is_same = found.migration.script == agreed.migration.script;
        let other = if is_same { format!("another text of {}", found.undo) } else { found.migration.script };
        return Err(MigrateError::OtherLast { wanted: wanted(), found: other });
    }
    let point = name_restore_point(request.superuser, folder.convention, migration, Way::Undo).await?;
    tell(Told::Named(&point));
    tell(Told::Begins(&undo.name));
    let took = run.apply(migration, Way::Undo, history.next_rank()).await?;
    let one = ran(migration, undo, took);
    let mut versions = versions_of(&plan::hold_against(&folder, &history));
    versions.retain(|version| Some(version) != one.version.as_ref());
    tell(Told::Ran { applied: &one, schema: &summary(folder.convention, &versions) });
    run.unlock().await;
    Ok(Migrated {
        convention: folder.convention,
        restore_point: Some(point),
        applied: vec![one],
        versions,
        held: Some(found.migration),
    })
}

/// Looks at the folder and the history, and changes nothing.
///
/// **Errors**: as [`MigrateError`]; what contradicts is in the plan and no error.
pub async fn plan(application: &Access, folder: &Path) -> Result<Plan, MigrateError> {
    let folder = files::read(folder).await?;
    let client = application.connect().await?;
    let run = Run { access: application, client: &client, convention: folder.convention };
    let history = History::look(&run).await?;
    Ok(Plan { convention: folder.convention, migrations: plan::hold_against(&folder, &history) })
}

impl Held {
    fn is(&self, script: &Script) -> bool {
        self.script == script.name && self.checksum == script.checksum.to_string()
    }
}

fn ran(migration: &Migration, script: &Script, took: Duration) -> Applied {
    Applied {
        version: migration.version.as_ref().map(ToString::to_string),
        script: script.name.clone(),
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        is_transactional: script.is_transactional,
    }
}

fn versions_of(plan: &[Planned]) -> Vec<String> {
    let is_there = |planned: &&Planned| matches!(planned.state, State::Applied | State::Later);
    plan.iter().filter(is_there).filter_map(|planned| planned.version.clone()).collect()
}

/// Names the present position in the log. The time makes the name another one each time: recovery stops at the first
/// point of a name.
async fn name_restore_point(
    superuser: &Access,
    convention: Convention,
    first: &Migration,
    way: Way,
) -> Result<RestorePoint, MigrateError> {
    let what = match (&first.version, way) {
        (Some(version), Way::Up) => convention.label(&version.to_string()),
        (Some(version), Way::Undo) => format!("undo-{}", convention.label(&version.to_string())),
        (None, _) => "R".to_owned(),
    };
    // PostgreSQL's bound is 63 bytes, and the time takes 19 of them.
    let what: String = what.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).take(36).collect();
    let client: Client = superuser.connect().await?;
    let sql = "SELECT name, pg_create_restore_point(name)::text FROM (SELECT 'before-' || $1::text \
        || to_char(clock_timestamp() AT TIME ZONE 'UTC', '-YYYYMMDD\"T\"HH24MISSMS') AS name) AS point";
    let row = client.query_one(sql, &[&what]).await;
    let row =
        row.map_err(|error| MigrateError::History { what: "name a restore point", source: superuser.explain(error) })?;
    Ok(RestorePoint { name: row.get(0), lsn: row.get(1) })
}
