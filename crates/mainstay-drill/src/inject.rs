//! The injection of a fault, and what is done about it until the stack is whole again.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_api::Status;
use mainstay_decide::drills::Fault;
use mainstay_decide::pressure;
use mainstay_supervisor::proc::{self, Resource};
use mainstay_types::{BoxId, ChildName, InstanceId, Member, State, Timestamp, Waiting};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::aim;
use crate::controls::Healer;
use crate::corrupt::Damaged;
use crate::deployed::Deployed;
use crate::fault::{self, Victim};
use crate::former::{self, Answers};
use crate::freeze::{self, Frozen};
use crate::load::Running;
use crate::measure::wall_clock;
use crate::round::Arena;
use crate::run::{Progress, Sabotage};
use crate::scaled::Scaled;
use crate::tier::{Asked, Filler, Taken};
use crate::whole::{self, LOOK};

/// A round of `null` lasts as long as a quick recovery.
const NOTHING: Duration = Duration::from_secs(2);

/// A recovery that takes longer is said what it waits for, again and again.
const SAY: Duration = Duration::from_secs(10);

/// A fault that was injected and proven.
pub(crate) struct Injected {
    /// The moment of it.
    pub(crate) at: Instant,
    /// The moment of the proof: what began later met the stack without its victim.
    pub(crate) gone: Instant,
    /// The moment on the clock of events.
    pub(crate) wall: Timestamp,
    pub(crate) hit: Hit,
    /// A positive control: who would heal stands still.
    pub(crate) healer: Option<Healer>,
    /// More for the proof.
    pub(crate) also: Vec<String>,
}

impl Injected {
    pub(crate) fn new((at, gone): (Instant, Instant), wall: Timestamp, hit: Hit) -> Self {
        Self { at, gone, wall, hit, healer: None, also: Vec::new() }
    }
}

/// What was hit.
pub(crate) enum Hit {
    Nothing,
    Killed(Victim),
    /// What was emptied, and how that is known.
    Emptied(String),
    Frozen {
        frozen: Frozen,
        member: Member,
    },
    /// Another primary was asked for.
    Asked(Asked),
    /// Another number of instances was asked for.
    Scaled(Scaled),
    /// What is live was asked for once more.
    Deployed(Deployed),
    /// A standby receives no log.
    Still {
        frozen: Frozen,
        member: Member,
    },
    /// The disk was filled.
    Filled {
        filler: Option<Filler>,
        text: String,
    },
    /// The pool was taken.
    Taken(Taken),
    /// It was given back, or mended.
    Returned(String),
    /// Pages were damaged.
    Damaged(Box<Damaged>),
}

/// What came after the fault.
#[derive(Default)]
pub(crate) struct After {
    /// From the injection until the stack was whole again.
    pub(crate) whole: Option<Duration>,
    /// Tasks waited for the machine so much that more time is given. Of a frozen primary only when the stack itself said that
    /// it bears the silence: another member that answers all the while takes that excuse from it.
    pub(crate) was_pressed: bool,
    /// When what the drill is about was right again, where that is not what the load felt; `Some(None)`: it never was.
    pub(crate) right: Option<Option<Duration>>,
    /// More for the proof of the fault.
    pub(crate) proof: Vec<String>,
    /// Promises that were broken.
    pub(crate) reasons: Vec<String>,
    /// Instances that were taken away: the edge must have been told before they went.
    pub(crate) left: BTreeSet<InstanceId>,
    /// Asks the former primary until the load ends.
    pub(crate) former: Option<JoinHandle<Answers>>,
}

/// The recorded primary's process.
pub(crate) fn primary(status: &Status) -> Option<(Member, ChildName)> {
    let member = status.database.as_ref().and_then(|database| database.primary)?;
    Some((member, ChildName::postgres(member)))
}

/// Whether tasks wait for the machine so much that silence has an explanation.
pub(crate) fn is_pressed() -> bool {
    let resources = [Resource::Cpu, Resource::Io, Resource::Memory];
    resources.into_iter().filter_map(proc::pressure).max().is_some_and(|worst| worst > pressure::EXPLAINS_SILENCE)
}

/// Whether the stack bears this member's silence for longer than `hang_after`: then it draws it degraded.
fn is_borne(status: &Status, member: Member) -> bool {
    status.boxes.iter().filter(|shown| shown.id == BoxId::Postgres { member }).any(|shown| {
        shown.state == State::Degraded && shown.waiting.iter().any(|waiting| matches!(waiting, Waiting::Silence { .. }))
    })
}

impl Arena<'_> {
    pub(crate) async fn inject(
        &self,
        status: &Status,
        (number, random): (u32, u64),
        progress: &mut dyn Progress,
    ) -> Result<Injected, String> {
        let fault = self.options.fault;
        if fault == Fault::Null {
            let now = Instant::now();
            return Ok(Injected::new((now, now), wall_clock(), Hit::Nothing));
        }
        match fault {
            Fault::CacheLoss => return self.empty_cache().await,
            Fault::Switchover => return self.ask_switchover().await,
            Fault::ScaleUp | Fault::ScaleDown => return self.ask_scale().await,
            Fault::Deploy => return self.ask_deploy(self.way(number)).await,
            Fault::ReplicationLag => return self.stop_receiver(status).await,
            Fault::CorruptPage => return self.damage_pages(status, random, progress).await,
            Fault::PoolExhaustion => return self.take_pool().await,
            Fault::DiskFull => return self.fill_disk(),
            _ => {}
        }
        let processes = self.client.processes().await.map_err(|error| error.to_string())?;
        let primary = primary(status);
        let name = primary.as_ref().map(|(_, name)| name);
        let asked = aim::probe(self.stack).map(|(service, _)| service);
        let victim = fault::victim(fault, &processes, name, asked, random >> 16, wall_clock())
            .ok_or_else(|| "nobody to hit was found".to_owned())?;
        let wall = wall_clock();
        if fault == Fault::DatabaseFreeze {
            let (member, _) = primary.ok_or_else(|| "there is no primary".to_owned())?;
            let (at, gone, frozen) = freeze::freeze(&victim, &self.options.state, self.longest_silence() * 3).await?;
            return Ok(Injected::new((at, gone), wall, Hit::Frozen { frozen, member }));
        }
        let healer = self.freeze_healer(&processes).await?;
        let moments = victim.kill(&self.options.state).await?;
        let also = self.kill_children(&processes).await?;
        Ok(Injected { healer, also, ..Injected::new(moments, wall, Hit::Killed(victim)) })
    }

    async fn empty_cache(&self) -> Result<Injected, String> {
        let is_mistaken = self.options.sabotage == Some(Sabotage::EmptyTheStore);
        let url = self.loads.emptied_url(is_mistaken).ok_or_else(|| "nobody knows where the cache is".to_owned())?;
        let (at, wall) = (Instant::now(), wall_clock());
        let keys = crate::keys::empty(url).await?;
        let which = if is_mistaken { "the store" } else { "the cache" };
        let text = format!("FLUSHALL to {which}: {keys} keys before, a key set just before it is gone");
        Ok(Injected::new((at, Instant::now()), wall, Hit::Emptied(text)))
    }

    /// The longest silence that the stack bears before it calls it a hang.
    fn longest_silence(&self) -> Duration {
        let hang_after = self.stack.database.as_ref().map_or(Duration::ZERO, |database| database.hang_after);
        hang_after * pressure::PATIENCE
    }

    /// From the injection until the stack is whole again, with another process in the victim's place.
    pub(crate) async fn follow(
        &self,
        injected: &mut Injected,
        load: &Running,
        drill: &str,
        progress: &mut dyn Progress,
    ) -> After {
        match &mut injected.hit {
            Hit::Nothing | Hit::Emptied(_) => {
                tokio::time::sleep(NOTHING).await;
                // A look at a part may be late on a busy machine, and that part is drawn as silent for a moment.
                let whole = self.wait_for(injected.at, progress, "the stack to be whole", |_| true).await;
                After { whole, ..After::default() }
            }
            Hit::Killed(victim) => {
                let mut after =
                    After { was_pressed: is_pressed(), proof: std::mem::take(&mut injected.also), ..After::default() };
                let healer = injected.healer.take();
                let thaw = async { Some(healer?.thaw_in_time().await) };
                let (whole, thawed) = tokio::join!(self.wait_whole(injected.at, victim, progress), thaw);
                after.whole = whole;
                match thawed {
                    Some(Ok(text)) => after.proof.push(text),
                    Some(Err(error)) => after.reasons.push(error),
                    None => {}
                }
                after.was_pressed |= is_pressed();
                after
            }
            Hit::Asked(asked) => {
                let mut after =
                    After { was_pressed: is_pressed(), ..self.see_switched(injected.at, asked, progress).await };
                after.was_pressed |= is_pressed();
                after
            }
            Hit::Scaled(scaled) => {
                let mut after =
                    After { was_pressed: is_pressed(), ..self.see_scaled(injected.at, scaled, load, progress).await };
                after.was_pressed |= is_pressed();
                after
            }
            Hit::Deployed(deployed) => self.see_deployed(injected.at, deployed, progress).await,
            Hit::Still { frozen, member } => self.see_given_up(injected.at, frozen, *member, progress).await,
            Hit::Filled { filler, .. } => {
                let filler = filler.take();
                self.see_emptied(injected.at, filler, progress).await
            }
            Hit::Taken(taken) => {
                let text = taken.text().to_owned();
                let Hit::Taken(taken) = std::mem::replace(&mut injected.hit, Hit::Returned(text)) else {
                    return After::default();
                };
                self.see_served(injected.at, taken, progress).await
            }
            Hit::Returned(_) => After::default(),
            Hit::Damaged(damaged) => {
                let text = damaged.text().to_owned();
                let Hit::Damaged(damaged) = std::mem::replace(&mut injected.hit, Hit::Returned(text)) else {
                    return After::default();
                };
                self.see_left(injected.at, *damaged, progress).await
            }
            Hit::Frozen { frozen, member } => {
                let mut after = self.see_promoted(injected.at, frozen, *member, load, drill).await;
                after.whole = self.wait_whole(injected.at, &frozen.victim, progress).await;
                after
            }
        }
    }

    /// Until another is primary; then the frozen one is thawed, and asked whether it still serves.
    async fn see_promoted(
        &self,
        at: Instant,
        frozen: &mut Frozen,
        member: Member,
        load: &Running,
        drill: &str,
    ) -> After {
        let mut after = After::default();
        let within = self.longest_silence() * 2;
        let mut is_promoted = false;
        while !is_promoted && at.elapsed() < within {
            tokio::time::sleep(LOOK).await;
            let status = self.client.status().await.ok();
            after.was_pressed |= status.as_ref().is_some_and(|status| is_borne(status, member));
            is_promoted = status.as_ref().and_then(primary).is_some_and(|(other, _)| other != member);
        }
        let (count, alive) = (frozen.count(), frozen.alive().len());
        match frozen.thaw().await {
            Ok(thawed) => after.proof.push(format!(
                "{alive} of {count} were left {} ms later, {thawed} were thawed",
                at.elapsed().as_millis()
            )),
            Err(error) => after.reasons.push(error),
        }
        if !is_promoted {
            after.reasons.push(format!("nobody was promoted within {} s", within.as_secs()));
            return after;
        }
        after.former = self.watch_former(member, load, drill).await.map_err(|error| after.reasons.push(error)).ok();
        after
    }

    async fn watch_former(&self, member: Member, load: &Running, drill: &str) -> Result<JoinHandle<Answers>, String> {
        let access = self.client.database().await.map_err(|error| error.to_string())?;
        let direct =
            access.direct.get(&member).ok_or_else(|| format!("nobody knows the socket of postgres-{member}"))?;
        former::watch(direct, &access.ledger_url, drill, &load.stopped()).map_err(|error| error.to_string())
    }

    async fn wait_whole(&self, at: Instant, victim: &Victim, progress: &mut dyn Progress) -> Option<Duration> {
        let mut said = Duration::ZERO;
        while at.elapsed() < whole::WITHIN {
            let status = self.client.status().await.ok();
            let missing = status.as_ref().and_then(whole::missing);
            if let Some(missing) = missing.as_ref().filter(|_| at.elapsed() >= said + SAY) {
                said = at.elapsed();
                progress.say(&format!("waits: {} ({} s after the fault)", missing.text, said.as_secs()));
            }
            if status.is_some() && missing.is_none() {
                let processes = self.client.processes().await.unwrap_or_default();
                let is_replaced = processes.iter().any(|process| {
                    process.name == victim.name && process.pid.is_some() && process.pid != Some(victim.pid)
                });
                if is_replaced {
                    return Some(at.elapsed());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }
}
