//! Which children there are, by what keep lists and by what was started here.

use std::collections::BTreeMap;

use mainstay_supervisor::protocol::Child;
use mainstay_types::{ChildName, Timestamp};

/// keep's list, and starts that are newer than it: their results came in while it was under way.
///
/// Of the same start keep knows better: it may have ended while no keep was there to tell of it.
pub(super) fn listed(
    known: BTreeMap<ChildName, Child>,
    list: Vec<Child>,
    asked_at: Timestamp,
) -> BTreeMap<ChildName, Child> {
    let mut listed: BTreeMap<ChildName, Child> = list.into_iter().map(|child| (child.name.clone(), child)).collect();
    for (name, known) in known {
        let is_another = listed.get(&name).is_none_or(|other| other.nonce != known.nonce);
        if known.ended.is_none() && known.since >= asked_at && is_another {
            listed.insert(name, known);
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use mainstay_supervisor::protocol::Ended;
    use mainstay_types::{ChildRole, ExitReason, Nonce, Pid};

    use super::*;

    fn router(nonce: char, since_ms: i64, is_over: bool) -> Child {
        let since = Timestamp::from_millis(since_ms);
        Child {
            name: ChildName::new("router").expect("a name"),
            role: ChildRole::Router,
            nonce: Nonce::try_from(nonce.to_string().repeat(32)).expect("a nonce"),
            pid: Pid(7),
            since,
            is_own: true,
            ended: is_over.then_some(Ended { reason: ExitReason::Unknown, at: since }),
            ended_before: None,
        }
    }

    /// What is there afterwards: the nonce's first letter, and whether it runs.
    fn there(known: Option<Child>, list: Option<Child>, asked_at_ms: i64) -> Option<(char, bool)> {
        let known = known.into_iter().map(|child| (child.name.clone(), child)).collect();
        let listed = listed(known, list.into_iter().collect(), Timestamp::from_millis(asked_at_ms));
        let child = listed.into_values().next()?;
        Some((child.nonce.to_string().chars().next()?, child.ended.is_none()))
    }

    #[test]
    fn what_died_with_keep_is_dead() {
        // Known by the moment at which its result came in, which is after the moment that keep knows.
        assert_eq!(there(Some(router('a', 20, false)), Some(router('a', 10, true)), 500), Some(('a', false)));
        assert_eq!(there(Some(router('a', 20, false)), None, 500), None, "keep has no record of it");
        assert_eq!(there(Some(router('a', 20, false)), Some(router('b', 10, true)), 500), Some(('b', false)));
    }

    #[test]
    fn a_start_while_keep_is_asked_is_newer_than_its_answer() {
        assert_eq!(there(Some(router('b', 501, false)), Some(router('a', 10, true)), 500), Some(('b', true)));
        assert_eq!(there(Some(router('b', 501, false)), None, 500), Some(('b', true)));
        assert_eq!(there(Some(router('b', 501, false)), Some(router('b', 499, true)), 500), Some(('b', false)));
    }
}
