//! `mainstay drill`: break something on purpose, measure, compare with the promise.

mod all;
mod backups;
mod list;
mod print;
mod stop;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mainstay_client::Client;
use mainstay_controller::paths::Paths;
use mainstay_drill::{Dossier, Error, Fault, Sabotage, Sheet, Skipped, Stop, Verdict};
use mainstay_stack::deploy::{STRATEGIES, Strategy};
use mainstay_types::exit_code;

use crate::Global;
use crate::command::drill_report::{self, Files};
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Which drill; without a name they are listed, with when each was run last. `history` shows what was run, `report`
    /// writes about it, `verify` tells whether a report is what was written
    name: Option<String>,
    /// With `history`: of this drill only; with `report`: which run of those that are kept, or of which drill;
    /// with `verify`: the report's file
    of: Option<String>,
    /// Every drill that applies to the stack, one after the other
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// How many rounds; 59 are needed to speak of a 95th percentile
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true)]
    runs: i64,
    /// Seed of victims and moments (printed with each report)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Write a report for people to this file: one page, and beside it the data, the history and their sums
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the result as JUnit XML to this file, for systems that run tests
    #[arg(long, value_name = "FILE.xml")]
    junit: Option<PathBuf>,
    /// With `report`: write about a drill that was run before to this file
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Of `deploy`: by this strategy alone (rolling, blue-green or canary; default: each that the stack can show)
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    #[arg(long, hide = true, value_enum)]
    sabotage: Option<SabotageName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SabotageName {
    PromoteWithoutFencing,
    ThawWithoutFencing,
    AcknowledgeBeforeCommit,
    CloseListeners,
    StartLate,
    UnblockLate,
    FailoverInstead,
    KeepBallast,
    LeakConnections,
    EmptyTheStore,
    StoreWithoutFile,
    ServeDamaged,
    HealLate,
    DieTogether,
    PastTheEdge,
    LeaveOut,
    KillUndrained,
    LookElsewhere,
}

impl From<SabotageName> for Sabotage {
    fn from(name: SabotageName) -> Self {
        match name {
            SabotageName::PromoteWithoutFencing => Self::PromoteWithoutFencing,
            SabotageName::ThawWithoutFencing => Self::ThawWithoutFencing,
            SabotageName::AcknowledgeBeforeCommit => Self::AcknowledgeBeforeCommit,
            SabotageName::CloseListeners => Self::CloseListeners,
            SabotageName::StartLate => Self::StartLate,
            SabotageName::FailoverInstead => Self::FailoverInstead,
            SabotageName::KeepBallast => Self::KeepBallast,
            SabotageName::LeakConnections => Self::LeakConnections,
            SabotageName::EmptyTheStore => Self::EmptyTheStore,
            SabotageName::UnblockLate => Self::UnblockLate,
            SabotageName::StoreWithoutFile => Self::StoreWithoutFile,
            SabotageName::ServeDamaged => Self::ServeDamaged,
            SabotageName::HealLate => Self::HealLate,
            SabotageName::DieTogether => Self::DieTogether,
            SabotageName::PastTheEdge => Self::PastTheEdge,
            SabotageName::LeaveOut => Self::LeaveOut,
            SabotageName::KillUndrained => Self::KillUndrained,
            SabotageName::LookElsewhere => Self::LookElsewhere,
        }
    }
}

/// More rounds than this are hours.
const MAX_RUNS: u32 = 10_000;
/// What stands in place of a name to see what was run.
const HISTORY: &str = "history";
/// What stands in place of a name to write about what was run.
const REPORT: &str = "report";
/// What stands in place of a name to see whether a report is what was written.
const VERIFY: &str = "verify";

/// All of these.
pub(super) const WORDS: [&str; 3] = [HISTORY, REPORT, VERIFY];

/// Says how rounds went.
struct Talk<'a> {
    is_quiet: bool,
    /// Which drill, where several are run.
    name: Option<&'static str>,
    /// What is written while it runs.
    files: Option<&'a mut Files>,
}

impl mainstay_drill::Progress for Talk<'_> {
    fn say(&mut self, line: &str) {
        if !self.is_quiet {
            let name = self.name.map(|name| format!("{name} ")).unwrap_or_default();
            eprintln!("{name}{line}");
        }
    }

    fn history(&mut self, lines: &str) {
        if let Some(files) = &mut self.files {
            files.history(lines);
        }
    }
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let name = options.name.as_deref();
    if name == Some(HISTORY) {
        return list::history(global, options.of.as_deref());
    }
    if name == Some(REPORT) {
        return drill_report::again(global, options.of.as_deref(), options.out.as_deref());
    }
    if name == Some(VERIFY) {
        return verify::run(global, options.of.as_deref());
    }
    if let Some(second) = &options.of {
        let text = format!("drill takes one name, {second:?} is a second one");
        return Err(Failure::user("MS2020", text).help("`mainstay drill --all` runs each that applies"));
    }
    if name.is_none() && !options.all {
        return list::list(global);
    }
    let runs = runs(options.runs)?;
    // Before anything is broken: a result that cannot be written would be lost.
    options.junit.as_deref().map_or(Ok(()), can_write)?;
    let sabotage = options.sabotage.map(Sabotage::from);
    let strategy = options.strategy.as_deref().map(strategy).transpose()?;
    let Some(name) = name else {
        if strategy.is_some() {
            return Err(no_strategy("--all"));
        }
        if let Some(sabotage) = sabotage {
            return Err(misplaced(sabotage, "--all"));
        }
        return all::run(&Running::find(global, options, runs).await?, options, global.json).await;
    };
    let fault = by_name(name)?;
    if let Some(sabotage) = sabotage.filter(|sabotage| !sabotage.fits().contains(&fault)) {
        return Err(misplaced(sabotage, fault.name()));
    }
    if strategy.is_some() && fault != Fault::Deploy {
        return Err(no_strategy(fault.name()));
    }
    let running = Running { strategy, ..Running::find(global, options, runs).await? };
    let mut files = options.report.as_deref().map(Files::create).transpose()?;
    let mut talk = Talk { is_quiet: global.json, name: None, files: files.as_mut() };
    let sheet = match running.drill(fault, &mut talk).await {
        Ok(sheet) => sheet,
        Err(error) => {
            let aborted = Skipped { drill: fault.name().to_owned(), reason: error.to_string(), is_aborted: true };
            junit(options.junit.as_deref(), &drill_report::dossier(Vec::new(), vec![aborted]))?;
            return Err(failure(error));
        }
    };
    let dossier = drill_report::dossier(vec![sheet.clone()], Vec::new());
    if let Some(files) = files {
        files.finish(&running.paths, &dossier)?;
    }
    junit(options.junit.as_deref(), &dossier)?;
    let report = sheet.report;
    if global.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        print::print(&report);
    }
    Ok(code_of(report.verdict))
}

fn runs(wanted: i64) -> Result<u32, Failure> {
    let runs = u32::try_from(wanted).ok().filter(|runs| (1..=MAX_RUNS).contains(runs));
    runs.ok_or_else(|| {
        let text = format!("--runs {wanted} is not within 1 to {MAX_RUNS}");
        Failure::user("MS2021", text).help("59 runs are enough to speak of a 95th percentile")
    })
}

/// Whether a file can be made there, as far as can be told without making it.
fn can_write(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (text, help) = match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => {
            let help = format!("`mkdir -p {}` makes it, or name a file in another one", folder.display());
            (format!("there is no folder {}", folder.display()), help)
        }
        None if path.is_dir() => ("it is a folder".to_owned(), "name a file in it".to_owned()),
        None => return Ok(()),
    };
    Err(Failure::environment("MS3041", format!("cannot write {}: {text}", path.display())).help(help))
}

/// Writes the result for systems that run tests, if that was asked for.
fn junit(path: Option<&Path>, dossier: &Dossier) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, mainstay_drill::junit(dossier)).map_err(|error| {
        Failure::environment("MS3041", format!("cannot write {}: {error}", path.display()))
            .help("name a file in a folder that this user may write to, on a disk that has space")
    })
}

fn by_name(name: &str) -> Result<Fault, Failure> {
    Fault::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = Fault::named().chain([Fault::Null]).map(Fault::name).collect();
        Failure::user("MS2020", format!("there is no drill {name:?}")).help(format!("drills: {}", names.join(", ")))
    })
}

fn strategy(name: &str) -> Result<Strategy, Failure> {
    name.parse().map_err(|()| {
        Failure::user("MS2028", format!("there is no strategy {name:?}"))
            .help(format!("one of: {}", STRATEGIES.join(", ")))
    })
}

fn no_strategy(drill: &str) -> Failure {
    Failure::user("MS2028", format!("--strategy does not belong to {drill}")).help("it belongs to: deploy")
}

/// A mistake that a drill does not look for: it would pass, and stand in the history as a control.
fn misplaced(sabotage: Sabotage, drill: &str) -> Failure {
    let names: Vec<&str> = sabotage.fits().iter().map(|fault| fault.name()).collect();
    let text = format!("the mistake {} does not belong to {drill}", sabotage.name());
    Failure::user("MS2028", text).help(format!("it belongs to: {}", names.join(", ")))
}

fn code_of(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => exit_code::DONE,
        Verdict::Fail => exit_code::DRILL_FAIL,
        Verdict::Void => exit_code::DRILL_VOID,
        Verdict::Aborted => exit_code::DRILL_ABORTED,
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Client(error) => {
            let failure = Failure::from(error);
            // It was up when the drill began.
            let code = if failure.name == "MS1001" { failure.code } else { exit_code::DRILL_ABORTED };
            Failure { code, ..failure }
        }
        Error::NotApplicable(text) => Failure::user("MS2022", text),
        Error::NotWhole(_) => {
            let help = "`mainstay status` shows what it waits for";
            Failure::new(exit_code::DRILL_ABORTED, "MS1010", error.to_string()).help(help)
        }
        Error::Stopped(_) => {
            let help = "`mainstay status` shows when the stack is whole again";
            Failure::new(exit_code::DRILL_ABORTED, "MS1061", error.to_string()).help(help)
        }
        Error::Counter(_) => {
            let help = "`mainstay logs` shows what the application says of it; [drills.counter] in the stack file says how \
                        it is asked";
            Failure::new(exit_code::DRILL_ABORTED, "MS1011", error.to_string()).help(help)
        }
        Error::Ledger(_) | Error::Keys(_) | Error::Trust(_) | Error::Backups(_) => {
            let help = "`mainstay status` shows what is not ready, `mainstay events` what happened to it";
            Failure::new(exit_code::DRILL_ABORTED, "MS1011", error.to_string()).help(help)
        }
        Error::Busy => Failure::refused("MS4020", error.to_string()).help("wait for its end"),
        Error::History(_) => Failure::environment("MS3040", error.to_string()),
    }
}

/// The stack that drills are run on, and how.
struct Running {
    client: Client,
    paths: Paths,
    stack: RunningStack,
    /// What this machine lacks.
    lacks: Vec<String>,
    runs: u32,
    seed: u64,
    sabotage: Option<Sabotage>,
    strategy: Option<Strategy>,
    stop: Stop,
}

impl Running {
    async fn find(global: &Global, options: &Options, runs: u32) -> Result<Self, Failure> {
        let paths = crate::place::paths(global)?;
        let client = crate::place::client(global)?;
        client.status().await?;
        let stack = running_stack(&paths)?;
        let seed = options.seed.unwrap_or_else(|| screen::now().as_micros().unsigned_abs() % 1_000_000);
        let sabotage = options.sabotage.map(Sabotage::from);
        let lacks = crate::command::doctor::lacking(global).await;
        let stop = stop::listen()?;
        Ok(Self { client, paths, stack, lacks, runs, seed, sabotage, strategy: None, stop })
    }

    /// Runs one and keeps what it found.
    async fn drill(&self, fault: Fault, talk: &mut Talk<'_>) -> Result<Sheet, Error> {
        let options = mainstay_drill::Options {
            fault,
            runs: self.runs,
            seed: self.seed,
            sabotage: self.sabotage,
            strategy: self.strategy,
            ca: mainstay_controller::ca_file(&self.paths),
            https_port: self.stack.https_port,
            state: self.paths.state.clone(),
            history: self.paths.drill_history(),
            release: mainstay_controller::drills::RELEASE.to_owned(),
            stack_hash: self.stack.stack_hash.clone(),
            call: crate::again::prefix(),
            stop: self.stop.clone(),
        };
        let stack = &self.stack.stack;
        let report = if fault.is_about_backups() {
            let own = backups::Own::new(&self.paths, stack.name.as_str());
            // Large: it restores beside the present.
            Box::pin(mainstay_drill::backups(&self.client, stack, &options, &own, talk)).await?
        } else {
            Box::pin(mainstay_drill::drill(&self.client, stack, &options, talk)).await?
        };
        Ok(drill_report::keep(&self.paths, &self.lacks, report))
    }
}

/// The stack as it runs: the file may have changed since `up`.
struct RunningStack {
    stack: mainstay_stack::Stack,
    stack_hash: String,
    https_port: u16,
}

fn running_stack(paths: &Paths) -> Result<RunningStack, Failure> {
    let broken =
        |error: &dyn std::fmt::Display| Failure::failed("MS1012", format!("cannot read the running stack: {error}"));
    let launch = mainstay_controller::launch::Launch::load(paths).map_err(|error| broken(&error))?;
    let text = std::fs::read_to_string(paths.stack_file()).map_err(|error| broken(&error))?;
    let parsed = mainstay_stack::parse(&text, "stack.toml", &launch.environment)
        .map_err(|_| broken(&"its copy in the state folder is not valid any more"))?;
    let ports = mainstay_controller::ports::Ports::load(&paths.state).map_err(|error| broken(&error))?;
    let https_port = ports.get("edge-https").ok_or_else(|| broken(&"no port of the edge is known"))?;
    Ok(RunningStack { stack: parsed.stack, stack_hash: mainstay_controller::drills::stack_hash(&text), https_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_has_no_place_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("folder");
        let help = |path: &str| can_write(&folder.path().join(path)).map_err(|failure| failure.help.expect("a hint"));
        assert!(help("none/x.xml").is_err_and(|help| help.contains("mkdir -p")));
        assert!(help(".").is_err_and(|help| help.contains("name a file in it")));
        assert_eq!(help("x.xml"), Ok(()));
    }

    #[test]
    fn numbers_of_rounds_that_are_none_are_told_as_such() {
        assert_eq!(runs(5).ok(), Some(5));
        for wrong in [-1, 0, i64::from(MAX_RUNS) + 1] {
            let failure = runs(wrong).expect_err("refused");
            assert_eq!(failure.name, "MS2021");
            assert!(failure.text.contains(&format!("--runs {wrong} ")), "{}", failure.text);
        }
    }

    #[test]
    fn a_drill_that_cannot_go_on_ends_as_aborted_whatever_kept_it() {
        let errors = [
            Error::Keys("connection closed".to_owned()),
            Error::Counter("GET /n: status 403".to_owned()),
            Error::Backups("no repository".to_owned()),
            Error::Trust(std::io::Error::other("no certificate")),
            Error::NotWhole("edge is starting".to_owned()),
            Error::Stopped("SIGINT"),
        ];
        for error in errors {
            let text = error.to_string();
            let failure = failure(error);
            assert_eq!(failure.code, exit_code::DRILL_ABORTED, "{text}");
            assert!(failure.help.is_some(), "{text}");
        }
    }
}
