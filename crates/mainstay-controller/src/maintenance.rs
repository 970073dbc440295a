//! Maintenance of routes by hand: what a person switches is on disk before it counts, and counts until a person switches
//! it back, whatever is started again meanwhile.

use std::sync::Arc;
use std::time::Duration;

use mainstay_api::{Maintenance, RouteStatus};
use mainstay_decide::maintenance::{self, Switched};
use mainstay_edge::protocol::Policy;
use mainstay_stack::Stack;
use mainstay_stack::model::{Route, RouteTarget};
use tokio::sync::watch;

use crate::clock::now;
use crate::effects::Effects;
use crate::settings::{Settings, upstream_name};
use crate::store::NewEvent;

/// What is switched, in the store.
pub(crate) const FACT: &str = "maintenance";
/// Time for the edge to say that a policy counts.
const TAKEN: Duration = Duration::from_secs(5);

/// How the edge is told its policy.
#[derive(Clone, Default)]
pub(crate) struct ToEdge {
    pub(crate) policies: watch::Sender<Option<Arc<Policy>>>,
    /// Hash of the policy that it took last.
    pub(crate) accepted: watch::Sender<Option<String>>,
    /// Held while a route is put into maintenance, or out of it.
    pub(crate) switching: Arc<tokio::sync::Mutex<()>>,
}

impl ToEdge {
    /// Sends a policy; its hash. It is made while no other can be: one that was made before a switch and sent after it
    /// would undo it.
    pub(crate) fn send(&self, make: impl FnOnce() -> Policy) -> String {
        let mut hash = String::new();
        self.policies.send_modify(|known| {
            let policy = make();
            hash = mainstay_edge::policy_hash(&policy);
            *known = Some(Arc::new(policy));
        });
        hash
    }

    /// Sends the policy once more, with routes as they are switched now. Whether the edge said in time that it counts.
    pub(crate) async fn switch(&self, maintenance_s: impl Fn(&str) -> Option<u64>) -> bool {
        self.again(|policy| policy.routes.iter_mut().for_each(|of| of.maintenance_s = maintenance_s(&of.path))).await
    }

    /// Sends the policy once more, with something else in it. Whether the edge said in time that it counts.
    pub(crate) async fn again(&self, edit: impl FnOnce(&mut Policy)) -> bool {
        let mut accepted = self.accepted.subscribe();
        let mut hash = None;
        self.policies.send_if_modified(|known| {
            // The first one is made with it.
            let Some(policy) = known else { return false };
            let policy = Arc::make_mut(policy);
            edit(policy);
            hash = Some(mainstay_edge::policy_hash(policy));
            true
        });
        let is_taken = accepted.wait_for(|accepted| accepted.is_some() && *accepted == hash);
        matches!(tokio::time::timeout(TAKEN, is_taken).await, Ok(Ok(_)))
    }
}

/// What an earlier control plane left, as far as it is about routes that the stack still has; and the others.
pub(crate) fn known(settings: &Settings, fact: Option<&str>) -> (Switched, Vec<String>) {
    let known = fact.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    maintenance::take_up(&settings.stack, known)
}

/// Tells of routes that the stack no longer has, and forgets them.
pub(crate) async fn forget(effects: Arc<Effects>) {
    let _alone = effects.to_edge.switching.lock().await;
    // A fact that cannot be read now is read by the next control plane.
    let Ok(Some(fact)) = effects.journal.fact(FACT).await else { return };
    let (kept, gone) = known(&effects.settings, Some(&fact));
    if gone.is_empty() {
        return;
    }
    let text = format!("the edge has no route {} any more: its maintenance by hand is over", gone.join(", "));
    effects.journal.emit(NewEvent::warn(now(), "MaintenanceDropped", text).about("edge"));
    let kept = serde_json::to_string(&kept).unwrap_or_default();
    // The next control plane drops it as well.
    effects.journal.set_fact(FACT, &kept).await.ok();
}

/// All routes, in the stack file's order.
pub(crate) fn routes(stack: &Stack, switched: &Switched) -> Vec<RouteStatus> {
    stack.edge.routes.iter().map(|route| status(stack, switched, route)).collect()
}

/// Those that are in maintenance.
pub(crate) fn shut(stack: &Stack, switched: &Switched) -> Vec<RouteStatus> {
    let mut all = routes(stack, switched);
    all.retain(|route| route.maintenance.is_some());
    all
}

fn status(stack: &Stack, switched: &Switched, route: &Route) -> RouteStatus {
    let by_file = maintenance::by_file(stack, &route.path).is_some();
    let since = switched.0.get(&route.path).map(|switch| switch.since).filter(|_| !by_file);
    let retry_after_s = maintenance::retry_after_s(stack, switched, &route.path);
    let maintenance = retry_after_s.map(|retry_after_s| Maintenance { is_by_hand: !by_file, since, retry_after_s });
    let to = match &route.to {
        RouteTarget::Service { name, management } => upstream_name(name, *management),
        RouteTarget::Site { name } => name.to_string(),
        RouteTarget::Redirect { location, .. } => location.clone(),
    };
    RouteStatus { path: route.path.clone(), to, maintenance }
}

/// What the edge's box says of it, with the next step.
pub(crate) fn reason(shut: &[RouteStatus]) -> Option<String> {
    let by_hand = |route: &&RouteStatus| route.maintenance.is_some_and(|of| of.is_by_hand);
    let paths = |wanted: bool| {
        let of = shut.iter().filter(|route| by_hand(route) == wanted).map(|route| route.path.as_str());
        of.collect::<Vec<_>>().join(", ")
    };
    let (hand, file) = (paths(true), paths(false));
    let mut parts = Vec::new();
    if let Some(first) = shut.iter().find(by_hand) {
        parts.push(format!("by hand: {hand} (`mainstay route maintenance '{}' off`)", first.path));
    }
    if !file.is_empty() {
        parts.push(format!("by the stack file: {file}"));
    }
    (!parts.is_empty()).then(|| format!("in maintenance {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstay_decide::maintenance::Switch;
    use mainstay_types::{EnvironmentName, Timestamp};

    use super::*;

    #[test]
    fn a_route_says_who_shut_it_and_how_to_open_it() {
        let text = "stack = \"shop\"\n[[edge.route]]\npath = \"/api/*\"\nto = \"web\"\n[[edge.route]]\npath = \"/old/*\"\n\
                    to = \"web\"\nmaintenance = \"1h\"\n[service.web]\nrun = \"./shop\"\n";
        let parsed = mainstay_stack::parse(text, "mainstay.toml", &EnvironmentName::default());
        let stack = parsed.expect("keeps the rules").stack;
        let since = Timestamp::from_millis(1000);
        let switch = Switch { since, retry_after_s: 60 };
        let switched = Switched(BTreeMap::from([("/api/*".to_owned(), switch), ("/old/*".to_owned(), switch)]));
        let all = routes(&stack, &switched);
        let of = |at: usize| all[at].maintenance.expect("in maintenance");
        assert_eq!(of(0), Maintenance { is_by_hand: true, since: Some(since), retry_after_s: 60 });
        assert_eq!(of(1), Maintenance { is_by_hand: false, since: None, retry_after_s: 3600 });
        assert_eq!(all[0].to, "web");
        let reason = reason(&shut(&stack, &switched)).expect("a reason");
        assert_eq!(
            reason,
            "in maintenance by hand: /api/* (`mainstay route maintenance '/api/*' off`); by the stack file: /old/*"
        );
        let reason = self::reason(&shut(&stack, &Switched::default()));
        assert_eq!(reason.as_deref(), Some("in maintenance by the stack file: /old/*"));
    }

    fn policy() -> Policy {
        let to = mainstay_edge::protocol::Target::Upstream { name: "web".to_owned() };
        Policy {
            schema: mainstay_edge::protocol::PROTOCOL_VERSION,
            generation: mainstay_types::Generation(1),
            hosts: Vec::new(),
            certificates: Vec::new(),
            challenges: Default::default(),
            https_port: 443,
            limits: Vec::new(),
            admission: Default::default(),
            connections_per_ip: None,
            least_tls: Default::default(),
            issuers: BTreeMap::new(),
            client_ca: None,
            routes: ["/api/*", "/*"].map(|path| mainstay_edge::protocol::Route::new(path, to.clone(), 1000)).to_vec(),
            upstreams: BTreeMap::new(),
            access_log: std::path::PathBuf::new(),
        }
    }

    #[tokio::test]
    async fn a_switch_counts_when_the_edge_says_so() {
        let edge = ToEdge::default();
        edge.send(policy);
        let mut policies = edge.policies.subscribe();
        policies.mark_unchanged();
        let accepted = edge.accepted.clone();
        let taken = tokio::spawn(async move {
            policies.changed().await.expect("a policy");
            let policy = policies.borrow().clone().expect("a policy");
            accepted.send_replace(Some(mainstay_edge::policy_hash(&policy)));
            policy
        });
        assert!(edge.switch(|path| (path == "/api/*").then_some(60)).await);
        let times: Vec<_> = taken.await.expect("joins").routes.iter().map(|route| route.maintenance_s).collect();
        assert_eq!(times, [Some(60), None]);
    }
}
