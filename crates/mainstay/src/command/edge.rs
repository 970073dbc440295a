//! `mainstay edge test`: what the stack file promises of the edge, measured at the edge that runs; and, hidden, the
//! process of the edge itself, which keep starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_decide::promises::{Ask, Promise, Setting, Verdict, admits, judge, promises};
use mainstay_edge::examine::{self, Doors};
use mainstay_stack::Stack;
use mainstay_stack::model::TlsVersion;
use mainstay_types::exit_code;
use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Folder of its sockets, of the process
    #[arg(long, hide = true)]
    runtime: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Measure what the stack file promises of the edge: redirects, refusals, headers, who is let in; changes nothing
    Test,
}

/// One promise as it was found.
#[derive(Debug, Serialize)]
struct Line {
    /// `null`: of the whole edge.
    route: Option<String>,
    promise: String,
    measured: String,
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
struct Report {
    promises: Vec<Line>,
    kept: usize,
    broken: usize,
    unmeasured: usize,
    not_tested: Vec<String>,
}

impl Options {
    /// The folder of sockets when this is the process that keep starts.
    pub(crate) fn process(&self) -> Option<PathBuf> {
        self.runtime.clone().filter(|_| self.what.is_none())
    }
}

/// The process of the edge.
pub(crate) fn serve(global: &Global, runtime: PathBuf) -> Result<u8, Failure> {
    let state = global.state.clone().ok_or_else(|| Failure::bug("the process of the edge has no state folder"))?;
    super::internal::edge(state, runtime)
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    match options.what {
        Some(What::Test) => test(global).await,
        None => Err(Failure::user("MS2006", "a command is missing").help("`mainstay edge test`")),
    }
}

async fn test(global: &Global) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let client = mainstay_client::Client::new(paths.api_socket());
    let status = client.status().await?;
    let stack = crate::place::taken(global, &paths)?.stack;
    let doors = doors(&client, &stack).await?;
    let from = doors.https.ip();
    if !admits(&stack.edge.admission, from) {
        let text = format!("{from} may not connect to the edge by the stack file, so nothing can be asked from here");
        return Err(Failure::failed("MS1090", text).help("`allow` and `deny` of [edge] say who may"));
    }
    let by_hand = status.maintenance.iter().filter_map(|route| {
        let of = route.maintenance.filter(|of| of.is_by_hand)?;
        Some((route.path.clone(), of.retry_after_s))
    });
    let shut = by_hand.collect();
    let setting = Setting { stack: &stack, shut: &shut, https_port: doors.https.port(), client: from };
    let (all, not_tested) = promises(setting);
    let mut lines = of_tls(&stack, doors.https).await;
    lines.extend(measure(doors, all).await);
    let count = |verdict: Verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let (kept, broken, unmeasured) = (count(Verdict::Kept), count(Verdict::Broken), count(Verdict::Unmeasured));
    let report = Report { promises: lines, kept, broken, unmeasured, not_tested };
    if global.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
    } else {
        shown(&report).iter().for_each(|line| println!("{line}"));
    }
    if broken == 0 {
        return Ok(exit_code::DONE);
    }
    if global.json {
        return Ok(exit_code::FAILED);
    }
    let text = format!("{broken} of {} promises of the edge are broken", report.promises.len());
    Err(Failure::failed("MS1090", text)
        .help("`mainstay route explain METHOD PATH` says what the edge should do; `mainstay events` what it was told"))
}

/// Where the edge is reached from here.
async fn doors(client: &mainstay_client::Client, stack: &Stack) -> Result<Doors, Failure> {
    let processes = client.processes().await?;
    let address =
        processes.iter().find(|process| process.name.as_str() == "edge").and_then(|edge| edge.address.clone());
    let port = |scheme: &str| {
        let of = address.as_ref()?.split(", ").find(|text| text.starts_with(scheme))?;
        of.rsplit_once(':')?.1.parse::<u16>().ok()
    };
    let (Some(https), Some(http)) = (port("https://"), port("http://")) else {
        return Err(Failure::failed("MS1090", "the stack that runs has no edge, or it has no door")
            .help("`mainstay status` shows the edge"));
    };
    let listen: IpAddr = stack.edge.listen.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let listen = match listen {
        IpAddr::V4(all) if all.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(all) if all.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        one => one,
    };
    Ok(Doors { https: SocketAddr::new(listen, https), http: SocketAddr::new(listen, http) })
}

/// What the handshake promises.
async fn of_tls(stack: &Stack, https: SocketAddr) -> Vec<Line> {
    let line =
        |promise: String, (verdict, measured): (Verdict, String)| Line { route: None, promise, measured, verdict };
    let mut lines = Vec::new();
    for host in stack.edge.hosts() {
        let found = match examine::certificate(https, &host, screen::now()).await {
            Ok(until) => (Verdict::Kept, format!("until {until}")),
            Err(why) => (Verdict::Broken, why),
        };
        lines.push(line(format!("the certificate is for {host} and counts"), found));
    }
    let wanted = stack.edge.least_tls == TlsVersion::Tls12;
    let promise = if wanted { "TLS 1.2 is taken" } else { "TLS 1.2 is refused" };
    let found = match examine::takes_tls12(https, &stack.edge.host).await {
        Ok(is_taken) => {
            let verdict = if is_taken == wanted { Verdict::Kept } else { Verdict::Broken };
            (verdict, if is_taken { "taken" } else { "refused" }.to_owned())
        }
        Err(why) => (Verdict::Broken, why),
    };
    lines.push(line(promise.to_owned(), found));
    lines
}

async fn measure(doors: Doors, all: Vec<Promise>) -> Vec<Line> {
    // What several promises ask for is asked once: limits count it.
    let mut asked: std::collections::BTreeMap<Ask, _> = std::collections::BTreeMap::new();
    let mut lines = Vec::new();
    for promise in all {
        if !asked.contains_key(&promise.ask) {
            let came = examine::ask(doors, &promise.ask).await;
            asked.insert(promise.ask.clone(), came);
        }
        let Some(came) = asked.get(&promise.ask) else { continue };
        let (verdict, measured) = judge(&promise, came);
        lines.push(Line { route: promise.route, promise: promise.says, measured, verdict });
    }
    lines
}

fn shown(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    let mut of: Option<&Option<String>> = None;
    for line in &report.promises {
        if of != Some(&line.route) {
            of = Some(&line.route);
            all.push(screen::bold(line.route.as_deref().unwrap_or("the edge")));
        }
        let verdict = match line.verdict {
            Verdict::Kept => screen::green("ok "),
            Verdict::Broken => screen::red("NOT"),
            Verdict::Unmeasured => screen::yellow("?  "),
        };
        let promise = screen::tame(&line.promise);
        let measured = screen::tame(&line.measured).replace(['\n', '\t'], " ");
        let room = crate::board::columns().saturating_sub(9 + promise.chars().count()).max(16);
        all.push(format!("  {verdict} {promise} → {}", crate::board::cut(&measured, room)));
    }
    let Report { kept, broken, unmeasured, .. } = report;
    let unmeasured = if *unmeasured > 0 { format!(", {unmeasured} could not be measured") } else { String::new() };
    all.push(format!("{kept} kept, {broken} broken{unmeasured}"));
    all.push("not tested:".to_owned());
    all.extend(report.not_tested.iter().map(|what| screen::wrap(what, "  - ", "    ")));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_each_promise_what_was_measured_and_what_was_not() {
        let line = |route: Option<&str>, verdict| Line {
            route: route.map(str::to_owned),
            promise: "TRACE is not served".to_owned(),
            measured: "405\u{1b}[2J".to_owned(),
            verdict,
        };
        let promises = vec![
            line(None, Verdict::Kept),
            line(Some("/api/*"), Verdict::Broken),
            line(Some("/api/*"), Verdict::Unmeasured),
        ];
        let report = Report { promises, kept: 1, broken: 1, unmeasured: 1, not_tested: vec!["timeouts".to_owned()] };
        let lines = shown(&report);
        assert_eq!(lines[0], "the edge");
        assert_eq!(lines[1], "  ok  TRACE is not served → 405\\u{1b}[2J");
        assert_eq!(lines[2], "/api/*");
        assert!(lines[3].starts_with("  NOT "), "{lines:?}");
        assert_eq!(lines[5], "1 kept, 1 broken, 1 could not be measured");
        assert_eq!(&lines[6..], ["not tested:", "  - timeouts"]);
    }
}
