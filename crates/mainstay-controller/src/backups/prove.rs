//! Proves a base backup: restores it beside the present, replays to the position at which its source was counted, and
//! compares. A restore that applied nothing, stopped early or holds other rows than the source had is no proof.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_backup::proof::{self, PROOF_VERSION, Point, Proof};
use mainstay_backup::repository::Backup;
use mainstay_decide::past::Moment;
use mainstay_postgres::census::{self, Census};
use mainstay_postgres::layout::SUPERUSER;
use mainstay_postgres::{Layout, past as server};

use super::past::{self, Open};
use super::{Backups, Error, Held, keeping};
use crate::clock::now;
use crate::drills::RELEASE;
use crate::paths::Paths;

/// Longest check of a restored copy's pages and indexes. **Basis**: 2 GiB take half a minute.
const CHECK_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// Differences that are named.
const MOST_NAMED: usize = 10;

/// What was found so far.
#[derive(Default)]
struct Findings {
    faults: Vec<String>,
    left_out: Vec<String>,
    took_ms: BTreeMap<String, u64>,
    tables: u64,
    rows: u64,
    asserts: u64,
}

impl Findings {
    fn took(&mut self, what: &str, time: Duration) {
        self.took_ms.insert(what.to_owned(), u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
}

/// Restores, compares, keeps the record.
///
/// **Errors**: nothing could be said of the backup: no space, no place, no server.
pub(super) async fn prove(
    backups: Arc<Backups>,
    paths: &Paths,
    (backup, held): (Backup, Held),
    tell: impl Fn(&str),
) -> Result<Proof, Error> {
    let (label, began) = (&backup.label, now());
    let mut findings = Findings::default();
    let point = point_of(&backups, &backup, &mut findings);
    let moment = match &point {
        Some(point) => Moment::Before(point.lsn),
        // Up to where it is consistent, and the record that begins there: without WAL nobody gets so far.
        None => Moment::Lsn(label.stop),
    };
    let short = backup.id.get(..8).unwrap_or(&backup.id);
    tell(&format!("restoring backup {short} and replaying to {moment}"));
    let opened = match past::plan(&backups, paths, &moment, Some(&backup.id)) {
        Ok(plan) => past::open_held(Arc::clone(&backups), paths, &plan, held).await,
        Err(error) => Err(error),
    };
    let (mut reached, mut last_commit) = (None, None);
    match opened {
        Ok(open) => {
            (reached, last_commit) = (open.replay.lsn, open.replay.last_commit);
            look(&backups, open, point.as_ref(), &mut findings, &tell).await?;
        }
        // The backup's, or its WAL's.
        Err(error @ (Error::Unreachable(_) | Error::NotReached { .. } | Error::Repository(_))) => {
            if let Error::NotReached { lsn, last_commit: commit, .. } = &error {
                (reached, last_commit) = (*lsn, *commit);
            }
            findings.faults.push(mainstay_types::full_text(&error));
        }
        Err(error) => return Err(error),
    }
    let found = Proof {
        version: PROOF_VERSION,
        backup: backup.id.clone(),
        release: RELEASE.to_owned(),
        began,
        ended: now(),
        is_proven: findings.faults.is_empty(),
        faults: findings.faults,
        wanted: label.needs(),
        reached,
        last_commit,
        bytes: label.bytes,
        took_ms: findings.took_ms,
        tables: findings.tables,
        rows: findings.rows,
        asserts: findings.asserts,
        left_out: findings.left_out,
    };
    let folder = backups.place.proofs();
    proof::write_proof(&folder, &backups.recipient, &found).map_err(|source| Error::Io {
        action: "write the proof in",
        path: folder,
        source,
    })?;
    Ok(found)
}

/// The named one; else the newest without a proof; else the newest.
///
/// **Errors**: there is none.
pub(super) fn choose(backups: &Backups, id: Option<&str>) -> Result<Backup, Error> {
    let all = keeping::list(backups)?;
    let found = match id {
        Some(id) => all.iter().find(|(backup, _)| !id.is_empty() && backup.id.starts_with(id)),
        None => all.iter().rev().find(|(_, proof)| proof.is_none()).or(all.last()),
    };
    let none = || Error::NoBackup(id.unwrap_or("yet").to_owned());
    found.map(|(backup, _)| backup.clone()).ok_or_else(none)
}

/// What its source looked like. `None`: it was not counted; or that was lost, which is a fault: a backup whose proof is
/// promised is not to pass without.
fn point_of(backups: &Backups, backup: &Backup, findings: &mut Findings) -> Option<Point> {
    let lsn = backup.label.point?;
    let read = proof::read_point(&backups.place.proofs(), &backups.wal_key, backup.label.system, lsn);
    let why = match read {
        Ok(Some(point)) if point.lsn == lsn => return Some(point),
        Ok(Some(point)) => format!("is of {}", point.lsn),
        Ok(None) => "is not there".to_owned(),
        Err(error) => format!("cannot be read: {error}"),
    };
    findings.faults.push(format!("what its source was counted as at {lsn} {why}: no rows were compared"));
    None
}

/// What is wrong with what the source of a backup was counted as.
pub(super) fn faults_of_point(backups: &Backups, backup: &Backup) -> Vec<String> {
    let mut findings = Findings::default();
    point_of(backups, backup, &mut findings);
    findings.faults
}

/// Looks at the restored copy in every way, and closes it.
async fn look(
    backups: &Backups,
    mut open: Open,
    point: Option<&Point>,
    findings: &mut Findings,
    tell: &impl Fn(&str),
) -> Result<(), Error> {
    findings.took("restore", open.restored_in);
    findings.took("replay", open.replayed_in);
    let looked = look_at(backups, &mut open, point, findings, tell).await;
    open.close().await;
    looked
}

async fn look_at(
    backups: &Backups,
    open: &mut Open,
    point: Option<&Point>,
    findings: &mut Findings,
    tell: &impl Fn(&str),
) -> Result<(), Error> {
    let begun = Instant::now();
    match point {
        Some(point) => {
            tell(&format!("comparing {} tables with the source as it was at {}", point.tables.len(), point.lsn));
            // Where the source was counted to its end, nothing else may be in the copy either.
            let counted = (!point.left_out.is_empty()).then(|| {
                point.tables.iter().map(|one| (one.database.clone(), one.table.clone())).collect::<BTreeSet<_>>()
            });
            match census::of_copy(&open.access, point.lsn, CHECK_WITHIN, counted.as_ref()).await {
                Ok(copy) => {
                    compare(point, &copy, findings);
                    findings.faults.extend(copy.left_out.into_iter().take(MOST_NAMED));
                }
                Err(error) => findings.faults.push(format!("rows cannot be read: {error}")),
            }
            findings.left_out.extend(point.left_out.iter().cloned());
        }
        None if findings.faults.is_empty() => {
            findings.left_out.push("the source was not counted when it was taken: no rows were compared".to_owned());
        }
        None => {}
    }
    findings.took("compare", begun.elapsed());
    for statement in &backups.policy.asserts {
        match census::is_true(&open.access, &backups.database, statement).await {
            Ok(Ok(())) => findings.asserts += 1,
            Ok(Err(why)) => findings.faults.push(format!("{statement}: {why}, must be true")),
            Err(error) => findings.faults.push(format!("{statement}: {error}")),
        }
    }
    open.leave_recovery().await?;
    let begun = Instant::now();
    tell("checking indexes (pg_amcheck)");
    let layout = open.layout().clone();
    let port = open.port.to_string();
    let socket = layout.socket_dir(server::MEMBER).display().to_string();
    let arguments = [
        "--all",
        "--install-missing",
        "--heapallindexed",
        "--jobs=1",
        "--host",
        &socket,
        "--port",
        &port,
        "--username",
        SUPERUSER,
    ];
    check(&layout, "pg_amcheck", &arguments, findings).await?;
    findings.took("amcheck", begun.elapsed());
    let begun = Instant::now();
    tell("checking pages (pg_checksums)");
    open.shut_down().await?;
    let data = layout.data(server::MEMBER).display().to_string();
    check(&layout, "pg_checksums", &["--check", "--pgdata", &data], findings).await?;
    findings.took("checksums", begun.elapsed());
    Ok(())
}

/// Every table that was counted must be there with the same rows, and no other.
fn compare(point: &Point, copy: &Census, findings: &mut Findings) {
    let key = |database: &str, table: &str| (database.to_owned(), table.to_owned());
    let there: BTreeMap<_, _> =
        copy.tables.iter().map(|one| (key(&one.database, &one.table), (one.rows, one.hash.as_str()))).collect();
    let mut differences = Vec::new();
    for one in &point.tables {
        match there.get(&key(&one.database, &one.table)) {
            None => differences.push(format!("{} {} is not in the copy", one.database, one.table)),
            Some((rows, _)) if *rows != one.rows => {
                differences
                    .push(format!("{} {} has {rows} rows, the source had {}", one.database, one.table, one.rows));
            }
            Some((_, hash)) if *hash != one.hash => {
                differences.push(format!("{} {} has other rows than the source had", one.database, one.table));
            }
            Some(_) => {
                findings.tables += 1;
                findings.rows += one.rows;
            }
        }
    }
    if point.left_out.is_empty() {
        let known: BTreeSet<_> = point.tables.iter().map(|one| key(&one.database, &one.table)).collect();
        let more = there.keys().filter(|key| !known.contains(*key));
        differences.extend(more.map(|(database, table)| format!("{database} {table} was not in the source")));
    }
    let more = differences.len().saturating_sub(MOST_NAMED);
    findings.faults.extend(differences.into_iter().take(MOST_NAMED));
    if more > 0 {
        findings.faults.push(format!("and {more} more tables"));
    }
}

/// Runs a tool of PostgreSQL as the server's user. What it complains of is a fault of the backup.
async fn check(layout: &Layout, tool: &str, arguments: &[&str], findings: &mut Findings) -> Result<(), Error> {
    let program = layout.program(tool);
    if !Path::new(&program).exists() {
        findings.left_out.push(format!("{tool} is not installed"));
        return Ok(());
    }
    let mut command = tokio::process::Command::new(&program);
    command
        .args(arguments)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("PGOPTIONS", "-c default_transaction_read_only=off -c statement_timeout=0")
        .current_dir(layout.member_dir(server::MEMBER))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(user) = &layout.user {
        command.uid(user.uid).gid(user.gid);
    }
    let io = |source| Error::Io { action: "run", path: program.clone().into(), source };
    let output = tokio::time::timeout(CHECK_WITHIN, command.output()).await;
    let output = output.map_err(|_| Error::NoServer(format!("{tool} did not end")))?.map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if text.contains("data checksums are not enabled") {
        findings.left_out.push("the cluster has no page checksums".to_owned());
        return Ok(());
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(MOST_NAMED).collect();
    findings.faults.push(format!("{tool} ({}): {}", output.status, lines.join(" / ")));
    Ok(())
}
