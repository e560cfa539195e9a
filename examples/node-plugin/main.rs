//! A node attestor as a program of its own, both halves: a machine is who its certificate says, and
//! proves that it has the key (SPIRE's `x509pop`, with the same messages and selectors; keys on P-256).
//!
//! `muster-node` and `muster-server` start it as their configurations say (docs/plugins.md):
//!
//! ```toml
//! # node.toml
//! [join.plugin]
//! name = "x509pop"
//! command = ["/usr/local/bin/muster-plugin-x509pop", "node", "/etc/machine.crt", "/etc/machine.key"]
//!
//! # server.toml
//! [[node.plugin]]
//! name = "x509pop"
//! command = ["/usr/local/bin/muster-plugin-x509pop", "server", "/etc/machines-ca.crt"]
//! ```

mod node;
mod server;

use std::error::Error;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::muster::plugin::v1::node_attestor_server::NodeAttestorServer;
use muster_proto::muster::plugin::v1::server_node_attestor_server::ServerNodeAttestorServer;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// How long nonces are, in bytes.
const NONCE: usize = 32;

/// The node's first message: its certificate and those above it, DER, base64.
#[derive(Serialize, Deserialize)]
struct Payload {
    certificates: Vec<String>,
}

/// What the server asks. For keys of the other kind SPIRE has a member `rsa_signature`.
#[derive(Serialize, Deserialize)]
struct Challenge {
    ecdsa_signature: Option<Nonce>,
}

#[derive(Serialize, Deserialize)]
struct Nonce {
    nonce: String,
}

/// What the node answers: a nonce of its own, and a signature over the digest of both.
#[derive(Serialize, Deserialize)]
struct Answer {
    ecdsa_signature: Option<Signed>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    nonce: String,
    r: String,
    s: String,
}

/// The certificates in a PEM text, DER.
fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut found = Vec::new();
    for part in pem.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let (text, _) = part
            .split_once("-----END CERTIFICATE-----")
            .ok_or("a certificate without an end")?;
        found.push(STANDARD.decode(text.split_whitespace().collect::<String>())?);
    }
    if found.is_empty() {
        return Err("there is no certificate".into());
    }
    Ok(found)
}

/// The nonces that are signed. A nonce of each side: neither can have another's message signed.
fn both(challenge: &str, response: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let (challenge, response) = (STANDARD.decode(challenge)?, STANDARD.decode(response)?);
    if challenge.len() != NONCE || response.len() != NONCE {
        return Err(format!("a nonce has {NONCE} bytes").into());
    }
    Ok([challenge, response].concat())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::var_os("MUSTER_PLUGIN_SOCKET")
        .ok_or("MUSTER_PLUGIN_SOCKET is not set; muster-node and muster-server set it")?;
    // Who started us keeps our standard input open; it ends when that does, however it ends.
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = match arguments[..] {
        ["node", certificate, key] => Server::builder().add_service(NodeAttestorServer::new(
            node::Machine::read(certificate, key)?,
        )),
        ["server", ca] => Server::builder().add_service(ServerNodeAttestorServer::new(
            server::Authorities::read(ca)?,
        )),
        _ => return Err("say `node CERTIFICATE KEY` or `server CA`".into()),
    };
    let listener = UnixListener::bind(socket)?;
    server
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}
