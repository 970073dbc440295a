use std::io::Write;

use super::*;

const REFUSED: &str = r#"{"at":"2026-11-27T21:53:30.001Z","method":"GET","path":"/nowhere?token=***","route":"","status":404,
    "upstream":"","endpoint":"","duration_ms":0.04,"reason":"no route for this path"}"#;
const KNOWN: &str = r#"{"at":"2026-11-27T21:53:29.123Z","request_id":"a","method":"DELETE",
    "path":"/api/users/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/sessions","route":"/api/*","status":200,
    "upstream":"backend","endpoint":"backend-1/3f0a","duration_ms":12345.6,"user":"alice\u001b[2J@example.com"}"#;

fn request(text: &str) -> Request {
    serde_json::from_str(text).expect("a line of the log")
}

#[test]
fn a_request_fits_eighty_columns_with_all_that_names_it() {
    for has_route in [true, false] {
        for text in [KNOWN, REFUSED] {
            for line in lines(&request(text), Some(80), has_route) {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
    let known = lines(&request(KNOWN), Some(80), true);
    assert_eq!(known.len(), 1);
    for part in ["21:53:29 200   12.3 s DELETE  /api/users/", "…", "/api/*", "backend-1", "alice"] {
        assert!(known[0].contains(part), "{part} is missing in {known:?}");
    }
    let refused = lines(&request(REFUSED), Some(80), false);
    assert_eq!(refused[0], format!("21:53:30 404   0.0 ms GET     {:<36}  edge", "/nowhere?token=***"));
    assert_eq!(refused[1], "             no route for this path");
}

#[test]
fn a_pipe_gets_one_whole_line_that_acts_on_no_terminal() {
    let known = lines(&request(KNOWN), None, true);
    assert_eq!(known.len(), 1);
    assert!(known[0].contains("/api/users/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/sessions  /api/*  backend-1  alice"));
    assert!(!known[0].contains('\u{1b}'), "{known:?}");
    assert!(lines(&request(REFUSED), None, true)[0].ends_with("-  edge  (no route for this path)"));
}

#[test]
fn a_route_is_named_as_it_is_written_or_by_a_path_that_it_takes() {
    let text = "stack = \"shop\"\n[[edge.route]]\npath = \"/api/*\"\nto = \"web\"\n[[edge.route]]\npath = \"/api/x\"\n\
                to = \"web\"\n[service.web]\nrun = \"./shop\"\n";
    let parsed = mainstay_stack::parse(text, "mainstay.toml", &mainstay_types::EnvironmentName::default());
    let stack = parsed.expect("keeps the rules").stack;
    for (wanted, found) in [("/api/*", "/api/*"), ("/api/users?x=1", "/api/*"), ("/api/x", "/api/x")] {
        assert_eq!(chosen(&stack, wanted).ok().as_deref(), Some(found), "{wanted}");
    }
    let failure = chosen(&stack, "/shop").expect_err("no route");
    assert_eq!((failure.name, failure.help.as_deref()), ("MS2091", Some("routes of the edge: /api/*, /api/x")));
}

#[test]
fn what_is_appended_comes_whole_and_only_once() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("access.log");
    // Nobody has asked for anything yet.
    let mut early = Tail::at_end(path.clone());
    assert_eq!(early.read().expect("reads"), (Vec::new(), 0));
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).expect("opens");
    // A batch of the edge's may end within a line.
    file.write_all(b"old\nhalf of").expect("writes");
    let mut tail = Tail::at_end(path.clone());
    file.write_all(b" a line\nnew\nand").expect("writes");
    assert_eq!(tail.read().expect("reads"), (vec![b"new".to_vec()], 0));
    file.write_all(b" newer\n").expect("writes");
    assert_eq!(tail.read().expect("reads"), (vec![b"and newer".to_vec()], 0));
    assert_eq!(tail.read().expect("reads"), (Vec::new(), 0));
    let (all, _) = early.read().expect("reads");
    assert_eq!(all.len(), 4);
}

#[test]
fn what_was_let_go_of_before_it_was_read_is_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("access.log");
    std::fs::write(&path, "").expect("writes");
    let mut tail = Tail::at_end(path.clone());
    let text: String = (0..20_000).map(|nth| format!("line {nth:08}\n")).collect();
    std::fs::write(&path, text).expect("writes");
    assert!(logs::enforce(&path, mainstay_types::Bytes(40_000)).expect("punches"));
    let (lines, unread) = tail.read().expect("reads");
    assert!(unread > 200_000, "{unread}");
    // The line within which the hole ends is none.
    assert!(lines.iter().all(|line| line.len() == 13), "{:?}", lines.first());
    assert_eq!(lines.last().map(Vec::as_slice), Some(b"line 00019999".as_slice()));
}
