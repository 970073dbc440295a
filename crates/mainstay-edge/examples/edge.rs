//! Runs an edge by hand: `cargo run -p mainstay-edge --example edge -- FOLDER PORT UPSTREAM_ADDRESS…`.
//!
//! Serves `https://localhost:PORT/api/*` from the addresses; `FOLDER/ca/ca.pem` is for `curl --cacert`. For a look at
//! its memory and for load by hand; a stack runs it through keep.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;

use mainstay_edge::protocol::{Endpoint, PROTOCOL_VERSION, Policy, Route, Target, ToEdge, Upstream};
use mainstay_edge::{HTTPS_LISTENER, Options, SOCKET};
use mainstay_supervisor::wire;
use mainstay_types::{Generation, Timestamp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments.next().ok_or("FOLDER is missing")?.into();
    let port: u16 = arguments.next().ok_or("PORT is missing")?.parse()?;
    let addresses: Vec<String> = arguments.collect();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = Timestamp::from_micros(i64::try_from(since.as_micros())?);
    let certificate = mainstay_edge::ca::local_ca(&folder.join("ca"), &["localhost".to_owned()], now)?;
    let policy = Policy {
        schema: PROTOCOL_VERSION,
        generation: Generation(u64::try_from(now.as_micros())?),
        hosts: vec!["localhost".to_owned()],
        certificates: vec![certificate.certificate],
        challenges: Default::default(),
        https_port: port,
        limits: Vec::new(),
        admission: Default::default(),
        connections_per_ip: None,
        least_tls: Default::default(),
        issuers: BTreeMap::new(),
        client_ca: None,
        routes: vec![Route::new("/api/*", Target::Upstream { name: "backend".to_owned() }, 30_000)],
        upstreams: BTreeMap::from([(
            "backend".to_owned(),
            Upstream { hold_ms: 10_000, hold_requests: 1024, ..Upstream::default() },
        )]),
        access_log: folder.join("access.log"),
    };
    let endpoints = addresses.iter().enumerate();
    let endpoints = endpoints.map(|(nth, address)| Endpoint {
        id: format!("backend-{nth}"),
        address: address.clone(),
        is_ready: true,
        release: 0,
    });
    let upstreams = BTreeMap::from([("backend".to_owned(), endpoints.collect())]);
    let socket = folder.join("run").join(SOCKET);
    let control = std::thread::spawn(move || {
        let mut stream = loop {
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        };
        wire::write(&mut stream, &ToEdge::Policy { policy: Box::new(policy) })?;
        wire::write(&mut stream, &ToEdge::Endpoints { upstreams, shares: BTreeMap::new() })?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    let listeners = BTreeMap::from([(HTTPS_LISTENER.to_owned(), TcpListener::bind(("127.0.0.1", port))?)]);
    mainstay_edge::run(Options { runtime: folder.join("run"), state: folder.join("state"), listeners })?;
    drop(control);
    Ok(())
}
