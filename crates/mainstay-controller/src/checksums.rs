//! Looks for damaged pages. Servers count those that they meet, and name them in their logs; what reads every page, a
//! base backup, names them in its error. Each name is looked at on the disk of every member: that alone says where the
//! page is damaged, since any session may write a line into a log. And what was damaged is looked at again: a table that
//! was dropped or made anew is damaged no more.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_backup::page::{self, OnDisk, Suspect};
use mainstay_decide::damage::{Damages, MOST_PAGES, Page};
use mainstay_postgres::damage::named;
use mainstay_types::{Member, Timestamp};
use tokio::sync::mpsc;

use crate::effects::Effects;
use crate::message::Message;

/// Pause between two looks into the logs: each costs a question for the length of a file.
const LOOK: Duration = Duration::from_secs(1);
/// What members count is asked for every so many looks, and at once when a page was named.
const COUNT_EVERY: u64 = 10;
/// A look at the size opens every file of the databases: one of this many.
const SIZE_EVERY: u64 = 60;
/// So much of what a log has grown by is read: a page that is not mended is met again.
const MOST: u64 = 256 * 1024;

/// Looks until the end.
pub(crate) async fn observe(effects: Arc<Effects>, sender: mpsc::Sender<Message>) {
    tokio::spawn(look_at_all(Arc::clone(&effects), sender.clone()));
    let mut logs = Logs::default();
    for look in 0_u64.. {
        tokio::time::sleep(LOOK).await;
        if look.is_multiple_of(SIZE_EVERY)
            && let Some(bytes) = effects.database_bytes().await
            && sender.send(Message::DatabaseSize(bytes)).await.is_err()
        {
            return;
        }
        let folders = effects.member_folders();
        let files: Vec<PathBuf> = log_files(&effects, &folders);
        let known = effects.damages.borrow().clone();
        let is_long = look.is_multiple_of(COUNT_EVERY);
        let reading = tokio::task::spawn_blocking(move || {
            let found = logs.read(&files, &folders);
            // What is damaged stays so for longer than a look takes.
            let mended = if is_long { mended(&known, &folders) } else { Vec::new() };
            (logs, found, mended)
        });
        let Ok((read, found, mended)) = reading.await else {
            logs = Logs::default();
            continue;
        };
        logs = read;
        let is_named = !found.is_empty();
        let told = found.into_iter().map(|(member, page)| Message::PageDamaged { member, page });
        let mut messages: Vec<Message> = told.collect();
        messages.extend(mended.into_iter().map(|(member, pages)| Message::PagesMended { member, pages }));
        if is_long || is_named {
            let counts = effects.checksum_failures().await;
            messages.extend(counts.into_iter().map(|(member, count)| Message::PagesMet { member, count }));
        }
        for message in messages {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// So long after the first word of it damage may get its name from a log.
const NAMED_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two looks at every page of a member: each reads all of it.
const ALL_AGAIN: Duration = Duration::from_mins(10);

/// Damage that no name tells of: every page of the member is read. That names it, or shows that it is gone, since the
/// table was dropped or the memory and not the disk was wrong.
async fn look_at_all(effects: Arc<Effects>, sender: mpsc::Sender<Message>) {
    let mut looked: BTreeMap<Member, Timestamp> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = crate::clock::now();
        let known = effects.damages.borrow().clone();
        let folders = effects.member_folders();
        let is_due = |(member, _): &&(Member, PathBuf)| {
            known.of.get(member).is_some_and(|damage| damage.is_unnamed() && now >= damage.since.after(NAMED_WITHIN))
                && looked.get(member).is_none_or(|at| now >= at.after(ALL_AGAIN) || *at > now)
        };
        let Some((member, data)) = folders.iter().find(is_due).cloned() else { continue };
        looked.insert(member, now);
        let met = known.of.get(&member).map_or(0, |damage| damage.met);
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || every_damaged(&data)).await else { continue };
        let told = found.into_iter().map(|page| Message::PageDamaged { member, page });
        for message in told.chain([Message::PagesLookedAt { member, met }]) {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// All damaged pages, as many as are remembered and one. Its server may run.
///
/// **Errors**: there is no data directory, or it cannot be read.
fn every_damaged(data: &Path) -> std::io::Result<Vec<Page>> {
    std::fs::metadata(data.join("PG_VERSION"))?;
    damaged_of(page::suspects(data, Suspect::Damaged, MOST_SUSPECTS)?, data, MOST_PAGES + 1)
}

/// Pages that are looked at again: where a server writes, some look damaged at first.
const MOST_SUSPECTS: usize = 10_000;

/// Those of these pages that are damaged on this disk, however often they are read; as many as are wanted.
///
/// **Errors**: one cannot be read; or there were too many to be looked at, and nobody can say that the others are sound.
fn damaged_of(suspects: Vec<(String, u32)>, data: &Path, most: usize) -> std::io::Result<Vec<Page>> {
    let is_partial = suspects.len() >= MOST_SUSPECTS;
    let mut found = Vec::new();
    for (file, block) in suspects {
        if found.len() >= most {
            return Ok(found);
        }
        if page::on_disk(data, &file, block)? == OnDisk::Damaged {
            found.push(Page { file, block });
        }
    }
    if is_partial && found.len() < most {
        return Err(std::io::Error::other("too many pages are written just now"));
    }
    Ok(found)
}

/// What may name pages: the log of each member and of what clones it, and how the last base backup ended.
fn log_files(effects: &Effects, folders: &[(Member, PathBuf)]) -> Vec<PathBuf> {
    let paths = effects.paths();
    let names = folders.iter().flat_map(|(member, _)| ["", "-clone"].map(|what| format!("postgres-{member}{what}")));
    let logs = names.map(|name| paths.log(&name));
    logs.chain([paths.state.join("backup-take.json")]).collect()
}

/// How far each file was read.
#[derive(Default)]
struct Logs(BTreeMap<PathBuf, u64>);

impl Logs {
    /// Damaged pages that were named since the last look, by the members that have them.
    fn read(&mut self, files: &[PathBuf], folders: &[(Member, PathBuf)]) -> Vec<(Member, Page)> {
        let mut found = Vec::new();
        for page in files.iter().flat_map(|file| self.grown(file)).flat_map(|text| named(&text)) {
            for (member, _) in folders.iter().filter(|(_, data)| look(data, &page) == Some(OnDisk::Damaged)) {
                let one = (*member, page.clone());
                if !found.contains(&one) {
                    found.push(one);
                }
            }
        }
        found
    }

    /// What a file has grown by; the end of one that is new here, or was written anew.
    fn grown(&mut self, file: &Path) -> Option<String> {
        let length = std::fs::metadata(file).ok()?.len();
        let before = self.0.insert(file.to_owned(), length).unwrap_or(0);
        if length == before {
            return None;
        }
        // How a job ended is written anew; a log grows.
        let is_anew = length < before || file.extension().is_some_and(|kind| kind == "json");
        let from = if is_anew { 0 } else { before };
        let mut open = std::fs::File::open(file).ok()?;
        open.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST)))).ok()?;
        let mut bytes = Vec::new();
        open.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Pages of a copy that are named when it is not whole.
const MOST_NAMED: usize = 20;

/// Looks at what `pg_basebackup` takes for sound: a page that claims to be new, and is not empty. It copies such a page
/// without a word, and the standby would have it too. One that is so in the copy alone was copied while it was written
/// first, and is mended by the log.
///
/// **Errors**: the source has such a page; its name is in the log too, where who looks for damaged pages finds it.
pub(crate) fn compare(copy: &Path, source: &Path, log: &Path) -> Result<(), String> {
    let found =
        page::suspects(copy, Suspect::New, MOST_SUSPECTS).map_err(|error| format!("cannot read the copy: {error}"))?;
    let found =
        damaged_of(found, source, MOST_NAMED).map_err(|error| format!("cannot compare it with its source: {error}"))?;
    let damaged: Vec<String> =
        found.iter().map(|page| format!("invalid page in block {} of relation {}", page.block, page.file)).collect();
    if damaged.is_empty() {
        return Ok(());
    }
    let text = format!("the source has pages that claim to be new and are not empty: {}", damaged.join(", "));
    let lines: String = damaged.iter().map(|line| format!("{line}\n")).collect();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(log);
    // The error says it too.
    opened.and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes())).ok();
    Err(text)
}

/// Pages that were damaged and are not any more.
fn mended(known: &Damages, folders: &[(Member, PathBuf)]) -> Vec<(Member, Vec<Page>)> {
    let of_member = |(member, data): &(Member, PathBuf)| {
        let damage = known.of.get(member)?;
        let is_well = |page: &&Page| matches!(look(data, page), Some(OnDisk::Sound | OnDisk::Gone));
        let pages: Vec<Page> = damage.pages.iter().filter(is_well).cloned().collect();
        (!pages.is_empty()).then_some((*member, pages))
    };
    folders.iter().filter_map(of_member).collect()
}

/// `None`: nobody can tell. Without its folder a member has no page, damaged or sound.
fn look(data: &Path, page: &Page) -> Option<OnDisk> {
    data.join("PG_VERSION").exists().then(|| page::on_disk(data, &page.file, page.block).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL's own copy takes such a page for one that was never used, and the standby had it too.
    #[test]
    fn a_copy_with_a_page_that_lost_its_header_is_none_unless_it_was_only_just_written() {
        let state = tempfile::tempdir().expect("folder");
        let [copy, source, log] = ["copy", "source", "log"].map(|name| state.path().join(name));
        for data in [&copy, &source] {
            std::fs::create_dir_all(data.join("base/5")).expect("made");
            std::fs::write(data.join("base/5/16384"), vec![0; 8192 * 3]).expect("written");
        }
        compare(&copy, &source, &log).expect("it is whole");
        let mut torn = vec![0; 8192 * 3];
        torn[8192 * 2 + 8000] = 1;
        std::fs::write(copy.join("base/5/16384"), &torn).expect("written");
        compare(&copy, &source, &log).expect("the source is whole: the log mends the copy");
        assert!(!log.exists());
        std::fs::write(source.join("base/5/16384"), &torn).expect("written");
        let error = compare(&copy, &source, &log).expect_err("the source is damaged");
        assert!(error.contains("block 2 of relation base/5/16384"), "{error}");
        let written = std::fs::read_to_string(&log).expect("read");
        assert_eq!(named(&written), [Page { file: "base/5/16384".to_owned(), block: 2 }]);
    }

    #[test]
    fn every_page_is_looked_at_and_one_more_than_is_remembered_is_told() {
        let state = tempfile::tempdir().expect("folder");
        let data = state.path();
        std::fs::create_dir_all(data.join("base/5")).expect("made");
        assert!(every_damaged(data).is_err(), "without a directory nothing is gone");
        std::fs::write(data.join("PG_VERSION"), b"15").expect("written");
        std::fs::write(data.join("base/5/16384"), vec![0; 8192 * 3]).expect("written");
        assert_eq!(every_damaged(data).expect("read"), []);
        let mut pages = vec![0; 8192 * 3];
        pages[8192..8192 * 2].fill(9);
        std::fs::write(data.join("base/5/16384"), &pages).expect("written");
        let of_block = |block: usize| ("base/5/16384".to_owned(), u32::try_from(block).expect("small"));
        let all: Vec<(String, u32)> = (0..MOST_SUSPECTS).map(|block| of_block(block % 3)).collect();
        let two = damaged_of(all[..4].to_vec(), data, 9).expect("read").len();
        assert_eq!(two, 1, "what is sound when it is read again is none");
        assert!(damaged_of(vec![of_block(0); MOST_SUSPECTS], data, 9).is_err(), "the others were not looked at");
        assert_eq!(every_damaged(data).expect("read"), [Page { file: "base/5/16384".to_owned(), block: 1 }]);
    }

    #[test]
    fn a_page_is_damaged_where_its_disk_says_so_and_nowhere_else() {
        let state = tempfile::tempdir().expect("folder");
        let folders: Vec<(Member, PathBuf)> =
            [(Member::A, "a"), (Member::B, "b")].map(|(member, name)| (member, state.path().join(name))).to_vec();
        for (_, data) in &folders {
            std::fs::create_dir_all(data.join("base/5")).expect("made");
            std::fs::write(data.join("PG_VERSION"), b"15").expect("written");
            std::fs::write(data.join("base/5/16384"), vec![0; 8192 * 2]).expect("written");
        }
        // Neither new nor with the checksum that it should have.
        std::fs::write(state.path().join("b/base/5/16384"), vec![9; 8192 * 2]).expect("written");
        let log = state.path().join("log");
        let mut logs = Logs::default();
        let mut read = || logs.read(std::slice::from_ref(&log), &folders);
        assert_eq!(read(), [], "there is no log yet");
        std::fs::write(&log, "ERROR:  invalid page in block 1 of relation base/5/16384\n").expect("written");
        let page = Page { file: "base/5/16384".to_owned(), block: 1 };
        assert_eq!(read(), [(Member::B, page.clone())], "whoever wrote the line");
        assert_eq!(read(), [], "it is read once");
        let mut known = Damages::default();
        known.found(Member::B, page.clone(), mainstay_types::Timestamp::default());
        assert_eq!(mended(&known, &folders), []);
        std::fs::remove_file(state.path().join("b/base/5/16384")).expect("removed");
        assert_eq!(mended(&known, &folders), [(Member::B, vec![page])], "its relation was dropped");
        std::fs::remove_dir_all(state.path().join("b")).expect("removed");
        assert_eq!(mended(&known, &folders), [], "a member without a directory is not mended by that");
    }
}
