//! `mainstay down`: everything stops in reverse order, data stays.

use std::time::{Duration, Instant};

use mainstay_client::{Client, Error};
use mainstay_types::State;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Services drain 30 s by default and PostgreSQL gets 60 s: past this something hangs.
const PATIENCE: Duration = Duration::from_mins(5);

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let client = Client::new(paths.api_socket());
    let began = Instant::now();
    if matches!(client.status().await, Err(Error::NotRunning { .. })) && has_leftovers(&paths) {
        // Parts of an earlier run go on without a control plane: a new one finds them and stops them in order.
        eprintln!("no control plane answers, but parts of the stack run: starting one to stop them in order");
        mainstay_controller::start_keep(&paths).map_err(|error| {
            Failure::environment("MS3032", format!("keep did not start: {error}"))
                .help(format!("look at {}", paths.log("keep").display()))
        })?;
        wait_for_answer(&client).await;
    }
    bring_down(&client, !global.json).await?;
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if global.json {
        println!("{}", serde_json::json!({"down": true, "took_ms": took, "state": paths.state}));
    } else {
        println!("down in {}; data stays in {}", screen::took(took), paths.state.display());
    }
    Ok(mainstay_types::exit_code::DONE)
}

/// Whether processes of this state run: edge, router and instances carry its path in their environment.
fn has_leftovers(paths: &mainstay_controller::paths::Paths) -> bool {
    let wanted = format!("MAINSTAY_STATE={}", paths.state.display());
    let is_ours = |pid: &mainstay_types::Pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    mainstay_supervisor::proc::all().keys().any(is_ours)
}

async fn wait_for_answer(client: &Client) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) && client.status().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks for the end and waits until nothing answers any more.
pub(crate) async fn bring_down(client: &Client, talk: bool) -> Result<(), Failure> {
    client.down().await?;
    let began = Instant::now();
    let mut told = String::new();
    loop {
        match client.status().await {
            Err(Error::NotRunning { .. }) => return Ok(()),
            Err(_) => {}
            Ok(status) => {
                let left: Vec<&str> = status
                    .boxes
                    .iter()
                    .filter(|one| !matches!(one.state, State::Stopped | State::NotConfigured))
                    .map(|one| one.name.as_str())
                    .collect();
                let text = left.join(", ");
                if talk && !text.is_empty() && text != told {
                    eprintln!("stopping: {text}");
                    told = text;
                }
            }
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::failed("MS1004", format!("still not down after {} s", PATIENCE.as_secs()))
                .help("`mainstay ps` names what runs; `mainstay logs` what it says"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
