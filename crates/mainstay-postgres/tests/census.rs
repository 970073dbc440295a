//! What is counted of a real server, and for how long.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[expect(unreachable_pub, dead_code, reason = "shared by test programs")]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_postgres::census::{self, Census};
use mainstay_postgres::prepare;
use mainstay_types::{Lsn, Member};
use support::Cluster;

const A: Member = Member::A;

async fn counted(cluster: &Cluster, within: Duration) -> Census {
    census::of_copy(&cluster.access[&A], Lsn::new(1), within, None).await.unwrap()
}

fn hashes(census: &Census) -> BTreeMap<String, (u64, String)> {
    census.tables.iter().map(|one| (one.table.clone(), (one.rows, one.hash.clone()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_counts_whole_whatever_its_columns_are_called_and_no_longer_than_allowed() {
    let mut cluster = Cluster::new("shop");
    cluster.init(A).await;
    cluster.start(A, None).await;
    prepare::prepare(&cluster.access[&A], "shop", &cluster.passwords).await.unwrap();
    let owner = cluster.application(A).connect().await.unwrap();
    owner
        .batch_execute(
            "CREATE TABLE t (t int, counted int, other text); INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b');
             CREATE TABLE one (counted text); INSERT INTO one VALUES ('x');
             CREATE TABLE hollow (); INSERT INTO hollow DEFAULT VALUES;
             CREATE TABLE price (of money); INSERT INTO price VALUES (1234.5)",
        )
        .await
        .unwrap();
    let first = counted(&cluster, Duration::from_secs(60)).await;
    assert_eq!(first.left_out, Vec::<String>::new());
    owner.batch_execute("UPDATE t SET other = 'c' WHERE t = 1; UPDATE one SET counted = 'y'").await.unwrap();
    let (before, after) = (hashes(&first), hashes(&counted(&cluster, Duration::from_secs(60)).await));
    for table in ["public.t", "public.one"] {
        assert_eq!(before[table].0, after[table].0, "{table}");
        assert_ne!(before[table].1, after[table].1, "a change in {table} is seen");
    }
    for table in ["public.hollow", "public.price"] {
        assert_eq!(before[table], after[table], "{table}");
    }

    // The smallest tables come first; the large one is ended when its time is over, and the others stand.
    owner
        .batch_execute("CREATE TABLE large AS SELECT n, repeat('x', 200) AS text FROM generate_series(1, 400000) AS n")
        .await
        .unwrap();
    let cut = counted(&cluster, Duration::from_millis(250)).await;
    assert!(cut.left_out.iter().any(|text| text.contains("public.large")), "{:?}", cut.left_out);
    assert!(!hashes(&cut).contains_key("public.large"));
    let nothing = counted(&cluster, Duration::ZERO).await;
    assert!(nothing.tables.is_empty() && nothing.left_out.len() == 1, "{:?}", nothing.left_out);
    assert!(nothing.left_out[0].contains("more tables"), "{:?}", nothing.left_out);
    drop(owner);
    cluster.end().await;
}
