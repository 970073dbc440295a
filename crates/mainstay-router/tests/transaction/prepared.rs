//! Prepared statements that change what others could see, and more of them than the router keeps.

use crate::pooling::{pooled, text};
use crate::support::raw::Raw;
use tokio_postgres::Client;

/// Neither has the other's setting, on however many servers.
async fn apart(owner: &Client, expected: &str, other: &Client) {
    for _ in 0..3 {
        assert_eq!(text(other, "show work_mem").await, "4MB");
        let row = other.query_one("select current_setting('work_mem')", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "4MB");
        assert_eq!(text(owner, "show work_mem").await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_set_is_its_clients_own_whenever_it_is_executed() {
    for size in [1, 2] {
        let (_primary, router, _control) = pooled(size).await;
        let (owner, other) = (router.connect().await, router.connect().await);
        let set = owner.prepare("set work_mem = '108kB'").await.unwrap();
        let reset = owner.prepare("reset work_mem").await.unwrap();
        let select = owner.prepare("select 1").await.unwrap();
        apart(&owner, "4MB", &other).await;
        for _ in 0..3 {
            owner.execute(&set, &[]).await.unwrap();
            apart(&owner, "108kB", &other).await;
            owner.query_one(&select, &[]).await.unwrap();
            apart(&owner, "108kB", &other).await;
            owner.execute(&reset, &[]).await.unwrap();
            apart(&owner, "4MB", &other).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unnamed_set_is_its_clients_own_whenever_it_is_executed() {
    let (_primary, router, _control) = pooled(1).await;
    // Alike, so that they share the server.
    let (mut owner, mut other) = (Raw::connect(router.write).await, Raw::connect(router.write).await);
    owner.send(b'P', b"\0set work_mem = '108kB'\0\0\0").await;
    owner.send(b'S', b"").await;
    assert_eq!(owner.cycle().await, ["1", "ZI"]);
    for _ in 0..3 {
        owner.send(b'B', &[0; 8]).await;
        owner.send(b'E', &[0; 5]).await;
        owner.send(b'S', b"").await;
        assert_eq!(owner.cycle().await, ["2", "C", "ZI"]);
        other.query("show work_mem").await;
        assert_eq!(other.next().await.0, b'T');
        let (kind, row) = other.next().await;
        assert_eq!((kind, &row[6..]), (b'D', b"4MB".as_slice()));
        assert_eq!(other.cycle().await, ["C", "ZI"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_of_somebodys_own_is_not_seen_however_it_is_spelled() {
    for name in ["\"app.tenant\"", "session.tenant", "timezone.tenant", "U&\"app\\002etenant\""] {
        let (_primary, router, mut control) = pooled(2).await;
        let (owner, other) = (router.connect().await, router.connect().await);
        owner.batch_execute(&format!("set {name} = 'secret'")).await.unwrap();
        crate::pooling::until(&mut control, "tied", |pool| pool.clients_tied == 1).await;
        for setting in ["app.tenant", "session.tenant", "timezone.tenant"] {
            let question = format!("select coalesce(current_setting('{setting}', true), '')");
            assert_eq!(text(&other, &question).await, "", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_beyond_those_that_are_kept_work_too() {
    let (_primary, router, _control) = pooled(2).await;
    let (mut client, other) = (Raw::connect(router.write).await, router.connect().await);
    for batch in 0..101 {
        for number in 0..100 {
            client.send(b'P', format!("s{}\0select 1\0\0\0", batch * 100 + number).as_bytes()).await;
        }
        client.send(b'S', b"").await;
        assert_eq!(client.cycle().await.len(), 101);
    }
    other.simple_query("select 1").await.unwrap();
    for number in [0, 9_999, 10_000, 10_099] {
        client.send(b'B', format!("\0s{number}\0\0\0\0\0\0\0").as_bytes()).await;
        client.send(b'E', &[0; 5]).await;
        client.send(b'S', b"").await;
        assert_eq!(client.cycle().await, ["2", "D", "C", "ZI"], "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clients_statement_is_not_reached_by_its_name_here() {
    let (primary, router, _control) = pooled(1).await;
    let (mut owner, mut other) = (Raw::connect(router.write).await, Raw::connect(router.write).await);
    owner.send(b'P', b"mine\0select 'secret'\0\0\0").await;
    owner.send(b'S', b"").await;
    assert_eq!(owner.cycle().await, ["1", "ZI"]);
    // The numbers begin at one, and this is the first statement.
    other.query("select name from pg_prepared_statements").await;
    assert_eq!(other.next().await.0, b'T');
    let (_, row) = other.next().await;
    let name = String::from_utf8(row[6..].to_vec()).unwrap();
    other.cycle().await;
    assert!(name.len() > "mainstay_1".len() + 12, "{name} can be guessed");
    for tried in ["mainstay_1", &name] {
        other.send(b'B', format!("\0{tried}\0\0\0\0\0\0\0").as_bytes()).await;
        other.send(b'E', &[0; 5]).await;
        other.send(b'S', b"").await;
        assert_eq!(other.cycle().await, ["26000", "ZI"], "{tried}");
        other.send(b'D', format!("S{tried}\0").as_bytes()).await;
        other.send(b'S', b"").await;
        assert_eq!(other.cycle().await, ["26000", "ZI"], "{tried}");
        other.send(b'C', format!("S{tried}\0").as_bytes()).await;
        other.send(b'S', b"").await;
        assert_eq!(other.cycle().await, ["3", "ZI"], "{tried}");
        owner.send(b'B', b"\0mine\0\0\0\0\0\0\0").await;
        owner.send(b'E', &[0; 5]).await;
        owner.send(b'S', b"").await;
        assert_eq!(owner.cycle().await, ["2", "D", "C", "ZI"], "{tried}");
    }
    other.query("execute mainstay_1").await;
    assert_eq!(other.cycle().await, ["26000", "ZI"]);
    drop(primary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_whose_table_has_changed_can_be_prepared_again() {
    let (_primary, router, _control) = pooled(1).await;
    let (one, two) = (router.connect().await, router.connect().await);
    one.batch_execute("create table changing (a int); insert into changing values (1)").await.unwrap();
    let statement = one.prepare("select * from changing").await.unwrap();
    one.query(&statement, &[]).await.unwrap();
    two.batch_execute("alter table changing add column b int default 2").await.unwrap();
    assert_eq!(crate::support::code(&one.query(&statement, &[]).await.unwrap_err()), "0A000");
    let again = two.prepare("select * from changing").await.unwrap();
    assert_eq!(two.query_one(&again, &[]).await.unwrap().len(), 2);
    drop(statement);
    let again = one.prepare("select * from changing").await.unwrap();
    assert_eq!(one.query_one(&again, &[]).await.unwrap().len(), 2);
}
