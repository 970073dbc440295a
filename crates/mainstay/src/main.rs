//! The command line (L5): one file per command, thin. stdout is data, stderr is talk.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line does")]

/// Talk on stderr. It names commands to copy, so all of it passes the one place that completes them.
macro_rules! eprintln {
    ($($argument:tt)+) => {
        std::eprintln!("{}", $crate::again::text(&format!($($argument)+)))
    };
}

mod again;
mod board;
mod command;
mod doctor;
mod errors;
mod failure;
mod init;
mod place;
mod screen;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;

/// The production-architecture diagram, made executable.
#[derive(Parser)]
#[command(name = "mainstay", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command. Under a heading of their own: a command's own would be lost among them.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Stack file; or a folder that holds a mainstay.toml
    #[arg(long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Environment of the stack file
    #[arg(long, global = true, value_name = "NAME")]
    env: Option<String>,
    /// Folder for the state of all stacks (default: /var/lib/mainstay as root, else the XDG state folder)
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Propose a stack file for the application in a folder
    Init(command::init::Options),
    /// Start the whole architecture of a stack file
    Up(command::up::Options),
    /// Stop everything in reverse order; data stays
    Down(command::down::Options),
    /// Every box, its state, since when, what it waits for
    Status(command::status::Options),
    /// Every process: pid, role, state, memory
    Ps,
    /// Every process: CPU, memory, connections, requests; q ends it
    Top(command::top::Options),
    /// What the parts print
    Logs(command::logs::Options),
    /// Requests of the edge as they end
    Tap(command::tap::Options),
    /// What happened, newest last
    Events(command::events::Options),
    /// Check a stack file: every mistake at once, nothing started
    Check(command::check::Options),
    /// The effective stack file
    Config(command::config::Options),
    /// What this machine has and lacks
    Doctor,
    /// What a service is given in its environment
    Env(command::env::Options),
    /// A command as a service would run it, or a scheduled service now
    Run(command::run::Options),
    /// A command beside a running instance
    Exec(command::exec::Options),
    /// The database
    Db(command::db::Options),
    /// Backups of the database: take one, list them, prove one by restoring it, check them, print the recovery card
    Backup(command::backup::Options),
    /// Which backup is kept by which rule, and which one goes when
    Retention(command::retention::Options),
    /// Open the past of the database beside the present, read-only
    Restore(command::restore::Options),
    /// Copies of the store (Redis): list them, take one, load one for a look, put one back
    Store(command::store::Options),
    /// Break something on purpose and measure the promise
    Drill(command::drill::Options),
    /// A new release takes the place of the one that is live, without a failed request
    Deploy(command::deploy::Options),
    /// Go back to an earlier release
    Rollback(command::deploy::RollbackOptions),
    /// Releases that are kept, and the rollout under way
    Releases(command::deploy::ReleasesOptions),
    /// Start the stack with the machine (systemd)
    Service(command::service::Options),
    /// How many instances services have, and another number for one
    Scale(command::scale::Options),
    /// Routes of the edge: list them, explain which way a request would take, put one into maintenance
    Route(command::route::Options),
    /// The edge: measure what the stack file promises of it
    Edge(command::edge::Options),
    /// Print a one-time link to the console
    Console,
    /// The authority that signs the stack's certificates: show it, trust it, trust it no more
    Trust(command::trust::Options),
    /// The JSON Schema of the stack file, for editors; `--api`: of the admin API
    Schema(command::schema::Options),
    /// Completions for a shell
    Completions(command::completions::Options),
    /// Manual pages
    Manual(command::manual::Options),
    /// Explain an error code, or why a service has so many instances
    Explain(command::explain::Options),
    #[command(hide = true, name = mainstay_drill::DEAD_MAN)]
    ThawLater(command::internal::ThawLater),
    #[command(hide = true)]
    BackupJob(command::backup::Job),
    #[command(hide = true)]
    StoreCopy(command::store::Job),
    #[command(hide = true)]
    WalGet(command::restore::WalGet),
    #[command(hide = true)]
    WalPush(command::backup::WalPush),
    #[command(hide = true)]
    Keep(command::internal::Options),
    #[command(hide = true)]
    Control(command::internal::Options),
    #[command(hide = true)]
    Router(command::internal::Options),
}

impl Command {
    /// The file or folder that an argument names.
    fn about(&self) -> Option<&Path> {
        match self {
            Self::Up(options) => options.stack_file.as_deref(),
            Self::Check(options) => options.stack_file.as_deref(),
            Self::Init(options) => options.folder(),
            _ => None,
        }
    }
}

/// `mainstay status | head` ends when nobody reads any more, without a backtrace; a stack that runs goes on.
#[expect(clippy::exit, reason = "nobody is left to tell, and unwinding would end in the same place")]
fn end_quietly_when_nobody_reads() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str().is_some_and(|text| text.starts_with("failed printing to std")) {
            std::process::exit(mainstay_types::exit_code::FAILED.into());
        }
        before(info);
    }));
}

/// clap's error without commands that nobody types: it takes them for what was meant.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    use clap::CommandFactory;
    use clap::error::{ContextKind, ContextValue};
    let root = Cli::command();
    let is_shown = |name: &String| root.find_subcommand(name).is_none_or(|command| !command.is_hide_set());
    let names: Vec<String> = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.iter().filter(|name| is_shown(name)).cloned().collect(),
        Some(ContextValue::String(name)) => vec![name.clone()].into_iter().filter(is_shown).collect(),
        _ => return error,
    };
    error.remove(ContextKind::SuggestedSubcommand);
    if !names.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
    } else if matches!(error.get(ContextKind::Suggested), Some(ContextValue::StyledStrs(tips)) if tips.is_empty()) {
        // An empty list of further tips is a blank line.
        error.remove(ContextKind::Suggested);
    }
    error
}

/// clap's own words, with the code that other errors have.
fn print_usage(error: &clap::Error) {
    let words = error.render();
    let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let words = if is_coloured { words.ansi().to_string() } else { words.to_string() };
    std::eprint!("{}", words.replacen("error:", "error[MS2006]:", 1));
}

/// `mainstay help deploy` is `mainstay deploy --help`, as people type it elsewhere.
fn with_help(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|first| first == "help") {
        arguments.remove(1);
        arguments.push("--help".into());
    }
    arguments
}

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    let cli = match Cli::try_parse_from(with_help(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let error = without_hidden(error);
            let mut arguments = std::env::args_os().skip(1).take_while(|argument| argument != "--");
            if error.use_stderr() && arguments.any(|argument| argument == "--json") {
                let failure = Failure::usage(&error);
                failure.print(true);
                return ExitCode::from(failure.code);
            }
            if error.use_stderr() {
                print_usage(&error);
                return ExitCode::from(mainstay_types::exit_code::USER);
            }
            // Help and version are no failure.
            error.print().ok();
            return ExitCode::SUCCESS;
        }
    };
    let json = cli.global.json;
    again::remember(&cli.global, cli.command.about());
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let global = cli.global;
    if let Command::Edge(options) = &cli.command
        && let Some(runtime) = options.process()
    {
        return command::edge::serve(&global, runtime);
    }
    match cli.command {
        Command::ThawLater(options) => command::internal::thaw_later(&options),
        Command::WalGet(options) => command::restore::wal_get(&options),
        Command::WalPush(options) => command::backup::wal_push(&options),
        Command::Keep(options) => command::internal::keep(&options),
        Command::Control(options) => command::internal::control(&options),
        Command::Router(options) => command::internal::router(&options),
        Command::Init(options) => command::init::run(&global, &options),
        Command::Trust(options) => command::trust::run(&global, &options),
        Command::Schema(options) => Ok(command::schema::run(&options)),
        Command::Completions(options) => command::completions::run(&global, &options),
        Command::Manual(options) => command::manual::run(&global, &options),
        Command::Check(options) => command::check::run(&global, &options),
        Command::Config(options) => command::config::run(&global, &options),
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::environment("MS3001", format!("no async runtime: {error}")))?;
            let done = runtime.block_on(run_async(global, other));
            if command::interrupt::is_given_up() {
                runtime.shutdown_background();
            }
            done
        }
    }
}

async fn run_async(global: Global, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up(options) => Box::pin(command::up::run(&global, &options)).await,
        Command::Down(options) => command::down::run(&global, &options).await,
        Command::Status(options) => command::status::run(&global, &options).await,
        Command::Ps => command::ps::run(&global).await,
        Command::Top(options) => command::top::run(&global, &options).await,
        Command::Run(options) => command::run::run(&global, &options).await,
        Command::Exec(options) => command::exec::run(&global, &options).await,
        Command::Logs(options) => command::logs::run(&global, &options).await,
        Command::Tap(options) => command::tap::run(&global, &options).await,
        Command::Events(options) => command::events::run(&global, &options).await,
        Command::Doctor => command::doctor::run(&global).await,
        Command::Env(options) => command::env::run(&global, &options).await,
        Command::Db(options) => command::db::run(&global, &options).await,
        Command::Restore(options) => Box::pin(command::restore::run(&global, &options)).await,
        Command::Backup(options) => Box::pin(command::backup::run(&global, &options)).await,
        Command::BackupJob(options) => command::backup::job(&options).await,
        Command::Store(options) => Box::pin(command::store::run(&global, &options)).await,
        Command::StoreCopy(options) => command::store::job(&options).await,
        Command::Retention(options) => command::retention::run(&global, &options),
        Command::Drill(options) => Box::pin(command::drill::run(&global, &options)).await,
        Command::Deploy(options) => Box::pin(command::deploy::run(&global, &options)).await,
        Command::Rollback(options) => Box::pin(command::deploy::rollback(&global, &options)).await,
        Command::Releases(options) => command::deploy::releases(&global, &options).await,
        Command::Service(options) => command::service::run(&global, &options).await,
        Command::Route(options) => command::route::run(&global, &options).await,
        Command::Edge(options) => Box::pin(command::edge::run(&global, &options)).await,
        Command::Scale(options) => command::scale::run(&global, &options).await,
        Command::Explain(options) => command::explain::run(&global, &options).await,
        Command::Console => command::console::run(&global).await,
        Command::ThawLater(_)
        | Command::WalGet(_)
        | Command::WalPush(_)
        | Command::Keep(_)
        | Command::Control(_)
        | Command::Router(_)
        | Command::Init(_)
        | Command::Trust(_)
        | Command::Schema(_)
        | Command::Completions(_)
        | Command::Manual(_)
        | Command::Check(_)
        | Command::Config(_) => Err(Failure::bug("a command without async runtime was sent to it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_a_word_too() {
        for (typed, wanted) in [("help", "Usage: mainstay"), ("help run", "mainstay run"), ("help db pool", "db pool")]
        {
            let typed = ["mainstay"].into_iter().chain(typed.split(' ')).map(OsString::from).collect();
            let error = Cli::try_parse_from(with_help(typed)).map(|_| ()).expect_err("help is no command");
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
            assert!(error.to_string().contains(wanted), "{error}");
        }
        let unknown = ["mainstay", "help", "nosuch"].map(OsString::from).to_vec();
        let error = Cli::try_parse_from(with_help(unknown)).map(|_| ()).expect_err("unknown");
        assert_eq!(error.kind(), clap::error::ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn a_command_that_nobody_types_is_never_what_was_meant() {
        for (typed, wanted) in
            [("walget", None), ("thaw", None), ("backupjob", Some("'backup'")), ("statsu", Some("'status'"))]
        {
            let error = Cli::try_parse_from(["mainstay", typed]).map(|_| ()).expect_err("unknown");
            let text = without_hidden(error).to_string();
            assert!(!text.contains("\n\n\n"), "{typed}: {text}");
            for hidden in ["wal-get", "wal-push", "thaw-later", "backup-job", "store-copy"] {
                assert!(!text.contains(hidden), "{typed}: {text}");
            }
            assert!(wanted.is_none_or(|wanted| text.contains(wanted)), "{typed}: {text}");
        }
    }
}
