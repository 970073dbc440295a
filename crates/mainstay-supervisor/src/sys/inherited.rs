//! Listeners that keep opened and handed down, named in [`crate::LISTENERS_VARIABLE`].
//!
//! A child takes them once, before it opens anything else. Nothing here ever opens a socket itself.
#![expect(unsafe_code, reason = "a descriptor's number becomes an owner of it: there is no safe interface")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

/// More listeners than any child has: a longer list is not ours.
const MAX_LISTENERS: usize = 64;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Why the inherited listeners are not usable.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The variable is not `name:descriptor,…` with descriptors of 3 and above, each once.
    #[error("listener list {text:?} is not of the form name:3,name:4")]
    Malformed {
        /// What the variable says.
        text: String,
    },
    /// The descriptor is no listening TCP socket.
    #[error("descriptor {descriptor} for listener {name:?} is not a listening socket")]
    NotListening {
        /// Its name.
        name: String,
        /// Its number.
        descriptor: RawFd,
        /// What the kernel said, if it said anything.
        #[source]
        source: Option<std::io::Error>,
    },
    /// They belong to someone in this process already.
    #[error("inherited listeners were taken before")]
    Taken,
}

/// Takes the listeners that the environment names; an unset variable is an empty map.
///
/// **Errors**: a second call, a malformed list, a descriptor that does not listen.
pub fn tcp_listeners() -> Result<BTreeMap<String, TcpListener>, InheritedError> {
    let text = std::env::var(crate::LISTENERS_VARIABLE).unwrap_or_default();
    let wanted = parse(&text)?;
    if IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Err(InheritedError::Taken);
    }
    wanted.into_iter().map(|(name, descriptor)| Ok((name.clone(), take(name, descriptor)?))).collect()
}

fn parse(text: &str) -> Result<Vec<(String, RawFd)>, InheritedError> {
    let malformed = || InheritedError::Malformed { text: text.to_owned() };
    let mut wanted: Vec<(String, RawFd)> = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, number) = part.split_once(':').ok_or_else(malformed)?;
        let descriptor: RawFd = number.parse().map_err(|_| malformed())?;
        let is_new = wanted.iter().all(|(known, taken)| known != name && *taken != descriptor);
        if name.is_empty() || descriptor < 3 || !is_new || wanted.len() == MAX_LISTENERS {
            return Err(malformed());
        }
        wanted.push((name.to_owned(), descriptor));
    }
    Ok(wanted)
}

fn take(name: String, descriptor: RawFd) -> Result<TcpListener, InheritedError> {
    let refuse =
        |name: String, source: Option<std::io::Error>| InheritedError::NotListening { name, descriptor, source };
    // SAFETY: borrowed only for the two checks below; a number that is not open makes them fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    match rustix::net::sockopt::socket_acceptconn(borrowed) {
        Ok(true) => {}
        Ok(false) => return Err(refuse(name, None)),
        Err(error) => return Err(refuse(name, Some(error.into()))),
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|error| refuse(name, Some(error.into())))?;
    // SAFETY: the parent opened it for us and nobody else in this process owns it: it is named once in the list
    // (`parse`), the list is taken once (`IS_TAKEN`), and it is open and listens (checked above).
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(TcpListener::from(owned))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn a_list_names_each_descriptor_once() {
        let wanted = parse("router-write:3,router-read:4").expect("parses");
        assert_eq!(wanted, vec![("router-write".to_owned(), 3), ("router-read".to_owned(), 4)]);
        assert_eq!(parse("").expect("empty").len(), 0);
        for wrong in ["a", "a:", ":3", "a:2", "a:-1", "a:3,a:4", "a:3,b:3", "a:99999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_listening_socket_is_taken_and_closes_on_exec() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("address");
        let taken = take("edge".to_owned(), listener.into_raw_fd()).expect("takes");
        assert_eq!(taken.local_addr().expect("address"), address);
        assert!(rustix::io::fcntl_getfd(&taken).expect("flags").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn what_does_not_listen_is_refused_and_left_alone() {
        let file = tempfile::tempfile().expect("file");
        assert!(take("edge".to_owned(), file.as_raw_fd()).is_err());
        assert!(file.metadata().is_ok());
    }
}
