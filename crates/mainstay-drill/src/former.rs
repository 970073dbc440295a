//! The former primary after a failover: asked again and again whether it takes writes. It never may.

use std::time::Duration;

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(25);
/// Time for one question: a former primary that hangs serves nobody.
const QUESTION: Duration = Duration::from_millis(1500);

/// What the former primary said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    /// Questions.
    pub(crate) asked: u32,
    /// Nobody answered: it is dead, or hangs.
    pub(crate) silent: u32,
    /// It is a standby.
    pub(crate) standby: u32,
    /// It says that it takes writes.
    pub(crate) primary: u32,
    /// It took one.
    pub(crate) writes: u32,
}

enum Answer {
    Silent,
    Standby,
    Primary { took_a_write: bool },
}

/// Asks from now until `stop`, by the former primary's own socket, as its superuser.
pub(crate) fn watch(
    direct: &Secret,
    ledger: &Secret,
    drill: &str,
    stop: &watch::Receiver<bool>,
) -> Result<JoinHandle<Answers>, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = direct.expose().parse()?;
    let ledger: tokio_postgres::Config = ledger.expose().parse()?;
    config.dbname(ledger.get_dbname().unwrap_or("postgres")).application_name("mainstay drill");
    let (drill, stop) = (drill.to_owned(), stop.clone());
    Ok(tokio::spawn(async move {
        let mut answers = Answers::default();
        while !*stop.borrow() {
            answers.asked += 1;
            match tokio::time::timeout(QUESTION, ask(&config, &drill)).await {
                Ok(Ok(Answer::Standby)) => answers.standby += 1,
                Ok(Ok(Answer::Primary { took_a_write })) => {
                    answers.primary += 1;
                    answers.writes += u32::from(took_a_write);
                }
                Ok(Ok(Answer::Silent) | Err(_)) | Err(_) => answers.silent += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
        answers
    }))
}

async fn ask(config: &tokio_postgres::Config, drill: &str) -> Result<Answer, tokio_postgres::Error> {
    let Ok((client, connection)) = config.connect(NoTls).await else { return Ok(Answer::Silent) };
    let connection = tokio::spawn(async move { connection.await.ok() });
    let answer = question(&client, drill).await;
    connection.abort();
    answer
}

async fn question(client: &tokio_postgres::Client, drill: &str) -> Result<Answer, tokio_postgres::Error> {
    let is_standby: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
    if is_standby {
        return Ok(Answer::Standby);
    }
    // Local: its standbys are gone, and a commit that waits for them would not show that it was taken.
    client.batch_execute("SET synchronous_commit = local").await?;
    let sql = "INSERT INTO ledger (drill, writer, number) VALUES ($1, -1, 0)";
    let written = client.execute(sql, &[&format!("former-{drill}")]).await;
    Ok(Answer::Primary { took_a_write: written.is_ok() })
}

impl Answers {
    /// What was broken, if anything was.
    pub(crate) fn broken(&self) -> Option<String> {
        let (asked, primary, writes) = (self.asked, self.primary, self.writes);
        let text = || {
            format!(
                "the former primary served after the promotion: {primary} of {asked} times, and took {writes} writes"
            )
        };
        (primary > 0).then(text)
    }

    /// What was seen, for people.
    pub(crate) fn text(&self) -> String {
        format!(
            "asked {} times after the promotion: {} × no answer, {} × a standby",
            self.asked, self.silent, self.standby
        )
    }
}
