//! A certificate authority that speaks ACME: Let's Encrypt's test server, and the DNS that it asks.

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use mainstay_edge::acme::Ask;
use mainstay_edge::ca::local_ca;
use mainstay_stack::tls::Challenge;
use tokio::net::TcpStream;

use super::{Edge, eventually, now};

/// Names that lead to this machine by the authority's DNS.
pub(crate) const NAMES: [&str; 2] = ["shop.example.test", "www.shop.example.test"];
/// Name and key of an account elsewhere.
pub(crate) const EXTERNAL: (&str, &str) = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");

pub(crate) struct Pebble {
    folder: tempfile::TempDir,
    port: u16,
    dns_port: u16,
    children: Vec<Child>,
}

fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("address").port()
}

fn run(program: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Child {
    let mut command = Command::new(program);
    change(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; bin/test installs it"))
}

impl Pebble {
    /// One that looks for proofs at this edge.
    pub(crate) async fn start(edge: &Edge, needs_external_account: bool) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let made = local_ca(&folder.path().join("ca"), &["localhost".to_owned()], now()).expect("certificate");
        std::fs::write(folder.path().join("cert.pem"), &made.certificate.chain_pem).expect("writes");
        std::fs::write(folder.path().join("key.pem"), made.certificate.key_pem.expose()).expect("writes");
        let (port, management) = (free(), free());
        let dns_port = UdpSocket::bind("127.0.0.1:0").expect("binds").local_addr().expect("address").port();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": at("cert.pem"),
            "privateKey": at("key.pem"),
            "httpPort": edge.http.port(),
            "tlsPort": edge.https.port(),
            "externalAccountBindingRequired": needs_external_account,
            "externalAccountMACKeys": { EXTERNAL.0: EXTERNAL.1 },
            "certificateValidityPeriod": 600,
        }});
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
        let mut pebble = Self { folder, port, dns_port, children: Vec::new() };
        let dns = run("pebble-challtestsrv", |command| {
            let dns = format!("127.0.0.1:{dns_port}");
            command.args(["-dns01", &dns, "-http01", "", "-https01", "", "-tlsalpn01", ""]).args([
                "-management",
                &format!("127.0.0.1:{}", free()),
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
            ])
        });
        pebble.children.push(dns);
        pebble.open().await;
        pebble
    }

    async fn open(&mut self) {
        let (config, dns) = (self.folder.path().join("config.json"), format!("127.0.0.1:{}", self.dns_port));
        let child = run("pebble", |command| {
            command.arg("-config").arg(config).args(["-dnsserver", &dns]).env("PEBBLE_VA_NOSLEEP", "1")
        });
        self.children.push(child);
        eventually("the authority", async || TcpStream::connect(("127.0.0.1", self.port)).await.ok()).await;
    }

    /// As a machine that is down.
    pub(crate) fn stop(&mut self) {
        let mut child = self.children.pop().expect("runs");
        child.kill().expect("kills");
        child.wait().expect("ends");
    }

    /// It comes back, and knows nobody.
    pub(crate) async fn start_again(&mut self) {
        self.open().await;
    }

    pub(crate) fn accounts(&self) -> PathBuf {
        self.folder.path().join("accounts")
    }

    pub(crate) fn ask(&self, challenge: Challenge) -> Ask {
        std::fs::create_dir_all(self.accounts()).expect("folder");
        Ask {
            directory: format!("https://localhost:{}/dir", self.port),
            email: Some("ops@example.com".to_owned()),
            roots: Some(self.folder.path().join("ca/ca.pem")),
            external_account: None,
            accounts: self.accounts(),
            names: NAMES.map(str::to_owned).to_vec(),
            challenge,
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
