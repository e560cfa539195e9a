//! Mutual TLS through `spiffe-rustls`, one new connection after another.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use spiffe::{SpiffeId, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, stdin};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Outcome;

type Failure = Box<dyn Error + Send + Sync>;

const GREETING: &[u8] = b"muster interop\n";
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
const DIAL_WITHIN: Duration = Duration::from_secs(240);
const PACE: Duration = Duration::from_millis(20);
const WANTED_SVIDS: usize = 3;
const WANTED_ISSUERS: usize = 2;
/// A dialer goes on for so long after it has seen enough, so that the listener has too.
const ENCORE: u32 = 50;

/// Counts handshakes, and whom they were with.
#[derive(Default)]
struct Tally {
    handshakes: u32,
    failures: Vec<String>,
    own: Party,
    peer: Party,
}

/// The distinct certificates of one side, and their issuers.
#[derive(Default)]
struct Party {
    serials: BTreeSet<String>,
    issuers: BTreeSet<Vec<u8>>,
}

impl Party {
    fn see(&mut self, der: &[u8]) -> Result<(), Failure> {
        let (_, certificate) = X509Certificate::from_der(der)?;
        self.serials.insert(certificate.raw_serial_as_string());
        for extension in certificate.extensions() {
            if let ParsedExtension::AuthorityKeyIdentifier(identifier) =
                extension.parsed_extension()
            {
                let key = identifier.key_identifier.as_ref().map(|key| key.0.to_vec());
                self.issuers.extend(key);
            }
        }
        Ok(())
    }

    fn enough(&self) -> bool {
        self.serials.len() >= WANTED_SVIDS && self.issuers.len() >= WANTED_ISSUERS
    }
}

impl Tally {
    fn record(&mut self, source: &X509Source, outcome: Result<CertificateDer<'static>, Failure>) {
        let seen = outcome.and_then(|peer| {
            self.peer.see(&peer)?;
            self.own.see(source.svid()?.leaf().as_bytes())
        });
        match seen {
            Ok(()) => self.handshakes += 1,
            Err(error) => self.failures.push(error.to_string()),
        }
    }

    fn enough(&self) -> bool {
        self.own.enough() && self.peer.enough()
    }

    fn summary(&self) -> Outcome {
        let text = format!(
            "{} handshakes, {} failed; own: {} SVIDs of {} authorities; peer: {} of {}",
            self.handshakes,
            self.failures.len(),
            self.own.serials.len(),
            self.own.issuers.len(),
            self.peer.serials.len(),
            self.peer.issuers.len(),
        );
        match self.failures.first() {
            Some(first) => Err(format!("{text}; first failure: {first}").into()),
            None if self.handshakes == 0 => Err("no handshake took place".into()),
            None if !self.enough() => Err(format!("{text}; too few rotations").into()),
            None => Ok(text),
        }
    }
}

/// Greets every peer until standard input ends.
pub async fn listen(endpoint: &str, peer: &SpiffeId) -> Outcome {
    let source = X509Source::builder().endpoint(endpoint).build().await?;
    let config = mtls_server(source.clone())
        .authorize(authorizer::exact([peer.clone()])?)
        .build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "{}",
        json!({"listening": listener.local_addr()?.to_string()})
    );

    let tally = Arc::new(Mutex::new(Tally::default()));
    let serve = async {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, source, tally) = (acceptor.clone(), source.clone(), tally.clone());
            tokio::spawn(async move {
                let outcome = greet(&acceptor, tcp).await;
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.record(&source, outcome);
            });
        }
    };
    let mut ignored = Vec::new();
    tokio::select! {
        () = serve => {}
        _ = async { stdin().read_to_end(&mut ignored).await } => {}
    }
    tally
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .summary()
}

async fn greet(acceptor: &TlsAcceptor, tcp: TcpStream) -> Result<CertificateDer<'static>, Failure> {
    let conversation = async {
        let mut tls = acceptor.accept(tcp).await?;
        tls.write_all(GREETING).await?;
        tls.shutdown().await?;
        leaf(tls.get_ref().1.peer_certificates())
    };
    timeout(CONNECTION_WITHIN, conversation).await?
}

/// Makes one new connection after another until both sides have rotated enough.
pub async fn dial(endpoint: &str, peer: &SpiffeId, address: &str) -> Outcome {
    let source = X509Source::builder().endpoint(endpoint).build().await?;
    let config = mtls_client(source.clone())
        .authorize(authorizer::exact([peer.clone()])?)
        .build()?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut tally = Tally::default();
    let mut pace = interval(PACE);
    let began = Instant::now();
    let mut left = ENCORE;
    while left > 0 && began.elapsed() < DIAL_WITHIN {
        pace.tick().await;
        tally.record(&source, call(&connector, address).await);
        left -= u32::from(tally.enough());
    }
    tally.summary()
}

/// One connection: only a greeting that arrives shows that the listener accepts us too.
async fn call(connector: &TlsConnector, address: &str) -> Result<CertificateDer<'static>, Failure> {
    let conversation = async {
        let tcp = TcpStream::connect(address).await?;
        // rustls wants a name; the verifier looks at the SPIFFE ID only.
        let mut tls = connector
            .connect(ServerName::try_from("localhost")?, tcp)
            .await?;
        let mut heard = Vec::new();
        tls.read_to_end(&mut heard).await?;
        if heard != GREETING {
            return Err(format!("the listener said {:?}", String::from_utf8_lossy(&heard)).into());
        }
        leaf(tls.get_ref().1.peer_certificates())
    };
    timeout(CONNECTION_WITHIN, conversation).await?
}

fn leaf(chain: Option<&[CertificateDer<'static>]>) -> Result<CertificateDer<'static>, Failure> {
    let leaf = chain
        .and_then(<[_]>::first)
        .ok_or("the peer sent no certificate")?;
    Ok(leaf.clone())
}
