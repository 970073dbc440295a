//! PostgreSQL connections for a service behind a router that may hold, end or refuse a session
//! while a standby is promoted.
//!
//! Rules of repeating, in one place ([`judge`]):
//! - before COMMIT is sent nothing has happened: serialization failures, ended sessions (57P01,
//!   57P03) and broken connections are repeated on a fresh connection, at most [`ATTEMPTS_MAX`] times;
//! - from the moment COMMIT is sent, only the server's word "rolled back" (40001, 40P01) is repeated;
//!   08007 and a connection that breaks then are [`Failure::OutcomeUnknown`], never repeated;
//! - a statement that commits by itself ([`Database::write`]) is COMMIT from its first byte on;
//! - a [`Database::read`] has no outcome to be unknown about and is repeated after 08007 too.
//!
//! Statements go out unnamed (`query_typed`): a session without prepared statements carries no
//! state, so the router can move it to the new primary instead of ending it.

use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Transaction};

use crate::metrics::{Kind, Metrics};
use crate::problem::Problem;
use crate::telemetry::{Level, log};

/// A boxed future, because a closure that borrows a transaction cannot name its future otherwise.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A session or transaction lent to an operation. `'env` is the life of what the operation borrows
/// from its surroundings; the compiler needs to be told that it outlasts the loan.
pub struct Lent<'a, 'env: 'a, T> {
    inner: &'a T,
    surroundings: PhantomData<&'env ()>,
}

impl<'a, T> Lent<'a, '_, T> {
    fn new(inner: &'a T) -> Self {
        Self { inner, surroundings: PhantomData }
    }
}

impl<T> Deref for Lent<'_, '_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner
    }
}

/// Attempts at one operation. Five with doubling pauses from 20 ms span more than the second in
/// which a promote normally ends; the router holds sessions for longer ones.
pub const ATTEMPTS_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longer than the router's default hold of 30 s, so that its answer arrives before we give up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(35);

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// `postgres://…`; never logged.
    pub url: String,
    /// Connections of this process. Range 1 to 100.
    pub size: usize,
    /// Time to wait for a free connection, and to open one.
    pub acquire_timeout: Duration,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection within the acquire timeout, or none can be opened. Nothing happened.
    #[error("no database connection available")]
    Unavailable(#[source] Option<Box<PoolError>>),
    /// The change may or may not be committed.
    #[error("commit not confirmed, outcome unknown")]
    OutcomeUnknown,
    /// The database refused; nothing happened.
    #[error("database refused the statement")]
    Refused(#[source] tokio_postgres::Error),
    /// The operation itself decided to answer with a problem; nothing happened.
    #[error("operation answered with a problem")]
    Answer(Box<Problem>),
    /// The URL is unusable.
    #[error("database url is not usable")]
    Url,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Answer(Box::new(problem))
    }
}

impl Failure {
    /// Name of the unique constraint that a statement broke.
    #[must_use]
    pub fn unique_constraint(&self) -> Option<&str> {
        let Self::Refused(error) = self else { return None };
        let error = error.as_db_error()?;
        (*error.code() == SqlState::UNIQUE_VIOLATION).then(|| error.constraint()).flatten()
    }

    /// Whether a number left the range of its column.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code() == Some(&SqlState::NUMERIC_VALUE_OUT_OF_RANGE))
    }
}

impl From<Failure> for Problem {
    /// Logs what the caller must not see.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Answer(problem) => *problem,
            Failure::Unavailable(source) => {
                let cause = source.map_or_else(|| "timed out".to_owned(), |e| e.to_string());
                log(Level::Warn, "DatabaseUnavailable", &[("cause", &cause)]);
                Problem::unavailable("the database cannot be reached at the moment")
            }
            Failure::OutcomeUnknown => {
                log(Level::Warn, "CommitUnconfirmed", &[]);
                Problem::outcome_unknown()
            }
            Failure::Refused(error) if is_transient(&error) => {
                log(Level::Warn, "DatabaseUnavailable", &[("cause", &describe(&error))]);
                Problem::unavailable("the database is switching over")
            }
            // U+0000 in a text: PostgreSQL has no place for it.
            Failure::Refused(error) if error.code() == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE) => {
                Problem::bad_request("a text holds a character that cannot be stored")
            }
            Failure::Refused(error) => {
                log(Level::Error, "StatementRefused", &[("cause", &describe(&error))]);
                Problem::internal()
            }
            Failure::Url => Problem::internal(),
        }
    }
}

/// A pool of connections. Cloning shares it.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
}

impl Database {
    /// Prepares the pool; connects when first asked.
    ///
    /// **Errors**: [`Failure::Url`].
    pub fn new(options: &PoolOptions) -> Result<Self, Failure> {
        let mut config = Config::from_str(&options.url).map_err(|_| Failure::Url)?;
        config
            .application_name(&options.application_name)
            .connect_timeout(options.acquire_timeout)
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(10));
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(options.size.clamp(1, 100))
            .timeouts(Timeouts {
                wait: Some(options.acquire_timeout),
                create: Some(options.acquire_timeout),
                recycle: Some(options.acquire_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| Failure::Url)?;
        Ok(Self { pool })
    }

    /// Runs statements that change nothing, outside a transaction.
    pub async fn read<'env, T: Send>(
        &self,
        operation: impl for<'a> Fn(Lent<'a, 'env, Client>) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            let object = self.connection().await?;
            let result = match tokio::time::timeout(ATTEMPT_TIMEOUT, operation(Lent::new(&**object))).await {
                Ok(result) => result,
                Err(_) => {
                    discard(object);
                    return Err(Failure::Unavailable(None));
                }
            };
            let Err(failure) = result else { return result };
            if !self.may_repeat(&failure, Phase::Read, object, &mut attempt).await {
                return Err(failure);
            }
        }
    }

    /// Runs a transaction and commits it; an error of the operation rolls it back.
    ///
    /// The operation may run several times and must keep its effects inside the transaction.
    pub async fn transaction<'env, T: Send>(
        &self,
        operation: impl for<'a> Fn(Lent<'a, 'env, Transaction<'a>>) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            let mut object = self.connection().await?;
            let phase = std::sync::atomic::AtomicBool::new(false);
            let run = run_transaction(&mut object, &operation, &phase);
            let result = tokio::time::timeout(ATTEMPT_TIMEOUT, run).await;
            let phase = if phase.into_inner() { Phase::Commit } else { Phase::Body };
            let failure = match result {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    discard(object);
                    return Err(match phase {
                        Phase::Commit | Phase::Statement => Failure::OutcomeUnknown,
                        Phase::Body | Phase::Read => Failure::Unavailable(None),
                    });
                }
            };
            if let Failure::Refused(error) = &failure
                && judge(error.code(), phase) == Verdict::Unknown
            {
                discard(object);
                return Err(Failure::OutcomeUnknown);
            }
            if !self.may_repeat(&failure, phase, object, &mut attempt).await {
                return Err(failure);
            }
        }
    }

    /// Runs one statement that changes something and commits by itself: one round trip where a
    /// transaction takes three or more. All of its flight is a commit: a connection that breaks
    /// meanwhile is [`Failure::OutcomeUnknown`]. The operation must send exactly one statement.
    pub async fn write<'env, T: Send>(
        &self,
        operation: impl for<'a> Fn(Lent<'a, 'env, Client>) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            let object = self.connection().await?;
            let failure = match tokio::time::timeout(ATTEMPT_TIMEOUT, operation(Lent::new(&**object))).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    discard(object);
                    return Err(Failure::OutcomeUnknown);
                }
            };
            if let Failure::Refused(error) = &failure
                && judge(error.code(), Phase::Statement) == Verdict::Unknown
            {
                discard(object);
                return Err(Failure::OutcomeUnknown);
            }
            if !self.may_repeat(&failure, Phase::Statement, object, &mut attempt).await {
                return Err(failure);
            }
        }
    }

    /// Asks the server for a sign of life within a second.
    pub async fn ping(&self) -> Result<(), Failure> {
        let look = async {
            let object = self.connection().await?;
            object.simple_query("SELECT 1").await?;
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(1), look).await.unwrap_or(Err(Failure::Unavailable(None)))
    }

    /// Writes the pool's state into the metrics.
    pub fn report(&self, metrics: &Metrics, name: &str) {
        let status = self.pool.status();
        let labels = [("pool", name)];
        #[expect(clippy::cast_precision_loss, reason = "pool sizes are at most 100")]
        for (metric, help, value) in [
            ("jdbc_connections_max", "Connections the pool may hold", status.max_size),
            ("jdbc_connections_idle", "Connections nobody uses", status.available),
            ("jdbc_connections_active", "Connections in use", status.size.saturating_sub(status.available)),
            ("jdbc_connections_pending", "Requests waiting for a connection", status.waiting),
        ] {
            metrics.describe(metric, Kind::Gauge, help);
            metrics.set(metric, &labels, value as f64);
        }
    }

    async fn connection(&self) -> Result<Object, Failure> {
        let mut attempt = 1;
        loop {
            match self.pool.get().await {
                Ok(object) => return Ok(object),
                // A refused or just ended connection did nothing yet: opening another is safe.
                Err(PoolError::Backend(_)) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                Err(PoolError::Timeout(_)) => return Err(Failure::Unavailable(None)),
                Err(error) => return Err(Failure::Unavailable(Some(Box::new(error)))),
            }
        }
    }

    async fn may_repeat(&self, failure: &Failure, phase: Phase, object: Object, attempt: &mut u32) -> bool {
        let Failure::Refused(error) = failure else { return false };
        if judge(error.code(), phase) != Verdict::Repeat {
            return false;
        }
        if error.code().is_none_or(|code| !is_serialization(code)) {
            discard(object); // the session is gone or on the wrong server
        }
        if *attempt >= ATTEMPTS_MAX {
            return false;
        }
        tokio::time::sleep(pause(*attempt)).await;
        *attempt += 1;
        true
    }
}

/// Where an operation stood when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Statements that change nothing.
    Read,
    /// In a transaction, COMMIT not sent.
    Body,
    /// COMMIT sent.
    Commit,
    /// A statement that commits by itself.
    Statement,
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing happened: do it again.
    Repeat,
    /// Something may have happened: say so.
    Unknown,
    /// Nothing happened, and again would give the same.
    Final,
}

/// The rules of repeating. `None` stands for a connection that broke without a word.
#[must_use]
pub fn judge(code: Option<&SqlState>, phase: Phase) -> Verdict {
    let Some(code) = code else {
        return match phase {
            Phase::Read | Phase::Body => Verdict::Repeat,
            Phase::Commit | Phase::Statement => Verdict::Unknown,
        };
    };
    if *code == SqlState::TRANSACTION_RESOLUTION_UNKNOWN {
        return match phase {
            Phase::Read => Verdict::Repeat,
            Phase::Body | Phase::Commit | Phase::Statement => Verdict::Unknown,
        };
    }
    if is_serialization(code) {
        return Verdict::Repeat;
    }
    match phase {
        Phase::Read | Phase::Body if is_session_end(code) => Verdict::Repeat,
        // A standby says so before it does anything.
        Phase::Statement if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Verdict::Repeat,
        Phase::Commit | Phase::Statement if is_session_end(code) => Verdict::Unknown,
        Phase::Read | Phase::Body | Phase::Commit | Phase::Statement => Verdict::Final,
    }
}

fn is_serialization(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

/// The session or the server behind it is over; 25006 is a write that reached a standby.
fn is_session_end(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(code)
}

fn is_transient(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| is_session_end(code) || is_serialization(code))
}

fn describe(error: &tokio_postgres::Error) -> String {
    // Not the whole error: its detail line holds the values of the row.
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{} {}", e.code().code(), e.message()))
}

async fn run_transaction<'env, T: Send>(
    object: &mut Object,
    operation: &(impl for<'a> Fn(Lent<'a, 'env, Transaction<'a>>) -> Work<'a, T> + Send + Sync),
    commit_sent: &std::sync::atomic::AtomicBool,
) -> Result<T, Failure> {
    let client: &mut Client = object;
    let transaction = client.transaction().await?;
    match operation(Lent::new(&transaction)).await {
        Ok(value) => {
            commit_sent.store(true, std::sync::atomic::Ordering::Relaxed);
            transaction.commit().await?;
            Ok(value)
        }
        Err(failure) => {
            // A rollback that fails leaves a broken session, which the pool finds out by itself.
            let _ = transaction.rollback().await;
            Err(failure)
        }
    }
}

fn discard(object: Object) {
    drop(Object::take(object));
}

fn pause(attempt: u32) -> Duration {
    let base = FIRST_PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1)).min(32);
    base + base.mul_f64(crate::random::fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_repeats_a_write_of_unknown_outcome() {
        let unknown = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
        assert_eq!(judge(Some(&unknown), Phase::Body), Verdict::Unknown);
        assert_eq!(judge(Some(&unknown), Phase::Commit), Verdict::Unknown);
        assert_eq!(judge(None, Phase::Commit), Verdict::Unknown);
        assert_eq!(judge(Some(&SqlState::ADMIN_SHUTDOWN), Phase::Commit), Verdict::Unknown);
    }

    #[test]
    fn a_statement_that_commits_by_itself_is_unknown_from_its_first_byte() {
        for code in [SqlState::TRANSACTION_RESOLUTION_UNKNOWN, SqlState::ADMIN_SHUTDOWN, SqlState::CONNECTION_FAILURE] {
            assert_eq!(judge(Some(&code), Phase::Statement), Verdict::Unknown, "{code:?}");
        }
        assert_eq!(judge(None, Phase::Statement), Verdict::Unknown);
        assert_eq!(judge(Some(&SqlState::READ_ONLY_SQL_TRANSACTION), Phase::Statement), Verdict::Repeat);
        assert_eq!(judge(Some(&SqlState::T_R_DEADLOCK_DETECTED), Phase::Statement), Verdict::Repeat);
        assert_eq!(judge(Some(&SqlState::UNIQUE_VIOLATION), Phase::Statement), Verdict::Final);
    }

    #[test]
    fn repeats_what_certainly_did_not_happen() {
        for code in [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::CONNECTION_FAILURE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ] {
            assert_eq!(judge(Some(&code), Phase::Body), Verdict::Repeat, "{code:?}");
        }
        assert_eq!(judge(None, Phase::Body), Verdict::Repeat);
        assert_eq!(judge(Some(&SqlState::T_R_SERIALIZATION_FAILURE), Phase::Commit), Verdict::Repeat);
    }

    #[test]
    fn repeats_reads_whatever_ended_the_session() {
        assert_eq!(judge(Some(&SqlState::TRANSACTION_RESOLUTION_UNKNOWN), Phase::Read), Verdict::Repeat);
        assert_eq!(judge(None, Phase::Read), Verdict::Repeat);
    }

    #[test]
    fn does_not_repeat_the_callers_mistakes() {
        for phase in [Phase::Read, Phase::Body, Phase::Commit] {
            assert_eq!(judge(Some(&SqlState::UNIQUE_VIOLATION), phase), Verdict::Final);
            assert_eq!(judge(Some(&SqlState::SYNTAX_ERROR), phase), Verdict::Final);
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert!(pause(1) >= FIRST_PAUSE);
        assert!(pause(40) <= FIRST_PAUSE * 64);
    }
}
