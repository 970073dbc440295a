//! Drills of the backups: rows with known times are written through the router, something is lost on purpose, and the
//! past is opened beside the present. What is damaged is a copy of the repository: a drill must not need a backup of
//! the backups.

mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_api::Verdict;
use mainstay_client::Client;
use mainstay_decide::drills::Fault;
use mainstay_stack::Stack;
use mainstay_stack::model::Promise;
use mainstay_types::{Secret, Timestamp};
use tokio::time::Instant;
use tokio_postgres::Client as Sql;

use crate::environment::Environment;
use crate::judge;
use crate::ledger;
use crate::log::Log;
use crate::measure::{percentile, wall_clock};
use crate::report::{Counts, Evidence, Measured, Promised, REPORT_VERSION, Report, RoundReport, Spread};
use crate::round::splitmix;
use crate::run::{Error, Options, Progress};

/// Rows of one drill, and the pause between two.
const ROWS: i64 = 60;
const PACE: Duration = Duration::from_millis(25);
/// Rows of the table that is dropped.
const DROPPED_ROWS: i64 = 5_000;
/// Between what must be there and what must not: commits are ordered by their times beyond doubt.
const APART: Duration = Duration::from_millis(50);
/// Longest wait for the archive beyond what is promised: then it is a broken promise, and waiting is over.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);
/// Longest round, and longest base backup before the first: what one needs grows with the database, and what takes
/// longer is not under way any more. **Basis**: 2 TB at 50 MB/s.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// How names of copies begin.
const COPY: &str = ".drill-";
const TABLE: &str = "mainstay_drill_rows";

/// What drills need of a stack's backups. Who has the repository implements it.
pub trait Repository {
    /// The past, open.
    type Past: Past;

    /// Folder of the repository.
    fn folder(&self) -> PathBuf;
    /// Sees to it that there is a base backup. True: one was taken.
    fn ensure(&self) -> impl Future<Output = Result<bool, String>>;
    /// Makes the primary finish its segment of WAL.
    fn finish_segment(&self) -> impl Future<Output = Result<(), String>>;
    /// When a segment was archived; `None`: it is not in the archive.
    fn archived_at(&self, segment: &str) -> Result<Option<Timestamp>, String>;
    /// Names of archived segments after the newest base backup, in order.
    fn segments(&self) -> Result<Vec<String>, String>;
    /// Opens the past at a moment, from this repository or a copy of it in another folder.
    fn open(&self, to: &str, copy: Option<&Path>) -> impl Future<Output = Result<Self::Past, String>>;
    /// Up to when what was archived is said to be in the second copy; `None`: it has no whole base backup yet.
    fn copied_until(&self) -> Result<Option<Timestamp>, String>;
    /// Opens the end of the past on a machine that has nothing: with what the store of the second copy gives and with
    /// the recovery card. For a positive control segments of WAL from `without` on are taken away before.
    fn open_copy(&self, without: Option<&str>) -> impl Future<Output = Result<(Self::Past, Fetched), Unopened>>;
    /// Checks the repository in a folder; what is wrong, one line each.
    fn check(&self, folder: &Path, read_data: bool) -> impl Future<Output = Result<Vec<String>, String>>;
    /// Removes what is left of a past that was given up while it was opened or open.
    fn clear(&self) -> impl Future<Output = ()>;
}

/// The past, open.
pub trait Past {
    /// Loopback port.
    fn port(&self) -> u16;
    /// Time for the files, time for the WAL.
    fn took(&self) -> (Duration, Duration);
    /// Ends it and removes its folder.
    fn close(self) -> impl Future<Output = ()>;
}

/// What came from the second copy.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    /// Files that came.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// How long that took.
    pub took: Duration,
}

/// Why a second copy was not opened.
#[derive(Clone, Debug)]
pub enum Unopened {
    /// This machine lacks something, as room on its disk: nothing is known of the copy.
    Here(String),
    /// It cannot be restored from.
    Copy(String),
}

/// What one round found.
#[derive(Default)]
struct Found {
    fault: String,
    is_proven: bool,
    rto: Option<Duration>,
    /// From the last commit until it was archived.
    rpo: Option<Duration>,
    counts: Counts,
    timeline: BTreeMap<String, u64>,
    reasons: Vec<String>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a drill of the backups and judges it.
///
/// **Errors**: it could not begin or go on. Nothing of the repository was changed.
pub async fn backups<R: Repository>(
    client: &Client,
    stack: &Stack,
    options: &Options,
    repository: &R,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    options.fault.applies(stack).map_err(Error::NotApplicable)?;
    let began = wall_clock();
    let mut log = Log::begin(options, began)?;
    let done = tokio::select! {
        done = rounds(client, options, options.fault.promise(stack), repository, progress) => done,
        reason = options.stop.wait() => Err(Error::Stopped(reason)),
    };
    match done {
        Ok(found) => {
            let report = report(stack, options, began, found);
            log.end(&report)?;
            Ok(report)
        }
        Err(error) => {
            // Dropped in the middle: a server of the past may run, and its folder is as large as the database.
            repository.clear().await;
            log.abort(&error.to_string())?;
            Err(error)
        }
    }
}

async fn rounds<R: Repository>(
    client: &Client,
    options: &Options,
    promised: Promise,
    repository: &R,
    progress: &mut dyn Progress,
) -> Result<Vec<(Timestamp, Found, Timestamp)>, Error> {
    if within(LONGEST, "no base backup was taken", repository.ensure()).await.map_err(Error::Backups)? {
        progress.say("there was no base backup: one was taken");
    }
    if options.fault == Fault::MachineLoss {
        machine::begun(repository, progress).await.map_err(Error::Backups)?;
    }
    let url = client.database().await?.ledger_url;
    let mut all = Vec::new();
    for number in 1..=options.runs {
        let began = wall_clock();
        let seed = splitmix(options.seed ^ u64::from(number) << 32);
        let round = Round { url: &url, options, promised, repository, seed };
        let found = async {
            match options.fault {
                Fault::DropTable => round.drop_table().await,
                Fault::CorruptBackup => round.corrupt_backup().await,
                Fault::MissingWal => round.missing_wal().await,
                Fault::MachineLoss => round.machine_loss().await,
                _ => round.backup_restore().await,
            }
        };
        // Large: it restores beside the present.
        let found = within(LONGEST, "the round did not end", Box::pin(found)).await.map_err(Error::Backups)?;
        let rto = found.rto.map_or("never".to_owned(), |rto| format!("{} ms", rto.as_millis()));
        progress.say(&format!("run {number}/{}: {}; rto {rto}", options.runs, found.fault));
        all.push((began, found, wall_clock()));
    }
    Ok(all)
}

struct Round<'a, R> {
    url: &'a Secret,
    options: &'a Options,
    promised: Promise,
    repository: &'a R,
    seed: u64,
}

/// The last commit of something.
struct Last {
    /// A moment just before it.
    at: Timestamp,
    /// The segment that holds it, or the one after that.
    segment: String,
}

async fn within<T>(longest: Duration, what: &str, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("{what} within {} h", longest.as_secs() / 3600));
    tokio::time::timeout(longest, work).await.unwrap_or_else(late)
}

/// A moment as `mainstay restore --to` reads it.
fn moment(at: Timestamp) -> String {
    // The server's clock has microseconds, and a time is written with them.
    let micros = at.as_micros().rem_euclid(1_000_000);
    let text = at.to_string();
    format!("{}.{micros:06}Z", text.get(..19).unwrap_or(&text))
}

async fn clock(sql: &Sql) -> Result<Timestamp, String> {
    let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let row = ledger::answer(sql.query_one(query, &[])).await?;
    Ok(Timestamp::from_micros(row.get(0)))
}

impl<R: Repository> Round<'_, R> {
    fn is_sabotaged(&self) -> bool {
        self.options.sabotage.is_some()
    }

    async fn sql(&self) -> Result<Sql, String> {
        ledger::answer(ledger::connect(self.url)).await
    }

    async fn run(&self, sql: &Sql, text: &str) -> Result<(), String> {
        ledger::answer(sql.batch_execute(text)).await
    }

    /// The ledger's role in the restored copy.
    async fn look(&self, past: &R::Past, query: &str) -> Result<Vec<i64>, String> {
        let mut config: tokio_postgres::Config =
            self.url.expose().parse().map_err(|error: tokio_postgres::Error| mainstay_types::full_text(&error))?;
        config = only(&config, past.port());
        let (client, connection) = ledger::answer(config.connect(tokio_postgres::NoTls)).await?;
        tokio::spawn(async move { connection.await.ok() });
        let rows = ledger::answer(client.query(query, &[])).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Until the segment of a commit is in the archive; how long that took since the commit. A segment that was archived
    /// after the commit need not hold it: on a busy machine the one before it comes late.
    async fn archived(&self, last: &Last) -> Result<Option<Duration>, String> {
        let begun = Instant::now();
        while begun.elapsed() < self.promised.rpo + ARCHIVED_WITHIN {
            if let Some(at) = self.repository.archived_at(&last.segment)? {
                return Ok(Some(at.saturating_since(last.at)));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    /// A moment after everything that was done, and a commit after that: replay to a time ends at the next commit.
    async fn end(&self, sql: &Sql) -> Result<Last, String> {
        let at = clock(sql).await?;
        tokio::time::sleep(APART).await;
        self.run(sql, &format!("CREATE TABLE {TABLE}_end (); DROP TABLE {TABLE}_end")).await?;
        let query = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        let row = ledger::answer(sql.query_one(query, &[])).await?;
        Ok(Last { at, segment: row.get(0) })
    }

    async fn open(&self, to: Timestamp) -> Result<R::Past, String> {
        self.repository.open(&moment(to), None).await
    }

    async fn backup_restore(&self) -> Result<Found, String> {
        let sql = self.sql().await?;
        self.run(&sql, &format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id bigint PRIMARY KEY)")).await?;
        let split = 10 + i64::try_from(self.seed % 40).unwrap_or(0);
        let mut at = clock(&sql).await?;
        for id in 1..=ROWS {
            self.run(&sql, &format!("INSERT INTO {TABLE} VALUES ({id})")).await?;
            if id == split {
                at = clock(&sql).await?;
                tokio::time::sleep(APART).await;
            }
            tokio::time::sleep(PACE).await;
        }
        let last = self.end(&sql).await?;
        let mut found = Found {
            fault: format!("{ROWS} rows were written and the past of {} wanted, after row {split}", moment(at)),
            is_proven: true,
            rpo: self.archived(&last).await?,
            ..Found::default()
        };
        if found.rpo.is_none() {
            // A broken promise, and no past to open.
            self.run(&sql, &format!("DROP TABLE {TABLE}")).await?;
            return Ok(found);
        }
        // A positive control opens another moment than was asked for.
        let to = if self.is_sabotaged() { last.at } else { at };
        let begun = Instant::now();
        let past = self.open(to).await?;
        let there = self.look(&past, &format!("SELECT id FROM {TABLE} ORDER BY id")).await;
        found.rto = Some(begun.elapsed());
        self.took(&mut found, &past);
        past.close().await;
        self.run(&sql, &format!("DROP TABLE {TABLE}")).await?;
        let there: BTreeSet<i64> = there?.into_iter().collect();
        found.counts.acknowledged = u64::try_from(split).unwrap_or(0);
        found.counts.lost = (1..=split).filter(|id| !there.contains(id)).count() as u64;
        found.counts.resurrected = there.iter().filter(|id| **id > split).count() as u64;
        Ok(found)
    }

    async fn drop_table(&self) -> Result<Found, String> {
        let sql = self.sql().await?;
        let make = format!(
            "DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} AS SELECT n AS id FROM generate_series(1, {DROPPED_ROWS}) AS n"
        );
        self.run(&sql, &make).await?;
        let before = clock(&sql).await?;
        tokio::time::sleep(APART).await;
        self.run(&sql, &format!("DROP TABLE {TABLE}")).await?;
        let after = self.end(&sql).await?;
        let gone = ledger::answer(sql.query_one("SELECT to_regclass($1) IS NULL", &[&TABLE])).await?;
        let mut found = Found {
            fault: format!("DROP TABLE of {DROPPED_ROWS} rows, and it is gone"),
            is_proven: gone.get(0),
            rpo: self.archived(&after).await?,
            ..Found::default()
        };
        if found.rpo.is_none() {
            return Ok(found);
        }
        let to = if self.is_sabotaged() { after.at } else { before };
        let begun = Instant::now();
        let past = self.open(to).await?;
        let there = self.look(&past, &format!("SELECT count(*) FROM {TABLE}")).await;
        found.rto = Some(begun.elapsed());
        self.took(&mut found, &past);
        past.close().await;
        let there = there.map_or(0, |rows| rows.first().copied().unwrap_or(0));
        found.counts.acknowledged = u64::try_from(DROPPED_ROWS).unwrap_or(0);
        found.counts.lost = u64::try_from(DROPPED_ROWS - there).unwrap_or(0);
        Ok(found)
    }

    async fn corrupt_backup(&self) -> Result<Found, String> {
        let copy = Copy::of(&self.repository.folder(), "corrupt")?;
        let mut packs = Vec::new();
        list(&copy.folder.join("restic/data"), &mut packs).map_err(|error| error.to_string())?;
        packs.sort();
        let pick = usize::try_from(self.seed % packs.len().max(1) as u64).unwrap_or(0);
        let pack = packs.get(pick).ok_or("the repository has no packs")?;
        let (at, size) = flip(pack, self.seed)?;
        let name = pack.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let begun = Instant::now();
        // A positive control looks at what is whole.
        let whole = self.repository.folder();
        let looked_at = if self.is_sabotaged() { &whole } else { &copy.folder };
        let faults = self.faults(looked_at, true).await;
        let took = begun.elapsed();
        let mut found = Found {
            fault: format!("one bit of byte {at} of {size} was flipped in a copy of pack {}", short(&name)),
            is_proven: true,
            ..Found::default()
        };
        let is_named = faults.iter().any(|fault| fault.contains(&name));
        // A check that broke off names nothing. What is not there once the bit is flipped back was found for its sake.
        let is_found = is_named
            || !faults.is_empty() && {
                flip(pack, self.seed)?;
                let others = self.faults(looked_at, true).await;
                faults.iter().any(|fault| !others.contains(fault))
            };
        if is_found {
            found.rto = Some(took);
        } else {
            let text = format!("the check did not find that {} is damaged: ", short(&name));
            found.reasons.push(text + &listed(&faults));
        }
        Ok(found)
    }

    /// What a check finds; that it cannot even begin is one of it.
    async fn faults(&self, folder: &Path, read_data: bool) -> Vec<String> {
        self.repository.check(folder, read_data).await.unwrap_or_else(|error| vec![error])
    }

    /// Three rows in segments of their own.
    async fn three_segments(&self, sql: &Sql) -> Result<[Last; 3], String> {
        self.run(sql, &format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id bigint PRIMARY KEY)")).await?;
        let mut ends = Vec::new();
        for id in 1..=3 {
            self.run(sql, &format!("INSERT INTO {TABLE} VALUES ({id})")).await?;
            ends.push(self.end(sql).await?);
            self.repository.finish_segment().await?;
        }
        self.run(sql, &format!("DROP TABLE {TABLE}")).await?;
        for end in &ends {
            if self.archived(end).await?.is_none() {
                return Err(format!("the segment {} is not archived", end.segment));
            }
        }
        ends.try_into().map_err(|_| "three rows have three segments".to_owned())
    }

    async fn missing_wal(&self) -> Result<Found, String> {
        let [before, victim, after] = self.three_segments(&self.sql().await?).await?;
        let copy = Copy::of(&self.repository.folder(), "missing")?;
        let removed = Removed::from(&copy, &victim.segment, &self.repository.segments()?)?;
        let mut found = Found {
            fault: format!("segment {} was removed from a copy of the archive", removed.name),
            is_proven: true,
            ..Found::default()
        };
        // A positive control looks where nothing is missing, and asks for a moment that does not need what is.
        let whole = self.repository.folder();
        let (looked_at, to) = if self.is_sabotaged() { (&whole, before.at) } else { (&copy.folder, after.at) };
        let begun = Instant::now();
        let faults = self.faults(looked_at, false).await;
        if faults.iter().any(|fault| removed.is_told_by(fault)) {
            found.rto = Some(begun.elapsed());
        } else {
            let text = format!("the check did not find that {} is missing: ", removed.name);
            found.reasons.push(text + &listed(&faults));
        }
        let begun = Instant::now();
        match self.repository.open(&moment(to), Some(&copy.folder)).await {
            Ok(past) => {
                past.close().await;
                let text = format!("a restore to {} did not need the missing segment {}", moment(to), removed.name);
                found.reasons.push(text);
            }
            Err(error) if error.contains(&removed.name) => {
                found.timeline.insert("refused".to_owned(), millis(begun.elapsed()));
            }
            Err(error) => {
                let text = format!("a restore was refused, and not for the missing segment {}: ", removed.name);
                found.reasons.push(text + &error);
            }
        }
        Ok(found)
    }

    fn took(&self, found: &mut Found, past: &R::Past) {
        let (restored, replayed) = past.took();
        found.timeline.insert("files restored".to_owned(), millis(restored));
        found.timeline.insert("WAL replayed".to_owned(), millis(restored + replayed));
    }
}

/// Faults that a check told, for a sentence.
fn listed(faults: &[String]) -> String {
    if faults.is_empty() { "it found nothing".to_owned() } else { faults.join("; ") }
}

/// A segment that is not in a copy of the archive any more.
struct Removed {
    name: String,
    /// The segments on both sides of it.
    around: [String; 2],
}

impl Removed {
    /// Removes one of the segments that are archived after the newest base backup.
    fn from(copy: &Copy, name: &str, segments: &[String]) -> Result<Self, String> {
        let around = segments.windows(3).find(|three| three[1] == name);
        let around = around.ok_or_else(|| format!("{name} is not between others: a base backup came meanwhile"))?;
        let mut files = Vec::new();
        list(&copy.folder.join("wal"), &mut files).map_err(|error| error.to_string())?;
        let is_it = |path: &&PathBuf| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")))
        };
        let file = files.iter().find(is_it).ok_or_else(|| format!("{name} is not in the copy"))?;
        fs::remove_file(file).map_err(|error| format!("cannot remove {}: {error}", file.display()))?;
        Ok(Self { name: name.to_owned(), around: [around[0].clone(), around[2].clone()] })
    }

    /// Whether a line of a check is about it: it names the gap by what is left on both sides.
    fn is_told_by(&self, fault: &str) -> bool {
        let [before, after] = &self.around;
        fault.contains("gap") && fault.contains(before.as_str()) && fault.contains(after.as_str())
    }
}

fn short(name: &str) -> &str {
    name.get(..8).unwrap_or(name)
}

/// The same role, password and database at another port of loopback.
fn only(config: &tokio_postgres::Config, port: u16) -> tokio_postgres::Config {
    let mut other = tokio_postgres::Config::new();
    other.host("127.0.0.1").port(port).application_name("mainstay drill");
    if let Some(user) = config.get_user() {
        other.user(user);
    }
    if let Some(password) = config.get_password() {
        other.password(password);
    }
    if let Some(database) = config.get_dbname() {
        other.dbname(database);
    }
    other
}

/// A copy of a repository out of hard links, beside it: it takes no space, and is gone when it is dropped.
struct Copy {
    folder: PathBuf,
}

impl Copy {
    fn of(folder: &Path, name: &str) -> Result<Self, String> {
        let text = |error: io::Error| format!("cannot copy {}: {error}", folder.display());
        // One drill at a time: what lies there is of one that was killed.
        for inner in fs::read_dir(folder).map_err(text)?.flatten() {
            if inner.file_name().to_string_lossy().starts_with(COPY) {
                fs::remove_dir_all(inner.path()).map_err(text)?;
            }
        }
        let copy = Self { folder: folder.join(format!("{COPY}{name}")) };
        fs::create_dir(&copy.folder).map_err(text)?;
        for inner in fs::read_dir(folder).map_err(text)? {
            let inner = inner.map_err(text)?;
            let name = inner.file_name();
            if !name.to_string_lossy().starts_with(COPY) {
                link(&inner.path(), &copy.folder.join(name)).map_err(text)?;
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Links: what they lead to stays.
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if !metadata.is_dir() {
        return fs::hard_link(from, to);
    }
    fs::create_dir(to)?;
    fs::set_permissions(to, metadata.permissions())?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    for inner in fs::read_dir(from)? {
        let inner = inner?;
        match link(&inner.path(), &to.join(inner.file_name())) {
            // Written and renamed, or freed, meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            linked => linked?,
        }
    }
    Ok(())
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Writes the file anew with one bit changed: the link's other end keeps what it has.
fn flip(path: &Path, seed: u64) -> Result<(u64, u64), String> {
    let text = |error: io::Error| format!("cannot change {}: {error}", path.display());
    let mut content = fs::read(path).map_err(text)?;
    let size = content.len() as u64;
    let at = splitmix(seed) % size.max(1);
    let byte = usize::try_from(at).ok().and_then(|at| content.get_mut(at)).ok_or("an empty pack")?;
    *byte ^= 1 << (seed % 8);
    fs::remove_file(path).and_then(|()| fs::write(path, content)).map_err(text)?;
    Ok((at, size))
}

/// Where a commit must come to be.
fn kept(fault: Fault) -> &'static str {
    if fault == Fault::MachineLoss { "in the second copy" } else { "archived" }
}

/// What breaks the promise in a round.
fn broken(fault: Fault, promise: Promise, number: u32, found: &Found) -> Vec<String> {
    let mut broken: Vec<String> = found.reasons.iter().map(|reason| format!("run {number}: {reason}")).collect();
    match found.rto {
        Some(rto) if rto > promise.rto => {
            let (rto, promised) = (rto.as_millis(), promise.rto.as_millis());
            broken.push(format!("run {number}: RTO {rto} ms, promised {promised} ms"));
        }
        None if found.reasons.is_empty() => broken.push(format!("run {number}: it did not come back")),
        Some(_) | None => {}
    }
    let is_about_rows = matches!(fault, Fault::BackupRestore | Fault::DropTable | Fault::MachineLoss);
    match found.rpo {
        Some(rpo) if rpo > promise.rpo => {
            let (rpo, promised) = (rpo.as_millis(), promise.rpo.as_millis());
            let kept = kept(fault);
            broken.push(format!("run {number}: the last commit was {kept} after {rpo} ms, promised {promised} ms"));
        }
        None if is_about_rows => broken.push(format!("run {number}: the last commit was not {}", kept(fault))),
        Some(_) | None => {}
    }
    let (lost, more) = (found.counts.lost, found.counts.resurrected);
    if lost + more > 0 {
        let text = format!("{lost} rows of before the moment are missing, {more} of after it are there");
        broken.push(format!("run {number}: {text}"));
    }
    broken
}

fn report(stack: &Stack, options: &Options, began: Timestamp, all: Vec<(Timestamp, Found, Timestamp)>) -> Report {
    let promise = options.fault.promise(stack);
    let (mut counts, mut reasons, mut voids) = (Counts::default(), Vec::new(), Vec::new());
    let mut rounds = Vec::new();
    for (number, (began, found, ended)) in (1..).zip(&all) {
        counts.add(&found.counts);
        reasons.extend(broken(options.fault, promise, number, found));
        if !found.is_proven {
            voids.push(format!("run {number}: the fault is not proven: {}", found.fault));
        }
        rounds.push(round(number, *began, found, *ended));
    }
    let verdict = match (reasons.is_empty(), voids.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Void,
        (true, true) => Verdict::Pass,
    };
    reasons.extend(voids);
    let rto: Vec<u64> = all.iter().filter_map(|(_, found, _)| found.rto).map(millis).collect();
    let mut timeline: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (what, took) in all.iter().flat_map(|(_, found, _)| &found.timeline) {
        timeline.entry(what.clone()).or_default().push(*took);
    }
    Report {
        version: REPORT_VERSION,
        drill: options.fault.name().to_owned(),
        verdict,
        runs: u32::try_from(all.len()).unwrap_or(u32::MAX),
        seed: options.seed,
        began,
        ended: wall_clock(),
        sabotage: options.sabotage.map(|sabotage| sabotage.name().to_owned()),
        promise: Promised {
            rto_ms: millis(promise.rto),
            rpo_ms: millis(promise.rpo),
            source: if promise.is_declared { "mainstay.toml" } else { "default" }.to_owned(),
        },
        extended: None,
        measured: Measured { rto_ms: Spread::of(&rto), counts, ..Measured::default() },
        latency: BTreeMap::new(),
        checks: Vec::new(),
        alerts: Vec::new(),
        history_sha256: None,
        strip: None,
        environment: Some(Environment::look()),
        timeline_ms: timeline.into_iter().map(|(what, took)| (what, percentile(&took, 50))).collect(),
        rounds,
        evidence: evidence(options, &all, rto, reasons),
    }
}

fn round(number: u32, began: Timestamp, found: &Found, ended: Timestamp) -> RoundReport {
    RoundReport {
        number,
        began,
        injected: Some(began),
        ended,
        fault: found.fault.clone(),
        is_proven: found.is_proven,
        rto_ms: found.rto.map(millis),
        stall_ms: None,
        whole_ms: None,
        load: BTreeMap::new(),
        timeline_ms: found.timeline.clone(),
        counts: found.counts.clone(),
    }
}

fn evidence(
    options: &Options,
    all: &[(Timestamp, Found, Timestamp)],
    rto_ms: Vec<u64>,
    reasons: Vec<String>,
) -> Evidence {
    let rpo = all.iter().filter_map(|(_, found, _)| found.rpo).max();
    let kept = kept(options.fault);
    let notes = rpo.map(|rpo| format!("the last commit was {kept} after {} ms at most", rpo.as_millis()));
    let of_fault = match options.fault {
        Fault::MachineLoss => "whether people still have the card and the keys of the store, elsewhere than here",
        _ => "loss of the folder of the backups itself",
    };
    let not_tested = [of_fault, "more data than the drill's own rows: `mainstay backup prove` compares every table"];
    Evidence {
        faults: all.iter().map(|(_, found, _)| found.fault.clone()).collect(),
        reasons,
        notes: notes.into_iter().collect(),
        rto_ms,
        load: "rows of one client through the router".to_owned(),
        not_tested: not_tested.map(str::to_owned).to_vec(),
        reproduce: judge::again(options),
        ..Evidence::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_leaves_what_it_was_made_of() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("restic/data/00")).expect("folder");
        let pack = folder.path().join("restic/data/00/00ab");
        fs::write(&pack, [7; 100]).expect("writes");
        let copy = Copy::of(folder.path(), "test").expect("copies");
        let copied = copy.folder.join("restic/data/00/00ab");
        flip(&copied, 12345).expect("flips");
        let (ours, theirs) = (fs::read(&copied).expect("reads"), fs::read(&pack).expect("reads"));
        assert_eq!((theirs, ours.iter().filter(|byte| **byte != 7).count()), (vec![7; 100], 1));
        drop(copy);
        assert!(!copied.exists() && pack.exists());
    }

    #[test]
    fn a_removed_segment_is_told_by_its_neighbours_and_by_no_other_gap() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("wal/7/0")).expect("folder");
        let names = ["A1", "A2", "A3", "A4"].map(str::to_owned);
        for name in &names {
            fs::write(folder.path().join(format!("wal/7/0/{name}-hash.zst.age")), [7]).expect("writes");
        }
        let copy = Copy::of(folder.path(), "test").expect("copies");
        assert!(Removed::from(&copy, "A4", &names).is_err(), "there must be WAL on both sides");
        assert!(Removed::from(&copy, "A5", &names).is_err());
        let removed = Removed::from(&copy, "A2", &names).expect("removes");
        let is_there = |folder: &Path, name: &str| folder.join(format!("wal/7/0/{name}-hash.zst.age")).exists();
        assert_eq!(["A1", "A2", "A3"].map(|name| is_there(&copy.folder, name)), [true, false, true]);
        assert!(is_there(folder.path(), "A2"));
        assert!(removed.is_told_by("gap in the archive: between A1 and A3"));
        for other in ["gap in the archive: between A3 and A5", "A1 is damaged, and A3", ""] {
            assert!(!removed.is_told_by(other), "{other:?}");
        }
    }

    #[test]
    fn a_moment_keeps_its_microseconds() {
        assert_eq!(moment(Timestamp::from_micros(1_795_669_948_500_123)), "2026-11-26T05:12:28.500123Z");
    }
}
