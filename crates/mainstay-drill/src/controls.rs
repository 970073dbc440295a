//! Mistakes that a drill makes itself, so that it shows that it would notice: a healer that stands still, children that die
//! with their parent, clients that nobody leads past a dead instance.

use std::time::Duration;

use mainstay_api::Process;
use mainstay_decide::drills::Fault;
use mainstay_types::ChildRole;

use crate::fault::Victim;
use crate::freeze::{self, Frozen};
use crate::round::Arena;
use crate::run::Sabotage;

/// The healer stands still for so much longer than is promised.
const LONGER: Duration = Duration::from_secs(2);
/// A promise that is wider than this is not waited for.
const MOST: Duration = Duration::from_secs(60);
/// Children that die with the control plane or with keep.
const CHILDREN: [&str; 2] = ["edge", "router"];

/// Who would heal, frozen, and for how long.
pub(crate) struct Healer {
    frozen: Frozen,
    stands_still: Duration,
}

impl Healer {
    /// Lets it go on when its time has come.
    ///
    /// **Errors**: it could not be thawed.
    pub(crate) async fn thaw_in_time(mut self) -> Result<String, String> {
        tokio::time::sleep(self.stands_still).await;
        let name = self.frozen.victim.name.clone();
        self.frozen.thaw().await?;
        Ok(format!("{name}, which would have healed it, stood still for {} ms", self.stands_still.as_millis()))
    }
}

fn victim(process: &Process) -> Option<Victim> {
    Some(Victim { name: process.name.clone(), pid: process.pid?, nonce: process.nonce.clone() })
}

impl Arena<'_> {
    /// Freezes who would heal: keep starts the control plane again, and the control plane keep.
    pub(crate) async fn freeze_healer(&self, processes: &[Process]) -> Result<Option<Healer>, String> {
        if self.options.sabotage != Some(Sabotage::HealLate) {
            return Ok(None);
        }
        let role = match self.options.fault {
            Fault::ControlPlaneCrash => ChildRole::Keep,
            Fault::KeepCrash => ChildRole::Control,
            _ => return Err("the mistake heal-late is one for control-plane-crash and keep-crash".to_owned()),
        };
        let promised = self.options.fault.promise(self.stack).rto;
        if promised > MOST {
            let (promised, most) = (promised.as_secs(), MOST.as_secs());
            return Err(format!("{promised} s are promised: this control waits for at most {most} s"));
        }
        let found = processes.iter().find(|process| process.role == role).and_then(victim);
        let healer = found.ok_or_else(|| "nobody who would heal was found".to_owned())?;
        let stands_still = promised + LONGER;
        // The dead man has a time of his own, should the drill hang.
        let frozen = freeze::freeze_alone(&healer, &self.options.state, stands_still * 2).await?;
        Ok(Some(Healer { frozen, stands_still }))
    }

    /// Kills what dies with its parent where children are tied to it.
    pub(crate) async fn kill_children(&self, processes: &[Process]) -> Result<Vec<String>, String> {
        let mut killed = Vec::new();
        if self.options.sabotage != Some(Sabotage::DieTogether) {
            return Ok(killed);
        }
        for process in processes.iter().filter(|process| CHILDREN.contains(&process.name.as_str())) {
            if let Some(child) = victim(process) {
                child.kill(&self.options.state).await?;
                killed.push(format!("{} died with it (pid {})", child.name, child.pid));
            }
        }
        Ok(killed)
    }
}
