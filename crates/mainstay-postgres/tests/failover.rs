//! The life of a cluster, with real servers: made, cloned, synchronous, killed, promoted, made whole again.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]
#![expect(clippy::print_stdout, reason = "timings are figures that people compare")]

#[expect(unreachable_pub, reason = "shared by test programs")]
mod support;

use std::time::{Duration, Instant};

use mainstay_decide::observed::DataDirectory;
use mainstay_postgres::access::{AccessError, Use};
use mainstay_postgres::{clone, cluster, control_file, inspect, loss, metrics, plain, prepare, probe, proof, start};
use mainstay_types::{Lsn, Member, Secret, Timeline};
use support::{Cluster, WITHIN, signal};

const A: Member = Member::A;
const B: Member = Member::B;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_replaced_without_losing_an_acknowledged_write() {
    let mut cluster = Cluster::new("users");
    bring_up_pair(&mut cluster).await;
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE ledger (id int)").await.unwrap();
    for id in 0..50 {
        application.execute("INSERT INTO ledger VALUES ($1)", &[&id]).await.unwrap();
    }

    let fenced = cluster.kill(A).await;
    assert_eq!(cluster.layout.look(A), DataDirectory::Complete);
    assert_eq!(proof::is_alive(&cluster.layout, A, mainstay_types::Timestamp::default()).value(), Some(&false));
    let silent = probe::probe(&cluster.access[&A]).await.unwrap_err();
    assert!(matches!(silent, AccessError::NotListening(_) | AccessError::Failed { .. }), "{silent}");

    let promoted = cluster::promote(&cluster.access[&B]).await.unwrap();
    println!("proof of death after {fenced:?}, promoted in {:?}", promoted.took);
    assert_eq!(promoted.timeline, Timeline(2));
    assert!(promoted.lsn > Lsn::default());
    let rows = cluster.application(B).connect().await.unwrap();
    let rows: i64 = rows.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap().get(0);
    assert_eq!(rows, 50, "every acknowledged write is there");
    let answer = cluster.until(B, |answer| !answer.is_in_recovery).await;
    assert!(answer.synchronous.is_empty(), "a promoted member must not wait for itself: {answer:?}");
    assert_eq!(cluster::promote(&cluster.access[&B]).await.unwrap().lsn, promoted.lsn, "twice is once");

    let begun = Instant::now();
    cluster.clone(A, B).await;
    let is_kept_aside = || cluster.layout.member_dir(A).join("data.old-1").exists();
    assert!(is_kept_aside(), "the old directory is evidence until the copy streams");
    println!("cloned again in {:?}", begun.elapsed());
    cluster.start(A, Some(B)).await;
    let answer = cluster.until(A, |answer| answer.is_streaming).await;
    println!("streaming again after {:?}", begun.elapsed());
    assert_eq!(answer.timeline, Timeline(2));
    assert_eq!(clone::drop_old(&cluster.layout, A).unwrap(), 1);
    assert!(!cluster.layout.member_dir(A).join("data.old-1").exists());
    println!("synchronous again in {:?}", cluster::set_synchronous(&cluster.access[&B], &[A]).await.unwrap());

    let page = metrics::metrics(&cluster.access[&B]).await;
    for expected in [
        "pg_up{member=\"b\"} 1",
        "pg_replication_is_replica{member=\"b\"} 0",
        "pg_replication_lag_bytes{member=\"b\",application_name=\"mainstay_a\",sync_state=\"quorum\"}",
        "pg_stat_database_xact_commit_total{member=\"b\",datname=\"users\"}",
    ] {
        assert!(page.contains(expected), "{expected} in\n{page}");
    }
    assert!(metrics::metrics(&cluster.access[&A]).await.contains("pg_replication_is_replica{member=\"a\"} 1"));
    let begun = Instant::now();
    cluster.end().await;
    println!("stopped in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_ended_in_order_says_so_and_follows_its_successor_as_it_is() {
    let mut cluster = Cluster::new("users");
    bring_up_pair(&mut cluster).await;
    let data = cluster.layout.data(A);
    assert!(!control_file::read(&data).unwrap().is_shut_down, "it runs");
    cluster::checkpoint(&cluster.access[&A]).await.unwrap();
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE t AS SELECT 1 AS id").await.unwrap();
    cluster.stop(A).await;
    let control = control_file::read(&data).unwrap();
    assert!(control.is_shut_down && control.timeline == Timeline(1) && control.redo == control.checkpoint);
    let promoted = cluster::promote(&cluster.access[&B]).await.unwrap();
    assert!(promoted.lsn > control.checkpoint, "{} is behind the last record of {}", promoted.lsn, control.checkpoint);
    cluster.start(A, Some(B)).await;
    let answer = cluster.until(A, |answer| answer.is_streaming && answer.timeline == Timeline(2)).await;
    assert!(answer.is_in_recovery);
    // It follows on the new timeline although its files say so later, at its next restart point: it may take over.
    cluster.stop(B).await;
    let answer = cluster.until(A, |answer| !answer.is_streaming).await;
    assert_eq!(answer.timeline, Timeline(2));
    cluster.start(B, None).await;
    cluster.until(A, |answer| answer.is_streaming).await;
    cluster::set_synchronous(&cluster.access[&B], &[A]).await.unwrap();
    cluster.stop(A).await;
    assert!(!control_file::read(&data).unwrap().is_shut_down, "a standby that ended is no primary that did");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_fallen_primary_tells_what_its_successor_lacks() {
    let mut cluster = Cluster::new("users");
    bring_up_pair(&mut cluster).await;
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    cluster::set_synchronous(&cluster.access[&A], &[]).await.unwrap();
    let receiver = receiver_of(&cluster).await;
    signal(receiver, rustix::process::Signal::STOP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    for id in 0..7 {
        application.execute("INSERT INTO t VALUES ($1)", &[&id]).await.unwrap();
    }
    cluster.kill(A).await;
    // What the frozen receiver had not read from its socket dies with it.
    signal(receiver, rustix::process::Signal::KILL);
    cluster.until(B, |answer| answer.is_in_recovery && !answer.is_streaming).await;
    let promoted = cluster::promote(&cluster.access[&B]).await.unwrap();
    let lost = loss::after(&cluster.layout, A, Timeline(1), promoted.lsn).unwrap();
    let rows = cluster.application(B).connect().await.unwrap();
    let rows: i64 = rows.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    let missing = u64::try_from(7 - rows).unwrap();
    println!("{rows} rows are there; lost: {lost:?}");
    assert!(missing > 0 && lost.commits == missing && lost.bytes >= missing * 34, "{rows} rows are there, {lost:?}");
    let unread = loss::after(&cluster.layout, A, Timeline(7), promoted.lsn).unwrap_err();
    assert!(unread.contains("cannot be read from"), "a log that was not read is no log without commits: {unread}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_of_sizes_standbys_slow_statements_and_locks() {
    let mut cluster = Cluster::new("users");
    bring_up_pair(&mut cluster).await;
    let overview = inspect::overview(&cluster.access[&A]).await.unwrap();
    assert!(overview.has_checksums && overview.version.contains('.') && overview.wal_bytes > 0, "{overview:?}");
    assert!(overview.databases.iter().any(|one| one.name == "users" && one.bytes > 0), "{overview:?}");
    assert_eq!(overview.slots, vec![]);
    let replicas = inspect::replicas(&cluster.access[&A]).await.unwrap();
    assert_eq!(replicas.iter().map(|one| (one.member, one.sync_state.as_str())).collect::<Vec<_>>(), [(B, "quorum")]);
    let holder = cluster.application(A).connect().await.unwrap();
    holder.batch_execute("CREATE TABLE t (id int, word text)").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let waiter = cluster.application(A).connect().await.unwrap();
    let waiting = tokio::spawn(async move { waiter.batch_execute("INSERT INTO t VALUES (1, 'a secret')").await });
    let access = cluster.access[&A].in_database("users");
    let blocked = blocked(&access).await;
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(blocked[0].wants.ends_with("on t"), "{blocked:?}");
    assert_eq!(blocked[0].text, "INSERT INTO t VALUES (?, ?)");
    let first = &blocked[0].blocked_by[0];
    assert_eq!((first.state.as_str(), first.is_waiting), ("idle in transaction", false));
    let slow = inspect::slow(&cluster.access[&A]).await.unwrap();
    assert_eq!(slow.running.len(), 2, "{slow:?}");
    assert_eq!(slow.running[0].pid, first.pid, "the longest transaction is first");
    assert!(!format!("{slow:?}{blocked:?}").contains("secret"), "{slow:?}");

    let nobody = inspect::end(&access, 1, inspect::End::Cancel).await.unwrap();
    assert_eq!(nobody, inspect::Ended::NotThere);
    let sent = inspect::end(&access, first.pid, inspect::End::Terminate).await.unwrap();
    assert!(matches!(sent, inspect::Ended::Sent { .. }), "{sent:?}");
    waiting.await.unwrap().unwrap();
    assert_eq!(inspect::checksum_failures(&access).await.unwrap(), 0);
    cluster.end().await;
}

async fn blocked(access: &mainstay_postgres::Access) -> Vec<inspect::Blocked> {
    let begun = Instant::now();
    loop {
        let blocked = inspect::locks(access).await.unwrap();
        if !blocked.is_empty() || begun.elapsed() > WITHIN {
            return blocked;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn count_is_kept_of_statements_but_never_of_passwords() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    let missing = inspect::slow(&cluster.access[&A]).await.unwrap();
    if !cluster.layout.has_statistics() {
        println!("skipped: the library of pg_stat_statements is not installed");
        assert!(missing.totals.is_none() && missing.missing.unwrap().contains("not installed"));
        return cluster.end().await;
    }
    assert!(missing.totals.is_none() && missing.missing.unwrap().contains("mainstay up"), "the view is not made yet");
    prepare::prepare(&cluster.access[&A], "users", &cluster.passwords).await.unwrap();
    prepare::prepare(&cluster.access[&A], "users", &cluster.passwords).await.unwrap();
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE t (id int); ALTER ROLE users PASSWORD 'geheim'").await.unwrap();
    for _ in 0..3 {
        application.batch_execute("SELECT 12345 FROM t").await.unwrap();
    }
    let slow = inspect::slow(&cluster.access[&A]).await.unwrap();
    let totals = slow.totals.expect("it is kept");
    let of_t: Vec<u64> = totals.iter().filter(|one| one.text == "SELECT $1 FROM t").map(|one| one.calls).collect();
    assert_eq!(of_t, [3], "{totals:?}");
    let client = cluster.access[&A].connect().await.unwrap();
    let kept: i64 = client
        .query_one("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%geheim%'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, 0);
    cluster.end().await;
}

async fn bring_up_pair(cluster: &mut Cluster) {
    let begun = Instant::now();
    let step = |name: &str| println!("{:>6} ms  {name}", begun.elapsed().as_millis());
    cluster.init(A).await;
    step("initialised");
    cluster.start(A, None).await;
    step("started");
    prepare::prepare(&cluster.access[&A], "users", &cluster.passwords).await.unwrap();
    step("prepared");
    cluster.clone(B, A).await;
    step("cloned");
    cluster.start(B, Some(A)).await;
    cluster.until(B, |answer| answer.is_streaming && answer.is_in_recovery).await;
    step("streaming");
    cluster::set_synchronous(&cluster.access[&A], &[B]).await.unwrap();
    step("synchronous");
    let answer = cluster.until(A, |answer| answer.standbys.contains_key(&B)).await;
    assert_eq!(answer.synchronous, vec![B]);
    assert_eq!(answer.timeline, Timeline(1));
    let behind = cluster.until(B, |_| true).await;
    assert_eq!(behind.timeline, Timeline(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_means_that_commits_wait_from_that_moment_until_it_is_off() {
    let mut cluster = Cluster::new("users");
    bring_up_pair(&mut cluster).await;
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    cluster::set_synchronous(&cluster.access[&A], &[]).await.unwrap();
    let receiver = receiver_of(&cluster).await;
    cluster::set_synchronous(&cluster.access[&A], &[B]).await.unwrap();

    signal(receiver, rustix::process::Signal::STOP);
    let waiting = tokio::spawn(async move { application.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished(), "the commit waits for the frozen standby");
    let took = cluster::set_synchronous(&cluster.access[&A], &[]).await.unwrap();
    tokio::time::timeout(WITHIN, waiting).await.expect("it was let go").unwrap();
    println!("made asynchronous in {took:?}");
    signal(receiver, rustix::process::Signal::CONT);

    // A restart in place keeps what commits wait for: the record counts on it.
    cluster::set_synchronous(&cluster.access[&A], &[B]).await.unwrap();
    cluster.kill(A).await;
    cluster.start(A, None).await;
    assert_eq!(cluster.until(A, |_| true).await.synchronous, vec![B]);
    cluster.until(B, |answer| answer.is_streaming).await;
    cluster.end().await;
}

async fn receiver_of(cluster: &Cluster) -> u32 {
    let client = cluster.access[&B].client(Use::Work).await.unwrap();
    let row = client.query_one("SELECT pid FROM pg_stat_wal_receiver", &[]).await.unwrap();
    u32::try_from(row.get::<_, i32>(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_alive_and_silent() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    let client = cluster.access[&A].connect().await.unwrap();
    let pids = client.query("SELECT pid FROM pg_stat_activity", &[]).await.unwrap();
    let mut pids: Vec<u32> = pids.iter().map(|row| u32::try_from(row.get::<_, i32>(0)).unwrap()).collect();
    pids.push(cluster.pid(A));
    for pid in &pids {
        signal(*pid, rustix::process::Signal::STOP);
    }
    let begun = Instant::now();
    for _ in 0..3 {
        let error = probe::probe(&cluster.access[&A]).await.unwrap_err();
        assert!(matches!(error, AccessError::Silent { .. }), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "a look has a deadline");
    assert_eq!(proof::check(&cluster.layout, A), proof::Proof::Alive);
    assert!(matches!(start::prepare(&cluster.start_of(A, None)), Err(start::StartError::Alive(A))));
    for pid in &pids {
        signal(*pid, rustix::process::Signal::CONT);
    }
    cluster.until(A, |answer| !answer.is_in_recovery).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_does_not_make_a_server_look_silent() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    let work = cluster.access[&A].client(Use::Work).await.unwrap();
    let working = tokio::spawn(async move { work.execute("SELECT pg_sleep(1)", &[]).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    probe::probe(&cluster.access[&A]).await.unwrap();
    assert!(!working.is_finished());
    working.await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_backends_of_a_dead_postmaster_count_as_alive() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    let client = cluster.access[&A].connect().await.unwrap();
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let backend = u32::try_from(backend).unwrap();
    signal(backend, rustix::process::Signal::STOP);
    let mut server = cluster.servers.remove(&A).unwrap();
    server.kill().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(proof::check(&cluster.layout, A), proof::Proof::Alive, "its postmaster is dead, a backend is not");
    assert!(matches!(start::prepare(&cluster.start_of(A, None)), Err(start::StartError::Alive(A))));
    signal(backend, rustix::process::Signal::KILL);
    let begun = Instant::now();
    while proof::check(&cluster.layout, A) != proof::Proof::Dead {
        assert!(begun.elapsed() < WITHIN);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ids of the segments that a member's lock file names and the kernel has.
fn segment(cluster: &Cluster, member: mainstay_types::Member) -> Option<String> {
    let lock = std::fs::read_to_string(cluster.layout.data(member).join("postmaster.pid")).ok()?;
    let id = lock.lines().nth(6)?.split_whitespace().nth(1)?.to_owned();
    is_there(&id).then_some(id)
}

fn is_there(segment: &str) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(segment))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_replaced_leaves_no_shared_memory() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    cluster.clone(B, A).await;
    cluster.start(B, Some(A)).await;
    let [alive, dead] = [A, B].map(|member| segment(&cluster, member).unwrap());
    assert!(!proof::remove_segment(&cluster.layout, B).unwrap(), "a server was attached to it");
    assert!(is_there(&dead));
    cluster.kill(B).await;
    assert!(is_there(&dead), "a killed server leaves its segment");
    cluster.clone(B, A).await;
    assert!(!is_there(&dead), "it is still there");
    assert!(is_there(&alive));
    cluster.start(B, Some(A)).await;
    cluster.until(B, |answer| answer.is_streaming).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_started_anew_after_a_crash_leaves_no_shared_memory() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    let left = segment(&cluster, A).unwrap();
    cluster.kill(A).await;
    assert!(is_there(&left), "a killed server leaves its segment");
    cluster.start(A, None).await;
    assert!(!is_there(&left), "it is still there");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_without_a_primary_stays_a_standby_until_it_is_promoted() {
    let mut cluster = Cluster::new("users");
    cluster.init(A).await;
    cluster.start(A, None).await;
    cluster.clone(B, A).await;
    cluster.start(B, Some(A)).await;
    cluster.until(B, |answer| answer.is_streaming).await;
    cluster.kill(A).await;
    cluster.kill(B).await;
    cluster.start(B, None).await;
    let answer = cluster.until(B, |_| true).await;
    assert!(answer.is_in_recovery, "as primary it would go on on the timeline of the other: {answer:?}");
    assert_eq!(cluster::promote(&cluster.access[&B]).await.unwrap().timeline, Timeline(2));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_reach_their_own_database_only_and_passwords_follow() {
    let mut cluster = Cluster::new("my-app");
    cluster.init(A).await;
    cluster.start(A, None).await;
    prepare::prepare(&cluster.access[&A], "my-app", &cluster.passwords).await.unwrap();
    let hash = "SELECT string_agg(rolpassword, ' ' ORDER BY rolname) FROM pg_authid";
    let client = cluster.access[&A].client(Use::Work).await.unwrap();
    let before: String = client.query_one(hash, &[]).await.unwrap().get(0);
    prepare::prepare(&cluster.access[&A], "my-app", &cluster.passwords).await.unwrap();
    let after: String = client.query_one(hash, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "what is prepared is left as it is");

    let application = cluster.application(A);
    application.connect().await.unwrap().batch_execute("CREATE TABLE t (id int)").await.unwrap();
    for database in ["postgres", "mainstay_ledger", "template1"] {
        let error = application.in_database(database).connect().await.unwrap_err();
        assert!(matches!(error, AccessError::Denied { .. }), "{database}: {error}");
    }
    cluster.passwords.application = Secret::new("another");
    let error = cluster.application(A).connect().await.unwrap_err();
    assert!(matches!(error, AccessError::Denied { .. }), "{error}");
    prepare::prepare(&cluster.access[&A], "my-app", &cluster.passwords).await.unwrap();
    cluster.application(A).connect().await.unwrap();
    let reserved = prepare::prepare(&cluster.access[&A], "mainstay_ledger", &cluster.passwords).await;
    assert!(matches!(reserved, Err(prepare::PrepareError::ReservedName(_))));

    let is_anyone_listening = std::fs::read_to_string("/proc/net/tcp").unwrap();
    assert!(cluster.layout.socket_dir(A).join(".s.PGSQL.5432").exists());
    assert!(!is_anyone_listening.is_empty());
    let addresses: String = client.query_one("SHOW listen_addresses", &[]).await.unwrap().get(0);
    assert_eq!(addresses, "", "nothing on TCP");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_finished_work_can_be_begun_again_and_complete_work_is_not_overwritten() {
    let mut cluster = Cluster::new("users");
    let log = cluster.log("init");
    let password = cluster.passwords.superuser.clone();
    // Killed half-way: the folder is there, the mark is not.
    let task = mainstay_postgres::init::prepare(&cluster.layout, A, &password, &log).unwrap();
    let mut child = plain::start(&task.spec(mainstay_types::Nonce::from_bytes([2; 16]))).unwrap();
    while !cluster.layout.unfinished(A).exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    child.kill().await.unwrap();
    assert_eq!(cluster.layout.look(A), DataDirectory::Unfinished);
    cluster.init(A).await;
    assert_eq!(cluster.layout.look(A), DataDirectory::Complete);
    assert!(!cluster.layout.member_dir(A).join("initial.pass").exists());
    assert!(mainstay_postgres::init::prepare(&cluster.layout, A, &password, &log).is_err());

    // A tool that fails says why, in its own words.
    cluster.start(A, None).await;
    let task = cluster.clone_task(B, A).await;
    std::fs::write(cluster.layout.passfile(B), "").unwrap();
    let ended = plain::run(&task, WITHIN).await.unwrap();
    let error = clone::finish(&cluster.layout, B, &task, &ended).unwrap_err();
    assert!(error.to_string().starts_with("pg_basebackup ended with exit 1: pg_basebackup: error:"), "{error}");
    assert!(matches!(cluster.layout.look(B), DataDirectory::Absent | DataDirectory::Unfinished));
    assert!(cluster.folder().exists());
    cluster.end().await;
}
