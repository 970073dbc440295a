//! How an instance behaves in a stack: health, metrics, the record, losses, leaving.

use std::time::Duration;

use serde_json::json;

use crate::{Person, World};
use mainstay_rig::{App, Call, wait_until};

crate::scenarios![
    answers_about_its_health_on_both_ports,
    counts_its_business,
    every_change_is_in_an_unbroken_record,
    serves_its_page_and_nothing_from_elsewhere,
    says_which_methods_a_path_has,
    counts_without_redis,
    finishes_and_exits_zero_at_sigterm,
    refuses_to_invent_a_password,
];

fn next(app: &App, person: &Person) -> Call<'static> {
    let _ = app;
    Call::new("POST", "/api/v1/integer/next").header("x-api-key", person.api_key.as_str())
}

fn answers_about_its_health_on_both_ports(world: &mut World) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(world.app.call(Call::new("GET", path)).is(200).json()["status"], "UP");
        assert_eq!(world.app.management(path).is(200).json()["status"], "UP");
    }
    let health = world.app.management("/actuator/health").is(200).json();
    for component in ["db", "cache", "store"] {
        assert_eq!(health["components"][component]["status"], "UP");
    }
    world.app.call(Call::new("GET", "/metrics")).is(404); // not on the main port
}

fn counts_its_business(world: &mut World) {
    let value = |name: &str| -> f64 {
        let text = world.app.management("/metrics").is(200).text;
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    let names = [
        ("integers_registrations_total{outcome=\"accepted\"}", 1.0),
        ("integers_increments_total", 2.0),
        ("integers_issued_total", 11.0),
        ("integers_idempotent_replays_total", 1.0),
        ("integers_calls_total{credential=\"api_key\"}", 4.0),
        ("integers_resets_total", 1.0),
        ("integers_signins_total{outcome=\"refused\"}", 1.0),
    ];
    let before: Vec<f64> = names.iter().map(|(name, _)| value(name)).collect();
    let person = world.person("counted");
    world.app.call(next(&world.app, &person)).is(200);
    for _ in 0..2 {
        let call = Call::new("POST", "/api/v1/integer/next?n=10").header("x-api-key", person.api_key.as_str());
        world.app.call(call.header("idempotency-key", "k")).is(200);
    }
    let set = Call::new("PUT", "/api/v1/integer").header("x-api-key", person.api_key.as_str());
    world.app.call(set.body(json!({ "value": 1_000 }))).is(200);
    world.app.send("POST", "", "/auth/token", json!({ "username": "counted", "password": "wrong" })).is(401);
    for ((name, more), before) in names.iter().zip(before) {
        assert!((value(name) - before - more).abs() < 0.5, "{name}: {} instead of {more} more", value(name) - before);
    }
    wait_until("the gauge of users", || value("integers_users") > 0.5);
    assert!(value("integers_job_runs_total{job=\"usage_rollup\",outcome=\"done\"}") > 0.5);
    let route = "http_server_requests_seconds_count{method=\"POST\",outcome=\"SUCCESS\",status=\"200\",uri=\"/api/v1/integer/next\"}";
    assert!(value(route) > 2.5);
}

fn every_change_is_in_an_unbroken_record(world: &mut World) {
    let person = world.person("recorded");
    let token = world.sign_in("recorded", crate::PASSWORD);
    world.app.call(Call::new("POST", "/api/v1/api-key/rotate").token(&token)).is(200);
    let set = Call::new("PUT", "/api/v1/integer").token(&token).header("x-request-id", "change-1");
    world.app.call(set.body(json!({ "value": 7 }))).is(200);
    world.app.call(Call::new("POST", "/auth/logout").token(&token)).is(204);
    world.app.get(&token, "/api/v1/me").is(401);
    let list = world.app.get(&world.admin, "/api/v1/audit?limit=5").is(200).json();
    let items = list["items"].as_array().unwrap();
    let actions: Vec<&str> = items.iter().map(|item| item["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["session.ended", "integer.set", "api-key.rotated", "session.opened", "user.created"]);
    assert!(items.iter().all(|item| item["subject"] == format!("user:{}", person.id)), "{list}");
    assert_eq!(items[1]["requestId"], "change-1");
    let verify = || world.app.get(&world.admin, "/api/v1/audit/verify").is(200).json();
    assert_eq!(verify()["intact"], true);
    let row = items[1]["id"].as_i64().unwrap();
    world.rig.sql("integers", &format!("UPDATE audit_log SET actor = 'somebody' WHERE id = {row}"));
    assert_eq!(verify(), json!({ "intact": false, "brokenAt": row }));
    world.rig.sql("integers", &format!("UPDATE audit_log SET actor = 'recorded' WHERE id = {row}"));
    assert_eq!(verify()["intact"], true);
}

fn serves_its_page_and_nothing_from_elsewhere(world: &mut World) {
    for path in ["/", "/app.js", "/style.css", "/icon.svg", "/docs", "/docs/docs.js", "/docs/docs.css"] {
        let answer = world.app.call(Call::new("GET", path)).is(200);
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'self'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        // Names of XML vocabularies and examples are no requests.
        let foreign: Vec<&str> = answer
            .text
            .split(['"', '\'', '`', ' ', '(', ')', '\n'])
            .filter(|word| word.starts_with("http://") || word.starts_with("https://") || word.starts_with("//"))
            .filter(|word| !word.starts_with("http://www.w3.org/") && *word != "//" && !word.starts_with("https://${"))
            .collect();
        assert_eq!(foreign, Vec::<&str>::new(), "{path}");
        let tag = answer.header("etag").unwrap().to_owned();
        world.app.call(Call::new("GET", path).header("if-none-match", tag)).is(304);
    }
    let page = world.app.call(Call::new("GET", "/")).text;
    assert!(!page.contains("<style") && !page.contains("style=\"") && !page.contains("onclick="), "nothing inline");
    let document = world.app.call(Call::new("GET", "/openapi.json")).is(200).json();
    assert_eq!(document["openapi"], "3.1.0");
}

fn says_which_methods_a_path_has(world: &mut World) {
    let answer = world.app.call(Call::new("DELETE", "/api/v1/integer")).is(405);
    let allowed = answer.header("allow").unwrap_or_default();
    assert!(allowed.contains("GET") && allowed.contains("PUT"), "{allowed:?}");
    world.app.call(Call::new("GET", "/no/such/path")).is(404);
}

fn counts_without_redis(world: &mut World) {
    let person = world.person("redisless");
    world.app.call(next(&world.app, &person)).is(200);
    world.rig.stop_redis();
    let answer = world.app.call(next(&world.app, &person)).is(200);
    assert_eq!(answer.json()["value"], 2);
    world.rig.start_redis();
    wait_until("the store is back", || {
        let health = world.app.management("/actuator/health").json();
        health["components"]["store"]["status"] == "UP" && health["components"]["cache"]["status"] == "UP"
    });
    assert_eq!(world.app.call(next(&world.app, &person)).is(200).json()["value"], 3);
}

fn finishes_and_exits_zero_at_sigterm(world: &mut World) {
    let mut app = world.rig.app();
    let person = world.person("leaving");
    // A request that waits for the counter's lock when the signal comes.
    let lock =
        format!("BEGIN; SELECT 1 FROM counters WHERE user_id = {} FOR UPDATE; SELECT pg_sleep(1); COMMIT", person.id);
    let port = app.port;
    std::thread::scope(|scope| {
        let rig = &world.rig;
        scope.spawn(move || rig.sql("integers", &lock));
        std::thread::sleep(Duration::from_millis(200));
        let waiting = scope.spawn(move || mainstay_rig::exchange(port, &in_flight(&person)));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(app.terminate(), Some(0));
        assert_eq!(waiting.join().unwrap().is(200).json()["value"], 1, "what was in flight was finished");
    });
}

fn in_flight(person: &Person) -> Call<'static> {
    Call::new("POST", "/api/v1/integer/next").header("x-api-key", person.api_key.as_str())
}

fn refuses_to_invent_a_password(world: &mut World) {
    world.rig.create_database("empty");
    let output = world.rig.command("empty").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ADMIN_PASSWORD"));
    let output = world.rig.command("empty").env("ADMIN_PASSWORD", "too short").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
