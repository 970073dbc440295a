//! The user routes and their codes.

use serde_json::{Value, json};

use crate::World;
use mainstay_rig::Call;

crate::scenarios![
    creates_with_201_and_refuses_doubles_with_409,
    says_all_wrong_fields_at_once,
    finds_by_id_name_and_address,
    serves_the_second_read_from_the_cache_and_never_an_old_version,
    changes_only_the_version_that_was_seen,
    deletes_once,
    always_keeps_an_administrator,
    pages_hold_every_user_once,
    searches_filters_and_sorts,
    counts_users,
];

fn person(name: &str) -> Value {
    json!({ "username": name, "email": format!("{name}@example.org"), "firstName": "Ada", "lastName": "Lovelace" })
}

fn create(world: &World, name: &str) -> Value {
    world.app.send("POST", &world.admin, "/api/users", person(name)).is(201).json()
}

fn path(user: &Value) -> String {
    format!("/api/users/{}", user["id"])
}

fn creates_with_201_and_refuses_doubles_with_409(world: &mut World) {
    let answer = world.app.send("POST", &world.admin, "/api/users", person("created")).is(201);
    let user = answer.json();
    assert_eq!(answer.header("location"), Some(path(&user).as_str()));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(
        (&user["role"], &user["isActive"], &user["createdBy"]),
        (&json!("viewer"), &json!(true), &json!("admin"))
    );
    let mut double = person("CREATED");
    double["email"] = json!("other@example.org");
    let problem = world.app.send("POST", &world.admin, "/api/users", double).is(409).json();
    assert_eq!(problem["detail"], "this user name is taken");
    assert_eq!(problem["errors"][0]["pointer"], "/username", "a form can show it at its place");
    let mut double = person("other");
    double["email"] = json!("Created@Example.org");
    let problem = world.app.send("POST", &world.admin, "/api/users", double).is(409).json();
    assert_eq!(problem["detail"], "this e-mail address is taken");
    let other = create(world, "created-2");
    world.app.send("PUT", &world.admin, &path(&other), json!({ "username": "created" })).is(409);
}

fn says_all_wrong_fields_at_once(world: &mut World) {
    let post = |body: Value| world.app.send("POST", &world.admin, "/api/users", body);
    let body = json!({ "username": "a b", "email": "nobody", "firstName": "x".repeat(51), "password": "short" });
    let problem = post(body).is(422).json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/username", "/email", "/firstName", "/password"]);
    post(json!({ "username": "no-address" })).is(422);
    post(json!({ "username": "x-y-z", "email": "x@example.org", "id": 1 })).is(422);
    world.app.call(Call::new("POST", "/api/users").token(&world.admin).text("{\"username\"")).is(400);
    world.app.call(Call::new("POST", "/api/users").token(&world.admin)).is(415);
    world.app.call(Call::new("POST", "/api/users").token(&world.admin).text("x".repeat(70_000))).is(413);
}

fn finds_by_id_name_and_address(world: &mut World) {
    let user = create(world, "found");
    let get = |path: &str| world.app.get(&world.admin, path);
    assert_eq!(get(&path(&user)).is(200).json(), user);
    assert_eq!(get("/api/users/username/FOUND").is(200).json(), user);
    assert_eq!(get("/api/users/email/Found%40example.org").is(200).json(), user);
    get("/api/users/999999").is(404);
    get("/api/users/username/nobody").is(404);
    get("/api/users/email/nobody@example.org").is(404);
    get("/api/users/abc").is(400);
    get("/api/nothing").is(404);
    world.app.call(Call::new("PATCH", &path(&user)).token(&world.admin)).is(405);
}

fn serves_the_second_read_from_the_cache_and_never_an_old_version(world: &mut World) {
    let user = create(world, "cached");
    let (path, key) = (path(&user), format!("user:{}", user["id"]));
    let read = || world.app.get(&world.admin, &path);
    world.rig.redis_cli(&["DEL", &key]);
    assert_eq!(read().is(200).header("x-cache"), Some("miss"));
    assert_eq!(read().is(200).header("x-cache"), Some("hit"));
    let ttl: i64 = world.rig.redis_cli(&["TTL", &key]).parse().unwrap();
    assert!((265..=300).contains(&ttl), "5 minutes less up to a tenth, is {ttl}");
    world.app.send("PUT", &world.admin, &path, json!({ "lastName": "King" })).is(200);
    let changed = read().is(200);
    assert_eq!((changed.header("x-cache"), &changed.json()["lastName"]), (Some("hit"), &json!("King")));
    assert!(world.rig.redis_cli(&["GET", &key]).starts_with("2:{"), "the entry says which version it is");
    world.app.call(Call::new("DELETE", &path).token(&world.admin)).is(204);
    read().is(404);
    world.rig.redis_cli(&["SET", &key, "no entry of ours"]);
    read().is(404);
}

fn changes_only_the_version_that_was_seen(world: &mut World) {
    let user = create(world, "versioned");
    let path = path(&user);
    let put = |tag: &str, name: &str| {
        let call = Call::new("PUT", &path).token(&world.admin).header("if-match", tag);
        world.app.call(call.body(json!({ "firstName": name })))
    };
    let changed = put("\"1\"", "Augusta").is(200);
    assert_eq!((changed.header("etag"), &changed.json()["updatedBy"]), (Some("\"2\""), &json!("admin")));
    put("\"1\"", "Byron").is(412);
    put("\"1\"", &"x".repeat(51)).is(422);
    assert_eq!(put("\"2\"", "Augusta").is(200).header("etag"), Some("\"2\""), "nothing changed, same version");
    let known = world.app.call(Call::new("GET", &path).token(&world.admin).header("if-none-match", "\"2\""));
    assert_eq!((known.status, known.text.as_str()), (304, ""));
    world.app.call(Call::new("DELETE", &path).token(&world.admin).header("if-match", "\"1\"")).is(412);
    world.app.send("PUT", &world.admin, "/api/users/999999", json!({})).is(404);
    world.app.send("PUT", &world.admin, &path, json!({ "email": "x" })).is(422);
}

fn deletes_once(world: &mut World) {
    let user = create(world, "deleted");
    let delete = || world.app.call(Call::new("DELETE", &path(&user)).token(&world.admin));
    let answer = delete().is(204);
    assert_eq!(answer.text, "");
    delete().is(404);
    let (id, token) = world.user("deleted-with-session", "viewer");
    world.app.call(Call::new("DELETE", &format!("/api/users/{id}")).token(&world.admin)).is(204);
    world.app.get(&token, "/api/users").is(401);
}

fn always_keeps_an_administrator(world: &mut World) {
    let (id, token) = world.user("second-admin", "admin");
    let others =
        "UPDATE users SET is_active = false WHERE role = 'admin' AND username NOT IN ('admin', 'second-admin')";
    world.rig.sql("users", others);
    let call = |token: &str, method: &'static str, path: &str, body: Value| world.app.send(method, token, path, body);
    call(&world.admin, "PUT", "/api/users/1/deactivate", json!({})).is(409);
    call(&world.admin, "DELETE", "/api/users/1", json!({})).is(409);
    call(&token, "PUT", &format!("/api/users/{id}"), json!({ "role": "viewer" })).is(200);
    call(&world.admin, "PUT", "/api/users/1", json!({ "role": "editor" })).is(409);
}

fn pages_hold_every_user_once(world: &mut World) {
    for index in 0..7 {
        create(world, &format!("paged-{index}"));
    }
    let mut names = Vec::new();
    for page in 0..3 {
        let path = format!("/api/users?q=paged-&size=3&sort=lastName,desc&page={page}");
        let answer = world.app.get(&world.admin, &path).is(200).json();
        assert_eq!((&answer["totalElements"], &answer["totalPages"]), (&json!(7), &json!(3)));
        assert_eq!((&answer["first"], &answer["last"]), (&json!(page == 0), &json!(page == 2)));
        names.extend(answer["content"].as_array().unwrap().iter().map(|u| u["username"].as_str().unwrap().to_owned()));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 7, "equal last names, and still every user on one page: {names:?}");
    let beyond = world.app.get(&world.admin, "/api/users?q=paged-&page=9").is(200).json();
    assert_eq!((&beyond["content"], &beyond["totalElements"]), (&json!([]), &json!(7)));
    for query in ["size=0", "size=101", "sort=password_hash", "sort=id,up", "page=4000000000&size=100"] {
        world.app.get(&world.admin, &format!("/api/users?{query}")).is(422);
    }
    world.app.get(&world.admin, "/api/users?page=-1").is(400);
}

fn searches_filters_and_sorts(world: &mut World) {
    for name in ["search-zoe", "search-amy"] {
        create(world, name);
    }
    let names = |path: &str| -> Vec<String> {
        let answer = world.app.get(&world.admin, path).is(200).json();
        answer["content"].as_array().unwrap().iter().map(|u| u["username"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/api/users/search?q=SEARCH-&sort=username"), ["search-amy", "search-zoe"]);
    assert_eq!(names("/api/users/search?q=search-&sort=username,desc"), ["search-zoe", "search-amy"]);
    assert_eq!(names("/api/users/search?q=ada%20lovelace&size=1").len(), 1);
    assert!(names("/api/users/search?q=%25").is_empty(), "a percent sign is a percent sign");
    world.app.get(&world.admin, "/api/users/search").is(422);
    world.app.get(&world.admin, "/api/users/search?q=a%00b").is(422);
    // What PostgreSQL cannot take is the caller's mistake.
    world.app.get(&world.admin, "/api/users/username/a%00b").is(400);
    world.app.call(Call::new("DELETE", "/api/auth/sessions/a%00b").token(&world.admin)).is(400);
    world.rig.sql("users", "UPDATE users SET is_active = false WHERE username = 'search-zoe'");
    assert_eq!(names("/api/users/active?q=search-"), ["search-amy"]);
    assert_eq!(names("/api/users?q=search-&active=false"), ["search-zoe"]);
    assert_eq!(names("/api/users?role=admin&active=true&q=admin@users"), ["admin"]);
}

fn counts_users(world: &mut World) {
    let stats = world.app.get(&world.admin, "/api/users/stats").is(200).json();
    let total: i64 = world.rig.sql("users", "SELECT count(*) FROM users").parse().unwrap();
    assert_eq!(stats["total"], json!(total));
    assert_eq!(stats["active"].as_i64().unwrap() + stats["inactive"].as_i64().unwrap(), total);
    let days = stats["createdPerDay"].as_array().unwrap();
    assert_eq!((days.len(), &days[13]["count"]), (14, &json!(total)), "all of them were made today");
}
