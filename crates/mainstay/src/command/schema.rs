//! `mainstay schema`: the JSON Schema of the stack file, for editors; the OpenAPI description of the admin API.

use clap::Args;
use mainstay_types::exit_code;

#[derive(Args)]
pub(crate) struct Options {
    /// The OpenAPI 3.1 description of the admin API instead
    #[arg(long)]
    api: bool,
}

/// Both are JSON as they are: `--json` changes nothing.
pub(crate) fn run(options: &Options) -> u8 {
    print!("{}", if options.api { mainstay_api::OPENAPI } else { mainstay_stack::SCHEMA });
    exit_code::DONE
}
