//! Knocking at the public doors: a connection is opened, found accepted or refused, and closed again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::{End, History, Operation};

/// Pause between two knocks at one door: a gap of twice this is not missed, and a few seconds of knocks fit into
/// the backlog of 4096.
const PACE: Duration = Duration::from_millis(10);
/// A connection that waits is accepted by the kernel at once; one that is not within this is as good as refused.
const CONNECT: Duration = Duration::from_secs(5);

/// Knocks at each port until `stop`.
pub(crate) fn start(ports: &[u16], history: &History, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let knocker = |(client, port): (u32, &u16)| tokio::spawn(run(client, *port, history.clone(), stop.clone()));
    (0..).zip(ports).map(knocker).collect()
}

async fn run(client: u32, port: u16, history: History, stop: watch::Receiver<bool>) {
    let mut number = 0;
    while !*stop.borrow() {
        number += 1;
        let began = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let end = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => End::Ok,
            Ok(Err(error)) => {
                history.error(&format!("port {port}: {error}"));
                if error.kind() == io::ErrorKind::ConnectionRefused { End::Refused } else { End::Failed }
            }
            Err(_) => {
                history.error(&format!("port {port}: not accepted within {} s", CONNECT.as_secs()));
                End::Refused
            }
        };
        history.add(Operation { client, number, opened: began, began, ended: Instant::now(), end });
        tokio::time::sleep(PACE).await;
    }
}
