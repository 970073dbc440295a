//! A page of a table of the drill's own is damaged on disk: first on a standby, then on the primary. While clients read
//! its rows through the router, no damaged row may be answered; the rows are right again within the promise, and each
//! member ends with whole pages.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_api::{DatabaseAccess, ErrandAsked, ErrandKind, Status};
use mainstay_types::{Member, Secret};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::inject::{After, Hit, Injected, primary};
use crate::ledger;
use crate::measure::{millis, wall_clock};
use crate::round::{Arena, splitmix};
use crate::run::{Progress, Sabotage};
use crate::whole::{self, LOOK};

/// Tables, one for each member that is hit: where one is damaged the other is not read yet.
const OF_STANDBY: &str = "mainstay_drill_page_s";
const OF_PRIMARY: &str = "mainstay_drill_page_p";
/// Rows of each: they fill a page.
const ROWS: i64 = 40;
/// Size of a page. **Unit**: bytes.
const PAGE: usize = 8192;
/// Pause of a reader between two looks.
const PACE: Duration = Duration::from_millis(50);
/// Time for the damage to be found once it was met: the stack looks every second, or every ten.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Time for a standby to be started anew, so that it has read nothing of the page yet, and to replay what was written.
const PREPARED_WITHIN: Duration = Duration::from_secs(90);
/// Right answers in a row after which rows count as right again.
const RIGHT: usize = 10;

/// What was damaged, and who reads it.
pub(crate) struct Damaged {
    /// How that is known.
    text: String,
    member: Member,
    /// Damaged pages of it that were known before.
    before: u64,
    readers: Readers,
    /// What the first half showed: a standby's page.
    first: After,
}

impl Damaged {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// What a reader was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Right,
    /// Rows that are not what was written.
    Wrong(u64),
    Error(String),
}

/// Clients that read a table through the router.
struct Readers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    told: Arc<Mutex<Vec<(Instant, Told)>>>,
}

/// What readers saw, since the damage.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    right: u64,
    /// Answers with damaged rows.
    wrong: u64,
    errors: BTreeMap<String, u64>,
    /// The first of the right answers that no other follows.
    back: Option<Duration>,
}

fn body(id: i64) -> String {
    format!("{:016x}", splitmix(id.unsigned_abs())).repeat(8)
}

async fn rows(client: &Client, table: &str) -> Result<Vec<(i64, String)>, tokio_postgres::Error> {
    let query = format!("SELECT id, body FROM {table} ORDER BY id");
    Ok(client.query(&query, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn judge(rows: &[(i64, String)]) -> Told {
    let wrong = (1..=ROWS).filter(|id| !rows.iter().any(|(one, text)| one == id && *text == body(*id))).count();
    let more = rows.iter().filter(|(id, _)| !(1..=ROWS).contains(id)).count();
    if wrong + more == 0 { Told::Right } else { Told::Wrong((wrong + more) as u64) }
}

/// Reads a table again and again, until it is told to stop.
async fn read_on(
    door: Secret,
    table: &'static str,
    told: Arc<Mutex<Vec<(Instant, Told)>>>,
    stopped: watch::Receiver<bool>,
) {
    let mut open: Option<Client> = None;
    while !*stopped.borrow() {
        let asked = async {
            let client = match open.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => ledger::connect(&door).await?,
            };
            let read = rows(&client, table).await;
            open = Some(client);
            read
        };
        let one = match tokio::time::timeout(ledger::OPERATION, asked).await {
            Ok(Ok(rows)) => judge(&rows),
            Ok(Err(error)) => Told::Error(ledger::describe(&error)),
            Err(_) => Told::Error("no answer".to_owned()),
        };
        told.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), one));
        tokio::time::sleep(PACE).await;
    }
}

impl Readers {
    fn start(doors: &[Secret], table: &'static str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let told: Arc<Mutex<Vec<(Instant, Told)>>> = Arc::default();
        let tasks = doors.iter().map(|door| {
            let (door, told, stopped) = (door.clone(), Arc::clone(&told), stopped.clone());
            tokio::spawn(read_on(door, table, told, stopped))
        });
        let tasks = tasks.collect();
        Self { stop, tasks, told }
    }

    /// Whether the last answers were all right.
    fn is_right(&self) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.get(told.len().saturating_sub(RIGHT)..).unwrap_or_default();
        last.len() == RIGHT && last.iter().all(|(_, one)| *one == Told::Right)
    }

    async fn end(self, since: Instant) -> Summary {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.ok();
        }
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        summary(&told, since)
    }
}

fn summary(told: &[(Instant, Told)], since: Instant) -> Summary {
    let mut seen = Summary::default();
    for (at, one) in told {
        match one {
            Told::Right => {
                seen.right += 1;
                seen.back.get_or_insert(at.saturating_duration_since(since));
            }
            Told::Wrong(_) => (seen.wrong, seen.back) = (seen.wrong + 1, None),
            Told::Error(text) => {
                *seen.errors.entry(text.clone()).or_default() += 1;
                seen.back = None;
            }
        }
    }
    seen
}

/// The same role, password and database at the door for reads.
fn at_read_door(access: &DatabaseAccess) -> Result<Secret, String> {
    let port = |dsn: &Secret| {
        let config: tokio_postgres::Config =
            dsn.expose().parse().map_err(|_| "a DSN that nobody can read".to_owned())?;
        config.get_ports().first().copied().ok_or_else(|| "a DSN without a port".to_owned())
    };
    let (write, read) = (port(&access.ledger_url)?, port(&access.app_read_url)?);
    Ok(Secret::new(access.ledger_url.expose().replacen(&format!(":{write}"), &format!(":{read}"), 1)))
}

/// As superuser, at a member's own socket.
async fn superuser(access: &DatabaseAccess, member: Member) -> Result<Client, String> {
    let direct = access.direct.get(&member).ok_or_else(|| format!("nobody knows the socket of postgres-{member}"))?;
    ledger::answer(ledger::connect(direct)).await
}

async fn setting(client: &Client, query: &str) -> Result<String, String> {
    Ok(ledger::answer(client.query_one(query, &[])).await?.get(0))
}

/// Changes what a row says, in the file of its page. Returns where.
fn damage(file: &Path, seed: u64) -> Result<String, String> {
    let text = |error: std::io::Error| format!("cannot damage {}: {error}", file.display());
    let open = OpenOptions::new().read(true).write(true).open(file).map_err(text)?;
    let mut page = [0; PAGE];
    open.read_exact_at(&mut page, 0).map_err(text)?;
    let id = 1 + i64::try_from(seed % ROWS.unsigned_abs()).unwrap_or(0);
    let wanted = body(id);
    let at = page.windows(wanted.len()).position(|window| window == wanted.as_bytes());
    let at = at.ok_or_else(|| format!("row {id} is not on the first page of {}", file.display()))?;
    let byte = page.get(at).copied().ok_or("an empty page")?;
    // Another digit: a row that reads well and says something else.
    let other = if byte == b'7' { b'3' } else { b'7' };
    open.write_all_at(&[other], at as u64).and_then(|()| open.sync_all()).map_err(text)?;
    Ok(format!("byte {at} of block 0 changed from {:?} to {:?}", char::from(byte), char::from(other)))
}

impl Arena<'_> {
    /// Damages a standby's page, waits until that is mended, and then damages the primary's.
    pub(crate) async fn damage_pages(
        &self,
        status: &Status,
        random: u64,
        progress: &mut dyn Progress,
    ) -> Result<Injected, String> {
        let access = self.client.database().await.map_err(|error| error.to_string())?;
        let (primary, _) = primary(status).ok_or_else(|| "there is no primary".to_owned())?;
        let lags = status.database.as_ref().map(|one| &one.lag_bytes);
        let standbys: Vec<Member> = lags.into_iter().flat_map(BTreeMap::keys).copied().collect();
        let pick = usize::try_from(random % standbys.len().max(1) as u64).unwrap_or(0);
        let standby = *standbys.get(pick).ok_or_else(|| "no standby streams".to_owned())?;
        self.make_tables(&access, primary).await?;
        self.start_anew(standby).await?;
        let mut first = After::default();
        let hit = self.hit_standby(&access, standby, random, &mut first, progress).await;
        if self.options.sabotage == Some(Sabotage::ServeDamaged) {
            self.stop_serving_damaged(&access, standby).await;
        }
        hit?;
        let file = self.file_of(&access, primary, OF_PRIMARY).await?;
        let doors = [access.ledger_url.clone(), at_read_door(&access)?];
        let before = self.found_in(primary).await;
        let (at, wall) = (Instant::now(), wall_clock());
        let what = damage(&file, random >> 8)?;
        let readers = Readers::start(&doors[..1], OF_PRIMARY);
        let text = format!("a page of postgres-{primary}, the primary, was damaged on its disk: {what}");
        let hit = Hit::Damaged(Box::new(Damaged { text, member: primary, before, readers, first }));
        Ok(Injected::new((at, Instant::now()), wall, hit))
    }

    /// Tables whose pages are on the primary's disk and in nobody's memory there: a rewrite passes it by.
    async fn make_tables(&self, access: &DatabaseAccess, primary: Member) -> Result<(), String> {
        let client = ledger::answer(ledger::connect(&access.ledger_url)).await?;
        for table in [OF_STANDBY, OF_PRIMARY] {
            let make = format!(
                "DROP TABLE IF EXISTS {table};
                 CREATE TABLE {table} (id bigint NOT NULL, body text NOT NULL) WITH (autovacuum_enabled = false)"
            );
            ledger::answer(client.batch_execute(&make)).await?;
            for id in 1..=ROWS {
                let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
                ledger::answer(client.execute(&insert, &[&id, &body(id)])).await?;
            }
            ledger::answer(client.batch_execute(&format!("VACUUM FULL {table}"))).await?;
        }
        ledger::answer(superuser(access, primary).await?.batch_execute("CHECKPOINT")).await
    }

    /// A standby that was started anew has read nothing of the pages yet; what it had in memory is on its disk.
    async fn start_anew(&self, member: Member) -> Result<(), String> {
        let errand = ErrandKind::Restart;
        let asked = ErrandAsked { errand, member: Some(member), drain_ms: None, is_forced: false, incoming: None };
        let began = Instant::now();
        let mut asked_at = None;
        while began.elapsed() < PREPARED_WITHIN {
            if asked_at.is_none() {
                asked_at = self.client.errand(&asked).await.ok().map(|status| status.asked_at);
            }
            let status = self.client.status().await.ok();
            let errand = status.and_then(|status| status.database?.errand);
            match errand.filter(|errand| Some(errand.asked_at) == asked_at && errand.ended_at.is_some()) {
                Some(errand) if errand.is_done => return Ok(()),
                // Something else was under way.
                Some(_) => asked_at = None,
                None => {}
            }
            tokio::time::sleep(LOOK * 5).await;
        }
        Err(format!("postgres-{member} was not started anew within {} s", PREPARED_WITHIN.as_secs()))
    }

    async fn file_of(&self, access: &DatabaseAccess, member: Member, table: &str) -> Result<PathBuf, String> {
        let client = ledger::answer(ledger::connect(&access.ledger_url)).await?;
        let file = setting(&client, &format!("SELECT pg_relation_filepath('{table}')")).await?;
        let data = setting(&superuser(access, member).await?, "SHOW data_directory").await?;
        let path = PathBuf::from(data).join(file);
        // Nothing else than what the stack owns is written to.
        if path.starts_with(&self.options.state) { Ok(path) } else { Err(format!("{} is elsewhere", path.display())) }
    }

    async fn found_in(&self, member: Member) -> u64 {
        let status = self.client.status().await.ok();
        let ever = status.and_then(|status| status.database?.damaged_pages_ever.get(&member).copied());
        ever.unwrap_or(0)
    }

    async fn hit_standby(
        &self,
        access: &DatabaseAccess,
        standby: Member,
        random: u64,
        after: &mut After,
        progress: &mut dyn Progress,
    ) -> Result<(), String> {
        if self.options.sabotage == Some(Sabotage::ServeDamaged) {
            // Of this member alone: a clone of another takes it away again.
            let client = superuser(access, standby).await?;
            ledger::answer(client.batch_execute("ALTER SYSTEM SET ignore_checksum_failure = on")).await?;
            ledger::answer(client.batch_execute("SELECT pg_reload_conf()")).await?;
        }
        let file = self.file_of(access, standby, OF_STANDBY).await?;
        let before = self.found_in(standby).await;
        let at = Instant::now();
        let what = damage(&file, random)?;
        let readers = Readers::start(&[at_read_door(access)?], OF_STANDBY);
        // Whoever reads at the router may be led to another standby: this one is asked itself, too.
        let client = superuser_of_ledger(access, standby).await?;
        let met = tokio::time::timeout(ledger::OPERATION, rows(&client, OF_STANDBY)).await;
        after.proof.push(format!("a page of postgres-{standby}, a standby, was damaged on its disk: {what}"));
        match met.map_err(|_| "no answer".to_owned()).map(|met| met.map(|rows| judge(&rows))) {
            Ok(Ok(Told::Right)) => {
                readers.end(at).await;
                return Err(format!("postgres-{standby} had the page in memory and did not meet the damage"));
            }
            Ok(Ok(told)) => after.reasons.push(format!("postgres-{standby} itself answered {told:?}")),
            Ok(Err(error)) => after.proof.push(format!("it said {}", ledger::describe(&error))),
            Err(error) => after.proof.push(error),
        }
        self.see_mended(at, standby, before, readers, after, progress).await;
        Ok(())
    }

    /// The mistake goes with the directory; one that was not cloned anew must not answer so for ever.
    async fn stop_serving_damaged(&self, access: &DatabaseAccess, member: Member) {
        let reset = async {
            let client = superuser(access, member).await?;
            ledger::answer(client.batch_execute("ALTER SYSTEM RESET ignore_checksum_failure")).await?;
            ledger::answer(client.batch_execute("SELECT pg_reload_conf()")).await
        };
        // It may be down just now: its clone has no such line.
        reset.await.ok();
    }

    /// Until the damage is found, the rows are right again, and every page of every member is.
    async fn see_mended(
        &self,
        at: Instant,
        member: Member,
        before: u64,
        readers: Readers,
        after: &mut After,
        progress: &mut dyn Progress,
    ) {
        let mut found = None;
        while found.is_none() && at.elapsed() < FOUND_WITHIN {
            tokio::time::sleep(LOOK).await;
            found = (self.found_in(member).await > before).then(|| at.elapsed());
        }
        match found {
            Some(found) => after.proof.push(format!("found after {} ms", found.as_millis())),
            None => after.reasons.push(format!("nobody found the damage within {} s", FOUND_WITHIN.as_secs())),
        }
        let is_mended = |status: &Status| {
            readers.is_right()
                && status.database.as_ref().is_some_and(|one| {
                    one.damaged_pages.is_empty() && (one.primary == Some(member) || one.lag_bytes.contains_key(&member))
                })
        };
        let whole = self.wait_for(at, progress, &format!("postgres-{member} to be cloned anew"), is_mended).await;
        match whole {
            Some(whole) => after.proof.push(format!("cloned anew after {} ms", whole.as_millis())),
            None => {
                after
                    .reasons
                    .push(format!("postgres-{member} was not whole again within {} s", whole::WITHIN.as_secs()));
            }
        }
        after.whole = whole;
        let seen = readers.end(at).await;
        let promised = self.options.fault.promise(self.stack).rto;
        judge_readers(&seen, member, promised, after);
    }

    /// The primary makes place, and is cloned anew.
    pub(crate) async fn see_left(&self, at: Instant, damaged: Damaged, progress: &mut dyn Progress) -> After {
        let Damaged { member, before, readers, mut first, .. } = damaged;
        let mut after = After::default();
        self.see_mended(at, member, before, readers, &mut after, progress).await;
        let status = self.client.status().await.ok();
        match status.as_ref().and_then(primary) {
            Some((other, _)) if other != member => after.proof.push(format!("postgres-{other} took over as planned")),
            _ => after.reasons.push(format!("postgres-{member} is primary still, with its damaged page")),
        }
        self.drop_tables().await;
        // The promise is about the rows of either member, not about the load beside them.
        after.right = Some(first.right.flatten().zip(after.right.flatten()).map(|(one, other)| one.max(other)));
        after.proof.splice(0..0, std::mem::take(&mut first.proof));
        after.reasons.splice(0..0, std::mem::take(&mut first.reasons));
        after
    }

    async fn drop_tables(&self) {
        let Ok(access) = self.client.database().await else { return };
        if let Ok(client) = ledger::connect(&access.ledger_url).await {
            // The next drill drops what is left.
            let drop = format!("DROP TABLE IF EXISTS {OF_STANDBY}, {OF_PRIMARY}");
            ledger::answer(client.batch_execute(&drop)).await.ok();
        }
    }
}

fn judge_readers(seen: &Summary, member: Member, promised: Duration, after: &mut After) {
    let errors: Vec<String> = seen.errors.iter().map(|(text, count)| format!("{count} × {text}")).collect();
    let errors = if errors.is_empty() { "no error".to_owned() } else { errors.join(", ") };
    after.right = Some(seen.back);
    after.proof.push(format!("readers: {} right answers, {errors}", seen.right));
    if seen.wrong > 0 {
        after
            .reasons
            .push(format!("{} answers had damaged rows of postgres-{member}, as if they were good", seen.wrong));
    }
    match seen.back {
        Some(back) if back > promised => {
            let (back, promised) = (millis(back), millis(promised));
            after
                .reasons
                .push(format!("the rows of postgres-{member} were right after {back} ms, promised {promised} ms"));
        }
        Some(back) => after.proof.push(format!("right again after {} ms", back.as_millis())),
        None => after.reasons.push(format!("the rows of postgres-{member} were not right again")),
    }
}

/// As superuser in the ledger's database.
async fn superuser_of_ledger(access: &DatabaseAccess, member: Member) -> Result<Client, String> {
    let text = |error: tokio_postgres::Error| mainstay_types::full_text(&error);
    let direct = access.direct.get(&member).ok_or_else(|| format!("nobody knows the socket of postgres-{member}"))?;
    let mut config: tokio_postgres::Config = direct.expose().parse().map_err(text)?;
    let ledger: tokio_postgres::Config = access.ledger_url.expose().parse().map_err(text)?;
    config.dbname(ledger.get_dbname().ok_or("the ledger's DSN names no database")?);
    let (client, connection) = ledger::answer(config.connect(tokio_postgres::NoTls)).await?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<(i64, String)> {
        (1..=ROWS).map(|id| (id, body(id))).collect()
    }

    #[test]
    fn rows_that_are_not_what_was_written_are_wrong() {
        assert_eq!(judge(&written()), Told::Right);
        let mut changed = written();
        changed[3].1.replace_range(0..1, "!");
        assert_eq!(judge(&changed), Told::Wrong(1));
        assert_eq!(judge(&written()[1..]), Told::Wrong(1), "one is missing");
        assert_eq!(judge(&[]), Told::Wrong(40), "an empty table is no good answer");
    }

    #[test]
    fn damage_changes_one_digit_of_one_row_on_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("16384");
        let mut page = vec![0_u8; PAGE];
        let text: String = (1..=ROWS).map(body).collect();
        page[1000..1000 + text.len()].copy_from_slice(text.as_bytes());
        std::fs::write(&file, &page).expect("written");
        damage(&file, 12345).expect("damages");
        let after = std::fs::read(&file).expect("read");
        let changed: Vec<u8> =
            after.iter().zip(&page).filter(|(one, other)| one != other).map(|(one, _)| *one).collect();
        assert!(matches!(changed[..], [b'7' | b'3']), "{changed:?}");
        std::fs::write(&file, vec![0_u8; PAGE]).expect("written");
        assert!(damage(&file, 12345).is_err(), "there is no row to damage");
    }

    #[test]
    fn rows_are_right_again_after_the_last_answer_that_was_not() {
        let since = Instant::now();
        let at = |millis, told: Told| (since + Duration::from_millis(millis), told);
        let told = [
            at(10, Told::Right),
            at(20, Told::Error("XX001".to_owned())),
            at(30, Told::Right),
            at(40, Told::Error("XX001".to_owned())),
            at(50, Told::Right),
            at(60, Told::Right),
        ];
        let seen = summary(&told, since);
        assert_eq!((seen.right, seen.wrong, seen.back), (4, 0, Some(Duration::from_millis(50))));
        assert_eq!(summary(&told[..4], since).back, None);
        let mut after = After::default();
        judge_readers(&summary(&[at(5, Told::Wrong(2))], since), Member::B, Duration::from_secs(1), &mut after);
        assert_eq!(after.reasons.len(), 2, "{:?}", after.reasons);
        assert_eq!(after.right, Some(None), "the load beside it says nothing of the rows");
        judge_readers(&seen, Member::B, Duration::from_secs(1), &mut after);
        assert_eq!(after.right, Some(Some(Duration::from_millis(50))));
    }
}
