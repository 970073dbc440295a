//! What is done for a new release: its schema, its release commands, its smoke tests, its record.

use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::health::ProbeResult;
use mainstay_decide::plan::Work;
use mainstay_decide::rollout::{Phase, Rollout};
use mainstay_stack::model::Probe;
use mainstay_types::{InstanceId, full_text};

use super::Effects;
use crate::clock::now;
use crate::message::{Outcome, ReleaseOutcome};
use crate::settings::Settings;
use crate::undone::Undone;
use crate::{prober, releases};

/// Time for the answer of a smoke test.
const SMOKE_WITHIN: Duration = Duration::from_secs(10);

impl Effects {
    /// What the release on its way is made of.
    ///
    /// **Errors**: there is none, or it is another one.
    pub(crate) fn next(&self, release: u64) -> Result<Arc<Settings>, String> {
        let next = self.next.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let next = next.ok_or("no release is on its way")?;
        if next.launch.release == release {
            Ok(next)
        } else {
            Err(format!("v{} is on its way, and not v{release}", next.launch.release))
        }
    }

    /// Sets what the release on its way is made of.
    pub(crate) fn set_next(&self, next: Option<Arc<Settings>>) {
        *self.next.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
    }

    pub(super) async fn release_work(&self, release: u64, work: &Work) -> Result<Outcome, String> {
        let next = self.next(release)?;
        match work {
            Work::Migrate { primary } => {
                let cluster = self.cluster.as_ref().ok_or("the stack has no database")?;
                let said = cluster.migrate_release(&next, *primary).await?;
                // A person asked for all that is pending.
                Undone::forget(&self.settings.paths, &self.settings.launch)
                    .map_err(|error| format!("cannot note that migrations ran: {error}"))?;
                Ok(Outcome::Release(ReleaseOutcome::Done(said)))
            }
            Work::Before => {
                let mut said = Vec::new();
                for (name, _) in next.stack.services.iter().filter(|(_, service)| service.before.is_some()) {
                    self.run_before(&next, name).await?;
                    said.push(name.to_string());
                }
                Ok(Outcome::Release(ReleaseOutcome::Done(format!("release commands of {}", said.join(", ")))))
            }
            Work::Smoke => self.smoke(&next).await,
        }
    }

    /// Every new instance that runs answers every path.
    async fn smoke(&self, next: &Settings) -> Result<Outcome, String> {
        let children = self.keep()?.list().await.map_err(|error| full_text(&error))?;
        let (mut asked, paths) = (0, &next.stack.deploy.smoke);
        for (name, service) in next.stack.services.iter().filter(|(_, service)| service.has_port) {
            let mine = next.launch.fleet.most(name, service);
            let runs =
                |id: &InstanceId| children.iter().any(|one| one.name.as_str() == id.to_string() && one.ended.is_none());
            for id in mine.into_iter().filter(runs) {
                for path in paths {
                    let probe = Probe::Http { path: path.clone(), management: false };
                    match prober::probe(&probe, next.doors.of(&id, false), SMOKE_WITHIN).await {
                        ProbeResult::Good { .. } => asked += 1,
                        ProbeResult::Bad { text } | ProbeResult::Wrong { text } | ProbeResult::Refused { text } => {
                            return Err(format!("smoke test of {id} failed: {text}"));
                        }
                    }
                }
            }
        }
        Ok(Outcome::Release(ReleaseOutcome::Done(format!("{asked} smoke tests answered"))))
    }

    pub(super) fn write_rollout(&self, rollout: &Rollout) -> Result<Outcome, String> {
        releases::write_rollout(&self.settings.paths, rollout)
            .map_err(|error| format!("cannot write the record of the rollout: {error}"))?;
        Ok(Outcome::Release(ReleaseOutcome::Written(Box::new(rollout.clone()))))
    }

    pub(super) fn commit_release(&self) -> Result<Outcome, String> {
        let paths = &self.settings.paths;
        let failed = |error: std::io::Error| format!("cannot write what this stack is: {error}");
        let rollout = releases::rollout(paths).map_err(failed)?;
        // Gone: it was done by one that did not live to say so.
        if let Some(rollout) = rollout {
            if rollout.phase != Phase::Commit {
                return Err(format!("the rollout is at {}", rollout.phase.name()));
            }
            releases::commit(paths, &rollout, now()).map_err(failed)?;
        }
        Ok(Outcome::Release(ReleaseOutcome::Committed))
    }

    pub(super) fn end_rollout(&self, reason: &str) -> Result<Outcome, String> {
        let paths = &self.settings.paths;
        let failed = |error: std::io::Error| format!("cannot note the end of the rollout: {error}");
        if let Some(rollout) = releases::rollout(paths).map_err(failed)? {
            releases::give_up(paths, &rollout, reason, now()).map_err(failed)?;
        }
        Ok(Outcome::Release(ReleaseOutcome::Ended))
    }
}
