//! An empty database with the stack's roles, on a server of its own beside the present, for as long as it is looked at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mainstay_postgres::access::Role;
use mainstay_postgres::start::{self, Start};
use mainstay_postgres::{Access, Passwords, init, past as server, plain, prepare, probe};
use mainstay_stack::Stack;
use mainstay_supervisor::ids;
use mainstay_types::{Secret, full_text};
use tokio::process::Child;

use super::past::{self, Place};
use super::{Error, cluster};
use crate::paths::Paths;
use crate::secrets;

/// initdb takes a second, a start less; under load on a slow disk a minute.
const WITHIN: Duration = Duration::from_mins(2);
/// Pause between two looks whether it is up.
const LOOK: Duration = Duration::from_millis(50);

/// The server.
pub struct Scratch {
    // In front of the server: it ends it in a way that leaves no shared memory behind. Its folders go with it.
    _place: Place,
    server: Child,
    /// As the application's role, in its database.
    pub application: Access,
    /// As superuser, there.
    pub superuser: Access,
}

impl Scratch {
    /// Makes it.
    ///
    /// **Errors**: no database in the stack; the programs are not there; the file system's.
    pub async fn open(paths: &Paths, stack: &Stack) -> Result<Self, Error> {
        let of = cluster(paths, stack.name.as_str());
        Self::open_in(stack, past::place(paths, &of)?).await
    }

    async fn open_in(stack: &Stack, place: Place) -> Result<Self, Error> {
        let layout = place.layout.clone();
        let no = |error: String| Error::NoServer(error);
        let database = stack.database.as_ref().ok_or_else(|| no("the stack has no database".to_owned()))?;
        let mut made: Vec<Secret> = Vec::new();
        for _ in 0..6 + database.databases.len() + database.roles.len() {
            made.push(secrets::random_password().map_err(|error| no(error.to_string()))?);
        }
        let mut next = || made.pop().ok_or_else(|| no("no password".to_owned()));
        let passwords = Passwords {
            superuser: next()?,
            replication: next()?,
            application: next()?,
            ledger: next()?,
            monitor: next()?,
        };
        let mut further = BTreeMap::new();
        for name in database.databases.iter().chain(database.roles.keys()) {
            further.insert(name.clone(), next()?);
        }
        let log = layout.member_dir(server::MEMBER).join("log");
        let task = init::prepare(&layout, server::MEMBER, &passwords.superuser, &log);
        let task = task.map_err(|error| no(full_text(&error)))?;
        let ended = plain::run(&task, WITHIN).await.map_err(|error| no(error.to_string()))?;
        init::finish(&layout, server::MEMBER, &task, &ended).map_err(|error| no(full_text(&error)))?;
        let start = Start {
            layout: &layout,
            member: server::MEMBER,
            follow: None,
            database,
            archive: None,
            replication: &passwords.replication,
            nonce: ids::nonce().map_err(|error| no(error.to_string()))?,
            log: log.clone(),
        };
        let spec = start::prepare(&start).map_err(|error| no(full_text(&error)))?;
        let server = plain::start(&spec).map_err(|error| no(error.to_string()))?;
        let superuser = Access::new(&layout, server::MEMBER, &passwords.superuser);
        let name = database.name.as_str();
        let role = Role { name, database: name, password: &passwords.application };
        let application = Access::as_role(&layout, server::MEMBER, role);
        let mut scratch = Self { _place: place, server, application, superuser: superuser.in_database(name) };
        scratch.until_up(&superuser, &log).await?;
        prepare::prepare(&superuser, name, &passwords).await.map_err(|error| no(full_text(&error)))?;
        prepare::further(&superuser, database, &further).await.map_err(|error| no(full_text(&error)))?;
        Ok(scratch)
    }

    async fn until_up(&mut self, superuser: &Access, log: &std::path::Path) -> Result<(), Error> {
        let begun = Instant::now();
        while probe::probe(superuser).await.is_err() {
            if let Ok(Some(status)) = self.server.try_wait() {
                let words = past::fatal_lines(log);
                return Err(Error::NoServer(format!("the server of the scratch database ended ({status}): {words}")));
            }
            if begun.elapsed() > WITHIN {
                return Err(Error::NoServer("the server of the scratch database does not answer".to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends the server and removes its folder.
    pub async fn close(mut self) {
        // In order, so that nothing of it stays in memory; what does not end is killed with its handle.
        past::end(&mut self.server).await.ok();
    }
}
