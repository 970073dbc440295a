//! A bare Pingora proxy with TLS, built as the edge is: what `bench/edge` holds the edge against.
//!
//! `bare LISTEN UPSTREAM CERTIFICATE KEY`: addresses with ports, files in PEM. One thread, no log, no policy.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, certificate, key] = args.as_slice() else {
        return Err("usage: bare LISTEN UPSTREAM CERTIFICATE KEY".into());
    };
    // As the edge has it: no authorities, upstreams are plain HTTP.
    let conf = ServerConf { ca_file: Some("/dev/null".to_owned()), threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), Bare(upstream.parse()?));
    service.add_tls(listen, certificate, key)?;
    server.add_service(service);
    server.run_forever()
}
