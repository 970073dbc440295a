//! `mainstay up`: start the whole architecture, say what was started, stay until Ctrl-C.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_api::Status;
use mainstay_client::{Client, Error};
use mainstay_controller::backups::{self, Established};
use mainstay_controller::launch::{self, Launch};
use mainstay_controller::paths::{Made, Paths};
use mainstay_controller::releases;
use mainstay_controller::undone::Undone;
use mainstay_decide::fleet::Fleet;
use mainstay_supervisor::durable;
use mainstay_supervisor::launch::Beside;
use mainstay_types::{State, exit_code};
use tokio::signal::unix::{SignalKind, signal};

use super::{delete, down, preflight, trouble};
use crate::Global;
use crate::again;
use crate::board::{self, Board};
use crate::failure::Failure;
use crate::place::{self, Place};
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Stack file or folder (default: --file, else mainstay.toml here)
    // Not named `file`: clap takes the same id for the same argument, and `--file` would be unknown here.
    #[arg(value_name = "FILE")]
    pub(crate) stack_file: Option<std::path::PathBuf>,
    /// Return once everything is ready; `mainstay down` stops it
    #[arg(long, short = 'd')]
    detach: bool,
    /// Longest time to wait for everything to be ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait: u64,
    /// Run what is in the folder now, although a release was deployed
    #[arg(long)]
    from_folder: bool,
    /// Run under a service manager: take over what runs already, tell it when all is ready, print no link
    #[arg(long, hide = true, conflicts_with = "detach")]
    service: bool,
}

/// Pause between two looks: fast enough for times to the tenth of a second.
const LOOK: Duration = Duration::from_millis(25);
/// The control plane answers within a second of its start, and keep has tried it several times by then; on a machine
/// whose disk is busy keep alone was seen to take 5 s to start it.
const NO_CONTROL: Duration = Duration::from_secs(30);
/// keep answers from memory.
const KEEP_ANSWER: Duration = Duration::from_secs(2);
/// keep leaves with the control plane of a run that was just ending; more than that is a fault of its own.
const KEEP_RESTARTS: u32 = 3;
const NEW_REPOSITORY: &str = "a repository for backups was made: `mainstay backup card` prints its recovery card";
/// What failed for this long, although it was tried again, will not come up by waiting.
const HOPELESS: Duration = Duration::from_secs(10);

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let global = Global { file: options.stack_file.clone().or_else(|| global.file.clone()), ..global.clone() };
    let place = place::read(&global)?;
    place.paths.refuse_foreign().map_err(|error| place::folder_failure(&error))?;
    let client = Client::new(place.paths.api_socket());
    if options.service {
        return serve(place, &client, Duration::from_secs(options.wait)).await;
    }
    refuse_second(&place.paths, &client).await?;
    let first = Instant::now();
    let place = as_deployed(place, options.from_folder)?;
    let backups = make_ready(&place)?;
    if !global.json {
        println!("{}  {} ({})", screen::bold("mainstay up"), place.parsed.stack.name, place.file.display());
        if let Some((launch, release)) = releases::live(&place.paths) {
            let made: String = release.made_at.to_string().chars().take(19).collect();
            let text =
                format!("v{}, deployed {made}; what is in the folder comes with `mainstay deploy`", launch.release);
            board::say("release", &again::text(&text));
        }
    }
    let began = Instant::now();
    start_keep(&place.paths, None)?;
    match watch(&place.paths, &client, began, Duration::from_secs(options.wait), (None, global.json)).await {
        Ok(status) if global.json => {
            if backups.is_some_and(|backups| backups.is_new) {
                eprintln!("{NEW_REPOSITORY}");
            }
            println!("{}", serde_json::to_string(&status).map_err(|error| Failure::bug(error.to_string()))?);
        }
        Ok(_) => {
            if let Some(established) = &backups {
                super::backup::say(established);
                backups::card_was_shown(&place.paths);
            }
            tell(&place, &client, first.elapsed(), options.detach).await;
        }
        Err(failure) => {
            eprintln!("not ready: bringing everything down again, data stays in {}", place.paths.state.display());
            undo(&place.paths, &client).await;
            if backups.is_some_and(|backups| backups.is_new) {
                eprintln!("{NEW_REPOSITORY}");
            }
            // What matters to the user is why it did not come up.
            return Err(failure);
        }
    }
    if options.detach {
        return Ok(exit_code::DONE);
    }
    match stay(&place.paths, &client, None, global.json).await {
        // stdout has its one document already.
        Err(failure) if global.json => {
            failure.print(false);
            Ok(failure.code)
        }
        stayed => stayed,
    }
}

/// What `up` says at the end.
async fn tell(place: &Place, client: &Client, took: Duration, detach: bool) {
    recovery_card(&place.paths);
    match client.console_link().await {
        Ok(link) => board::say("console", &format!("{}  (one use)", link.url)),
        Err(error) => board::say("console", &error.to_string()),
    }
    secrets(place);
    let took = screen::took(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let end = if detach { again::text("`mainstay down`") } else { "Ctrl-C".to_owned() };
    board::say("state", &format!("{} keeps the data", place.paths.state.display()));
    println!("{} in {took}; {end} brings it down", screen::green("ready"));
}

/// The stack as it was deployed last, when it was: what is in the folder comes with `deploy`. A rollout that was under
/// way when everything ended is over.
fn as_deployed(place: Place, is_from_folder: bool) -> Result<Place, Failure> {
    let failed = |error: std::io::Error| {
        Failure::environment("MS3140", format!("cannot read the release that is live: {error}"))
            .help("`mainstay releases` lists those that are kept; --from-folder runs what is in the folder")
    };
    let is_over = !down::has_running_children(&place.paths.state);
    let settled = releases::settle(&place.paths, is_over, screen::now()).map_err(failed)?;
    if let Some(damage) = settled.damage {
        eprintln!("{} {damage}", screen::yellow("warning:"));
    }
    let live = Launch::load(&place.paths).ok().filter(|launch| launch.is_deployed(&place.paths) && !is_from_folder);
    let Some(launch) = live else { return Ok(place) };
    let number = launch.release;
    if !launch.folder.is_dir() {
        let text = format!("v{number} is live and its files are gone: there is no folder {}", launch.folder.display());
        let help = "--from-folder runs what is in the stack file's folder; once that is up, `mainstay rollback vN` goes \
                    to a release that `mainstay releases` lists";
        return Err(Failure::environment("MS3140", text).help(help));
    }
    let text = releases::stack_text(&place.paths, number).map_err(failed)?;
    let name = place.file.display().to_string();
    let parsed = mainstay_stack::parse(&text, &name, &place.parsed.stack.environment).map_err(|found| {
        let shown = mainstay_stack::render(&found, &text, &name, false);
        Failure::user("MS3140", format!("the stack file of v{number} is not valid any more\n{shown}"))
            .help("--from-folder runs what is in the folder")
    })?;
    Ok(Place { text, parsed, folder: launch.folder, ..place })
}

/// `up` as a service manager runs it: what an earlier one left running is taken over, and nothing secret is printed,
/// because what is printed goes into a journal.
async fn serve(place: Place, client: &Client, patience: Duration) -> Result<u8, Failure> {
    let unit = Beside {
        service: super::service::unit_name(place.parsed.stack.name.as_str(), place.parsed.stack.environment.as_str()),
        is_of_user: !rustix::process::geteuid().is_root(),
    };
    let began = Instant::now();
    let is_up = keep_of(&place.paths).is_some();
    let place = &if is_up { place } else { as_deployed(place, false)? };
    if keep_of(&place.paths).is_some() {
        println!("the stack runs already: taken over as it is");
    } else {
        if make_ready(place)?.is_some_and(|backups| backups.is_new) {
            println!("{}", again::text(NEW_REPOSITORY));
        }
        // Nobody asked for what was gone back behind: a machine that starts again must not run it.
        Launch::load(&place.paths).map_or(Ok(()), |launch| Undone::carry(&place.paths, &launch)).map_err(|error| {
            Failure::environment("MS3031", format!("cannot note which migrations are not to be run: {error}"))
                .help("another folder: --state DIR")
        })?;
        start_keep(&place.paths, Some(&unit))?;
    }
    if let Err(failure) = watch(&place.paths, client, began, patience, (Some(&unit), false)).await {
        undo(&place.paths, client).await;
        return Err(failure);
    }
    super::service::tell_ready();
    println!("{}", again::text("ready; `mainstay status` shows it, `mainstay console` gives a link"));
    stay(&place.paths, client, Some(&unit), false).await
}

/// The keep that answers for this stack, if one does.
fn keep_of(paths: &Paths) -> Option<mainstay_supervisor::client::Hello> {
    mainstay_supervisor::client::hello_blocking(&paths.runtime, KEEP_ANSWER).ok()
}

/// A second `up` on the same state is refused and names the holder.
async fn refuse_second(paths: &Paths, client: &Client) -> Result<(), Failure> {
    let holder = keep_of(paths);
    let Some(holder) = holder else { return Ok(()) };
    let state = match client.status().await {
        Ok(status) => format!("stack {}, {}", status.stack, status.overall),
        Err(_) => "its control plane does not answer".to_owned(),
    };
    Err(Failure::refused(
        "MS4001",
        format!("this stack is up already: keep pid {} holds {} ({state})", holder.pid, paths.state.display()),
    )
    .help("`mainstay status` shows it; `mainstay down` stops it"))
}

/// Looks at all that must be so, then writes what the control plane needs. A start that is refused leaves everything as
/// it was.
fn make_ready(place: &Place) -> Result<Option<Established>, Failure> {
    let doors = preflight::run(place)?;
    let paths = &place.paths;
    let mut made = paths.create().map_err(|error| place::folder_failure(&error))?;
    let written = write(place, doors, &mut made);
    if written.is_err() {
        // Another `up` may have been quicker on the same folder: what is under keep's lock is not ours any more.
        let lock = paths.state.join("keep.lock").exists().then(|| delete::locked(&paths.state));
        if !matches!(lock, Some(Err(_))) {
            made.take_back();
        }
    }
    written
}

fn write(place: &Place, doors: preflight::Doors, made: &mut Made) -> Result<Option<Established>, Failure> {
    let paths = &place.paths;
    [&paths.state, &paths.runtime].iter().for_each(|folder| made.file(&folder.join("ports.json")));
    [paths.program(), paths.stack_file(), paths.launch_file()].iter().for_each(|file| made.file(file));
    let declared = doors.keep()?;
    let backups = super::backup::establish(place)?;
    prepare(place, declared)?;
    Ok(backups)
}

/// Everything that a control plane must find: the program, the stack file, what this run is.
fn prepare(place: &Place, declared_ports: Vec<String>) -> Result<(), Failure> {
    let io = |what: &str, error: &std::io::Error| {
        Failure::environment("MS3031", format!("cannot {what}: {error}")).help("another folder: --state DIR")
    };
    let program = place.paths.program();
    let me = std::env::current_exe().map_err(|error| io("find the program that runs", &error))?;
    copy_program(&me, &program).map_err(|error| io(&format!("copy the program to {}", program.display()), &error))?;
    durable::replace(&place.paths.stack_file(), place.text.as_bytes(), 0o644)
        .map_err(|error| io("write the stack file's copy", &error))?;
    let before = Launch::load(&place.paths).ok();
    // What was deployed keeps its number and its slots.
    let deployed = before.as_ref().filter(|before| before.folder == place.folder).cloned();
    let newest = releases::list(&place.paths).first().map_or(0, |release| release.number);
    let release = before.as_ref().map_or(0, |before| before.release).max(newest) + 1;
    let generation = before.as_ref().map_or(0, |before| before.generation).max(newest) + 1;
    let counts = before.map(|before| before.fleet.counts).unwrap_or_default();
    if let Some(deployed) = deployed.filter(|before| before.is_deployed(&place.paths)) {
        let launch =
            Launch { since: screen::now(), declared_ports, generation, origin: place.origin.clone(), ..deployed };
        launch.save(&place.paths).map_err(|error| io("write launch.json", &error))?;
        // Its migrations ran when it was deployed. Those of a release that was taken back are there too, and their files
        // are not: nobody runs or misses anything by starting it again.
        return Undone::set_migrated(&place.paths, &launch).map_err(|error| io("note what is not run", &error));
    }
    releases::leave(&place.paths, screen::now()).map_err(|error| io("mark the release that was live", &error))?;
    let launch = Launch {
        version: launch::VERSION,
        stack: place.parsed.stack.name.clone(),
        environment: place.parsed.stack.environment.clone(),
        stack_file: place.file.clone(),
        folder: place.folder.clone(),
        origin: place.origin.clone(),
        project: preflight::project(&place.folder),
        release,
        fleet: Fleet { release, counts, ..Fleet::default() },
        generation,
        since: screen::now(),
        declared_ports,
    };
    launch.save(&place.paths).map_err(|error| io("write launch.json", &error))
}

/// A private copy: children that dropped root can run it, and a rebuild does not change what runs.
pub(super) fn copy_program(from: &Path, to: &Path) -> std::io::Result<()> {
    if from == to {
        return Ok(());
    }
    let aside = to.with_extension("new");
    let copied = std::fs::copy(from, &aside)
        .and_then(|_| std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&aside, to));
    if copied.is_err() {
        // Half a program on a full disk takes the space that the rest of the machine needs.
        std::fs::remove_file(&aside).ok();
    }
    copied
}

fn start_keep(paths: &Paths, unit: Option<&Beside>) -> Result<(), Failure> {
    mainstay_controller::start_keep(paths, unit).map_err(|error| {
        Failure::environment("MS3032", format!("keep did not start: {error}"))
            .help(format!("look at {}", paths.log("keep").display()))
    })
}

fn is_broken(state: State) -> bool {
    matches!(state, State::CrashLoop | State::Failed)
}

/// Brings down what this `up` began: by the control plane, or by keep when that does not answer. Its own failures are
/// talk: stdout is for why it did not come up.
async fn undo(paths: &Paths, client: &Client) {
    let Err(first) = down::bring_down(paths, client, true).await else { return };
    if let Err(second) = down::by_keep(paths).await {
        first.print(false);
        second.print(false);
    }
}

/// Follows the start until all is ready, printing a line for each part.
async fn watch(
    paths: &Paths,
    client: &Client,
    began: Instant,
    patience: Duration,
    (unit, is_silent): (Option<&Beside>, bool),
) -> Result<Status, Failure> {
    let mut board = Board::new(is_silent);
    let mut hopeless: Option<Instant> = None;
    // A control plane that dies on the way is restarted: its successor has as much time as the first.
    let mut answered = began;
    let mut restarts = 0;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| Failure::environment("MS3001", error.to_string()))?;
    loop {
        let status = match client.status().await {
            Ok(status) => Some(status),
            // One that dies while it answers is restarted, too.
            Err(Error::NotRunning { .. } | Error::Refused(_) | Error::Broken { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(status) = &status {
            answered = Instant::now();
            board.show(&status.progress);
            if status.is_up {
                board.finish();
                return Ok(status.clone());
            }
            // At a machine's start nobody waits, everything is slow, and a further try costs nothing.
            let lost = status.progress.iter().find(|line| unit.is_none() && line.lost.is_some());
            let broken = lost.or_else(|| status.progress.iter().find(|line| is_broken(line.state)));
            match broken {
                None => hopeless = None,
                Some(line) => {
                    let since = *hopeless.get_or_insert_with(Instant::now);
                    if lost.is_some() || since.elapsed() > HOPELESS {
                        board.finish();
                        return Err(trouble::why(paths, line, status));
                    }
                }
            }
        }
        if status.is_none() && restarts < KEEP_RESTARTS && keep_of(paths).is_none() {
            // An earlier run was just ending: its keep left when its control plane did.
            restarts += 1;
            start_keep(paths, unit)?;
        }
        if status.is_none() && answered.elapsed() > NO_CONTROL {
            board.finish();
            return Err(trouble::no_control(paths, NO_CONTROL));
        }
        if began.elapsed() > patience {
            board.finish();
            return Err(trouble::too_long(paths, status.as_ref(), patience));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = interrupt.recv() => {
                board.finish();
                return Err(Failure::failed("MS1005", "interrupted before everything was ready"));
            }
        }
    }
}

/// The last line; talk where stdout had its document already.
fn say_last(text: &str, json: bool) {
    if json {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}

/// Stays until Ctrl-C (an ordered `down`) or until the stack ends by another's hand.
async fn stay(paths: &Paths, client: &Client, unit: Option<&Beside>, json: bool) -> Result<u8, Failure> {
    let stream = |kind| signal(kind).map_err(|error| Failure::environment("MS3001", error.to_string()));
    let mut interrupt = stream(SignalKind::interrupt())?;
    let mut terminate = stream(SignalKind::terminate())?;
    let mut hangup = stream(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {
                eprintln!("\nbringing it down");
                down::bring_down(paths, client, true).await?;
                say_last(&format!("down; data stays in {}", paths.state.display()), json);
                return Ok(exit_code::DONE);
            }
            _ = terminate.recv() => {
                if let Some(keep) = keep_of(paths) {
                    down::end_keep(keep.pid);
                }
                eprintln!("mainstay ends; databases, services and edge go on. `mainstay up` takes them over again");
                return Ok(exit_code::DONE);
            }
            _ = hangup.recv() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                if keep_of(paths).is_some() {
                    continue;
                }
                // keep may have died: the control plane starts a new one. Only when that is gone too, it is over.
                tokio::time::sleep(Duration::from_secs(2)).await;
                if keep_of(paths).is_some() {
                    continue;
                }
                if !matches!(client.status().await, Err(Error::NotRunning { .. })) {
                    continue;
                }
                // Both died at once. A `down` leaves no child behind; a crash does.
                if down::has_running_children(&paths.state) {
                    eprintln!("keep and the control plane are gone, what they started runs: taking it over");
                    // Another `up` or a `down` may have been quicker: then it is theirs.
                    if let Err(failure) = start_keep(paths, unit)
                        && keep_of(paths).is_none()
                    {
                        return Err(failure);
                    }
                } else {
                    say_last(&format!("the stack was brought down; data stays in {}", paths.state.display()), json);
                    return Ok(exit_code::DONE);
                }
            }
        }
    }
}

/// Values that services are given and nobody typed in: how to see them.
fn secrets(place: &Place) {
    for (name, service) in &place.parsed.stack.services {
        if service.secrets.is_empty() {
            continue;
        }
        let names: Vec<&str> = service.secrets.iter().map(String::as_str).collect();
        let verb = if names.len() == 1 { "has a generated value" } else { "have generated values" };
        let show = again::command(&format!("env {name} --show-secrets"));
        let text = format!("{} {verb}: `{show}`", names.join(", "));
        board::say("secrets", &text);
    }
}

/// The first `up` of a state: what is needed to read it elsewhere.
fn recovery_card(paths: &Paths) {
    let marker = paths.state.join("recovery-card-shown");
    if marker.exists() {
        return;
    }
    let identity = paths.state.join("identity.age");
    let text = format!("generated passwords are sealed; keep a copy of {} off this machine", identity.display());
    board::say("recovery", &text);
    // Shown again next time if this cannot be noted: better twice than never.
    std::fs::write(marker, b"").ok();
}
