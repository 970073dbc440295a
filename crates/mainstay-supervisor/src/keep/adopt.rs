//! Taking over from a keep that died: its lock, its children, their ends.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mainstay_types::{ChildName, ExitReason, Pid, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::children::{Entry, open_pidfd, reason_of};
use super::{Error, Keep, emit, io_error};
use crate::proc;
use crate::protocol::{Ended, Notice};
use crate::record::Record;

/// What is written in `keep.lock`, for whoever is refused.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: Pid,
    since: Timestamp,
    start_time: u64,
    boot: String,
}

/// Whether the keep that wrote itself into the lock's file still runs.
fn is_held_by_the_living(path: &Path) -> bool {
    let holder = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Holder>(&text).ok());
    let Some(holder) = holder else { return false };
    proc::stat(holder.pid).is_some_and(|stat| stat.is_alive() && stat.start_time == holder.start_time)
}

/// Takes the one lock of this state.
pub(super) fn take_lock(state: &Path, me: Pid, since: Timestamp, boot: &str) -> Result<File, Error> {
    let path = state.join("keep.lock");
    let failed = |action| io_error(action, &path);
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed("open"))?;
    let mut locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    // A keep that was killed amid a start leaves a child that holds the lock until it becomes its program.
    for _ in 0..100 {
        if locked.is_ok() || is_held_by_the_living(&path) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    if let Err(errno) = locked {
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed("read"))?;
        return match serde_json::from_str::<Holder>(&text) {
            Ok(holder) => Err(Error::Held { pid: holder.pid, since: holder.since }),
            Err(_) => Err(failed("lock")(errno.into())),
        };
    }
    let start_time = proc::stat(me).map_or(0, |stat| stat.start_time);
    let holder = Holder { pid: me, since, start_time, boot: boot.to_owned() };
    let write = |file: &mut File| -> io::Result<()> {
        let bytes = serde_json::to_vec(&holder)?;
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(&bytes)?;
        file.sync_data()
    };
    write(&mut file).map_err(failed("write"))?;
    Ok(file)
}

impl Keep {
    /// Reads what earlier keeps started, and finds out what became of it.
    pub(super) fn adopt_all(&mut self) {
        let (records, strange) = self.records.load();
        for text in strange {
            emit("record-not-read", &text);
        }
        let mut found: BTreeMap<ChildName, Entry> = BTreeMap::new();
        for record in records {
            let nonce = record.nonce.clone();
            let Some(entry) = self.adopt(record) else {
                self.records.forget(&nonce);
                continue;
            };
            let name = entry.record.name.clone();
            let is_better = found.get(&name).is_none_or(|known| !known.is_running() || entry.is_running());
            let loser = if is_better { found.insert(name, entry) } else { Some(entry) };
            if let Some(loser) = loser {
                self.records.forget(&loser.record.nonce);
            }
        }
        for entry in found.values().filter(|entry| entry.is_running()) {
            emit("child-adopted", &format!("{}: pid {:?}", entry.record.name, entry.record.pid));
        }
        self.children = found;
        self.records.tidy();
    }

    /// What became of one start; `None` when it never was one.
    fn adopt(&self, mut record: Record) -> Option<Entry> {
        let ended = |record| Some(Entry { record, pidfd: None, is_own: false, was_killed: false, oom_before: 0 });
        if record.ended.is_some() {
            return ended(record);
        }
        let is_this_boot = record.boot == self.boot;
        if record.pid.is_none() {
            let main = if is_this_boot { self.main_process(&record) } else { None };
            let pid = main?;
            record.pid = Some(pid);
            record.start_time = proc::stat(pid).map(|stat| stat.start_time);
            self.save(&record);
        }
        if is_this_boot
            && let Some(pid) = record.pid
            && let Ok(pidfd) = open_pidfd(pid)
            && self.is_same(&record, pid)
        {
            if let Some(zombie) = proc::stat(pid).filter(|stat| !stat.is_alive()) {
                // It ended before this keep began, and its present parent reaps slowly. Seen as running, a control
                // plane that had ended with the stack's last `down` would end this keep too.
                record.ended = Some(Ended { reason: reason_of(zombie.exit_code), at: crate::now() });
                self.save(&record);
                return ended(record);
            }
            return Some(Entry { record, pidfd: Some(pidfd), is_own: false, was_killed: false, oom_before: 0 });
        }
        record.ended = Some(Ended { reason: ExitReason::Unknown, at: crate::now() });
        self.save(&record);
        ended(record)
    }

    fn save(&self, record: &Record) {
        if let Err(error) = self.records.save(record) {
            emit("record-not-saved", &format!("{}: {error}", record.name));
        }
    }

    /// Whether the process of this id is still the one that was started.
    fn is_same(&self, record: &Record, pid: Pid) -> bool {
        let Some(stat) = proc::stat(pid) else { return false };
        // A zombie has no environment any more; its id cannot have been given away either.
        Some(stat.start_time) == record.start_time
            && (!stat.is_alive() || proc::is_nonce(pid, &record.nonce) || self.records.is_held(&record.nonce))
    }

    /// The main process of a start whose id was not recorded: keep died between the two writes.
    fn main_process(&self, record: &Record) -> Option<Pid> {
        let found = self.target(record).find(self.me);
        let leader = found.iter().find(|pid| proc::stat(**pid).is_some_and(|stat| stat.session == **pid));
        let oldest = || found.iter().min_by_key(|pid| proc::stat(**pid).map_or(u64::MAX, |stat| stat.start_time));
        leader.or_else(oldest).copied()
    }

    /// Learns of the ends of children that keep is not the parent of.
    pub(super) fn look_at_adopted(&mut self) {
        let mut ended = Vec::new();
        for entry in self.children.values().filter(|entry| !entry.is_own && entry.is_running()) {
            let Some(pidfd) = &entry.pidfd else { continue };
            let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            if rustix::event::poll(&mut fds, Some(&at_once)) == Ok(0) {
                continue;
            }
            // While its parent has not reaped it, it is a zombie that shows its status; afterwards newer
            // kernels tell by the handle.
            let zombie = entry
                .record
                .pid
                .and_then(proc::stat)
                .filter(|stat| !stat.is_alive() && Some(stat.start_time) == entry.record.start_time);
            let status = crate::sys::exit_status(pidfd.as_fd()).or(zombie.map(|stat| stat.exit_code));
            ended.push((entry.record.name.clone(), status.map_or(ExitReason::Unknown, reason_of)));
        }
        for (name, reason) in ended {
            self.finish(&name, reason);
        }
    }

    /// Tells a new subscriber of the children that came from an earlier keep.
    pub(super) fn tell_adopted(&mut self, client: u64) {
        for entry in self.children.values().filter(|entry| !entry.is_own && entry.is_running()) {
            self.clients.tell(client, &Notice::Adopted { child: entry.record.child(false) });
        }
    }
}
