//! Maintenance of routes by hand: what a person may switch while the stack runs, and what of it counts when the stack
//! file is another one.
//!
//! What the stack file says and what a person switched are two things: neither lifts the other.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// What a client is told to wait when nobody said for how long: as for `maintenance = true` of the stack file.
pub const RETRY_AFTER: Duration = Duration::from_mins(5);

/// Routes that a person put into maintenance, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched(pub BTreeMap<String, Switch>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Since when.
    pub since: Timestamp,
    /// What clients are told to wait. **Unit**: seconds.
    pub retry_after_s: u64,
}

/// Why it is not switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The edge has no such route.
    NoRoute,
    /// The stack file has the route in maintenance.
    ByFile,
}

/// What a person asks of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nobody is let in, and told to come back after so long; `None`: as it was, else [`RETRY_AFTER`].
    On(Option<Duration>),
    /// As the stack file says.
    Off,
}

/// For how long the stack file has a route in maintenance.
pub fn by_file(stack: &Stack, route: &str) -> Option<Duration> {
    let of = stack.edge.routes.iter().find(|of| of.path == route)?;
    stack.edge.maintenance.or(of.maintenance)
}

/// What clients of a route are told to wait in place of an answer. **Unit**: seconds. The file's time comes
/// before a person's.
pub fn retry_after_s(stack: &Stack, switched: &Switched, route: &str) -> Option<u64> {
    let by_file = by_file(stack, route).map(|time| time.as_secs().max(1));
    by_file.or_else(|| switched.0.get(route).map(|switch| switch.retry_after_s))
}

/// What is switched from now on.
///
/// **Errors**: there is no such route, or what is asked for is the stack file's.
pub fn switch(
    stack: &Stack,
    switched: &Switched,
    (route, wish): (&str, Wish),
    now: Timestamp,
) -> Result<Switched, Refused> {
    if !stack.edge.routes.iter().any(|of| of.path == route) {
        return Err(Refused::NoRoute);
    }
    let known = switched.0.get(route).copied();
    // What was switched before the file said so can be lifted: else it would come back when the file says it no more.
    if by_file(stack, route).is_some() && (known.is_none() || matches!(wish, Wish::On(_))) {
        return Err(Refused::ByFile);
    }
    let mut next = switched.clone();
    match wish {
        Wish::Off => drop(next.0.remove(route)),
        Wish::On(wait) => {
            let wait = wait.map(|wait| wait.as_secs().max(1));
            let retry_after_s = wait.or(known.map(|known| known.retry_after_s)).unwrap_or(RETRY_AFTER.as_secs());
            let since = known.map_or(now, |known| known.since);
            next.0.insert(route.to_owned(), Switch { since, retry_after_s });
        }
    }
    Ok(next)
}

/// What of it counts for a stack, and the routes that it no longer has: whoever comes back with one of that path does not
/// find it shut by a switch that everybody has forgotten.
pub fn take_up(stack: &Stack, switched: Switched) -> (Switched, Vec<String>) {
    let is_there = |path: &String| stack.edge.routes.iter().any(|of| of.path == *path);
    let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = switched.0.into_iter().partition(|(path, _)| is_there(path));
    (Switched(kept), gone.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use mainstay_types::EnvironmentName;

    use super::*;

    fn stack(edge: &str, route: &str) -> Stack {
        let text = format!(
            "stack = \"shop\"\n[edge]\n{edge}\n[[edge.route]]\npath = \"/api/*\"\nto = \"web\"\n{route}\n[[edge.route]]\n\
             path = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"./shop\"\n"
        );
        mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default()).expect("keeps the rules").stack
    }

    const AT: Timestamp = Timestamp::from_micros(1_000_000);
    const LATER: Timestamp = Timestamp::from_micros(2_000_000);
    const ON: Wish = Wish::On(None);

    #[test]
    fn what_is_switched_on_is_off_again_by_off_alone() {
        let stack = stack("", "");
        let none = Switched::default();
        assert_eq!(switch(&stack, &none, ("/api/x", ON), AT), Err(Refused::NoRoute));
        let on = switch(&stack, &none, ("/api/*", ON), AT).expect("switched");
        assert_eq!(retry_after_s(&stack, &on, "/api/*"), Some(300));
        assert_eq!(retry_after_s(&stack, &on, "/*"), None);
        // Again, with another time: since when it is so stays.
        let longer = Wish::On(Some(Duration::from_mins(30)));
        let again = switch(&stack, &on, ("/api/*", longer), LATER).expect("switched");
        assert_eq!(again.0["/api/*"], Switch { since: AT, retry_after_s: 1800 });
        assert_eq!(switch(&stack, &again, ("/api/*", ON), LATER).expect("switched"), again);
        assert_eq!(switch(&stack, &again, ("/api/*", Wish::Off), LATER).expect("switched"), none);
        assert_eq!(switch(&stack, &none, ("/api/*", Wish::Off), LATER).expect("as it was"), none);
    }

    #[test]
    fn what_the_file_says_is_not_switched_by_hand() {
        for stack in [stack("", "maintenance = \"1h\""), stack("maintenance = \"1h\"", "")] {
            let none = Switched::default();
            assert_eq!(retry_after_s(&stack, &none, "/api/*"), Some(3600));
            for wish in [ON, Wish::Off] {
                assert_eq!(switch(&stack, &none, ("/api/*", wish), AT), Err(Refused::ByFile));
            }
            // Switched on before the file said the same: the file's time counts, and it can be lifted.
            let before = switch(&self::stack("", ""), &none, ("/api/*", ON), AT).expect("switched");
            assert_eq!(retry_after_s(&stack, &before, "/api/*"), Some(3600));
            assert_eq!(switch(&stack, &before, ("/api/*", Wish::Off), LATER).expect("lifted"), none);
        }
    }

    #[test]
    fn a_route_that_is_no_more_is_forgotten() {
        let switch = Switch { since: AT, retry_after_s: 300 };
        let all = ["/api/*", "/old/*"].map(|path| (path.to_owned(), switch));
        let (kept, gone) = take_up(&stack("", ""), Switched(BTreeMap::from(all)));
        assert_eq!(
            (kept.0.into_keys().collect::<Vec<_>>(), gone),
            (vec!["/api/*".to_owned()], vec!["/old/*".to_owned()])
        );
    }
}
