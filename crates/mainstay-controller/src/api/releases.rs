//! Releases and rollouts by the API: what is kept, a new one, an earlier one, a wish.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_api::{DeployAsked, Release, ReleaseState, Releases, RolloutStatus, RolloutWish, Trial};
use mainstay_decide::fleet::Fleet;
use mainstay_decide::rollout::{self, Phase, Rollout};
use mainstay_stack::deploy::{STRATEGIES, Strategy};
use tokio::sync::oneshot;

use super::{Ctx, Failure, Shared, failure, starting};
use crate::clock::now;
use crate::core::rollout::Prepared;
use crate::effects::Effects;
use crate::message::{Message, ReleaseAsked};
use crate::releases;
use crate::settings::Settings;

pub(super) async fn list(State(shared): Ctx) -> Result<Json<Releases>, Failure> {
    let rollout = shared.published.rollout.borrow().clone();
    let effects = Arc::clone(&shared.effects);
    let read = tokio::task::spawn_blocking(move || {
        let launch = &effects.settings.launch;
        let is_from_folder = !launch.is_deployed(effects.paths());
        Releases { live: launch.release, is_from_folder, releases: releases::list(effects.paths()), rollout }
    });
    read.await.map(Json).map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))
}

/// Why a release is not rolled out: a code, what is so, the next step.
struct Refused(&'static str, String, &'static str);

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self("MS4142", format!("the release cannot be read: {error}"), "`mainstay releases` lists those that are kept")
    }
}

fn refused(Refused(code, title, help): Refused) -> Failure {
    failure(StatusCode::CONFLICT, code, title, Some(help))
}

pub(super) async fn deploy(
    State(shared): Ctx,
    Json(asked): Json<DeployAsked>,
) -> Result<(StatusCode, Json<RolloutStatus>), Failure> {
    // In a task of its own: a client that goes away in the middle would leave a record that nobody carries out.
    let done = tokio::spawn(begin(shared, asked)).await;
    done.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))?
}

async fn begin(shared: Arc<Shared>, asked: DeployAsked) -> Result<(StatusCode, Json<RolloutStatus>), Failure> {
    // One at a time from here until the loop has it.
    let _alone = shared.deploying.lock().await;
    // Also one whose record has just gone, with the end of this control plane to come.
    if let Some(status) = &*shared.published.rollout.borrow() {
        let text = format!("v{} is on its way: it is at {}", status.release, status.phase);
        return Err(refused(Refused("MS4140", text, "wait for it, or `mainstay deploy --abort`")));
    }
    let effects = Arc::clone(&shared.effects);
    let is_new = asked.incoming.is_some() || asked.trial.is_some();
    let fleet = shared.published.fleet.borrow().clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&effects, &fleet, &asked)).await;
    let prepared =
        prepared.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))?;
    let prepared = prepared.map_err(refused)?;
    let number = prepared.record.release;
    let (answer, answered) = oneshot::channel();
    let message = Message::Release { asked: ReleaseAsked::Rollout(Box::new(prepared)), answer };
    let is_sent = shared.sender.send(message).await.is_ok();
    let answer = if is_sent { answered.await.ok() } else { None };
    match answer.unwrap_or_else(|| Err("the control plane is just ending".to_owned())) {
        Ok(status) => Ok((StatusCode::ACCEPTED, Json(status))),
        Err(reason) => {
            undo(&shared, number, is_new);
            Err(refused(Refused("MS4140", reason, "`mainstay status` and `mainstay releases` show what is under way")))
        }
    }
}

/// Nothing was begun: what was put down for it goes.
fn undo(shared: &Shared, number: u64, is_new: bool) {
    let paths = shared.effects.paths();
    let Ok(Some(rollout)) = releases::rollout(paths) else { return };
    releases::give_up(paths, &rollout, "it was refused", now()).ok();
    if is_new {
        std::fs::remove_dir_all(releases::folder_of(paths, number)).ok();
    }
}

pub(super) async fn wish(
    State(shared): Ctx,
    Json(wish): Json<RolloutWish>,
) -> Result<(StatusCode, Json<RolloutStatus>), Failure> {
    let (answer, answered) = oneshot::channel();
    shared.sender.send(Message::Release { asked: ReleaseAsked::Wish(wish), answer }).await.map_err(|_| starting())?;
    match answered.await.map_err(|_| starting())? {
        Ok(status) => Ok((StatusCode::ACCEPTED, Json(status))),
        Err(reason) => Err(refused(Refused("MS4141", reason, "`mainstay releases` shows what is under way"))),
    }
}

/// Everything that a rollout needs, on disk. What is refused leaves all as it was.
fn prepare(effects: &Effects, fleet: &Fleet, asked: &DeployAsked) -> Result<Prepared, Refused> {
    let (paths, live) = (effects.paths(), &effects.settings.launch);
    if let Some(under_way) = releases::rollout(paths)? {
        let text = format!("v{} is on its way: it is at {}", under_way.release, under_way.phase.name());
        return Err(Refused("MS4140", text, "wait for it, or `mainstay deploy --abort`"));
    }
    let asked = &DeployAsked { trial: asked.trial.map(|trial| possible(effects, trial)), ..asked.clone() };
    let (mut release, is_new) = match (&asked.incoming, asked.release, asked.trial) {
        (None, None, Some(trial)) => (again(effects, trial)?, true),
        (Some(incoming), None, None) => (releases::adopt(paths, incoming, live.release)?, true),
        (None, wanted, None) => (earlier(effects, wanted)?, false),
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            let text = "a new release, an earlier one or a drill's at once".to_owned();
            return Err(Refused("MS4142", text, "ask for one of them"));
        }
    };
    let made = made((effects, fleet), asked, &release, is_new);
    if made.is_err() && is_new {
        std::fs::remove_dir_all(releases::folder_of(paths, release.number)).ok();
    }
    let prepared = made?;
    (release.state, release.since, release.reason) = (ReleaseState::Rolling, now(), None);
    // The record first: whatever comes after it is taken back by it.
    let written = releases::write_rollout(paths, &prepared.record).and_then(|()| releases::save(paths, &release));
    if let Err(error) = written {
        releases::give_up(paths, &prepared.record, "it could not be written down", now()).ok();
        if is_new {
            std::fs::remove_dir_all(releases::folder_of(paths, release.number)).ok();
        }
        return Err(error.into());
    }
    // What was seen of it when it was rolled out before is another story.
    std::fs::remove_file(releases::evidence_file(paths, release.number)).ok();
    Ok(prepared)
}

fn again(effects: &Effects, trial: Trial) -> Result<Release, Refused> {
    releases::again(effects.paths(), &effects.settings.launch, trial.is_kept, now()).map_err(|error| {
        let text = format!("a drill's release cannot be made of the live one: {error}");
        Refused("MS4142", text, "the state folder needs space for a copy of the live release")
    })
}

/// A trial as it can be had: what runs from the stack file's own folder cannot be gone back to, so it stays live.
fn possible(effects: &Effects, trial: Trial) -> Trial {
    Trial { is_kept: trial.is_kept && effects.settings.launch.is_deployed(effects.paths()) }
}

/// The release to go back to.
fn earlier(effects: &Effects, wanted: Option<u64>) -> Result<Release, Refused> {
    let live = effects.settings.launch.release;
    let kept = releases::list(effects.paths());
    let help = "`mainstay releases` lists those that are kept";
    match wanted {
        Some(number) if number == live => Err(Refused("MS4142", format!("v{number} is live already"), help)),
        Some(number) => kept
            .into_iter()
            .find(|release| release.number == number && !release.is_trial)
            .ok_or_else(|| Refused("MS4142", format!("v{number} is not kept"), help)),
        None => kept
            .into_iter()
            .filter(|release| release.state == ReleaseState::Former && !release.is_trial)
            .max_by_key(|release| release.since)
            .ok_or_else(|| Refused("MS4142", "there is no earlier release to go back to".to_owned(), help)),
    }
}

fn made(
    (effects, fleet): (&Effects, &Fleet),
    asked: &DeployAsked,
    release: &Release,
    is_new: bool,
) -> Result<Prepared, Refused> {
    let (paths, live) = (effects.paths(), &effects.settings.launch);
    let text = releases::stack_text(paths, release.number)?;
    let name = live.stack_file.display().to_string();
    let parsed = mainstay_stack::parse(&text, &name, &live.environment).map_err(|found| {
        let shown = mainstay_stack::render(&found, &text, &name, false);
        Refused("MS4142", format!("the stack file of the release is not valid\n{shown}"), "mend it: `mainstay check`")
    })?;
    if let Some(what) = rollout::unlike(&effects.settings.stack, &parsed.stack) {
        let text = format!("the release changes {what}, which no rollout changes");
        return Err(Refused(
            "MS4143",
            text,
            "change that with `mainstay down` and `mainstay up`, then deploy the rest",
        ));
    }
    if !is_new && !asked.is_schema_kept {
        refuse_schema(effects, release)?;
    }
    let wanted = asked.strategy.as_deref().map(str::parse::<Strategy>).transpose();
    let help = "rolling, blue-green or canary";
    let wanted =
        wanted.map_err(|()| Refused("MS4142", format!("a strategy is one of {}", STRATEGIES.join(", ")), help))?;
    let is_from_folder = !live.is_deployed(paths);
    let (strategy, rules) = rollout::way(wanted, parsed.stack.deploy.clone(), is_from_folder, !is_new);
    let rules = if asked.trial.is_some() { rollout::of_trial(rules) } else { rules };
    let at = now();
    let record = Rollout {
        release: release.number,
        from: live.release,
        is_rollback: !is_new,
        strategy,
        rules,
        began_at: at,
        phase: Phase::Migrate,
        since: at,
        fleet: fleet.next(&effects.settings.stack, &parsed.stack, release.number),
        was: (!is_new).then(|| (release.state.to_string(), release.since)),
        is_paused: false,
        is_promoted: false,
        trial: asked.trial,
    };
    let launch = releases::launch_of(paths, release, live, &record);
    let (settings, _) = Settings::of(paths, launch, &text)
        .map_err(|error| Refused("MS4142", format!("the release cannot be run: {error:#}"), "`mainstay check`"))?;
    missing_program(&settings)?;
    Ok(Prepared { record, settings: Arc::new(settings) })
}

/// A relative program that is not in the release: nothing else needs to be tried.
fn missing_program(settings: &Settings) -> Result<(), Refused> {
    for (name, service) in &settings.stack.services {
        let dir = settings.launch.folder.join(&service.dir);
        let commands = [Some(&service.run), service.before.as_ref()];
        let programs = commands.into_iter().flatten().filter_map(|command| command.first());
        for program in programs.filter(|program| program.contains('/') && !Path::new(program).is_absolute()) {
            if !dir.join(program).exists() {
                let text = format!("service {name} runs {program}, which is not in the release");
                return Err(Refused(
                    "MS4142",
                    text,
                    "build it first; a folder with a CACHEDIR.TAG or in .mainstayignore is left out",
                ));
            }
        }
    }
    Ok(())
}

/// Going back leaves the schema as it is: over a migration that no file takes back only when told to.
fn refuse_schema(effects: &Effects, target: &Release) -> Result<(), Refused> {
    let Ok(live) = releases::load(effects.paths(), effects.settings.launch.release) else { return Ok(()) };
    let later: Vec<&String> = live.migrations.iter().filter(|name| !target.migrations.contains(name)).collect();
    let irreversible = releases::irreversible(&later, &live.migrations);
    if irreversible.is_empty() {
        return Ok(());
    }
    let text = format!(
        "v{} does not know {}, which no file takes back: its schema is not the one that is there",
        target.number,
        irreversible.join(", ")
    );
    Err(Refused(
        "MS4144",
        text,
        "`mainstay rollback --keep-schema` goes back all the same; `mainstay restore` brings the data of then",
    ))
}
