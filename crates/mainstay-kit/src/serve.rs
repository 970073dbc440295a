//! Two ports on 127.0.0.1: `PORT` for requests, `MANAGEMENT_PORT` for health and metrics.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::telemetry::{Level, log};

/// Time between "not ready" and the closed listener, so that whoever balances can look away first.
const LOOK_AWAY: Duration = Duration::from_millis(250);
/// Below mainstay's default drain of 30 s, so that we end by ourselves and not by SIGKILL.
const FINISH_WITHIN: Duration = Duration::from_secs(25);

/// Ports to listen on; 0 lets the kernel choose.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Requests.
    pub main: u16,
    /// Health and metrics. `None`: not served.
    pub management: Option<u16>,
}

/// Serves until the drain begins and requests in flight are finished.
///
/// **Errors**: a port cannot be opened.
pub async fn serve(ports: Ports, main: Router, management: Router, drain: Drain) -> io::Result<()> {
    let main_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.main)).await?;
    let main_port = main_listener.local_addr()?.port().to_string();
    let mut management_port = "none".to_owned();
    let management_task = match ports.management {
        None => None,
        Some(port) => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            management_port = listener.local_addr()?.port().to_string();
            // Ends with the process: health must answer "leaving" until the last request is done.
            Some(tokio::spawn(async move { axum::serve(listener, management).await }))
        }
    };
    let fields = [("port", main_port.as_str()), ("management_port", &management_port)];
    log(Level::Info, "ServiceStarted", &fields);
    let closing = drain.clone();
    let mut server = tokio::spawn(async move {
        axum::serve(main_listener, main)
            .with_graceful_shutdown(async move {
                closing.wait().await;
                tokio::time::sleep(LOOK_AWAY).await;
            })
            .await
    });
    tokio::select! {
        () = drain.wait() => {}
        ended = &mut server => return ended.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
    log(Level::Info, "DrainStarted", &[]);
    let result = match tokio::time::timeout(FINISH_WITHIN, &mut server).await {
        Ok(ended) => ended.unwrap_or_else(|error| Err(io::Error::other(error))),
        Err(_) => {
            log(Level::Warn, "DrainTimedOut", &[]);
            Ok(())
        }
    };
    if let Some(task) = management_task {
        task.abort();
    }
    log(Level::Info, "ServiceStopped", &[]);
    result
}
