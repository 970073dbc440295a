//! Held connections to one member on its own socket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_types::{Member, Secret, full_text};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::layout::{Layout, PORT, SUPERUSER};

/// Longest wait for a connection, unless the caller's own deadline is shorter.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why a member could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nobody listens on its socket.
    #[error("postgres-{0} does not listen on its socket")]
    NotListening(Member),
    /// It starts or stops, and says so.
    #[error("postgres-{member} takes no connections yet: {message}")]
    NotYet {
        /// Which.
        member: Member,
        /// PostgreSQL's words.
        message: String,
    },
    /// It did not answer in time.
    #[error("postgres-{member} did not answer within {} ms", within.as_millis())]
    Silent {
        /// Which.
        member: Member,
        /// The deadline.
        within: Duration,
    },
    /// It refuses the role or password.
    #[error("postgres-{member} refuses role {role}: {message}")]
    Denied {
        /// Which.
        member: Member,
        /// The role.
        role: String,
        /// PostgreSQL's words.
        message: String,
    },
    /// It answered with an error, or the connection broke.
    #[error("postgres-{member}: {message}")]
    Failed {
        /// Which.
        member: Member,
        /// PostgreSQL's words.
        message: String,
        /// The whole of it.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    /// It answered something that makes no sense.
    #[error("postgres-{member} answered {value:?} for {what}")]
    Nonsense {
        /// Which.
        member: Member,
        /// What was asked.
        what: &'static str,
        /// The answer.
        value: String,
    },
}

/// What a held connection is for. Answers come in the order of the questions, so each use has its own: behind
/// a checkpoint or a slow page of metrics a healthy server would look silent, and be failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Looks and promotion: every answer comes at once.
    Look,
    /// Changes that may take their time.
    Work,
    /// Pages of metrics.
    Metrics,
}

/// The way into one member, as one role in one database. Clones share its connections, which are made when
/// first needed and again after they broke.
#[derive(Clone)]
pub struct Access {
    member: Member,
    role: String,
    config: Arc<tokio_postgres::Config>,
    held: Arc<[Mutex<Option<Arc<Client>>>; 3]>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration holds the password.
        f.debug_struct("Access").field("member", &self.member).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Access {
    /// As superuser in `postgres`: reserved connections let it in when applications have taken all others.
    pub fn new(layout: &Layout, member: Member, superuser: &Secret) -> Self {
        Self::as_role(layout, member, Role { name: SUPERUSER, database: "postgres", password: superuser })
    }

    /// As any role.
    pub fn as_role(layout: &Layout, member: Member, role: Role<'_>) -> Self {
        Self::on_port(layout, member, PORT, role)
    }

    /// As any role of a server whose socket has another number.
    pub(crate) fn on_port(layout: &Layout, member: Member, port: u16, role: Role<'_>) -> Self {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(layout.socket_dir(member))
            .port(port)
            .user(role.name)
            .dbname(role.database)
            .password(role.password.expose())
            .application_name("mainstay control plane")
            .connect_timeout(CONNECT_WITHIN);
        Self { member, role: role.name.to_owned(), config: Arc::new(config), held: Arc::default() }
    }

    /// By a URL with credentials, as the admin API gives it; `None`: it is none. Nothing can be written through it.
    pub fn reading(member: Member, dsn: &Secret) -> Option<Self> {
        let mut reading = Self::writing(member, dsn)?;
        Arc::make_mut(&mut reading.config).options("-c default_transaction_read_only=on");
        Some(reading)
    }

    /// The same, and it can be written through.
    pub fn writing(member: Member, dsn: &Secret) -> Option<Self> {
        let mut config: tokio_postgres::Config = dsn.expose().parse().ok()?;
        config.application_name("mainstay").connect_timeout(CONNECT_WITHIN);
        let role = config.get_user()?.to_owned();
        Some(Self { member, role, config: Arc::new(config), held: Arc::default() })
    }

    /// The same role in the database that another way leads to.
    pub fn as_in_same(&self, other: &Self) -> Self {
        other.config.get_dbname().map_or_else(|| self.clone(), |database| self.in_database(database))
    }

    /// A way on which sessions write although the server's default is that they do not; nothing cuts them off.
    pub(crate) fn that_writes(mut self) -> Self {
        Arc::make_mut(&mut self.config).options("-c default_transaction_read_only=off -c statement_timeout=0");
        self
    }

    /// As the role and in the database of another URL, on this way into the member; `None`: it is none.
    pub fn as_in(&self, dsn: &Secret) -> Option<Self> {
        let other: tokio_postgres::Config = dsn.expose().parse().ok()?;
        let (role, database) = (other.get_user()?, other.get_dbname()?);
        let mut config = (*self.config).clone();
        config.user(role).dbname(database).password(other.get_password()?);
        Some(Self { member: self.member, role: role.to_owned(), config: Arc::new(config), held: Arc::default() })
    }

    /// The same role and password in another database of the member.
    pub fn in_database(&self, database: &str) -> Self {
        let mut config = (*self.config).clone();
        config.dbname(database);
        Self { member: self.member, role: self.role.clone(), config: Arc::new(config), held: Arc::default() }
    }

    /// Which member.
    pub fn member(&self) -> Member {
        self.member
    }

    /// The role's name.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The held connection for this use, made anew when it broke.
    ///
    /// **Errors**: as [`AccessError`].
    pub async fn client(&self, what_for: Use) -> Result<Arc<Client>, AccessError> {
        if let Some(client) = self.held(what_for).clone().filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let client = Arc::new(self.connect().await?);
        *self.held(what_for) = Some(Arc::clone(&client));
        Ok(client)
    }

    /// A connection of one's own: for work that sets parameters or holds locks.
    ///
    /// **Errors**: as [`AccessError`].
    pub async fn connect(&self) -> Result<Client, AccessError> {
        let connecting = tokio::time::timeout(CONNECT_WITHIN, self.config.connect(NoTls));
        let (client, connection) = connecting
            .await
            .map_err(|_| AccessError::Silent { member: self.member, within: CONNECT_WITHIN })?
            .map_err(|error| self.explain(error))?;
        // Ends when the client is dropped or the server goes; both are seen by the next use of the client.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    /// Lets go of a held connection: after a missed deadline its next answer would be the one before.
    pub fn let_go(&self, what_for: Use) {
        *self.held(what_for) = None;
    }

    fn held(&self, what_for: Use) -> std::sync::MutexGuard<'_, Option<Arc<Client>>> {
        let [look, work, metrics] = &*self.held;
        let held = match what_for {
            Use::Look => look,
            Use::Work => work,
            Use::Metrics => metrics,
        };
        held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn explain(&self, error: tokio_postgres::Error) -> AccessError {
        let member = self.member;
        let Some(database) = error.as_db_error() else {
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                    use std::io::ErrorKind::{ConnectionRefused, NotFound, TimedOut, WouldBlock};
                    match io.kind() {
                        NotFound | ConnectionRefused => return AccessError::NotListening(member),
                        // `WouldBlock` is a full queue of connections that nobody accepts: a frozen postmaster.
                        WouldBlock | TimedOut => return AccessError::Silent { member, within: CONNECT_WITHIN },
                        _ => {}
                    }
                }
                source = inner.source();
            }
            return AccessError::Failed { member, message: full_text(&error), source: Box::new(error) };
        };
        let message = database.message().to_owned();
        match database.code() {
            code if *code == SqlState::CANNOT_CONNECT_NOW => AccessError::NotYet { member, message },
            code if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                AccessError::Denied { member, role: self.role.clone(), message }
            }
            code => {
                let message = format!("{message} ({})", code.code());
                AccessError::Failed { member, message, source: Box::new(error) }
            }
        }
    }
}

/// Who comes in, and where.
#[derive(Clone, Copy, Debug)]
pub struct Role<'a> {
    /// Its name.
    pub name: &'a str,
    /// The database.
    pub database: &'a str,
    /// Its password.
    pub password: &'a Secret,
}
