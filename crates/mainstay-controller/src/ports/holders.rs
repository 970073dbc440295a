//! Who listens on a port, as far as /proc tells this user.

use std::cell::OnceCell;
use std::collections::BTreeMap;

/// A socket that listens, as the kernel lists it to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    inode: u64,
    /// Whoever made it.
    user: u32,
}

/// One look at all processes. /proc is walked when that is asked for first, and never again: with hundreds of
/// processes a walk takes tenths of a second, and there may be two hundred ports to ask about.
#[derive(Debug, Default)]
pub(super) struct Look(OnceCell<BTreeMap<u64, Vec<u32>>>);

/// What can be said of a port that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// By a process that can be seen, or by another user's, which cannot: waiting would not help.
    Firmly,
    /// By nobody, although this user would see them: by a process that is ending.
    Ending,
}

impl Look {
    /// Processes that hold one of these sockets. Several when a listener was inherited.
    pub(super) fn holders(&self, sockets: &[Socket]) -> Vec<u32> {
        // Descriptors of others are shown to root alone: then the walk is saved.
        if !sockets.iter().any(|socket| is_visible(socket.user)) {
            return Vec::new();
        }
        let all = self.0.get_or_init(walk);
        sockets.iter().filter_map(|socket| all.get(&socket.inode)).flatten().copied().collect()
    }

    /// How a port with these sockets is held.
    pub(super) fn held(&self, sockets: &[Socket]) -> Held {
        let is_unseen = self.holders(sockets).is_empty() && sockets.iter().all(|socket| is_visible(socket.user));
        if is_unseen { Held::Ending } else { Held::Firmly }
    }
}

/// Whether this user would see the process behind a socket of that user.
fn is_visible(user: u32) -> bool {
    let me = rustix::process::geteuid();
    me.is_root() || me.as_raw() == user
}

/// Sockets that listen on a port.
pub(super) fn sockets_on(port: u16) -> Vec<Socket> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).collect();
    listed(&text, port)
}

fn listed(tables: &str, port: u16) -> Vec<Socket> {
    let needle = format!(":{port:04X}");
    tables
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN. **Source**: proc_net_tcp of the kernel documentation.
            let listens = fields.get(3) == Some(&"0A") && fields.get(1)?.ends_with(&needle);
            let socket = Socket { inode: fields.get(9)?.parse().ok()?, user: fields.get(7)?.parse().ok()? };
            listens.then_some(socket)
        })
        .collect()
}

/// The sockets of every process whose descriptors are shown.
fn walk() -> BTreeMap<u64, Vec<u32>> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for pid in processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok()) {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for link in descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                found.entry(inode).or_default().push(pid);
            }
        }
    }
    found
}

/// Who listens on a port: `name (pid N)` from /proc, when we may see it.
pub fn holder(port: u16) -> Option<String> {
    let pid = *Look::default().holders(&sockets_on(port)).first()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_listed_with_its_owner_and_others_are_not() {
        let tables = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0 100 0 0 10 0
   1: 0100007F:20FB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1001        0 4712 1 0 100 0 0 10 0
   2: 0100007F:20FC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 4713 1 0 100 0 0 10 0
";
        assert_eq!(listed(tables, 0x20fb), [Socket { inode: 4711, user: 1001 }]);
    }

    #[test]
    fn what_this_user_would_see_and_does_not_is_ending_and_all_else_is_held() {
        let me = rustix::process::geteuid().as_raw();
        // No socket has this number: inodes of sockets are of 32 bits.
        let [mine, foreign] = [me, me.wrapping_add(1)].map(|user| Socket { inode: u64::MAX, user });
        let look = Look::default();
        assert_eq!(look.held(&[mine]), Held::Ending);
        if me != 0 {
            assert_eq!(look.held(&[foreign]), Held::Firmly);
        }
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(Look::default().held(&sockets_on(port)), Held::Firmly);
    }

    #[test]
    fn for_another_users_listener_no_process_is_looked_at() {
        let me = rustix::process::geteuid();
        let look = Look::default();
        look.held(&[Socket { inode: u64::MAX, user: me.as_raw().wrapping_add(1) }]);
        assert_eq!(look.0.get().is_some(), me.is_root());
    }
}
