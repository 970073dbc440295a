//! Faults of the data tier that kill nobody: a planned change of the primary, a standby that stands still, a disk that
//! is full, a pool that is taken.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_api::{ErrandAsked, ErrandKind, ErrandStatus, Status};
use mainstay_types::{BoxId, Bytes, ChildName, Member, Secret};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::fault::Victim;
use crate::freeze::{self, Frozen};
use crate::inject::{After, Hit, Injected, primary};
use crate::ledger;
use crate::measure::{millis, wall_clock};
use crate::round::Arena;
use crate::run::{Progress, Sabotage};
use crate::whole::{self, LOOK};

/// Name of the file that fills the disk. The stack removes one that nobody holds the lock of.
const FILLER: &str = "drill-filler";
/// A larger disk than this is not filled: others may need it.
const LARGEST_DISK: u64 = 4 << 30;
/// Room that the filler leaves: less than what the ballast is thrown off at (32 MiB), more than a segment of the log.
const LEFT: u64 = 20 << 20;
/// Time to be asked for a switchover while a standby is just becoming one that may take over.
const ASKED_WITHIN: Duration = Duration::from_secs(20);
/// Time for what a fault is to cause: a sender gives a silent receiver up after 5 s.
const FELT_WITHIN: Duration = Duration::from_secs(20);
/// Who is not in the primary's list for so long was given up: on a busy machine one look may come without an answer.
const FOR_GOOD: Duration = Duration::from_secs(1);
/// How long a fault goes on once it was felt.
const AND_ON: Duration = Duration::from_millis(500);
/// The same with the mistake put in: a receiver that is thawed releases what waits for it.
const STILL_LONGER: Duration = Duration::from_secs(7);
/// How long a transaction goes on that was begun before a switchover was asked for.
const BEGUN: Duration = Duration::from_millis(100);
/// How long the connections of the pool are held.
const HELD: Duration = Duration::from_secs(2);
/// The same with the mistake put in: longer than any promise by default.
const LEAKED: Duration = Duration::from_secs(12);
/// Time to take the pool's connections while others use them.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);

/// A file that takes the room of the disk; gone when it is dropped.
pub(crate) struct Filler {
    path: PathBuf,
    /// Holds the lock.
    _file: std::fs::File,
}

impl Filler {
    /// Fills the disk of a folder up to [`LEFT`]. Returns what was written and what is free now.
    fn fill(folder: &Path) -> Result<(Self, u64, u64), String> {
        let free = |of: &Path| {
            let stat = statvfs(of).map_err(|error| format!("cannot look at {}: {error}", of.display()))?;
            Ok::<_, String>((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
        };
        let (before, total) = free(folder)?;
        if total > LARGEST_DISK {
            let (total, most) = (Bytes(total), Bytes(LARGEST_DISK));
            return Err(format!(
                "the disk of the databases has {total}; one of more than {most} is not filled: others may need it"
            ));
        }
        let bytes = before.checked_sub(LEFT).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| format!("only {} are free already", Bytes(before)))?;
        let path = folder.join(FILLER);
        let failed = |error: std::io::Error| format!("cannot fill {}: {error}", path.display());
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        let filler = Self { path: path.clone(), _file: file };
        flock(&filler._file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        fallocate(&filler._file, FallocateFlags::empty(), 0, bytes).map_err(|error| failed(error.into()))?;
        let (after, _) = free(folder)?;
        Ok((filler, bytes, after))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// A change of the primary that was asked for.
pub(crate) struct Asked {
    pub(crate) status: Box<ErrandStatus>,
    /// What became of a transaction that was begun before.
    begun: JoinHandle<Result<(), String>>,
}

/// Clients that hold every server connection of the application's pool, and one that came after them.
pub(crate) struct Taken {
    clients: Vec<Client>,
    /// How long the other waited, or why it was not served.
    other: JoinHandle<Result<Duration, String>>,
    text: String,
}

impl Taken {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl Arena<'_> {
    /// Asks for another primary, as planned; with the mistake put in, at once.
    pub(crate) async fn ask_switchover(&self) -> Result<Injected, String> {
        let is_mistaken = self.options.sabotage == Some(Sabotage::FailoverInstead);
        let errand = if is_mistaken { ErrandKind::Failover } else { ErrandKind::Switchover };
        let asked = ErrandAsked { errand, member: None, drain_ms: None, is_forced: false, incoming: None };
        let open = self.begin_transaction().await?;
        let began = Instant::now();
        loop {
            let (at, wall) = (Instant::now(), wall_clock());
            match self.client.errand(&asked).await {
                Ok(status) => {
                    let begun = tokio::spawn(async move {
                        tokio::time::sleep(BEGUN).await;
                        ledger::answer(open.batch_execute("COMMIT")).await
                    });
                    let asked = Asked { status: Box::new(status), begun };
                    return Ok(Injected::new((at, at), wall, Hit::Asked(asked)));
                }
                // Commits may not have waited for the standby yet.
                Err(error) if began.elapsed() >= ASKED_WITHIN => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(LOOK * 10).await,
            }
        }
    }

    /// A transaction that is begun before the switchover is asked for: it must end as if nothing were.
    async fn begin_transaction(&self) -> Result<Client, String> {
        let access = self.client.database().await.map_err(|error| error.to_string())?;
        let client = ledger::answer(ledger::connect(&access.ledger_url)).await?;
        let sql = "BEGIN; INSERT INTO ledger (drill, writer, number) VALUES ('begun before', -2, 0)";
        ledger::answer(client.batch_execute(sql)).await?;
        Ok(client)
    }

    /// Until the change is over and the former primary streams.
    pub(crate) async fn see_switched(&self, at: Instant, asked: &mut Asked, progress: &mut dyn Progress) -> After {
        let mut after = After::default();
        match (&mut asked.begun).await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => after.proof.push("a transaction begun before it was committed".to_owned()),
            Err(why) => after.reasons.push(format!("a transaction that was begun before it was lost: {why}")),
        }
        let asked = &asked.status;
        let mut known = (**asked).clone();
        while known.ended_at.is_none() && at.elapsed() < whole::WITHIN {
            tokio::time::sleep(LOOK).await;
            let status = self.client.status().await.ok();
            let errand = status.and_then(|status| status.database?.errand);
            known = errand.filter(|errand| errand.asked_at == asked.asked_at).unwrap_or(known);
        }
        if !known.is_done {
            let why = known.reason.clone().unwrap_or_else(|| "nobody knows what became of it".to_owned());
            after.reasons.push(format!("the change of the primary was given up: {why}"));
        }
        let stages: Vec<String> = known
            .stages
            .iter()
            .map(|one| format!("{} {} ms", one.stage, millis(one.at.saturating_since(known.asked_at))))
            .collect();
        after.proof.push(format!("stages {}", stages.join(", ")));
        // Given up, nobody follows anybody anew.
        let (former, is_done) = (known.primary, known.is_done);
        let streams = move |status: &Status| {
            !is_done || status.database.as_ref().is_some_and(|database| database.lag_bytes.contains_key(&former))
        };
        after.whole = self.wait_for(at, progress, &format!("postgres-{former} to follow"), streams).await;
        after
    }

    /// Freezes the process that receives the log at a standby.
    pub(crate) async fn stop_receiver(&self, status: &Status) -> Result<Injected, String> {
        let primary = primary(status).map(|(member, _)| member);
        let standby = status.boxes.iter().find_map(|one| match one.id {
            BoxId::Postgres { member } if Some(member) != primary => Some(member),
            _ => None,
        });
        let member = standby.ok_or_else(|| "there is no standby".to_owned())?;
        let access = self.client.database().await.map_err(|error| error.to_string())?;
        let direct =
            access.direct.get(&member).ok_or_else(|| format!("nobody knows the socket of postgres-{member}"))?;
        let pid = receiver(direct).await.map_err(|error| format!("postgres-{member}: {error}"))?;
        let name = ChildName::postgres(member);
        let processes = self.client.processes().await.map_err(|error| error.to_string())?;
        let nonce = processes.iter().find(|process| process.name == name).and_then(|process| process.nonce.clone());
        let victim = Victim { name, pid: mainstay_types::Pid(pid), nonce };
        let wall = wall_clock();
        let (at, gone, frozen) = freeze::freeze(&victim, &self.options.state, FELT_WITHIN * 3).await?;
        Ok(Injected::new((at, gone), wall, Hit::Still { frozen, member }))
    }

    /// Until the primary has given the standby up; then the receiver is thawed, and all is whole again.
    pub(crate) async fn see_given_up(
        &self,
        at: Instant,
        frozen: &mut Frozen,
        member: Member,
        progress: &mut dyn Progress,
    ) -> After {
        let mut after = After::default();
        let mut is_given_up = false;
        let mut gone_since = None;
        while !is_given_up && at.elapsed() < FELT_WITHIN {
            tokio::time::sleep(LOOK).await;
            let database = self.client.status().await.ok().and_then(|status| status.database);
            let is_gone = database.is_some_and(|one| !one.lag_bytes.contains_key(&member));
            gone_since = is_gone.then(|| gone_since.unwrap_or_else(Instant::now));
            is_given_up = gone_since.is_some_and(|since| since.elapsed() >= FOR_GOOD);
        }
        if !is_given_up {
            after.reasons.push(format!("postgres-{member} was not given up within {} s", FELT_WITHIN.as_secs()));
        }
        let is_mistaken = self.options.sabotage == Some(Sabotage::UnblockLate);
        tokio::time::sleep(if is_mistaken { STILL_LONGER } else { AND_ON }).await;
        match frozen.thaw().await {
            Ok(thawed) => after.proof.push(format!("{thawed} thawed {} ms later", at.elapsed().as_millis())),
            Err(error) => after.reasons.push(error),
        }
        let streams = move |status: &Status| {
            status.database.as_ref().is_some_and(|database| database.lag_bytes.contains_key(&member))
        };
        after.whole = self.wait_for(at, progress, &format!("postgres-{member} to follow again"), streams).await;
        after
    }

    /// Fills the disk of the databases.
    pub(crate) fn fill_disk(&self) -> Result<Injected, String> {
        let wall = wall_clock();
        let (filler, bytes, free) = Filler::fill(&self.options.state.join("pg"))?;
        let at = Instant::now();
        let text = format!("{} of filler on the disk of the databases, {} left", Bytes(bytes), Bytes(free));
        Ok(Injected::new((at, at), wall, Hit::Filled { filler: Some(filler), text }))
    }

    /// Until the ballast was thrown off; then the filler goes, and the ballast comes back.
    pub(crate) async fn see_emptied(&self, at: Instant, filler: Option<Filler>, progress: &mut dyn Progress) -> After {
        let mut after = After::default();
        let ballast =
            |status: &Status| status.database.as_ref().and_then(|one| one.disk).map(|disk| disk.ballast_bytes);
        let mut is_thrown = false;
        while !is_thrown && at.elapsed() < FELT_WITHIN {
            tokio::time::sleep(LOOK).await;
            is_thrown = self.client.status().await.ok().as_ref().and_then(ballast) == Some(0);
        }
        if is_thrown {
            after.proof.push(format!("the ballast was thrown off within {} ms", at.elapsed().as_millis()));
        } else {
            after.reasons.push(format!("the ballast was not thrown off within {} s", FELT_WITHIN.as_secs()));
        }
        tokio::time::sleep(AND_ON * 2).await;
        drop(filler);
        let is_back = move |status: &Status| ballast(status).is_some_and(|bytes| bytes > 0);
        after.whole = self.wait_for(at, progress, "the ballast to come back", is_back).await;
        after
    }

    /// Takes every server connection of the application's pool, and has one more client ask.
    pub(crate) async fn take_pool(&self) -> Result<Injected, String> {
        let access = self.client.database().await.map_err(|error| error.to_string())?;
        let wall = wall_clock();
        let mut clients = vec![holder(&access.app_url).await?];
        let pools = self.client.pools().await.map_err(|error| error.to_string())?;
        let is_ours = |pool: &&mainstay_api::Pool| {
            pool.door == "write" && !pool.role.starts_with("mainstay") && pool.clients_active > 0
        };
        let pool =
            pools.iter().find(is_ours).ok_or_else(|| "the router shows no pool of the application".to_owned())?;
        let (size, role, database) = (pool.size, pool.role.clone(), pool.database.clone());
        while (clients.len() as u64) < size {
            clients.push(holder(&access.app_url).await?);
        }
        let at = Instant::now();
        let url = access.app_url.clone();
        let other = tokio::spawn(async move {
            let client = ledger::answer(ledger::connect(&url)).await?;
            ledger::answer(client.simple_query("SELECT 1")).await?;
            Ok(at.elapsed())
        });
        let mut waiting = 0;
        while waiting == 0 && at.elapsed() < HELD {
            tokio::time::sleep(LOOK).await;
            let pools = self.client.pools().await.map_err(|error| error.to_string())?;
            let ours = pools.iter().find(|pool| pool.door == "write" && pool.role == role && pool.database == database);
            waiting = ours.map_or(0, |pool| pool.clients_waiting);
        }
        if waiting == 0 {
            return Err(format!("nobody waits although {size} clients hold {size} connections"));
        }
        let text = format!("{size} clients hold all {size} server connections of {role}, {waiting} wait");
        Ok(Injected::new((at, Instant::now()), wall, Hit::Taken(Taken { clients, other, text })))
    }

    /// The connections are given back; who waited is served.
    pub(crate) async fn see_served(&self, at: Instant, taken: Taken, progress: &mut dyn Progress) -> After {
        let mut after = After::default();
        let is_leaking = self.options.sabotage == Some(Sabotage::LeakConnections);
        let held = if is_leaking { LEAKED } else { HELD };
        tokio::time::sleep(held.saturating_sub(at.elapsed())).await;
        for client in &taken.clients {
            // One that does not answer gives its connection back by closing it, below.
            ledger::answer(client.batch_execute("ROLLBACK")).await.ok();
        }
        drop(taken.clients);
        let promised = self.options.fault.promise(self.stack).rto;
        match taken.other.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(waited) if waited <= promised => {
                after.proof.push(format!("a client that came meanwhile was served after {} ms", waited.as_millis()));
            }
            Ok(waited) => after.reasons.push(format!(
                "a client that came meanwhile waited {} ms, promised {} ms",
                waited.as_millis(),
                promised.as_millis()
            )),
            Err(why) => after.reasons.push(format!("a client that came meanwhile was not served: {why}")),
        }
        after.whole = self.wait_for(at, progress, "", |_| true).await;
        after
    }

    /// Until every box is ready and something else is so, of which people are told what it is.
    pub(crate) async fn wait_for(
        &self,
        at: Instant,
        progress: &mut dyn Progress,
        what: &str,
        is_so: impl Fn(&Status) -> bool,
    ) -> Option<Duration> {
        let mut said = Duration::ZERO;
        while at.elapsed() < whole::WITHIN {
            let status = self.client.status().await.ok();
            let missing = status.as_ref().and_then(whole::missing);
            if status.as_ref().is_some_and(|status| missing.is_none() && is_so(status)) {
                return Some(at.elapsed());
            }
            if at.elapsed() >= said + Duration::from_secs(10) {
                said = at.elapsed();
                let text = missing.map_or(what.to_owned(), |missing| missing.text);
                progress.say(&format!("waits: {text} ({} s after the fault)", said.as_secs()));
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }
}

/// A client in an open transaction, which keeps its server connection.
async fn holder(url: &Secret) -> Result<Client, String> {
    let begin = async {
        let client = ledger::connect(url).await?;
        client.batch_execute("BEGIN; SELECT 1").await?;
        Ok::<_, tokio_postgres::Error>(client)
    };
    match tokio::time::timeout(TAKEN_WITHIN, begin).await {
        Ok(begun) => begun.map_err(|error| mainstay_types::full_text(&error)),
        Err(_) => Err(format!("no connection of the pool within {} s", TAKEN_WITHIN.as_secs())),
    }
}

/// The process that receives the log at a standby, asked at its own socket.
async fn receiver(direct: &Secret) -> Result<i32, String> {
    let text = |error: tokio_postgres::Error| mainstay_types::full_text(&error);
    let config: tokio_postgres::Config = direct.expose().parse().map_err(text)?;
    let (client, connection) = ledger::answer(config.connect(NoTls)).await?;
    let connection = tokio::spawn(async move { connection.await.ok() });
    let query = "SELECT pid FROM pg_stat_wal_receiver WHERE pid IS NOT NULL";
    let row = ledger::answer(client.query_opt(query, &[])).await;
    connection.abort();
    row?.map(|row| row.get(0)).ok_or_else(|| "it receives no log".to_owned())
}
