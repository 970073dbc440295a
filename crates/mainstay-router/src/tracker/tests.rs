use super::*;
use crate::message;

fn simple(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message::query(&mut out, text);
    out
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message::put(&mut out, b'P', |out| {
        message::put_string(out, name.as_bytes());
        message::put_string(out, text.as_bytes());
        out.extend_from_slice(&[0, 0]);
    });
    out
}

/// What another server gets.
fn parses(tracker: &Tracker) -> Vec<Vec<u8>> {
    let parse = |(name, statement): (&Name, &Arc<Statement>)| {
        let mut out = Vec::new();
        statement.parse(&mut out, name);
        out
    };
    tracker.statements().iter().map(parse).collect()
}

fn sent(tracker: &mut Tracker, message: &[u8]) {
    tracker.sent(message[0], message, true, Instant::now());
}

fn bind(tracker: &mut Tracker, name: &str) {
    let mut message = Vec::new();
    message::put(&mut message, b'B', |out| {
        message::put_string(out, b"");
        message::put_string(out, name.as_bytes());
        out.extend_from_slice(&[0; 6]);
    });
    sent(tracker, &message);
}

fn send_kinds(tracker: &mut Tracker, kinds: &[u8]) {
    for kind in kinds {
        sent(tracker, &[*kind, 0, 0, 0, 4]);
    }
}

fn receive(tracker: &mut Tracker, messages: &[(u8, &[u8])]) {
    for (kind, body) in messages {
        tracker.received(*kind, body, Instant::now());
    }
}

#[test]
fn a_statement_is_in_flight_until_ready_for_query() {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.fate(), Fate::Carry);
    sent(&mut tracker, &simple("insert into t values (1)"));
    assert_eq!(tracker.fate(), Fate::Unknown);
    receive(&mut tracker, &[(b'C', b"INSERT 0 1\0")]);
    assert_eq!(tracker.fate(), Fate::Unknown);
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn an_open_transaction_is_aborted_until_its_end_is_sent() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &simple("begin"));
    receive(&mut tracker, &[(b'Z', b"T")]);
    assert_eq!(tracker.fate(), Fate::Abort);
    assert_eq!(tracker.owed().after, FAILED);
    sent(&mut tracker, &simple("insert into t values (1)"));
    assert_eq!(tracker.fate(), Fate::Abort);
    sent(&mut tracker, &simple("commit"));
    assert_eq!(tracker.fate(), Fate::Unknown);
    receive(&mut tracker, &[(b'Z', b"T")]);
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn a_begin_in_flight_is_sent_again_while_nothing_was_heard_of_it() {
    for text in ["begin", " START transaction isolation level serializable; "] {
        let mut tracker = Tracker::new();
        sent(&mut tracker, &simple(text));
        assert_eq!(tracker.fate(), Fate::Carry, "{text}");
        assert_eq!(tracker.take_begin(), Some(simple(text)));
        let mut tracker = Tracker::new();
        sent(&mut tracker, &simple(text));
        receive(&mut tracker, &[(b'C', b"BEGIN\0")]);
        assert_eq!((tracker.fate(), tracker.owed().after), (Fate::Abort, FAILED), "{text}");
    }
    let mut tracker = Tracker::new();
    sent(&mut tracker, &simple("begin; insert into t values (1)"));
    assert_eq!((tracker.fate(), tracker.owed().after), (Fate::Abort, FAILED));
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("", "begin"));
    bind(&mut tracker, "");
    send_kinds(&mut tracker, b"ES");
    assert_eq!((tracker.fate(), tracker.owed().after), (Fate::Abort, FAILED));
    // Behind a BEGIN that fails, the insert would be a transaction of its own; with a COMMIT it would be done.
    for texts in [&["begin", "insert into t values (1)"][..], &["begin; insert into t values (1); commit"]] {
        let mut tracker = Tracker::new();
        for text in texts {
            sent(&mut tracker, &simple(text));
        }
        assert_eq!(tracker.fate(), Fate::Unknown, "{texts:?}");
    }
}

#[test]
fn who_loses_a_server_is_left_where_he_takes_himself_to_be() {
    let texts: [(&[&str], &[u8]); 6] = [
        (&["begin", "insert into t values (1)"], b"EE"),
        (&["begin", "insert into t values (1)", "commit"], b"EEI"),
        (&["insert into t values (1)", "begin; select 1"], b"IE"),
        (&["begin", "rollback; begin"], b"EE"),
        (&["begin", "commit and chain"], b"EE"),
        (&["begin", "rollback to a"], b"EE"),
    ];
    for (texts, left) in texts {
        let mut tracker = Tracker::new();
        for text in texts {
            sent(&mut tracker, &simple(text));
        }
        assert_eq!(tracker.fate(), Fate::Unknown, "{texts:?}");
        let owed = tracker.lose();
        assert_eq!((owed.cycles.as_slice(), owed.after), (left, left[left.len() - 1]), "{texts:?}");
    }
    // As pgJDBC sends it.
    let mut tracker = Tracker::new();
    for (text, after) in [("begin", FAILED), ("insert into t values (1)", FAILED), ("commit", IDLE)] {
        sent(&mut tracker, &parse("", text));
        bind(&mut tracker, "");
        send_kinds(&mut tracker, b"E");
        assert_eq!(tracker.owed(), Owed { cycles: vec![], is_batch_open: true, after });
    }
    tracker.lose();
    let message = simple(&format!("begin; select '{}'", "y".repeat(20_000)));
    tracker.sent(b'Q', &message[..9_000], false, Instant::now());
    assert_eq!(tracker.lose(), Owed { cycles: vec![FAILED], is_batch_open: false, after: FAILED });
}

#[test]
fn what_has_to_fail_is_checked_to_have_failed() {
    for (status, expected) in [(b"E", Received::Ours), (b"T", Received::NotFailed), (b"I", Received::NotFailed)] {
        let mut tracker = Tracker::new();
        tracker.sent_failing(Instant::now());
        tracker.now(FAILED);
        assert!(tracker.must_fail());
        receive(&mut tracker, &[(b'C', b"BEGIN\0"), (b'E', b"")]);
        assert_eq!(tracker.received(b'Z', status, Instant::now()), expected);
        assert!(!tracker.must_fail());
    }
}

#[test]
fn a_prepared_commit_is_an_end_whenever_it_is_executed() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("c", "commit"));
    sent(&mut tracker, &parse("i", "insert into t values (1)"));
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'1', b""), (b'Z', b"T")]);
    for (name, fate) in [("i", Fate::Abort), ("c", Fate::Unknown)] {
        bind(&mut tracker, name);
        send_kinds(&mut tracker, b"ES");
        assert_eq!(tracker.fate(), fate, "{name}");
        receive(&mut tracker, &[(b'2', b""), (b'C', b""), (b'Z', b"T")]);
    }
}

#[test]
fn pipelined_batches_are_owed_one_by_one() {
    let mut tracker = Tracker::new();
    send_kinds(&mut tracker, b"BESBESBE");
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert_eq!(tracker.lose(), Owed { cycles: vec![IDLE], is_batch_open: true, after: IDLE });
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn named_statements_are_kept_once_the_server_has_them() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("a", "select 1"));
    sent(&mut tracker, &parse("b", "select x"));
    send_kinds(&mut tracker, b"S");
    // The second fails: what follows it is skipped.
    receive(&mut tracker, &[(b'1', b""), (b'E', b""), (b'Z', b"I")]);
    assert_eq!(parses(&tracker).len(), 1);
    sent(&mut tracker, &parse("", "select 2"));
    sent(&mut tracker, &parse("b", "select 3"));
    sent(&mut tracker, b"C\0\0\0\x07Sa\0");
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'1', b""), (b'3', b""), (b'Z', b"I")]);
    assert_eq!(parses(&tracker), [parse("b", "select 3")]);
    assert_eq!(tracker.fate(), Fate::Carry);
    assert_eq!(tracker.statement_bytes, "b".len() + "select 3".len() + 3);
    assert_eq!(tracker.coming, (0, 0));
}

#[test]
fn more_statements_than_are_kept_tie_the_session() {
    let mut tracker = Tracker::new();
    for number in 0..=MAX_STATEMENTS {
        sent(&mut tracker, &parse(&number.to_string(), "select 1"));
        send_kinds(&mut tracker, b"S");
        receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    }
    assert_eq!(tracker.fate(), Fate::End { reason: Ties::TOO_MUCH.reason() });
}

#[test]
fn a_sync_that_a_copying_server_ignores_is_not_waited_for() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("", "copy t from stdin"));
    send_kinds(&mut tracker, b"BES");
    receive(&mut tracker, &[(b'1', b""), (b'2', b""), (b'G', b"")]);
    send_kinds(&mut tracker, b"ddcS");
    assert_eq!(tracker.fate(), Fate::Unknown);
    receive(&mut tracker, &[(b'C', b"COPY 2\0"), (b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn a_simple_copy_in_is_one_cycle() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &simple("copy t from stdin"));
    receive(&mut tracker, &[(b'G', b"")]);
    send_kinds(&mut tracker, b"ddc");
    assert_eq!(tracker.fate(), Fate::Unknown);
    receive(&mut tracker, &[(b'C', b"COPY 2\0"), (b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn ties_last_until_discard_all() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &simple("listen x"));
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::End { reason: "LISTEN" });
    sent(&mut tracker, &simple("discard all"));
    receive(&mut tracker, &[(b'C', b"DISCARD ALL\0"), (b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::Carry);
}

#[test]
fn a_text_that_streams_is_looked_at_to_its_end() {
    let mut tracker = Tracker::new();
    let message = simple(&format!("select '{}'; listen x", "y".repeat(20_000)));
    tracker.sent(b'Q', &message[..9_000], false, Instant::now());
    tracker.sent_more(&message[9_000..20_000], false);
    assert!(!tracker.is_quiet());
    tracker.sent_more(&message[20_000..], true);
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert_eq!(tracker.fate(), Fate::End { reason: "LISTEN" });
}

/// Parsed, answered and read back.
fn with_statement(name: &str, text: &str) -> Tracker {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse(name, text));
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    assert!(tracker.has_changed());
    tracker.read_back();
    assert!(!tracker.has_changed() && !tracker.is_tied());
    tracker
}

#[test]
fn a_prepared_set_changes_settings_whenever_it_is_executed() {
    for (name, text) in [("a", "set work_mem = 1"), ("", "set work_mem = 1"), ("a", "reset all"), ("", "reset all")] {
        let mut tracker = with_statement(name, text);
        for _ in 0..2 {
            send_kinds(&mut tracker, b"BES");
            receive(&mut tracker, &[(b'2', b""), (b'C', b"SET\0"), (b'Z', b"I")]);
            assert!(tracker.has_changed(), "{name} {text}");
            assert!(tracker.is_free());
            tracker.read_back();
        }
        send_kinds(&mut tracker, b"BDS");
        assert!(!tracker.has_changed(), "nothing was executed");
    }
}

#[test]
fn a_prepared_set_that_sql_names_changes_settings() {
    let mut tracker = with_statement("a", "set work_mem = 1");
    sent(&mut tracker, &simple("select 1"));
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert!(!tracker.has_changed());
    sent(&mut tracker, &simple("execute a"));
    assert!(tracker.has_changed());
}

#[test]
fn a_text_that_has_not_come_to_its_end_is_not_executed() {
    let begun = |tracker: &mut Tracker, message: &[u8]| {
        tracker.sent(message[0], &message[..9_000], false, Instant::now());
    };
    let long = "x".repeat(20_000);
    for message in
        [simple(&format!("insert into t values ('{long}')")), parse("", &format!("insert into t values ('{long}')"))]
    {
        let mut tracker = in_transaction();
        begun(&mut tracker, &message);
        assert_eq!(tracker.fate(), Fate::Abort);
        // Behind a COMMIT that is not answered.
        let mut tracker = in_transaction();
        sent(&mut tracker, &simple("commit"));
        begun(&mut tracker, &message);
        assert_eq!(tracker.fate(), Fate::Unknown);
    }
    // Once it is whole it may have been.
    let mut tracker = in_transaction();
    let message = simple(&format!("insert into t values ('{long}'); commit"));
    begun(&mut tracker, &message);
    assert_eq!(tracker.fate(), Fate::Abort);
    tracker.sent_more(&message[9_000..], true);
    assert_eq!(tracker.fate(), Fate::Unknown);
}

#[test]
fn an_unnamed_statement_that_streams_takes_the_place_of_the_former_one() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("", "begin"));
    assert_eq!(tracker.meant().get([].as_slice()), Some(&Some(true)));
    for (text, leaves) in [("insert into t values ('", None), ("begin --", Some(true)), ("commit --", Some(false))] {
        let message = parse("", &format!("{text}{}')", "x".repeat(20_000)));
        tracker.sent(message[0], &message[..9_000], false, Instant::now());
        assert_eq!(tracker.meant().get([].as_slice()), Some(&leaves), "{text}");
        tracker.sent_more(&message[9_000..], true);
    }
}

#[test]
fn a_prepared_set_that_streams_changes_settings_whenever_it_is_executed() {
    let mut tracker = Tracker::new();
    let message = parse("", &format!("set search_path = '{}'", "y".repeat(20_000)));
    tracker.sent(b'P', &message[..9_000], false, Instant::now());
    tracker.sent_more(&message[9_000..], true);
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    tracker.read_back();
    send_kinds(&mut tracker, b"BES");
    assert!(tracker.has_changed());
}

#[test]
fn a_set_that_is_no_longer_prepared_changes_nothing() {
    // Another unnamed one takes its place.
    let mut tracker = with_statement("", "set work_mem = 1");
    sent(&mut tracker, &parse("", "select 1"));
    send_kinds(&mut tracker, b"BES");
    assert!(!tracker.has_changed());
    // An earlier message may fail, so that the server skips the one that would take its place.
    let mut tracker = with_statement("", "set work_mem = 1");
    send_kinds(&mut tracker, b"D");
    sent(&mut tracker, &parse("", "select 1"));
    send_kinds(&mut tracker, b"SBES");
    assert!(tracker.has_changed());
    for text in ["discard all", "deallocate all"] {
        let mut tracker = with_statement("a", "set work_mem = 1");
        sent(&mut tracker, &simple(text));
        receive(&mut tracker, &[(b'C', format!("{}\0", text.to_uppercase()).as_bytes()), (b'Z', b"I")]);
        tracker.read_back();
        send_kinds(&mut tracker, b"BES");
        assert!(!tracker.has_changed(), "{text}");
    }
}

#[test]
fn a_statement_beyond_those_kept_is_the_servers_own() {
    let mut tracker = Tracker::new();
    assert!(tracker.has_room(MAX_STATEMENT_BYTES) && !tracker.has_room(MAX_STATEMENT_BYTES + 1));
    let statement = Statement::own(&[b'x'; 100], Ties::NONE);
    for number in 0..MAX_STATEMENTS {
        assert!(tracker.has_room(100));
        let name = Name::new(number.to_string().as_bytes());
        let keep = Effect::Keep { name, statement: Arc::clone(&statement) };
        tracker.await_answer(keep, Answer::Forward, None);
        if number % 100 == 99 {
            receive(&mut tracker, &[(b'1', b"".as_slice()); 100]);
        }
    }
    assert!(!tracker.has_room(100));
    tracker.sent_surplus(Ties::NONE, b"7");
    assert_eq!(tracker.named(b"7"), Named::Absent);
    send_kinds(&mut tracker, b"S");
    assert_eq!(tracker.named(b"7"), Named::Undecided);
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    assert_eq!(tracker.named(b"7"), Named::Absent);
    assert!(!tracker.is_free());
}

/// In a transaction of which the server knows.
fn in_transaction() -> Tracker {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &simple("begin"));
    receive(&mut tracker, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
    tracker
}

#[test]
fn of_text_that_is_not_read_rightly_nothing_is_certain() {
    for (is_shared, in_flight, at_rest) in
        [(false, Fate::Unknown, Fate::Abort), (true, Fate::UnknownAndEnd, Fate::End { reason: Ties::UNREAD.reason() })]
    {
        let mut tracker = in_transaction();
        tracker.is_read(false, is_shared);
        assert_eq!(tracker.fate(), at_rest, "nothing was sent that is not answered");
        sent(&mut tracker, &simple("select 1"));
        assert_eq!(tracker.fate(), in_flight);
        receive(&mut tracker, &[(b'Z', b"T")]);
        assert_eq!(tracker.fate(), at_rest);
        // Nor of a BEGIN, which is not sent again then.
        receive(&mut tracker, &[(b'Z', b"I")]);
        sent(&mut tracker, &simple("begin"));
        assert_eq!(tracker.fate(), in_flight);
        assert_eq!(Tracker::new().fate(), Fate::Carry);
    }
}

#[test]
fn behind_a_statement_that_changes_how_text_is_read_nothing_is_certain() {
    for text in ["set standard_conforming_strings to off", "set names 'sjis'", "reset all"] {
        let mut tracker = in_transaction();
        sent(&mut tracker, &simple(text));
        sent(&mut tracker, &simple("select 'a\\'"));
        assert!(matches!(tracker.fate(), Fate::Unknown | Fate::UnknownAndEnd), "{text}");
        let mut tracker = in_transaction();
        sent(&mut tracker, &parse("", text));
        bind(&mut tracker, "");
        send_kinds(&mut tracker, b"ES");
        assert!(matches!(tracker.fate(), Fate::Unknown | Fate::UnknownAndEnd), "{text}");
    }
}

#[test]
fn sql_that_executes_a_prepared_commit_ends_its_transaction() {
    let mut tracker = in_transaction();
    sent(&mut tracker, &parse("c", "commit"));
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"T")]);
    sent(&mut tracker, &simple("select 1"));
    assert_eq!(tracker.fate(), Fate::Abort);
    receive(&mut tracker, &[(b'Z', b"T")]);
    sent(&mut tracker, &simple("execute c"));
    assert_eq!(tracker.fate(), Fate::Unknown);
}

#[test]
fn what_a_client_sends_for_ever_behind_an_error_is_not_kept() {
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse("a", "select x"));
    sent(&mut tracker, &parse("b", "select 1"));
    assert_eq!(tracker.awaited.len(), 2);
    receive(&mut tracker, &[(b'E', b"")]);
    for number in 0..20_000 {
        sent(&mut tracker, &parse(&format!("c{number}"), "listen x"));
        sent(&mut tracker, b"C\0\0\0\x07Sa\0");
        bind(&mut tracker, "c1");
        send_kinds(&mut tracker, b"EQ");
    }
    assert!(tracker.awaited.is_empty() && tracker.asked.is_empty() && !tracker.is_tied());
    assert_eq!((tracker.coming, tracker.awaited_bytes), ((0, 0), 0));
    assert!(tracker.is_skipping() && !tracker.is_quiet());
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'Z', b"I")]);
    assert!(!tracker.is_skipping() && tracker.is_quiet());
    // And then it is as before.
    sent(&mut tracker, &parse("d", "select 2"));
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    assert_eq!(parses(&tracker), [parse("d", "select 2")]);
}

#[test]
fn no_more_is_sent_ahead_of_its_answers_than_is_kept() {
    for (text, most) in [("x".to_owned(), 4096), ("x".repeat(15_000), 280)] {
        let mut tracker = Tracker::new();
        let mut count = 0;
        while !tracker.is_full() {
            sent(&mut tracker, &parse("a", &text));
            count += 1;
            assert!(count <= most, "{count}");
        }
        receive(&mut tracker, &[(b'1', b"")]);
        assert!(!tracker.is_full());
    }
}

#[test]
fn a_name_is_counted_as_its_text_is() {
    // More than all other tests keep at the same time.
    let name = "n".repeat(7 << 20);
    let mut tracker = Tracker::new();
    sent(&mut tracker, &parse(&name, "select 1"));
    assert!(statements::bytes() >= name.len(), "on its way");
    send_kinds(&mut tracker, b"S");
    receive(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
    assert!(statements::bytes() >= name.len());
    drop(tracker);
    assert!(statements::bytes() < name.len());
}

#[test]
fn statements_are_handed_over_without_a_copy() {
    let mut one = with_statement("a", "set work_mem = 1");
    let two = with_statement("b", "set work_mem = 1");
    let handed = one.statements();
    assert!(Arc::ptr_eq(&handed, &one.statements()));
    // One text for all sessions.
    assert!(Arc::ptr_eq(&handed[b"a".as_slice()], &two.statements()[b"b".as_slice()]));
    // What changes afterwards is none of the receiver's.
    one.forget(b"a");
    assert_eq!((handed.len(), one.statements().len()), (1, 0));
}

#[test]
fn what_is_sent_behind_the_end_of_a_transaction_is_not_told_of_by_its_outcome() {
    for (texts, expected) in [
        (&["commit"][..], false),
        (&["insert into t values (1)", "commit"], false),
        (&["select 1; commit;"], false),
        (&["commit; begin"], true),
        (&["rollback; begin; insert into t values (1); commit"], true),
        (&["commit", "begin"], true),
    ] {
        let mut tracker = in_transaction();
        for text in texts {
            sent(&mut tracker, &simple(text));
        }
        assert_eq!(tracker.goes_on(), expected, "{texts:?}");
        let mut tracker = in_transaction();
        for text in texts.iter().flat_map(|text| text.split(';')).filter(|text| !text.trim().is_empty()) {
            sent(&mut tracker, &parse("", text));
            bind(&mut tracker, "");
            send_kinds(&mut tracker, b"E");
        }
        assert_eq!(tracker.goes_on(), expected, "{texts:?}");
        assert_eq!(tracker.fate(), Fate::Unknown, "{texts:?}");
    }
}
