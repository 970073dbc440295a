//! Names of damaged pages in what servers write: their logs, and the errors of what reads every page.
//!
//! Whoever may run statements may write such a line (`RAISE WARNING`): a name is a reason to look at the page and
//! nothing more.

use mainstay_decide::damage::Page;

/// Pages of a segment of a relation's file: 1 GiB of 8 KiB each.
const SEGMENT: u32 = 131_072;

/// Pages that a text names: `invalid page in block 3 of relation base/5/16384` (a reader), `checksum verification failed
/// in file "./base/5/16384.1", block 3: …` (a base backup of PostgreSQL's own), `base/5/16384 block 3` (one of ours).
pub fn named(text: &str) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "block") {
            let page = page_at(&words, at);
            pages.extend(page.filter(|page| !pages.contains(page)).into_iter().collect::<Vec<_>>());
        }
    }
    pages
}

fn page_at(words: &[&str], at: usize) -> Option<Page> {
    let number = words.get(at + 1)?;
    let digits = number.trim_end_matches(|other: char| !other.is_ascii_digit());
    let block: u32 = digits.parse().ok()?;
    if words.get(at + 2..at + 4) == Some(&["of", "relation"]) {
        let (file, segment) = file(words.get(at + 4)?)?;
        return (segment == 0).then_some(Page { file, block });
    }
    let before = words.get(at.checked_sub(1)?)?;
    let (file, segment) = file(before)?;
    // PostgreSQL counts from the beginning of the file that it names, we from that of the relation.
    let is_in_file = before.ends_with(',');
    let block = if is_in_file { block.checked_add(segment.checked_mul(SEGMENT)?)? } else { block };
    Some(Page { file, block })
}

/// A relation's file below a data directory, and which segment of it; anything else is none.
fn file(word: &str) -> Option<(String, u32)> {
    let path = word.trim_matches(|other: char| matches!(other, '"' | ',' | ';' | ':' | '(' | ')'));
    let path = path.strip_prefix("./").unwrap_or(path);
    let (relation, segment) = match path.rsplit_once('.') {
        Some((relation, segment)) => (relation, segment.parse().ok()?),
        None => (path, 0),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = relation.split('/').collect();
    let (folder, name) = parts.split_at(parts.len().checked_sub(1)?);
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_folder = match folder {
        ["global"] => true,
        ["base", database] => is_number(database),
        ["pg_tblspc", space, version, database] => {
            is_number(space) && version.starts_with("PG_") && is_plain(version) && is_number(database)
        }
        _ => false,
    };
    let (number, fork) = name.first()?.split_once('_').unwrap_or((name.first()?, "vm"));
    (is_folder && is_number(number) && matches!(fork, "fsm" | "vm" | "init")).then(|| (relation.to_owned(), segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(file: &str, block: u32) -> Page {
        Page { file: file.to_owned(), block }
    }

    #[test]
    fn pages_are_read_off_what_servers_and_backups_say() {
        let text = "2026-11-26 20:00:00 UTC [7] WARNING:  page verification failed, calculated checksum 1 but expected 2\n\
            2026-11-26 20:00:00 UTC [7] ERROR:  invalid page in block 3 of relation base/16385/16390\n\
            2026-11-26 20:00:00 UTC [7] ERROR:  invalid page in block 3 of relation base/16385/16390\n\
            WARNING:  checksum verification failed in file \"./base/5/16396.2\", block 1: calculated 3B2F but expected 1D8C\n\
            WARNING:  invalid page in block 0 of relation pg_tblspc/16400/PG_15_202209061/5/16401_vm; zeroing out page\n\
            {\"error\":\"a page has a wrong checksum: global/1262 block 0\"}";
        let wanted = [
            page("base/16385/16390", 3),
            page("base/5/16396", 2 * 131_072 + 1),
            page("pg_tblspc/16400/PG_15_202209061/5/16401_vm", 0),
            page("global/1262", 0),
        ];
        assert_eq!(named(text), wanted);
        assert_eq!(
            named("base/5/16396.2 block 300000"),
            [page("base/5/16396", 300_000)],
            "ours counts in the relation"
        );
    }

    #[test]
    fn what_is_no_page_of_a_relation_names_none() {
        let lines = [
            "invalid page in block 0 of relation base/../../etc/passwd",
            "invalid page in block 0 of relation /etc/passwd",
            "invalid page in block x of relation base/5/16384",
            "invalid page in block 99999999999 of relation base/5/16384",
            "invalid page in block 0 of relation base/5/16384_log",
            "invalid page in block 0 of relation pg_tblspc/1/PG_15/../5/1",
            "invalid page in block 0 of relation",
            "block",
            "block 7",
            "",
        ];
        for line in lines {
            assert_eq!(named(line), [], "{line:?}");
        }
    }
}
