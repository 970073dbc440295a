//! Unpacks a tar archive, and stops when it holds more than a release has: a small file can hold a full disk.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Most;
use crate::failure::Failure;

/// What is kept of what tar complains about.
const MOST_WORDS: u64 = 64 * 1024;

/// How an archive ended.
pub(super) enum Unpacked {
    Whole,
    /// It holds more than this.
    TooMuch(Most),
    /// tar's last words.
    Broken(String),
}

impl Unpacked {
    pub(super) fn is_too_much(&self) -> bool {
        matches!(self, Self::TooMuch(_))
    }

    pub(super) fn or_refused(self, what: &str) -> Result<(), Failure> {
        match self {
            Self::Whole => Ok(()),
            Self::TooMuch(most) => Err(most.broken()),
            Self::Broken(why) => Err(Failure::user("MS2141", format!("{what} is no whole archive: {why}"))
                .help("nothing was changed; `tar -tf` lists what is in it")),
        }
    }
}

/// Unpacks into a folder, and says of each entry how large it is before it writes it.
pub(super) fn tar(to: &Path) -> Command {
    let mut tar = Command::new("tar");
    // Names of owners could have blanks, and names of files ends of lines.
    tar.env("LC_ALL", "C").args(["-x", "-vv", "--numeric-owner", "--quoting-style=escape"]);
    tar.args(["--no-same-owner", "--preserve-permissions", "-C"]).arg(to);
    tar
}

/// Runs it to its end, or to that of what is allowed.
pub(super) fn run(mut tar: Command, most: Most) -> Result<Unpacked, Failure> {
    let cannot = |error: &std::io::Error| Failure::environment("MS3140", format!("cannot run tar: {error}"));
    let child = tar.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    // It holds the reading end of a pipe.
    drop(tar);
    let mut child = child.map_err(|error| cannot(&error))?;
    let (entries, complaints) = (child.stdout.take(), child.stderr.take());
    let words = std::thread::spawn(move || complaints.map(last_words).unwrap_or_default());
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for line in entries.into_iter().flat_map(|entries| BufReader::new(entries).split(b'\n')) {
        let Ok(line) = line else { break };
        files += 1;
        bytes = bytes.saturating_add(size(&line));
        if !most.holds(files, bytes) {
            child.kill().and_then(|()| child.wait()).map_err(|error| cannot(&error))?;
            return Ok(Unpacked::TooMuch(most));
        }
    }
    let status = child.wait().map_err(|error| cannot(&error))?;
    let words = words.join().unwrap_or_default();
    Ok(if status.success() { Unpacked::Whole } else { Unpacked::Broken(words) })
}

/// The size in `-rw-r--r-- 0/0 1234 2026-01-31 12:00 NAME`; devices and what is no such line have none.
fn size(line: &[u8]) -> u64 {
    let third = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(2);
    third.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok()).unwrap_or(0)
}

fn last_words(mut complaints: impl Read) -> String {
    let mut text = Vec::new();
    complaints.by_ref().take(MOST_WORDS).read_to_end(&mut text).ok();
    // Whoever complains more must not wait for a reader.
    std::io::copy(&mut complaints, &mut std::io::sink()).ok();
    String::from_utf8_lossy(&text).trim().lines().next_back().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(folder: &Path, arguments: &[&str]) -> std::path::PathBuf {
        let file = folder.join("x.tar.gz");
        let made = Command::new("tar").arg("-C").arg(folder).arg("-czf").arg(&file).args(arguments).status();
        assert!(made.is_ok_and(|status| status.success()), "no archive was made");
        file
    }

    fn unpack(file: &Path, to: &Path, most: Most) -> Unpacked {
        std::fs::create_dir_all(to).expect("folder");
        let mut tar = tar(to);
        tar.arg("-f").arg(file);
        run(tar, most).unwrap_or_else(|failure| panic!("{}", failure.text))
    }

    /// Bytes that files below take on the disk.
    fn on_disk(folder: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(folder).expect("lists").flatten();
        entries.map(|entry| entry.metadata().map_or(0, |seen| seen.blocks() * 512)).sum()
    }

    /// It was counted when all of it lay on the disk.
    #[test]
    fn an_archive_that_grows_too_large_is_stopped_while_it_is_unpacked() {
        let folder = tempfile::tempdir().expect("folder");
        for number in 0..64 {
            let zeros = vec![0; 4 << 20];
            std::fs::write(folder.path().join(format!("f{number}")), zeros).expect("writes");
        }
        let names: Vec<String> = (0..64).map(|number| format!("f{number}")).collect();
        let file = pack(folder.path(), &names.iter().map(String::as_str).collect::<Vec<_>>());
        let to = folder.path().join("out");
        let most = Most { files: 1000, bytes: 16 << 20 };
        assert!(unpack(&file, &to, most).is_too_much());
        let written = on_disk(&to);
        assert!(written < 128 << 20, "{written} bytes of 256 MiB were written");
        let few = Most { files: 10, bytes: 1 << 40 };
        assert!(unpack(&file, &folder.path().join("few"), few).is_too_much());
        let all = Most { files: 64, bytes: 256 << 20 };
        assert!(matches!(unpack(&file, &folder.path().join("all"), all), Unpacked::Whole));
    }

    #[test]
    fn holes_count_as_what_they_are_read_as() {
        let folder = tempfile::tempdir().expect("folder");
        let hole = std::fs::File::create(folder.path().join("hole")).expect("file");
        hole.set_len(1 << 40).expect("a hole of 1 TiB");
        let file = pack(folder.path(), &["--sparse", "hole"]);
        assert!(file.metadata().expect("is there").len() < 1 << 20);
        let most = Most { files: 10, bytes: 4 << 30 };
        assert!(unpack(&file, &folder.path().join("out"), most).is_too_much());
    }

    #[test]
    fn the_size_of_an_entry_is_read_whatever_its_name_is() {
        assert_eq!(size(b"-rw-r--r-- 0/0           1234 2026-01-31 12:00 a b 99"), 1234);
        assert_eq!(size(b"drwxr-xr-x 1000/1000         0 2026-01-31 12:00 5/"), 0);
        assert_eq!(size(b"crw-r--r-- 0/0            1,3 2026-01-31 12:00 null"), 0);
        assert_eq!(size(b"tar: gone"), 0);
    }
}
