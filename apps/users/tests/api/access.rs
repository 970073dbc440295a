//! Who gets in, and who may do what.

use serde_json::{Value, json};

use crate::World;
use mainstay_rig::{ADMIN_PASSWORD, Call};

crate::scenarios![
    every_route_but_the_open_ones_wants_a_token,
    tokens_of_others_are_refused,
    signs_in_by_name_or_address_and_refuses_everything_else,
    roles_decide_what_is_allowed,
    a_refresh_token_works_once,
    a_stolen_refresh_token_ends_the_session,
    signing_out_ends_the_session_at_once,
    changing_the_password_ends_all_sessions,
    a_lost_role_counts_for_tokens_that_still_name_it,
    a_deactivated_user_is_out_at_once,
    old_bcrypt_passwords_work_and_are_replaced,
    guessing_passwords_is_slowed_down,
];

/// Every route that needs a token; a new one must be added here and to the roles below.
pub(crate) const PROTECTED: [(&str, &str, &str); 40] = [
    ("GET", "/api/users", "viewer"),
    ("GET", "/api/users/active", "viewer"),
    ("GET", "/api/users/search?q=a", "viewer"),
    ("GET", "/api/users/stats", "viewer"),
    ("GET", "/api/users/1", "viewer"),
    ("GET", "/api/users/username/admin", "viewer"),
    ("GET", "/api/users/email/admin@users.localhost.test", "viewer"),
    ("GET", "/api/v1/metrics/requests", "viewer"),
    ("GET", "/api/auth/me", "viewer"),
    ("POST", "/api/users", "editor"),
    ("PUT", "/api/users/999999", "editor"),
    ("PUT", "/api/users/999999/deactivate", "editor"),
    ("PUT", "/api/users/999999/reactivate", "editor"),
    ("DELETE", "/api/users/999999", "admin"),
    ("GET", "/api/audit", "admin"),
    ("GET", "/api/audit/verify", "admin"),
    ("PUT", "/api/auth/password", "viewer"),
    ("POST", "/api/auth/logout", "viewer"),
    ("GET", "/api/users/export", "editor"),
    ("POST", "/api/users/import", "editor"),
    ("GET", "/api/users/999999/access", "admin"),
    ("PUT", "/api/users/999999/unlock", "admin"),
    ("DELETE", "/api/users/999999/sessions", "admin"),
    ("DELETE", "/api/users/999999/sessions/none", "admin"),
    ("GET", "/api/auth/sessions", "viewer"),
    ("DELETE", "/api/auth/sessions/none", "viewer"),
    ("GET", "/api/admin/actuator/health", "admin"),
    ("GET", "/api/admin/actuator/health/db", "admin"),
    ("GET", "/api/admin/actuator/info", "admin"),
    ("GET", "/api/admin/actuator/metrics", "admin"),
    ("GET", "/api/admin/actuator/metrics/http.server.requests", "admin"),
    ("GET", "/api/admin/actuator/loggers", "admin"),
    ("GET", "/api/admin/actuator/loggers/ROOT", "admin"),
    ("POST", "/api/admin/actuator/loggers/none", "admin"),
    ("GET", "/api/admin/actuator/caches", "admin"),
    ("DELETE", "/api/admin/actuator/caches", "admin"),
    ("GET", "/api/admin/actuator/caches/users", "admin"),
    ("DELETE", "/api/admin/actuator/caches/users", "admin"),
    ("GET", "/api/admin/actuator/scheduledtasks", "admin"),
    ("GET", "/api/admin/actuator/httpexchanges", "admin"),
];

/// Every route that needs no token, and why.
pub(crate) const OPEN: [(&str, &str); 7] = [
    ("POST", "/api/auth/login"),   // the way in
    ("POST", "/api/auth/refresh"), // carries a token of its own
    ("POST", "/api/auth/session"), // the way in
    ("GET", "/api/auth/session"),  // says "nobody" to nobody
    ("GET", "/api/v1/info"),
    ("GET", "/api/v1/health"),
    ("POST", "/api/v1/echo"),
];

fn every_route_but_the_open_ones_wants_a_token(world: &mut World) {
    for (method, path, _) in PROTECTED {
        let answer = world.app.call(Call::new(method, path).body(json!({}))).is(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
    }
    for path in ["/api/v1/info", "/api/v1/health"] {
        world.app.call(Call::new("GET", path)).is(200);
    }
    world.app.call(Call::new("POST", "/api/v1/echo").body(json!({ "a": 1 }))).is(200);
}

fn tokens_of_others_are_refused(world: &mut World) {
    let (head, tag) = world.admin.rsplit_once('.').unwrap();
    for token in ["", "x.y.z", head, &format!("{head}."), &format!("{head}.{}", &tag[1..])] {
        world.app.get(token, "/api/users").is(401);
    }
    world.app.call(Call::new("GET", "/api/users").header("authorization", format!("Basic {}", world.admin))).is(401);
}

fn signs_in_by_name_or_address_and_refuses_everything_else(world: &mut World) {
    let login = |username: &str, password: &str| {
        let body = json!({ "username": username, "password": password });
        world.app.send("POST", "", "/api/auth/login", body)
    };
    let answer = login("ADMIN", ADMIN_PASSWORD).is(200).json();
    assert_eq!((&answer["tokenType"], &answer["expiresIn"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(answer["user"]["username"], "admin");
    assert!(!answer.to_string().contains("argon2"), "no hash leaves the service");
    login("admin@users.localhost.test", ADMIN_PASSWORD).is(200);
    let wrong = login("admin", "wrong password").is(401).json();
    assert_eq!(wrong, login("nobody", "wrong password").is(401).json(), "unknown and wrong look the same");
    login("", "").is(422);
    world.app.send("POST", "", "/api/auth/login", json!({ "username": "admin" })).is(422);
    world.app.call(Call::new("POST", "/api/auth/login").text("{")).is(400);
}

fn roles_decide_what_is_allowed(world: &mut World) {
    let tokens: Vec<(&str, String)> = ["viewer", "editor", "admin"]
        .into_iter()
        .map(|role| (role, world.user(&format!("role-{role}"), role).1))
        .collect();
    let rank = |role: &str| ["viewer", "editor", "admin"].iter().position(|r| *r == role).unwrap();
    for (method, path, needed) in PROTECTED {
        for (role, token) in &tokens {
            if path.starts_with("/api/auth/") {
                continue; // their own session, tried elsewhere
            }
            let status = world.app.send(method, token, path, json!({})).status;
            let is_allowed = status != 403;
            assert_eq!(is_allowed, rank(role) >= rank(needed), "{role} {method} {path}: {status}");
            assert_ne!(status, 401, "{role} {method} {path}");
        }
    }
    let editor = &tokens[1].1;
    let new = |role: &str| json!({ "username": "by-editor", "email": "by-editor@example.org", "role": role });
    world.app.send("POST", editor, "/api/users", new("admin")).is(403);
    let id = world.app.send("POST", editor, "/api/users", new("viewer")).is(201).json()["id"].as_i64().unwrap();
    let path = format!("/api/users/{id}");
    world.app.send("PUT", editor, &path, json!({ "firstName": "Eve" })).is(200);
    world.app.send("PUT", editor, &path, json!({ "role": "editor" })).is(403);
    world.app.send("PUT", editor, &path, json!({ "password": "another one" })).is(403);
    world.app.send("PUT", editor, "/api/users/1", json!({ "firstName": "Mallory" })).is(403);
}

fn login(world: &World, username: &str) -> Value {
    let body = json!({ "username": username, "password": "correct horse" });
    world.app.send("POST", "", "/api/auth/login", body).is(200).json()
}

fn refresh(world: &World, token: &Value) -> mainstay_rig::Answer {
    world.app.send("POST", "", "/api/auth/refresh", json!({ "refreshToken": token }))
}

fn a_refresh_token_works_once(world: &mut World) {
    world.user("rotating", "viewer");
    let first = login(world, "rotating");
    let second = refresh(world, &first["refreshToken"]).is(200).json();
    assert_ne!(first["refreshToken"], second["refreshToken"]);
    world.app.get(second["accessToken"].as_str().unwrap(), "/api/auth/me").is(200);
    refresh(world, &second["refreshToken"]).is(200);
    refresh(world, &json!("unknown")).is(401);
    world.app.send("POST", "", "/api/auth/refresh", json!({})).is(422);
    let stored = world.rig.sql("users", "SELECT string_agg(encode(hash, 'escape'), ' ') FROM refresh_tokens");
    assert!(!stored.contains(second["refreshToken"].as_str().unwrap()), "stored as a hash");
}

fn a_stolen_refresh_token_ends_the_session(world: &mut World) {
    world.user("robbed", "viewer");
    let first = login(world, "robbed");
    let second = refresh(world, &first["refreshToken"]).is(200).json();
    // Within the grace the answer may have been lost: the same token is taken once more.
    refresh(world, &first["refreshToken"]).is(200);
    world
        .rig
        .sql("users", "UPDATE refresh_tokens SET used_at = used_at - interval '11 seconds' WHERE used_at IS NOT NULL");
    refresh(world, &first["refreshToken"]).is(401);
    refresh(world, &second["refreshToken"]).is(401);
    world.app.get(second["accessToken"].as_str().unwrap(), "/api/auth/me").is(401);
    let audit = world.app.get(&world.admin, "/api/audit?limit=5").is(200).json();
    assert!(audit.to_string().contains("session.reuse-detected"), "{audit}");
}

fn signing_out_ends_the_session_at_once(world: &mut World) {
    let (_, other) = world.user("leaving", "viewer");
    let pair = login(world, "leaving");
    let token = pair["accessToken"].as_str().unwrap();
    world.app.get(token, "/api/auth/me").is(200);
    world.app.call(Call::new("POST", "/api/auth/logout").token(token)).is(204);
    world.app.get(token, "/api/auth/me").is(401);
    refresh(world, &pair["refreshToken"]).is(401);
    world.app.get(&other, "/api/auth/me").is(200);
}

fn changing_the_password_ends_all_sessions(world: &mut World) {
    let (_, token) = world.user("changing", "viewer");
    let change = |current: &str, new: &str| {
        let body = json!({ "currentPassword": current, "newPassword": new });
        world.app.send("PUT", &token, "/api/auth/password", body)
    };
    change("wrong", "a new password").is(403);
    change("correct horse", "short").is(422);
    change("correct horse", "changing").is(422);
    change("correct horse", "a new password").is(204);
    world.app.get(&token, "/api/auth/me").is(401);
    world.sign_in("changing", "a new password");
}

fn a_lost_role_counts_for_tokens_that_still_name_it(world: &mut World) {
    let (id, token) = world.user("demoted", "editor");
    let create = json!({ "username": "x", "email": "x" });
    world.app.send("POST", &token, "/api/users", create.clone()).is(422);
    world.app.send("PUT", &world.admin, &format!("/api/users/{id}"), json!({ "role": "viewer" })).is(200);
    world.app.send("POST", &token, "/api/users", create).is(403);
}

fn a_deactivated_user_is_out_at_once(world: &mut World) {
    let (id, token) = world.user("dismissed", "viewer");
    world.app.get(&token, "/api/users").is(200);
    world.app.call(Call::new("PUT", &format!("/api/users/{id}/deactivate")).token(&world.admin)).is(200);
    world.app.get(&token, "/api/users").is(401);
    let body = json!({ "username": "dismissed", "password": "correct horse" });
    world.app.send("POST", "", "/api/auth/login", body).is(401);
    world.app.call(Call::new("PUT", &format!("/api/users/{id}/reactivate")).token(&world.admin)).is(200);
    world.sign_in("dismissed", "correct horse");
}

fn old_bcrypt_passwords_work_and_are_replaced(world: &mut World) {
    // Known answer of the bcrypt test suites for "U*U".
    let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    world.rig.sql(
        "users",
        &format!("INSERT INTO users (username, email, first_name, last_name, password_hash) VALUES ('veteran', 'veteran@example.org', '', '', '{hash}')"),
    );
    world.sign_in("veteran", "U*U");
    let stored = world.rig.sql("users", "SELECT password_hash FROM users WHERE username = 'veteran'");
    assert!(stored.starts_with("$argon2id$"), "{stored}");
    world.sign_in("veteran", "U*U");
}

fn guessing_passwords_is_slowed_down(world: &mut World) {
    let guess = |address: &str| {
        let body = json!({ "username": "guessed", "password": "guess" });
        world.app.call(Call::new("POST", "/api/auth/login").header("x-forwarded-for", address).body(body))
    };
    for _ in 0..20 {
        guess("10.0.0.1, 192.0.2.7").is(401);
    }
    let refused = guess("10.9.9.9, 192.0.2.7").is(429);
    assert_eq!(refused.header("retry-after"), Some("60"), "the caller's own part of the header does not help");
    guess("192.0.2.8").is(401);
}
