//! A former primary made a standby of its successor without a copy, with real servers.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs")]
mod support;

use mainstay_decide::observed::DataDirectory;
use mainstay_postgres::{clone, cluster, plain, prepare, rewind, start};
use mainstay_types::{Member, Timeline};
use support::{Cluster, WITHIN};

const A: Member = Member::A;
const B: Member = Member::B;

async fn pair(cluster: &mut Cluster) {
    cluster.init(A).await;
    cluster.start(A, None).await;
    prepare::prepare(&cluster.access[&A], "users", &cluster.passwords).await.unwrap();
    cluster.clone(B, A).await;
    cluster.start(B, Some(A)).await;
    cluster.until(B, |answer| answer.is_streaming).await;
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    cluster::set_synchronous(&cluster.access[&A], &[B]).await.unwrap();
}

async fn rewind_a(cluster: &Cluster) -> Result<(), String> {
    let request = clone::Request {
        layout: &cluster.layout,
        member: A,
        from: &cluster.access[&B],
        replication: &cluster.passwords.replication,
        log: &cluster.log("rewind"),
    };
    let task = rewind::prepare(&request, &cluster.passwords.superuser).await.map_err(|error| error.to_string())?;
    assert_eq!(cluster.layout.look(A), DataDirectory::Unfinished, "whoever dies now leaves what is cloned over");
    let ended = plain::run(&task, WITHIN).await.unwrap();
    rewind::finish(&cluster.layout, A, &task, &ended).map_err(|error| error.to_string())
}

/// B has taken over; A wrote on for a while on its own, which nobody was told of.
async fn part(cluster: &mut Cluster) {
    cluster::set_synchronous(&cluster.access[&A], &[]).await.unwrap();
    cluster.stop(B).await;
    let application = cluster.application(A).connect().await.unwrap();
    application.batch_execute("INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    cluster.kill(A).await;
    cluster.start(B, None).await;
    cluster::promote(&cluster.access[&B]).await.unwrap();
    let application = cluster.application(B).connect().await.unwrap();
    application.batch_execute("INSERT INTO t VALUES (7)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_rewound_and_follows_its_successor() {
    let mut cluster = Cluster::new("users");
    pair(&mut cluster).await;
    part(&mut cluster).await;
    rewind_a(&cluster).await.unwrap();
    assert_eq!(cluster.layout.look(A), DataDirectory::Complete);
    cluster.start(A, Some(B)).await;
    let answer = cluster.until(A, |answer| answer.is_streaming && answer.timeline == Timeline(2)).await;
    assert_eq!(answer.follows, Some(B));
    cluster::set_synchronous(&cluster.access[&B], &[A]).await.unwrap();
    cluster.kill(B).await;
    cluster::promote(&cluster.access[&A]).await.unwrap();
    let rows = cluster.application(A).connect().await.unwrap();
    let rows: i64 = rows.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1, "what only the fallen primary held is gone, what its successor wrote is there");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_fails_leaves_what_a_clone_takes_the_place_of() {
    let mut cluster = Cluster::new("users");
    pair(&mut cluster).await;
    part(&mut cluster).await;
    // Without its log nobody knows where the two parted.
    let log = cluster.layout.data(A).join("pg_wal");
    for entry in std::fs::read_dir(&log).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        std::fs::remove_file(entry.path()).unwrap();
    }
    let error = rewind_a(&cluster).await.unwrap_err();
    assert!(error.contains("pg_rewind ended with"), "{error}");
    assert_eq!(cluster.layout.look(A), DataDirectory::Unfinished);
    assert!(start::prepare(&cluster.start_of(A, Some(B))).is_err(), "it is never started so");
    cluster.clone(A, B).await;
    cluster.start(A, Some(B)).await;
    cluster.until(A, |answer| answer.is_streaming).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_lives_is_not_rewound() {
    let mut cluster = Cluster::new("users");
    pair(&mut cluster).await;
    let error = rewind_a(&cluster).await.unwrap_err();
    assert!(error.contains("is not proven dead"), "{error}");
    assert_eq!(cluster.layout.look(A), DataDirectory::Complete);
    cluster.end().await;
}
