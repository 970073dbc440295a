//! `mainstay doctor`: what this machine has and lacks, why it matters, and the command that mends it.

use mainstay_types::exit_code;

use crate::Global;
use crate::again;
use crate::doctor::{Finding, Health, judge, look};
use crate::failure::Failure;
use crate::screen;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let findings = judge(&look::machine(global).await?)
        .into_iter()
        .map(|finding| Finding { mend: finding.mend.iter().map(|line| again::line(line)).collect(), ..finding });
    let findings: Vec<Finding> = findings.collect();
    let is_whole = findings.iter().all(|finding| finding.health != Health::Missing);
    if global.json {
        println!("{}", serde_json::to_string(&findings).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        for finding in &findings {
            println!("{}", text(finding));
        }
    }
    Ok(if is_whole { exit_code::DONE } else { exit_code::ENVIRONMENT })
}

/// What this machine lacks that figures may depend on, for reports of drills. A stack or a port is none of it.
pub(crate) async fn lacking(global: &Global) -> Vec<String> {
    const OF_MACHINE: [&str; 7] = ["kernel", "cgroups", "open files", "processes", "memory", "disk", "clock"];
    let Ok(machine) = look::machine(global).await else {
        return vec!["nobody knows: the machine could not be looked at".to_owned()];
    };
    let findings = judge(&machine).into_iter().filter(|finding| finding.health != Health::Fine);
    let lacks = findings.filter(|finding| OF_MACHINE.contains(&finding.what));
    lacks.map(|finding| format!("{}: {}", finding.what, finding.found)).collect()
}

/// A finding in lines of at most 80 columns; only a command is never broken, so that it can be copied.
pub(crate) fn text(finding: &Finding) -> String {
    let mark = match finding.health {
        Health::Fine => "ok     ",
        Health::Limited => "limited",
        Health::Missing => "missing",
    };
    let first = format!("{mark}  {:<12} ", finding.what);
    let next = " ".repeat(first.chars().count());
    let mut text = screen::wrap(&finding.found, &first, &next);
    let coloured = match finding.health {
        Health::Fine => screen::green(mark),
        Health::Limited => screen::yellow(mark),
        Health::Missing => screen::red(mark),
    };
    text = text.replacen(mark, &coloured, 1);
    if let Some(why) = &finding.why {
        text.push_str(&format!("\n{}", screen::dim(&screen::wrap(why, "         ", "         "))));
    }
    for command in &finding.mend {
        text.push_str(&format!("\n  > {command}"));
    }
    text
}
