//! `mainstay completions SHELL`: what a shell needs to complete commands, options, and names: of drills and codes as the
//! program knows them, of services as the stack file says when they are asked for.

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, ValueEnum};
use mainstay_types::exit_code;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    /// `mainstay completions bash > /etc/bash_completion.d/mainstay`
    Bash,
    /// `mainstay completions zsh > /usr/local/share/zsh/site-functions/_mainstay`
    Zsh,
    /// `mainstay completions fish > ~/.config/fish/completions/mainstay.fish`
    Fish,
}

/// Stands for the services in what clap makes, until it is replaced by what asks for them.
const SERVICES: &str = "@services@";
/// Commands whose first argument is a service or may be one.
const TAKE_SERVICES: [&str; 6] = ["logs", "env", "run", "exec", "scale", "explain"];

/// Services of the nearest stack file: only a look at its text, since a shell asks at each key.
const ASK: &str = r#"__mainstay_services() {
    local folder="$PWD"
    while [ -n "$folder" ] && [ ! -f "$folder/mainstay.toml" ]; do folder="${folder%/*}"; done
    sed -n 's/^[[:space:]]*\[service\.\([a-z][a-z0-9-]*\)\].*/\1/p' "$folder/mainstay.toml" 2>/dev/null
}
"#;
const ASK_FISH: &str = r"function __mainstay_services
    set -l folder $PWD
    while test -n $folder; and not test -f $folder/mainstay.toml
        set folder (string replace -r '/[^/]*$' '' -- $folder)
    end
    sed -n 's/^[[:space:]]*\[service\.\([a-z][a-z0-9-]*\)\].*/\1/p' $folder/mainstay.toml 2>/dev/null
end
";

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let (name, text) = match options.shell {
        Shell::Bash => ("bash", bash()?),
        Shell::Zsh => ("zsh", zsh()?),
        Shell::Fish => ("fish", fish()?),
    };
    if global.json {
        println!("{}", serde_json::json!({"shell": name, "script": text}));
    } else {
        print!("{text}");
    }
    Ok(exit_code::DONE)
}

fn generated(shell: clap_complete::Shell) -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut shown(), "mainstay", &mut text);
    String::from_utf8(text).map_err(|error| Failure::bug(error.to_string()))
}

fn bash() -> Result<String, Failure> {
    let text = generated(clap_complete::Shell::Bash)?;
    Ok(format!("{ASK}\n{}", text.replace(SERVICES, "$(__mainstay_services)")))
}

fn zsh() -> Result<String, Failure> {
    let text = generated(clap_complete::Shell::Zsh)?;
    // The first line says what the file completes, and stays the first.
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    Ok(format!("{first}\n\n{ASK}\n{}", rest.replace(SERVICES, "$(__mainstay_services)")))
}

/// clap gives fish no values of arguments.
fn fish() -> Result<String, Failure> {
    let mut text = format!("{ASK_FISH}\n{}", generated(clap_complete::Shell::Fish)?);
    let mut add = |command: &str, values: &str| {
        text.push_str(&format!(
            "complete -c mainstay -n \"__fish_mainstay_using_subcommand {command}\" -f -a \"{values}\"\n"
        ));
    };
    add("completions", "bash zsh fish");
    add("drill", &drills().join(" "));
    add("explain", &codes().join(" "));
    TAKE_SERVICES.iter().for_each(|command| add(command, "(__mainstay_services)"));
    Ok(text)
}

fn drills() -> Vec<&'static str> {
    mainstay_drill::Fault::named().map(mainstay_drill::Fault::name).chain(super::drill::WORDS).collect()
}

fn codes() -> Vec<&'static str> {
    let mut all: Vec<&str> = crate::errors::all().map(|(code, _)| code).collect();
    all.sort_unstable();
    all
}

/// The commands that people type, with the names that their arguments take. Hidden ones are none of them.
fn shown() -> clap::Command {
    let mut root = visible(&crate::Cli::command());
    let named = |root: clap::Command, command: &str, values: Vec<&'static str>| {
        root.mut_subcommand(command, |command| {
            let first = command.get_positionals().next().map(|first| first.get_id().clone());
            match first {
                Some(first) => command.mut_arg(first, |first| first.value_parser(PossibleValuesParser::new(values))),
                None => command,
            }
        })
    };
    for command in TAKE_SERVICES {
        let codes = if command == "explain" { codes() } else { Vec::new() };
        root = named(root, command, codes.into_iter().chain([SERVICES]).collect());
    }
    named(root, "drill", drills())
}

/// A command without what is hidden in it.
fn visible(command: &clap::Command) -> clap::Command {
    // clap takes names that stay: a few words, once in the life of the program.
    let kept = |text: &str| -> &'static str { text.to_owned().leak() };
    let mut new = clap::Command::new(kept(command.get_name()));
    if let Some(about) = command.get_about() {
        new = new.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        new = new.version(kept(version));
    }
    let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set()).map(visible);
    new.disable_help_subcommand(command.is_disable_help_subcommand_set())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [(&'static str, String); 3] {
        [("bash", bash().expect("bash")), ("zsh", zsh().expect("zsh")), ("fish", fish().expect("fish"))]
    }

    #[test]
    fn only_what_people_type_is_offered() {
        for (shell, text) in all() {
            let text = text.replace("__", "-").replace('_', "-");
            for hidden in ["thaw-later", "backup-job", "store-copy", "wal-get", "wal-push", "sabotage"] {
                assert!(!text.contains(hidden), "{shell} offers {hidden}");
            }
            for known in ["switchover", "rollback", "show-secrets", "--state", "-l state"] {
                let is_other = known == if shell == "fish" { "--state" } else { "-l state" };
                assert!(is_other || text.contains(known.trim_start_matches("--")), "{shell} lacks {known}");
            }
        }
    }

    #[test]
    fn names_of_drills_codes_and_services_are_offered() {
        for (shell, text) in all() {
            for name in ["database-crash", "history", "MS2070", "08007", "__mainstay_services"] {
                assert!(text.contains(name), "{shell} lacks {name}");
            }
            assert!(!text.contains(SERVICES), "{shell}");
        }
    }

    /// The services of the stack file above the folder, as bash offers them.
    #[test]
    fn bash_asks_the_stack_file_for_services() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).expect("made");
        let stack =
            "stack = \"shop\"\n[service.web]\nrun = \"./a\"\n[service.web.env]\nA = \"1\"\n [service.mail-out] # x\n";
        std::fs::write(folder.path().join("mainstay.toml"), stack).expect("written");
        let script = format!(
            "{}\nCOMP_WORDS=(mainstay env \"$1\"); COMP_CWORD=2; _mainstay mainstay \"$1\" env; echo \"${{COMPREPLY[@]}}\"",
            bash().expect("bash")
        );
        let offered = |begun: &str, dir: &std::path::Path| {
            let output = std::process::Command::new("bash")
                .args(["--norc", "-c", &script, "bash", begun])
                .current_dir(dir)
                .output()
                .expect("bash runs");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert_eq!(offered("we", &inner), "web");
        assert_eq!(offered("m", folder.path()), "mail-out");
        assert_eq!(offered("we", std::path::Path::new("/")), "", "no stack file, no services");
    }
}
