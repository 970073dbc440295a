//! A restored copy becomes the first member of a cluster that has none.

use mainstay_types::{Lsn, Member, Secret, Timeline};

use crate::access::{Access, AccessError};
use crate::control_file;
use crate::files::{self, At, FileError};
use crate::init;
use crate::layout::{Layout, SUPERUSER};
use crate::past;

/// What was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Its timeline.
    pub timeline: Timeline,
    /// Its last checkpoint.
    pub checkpoint: Lsn,
}

/// Gives the superuser another password. The copy must be out of recovery.
///
/// **Errors**: as [`AccessError`].
pub async fn set_superuser_password(copy: &Access, password: &Secret) -> Result<(), AccessError> {
    let client = copy.connect().await?;
    // Only the verifier travels.
    let verifier = postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
    let sql = format!("ALTER ROLE {SUPERUSER} PASSWORD '{verifier}'");
    // One after the other: statements that are sent together are one transaction, which only reads by then.
    for sql in ["SET default_transaction_read_only = off", crate::prepare::UNLOGGED, &sql] {
        client.batch_execute(sql).await.map_err(|error| copy.explain(error))?;
    }
    Ok(())
}

/// Puts the data of a copy that was ended in order into the member's place, which must be empty.
///
/// **Errors**: the file system's.
pub fn adopt(copy: &Layout, layout: &Layout, member: Member) -> Result<Adopted, FileError> {
    init::make_folders(layout, member)?;
    let (from, to) = (copy.data(past::MEMBER), layout.data(member));
    files::sync_file_system(&from)?;
    std::fs::rename(&from, &to).at("put in place", &from)?;
    files::sync_folder(&layout.member_dir(member))?;
    let nothing = || std::io::Error::other("its pg_control cannot be read");
    let control = control_file::read(&to).ok_or_else(nothing).at("look at", &to)?;
    Ok(Adopted { timeline: control.timeline, checkpoint: control.checkpoint })
}
