//! A primary is killed or changed under live sessions: what each client sees, and that nothing happens twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::raw::Raw;
use crate::support::*;
use mainstay_router::protocol::FromRouter;
use tokio::io::AsyncWriteExt as _;
use tokio_postgres::{Client, NoTls};

async fn fail_over(primary: &mut Cluster, standby: &Cluster, control: &mut Control) {
    caught_up(primary, standby).await;
    primary.kill();
    control.point(1, None, &[]).await;
    standby.promote().await;
    control.point(2, Some(standby), &[]).await;
}

async fn text(client: &Client, question: &str) -> String {
    client.query_one(question, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_carried_over_with_its_settings_and_statements() {
    let (mut primary, standby, router, mut control) = pair().await;
    let client = router.connect().await;
    let statement = client.prepare("select $1::int + 1").await.unwrap();
    client.batch_execute("set timezone to 'Asia/Tokyo'; set application_name to 'it''s \\ me'").await.unwrap();
    client.batch_execute("set search_path to app, \"$user\", public; set work_mem to '3MB'").await.unwrap();
    fail_over(&mut primary, &standby, &mut control).await;
    let row = client.query_one(&statement, &[&1]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    assert_eq!(text(&client, "show timezone").await, "Asia/Tokyo");
    assert_eq!(text(&client, "show application_name").await, "it's \\ me");
    assert_eq!(text(&client, "show search_path").await, "app, \"$user\", public");
    assert_eq!(text(&client, "show work_mem").await, "3MB");
    client.execute("insert into ledger values (1)", &[]).await.unwrap();
    let FromRouter::FailoverDone { epoch, carried, ended, in_flight, .. } = control.failover_done().await else {
        unreachable!("only these are returned")
    };
    assert_eq!((epoch, carried, ended, in_flight), (2, 1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_and_new_sessions_wait_for_the_new_primary() {
    let (mut primary, standby, router, mut control) = pair().await;
    let client = Arc::new(router.connect().await);
    caught_up(&primary, &standby).await;
    primary.kill();
    control.point(1, None, &[]).await;
    let held = Arc::clone(&client);
    let waiting = tokio::spawn(async move { held.execute("insert into ledger values (7)", &[]).await });
    let address = router.write;
    let new = tokio::spawn(async move { connect(address).await.execute("insert into ledger values (8)", &[]).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished() && !new.is_finished());
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    assert_eq!(new.await.unwrap().unwrap(), 1);
    assert_eq!(text(&client, "select string_agg(id::text, ' ' order by id) from ledger").await, "7 8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_state_of_its_own_ends_with_57p01() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut sessions = Vec::new();
    // An ordinary setting would be read back, and carried over.
    let setting = "set app.tenant = 'x'";
    for state in ["begin; insert into ledger values (1); listen y", "listen x", "create temp table t ()", setting] {
        let (client, mut connection) = config(router.write).connect(NoTls).await.unwrap();
        let ended = tokio::spawn(async move {
            loop {
                match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return code(&error).to_owned(),
                    None => return String::new(),
                }
            }
        });
        client.batch_execute(state).await.unwrap();
        sessions.push((client, ended, state));
    }
    fail_over(&mut primary, &standby, &mut control).await;
    for (client, ended, state) in sessions {
        let code = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("told").unwrap();
        assert_eq!(code, "57P01", "{state}");
        assert!(client.is_closed());
    }
    assert_eq!(text(&router.connect().await, "select count(*)::text from ledger").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_in_flight_gets_08007_once_and_the_session_lives() {
    let (mut primary, standby, router, mut control) = pair().await;
    let simple = Arc::new(router.connect().await);
    let extended = Arc::new(router.connect().await);
    let transaction = Arc::new(router.connect().await);
    transaction.batch_execute("begin").await.unwrap();
    let statement = "insert into ledger select 1 from pg_sleep(30)";
    let runs = [(&simple, true), (&extended, false), (&transaction, true)].map(|(client, is_simple)| {
        let client = Arc::clone(client);
        tokio::spawn(async move {
            if is_simple {
                client.batch_execute(statement).await
            } else {
                client.execute(statement, &[]).await.map(|_| ())
            }
        })
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    fail_over(&mut primary, &standby, &mut control).await;
    // What is in flight in a transaction is not committed before its COMMIT is.
    for (run, expected) in runs.into_iter().zip(["08007", "08007", "40001"]) {
        let error = tokio::time::timeout(Duration::from_secs(5), run).await.expect("told").unwrap().unwrap_err();
        assert_eq!(code(&error), expected, "{error:?}");
    }
    for (client, before) in [(&simple, "0"), (&extended, "1")] {
        assert_eq!(text(client, "select count(*)::text from ledger").await, before);
        client.execute("insert into ledger values (2)", &[]).await.unwrap();
    }
    assert_eq!(code(&transaction.simple_query("select 1").await.unwrap_err()), "25P02");
    transaction.batch_execute("rollback").await.unwrap();
    transaction.batch_execute("select 1").await.unwrap();
    let FromRouter::FailoverDone { in_flight, .. } = control.failover_done().await else {
        unreachable!("only these are returned")
    };
    assert_eq!(in_flight, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_lost_statement_in_a_pipeline_is_not_executed() {
    let (mut primary, standby, router, mut control) = pair().await;
    let client = router.connect().await;
    let lost = client.batch_execute("select pg_sleep(30)");
    let behind = client.batch_execute("insert into ledger values (1)");
    let failing_over = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fail_over(&mut primary, &standby, &mut control).await;
    };
    let (lost, behind, ()) = tokio::join!(lost, behind, failing_over);
    assert_eq!(code(&lost.unwrap_err()), "08007");
    // Sent to the old server too: its outcome is as unknown.
    assert_eq!(code(&behind.unwrap_err()), "08007");
    assert_eq!(text(&client, "select count(*)::text from ledger").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_under_load() {
    let (mut primary, standby, router, mut control) = pair().await;
    let admin = primary.admin("postgres").await;
    admin.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    drop(admin);
    let is_over = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..8_i64)
        .map(|writer| {
            let (is_over, total, address) = (Arc::clone(&is_over), Arc::clone(&total), router.write);
            tokio::spawn(async move { write_until(writer, address, &is_over, &total).await })
        })
        .collect();
    written(&total, 60).await;
    primary.kill();
    control.point(1, None, &[]).await;
    standby.promote().await;
    standby.admin("postgres").await.batch_execute("alter system set synchronous_standby_names = ''").await.unwrap();
    standby.admin("postgres").await.batch_execute("select pg_reload_conf()").await.unwrap();
    control.point(2, Some(&standby), &[]).await;
    written(&total, total.load(Ordering::Relaxed) + 60).await;
    is_over.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut unknown, mut stall) = (Vec::new(), Vec::new(), Duration::ZERO);
    for writer in writers {
        let done = writer.await.unwrap();
        acknowledged.extend(done.acknowledged);
        unknown.extend(done.unknown);
        stall = stall.max(done.stall);
    }
    let client = router.connect().await;
    let rows = client.query("select id, count(*) from ledger group by id", &[]).await.unwrap();
    let present: std::collections::BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(present.values().all(|count| *count == 1), "done twice");
    assert!(acknowledged.iter().all(|id| present.contains_key(id)), "acknowledged and lost");
    assert!(present.keys().all(|id| acknowledged.contains(id) || unknown.contains(id)));
    assert!(acknowledged.len() > 100 && unknown.len() <= 8, "{} {}", acknowledged.len(), unknown.len());
    println!("{} acknowledged, {} unknown, longest stall {stall:?}", acknowledged.len(), unknown.len());
}

/// Waits until that many writes were acknowledged: a slow machine takes its time.
async fn written(total: &AtomicU64, least: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while total.load(Ordering::Relaxed) < least {
        assert!(Instant::now() < deadline, "no more than {} writes", total.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Default)]
struct Written {
    acknowledged: Vec<i64>,
    unknown: Vec<i64>,
    stall: Duration,
}

/// One session, never opened again: an error that ends it fails the test.
async fn write_until(writer: i64, address: std::net::SocketAddr, is_over: &AtomicBool, total: &AtomicU64) -> Written {
    let client = connect(address).await;
    let statement = client.prepare("insert into ledger values ($1)").await.unwrap();
    let mut written = Written::default();
    let mut last = Instant::now();
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let id = writer * 1_000_000 + number;
        match client.execute(&statement, &[&id]).await {
            Ok(_) => {
                written.acknowledged.push(id);
                total.fetch_add(1, Ordering::Relaxed);
                written.stall = written.stall.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => {
                assert_eq!(code(&error), "08007", "{error:?}");
                written.unknown.push(id);
            }
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_lasts_too_long_ends_with_57p03() {
    let (mut primary, router, mut control) = single().await;
    let mut short = policy();
    short.generation = mainstay_types::Generation(2);
    short.hold_ms = 400;
    // Connected before the hold is short: on a slow machine connecting takes longer than that.
    let client = router.connect().await;
    control.policy(short).await;
    primary.kill();
    control.point(1, None, &[]).await;
    let since = Instant::now();
    let held = client.simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&held), "57P03");
    let new = config(router.write).connect(NoTls).await.err().expect("no server");
    assert_eq!(code(&new), "57P03");
    assert!(since.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_restarted_in_place_keeps_its_idle_sessions() {
    let (mut primary, router, _control) = single().await;
    let client = router.connect().await;
    let statement = client.prepare("select 1").await.unwrap();
    primary.kill();
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        primary.start().await;
    };
    let (row, ()) = tokio::join!(client.query_one(&statement, &[]), restarted);
    assert_eq!(row.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_primary_is_only_latency() {
    let (mut primary, standby, router, mut control) = pair().await;
    let client = Arc::new(router.connect().await);
    let busy = router.connect().await;
    let working = tokio::spawn(async move { busy.simple_query("select pg_sleep(0.4)").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    control.point(1, None, &[]).await;
    let held = Arc::clone(&client);
    let waiting = tokio::spawn(async move { held.execute("insert into ledger values (7)", &[]).await });
    // What was begun goes on while new statements wait.
    assert!(working.await.unwrap().is_ok());
    assert!(!waiting.is_finished());
    fail_over(&mut primary, &standby, &mut control).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_primary_that_lives_answers_nobody_after_the_change() {
    let (primary, standby, router, mut control) = pair().await;
    let client = Arc::new(router.connect().await);
    let running = Arc::clone(&client);
    let lost = tokio::spawn(async move { running.batch_execute("select pg_sleep(1)").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    caught_up(&primary, &standby).await;
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    let page = control.metrics().await;
    assert!(page.contains("mainstay_router_epoch 2"), "{page}");
    assert_eq!(code(&lost.await.unwrap().unwrap_err()), "08007");
    client.execute("insert into ledger values (1)", &[]).await.unwrap();
    let there = primary.admin("app").await;
    assert_eq!(text(&there, "select count(*)::text from ledger").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_standby_dies_goes_on_elsewhere() {
    let (primary, mut standby, router, mut control) = pair().await;
    control.point(1, Some(&primary), &[&standby]).await;
    let reader = connect(router.read).await;
    assert_eq!(text(&reader, "select pg_is_in_recovery()::text").await, "true");
    standby.kill();
    control.point(1, Some(&primary), &[]).await;
    assert_eq!(text(&reader, "select pg_is_in_recovery()::text").await, "false");
    assert_eq!(code(&reader.execute("insert into ledger values (1)", &[]).await.unwrap_err()), "25006");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_without_sync_is_void_up_to_its_sync() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.execute("select pg_sleep(30)").await;
    client.send(b'H', b"").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fail_over(&mut primary, &standby, &mut control).await;
    client.execute("insert into ledger values (1)").await;
    client.send(b'S', b"").await;
    let kinds = client.cycle().await;
    assert_eq!(kinds.iter().filter(|kind| kind.len() > 1).collect::<Vec<_>>(), ["08007", "ZI"], "{kinds:?}");
    client.execute("insert into ledger values (2)").await;
    client.send(b'S', b"").await;
    assert_eq!(client.cycle().await, ["1", "2", "C", "ZI"]);
    assert_eq!(text(&router.connect().await, "select string_agg(id::text, ' ') from ledger").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_half_sent_is_not_executed_and_the_rest_of_it_is_swallowed() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    let statement = format!("insert into ledger values (1) /* {} */\0", "x".repeat(200_000));
    let length = u32::try_from(statement.len() + 4).unwrap().to_be_bytes();
    client.stream.write_all(&[b"Q", length.as_slice(), &statement.as_bytes()[..100_000]].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    fail_over(&mut primary, &standby, &mut control).await;
    client.stream.write_all(&statement.as_bytes()[100_000..]).await.unwrap();
    assert_eq!(client.cycle().await, ["08007", "ZI"]);
    client.query("select count(*) from ledger where id > 0").await;
    assert_eq!(client.cycle().await, ["T", "D", "C", "ZI"]);
    assert_eq!(text(&router.connect().await, "select count(*)::text from ledger").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_flight_is_unknown_and_its_data_is_swallowed() {
    let (mut primary, standby, router, mut control) = pair().await;
    let mut client = Raw::connect(router.write).await;
    client.query("copy ledger (id) from stdin").await;
    assert_eq!(client.next().await.0, b'G');
    client.send(b'd', b"1\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    fail_over(&mut primary, &standby, &mut control).await;
    client.send(b'd', b"2\n").await;
    client.send(b'c', b"").await;
    client.query("select 1").await;
    assert_eq!(client.cycle().await, ["08007", "ZI"]);
    assert_eq!(client.cycle().await, ["T", "D", "C", "ZI"]);
    assert_eq!(text(&router.connect().await, "select count(*)::text from ledger").await, "0");
}

/// A planned change of the primary: what is begun is finished there, nothing is begun, and nobody sees an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_waits_for_what_is_begun_and_fails_no_statement() {
    let (mut primary, standby, router, mut control) = pair().await;
    let writers: Vec<_> = (0..4_i64)
        .map(|writer| {
            let address = router.write;
            tokio::spawn(async move {
                let mut client = connect(address).await;
                let begun = Instant::now();
                let mut written = 0_i64;
                while begun.elapsed() < Duration::from_secs(3) {
                    // Every second transaction has a pause in its middle.
                    let transaction = client.transaction().await.unwrap();
                    transaction.execute("insert into ledger values ($1)", &[&writer]).await.unwrap();
                    if written % 2 == 0 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    transaction.commit().await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let open = router.connect().await;
    open.batch_execute("begin; insert into ledger values (100)").await.unwrap();
    control.point(1, None, &[]).await;
    control.leaving(1).await;
    let count = "select count(*)::text from ledger";
    let before = text(&primary.admin("app").await, count).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(text(&primary.admin("app").await, count).await, before, "nothing new is begun");
    open.batch_execute("insert into ledger values (101); commit").await.unwrap();
    control.leaving(0).await;
    caught_up(&primary, &standby).await;
    primary.kill();
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    let mut written = 2;
    for writer in writers {
        written += writer.await.expect("no statement failed");
    }
    assert_eq!(text(&router.connect().await, count).await, written.to_string());
}

/// A hold that is given up: the same primary goes on, and nobody has noticed but by the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_given_up_ends_no_session() {
    let (primary, _standby, router, mut control) = pair().await;
    let open = router.connect().await;
    open.batch_execute("begin; insert into ledger values (1)").await.unwrap();
    let state = router.connect().await;
    state.batch_execute("create temp table mine (id int)").await.unwrap();
    control.point(1, None, &[]).await;
    control.leaving(1).await;
    let waiting = tokio::spawn(async move {
        state.batch_execute("insert into mine values (1)").await.unwrap();
        text(&state, "select count(*)::text from mine").await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    control.point(1, Some(&primary), &[]).await;
    assert_eq!(waiting.await.unwrap(), "1");
    open.batch_execute("commit").await.unwrap();
    assert_eq!(text(&open, "select count(*)::text from ledger").await, "1");
}
