//! `mainstay run`: a command as a service would run it, in this terminal; or a scheduled service, now.

use std::time::Duration;

use clap::Args;
use mainstay_api::{CommandContext, LastRun, LogLine, Status};
use mainstay_client::{Client, Lines};
use mainstay_supervisor::context::{Command, take_place};
use mainstay_supervisor::protocol::User;
use mainstay_types::{BoxId, ChildName, ExitReason, Secret, ServiceName, Timestamp, exit_code};

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The service; may be left out when there is only one. Without a command: one with `every`, which is run now
    service: Option<String>,
    /// The command and its arguments, after `--`; paths are relative to the folder of the service
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Variables of the person's terminal, which no service has.
const OF_THE_TERMINAL: [&str; 5] = ["TERM", "COLORTERM", "NO_COLOR", "LINES", "COLUMNS"];
/// Pause between two looks at a run.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of a log that did not exist when the run began.
const ALL_LINES: u32 = 10_000;
/// Time for the last lines of a run that has ended: logs are looked at every 200 ms.
const LAST_LINES: Duration = Duration::from_millis(500);

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    if options.command.is_empty() {
        return run_schedule(&client, options.service.as_deref(), global.json).await;
    }
    let service = match &options.service {
        Some(service) => service.clone(),
        None => only_service(&client).await?,
    };
    let context = client.context(&service, false).await?;
    Err(hand_over(context, &options.command))
}

/// The names of the stack's services.
fn services(status: &Status) -> Vec<&str> {
    let is_service = |id: &BoxId| matches!(id, BoxId::Service { .. });
    status.boxes.iter().filter(|one| is_service(&one.id)).map(|one| one.name.as_str()).collect()
}

/// The one service of the stack.
async fn only_service(client: &Client) -> Result<String, Failure> {
    let status = client.status().await?;
    let names = services(&status);
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Failure::user("MS2050", "the stack has no service whose environment a command could have")
            .help("declare a [service.NAME], or use `mainstay db psql` for the database")),
        several => {
            let text = format!("the stack has several services, and the command is for none: {}", several.join(", "));
            Err(Failure::user("MS2050", text).help(format!("name one: `mainstay run {} -- CMD`", several[0])))
        }
    }
}

/// Makes this process the command. Returns only when that failed.
pub(super) fn hand_over(context: CommandContext, command: &[String]) -> Failure {
    let mut env = context.env;
    for name in OF_THE_TERMINAL {
        if let Ok(value) = std::env::var(name) {
            env.entry(name.to_owned()).or_insert_with(|| Secret::new(value));
        }
    }
    let help = format!(
        "the command is looked up in the PATH of the service (`mainstay env {}`) or relative to its folder",
        context.service
    );
    let name = context.instance.map_or_else(|| ChildName::new(context.service.as_str()), Ok);
    let Ok(name) = name else { return Failure::bug("a service whose name is none of a process") };
    let reason = take_place(Command {
        name,
        argv: command.to_vec(),
        env,
        dir: context.dir.into(),
        project: context.project.into(),
        home: context.home.map(Into::into),
        user: context.user.map(|(uid, gid)| User { uid, gid }),
        beside: context.pid,
    });
    Failure::environment("MS3050", reason).help(help)
}

/// Runs a scheduled service now and waits for its end; its exit status is ours. With `json` stdout has how it ended,
/// and nothing else: what it prints is talk then.
async fn run_schedule(client: &Client, service: Option<&str>, json: bool) -> Result<u8, Failure> {
    let status = client.status().await?;
    let find = |name: &str| status.schedules.keys().find(|service| service.as_str() == name).cloned();
    let Some(name) = service.and_then(find) else {
        let names: Vec<&str> = services(&status);
        if let Some(name) = service.filter(|name| !names.contains(name)) {
            let failure = Failure::user("MS2052", format!("the stack has no service {name:?}"));
            return Err(failure.help(format!("its services: {}", names.join(", "))));
        }
        let what = service.or(names.first().copied()).unwrap_or("SERVICE");
        let text = match service {
            Some(name) => format!("what is {name} to run? Only a service with `every` runs without a command"),
            None => "what is to be run? Give a command, or a service with `every`".to_owned(),
        };
        return Err(Failure::user("MS2051", text).help(format!("`mainstay run {what} -- CMD ARGUMENTS`")));
    };
    let log = ChildName::run(&name);
    // Followed from here on, so that nothing of an earlier run is shown. A first run has no log yet.
    let mut lines = client.logs(Some(log.as_str()), 0, true).await.ok();
    let due = client.run_now(name.as_str()).await?.due;
    let last = follow(client, &name, due, (&mut lines, json)).await?;
    if json {
        println!("{}", serde_json::json!({"service": name, "run": last}));
    }
    match last.exit {
        ExitReason::Code { code } if !last.is_timed_out => Ok(u8::try_from(code).unwrap_or(exit_code::FAILED)),
        // All of it was said.
        _ if json => Ok(exit_code::FAILED),
        exit => {
            let text = if last.is_timed_out { "took too long and was ended" } else { "did not end by itself" };
            Err(Failure::failed("MS1002", format!("the run of {name} {text}: {exit}"))
                .help(format!("its output: `mainstay logs {name}`")))
        }
    }
}

/// Shows what a run prints until it is over; on stderr when stdout is for JSON.
async fn follow(
    client: &Client,
    name: &ServiceName,
    due: Timestamp,
    (lines, json): (&mut Option<Lines>, bool),
) -> Result<LastRun, Failure> {
    let log = ChildName::run(name);
    loop {
        show(lines, LOOK, json).await;
        let status = match client.status().await {
            Ok(status) => status,
            // A control plane that is just being restarted comes back, and the run goes on.
            Err(mainstay_client::Error::NotRunning { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(schedule) = status.schedules.get(name) else {
            return Err(
                Failure::failed("MS1002", format!("{name} is no longer on a schedule")).help("`mainstay status`")
            );
        };
        if lines.is_none() && (schedule.running.is_some() || schedule.last.is_some()) {
            *lines = client.logs(Some(log.as_str()), ALL_LINES, true).await.ok();
        }
        if let Some(last) = schedule.last.as_ref().filter(|last| last.due == due) {
            show(lines, LAST_LINES, json).await;
            return Ok(last.clone());
        }
        if status.is_stopping {
            return Err(Failure::failed("MS1002", "the stack is going down").help("`mainstay events`"));
        }
    }
}

/// Shows lines that come within this time.
async fn show(lines: &mut Option<Lines>, within: Duration, json: bool) {
    let Some(open) = lines else { return tokio::time::sleep(within).await };
    let until = tokio::time::Instant::now() + within;
    loop {
        match tokio::time::timeout_at(until, open.next::<LogLine>()).await {
            Ok(Ok(Some(line))) if json => eprintln!("{}", line.text),
            Ok(Ok(Some(line))) => println!("{}", line.text),
            // The control plane is gone: its next one is asked again, for what comes then.
            Ok(Ok(None) | Err(_)) => {
                *lines = None;
                return tokio::time::sleep_until(until).await;
            }
            Err(_) => return,
        }
    }
}
