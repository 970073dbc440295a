//! Connections that others hold to a process: `/proc/net` and the descriptors of the process, read and never written.
//!
//! Sockets of the network namespace of the caller alone are seen; every child of keep shares it.

use std::collections::BTreeSet;

use mainstay_types::Pid;

/// State of an established TCP connection in `/proc/net/tcp`. **Source**: Linux, `include/net/tcp_states.h`.
const ESTABLISHED: &str = "01";
/// State of a listening TCP socket.
const LISTENING: &str = "0A";
/// State of a connected Unix socket in `/proc/net/unix`. **Source**: Linux, `include/uapi/linux/net.h`.
const CONNECTED: &str = "03";

/// Sockets by inode, each the accepting end of a connection that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted(BTreeSet<u64>);

impl Accepted {
    /// Looks once.
    pub fn take() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
        let mut found = tcp(&[&read("tcp"), &read("tcp6")]);
        found.extend(unix(&read("unix")));
        Self(found)
    }

    /// How many of them these processes hold; `None` when their descriptors are not ours to see.
    pub fn count<'p>(&self, pids: impl IntoIterator<Item = &'p Pid>) -> Option<u32> {
        let mut held = BTreeSet::new();
        let mut is_seen = false;
        for pid in pids {
            let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            is_seen = true;
            let links = folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            held.extend(links.filter_map(|link| inode(link.to_str()?)).filter(|inode| self.0.contains(inode)));
        }
        // A descriptor that was inherited is one connection, whoever else holds it.
        is_seen.then(|| u32::try_from(held.len()).unwrap_or(u32::MAX))
    }
}

fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The accepting ends are those at a port at which somebody listens.
fn tcp(tables: &[&str]) -> BTreeSet<u64> {
    let lines = || tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(tcp_line);
    let listening: BTreeSet<&str> = lines().filter(|line| line.1 == LISTENING).map(|line| line.0).collect();
    lines().filter(|line| line.1 == ESTABLISHED && listening.contains(line.0)).map(|line| line.2).collect()
}

/// Local port, state, inode.
fn tcp_line(line: &str) -> Option<(&str, &str, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some((port, *fields.get(3)?, fields.get(9)?.parse().ok()?))
}

/// The accepting end bears the path at which it was reached; the other end has none.
fn unix(table: &str) -> BTreeSet<u64> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_accepted = fields.get(5) == Some(&CONNECTED) && fields.len() > 7;
        is_accepted.then(|| fields.get(6)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn only_the_accepting_ends_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 11 1 0 100 0 0 10 0\n\
            1: 0100007F:20FB 0100007F:D1A2 01 00000000:00000000 00:00000000 00000000  0 0 12 1 0 20 4 30 10 -1\n\
            2: 0100007F:D1A2 0100007F:20FB 01 00000000:00000000 00:00000000 00000000  0 0 13 1 0 20 4 30 10 -1\n";
        assert_eq!(tcp(&[table]), BTreeSet::from([12]));
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 21 /run/x.sock\n\
            0: 00000003 00000000 00000000 0001 03 22 /run/x.sock\n\
            0: 00000003 00000000 00000000 0001 03 23\n";
        assert_eq!(unix(table), BTreeSet::from([22]));
    }

    #[test]
    fn connections_to_this_process_are_counted() {
        let me = Pid(i32::try_from(std::process::id()).expect("small"));
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.sock");
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").expect("binds"), UnixListener::bind(&path).expect("binds"));
        let before = Accepted::take().count([&me]).expect("ours");
        let _clients = (
            TcpStream::connect(tcp.local_addr().expect("bound")).expect("connects"),
            UnixStream::connect(&path).expect("connects"),
        );
        let _served = (tcp.accept().expect("accepts"), unix.accept().expect("accepts"));
        assert_eq!(Accepted::take().count([&me]), Some(before + 2));
    }
}
