//! `mainstay exec`: a command beside a running instance, with its environment, user, folder and control groups.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// A running instance (`backend-2`), or a service: its first running one
    name: String,
    /// The command and its arguments, after `--`; paths are relative to the folder of the service
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let context = crate::place::client(global)?.context(&options.name, true).await?;
    Err(super::run::hand_over(context, &options.command))
}
