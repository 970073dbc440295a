//! Who gets in, and who sees what.

use serde_json::{Value, json};

use crate::{PASSWORD, World};
use mainstay_rig::{ADMIN_PASSWORD, App, Call};

crate::scenarios![
    every_route_wants_to_know_who_calls,
    registers_a_user_and_shows_the_key_once,
    refuses_names_and_passwords_that_break_a_rule,
    registers_five_a_minute_of_one_address,
    signs_in_and_refuses_everything_else,
    a_refresh_token_works_once_and_a_stolen_one_ends_the_session,
    a_rotated_key_is_refused_at_once,
    an_api_key_opens_the_counter_and_nothing_else,
    others_do_not_exist_for_a_user,
    only_administrators_administrate,
    a_user_who_is_locked_out_is_out_at_once,
    lists_by_cursor_hold_everybody_once,
    calls_of_one_user_are_limited,
];

/// Everything that needs a caller, and whether he must be an administrator.
const PROTECTED: [(&str, &str, bool); 13] = [
    ("GET", "/api/v1/integer", false),
    ("PUT", "/api/v1/integer", false),
    ("POST", "/api/v1/integer/next", false),
    ("PUT", "/api/v1/integer/next", false),
    ("GET", "/api/v1/usage", false),
    ("GET", "/api/v1/me", false),
    ("GET", "/api/v1/users/1", false),
    ("POST", "/api/v1/api-key/rotate", false),
    ("POST", "/auth/logout", false),
    ("GET", "/api/v1/users", true),
    ("PUT", "/api/v1/users/999999/active", true),
    ("GET", "/api/v1/audit", true),
    ("GET", "/api/v1/audit/verify", true),
];

fn with_key<'a>(method: &'a str, path: &'a str, key: &str) -> Call<'a> {
    Call::new(method, path).header("x-api-key", key)
}

fn every_route_wants_to_know_who_calls(world: &mut World) {
    for (method, path, _) in PROTECTED {
        for call in [
            Call::new(method, path),
            Call::new(method, path).token("x.y.z"),
            Call::new(method, path).token("int_unknown"),
            with_key(method, path, "int_unknown"),
            with_key(method, path, ""),
        ] {
            let answer = world.app.call(call.body(json!({ "value": 1, "active": true }))).is(401);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
    }
    for path in ["/", "/app.js", "/style.css", "/icon.svg", "/docs", "/openapi.json", "/healthz", "/readyz"] {
        world.app.call(Call::new("GET", path)).is(200);
    }
}

fn registers_a_user_and_shows_the_key_once(world: &mut World) {
    let body = json!({ "username": "Ada", "password": PASSWORD });
    let answer = world.app.send("POST", "", "/users/create", body.clone()).is(201);
    let created = answer.json();
    let key = created["apiKey"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/api/v1/users/{}", created["id"]).as_str()));
    assert_eq!((&created["username"], &created["role"]), (&json!("Ada"), &json!("user")));
    let me = world.app.call(with_key("GET", "/api/v1/me", key)).is(200);
    assert!(!me.text.contains(key) && key.starts_with(me.json()["apiKeyBegins"].as_str().unwrap()));
    world.app.send("POST", "", "/users/create", json!({ "username": "ADA", "password": PASSWORD })).is(409);
    let stored = world.rig.sql("integers", "SELECT string_agg(u::text, ' ') FROM users u");
    assert!(!stored.contains(key) && !stored.contains(PASSWORD), "neither key nor password is stored");
    let role = json!({ "username": "mallory", "password": PASSWORD, "role": "admin" });
    world.app.send("POST", "", "/users/create", role).is(422);
}

fn refuses_names_and_passwords_that_break_a_rule(world: &mut World) {
    for (username, password) in [
        ("ab", PASSWORD),
        ("a b c", PASSWORD),
        ("short-password", "eleven char"),
        ("name-as-password", "name-as-password"),
    ] {
        let body = json!({ "username": username, "password": password });
        let problem = world.app.send("POST", "", "/users/create", body).is(422).json();
        assert!(!problem["errors"].as_array().unwrap().is_empty(), "{problem}");
    }
    world.app.call(Call::new("POST", "/users/create").text("{")).is(400);
    world.app.call(Call::new("POST", "/users/create").text("x".repeat(20_000))).is(413);
}

fn registers_five_a_minute_of_one_address(world: &mut World) {
    let mut command = world.rig.command("integers");
    let app = App::start(command.env("ADMIN_PASSWORD", ADMIN_PASSWORD)); // with the limit as it is by default
    let register = |address: &str, name: String| {
        let call = Call::new("POST", "/users/create").header("x-forwarded-for", address);
        app.call(call.body(json!({ "username": name, "password": PASSWORD })))
    };
    for number in 0..5 {
        register("192.0.2.1", format!("limited-{number}")).is(201);
    }
    let refused = register("10.1.1.1, 192.0.2.1", "limited-5".into()).is(429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    register("192.0.2.2", "limited-other".into()).is(201);
}

fn signs_in_and_refuses_everything_else(world: &mut World) {
    world.person("signer");
    let ask = |username: &str, password: &str| {
        world.app.send("POST", "", "/auth/token", json!({ "username": username, "password": password }))
    };
    let pair = ask("SIGNER", PASSWORD).is(200).json();
    assert_eq!((&pair["tokenType"], &pair["expiresIn"]), (&json!("Bearer"), &json!(3600)));
    world.app.get(pair["accessToken"].as_str().unwrap(), "/api/v1/me").is(200);
    let wrong = ask("signer", "not the password").is(401).json();
    assert_eq!(wrong, ask("nobody-of-that-name", PASSWORD).is(401).json(), "unknown and wrong look the same");
    ask("", PASSWORD).is(422);
    for _ in 0..20 {
        ask("guessed", "not the password");
    }
    assert!(ask("guessed", "not the password").is(429).header("retry-after").is_some());
}

fn refresh(world: &World, token: &Value) -> mainstay_rig::Answer {
    world.app.send("POST", "", "/auth/refresh", json!({ "refreshToken": token }))
}

fn a_refresh_token_works_once_and_a_stolen_one_ends_the_session(world: &mut World) {
    world.person("refresher");
    let body = json!({ "username": "refresher", "password": PASSWORD });
    let first = world.app.send("POST", "", "/auth/token", body).is(200).json();
    let second = refresh(world, &first["refreshToken"]).is(200).json();
    assert_ne!(first["refreshToken"], second["refreshToken"]);
    let token = second["accessToken"].as_str().unwrap();
    world.app.get(token, "/api/v1/integer").is(200);
    let back = "UPDATE refresh_tokens SET used_at = used_at - interval '11 seconds' WHERE used_at IS NOT NULL";
    world.rig.sql("integers", back);
    refresh(world, &first["refreshToken"]).is(401);
    refresh(world, &second["refreshToken"]).is(401);
    world.app.get(token, "/api/v1/integer").is(401);
    let audit = world.app.get(&world.admin, "/api/v1/audit?limit=5").is(200).text;
    assert!(audit.contains("session.reuse-detected"), "{audit}");
}

fn a_rotated_key_is_refused_at_once(world: &mut World) {
    let person = world.person("rotator");
    let second = world.rig.app(); // another instance that has the old key in mind
    second.call(with_key("GET", "/api/v1/integer", &person.api_key)).is(200);
    let token = world.sign_in("rotator", PASSWORD);
    let new = world.app.call(Call::new("POST", "/api/v1/api-key/rotate").token(&token)).is(200).json();
    for app in [&world.app, &second] {
        app.call(with_key("GET", "/api/v1/integer", &person.api_key)).is(401);
        app.call(with_key("GET", "/api/v1/integer", new["apiKey"].as_str().unwrap())).is(200);
    }
}

fn an_api_key_opens_the_counter_and_nothing_else(world: &mut World) {
    let person = world.person("program");
    world.app.call(Call::new("POST", "/api/v1/integer/next").token(&person.api_key)).is(200);
    for (method, path) in [("POST", "/api/v1/api-key/rotate"), ("POST", "/auth/logout"), ("GET", "/api/v1/users")] {
        world.app.call(Call::new(method, path).token(&person.api_key)).is(401);
        world.app.call(with_key(method, path, &person.api_key)).is(401);
    }
}

fn others_do_not_exist_for_a_user(world: &mut World) {
    let (one, other) = (world.person("one-of-two"), world.person("other-of-two"));
    let path = format!("/api/v1/users/{}", other.id);
    let hidden = world.app.call(with_key("GET", &path, &one.api_key)).is(404);
    let absent = world.app.call(with_key("GET", "/api/v1/users/999999", &one.api_key)).is(404);
    assert_eq!(hidden.json()["title"], absent.json()["title"]);
    world.app.call(with_key("GET", &path, &other.api_key)).is(200);
    world.app.get(&world.admin, &path).is(200);
    world.app.get(&world.admin, "/api/v1/users/abc").is(400);
    world.app.call(with_key("POST", "/api/v1/integer/next?n=7", &one.api_key)).is(200);
    let theirs = world.app.call(with_key("GET", "/api/v1/integer", &other.api_key)).is(200).json();
    assert_eq!(theirs["value"], 0, "each user has a counter of his own");
}

fn only_administrators_administrate(world: &mut World) {
    world.person("plain-user");
    let token = world.sign_in("plain-user", PASSWORD);
    for (method, path, is_admins) in PROTECTED.into_iter().filter(|(_, path, _)| *path != "/auth/logout") {
        let status = world.app.send(method, &token, path, json!({ "active": true, "value": 1 })).status;
        assert_eq!(status == 403, is_admins, "{method} {path}: {status}");
    }
    let lock_self = json!({ "active": false });
    let id = world.app.get(&world.admin, "/api/v1/me").is(200).json()["id"].clone();
    world.app.send("PUT", &world.admin, &format!("/api/v1/users/{id}/active"), lock_self).is(409);
    world.app.send("PUT", &world.admin, "/api/v1/users/999999/active", json!({ "active": true })).is(404);
}

fn a_user_who_is_locked_out_is_out_at_once(world: &mut World) {
    let person = world.person("locked");
    let token = world.sign_in("locked", PASSWORD);
    world.app.get(&token, "/api/v1/me").is(200);
    world.app.call(with_key("GET", "/api/v1/me", &person.api_key)).is(200);
    let set = |active: bool| {
        let path = format!("/api/v1/users/{}/active", person.id);
        world.app.send("PUT", &world.admin, &path, json!({ "active": active })).is(200);
    };
    set(false);
    world.app.get(&token, "/api/v1/me").is(401);
    world.app.call(with_key("GET", "/api/v1/me", &person.api_key)).is(401);
    let body = json!({ "username": "locked", "password": PASSWORD });
    world.app.send("POST", "", "/auth/token", body).is(401);
    set(true);
    world.app.call(with_key("GET", "/api/v1/me", &person.api_key)).is(200);
}

fn lists_by_cursor_hold_everybody_once(world: &mut World) {
    for number in 0..5 {
        world.person(&format!("listed-{number}"));
    }
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/users?limit=2{cursor}");
        let page = world.app.get(&world.admin, &path).is(200).json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|user| user["id"].as_i64().unwrap()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all: usize = world.rig.sql("integers", "SELECT count(*) FROM users").parse().unwrap();
    assert_eq!(ids.len(), all);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    for query in ["limit=0", "limit=101", "cursor=nonsense"] {
        world.app.get(&world.admin, &format!("/api/v1/users?{query}")).is(422);
    }
    world.app.get(&world.admin, "/api/v1/users?page=1").is(400);
}

fn calls_of_one_user_are_limited(world: &mut World) {
    let (eager, calm) = (world.person("eager"), world.person("calm"));
    let mut command = world.rig.command("integers");
    let app = App::start(command.env("CALLS_PER_MINUTE", "3"));
    for _ in 0..3 {
        app.call(with_key("GET", "/api/v1/integer", &eager.api_key)).is(200);
    }
    assert!(app.call(with_key("GET", "/api/v1/integer", &eager.api_key)).is(429).header("retry-after").is_some());
    app.call(with_key("GET", "/api/v1/integer", &calm.api_key)).is(200);
}
