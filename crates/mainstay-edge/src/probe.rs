//! Probes: readmits ejected endpoints, and watches all of them while no control plane does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::edge::Edge;
use crate::endpoint::Endpoint;
use crate::upstream::Group;

/// Pause between two rounds over ejected endpoints: what a client waits longer than an instance needs.
const ROUND: Duration = Duration::from_millis(100);
/// Pause between two rounds over all endpoints while no control plane is connected.
const WATCH: Duration = Duration::from_secs(1);
/// Pause between two looks at what endpoints answered.
const LOOK: Duration = Duration::from_secs(1);
/// Time for an answer to a probe.
const ANSWER: Duration = Duration::from_secs(1);
/// Time without a control plane before its last "not ready" is doubted: its restart takes about a second, and
/// meanwhile an endpoint that it drains must stay out.
const DOUBT: Duration = Duration::from_secs(10);

/// Probes for as long as the edge lives.
pub(crate) async fn run(edge: Arc<Edge>) {
    let mut alone_since: Option<Instant> = None;
    let mut watched = Instant::now();
    let mut looked = Instant::now();
    loop {
        tokio::time::sleep(ROUND).await;
        let now = Instant::now();
        alone_since = if edge.has_controller() { None } else { alone_since.or(Some(now)) };
        let is_watching = alone_since.is_some() && now.duration_since(watched) >= WATCH;
        if is_watching {
            watched = now;
        }
        let has_doubt = alone_since.is_some_and(|since| now.duration_since(since) >= DOUBT);
        let is_looking = now.duration_since(looked) >= LOOK;
        if is_looking {
            looked = now;
        }
        for group in edge.groups.all().values() {
            if is_looking {
                group.look_for_outliers();
            }
            for endpoint in group.endpoints().iter() {
                let is_out = endpoint.is_ejected() && endpoint.may_return(group.now_ms());
                let is_due = if endpoint.is_ready() { is_out || is_watching } else { is_watching && has_doubt };
                if is_due && !endpoint.is_probing.swap(true, Ordering::AcqRel) {
                    tokio::spawn(probe(Arc::clone(group), Arc::clone(endpoint), has_doubt));
                }
            }
        }
    }
}

async fn probe(group: Arc<Group>, endpoint: Arc<Endpoint>, has_doubt: bool) {
    let path = group.settings().health_path.clone();
    let outcome = tokio::time::timeout(ANSWER, ask(endpoint.address, path.as_deref())).await;
    match outcome {
        Ok(Health::Well) => group.readmit(&endpoint, has_doubt, "probe answered"),
        Ok(Health::Refused) if endpoint.is_in() => group.eject(&endpoint, "probe was refused"),
        Ok(Health::Unwell) if endpoint.is_in() => group.unanswered(&endpoint, "probes say it is not well"),
        Err(_) if endpoint.is_in() => group.unanswered(&endpoint, "probes time out"),
        Ok(Health::Refused | Health::Unwell) | Err(_) => {}
    }
    endpoint.is_probing.store(false, Ordering::Release);
}

enum Health {
    Well,
    /// It is there and says that it is not well, or speaks no HTTP.
    Unwell,
    /// Nobody listens.
    Refused,
}

async fn ask(address: SocketAddr, path: Option<&str>) -> Health {
    let Ok(mut socket) = TcpStream::connect(address).await else { return Health::Refused };
    let Some(path) = path else { return Health::Well };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: mainstay-edge\r\nConnection: close\r\n\r\n");
    if socket.write_all(request.as_bytes()).await.is_err() {
        return Health::Unwell;
    }
    // "HTTP/1.1 200": the status is all that is asked.
    let mut status = [0; 12];
    let is_read = socket.read_exact(&mut status).await.is_ok();
    if is_read && status.starts_with(b"HTTP/1.") && matches!(status[9], b'2' | b'3') {
        Health::Well
    } else {
        Health::Unwell
    }
}
