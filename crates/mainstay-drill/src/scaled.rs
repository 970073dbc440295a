//! Another number of instances, asked for under load.

use std::time::Duration;

use mainstay_api::{ScaleAsked, ScaleStatus, Status};
use mainstay_decide::drills::Fault;
use mainstay_types::{BoxId, ServiceName, State};
use tokio::time::Instant;

use crate::aim;
use crate::inject::{After, Hit, Injected};
use crate::measure::wall_clock;
use crate::round::Arena;
use crate::run::Progress;
use crate::whole::LOOK;

/// Time until a service has the number that the drill begins with.
const BEGIN_WITHIN: Duration = Duration::from_secs(90);

/// A number that was asked for.
pub(crate) struct Scaled {
    service: ServiceName,
    from: u32,
    to: u32,
    /// How it stood before the drill.
    before: Box<ScaleStatus>,
}

impl Scaled {
    pub(crate) fn text(&self) -> String {
        format!("{} was taken from {} to {} instances", self.service, self.from, self.to)
    }
}

/// Whether a service has so many instances, all of them ready, and no other that still ends.
fn has(status: &Status, service: &ServiceName, count: u32) -> bool {
    let is_its = |id: &BoxId| matches!(id, BoxId::Instance { id } if id.service == *service);
    let states: Vec<State> = status.boxes.iter().filter(|one| is_its(&one.id)).map(|one| one.state).collect();
    states.len() == count as usize && states.iter().all(|state| *state == State::Ready)
}

impl Arena<'_> {
    /// Asks for the most instances of the service that the load asks, or for the fewest, from the other end.
    pub(crate) async fn ask_scale(&self) -> Result<Injected, String> {
        let (service, _) = aim::probe(self.stack).ok_or_else(|| "nobody is asked through the edge".to_owned())?;
        let known = self.stack.services.get(service).ok_or_else(|| format!("there is no service {service}"))?;
        let (few, many) = (known.instances, known.most_instances());
        if many <= few {
            return Err(format!("{service}, which the load asks, has no `scale.max` above its `min`"));
        }
        let (from, to) = if self.options.fault == Fault::ScaleUp { (few, many) } else { (many, few) };
        let all = self.client.scales().await.map_err(|error| error.to_string())?;
        let before = all.into_iter().find(|scale| scale.service == *service);
        let before = Box::new(before.ok_or_else(|| format!("nobody knows how many instances {service} has"))?);
        let scaled = Scaled { service: service.clone(), from, to, before };
        if let Err(error) = self.begin_with(&scaled).await {
            self.give_back(&scaled).await.ok();
            return Err(error);
        }
        let (at, wall) = (Instant::now(), wall_clock());
        self.set(&scaled.service, to, false).await?;
        Ok(Injected::new((at, at), wall, Hit::Scaled(scaled)))
    }

    async fn set(&self, service: &ServiceName, count: u32, is_auto: bool) -> Result<(), String> {
        let asked = ScaleAsked { count: Some(count), is_auto: Some(is_auto) };
        self.client.scale(service.as_str(), &asked).await.map(drop).map_err(|error| error.to_string())
    }

    async fn begin_with(&self, scaled: &Scaled) -> Result<(), String> {
        self.set(&scaled.service, scaled.from, false).await?;
        let began = Instant::now();
        while began.elapsed() < BEGIN_WITHIN {
            if self.client.status().await.is_ok_and(|status| has(&status, &scaled.service, scaled.from)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(format!("{} did not come to {} instances within {} s", scaled.service, scaled.from, BEGIN_WITHIN.as_secs()))
    }

    async fn give_back(&self, scaled: &Scaled) -> Result<(), String> {
        self.set(&scaled.service, scaled.before.wanted, scaled.before.is_auto).await
    }

    /// Until all that are wanted are ready and no other is left; then the number is what it was before the drill.
    pub(crate) async fn see_scaled(&self, at: Instant, scaled: &Scaled, progress: &mut dyn Progress) -> After {
        let mut after = After::default();
        let what = format!("{} to have {} instances", scaled.service, scaled.to);
        after.whole = self.wait_for(at, progress, &what, |status| has(status, &scaled.service, scaled.to)).await;
        match after.whole {
            Some(_) => after.proof.push(format!("{} ready, and no other runs", scaled.to)),
            None => after.reasons.push(format!("{} did not come to {} instances", scaled.service, scaled.to)),
        }
        if let Err(error) = self.give_back(scaled).await {
            after.reasons.push(format!("the number of {} could not be given back: {error}", scaled.service));
        }
        after
    }
}
