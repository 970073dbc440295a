//! Whether the stack is whole: every box ready.

use std::time::Duration;

use mainstay_api::{BoxStatus, Status};
use mainstay_client::Client;
use mainstay_types::State;
use tokio::time::Instant;

use crate::run::Error;

/// Most time for the stack to be whole again.
pub(crate) const WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks at the stack.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Waits until every box is ready and commits are as durable as the stack file wants.
pub(crate) async fn wait(client: &Client, within: Duration) -> Result<Status, Error> {
    let began = Instant::now();
    let mut last = "it does not answer".to_owned();
    while began.elapsed() < within {
        if let Ok(status) = client.status().await {
            match missing(&status) {
                None => return Ok(status),
                Some(reason) => last = reason,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::NotWhole(last))
}

pub(crate) fn missing(status: &Status) -> Option<String> {
    if !status.is_up {
        return Some("it is still starting".to_owned());
    }
    // That the last run of a schedule failed is nothing that a fault here has broken, or that time would mend.
    let is_schedule = |name: &str| status.schedules.keys().any(|service| service.as_str() == name);
    let is_fine = |one: &&BoxStatus| match one.state {
        State::Ready | State::NotConfigured => true,
        State::Degraded => is_schedule(&one.name),
        _ => false,
    };
    let broken = status.boxes.iter().find(|one| !is_fine(one));
    broken.map(|one| {
        let why = one.reason.clone().or_else(|| one.waiting.first().map(ToString::to_string)).unwrap_or_default();
        format!("{} is {} {why}", one.name, one.state)
    })
}
