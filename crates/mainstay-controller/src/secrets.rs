//! Generated passwords and keys, sealed with age beside the state; the identity is a file of its own (0600).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mainstay_supervisor::durable;
use mainstay_types::Secret;
use serde::{Deserialize, Serialize};

/// Why secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The identity does not open the sealed file.
    #[error("{path} cannot be opened with the identity in {identity}: {reason}")]
    Sealed {
        /// The sealed file.
        path: PathBuf,
        /// The identity file.
        identity: PathBuf,
        /// What age said.
        reason: String,
    },
}

/// Passwords that mainstay makes for its own parts, by use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    values: BTreeMap<String, Secret>,
    sealed: PathBuf,
    identity_file: PathBuf,
    is_new: bool,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    values: BTreeMap<String, Secret>,
}

fn random_bytes(count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// 160 random bits in 40 hexadecimal digits: needs no quoting in a URL, a file or a shell.
///
/// **Errors**: the kernel gives no random bytes.
pub fn random_password() -> io::Result<Secret> {
    Ok(Secret::new(random_bytes(20)?.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

impl Secrets {
    /// Opens the sealed file of a state folder, or begins an empty one with a new identity.
    ///
    /// **Errors**: files unreadable, or the identity does not fit.
    pub fn open(state: &Path) -> Result<Self, Error> {
        let identity_file = state.join("identity.age");
        let sealed = state.join("secrets.age");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let is_new = !identity_file.exists();
        if is_new {
            let identity = age::x25519::Identity::generate();
            let text = format!("# mainstay recovery identity: keep a copy off this machine\n{}\n", expose(&identity));
            durable::replace(&identity_file, text.as_bytes(), 0o600).map_err(at(&identity_file))?;
        }
        let mut secrets = Self { values: BTreeMap::new(), sealed, identity_file, is_new };
        if secrets.sealed.exists() {
            let identity = secrets.identity()?;
            let bytes = std::fs::read(&secrets.sealed).map_err(at(&secrets.sealed))?;
            let plain = age::decrypt(&identity, &bytes).map_err(|error| secrets.unsealable(&error.to_string()))?;
            let content: Content =
                serde_json::from_slice(&plain).map_err(|error| secrets.unsealable(&error.to_string()))?;
            secrets.values = content.values;
        }
        Ok(secrets)
    }

    fn unsealable(&self, reason: &str) -> Error {
        Error::Sealed { path: self.sealed.clone(), identity: self.identity_file.clone(), reason: reason.to_owned() }
    }

    fn identity(&self) -> Result<age::x25519::Identity, Error> {
        let text = std::fs::read_to_string(&self.identity_file)
            .map_err(|source| Error::Io { path: self.identity_file.clone(), source })?;
        let line = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap_or_default();
        age::x25519::Identity::from_str(line).map_err(|error| self.unsealable(error))
    }

    /// The secret for a use; made and sealed now if there was none.
    ///
    /// **Errors**: it could not be sealed durably.
    pub fn get_or_make(&mut self, purpose: &str) -> Result<Secret, Error> {
        if let Some(secret) = self.values.get(purpose) {
            return Ok(secret.clone());
        }
        let secret = random_password().map_err(|source| Error::Io { path: "/dev/urandom".into(), source })?;
        self.values.insert(purpose.to_owned(), secret.clone());
        self.seal()?;
        Ok(secret)
    }

    /// Seals a secret that was made elsewhere.
    ///
    /// **Errors**: it could not be sealed durably.
    pub fn set(&mut self, purpose: &str, secret: &Secret) -> Result<(), Error> {
        self.values.insert(purpose.to_owned(), secret.clone());
        self.seal()
    }

    /// A secret that must exist already.
    pub fn get(&self, purpose: &str) -> Option<&Secret> {
        self.values.get(purpose)
    }

    /// Whether the identity was made just now: the moment for the recovery card.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The identity's file, for the recovery card.
    pub fn identity_file(&self) -> &Path {
        &self.identity_file
    }

    fn seal(&self) -> Result<(), Error> {
        let io_error = |source| Error::Io { path: self.sealed.clone(), source };
        let recipient = self.identity()?.to_public();
        let content = Content { version: 1, values: self.values.clone() };
        let plain = serde_json::to_vec(&content).map_err(|error| io_error(error.into()))?;
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            .map_err(|error| self.unsealable(&error.to_string()))?;
        let mut bytes = Vec::new();
        let mut writer = encryptor.wrap_output(&mut bytes).map_err(io_error)?;
        writer.write_all(&plain).and_then(|()| writer.finish().map(drop)).map_err(io_error)?;
        durable::replace(&self.sealed, &bytes, 0o600).map_err(io_error)
    }
}

/// Hides a stack's secrets in what programs print: a release command that fails tells what it was given.
#[derive(Debug)]
pub struct Mask(Vec<Secret>);

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Shorter ones are words like any other: ours have 40 letters, those that people set are longer than this.
const SHORTEST: usize = 6;

impl Mask {
    /// Of the stack with this state folder. Where its secrets cannot be opened there is nothing to hide by; nothing is
    /// made there.
    pub fn of(state: &Path) -> Self {
        let is_there = ["secrets.age", "identity.age"].iter().all(|file| state.join(file).exists());
        let secrets = is_there.then(|| Secrets::open(state).ok()).flatten();
        let mut values: Vec<Secret> = secrets.map(|secrets| secrets.values.into_values().collect()).unwrap_or_default();
        values.retain(|value| value.expose().len() >= SHORTEST);
        // One may be a part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.expose().len()));
        Self(values)
    }

    /// The text without them.
    pub fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), HIDDEN))
    }
}

fn expose(identity: &age::x25519::Identity) -> String {
    use age::secrecy::ExposeSecret;
    identity.to_string().expose_secret().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_reopening_and_are_not_in_the_clear() {
        let folder = tempfile::tempdir().expect("folder");
        let mut secrets = Secrets::open(folder.path()).expect("opens");
        assert!(secrets.is_new());
        let made = secrets.get_or_make("app").expect("makes");
        let again = Secrets::open(folder.path()).expect("opens");
        assert!(!again.is_new());
        assert_eq!(again.get("app"), Some(&made));
        let sealed = std::fs::read(folder.path().join("secrets.age")).expect("reads");
        assert!(!sealed.windows(made.expose().len()).any(|part| part == made.expose().as_bytes()));
    }

    #[test]
    fn a_mask_hides_every_secret_and_makes_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(Mask::of(folder.path()).hide("a b"), "a b");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0, "a look makes no identity");
        let mut secrets = Secrets::open(folder.path()).expect("opens");
        let made = secrets.get_or_make("named:API_TOKEN").expect("makes");
        secrets.set("named:LONG", &Secret::new(format!("{}x", made.expose()))).expect("sealed");
        secrets.set("named:SHORT", &Secret::new("at")).expect("sealed");
        let text = format!("cannot log in at http://u:{0}@h/ with {0}x", made.expose());
        assert_eq!(Mask::of(folder.path()).hide(&text), "cannot log in at http://u:***@h/ with ***");
    }

    #[test]
    fn a_lost_identity_is_an_error_that_names_both_files() {
        let folder = tempfile::tempdir().expect("folder");
        Secrets::open(folder.path()).expect("opens").get_or_make("app").expect("makes");
        std::fs::remove_file(folder.path().join("identity.age")).expect("removes");
        let error = Secrets::open(folder.path()).expect_err("does not open");
        assert!(error.to_string().contains("identity.age"), "{error}");
    }
}
