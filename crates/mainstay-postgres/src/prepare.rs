//! Roles and databases of a cluster: made, or brought to what they should be. Doing it twice changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_stack::model::{Database, DatabaseRole, RoleAccess};
use mainstay_types::Secret;
use tokio_postgres::Client;

use crate::access::{Access, AccessError};
use crate::layout::{LEDGER, MONITOR_ROLE, REPLICATION_ROLE, STATISTICS};
use crate::scram::Verifier;

/// When preparation is given up: a synchronous commit inside may wait for a standby.
pub const PREPARE_WITHIN: Duration = Duration::from_secs(30);

/// Passwords of all roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwords {
    /// Of `mainstay`, set when the cluster was made.
    pub superuser: Secret,
    /// Of standbys and clones.
    pub replication: Secret,
    /// Of the application's role, which is named as its database.
    pub application: Secret,
    /// Of the drills' ledger.
    pub ledger: Secret,
    /// Of the role that reads statistics.
    pub monitor: Secret,
}

/// Why roles or databases could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The application's database takes a name of ours.
    #[error("database name {0:?} is taken by PostgreSQL or mainstay: choose another in [database] name")]
    ReservedName(String),
    /// A password could not be stored as it is.
    #[error("password of role {0} is not plain ASCII: generate it anew")]
    Password(String),
    /// PostgreSQL said no.
    #[error("cannot {what}: {source}")]
    Sql {
        /// Verb and object.
        what: String,
        /// Why not.
        source: AccessError,
    },
    /// It did not finish.
    #[error(
        "roles and databases were not prepared within {} s: a commit may wait for a synchronous standby",
        PREPARE_WITHIN.as_secs()
    )]
    NotInTime,
    /// It cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Makes the roles of application, ledger, monitor and replication, and the databases of the first two.
///
/// **Errors**: as [`PrepareError`].
pub async fn prepare(access: &Access, database: &str, passwords: &Passwords) -> Result<(), PrepareError> {
    if database.starts_with("pg_") || database.starts_with("mainstay") || is_builtin(database) {
        return Err(PrepareError::ReservedName(database.to_owned()));
    }
    let work = async {
        let client = access.connect().await?;
        let session = Session { access, client: &client };
        session.role(REPLICATION_ROLE, "LOGIN REPLICATION", &passwords.replication).await?;
        session.role(MONITOR_ROLE, "LOGIN", &passwords.monitor).await?;
        session.run("let the monitor read statistics", &format!("GRANT pg_monitor TO {MONITOR_ROLE}")).await?;
        for (name, password) in [(database, &passwords.application), (LEDGER, &passwords.ledger)] {
            session.role(name, "LOGIN", password).await?;
            session.database(name).await?;
        }
        let close = format!(
            "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC; \
             GRANT CONNECT ON DATABASE postgres TO {MONITOR_ROLE}"
        );
        session.run("close the maintenance databases", &close).await?;
        session.statistics().await
    };
    tokio::time::timeout(PREPARE_WITHIN, work).await.map_err(|_| PrepareError::NotInTime)?
}

/// Makes further databases and roles, and gives the roles what the stack file says: no more, and also no less than
/// before was theirs of reading. Row-level security is left as the application has it: these roles are subject to it.
///
/// **Errors**: as [`PrepareError`].
pub async fn further(
    access: &Access,
    database: &Database,
    passwords: &BTreeMap<String, Secret>,
) -> Result<(), PrepareError> {
    let work = async {
        let client = access.connect().await?;
        let session = Session { access, client: &client };
        let password = |name: &str| passwords.get(name).ok_or_else(|| PrepareError::Password(name.to_owned()));
        for name in &database.databases {
            session.role(name, "LOGIN", password(name)?).await?;
            session.database(name).await?;
        }
        for (name, role) in &database.roles {
            session.role(name, "LOGIN", password(name)?).await?;
            let inside = access.in_database(&role.database);
            let client = inside.connect().await?;
            let session = Session { access: &inside, client: &client };
            session.run(&format!("give role {name} its rights"), &rights(name, role)).await?;
        }
        Ok(())
    };
    tokio::time::timeout(PREPARE_WITHIN, work).await.map_err(|_| PrepareError::NotInTime)?
}

/// What a role may do in its database, with the tables that are there and those that the owner will make.
fn rights(name: &str, role: &DatabaseRole) -> String {
    let (owner, role_name) = (quote(&role.database), quote(name));
    let (tables, sequences) = match role.access {
        RoleAccess::Read => ("SELECT", "SELECT"),
        RoleAccess::Write => ("SELECT, INSERT, UPDATE, DELETE", "SELECT, USAGE"),
    };
    let all = [("TABLES", tables), ("SEQUENCES", sequences)];
    let here = all.map(|(what, rights)| {
        format!(
            "EXECUTE format('REVOKE ALL ON ALL {what} IN SCHEMA %I FROM {role_name}', place);
             EXECUTE format('GRANT {rights} ON ALL {what} IN SCHEMA %I TO {role_name}', place);"
        )
    });
    let later = all.map(|(what, rights)| {
        format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON {what} FROM {role_name};
             ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT {rights} ON {what} TO {role_name};"
        )
    });
    format!(
        "GRANT CONNECT ON DATABASE {owner} TO {role_name};
         DO $rights$ DECLARE place name; BEGIN
           FOR place IN SELECT nspname FROM pg_namespace
                         WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_') LOOP
             EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role_name}', place);
             {}
           END LOOP;
         END $rights$;
         ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SCHEMAS TO {role_name};
         {}",
        here.join(" "),
        later.join(" ")
    )
}

/// Makes the role of standbys and clones, or gives it this password.
///
/// **Errors**: as [`PrepareError`].
pub async fn ensure_replication_role(access: &Access, password: &Secret) -> Result<(), PrepareError> {
    let work = async {
        let client = access.connect().await?;
        Session { access, client: &client }.role(REPLICATION_ROLE, "LOGIN REPLICATION", password).await
    };
    tokio::time::timeout(PREPARE_WITHIN, work).await.map_err(|_| PrepareError::NotInTime)?
}

fn is_builtin(name: &str) -> bool {
    ["postgres", "template0", "template1", "public", "all", "replication", "none"].contains(&name)
}

struct Session<'a> {
    access: &'a Access,
    client: &'a Client,
}

/// A session that writes down no statement of its own, however long it takes, whatever befalls it and whatever the
/// application logs.
pub(crate) const UNLOGGED: &str = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
    SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0; SET log_min_error_statement = 'panic'";

impl Session<'_> {
    async fn run(&self, what: &str, sql: &str) -> Result<(), PrepareError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(what, error))
    }

    fn failed(&self, what: &str, error: tokio_postgres::Error) -> PrepareError {
        PrepareError::Sql { what: what.to_owned(), source: self.access.explain(error) }
    }

    async fn role(&self, name: &str, options: &str, password: &Secret) -> Result<(), PrepareError> {
        let what = format!("make role {name}");
        if !password.expose().is_ascii() || password.expose().is_empty() {
            return Err(PrepareError::Password(name.to_owned()));
        }
        let found = self
            .client
            .query_opt("SELECT rolpassword FROM pg_authid WHERE rolname = $1", &[&name])
            .await
            .map_err(|error| self.failed(&what, error))?;
        let quoted = quote(name);
        // Only the verifier travels: a password would be written to the server's log by an error.
        let verifier = || postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
        // A verifier is a secret too, and a slow machine would have the statement written down for its duration.
        self.run(&what, UNLOGGED).await?;
        match found {
            None => {
                let sql = format!("CREATE ROLE {quoted} {options} PASSWORD '{}'", verifier());
                self.run(&what, &sql).await
            }
            Some(row) => {
                let stored: Option<String> = row.get(0);
                let is_same = match stored {
                    Some(stored) => self.verifier(&stored).await?.is_some_and(|one| one.is_of(password.expose())),
                    None => false,
                };
                if is_same {
                    return Ok(());
                }
                let sql = format!("ALTER ROLE {quoted} {options} PASSWORD '{}'", verifier());
                self.run(&format!("change the password of role {name}"), &sql).await
            }
        }
    }

    /// Takes a stored verifier apart; the server decodes its base64.
    async fn verifier(&self, stored: &str) -> Result<Option<Verifier>, PrepareError> {
        let parts = || {
            let rest = stored.strip_prefix("SCRAM-SHA-256$")?;
            let (settings, keys) = rest.split_once('$')?;
            let (iterations, salt) = settings.split_once(':')?;
            let (stored_key, _) = keys.split_once(':')?;
            Some((iterations.parse::<u32>().ok()?, salt, stored_key))
        };
        let Some((iterations, salt, stored_key)) = parts() else { return Ok(None) };
        let row = self
            .client
            .query_one("SELECT decode($1, 'base64'), decode($2, 'base64')", &[&salt, &stored_key])
            .await
            .map_err(|error| self.failed("read a stored password", error))?;
        Ok(Some(Verifier { iterations, salt: row.get(0), stored_key: row.get(1) }))
    }

    /// The view of [`STATISTICS`], where the server loads it: in `postgres`, so that no application's dump holds it.
    async fn statistics(&self) -> Result<(), PrepareError> {
        let what = format!("make the view of {STATISTICS}");
        let wanted = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1 AND installed_version IS NULL)
                      AND $1 = ANY (string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ','))";
        let row = self.client.query_one(wanted, &[&STATISTICS]).await.map_err(|error| self.failed(&what, error))?;
        if row.get(0) { self.run(&what, &format!("CREATE EXTENSION IF NOT EXISTS {STATISTICS}")).await } else { Ok(()) }
    }

    /// A database of the role of the same name, closed to all others but the monitor.
    async fn database(&self, name: &str) -> Result<(), PrepareError> {
        let what = format!("make database {name}");
        let exists = self
            .client
            .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
            .await
            .map_err(|error| self.failed(&what, error))?
            .is_some();
        let quoted = quote(name);
        if !exists {
            self.run(&what, &format!("CREATE DATABASE {quoted} OWNER {quoted} TEMPLATE template0")).await?;
        }
        let close = format!(
            "REVOKE ALL ON DATABASE {quoted} FROM PUBLIC; GRANT CONNECT ON DATABASE {quoted} TO {MONITOR_ROLE}"
        );
        self.run(&format!("close database {name} to others"), &close).await
    }
}

/// An identifier in SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
