//! `mainstay retention`: which backup is kept by which rule, and which one goes when.

use clap::Args;
use mainstay_controller::backups::{self, Backups, Explained};
use mainstay_decide::retention::Rule;
use mainstay_types::{Timestamp, exit_code};
use serde_json::json;

use super::backup::{failure, launch, shorten};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// Every backup with all its rules; otherwise only what would go now
    #[arg(long)]
    explain: bool,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let launch = launch(&paths)?;
    let opened = Backups::open(&paths, launch.stack.as_str()).map_err(|error| failure(&error))?;
    let all = backups::explain(&opened).map_err(|error| failure(&error))?;
    let shown: Vec<&Explained> = all.iter().filter(|one| options.explain || one.decision.goes()).collect();
    if global.json {
        let value = |one: &&Explained| {
            json!({
                "id": one.backup.id, "consistent_at": one.backup.label.ended, "is_scheduled": one.backup.label.is_scheduled,
                "rules": one.decision.rules, "goes": one.decision.goes(), "until": one.decision.until(),
                "stays_for_its_part": one.decision.has_part(), "is_proven": one.proof.as_ref().map(|proof| proof.is_proven),
            })
        };
        println!("{}", json!({"backups": shown.iter().map(value).collect::<Vec<_>>()}));
        return Ok(exit_code::DONE);
    }
    if shown.is_empty() {
        println!("{} base backups, none goes now; --explain says why each stays", all.len());
        return Ok(exit_code::DONE);
    }
    println!("{}", screen::bold("ID        CONSISTENT AT     GOES              KEPT BY"));
    for one in &shown {
        let (at, goes) = (minute(one.backup.label.ended), goes(one));
        println!("{}  {at}  {goes:<16}  {}", shorten(&one.backup.id), kept_by(one));
    }
    if options.explain {
        println!("times are UTC; ages count to the newest backup: a stack that takes none any more loses none");
    }
    Ok(exit_code::DONE)
}

fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

fn goes(one: &Explained) -> String {
    match one.decision.until() {
        _ if one.decision.goes() => "now".to_owned(),
        Some(until) => minute(until),
        None => "when replaced".to_owned(),
    }
}

fn kept_by(one: &Explained) -> String {
    let name = |rule: &Rule| match rule {
        Rule::Family { family, until } => format!("{} until {}", family.name(), minute(*until)),
        Rule::ByHand { until } => format!("by hand until {}", minute(*until)),
        Rule::BeforeDeploy { release, until } => {
            format!("before the deploy of release {release} until {}", minute(*until))
        }
        Rule::PerhapsBeforeDeploy { until } => format!("perhaps before a deploy until {}", minute(*until)),
        Rule::Window => "the window: from it every moment since is reached".to_owned(),
        Rule::Newest => "the newest".to_owned(),
        Rule::LastProven => "the last proven by a restore".to_owned(),
    };
    let rules: Vec<String> = one.decision.rules.iter().map(name).collect();
    if rules.is_empty() { again::text("nothing: `mainstay backup prune` frees it") } else { rules.join("; ") }
}
