//! Questions to instances: HTTP or TCP, each with a deadline.

use std::net::Ipv4Addr;
use std::time::Duration;

use mainstay_decide::health::ProbeResult;
use mainstay_stack::model::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// As much of an answer as a status line and a hint of its body need.
const MAX_HEAD: usize = 1024;

/// Asks an instance on its port.
pub(crate) async fn probe(probe: &Probe, port: Option<u16>, timeout: Duration) -> ProbeResult {
    match (probe, port) {
        (Probe::Process, _) => ProbeResult::Good { text: "it runs".to_owned() },
        (_, None) => ProbeResult::Bad { text: "it has no port to ask".to_owned() },
        (Probe::Tcp, Some(port)) => match tokio::time::timeout(timeout, connect(port)).await {
            Ok(Ok(_)) => ProbeResult::Good { text: format!("port {port} accepts") },
            Ok(Err(error)) => refused_or_bad(&format!("port {port}"), &error),
            Err(_) => ProbeResult::Bad { text: format!("port {port}: no answer within {} ms", timeout.as_millis()) },
        },
        (Probe::Http { path, .. }, Some(port)) => {
            let what = format!("GET {path} on port {port}");
            match tokio::time::timeout(timeout, get(port, path)).await {
                Ok(Ok(status)) if (200..400).contains(&status) => {
                    ProbeResult::Good { text: format!("{what}: {status}") }
                }
                // 408, 425 and 429 are about the moment, all others of their kind about the question.
                Ok(Ok(status)) if (400..500).contains(&status) && ![408, 425, 429].contains(&status) => {
                    ProbeResult::Wrong { text: format!("{what}: {status}") }
                }
                Ok(Ok(status)) => ProbeResult::Bad { text: format!("{what}: {status}") },
                Ok(Err(error)) => refused_or_bad(&what, &error),
                Err(_) => ProbeResult::Bad { text: format!("{what}: no answer within {} ms", timeout.as_millis()) },
            }
        }
    }
}

fn refused_or_bad(what: &str, error: &std::io::Error) -> ProbeResult {
    let text = format!("{what}: {error}");
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        ProbeResult::Refused { text }
    } else {
        ProbeResult::Bad { text }
    }
}

async fn connect(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}

/// Status of `GET path`. One request on a connection of its own needs no HTTP library: only the status line is read.
async fn get(port: u16, path: &str) -> std::io::Result<u16> {
    let mut stream = connect(port).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: mainstay-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(MAX_HEAD);
    let mut buffer = [0; MAX_HEAD];
    while head.len() < MAX_HEAD && !head.contains(&b'\n') {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..count]);
    }
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|s| s.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not HTTP: {:?}", line.trim())))
}
