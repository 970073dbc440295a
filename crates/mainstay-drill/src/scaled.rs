//! Another number of instances, asked for under load.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_api::{Flow, ScaleAsked, ScaleStatus, Status, Traffic};
use mainstay_decide::drills::Fault;
use mainstay_stack::Stack;
use mainstay_stack::balance::Method;
use mainstay_stack::routing;
use mainstay_types::{BoxId, InstanceId, ServiceName, State};
use tokio::time::Instant;

use crate::aim;
use crate::inject::{After, Hit, Injected};
use crate::load::Running;
use crate::measure::wall_clock;
use crate::round::Arena;
use crate::run::Progress;
use crate::whole::LOOK;

/// Time until a service has the number that the drill begins with.
const BEGIN_WITHIN: Duration = Duration::from_secs(90);
/// Time for every instance to be asked something: the edge reports what it asks once a second.
const ASKED_WITHIN: Duration = Duration::from_secs(20);
/// Operations for each instance below which it is chance who was asked.
const ENOUGH: usize = 10;

/// A number that was asked for.
pub(crate) struct Scaled {
    service: ServiceName,
    from: u32,
    to: u32,
    /// How it stood before the drill.
    before: Box<ScaleStatus>,
    /// Who ran when the number was asked for.
    had: BTreeSet<InstanceId>,
}

impl Scaled {
    pub(crate) fn text(&self) -> String {
        format!("{} was taken from {} to {} instances", self.service, self.from, self.to)
    }
}

/// Instances of a service that are shown.
fn instances(status: &Status, service: &ServiceName) -> BTreeSet<InstanceId> {
    let ids = status.boxes.iter().filter_map(|one| match &one.id {
        BoxId::Instance { id } if id.service == *service => Some(id.clone()),
        _ => None,
    });
    ids.collect()
}

/// Who was asked by the edge in the last seconds. Where a hash leads a client always to the same instance, all of a drill's
/// clients go to one: then it is enough that the edge knows of an instance.
fn asked(traffic: &Traffic, service: &ServiceName, is_hashed: bool) -> BTreeSet<InstanceId> {
    let is_so = |flow: &&Flow| flow.from == Some(BoxId::Edge) && (is_hashed || flow.per_second > 0.0);
    let to = traffic.flows.iter().filter(is_so).filter_map(|flow| match &flow.to {
        BoxId::Instance { id } => Some(id),
        _ => None,
    });
    to.filter(|id| id.service == *service).cloned().collect()
}

/// Whether the route of the drill's requests leads by a hash.
fn is_hashed(stack: &Stack) -> bool {
    let Some((_, path)) = aim::probe(stack) else { return false };
    let bare = path.split('?').next().unwrap_or(&path);
    let found = routing::candidates(stack.edge.routes.iter().map(|route| route.path.as_str()), bare);
    let route = found.first().and_then(|index| stack.edge.routes.get(*index));
    route.is_some_and(|route| matches!(route.balancing.method, Method::Hash { .. }))
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
        let mut scaled = Scaled { service: service.clone(), from, to, before, had: BTreeSet::new() };
        match self.begin_with(&scaled).await {
            Ok(had) => scaled.had = had,
            Err(error) => {
                self.give_back(&scaled).await.ok();
                return Err(error);
            }
        }
        let (at, wall) = (Instant::now(), wall_clock());
        self.set(&scaled.service, to, false).await?;
        Ok(Injected::new((at, at), wall, Hit::Scaled(scaled)))
    }

    async fn set(&self, service: &ServiceName, count: u32, is_auto: bool) -> Result<(), String> {
        let asked = ScaleAsked { count: Some(count), is_auto: Some(is_auto) };
        self.client.scale(service.as_str(), &asked).await.map(drop).map_err(|error| error.to_string())
    }

    async fn begin_with(&self, scaled: &Scaled) -> Result<BTreeSet<InstanceId>, String> {
        self.set(&scaled.service, scaled.from, false).await?;
        let (began, is_hashed) = (Instant::now(), is_hashed(self.stack));
        while began.elapsed() < BEGIN_WITHIN {
            tokio::time::sleep(LOOK).await;
            let (status, traffic) = (self.client.status().await.ok(), self.client.traffic().await.ok());
            let Some(status) = status.filter(|status| has(status, &scaled.service, scaled.from)) else { continue };
            let have = instances(&status, &scaled.service);
            // An instance that is gone must not be taken for the next of its name: what was asked is told for seconds.
            if traffic.is_some_and(|traffic| asked(&traffic, &scaled.service, is_hashed).is_subset(&have)) {
                return Ok(have);
            }
        }
        Err(format!("{} did not come to {} instances within {} s", scaled.service, scaled.from, BEGIN_WITHIN.as_secs()))
    }

    async fn give_back(&self, scaled: &Scaled) -> Result<(), String> {
        self.set(&scaled.service, scaled.before.wanted, scaled.before.is_auto).await
    }

    /// Until all that are wanted are ready and no other is left; then the number is what it was before the drill.
    pub(crate) async fn see_scaled(
        &self,
        at: Instant,
        scaled: &Scaled,
        load: &Running,
        progress: &mut dyn Progress,
    ) -> After {
        let mut after = After::default();
        let what = format!("{} to have {} instances", scaled.service, scaled.to);
        after.whole = self.wait_for(at, progress, &what, |status| has(status, &scaled.service, scaled.to)).await;
        match after.whole {
            Some(_) => {
                after.proof.push(format!("{} ready, and no other runs", scaled.to));
                match self.client.status().await {
                    Ok(status) => {
                        let have = instances(&status, &scaled.service);
                        after.left = scaled.had.difference(&have).cloned().collect();
                        self.see_asked(&scaled.service, &have, load, &mut after).await;
                    }
                    Err(error) => after.reasons.push(format!("who is left is not known: {error}")),
                }
            }
            None => after.reasons.push(format!("{} did not come to {} instances", scaled.service, scaled.to)),
        }
        if let Err(error) = self.give_back(scaled).await {
            after.reasons.push(format!("the number of {} could not be given back: {error}", scaled.service));
        }
        after
    }

    /// Until the edge has asked each of them something: an instance that gets no request takes no load from the others.
    async fn see_asked(&self, service: &ServiceName, have: &BTreeSet<InstanceId>, load: &Running, after: &mut After) {
        let (began, is_hashed) = (Instant::now(), is_hashed(self.stack));
        let mut seen = BTreeSet::new();
        while !have.is_subset(&seen) && began.elapsed() < ASKED_WITHIN {
            if let Ok(traffic) = self.client.traffic().await {
                seen.extend(asked(&traffic, service, is_hashed));
            }
            tokio::time::sleep(LOOK).await;
        }
        let missing: Vec<String> = have.difference(&seen).map(ToString::to_string).collect();
        let what = if is_hashed { "known to the edge" } else { "asked by the edge" };
        if missing.is_empty() {
            after.proof.push(format!("each of them {what}"));
            return;
        }
        let (missing, many) = (missing.join(", "), load.least_since(began));
        if many < ENOUGH * have.len() {
            after.proof.push(format!("{many} operations are too few to see whether {missing} would be asked"));
        } else {
            after.reasons.push(format!("not {what} within {} s, though ready: {missing}", ASKED_WITHIN.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_types::{EnvironmentName, Timestamp};

    use super::*;

    fn id(slot: u32) -> InstanceId {
        InstanceId { service: ServiceName::new("web").expect("a name"), slot }
    }

    #[test]
    fn who_gets_no_request_is_not_asked_and_where_a_hash_leads_it_is_enough_to_be_known() {
        let other = InstanceId { service: ServiceName::new("other").expect("a name"), slot: 1 };
        let flow = |from: Option<BoxId>, slot, per_second| {
            let to = BoxId::Instance { id: if slot == 9 { other.clone() } else { id(slot) } };
            Flow { from, to, per_second, p95_ms: None, error_share: 0.0 }
        };
        let edge = || Some(BoxId::Edge);
        let flows = vec![flow(edge(), 1, 3.0), flow(edge(), 2, 0.0), flow(None, 3, 1.0), flow(edge(), 9, 1.0)];
        let traffic = Traffic { at: Timestamp::from_millis(1), window_ms: 1000, flows };
        assert_eq!(asked(&traffic, &id(1).service, false), BTreeSet::from([id(1)]));
        assert_eq!(asked(&traffic, &id(1).service, true), BTreeSet::from([id(1), id(2)]));
    }

    #[test]
    fn the_route_of_the_probe_says_whether_a_hash_leads() {
        for (balance, expected) in [("", false), ("balance = \"hash\"\n", true), ("balance = \"round-robin\"\n", false)]
        {
            let text = format!(
                "stack = \"shop\"\n[service.web]\nrun = \"./web\"\nhealth = \"/health\"\n\
                 [[edge.route]]\npath = \"/*\"\nto = \"web\"\n{balance}"
            );
            let parsed = mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default());
            assert_eq!(is_hashed(&parsed.expect("a stack").stack), expected, "{text}");
        }
    }
}
