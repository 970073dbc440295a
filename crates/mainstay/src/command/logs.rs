//! `mainstay logs`: what the parts print.

use clap::Args;
use mainstay_api::LogLine;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// A service, an instance or another process of `mainstay ps`; all when left out
    name: Option<String>,
    /// Go on as lines come
    #[arg(long, short = 'f')]
    follow: bool,
    /// How many of the newest, for each process
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    let mut lines = client.logs(options.name.as_deref(), options.lines, options.follow).await?;
    while let Some(line) = mainstay_client::Client::next_line(&mut lines).await? {
        print(&line, global.json)?;
    }
    Ok(mainstay_types::exit_code::DONE)
}

fn print(line: &LogLine, json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(line).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        println!("{} {}", crate::screen::dim(&format!("{:<12}│", line.child.as_str())), line.text);
    }
    Ok(())
}
