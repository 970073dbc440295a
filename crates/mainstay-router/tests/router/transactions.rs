//! Transactions whose primary is lost or changed: told what is certain, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::raw::Raw;
use crate::support::*;
use mainstay_router::protocol::FromRouter;
use tokio_postgres::{Client, Error};

async fn fail_over(primary: &mut Cluster, standby: &Cluster, control: &mut Control) {
    primary.kill();
    control.point(1, None, &[]).await;
    standby.promote().await;
    control.point(2, Some(standby), &[]).await;
}

async fn count(client: &Client) -> i64 {
    client.query_one("select count(*) from ledger", &[]).await.unwrap().get(0)
}

fn detail(error: &Error) -> String {
    error.as_db_error().and_then(|error| error.detail()).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_told_40001_once_and_its_session_lives() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(router.connect().await);
    }
    let [simple, commit, rollback, extended, failed] = clients.try_into().unwrap_or_else(|_| panic!("five"));
    let insert = extended.prepare("insert into ledger values ($1)").await.unwrap();
    for client in [&simple, &commit, &rollback, &extended, &failed] {
        client.batch_execute("begin").await.unwrap();
        client.execute("insert into ledger values ($1)", &[&1_i64]).await.unwrap();
    }
    assert_eq!(code(&failed.batch_execute("select 1/0").await.unwrap_err()), "22012");
    caught_up(&primary, &standby).await;
    fail_over(&mut primary, &standby, &mut control).await;

    assert_eq!(code(&simple.batch_execute("insert into ledger values (2)").await.unwrap_err()), "40001");
    assert_eq!(code(&simple.batch_execute("select 1").await.unwrap_err()), "25P02");
    simple.batch_execute("rollback").await.unwrap();
    // A COMMIT that failed has ended the transaction.
    assert_eq!(code(&commit.batch_execute("commit").await.unwrap_err()), "40001");
    assert_eq!(count(&commit).await, 0);
    rollback.batch_execute("rollback").await.unwrap();
    assert_eq!(count(&rollback).await, 0);
    assert_eq!(code(&extended.execute(&insert, &[&2_i64]).await.unwrap_err()), "40001");
    assert_eq!(code(&extended.execute(&insert, &[&2_i64]).await.unwrap_err()), "25P02");
    extended.execute("rollback", &[]).await.unwrap();
    // It knew already.
    assert_eq!(code(&failed.batch_execute("select 1").await.unwrap_err()), "25P02");
    failed.batch_execute("rollback").await.unwrap();
    for client in [&simple, &commit, &rollback, &extended, &failed] {
        client.execute("insert into ledger values ($1)", &[&3_i64]).await.unwrap();
    }
    assert_eq!(count(&simple).await, 5);
    let FromRouter::FailoverDone { aborted, ended, in_flight, .. } = control.failover_done().await else {
        unreachable!("only these are returned")
    };
    assert_eq!((aborted, ended, in_flight), (5, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_cut_in_a_transaction_is_void_up_to_its_sync() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.query("begin").await;
    assert_eq!(client.cycle().await, ["C", "ZT"]);
    client.execute("select pg_sleep(30)").await;
    client.send(b'H', b"").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    caught_up(&primary, &standby).await;
    fail_over(&mut primary, &standby, &mut control).await;
    client.execute("insert into ledger values (1)").await;
    client.send(b'S', b"").await;
    let kinds = client.cycle().await;
    assert_eq!(kinds.iter().filter(|kind| kind.len() > 1).collect::<Vec<_>>(), ["40001", "ZE"], "{kinds:?}");
    client.query("insert into ledger values (2)").await;
    assert_eq!(client.cycle().await, ["25P02", "ZE"]);
    client.query("commit").await;
    assert_eq!(client.cycle().await, ["C", "ZI"]);
    assert_eq!(count(&router.connect().await).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_flight_is_resolved_when_the_number_of_its_transaction_is_known() {
    for is_replicated in [true, false] {
        let (mut primary, standby, router, mut control) = pair().await;
        let (known, unknown) = (Arc::new(router.connect().await), Arc::new(router.connect().await));
        let insert = known.prepare("insert into ledger values ($1)").await.unwrap();
        for client in [&known, &unknown] {
            client.batch_execute("begin").await.unwrap();
            client.execute(&insert, &[&1_i64]).await.ok();
        }
        known.batch_execute("rollback; begin").await.unwrap();
        unknown.batch_execute("rollback; begin; insert into ledger values (2)").await.unwrap();
        let xid = known.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
        let xid: String = xid.get(0);
        known.execute(&insert, &[&1_i64]).await.unwrap();
        caught_up(&primary, &standby).await;
        if !is_replicated {
            let there = standby.admin("postgres").await;
            there.batch_execute("alter system set primary_conninfo = ''").await.unwrap();
            there.batch_execute("select pg_reload_conf()").await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Nobody of that name acknowledges: commits wait, written and sent.
        let admin = primary.admin("postgres").await;
        admin.batch_execute("alter system set synchronous_standby_names = 'nobody'").await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let commits = [&known, &unknown].map(|client| {
            let client = Arc::clone(client);
            tokio::spawn(async move { client.batch_execute("commit").await })
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        if is_replicated {
            caught_up(&primary, &standby).await;
        }
        fail_over(&mut primary, &standby, &mut control).await;
        let [resolved, unresolved] = commits;
        let resolved = resolved.await.unwrap().unwrap_err();
        assert_eq!(code(&resolved), "08007");
        let expected = if is_replicated { "was committed" } else { "was not committed" };
        assert!(detail(&resolved).contains(&format!("transaction {xid} {expected}")), "{}", detail(&resolved));
        let unresolved = unresolved.await.unwrap().unwrap_err();
        assert_eq!((code(&unresolved), detail(&unresolved).as_str()), ("08007", ""));
        assert_eq!(count(&known).await, if is_replicated { 2 } else { 0 });
        unknown.batch_execute("insert into ledger values (3)").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_behind_a_hold_fails_no_statement() {
    let (mut primary, standby, router, mut control) = pair().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..6_i64)
        .map(|writer| {
            let (is_over, total, address) = (Arc::clone(&is_over), Arc::clone(&total), router.write);
            tokio::spawn(async move {
                let mut client = connect(address).await;
                let insert = client.prepare("insert into ledger values ($1)").await.unwrap();
                let mut written = 0;
                while !is_over.load(Ordering::Relaxed) {
                    if writer % 2 == 0 {
                        client.execute(&insert, &[&writer]).await.unwrap();
                        written += 1;
                    } else {
                        let transaction = client.transaction().await.unwrap();
                        for _ in 0..2 {
                            transaction.execute(&insert, &[&writer]).await.unwrap();
                        }
                        transaction.commit().await.unwrap();
                        written += 2;
                    }
                    total.fetch_add(1, Ordering::Relaxed);
                }
                written
            })
        })
        .collect();
    let more = async |least: u64| {
        let least = total.load(Ordering::Relaxed) + least;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while total.load(Ordering::Relaxed) < least {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    more(60).await;
    let idle = router.connect().await;
    idle.batch_execute("set timezone = 'Asia/Tokyo'").await.unwrap();
    control.point(1, None, &[]).await;
    control.leaving(0).await;
    let done = total.load(Ordering::Relaxed);
    caught_up(&primary, &standby).await;
    assert_eq!(total.load(Ordering::Relaxed), done, "something ran behind the hold");
    primary.kill();
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    more(60).await;
    is_over.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert_eq!(count(&router.connect().await).await, written);
    assert_eq!(idle.query_one("show timezone", &[]).await.unwrap().get::<_, String>(0), "Asia/Tokyo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_tells_who_is_still_at_work_and_can_be_called_off() {
    let (primary, router, mut control) = single().await;
    let open = router.connect().await;
    open.batch_execute("begin; insert into ledger values (1)").await.unwrap();
    let idle = Arc::new(router.connect().await);
    idle.batch_execute("select 1").await.unwrap();
    control.point(1, None, &[]).await;
    control.leaving(1).await;
    let waiting = Arc::clone(&idle);
    let held = tokio::spawn(async move { waiting.batch_execute("insert into ledger values (2)").await });
    // What was begun goes on.
    open.batch_execute("insert into ledger values (3)").await.unwrap();
    assert!(!held.is_finished());
    control.point(1, Some(&primary), &[]).await;
    held.await.unwrap().unwrap();
    open.batch_execute("commit").await.unwrap();
    assert_eq!(count(&idle).await, 3);
}

/// The next transaction is begun in the statement that ends the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_with_a_begin_behind_it_says_what_became_of_the_first_and_begins_none() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut later = Raw::connect(router.write).await;
    let mut sent = Raw::connect(router.write).await;
    let mut xid = String::new();
    for client in [&mut later, &mut sent] {
        client.query("begin").await;
        assert_eq!(client.cycle().await, ["C", "ZT"]);
        client.query("insert into ledger values (1)").await;
        assert_eq!(client.cycle().await, ["C", "ZT"]);
        client.query("select pg_current_xact_id()::text").await;
        xid = client.row().await;
    }
    let admin = primary.admin("postgres").await;
    admin.batch_execute("alter system set synchronous_standby_names = 'nobody'").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let setting = "select setting from pg_settings where name = 'synchronous_standby_names'";
    while admin.query_one(setting, &[]).await.unwrap().get::<_, String>(0) != "nobody" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The checkpointer has its own time to see it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    sent.query("commit; begin").await;
    let is_waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while admin.query_one(is_waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(std::time::Instant::now() < deadline, "the commit waits for nobody");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    caught_up(&primary, &standby).await;
    fail_over(&mut primary, &standby, &mut control).await;
    let (kind, body) = sent.next().await;
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(kind == b'E' && body.contains("C08007"), "{body}");
    let detail =
        format!("transaction {xid} was committed; do not repeat it; of what was sent behind its end nothing is");
    assert!(body.contains(&detail), "{body}");
    assert_eq!(sent.cycle().await, ["ZE"]);
    // Nothing was sent of this one: it is lost, and so is what follows, up to its end.
    later.query("commit; begin").await;
    assert_eq!(later.cycle().await, ["40001", "ZE"]);
    for client in [&mut later, &mut sent] {
        client.query("insert into ledger values (2)").await;
        assert_eq!(client.cycle().await, ["25P02", "ZE"]);
        client.query("commit").await;
        assert_eq!(client.cycle().await, ["C", "ZI"]);
    }
    assert_eq!(count(&router.connect().await).await, 1);
}
