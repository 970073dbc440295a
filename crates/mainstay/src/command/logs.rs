//! `mainstay logs`: what the parts print.

use clap::Args;
use mainstay_api::LogLine;
use mainstay_client::{Client, Error};
use mainstay_controller::logs;
use mainstay_controller::paths::Paths;
use mainstay_types::{ChildName, exit_code};

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// A service, an instance or another process of `mainstay ps`; all when left out
    name: Option<String>,
    /// Go on as lines come
    #[arg(long, short = 'f')]
    follow: bool,
    /// How many of the newest, for each process
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let client = Client::new(paths.api_socket());
    let mut lines = match client.logs(options.name.as_deref(), options.lines, options.follow).await {
        Ok(lines) => lines,
        Err(error @ Error::NotRunning { .. }) => return of_last_run(global, options, &paths, error),
        Err(error) => return Err(error.into()),
    };
    while let Some(line) = Client::next_line(&mut lines).await? {
        print(&line, global.json)?;
    }
    Ok(exit_code::DONE)
}

/// The stack is down; what its parts printed is still there. Mostly that is what explains why it is down.
fn of_last_run(global: &Global, options: &Options, paths: &Paths, error: Error) -> Result<u8, Failure> {
    let all = logs::files(&paths.state);
    if all.is_empty() {
        return Err(Failure::never_up(&error, "logs"));
    }
    let is_meant = |child: &ChildName| options.name.as_ref().is_none_or(|wanted| logs::is_meant(child, wanted));
    let mut shown = 0;
    for (child, path) in all.iter().filter(|(child, _)| is_meant(child)) {
        shown += 1;
        let read = mainstay_supervisor::logs::read_tail(path, options.lines as usize);
        let (lines, _) = read.map_err(|error| {
            Failure::environment("MS3042", format!("cannot read {}: {error}", path.display()))
                .help("as the user whose stack it is")
        })?;
        for text in lines {
            print(&LogLine { child: child.clone(), text }, global.json)?;
        }
    }
    if shown == 0 {
        let names: Vec<&str> = all.iter().map(|(child, _)| child.as_str()).collect();
        let name = options.name.as_deref().unwrap_or_default();
        let text = format!("no child or service named {name:?} has a log");
        return Err(Failure::user("MS2052", text).help(format!("there are logs of {}", names.join(", "))));
    }
    let more = if options.follow { "; nothing more comes while it is down" } else { "" };
    eprintln!("the stack is not up: these are the last lines of its last run{more}");
    Ok(exit_code::DONE)
}

fn print(line: &LogLine, json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(line).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        println!("{} {}", crate::screen::dim(&format!("{:<12}│", line.child.as_str())), line.text);
    }
    Ok(())
}
