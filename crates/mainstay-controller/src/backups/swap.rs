//! Makes data ready to take the present's place: a restored copy, or the present that an earlier restore replaced. The
//! control plane exchanges them.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_backup::wal::{self, Name, PushError, Pushed};
use mainstay_decide::past::Moment;
use mainstay_postgres::access::Use;
use mainstay_postgres::{Layout, past as server, plain, swap};
use mainstay_supervisor::ids;
use mainstay_types::{Lsn, Member, Timeline};

use super::check::SEGMENT;
use super::past::{self, Open};
use super::supply::Supply;
use super::{Backups, Error};
use crate::clock::now;
use crate::paths::Paths;

/// Pause between two looks at a server.
const LOOK: Duration = Duration::from_millis(100);
/// Time to replay what lies in its own folder and come out of recovery.
const OUT_WITHIN: Duration = Duration::from_secs(600);

/// Data that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Below the folder of all members, as the errand names it.
    pub path: String,
    /// What the replaced data will be called, in the same form.
    pub kept_as: String,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

impl Backups {
    /// The recorded primary: its place is the one that matters.
    ///
    /// **Errors**: nobody is recorded.
    pub fn primary(&self) -> Result<Member, Error> {
        let record = self.record().ok_or_else(|| Error::NoServer("nobody is recorded as primary".to_owned()))?;
        Ok(record.primary)
    }
}

/// Opens the copy for writing on a timeline of its own, ends it in order, and lays it beside the primary's data.
///
/// **Errors**: see [`Error`]. The present is untouched.
pub async fn of_past(backups: &Backups, mut open: Open) -> Result<Incoming, Error> {
    let ready = match backups.primary() {
        Ok(primary) => make_ready(backups, &mut open, primary).await,
        Err(error) => Err(error),
    };
    open.close().await;
    ready
}

async fn make_ready(backups: &Backups, open: &mut Open, primary: Member) -> Result<Incoming, Error> {
    make_known(backups, primary)?;
    open.leave_recovery().await?;
    end_in_order(backups, open).await?;
    let data = open.layout().data(server::MEMBER);
    lay_beside(backups, &data, primary)
}

/// Ends a copy that is out of recovery, with all on disk. Where its timeline branched is archived by the server that is
/// started with it: a copy that never becomes the present must not lead later restores astray.
pub(super) async fn end_in_order(backups: &Backups, open: &mut Open) -> Result<(), Error> {
    let client = open.access.client(Use::Work).await?;
    client.batch_execute("CHECKPOINT").await.map_err(|error| Error::NoServer(error.to_string()))?;
    drop(client);
    open.shut_down().await?;
    leave_to_archiver(backups, &open.layout().data(server::MEMBER))
}

/// The copy archived nothing while it was one. Left to the archiver is what only it has: where its timeline branched, and
/// segments that it finished.
fn leave_to_archiver(backups: &Backups, data: &Path) -> Result<(), Error> {
    let (timeline, checkpoint) = end_of(data)?;
    let archive = archive_of(backups, data)?;
    let folder = data.join("pg_wal");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(io("list", &folder))? {
        let file = entry.map_err(io("list", &folder))?.file_name().to_string_lossy().into_owned();
        let is_left = match Name::parse(&file) {
            Some(Name::History(timeline)) => !archive.histories.contains(&timeline),
            Some(Name::Segment(segment)) => {
                segment.timeline == timeline.0 && segment.start(SEGMENT) + SEGMENT <= checkpoint.as_u64()
            }
            Some(Name::Partial(_) | Name::Backup(..)) | None => false,
        };
        if is_left {
            names.push(file);
        }
    }
    Ok(swap::leave_to_archiver(&backups.layout, data, &names)?)
}

fn end_of(data: &Path) -> Result<(Timeline, Lsn), Error> {
    swap::end_of(data).ok_or_else(|| Error::NotKept(data.display().to_string()))
}

fn archive_of(backups: &Backups, data: &Path) -> Result<wal::Archive, Error> {
    let folder = backups.place.wal();
    wal::list(&folder, system_of(data)?).map_err(io("list", &folder))
}

/// What comes out of recovery takes the first timeline that the archive does not know: the present's, when its archiver
/// is behind or dead. So the archive is told of the present's first. A present without files has none.
///
/// **Errors**: the archive has another timeline of the present's number.
fn make_known(backups: &Backups, primary: Member) -> Result<(), Error> {
    let data = backups.layout.data(primary);
    let names = std::fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let histories = names.filter_map(|name| match Name::parse(&name.to_string_lossy())? {
        Name::History(timeline) => Some(timeline),
        Name::Segment(_) | Name::Partial(_) | Name::Backup(..) => None,
    });
    let Some(newest) = histories.max() else { return Ok(()) };
    let (archive, file) = (backups.place.wal(), Path::new("pg_wal").join(Name::History(newest).to_string()));
    match wal::push(&archive, &backups.recipient, (&data, &file), backups.until()) {
        Ok(Pushed::Stored(_)) => give_tree(backups, &archive),
        // What cannot be read of a present that is broken is seen to when the copy is laid beside it.
        Ok(Pushed::AlreadyThere) | Err(PushError::Io { .. } | PushError::Content { .. } | PushError::Name(_)) => Ok(()),
        Err(error @ (PushError::Different { .. } | PushError::Waits { .. })) => {
            Err(Error::NoServer(mainstay_types::full_text(&error)))
        }
    }
}

/// Nothing else may be on its timeline, neither the present nor what is in the archive.
fn is_alone(backups: &Backups, data: &Path, primary: Member) -> Result<(), Error> {
    let (timeline, _) = end_of(data)?;
    let archive = archive_of(backups, data)?;
    let archived = archive.histories.iter().copied().chain(archive.segments.keys().map(|segment| segment.timeline));
    let place = backups.layout.data(primary);
    let present = swap::end_of(&place).filter(|_| swap::are_of_one_cluster(data, &place));
    let recorded = backups.record().filter(|_| present.is_some()).map(|record| record.timeline.0);
    let present = present.map(|(timeline, _)| timeline.0);
    let highest = archived.chain(recorded).chain(present).max().unwrap_or_default();
    if timeline.0 <= highest {
        return Err(Error::NoServer(format!(
            "the restored data came to timeline {timeline}, and timeline {highest} is there already: nothing was changed; \
             ask again when `mainstay backup check` finds no fault"
        )));
    }
    Ok(())
}

/// What root put into the archive is the server's, as everything there.
fn give_tree(backups: &Backups, folder: &Path) -> Result<(), Error> {
    let Some(user) = &backups.layout.user else { return Ok(()) };
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io("list", &folder))? {
            let entry = entry.map_err(io("list", &folder))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_history = path.parent().is_some_and(|parent| parent.ends_with("history")) || name == "history";
            if path.is_dir() {
                folders.push(path.clone());
            }
            if is_history || name == "lock" || name == "spool" {
                chown(&path, Some(user.uid), Some(user.gid)).map_err(io("give to the server's user", &path))?;
            }
        }
    }
    Ok(())
}

/// Makes ready the present that an earlier restore replaced. It comes back on a timeline of its own, above every one
/// in the archive: going on on its old one, it would write what later restores take for another's.
///
/// **Errors**: see [`Error`]. The present is untouched. Killed on the way, it goes on where it was.
pub async fn of_kept(backups: &Backups, paths: &Paths, kept: &str) -> Result<Incoming, Error> {
    let primary = backups.primary()?;
    let not_kept = || Error::NotKept(kept.to_owned());
    let (member, name) = kept.split_once('/').ok_or_else(not_kept)?;
    let is_named = Member::try_from(member.to_owned()).is_ok()
        && name.starts_with("restored-over-")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_named {
        return Err(not_kept());
    }
    // A place of its own, in which nothing else is looked for or removed.
    let layout = Layout {
        state: paths.state.join(format!("undo-{member}-{name}")),
        runtime: paths.runtime.join(format!("undo-{}", now().as_millis())),
        ..backups.layout.clone()
    };
    let (from, data) = (backups.layout.base().join(kept), layout.data(server::MEMBER));
    // Half a tree is none; one that an attempt was killed over lies in its own place by now.
    if !mainstay_postgres::layout::is_complete(&from) && !mainstay_postgres::layout::is_complete(&data) {
        return Err(not_kept());
    }
    make_known(backups, primary)?;
    server::make_folders(&layout)?;
    while !server::end_left_over(&layout).map_err(io("end the server in", &layout.state))? {
        tokio::time::sleep(LOOK).await;
    }
    if from.is_dir() {
        std::fs::rename(&from, &data).map_err(io("move", &from))?;
    }
    let ready = come_out(backups, paths, &layout, primary).await;
    std::fs::remove_dir_all(&layout.runtime).ok();
    if ready.is_ok() {
        std::fs::remove_dir_all(&layout.state).ok();
    } else if !from.exists() {
        // As it was: what was tried added to it, and took nothing away.
        std::fs::rename(&data, &from).ok();
    }
    ready
}

/// Starts it beside the present until it has a timeline of its own, and ends it in order.
async fn come_out(backups: &Backups, paths: &Paths, layout: &Layout, primary: Member) -> Result<Incoming, Error> {
    let data = layout.data(server::MEMBER);
    let system = system_of(&data)?;
    let key = server::write_key(layout, &backups.wal_key)?;
    let port = past::free_port().map_err(io("find a port for", &layout.state))?;
    let log = layout.member_dir(server::MEMBER).join("log");
    let supply = Supply::begin(backups, system, layout)?;
    let restore = supply.command(paths, &key, system);
    let nonce = ids::nonce().map_err(io("make an identity for", &layout.state))?;
    let moment = Moment::Latest;
    let spec = server::Past { layout, port, restore: &restore, moment: &moment, timeline: None, log: &log };
    let spec = server::prepare(&spec, nonce)?;
    let mut child = plain::start(&spec).map_err(io("start PostgreSQL in", &layout.state))?;
    let access = server::access(layout, port, &backups.superuser);
    let begun = Instant::now();
    while server::replay(&access).await.map_or(true, |replay| replay.is_in_recovery) {
        let has_ended = !matches!(child.try_wait(), Ok(None));
        if has_ended || begun.elapsed() > OUT_WITHIN {
            child.kill().await.ok();
            return Err(Error::NoServer(format!("it does not come up: {}", past::fatal_lines(&log))));
        }
        tokio::time::sleep(LOOK).await;
    }
    let client = access.client(Use::Work).await?;
    client.batch_execute("CHECKPOINT").await.map_err(|error| Error::NoServer(error.to_string()))?;
    drop(client);
    past::end(&mut child).await?;
    leave_to_archiver(backups, &data)?;
    lay_beside(backups, &data, primary)
}

/// Marks it and lays it beside the primary's data.
fn lay_beside(backups: &Backups, data: &Path, primary: Member) -> Result<Incoming, Error> {
    is_alone(backups, data, primary)?;
    let stamp = now().as_millis();
    let (name, kept_as) = (format!("incoming-{stamp}"), format!("restored-over-{stamp}"));
    swap::mark(&backups.layout, data, &kept_as)?;
    let incoming = backups.layout.member_dir(primary).join(&name);
    std::fs::rename(data, &incoming).map_err(io("move", data))?;
    Ok(Incoming { path: format!("{primary}/{name}"), kept_as: format!("{primary}/{kept_as}") })
}

/// Identity of the cluster: the first field of `pg_control`.
fn system_of(data: &Path) -> Result<u64, Error> {
    let path = data.join("global/pg_control");
    let bytes = std::fs::read(&path).map_err(io("read", &path))?;
    let first = bytes.first_chunk().ok_or_else(|| Error::NotKept(data.display().to_string()))?;
    Ok(u64::from_le_bytes(*first))
}
