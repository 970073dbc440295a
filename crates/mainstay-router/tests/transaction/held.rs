//! Clients that wait for a server of a small pool while there is no primary: they are held, not kept waiting.

use std::sync::Arc;
use std::time::Duration;

use crate::pooling::{until, with_pool};
use crate::support::*;
use mainstay_router::protocol::PoolPolicy;

const WAIT_MS: u64 = 300;

/// Six clients of a pool of one connection, where two may wait for each other, write at once while the primary is
/// gone; `is_told`: the router knows.
async fn all_are_held(is_told: bool) {
    let narrow = PoolPolicy { mode: mode(), size: 1, wait_ms: WAIT_MS, queue: 2, ..PoolPolicy::default() };
    let (mut primary, router, mut control) = with_pool(narrow.clone()).await;
    let mut patient = policy();
    patient.generation = mainstay_types::Generation(3);
    patient.pool = narrow;
    patient.hold_ms = 120_000;
    control.policy(patient).await;
    let standby = primary.standby().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Arc::new(router.connect().await));
    }
    caught_up(&primary, &standby).await;
    primary.kill();
    if is_told {
        control.point(1, None, &[]).await;
    }
    let mut waiting = Vec::new();
    for client in &clients {
        let one = Arc::clone(client);
        waiting.push(tokio::spawn(async move { one.batch_execute("insert into ledger values (1)").await }));
        // One after the other: the first has its turn when the next one comes.
        let count = waiting.len() as u64;
        until(&mut control, "held, each at once", |pool| pool.held == count).await;
    }
    // Longer than clients wait for each other, counted from when the last one is seen to wait.
    tokio::time::sleep(Duration::from_millis(3 * WAIT_MS)).await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    let pool = control.pool().await;
    assert_eq!((pool.held, pool.refused), (6, 0), "{pool:?}");
    standby.promote().await;
    control.point(2, Some(&standby), &[]).await;
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    until(&mut control, "held no more", |pool| pool.held == 0).await;
    let count: i64 = clients[0].query_one("select count(*) from ledger", &[]).await.unwrap().get(0);
    assert_eq!(count, 6);
    // With a primary there, clients wait for each other no longer than that.
    clients[0].batch_execute("begin").await.unwrap();
    assert_eq!(code(&clients[1].batch_execute("select 1").await.unwrap_err()), "53300");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_primary_is_bounded_by_hold_alone() {
    all_are_held(true).await;
}

/// Before anybody has told the router that the primary is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_behind_one_that_cannot_reach_its_server_is_held_too() {
    all_are_held(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_over_is_told_to_all_who_wait() {
    let narrow = PoolPolicy { mode: mode(), size: 1, wait_ms: 60_000, ..PoolPolicy::default() };
    let (mut primary, router, mut control) = with_pool(narrow.clone()).await;
    let mut short = policy();
    short.generation = mainstay_types::Generation(3);
    short.pool = narrow;
    short.hold_ms = 1_000;
    let clients = [router.connect().await, router.connect().await, router.connect().await];
    control.policy(short).await;
    primary.kill();
    control.point(1, None, &[]).await;
    let all = clients.iter().map(|client| client.batch_execute("select 1"));
    for told in futures_util::future::join_all(all).await {
        assert_eq!(code(&told.unwrap_err()), "57P03");
    }
}
