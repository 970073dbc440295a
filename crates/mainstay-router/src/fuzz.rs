//! What holds for any bytes a client or a server may send: the bodies of the fuzz targets (`bin/fuzz`), which the
//! tests of this crate run too, on fewer and tamer inputs.
//!
//! Each function panics when a rule is broken.

use std::time::Instant;

use crate::frame::{HEADER, MAX_MESSAGE, WHOLE, peek, split_string};
use crate::glance::{Glance, Ties};
use crate::message::{self, Failure};
use crate::position;
use crate::scram::{Check, Proof, Verifier};
use crate::startup;
use crate::statements::Statement;
use crate::tracker::Tracker;
use crate::xid;

/// A session: its first byte says how often a message of the server comes between those of the client, the rest is
/// what both send. No message is taken for longer than it says, and those after it are still found.
pub fn session(bytes: &[u8]) {
    let Some((&turns, mut rest)) = bytes.split_first() else { return };
    let now = Instant::now();
    let mut tracker = Tracker::new();
    for turn in 0_u8.. {
        let Ok(Some(frame)) = peek(rest) else { break };
        assert!((HEADER..=MAX_MESSAGE + 1).contains(&frame.len), "{frame:?}");
        assert_eq!(frame.is_small(), frame.len <= WHOLE);
        let Some(message) = rest.get(..frame.len) else {
            tracker.sent(frame.kind, rest, false, now);
            tracker.sent_more(rest, true);
            break;
        };
        if turns.rotate_left(u32::from(turn % 8)) & 1 == 1 {
            let body = &message[HEADER..];
            tracker.received(frame.kind, body, now);
            drop(Failure::parse(body));
            xid::value(body);
        } else {
            tracker.sent(frame.kind, message, true, now);
        }
        rest = &rest[frame.len..];
        if turn == u8::MAX {
            break;
        }
    }
    tracker.lose();
    assert!(tracker.is_quiet(), "a lost server still owes an answer");
}

/// A text of SQL: what is seen in it does not depend on how it comes apart on the way, and a Parse made of it says
/// the same text again.
pub fn sql(bytes: &[u8]) {
    let Some((&cut, text)) = bytes.split_first() else { return };
    let whole = {
        let mut glance = Glance::new();
        glance.feed(text);
        glance.finish()
    };
    let mut apart = Glance::new();
    for piece in text.chunks(usize::from(cut).max(1)) {
        apart.feed(piece);
    }
    assert!(apart.finish() == whole, "seen otherwise in pieces of {cut}");
    if position::said(text).is_some() {
        assert!(Glance::at(text) == Ties::POSITION);
        assert!(!position::is_misplaced(text), "set and misplaced at once");
    }
    xid::asks(text);
    if !text.contains(&0) {
        let statement = Statement::own(&[text, b"\0\0\0"].concat(), whole);
        assert_eq!(statement.text(), text);
        let mut parse = Vec::new();
        statement.parse(&mut parse, b"s");
        let frame = peek(&parse).ok().flatten().expect("a message of our own");
        assert_eq!((frame.kind, frame.len), (b'P', parse.len()));
        let (name, rest) = split_string(&parse[HEADER..]).expect("a name");
        assert_eq!((name, split_string(rest).map(|(text, _)| text)), (&b"s"[..], Some(text)));
    }
}

/// A startup packet: what is read of it reaches the server as it was meant.
pub fn greeting(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<4>()
        && let Ok(length) = startup::body_length(*head)
    {
        assert!(length >= 4);
    }
    let Ok(startup::Request::Session(session)) = startup::parse(bytes) else { return };
    assert!(!session.user.is_empty() && !session.database.is_empty());
    let packet = startup::for_server(&session, false);
    let (length, body) = packet.split_first_chunk::<4>().expect("a packet has a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
    let Ok(startup::Request::Session(again)) = startup::parse(body) else { panic!("our own packet is not read") };
    assert_eq!((again.user, again.database), (session.user, session.database));
    for (_, value) in session.parameters {
        let (kept, said) = position::from_options(&value);
        let (again, none) = position::from_options(&kept);
        assert!(none.is_none() || said.is_some(), "a position from nowhere: {value:?}");
        assert_eq!(position::from_options(&again).0, again, "options are read otherwise the second time");
    }
    let mut out = Vec::new();
    startup::negotiate(&mut out, &session.unknown_options.unwrap_or_default());
    assert_eq!(peek(&out).ok().flatten().map(|frame| frame.len), Some(out.len()));
}

/// SCRAM from either side, by one who does not know the password: it never ends well.
pub fn scram(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (first, last, server) = (next(), next(), next());
    let verifier = Verifier::mock([7; 16], &[9; 32]);
    if let Ok(check) = Check::start(verifier, first, "server") {
        assert!(check.server_first.contains("server,s="));
        assert!(check.finish(last).is_err(), "a proof without the password");
    }
    let proof = Proof::new("client".to_owned());
    if let Ok(challenge) = proof.challenge(server) {
        assert!(challenge.iterations > 0, "a key that is not stretched");
    }
    assert!(proof.verify(server).is_err(), "a server that proved nothing");
    let mut out = Vec::new();
    message::error(&mut out, message::Severity::Fatal, "28P01", &String::from_utf8_lossy(server));
    assert_eq!(peek(&out).ok().flatten().map(|frame| frame.len), Some(out.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Messages that look like ones, so that more than the first is read.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(b"QPBDECSHFcdfX1CZET23GsnIAKN".to_vec());
        let body = prop_oneof![
            vec(any::<u8>(), 0..40),
            "(begin|commit|set a = 1|select \\$\\$|execute s|deallocate s|discard all|/\\*|'){1,3}\0s?\0"
                .prop_map(String::into_bytes),
        ];
        (any::<u8>(), vec((kind, body), 0..24)).prop_map(|(turns, messages)| {
            let mut bytes = vec![turns];
            for (kind, body) in messages {
                message::put(&mut bytes, kind, |out| out.extend_from_slice(&body));
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_session_breaks_the_tracker(bytes in messages()) {
            session(&bytes);
        }

        #[test]
        fn no_bytes_break_a_reader(bytes in vec(any::<u8>(), 0..200)) {
            session(&bytes);
            sql(&bytes);
            greeting(&bytes);
            scram(&bytes);
        }

        #[test]
        fn sql_is_seen_alike_in_pieces(cut in any::<u8>(), text in "(begin|commit|set|local|\\$a\\$|\\$|'|\"|--|\n|/\\*|\\*/|;|e'|u&| |mainstay\\.read_after|= '0/1'|[a-z]){0,30}") {
            sql(&[&[cut], text.as_bytes()].concat());
        }

        #[test]
        fn a_greeting_survives_the_way(user in "[a-z]{1,8}", options in "[-a-z_.=\\\\ 0/1]{0,30}") {
            let body = format!("\0\x03\0\0user\0{user}\0options\0{options}\0application_name\0x\0\0");
            greeting(body.as_bytes());
        }
    }
}
