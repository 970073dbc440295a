//! What is live, deployed once more under load.
//!
//! Its release is made by the control plane of what is live already, so that nothing but the rollout itself can be at fault.
//! What was deployed is replaced and brought back; what runs from the stack file's own folder could not be brought back: there
//! the new instances get all traffic and are then taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::{DeployAsked, ReleaseState, Releases, RolloutStatus, Trial};
use mainstay_decide::rollout::TRIAL_OVER;
use mainstay_stack::deploy::Strategy;
use mainstay_types::{ChildName, ChildRole, InstanceId, Pid};
use tokio::time::Instant;

use crate::inject::{After, Hit, Injected, is_pressed};
use crate::measure::wall_clock;
use crate::round::Arena;
use crate::run::{Progress, Sabotage};
use crate::whole::LOOK;

/// A rollout that is neither over nor taken back by then hangs: its own timeout is 5 min, where nobody says otherwise.
const OVER_WITHIN: Duration = Duration::from_secs(600);
/// The control plane begins anew with each release that is live: time for the next one to answer, and to take a wish.
const CONTROL_BACK: Duration = Duration::from_secs(60);
/// A rollout that lasts is told of again and again.
const SAY: Duration = Duration::from_secs(10);

/// Processes of instances, by their names.
type Instances = BTreeMap<ChildName, Pid>;

/// A rollout that was asked for.
pub(crate) struct Deployed {
    strategy: String,
    release: u64,
    from: u64,
    is_kept: bool,
    /// Who served when it was asked for.
    had: Instances,
}

impl Deployed {
    pub(crate) fn text(&self) -> String {
        let of = if self.is_kept { format!("the files of v{}", self.from) } else { "what runs".to_owned() };
        format!("v{}, {of}, was rolled out by {}", self.release, self.strategy)
    }
}

/// What was seen of a rollout until it was over.
#[derive(Default)]
struct Seen {
    /// Requests that the new release answered while it was watched.
    answered: u64,
    /// Instances that were not there before.
    came: Instances,
    /// Why it was taken back; `None`: it is live.
    back: Option<String>,
}

/// The strategies that a drill goes through: all, the one that was asked for, or the one in which a mistake shows. What runs
/// from a folder is never replaced one by one.
pub(crate) fn strategies(
    wanted: Option<Strategy>,
    sabotage: Option<Sabotage>,
    is_from_folder: bool,
) -> Result<Vec<Strategy>, String> {
    if sabotage == Some(Sabotage::KillUndrained) {
        if is_from_folder {
            return Err(
                "the mistake kill-undrained needs a rolling rollout, and what runs from the stack file's folder is \
                        not replaced one by one: `mainstay deploy` first"
                    .to_owned(),
            );
        }
        return Ok(vec![Strategy::Rolling]);
    }
    Ok(match wanted {
        Some(Strategy::Rolling) if is_from_folder => {
            return Err(
                "what runs from the stack file's folder is not replaced one by one, as `rolling` does: `mainstay \
                        deploy` first, or another --strategy"
                    .to_owned(),
            );
        }
        Some(strategy) => vec![strategy],
        None if is_from_folder => vec![Strategy::BlueGreen, Strategy::Canary],
        None => vec![Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary],
    })
}

fn named(instances: &Instances) -> String {
    let all: Vec<String> = instances.iter().map(|(name, pid)| format!("{name} (pid {pid})")).collect();
    all.join(", ")
}

/// What is wrong with how a rollout ended. Pure.
fn broken(deployed: &Deployed, seen: &Seen, have: &Instances) -> Vec<String> {
    let (release, mut broken) = (deployed.release, Vec::new());
    match (&seen.back, deployed.is_kept) {
        (None, true) => {
            let left: Instances = have
                .iter()
                .filter(|(name, pid)| deployed.had.get(*name) == Some(*pid))
                .map(|(n, p)| (n.clone(), *p))
                .collect();
            if !left.is_empty() {
                broken.push(format!("v{release} is live, and instances of before run on: {}", named(&left)));
            }
        }
        (None, false) => {
            broken.push(format!("v{release} took the place of what runs from the folder, which no trial may"))
        }
        (Some(reason), false) if reason == TRIAL_OVER => {
            let gone: Vec<String> = deployed
                .had
                .iter()
                .filter(|(name, pid)| have.get(*name) != Some(*pid))
                .map(|(n, _)| n.to_string())
                .collect();
            if !gone.is_empty() {
                broken.push(format!("v{release} was taken back, and did not leave all as it was: {}", gone.join(", ")));
            }
        }
        (Some(reason), _) => broken.push(format!("v{release} was taken back: {reason}")),
    }
    if seen.came.len() < deployed.had.len() {
        let (came, had) = (seen.came.len(), deployed.had.len());
        broken.push(format!("{came} new instances were seen, and there were {had}"));
    }
    broken
}

impl Arena<'_> {
    /// Which strategies this drill goes through.
    ///
    /// **Errors**: the mistake does not show on this stack.
    pub(crate) async fn ways(&self) -> Result<Vec<Strategy>, String> {
        let known = self.known().await?;
        strategies(self.options.strategy, self.options.sabotage, known.is_from_folder)
    }

    async fn known(&self) -> Result<Releases, String> {
        self.client.get("/api/v1/releases").await.map_err(|error| error.to_string())
    }

    /// Instances that run now, whose services stand.
    async fn instances(&self) -> Result<Instances, String> {
        let all = self.client.processes().await.map_err(|error| error.to_string())?;
        let stand = |name: &ChildName| {
            let id: Option<InstanceId> = instance_of(name);
            id.is_some_and(|id| self.stack.services.get(&id.service).is_some_and(|service| service.schedule.is_none()))
        };
        let of = all.into_iter().filter(|one| one.role == ChildRole::Instance && stand(&one.name));
        Ok(of.filter_map(|one| Some((one.name, one.pid?))).collect())
    }

    /// Asks for what is live once more.
    pub(crate) async fn ask_deploy(&self, strategy: Strategy) -> Result<Injected, String> {
        let (known, had) = (self.known().await?, self.instances().await?);
        let (at, wall) = (Instant::now(), wall_clock());
        let asked = DeployAsked {
            incoming: None,
            release: None,
            strategy: Some(strategy.to_string()),
            is_schema_kept: false,
            trial: Some(Trial { is_kept: true }),
        };
        let status: RolloutStatus =
            self.client.post("/api/v1/releases", &asked).await.map_err(|error| error.to_string())?;
        let (strategy, release, from) = (status.strategy, status.release, status.from);
        let deployed = Deployed { strategy, release, from, is_kept: !known.is_from_folder, had };
        Ok(Injected::new((at, at), wall, Hit::Deployed(deployed)))
    }

    /// Until it is over, and what was live is live again.
    pub(crate) async fn see_deployed(&self, at: Instant, deployed: &Deployed, progress: &mut dyn Progress) -> After {
        let mut after = After { was_pressed: is_pressed(), ..After::default() };
        after.left.extend(deployed.had.keys().filter_map(instance_of));
        if let Err(error) = self.see_over(at, deployed, &mut after, progress).await {
            after.reasons.push(error);
        }
        after.right = Some(Some(at.elapsed()));
        let whole = self.wait_for(Instant::now(), progress, "the stack to be whole", |_| true).await;
        after.whole = whole.map(|_| at.elapsed());
        after.was_pressed |= is_pressed();
        after
    }

    async fn see_over(
        &self,
        at: Instant,
        deployed: &Deployed,
        after: &mut After,
        progress: &mut dyn Progress,
    ) -> Result<(), String> {
        let seen = self.see_rollout(deployed.release, &deployed.had, progress).await?;
        after.left.extend(seen.came.keys().filter_map(instance_of));
        let have = self.retried(|| self.instances()).await?;
        after.reasons.extend(broken(deployed, &seen, &have));
        let (release, ms) = (deployed.release, at.elapsed().as_millis());
        let (had, came) = (named(&deployed.had), named(&seen.came));
        if seen.answered == 0 {
            after.reasons.push(format!("v{release} answered nothing while it was watched"));
        }
        after.proof.push(match (&seen.back, deployed.is_kept) {
            (None, _) => format!("live after {ms} ms: {came} in place of {had}; it answered {} requests", seen.answered),
            (Some(_), false) => format!(
                "{came} beside {had}, with all traffic in the end; it answered {} requests and was taken back {ms} ms after \
                 it was asked for: what runs from the stack file's folder stays",
                seen.answered
            ),
            (Some(reason), true) => format!("taken back after {ms} ms: {reason}"),
        });
        if seen.back.is_none() && deployed.is_kept {
            self.bring_back(deployed, &have, after, progress).await?;
        }
        Ok(())
    }

    /// The release that was live before the drill is live again.
    async fn bring_back(
        &self,
        deployed: &Deployed,
        have: &Instances,
        after: &mut After,
        progress: &mut dyn Progress,
    ) -> Result<(), String> {
        let (from, at) = (deployed.from, Instant::now());
        let asked =
            DeployAsked { incoming: None, release: Some(from), strategy: None, is_schema_kept: false, trial: None };
        let back = || async { self.client.post("/api/v1/releases", &asked).await.map_err(|error| error.to_string()) };
        let failed =
            |error: String| format!("v{} stays live, and serves what v{from} served: {error}", deployed.release);
        let status: RolloutStatus = self.retried(back).await.map_err(failed)?;
        let seen = self.see_rollout(status.release, have, progress).await.map_err(failed)?;
        if let Some(reason) = seen.back {
            return Err(failed(format!("v{from} was taken back: {reason}")));
        }
        after.left.extend(seen.came.keys().filter_map(instance_of));
        after.proof.push(format!("v{from} is live again {} ms later", at.elapsed().as_millis()));
        Ok(())
    }

    /// The same again until it is taken: a control plane that begins refuses, or does not answer.
    async fn retried<T, F: Future<Output = Result<T, String>>>(&self, ask: impl Fn() -> F) -> Result<T, String> {
        let began = Instant::now();
        loop {
            match ask().await {
                Ok(done) => return Ok(done),
                Err(error) if began.elapsed() > CONTROL_BACK => return Err(error),
                Err(_) => tokio::time::sleep(LOOK * 5).await,
            }
        }
    }

    /// Until a rollout is over, whatever became of it.
    async fn see_rollout(&self, release: u64, had: &Instances, progress: &mut dyn Progress) -> Result<Seen, String> {
        let (began, mut said, mut seen) = (Instant::now(), Duration::ZERO, Seen::default());
        let mut waiting = "its begin".to_owned();
        while began.elapsed() < OVER_WITHIN {
            tokio::time::sleep(LOOK).await;
            let known = self.retried(|| self.known()).await?;
            let have = self.instances().await.unwrap_or_default();
            seen.came.extend(have.into_iter().filter(|(name, pid)| had.get(name) != Some(pid)));
            if let Some(status) = known.rollout.filter(|status| status.release == release) {
                let [answered, ..] = status.answered;
                seen.answered = seen.answered.max(answered);
                waiting = format!("{}: {}", status.phase, status.waiting);
            } else {
                let found = known.releases.iter().find(|one| one.number == release);
                let found = found.ok_or_else(|| format!("v{release} is not kept any more"))?;
                match found.state {
                    ReleaseState::Live => return Ok(seen),
                    // Between the record's going and the next control plane's first word.
                    ReleaseState::Rolling => {}
                    ReleaseState::Former | ReleaseState::Failed => {
                        seen.back = Some(found.reason.clone().unwrap_or_else(|| "nobody knows why".to_owned()));
                        return Ok(seen);
                    }
                }
            }
            if began.elapsed() >= said + SAY {
                said = began.elapsed();
                progress.say(&format!("waits: v{release} is at {waiting} ({} s)", said.as_secs()));
            }
        }
        Err(format!("v{release} was not over within {} s: {waiting}", OVER_WITHIN.as_secs()))
    }
}

/// The instance that a child is.
fn instance_of(name: &ChildName) -> Option<InstanceId> {
    let (service, slot) = name.as_str().rsplit_once('-')?;
    Some(InstanceId { service: mainstay_types::ServiceName::new(service).ok()?, slot: slot.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(all: &[(&str, i32)]) -> Instances {
        all.iter().map(|(name, pid)| (ChildName::new(*name).expect("a name"), Pid(*pid))).collect()
    }

    fn deployed(is_kept: bool) -> Deployed {
        let had = instances(&[("web-1", 11), ("web-2", 12)]);
        Deployed { strategy: "rolling".to_owned(), release: 3, from: 2, is_kept, had }
    }

    fn seen(back: Option<&str>, came: &[(&str, i32)]) -> Seen {
        Seen { answered: 9, came: instances(came), back: back.map(str::to_owned) }
    }

    const CAME: [(&str, i32); 2] = [("web-3", 13), ("web-4", 14)];

    #[test]
    fn who_served_before_is_gone_from_what_was_deployed_and_there_after_what_was_tried() {
        assert!(broken(&deployed(true), &seen(None, &CAME), &instances(&CAME)).is_empty());
        let over = seen(Some(TRIAL_OVER), &CAME);
        assert!(broken(&deployed(false), &over, &deployed(false).had).is_empty());
        let stays = broken(&deployed(true), &seen(None, &CAME), &instances(&[("web-1", 11), ("web-3", 13)]));
        assert!(stays.len() == 1 && stays[0].contains("web-1 (pid 11)"), "{stays:?}");
        let gone = broken(&deployed(false), &over, &instances(&[("web-1", 11), ("web-2", 99)]));
        assert!(gone.len() == 1 && gone[0].contains("web-2"), "{gone:?}");
    }

    #[test]
    fn what_was_taken_back_for_a_reason_or_replaced_too_few_is_broken() {
        let taken = broken(&deployed(true), &seen(Some("more errors"), &CAME), &deployed(true).had);
        assert_eq!(taken, ["v3 was taken back: more errors"]);
        assert_eq!(broken(&deployed(false), &seen(None, &CAME), &instances(&CAME)).len(), 1);
        let few = broken(&deployed(true), &seen(None, &CAME[..1]), &instances(&CAME));
        assert_eq!(few, ["1 new instances were seen, and there were 2"]);
    }

    #[test]
    fn what_runs_from_a_folder_is_not_replaced_one_by_one() {
        let of = |wanted, is_from_folder| strategies(wanted, None, is_from_folder).expect("no mistake").len();
        assert_eq!((of(None, false), of(None, true), of(Some(Strategy::Canary), true)), (3, 2, 1));
        let control = |is_from_folder| strategies(None, Some(Sabotage::KillUndrained), is_from_folder);
        assert_eq!(control(false), Ok(vec![Strategy::Rolling]));
        assert!(control(true).is_err_and(|why| why.contains("`mainstay deploy` first")));
    }
}
