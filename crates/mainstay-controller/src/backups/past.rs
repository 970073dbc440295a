//! The past beside the present: a base backup restored into a folder of its own, replayed to a moment, opened for
//! reading, and proven to be there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_backup::label::Label;
use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, Archive, Segment};
use mainstay_decide::past::{Base, Moment, Reach, choose};
use mainstay_postgres::past::{self, Past, Replay};
use mainstay_postgres::{Access, Layout, plain};
use mainstay_supervisor::durable;
use mainstay_supervisor::ids;
use mainstay_types::{Bytes, Lsn};
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use super::check::SEGMENT;
use super::lineage::{self, Lineage};
use super::supply::Supply;
use super::{Backups, Error, Held};
use crate::clock::now;
use crate::paths::Paths;

/// Pause between two looks at replay.
const LOOK: Duration = Duration::from_millis(100);
/// At the end of the archive replay stands still: this long, and it is the end. A segment takes a tenth of it.
const STILL: Duration = Duration::from_secs(3);
/// Time for a server to end that is told to at once.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Time for a command that looks at the past to close it.
const CLOSES_WITHIN: Duration = Duration::from_secs(30);
/// Time to come out of recovery: a checkpoint of a small cache.
const OUT_WITHIN: Duration = Duration::from_secs(60);
/// Replay that neither goes on nor ends for so long is stuck. **Basis**: a segment takes 0.1 s; one that waits for a
/// slow share some seconds.
const STUCK: Duration = Duration::from_secs(300);

/// What a restore would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Base backup that it begins from.
    pub backup: Backup,
    /// Where it goes.
    pub moment: Moment,
    /// Segments of WAL to replay, at most.
    pub segments: usize,
    /// Their bytes in the archive. **Unit**: bytes.
    pub wal_bytes: u64,
    /// Space that it needs there. **Unit**: bytes.
    pub wanted_bytes: u64,
    /// Free space where it would go. **Unit**: bytes.
    pub free_bytes: u64,
    /// The timeline that it follows.
    pub timeline: String,
    /// Where the archive ends on the way there.
    pub end: Lsn,
    /// The first segment on the way that is not there while later ones are.
    pub missing: Option<Segment>,
    /// How long it takes by the rates of the last restore here; `None`: there was none yet.
    pub expected: Option<Duration>,
}

/// Rates of the last restore, `past/rates.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Files written. **Unit**: bytes per second.
    pub restore_bytes_per_second: u64,
    /// Segments replayed. **Unit**: per 1000 seconds.
    pub segments_per_1000_seconds: u64,
}

/// The past, open. Its server ends and its folder goes when it is closed.
pub struct Open {
    // In front of the server: it ends it in a way that leaves no shared memory behind.
    place: Place,
    server: Child,
    /// Asked also later: for histories, when it comes out of recovery.
    #[expect(dead_code, reason = "supplies until it is dropped")]
    supply: Supply,
    /// As superuser.
    pub access: Access,
    /// Loopback port.
    pub port: u16,
    /// Where it is.
    pub replay: Replay,
    /// Time for the files.
    pub restored_in: Duration,
    /// Time for the WAL.
    pub replayed_in: Duration,
    /// Its log.
    pub log: PathBuf,
}

/// Folders of a server beside the present. Both, and whoever runs there, go with it: however a look ends, also given up
/// half-way.
pub(super) struct Place {
    pub(super) layout: Layout,
    alone: Arc<Alone>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Somebody writes into it still: it goes with the next look.
        if Arc::strong_count(&self.alone) > 1 {
            return;
        }
        let begun = Instant::now();
        while !past::end_left_over(&self.layout).unwrap_or(false) {
            if begun.elapsed() > ENDS_WITHIN {
                return;
            }
            std::thread::sleep(LOOK);
        }
        // What cannot be removed now is removed by the next look.
        std::fs::remove_dir_all(&self.layout.state).ok();
        std::fs::remove_dir_all(&self.layout.runtime).ok();
    }
}

/// Says whose folder it is for as long as the process lives.
struct Alone(#[expect(dead_code, reason = "holds the lock")] std::fs::File);

fn past_folder(paths: &Paths) -> PathBuf {
    paths.state.join("past")
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// What can be reached, and on which way.
pub(super) struct Reachable {
    pub(super) all: Vec<Backup>,
    pub(super) lineage: Lineage,
    pub(super) archive: Archive,
    pub(super) system: u64,
    /// WAL comes from a store, and lies beside the files until the end.
    is_away: bool,
}

impl Reachable {
    /// Of the newest cluster; with a name, from that base backup alone.
    pub(super) fn of(backups: &Backups, from: Option<&str>) -> Result<Self, Error> {
        let all = backups.repository.backups()?;
        // Only of the newest cluster: its WAL is what the others cannot replay.
        let system = all.last().map(|backup| backup.label.system);
        let all: Vec<Backup> = all.into_iter().filter(|backup| Some(backup.label.system) == system).collect();
        let folder = backups.place.wal();
        let system = system.unwrap_or_default();
        let archive = wal::list(&folder, system).map_err(io("list", &folder))?;
        // What was left by a restore in place leads nowhere; by its name it can still be had.
        let (all, lineage) = match from {
            None => {
                let lineage = lineage::newest(backups, system, &archive);
                (all.into_iter().filter(|backup| lineage.holds(&backup.label)).collect(), lineage)
            }
            Some(id) => {
                let named = all.into_iter().find(|backup| !id.is_empty() && backup.id.starts_with(id));
                let named = named.ok_or_else(|| Error::NoBackup(id.to_owned()))?;
                let lineage = lineage::target(backups, &archive, &named.label);
                (vec![named], lineage)
            }
        };
        Ok(Self { all, lineage, archive, system, is_away: backups.store.is_some() })
    }

    /// The base backup for a moment.
    pub(super) fn choose(&self, moment: &Moment) -> Result<&Backup, Error> {
        let base = |backup: &Backup| Base { stop: backup.label.stop, ended: backup.label.ended };
        let bases: Vec<Base> = self.all.iter().map(base).collect();
        let chosen = choose(&bases, moment, self.lineage.end(&self.archive))?;
        self.all.get(chosen).ok_or_else(|| Error::Unreachable(mainstay_decide::past::Unreachable::NoBackup))
    }

    /// What can be had, in words.
    pub(super) fn reach(&self) -> Option<Reach> {
        let oldest = self.all.first()?;
        Some(Reach { from: (oldest.label.ended, oldest.label.stop), to: self.lineage.end(&self.archive) })
    }
}

/// Which backup, which WAL, how much, how long.
///
/// **Errors**: the moment cannot be reached, and then the text says what can.
pub fn plan(backups: &Backups, paths: &Paths, moment: &Moment, from: Option<&str>) -> Result<Plan, Error> {
    plan_on(&Reachable::of(backups, from)?, paths, moment)
}

pub(super) fn plan_on(reachable: &Reachable, paths: &Paths, moment: &Moment) -> Result<Plan, Error> {
    let backup = reachable.choose(moment)?.clone();
    let Reachable { lineage, archive, .. } = reachable;
    let end = lineage.end(archive);
    let needed = needed(lineage, archive, &backup.label, moment);
    let wal_bytes = needed.iter().filter_map(|segment| archive.segments.get(segment)).map(|(bytes, _)| bytes).sum();
    let stat = rustix::fs::statvfs(&paths.state).map_err(|error| io("look at", &paths.state)(error.into()))?;
    let expected = rates(paths).map(|rates| {
        let files = backup.label.bytes as f64 / rates.restore_bytes_per_second.max(1) as f64;
        let replay = needed.len() as f64 * 1000.0 / rates.segments_per_1000_seconds.max(1) as f64;
        Duration::from_secs_f64(files + replay)
    });
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Some segments lie beside the files while they are replayed, and what comes from a store stays until the end.
    let fetched = if reachable.is_away { wal_bytes } else { 0 };
    let wanted_bytes = backup.label.bytes + SEGMENT * 8 + fetched;
    let moment = moment.clone();
    let timeline = lineage.timeline.to_string();
    let (end, missing) = (end.1, missing(lineage, archive, &backup.label));
    Ok(Plan {
        timeline,
        end,
        missing,
        backup,
        moment,
        segments: needed.len(),
        wal_bytes,
        wanted_bytes,
        free_bytes,
        expected,
    })
}

/// Segments that replay reads.
fn needed(lineage: &Lineage, archive: &Archive, label: &Label, moment: &Moment) -> Vec<Segment> {
    let first = label.start.as_u64() / SEGMENT * SEGMENT;
    let mut needed = Vec::new();
    for (position, segment) in lineage.segments(archive).split_off(&first) {
        let archived = archive.segments.get(&segment).map(|(_, at)| *at).unwrap_or_default();
        needed.push(segment);
        let is_last = match moment {
            Moment::Lsn(lsn) | Moment::Before(lsn) => lsn.as_u64() < position + SEGMENT,
            // What was archived after the moment holds it, or comes after it.
            Moment::Time(at) => archived > *at,
            Moment::Latest | Moment::Transaction(_) | Moment::Name(_) => false,
        };
        if is_last && position + SEGMENT >= label.stop.as_u64() {
            break;
        }
    }
    needed
}

/// The first segment that is not there while later ones are: replay gets no further.
fn missing(lineage: &Lineage, archive: &Archive, label: &Label) -> Option<Segment> {
    let mut next = label.start.as_u64() / SEGMENT * SEGMENT;
    for segment in needed(lineage, archive, label, &Moment::Latest) {
        if segment.start(SEGMENT) > next {
            return Some(Segment::of(segment.timeline, next, SEGMENT));
        }
        next = segment.start(SEGMENT) + SEGMENT;
    }
    None
}

fn rates(paths: &Paths) -> Option<Rates> {
    serde_json::from_slice(&std::fs::read(past_folder(paths).join("rates.json")).ok()?).ok()
}

/// Restores, replays and opens. When it returns well the moment was really reached; when it was not, nothing is left.
///
/// **Errors**: see [`Error`]; [`Error::NotReached`] with the server's last words and where it came to.
pub async fn open(backups: Arc<Backups>, paths: &Paths, plan: &Plan) -> Result<Open, Error> {
    let held = backups.hold().await?;
    // What was planned with may have gone before this was held.
    if !backups.repository.backups()?.iter().any(|backup| backup.id == plan.backup.id) {
        return Err(Error::NoBackup(plan.backup.id.clone()));
    }
    open_held(backups, paths, plan, held).await
}

/// The same for who held the place already when the plan was made.
///
/// **Errors**: the same.
pub async fn open_held(backups: Arc<Backups>, paths: &Paths, plan: &Plan, held: Held) -> Result<Open, Error> {
    if plan.free_bytes < plan.wanted_bytes {
        let (free, wanted) = (Bytes(plan.free_bytes), Bytes(plan.wanted_bytes));
        return Err(Error::NoSpace { free, wanted, folder: past_folder(paths) });
    }
    let place = place(paths, &backups.layout)?;
    open_in(backups, paths, plan, (place, held)).await
}

/// Folders for a server beside the present; what earlier ones left behind goes first.
pub(super) fn place(paths: &Paths, of: &Layout) -> Result<Place, Error> {
    let folder = past_folder(paths);
    std::fs::create_dir_all(&folder).map_err(io("make the folder", &folder))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(&folder, mode).map_err(io("set the mode of", &folder))?;
    remove_left_over(paths, of)?;
    let id = format!("{}-{}", now().as_millis(), std::process::id());
    let layout = layout_of(paths, of, &id);
    std::fs::create_dir(&layout.state).map_err(io("make the folder", &layout.state))?;
    let place = Place { alone: Arc::new(lock(&layout.state)?), layout };
    past::make_folders(&place.layout)?;
    Ok(place)
}

fn layout_of(paths: &Paths, of: &Layout, id: &str) -> Layout {
    Layout {
        state: past_folder(paths).join(id),
        runtime: paths.runtime.join(format!("past-{id}")),
        bin: of.bin.clone(),
        user: of.user.clone(),
    }
}

fn lock(folder: &Path) -> Result<Alone, Error> {
    let path = folder.join("lock");
    let file = std::fs::File::create(&path).map_err(io("make", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| io("lock", &path)(error.into()))?;
    Ok(Alone(file))
}

/// Folders that somebody looks at: one whose process died is none.
fn open_ones(paths: &Paths) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(past_folder(paths)).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("lock").exists() && lock(folder).is_err()).collect()
}

/// Whether somebody has a past open.
pub fn is_open(paths: &Paths) -> bool {
    !open_ones(paths).is_empty()
}

/// Ends whoever looks at the past, and what was left behind by those who died. A command is asked: it closes what it has
/// open by itself. Answers how many were open.
///
/// **Errors**: the file system's; a command or a server that does not end.
pub fn end_all(paths: &Paths) -> Result<usize, Error> {
    let folder = past_folder(paths);
    if !folder.is_dir() {
        return Ok(0);
    }
    let ours = std::process::id().cast_signed();
    let others: Vec<_> = open_ones(paths).into_iter().filter(|one| holder(one).is_none_or(|pid| pid != ours)).collect();
    for pid in others.iter().filter_map(|folder| holder(folder)).filter_map(rustix::process::Pid::from_raw) {
        // It may be gone by now.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }
    let begun = Instant::now();
    while let Some(open) = open_ones(paths).into_iter().find(|one| others.contains(one)) {
        if begun.elapsed() > CLOSES_WITHIN {
            return Err(Error::Past(format!("who looks at the past in {} does not end", open.display())));
        }
        std::thread::sleep(LOOK);
    }
    let of = Layout { state: paths.state.clone(), runtime: paths.runtime.clone(), bin: PathBuf::new(), user: None };
    remove_left_over(paths, &of)?;
    Ok(others.len())
}

/// The process that holds the lock of a folder: its number is part of the name, and the number may be another's by now.
fn holder(folder: &Path) -> Option<i32> {
    let (_, pid) = folder.file_name()?.to_str()?.rsplit_once('-')?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    // The file and not its name: a state folder may be reached by a link, which the kernel does not show.
    let of = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let lock = of(&folder.join("lock"))?;
    let mut open = files.flatten().filter_map(|file| of(&file.path()));
    open.any(|file| file == lock).then(|| pid.parse().ok())?
}

/// Removes what nobody holds any more: left by a process that died, or by a look that was given up. False: of this
/// process something is still being written; ask again.
///
/// **Errors**: the file system's, or a server that does not end.
pub fn clear(backups: &Backups, paths: &Paths) -> Result<bool, Error> {
    remove_left_over(paths, &backups.layout)?;
    let folder = past_folder(paths);
    let ours = format!("-{}", std::process::id());
    let mut entries = std::fs::read_dir(&folder).map_err(io("list", &folder))?.flatten();
    Ok(!entries.any(|entry| entry.file_name().to_string_lossy().ends_with(&ours)))
}

/// A killed look leaves its server and its folder: both go before the next one.
fn remove_left_over(paths: &Paths, of: &Layout) -> Result<(), Error> {
    let folder = past_folder(paths);
    for entry in std::fs::read_dir(&folder).map_err(io("list", &folder))? {
        let entry = entry.map_err(io("list", &folder))?;
        if !entry.path().is_dir() || lock(&entry.path()).is_err() {
            continue;
        }
        let layout = layout_of(paths, of, &entry.file_name().to_string_lossy());
        let begun = Instant::now();
        while !past::end_left_over(&layout).map_err(io("end the server in", &layout.state))? {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(Error::Past(format!("a server in {} does not end", layout.state.display())));
            }
            std::thread::sleep(LOOK);
        }
        // What cannot be removed now is removed by the next look.
        std::fs::remove_dir_all(&layout.state).ok();
        std::fs::remove_dir_all(&layout.runtime).ok();
    }
    Ok(())
}

async fn open_in(
    backups: Arc<Backups>,
    paths: &Paths,
    plan: &Plan,
    (place, held): (Place, Held),
) -> Result<Open, Error> {
    let begun = Instant::now();
    let layout = place.layout.clone();
    let (data, backup) = (layout.data(past::MEMBER), plan.backup.clone());
    let of = Arc::clone(&backups);
    // Given up meanwhile it writes on: until its end the folder is not free to be removed.
    let writing = Arc::clone(&place.alone);
    let restoring = tokio::task::spawn_blocking(move || {
        let restored = of.repository.restore(&backup, &data);
        drop(writing);
        restored
    });
    restoring.await.map_err(|error| Error::NoServer(error.to_string()))??;
    let key = past::write_key(&layout, &backups.wal_key)?;
    let port = free_port().map_err(io("find a port for", &layout.state))?;
    let log = layout.member_dir(past::MEMBER).join("log");
    let system = plan.backup.label.system;
    let supply = Supply::begin(&backups, system, &layout)?;
    let restore = supply.command(paths, &key, system);
    let past = Past {
        layout: &layout,
        port,
        restore: &restore,
        moment: &plan.moment,
        timeline: Some(&plan.timeline),
        log: &log,
    };
    let nonce = ids::nonce().map_err(io("make an identity for", &layout.state))?;
    let spec = past::prepare(&past, nonce)?;
    let restored_in = begun.elapsed();
    let mut server = plain::start(&spec).map_err(io("start PostgreSQL in", &layout.state))?;
    let access = past::access(&layout, port, &backups.superuser);
    let begun = Instant::now();
    let replay = reach(plan, &mut server, &access, &log).await?;
    let replayed_in = begun.elapsed();
    // From here on nothing that is deleted is missed.
    drop(held);
    if past::free_locks(&access).await? {
        while past::replay(&access).await?.is_in_recovery {
            if begun.elapsed() > replayed_in + OUT_WITHIN {
                return Err(Error::Past("the server of the past does not come out of recovery".to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    remember(paths, plan, restored_in, replayed_in);
    Ok(Open { place, server, supply, access, port, replay, restored_in, replayed_in, log })
}

fn remember(paths: &Paths, plan: &Plan, restored_in: Duration, replayed_in: Duration) {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let rates = Rates {
        restore_bytes_per_second: plan.backup.label.bytes.saturating_mul(1000) / millis(restored_in),
        segments_per_1000_seconds: (plan.segments as u64).saturating_mul(1_000_000) / millis(replayed_in),
    };
    if let Ok(text) = serde_json::to_vec(&rates) {
        // A later estimate is the worse for it, nothing else.
        durable::replace(&past_folder(paths).join("rates.json"), &text, 0o644).ok();
    }
}

pub(super) fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Waits until replay stands at the moment. What ends before, or came out of recovery, did not reach it.
async fn reach(plan: &Plan, server: &mut Child, access: &Access, log: &Path) -> Result<Replay, Error> {
    let last = Lsn::new(plan.end.as_u64().saturating_sub(SEGMENT));
    let (mut seen, mut since): (Option<Replay>, Instant) = (None, Instant::now());
    let not_reached = |seen: Option<Replay>, why: String| {
        let (lsn, last_commit) = seen.map_or((None, None), |replay| (replay.lsn, replay.last_commit));
        let why = plan.missing.map_or(why.clone(), |segment| {
            format!("the segment {segment} is not in the archive, and later ones are; {why}")
        });
        Error::NotReached { moment: plan.moment.to_string(), lsn, last_commit, why }
    };
    loop {
        if let Ok(Some(status)) = server.try_wait() {
            return Err(not_reached(seen, format!("the server ended ({status}): {}", fatal_lines(log))));
        }
        // Not consistent yet, or between two states: asked again.
        let now = past::replay(access).await.ok();
        if now.is_some() && now != seen {
            (seen, since) = (now, Instant::now());
        }
        if let Some(replay) = now {
            if !replay.is_in_recovery {
                return Err(not_reached(seen, "the server came out of recovery".to_owned()));
            }
            let is_there = match &plan.moment {
                Moment::Latest => replay.lsn.is_some_and(|lsn| lsn > last) && since.elapsed() > STILL,
                Moment::Lsn(wanted) => replay.is_paused && replay.lsn.is_some_and(|lsn| lsn >= *wanted),
                Moment::Before(wanted) => replay.is_paused && replay.lsn.is_some_and(|lsn| is_at(lsn, *wanted)),
                Moment::Time(_) | Moment::Transaction(_) | Moment::Name(_) => replay.is_paused,
            };
            if is_there {
                return Ok(replay);
            }
            if replay.is_paused {
                return Err(not_reached(seen, "it paused before it was there".to_owned()));
            }
        }
        if since.elapsed() > STUCK {
            return Err(not_reached(seen, format!("replay stands still: {}", fatal_lines(log))));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Replay stands just before the first record that begins at the wanted position or after it. A server that writes
/// names the place of the next record, behind the header of a page that it would begin.
fn is_at(lsn: Lsn, wanted: Lsn) -> bool {
    const LONGEST_HEADER: u64 = 40;
    lsn.as_u64() + LONGEST_HEADER >= wanted.as_u64()
}

/// The lines that say why a server ended.
pub(super) fn fatal_lines(log: &Path) -> String {
    let words = past::last_words(log);
    let telling = |line: &&str| line.contains("FATAL") || line.contains("PANIC") || line.contains("error[");
    let lines: Vec<&str> = words.lines().filter(telling).collect();
    if lines.is_empty() { words.replace('\n', " / ") } else { lines.join(" / ") }
}

/// Ends a server in order (fast shutdown).
pub(super) async fn end(server: &mut Child) -> Result<(), Error> {
    if let Some(pid) = server.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).ok();
    }
    match tokio::time::timeout(OUT_WITHIN, server.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Error::Past(format!("the restored server ended badly: {status}"))),
        Ok(Err(error)) => Err(Error::NoServer(error.to_string())),
        Err(_) => Err(Error::Past("the restored server does not end".to_owned())),
    }
}

impl Open {
    /// How `psql` gets in as superuser, without a password: by the socket, whose folder root and the server's user
    /// alone can enter. It only reads, by default: see [`past::free_locks`].
    pub fn conninfo(&self) -> String {
        let socket = self.place.layout.socket_dir(past::MEMBER);
        format!("host={} port={} user={}", socket.display(), self.port, mainstay_postgres::layout::SUPERUSER)
    }

    /// Where it lies.
    pub(super) fn layout(&self) -> &Layout {
        &self.place.layout
    }

    /// Lets it out of recovery: from here on it takes writes from who asks for them.
    pub(super) async fn leave_recovery(&self) -> Result<(), Error> {
        past::leave_recovery(&self.access).await?;
        let begun = Instant::now();
        while past::replay(&self.access).await.map_or(true, |replay| replay.is_in_recovery) {
            if begun.elapsed() > OUT_WITHIN {
                return Err(Error::Past("the restored server does not come out of recovery".to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends the server in order; its files stay.
    pub(super) async fn shut_down(&mut self) -> Result<(), Error> {
        end(&mut self.server).await
    }

    /// Resolves when the server ended by itself.
    pub async fn ended(&mut self) {
        self.server.wait().await.ok();
    }

    /// Ends the server and removes its folder.
    pub async fn close(mut self) {
        // Nothing is to be saved: not one page of it is anybody's.
        if let Some(pid) = self.server.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        }
        if tokio::time::timeout(Duration::from_secs(20), self.server.wait()).await.is_err() {
            self.server.kill().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_types::Timestamp;

    use super::*;

    /// A backup that begins in segment 2 and is whole in it.
    fn label() -> Label {
        let label = serde_json::json!({
            "version": 1, "stack": "shop", "system": 7, "major": 15, "timeline": 1, "start": "0/2000028",
            "stop": "0/2000100", "member": "a", "from_standby": false, "began": 0, "ended": 0, "files": 1, "bytes": 1,
            "stored_bytes": 1, "pages": 1, "name": null,
        });
        serde_json::from_value(label).expect("a label")
    }

    #[test]
    fn who_holds_a_past_is_found_through_a_link_to_the_state_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let ours = std::process::id();
        let (state, link) = (folder.path().join("state"), folder.path().join("link"));
        let open = state.join(format!("past/1-{ours}"));
        std::fs::create_dir_all(&open).expect("makes");
        std::os::unix::fs::symlink(&state, &link).expect("links");
        let through = link.join(format!("past/1-{ours}"));
        let alone = lock(&through).expect("locks");
        assert_eq!((holder(&open), holder(&through)), (Some(ours.cast_signed()), Some(ours.cast_signed())));
        drop(alone);
        assert_eq!(holder(&through), None, "nobody has it open");
    }

    #[test]
    fn a_segment_is_missing_when_later_ones_are_there() {
        let name = |parts: &[u32]| {
            let segment = |part: &u32| (Segment { timeline: 1, log: 0, part: *part }, (1, Timestamp::default()));
            let archive = Archive { segments: parts.iter().map(segment).collect(), ..Archive::default() };
            missing(&Lineage::parse(1, ""), &archive, &label()).map(|segment| segment.to_string())
        };
        assert_eq!(name(&[2, 3, 5, 6]), Some("000000010000000000000004".to_owned()));
        assert_eq!(name(&[3, 4]), Some("000000010000000000000002".to_owned()));
        assert_eq!(name(&[2, 3, 4]), None, "the end of the archive is no gap");
        assert_eq!(name(&[1, 3, 4, 2]), None, "what is older is not needed");
    }
}
