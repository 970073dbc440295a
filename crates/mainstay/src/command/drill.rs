//! `mainstay drill`: break something on purpose, measure, compare with the promise.

use clap::{Args, ValueEnum};
use mainstay_drill::{Error, Fault, Report, Sabotage, Verdict};
use mainstay_types::exit_code;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Which drill; without a name they are listed
    name: Option<String>,
    /// How many rounds; 59 are needed to speak of a 95th percentile
    #[arg(long, default_value_t = 1, value_name = "N")]
    runs: u32,
    /// Seed of victims and moments (printed with each report)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[arg(long, hide = true, value_enum)]
    sabotage: Option<SabotageName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SabotageName {
    PromoteWithoutFencing,
    AcknowledgeBeforeCommit,
}

/// More rounds than this are hours.
const MAX_RUNS: u32 = 10_000;

struct Talk {
    is_quiet: bool,
}

impl mainstay_drill::Progress for Talk {
    fn say(&mut self, line: &str) {
        if !self.is_quiet {
            eprintln!("{line}");
        }
    }
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let Some(name) = &options.name else { return list(global) };
    let fault = Fault::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        Failure::user("MS2020", format!("there is no drill {name:?}")).help(format!("drills: {}", names.join(", ")))
    })?;
    if !(1..=MAX_RUNS).contains(&options.runs) {
        let text = format!("--runs {} is not within 1 to {MAX_RUNS}", options.runs);
        return Err(Failure::user("MS2021", text).help("59 runs are enough to speak of a 95th percentile"));
    }
    let paths = crate::place::paths(global)?;
    let client = crate::place::client(global)?;
    client.status().await?;
    let (stack, https_port) = running_stack(&paths)?;
    let options = mainstay_drill::Options {
        fault,
        runs: options.runs,
        seed: options.seed.unwrap_or_else(|| screen::now().as_micros().unsigned_abs() % 1_000_000),
        sabotage: options.sabotage.map(|name| match name {
            SabotageName::PromoteWithoutFencing => Sabotage::PromoteWithoutFencing,
            SabotageName::AcknowledgeBeforeCommit => Sabotage::AcknowledgeBeforeCommit,
        }),
        ca: mainstay_controller::ca_file(&paths),
        https_port,
    };
    let mut talk = Talk { is_quiet: global.json };
    let report = mainstay_drill::drill(&client, &stack, &options, &mut talk).await.map_err(failure)?;
    if global.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        print(&report);
    }
    Ok(match report.verdict {
        Verdict::Pass => exit_code::DONE,
        Verdict::Fail => exit_code::DRILL_FAIL,
        Verdict::Void => exit_code::DRILL_VOID,
        Verdict::Aborted => exit_code::DRILL_ABORTED,
    })
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Client(error) => error.into(),
        Error::NotApplicable(text) => Failure::user("MS2022", text),
        Error::NotWhole(_) => {
            Failure::failed("MS1010", error.to_string()).help("`mainstay status` shows what it waits for")
        }
        Error::Ledger(_) | Error::Trust(_) => Failure::failed("MS1011", error.to_string()),
    }
}

/// The stack as it runs: the file may have changed since `up`.
fn running_stack(paths: &mainstay_controller::paths::Paths) -> Result<(mainstay_stack::Stack, u16), Failure> {
    let broken =
        |error: &dyn std::fmt::Display| Failure::failed("MS1012", format!("cannot read the running stack: {error}"));
    let launch = mainstay_controller::launch::Launch::load(paths).map_err(|error| broken(&error))?;
    let text = std::fs::read_to_string(paths.stack_file()).map_err(|error| broken(&error))?;
    let parsed = mainstay_stack::parse(&text, "stack.toml", &launch.environment)
        .map_err(|_| broken(&"its copy in the state folder is not valid any more"))?;
    let ports = mainstay_controller::ports::Ports::load(&paths.state).map_err(|error| broken(&error))?;
    let port = ports.get("edge-https").ok_or_else(|| broken(&"no port of the edge is known"))?;
    Ok((parsed.stack, port))
}

fn list(global: &Global) -> Result<u8, Failure> {
    if global.json {
        let all: Vec<_> =
            Fault::ALL.iter().map(|fault| serde_json::json!({"name": fault.name(), "what": fault.what()})).collect();
        println!("{}", serde_json::Value::from(all));
        return Ok(exit_code::DONE);
    }
    for fault in Fault::ALL {
        println!("  {:<20} {}", fault.name(), fault.what());
    }
    eprintln!("hint: `mainstay drill database-crash --runs 5` runs one");
    Ok(exit_code::DONE)
}

fn print(report: &Report) {
    let measured = &report.measured;
    let verdict = match report.verdict {
        Verdict::Pass => screen::green("PASS"),
        Verdict::Fail => screen::red("FAIL"),
        Verdict::Void | Verdict::Aborted => screen::yellow(&report.verdict.to_string()),
    };
    let runs = if report.runs == 1 { "run" } else { "runs" };
    println!("{}  {verdict}  {} {runs}", screen::bold(&report.drill), report.runs);
    let rto = &measured.rto_ms;
    println!("                promised ({})          measured", report.promise.source);
    println!(
        "  RTO           {:<28} p50 {} ms, p95 {} ms, worst {} ms",
        format!("{} ms", report.promise.rto_ms),
        rto.p50,
        rto.p95,
        rto.max
    );
    let stall = &measured.stall_ms;
    println!("  stall         {:<28} p50 {} ms, p95 {} ms, worst {} ms", "–", stall.p50, stall.p95, stall.max);
    println!(
        "  lost          {:<28} {} of {} acknowledged writes",
        format!("RPO {} ms", report.promise.rpo_ms),
        measured.counts.lost,
        measured.counts.acknowledged
    );
    println!("  duplicated    {:<28} {}", "0", measured.counts.duplicated);
    println!(
        "  writes        {:<28} {} failed, {} ended unknown ({} of them are there)",
        "–", measured.counts.failed_writes, measured.counts.ambiguous, measured.counts.ambiguous_present
    );
    println!(
        "  requests      {:<28} {} failed of {}, {} truncated",
        "–", measured.counts.failed_requests, measured.counts.requests, measured.counts.truncated
    );
    for check in &report.checks {
        let found: Vec<String> = check.anomalies.iter().map(|(anomaly, count)| format!("{count} {anomaly}")).collect();
        let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
        println!(
            "  {:<13} {:<28} {}: {found} in {} writes and {} reads",
            check.checker, "valid", check.validity, check.writes.ok, check.reads
        );
    }
    println!("  whole again   {:<28} p50 {} ms, worst {} ms", "–", measured.whole_ms.p50, measured.whole_ms.max);
    let mut steps: Vec<(&String, &u64)> = report.timeline_ms.iter().collect();
    steps.sort_by_key(|(_, at)| **at);
    let steps: Vec<String> = steps.iter().map(|(step, at)| format!("{step} {at}")).collect();
    println!("  timeline, ms  {}", steps.join(" → "));
    println!(
        "  load          {}; at least {} operations before and {} after the fault",
        report.evidence.load, report.evidence.least_load_before, report.evidence.least_load_after
    );
    for fault in report.evidence.faults.iter().take(3) {
        println!("  fault         {fault}");
    }
    for (text, count) in &report.evidence.errors {
        println!("  clients saw   {count} × {text}");
    }
    for reason in &report.evidence.reasons {
        println!("  {}", screen::red(reason));
    }
    println!("  not tested    {}", report.evidence.not_tested.join("; "));
    println!("  again         {}", report.evidence.reproduce);
}
