//! `mainstay releases`: those that are kept, the one under way, what was seen of one.

use clap::Args;
use mainstay_api::{Release, Releases, RolloutStatus};
use mainstay_client::Client;
use mainstay_controller::releases;
use mainstay_stack::Stack;
use mainstay_types::{EnvironmentName, exit_code};

use super::{number, pack};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::place;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// All that is known of one, as v3
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    /// What the edge saw of it while it was rolled out, second by second
    #[arg(long, requires = "release")]
    evidence: bool,
}

/// All that the control plane knows.
pub(super) async fn read(client: &Client) -> Result<Releases, Failure> {
    client.get("/api/v1/releases").await.map_err(Failure::from)
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = place::paths(global)?;
    let client = Client::new(paths.api_socket());
    if let Some(text) = &options.release {
        let wanted = number(text)?;
        let release = releases::load(&paths, wanted).map_err(|error| {
            Failure::user("MS2141", format!("v{wanted} is not kept: {error}"))
                .help("`mainstay releases` lists those that are")
        })?;
        let file = releases::evidence_file(&paths, wanted);
        let lines = std::fs::read_to_string(file).unwrap_or_default();
        return one(global, &release, &lines, options.evidence);
    }
    let known = match read(&client).await {
        Ok(known) => known,
        // What is on disk says as much.
        Err(failure) => {
            let kept = releases::list(&paths);
            let live = mainstay_controller::launch::Launch::load(&paths).map_err(|_| failure)?;
            let is_from_folder = !live.is_deployed(&paths);
            Releases { live: live.release, is_from_folder, releases: kept, rollout: None }
        }
    };
    if global.json {
        println!("{}", serde_json::to_string_pretty(&known).map_err(|error| Failure::bug(error.to_string()))?);
        return Ok(exit_code::DONE);
    }
    if known.is_from_folder {
        println!("v{} is live and runs from the stack file's own folder: it is kept nowhere", known.live);
    }
    if known.releases.is_empty() {
        println!("{}", again::text("no release is kept yet: `mainstay deploy` makes one"));
        return Ok(exit_code::DONE);
    }
    println!("{:<6} {:<9} {:<21} {:<14} {:<10} FROM", "", "STATE", "MADE", "HASH", "BY");
    for release in &known.releases {
        println!("{}", line(release));
    }
    if let Some(status) = &known.rollout {
        println!();
        return rollout(global, status);
    }
    Ok(exit_code::DONE)
}

fn line(release: &Release) -> String {
    let made: String = release.made_at.to_string().chars().take(19).collect();
    let hash: String = release.hash.chars().take(12).collect();
    let commit = release.commit.as_ref().map(|commit| format!(" {}", commit.get(..9).unwrap_or(commit)));
    let dirty = if release.is_dirty { " +" } else { "" };
    let by: String = release.by.chars().take(10).collect();
    let reason = release.reason.as_ref().map(|reason| format!("  {}", reason.lines().next().unwrap_or_default()));
    let text = format!(
        "v{:<5} {:<9} {made:<21} {hash:<14} {by:<10} {}{}{dirty}{}",
        release.number,
        release.state.to_string(),
        release.source,
        commit.unwrap_or_default(),
        reason.unwrap_or_default()
    );
    screen::tame(&text)
}

/// How a rollout stands.
pub(super) fn rollout(global: &Global, status: &RolloutStatus) -> Result<u8, Failure> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(status).map_err(|error| Failure::bug(error.to_string()))?);
        return Ok(exit_code::DONE);
    }
    let verb = if status.is_rollback { "goes back to" } else { "rolls out" };
    println!("{verb} v{} from v{}, {}: {}", status.release, status.from, status.strategy, status.phase);
    if let Some(share) = status.share {
        println!("  {} of clients", mainstay_types::Percent::from_milli(u32::from(share) * 10));
    }
    println!("  {}", screen::tame(&status.waiting));
    let [requests, errors, slow] = status.answered;
    let [old_requests, old_errors, old_slow] = status.old_answered;
    println!("  v{} answered {requests} requests, {errors} errors, {slow} slow", status.release);
    println!("  v{} answered {old_requests} requests, {old_errors} errors, {old_slow} slow", status.from);
    Ok(exit_code::DONE)
}

fn one(global: &Global, release: &Release, lines: &str, is_evidence: bool) -> Result<u8, Failure> {
    let evidence: Vec<serde_json::Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if global.json {
        let value =
            serde_json::json!({"release": release, "evidence": if is_evidence { evidence } else { Vec::new() }});
        println!("{value:#}");
        return Ok(exit_code::DONE);
    }
    println!("{}", line(release));
    println!("  {}, environment {}", pack::size(release.files, release.bytes), release.environment);
    println!("  hash {}", release.hash);
    if !release.migrations.is_empty() {
        println!("  migrations {}", release.migrations.join(", "));
    }
    if let Some(reason) = &release.reason {
        println!("  taken back: {}", screen::tame(reason));
    }
    let Some(last) = evidence.last() else {
        println!("  no request was seen while it was rolled out");
        return Ok(exit_code::DONE);
    };
    let count =
        |value: &serde_json::Value, side: &str, what: &str| value["evidence"]["seen"][side][what].as_u64().unwrap_or(0);
    for (side, name) in [("new", "this release"), ("old", "the one before")] {
        let (requests, errors, slow) =
            (count(last, side, "requests"), count(last, side, "errors"), count(last, side, "slow"));
        println!("  {name}: {requests} requests, {errors} errors, {slow} slow");
    }
    if is_evidence {
        print_evidence(&evidence);
    }
    Ok(exit_code::DONE)
}

/// Evidence over time: 1 says nothing, at 4000 a release is taken back.
fn print_evidence(evidence: &[serde_json::Value]) {
    println!(
        "{:<21} {:<7} {:>6} {:>7} {:>7} {:>7} {:>10} {:>10}",
        "AT", "PHASE", "SHARE", "NEW", "ERRORS", "SLOW", "E(errors)", "E(slow)"
    );
    for line in evidence {
        let at: String = line["at"].as_str().unwrap_or_default().chars().take(19).collect();
        let share =
            line["share"].as_u64().map_or("-".to_owned(), |share| format!("{}.{:02}", share / 100, share % 100));
        let new = |what: &str| line["window"]["new"][what].as_u64().unwrap_or(0);
        let strength = |what: &str| line["strength"][what].as_f64().unwrap_or(0.0);
        println!(
            "{at:<21} {:<7} {share:>6} {:>7} {:>7} {:>7} {:>10.2} {:>10.2}",
            line["phase"].as_str().unwrap_or_default(),
            new("requests"),
            new("errors"),
            new("slow"),
            strength("errors"),
            strength("slow")
        );
    }
}

/// What a deployment would do, for programs. `same_files` is null where nobody can tell.
pub(super) fn plan(release: &Release, live: u64, before: Option<&Release>, changes: &[String]) -> serde_json::Value {
    let same_files = before.map(|before| before.hash == release.hash);
    serde_json::json!({"live": live, "hash": release.hash, "files": release.files, "bytes": release.bytes,
        "source": release.source, "commit": release.commit, "is_dirty": release.is_dirty,
        "migrations": release.migrations, "same_files": same_files, "changes": changes, "is_deployed": false})
}

/// What a release changes, a line each.
pub(super) fn changes(
    live: &str,
    new: &str,
    release: &Release,
    before: Option<&Release>,
    environment: &str,
) -> Vec<String> {
    let Ok(environment) = EnvironmentName::new(environment) else { return Vec::new() };
    let parse = |text: &str| mainstay_stack::parse(text, "mainstay.toml", &environment).ok().map(|parsed| parsed.stack);
    let (Some(old), Some(new)) = (parse(live), parse(new)) else {
        return vec!["what changes cannot be told: the live stack file is not valid any more".to_owned()];
    };
    let mut lines = parts(&old, &new);
    match before {
        None => lines.push("files: the live release runs from its folder, so nobody can tell".to_owned()),
        Some(before) if before.hash == release.hash => lines.push("files: none".to_owned()),
        Some(before) => {
            lines.push(format!("files: {}…, was {}…", &release.hash[..12], before.hash.get(..12).unwrap_or_default()));
            let added: Vec<&str> = release
                .migrations
                .iter()
                .filter(|name| !before.migrations.contains(name))
                .map(String::as_str)
                .collect();
            if !added.is_empty() {
                lines.push(format!("migrations: {}", added.join(", ")));
            }
            let added: Vec<&String> =
                release.migrations.iter().filter(|name| !before.migrations.contains(name)).collect();
            let irreversible = releases::irreversible(&added, &release.migrations);
            if !irreversible.is_empty() {
                lines.push(format!("cannot be undone: {}", irreversible.join(", ")));
            }
        }
    }
    lines
}

fn parts(old: &Stack, new: &Stack) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, service) in &new.services {
        match old.services.get(name) {
            None => lines.push(format!("service {name}: new")),
            Some(before) if before != service => {
                lines.push(format!("service {name}: changed, its instances are replaced"))
            }
            Some(_) => {}
        }
    }
    for name in old.services.keys().filter(|name| !new.services.contains_key(*name)) {
        lines.push(format!("service {name}: gone, its instances end"));
    }
    if old.sites != new.sites {
        lines.push("sites: changed, with the end of the rollout".to_owned());
    }
    if old.edge != new.edge {
        lines.push("[edge]: changed, with the end of the rollout".to_owned());
    }
    if old.target != new.target {
        lines.push("[target]: changed".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use mainstay_types::Timestamp;

    use super::*;

    fn release(hash: &str) -> Release {
        Release {
            number: 2,
            made_at: Timestamp::from_micros(0),
            by: "ada".to_owned(),
            environment: EnvironmentName::default(),
            hash: hash.repeat(12),
            files: 2,
            bytes: 463,
            source: "folder".to_owned(),
            commit: None,
            is_dirty: false,
            migrations: Vec::new(),
            folder: String::new(),
            state: mainstay_api::ReleaseState::Live,
            since: Timestamp::from_micros(0),
            reason: None,
            is_trial: false,
        }
    }

    /// `deploy --plan --json` printed words when there was nothing to do.
    #[test]
    fn a_plan_says_to_programs_that_nothing_would_change() {
        let stack = "stack = \"shop\"\n[service.web]\nrun = \"./web\"\n";
        let (new, same, other) = (release("ab"), release("ab"), release("cd"));
        let changes = changes(stack, stack, &new, Some(&same), "development");
        let value = plan(&new, 2, Some(&same), &changes);
        assert_eq!(value["changes"], serde_json::json!(["files: none"]));
        assert_eq!((&value["same_files"], &value["is_deployed"]), (&true.into(), &false.into()));
        assert_eq!(plan(&new, 2, Some(&other), &[])["same_files"], false);
        assert!(plan(&new, 1, None, &[])["same_files"].is_null(), "nobody can tell");
    }
}
