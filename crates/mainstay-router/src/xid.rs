//! The number of a client's transaction, when the client asked for it through the router.
//!
//! Pure. Takes only what cannot be mistaken: a statement that asks for nothing else. A wrong number would make the
//! router tell the outcome of somebody else's transaction.
//! **Source**: PostgreSQL manual, "Transaction ID and Snapshot Information Functions".

const FUNCTIONS: [&[u8]; 4] =
    [b"pg_current_xact_id", b"pg_current_xact_id_if_assigned", b"txid_current", b"txid_current_if_assigned"];

const CASTS: [&[u8]; 6] = [b"text", b"bigint", b"int8", b"xid8", b"varchar", b"pg_catalog.text"];

/// Longest text that is looked at: twice the longest form.
const MAX_TEXT: usize = 256;

/// Whether `text` is one statement that gives the number of its transaction and nothing else.
pub(crate) fn asks(text: &[u8]) -> bool {
    if text.len() > MAX_TEXT {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    let mut words = lower.trim_ascii().strip_suffix(b";").unwrap_or(lower.trim_ascii()).trim_ascii();
    let Some(rest) = words.strip_prefix(b"select").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
    else {
        return false;
    };
    words = rest.trim_ascii_start();
    words = words.strip_prefix(b"pg_catalog.").unwrap_or(words);
    let Some(rest) = FUNCTIONS.iter().find_map(|name| words.strip_prefix(*name)?.trim_ascii_start().strip_prefix(b"("))
    else {
        return false;
    };
    let Some(rest) = rest.trim_ascii_start().strip_prefix(b")") else { return false };
    is_cast_or_name(rest.trim_ascii_start())
}

fn is_cast_or_name(mut rest: &[u8]) -> bool {
    while let Some(cast) = rest.strip_prefix(b"::") {
        let cast = cast.trim_ascii_start();
        let longest = CASTS.iter().filter_map(|name| cast.strip_prefix(*name)).min_by_key(|rest| rest.len());
        let Some(after) = longest else { return false };
        rest = after.trim_ascii_start();
    }
    if let Some(name) = rest.strip_prefix(b"as").filter(|name| name.first().is_some_and(u8::is_ascii_whitespace)) {
        rest = name.trim_ascii_start();
        return !rest.is_empty() && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    }
    rest.is_empty()
}

/// The number in the only column of a DataRow, in text or binary form.
pub(crate) fn value(body: &[u8]) -> Option<u64> {
    let (columns, rest) = body.split_first_chunk::<2>()?;
    let (length, value) = rest.split_first_chunk::<4>()?;
    if u16::from_be_bytes(*columns) != 1 || u32::from_be_bytes(*length) as usize != value.len() {
        return None;
    }
    if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_asks_for_nothing_else_counts() {
        for text in [
            "select pg_current_xact_id()",
            " SELECT  txid_current ( ) ;",
            "select pg_catalog.pg_current_xact_id()::text",
            "select txid_current_if_assigned()::xid8 :: text as xid",
        ] {
            assert!(asks(text.as_bytes()), "{text}");
        }
        for text in [
            "select pg_current_xact_id() - 1",
            "select pg_current_xact_id(), 1",
            "select txid_current() from t",
            "select my.pg_current_xact_id()",
            "select pg_current_xact_id(); select 1",
            "select pg_current_xact_id()::xid",
            "select txid_current() as a, b",
            "selecttxid_current()",
        ] {
            assert!(!asks(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_in_both_forms() {
        assert_eq!(value(b"\0\x01\0\0\0\x03747"), Some(747));
        assert_eq!(value(b"\0\x01\0\0\0\x0812345678"), Some(12_345_678));
        assert_eq!(value(b"\0\x01\0\0\0\x08\0\0\0\0\0\0\x02\xeb"), Some(747));
        assert_eq!(value(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(value(b"\0\x02\0\0\0\x011\0\0\0\x011"), None);
        assert_eq!(value(b""), None);
    }
}
