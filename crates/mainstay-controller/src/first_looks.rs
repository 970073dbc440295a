//! The first moments of a control plane: nothing is shown before everybody who looks has looked once, so that a
//! restart never paints a whole stack grey.

use std::time::Duration;

use mainstay_decide::observed::Observed;
use mainstay_stack::Stack;
use mainstay_types::{ChildName, Seen, Timestamp};

/// After this what is known is shown, however little: somebody who looks may hang.
const LONGEST: Duration = Duration::from_secs(2);

/// Whether the first looks are over.
pub(crate) struct FirstLooks {
    began: Timestamp,
    are_over: bool,
}

impl FirstLooks {
    pub(crate) fn new(began: Timestamp) -> Self {
        Self { began, are_over: false }
    }

    /// Whether everything that runs was looked at once; stays true.
    pub(crate) fn are_over(&mut self, stack: &Stack, observed: &Observed, at: Timestamp) -> bool {
        self.are_over = self.are_over || at.saturating_since(self.began) > LONGEST || looked(stack, observed);
        self.are_over
    }
}

fn looked(stack: &Stack, observed: &Observed) -> bool {
    let Some(children) = observed.children.value() else { return false };
    let runs = |name: &str| {
        let name = ChildName::new(name);
        name.is_ok_and(|name| children.get(&name).is_some_and(|child| child.ended.is_none()))
    };
    let is_unknown = |seen: &Seen<()>| matches!(seen, Seen::Unknown);
    let database = observed.database.as_ref().is_none_or(|database| {
        let wanted = stack.database.as_ref().map_or(0, |wanted| wanted.standbys + 1);
        let all_seen = u32::try_from(database.members.len()).is_ok_and(|seen| seen >= wanted);
        let answered = database
            .members
            .iter()
            .all(|(member, seen)| !runs(&format!("postgres-{member}")) || !matches!(seen.answer, Seen::Unknown));
        all_seen && answered
    });
    let router = !runs("router") || !matches!(observed.router, Seen::Unknown);
    let edge = !runs("edge") || !is_unknown(&observed.edge);
    let names = ["cache", "store", "store-b", "store-c"];
    let redis = names.iter().all(|name| !runs(name) || observed.redis.contains_key(*name));
    let telemetry = (!runs("prometheus") || !is_unknown(&observed.prometheus))
        && (!runs("alertmanager") || !is_unknown(&observed.alertmanager));
    let health = observed
        .health
        .values()
        .all(|seen| seen.health != mainstay_decide::observed::Health::Starting || !seen.last.is_empty());
    database && router && edge && redis && telemetry && health
}
