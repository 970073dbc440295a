use super::*;

fn run(text: &str) -> Result<(String, Filter), Refused> {
    let mut filter = Filter::default();
    let mut passed = String::new();
    for line in text.split_inclusive('\n') {
        if filter.passes(line.as_bytes())? {
            passed.push_str(line);
        }
    }
    Ok((passed, filter))
}

#[test]
fn owners_rights_and_settings_of_newer_servers_are_left_out_and_counted() {
    let text = "SET transaction_timeout = 0;\nSET lock_timeout = 0;\nCREATE SCHEMA public;\n\
        CREATE TABLE public.t (id integer);\nALTER TABLE public.t OWNER TO bob;\nGRANT SELECT ON TABLE public.t\n    TO carol;\n\
        CREATE INDEX i ON public.t (id);\n";
    let (passed, filter) = run(text).unwrap();
    assert_eq!(
        passed,
        "SET lock_timeout = 0;\nCREATE TABLE public.t (id integer);\nCREATE INDEX i ON public.t (id);\n"
    );
    let left: Vec<_> = filter.left_out().iter().map(|(what, count)| (*what, *count)).collect();
    assert_eq!(
        left,
        [
            ("owners of objects", 1),
            ("rights of roles", 1),
            ("settings of newer servers", 1),
            ("the schema public, which is there", 1)
        ]
    );
}

#[test]
fn rows_and_bodies_of_functions_pass_whatever_they_look_like() {
    let text = "COPY public.t (a) FROM stdin;\nGRANT me\n\\\\! not a command\nALTER TABLE x OWNER TO y;\n\\.\n\
        INSERT INTO t VALUES ('first\nGRANT ALL ON it''s\n\\! no command\n', E'it\\'s', 2);\n\
        CREATE FUNCTION f() RETURNS void AS $body$\nGRANT ALL ON t TO u;\nDROP DATABASE x;\n$body$ LANGUAGE sql;\n\
        COMMENT ON TABLE t IS 'costs $5 \\ and a backslash';\n";
    let (passed, filter) = run(text).unwrap();
    assert_eq!(passed, text);
    assert_eq!(filter.rows(), 3);
    assert!(!filter.is_cut_off());
}

#[test]
fn commands_of_psql_and_statements_about_the_server_are_refused_with_their_line() {
    for (text, line) in [
        ("SELECT 1;\n\\! rm -rf /\n", 2),
        ("\\connect other\n", 1),
        ("SELECT 1 \\g |sh\n", 1),
        ("SELECT 'a\n' \\! id\n", 2),
        ("SELECT $x$a$y$ $x$ /* ' */ \\! id\n", 1),
        ("  \\copy t from program 'sh'\n", 1),
    ] {
        let refused = run(text).unwrap_err();
        assert!(matches!(refused, Refused::Command { line: at, .. } if at == line), "{text}: {refused}");
    }
    let refused = run("CREATE ROLE bob;\n").unwrap_err();
    assert!(matches!(refused, Refused::WholeServer { line: 1, .. }), "{refused}");
}

#[test]
fn a_dump_does_not_end_the_transaction_that_it_is_read_in() {
    for text in
        ["COMMIT; SELECT 1;\n", "SELECT 1; rollback;\n", "SELECT 'x'; /* y */ End\n;\n", "prepare transaction 'a';\n"]
    {
        assert!(matches!(run(text).unwrap_err(), Refused::Transaction { line: 1, .. }), "{text}");
    }
    for text in ["SET x = 1; ALTER ROLE bob SET y = 2;\n", "create\n  database d;\n"] {
        assert!(matches!(run(text).unwrap_err(), Refused::WholeServer { .. }), "{text}");
    }
    let (passed, filter) = run("BEGIN;\nSELECT 1;\nCommit;\n").unwrap();
    assert_eq!((passed.as_str(), filter.left_out().values().sum::<u64>()), ("SELECT 1;\n", 2));
    let body = "CREATE FUNCTION f() RETURNS int LANGUAGE sql\n    BEGIN ATOMIC\n SELECT 1;\n SELECT CASE WHEN true THEN 1 END;\n\
        END;\nSAVEPOINT a;\nDROP TABLE database, rollback_log;\n";
    assert_eq!(run(body).unwrap().0, body);
}

#[test]
fn what_pg_dump_began_has_to_have_its_end() {
    let whole = "--\n-- PostgreSQL database dump\n--\nSELECT 1;\n--\n-- PostgreSQL database dump complete\n--\n";
    assert!(!run(whole).unwrap().1.is_cut_off());
    assert!(run(whole.split("SELECT 1;\n").next().unwrap()).unwrap().1.is_cut_off());
    assert!(run("CREATE TABLE e (a int)\n").unwrap().1.is_cut_off());
    assert!(!run("CREATE TABLE e (a int);\n").unwrap().1.is_cut_off());
}

#[test]
fn the_guard_that_new_dumps_carry_is_dropped_and_no_other_command_passes_behind_it() {
    let (passed, _) = run("\\restrict abc\nSELECT 1;\n\\unrestrict abc\n").unwrap();
    assert_eq!(passed, "SELECT 1;\n");
    assert!(run("\\restrict abc\n\\! id\n").is_err());
}

/// The same text in lines that are cut everywhere.
fn in_parts(text: &str, most: usize) -> Result<(String, Filter), Refused> {
    let (mut filter, mut passed) = (Filter::default(), Vec::new());
    for line in text.split_inclusive('\n') {
        let (mut rest, mut held) = (line.as_bytes(), 0);
        while !rest.is_empty() {
            let length = rest.len().min(most + held);
            let is_last = length == rest.len();
            let taken = filter.part(&rest[..length], is_last)?;
            assert!(!is_last || taken.bytes == length);
            if taken.passes {
                passed.extend_from_slice(&rest[..taken.bytes]);
            }
            held = length - taken.bytes;
            rest = &rest[taken.bytes..];
        }
    }
    Ok((String::from_utf8(passed).unwrap(), filter))
}

#[test]
fn a_long_line_passes_in_parts_wherever_it_is_cut() {
    let filling = "x".repeat(80);
    let text = format!(
        "INSERT INTO public.a VALUES (E'{filling}\\'--{filling}''', '{filling};COMMIT;', $t$ $ $tt$ '{filling} $t$, 'ä;'); \
         /* {filling} /* ; \\! */ '{filling} */ SELECT \"{filling};COMMIT\" -- {filling}; COMMIT; \\! x\n\
         FROM b;\nCOPY public.a (b) FROM stdin;\n{filling}\\.{filling};\n\\.\nSELECT 1;\n"
    );
    let (whole, filter) = run(&text).unwrap();
    assert_eq!((whole.as_str(), filter.rows(), filter.is_cut_off()), (text.as_str(), 1, false));
    for most in 60..400 {
        let (passed, filter) = in_parts(&text, most).unwrap();
        assert_eq!((passed.as_str(), filter.rows(), filter.is_cut_off()), (text.as_str(), 1, false), "cut at {most}");
    }
}

#[test]
fn what_is_refused_is_refused_wherever_a_long_line_is_cut() {
    for end in [" ; COMMIT;\n", " ; create role x;\n", " \\! id\n", " '' /* */ ; prepare transaction 'a';\n"] {
        let text = format!("INSERT INTO a VALUES ('{}'){end}", "x".repeat(100));
        for most in 40..140 {
            let refused = in_parts(&text, most).unwrap_err();
            assert!(!matches!(refused, Refused::TooLong { .. }), "{refused}");
        }
    }
    let grant = format!("GRANT SELECT ON TABLE {} TO b;\nSELECT 1;\n", "x".repeat(100));
    assert_eq!(in_parts(&grant, 50).unwrap().0, "SELECT 1;\n");
}

#[test]
fn a_row_that_postgresql_could_not_take_is_refused_before_anybody_holds_it() {
    let mut filter = Filter::default();
    filter.passes(b"COPY t (a) FROM stdin;\n").unwrap();
    let part = vec![b'x'; PART];
    let refused = (0..2000).find_map(|_| filter.part(&part, false).err());
    assert!(matches!(refused, Some(Refused::TooLong { line: 2, .. })), "{refused:?}");
}

#[test]
fn a_dump_that_ends_among_its_rows_is_cut_off() {
    let (_, filter) = run("COPY t FROM stdin;\n1\n2\n").unwrap();
    assert!(filter.is_cut_off());
    assert!(!filter.is_empty());
    assert!(run("-- nothing\n").unwrap().1.is_empty());
}

#[test]
fn a_line_that_is_no_text_is_called_so_and_a_command_stays_one() {
    let refused = |line: &[u8]| Filter::default().passes(line).unwrap_err();
    assert_eq!(refused(b"\xff\x1b\\q\x9c\n"), Refused::Binary { line: 1 });
    assert!(matches!(refused(b"\\! id \x1b]0;x\x07\n"), Refused::Command { .. }));
    assert!(matches!(refused(b"\\! echo caf\xe9\n"), Refused::Command { .. }));
}

#[test]
fn formats_are_told_by_their_first_bytes() {
    let mut tar = vec![b'a'; 300];
    tar[257..262].copy_from_slice(b"ustar");
    for (head, format) in [
        (&b"--\n-- PostgreSQL database dump\n"[..], Format::Sql),
        (b"PGDMP\x01\x0e", Format::Custom),
        (&tar, Format::Tar),
        (b"\x1f\x8b\x08", Format::Gzip),
        (b"\0\0\0", Format::Unknown),
        (b"\x89PNG\r\n\x1a\n", Format::Unknown),
        ("insert into t values ('\u{1b}ä');".as_bytes(), Format::Sql),
        (b"-- caf\xe9\ninsert into t values (1);", Format::Sql),
    ] {
        assert_eq!(Format::of(head), format);
    }
}
