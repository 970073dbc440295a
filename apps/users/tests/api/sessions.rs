//! Browsers' sessions, limits and locks.

use serde_json::{Value, json};

use crate::World;
use mainstay_rig::{Answer, App, Call, wait_until};

crate::scenarios![
    a_browser_signs_in_with_a_cookie_that_scripts_cannot_read,
    a_request_with_a_cookie_proves_that_our_page_sent_it,
    a_browser_is_signed_out_after_thirty_idle_minutes_and_not_before,
    sessions_are_listed_and_ended,
    wrong_passwords_lock_the_account_for_a_while,
    a_lock_says_nothing_about_who_has_an_account,
    lets_through_a_hundred_requests_a_minute_and_not_one_more,
];

/// A signed-in browser.
struct Browser {
    cookie: String,
    csrf: String,
}

fn open(app: &App, username: &str, password: &str) -> Answer {
    let body = json!({ "username": username, "password": password });
    app.call(Call::new("POST", "/api/auth/session").header("user-agent", "test browser").body(body))
}

impl Browser {
    fn open(app: &App, username: &str) -> Self {
        let answer = open(app, username, "correct horse").is(200);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Self { cookie, csrf: answer.json()["csrfToken"].as_str().unwrap().to_owned() }
    }

    fn get(&self, app: &App, path: &str) -> Answer {
        app.call(Call::new("GET", path).header("cookie", &self.cookie))
    }

    fn send(&self, app: &App, method: &'static str, path: &str) -> Answer {
        app.call(Call::new(method, path).header("cookie", &self.cookie).header("x-csrf-token", &self.csrf))
    }

    fn id(&self) -> &str {
        self.cookie.split_once('=').unwrap().1.split_once('.').unwrap().0
    }
}

fn a_browser_signs_in_with_a_cookie_that_scripts_cannot_read(world: &mut World) {
    world.user("browsing", "viewer");
    let answer = open(&world.app, "browsing", "correct horse").is(200);
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("__Host-session=") && !cookie.contains("Domain"), "{cookie}");
    for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let secret = cookie.split(['.', ';']).nth(1).unwrap();
    let stored = world.rig.sql("users", "SELECT string_agg(encode(secret_hash, 'escape'), ' ') FROM sessions");
    assert!(!stored.contains(secret), "stored as a hash");
    let browser = Browser::open(&world.app, "browsing");
    assert_eq!(browser.get(&world.app, "/api/auth/me").is(200).json()["username"], "browsing");
    let session = browser.get(&world.app, "/api/auth/session").is(200).json();
    assert_eq!((&session["user"]["username"], &session["csrfToken"]), (&json!("browsing"), &json!(browser.csrf)));
    let forged = Browser { cookie: format!("{}x", browser.cookie), csrf: browser.csrf.clone() };
    forged.get(&world.app, "/api/auth/me").is(401);
    let nobody = world.app.call(Call::new("GET", "/api/auth/session")).is(200).json();
    assert_eq!((&nobody["user"], &nobody["csrfToken"]), (&Value::Null, &Value::Null));
    open(&world.app, "browsing", "wrong horse").is(401);
}

fn a_request_with_a_cookie_proves_that_our_page_sent_it(world: &mut World) {
    world.user("forging", "editor");
    let browser = Browser::open(&world.app, "forging");
    let body = json!({ "username": "forged", "email": "forged@example.org" });
    let post = |csrf: Option<&str>| {
        let call = Call::new("POST", "/api/users").header("cookie", &browser.cookie).body(body.clone());
        world.app.call(match csrf {
            Some(csrf) => call.header("x-csrf-token", csrf),
            None => call,
        })
    };
    post(None).is(403);
    post(Some("guess")).is(403);
    post(Some(&Browser::open(&world.app, "forging").csrf)).is(403);
    assert_eq!(world.rig.sql("users", "SELECT count(*) FROM users WHERE username = 'forged'"), "0");
    post(Some(&browser.csrf)).is(201);
    let body = json!({ "username": "forging", "password": "correct horse" });
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200)] {
        let call = Call::new("POST", "/api/auth/session").header("sec-fetch-site", site);
        world.app.call(call.body(body.clone())).is(status);
    }
}

fn a_browser_is_signed_out_after_thirty_idle_minutes_and_not_before(world: &mut World) {
    world.user("idling", "viewer");
    let browser = Browser::open(&world.app, "idling");
    let key = format!("session:{}", browser.id());
    // The clock is turned by moving what is stored; Redis would answer for up to 30 s.
    let turn = |minutes: u32| {
        world.rig.redis_cli(&["-n", "1", "DEL", &key]);
        let interval = format!("interval '{minutes} minutes'");
        world.rig.sql(
            "users",
            &format!("UPDATE sessions SET created_at = created_at - {interval}, last_seen_at = last_seen_at - {interval}, expires_at = expires_at - {interval} WHERE id = '{}'", browser.id()),
        );
    };
    for _ in 0..3 {
        turn(29);
        browser.get(&world.app, "/api/auth/me").is(200);
    }
    let ttl: i64 = world.rig.redis_cli(&["-n", "1", "TTL", &key]).parse().unwrap();
    assert!((1_600..=1_800).contains(&ttl), "30 minutes less up to a tenth, is {ttl}");
    turn(31);
    browser.get(&world.app, "/api/auth/me").is(401);
    let other = Browser::open(&world.app, "idling");
    let days = format!(
        "UPDATE sessions SET created_at = now() - interval '7 days' + interval '5 seconds' WHERE id = '{}'",
        other.id()
    );
    world.rig.redis_cli(&["-n", "1", "DEL", &format!("session:{}", other.id())]);
    world.rig.sql("users", &days);
    other.get(&world.app, "/api/auth/me").is(200);
    let left = world.rig.sql(
        "users",
        &format!("SELECT expires_at < now() + interval '6 seconds' FROM sessions WHERE id = '{}'", other.id()),
    );
    assert_eq!(left, "t", "seven days are the longest, however busy");
}

fn sessions_are_listed_and_ended(world: &mut World) {
    let (id, token) = world.user("everywhere-else", "viewer");
    let (first, second) = (Browser::open(&world.app, "everywhere-else"), Browser::open(&world.app, "everywhere-else"));
    let list = first.get(&world.app, "/api/auth/sessions").is(200).json();
    let list = list["sessions"].as_array().unwrap();
    assert_eq!(list.len(), 3);
    let mine = list.iter().find(|one| one["id"] == first.id()).unwrap();
    assert_eq!(
        (&mine["kind"], &mine["current"], &mine["agent"]),
        (&json!("browser"), &json!(true), &json!("test browser"))
    );
    assert!(list.iter().any(|one| one["kind"] == "tokens" && one["current"] == false));
    first.send(&world.app, "DELETE", &format!("/api/auth/sessions/{}", second.id())).is(204);
    second.get(&world.app, "/api/auth/me").is(401);
    first.send(&world.app, "DELETE", "/api/auth/sessions/none").is(404);
    let other = world.user("somebody-else", "viewer").1;
    let path = format!("/api/auth/sessions/{}", first.id());
    world.app.call(Call::new("DELETE", &path).token(&other)).is(404);
    first.get(&world.app, "/api/auth/me").is(200);
    let access = world.app.get(&world.admin, &format!("/api/users/{id}/access")).is(200).json();
    assert_eq!(access["sessions"].as_array().unwrap().len(), 2);
    let path = format!("/api/users/{id}/sessions/{}", first.id());
    world.app.call(Call::new("DELETE", &path).token(&world.admin)).is(204);
    first.get(&world.app, "/api/auth/me").is(401);
    world.app.call(Call::new("DELETE", &format!("/api/users/{id}/sessions")).token(&world.admin)).is(204);
    world.app.get(&token, "/api/auth/me").is(401);
    let out = Browser::open(&world.app, "everywhere-else");
    let answer = out.send(&world.app, "POST", "/api/auth/logout").is(204);
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"));
    out.get(&world.app, "/api/auth/me").is(401);
}

fn sign_in(app: &App, username: &str, password: &str) -> Answer {
    app.send("POST", "", "/api/auth/login", json!({ "username": username, "password": password }))
}

fn wrong_passwords_lock_the_account_for_a_while(world: &mut World) {
    let (id, token) = world.user("attacked", "viewer");
    for _ in 0..4 {
        sign_in(&world.app, "attacked", "guess").is(401);
    }
    sign_in(&world.app, "attacked", "correct horse").is(200);
    for _ in 0..3 {
        sign_in(&world.app, "attacked@example.org", "guess").is(401);
        sign_in(&world.app, "attacked", "guess").is(401);
    }
    sign_in(&world.app, "attacked", "correct horse").is(401);
    world.app.get(&token, "/api/auth/me").is(200);
    let access = || world.app.get(&world.admin, &format!("/api/users/{id}/access")).is(200).json();
    let before = access();
    assert_eq!(before["failedSignIns"], 5, "the sixth came while it was locked and did not count");
    assert!(before["lockedUntil"].is_string());
    world.rig.sql("users", &format!("UPDATE users SET locked_until = now() - interval '1 second' WHERE id = {id}"));
    sign_in(&world.app, "attacked", "guess").is(401);
    let wait = world.rig.sql(
        "users",
        &format!("SELECT round(extract(epoch FROM locked_until - last_failed_at)) FROM users WHERE id = {id}"),
    );
    assert_eq!(wait, "30", "twice the first wait");
    let version = world.rig.sql("users", &format!("SELECT version FROM users WHERE id = {id}"));
    assert_eq!(version, "1", "a lock is no change of the user");
    world.app.call(Call::new("PUT", &format!("/api/users/{id}/unlock")).token(&world.admin)).is(204);
    assert_eq!((&access()["failedSignIns"], &access()["lockedUntil"]), (&json!(0), &Value::Null));
    sign_in(&world.app, "attacked", "correct horse").is(200);
    let audit = world.app.get(&world.admin, "/api/audit?limit=20").is(200).json().to_string();
    for action in ["session.refused", "user.unlocked", "\"locked\"", "\"password\""] {
        assert!(audit.contains(action), "{action}: {audit}");
    }
}

fn a_lock_says_nothing_about_who_has_an_account(world: &mut World) {
    world.user("real-account", "viewer");
    let answers = |name: &str| -> Vec<(u16, String)> {
        (0..8).map(|_| sign_in(&world.app, name, "guess")).map(|answer| (answer.status, answer.text)).collect()
    };
    assert_eq!(answers("real-account"), answers("no-such-account"));
}

fn lets_through_a_hundred_requests_a_minute_and_not_one_more(world: &mut World) {
    let first = world.rig.app_with(&[]);
    let second = world.rig.app_with(&[]);
    let (id, token) = world.user("eager", "viewer");
    let mut let_through = 0;
    for index in 0..130 {
        let answer = if index % 2 == 0 { &first } else { &second }.get(&token, "/api/users/1");
        if index == 0 {
            assert_eq!(answer.header("ratelimit-policy"), Some("\"user\";q=100;w=60"));
            assert_eq!(answer.header("ratelimit"), Some("\"user\";r=99;t=60"));
        }
        match answer.status {
            200 => let_through += 1,
            429 => {
                let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=60).contains(&wait));
                assert!(answer.header("ratelimit").unwrap().starts_with("\"user\";r=0;t="));
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(let_through, 100, "both instances count together");
    let key = format!("rate:{id}:GET /api/users/{{id}}");
    assert_eq!(world.rig.redis_cli(&["-n", "1", "GET", &key]), "130");
    let ttl: i64 = world.rig.redis_cli(&["-n", "1", "TTL", &key]).parse().unwrap();
    assert!((1..=60).contains(&ttl), "lives a minute, is {ttl}");
    first.get(&token, "/api/users").is(200);
    first.get(&world.admin, "/api/users/1").is(200);
    // A minute later: the window's end is moved up, not waited for.
    world.rig.redis_cli(&["-n", "1", "PEXPIRE", &key, "1"]);
    wait_until("the next window lets through again", || first.get(&token, "/api/users/1").status == 200);
}
