//! A base backup now: from a standby that streams, else from the primary.

use std::time::{Duration, Instant};

use mainstay_backup::base::{self, Source};
use mainstay_backup::label::{LABEL_VERSION, Label};
use mainstay_backup::place::Alone;
use mainstay_backup::proof::{self, PROOF_VERSION, Point, Relation, Table};
use mainstay_backup::repository::{Backup, Unmarked};
use mainstay_backup::wal::{Name, Segment, list};
use mainstay_postgres::Access;
use mainstay_postgres::access::AccessError;
use mainstay_postgres::backup::{self, About, Ended};
use mainstay_postgres::census::{self, Census, Pictured};
use mainstay_types::{Lsn, Member};

use super::{Backups, Error};
use crate::clock::now;

/// Time for the segments that a backup needs to be archived. The archiver is woken at once; a minute is a hundred
/// times what it takes.
const WAL_WITHIN: Duration = Duration::from_secs(60);
/// Time for a primary to answer at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How often a picture of the source is tried, and the pause between. **Basis**: a standby of an idle machine stands at
/// the first; with sixteen busy processes on two cores one was seen to miss that.
const PICTURES: u32 = 3;
const PICTURE_PAUSE: Duration = Duration::from_secs(1);
/// Pause between the first two looks into the archive: a segment that is on its way comes within some 50 ms.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// Longest pause between two looks: each is a list of the archive, which may have some ten thousand files.
const LONGEST_LOOK: Duration = Duration::from_millis(200);
/// Pause between two requests to finish a segment: each that is granted costs a segment.
const FINISH_EVERY: Duration = Duration::from_secs(5);

/// Longest time to count what is compared at the restore. **Basis**: 10 million rows a minute; the source goes on.
const COUNT_WITHIN: Duration = Duration::from_secs(600);

/// What a backup is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Shown in the list.
    pub(super) name: Option<String>,
    /// Its time had come.
    pub(super) is_scheduled: bool,
}

/// What a backup is doing, for the person who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It began.
    Began {
        /// Member that is read.
        member: Member,
        /// Whether that is a standby.
        from_standby: bool,
    },
    /// All was read; its WAL is waited for.
    Read {
        /// The last segment that it needs.
        segment: String,
    },
    /// It is whole and listed: a restore needs nothing more. Its source is counted, for the proof.
    Whole {
        /// Its identity.
        backup: String,
    },
}

/// Takes a base backup. What it needs of WAL is in the archive when it returns.
///
/// **Errors**: see [`Error`]. What was stored by then is not listed and takes space until it is pruned.
pub(super) async fn take(
    backups: Backups,
    alone: Alone,
    wanted: Wanted,
    tell: impl Fn(Progress),
) -> Result<Backup, Error> {
    let (primary, access, about) = choose(&backups).await?;
    let member = access.member();
    let began = now();
    let begun = backup::begin(&access, "mainstay base backup").await?;
    tell(Progress::Began { member, from_standby: about.is_standby });
    let source = Source {
        data: backups.layout.data(member),
        start: begun.start,
        has_checksums: about.has_checksums,
        stack: backups.stack.clone(),
    };
    let start = begun.start;
    let (ends, ended) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        let stop = move || {
            let ended = runtime.block_on(begun.end()).map_err(|error| error.to_string())?;
            let label = ended.label.clone();
            ends.send(ended).map_err(|_| "nobody waits for the end".to_owned())?;
            Ok(label)
        };
        let taken = base::take(&backups.repository, &source, stop);
        (backups, taken)
    });
    let (backups, taken) = reading.await.map_err(|error| Error::NoServer(error.to_string()))?;
    let taken = taken?;
    let ended = ended.try_recv().map_err(|_| Error::NoServer("the backup had no end".to_owned()))?;
    let pictured = picture_in_time(&backups, &about, &primary, &access).await;
    let point = pictured.as_ref().map(|(pictured, _)| pictured.lsn());
    // Both in one wait: what the copy needs, and what its comparison needs.
    let of_point = point.map(|lsn| Segment::of(ended.timeline, lsn.as_u64(), about.segment_bytes));
    let last = last_segment(&ended, about.segment_bytes);
    let segment = of_point.map_or(last, |one| one.max(last));
    tell(Progress::Read { segment: segment.to_string() });
    wait_for_wal(&backups, &about, &primary, (start, segment)).await?;
    let label = Label {
        version: LABEL_VERSION,
        stack: backups.stack.clone(),
        system: about.system,
        major: about.major,
        timeline: ended.timeline,
        start,
        stop: ended.stop,
        member: member.to_string(),
        from_standby: about.is_standby,
        began,
        ended: now(),
        files: taken.added.files,
        bytes: taken.added.bytes,
        stored_bytes: taken.added.stored_bytes,
        pages: taken.pages,
        name: wanted.name,
        is_scheduled: wanted.is_scheduled,
        point,
    };
    let (backups, marked) = mark(backups, taken.unmarked, label).await?;
    tell(Progress::Whole { backup: marked.id.clone() });
    if let Some((pictured, point)) = pictured {
        count(&backups, &about, (&pictured, point)).await;
    }
    drop(alone);
    Ok(marked)
}

/// From here on it is listed.
async fn mark(backups: Backups, unmarked: Unmarked, label: Label) -> Result<(Backups, Backup), Error> {
    let marking = tokio::task::spawn_blocking(move || {
        let marked = backups.repository.mark(unmarked, &label);
        (backups, marked)
    });
    let (backups, marked) = marking.await.map_err(|error| Error::NoServer(error.to_string()))?;
    Ok((backups, marked?))
}

/// The picture, tried again: replay must stand, or writers pause, within a time that a busy machine may miss.
async fn picture_in_time<'a>(
    backups: &Backups,
    about: &About,
    primary: &Access,
    source: &'a Access,
) -> Option<(Pictured<'a>, Point)> {
    for _ in 1..PICTURES {
        if let Some(taken) = picture(backups, about, primary, source).await {
            return Some(taken);
        }
        tokio::time::sleep(PICTURE_PAUSE).await;
    }
    picture(backups, about, primary, source).await
}

/// Takes the picture of the source that the restore is compared with, and notes where it is of. A backup is worth
/// something without it: what fails here is not its end, and its proof says that nothing was compared.
async fn picture<'a>(
    backups: &Backups,
    about: &About,
    primary: &Access,
    source: &'a Access,
) -> Option<(Pictured<'a>, Point)> {
    let pictured =
        if about.is_standby { census::of_standby(source).await } else { census::of_primary(source).await }.ok()?;
    let lsn = pictured.lsn();
    // Replay stops before the next record, so there must be one; on an idle server nobody writes it.
    backup::restore_point(primary, &format!("mainstay counted {lsn}")).await.ok()?;
    // A table that nobody knows the number of is only harder to find again once it is dropped.
    let relations = pictured.numbered().await.unwrap_or_default().into_iter().map(|one| Relation {
        database: one.database,
        table: one.table,
        number: one.number,
    });
    // Killed before it is counted, the backup is whole, and its proof says what was not compared.
    let left_out = vec!["counting the rows of the source was broken off".to_owned()];
    let point =
        Point { version: PROOF_VERSION, lsn, at: now(), tables: Vec::new(), left_out, relations: relations.collect() };
    note(backups, about, &point).ok()?;
    Some((pictured, point))
}

/// Counts what was pictured; the backup is listed already.
async fn count(backups: &Backups, about: &About, (pictured, point): (&Pictured<'_>, Point)) {
    let Census { tables, left_out, .. } = pictured.count(COUNT_WITHIN).await.unwrap_or_else(|error| {
        let left_out = vec![format!("the rows of the source were not counted: {error}")];
        Census { lsn: pictured.lsn(), tables: Vec::new(), left_out }
    });
    let table = |one: census::Table| Table { database: one.database, table: one.table, rows: one.rows, hash: one.hash };
    let tables = tables.into_iter().map(table).collect();
    // What cannot be written stays as it was noted: not compared.
    note(backups, about, &Point { at: now(), tables, left_out, ..point }).ok();
}

fn note(backups: &Backups, about: &About, point: &Point) -> std::io::Result<()> {
    proof::write_point(&backups.place.proofs(), &backups.recipient, about.system, point)
}

/// The primary, and the member to read: a standby that streams costs the primary nothing.
async fn choose(backups: &Backups) -> Result<(Access, Access, About), Error> {
    let record = backups.record().ok_or_else(|| Error::NoServer("nobody is recorded as primary".to_owned()))?;
    let primary = backups.access(record.primary);
    let members = backups.layout.members().unwrap_or_default();
    for member in members.into_iter().filter(|member| *member != record.primary) {
        let access = backups.access(member);
        if let Ok(about) = backup::about(&access).await
            && about.is_streaming
        {
            return Ok((primary, access, about));
        }
    }
    let begun = Instant::now();
    loop {
        match backup::about(&primary).await {
            Ok(about) => return Ok((primary.clone(), primary, about)),
            // An overloaded machine answers late, and a backup has time.
            Err(AccessError::Silent { .. } | AccessError::NotYet { .. }) if begun.elapsed() < ANSWER_WITHIN => {}
            Err(error) => return Err(Error::NoServer(error.to_string())),
        }
    }
}

/// The segment that holds the last byte which the copy needs.
fn last_segment(ended: &Ended, size: u64) -> Segment {
    Segment::of(ended.timeline, ended.stop.as_u64().saturating_sub(1), size)
}

/// Waits until every segment from the start to the end of the backup is in the archive.
async fn wait_for_wal(
    backups: &Backups,
    about: &About,
    primary: &Access,
    (start, last): (Lsn, Segment),
) -> Result<(), Error> {
    let size = about.segment_bytes;
    let first = Segment::of(last.timeline, start.as_u64(), size);
    let begun = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut pause = FIRST_LOOK;
    loop {
        let wal = backups.place.wal();
        let archive = list(&wal, about.system).map_err(|source| Error::Io { action: "list", path: wal, source })?;
        let is_there = archive.runs(size).iter().any(|run| run.first <= first && last <= run.last);
        if is_there {
            return Ok(());
        }
        if asked.is_none_or(|asked| asked.elapsed() > FINISH_EVERY) {
            asked = Some(Instant::now());
            backup::finish_segment(primary).await?;
        }
        if begun.elapsed() > WAL_WITHIN {
            let failure = backup::archiver_failure(primary).await.ok().flatten();
            let why = failure.map_or_else(String::new, |name| {
                format!(
                    "; archiving {name} failed last, the log of {} says why",
                    mainstay_types::ChildName::postgres(primary.member())
                )
            });
            let segment = Name::Segment(last).to_string();
            return Err(Error::NoWal { segment, seconds: WAL_WITHIN.as_secs(), why });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}
