//! `mainstay db info`, `replicas`, `slow`, `locks`, `cancel`: what the cluster says of itself, asked on the members' own
//! sockets, so that it answers also while the router holds.

mod activity;
mod info;
mod replicas;

use mainstay_api::{DatabaseAccess, DatabaseStatus, Status};
use mainstay_postgres::Access;
use mainstay_postgres::access::AccessError;
use mainstay_types::exit_code;
use serde::Serialize;

pub(crate) use activity::{Cancel, cancel, locks, slow};
pub(crate) use info::{info, members_on_one_device};
pub(crate) use replicas::replicas;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Room for the first column.
const WHAT: usize = 13;

/// A running stack with a database.
pub(super) struct Here {
    status: Status,
    database: DatabaseStatus,
    access: DatabaseAccess,
}

impl Here {
    pub(super) async fn find(global: &Global) -> Result<Self, Failure> {
        let client = crate::place::client(global)?;
        let access = client.database().await?;
        let status = client.status().await?;
        let database = status.database.clone().ok_or_else(|| Failure::failed("MS1002", "the stack has no database"))?;
        Ok(Self { status, database, access })
    }

    /// As superuser at the primary, in `postgres`; reads only.
    fn primary(&self) -> Result<Access, Failure> {
        let member = self.database.primary.ok_or_else(|| {
            Failure::failed("MS1080", "nobody is recorded as primary yet")
                .help("`mainstay status` says what it waits for")
        })?;
        let access = self.access.direct.get(&member).and_then(|dsn| Access::reading(member, dsn));
        access.ok_or_else(|| Failure::bug("the control plane gave a database URL that is none"))
    }

    /// What writes on the primary's own socket: the application's role in its database, and the superuser.
    pub(super) fn writing(&self) -> Result<(Access, Access), Failure> {
        let member = self.primary()?.member();
        let superuser = self.access.direct.get(&member).and_then(|dsn| Access::writing(member, dsn));
        let both = superuser.and_then(|superuser| Some((superuser.as_in(&self.access.app_url)?, superuser)));
        both.ok_or_else(|| Failure::bug("the control plane gave a database URL that is none"))
    }

    /// The same in the application's database, where its tables have names.
    fn application(&self) -> Result<Access, Failure> {
        let name = self.access.app_url.expose().rsplit('/').next();
        let name = name.map_or("postgres", |name| name.split('?').next().unwrap_or(name));
        Ok(self.primary()?.in_database(name))
    }
}

fn unanswered(error: AccessError) -> Failure {
    Failure::failed("MS1080", error.to_string()).help("`mainstay status` shows what the primary is at")
}

fn print<T: Serialize>(value: &T) -> Result<u8, Failure> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|error| Failure::bug(error.to_string()))?);
    Ok(exit_code::DONE)
}

/// A line of a list of names and what there is to say of each, in at most 80 columns.
fn row(what: &str, text: &str) -> String {
    let first = format!("{what:<WHAT$}");
    // A longer name pushes its own line only.
    let first = if what.len() >= WHAT { format!("{what} ") } else { first };
    screen::wrap(text, &first, &" ".repeat(WHAT))
}

/// `12 ms`, `3.4 s`, `5 min`.
fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms if ms < 3_600_000.0 => format!("{:.0} min", ms / 60_000.0),
        ms => format!("{:.1} h", ms / 3_600_000.0),
    }
}
