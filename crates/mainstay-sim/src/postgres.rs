//! PostgreSQL as far as decisions can tell: roles, timelines, a log of writes, streaming, confirmations, and
//! backends that outlive their postmaster.

use std::collections::BTreeMap;

use mainstay_decide::observed::{ControlFile, DataDirectory, MemberAnswer};
use mainstay_types::{Lsn, Member, Timeline, Timestamp};

use crate::random::Random;

/// The record of a checkpoint in a log: no write of a client's has this id.
const CHECKPOINT: u64 = 0;

/// A data directory and the server on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) data: Data,
    pub(crate) has_standby_signal: bool,
    pub(crate) timeline: u32,
    /// Ids of the writes in its log; a position is an index.
    pub(crate) log: Vec<u64>,
    /// `synchronous_standby_names`, kept on disk.
    pub(crate) synchronous: Vec<Member>,
    /// It ended in order as a primary: where the record of its last checkpoint is.
    pub(crate) shut_down_at: Option<usize>,
    /// The present process.
    pub(crate) process: Option<Process>,
    /// A page on its disk is damaged: whoever reads there meets it.
    pub(crate) is_damaged: bool,
    /// How often one was met since its statistics began.
    pub(crate) met: u64,
    /// Backends without a postmaster live until then.
    pub(crate) orphans_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Data {
    #[default]
    Absent,
    Unfinished,
    Complete,
}

impl Data {
    pub(crate) fn seen(self) -> DataDirectory {
        match self {
            Self::Absent => DataDirectory::Absent,
            Self::Unfinished => DataDirectory::Unfinished,
            Self::Complete => DataDirectory::Complete,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) is_in_recovery: bool,
    pub(crate) follows: Option<Member>,
    pub(crate) answers_from: Timestamp,
    pub(crate) is_frozen: bool,
    pub(crate) is_streaming: bool,
    /// Somebody outside promoted it: no decision of ours.
    pub(crate) is_rogue: bool,
}

/// All members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) servers: BTreeMap<Member, Server>,
}

impl Cluster {
    pub(crate) fn server(&self, member: Member) -> &Server {
        self.servers.get(&member).expect("every wanted member is there from the beginning")
    }

    pub(crate) fn server_mut(&mut self, member: Member) -> &mut Server {
        self.servers.entry(member).or_default()
    }

    /// Whether anything could acknowledge a write there.
    pub(crate) fn can_write(&self, member: Member) -> bool {
        let server = self.server(member);
        let by_postmaster = server.process.as_ref().is_some_and(|process| !process.is_in_recovery);
        by_postmaster || server.orphans_until.is_some()
    }

    pub(crate) fn is_alive(&self, member: Member) -> bool {
        let server = self.server(member);
        server.process.is_some() || server.orphans_until.is_some()
    }

    pub(crate) fn answers(&self, member: Member, now: Timestamp) -> bool {
        let process = self.server(member).process.as_ref();
        process.is_some_and(|process| !process.is_frozen && process.answers_from <= now)
    }

    pub(crate) fn answer(&self, member: Member, now: Timestamp) -> Option<MemberAnswer> {
        if !self.answers(member, now) {
            return None;
        }
        let server = self.server(member);
        let process = server.process.as_ref()?;
        let standbys = if process.is_in_recovery { BTreeMap::new() } else { self.standbys_of(member) };
        Some(MemberAnswer {
            is_in_recovery: process.is_in_recovery,
            timeline: Timeline(server.timeline),
            lsn: Lsn::new(server.log.len() as u64),
            is_streaming: process.is_streaming,
            follows: process.follows.filter(|_| process.is_in_recovery),
            synchronous: server.synchronous.clone(),
            standbys,
        })
    }

    /// A primary ends in order: its last record goes to whoever streams, then it is gone.
    pub(crate) fn shut_down(&mut self, primary: Member) {
        let server = self.server_mut(primary);
        let at = server.log.len();
        server.log.push(CHECKPOINT);
        server.shut_down_at = Some(at);
        let log = server.log.clone();
        let streaming: Vec<Member> = self.standbys_of(primary).into_keys().collect();
        for member in streaming {
            let server = self.server_mut(member);
            if server.process.as_ref().is_some_and(|process| !process.is_frozen) {
                server.log.clone_from(&log);
            }
        }
    }

    pub(crate) fn control(&self, member: Member) -> Option<ControlFile> {
        let server = self.server(member);
        let is_ours = server.data == Data::Complete;
        let checkpoint = Lsn::new(server.shut_down_at.unwrap_or(server.log.len()) as u64);
        let is_shut_down = server.shut_down_at.is_some() && server.process.is_none();
        let timeline = Timeline(server.timeline);
        is_ours.then_some(ControlFile { is_shut_down, timeline, checkpoint, redo: checkpoint })
    }

    fn standbys_of(&self, primary: Member) -> BTreeMap<Member, Lsn> {
        let streams = |server: &Server| {
            server.process.as_ref().is_some_and(|process| process.is_streaming && process.follows == Some(primary))
        };
        let streaming = self.servers.iter().filter(|(_, server)| streams(server));
        streaming.map(|(member, server)| (*member, Lsn::new(server.log.len() as u64))).collect()
    }

    /// One moment of replication: streams break and begin, logs are copied.
    pub(crate) fn replicate(&mut self, now: Timestamp, random: &mut Random) {
        for server in self.servers.values_mut() {
            if server.orphans_until.is_some_and(|until| until <= now) {
                server.orphans_until = None;
            }
        }
        let members: Vec<Member> = self.servers.keys().copied().collect();
        for member in members {
            let Some(process) = self.server(member).process.clone() else { continue };
            if !process.is_in_recovery || process.is_frozen || process.answers_from > now {
                continue;
            }
            let source =
                process.follows.filter(|source| self.is_source(*source, now)).map(|source| self.server(source));
            let follows = |source: &&Server| {
                let own = self.server(member);
                source.log.starts_with(&own.log) && source.timeline >= own.timeline
            };
            let copied = source.filter(follows).map(|source| (source.log.clone(), source.timeline));
            let server = self.server_mut(member);
            if let Some(process) = &mut server.process {
                process.is_streaming = copied.is_some();
            }
            // Standbys are not equally fast.
            if let Some((log, timeline)) = copied.filter(|_| random.chance(60)) {
                server.log = log;
                server.timeline = timeline;
            }
        }
    }

    fn is_source(&self, member: Member, now: Timestamp) -> bool {
        self.answers(member, now) && self.server(member).process.as_ref().is_some_and(|process| !process.is_in_recovery)
    }

    /// Whether a write at this position would be acknowledged now.
    pub(crate) fn is_confirmed(&self, member: Member, position: usize) -> bool {
        let named = &self.server(member).synchronous;
        let has_it = |standby: &Member| {
            let server = self.server(*standby);
            let is_streaming =
                server.process.as_ref().is_some_and(|process| process.is_streaming && process.follows == Some(member));
            is_streaming && server.log.len() >= position
        };
        named.is_empty() || named.iter().any(has_it)
    }
}
