//! `mainstay down`: everything stops in reverse order, data stays unless `--delete-data` says otherwise.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_client::{Client, Error};
use mainstay_controller::backups::past;
use mainstay_controller::paths::Paths;
use mainstay_controller::ports::Ports;
use mainstay_supervisor::client::Keep;
use mainstay_supervisor::proc;
use mainstay_types::{ChildRole, Pid, State};
use rustix::process::Signal;

use super::delete::{self, Consent};
use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Also delete all data of the stack in this environment; asks for the stack's name
    #[arg(long)]
    delete_data: bool,
    /// The stack's name, where nobody can be asked
    #[arg(long, value_name = "STACK", requires = "delete_data")]
    confirm: Option<String>,
}

/// Services drain 30 s by default and PostgreSQL gets 60 s: past this something hangs.
const PATIENCE: Duration = Duration::from_mins(5);
/// keep and the control plane end within seconds once all others have: it gives the control plane 5 s.
const PARENTS_GONE: Duration = Duration::from_secs(10);
/// A control plane that is being restarted answers within a second; a slow machine takes more.
const CONTROL_BACK: Duration = Duration::from_secs(10);
/// Time for one kind of child to end by itself when keep is asked directly; then it is killed.
const EACH_KIND: Duration = Duration::from_secs(30);
/// Time to kill what survived it.
const KILL: Duration = Duration::from_secs(10);
/// Time in which a control plane that ends as asked is gone, or another one is there.
const PARTING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let client = Client::new(paths.api_socket());
    if options.delete_data {
        delete::confirm(&paths, &Consent { typed: options.confirm.as_deref(), json: global.json })?;
    }
    let began = Instant::now();
    let stopped = stop(&paths, &client, global).await;
    // Data of a stack that is down already can be deleted too.
    let was_up = match stopped {
        Err(failure) if failure.name == "MS1001" && options.delete_data => false,
        other => other.map(|()| true)?,
    };
    let deleted = if options.delete_data { Some(delete::delete(&paths)?) } else { None };
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if global.json {
        let (state, bytes) = (&paths.state, deleted);
        println!("{}", serde_json::json!({"down": true, "took_ms": took, "state": state, "deleted_bytes": bytes}));
        return Ok(mainstay_types::exit_code::DONE);
    }
    if was_up {
        let end = if deleted.is_some() { String::new() } else { format!("; data stays in {}", paths.state.display()) };
        println!("down in {}{end}", screen::took(took));
    }
    if let Some(bytes) = deleted {
        println!(
            "deleted {} in {}; nothing of the stack is left there",
            mainstay_types::Bytes(bytes),
            paths.state.display()
        );
    }
    Ok(mainstay_types::exit_code::DONE)
}

async fn stop(paths: &Paths, client: &Client, global: &Global) -> Result<(), Failure> {
    match bring_down(paths, client, !global.json).await {
        Err(failure) if failure.name == "MS1001" => without_control(paths, client, !global.json, failure).await,
        other => other,
    }
}

/// No control plane answers, and parts may run: it is given the time of a restart (and a keep, if there is none),
/// then keep is asked directly.
async fn without_control(paths: &Paths, client: &Client, talk: bool, failure: Failure) -> Result<(), Failure> {
    if Keep::connect(&paths.runtime).await.is_err() {
        if !has_running_children(&paths.state) {
            return Err(failure);
        }
        eprintln!("neither keep nor a control plane runs, but parts of the stack do: taking them over to stop them");
        start_keep(paths)?;
    }
    let began = Instant::now();
    while client.status().await.is_err() {
        if began.elapsed() > CONTROL_BACK {
            eprintln!("the control plane does not answer: keep stops everything");
            return by_keep(paths).await;
        }
        tokio::time::sleep(LOOK).await;
    }
    Box::pin(bring_down(paths, client, talk)).await
}

/// Nobody answers.
fn not_up(error: &Error) -> Failure {
    Failure::failed("MS1001", format!("{error}: the stack is not up"))
        .help("`mainstay up` starts it; `--env` and `--state` must be those of its `up`")
}

/// Asks for the end and waits until nothing runs any more, keep and the control plane included: the next `up`
/// would meet them otherwise. A control plane that dies over it is followed by one that knows nothing of it: that one
/// is asked again.
pub(crate) async fn bring_down(paths: &Paths, client: &Client, talk: bool) -> Result<(), Failure> {
    let mut parents = parents(paths).await;
    client.down().await.map_err(|error| match error {
        // Whether keep runs or not, what follows deals with it. A connection that breaks is that of one that dies.
        Error::NotRunning { .. } | Error::Broken { .. } => not_up(&error),
        other => other.into(),
    })?;
    let began = Instant::now();
    let mut told = String::new();
    let mut away_since = None;
    let mut is_asked = true;
    loop {
        let status = client.status().await;
        is_asked &= status.is_ok();
        match status {
            Err(error @ Error::NotRunning { .. }) if has_running_children(&paths.state) => {
                // It is just ending, or it is gone and its parts run on.
                if away_since.get_or_insert_with(Instant::now).elapsed() > PARTING {
                    match Box::pin(without_control(paths, client, talk, not_up(&error))).await {
                        // The last of them ended meanwhile: the next look finds nothing, which is what was asked for.
                        Err(failure) if failure.name == "MS1001" => {}
                        other => return other,
                    }
                }
            }
            Err(Error::NotRunning { .. }) => {
                wait_until_gone(&parents).await?;
                end_proofs(paths);
                let looks = end_looks(paths, talk);
                tidy(paths);
                return looks;
            }
            Err(_) => {}
            Ok(status) => {
                away_since = None;
                if !is_asked {
                    parents = self::parents(paths).await;
                    is_asked = client.down().await.is_ok();
                }
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

/// A process by its id and start time: the id alone may be given away.
type Process = (Pid, u64);

fn process(pid: Pid) -> Option<Process> {
    proc::stat(pid).map(|stat| (pid, stat.start_time))
}

fn runs((pid, start_time): Process) -> bool {
    proc::stat(pid).is_some_and(|stat| stat.start_time == start_time && stat.is_alive())
}

/// keep and the control plane, as far as keep answers.
async fn parents(paths: &Paths) -> Vec<Process> {
    let Ok((keep, _notices, hello)) = Keep::connect_and_greet(&paths.runtime).await else { return Vec::new() };
    let children = keep.list().await.unwrap_or_default();
    let control = children.iter().filter(|child| child.role == ChildRole::Control && child.ended.is_none());
    control.map(|child| child.pid).chain([hello.pid]).filter_map(process).collect()
}

async fn wait_until_gone(processes: &[Process]) -> Result<(), Failure> {
    let began = Instant::now();
    while let Some((pid, _)) = processes.iter().find(|process| runs(**process)) {
        if began.elapsed() > PARENTS_GONE {
            let text = format!("everything is stopped, but process {pid} did not end in {} s", PARENTS_GONE.as_secs());
            return Err(Failure::failed("MS1004", text).help(format!("end it with `kill {pid}`")));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Kinds of children in the order in which they stop: who is used by others after them.
const ORDER: [(&[ChildRole], Signal); 6] = [
    (&[ChildRole::Edge], Signal::TERM),
    (&[ChildRole::Instance, ChildRole::Task], Signal::TERM),
    (&[ChildRole::Prometheus, ChildRole::Alertmanager], Signal::TERM),
    (&[ChildRole::Router], Signal::TERM),
    (&[ChildRole::Redis], Signal::TERM),
    // SIGINT is PostgreSQL's fast shutdown: sessions end, what is committed is on disk.
    (&[ChildRole::Postgres], Signal::INT),
];

/// Brings everything down without a control plane: keep signals the children kind by kind, then leaves.
pub(crate) async fn by_keep(paths: &Paths) -> Result<(), Failure> {
    if Keep::connect(&paths.runtime).await.is_err() {
        if !has_running_children(&paths.state) {
            return Ok(());
        }
        start_keep(paths)?;
    }
    let broken = |error: mainstay_supervisor::client::Error| {
        Failure::failed("MS1008", format!("cannot bring everything down: {error}"))
            .help("`mainstay down` tries again; `mainstay ps` names what runs")
    };
    let (keep, _notices, hello) = Keep::connect_and_greet(&paths.runtime).await.map_err(broken)?;
    for (roles, signal) in ORDER {
        let began = Instant::now();
        let mut told = Vec::new();
        loop {
            let children = keep.list().await.map_err(broken)?;
            let left = children.iter().filter(|child| roles.contains(&child.role) && child.ended.is_none());
            let left: Vec<_> = left.map(|child| child.nonce.clone()).collect();
            if left.is_empty() {
                break;
            }
            for nonce in left {
                // It may end in this moment, which is what is wanted.
                if began.elapsed() > EACH_KIND {
                    keep.kill_tree(&nonce, KILL).await.map_err(broken)?;
                } else if !told.contains(&nonce) {
                    keep.signal(&nonce, signal.as_raw()).await.ok();
                    told.push(nonce);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        // What shells and wrappers left behind. Orphans of a postmaster end by themselves once it is gone.
        if !roles.contains(&ChildRole::Postgres) {
            let children = keep.list().await.map_err(broken)?;
            for child in children.iter().filter(|child| roles.contains(&child.role)) {
                keep.kill_tree(&child.nonce, KILL).await.map_err(broken)?;
            }
        }
    }
    let parents = parents(paths).await;
    end_keep(hello.pid);
    wait_until_gone(&parents).await?;
    end_proofs(paths);
    let looks = end_looks(paths, true);
    tidy(paths);
    looks
}

/// Servers that load a copy of the store for a look are nobody's children: a person's command may have started one.
fn end_proofs(paths: &Paths) {
    if let Err(error) = mainstay_cache::copies::stop_proof(&paths.state) {
        // The next look at a copy removes it.
        eprintln!("{}", mainstay_types::full_text(&error));
    }
}

/// Whoever looks at the past has a server of its own, which nobody else knows of; so have those that died over it.
fn end_looks(paths: &Paths, talk: bool) -> Result<(), Failure> {
    let ended = past::end_all(paths).map_err(|error| {
        Failure::failed("MS1004", format!("everything is stopped, but a copy of the past is not: {error}"))
            .help("`mainstay down` tries again")
    })?;
    if talk && ended > 0 {
        let copies = if ended == 1 { "a copy".to_owned() } else { format!("{ended} copies") };
        eprintln!("closed: {copies} of the past that commands had open (`mainstay restore`, `db migrate --rehearse`)");
    }
    Ok(())
}

/// Sockets of what is down are of no use: their folder goes. Only under keep's lock, and not when `up` is at work
/// again, when children outlived their keep, or while somebody looks at the past; what cannot be removed is the next
/// start's to use.
pub(crate) fn tidy(paths: &Paths) {
    // Without it no keep ever ran here, and looking must make nothing.
    if !paths.state.join("keep.lock").exists() {
        return;
    }
    let Ok(_lock) = delete::locked(&paths.state) else { return };
    if has_running_children(&paths.state) {
        return;
    }
    Ports::withdraw(&paths.runtime);
    if !past::is_open(paths) {
        std::fs::remove_dir_all(&paths.runtime).ok();
    }
}

/// SIGTERM: keep ends the control plane, then itself. Children go on.
pub(crate) fn end_keep(pid: Pid) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.0) {
        // It may be gone already.
        rustix::process::kill_process(pid, Signal::TERM).ok();
    }
}

fn start_keep(paths: &Paths) -> Result<(), Failure> {
    mainstay_controller::start_keep(paths, None).map_err(|error| {
        Failure::environment("MS3032", format!("keep did not start: {error}"))
            .help(format!("look at {}", paths.log("keep").display()))
    })
}

/// Whether a child that an earlier keep started still runs, by keep's own records.
pub(crate) fn has_running_children(state: &Path) -> bool {
    mainstay_controller::ports::recorded(state).into_iter().any(|(pid, start_time)| runs((Pid(pid), start_time)))
}
