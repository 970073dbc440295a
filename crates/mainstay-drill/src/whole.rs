//! Whether the stack is whole: every box ready.

use std::time::Duration;

use mainstay_api::{BoxStatus, Status};
use mainstay_client::Client;
use mainstay_types::{BoxId, State, Waiting};
use tokio::time::Instant;

use crate::run::{Error, Progress};

/// Most time for the stack to be whole again after a fault, and before one while it gets on.
pub(crate) const WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks at the stack.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// What a stack lacks to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Which box, in which state, why.
    pub(crate) text: String,
    /// Nothing will change it but a person.
    pub(crate) needs_a_person: bool,
    /// It ends again and again, whatever it is called in between.
    pub(crate) is_crash_loop: bool,
}

/// What is said and done about a stack that is not whole. Pure.
///
/// A stack that gets on is waited for; one in which nothing changes for [`Patience::STILL`] is not: a drill that
/// waits in silence looks like one that hangs.
pub(crate) struct Patience {
    /// The longest wait.
    within: Duration,
    /// What ends again and again is waited for: a drill's own kills may have come to that.
    bears_crash_loops: bool,
    /// What was missing last, since when, and when it was said last.
    last: Option<(String, Duration, Option<Duration>)>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Wait,
    Say(String),
    GiveUp(String),
}

impl Patience {
    /// What is missing for a shorter time is not worth a line: most recoveries end within it.
    const QUIET: Duration = Duration::from_secs(1);
    /// What is still the same is said again after this.
    const AGAIN: Duration = Duration::from_secs(10);
    /// A clone of a small database or an application's start on a busy machine fit into this.
    const STILL: Duration = Duration::from_secs(45);
    /// The control plane may be about to see that a person has acted.
    const PERSON: Duration = Duration::from_secs(3);

    /// Before anything was broken.
    pub(crate) fn at_first() -> Self {
        Self { within: WITHIN, bears_crash_loops: false, last: None }
    }

    /// After a round.
    pub(crate) fn between() -> Self {
        Self { bears_crash_loops: true, ..Self::at_first() }
    }

    /// Told what is missing so long after the beginning.
    pub(crate) fn see(&mut self, after: Duration, missing: &Missing) -> Next {
        let (since, said) = match &self.last {
            Some((text, since, said)) if *text == missing.text => (*since, *said),
            Some(_) | None => (after, None),
        };
        let still = after.saturating_sub(since);
        let limit = if missing.needs_a_person { Self::PERSON } else { Self::STILL };
        if missing.is_crash_loop && !self.bears_crash_loops {
            return Next::GiveUp(missing.text.clone());
        }
        if after >= self.within || still >= limit {
            let seconds = after.as_secs();
            return Next::GiveUp(format!("{} (waited {seconds} s, {} s for this)", missing.text, still.as_secs()));
        }
        let is_due = match said {
            None => after >= Self::QUIET,
            Some(said) => after.saturating_sub(said) >= Self::AGAIN,
        };
        self.last = Some((missing.text.clone(), since, if is_due { Some(after) } else { said }));
        if is_due { Next::Say(format!("waits: {} ({} s)", missing.text, still.as_secs())) } else { Next::Wait }
    }
}

/// Waits until every box is ready and commits are as durable as the stack file wants.
///
/// **Errors**: it is not whole in time, or nothing changes about that; the text says which box it is.
pub(crate) async fn wait(
    client: &Client,
    mut patience: Patience,
    progress: &mut dyn Progress,
) -> Result<Status, Error> {
    let began = Instant::now();
    loop {
        let missing = match client.status().await {
            Ok(status) => match missing(&status) {
                None => return Ok(status),
                Some(missing) => missing,
            },
            Err(error) => Missing { text: error.to_string(), needs_a_person: false, is_crash_loop: false },
        };
        match patience.see(began.elapsed(), &missing) {
            Next::Wait => {}
            Next::Say(line) => progress.say(&line),
            Next::GiveUp(reason) => return Err(Error::NotWhole(reason)),
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) fn missing(status: &Status) -> Option<Missing> {
    if !status.is_up {
        let text = "the stack is still starting".to_owned();
        return Some(Missing { text, needs_a_person: false, is_crash_loop: false });
    }
    // That the last run of a schedule failed is nothing that a fault here has broken, or that time would mend.
    let is_schedule = |name: &str| status.schedules.keys().any(|service| service.as_str() == name);
    let is_fine = |one: &&BoxStatus| match one.state {
        State::Ready | State::NotConfigured => true,
        State::Degraded => is_schedule(&one.name),
        State::Waiting
        | State::Starting
        | State::Draining
        | State::BackingOff
        | State::CrashLoop
        | State::Failed
        | State::Stopped
        | State::Unknown => false,
    };
    // Backups carry no traffic.
    let mut broken = status.boxes.iter().filter(|one| one.id != BoxId::Backups && !is_fine(one));
    let is_crash_loop = |one: &&BoxStatus| one.state == State::CrashLoop;
    // The others may only wait for it.
    let broken = broken.clone().find(is_crash_loop).or_else(|| broken.next())?;
    let why = broken.reason.clone().or_else(|| broken.waiting.first().map(ToString::to_string));
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let needs_a_person = broken.waiting.iter().any(|waiting| matches!(waiting, Waiting::Operator { .. }));
    let text = format!("{} is {}{why}", broken.name, broken.state);
    Some(Missing { text, needs_a_person, is_crash_loop: broken.state == State::CrashLoop })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn missing(text: &str, needs_a_person: bool) -> Missing {
        Missing { text: text.to_owned(), needs_a_person, is_crash_loop: false }
    }

    #[test]
    fn what_is_waited_for_is_said_once_it_lasts_and_again_every_ten_seconds() {
        let (mut patience, backend) = (Patience::at_first(), missing("backend is starting", false));
        assert_eq!(patience.see(SECOND / 2, &backend), Next::Wait);
        let said: Vec<u32> =
            (1..40).filter(|second| matches!(patience.see(SECOND * *second, &backend), Next::Say(_))).collect();
        assert_eq!(said, [1, 11, 21, 31]);
        assert_eq!(
            patience.see(SECOND * 40, &missing("edge is starting", false)),
            Next::Say("waits: edge is starting (0 s)".to_owned()),
            "what is new is said at once"
        );
    }

    #[test]
    fn a_stack_that_gets_on_is_waited_for_and_one_that_does_not_is_given_up() {
        let mut patience = Patience::at_first();
        for second in 0..119 {
            let changing = missing(&format!("postgres-b is starting: {} of 9", second / 30), false);
            assert!(!matches!(patience.see(SECOND * second, &changing), Next::GiveUp(_)), "{second}");
        }
        let text = "backend is crash loop: exit 1";
        assert!(matches!(patience.see(SECOND * 120, &missing(text, false)), Next::GiveUp(_)), "the longest wait");
        let mut patience = Patience::at_first();
        let end = (0..).find(|second| matches!(patience.see(SECOND * *second, &missing(text, false)), Next::GiveUp(_)));
        assert_eq!(end, Some(45));
    }

    #[test]
    fn a_crash_loop_is_given_up_at_once_unless_the_drill_may_have_caused_it() {
        let looping = Missing { is_crash_loop: true, ..missing("worker is crash loop: ended 5 times in a row", false) };
        let starting = missing("worker is starting", false);
        let mut patience = Patience::at_first();
        assert!(!matches!(patience.see(SECOND, &starting), Next::GiveUp(_)));
        assert_eq!(patience.see(SECOND * 2, &looping), Next::GiveUp(looping.text.clone()));
        let mut patience = Patience::between();
        assert!(!matches!(patience.see(SECOND * 2, &looping), Next::GiveUp(_)));
    }

    #[test]
    fn what_needs_a_person_is_given_up_soon_with_the_reason() {
        let (mut patience, text) = (Patience::at_first(), "postgres-b is waiting: needs you: remove its directory");
        assert!(matches!(patience.see(SECOND, &missing(text, true)), Next::Say(_)));
        let Next::GiveUp(reason) = patience.see(SECOND * 4, &missing(text, true)) else { panic!("it waits on") };
        assert_eq!(reason, format!("{text} (waited 4 s, 3 s for this)"));
    }
}
