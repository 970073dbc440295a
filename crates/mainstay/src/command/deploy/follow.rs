//! Follows a rollout until it is over, phase by phase.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mainstay_api::{Release, ReleaseState, Releases, RolloutStatus};
use mainstay_client::Client;
use mainstay_controller::paths::Paths;
use mainstay_types::exit_code;

use super::show;
use crate::Global;
use crate::again;
use crate::board;
use crate::failure::Failure;
use crate::screen;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// The control plane begins anew at the end: time for the next one.
const CONTROL_BACK: Duration = Duration::from_secs(30);
/// A wait that is as it was is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Lines of the log of an instance that failed.
const LOG_LINES: usize = 12;

/// How much each log held when the rollout began: what came before is another release's.
pub(super) struct Logs {
    paths: Paths,
    begun: BTreeMap<String, u64>,
}

impl Logs {
    pub(super) fn of(paths: &Paths) -> Self {
        let entries = std::fs::read_dir(paths.state.join("logs")).into_iter().flatten().flatten();
        let sizes =
            entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len())));
        Self { paths: paths.clone(), begun: sizes.collect() }
    }

    /// The last words of the instance that the reason is about.
    fn print(&self, reason: &str) {
        let is_instance = |word: &&str| {
            word.rsplit_once('-').is_some_and(|(name, slot)| !name.is_empty() && slot.parse::<u32>().is_ok())
        };
        let Some(instance) = reason.split_whitespace().find(is_instance) else { return };
        let log = self.paths.log(instance);
        let name = log.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let begin = self.begun.get(&name).copied().unwrap_or(0);
        let Ok((lines, _)) = mainstay_supervisor::logs::read_tail_since(&log, begin, LOG_LINES) else { return };
        if !lines.is_empty() {
            eprintln!("last lines of {instance}:");
        }
        let mask = mainstay_controller::secrets::Mask::of(&self.paths.state);
        for line in lines {
            eprintln!("  | {}", screen::tame(&mask.hide(&line)));
        }
    }
}

/// What is told of a phase that is over.
struct Teller {
    is_silent: bool,
    phase: String,
    since: Instant,
    last: String,
    told: Instant,
}

impl Teller {
    fn took(&self) -> String {
        screen::took(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The line of the phase before is printed when another begins; one that lasts says what it waits for.
    fn see(&mut self, status: &RolloutStatus) {
        let share = status
            .share
            .filter(|_| status.phase == "shift")
            .map(|share| format!("{} of clients", mainstay_types::Percent::from_milli(u32::from(share) * 10)));
        let phase = format!("{} {}", status.phase, share.clone().unwrap_or_default());
        if phase != self.phase {
            self.end();
            (self.phase, self.since, self.told) = (phase, Instant::now(), Instant::now());
            self.last.clear();
        }
        let is_first = self.last.is_empty() && self.since.elapsed() > Duration::from_secs(1);
        let is_other = status.waiting != self.last && self.told.elapsed() > TELL_AGAIN;
        if (is_first || is_other) && !self.is_silent {
            eprintln!("  {}", screen::tame(&format!("{}: {}", status.phase, status.waiting)));
            self.told = Instant::now();
            self.last.clone_from(&status.waiting);
        }
    }

    fn end(&mut self) {
        if self.phase.is_empty() || self.is_silent {
            return;
        }
        let (name, rest) = self.phase.split_once(' ').unwrap_or((&self.phase, ""));
        let text = if rest.is_empty() { self.took() } else { format!("{rest}  {}", self.took()) };
        board::say(name, &text);
        self.phase.clear();
    }
}

pub(super) async fn run(
    global: &Global,
    client: &Client,
    logs: &Logs,
    (release, is_rollback): (u64, bool),
) -> Result<u8, Failure> {
    let began = Instant::now();
    let mut teller =
        Teller { is_silent: global.json, phase: String::new(), since: began, last: String::new(), told: began };
    let mut lost: Option<Instant> = None;
    let mut last: Option<RolloutStatus> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                eprintln!("the rollout goes on: `mainstay releases` shows it, `mainstay deploy --abort` takes it back");
                return Ok(exit_code::FAILED);
            }
        }
        let known = match show::read(client).await {
            Ok(known) => known,
            Err(_) if lost.get_or_insert_with(Instant::now).elapsed() < CONTROL_BACK => continue,
            Err(failure) => return Err(failure),
        };
        lost = None;
        if let Some(status) = known.rollout.clone().filter(|status| status.release == release) {
            teller.see(&status);
            last = Some(status);
            continue;
        }
        let Some(found) = known.releases.iter().find(|one| one.number == release) else {
            return Err(Failure::failed("MS1140", format!("v{release} is not kept any more")));
        };
        // Between the record's going and the next control plane's first word.
        if found.state == ReleaseState::Rolling {
            continue;
        }
        teller.end();
        return end(global, logs, (&known, found, last.as_ref()), (began, is_rollback));
    }
}

fn end(
    global: &Global,
    logs: &Logs,
    (known, found, last): (&Releases, &Release, Option<&RolloutStatus>),
    (began, is_rollback): (Instant, bool),
) -> Result<u8, Failure> {
    let took = screen::took(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let is_done = found.state == ReleaseState::Live;
    if global.json {
        let value = serde_json::json!({
            "release": found,
            "live": known.live,
            "took_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "answered": last.map(|status| status.answered),
        });
        println!("{value}");
        return Ok(if is_done { exit_code::DONE } else { exit_code::FAILED });
    }
    if is_done {
        let [requests, errors, slow] = last.map_or([0; 3], |status| status.answered);
        let text = match requests {
            0 => "no request came while it was watched: only that it is ready was judged".to_owned(),
            _ => format!("{requests} requests, {errors} errors, {slow} slow, while it was watched"),
        };
        board::say("answered", &text);
        let back = if is_rollback { String::new() } else { again::text("; `mainstay rollback` goes back") };
        let from = last.map_or(0, |status| status.from);
        println!("{} is live in {took}, after v{from}{back}", screen::green(&format!("v{}", found.number)));
        return Ok(exit_code::DONE);
    }
    let reason = found.reason.clone().unwrap_or_else(|| "nobody knows why".to_owned());
    logs.print(&reason);
    let text = format!("v{} was taken back: {reason}\nv{} serves as before", found.number, known.live);
    Err(Failure::failed("MS1140", text).help(format!(
        "`mainstay releases v{}` says what was seen of it, `mainstay events` what happened",
        found.number
    )))
}
