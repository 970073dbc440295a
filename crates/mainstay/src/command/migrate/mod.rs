//! `mainstay db migrate`: runs pending migrations on a running stack, shows what is pending, takes the last one back.

mod drift;
mod rehearse;
mod show;

use std::path::PathBuf;

use clap::Args;
use mainstay_api::SchemaChanged;
use mainstay_client::Client;
use mainstay_controller::backups::Target;
use mainstay_controller::paths::Paths;
use mainstay_controller::undone::Undone;
use mainstay_postgres::Access;
use mainstay_postgres::migrate::{self, Applied, MigrateError, Migrated, Request, RestorePoint, Told};
use mainstay_stack::Stack;
use mainstay_types::exit_code;
use serde_json::json;
use tokio::sync::mpsc;

use super::database::Here;
use super::{backup, interrupt, restore};
use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

/// A look beside the present was ended before it was done.
const GIVEN_UP: &str =
    "given up; nothing of the present was touched, and the copy is removed by now or by the next one";
/// The stack file names no migrations.
const NO_MIGRATIONS: &str = "MS2121";

#[derive(Args)]
pub(crate) struct Options {
    /// Show what each migration is: applied, pending, changed since, missing, out of order; change nothing
    #[arg(long)]
    plan: bool,
    /// Run what is pending on a restored copy of the newest backup instead: how long each file takes, which tables it
    /// locks against whom and for how long, what it writes; nothing of the present is touched
    #[arg(long, conflicts_with_all = ["plan", "undo"])]
    rehearse: bool,
    /// Compare the schema that is there with the one that the applied migrations make on an empty database
    #[arg(long, conflicts_with_all = ["plan", "undo", "rehearse", "out_of_order"])]
    drift: bool,
    /// Take the last one back by its own file: U3__x.sql of Flyway's names, 3_x.down.sql of sqlx's
    #[arg(long, conflicts_with_all = ["plan", "out_of_order"])]
    undo: bool,
    /// Run also those whose version is below one that is applied
    #[arg(long)]
    out_of_order: bool,
    /// The stack's name: agrees to --undo without being asked
    #[arg(long, value_name = "STACK", requires = "undo")]
    confirm: Option<String>,
}

/// A running stack with migrations.
struct Place {
    client: Client,
    stack: Stack,
    paths: Paths,
    folder: PathBuf,
    /// As the application's role, on the primary's own socket.
    application: Access,
    superuser: Access,
}

impl Place {
    async fn find(global: &Global) -> Result<Self, Failure> {
        let read = crate::place::read(global)?;
        let migrations = read.parsed.stack.database.as_ref().and_then(|database| database.migrations.as_ref());
        let folder = migrations.map(|folder| read.folder.join(folder)).ok_or_else(|| {
            Failure::user(NO_MIGRATIONS, format!("{} names no migrations", read.file.display())).help(
                "`migrations = \"FOLDER\"` in [database]; its files are named V1__name.sql (Flyway) or 1_name.sql (sqlx)",
            )
        })?;
        if !folder.is_dir() {
            return Err(Failure::user("MS2012", format!("there is no migrations folder {}", folder.display()))
                .help("`migrations` in [database] is relative to the stack file's folder"));
        }
        let here = Here::find(global).await?;
        let (application, superuser) = here.writing()?;
        let paths = crate::place::paths(global)?;
        let client = crate::place::client(global)?;
        Ok(Self { client, stack: read.parsed.stack, paths, folder, application, superuser })
    }

    fn request(&self, options: &Options) -> Request<'_> {
        Request {
            application: &self.application,
            superuser: &self.superuser,
            folder: &self.folder,
            is_out_of_order_allowed: options.out_of_order,
            held: &[],
        }
    }

    fn has_backups(&self) -> bool {
        Target::load(&self.paths).is_ok_and(|target| target.is_some())
    }
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let place = Place::find(global).await?;
    if options.plan {
        return plan(global, &place).await;
    }
    if options.rehearse {
        return interrupt::or(Box::pin(rehearse::run(global, options, &place)), GIVEN_UP).await;
    }
    if options.drift {
        return interrupt::or(Box::pin(drift::run(global, &place)), GIVEN_UP).await;
    }
    if options.undo { undo(global, options, &place).await } else { up(global, options, &place).await }
}

/// Files that are pending and that nobody runs by itself; none for a stack without migrations.
pub(super) async fn pending(global: &Global) -> Result<Vec<String>, Failure> {
    let place = match Place::find(global).await {
        Err(failure) if failure.name == NO_MIGRATIONS => return Ok(Vec::new()),
        found => found?,
    };
    let plan = migrate::plan(&place.application, &place.folder).await.map_err(|error| failure(&error))?;
    Ok(plan.pending().map(|one| one.script.clone()).collect())
}

async fn plan(global: &Global, place: &Place) -> Result<u8, Failure> {
    let plan = migrate::plan(&place.application, &place.folder).await.map_err(|error| failure(&error))?;
    let refusals: Vec<Failure> = plan.refusals().iter().map(failure).collect();
    let code = refusals.first().map_or(exit_code::DONE, |first| first.code);
    if global.json {
        let refusals: Vec<_> = refusals.iter().map(Failure::value).collect();
        let value = json!({"folder": place.folder, "convention": plan.convention,
            "history": plan.convention.history(), "migrations": plan.migrations, "refusals": refusals});
        println!("{value:#}");
        return Ok(code);
    }
    show::plan(&place.folder, &plan).iter().for_each(|line| println!("{line}"));
    match Failure::of_all(refusals) {
        None => Ok(code),
        Some(refused) => Err(refused),
    }
}

/// What was told while it ran; what is left to say when it stops half-way.
struct Progress {
    is_silent: bool,
    is_undo: bool,
    events: Events,
    point: Option<RestorePoint>,
    applied: Vec<Applied>,
}

impl Progress {
    fn begin(global: &Global, place: &Place, is_undo: bool) -> Self {
        let events = Events::begin(place.client.clone());
        Self { is_silent: global.json, is_undo, events, point: None, applied: Vec::new() }
    }

    fn take(&mut self, told: Told<'_>) {
        match told {
            Told::Waits(holder) => {
                let within = migrate::LOCK_WITHIN.as_secs();
                eprintln!("another run of migrations is waited for, {within} s at most: {holder}");
            }
            Told::Named(point) => {
                if !self.is_silent {
                    println!("restore point {} at {}", point.name, point.lsn);
                }
                self.point = Some(point.clone());
            }
            // One that takes long says where it is.
            Told::Begins(script) if !self.is_silent => eprintln!("  {script} …"),
            Told::Begins(_) => {}
            Told::Ran { applied, schema } => {
                if !self.is_silent {
                    println!("{}", show::ran(applied));
                }
                self.events.tell(SchemaChanged {
                    scripts: vec![applied.script.clone()],
                    is_undo: self.is_undo,
                    restore_point: self.point.as_ref().map(|point| point.name.clone()).unwrap_or_default(),
                    schema: schema.to_owned(),
                });
                self.applied.push(applied.clone());
            }
        }
    }

    /// An error, with what was done before it.
    fn failure(&self, error: &MigrateError) -> Failure {
        let mut failure = failure(error);
        let before: Vec<&str> = self.applied.iter().map(|one| one.script.as_str()).collect();
        if !before.is_empty() {
            failure.text.push_str(&format!("\napplied before it: {}", before.join(", ")));
        }
        if let Some(point) = &self.point {
            failure
                .text
                .push_str(&format!("\nthe state before all of it: restore point {} at {}", point.name, point.lsn));
        }
        failure
    }
}

/// Tells the log of events of each file as it is done: what ends the command later ends none of that. It is done whether
/// or not somebody notes it.
struct Events {
    sender: mpsc::Sender<SchemaChanged>,
    telling: tokio::task::JoinHandle<()>,
}

impl Events {
    fn begin(client: Client) -> Self {
        // One for each file of the largest folder.
        let (sender, mut receiver) = mpsc::channel(10_000);
        let telling = tokio::spawn(async move {
            let mut is_told = false;
            while let Some(changed) = receiver.recv().await {
                if let Err(error) = client.schema_changed(&changed).await
                    && !is_told
                {
                    eprintln!("hint: it is done, and the log of events could not be told ({error})");
                    is_told = true;
                }
            }
        });
        Self { sender, telling }
    }

    fn tell(&self, changed: SchemaChanged) {
        // No more than files, so there is room.
        self.sender.try_send(changed).ok();
    }

    /// Until all is told.
    async fn end(self) {
        drop(self.sender);
        self.telling.await.ok();
    }
}

async fn up(global: &Global, options: &Options, place: &Place) -> Result<u8, Failure> {
    let launch = backup::launch(&place.paths)?;
    let mut progress = Progress::begin(global, place, false);
    let request = place.request(options);
    let migrated = migrate::migrate(&request, &mut |told| progress.take(told)).await;
    let done = migrated.map_err(|error| progress.failure(&error));
    // A person asked for it: once all is run nothing is held back any more.
    let noted = match &done {
        Ok(_) => Undone::forget(&place.paths, &launch),
        Err(_) => {
            let ran: Vec<&str> = progress.applied.iter().map(|one| one.script.as_str()).collect();
            Undone::forget_these(&place.paths, &launch, &ran)
        }
    };
    progress.events.end().await;
    let done = done?;
    noted.map_err(|error| {
        Failure::environment("MS3031", format!("it is done, and cannot be noted in the state folder: {error}"))
            .help("what was taken back before, and has run now, is held back still if it is pending once more")
    })?;
    if global.json {
        println!("{:#}", json!(done));
        return Ok(exit_code::DONE);
    }
    match done.applied.len() {
        0 => println!("nothing is pending; the schema is at {}", done.summary()),
        many => println!("{} {many} applied; the schema is at {}", screen::green("done"), done.summary()),
    }
    way_back(place, &done);
    Ok(exit_code::DONE)
}

/// How the state before is had again, as far as it is.
fn way_back(place: &Place, done: &Migrated) {
    let Some(point) = &done.restore_point else { return };
    if place.has_backups() {
        let command = again::command(&format!("restore --to \"name {}\"", point.name));
        println!("the state before: {command}");
    } else {
        eprintln!("hint: without [database.backup] nobody can go back to that restore point");
    }
}

async fn undo(global: &Global, options: &Options, place: &Place) -> Result<u8, Failure> {
    let launch = backup::launch(&place.paths)?;
    let agreed = migrate::undoing(&place.application, &place.folder).await.map_err(|error| failure(&error))?;
    let (undo, script) = (&agreed.undo, &agreed.migration.script);
    let what = format!("runs {undo}, which takes {script} back; what it drops is gone from the present");
    let noun = format!("an undo ({script} by {undo})");
    restore::agree(global, options.confirm.as_deref(), launch.stack.as_str(), (&noun, &what))?;
    // Beforehand: whatever ends this command in the midst, nobody runs it again by himself. While it is applied the note
    // holds nothing back.
    Undone::note(&place.paths, &launch, agreed.migration.clone()).map_err(|error| {
        Failure::environment("MS3031", format!("cannot note in the state folder what is taken back: {error}"))
            .help("nothing was taken back")
    })?;
    let mut progress = Progress::begin(global, place, true);
    let undone = migrate::undo(&place.request(options), &agreed, &mut |told| progress.take(told)).await;
    let done = undone.map_err(|error| progress.failure(&error));
    progress.events.end().await;
    let done = done?;
    if global.json {
        println!("{:#}", json!(done));
        return Ok(exit_code::DONE);
    }
    let script = done.held.as_ref().map(|held| held.script.as_str()).unwrap_or_default();
    println!("{} {script} is taken back; the schema is at {}", screen::green("done"), done.summary());
    way_back(place, &done);
    eprintln!(
        "hint: {script} is pending again: the next `mainstay db migrate` or `mainstay up` runs it, unless its file goes"
    );
    Ok(exit_code::DONE)
}

/// What failed beside the present and not in it.
fn on_copy(place: &str, failure: Failure) -> Failure {
    let help = "nothing of the present was touched; mend the file, or what it needs to be there, and try again";
    Failure { text: format!("{place}: {}", failure.text), ..failure }.help(help)
}

/// How what a file without a transaction left is mended.
fn half_done(failure: Failure, history: &str) -> Failure {
    failure.help(format!(
        "`mainstay db psql -- -c '\\d'` shows what is there (an index that was not finished is marked INVALID: drop it), \
         then `mainstay db psql -- -c 'DELETE FROM {history} WHERE NOT success'`"
    ))
}

/// A failure of migrations, with its code and the next step.
pub(super) fn failure(error: &MigrateError) -> Failure {
    let text = error.to_string();
    match error {
        MigrateError::Name { .. }
        | MigrateError::Mixed { .. }
        | MigrateError::NotText { .. }
        | MigrateError::NotFile { .. }
        | MigrateError::TooMuch { .. }
        | MigrateError::Twice { .. }
        | MigrateError::Unsupported { .. } => Failure::user("MS2120", text),
        MigrateError::File { .. } => Failure::environment("MS3031", text)
            .help("the file must be readable for the user who runs this command, and for the one who runs the stack"),
        MigrateError::Changed { .. } => Failure::refused("MS4120", text)
            .help("nothing was run; the file as it was applied is in your version control"),
        MigrateError::Lost { .. } => Failure::refused("MS4121", text)
            .help("nothing was run; it is in your version control, or in the release that applied it"),
        MigrateError::OutOfOrder { .. } => {
            Failure::refused("MS4122", text).help("or run it as it is: `mainstay db migrate --out-of-order`")
        }
        MigrateError::FailedBefore { history, .. } => half_done(Failure::refused("MS4123", text), history),
        MigrateError::OtherHistory { .. } => Failure::refused("MS4124", text)
            .help("nothing was run; keep the names that the history knows, or move the history over by hand first"),
        MigrateError::Baseline { .. } => Failure::refused("MS4126", text)
            .help("the check of drift needs a history that begins with the first file"),
        MigrateError::NoUndo { .. } | MigrateError::NothingToUndo => Failure::refused("MS4125", text).help(
            "nothing was changed; write that file, or go back to a restore point: `mainstay restore --to \"name NAME\"`",
        ),
        MigrateError::Statement { .. } => {
            Failure::failed("MS1120", text).help("mend that file and run `mainstay db migrate` again")
        }
        MigrateError::OtherLast { .. } => Failure::refused("MS4125", text)
            .help("nothing was changed; `mainstay db migrate --plan` shows what is applied, and asked again it is that one"),
        MigrateError::Locked { .. } => Failure::failed("MS1121", text)
            .help("`mainstay db cancel PID` cuts off what that session does; nothing was run"),
        MigrateError::Cut { half_done: Some(history), .. } => {
            let text = format!("{text}; nothing is run until what it left is mended");
            half_done(Failure::failed("MS1121", text), history)
        }
        MigrateError::Cut { is_undo: true, .. } => Failure::failed("MS1121", text).help(
            "the file is not at fault: `mainstay db migrate --undo` runs it again once `mainstay status` shows the cluster ready",
        ),
        MigrateError::Cut { is_undo: false, .. } => Failure::failed("MS1121", text).help(
            "the file is not at fault: `mainstay db migrate` runs it again once `mainstay status` shows the cluster ready",
        ),
        MigrateError::Unknown { .. }
        | MigrateError::History { .. }
        | MigrateError::Access(_) => Failure::failed("MS1121", text)
            .help("`mainstay status` shows the cluster, `mainstay db migrate --plan` what was applied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_had_again_in_the_way_that_it_went() {
        let hint = |is_undo: bool, half_done: Option<&'static str>| {
            let (script, message) = ("V2__b.sql".to_owned(), "terminating connection".to_owned());
            let cut = MigrateError::Cut { script, line: 1, message, state: "as it was", is_undo, half_done };
            format!("{:?}", failure(&cut))
        };
        assert!(hint(false, None).contains("`mainstay db migrate` runs it again"), "{}", hint(false, None));
        assert!(hint(true, None).contains("`mainstay db migrate --undo` runs it again"), "{}", hint(true, None));
        for is_undo in [false, true] {
            let said = hint(is_undo, Some("_sqlx_migrations"));
            assert!(said.contains("DELETE FROM _sqlx_migrations WHERE NOT success"), "{said}");
            assert!(!said.contains("runs it again"), "{said}");
        }
    }
}
