//! The counter: each integer once, none left out, none forgotten.

use std::sync::Mutex;

use serde_json::json;

use crate::{Person, World};
use mainstay_rig::{Answer, Call, wait_until};

crate::scenarios![
    counts_from_one_without_gaps,
    gives_ranges,
    many_clients_of_several_instances_get_a_permutation,
    answers_in_the_form_that_is_asked_for,
    the_same_key_gets_the_same_integers,
    one_key_at_one_moment_counts_once,
    a_key_belongs_to_one_request_of_one_user,
    a_put_that_the_edge_sends_twice_counts_once,
    an_unknown_outcome_is_settled_by_the_key,
    sets_forward_freely_and_back_only_when_confirmed,
    ends_at_the_largest_integer,
    usage_counts_every_call_once,
    old_keys_are_removed_and_fresh_ones_stay,
    receipts_agree_with_the_counter,
    receipts_find_a_counter_that_forgot,
];

fn call<'a>(method: &'a str, path: &'a str, person: &Person) -> Call<'a> {
    Call::new(method, path).header("x-api-key", person.api_key.as_str())
}

fn next(world: &World, person: &Person) -> Answer {
    world.app.call(call("POST", "/api/v1/integer/next", person)).is(200)
}

fn value(answer: &Answer) -> i64 {
    answer.json()["value"].as_i64().unwrap()
}

fn current(world: &World, person: &Person) -> i64 {
    value(&world.app.call(call("GET", "/api/v1/integer", person)).is(200))
}

fn counts_from_one_without_gaps(world: &mut World) {
    let person = world.person("counting");
    assert_eq!(current(world, &person), 0, "none was given yet");
    for expected in 1..=20 {
        let method = if expected % 2 == 0 { "PUT" } else { "POST" };
        assert_eq!(value(&world.app.call(call(method, "/api/v1/integer/next", &person)).is(200)), expected);
    }
    assert_eq!(current(world, &person), 20);
}

fn gives_ranges(world: &mut World) {
    let person = world.person("ranging");
    next(world, &person);
    let range = world.app.call(call("POST", "/api/v1/integer/next?n=1000", &person)).is(200).json();
    assert_eq!(range, json!({ "value": 1001, "first": 2, "n": 1000, "epoch": 1 }));
    for n in ["0", "1001", "-1"] {
        world.app.call(call("POST", &format!("/api/v1/integer/next?n={n}"), &person)).is(422);
    }
    for query in ["n=x", "n=99999999999999999999", "m=1"] {
        world.app.call(call("POST", &format!("/api/v1/integer/next?{query}"), &person)).is(400);
    }
    assert_eq!(current(world, &person), 1001);
}

fn many_clients_of_several_instances_get_a_permutation(world: &mut World) {
    const CLIENTS: usize = 16;
    const EACH: usize = 25;
    let person = world.person("permuted");
    let others = [world.rig.app(), world.rig.app()];
    let apps = [&world.app, &others[0], &others[1]];
    let given = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (app, given, person) = (apps[client % apps.len()], &given, &person);
            scope.spawn(move || {
                let mut mine = Vec::new();
                for _ in 0..EACH {
                    mine.push(value(&app.call(call("POST", "/api/v1/integer/next", person)).is(200)));
                }
                assert!(mine.is_sorted_by(|a, b| a < b), "a client is never led backwards: {mine:?}");
                given.lock().unwrap().extend(mine);
            });
        }
    });
    let mut given = given.into_inner().unwrap();
    given.sort_unstable();
    let all: Vec<i64> = (1..).take(CLIENTS * EACH).collect();
    assert_eq!(given, all, "each integer once, none left out");
    assert_eq!(current(world, &person), all.len() as i64);
}

fn answers_in_the_form_that_is_asked_for(world: &mut World) {
    let person = world.person("forming");
    let with = |accept: &str| {
        let asked = call("POST", "/api/v1/integer/next?n=2", &person).header("accept", accept);
        world.app.call(asked).is(200)
    };
    let document = with("application/vnd.api+json");
    assert_eq!(document.header("content-type"), Some("application/vnd.api+json"));
    let data = &document.json()["data"];
    assert_eq!((&data["type"], &data["id"]), (&json!("integers"), &json!(person.id.to_string())));
    assert_eq!(data["attributes"]["value"], 2);
    let text = with("text/plain");
    assert_eq!((text.text.as_str(), text.header("content-type")), ("3\n4\n", Some("text/plain; charset=utf-8")));
    assert_eq!(with("application/json").header("content-type"), Some("application/json"));
    assert_eq!(with("*/*").header("vary"), Some("accept"));
}

fn keyed<'a>(person: &Person, path: &'a str, key: &str) -> Call<'a> {
    call("POST", path, person).header("idempotency-key", key)
}

fn the_same_key_gets_the_same_integers(world: &mut World) {
    let person = world.person("repeating");
    let first = world.app.call(keyed(&person, "/api/v1/integer/next?n=3", "a")).is(200);
    assert_eq!(first.header("idempotency-replayed"), None);
    next(world, &person);
    let other = world.rig.app(); // what one instance answered, another one repeats
    let again = other.call(keyed(&person, "/api/v1/integer/next?n=3", "a")).is(200);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(current(world, &person), 4);
    for wrong in ["", "two words", &"x".repeat(256)] {
        world.app.call(keyed(&person, "/api/v1/integer/next", wrong)).is(400);
    }
}

fn one_key_at_one_moment_counts_once(world: &mut World) {
    let person = world.person("racing");
    let values: Vec<i64> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| value(&world.app.call(keyed(&person, "/api/v1/integer/next", "race")).is(200))))
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(values, [1; 8]);
    assert_eq!(current(world, &person), 1);
}

fn a_key_belongs_to_one_request_of_one_user(world: &mut World) {
    let (one, other) = (world.person("key-owner"), world.person("key-stranger"));
    world.app.call(keyed(&one, "/api/v1/integer/next", "shared")).is(200);
    world.app.call(keyed(&one, "/api/v1/integer/next?n=2", "shared")).is(422);
    let theirs = world.app.call(keyed(&other, "/api/v1/integer/next", "shared")).is(200);
    assert_eq!(theirs.header("idempotency-replayed"), None, "another user's key is another key");
    assert_eq!((current(world, &one), current(world, &other)), (1, 1));
}

/// The edge gives a request its id once, however often it has to send it.
fn a_put_that_the_edge_sends_twice_counts_once(world: &mut World) {
    let person = world.person("resent");
    let send = |method: &'static str, id: &str| {
        let sent = call(method, "/api/v1/integer/next", &person).header("x-request-id", id);
        value(&world.app.call(sent).is(200))
    };
    assert_eq!((send("PUT", "r1"), send("PUT", "r1"), send("PUT", "r2")), (1, 1, 2));
    assert_eq!((send("POST", "r3"), send("POST", "r3")), (3, 4), "POST promises nothing of the kind");
}

/// Connections are ended while statements are in flight: whoever has a key is answered all the same,
/// and nothing counts twice.
fn an_unknown_outcome_is_settled_by_the_key(world: &mut World) {
    let person = world.person("cut-off");
    let metric = || {
        let text = world.app.management("/metrics").text;
        let line = text.lines().find(|line| line.starts_with("integers_outcomes_unknown_total{end=\"settled\"}"));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    };
    let before: f64 = metric();
    let lock =
        format!("BEGIN; SELECT 1 FROM counters WHERE user_id = {} FOR UPDATE; SELECT pg_sleep(1); COMMIT", person.id);
    std::thread::scope(|scope| {
        let (rig, app, person) = (&world.rig, &world.app, &person);
        scope.spawn(move || rig.sql("integers", &lock));
        std::thread::sleep(std::time::Duration::from_millis(200));
        let waiting = scope.spawn(move || app.call(keyed(person, "/api/v1/integer/next", "cut")).is(200));
        let victims = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE query LIKE 'WITH moved AS%' AND state = 'active' AND pid <> pg_backend_pid()";
        wait_until("the statement is in flight", || rig.sql("integers", victims) != "0");
        assert_eq!(value(&waiting.join().unwrap()), 1);
    });
    assert!(metric() - before > 0.5, "its outcome was unknown for a moment");
    assert_eq!(current(world, &person), 1);
}

fn sets_forward_freely_and_back_only_when_confirmed(world: &mut World) {
    let person = world.person("setting");
    let set = |body| world.app.call(call("PUT", "/api/v1/integer", &person).body(body));
    assert_eq!(set(json!({ "value": 100 })).is(200).json(), json!({ "value": 100, "epoch": 1 }));
    let refused = set(json!({ "value": 50 })).is(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("confirm"), "{refused}");
    assert_eq!(current(world, &person), 100);
    assert_eq!(set(json!({ "value": 50, "confirm": true })).is(200).json(), json!({ "value": 50, "epoch": 2 }));
    assert_eq!(
        set(json!({ "value": 50, "confirm": true })).is(200).json()["epoch"],
        2,
        "PUT: once more changes nothing"
    );
    assert_eq!(next(world, &person).json()["epoch"], 2);
    for wrong in [
        json!({ "value": 0 }),
        json!({ "value": -1 }),
        json!({}),
        json!({ "value": "1" }),
        json!({ "value": 1, "x": 1 }),
    ] {
        set(wrong).is(422);
    }
    let audit = world.app.get(&world.admin, "/api/v1/audit?limit=2").is(200).json();
    assert_eq!(audit["items"][0]["details"], json!({ "from": 100, "to": 50, "epoch": 2 }));
}

fn ends_at_the_largest_integer(world: &mut World) {
    let person = world.person("overflowing");
    let largest = json!({ "value": i64::MAX - 2 });
    world.app.call(call("PUT", "/api/v1/integer", &person).body(largest)).is(200);
    world.app.call(call("POST", "/api/v1/integer/next?n=3", &person)).is(409);
    world.app.call(keyed(&person, "/api/v1/integer/next?n=3", "too-many")).is(409);
    assert_eq!(value(&world.app.call(call("POST", "/api/v1/integer/next?n=2", &person)).is(200)), i64::MAX);
    world.app.call(call("POST", "/api/v1/integer/next", &person)).is(409);
    assert_eq!(current(world, &person), i64::MAX);
}

fn usage_counts_every_call_once(world: &mut World) {
    let person = world.person("used");
    let rolled = || {
        let sql = format!(
            "SELECT coalesce(sum(calls), 0) || ' ' || coalesce(sum(issued), 0) FROM usage_daily WHERE user_id = {}",
            person.id
        );
        world.rig.sql("integers", &sql)
    };
    next(world, &person);
    world.app.call(call("POST", "/api/v1/integer/next?n=9", &person)).is(200);
    let fresh = world.app.call(call("GET", "/api/v1/usage?days=7", &person)).is(200);
    let shown = fresh.json();
    assert_eq!((&shown["calls"], &shown["integers"]), (&json!(2), &json!(10)), "rolled up or not");
    assert_eq!((fresh.header("x-cache"), shown["days"].as_array().unwrap().len()), (Some("miss"), 7));
    assert_eq!(shown["days"][6]["integers"], 10, "today is last");
    wait_until("the roll-up", || rolled() == "2 10");
    next(world, &person);
    wait_until("the next roll-up", || rolled() == "3 11");
    let cached = world.app.call(call("GET", "/api/v1/usage?days=7", &person)).is(200);
    assert_eq!((cached.header("x-cache"), &cached.json()["calls"]), (Some("hit"), &json!(2)), "up to 30 s old");
    let other = world.app.call(call("GET", "/api/v1/usage?days=8", &person)).is(200).json();
    assert_eq!(other["integers"], 11);
    for days in ["0", "91"] {
        world.app.call(call("GET", &format!("/api/v1/usage?days={days}"), &person)).is(422);
    }
}

fn old_keys_are_removed_and_fresh_ones_stay(world: &mut World) {
    let person = world.person("purged");
    for key in ["old", "fresh"] {
        world.app.call(keyed(&person, "/api/v1/integer/next", key)).is(200);
    }
    let age = "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second' WHERE key = 'old'";
    world.rig.sql("integers", age);
    let left = format!("SELECT string_agg(key, ' ') FROM idempotency_keys WHERE owner = {}", person.id);
    wait_until("the removal of what is old", || world.rig.sql("integers", &left) == "fresh");
    let again = |key: &str| value(&world.app.call(keyed(&person, "/api/v1/integer/next", key)).is(200));
    assert_eq!((again("fresh"), again("old")), (2, 3));
}

/// The client that watches the drills, on this instance.
fn receipts(world: &World, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_integers"));
    let url = format!("http://127.0.0.1:{}", world.app.port);
    let output = command.args(["receipts", "--json", "--url", &url]).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn receipts_agree_with_the_counter(world: &mut World) {
    let (code, report) = receipts(world, &["--clients", "8", "--increments", "200", "--users", "2"]);
    assert_eq!((code, &report["verdict"], &report["acknowledged"]), (Some(0), &json!("AGREED"), &json!(200)));
    assert_eq!(report["final_values"], json!([100, 100]));
    assert!(report["replays"].as_u64().unwrap() > 0 && report["wrong_replays"] == 0, "{report}");
    assert!(report["latency_ms"]["p95"].as_f64().unwrap() > 0.0);
}

/// A client that can only agree proves nothing: a counter that is set back behind its back is found.
fn receipts_find_a_counter_that_forgot(world: &mut World) {
    let person = world.person("forgetful");
    let back = format!("UPDATE counters SET value = value - 5 WHERE user_id = {} AND value > 20", person.id);
    let (code, report) = std::thread::scope(|scope| {
        let (shared, key) = (&*world, person.api_key.as_str());
        let client = scope.spawn(move || receipts(shared, &["--clients", "4", "--seconds", "3", "--api-key", key]));
        wait_until("integers are taken", || current(world, &person) > 25);
        world.rig.sql("integers", &back);
        client.join().unwrap()
    });
    assert_eq!((code, &report["verdict"]), (Some(10), &json!("BROKEN")), "{report}");
    assert!(report["duplicated"].as_i64().unwrap() > 0, "{report}");
}
