//! Identities: nonces of starts, users of children.

use std::io;

use mainstay_types::{ChildRole, Nonce};

use crate::protocol::User;

/// First of the numeric users for children without an entry in the user database.
///
/// **Source**: systemd's UIDS-GIDS: 61184 to 65519 are for users that a service manager allocates.
const FIRST_USER: u32 = 61_184;
/// Last of them.
const LAST_USER: u32 = 65_519;

/// A new identity of a start.
///
/// **Errors**: the kernel has no randomness to give (it cannot, after boot).
pub fn nonce() -> io::Result<Nonce> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Nonce::from_bytes(bytes))
}

/// FNV-1a: stable over releases and machines, which the standard library's hasher does not promise.
pub(crate) fn stable_hash(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The user that a child of a stack shall be, when keep runs as root; `None` when it does not (all run as
/// its own user), for keep and the control plane (they stay what they are), and for PostgreSQL where the
/// package's user is missing (`initdb` wants an entry in the user database).
///
/// `name` is the service's (one user for all its instances and its release command) or the child's. Two
/// names may fall on one number (one chance in 4336 for each pair).
pub fn user_for(role: ChildRole, stack: &str, name: &str) -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    choose(role, stack, name, &passwd)
}

fn choose(role: ChildRole, stack: &str, name: &str, passwd: &str) -> Option<User> {
    match role {
        ChildRole::Keep | ChildRole::Control => None,
        ChildRole::Postgres => find(passwd, "postgres"),
        ChildRole::Redis => find(passwd, "redis").or_else(|| Some(numbered(stack, name))),
        ChildRole::Prometheus | ChildRole::Alertmanager => {
            find(passwd, "prometheus").or_else(|| Some(numbered(stack, name)))
        }
        ChildRole::Edge | ChildRole::Router | ChildRole::Instance | ChildRole::Task => Some(numbered(stack, name)),
    }
}

fn numbered(stack: &str, name: &str) -> User {
    let hash = stable_hash(format!("{stack}/{name}").as_bytes());
    let offset = u32::try_from(hash % u64::from(LAST_USER - FIRST_USER + 1)).unwrap_or(0);
    User { uid: FIRST_USER + offset, gid: FIRST_USER + offset }
}

fn find(passwd: &str, wanted: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:105:113:x:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce().expect("random"), nonce().expect("random"));
    }

    #[test]
    fn databases_run_as_their_package_user_and_services_as_a_number_of_their_own() {
        let of = |role, name| choose(role, "users", name, PASSWD);
        assert_eq!(of(ChildRole::Postgres, "postgres-a"), Some(User { uid: 105, gid: 113 }));
        let backend = of(ChildRole::Instance, "backend").expect("a user");
        assert!((FIRST_USER..=LAST_USER).contains(&backend.uid));
        assert_eq!(of(ChildRole::Task, "backend"), Some(backend.clone()));
        assert_ne!(of(ChildRole::Edge, "edge"), Some(backend));
        assert_eq!(of(ChildRole::Control, "control"), None);
        assert_eq!(choose(ChildRole::Postgres, "users", "postgres-a", ""), None);
    }
}
