//! Lists by cursor: a page says where the next one begins, so that rows which come meanwhile move nothing.

use serde::Deserialize;

use crate::problem::Problem;
use crate::validation::Checks;

/// Most rows of a page.
pub const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 20;

/// `?limit=20&cursor=…`; a cursor has 16 hexadecimal digits, and nobody should rely on what they mean.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// A checked request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// 1 to [`LIMIT_MAX`].
    pub limit: i64,
    /// Id of the last row of the page before.
    pub after: Option<i64>,
}

impl PageQuery {
    /// **Errors**: 422 with the parameters that are wrong.
    pub fn check(&self) -> Result<Page, Problem> {
        let mut checks = Checks::new();
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            checks.reject("limit", "range", format!("must be 1 to {LIMIT_MAX}, is {limit}"));
        }
        let after = self.cursor.as_deref().map(decode);
        if after == Some(None) {
            checks.reject("cursor", "cursor", "must be the nextCursor of a page");
        }
        checks.finish()?;
        Ok(Page { limit, after: after.flatten() })
    }
}

impl Page {
    /// The cursor of the next page, when this one is full: `last` is the id of its last row.
    #[must_use]
    pub fn next(&self, rows: usize, last: Option<i64>) -> Option<String> {
        let is_full = i64::try_from(rows).is_ok_and(|rows| rows >= self.limit);
        last.filter(|_| is_full).map(|id| format!("{id:016x}"))
    }
}

fn decode(cursor: &str) -> Option<i64> {
    let is_ours = cursor.len() == 16 && cursor.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u64::from_str_radix(cursor, 16).ok()).flatten().map(u64::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_to_the_row_after_the_last() {
        let first = PageQuery { limit: Some(2), cursor: None }.check().unwrap();
        let next = first.next(2, Some(17));
        let second = PageQuery { limit: None, cursor: next }.check().unwrap();
        assert_eq!(second, Page { limit: LIMIT_DEFAULT, after: Some(17) });
        assert_eq!(second.next(19, Some(36)), None, "the last page has no next one");
    }

    #[test]
    fn refuses_what_is_no_cursor_of_ours() {
        for (limit, cursor) in
            [(Some(0), None), (Some(101), None), (None, Some("abc")), (None, Some("+000000000000001"))]
        {
            let query = PageQuery { limit, cursor: cursor.map(str::to_owned) };
            assert_eq!(query.check().unwrap_err().status().as_u16(), 422, "{query:?}");
        }
    }
}
