//! Files of issuers' keys: followed where the stack file names them, and kept beside the edge, whose own user need not
//! read the stack file's folder.
//!
//! What cannot be read is told, and the copy stays: tokens that were good remain so.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_stack::identity::{Issuer, Keys};
use mainstay_supervisor::durable;

use crate::clock::now;
use crate::journal::Journal;
use crate::settings::Settings;
use crate::store::NewEvent;

/// Pause between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);
/// Longest file of keys or authorities that is copied; the edge takes no more keys, and lists of authorities have as
/// much.
const MOST_BYTES: u64 = 256 * 1024;

/// Copies for one issuer: of its keys, and of who signs for its server.
fn copies(edge: &Path, name: &str) -> (PathBuf, PathBuf) {
    (edge.join(format!("issuer-{name}.keys")), edge.join(format!("issuer-{name}.roots.pem")))
}

/// What the edge is told of an issuer: files are where their copies are.
pub(crate) fn beside(edge: &Path, name: &str, issuer: &Issuer) -> Issuer {
    let (keys, authorities) = copies(edge, name);
    let mut issuer = issuer.clone();
    match &mut issuer.keys {
        Keys::Secret { .. } => {}
        Keys::File { path } => *path = keys,
        Keys::Url { roots, .. } => *roots = roots.take().map(|_| authorities),
    }
    issuer
}

/// The files with their copies.
struct Files {
    named: Vec<(PathBuf, PathBuf)>,
    /// What was read last, or why nothing was.
    last: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
}

impl Files {
    fn of(settings: &Settings) -> Self {
        let (origin, edge) = (&settings.launch.origin, settings.edge_folder());
        let named = settings.stack.edge.identities.iter().filter_map(|(name, issuer)| {
            let (keys, authorities) = copies(&edge, name);
            match &issuer.keys {
                Keys::File { path } => Some((origin.join(path), keys)),
                Keys::Url { roots: Some(roots), .. } => Some((origin.join(roots), authorities)),
                Keys::Url { roots: None, .. } | Keys::Secret { .. } => None,
            }
        });
        Self { named: named.collect(), last: BTreeMap::new() }
    }

    /// Copies what has changed; what went wrong since the last look. Blocks.
    fn look(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (from, to) in &self.named {
            let read = read(from).and_then(|bytes| match self.last.get(from) {
                Some(Ok(last)) if *last == bytes => Ok(bytes),
                _ => copy(&bytes, to).map(|()| bytes),
            });
            let is_new = self.last.get(from) != Some(&read);
            if let Err(reason) = read.as_ref().map_err(|reason| format!("{} {reason}", from.display())) {
                wrong.extend(is_new.then_some(reason));
            }
            self.last.insert(from.clone(), read);
        }
        wrong
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    // Whoever opens a pipe for reading waits for a writer, unless he says that he does not.
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(without_waiting).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("is no file".to_owned());
    }
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES { Err("is longer than 256 KiB".to_owned()) } else { Ok(bytes) }
}

fn copy(bytes: &[u8], to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot be kept as {}: {error}", to.display());
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // Public keys in the edge's own folder, which its user must be able to read.
    durable::replace(to, bytes, 0o644).map_err(failed)
}

/// Makes the copies before the edge is told of them, and follows the files from then on.
pub(crate) fn begin(settings: &Arc<Settings>, journal: &Journal) {
    let mut files = Files::of(settings);
    if files.named.is_empty() {
        return;
    }
    let journal = journal.clone();
    let tell = move |wrong: Vec<String>| {
        for reason in wrong {
            let text = format!("keys of an issuer: {reason}; those that were there stay");
            journal.emit(NewEvent::error(now(), "IssuerFileUnreadable", text).about("edge"));
        }
    };
    tell(files.look());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = tokio::task::spawn_blocking(move || {
                let wrong = files.look();
                (files, wrong)
            });
            let Ok((next, wrong)) = looked.await else { return };
            files = next;
            tell(wrong);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_copied_when_it_changes_and_the_copy_outlives_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (from, to) = (folder.path().join("issuer.pem"), folder.path().join("edge/issuer-staff.keys"));
        let mut files = Files { named: vec![(from.clone(), to.clone())], last: BTreeMap::new() };
        let wrong = files.look();
        assert!(wrong.len() == 1 && wrong[0].contains("issuer.pem cannot be read"), "{wrong:?}");
        assert!(files.look().is_empty(), "told once");
        for text in ["one", "two"] {
            std::fs::write(&from, text).expect("writes");
            assert!(files.look().is_empty());
            assert_eq!(std::fs::read_to_string(&to).expect("copied"), text);
            assert_eq!(std::fs::metadata(&to).expect("copied").permissions().mode() & 0o777, 0o644);
        }
        std::fs::remove_file(&from).expect("removes");
        assert_eq!(files.look().len(), 1);
        assert_eq!(std::fs::read_to_string(&to).expect("still there"), "two");
        std::fs::write(&from, vec![b'x'; 256 * 1024 + 1]).expect("writes");
        assert_eq!(files.look().len(), 1);
        std::fs::write(&from, "two").expect("writes");
        assert!(files.look().is_empty());
        // Nobody writes into this pipe: a look that waited for it would never end.
        std::fs::remove_file(&from).expect("removes");
        rustix::fs::mknodat(rustix::fs::CWD, &from, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        let wrong = files.look();
        assert!(wrong.len() == 1 && wrong[0].ends_with("is no file"), "{wrong:?}");
    }
}
