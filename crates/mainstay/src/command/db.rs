//! `mainstay db psql`: PostgreSQL's own client, through the router as the application.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::{Args, Subcommand};

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run psql through the router, as the application's role
    Psql {
        /// Read from a standby instead
        #[arg(long)]
        read: bool,
        /// Further arguments of psql, after `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let What::Psql { read, arguments } = &options.what;
    let access = crate::place::client(global)?.database().await?;
    let url = if *read { access.app_read_url } else { access.app_url };
    let (url, password) = without_password(url.expose())
        .ok_or_else(|| Failure::bug("the control plane gave a database URL that is none"))?;
    // The password goes by the environment: arguments are seen by everyone on the machine.
    let error = Command::new("psql").env("PGPASSWORD", password).arg(url).args(arguments).exec();
    Err(Failure::environment("MS3004", format!("cannot run psql: {error}")).help("apt-get install postgresql-client"))
}

/// `postgres://user:password@host/db` → the URL without the password, and the password.
fn without_password(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (credentials, place) = rest.split_once('@')?;
    let (user, password) = credentials.split_once(':')?;
    Some((format!("{scheme}://{user}@{place}"), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_among_the_arguments() {
        let (url, password) = without_password("postgres://users:abc@127.0.0.1:6432/users").expect("splits");
        assert_eq!(url, "postgres://users@127.0.0.1:6432/users");
        assert_eq!(password, "abc");
    }
}
