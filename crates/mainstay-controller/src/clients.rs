//! Authorities that sign certificates of clients: a file of the operator's, which is followed while it changes.
//!
//! What cannot be used is told and not used: the one before stays, of an earlier control plane too. Without any, nobody's
//! certificate counts: routes that ask for one are shut, and all others serve.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_supervisor::durable;
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::effects::Effects;
use crate::settings::Settings;
use crate::store::NewEvent;

/// Pause between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);
/// Longest file that is read.
const MOST_BYTES: u64 = 256 * 1024;

/// What was taken last, of any control plane, and where it came from.
#[derive(Serialize, Deserialize)]
struct Kept {
    of: PathBuf,
    pem: String,
}

/// A look at the file: its text, or why it cannot be used.
type Look = Result<String, String>;

/// Reads the authorities before the edge's first policy is made, and follows their file from then on.
pub(crate) fn begin(effects: &Arc<Effects>) {
    let settings = &effects.settings;
    let kept = settings.paths.state.join("edge-client-ca.json");
    let Some(file) = &settings.stack.edge.client_ca else {
        // What cannot be removed is of a file that the stack does not name, and is not used.
        std::fs::remove_file(kept).ok();
        return;
    };
    let file = settings.launch.origin.join(file);
    let first = look(&file);
    match &first {
        Ok(pem) => take(settings, &kept, &file, pem, effects),
        Err(reason) => {
            let before = load(&kept, &file);
            let meanwhile = if before.is_some() { "those before stay" } else { "nobody's certificate counts" };
            settings.client_ca.send_replace(before.unwrap_or_default());
            refuse(effects, meanwhile, reason);
        }
    }
    tokio::spawn(follow(Arc::clone(effects), file, kept, first));
}

async fn follow(effects: Arc<Effects>, file: PathBuf, kept: PathBuf, first: Look) {
    let (mut judged, mut seen) = (first.clone(), first);
    loop {
        tokio::time::sleep(LOOK).await;
        let path = file.clone();
        let Ok(looked) = tokio::task::spawn_blocking(move || look(&path)).await else { return };
        let is_settled = looked == seen;
        seen = looked;
        // It may be half of it.
        if !is_settled || seen == judged {
            continue;
        }
        judged = seen.clone();
        match &seen {
            Ok(pem) => {
                take(&effects.settings, &kept, &file, pem, &effects);
                let text = "the edge takes the authorities of tls.client_ca, for connections that are there too";
                effects.journal.emit(NewEvent::info(now(), "ClientAuthoritiesTaken", text).about("edge"));
                // An edge that is away has them with its next policy.
                let pem = pem.clone();
                effects.to_edge.again(|policy| policy.client_ca = Some(pem)).await;
            }
            Err(reason) => refuse(&effects, "those before stay", reason),
        }
    }
}

fn refuse(effects: &Effects, meanwhile: &str, reason: &str) {
    let text = format!("the authorities of tls.client_ca are not used, {meanwhile}: {reason}");
    effects.journal.emit(NewEvent::error(now(), "ClientAuthoritiesRefused", text).about("edge"));
}

fn take(settings: &Settings, kept: &Path, file: &Path, pem: &str, effects: &Effects) {
    settings.client_ca.send_replace(pem.to_owned());
    let new = Kept { of: file.to_owned(), pem: pem.to_owned() };
    let bytes = serde_json::to_vec(&new).map_err(std::io::Error::other);
    if let Err(error) = bytes.and_then(|bytes| durable::replace(kept, &bytes, 0o600)) {
        let text = format!("the authorities of tls.client_ca could not be kept beside their file: {error}");
        effects.journal.emit(NewEvent::warn(now(), "ClientAuthoritiesNotKept", text).about("edge"));
    }
}

/// Those of this file; of another none.
fn load(kept: &Path, file: &Path) -> Option<String> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(kept).ok()?).ok()?;
    (kept.of == file && mainstay_edge::client_authorities(&kept.pem).is_ok()).then_some(kept.pem)
}

fn look(file: &Path) -> Look {
    let show = |what: String| format!("{}: {what}", file.display());
    let metadata = std::fs::metadata(file).map_err(|error| show(error.to_string()))?;
    // Reading a pipe would wait for whoever writes it.
    if !metadata.is_file() {
        return Err(show("it is no file".to_owned()));
    }
    let length = metadata.len();
    if length > MOST_BYTES {
        return Err(show(format!("it has {length} bytes, and {MOST_BYTES} are the most")));
    }
    let pem = std::fs::read_to_string(file).map_err(|error| show(error.to_string()))?;
    // An empty file is one that is just being written, or a mistake: nobody is meant by it.
    let count = mainstay_edge::client_authorities(&pem).map_err(show)?;
    if count == 0 { Err(show("it is empty".to_owned())) } else { Ok(pem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_says_why_and_what_was_kept_is_of_its_file() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        assert!(look(&at("none.pem")).expect_err("nothing there").contains("none.pem: "));
        for (text, reason) in [("", "it is empty"), ("nonsense", "it has no certificate")] {
            std::fs::write(at("ca.pem"), text).expect("writes");
            assert!(look(&at("ca.pem")).expect_err(text).contains(reason), "{text:?}");
        }
        assert!(look(folder.path()).expect_err("a folder").contains("it is no file"));
        let made = mainstay_edge::ca::local_ca(&at("ca"), &["a.localhost".to_owned()], now()).expect("makes");
        let pem = std::fs::read_to_string(&made.authority).expect("reads");
        std::fs::write(at("ca.pem"), &pem).expect("writes");
        assert_eq!(look(&at("ca.pem")), Ok(pem.clone()));
        let kept = Kept { of: at("ca.pem"), pem: pem.clone() };
        std::fs::write(at("kept.json"), serde_json::to_vec(&kept).expect("serializes")).expect("writes");
        assert_eq!(load(&at("kept.json"), &at("ca.pem")), Some(pem));
        assert_eq!(load(&at("kept.json"), &at("other.pem")), None);
    }
}
