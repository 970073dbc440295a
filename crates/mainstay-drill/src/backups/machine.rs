//! The machine is taken for gone: what is left are the second copy in its store and the recovery card. The present goes
//! on; the past is opened in a folder that has nothing of it.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_types::Bytes;
use tokio::time::Instant;

use super::{ARCHIVED_WITHIN, Fetched, Found, LOOK, Last, PACE, ROWS, Repository, Round, TABLE, Unopened, millis};
use crate::backups::Past;
use crate::ledger;
use crate::measure::wall_clock;
use crate::run::Progress;

/// The first base backup may be on its way to the store when a drill begins. **Basis**: 10 GB at 100 Mbit/s.
const BEGUN_WITHIN: Duration = Duration::from_secs(900);

/// Waits until a whole base backup is in the second copy: before that nothing is promised.
pub(super) async fn begun(repository: &impl Repository, progress: &mut dyn Progress) -> Result<(), String> {
    let begun = Instant::now();
    let mut is_told = false;
    while repository.copied_until()?.is_none() {
        if !is_told {
            progress.say("the first base backup is on its way to the second copy");
            is_told = true;
        }
        if begun.elapsed() > BEGUN_WITHIN {
            let seconds = BEGUN_WITHIN.as_secs();
            return Err(format!(
                "no base backup came to be in the second copy within {seconds} s: `mainstay backup list` tells how far it is"
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

impl<R: Repository> Round<'_, R> {
    /// Rows are written; when the stack says that the copy has them, nothing else is used to get them back.
    pub(super) async fn machine_loss(&self) -> Result<Found, String> {
        let sql = self.sql().await?;
        self.run(&sql, &format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id bigint PRIMARY KEY)")).await?;
        let query = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        let first: String = ledger::answer(sql.query_one(query, &[])).await?.get(0);
        // Rows of an earlier round, whose end the copy lacks, are not taken for these.
        let before = wall_clock().as_micros();
        for id in 1..=ROWS {
            self.run(&sql, &format!("INSERT INTO {TABLE} VALUES ({})", before + id)).await?;
            tokio::time::sleep(PACE).await;
        }
        let last = self.end(&sql).await?;
        let mut found = Found {
            fault: format!("{ROWS} rows were written; then only the second copy and the recovery card were used"),
            is_proven: true,
            rpo: self.copied(&last).await?,
            ..Found::default()
        };
        found.counts.acknowledged = u64::try_from(ROWS).unwrap_or(0);
        if found.rpo.is_some() {
            // A positive control gets a copy that lacks what it was said to have.
            let without = self.is_sabotaged().then_some(first.as_str());
            self.get_back(&mut found, before, without).await?;
        }
        self.run(&sql, &format!("DROP TABLE {TABLE}")).await?;
        Ok(found)
    }

    async fn get_back(&self, found: &mut Found, before: i64, without: Option<&str>) -> Result<(), String> {
        let begun = Instant::now();
        let (past, fetched) = match self.repository.open_copy(without).await {
            Ok(opened) => opened,
            Err(Unopened::Here(why)) => return Err(why),
            Err(Unopened::Copy(why)) => {
                found.counts.lost = found.counts.acknowledged;
                found.reasons.push(format!("nothing can be restored from the second copy: {why}"));
                return Ok(());
            }
        };
        let there = self.look(&past, &format!("SELECT id FROM {TABLE} ORDER BY id")).await;
        let took = begun.elapsed();
        let (restored, replayed) = past.took();
        past.close().await;
        let Fetched { files, bytes, took: fetching } = fetched;
        found.fault += &format!(" ({files} files, {} fetched)", Bytes(bytes));
        found.is_proven = files > 0;
        for (what, took) in [
            ("copy fetched", fetching),
            ("files restored", fetching + restored),
            ("WAL replayed", fetching + restored + replayed),
        ] {
            found.timeline.insert(what.to_owned(), millis(took));
        }
        match there {
            Ok(there) => {
                let there: BTreeSet<i64> = there.into_iter().collect();
                found.counts.lost = (1..=ROWS).filter(|id| !there.contains(&(before + id))).count() as u64;
                found.rto = Some(took);
            }
            // A table that is not there has no row: what was written is lost, and that is the finding.
            Err(why) => {
                found.counts.lost = found.counts.acknowledged;
                found.reasons.push(format!("the rows cannot be read in what was restored from the second copy: {why}"));
            }
        }
        Ok(())
    }

    /// Until the stack says that the second copy has the segment of a commit; how long that took since the commit.
    async fn copied(&self, last: &Last) -> Result<Option<Duration>, String> {
        let begun = Instant::now();
        while begun.elapsed() < self.promised.rpo + ARCHIVED_WITHIN {
            if let Some(archived) = self.repository.archived_at(&last.segment)?
                && self.repository.copied_until()?.is_some_and(|until| until > archived)
            {
                return Ok(Some(wall_clock().saturating_since(last.at)));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }
}
