//! A rehearsal of migrations: on a copy of the newest backup, replayed to the end of the archive, which goes afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::past::Moment;
use mainstay_postgres::migrate::{self, MigrateError, Rehearsed, Request};
use mainstay_postgres::past as server;
use mainstay_types::{Lsn, Timestamp};

use super::past;
use super::{Backups, Error};
use crate::paths::Paths;

/// What was rehearsed, and on what.
#[derive(Debug)]
pub struct Rehearsal {
    /// Identity of the base backup.
    pub backup: String,
    /// Where the copy stood.
    pub lsn: Option<Lsn>,
    /// The last transaction of the present that the copy has.
    pub last_commit: Option<Timestamp>,
    /// Time for the files.
    pub restored_in: Duration,
    /// Time for the WAL.
    pub replayed_in: Duration,
    /// What the files did there; an error before any of them was run.
    pub done: Result<Rehearsed, MigrateError>,
}

/// Restores, runs what is pending there, and throws the copy away. Nothing of the present is touched.
///
/// **Errors**: see [`Error`]: the copy could not be had.
pub async fn rehearse(
    backups: Arc<Backups>,
    paths: &Paths,
    folder: &Path,
    is_out_of_order_allowed: bool,
    tell: impl Fn(&str),
) -> Result<Rehearsal, Error> {
    let plan = past::plan(&backups, paths, &Moment::Latest, None)?;
    let short = plan.backup.id.get(..8).unwrap_or(&plan.backup.id);
    tell(&format!("restoring backup {short} beside the present and replaying what is archived"));
    let open = past::open(Arc::clone(&backups), paths, &plan).await?;
    let left = open.leave_recovery().await;
    let done = match left {
        Err(error) => {
            open.close().await;
            return Err(error);
        }
        Ok(()) => {
            tell("running what is pending on the copy");
            let name = backups.database.as_str();
            let application = server::writing(open.layout(), open.port, (name, name));
            let superuser = open.access.in_database(name);
            let request = Request {
                application: &application,
                superuser: &superuser,
                folder,
                is_out_of_order_allowed,
                held: &[],
            };
            migrate::rehearse(&request).await
        }
    };
    let found = Rehearsal {
        backup: plan.backup.id.clone(),
        lsn: open.replay.lsn,
        last_commit: open.replay.last_commit,
        restored_in: open.restored_in,
        replayed_in: open.replayed_in,
        done,
    };
    open.close().await;
    Ok(found)
}
