//! A reader that sets its position in a way that is not understood: it must learn that, not read what is too old.

use super::Relay;
use crate::frame::{HEADER, Malformed, peek, split_string};
use crate::message;
use crate::position;
use crate::shared::Door;

impl Relay {
    /// In the first `end` bytes of the inbox, a statement that is about the position and does not set it becomes one
    /// that fails with the reason: at its place among the others, and in its transaction. Gives whether any did.
    pub(super) fn refuse_misplaced(&mut self, end: usize) -> Result<bool, Malformed> {
        if self.door == Door::Write {
            return Ok(false);
        }
        let mut at = 0;
        while at < end {
            let Some(frame) = peek(&self.inbox[at..end])? else { break };
            let Some(body) = self.inbox[..end].get(at + HEADER..at + frame.len) else { break };
            if let Some(refusal) = refusal(frame.kind, body) {
                self.inbox.splice(at..at + frame.len, refusal);
                return Ok(true);
            }
            at += frame.len;
        }
        Ok(false)
    }
}

/// The same message with another text, if it is to be refused.
fn refusal(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = match kind {
        b'Q' => (&body[..0], body),
        b'P' => body.split_at(split_string(body)?.0.len() + 1),
        _ => return None,
    };
    let (text, tail) = split_string(rest)?;
    if !position::is_misplaced(text) {
        return None;
    }
    let mut out = Vec::new();
    message::put(&mut out, kind, |out| {
        out.extend_from_slice(head);
        let rule = position::RULE.replace('\'', "''");
        message::put_string(out, format!("select '{rule}'::pg_catalog.pg_lsn").as_bytes());
        out.extend_from_slice(tail);
    });
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_statement_keeps_its_name_and_its_parameters() {
        let refused = refusal(b'P', b"s\0set mainstay.read_after = 'x'\0\0\x01\0\0\0\x19").unwrap();
        assert_eq!(u32::from_be_bytes(refused[1..5].try_into().unwrap()) as usize + 1, refused.len());
        assert!(refused.starts_with(b"P") && refused[5..].starts_with(b"s\0select 'mainstay.read_after takes"));
        assert!(refused.ends_with(b"'::pg_catalog.pg_lsn\0\0\x01\0\0\0\x19"));
        assert_eq!(refusal(b'Q', &refusal(b'Q', b"set mainstay.read_after = 1\0").unwrap()[HEADER..]), None);
        assert_eq!(refusal(b'Q', b"set mainstay.read_after = '0/1'\0"), None);
        assert_eq!(refusal(b'B', b"set mainstay.read_after = 1\0\0"), None);
    }
}
