//! What happened, as the WAL has it: commits, rollbacks and restore points by PostgreSQL's own `pg_waldump`, whose
//! version is that of the server that wrote it; and names of relations that were made, which it does not print.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mainstay_decide::past::{RELATION, Record, What};
use mainstay_types::{Lsn, Timestamp};

use crate::layout::Layout;

/// Size of a segment: `initdb`'s default, which mainstay leaves.
const SEGMENT: u64 = 16 << 20;
/// Page of the WAL: the only size that distributions build.
const PAGE: usize = 8192;
static EMPTY: [u8; PAGE] = [0; PAGE];
/// Headers of the first page of a segment, and of every other (`SizeOfXLogLongPHD`, `SizeOfXLogShortPHD`).
const LONG_HEADER: usize = 40;
const SHORT_HEADER: usize = 24;
/// Length of a record's header, `SizeOfXLogRecord`.
const RECORD_HEADER: usize = 24;
/// Length of a name in the catalog, with the zeros at its end.
const NAME: usize = 64;
/// Between PostgreSQL's epoch and ours. **Unit**: microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The table access method `heap` has this number in every catalog (`HEAP_TABLE_AM_OID`).
const HEAP: u32 = 2;

/// Why the WAL could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The program did not start, or its words could not be read.
    #[error("cannot run {program}")]
    Run {
        /// Its path.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It came to what is no WAL.
    #[error("pg_waldump stopped: {0}")]
    Stopped(String),
}

/// Files of WAL in a folder, all named as of one timeline.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Timeline of their names.
    pub timeline: u32,
    /// Where to begin: records before it are left out.
    pub from: Lsn,
    /// Where the last one ends.
    pub to: Lsn,
}

/// Gives the records of some files, in order. The program runs as the server's user, who must be able to read them: what
/// it reads was written by a server, and may be made to mislead it.
///
/// **Errors**: see [`DumpError`]; [`DumpError::Stopped`] after every record that could be read.
pub fn read(layout: &Layout, files: Files<'_>, see: &mut dyn FnMut(Record)) -> Result<(), DumpError> {
    let program = layout.program("pg_waldump");
    let failed = |source| DumpError::Run { program: program.clone(), source };
    let mut command = command(layout);
    command.args(["--rmgr", "Transaction", "--rmgr", "XLOG", "--path"]).arg(files.folder);
    command.args(["--timeline", &files.timeline.to_string()]);
    command.args(["--start", &files.from.to_string(), "--end", &files.to.to_string()]);
    let mut child = command.spawn().map_err(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Its few words of complaint come at its end; a pipe holds them.
    let mut broken = None;
    for line in out.into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        let Some(mut record) = parse(&String::from_utf8_lossy(&line)) else { continue };
        if matches!(record.what, What::Point(_)) {
            record.at = point_time(files, record.lsn);
        }
        see(record);
    }
    let mut words = String::new();
    if let Some(err) = err {
        err.take(64 << 10).read_to_string(&mut words).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if let Some(error) = broken {
        return Err(failed(error));
    }
    if status.success() { Ok(()) } else { Err(DumpError::Stopped(words.trim().replace('\n', " / "))) }
}

/// The program as the server's user.
pub(crate) fn command(layout: &Layout) -> Command {
    let mut command = Command::new(layout.program("pg_waldump"));
    command.env_clear().env("TZ", "UTC").env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = &layout.user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// A line of `pg_waldump`; `None`: a record of another kind, or no record.
///
/// **Source**: `src/bin/pg_waldump/pg_waldump.c`, `src/backend/access/rmgrdesc/xactdesc.c`, `xlogdesc.c`, of 15 to 18.
fn parse(line: &str) -> Option<Record> {
    let rest = line.strip_prefix("rmgr: ")?;
    let (head, described) = rest.split_once(", desc: ")?;
    let field = |name: &str| {
        let value = head.split_once(name)?.1.trim_start();
        value.split([',', ' ']).next()
    };
    let lsn: Lsn = field(" lsn:")?.parse().ok()?;
    let own: u32 = field(" tx:")?.parse().ok()?;
    let (what, text) = described.split_once(' ')?;
    match what {
        "RESTORE_POINT" if head.starts_with("XLOG") => {
            Some(Record { lsn, at: None, what: What::Point(text.to_owned()) })
        }
        "COMMIT" | "COMMIT_PREPARED" | "ABORT" | "ABORT_PREPARED" if head.starts_with("Transaction") => {
            // Of a prepared one the record is another transaction's: its own number stands before the time.
            let (xid, text) = match text.split_once(": ") {
                Some((number, rest)) if number.parse::<u32>().is_ok() => (number.parse().ok()?, rest),
                _ => (own, text),
            };
            let mut parts = text.split("; ");
            let at = parts.next().and_then(time);
            let (mut subxacts, mut dropped) = (Vec::new(), Vec::new());
            for part in parts {
                if let Some(list) = part.strip_prefix("subxacts: ") {
                    subxacts.extend(list.split(' ').filter_map(|one| one.parse::<u32>().ok()));
                } else if let Some(list) = part.strip_prefix("dropped stats: ") {
                    dropped.extend(list.split(' ').filter_map(relation));
                }
            }
            let what = if what.starts_with("COMMIT") {
                What::Commit { xid, subxacts, dropped }
            } else {
                What::Abort { xid, subxacts }
            };
            Some(Record { lsn, at, what })
        }
        _ => None,
    }
}

/// `2/5/16384`: kind, database, number.
fn relation(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_end_matches(',').split('/').map(str::parse::<u32>);
    let (kind, database, number) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    (kind == RELATION).then_some((database, number))
}

/// `2026-11-27 10:01:42.777763 UTC`.
fn time(text: &str) -> Option<Timestamp> {
    match mainstay_decide::past::Moment::parse(text.strip_suffix(" UTC")?) {
        Ok(mainstay_decide::past::Moment::Time(at)) => Some(at),
        _ => None,
    }
}

/// When a restore point was made: `pg_waldump` leaves it out. `None`: its record lies on two pages.
///
/// **Source**: `src/include/access/xlog_internal.h`, `xl_restore_point`.
fn point_time(files: Files<'_>, lsn: Lsn) -> Option<Timestamp> {
    use std::os::unix::fs::FileExt;
    let (size, at) = (SEGMENT, lsn.as_u64());
    let (log, part) = (at >> 32, (at & 0xFFFF_FFFF) / size);
    let name = format!("{:08X}{log:08X}{part:08X}", files.timeline);
    let file = std::fs::File::open(files.folder.join(name)).ok()?;
    // Behind the header: a short block of data follows, its length, and the time first in it.
    let mut bytes = [0_u8; RECORD_HEADER + 2 + 8];
    let within = usize::try_from(at % PAGE as u64).ok()?;
    if within + bytes.len() > PAGE {
        return None;
    }
    file.read_exact_at(&mut bytes, at % size).ok()?;
    let data = bytes.get(RECORD_HEADER..)?;
    let [255, length, time @ ..] = data else { return None };
    let micros = i64::from_ne_bytes(time.try_into().ok()?);
    (usize::from(*length) == 8 + NAME).then(|| Timestamp::from_micros(micros.saturating_add(EPOCH_MICROS)))
}

/// Looks for relations of a name among the bytes of the WAL: the row of the catalog by which one was made is in it whole,
/// in a record or in the picture of its page. What is found is a candidate, to be looked up in the past itself.
#[derive(Debug)]
pub struct Names {
    wanted: [u8; NAME],
    /// The end of what was seen last: a row may lie across two pages, or two segments.
    carried: Vec<u8>,
    /// Numbers of relations.
    pub found: BTreeSet<u32>,
}

/// Number, name, schema, type, type of a typed table, owner, access method: how a row of `pg_class` begins since 12.
const ROW: usize = 4 + NAME + 5 * 4;

impl Names {
    /// For this name; `None`: it is none.
    pub fn new(name: &str) -> Option<Self> {
        let mut wanted = [0; NAME];
        // One zero at its end is part of it.
        if name.is_empty() || name.len() >= NAME {
            return None;
        }
        wanted.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { wanted, carried: Vec::new(), found: BTreeSet::new() })
    }

    /// What follows is not what comes after what was seen.
    pub fn begin_anew(&mut self) {
        self.carried.clear();
    }

    /// Looks at the next segment.
    pub fn see(&mut self, segment: &[u8]) {
        let mut plain = std::mem::take(&mut self.carried);
        for (number, page) in segment.chunks(PAGE).enumerate() {
            // Of a segment that was finished early most pages.
            if page == EMPTY.as_slice() {
                continue;
            }
            let header = if number == 0 { LONG_HEADER } else { SHORT_HEADER };
            plain.extend_from_slice(page.get(header..).unwrap_or_default());
        }
        let first = self.wanted[0];
        for (at, _) in plain.iter().enumerate().skip(4).filter(|(_, byte)| **byte == first) {
            if plain.get(at..at + NAME).is_some_and(|name| name == self.wanted) {
                self.found.extend(plain.get(at - 4..at - 4 + ROW).and_then(table));
            }
        }
        self.carried = plain.split_off(plain.len().saturating_sub(ROW));
    }
}

/// The number of a table whose row this is: one of a heap, or of a partitioned table, which has no access method.
fn table(row: &[u8]) -> Option<u32> {
    let number = |at: usize| row.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (oid, schema, of_type, typed) = (number(0)?, number(68)?, number(72)?, number(76)?);
    let method = number(84)?;
    // Numbers below belong to the catalog; `public` is one of them.
    const FIRST_OWN: u32 = 16384;
    let is_table = oid >= FIRST_OWN && schema > 0 && of_type >= FIRST_OWN && (typed == 0 || typed >= FIRST_OWN);
    (is_table && (method == HEAP || method == 0 || method >= FIRST_OWN)).then_some(oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It ran as root.
    #[test]
    fn the_program_runs_as_the_servers_user() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("sets");
        let (text, program) = (folder.path().join("text"), folder.path().join("pg_waldump"));
        std::fs::write(&text, "#!/bin/sh\necho \"user $(id -u), group $(id -g)\" >&2\nexit 1\n").expect("writes");
        // By another process: a file that we have open, or a child of ours, cannot be run.
        let made = Command::new("install").args(["-m", "755"]).args([&text, &program]).status();
        assert!(made.expect("runs").success());
        let words = |user: Option<mainstay_supervisor::protocol::User>| {
            let (state, runtime, bin) = (folder.path().into(), folder.path().into(), folder.path().into());
            let layout = Layout { state, runtime, bin, user };
            let files = Files { folder: folder.path(), timeline: 1, from: Lsn::new(0), to: Lsn::new(1) };
            match read(&layout, files, &mut |_| ()) {
                Err(DumpError::Stopped(words)) => words,
                other => panic!("{other:?}"),
            }
        };
        let ours = words(None);
        assert!(ours.starts_with("user "), "{ours}");
        if ours.starts_with("user 0,") {
            let user = mainstay_supervisor::protocol::User { uid: 65_533, gid: 65_532 };
            assert_eq!(words(Some(user)), "user 65533, group 65532");
        }
    }

    fn of(line: &str) -> Record {
        parse(line).unwrap_or_else(|| panic!("no record: {line}"))
    }

    #[test]
    fn a_commit_says_when_and_what_went_with_it() {
        let record = of(
            "rmgr: Transaction len (rec/tot):   1253/  1253, tx:        731, lsn: 0/0152CB08, prev 0/0152CAD0, desc: COMMIT \
             2026-11-27 10:01:42.777763 UTC; rels: base/5/16399 base/5/16400; subxacts: 732 733; dropped stats: 2/5/16389 \
             3/5/1 2/5/16384; inval msgs: catcache 32 relcache 16384",
        );
        assert_eq!(record.lsn, Lsn::new(0x152_CB08));
        assert_eq!(record.at.map(|at| at.to_string()).as_deref(), Some("2026-11-27T10:01:42.777Z"));
        let dropped = vec![(5, 16389), (5, 16384)];
        assert_eq!(record.what, What::Commit { xid: 731, subxacts: vec![732, 733], dropped });
    }

    #[test]
    fn a_truncated_table_went_nowhere_and_a_prepared_transaction_has_its_own_number() {
        let truncated = of(
            "rmgr: Transaction len (rec/tot):    361/   361, tx:        728, lsn: 0/0152B500, prev 0/0152B470, desc: COMMIT \
             2026-11-27 10:01:42.749062 UTC; rels: base/5/16388; inval msgs: catcache 55",
        );
        assert_eq!(truncated.what, What::Commit { xid: 728, subxacts: Vec::new(), dropped: Vec::new() });
        let prepared = of(
            "rmgr: Transaction len (rec/tot):     98/    98, tx:          0, lsn: 0/0152B670, prev 0/0152B500, desc: \
             COMMIT_PREPARED 745: 2026-11-27 10:01:42.749062 UTC",
        );
        assert!(matches!(prepared.what, What::Commit { xid: 745, .. }) && prepared.at.is_some());
        let aborted = of(
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        746, lsn: 1/0152B670, prev 0/0152B500, desc: ABORT \
             2026-11-27 10:01:42.749062 UTC",
        );
        assert_eq!(aborted.what, What::Abort { xid: 746, subxacts: Vec::new() });
    }

    #[test]
    fn a_restore_point_has_its_name_and_other_lines_are_nothing() {
        let point = of(
            "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/0152B670, prev 0/0152B500, desc: \
             RESTORE_POINT release v1 x",
        );
        assert_eq!(point.what, What::Point("release v1 x".to_owned()));
        for line in [
            "",
            "first record is after 0/3000000, at 0/3000028, skipping over 40 bytes",
            "rmgr: XLOG        len (rec/tot):     30/    30, tx:          0, lsn: 0/01500790, prev 0/01500718, desc: NEXTOID 24576",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    /// Two pages of a segment with a row of the catalog across them.
    fn segment(row: &[u8], before: usize) -> Vec<u8> {
        let mut segment = vec![0_u8; 2 * PAGE];
        let first = PAGE - before;
        segment[first..].iter_mut().zip(row).take(before).for_each(|(to, byte)| *to = *byte);
        segment[PAGE + SHORT_HEADER..].iter_mut().zip(&row[before..]).for_each(|(to, byte)| *to = *byte);
        segment
    }

    fn row(oid: u32, name: &str, method: u32) -> Vec<u8> {
        let mut row = oid.to_ne_bytes().to_vec();
        row.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME));
        for number in [2200_u32, oid + 2, 0, 16384, method] {
            row.extend(number.to_ne_bytes());
        }
        row
    }

    #[test]
    fn a_row_of_the_catalog_is_found_across_pages_and_another_name_is_not() {
        let found = |name: &str, row: &[u8], before: usize| {
            let mut names = Names::new(name).expect("a name");
            names.see(&segment(row, before));
            names.found.into_iter().collect::<Vec<_>>()
        };
        for before in [1, 4, 30, 70, 88] {
            assert_eq!(found("orders", &row(16500, "orders", 2), before), [16500], "{before}");
        }
        assert_eq!(found("order", &row(16500, "orders", 2), 20), [0; 0]);
        assert_eq!(found("orders", &row(16500, "orders", 403), 20), [0; 0], "an index of that name");
    }
}
