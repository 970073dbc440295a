//! `mainstay db import`: a dump, or a running database, into the stack's own, in one transaction.
//!
//! Whatever the source is, it becomes one stream of SQL that psql runs as the application's role, through the router.
//! The stream's own last line commits, and is sent only after the source ended well: whatever else ends this command
//! or psql, PostgreSQL takes everything back.

mod progress;
mod tar;

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use clap::Args;
use mainstay_postgres::import::{self, Filter, Format};
use mainstay_types::{Bytes, Timestamp, exit_code};

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;
use progress::Progress;

#[derive(Args)]
pub(crate) struct Options {
    /// A dump (SQL text, custom or tar archive, each also gzipped; a folder of pg_dump), `-` for one on the standard
    /// input, or a postgres:// URL
    source: String,
    /// All of the schema public (tables, views, functions, types) becomes the schema before_import_TIME first, in the same
    /// transaction; other schemas stay
    #[arg(long)]
    replace: bool,
}

/// How to reach the application's database.
pub(crate) struct Target {
    /// Without password.
    pub(crate) url: String,
    pub(crate) password: String,
    /// Folder of psql, pg_dump and pg_restore; `None`: from PATH.
    bin: Option<PathBuf>,
}

impl Target {
    pub(crate) fn new(url: String, password: String) -> Self {
        let bin = mainstay_postgres::find_programs(None).ok().map(|programs| programs.bin);
        Self { url, password, bin: bin.filter(|bin| bin.join("psql").is_file()) }
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.bin.as_ref().map_or_else(|| PathBuf::from(name), |bin| bin.join(name)))
    }

    fn psql(&self) -> Command {
        let mut psql = self.program("psql");
        // The password goes by the environment: arguments are seen by everyone on the machine.
        if !self.password.is_empty() {
            psql.env("PGPASSWORD", &self.password);
        }
        psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &self.url]);
        psql
    }

    /// One line of answer, if there is one; never asks for a password.
    fn ask_quietly(&self, sql: &str) -> Option<String> {
        let mut psql = self.psql();
        psql.args(["-qAt", "-w", "-c", sql]).env("PGCONNECT_TIMEOUT", "10").stdin(Stdio::null());
        let output = psql.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// One line of answer.
    fn ask(&self, sql: &str) -> Result<String, Failure> {
        let output =
            self.psql().args(["-qAt", "-c", sql]).stdin(Stdio::null()).output().map_err(|error| no_psql(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(Failure::failed("MS1013", format!("the database refused: {}", last_words(&output.stderr)))
            .help("nothing was imported; `mainstay status` shows whether the database is ready"))
    }
}

/// Tables of the application, and how many of them.
const TABLES: &str = "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
    AND n.nspname NOT LIKE 'before\\_import\\_%'";
const HISTORY: &str = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname IN ('flyway_schema_history', '_sqlx_migrations') \
    AND relnamespace = 'public'::regnamespace";

pub(crate) fn run(global: &Global, options: &Options, target: &Target) -> Result<u8, Failure> {
    if is_conninfo(&options.source) && !Path::new(&options.source).exists() {
        // None of it is repeated: there may be a password in it.
        let text = "a connection string of libpq (host=… user=…) is not taken, and none of it is shown here";
        return Err(Failure::user("MS2031", text).help("write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE"));
    }
    // Before the database is looked at: what is not there is imported into none.
    if options.source != "-" && !options.source.contains("://") {
        File::open(&options.source).map_err(|error| unreadable(&options.source, &error))?;
    }
    if let Some((scheme, _)) = options.source.split_once("://").filter(|_| !is_url(&options.source)) {
        // The rest of it is not repeated: there may be a password in it.
        return Err(unreadable(&format!("{scheme}://…"), &"only a running PostgreSQL is read"));
    }
    if is_url(&options.source) && options.source.contains("password=") {
        let text = "a password in the query of a URL is seen by everyone on the machine";
        return Err(Failure::user("MS2031", text).help("write it as postgres://USER:PASSWORD@HOST/DATABASE"));
    }
    if is_url(&options.source) {
        refuse_itself(&options.source, target)?;
    }
    let aside = if target.ask(TABLES)? == "0" {
        None
    } else if options.replace {
        Some(format!("before_import_{}", stamp(screen::now())))
    } else {
        return Err(Failure::refused("MS4004", "the database has tables already; an import would mix with them").help(
            "--replace moves all of the schema public aside first (nothing is deleted); `mainstay db psql -- -c '\\dt'` lists them",
        ));
    };
    let began = Instant::now();
    let source = Source::open(&options.source, target)?;
    eprintln!("importing {}", source.what);
    let (filter, rows) = pump(source, target, aside.as_deref(), !global.json)?;
    target.ask("ANALYZE")?;
    let tables: u64 = target.ask(TABLES)?.parse().unwrap_or(0);
    let size: u64 = target.ask("SELECT pg_database_size(current_database())")?.parse().unwrap_or(0);
    let lacks_history = target.ask(HISTORY)? == "0" && has_migrations(global);
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if global.json {
        let left_out = filter.left_out();
        let value = serde_json::json!({"tables": tables, "rows": rows, "database_bytes": size, "took_ms": took,
            "left_out": left_out, "kept_aside": aside, "lacks_migration_history": lacks_history});
        println!("{value}");
        return Ok(exit_code::DONE);
    }
    let (tables, rows) = (counted(tables, "table"), counted(rows, "row"));
    println!("imported {tables}, {rows} in {}; the database holds {}", screen::took(took), Bytes(size));
    for (what, count) in filter.left_out() {
        println!("  left out: {count} × {what} (everything belongs to the application's role here)");
    }
    if let Some(schema) = &aside {
        println!("  what was there is in the schema {schema}; when it is no longer needed:");
        println!("  {}", again::command(&format!("db psql -- -c 'DROP SCHEMA {schema} CASCADE'")));
    }
    if lacks_history {
        eprintln!(
            "hint: the stack has migrations, and the import brought no history of them: the next `up` begins at the first"
        );
    }
    Ok(exit_code::DONE)
}

/// `host=… user=…`, as libpq also takes it.
fn is_conninfo(source: &str) -> bool {
    let keys = ["host", "hostaddr", "port", "user", "dbname", "password", "passfile", "service", "sslmode"];
    let mut before = source.split('=').filter_map(|part| part.split_whitespace().next_back());
    !source.contains("://") && source.contains('=') && before.any(|word| keys.contains(&word))
}

fn is_url(source: &str) -> bool {
    source.starts_with("postgres://") || source.starts_with("postgresql://")
}

/// Which database that is, wherever and through whatever it is reached: a standby says the same as its primary.
const WHICH: &str = "SELECT s.system_identifier, d.oid FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d \
    WHERE d.datname = pg_catalog.current_database()";

/// "1 table", "2 tables".
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A database imported into itself would only be moved aside and copied.
fn refuse_itself(url: &str, target: &Target) -> Result<(), Failure> {
    let (shown, password) = super::db::without_password(url).unwrap_or_else(|| (url.to_owned(), String::new()));
    let source = Target { url: shown.clone(), password, bin: target.bin.clone() };
    // A source that does not answer is left to pg_dump, which says why.
    let there = source.ask_quietly(WHICH);
    if there.is_none() || there != target.ask(WHICH).ok() {
        return Ok(());
    }
    Err(Failure::refused("MS4006", format!("{shown} is this stack's own database, or a physical copy of it")).help(
        "nothing was imported; to import from a copy that was restored elsewhere, dump it by pg_dump and import the file",
    ))
}

fn has_migrations(global: &Global) -> bool {
    crate::place::read(global)
        .is_ok_and(|place| place.parsed.stack.database.is_some_and(|database| database.migrations.is_some()))
}

/// `20261126t081502123`, UTC, with milliseconds.
fn stamp(now: Timestamp) -> String {
    now.to_string().chars().filter(char::is_ascii_alphanumeric).take(18).collect::<String>().to_lowercase()
}

/// Where the SQL comes from.
struct Source {
    what: String,
    reader: Box<dyn BufRead>,
    /// Programs that make it; all must end well before anything is committed.
    makers: Vec<Maker>,
}

fn unreadable(place: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::user("MS2031", format!("cannot read {place}: {error}"))
        .help("a dump of pg_dump (text, custom, tar, folder; gzipped or not) or a postgres:// URL is taken")
}

/// What a dump on the standard input is called.
const STANDARD_INPUT: &str = "the standard input";

impl Source {
    fn open(source: &str, target: &Target) -> Result<Self, Failure> {
        if is_url(source) {
            return Self::of_database(source, target);
        }
        if source == "-" {
            return Self::of_standard_input(target);
        }
        let path = Path::new(source);
        if path.is_dir() {
            if !path.join("toc.dat").is_file() {
                return Err(unreadable(source, &"a folder without toc.dat is none of pg_dump's"));
            }
            return Self::of_archive(target, Input::Path(path), format!("{source} (folder of pg_dump)"), Vec::new());
        }
        let mut file = File::open(path).map_err(|error| unreadable(source, &error))?;
        let head = head_of(&mut file).map_err(|error| unreadable(source, &error))?;
        match Format::of(&head) {
            Format::Sql => {
                Ok(Self { what: format!("{source} (SQL)"), reader: Box::new(again(head, file)), makers: Vec::new() })
            }
            Format::Tar => {
                // pg_restore waits for ever for the rest of one that was cut off.
                let archive = again(head, file);
                let is_whole = tar::is_whole(archive).map_err(|error| unreadable(source, &error))?;
                if !is_whole {
                    return Err(cut_off(source));
                }
                Self::of_archive(target, Input::Path(path), format!("{source} (archive)"), Vec::new())
            }
            Format::Custom => Self::of_archive(target, Input::Path(path), format!("{source} (archive)"), Vec::new()),
            Format::Gzip => Self::of_gzip(source, Input::Path(path), target),
            Format::Unknown => Err(unreadable(source, &"neither SQL text nor an archive of pg_dump")),
        }
    }

    /// What comes through a pipe cannot be looked at before: that it was whole is known at its end, and until then
    /// nothing is committed.
    fn of_standard_input(target: &Target) -> Result<Self, Failure> {
        let input = std::io::stdin();
        if input.is_terminal() {
            return Err(Failure::user("MS2031", "the standard input is a terminal, and no dump comes from there")
                .help("as in `pg_dump -Fc shop | mainstay db import -`, or `mainstay db import - < shop.dump`"));
        }
        eprintln!("reading a dump from {STANDARD_INPUT}");
        let cannot = |error: std::io::Error| unreadable(STANDARD_INPUT, &error);
        // A handle that another thread may read.
        let mut input = File::from(input.as_fd().try_clone_to_owned().map_err(cannot)?);
        let head = head_of(&mut input).map_err(cannot)?;
        let format = Format::of(&head);
        let what = |kind: &str| format!("{STANDARD_INPUT} ({kind})");
        match format {
            Format::Sql => Ok(Self { what: what("SQL"), reader: Box::new(again(head, input)), makers: Vec::new() }),
            Format::Custom | Format::Tar => {
                let stream = Input::Stream(Box::new(again(head, input)), format == Format::Tar);
                Self::of_archive(target, stream, what("archive"), Vec::new())
            }
            Format::Gzip => {
                let stream = Input::Stream(Box::new(again(head, input)), false);
                Self::of_gzip(STANDARD_INPUT, stream, target)
            }
            Format::Unknown => Err(unreadable(STANDARD_INPUT, &"neither SQL text nor an archive of pg_dump")),
        }
    }

    fn of_gzip(source: &str, packed: Input<'_>, target: &Target) -> Result<Self, Failure> {
        let mut gzip = Command::new("gzip");
        gzip.arg("-dc");
        let packed = match packed {
            Input::Path(path) => {
                gzip.arg("--").arg(path);
                None
            }
            Input::Stream(stream, _) => {
                gzip.stdin(Stdio::piped());
                Some(stream)
            }
        };
        let (mut maker, mut out) = spawn(&mut gzip, "gzip")?;
        if let (Some(mut stream), Some(mut stdin)) = (packed, maker.stdin.take()) {
            // Its end closes the pipe, and an end that comes too early is an error of gzip's.
            std::thread::spawn(move || std::io::copy(&mut stream, &mut stdin));
        }
        let head = head_of(&mut out).map_err(|error| unreadable(source, &error))?;
        match Format::of(&head) {
            Format::Sql => {
                let (what, reader) = (format!("{source} (SQL, gzipped)"), Box::new(again(head, out)));
                Ok(Self { what, reader, makers: vec![Maker::new("gzip", maker)] })
            }
            format @ (Format::Custom | Format::Tar) => {
                let what = format!("{source} (archive, gzipped)");
                let stream = Input::Stream(Box::new(again(head, out)), format == Format::Tar);
                Self::of_archive(target, stream, what, vec![Maker::new("gzip", maker)])
            }
            Format::Gzip | Format::Unknown => {
                maker.kill().ok();
                maker.wait().ok();
                Err(unreadable(source, &"what is gzipped in it is neither SQL text nor an archive of pg_dump"))
            }
        }
    }

    fn of_archive(target: &Target, input: Input<'_>, what: String, mut makers: Vec<Maker>) -> Result<Self, Failure> {
        let mut restore = target.program("pg_restore");
        restore.args(["--no-owner", "--no-privileges", "--file=-"]);
        match input {
            Input::Path(path) => {
                restore.arg(path);
            }
            Input::Stream(..) => {
                restore.stdin(Stdio::piped());
            }
        }
        let (mut child, out) = spawn(&mut restore, "pg_restore")?;
        let stdin = child.stdin.take();
        let maker = Maker::new("pg_restore", child);
        if let (Input::Stream(mut stream, is_tar), Some(mut stdin)) = (input, stdin) {
            let (cut, victim) = (Arc::clone(&maker.is_cut_off), process_of(&maker.child)?);
            // Its end closes the pipe; that it was whole is told by the exit statuses of both.
            std::thread::spawn(move || {
                let mut watched = tar::Watched::new(&mut stream);
                let mut copied = std::io::copy(&mut watched, &mut stdin);
                drop(stdin);
                if copied.is_err() {
                    // pg_restore does not read a tar's last member and closes the pipe: whoever feeds us must still end
                    // well. Its own failure is told by its exit status.
                    copied = std::io::copy(&mut watched, &mut std::io::sink());
                }
                if is_tar && copied.is_ok() && !watched.is_whole() {
                    cut.store(true, Ordering::SeqCst);
                    // It waits for ever for the rest of an archive that was cut off.
                    rustix::process::pidfd_send_signal(&victim, rustix::process::Signal::KILL).ok();
                }
            });
        }
        makers.push(maker);
        Ok(Self { what, reader: Box::new(BufReader::new(out)), makers })
    }

    fn of_database(url: &str, target: &Target) -> Result<Self, Failure> {
        let (shown, password) = super::db::without_password(url).unwrap_or_else(|| (url.to_owned(), String::new()));
        let mut dump = target.program("pg_dump");
        if !password.is_empty() {
            dump.env("PGPASSWORD", password);
        }
        dump.args(["--no-owner", "--no-privileges", "--no-password", "--dbname", &shown]);
        let (child, out) = spawn(&mut dump, "pg_dump")?;
        let what = format!("{shown} (a running database; it is read in one snapshot)");
        Ok(Self { what, reader: Box::new(BufReader::new(out)), makers: vec![Maker::new("pg_dump", child)] })
    }
}

impl Source {
    /// Everything that makes the SQL has ended, and ended well.
    fn ended_well(&mut self) -> Result<(), Failure> {
        for maker in &mut self.makers {
            ended_well(maker)?;
        }
        Ok(())
    }
}

enum Input<'a> {
    Path(&'a Path),
    /// And whether it is a tar archive.
    Stream(Box<dyn Read + Send>, bool),
}

/// A process by a handle that no other process can take over.
fn process_of(child: &Child) -> Result<rustix::fd::OwnedFd, Failure> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|error| Failure::bug(format!("cannot hold pg_restore: {error}")))
}

fn cut_off(place: &str) -> Failure {
    unreadable(place, &"the archive is cut off: its end is missing")
}

/// What a program says, read while it runs: a dump with ten thousand notices would fill the pipe, and whoever writes
/// it and whoever feeds it would wait for each other for ever. The end of it is kept.
struct Said(Option<JoinHandle<Vec<u8>>>);

/// More than the last lines of a message take.
const SAID_KEPT: usize = 16 * 1024;

impl Said {
    fn of(stderr: Option<ChildStderr>) -> Self {
        Self(stderr.map(|mut stderr| {
            std::thread::spawn(move || {
                let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stderr.read(&mut piece) {
                    kept.extend_from_slice(piece.get(..length).unwrap_or_default());
                    let surplus = kept.len().saturating_sub(SAID_KEPT);
                    kept.drain(..surplus);
                }
                kept
            })
        }))
    }

    fn all(&mut self) -> Vec<u8> {
        self.0.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// A program that makes the SQL, or a part of it.
struct Maker {
    name: &'static str,
    child: Child,
    said: Said,
    /// What it was given ended before its end, and it was killed for that.
    is_cut_off: Arc<AtomicBool>,
}

impl Maker {
    fn new(name: &'static str, mut child: Child) -> Self {
        let said = Said::of(child.stderr.take());
        Self { name, child, said, is_cut_off: Arc::default() }
    }
}

fn spawn(command: &mut Command, name: &'static str) -> Result<(Child, ChildStdout), Failure> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
        Failure::environment("MS3004", format!("cannot run {name}: {error}"))
            .help("apt-get install --no-install-recommends postgresql-client gzip")
    })?;
    let out = child.stdout.take().ok_or_else(|| Failure::bug(format!("{name} has no output")))?;
    Ok((child, out))
}

fn no_psql(error: &std::io::Error) -> Failure {
    Failure::environment("MS3004", format!("cannot run psql: {error}")).help("apt-get install postgresql-client")
}

/// The first bytes, enough to tell a format.
fn head_of(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn again<R: Read>(head: Vec<u8>, rest: R) -> BufReader<std::io::Chain<std::io::Cursor<Vec<u8>>, R>> {
    BufReader::with_capacity(256 * 1024, std::io::Cursor::new(head).chain(rest))
}

/// Rows that PostgreSQL took, by what psql says of each statement: `COPY 3`, `INSERT 0 1`. Rows of answers begin with
/// a space.
struct Rows {
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Rows {
    fn of(stdout: Option<ChildStdout>) -> Self {
        let count = Arc::<AtomicU64>::default();
        let sum = Arc::clone(&count);
        let read = |stdout: ChildStdout| {
            std::thread::spawn(move || {
                let (mut out, mut line) = (BufReader::new(stdout), Vec::new());
                // What is longer than a tag is an answer, which is not held.
                while let Ok(1..) = (&mut out).take(TAG).read_until(b'\n', &mut line) {
                    sum.fetch_add(rows_of(&line), Ordering::Relaxed);
                    if line.last() != Some(&b'\n') && out.skip_until(b'\n').is_err() {
                        return;
                    }
                    line.clear();
                }
            })
        };
        Self { count, thread: stdout.map(read) }
    }

    fn all(&mut self) -> u64 {
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.count.load(Ordering::Relaxed)
    }
}

/// `INSERT`, an object's id and a number of rows need no more.
const TAG: u64 = 64;

fn rows_of(tag: &[u8]) -> u64 {
    let text = std::str::from_utf8(tag).unwrap_or_default().trim_end();
    let count =
        text.strip_prefix("COPY ").or_else(|| text.strip_prefix("INSERT ")?.split_once(' ').map(|(_, rows)| rows));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Runs the SQL of the source; answers what the filter saw, and how many rows PostgreSQL took. On any fault nothing
/// is kept.
fn pump(mut source: Source, target: &Target, aside: Option<&str>, talk: bool) -> Result<(Filter, u64), Failure> {
    let mut psql = target.psql();
    psql.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut psql = psql.spawn().map_err(|error| no_psql(&error))?;
    let mut said = Said::of(psql.stderr.take());
    let mut rows = Rows::of(psql.stdout.take());
    let progress = Progress::begin(talk && std::io::stderr().is_terminal(), &rows.count);
    let key = format!("mainstay{:x}", screen::now().as_micros());
    let preamble = preamble(&key, aside);
    // What psql counts as well, and is no line of the dump.
    let before = preamble.lines().count();
    let filter = match feed(&mut source, &mut psql, (&preamble, &key), &progress) {
        Ok(filter) => filter,
        Err(Fault::Psql) => return Err(psql_failed(psql, &mut said, before)),
        Err(Fault::Source(failure)) => {
            psql.kill().ok();
            psql.wait().ok();
            stop(&mut source.makers);
            return Err(failure);
        }
    };
    drop(psql.stdin.take());
    let status = psql.wait().map_err(|error| no_psql(&error))?;
    if !status.success() {
        return Err(refused_by_psql(&said.all(), before));
    }
    Ok((filter, rows.all()))
}

enum Fault {
    /// psql takes no more: it says why.
    Psql,
    Source(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

fn stop(makers: &mut [Maker]) {
    for maker in makers {
        maker.child.kill().ok();
        maker.child.wait().ok();
    }
}

/// What is said before the dump.
fn preamble(key: &str, aside: Option<&str>) -> String {
    let preamble = import::preamble(key);
    let Some(schema) = aside else { return preamble };
    // In the same transaction, but before psql is restricted to what the dump says.
    let moved = format!("ALTER SCHEMA public RENAME TO {schema};\nCREATE SCHEMA public;\n\\restrict");
    preamble.replacen("\\restrict", &moved, 1)
}

/// `around`: what is said before the dump, and the key that ends it.
fn feed(source: &mut Source, psql: &mut Child, around: (&str, &str), progress: &Progress) -> Result<Filter, Fault> {
    let (preamble, key) = around;
    let mut out = psql.stdin.take().ok_or_else(|| Failure::bug("psql has no input"))?;
    let mut send = |bytes: &[u8]| out.write_all(bytes).map_err(|_| Fault::Psql);
    send(preamble.as_bytes())?;
    let mut filter = Filter::default();
    let mut part = Vec::new();
    loop {
        let length = next_part(&mut source.reader, &mut part).map_err(|error| unreadable(&source.what, &error))?;
        if part.is_empty() {
            break;
        }
        progress.read(length);
        // A part shorter than the most has met the end, of its line or of all.
        let is_last = part.last() == Some(&b'\n') || part.len() < import::PART;
        match filter.part(&part, is_last) {
            Ok(taken) => {
                send(sent(part.get(..taken.bytes).unwrap_or_default(), taken.passes))?;
                part.drain(..taken.bytes);
            }
            Err(refused) => {
                if is_last && part.last() != Some(&b'\n') {
                    // Half a line: what was cut off it says more than what is left of it.
                    source.ended_well()?;
                }
                let text = format!("{}: {refused}", source.what);
                let help = "nothing was imported; make the dump of one database, by pg_dump without --create";
                return Err(Failure::user("MS2032", text).help(help).into());
            }
        }
    }
    progress.read_all();
    source.ended_well()?;
    if filter.is_cut_off() || filter.is_empty() {
        let why = if filter.is_empty() && !filter.is_cut_off() { "nothing is in it" } else { "it is cut off" };
        return Err(Failure::user("MS2031", format!("{}: {why}", source.what)).help("nothing was imported").into());
    }
    send(import::end(key).as_bytes())?;
    psql.stdin = Some(out);
    Ok(filter)
}

/// What psql is given of a part of the dump. Of a line that is left out the end stays: psql counts lines, and names those
/// of the dump.
fn sent(part: &[u8], passes: bool) -> &[u8] {
    match part.split_last() {
        _ if passes => part,
        Some((b'\n', _)) => b"\n",
        _ => b"",
    }
}

/// Reads on behind what is left of the last part, to the end of the line or up to [`import::PART`] bytes.
fn next_part(reader: &mut dyn BufRead, part: &mut Vec<u8>) -> std::io::Result<u64> {
    let room = import::PART.saturating_sub(part.len());
    Ok(reader.take(room as u64).read_until(b'\n', part)? as u64)
}

fn ended_well(maker: &mut Maker) -> Result<(), Failure> {
    let name = maker.name;
    let words = maker.said.all();
    let status = maker.child.wait().map_err(|error| Failure::bug(format!("{name}: {error}")))?;
    if maker.is_cut_off.load(Ordering::SeqCst) {
        return Err(
            cut_off("the stream").help("nothing was imported; `tar -t` shows where the (unpacked) archive ends")
        );
    }
    if status.success() {
        return Ok(());
    }
    Err(Failure::failed("MS1013", format!("{name} failed ({status}): {}", last_words(&words)))
        .help("nothing was imported, the database is as it was"))
}

fn psql_failed(mut psql: Child, said: &mut Said, before: usize) -> Failure {
    drop(psql.stdin.take());
    match psql.wait() {
        Ok(_) => refused_by_psql(&said.all(), before),
        Err(error) => no_psql(&error),
    }
}

/// `before`: lines of psql's input that are none of the dump.
fn refused_by_psql(stderr: &[u8], before: usize) -> Failure {
    let words = of_dump(&last_words(stderr), before);
    let help = if words.contains("\\restrict") {
        "this psql is too old to run a foreign dump safely: apt-get install --only-upgrade postgresql-client"
    } else {
        "nothing was imported, the database is as it was; extensions that need a superuser are made by `CREATE EXTENSION` first"
    };
    Failure::failed("MS1013", format!("PostgreSQL refused the dump: {words}")).help(help)
}

/// `psql:<stdin>:12: ERROR` as `line 7: ERROR`, when five lines of psql's input stand before the dump.
fn of_dump(words: &str, before: usize) -> String {
    const MARK: &str = "psql:<stdin>:";
    let mut parts = words.split(MARK);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.split_once(':').and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
        match number.filter(|(number, _)| *number > before) {
            Some((number, rest)) => out.push_str(&format!("line {}:{rest}", number - before)),
            None => out.push_str(&format!("{MARK}{part}")),
        }
    }
    out
}

/// The last lines of what a program said.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(5);
    lines.get(from..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_of_libpq_is_told_from_a_file() {
        for text in ["host=127.0.0.1 user=x password=hunter2", "password = 'a b'  host = h", "dbname=shop"] {
            assert!(is_conninfo(text), "{text}");
        }
        for text in ["shop.dump", "a=b.sql", "host", "-", "postgres://u:p@h/d?host=x"] {
            assert!(!is_conninfo(text), "{text}");
        }
    }

    #[test]
    fn lines_that_are_left_out_keep_their_numbers() {
        let dump =
            "ALTER TABLE a\n    OWNER TO bob;\nGRANT ALL ON a TO bob;\nCREATE TABLE a (x int);\nINSERT INTO b;\n";
        let mut filter = Filter::default();
        let given: Vec<u8> = dump
            .split_inclusive('\n')
            .flat_map(|line| sent(line.as_bytes(), filter.passes(line.as_bytes()).expect("harmless")).to_vec())
            .collect();
        let given = String::from_utf8(given).expect("text");
        assert_eq!(given.lines().nth(4), Some("INSERT INTO b;"), "{given:?}");
        assert!(!given.contains("GRANT"), "{given:?}");
        assert_eq!(sent(b"half of a line", false), b"");
    }

    #[test]
    fn lines_that_psql_names_are_those_of_the_dump() {
        let words = "psql:<stdin>:12: ERROR:  no table x; LINE 1: SELECT; psql:<stdin>:5: error: invalid \\restrict";
        let of_dump = of_dump(words, 5);
        assert_eq!(of_dump, "line 7: ERROR:  no table x; LINE 1: SELECT; psql:<stdin>:5: error: invalid \\restrict");
        // As many lines as psql is given.
        let count = |aside| preamble("k", aside).matches('\n').count();
        assert_eq!((count(None), preamble("k", None).lines().count()), (3, 3));
        assert_eq!((count(Some("x")), preamble("k", Some("x")).lines().count()), (5, 5));
    }
}
