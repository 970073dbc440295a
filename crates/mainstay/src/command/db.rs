//! `mainstay db`: PostgreSQL's own client through the router as the application, dumps from elsewhere, and the cluster.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::{Args, Subcommand};

use super::{database, errand, import, migrate};
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
    /// The router's pools: clients, server connections, waits
    Pool,
    /// The cluster: durability and what it risks, members, disk, checksums, databases
    Info,
    /// Standbys as the primary sees them: how far behind, whether commits wait for them
    Replicas,
    /// Statements: what runs now, and what cost most over all runs
    Slow,
    /// Who waits for a lock, since when, and for whom
    Locks,
    /// Cancel a client's statement, or end its session
    Cancel(database::Cancel),
    /// Another primary, planned: no statement is lost
    Switchover(errand::Switchover),
    /// Another primary at once, as if this one were lost: what is in flight is cut off
    Failover(errand::Failover),
    /// Restart every member, for a new minor version: standbys first, the primary by a switchover
    Restart(errand::Restart),
    /// Run pending migrations now; or show what is pending, or take the last one back
    Migrate(migrate::Options),
    /// Import a dump or a running database, in one transaction
    Import(import::Options),
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    match &options.what {
        What::Switchover(options) => return errand::switchover(global, options).await,
        What::Failover(options) => return errand::failover(global, options).await,
        What::Restart(options) => return errand::restart(global, options).await,
        What::Pool => return super::pool::run(global).await,
        What::Info => return database::info(global).await,
        What::Replicas => return database::replicas(global).await,
        What::Slow => return database::slow(global).await,
        What::Locks => return database::locks(global).await,
        What::Cancel(options) => return database::cancel(global, options).await,
        What::Migrate(options) => return migrate::run(global, options).await,
        What::Psql { .. } | What::Import(_) => {}
    }
    let access = crate::place::client(global)?.database().await?;
    let split = |url: &mainstay_types::Secret| {
        without_password(url.expose()).ok_or_else(|| Failure::bug("the control plane gave a database URL that is none"))
    };
    let (read, arguments) = match &options.what {
        What::Import(options) => {
            let (url, password) = split(&access.app_url)?;
            return import::run(global, options, &import::Target::new(url, password));
        }
        What::Psql { read, arguments } => (read, arguments),
        // Done above.
        _ => return Ok(mainstay_types::exit_code::DONE),
    };
    let (url, password) = split(if *read { &access.app_read_url } else { &access.app_url })?;
    // The password goes by the environment: arguments are seen by everyone on the machine.
    let error = Command::new("psql").env("PGPASSWORD", password).arg(url).args(arguments).exec();
    Err(Failure::environment("MS3004", format!("cannot run psql: {error}")).help("apt-get install postgresql-client"))
}

/// `postgres://user:password@host/db` → the URL without the password, and the password as it is meant.
pub(crate) fn without_password(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (credentials, place) = rest.split_once('@')?;
    let (user, password) = credentials.split_once(':')?;
    Some((format!("{scheme}://{user}@{place}"), decoded(password)))
}

/// What `%40` and the like stand for in a URL; what is none stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|two| *first == b'%' && two.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

    #[test]
    fn a_password_that_a_url_has_to_write_otherwise_is_taken_as_it_is_meant() {
        let of =
            |password: &str| without_password(&format!("postgres://u:{password}@h/db")).map(|(_, password)| password);
        assert_eq!(of("p%40s%2Fs").as_deref(), Some("p@s/s"));
        assert_eq!(of("100%").as_deref(), Some("100%"));
        assert_eq!(of("%+1%zz%e2%82%ac").as_deref(), Some("%+1%zz€"));
    }
}
