//! How an instance behaves in a stack: health, metrics, losses, several instances, leaving.

use std::time::Duration;

use serde_json::json;

use crate::World;
use mainstay_rig::{ADMIN_PASSWORD, App, Call, wait_until};

crate::scenarios![
    speaks_the_actuators_shapes,
    counts_requests_and_cache_results,
    keeps_the_identity_of_a_request,
    every_change_is_in_an_unbroken_record,
    instances_share_keys_and_sessions,
    serves_without_redis_and_uses_it_again,
    survives_the_end_of_all_its_connections,
    finishes_and_exits_zero_at_sigterm,
    refuses_to_invent_a_password,
];

fn speaks_the_actuators_shapes(world: &mut World) {
    let health = world.app.management("/actuator/health").is(200).json();
    assert_eq!(health["status"], "UP");
    for component in ["db", "cache", "store"] {
        assert_eq!(health["components"][component]["status"], "UP");
    }
    for group in ["liveness", "readiness"] {
        let answer = world.app.management(&format!("/actuator/health/{group}")).is(200).json();
        assert_eq!(answer["status"], "UP");
    }
    world.app.management("/actuator/health/none").is(404);
    assert_eq!(world.app.management("/actuator/info").is(200).json()["app"]["name"], "users");
    let names = world.app.management("/actuator/metrics").is(200).json();
    assert!(names["names"].as_array().unwrap().contains(&json!("http.server.requests")), "{names}");
    let path = "/actuator/metrics/http.server.requests?tag=status:200&tag=method:GET";
    let metric = world.app.management(path).is(200).json();
    assert_eq!((&metric["baseUnit"], &metric["measurements"][0]["statistic"]), (&json!("seconds"), &json!("COUNT")));
    world.app.management("/actuator/metrics/http.server.requests?tag=status:999").is(404);
    world.app.management("/actuator/metrics/none").is(404);
    assert_eq!(world.app.call(Call::new("GET", "/actuator/prometheus")).status, 404, "not on the main port");
}

fn counts_requests_and_cache_results(world: &mut World) {
    let value = |name: &str| -> f64 {
        let text = world.app.management("/actuator/prometheus").is(200).text;
        text.lines()
            .filter(|line| line.starts_with(name))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    };
    let requests =
        "http_server_requests_seconds_count{method=\"GET\",outcome=\"SUCCESS\",status=\"200\",uri=\"/api/users/{id}\"}";
    let hits = "cache_gets_total{cache=\"users\",result=\"hit\"}";
    let before = (value(requests), value(hits));
    for _ in 0..3 {
        world.app.get(&world.admin, "/api/users/1").is(200);
    }
    assert!((value(requests) - before.0 - 3.0).abs() < 0.5);
    assert!(value(hits) - before.1 > 1.5, "at most the first of three was a miss");
    assert!((value("jdbc_connections_max") - 10.0).abs() < 0.5);
    let own = world.app.get(&world.admin, "/api/v1/metrics/requests").is(200).json();
    assert!(own["total"].as_u64().unwrap() > 3 && own["byStatus"]["200"].as_u64().unwrap() > 3);
}

fn keeps_the_identity_of_a_request(world: &mut World) {
    let call = Call::new("POST", "/api/v1/echo")
        .header("x-request-id", "req-abc-123")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let answer = world.app.call(call.body(json!([1]))).is(200);
    assert_eq!(answer.header("x-request-id"), Some("req-abc-123"));
    let echo = answer.json();
    assert_eq!((&echo["echo"], &echo["traceId"]), (&json!([1]), &json!("4bf92f3577b34da6a3ce929d0e0e4736")));
}

fn every_change_is_in_an_unbroken_record(world: &mut World) {
    let (id, _) = world.user("recorded", "viewer");
    let path = format!("/api/users/{id}");
    let call = Call::new("PUT", &path).token(&world.admin).header("x-request-id", "change-1");
    world.app.call(call.body(json!({ "email": "changed@example.org" }))).is(200);
    let list = world.app.get(&world.admin, "/api/audit?limit=1").is(200).json();
    let entry = &list["content"][0];
    assert_eq!((&entry["actor"], &entry["action"]), (&json!("admin"), &json!("user.updated")));
    assert_eq!((&entry["subject"], &entry["requestId"]), (&json!(format!("user:{id}")), &json!("change-1")));
    assert!(!entry.to_string().contains("changed@example.org"), "no personal data in the record");
    let verify = || world.app.get(&world.admin, "/api/audit/verify").is(200).json();
    assert_eq!(verify()["intact"], true);
    let row = entry["id"].as_i64().unwrap();
    world.rig.sql("users", &format!("UPDATE audit_log SET actor = 'somebody' WHERE id = {row}"));
    assert_eq!(verify(), json!({ "intact": false, "brokenAt": row }));
    world.rig.sql("users", &format!("UPDATE audit_log SET actor = 'admin' WHERE id = {row}"));
    assert_eq!(verify()["intact"], true);
    let taken_out = format!("DELETE FROM audit_log WHERE id = {}", row - 1);
    world.rig.sql("users", &format!("CREATE TABLE kept AS SELECT * FROM audit_log WHERE id = {}", row - 1));
    world.rig.sql("users", &taken_out);
    assert_eq!(verify(), json!({ "intact": false, "brokenAt": row }));
    world.rig.sql("users", "INSERT INTO audit_log OVERRIDING SYSTEM VALUE SELECT * FROM kept");
    assert_eq!(verify()["intact"], true);
}

fn instances_share_keys_and_sessions(world: &mut World) {
    let second = world.rig.app();
    second.get(&world.admin, "/api/auth/me").is(200);
    let (id, token) = world.user("everywhere", "viewer");
    let path = format!("/api/users/{id}");
    second.get(&token, &path).is(200);
    second.send("PUT", &world.admin, &path, json!({ "firstName": "Grace" })).is(200);
    assert_eq!(world.app.get(&token, &path).is(200).json()["firstName"], "Grace");
    second.call(Call::new("POST", "/api/auth/logout").token(&token)).is(204);
    world.app.get(&token, &path).is(401);
}

fn serves_without_redis_and_uses_it_again(world: &mut World) {
    world.rig.stop_redis();
    let read = world.app.get(&world.admin, "/api/users/1").is(200);
    assert_eq!(read.header("x-cache"), Some("miss"));
    world.sign_in("admin", ADMIN_PASSWORD);
    let health = world.app.management("/actuator/health").is(200).json();
    assert_eq!((&health["status"], &health["components"]["cache"]["status"]), (&json!("DEGRADED"), &json!("DOWN")));
    world.rig.start_redis();
    wait_until("the cache is used again", || {
        world.app.get(&world.admin, "/api/users/1").is(200).header("x-cache") == Some("hit")
    });
}

fn survives_the_end_of_all_its_connections(world: &mut World) {
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'users'";
    for index in 0..5 {
        let ended: u32 = world.rig.sql("users", end).parse().unwrap();
        assert!(ended >= 1, "there was a connection to end");
        let body = json!({ "username": format!("survivor-{index}"), "email": format!("survivor-{index}@example.org") });
        world.app.send("POST", &world.admin, "/api/users", body).is(201);
    }
    let made = world.rig.sql("users", "SELECT count(*) FROM users WHERE username LIKE 'survivor-%'");
    assert_eq!(made, "5");
}

fn finishes_and_exits_zero_at_sigterm(world: &mut World) {
    let mut leaving = world.rig.app();
    // A lock in the database keeps a request busy while the signal comes.
    let (id, _) = world.user("slow", "viewer");
    let path = format!("/api/users/{id}");
    let lock = format!("BEGIN; SELECT 1 FROM users WHERE id = {id} FOR UPDATE; SELECT pg_sleep(1.5); COMMIT");
    std::thread::scope(|scope| {
        let rig = &world.rig;
        scope.spawn(move || rig.sql("users", &lock));
        std::thread::sleep(Duration::from_millis(300));
        let waiting = &leaving;
        let (admin, path) = (&world.admin, &path);
        let request = scope.spawn(move || waiting.send("PUT", admin, path, json!({ "firstName": "Late" })).is(200));
        std::thread::sleep(Duration::from_millis(300));
        let pid = leaving.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        wait_until("readiness goes first", || leaving.management("/actuator/health/readiness").status == 503);
        request.join().expect("the request in flight is answered");
    });
    assert_eq!(leaving.child.wait().unwrap().code(), Some(0));
    let mut idle = world.rig.app();
    assert_eq!(idle.terminate(), Some(0));
}

fn refuses_to_invent_a_password(world: &mut World) {
    world.rig.create_database("empty");
    let output = world.rig.command("empty").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(log.contains("ServiceFailed") && log.contains("ADMIN_PASSWORD"), "{log}");
    let demo = App::start(world.rig.command("empty").env("DEMO_PASSWORD", "only for the demo"));
    let body = json!({ "username": "admin", "password": "only for the demo" });
    demo.send("POST", "", "/api/auth/login", body).is(200);
}
