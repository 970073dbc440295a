//! `mainstay deploy`, `rollback`, `releases`: a new release takes the place of the one that is live, or an earlier one
//! comes back.

mod follow;
mod pack;
mod show;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Args;
use mainstay_api::{DeployAsked, Release, ReleaseState, RolloutWish};
use mainstay_client::Client;
use mainstay_controller::paths::Paths;
use mainstay_controller::releases;
use mainstay_stack::Parsed;
use mainstay_types::exit_code;

use super::preflight;
use crate::Global;
use crate::again;
use crate::board;
use crate::failure::Failure;
use crate::place::{self, Place};
use crate::screen;

pub(crate) use show::{Options as ReleasesOptions, run as releases};

#[derive(Args)]
pub(crate) struct Options {
    /// What git has under this name, instead of the folder as it is
    #[arg(value_name = "REF", conflicts_with_all = ["archive", "promote", "abort", "pause", "resume"])]
    reference: Option<String>,
    /// A tar archive with mainstay.toml at its top
    #[arg(long, value_name = "FILE", conflicts_with_all = ["promote", "abort", "pause", "resume"])]
    archive: Option<PathBuf>,
    /// How traffic comes to it: rolling, blue-green or canary (default: as [deploy] says)
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Say what would change, and change nothing
    #[arg(long)]
    plan: bool,
    /// Return once it has begun; `mainstay releases` shows how it stands
    #[arg(long, short = 'd')]
    detach: bool,
    /// Let the rollout under way go on without waiting for time and requests
    #[arg(long, conflicts_with_all = ["abort", "pause", "resume"])]
    promote: bool,
    /// Take the rollout under way back
    #[arg(long, conflicts_with_all = ["pause", "resume"])]
    abort: bool,
    /// Let the rollout under way stay where it is
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Let it go on
    #[arg(long)]
    resume: bool,
}

#[derive(Args)]
pub(crate) struct RollbackOptions {
    /// The release to go back to, as v3 (default: the last one that was live)
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    /// Go back although the schema has migrations that no file takes back
    #[arg(long)]
    keep_schema: bool,
    /// How traffic comes to it (default: all clients at once)
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
}

impl Options {
    fn wish(&self) -> Option<RolloutWish> {
        let wishes = [
            (self.promote, RolloutWish::Promote),
            (self.abort, RolloutWish::Abort),
            (self.pause, RolloutWish::Pause),
            (self.resume, RolloutWish::Resume),
        ];
        wishes.into_iter().find(|(is_wished, _)| *is_wished).map(|(_, wish)| wish)
    }
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    if let Some(wish) = options.wish() {
        let paths = place::paths(global)?;
        let (client, logs) = (Client::new(paths.api_socket()), follow::Logs::of(&paths));
        let status: mainstay_api::RolloutStatus = client.post("/api/v1/releases/wish", &wish).await?;
        if matches!(wish, RolloutWish::Pause) || options.detach {
            return show::rollout(global, &status);
        }
        return follow::run(global, &client, &logs, (status.release, status.is_rollback)).await;
    }
    let place = place::read(global)?;
    place.paths.refuse_foreign().map_err(|error| place::folder_failure(&error))?;
    let client = Client::new(place.paths.api_socket());
    let known = show::read(&client).await?;
    if let Some(rollout) = &known.rollout {
        return Err(under_way(rollout));
    }
    if !global.json {
        println!("{}  {} ({})", screen::bold("mainstay deploy"), place.parsed.stack.name, place.file.display());
    }
    let began = Instant::now();
    let incoming = Incoming::make(&place.paths)?;
    let packed = pack(global, &place, options, &incoming)?;
    let took = screen::took(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let release = incoming.release(&place, options, &packed)?;
    let live = releases::load(&place.paths, known.live).ok();
    let changes = (!global.json || options.plan).then(|| {
        let text = std::fs::read_to_string(place.paths.stack_file()).unwrap_or_default();
        let environment = place.parsed.stack.environment.as_str();
        Ok::<_, Failure>(show::changes(&text, &incoming.text()?, &release, live.as_ref(), environment))
    });
    let changes = changes.transpose()?.unwrap_or_default();
    if global.json && options.plan {
        // Nothing but this: a plan is no deployment.
        println!("{}", show::plan(&release, known.live, live.as_ref(), &changes));
        return Ok(exit_code::DONE);
    }
    if !global.json {
        board::say("release", &format!("{}  {took}", described(&release, &packed)));
        changes.iter().for_each(|line| board::say("changes", line));
    }
    if options.plan {
        println!("{}", again::text("nothing was changed: `mainstay deploy` does it"));
        return Ok(exit_code::DONE);
    }
    let logs = follow::Logs::of(&place.paths);
    let asked = DeployAsked {
        incoming: Some(incoming.name.clone()),
        release: None,
        strategy: options.strategy.clone(),
        is_schema_kept: false,
        trial: None,
    };
    let status: mainstay_api::RolloutStatus = client.post("/api/v1/releases", &asked).await?;
    if options.detach {
        return show::rollout(global, &status);
    }
    follow::run(global, &client, &logs, (status.release, false)).await
}

fn described(release: &Release, packed: &pack::Packed) -> String {
    let commit = release.commit.as_ref().map(|commit| {
        let dirty = if release.is_dirty { ", files differ from it" } else { "" };
        format!("; commit {}{dirty}", commit.get(..9).unwrap_or(commit))
    });
    let size = pack::size(packed.files, packed.bytes);
    format!("{size}, {}…{}", &packed.hash[..12], commit.unwrap_or_default())
}

pub(crate) async fn rollback(global: &Global, options: &RollbackOptions) -> Result<u8, Failure> {
    let paths = place::paths(global)?;
    let (client, logs) = (Client::new(paths.api_socket()), follow::Logs::of(&paths));
    let release = options.release.as_deref().map(number).transpose()?;
    let known = show::read(&client).await?;
    if !global.json {
        println!("{}  from v{}", screen::bold("mainstay rollback"), known.live);
    }
    let asked = DeployAsked {
        incoming: None,
        release,
        strategy: options.strategy.clone(),
        is_schema_kept: options.keep_schema,
        trial: None,
    };
    let status: mainstay_api::RolloutStatus = client.post("/api/v1/releases", &asked).await?;
    if !global.json {
        board::say("not undone", "data, schema, and what services wrote elsewhere stay as they are");
    }
    follow::run(global, &client, &logs, (status.release, true)).await
}

/// `v3` or `3`.
fn number(text: &str) -> Result<u64, Failure> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    digits.parse().map_err(|_| {
        Failure::user("MS2141", format!("{text:?} is no release"))
            .help("as v3; `mainstay releases` lists those that are kept")
    })
}

fn under_way(rollout: &mainstay_api::RolloutStatus) -> Failure {
    let text = format!("v{} is on its way since {}: it is at {}", rollout.release, rollout.began_at, rollout.phase);
    Failure::refused("MS4140", text).help("wait for it, or `mainstay deploy --abort`")
}

/// A folder in which a release is put together. It goes when it is not taken.
struct Incoming {
    name: String,
    path: PathBuf,
    /// What nobody holds is removed by whoever begins next.
    _held: std::fs::File,
}

impl Incoming {
    fn make(paths: &Paths) -> Result<Self, Failure> {
        let (path, held) = releases::begin(paths, screen::now()).map_err(|error| {
            let folder = releases::folder(paths);
            Failure::environment("MS3140", format!("cannot make a folder in {}: {error}", folder.display()))
                .help("the state folder needs space")
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for folder in [releases::folder(paths), path.clone()] {
            // Whatever the caller's umask: services pass through to their files.
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(
                |error| Failure::environment("MS3140", format!("cannot make {}: {error}", folder.display())),
            )?;
        }
        Ok(Self { name, path, _held: held })
    }

    fn text(&self) -> Result<String, Failure> {
        std::fs::read_to_string(self.path.join("stack.toml"))
            .map_err(|error| Failure::environment("MS3140", format!("cannot read the release's stack file: {error}")))
    }

    fn release(&self, place: &Place, options: &Options, packed: &pack::Packed) -> Result<Release, Failure> {
        let text = self.text()?;
        let name = place.file.display().to_string();
        let parsed = parsed(&text, &name, place)?;
        let folder = self.path.join("files").join(&packed.folder);
        let migrations = parsed.stack.database.as_ref().and_then(|database| database.migrations.as_ref());
        let source = match (&options.reference, &options.archive) {
            (Some(reference), _) => reference.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => "folder".to_owned(),
        };
        let commit = commit(&place.folder, options);
        let at = screen::now();
        let release = Release {
            number: 0,
            made_at: at,
            by: user(),
            environment: place.parsed.stack.environment.clone(),
            hash: packed.hash.clone(),
            files: packed.files,
            bytes: packed.bytes,
            source,
            is_dirty: commit.as_ref().is_some_and(|(_, is_dirty)| *is_dirty),
            commit: commit.map(|(commit, _)| commit),
            migrations: migrations.map(|dir| names(&folder.join(dir))).unwrap_or_default(),
            folder: packed.folder.clone(),
            state: ReleaseState::Rolling,
            since: at,
            reason: None,
            is_trial: false,
        };
        releases::save_in(&self.path, &release)
            .map_err(|error| Failure::environment("MS3140", format!("cannot write the release: {error}")))?;
        Ok(release)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Taken: it has another name by now.
        std::fs::remove_dir_all(&self.path).ok();
    }
}

fn pack(global: &Global, place: &Place, options: &Options, incoming: &Incoming) -> Result<pack::Packed, Failure> {
    let files = incoming.path.join("files");
    let file_name = place.file.file_name().unwrap_or_default();
    let packed = match (&options.reference, &options.archive) {
        (Some(name), _) => pack::archive(&pack::Archive::Reference { folder: &place.folder, name }, &files)?,
        (None, Some(file)) => pack::archive(&pack::Archive::File(file), &files)?,
        (None, None) => {
            let project = preflight::project(&place.folder);
            pack::folder(&place.folder, &project, &place.parsed.stack, &files)?
        }
    };
    let stack_file = files.join(&packed.folder).join(file_name);
    let text = std::fs::read_to_string(&stack_file).map_err(|error| {
        let what = stack_file.strip_prefix(&files).unwrap_or(&stack_file).display().to_string();
        Failure::user("MS2141", format!("the release has no {what}: {error}"))
            .help("it stands at the top of the archive")
    })?;
    let _ = global;
    mainstay_supervisor::durable::replace(&incoming.path.join("stack.toml"), text.as_bytes(), 0o644)
        .map_err(|error| Failure::environment("MS3140", format!("cannot write the release: {error}")))?;
    Ok(packed)
}

fn parsed(text: &str, name: &str, place: &Place) -> Result<Parsed, Failure> {
    mainstay_stack::parse(text, name, &place.parsed.stack.environment).map_err(|found| {
        let shown = mainstay_stack::render(&found, text, name, false);
        Failure::user("MS2141", format!("the stack file of the release is not valid\n{shown}"))
            .help("mend it, then deploy")
    })
}

/// Names of the files of a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".sql"));
    names.sort();
    names
}

/// The commit that a release is of, and whether files differ from it.
fn commit(folder: &Path, options: &Options) -> Option<(String, bool)> {
    if options.archive.is_some() {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let wanted = options.reference.as_deref().unwrap_or("HEAD");
    let commit = git(&["rev-parse", "--verify", "--quiet", &format!("{wanted}^{{commit}}")])?;
    let is_dirty =
        options.reference.is_none() && git(&["status", "--porcelain", "--", "."]).is_some_and(|text| !text.is_empty());
    Some((commit, is_dirty))
}

fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    name.unwrap_or_else(|| format!("user {}", rustix::process::geteuid().as_raw()))
}
