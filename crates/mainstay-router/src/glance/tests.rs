//! Texts whose meaning is known, and texts that nobody has thought of.

use proptest::prelude::*;

use super::*;

#[test]
fn statements_that_leave_nothing_behind_have_no_ties() {
    for text in [
        "",
        "select 1",
        " /* set x /* nested */ */ -- listen\n SELECT 'listen; set x = 1', $$ do; $$, $a$ ; load $ $a$",
        "(select 1) union select 2;",
        "begin; set local work_mem = '1MB'; set transaction read only; commit",
        "insert into t values (E'it\\'s; listen', 'x''; load ''y')",
        "set time zone 'UTC'; SET SESSION datestyle = iso; set names 'utf8'; set application_name to 'a'",
        "declare c cursor without hold for select 1",
        "create table t (id int); drop table temp",
        "select pg_advisory_xact_lock($1), \"do\"",
        "prepare transaction 'x'",
        "deallocate all; discard plans",
        "select u&'pg_temp \\0061'",
        "select 'select pg_advisory_lock(1)', $$set_config('a.b')$$, E'currval(''s'')', n'pg_temp'",
        "insert into t values ('listen'); set local app.name = 'pg_temp'",
        "select 1 as \"x pg_temp\", 2 as \"into\", 3 as \"temp\", 4 as \"pg_temp \"\"; listen x\"",
        "select pg_temperature, pg_temp_limit from t",
    ] {
        assert_eq!(Glance::at(text.as_bytes()).only_ties(), Ties::NONE, "{text}");
    }
}

#[test]
fn statements_that_leave_something_behind_are_seen() {
    for (text, tie) in [
        ("SET search_path = a", Ties::READABLE),
        ("select 1; set session work_mem to 1", Ties::READABLE),
        ("set role x", Ties::SETTING),
        ("set session authorization x", Ties::SETTING),
        ("discard all", Ties(Ties::RESET.0 | Ties::REREADS.0)),
        ("reset work_mem", Ties(Ties::RESET.0 | Ties::REREADS.0)),
        ("deallocate prepare a", Ties::NAMES),
        ("execute a", Ties::NAMES),
        ("set session characteristics as transaction read only", Ties::READABLE),
        ("select pg_catalog.set_config('a.b', 'c', false)", Ties(Ties::SETTING.0 | Ties::REREADS.0)),
        ("set standard_conforming_strings = on", Ties(Ties::READABLE.0 | Ties::REREADS.0)),
        ("set idle_in_transaction_session_timeout = 1", Ties::READABLE),
        ("/* x */ listen y", Ties::LISTEN),
        ("declare c scroll cursor with hold for select 1", Ties::CURSOR),
        ("create temp table t ()", Ties::TEMPORARY),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Ties::TEMPORARY),
        ("select * into temp x from y", Ties::TEMPORARY),
        ("create table pg_temp.x ()", Ties::TEMPORARY),
        ("select pg_try_advisory_lock_shared(1)", Ties::LOCK),
        ("select \"pg_advisory_lock\"(1)", Ties::LOCK),
        ("prepare x as select 1", Ties::PREPARED),
        ("load 'auto_explain'", Ties::LOADED),
        ("select currval('s')", Ties::SEQUENCE),
        ("do $$ begin end $$", Ties::UNKNOWN),
        ("select $1; do 'x'", Ties::UNKNOWN),
        ("select E'\\\\'; listen x", Ties::LISTEN),
        ("update pg_settings set setting = '1' where name = 'work_mem'", Ties(Ties::SETTING.0 | Ties::REREADS.0)),
        ("select 1 into local temp x", Ties::TEMPORARY),
        ("select 1 into global temporary x", Ties::TEMPORARY),
        ("select 1 -- '\rinto temp x", Ties::TEMPORARY),
        ("create table pg_temp_3.x ()", Ties::TEMPORARY),
        ("create table x as execute y", Ties::NAMES),
        ("explain analyze create temp table x as select 1", Ties::TEMPORARY),
        ("explain (analyze, verbose off) create temp table x as select 1", Ties::TEMPORARY),
        ("explain analyze verbose select 1 into temp x", Ties::TEMPORARY),
        ("explain execute x", Ties::NAMES),
        ("explain declare c cursor with hold for select 1", Ties::CURSOR),
        ("prepare transaction as select 1", Ties::PREPARED),
        ("set local search_path = 'pg_temp'", Ties::TEMPORARY),
        ("select query_to_xml('select set_config(''a.b'', ''c'', false)', true, true, '')", Ties::UNKNOWN),
        ("select query_to_xml_and_xmlschema($1, true, true, '')", Ties::UNKNOWN),
        ("select \"query_to_xml\"($1, true, true, '')", Ties::UNKNOWN),
        ("set schema $a$pg_temp$a$", Ties(Ties::TEMPORARY.0 | Ties::READABLE.0)),
        ("set \"search_path\" = a, E'pg\\x5ftemp'", Ties(Ties::UNKNOWN.0 | Ties::READABLE.0)),
        ("create table \"pg_temp\".x ()", Ties::TEMPORARY),
        ("select \"a\"\"; \"; listen x", Ties::LISTEN),
        ("select 1$$ ' $$; listen x -- '", Ties::LISTEN),
        ("select E'a'\n'\\''; listen x -- '", Ties::LISTEN),
        ("select E'a' -- b\r\t'\\''; listen x -- '", Ties::LISTEN),
        ("select E'a''\\''; listen x -- '", Ties::LISTEN),
        ("select E'a' < \n'\\'; listen x -- '", Ties::LISTEN),
        ("select E'a' - \n'\\'; listen x -- '", Ties::LISTEN),
        ("select U&\"\\0061\"", Ties::UNKNOWN),
        ("select u&'!0061' uescape '!'", Ties::UNKNOWN),
    ] {
        assert_eq!(Glance::at(text.as_bytes()), tie, "{text}");
    }
}

#[test]
fn the_ends_of_transactions_are_seen() {
    for text in ["commit", "/* x */ END work", "select 1; rollback", "abort", "prepare transaction 'x'", "Commit;"] {
        assert!(Glance::at(text.as_bytes()).has(Ties::ENDS), "{text}");
    }
    for text in ["select 'x; commit'", "select 1 as end", "savepoint commit", "prepare transaction as select 1"] {
        assert!(!Glance::at(text.as_bytes()).has(Ties::ENDS), "{text}");
    }
    for (text, expected) in [("begin; select 1", true), (" START transaction", true), ("select 1; begin", false)] {
        assert_eq!(Glance::at(text.as_bytes()).has(Ties::OPENS), expected, "{text}");
    }
}

#[test]
fn a_setting_of_somebodys_own_cannot_be_read_back() {
    let long = format!("set \"{}.b\" = 'x'", "a".repeat(80));
    for text in [
        "set app.user = 'x'",
        "set \"app\".\"user\" = 'x'",
        "set local a = 1; set b . c to 1",
        "set \"app.tenant\" = 'x'",
        "set session \"app.tenant\" = 'x'",
        "set \"app\"\".tenant\" = 'x'",
        "set session.tenant = 'x'",
        "set local.tenant = 'x'",
        "set \"transaction\".tenant = 'x'",
        "set timezone.tenant = 'x'",
        "set time.zone = 'x'",
        "set U&\"app\\002etenant\" = 'x'; set app.x = 1",
        "set standard_conforming_strings = off",
        "set standard_conforming_strings to 'off'",
        &long,
    ] {
        assert!(Glance::at(text.as_bytes()).has(Ties::SETTING), "{text}");
    }
    for text in ["set a = 1.5", "set local a.b = 1", "set session work_mem = 1; set local app.x to 1"] {
        assert!(!Glance::at(text.as_bytes()).has(Ties::SETTING), "{text}");
    }
}

#[test]
fn what_changes_how_text_is_read_is_seen() {
    for text in [
        "set local standard_conforming_strings to off",
        "set client_encoding = 'SJIS'",
        "set names 'sjis'",
        "select set_config('client_encoding', 'SJIS', false)",
        "reset all",
    ] {
        assert!(Glance::at(text.as_bytes()).has(Ties::REREADS), "{text}");
    }
    for text in ["set work_mem = 1", "select 'client_encoding'", "show timezone"] {
        assert!(!Glance::at(text.as_bytes()).has(Ties::REREADS), "{text}");
    }
}

#[test]
fn a_tag_longer_than_a_name_is_not_known() {
    let tag = format!("${}$", "a".repeat(100));
    let seen = Glance::at(format!("select {tag} ' {tag}; listen x").as_bytes());
    // Nothing that it hides may be taken for not being there.
    assert!(seen.has(Ties::UNKNOWN) && seen.has(Ties::ENDS));
}

proptest! {
    #[test]
    fn pieces_say_the_same_as_the_whole(text in "[ a-zeEU&\r\n'\"$;*/\\\\.-]{0,80}", cut in 0usize..80) {
        let bytes = text.as_bytes();
        let cut = cut.min(bytes.len());
        let mut glance = Glance::new();
        glance.feed(&bytes[..cut]);
        glance.feed(&bytes[cut..]);
        prop_assert_eq!(glance.finish(), Glance::at(bytes));
    }

    #[test]
    fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Glance::at(&text);
    }
}

#[test]
fn what_a_text_leaves_is_its_last_word_on_it() {
    let open =
        ["begin", "commit and chain", "commit; begin", "rollback to a; start transaction", "begin; rollback to a"];
    let closed = [
        "commit",
        "begin; select 1; end",
        "rollback and no chain",
        "abort work; ",
        "prepare transaction 'x'",
        "rollback; /* begin */ select 'begin'",
    ];
    let neither =
        ["select 1", "rollback to savepoint a", "rollback transaction to a", "commit prepared 'x'", "savepoint begin"];
    for (texts, expected) in [(&open[..], Some(true)), (&closed[..], Some(false)), (&neither[..], None)] {
        for text in texts {
            let seen = Glance::at(text.as_bytes());
            let left = match (seen.has(Ties::LEAVES_OPEN), seen.has(Ties::LEAVES_CLOSED)) {
                (false, false) => None,
                (is_open, _) => Some(is_open),
            };
            assert_eq!(left, expected, "{text}");
        }
    }
    let body = "create function f() returns int begin atomic select 1; end";
    assert!(!Glance::at(body.as_bytes()).has(Ties::LEAVES_CLOSED));
}

#[test]
fn a_comment_may_be_nested_deeply() {
    let text = format!("select 1 {} listen x; {} ; listen y", "/*".repeat(400), "*/".repeat(399));
    assert_eq!(Glance::at(text.as_bytes()), Ties::NONE);
    assert_eq!(Glance::at(format!("{text} */; listen z").as_bytes()), Ties::LISTEN);
}

#[test]
fn encodings_with_ascii_in_their_letters_are_not_read() {
    assert!(is_readable("client_encoding", "UTF8") && is_readable("standard_conforming_strings", "on"));
    assert!(!is_readable("client_encoding", "SJIS") && !is_readable("standard_conforming_strings", "off"));
}

/// What a user may have typed.
fn content() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("listen x"),
        Just("; commit; "),
        Just("; set role y"),
        Just("pg_temp"),
        Just("select pg_advisory_lock(1)"),
        Just("set_config('a.b', 'c', false)"),
        Just("currval('s')"),
        Just("'"),
        Just("''"),
        Just("\""),
        Just("\\"),
        Just("$$"),
        Just("$a$"),
        Just("$"),
        Just("/*"),
        Just("*/"),
        Just("--"),
        Just("\n"),
        Just("E'"),
        Just("U&\""),
        Just("\u{e9}"),
        Just(" "),
        Just("\u{0}").prop_map(|_| "?"),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Ways to write it that a server reads as data.
fn written() -> impl Strategy<Value = String> {
    (content(), 0..8).prop_map(|(content, form)| match form {
        0 => format!("'{}'", content.replace('\'', "''")),
        1 => format!("E'{}'", content.replace('\\', "\\\\").replace('\'', "\\'")),
        2 => format!("e'x'\n -- '\n '{}'", content.replace('\\', "\\\\").replace('\'', "''")),
        3 => format!("$tag_1${content}$tag_1$"),
        4 => format!("$${}$$", content.replace('$', "")),
        5 => format!("1 as \"a {}\"", content.replace('"', "\"\"")),
        6 => format!("1 /* {} */", content.replace("*/", "").replace("/*", "/*/**/ */")),
        _ => format!("1 -- {}\n", content.replace('\n', "")),
    })
}

proptest! {
    #[test]
    fn what_a_user_types_says_nothing(pieces in proptest::collection::vec(written(), 1..5)) {
        let text = format!("select {} from t", pieces.join(", "));
        prop_assert_eq!(Glance::at(text.as_bytes()), Ties::NONE, "{}", text);
        // And it ends where the server thinks it ends.
        let more = format!("{text}; listen y");
        prop_assert_eq!(Glance::at(more.as_bytes()), Ties::LISTEN, "{}", more);
    }
}
