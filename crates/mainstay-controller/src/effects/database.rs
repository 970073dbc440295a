//! Database steps, and the looks at its members.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::observed::{DataDirectory, MemberAnswer, MemberSeen, Record};
use mainstay_decide::plan::Step;
use mainstay_postgres::access::AccessError;
use mainstay_postgres::migrate::{self, Held, Migrated, Request, Told};
use mainstay_postgres::{
    Access, Layout, RecordFile, Task, clone, cluster, control_file, init, layout, loss, prepare, probe, proof, rewind,
    start, swap,
};
use mainstay_router::protocol::{Server, Targets};
use mainstay_supervisor::client::Keep;
use mainstay_supervisor::ids::user_for;
use mainstay_supervisor::protocol::{Child, Refusal};
use mainstay_types::{ChildName, ChildRole, Member, Secret, Seen, Timeline, Timestamp, full_text};
use tokio::sync::mpsc;

use super::Effects;
use crate::clock::now;
use crate::message::{Message, Outcome};
use crate::observers::{self, Silence};
use crate::schema::SchemaSeen;
use crate::settings::Settings;
use crate::undone::Undone;

/// initdb takes a second; on a slow disk under load a minute is still no hang.
const INIT_DEADLINE: Duration = Duration::from_mins(2);
/// A clone copies the whole database: 1 TiB at 100 MiB/s takes three hours.
const CLONE_DEADLINE: Duration = Duration::from_hours(6);
/// A rewind copies what changed since the timelines parted, and reads the log from there.
const REWIND_DEADLINE: Duration = Duration::from_hours(2);
/// Time to prove that a member is dead once its processes got SIGKILL.
const FENCE_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks for that proof: orphaned backends end within milliseconds.
const PROOF_LOOK: Duration = Duration::from_millis(2);
/// Pause between two looks at a member: silence is counted from these.
const LOOK: Duration = Duration::from_millis(250);
/// The same while it does not answer as it should.
const EAGER: Duration = Duration::from_millis(40);

/// The cluster's executor.
pub(crate) struct Cluster {
    layout: Layout,
    record: RecordFile,
    passwords: mainstay_postgres::Passwords,
    access: BTreeMap<Member, Access>,
    members: Vec<Member>,
    /// Roles are made by one at a time: preparing the database and preparing a clone both make sure of one.
    roles: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// For the stack's database.
    ///
    /// **Errors**: more standbys than there are letters; the stack crate checks that.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let database = settings.stack.database.as_ref().ok_or("the stack has no database")?;
        // Without the programs the planner starts nothing; the layout is still good for looking.
        let bin = layout::find_programs(Some(&settings.paths.state)).map(|programs| programs.bin).unwrap_or_default();
        let layout = Layout {
            state: settings.paths.state.clone(),
            runtime: settings.paths.runtime.clone(),
            bin,
            user: user_for(ChildRole::Postgres, settings.launch.stack.as_str(), "postgres"),
        };
        let wanted = usize::try_from(database.standbys).unwrap_or(usize::MAX).saturating_add(1);
        let mut members: Vec<Member> = (0..wanted.min(6)).filter_map(Member::nth).collect();
        for found in layout.members().map_err(|error| format!("cannot list {}: {error}", layout.base().display()))? {
            if !members.contains(&found) {
                members.push(found);
            }
        }
        let access =
            members.iter().map(|member| (*member, Access::new(&layout, *member, &settings.passwords.superuser)));
        let access = access.collect();
        let passwords = mainstay_postgres::Passwords {
            superuser: settings.passwords.superuser.clone(),
            replication: settings.passwords.replication.clone(),
            application: settings.passwords.application.clone(),
            ledger: settings.passwords.ledger.clone(),
            monitor: settings.passwords.monitor.clone(),
        };
        let record = RecordFile::new(layout.record());
        Ok(Self { layout, record, passwords, access, members, roles: tokio::sync::Mutex::new(()) })
    }

    /// The record on disk.
    pub(crate) fn read_record(&self) -> Option<Option<Record>> {
        self.record.read().ok()
    }

    /// Executes a database step.
    ///
    /// **Errors**: what failed, in words for people.
    pub(super) async fn run(&self, effects: &Effects, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::InitPrimary { member } => self.init(effects, *member).await,
            Step::Clone { member, from } => self.clone_member(effects, *member, *from).await,
            Step::Rewind { member, from } => self.rewind(effects, *member, *from).await,
            Step::Follow { member, primary } => self.follow(effects, *member, *primary).await,
            Step::StartPostgres { member, follow } => self.start(effects, *member, *follow).await,
            Step::Fence { member } => self.fence(effects, *member).await,
            Step::Promote { member } => {
                let promoted = cluster::promote(self.access(*member)?).await.map_err(|error| full_text(&error))?;
                Ok(Outcome::Promoted { timeline: promoted.timeline, lsn: promoted.lsn })
            }
            Step::WriteRecord { record } => self.write_record(record).await,
            Step::SetSynchronous { primary, standbys } => {
                if standbys.is_empty() {
                    effects.mistakes.before_unblock().await;
                }
                let access = self.access(*primary)?;
                cluster::set_synchronous(access, standbys).await.map_err(|error| full_text(&error))?;
                self.drop_old(standbys);
                Ok(Outcome::Done)
            }
            Step::Checkpoint { primary } => {
                cluster::checkpoint(self.access(*primary)?).await.map_err(|error| full_text(&error))?;
                Ok(Outcome::Done)
            }
            Step::SwapIn { primary, incoming } => {
                // Whoever goes back to before a migration wants it gone: only a person runs what is pending then.
                Undone::set_restored(&effects.settings.paths, &effects.settings.launch)
                    .map_err(|error| format!("cannot note that no migration is to run: {error}"))?;
                self.swap_in(*primary, incoming).await
            }
            Step::PointRouter { epoch, write, read } => self.point(effects, *epoch, *write, read).await,
            Step::PrepareDatabase { primary } => {
                let name = effects.settings.database_name().ok_or("the stack has no database")?;
                let access = self.access(*primary)?;
                let _alone = self.roles.lock().await;
                prepare::prepare(access, name, &self.passwords).await.map_err(|error| full_text(&error))?;
                if let Some(database) = &effects.settings.stack.database {
                    let passwords = &effects.settings.passwords.further;
                    prepare::further(access, database, passwords).await.map_err(|error| full_text(&error))?;
                }
                Ok(Outcome::Prepared)
            }
            Step::Migrate { primary } => self.migrate(effects, *primary).await,
            _ => Err(format!("not a database step: {step}")),
        }
    }

    /// The data is exchanged, and the record says so: its epoch rises.
    async fn swap_in(&self, primary: Member, incoming: &str) -> Result<Outcome, String> {
        let members = self.layout.members().map_err(|error| error.to_string())?;
        let (layout, file, incoming) = (self.layout.clone(), self.record.clone(), incoming.to_owned());
        let swapping = tokio::task::spawn_blocking(move || {
            let swapped = swap::swap_in(&layout, primary, &members, &incoming).map_err(|error| full_text(&error))?;
            let before = file.read().map_err(|error| full_text(&error))?.ok_or("nobody is recorded as primary")?;
            let record = Record {
                epoch: before.epoch + 1,
                primary,
                timeline: swapped.timeline,
                lsn: swapped.checkpoint,
                candidates: Vec::new(),
                promoting: None,
            };
            file.write(&record).map_err(|error| full_text(&error))?;
            // One that stays says what is so.
            swap::finish(&layout, primary).ok();
            Ok(Outcome::Recorded(record))
        });
        swapping.await.map_err(|error| error.to_string())?
    }

    fn access(&self, member: Member) -> Result<&Access, String> {
        self.access.get(&member).ok_or_else(|| format!("there is no postgres-{member}"))
    }

    async fn run_task(
        &self,
        effects: &Effects,
        task: &Task,
        deadline: Duration,
    ) -> Result<mainstay_types::ExitReason, String> {
        let spec = task.spec(Effects::nonce()?);
        effects.keep()?.run_task(spec, deadline).await.map_err(|error| full_text(&error))
    }

    async fn init(&self, effects: &Effects, member: Member) -> Result<Outcome, String> {
        let log = effects.settings.paths.log(&format!("postgres-{member}-init"));
        let task =
            init::prepare(&self.layout, member, &self.passwords.superuser, &log).map_err(|error| full_text(&error))?;
        let ended = self.run_task(effects, &task, INIT_DEADLINE).await?;
        init::finish(&self.layout, member, &task, &ended).map_err(|error| full_text(&error))?;
        Ok(Outcome::Done)
    }

    async fn clone_member(&self, effects: &Effects, member: Member, from: Member) -> Result<Outcome, String> {
        let log = effects.settings.paths.log(&format!("postgres-{member}-clone"));
        let request = clone::Request {
            layout: &self.layout,
            member,
            from: self.access(from)?,
            replication: &self.passwords.replication,
            log: &log,
        };
        let task = {
            let _alone = self.roles.lock().await;
            clone::prepare(&request).await.map_err(|error| full_text(&error))?
        };
        let ended = self.run_task(effects, &task, CLONE_DEADLINE).await?;
        let layout = self.layout.clone();
        let finishing = tokio::task::spawn_blocking(move || {
            if matches!(ended, mainstay_types::ExitReason::Code { code: 0 }) {
                crate::checksums::compare(&layout.unfinished(member), &layout.data(from), &log)?;
            }
            clone::finish(&layout, member, &task, &ended).map_err(|error| full_text(&error))
        });
        finishing.await.map_err(|error| error.to_string())??;
        Ok(Outcome::Done)
    }

    async fn rewind(&self, effects: &Effects, member: Member, from: Member) -> Result<Outcome, String> {
        let log = effects.settings.paths.log(&format!("postgres-{member}-rewind"));
        let request = clone::Request {
            layout: &self.layout,
            member,
            from: self.access(from)?,
            replication: &self.passwords.replication,
            log: &log,
        };
        let task = rewind::prepare(&request, &self.passwords.superuser).await.map_err(|error| full_text(&error))?;
        let ended = self.run_task(effects, &task, REWIND_DEADLINE).await?;
        let layout = self.layout.clone();
        let finished = tokio::task::spawn_blocking(move || rewind::finish(&layout, member, &task, &ended)).await;
        finished.map_err(|error| error.to_string())?.map_err(|error| full_text(&error))?;
        Ok(Outcome::Done)
    }

    async fn follow(&self, effects: &Effects, member: Member, primary: Member) -> Result<Outcome, String> {
        let start = self.start_of(effects, member, Some(primary))?;
        start::repoint(&start).map_err(|error| full_text(&error))?;
        cluster::reload(self.access(member)?).await.map_err(|error| full_text(&error))?;
        Ok(Outcome::Done)
    }

    fn start_of<'a>(
        &'a self,
        effects: &'a Effects,
        member: Member,
        follow: Option<Member>,
    ) -> Result<start::Start<'a>, String> {
        Ok(start::Start {
            layout: &self.layout,
            member,
            follow,
            database: effects.settings.stack.database.as_ref().ok_or("the stack has no database")?,
            archive: effects.settings.archive.as_ref(),
            replication: &self.passwords.replication,
            nonce: Effects::nonce()?,
            log: effects.settings.paths.log(ChildName::postgres(member).as_str()),
        })
    }

    async fn start(&self, effects: &Effects, member: Member, follow: Option<Member>) -> Result<Outcome, String> {
        if follow.is_some() {
            effects.mistakes.before_standby().await;
        }
        let name = ChildName::postgres(member);
        self.clear_remains(effects, &name).await?;
        let spec = start::prepare(&self.start_of(effects, member, follow)?).map_err(|error| full_text(&error))?;
        effects.spawn(spec).await
    }

    /// Backends of an ended postmaster end by themselves within milliseconds; keep refuses a new start while one
    /// lives, so what is left is killed. The step is planned only for a member whose postmaster has ended.
    async fn clear_remains(&self, effects: &Effects, name: &ChildName) -> Result<(), String> {
        let keep = effects.keep()?;
        let children = keep.list().await.map_err(|error| full_text(&error))?;
        let ended = children.iter().find(|child| child.name == *name && child.ended.is_some());
        match ended {
            None => Ok(()),
            Some(child) => match keep.kill_tree(&child.nonce, FENCE_DEADLINE).await {
                Err(error) if error.refusal() != Some(Refusal::NotRunning) => Err(full_text(&error)),
                _ => Ok(()),
            },
        }
    }

    /// Kills every process of the member, then proves that none is attached to its memory. Killing is the means,
    /// the proof is the end.
    async fn fence(&self, effects: &Effects, member: Member) -> Result<Outcome, String> {
        effects.mistakes.before_fence().await;
        let name = ChildName::postgres(member);
        let keep = effects.keep()?;
        let children = keep.list().await.map_err(|error| full_text(&error))?;
        if let Some(child) = children.iter().find(|child| child.name == name) {
            // What counts is the proof below; a tree that is gone already is refused as not running.
            if let Err(error) = self.kill(keep, child, member).await
                && proof::check(&self.layout, member) == proof::Proof::Alive
            {
                return Err(full_text(&error));
            }
        }
        let deadline = tokio::time::Instant::now() + FENCE_DEADLINE;
        loop {
            match proof::check(&self.layout, member) {
                proof::Proof::Dead => return Ok(Outcome::Done),
                proof::Proof::Alive if tokio::time::Instant::now() < deadline => {}
                proof::Proof::Alive => return Err(format!("{name} still has processes attached to its memory")),
                proof::Proof::Unknown(reason) => {
                    return Err(format!("nobody can tell whether {name} is dead: {reason}"));
                }
            }
            tokio::time::sleep(PROOF_LOOK).await;
        }
    }

    /// Kills a member's processes. Once its postmaster has ended nothing new can attach to its memory: then the
    /// proof may come before keep has looked through all processes of the machine, and that look is not waited
    /// for. keep goes on killing what is left.
    async fn kill(&self, keep: Keep, child: &Child, member: Member) -> Result<(), mainstay_supervisor::client::Error> {
        let (has_ended, nonce) = (child.ended.is_some(), child.nonce.clone());
        // A task of its own: an answer that nobody waits for is still taken.
        let mut killing = tokio::spawn(async move { keep.kill_tree(&nonce, FENCE_DEADLINE).await });
        loop {
            tokio::select! {
                killed = &mut killing => return killed.unwrap_or(Ok(())),
                () = tokio::time::sleep(PROOF_LOOK), if has_ended => {
                    if proof::check(&self.layout, member) == proof::Proof::Dead {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Standbys that stream need no evidence of their former directory any more. A failure costs disk, nothing else.
    fn drop_old(&self, standbys: &[Member]) {
        for member in standbys.iter().copied() {
            let layout = self.layout.clone();
            tokio::task::spawn_blocking(move || clone::drop_old(&layout, member).ok());
        }
    }

    async fn write_record(&self, record: &Record) -> Result<Outcome, String> {
        let (file, written) = (self.record.clone(), record.clone());
        let result = tokio::task::spawn_blocking(move || file.write(&written)).await;
        result.map_err(|error| error.to_string())?.map_err(|error| full_text(&error))?;
        Ok(Outcome::Recorded(record.clone()))
    }

    async fn point(
        &self,
        effects: &Effects,
        epoch: u64,
        write: Option<Member>,
        read: &[Member],
    ) -> Result<Outcome, String> {
        let timeline = self.read_record().flatten().map_or(Timeline::default(), |record| record.timeline);
        let server = |member: Member| Server {
            member,
            timeline,
            socket_dir: self.layout.socket_dir(member),
            port: layout::PORT,
        };
        let targets =
            Targets { epoch, write: write.map(server), read: read.iter().map(|member| server(*member)).collect() };
        effects.router.point(targets).await?;
        let primary = write.and_then(|member| self.access.get(&member)).cloned();
        if let Some(primary) = primary.filter(|_| effects.settings.archive.is_some()) {
            // It wakes the checkpointer, which minds `archive_timeout`. Beside everything else: nobody waits for it.
            tokio::spawn(async move { cluster::reload(&primary).await.ok() });
        }
        Ok(Outcome::Done)
    }

    async fn migrate(&self, effects: &Effects, primary: Member) -> Result<Outcome, String> {
        let settings = &effects.settings;
        let database = settings.stack.database.as_ref().ok_or("the stack has no database")?;
        let Some(folder) = &database.migrations else { return Err("the stack has no migrations".to_owned()) };
        let access = self.owner_of_schema(database, primary);
        let folder = settings.launch.folder.join(folder);
        let (paths, launch) = (&settings.paths, &settings.launch);
        if Undone::is_migrated(paths, launch) {
            // This control plane is not the first of its run, or data were restored: what is pending is for `db migrate`.
            // The application runs on this schema: nothing that is wrong with the folder keeps it from being repaired.
            let found = migrate::plan(&access, &folder).await;
            if let Ok(plan) = &found {
                Undone::hold_restored(paths, launch, plan.held())
                    .map_err(|error| format!("cannot note what is not to be run: {error}"))?;
            }
            return Ok(Outcome::SchemaSeen(SchemaSeen::of(found)));
        }
        let held = Undone::held(paths, launch);
        let (done, _) = self.run_migrations((&access, primary), &folder, &held).await?;
        Undone::set_migrated(paths, launch).map_err(|error| format!("cannot note that migrations ran: {error}"))?;
        Ok(Outcome::Migrated(done))
    }

    /// As whom migrations run.
    fn owner_of_schema(&self, database: &mainstay_stack::model::Database, primary: Member) -> Access {
        let (name, password) = (&database.name, &self.passwords.application);
        Access::as_role(&self.layout, primary, mainstay_postgres::access::Role { name, database: name, password })
    }

    /// Runs what is pending, but for what is held back; what of it ran.
    async fn run_migrations(
        &self,
        (access, primary): (&Access, Member),
        folder: &Path,
        held: &[Held],
    ) -> Result<(Migrated, Vec<String>), String> {
        let superuser = self.access(primary)?;
        let request = Request { application: access, superuser, folder, is_out_of_order_allowed: false, held };
        let mut ran = Vec::new();
        let mut tell = |told: Told<'_>| {
            if let Told::Ran { applied, .. } = told {
                ran.push(applied.script.clone());
            }
        };
        let done = migrate::migrate(&request, &mut tell).await;
        let done = done.map_err(|error| match ran.as_slice() {
            [] => full_text(&error),
            before => format!("{}; applied before it: {}", full_text(&error), before.join(", ")),
        })?;
        Ok((done, ran))
    }

    /// Names a restore point for a new release and runs what of its migrations is pending. Returns what came of it.
    pub(super) async fn migrate_release(&self, next: &Settings, primary: Member) -> Result<String, String> {
        let database = next.stack.database.as_ref().ok_or("the stack has no database")?;
        let point = format!("release_v{}", next.launch.release);
        let access = self.access(primary)?;
        let named = mainstay_postgres::backup::restore_point(access, &point).await;
        let lsn = named.map_err(|error| full_text(&error))?;
        let mut said = format!("restore point {point}");
        if database.backup.is_some() {
            // A deploy that keeps no snapshot is told as such, and goes on: the point is in the WAL all the same.
            let state = &next.paths.state;
            if let Err(error) = crate::backups::deploys::note(state, access, (next.launch.release, lsn)).await {
                said.push_str(&format!(" (no base backup is kept for it: {error})"));
            }
        }
        let Some(folder) = &database.migrations else { return Ok(format!("{said}; no migrations")) };
        let access = self.owner_of_schema(database, primary);
        let folder = next.launch.folder.join(folder);
        let (done, ran) = self.run_migrations((&access, primary), &folder, &[]).await?;
        let applied =
            if ran.is_empty() { "nothing was pending".to_owned() } else { format!("applied {}", ran.join(", ")) };
        Ok(format!("{said}; {applied}; schema is at {}", done.summary()))
    }

    /// Superuser DSNs, by member: the host is the socket folder.
    pub(super) fn direct_dsns(&self, settings: &Settings) -> BTreeMap<Member, Secret> {
        let dsn = |member: &Member| {
            format!(
                "postgres://{}:{}@/postgres?host={}&port={}",
                layout::SUPERUSER,
                settings.passwords.superuser.expose(),
                self.layout.socket_dir(*member).display(),
                layout::PORT
            )
        };
        self.members.iter().map(|member| (*member, Secret::new(dsn(member)))).collect()
    }

    /// Metrics of all members.
    pub(super) async fn metrics(&self) -> String {
        let mut page = String::new();
        for access in self.access.values() {
            page.push_str(&mainstay_postgres::metrics::metrics(access).await);
        }
        page
    }

    /// Begins to look at every member, each in a task of its own: a silent one delays no other.
    pub(crate) fn observe(effects: &Arc<Effects>, sender: &mpsc::Sender<Message>) {
        let Some(cluster) = &effects.cluster else { return };
        for member in cluster.members.clone() {
            tokio::spawn(watch(Arc::clone(effects), member, sender.clone()));
        }
    }

    async fn look(&self, member: Member, talk: &mut Talk) -> MemberSeen {
        let answer = match self.access.get(&member) {
            None => Seen::Unknown,
            Some(access) => talk.look(access).await,
        };
        let data = self.layout.look(member);
        let signal = self.layout.data(member).join("standby.signal").try_exists().ok();
        MemberSeen {
            data,
            has_standby_signal: signal.filter(|_| data == DataDirectory::Complete),
            is_alive: proof::is_alive(&self.layout, member, now()),
            answer,
            // After the proof: whoever wrote it is dead by then, or not proven to be.
            control: control_file::read(&self.layout.data(member)),
        }
    }
}

type Question = Pin<Box<dyn Future<Output = Result<MemberAnswer, AccessError>> + Send>>;

/// What was asked of a member, over several looks. A question that got no answer within one look is not given up:
/// on a busy machine the next would have to connect anew, and none would ever be answered.
struct Talk {
    open: Option<(Timestamp, Question)>,
    silence: Silence,
}

impl Talk {
    fn new() -> Self {
        // A second for all else that one look does, on a machine with much to do.
        Self { open: None, silence: Silence::new(probe::LOOK_WITHIN + LOOK + Duration::from_secs(1)) }
    }

    /// Asks, or goes on waiting, for the time of one look. A fact is as old as its question.
    async fn look(&mut self, access: &Access) -> Seen<MemberAnswer> {
        let (asked_at, question) = self.open.get_or_insert_with(|| {
            let access = access.clone();
            (now(), Box::pin(async move { probe::ask(&access).await }))
        });
        let asked_at = *asked_at;
        let result = tokio::time::timeout(probe::LOOK_WITHIN, question).await;
        if result.is_ok() {
            self.open = None;
        }
        let seen = match result {
            Ok(Ok(value)) => Seen::Fact { value, observed_at: asked_at },
            Err(_) | Ok(Err(AccessError::Silent { .. })) => Seen::Silent { since: asked_at },
            // It is not there, or says itself that it is not ready: no silence.
            Ok(Err(_)) => Seen::Unknown,
        };
        self.silence.take(seen, now())
    }
}

async fn watch(effects: Arc<Effects>, member: Member, sender: mpsc::Sender<Message>) {
    let Some(cluster) = &effects.cluster else { return };
    let mut talk = Talk::new();
    let mut looks = effects.looks.subscribe();
    loop {
        let seen = cluster.look(member, &mut talk).await;
        let is_well = match &seen.answer {
            Seen::Fact { value, .. } => value.is_streaming || !value.is_in_recovery,
            Seen::Unknown | Seen::Silent { .. } => false,
        };
        if sender.send(Message::Member { member, seen }).await.is_err() {
            return;
        }
        observers::rest(&mut looks, if is_well { LOOK } else { EAGER }).await;
    }
}

/// A primary that was replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fallen {
    pub(crate) member: Member,
    pub(crate) to: Member,
    pub(crate) timeline: Timeline,
    /// Where its successor's timeline begins.
    pub(crate) from: mainstay_types::Lsn,
}

impl Effects {
    /// Into the application's database at the recorded primary, as superuser; `None`: it has no migrations, or nobody is
    /// recorded.
    pub(crate) fn schema_access(&self) -> Option<Access> {
        self.settings.stack.database.as_ref()?.migrations.as_ref()?;
        let cluster = self.cluster.as_ref()?;
        let primary = cluster.read_record()??.primary;
        Some(cluster.access.get(&primary)?.in_database(self.settings.database_name()?))
    }

    /// Pages with a wrong checksum, by member; one that cannot be asked is left out.
    pub(crate) async fn checksum_failures(&self) -> Vec<(Member, u64)> {
        let mut all = Vec::new();
        for access in self.cluster.iter().flat_map(|cluster| cluster.access.values()) {
            if let Ok(count) = mainstay_postgres::inspect::checksum_failures(access).await {
                all.push((access.member(), count));
            }
        }
        all
    }

    /// Data directories, by member.
    pub(crate) fn member_folders(&self) -> Vec<(Member, std::path::PathBuf)> {
        let cluster = self.cluster.iter();
        cluster.flat_map(|one| one.members.iter().map(|member| (*member, one.layout.data(*member)))).collect()
    }

    /// All databases together, as the first member that answers says. **Unit**: bytes.
    pub(crate) async fn database_bytes(&self) -> Option<u64> {
        for access in self.cluster.iter().flat_map(|cluster| cluster.access.values()) {
            if let Ok(bytes) = mainstay_postgres::inspect::size_bytes(access).await {
                return Some(bytes);
            }
        }
        None
    }

    /// What the fallen primary had written and its successor has not.
    ///
    /// **Errors**: nobody can tell any more, in words for people.
    pub(crate) async fn loss(&self, fallen: Fallen) -> Result<loss::Loss, String> {
        let layout = self.cluster.as_ref().ok_or("the stack has no database")?.layout.clone();
        let read = move || loss::after(&layout, fallen.member, fallen.timeline, fallen.from);
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
    }

    pub(crate) async fn postgres_metrics(&self) -> Result<String, String> {
        Ok(self.cluster.as_ref().ok_or("the stack has no database")?.metrics().await)
    }
}
