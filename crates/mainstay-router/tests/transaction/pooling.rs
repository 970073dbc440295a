//! Many clients over few servers: what is one client's stays its own, and nobody notices that servers change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::raw::Raw;
use crate::support::*;
use futures_util::{SinkExt as _, StreamExt as _, pin_mut};
use mainstay_router::protocol::PoolPolicy;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// A router with one primary and a pool of this size.
pub(crate) async fn pooled(size: u32) -> (Cluster, Router, Control) {
    with_pool(PoolPolicy { mode: mode(), size, ..PoolPolicy::default() }).await
}

pub(crate) async fn with_pool(pool: PoolPolicy) -> (Cluster, Router, Control) {
    let (primary, router, mut control) = single().await;
    let mut narrow = policy();
    narrow.generation = mainstay_types::Generation(2);
    narrow.max_clients = 400;
    narrow.pool = pool;
    control.policy(narrow).await;
    (primary, router, control)
}

async fn backend(client: &Client) -> i32 {
    client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

pub(crate) async fn text(client: &Client, question: &str) -> String {
    let rows = client.simple_query(question).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    });
    row.unwrap()
}

/// Waits until the pool looks like that.
pub(crate) async fn until(
    control: &mut Control,
    what: &str,
    is_so: impl Fn(&mainstay_router::protocol::PoolState) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pool = control.pool().await;
        if is_so(&pool) {
            return;
        }
        assert!(Instant::now() < deadline, "never {what}: {pool:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_few_servers() {
    let (primary, router, mut control) = pooled(3).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(router.connect().await);
    }
    let admin = primary.admin("postgres").await;
    let question = "select count(*) from pg_stat_activity where usename = 'app'";
    let servers: i64 = admin.query_one(question, &[]).await.unwrap().get(0);
    assert!((1..=3).contains(&servers), "{servers}");
    let all = clients.iter().map(|client| async move {
        let one: i32 = client.query_one("select 1", &[]).await.unwrap().get(0);
        one
    });
    let sum: i32 = futures_util::future::join_all(all).await.iter().sum();
    assert_eq!(sum, 60);
    let servers: i64 = admin.query_one(question, &[]).await.unwrap().get(0);
    assert!((1..=3).contains(&servers), "{servers}");
    until(&mut control, "idle", |pool| pool.clients_idle == 60).await;
    let pool = control.pool().await;
    assert_eq!((pool.size, pool.clients_active, pool.clients_waiting, pool.refused), (3, 0, 0, 0));
    assert!(pool.waited > 0 && pool.wait_p95_us.is_some(), "{pool:?}");
    assert!(pool.acquired >= 120, "{pool:?}");
    let page = control.metrics().await;
    assert!(page.contains("mainstay_router_acquire_seconds_count{door=\"write\"}"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_statement_works_on_whichever_server_comes() {
    let (_primary, router, _control) = pooled(2).await;
    let (one, two, three) = (router.connect().await, router.connect().await, router.connect().await);
    let add = one.prepare("select $1::int + 1, pg_backend_pid()").await.unwrap();
    let other = two.prepare("select $1::int + 100, pg_backend_pid()").await.unwrap();
    let again = three.prepare("select $1::int + 1, pg_backend_pid()").await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..40 {
        // Somebody else holds one of the two servers for a while.
        let (holder, user) = if number % 2 == 0 { (&two, &one) } else { (&one, &two) };
        holder.batch_execute("begin").await.unwrap();
        let ((held, more), (statement, plus)) =
            if number % 2 == 0 { ((&other, 100), (&add, 1)) } else { ((&add, 1), (&other, 100)) };
        for _ in 0..2 {
            for (client, statement, plus) in [(holder, held, more), (user, statement, plus)] {
                let row = client.query_one(statement, &[&number]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), number + plus);
                seen.insert((plus, row.get::<_, i32>(1)));
            }
            assert_eq!(three.query_one(&again, &[&number]).await.unwrap().get::<_, i32>(0), number + 1);
        }
        holder.batch_execute("commit").await.unwrap();
    }
    assert_eq!(seen.len(), 4, "each was to meet both servers: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_one_client_is_never_seen_by_another() {
    let (_primary, router, mut control) = pooled(4).await;
    let mut quiet = config(router.write);
    quiet.application_name("quiet");
    let (other, connection) = quiet.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let owner = router.connect().await;
    owner
        .batch_execute("create temp table mine (x int); insert into mine values (1); select pg_advisory_lock(7)")
        .await
        .unwrap();
    let setter = router.connect().await;
    setter.batch_execute("set work_mem = '3MB'; set search_path = pg_catalog, \"$user\"").await.unwrap();
    setter.batch_execute("set timezone to 'Asia/Tokyo'; set application_name to 'setter'").await.unwrap();
    let roles = router.connect().await;
    roles.batch_execute("set app.tenant = 'secret'").await.unwrap();
    until(&mut control, "two tied", |pool| pool.clients_tied == 2).await;
    for _ in 0..30 {
        assert_eq!(text(&owner, "select count(*) from mine").await, "1");
        assert_eq!(
            text(&owner, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").await,
            "1"
        );
        assert_eq!(text(&roles, "select current_setting('app.tenant', true)").await, "secret");
        assert_eq!(text(&setter, "show work_mem").await, "3MB");
        assert_eq!(text(&setter, "show search_path").await, "pg_catalog, \"$user\"");
        assert_eq!(text(&setter, "show timezone").await, "Asia/Tokyo");
        assert_eq!(text(&setter, "show application_name").await, "setter");
        assert_eq!(text(&other, "select to_regclass('mine')::text").await, "");
        assert_eq!(text(&other, "select pg_try_advisory_xact_lock(7)").await, "f");
        assert_eq!(text(&other, "select coalesce(current_setting('app.tenant', true), '')").await, "");
        assert_eq!(text(&other, "show work_mem").await, "4MB");
        assert_eq!(text(&other, "show search_path").await, "\"$user\", public");
        assert_ne!(text(&other, "show timezone").await, "Asia/Tokyo");
        assert_eq!(text(&other, "show application_name").await, "quiet");
    }
    setter.batch_execute("reset work_mem").await.unwrap();
    assert_eq!(text(&setter, "show work_mem").await, "4MB");
    // Gone with its owner: the next to come has a server without it.
    drop((owner, roles));
    until(&mut control, "free", |pool| pool.clients_tied == 0).await;
    assert_eq!(text(&other, "select pg_try_advisory_xact_lock(7)").await, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_was_rolled_back_is_not_carried() {
    let (_primary, router, _control) = pooled(1).await;
    let (one, two) = (router.connect().await, router.connect().await);
    one.batch_execute("begin; set work_mem = '7MB'; rollback").await.unwrap();
    assert_eq!(text(&one, "show work_mem").await, "4MB");
    assert_eq!(text(&two, "show work_mem").await, "4MB");
    one.batch_execute("begin; set work_mem = '7MB'; commit").await.unwrap();
    assert_eq!(text(&two, "show work_mem").await, "4MB");
    assert_eq!(text(&one, "show work_mem").await, "7MB");
    one.batch_execute("discard all").await.unwrap();
    assert_eq!(text(&one, "show work_mem").await, "4MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_with_ordinary_settings_survives_a_failover() {
    let (mut primary, router, mut control) = pooled(2).await;
    let standby = primary.standby().await;
    let client = router.connect().await;
    client.batch_execute("set work_mem = '3MB'; set search_path = app, public").await.unwrap();
    caught_up(&primary, &standby).await;
    primary.kill();
    control.point(1, None, &[]).await;
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    assert_eq!(text(&client, "show work_mem").await, "3MB");
    assert_eq!(text(&client, "show search_path").await, "app, public");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_hears_and_others_do_not() {
    let (_primary, router, mut control) = pooled(2).await;
    let (listener, mut connection) = config(router.write).connect(NoTls).await.unwrap();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            tx.send(message).ok();
        }
    });
    listener.batch_execute("listen news").await.unwrap();
    until(&mut control, "tied", |pool| pool.clients_tied == 1 && pool.clients_active == 1).await;
    let mut silent = Raw::connect(router.write).await;
    let speaker = router.connect().await;
    for _ in 0..10 {
        speaker.batch_execute("notify news, 'hello'").await.unwrap();
        silent.query("select 1").await;
        assert_eq!(silent.cycle().await, ["T", "D", "C", "ZI"]);
    }
    for _ in 0..10 {
        let next = tokio::time::timeout(Duration::from_secs(5), rx.recv()).await.expect("a notification").unwrap();
        assert!(matches!(next, AsyncMessage::Notification(note) if note.payload() == "hello"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_keep_their_order_and_their_errors() {
    let (_primary, router, _control) = pooled(1).await;
    let (mut raw, other) = (Raw::connect(router.write).await, router.connect().await);
    for round in 0..5 {
        // A statement named before, a bad one, and one behind it in the same batch.
        raw.send(b'P', b"a\0select 1\0\0\0").await;
        raw.send(b'P', b"b\0select nonsense\0\0\0").await;
        raw.send(b'P', b"c\0select 3\0\0\0").await;
        raw.send(b'S', b"").await;
        raw.send(b'B', b"\0a\0\0\0\0\0\0\0").await;
        raw.send(b'E', &[0; 5]).await;
        raw.send(b'S', b"").await;
        raw.send(b'B', b"\0c\0\0\0\0\0\0\0").await;
        raw.send(b'E', &[0; 5]).await;
        raw.send(b'S', b"").await;
        raw.send(b'C', b"Sa\0").await;
        raw.send(b'D', b"Sa\0").await;
        raw.send(b'S', b"").await;
        assert_eq!(raw.cycle().await, ["1", "42703", "ZI"], "{round}");
        assert_eq!(raw.cycle().await, ["2", "D", "C", "ZI"], "{round}");
        assert_eq!(raw.cycle().await, ["26000", "ZI"], "{round}");
        assert_eq!(raw.cycle().await, ["3", "26000", "ZI"], "{round}");
        other.simple_query("select 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unnamed_statement_is_its_clients_own() {
    let (_primary, router, _control) = pooled(1).await;
    let (mut one, mut two) = (Raw::connect(router.write).await, Raw::connect(router.write).await);
    one.send(b'P', b"\0select 'one'\0\0\0").await;
    one.send(b'S', b"").await;
    assert_eq!(one.cycle().await, ["1", "ZI"]);
    two.send(b'B', &[0; 8]).await;
    two.send(b'S', b"").await;
    assert_eq!(two.cycle().await, ["26000", "ZI"]);
    two.send(b'P', b"\0select 'two'\0\0\0").await;
    two.send(b'S', b"").await;
    assert_eq!(two.cycle().await, ["1", "ZI"]);
    for (client, expected) in [(&mut one, "one"), (&mut two, "two")] {
        client.send(b'B', &[0; 8]).await;
        client.send(b'E', &[0; 5]).await;
        client.send(b'S', b"").await;
        assert_eq!(client.next().await.0, b'2');
        let (kind, row) = client.next().await;
        assert_eq!((kind, &row[6..]), (b'D', expected.as_bytes()));
        assert_eq!(client.cycle().await, ["C", "ZI"]);
    }
    two.query("select 1").await;
    two.cycle().await;
    two.send(b'D', b"S\0").await;
    two.send(b'S', b"").await;
    assert_eq!(two.cycle().await, ["26000", "ZI"], "a simple query drops it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_can_name_a_statement_of_the_protocol() {
    let (_primary, router, _control) = pooled(2).await;
    let (mut one, two) = (Raw::connect(router.write).await, router.connect().await);
    one.send(b'P', b"_pg3_0\0select 5\0\0\0").await;
    one.send(b'S', b"").await;
    assert_eq!(one.cycle().await, ["1", "ZI"]);
    two.simple_query("select 1").await.unwrap();
    for _ in 0..2 {
        one.query("execute _pg3_0").await;
        assert_eq!(one.cycle().await, ["T", "D", "C", "ZI"]);
    }
    one.query("begin").await;
    one.cycle().await;
    one.query("deallocate _pg3_0").await;
    assert_eq!(one.cycle().await, ["C", "ZT"]);
    one.query("commit").await;
    assert_eq!(one.cycle().await, ["C", "ZI"]);
    let gone = two.simple_query("execute _pg3_0").await.unwrap_err();
    assert_eq!(code(&gone), "26000");
    let statement = two.prepare("select 6").await.unwrap();
    two.batch_execute("deallocate all").await.unwrap();
    assert_eq!(code(&two.query(&statement, &[]).await.unwrap_err()), "26000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_of_another_client_is_not_read() {
    let (_primary, router, _control) = pooled(1).await;
    let (one, two) = (router.connect().await, router.connect().await);
    one.batch_execute("create sequence s; select nextval('s')").await.unwrap();
    assert_eq!(code(&two.batch_execute("select lastval()").await.unwrap_err()), "55000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_both_ways_over_one_server() {
    let (_primary, router, _control) = pooled(1).await;
    let clients = [router.connect().await, router.connect().await, router.connect().await];
    let copies = clients.iter().map(|client| async move {
        let sink = client.copy_in("copy ledger (id) from stdin").await.unwrap();
        pin_mut!(sink);
        for number in 0..2_000 {
            sink.send(std::io::Cursor::new(format!("{number}\n").into_bytes())).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 2_000);
        let out: Vec<_> = client.copy_out("copy ledger (id) to stdout").await.unwrap().collect().await;
        out.len()
    });
    let counts = futures_util::future::join_all(copies).await;
    assert!(counts.iter().all(|count| count % 2_000 == 0), "{counts:?}");
    assert_eq!(text(&clients[0], "select count(*) from ledger").await, "6000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_reaches_only_its_own_clients_statement() {
    let (_primary, router, _control) = pooled(1).await;
    let (one, two) = (Arc::new(router.connect().await), router.connect().await);
    let token = one.cancel_token();
    let running = Arc::clone(&one);
    let sleeping = tokio::spawn(async move { running.simple_query("select pg_sleep(20)").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    token.cancel_query(NoTls).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), sleeping).await.expect("cancelled").unwrap();
    assert_eq!(code(&ended.unwrap_err()), "57014");
    // An idle client's cancel meets nobody, also when it comes in the middle of another's statement.
    let work = async {
        for _ in 0..100 {
            two.simple_query("select pg_sleep(0.005)").await.unwrap();
        }
    };
    let noise = async {
        for _ in 0..100 {
            token.cancel_query(NoTls).await.unwrap();
        }
    };
    tokio::join!(work, noise);
    // Cancels that race with the end of one's own statement meet nobody else's either.
    let noise = tokio::spawn(async move {
        loop {
            token.cancel_query(NoTls).await.ok();
        }
    });
    for _ in 0..300 {
        let (_, other) = tokio::join!(one.simple_query("select 1"), two.simple_query("select 1"));
        other.unwrap();
    }
    noise.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_killed_in_a_transaction_leaves_nothing_behind() {
    let (_primary, router, mut control) = pooled(1).await;
    let other = router.connect().await;
    for _ in 0..5 {
        let (client, connection) = config(router.write).connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute("begin; insert into ledger values (1); set work_mem = '9MB'").await.unwrap();
        connection.abort();
        drop(client);
        assert_eq!(text(&other, "select count(*) from ledger").await, "0");
        assert_eq!(text(&other, "show work_mem").await, "4MB");
        other.batch_execute("insert into ledger values (2); delete from ledger").await.unwrap();
    }
    until(&mut control, "alone", |pool| pool.clients_active == 0 && pool.clients_idle == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_clients_are_served_in_their_order_and_not_for_ever() {
    let short = PoolPolicy { mode: mode(), size: 1, wait_ms: 700, ..PoolPolicy::default() };
    let (_primary, router, mut control) = with_pool(short).await;
    let holder = router.connect().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(router.connect().await);
    }
    holder.batch_execute("begin").await.unwrap();
    let mut waiting = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        let place = number as u64 + 1;
        waiting.push(tokio::spawn(async move {
            client.batch_execute(&format!("insert into ledger values ({number})")).await.unwrap();
            client
        }));
        until(&mut control, "in the queue", |pool| pool.clients_waiting == place).await;
    }
    holder.batch_execute("commit").await.unwrap();
    let mut served = Vec::new();
    for client in waiting {
        served.push(client.await.unwrap());
    }
    // Where the rows are says in which order the one server took them.
    let order = text(&holder, "select string_agg(id::text, ' ' order by ctid) from ledger").await;
    assert_eq!(order, "0 1 2 3 4 5");
    let client = served.pop().unwrap();
    holder.batch_execute("begin").await.unwrap();
    let since = Instant::now();
    let error = client.simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    let text = error.to_string() + &error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(text.contains("not begun"), "{text}");
    assert!((Duration::from_millis(600)..Duration::from_secs(10)).contains(&since.elapsed()));
    assert_eq!(control.pool().await.refused, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_told_at_once_and_who_keeps_the_servers_too() {
    let narrow = PoolPolicy { mode: mode(), size: 1, queue: 2, ..PoolPolicy::default() };
    let (_primary, router, mut control) = with_pool(narrow).await;
    let (holder, crowded) = (router.connect().await, router.connect().await);
    let mut waiters = Vec::new();
    for _ in 0..2 {
        waiters.push(Arc::new(router.connect().await));
    }
    holder.batch_execute("listen news").await.unwrap();
    until(&mut control, "tied", |pool| pool.tied_by.get("LISTEN") == Some(&1)).await;
    let waiting: Vec<_> = waiters
        .iter()
        .map(|client| {
            let client = Arc::clone(client);
            tokio::spawn(async move { client.batch_execute("insert into ledger values (1)").await })
        })
        .collect();
    until(&mut control, "two wait", |pool| pool.clients_waiting == 2).await;
    let error = crowded.simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    let message = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(message.contains("2 clients wait"), "{message}");
    drop(holder);
    for client in waiting {
        client.await.unwrap().unwrap();
    }
    until(&mut control, "none tied", |pool| pool.tied_by.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_while_clients_wait_in_the_queue_loses_none() {
    let (mut primary, router, mut control) = pooled(2).await;
    let standby = primary.standby().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(Arc::new(router.connect().await));
    }
    let holders: Vec<_> = clients[..2]
        .iter()
        .map(|client| {
            let client = Arc::clone(client);
            tokio::spawn(async move { client.simple_query("select pg_sleep(60)").await })
        })
        .collect();
    until(&mut control, "busy", |pool| pool.clients_active == 2).await;
    let waiting: Vec<_> = clients[2..]
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let (client, number) = (Arc::clone(client), i64::try_from(number).unwrap());
            tokio::spawn(async move { client.execute("insert into ledger values ($1)", &[&number]).await })
        })
        .collect();
    until(&mut control, "queued", |pool| pool.clients_waiting == 28).await;
    caught_up(&primary, &standby).await;
    primary.kill();
    control.point(1, None, &[]).await;
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    for holder in holders {
        assert_eq!(code(&holder.await.unwrap().unwrap_err()), "08007");
    }
    for insert in waiting {
        assert_eq!(insert.await.unwrap().unwrap(), 1);
    }
    assert_eq!(
        text(&clients[5], "select count(*)::text || ' ' || count(distinct id)::text from ledger").await,
        "28 28"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_idle_or_old_are_closed() {
    let brief =
        PoolPolicy { size: 8, idle_ms: 200, least_idle: 1, lifetime_ms: 6_000, mode: mode(), ..PoolPolicy::default() };
    let (_primary, router, mut control) = with_pool(brief).await;
    let clients = [router.connect().await, router.connect().await, router.connect().await];
    let sleeps = clients.iter().map(|client| client.simple_query("select pg_sleep(0.1)"));
    futures_util::future::join_all(sleeps).await;
    assert!(control.pool().await.servers_idle >= 2);
    until(&mut control, "one left", |pool| pool.servers_idle == 1).await;
    let first = backend(&clients[0]).await;
    until(&mut control, "none left", |pool| pool.servers_idle + pool.clients_active == 0).await;
    assert_ne!(backend(&clients[0]).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_start_with_other_settings_get_servers_of_their_own() {
    let (_primary, router, _control) = pooled(2).await;
    let plain = router.connect().await;
    let mut special = config(router.write);
    special.options("-c work_mem=5MB -c timezone=Asia/Tokyo");
    let (special, connection) = special.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..10 {
        assert_eq!(text(&plain, "show work_mem").await, "4MB");
        assert_eq!(text(&special, "show work_mem").await, "5MB");
        special.batch_execute("set work_mem = '6MB'; reset all").await.unwrap();
        assert_eq!(text(&special, "show timezone").await, "Asia/Tokyo");
        assert_ne!(text(&plain, "show timezone").await, "Asia/Tokyo");
    }
}

/// pgbench with these arguments through the router.
fn pgbench(router: &Router, arguments: &[&str]) -> String {
    let mut pgbench = std::process::Command::new("/usr/lib/postgresql/15/bin/pgbench");
    let (host, port) = (router.write.ip().to_string(), router.write.port().to_string());
    pgbench.env("PGPASSWORD", PASSWORD).args(["-h", &host, "-p", &port, "-U", "app"]).args(arguments).arg("app");
    let done = pgbench.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{arguments:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_runs_in_all_its_modes() {
    let (_primary, router, mut control) = pooled(4).await;
    pgbench(&router, &["-i", "-q", "-s", "1"]);
    for protocol in ["simple", "extended", "prepared"] {
        // Transactions. pgbench prepares with a call that blocks its other clients too, so that more clients than
        // servers would wait for each other for ever: with any pooler.
        let clients = if protocol == "prepared" { "4" } else { "12" };
        let said = pgbench(&router, &["-n", "-M", protocol, "-c", clients, "-j", "2", "-t", "10"]);
        assert!(said.contains("number of failed transactions: 0"), "{said}");
        let said = pgbench(&router, &["-n", "-S", "-M", protocol, "-c", "12", "-j", "2", "-t", "40"]);
        assert!(said.contains("actually processed: 480/480"), "{said}");
    }
    let client = router.connect().await;
    let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
    assert_eq!(text(&client, sums).await, "t");
    assert_eq!(text(&client, "select count(*) from pgbench_history").await, "280");
    assert_eq!(control.pool().await.refused, 0);
}
