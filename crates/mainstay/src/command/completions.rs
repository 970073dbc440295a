//! `mainstay completions SHELL`: what a shell needs to complete commands and options.

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

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let shell = match options.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut crate::Cli::command(), "mainstay", &mut text);
    let text = String::from_utf8(text).map_err(|error| Failure::bug(error.to_string()))?;
    if global.json {
        println!("{}", serde_json::json!({"shell": shell.to_string(), "script": text}));
    } else {
        print!("{text}");
    }
    Ok(exit_code::DONE)
}
