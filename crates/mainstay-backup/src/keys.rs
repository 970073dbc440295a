//! What opens a repository: the password of the recovery card, the key that seals archived WAL, and the card.

use std::io::{self, Read, Write};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use mainstay_types::Secret;

/// The password has 160 random bits: stretching it adds nothing but time at a restore.
const WORK_FACTOR: u8 = 10;

/// A key does not open what it should.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be opened: {reason}")]
pub struct KeyError {
    what: &'static str,
    reason: String,
}

impl KeyError {
    fn new(what: &'static str, reason: impl ToString) -> Self {
        Self { what, reason: reason.to_string() }
    }
}

/// A new key for archived WAL: the secret half, and the half that only seals.
pub fn new_wal_key() -> (Secret, String) {
    let identity = age::x25519::Identity::generate();
    (Secret::new(identity.to_string().expose_secret()), identity.to_public().to_string())
}

/// Seals the WAL key with the card's password, as `age --passphrase` does.
///
/// **Errors**: none but those of memory.
pub fn seal_wal_key(key: &Secret, password: &Secret) -> io::Result<Vec<u8>> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(password.expose().to_owned()));
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(io::Error::other)?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(key.expose().as_bytes())?;
    writer.write_all(b"\n")?;
    writer.finish()?;
    Ok(sealed)
}

/// Opens what [`seal_wal_key`] made.
///
/// **Errors**: another password, or damaged.
pub fn open_wal_key(sealed: &[u8], password: &Secret) -> Result<Secret, KeyError> {
    let what = "the key of the archived WAL";
    let identity = age::scrypt::Identity::new(SecretString::from(password.expose().to_owned()));
    let plain = age::decrypt(&identity, sealed).map_err(|error| KeyError::new(what, error))?;
    let text = String::from_utf8(plain).map_err(|error| KeyError::new(what, error))?;
    Ok(Secret::new(text.trim()))
}

/// Writes what [`open`] reads: anyone who has the recipient can seal.
pub(crate) fn seal<W: Write>(recipient: &str, into: W) -> io::Result<age::stream::StreamWriter<W>> {
    let recipient = age::x25519::Recipient::from_str(recipient).map_err(io::Error::other)?;
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(io::Error::other)?;
    encryptor.wrap_output(into)
}

/// Reads what [`seal`] wrote. A changed byte is an error of the reader, at the latest at its end.
pub(crate) fn open<R: Read>(key: &Secret, from: R) -> Result<age::stream::StreamReader<R>, KeyError> {
    let what = "archived WAL";
    let identity = age::x25519::Identity::from_str(key.expose()).map_err(|error| KeyError::new(what, error))?;
    let decryptor = age::Decryptor::new(from).map_err(|error| KeyError::new(what, error))?;
    decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| KeyError::new(what, error))
}

/// The recovery card: all that a restore on another machine needs besides the repository.
pub fn card(stack: &str, environment: &str, place: &str, password: &Secret) -> String {
    format!(
        "mainstay recovery card\n\
         \x20 stack       {stack} ({environment})\n\
         \x20 repository  {}\n\
         \x20 password    {}\n\
         Keep it off this machine. Whoever has it and the repository can read every backup; without it, when this\n\
         machine is lost, nobody can. README.txt in the repository says how to restore.\n",
        place,
        password.expose()
    )
}

/// The card with the place of the second copy on it.
pub fn with_copy(card: &str, copy: &str) -> String {
    card.replacen("\n  password", &format!("\n  copy        {copy}\n  password"), 1)
}

/// The card with the identity of its repository on it: a card of another is then known as such.
pub fn with_identity(card: &str, repository: &str) -> String {
    card.replacen("\n  password", &format!("\n  identity    {repository}\n  password"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_copy_stands_on_the_card_above_the_password() {
        let card = with_copy(&card("shop", "production", "/srv/b", &Secret::new("abc")), "s3://b/shop");
        assert!(card.contains("  repository  /srv/b\n  copy        s3://b/shop\n  password    abc\n"), "{card}");
    }

    #[test]
    fn the_cards_password_opens_the_key_of_the_wal_and_another_does_not() {
        let (key, _) = new_wal_key();
        let sealed = seal_wal_key(&key, &Secret::new("right")).expect("seals");
        assert_eq!(open_wal_key(&sealed, &Secret::new("right")).expect("opens"), key);
        assert!(open_wal_key(&sealed, &Secret::new("wrong")).is_err());
    }
}
