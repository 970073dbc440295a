//! CSV in and out.

use serde_json::{Value, json};

use crate::World;
use mainstay_rig::{Answer, Call};

crate::scenarios![
    a_dry_run_reports_every_line_and_changes_nothing,
    an_import_is_whole_or_not_at_all,
    an_import_is_bounded_and_wants_csv,
    an_export_is_safe_to_open_and_comes_back_as_it_was,
    editors_import_viewers_only,
];

fn import(world: &World, token: &str, query: &str, text: impl Into<String>) -> Answer {
    let path = format!("/api/users/import{query}");
    world.app.call(Call::new("POST", &path).token(token).of_kind("text/csv; charset=utf-8", text))
}

fn number(world: &World) -> i64 {
    world.rig.sql("users", "SELECT count(*) FROM users").parse().unwrap()
}

const MIXED: &str = "username,email,firstName\nimport-a,import-a@example.org,Ann\nx,nobody,\nadmin,import-b@example.org,\nIMPORT-A,import-c@example.org,\n";

fn a_dry_run_reports_every_line_and_changes_nothing(world: &mut World) {
    let before = number(world);
    let report = import(world, &world.admin, "?dryRun=true", MIXED).is(200).json();
    let faults: Vec<(i64, &str, &str)> = report["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["line"].as_i64().unwrap(), f["column"].as_str().unwrap(), f["code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        faults,
        [(3, "username", "length"), (3, "email", "email"), (4, "username", "taken"), (5, "username", "double")]
    );
    let numbers = (&report["lines"], &report["good"], &report["created"], &report["faultsTotal"]);
    assert_eq!(numbers, (&json!(4), &json!(1), &json!(0), &json!(4)));
    assert_eq!(number(world), before);
}

fn an_import_is_whole_or_not_at_all(world: &mut World) {
    let before = number(world);
    let problem = import(world, &world.admin, "", MIXED).is(422).json();
    assert_eq!(problem["errors"][0]["pointer"], "/3/username");
    assert_eq!(number(world), before, "nothing of it");
    let mut text = "email,username,role\r\n".to_owned();
    for index in 0..500 {
        text.push_str(&format!("bulk-{index}@example.org,bulk-{index},{}\r\n", if index == 0 { "editor" } else { "" }));
    }
    let report = import(world, &world.admin, "", text.clone()).is(200).json();
    assert_eq!((&report["created"], &report["faultsTotal"]), (&json!(500), &json!(0)));
    assert_eq!(number(world), before + 500);
    assert_eq!(world.rig.sql("users", "SELECT role FROM users WHERE username = 'bulk-0'"), "editor");
    import(world, &world.admin, "", text).is(422);
    let entry = world.app.get(&world.admin, "/api/audit?limit=1").is(200).json()["content"][0].clone();
    assert_eq!((&entry["action"], &entry["details"]["number"]), (&json!("users.imported"), &json!(500)));
    world.rig.sql("users", "DELETE FROM users WHERE username LIKE 'bulk-%'");
}

fn an_import_is_bounded_and_wants_csv(world: &mut World) {
    let head = "username,email\n";
    import(world, &world.admin, "", head.to_owned() + &"x".repeat(1024 * 1024)).is(413);
    import(world, &world.admin, "", head.to_owned() + &"a,b\n".repeat(5_001)).is(422);
    import(world, &world.admin, "", "name,mail\n").is(422);
    import(world, &world.admin, "", "").is(422);
    import(world, &world.admin, "", head.to_owned() + "\"open").is(422);
    import(world, &world.admin, "?dryRun=perhaps", head).is(400);
    world.app.call(Call::new("POST", "/api/users/import").token(&world.admin).text("{}")).is(415);
}

fn an_export_is_safe_to_open_and_comes_back_as_it_was(world: &mut World) {
    let tricky = [("export-a", "=1+1", "Love,lace"), ("export-b", "@SUM(A1)", "say \"hi\""), ("-export-c", "-x", "+1")];
    for (name, first, last) in tricky {
        let address = format!("{}@example.org", name.trim_start_matches('-'));
        let body = json!({ "username": name, "email": address, "firstName": first, "lastName": last });
        world.app.send("POST", &world.admin, "/api/users", body).is(201);
    }
    let answer = world.app.get(&world.admin, "/api/users/export?q=export-&sort=username").is(200);
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"));
    assert!(answer.header("content-disposition").unwrap().starts_with("attachment; filename=\"users-"));
    let text = answer.text;
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.contains(",'=1+1,\"Love,lace\",")
            && text.contains(",'@SUM(A1),\"say \"\"hi\"\"\",")
            && text.contains(",'-export-c,"),
        "{text}"
    );
    let users = |world: &World| -> Vec<Value> {
        let page = world.app.get(&world.admin, "/api/users?q=export-&sort=username").is(200).json();
        let fields = ["username", "email", "firstName", "lastName"];
        page["content"].as_array().unwrap().iter().map(|u| json!(fields.map(|field| u[field].clone()))).collect()
    };
    let before = users(world);
    world.rig.sql("users", "DELETE FROM users WHERE username LIKE '%export-%'");
    assert_eq!(import(world, &world.admin, "", text).is(200).json()["created"], 3);
    assert_eq!(users(world), before);
    world.app.get(&world.admin, "/api/users/export?sort=nothing").is(422);
}

fn editors_import_viewers_only(world: &mut World) {
    let (_, editor) = world.user("importing", "editor");
    let text = |role: &str| format!("username,email,role\nby-import,by-import@example.org,{role}\n");
    assert_eq!(import(world, &editor, "", text("admin")).is(422).json()["errors"][0]["code"], "rights");
    import(world, &editor, "", text("viewer")).is(200);
    let (_, viewer) = world.user("only-looking", "viewer");
    import(world, &viewer, "", text("viewer")).is(403);
}
