//! Handshakes over a pipe in memory: who gets in, who does not, and for which reason.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey, random};
use muster_model::{Bundle, Timestamp, TrustDomain, X509Authority};
use muster_svid::x509::{CaParams, Issuer, LeafParams, Subject, X509Svid, draft_ca};
use muster_tls::{
    Acceptor, BundleSource, ClientStream, Connector, Identity, Peer, ServerStream, WallClock,
};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const START: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_hours(1);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// A trust domain: its authority and its clock.
struct World {
    domain: TrustDomain,
    key: PrivateKey,
    issuer: Issuer,
    now: Arc<AtomicI64>,
}

fn world(name: &str) -> World {
    let domain = domain(name);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let draft = draft_ca(
        &CaParams {
            trust_domain: &domain,
            subject: &Subject::default_ca(),
            public_key: key.public_key(),
            serial: random::serial(),
            ttl: 24 * HOUR,
        },
        Timestamp::from_unix_seconds(START),
    )
    .unwrap();
    let signature = key.sign_default(draft.tbs()).unwrap();
    World {
        issuer: Issuer::from_certificate(&draft.assemble(&signature)).unwrap(),
        domain,
        key,
        now: Arc::new(AtomicI64::new(START)),
    }
}

impl World {
    fn svid(&self, path: &str) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let draft = self
            .issuer
            .draft_leaf(
                &LeafParams {
                    spiffe_id: &self.domain.with_path(path).unwrap(),
                    public_key: key.public_key(),
                    dns_names: &[],
                    subject: None,
                    serial: random::serial(),
                    ttl: HOUR,
                },
                Timestamp::from_unix_seconds(START),
            )
            .unwrap();
        let signature = self.key.sign_default(draft.tbs()).unwrap();
        X509Svid::new(vec![draft.assemble(&signature)], &key).unwrap()
    }

    fn identity(&self, path: &str) -> Identity {
        Identity::new(&self.svid(path)).unwrap()
    }

    fn bundle(&self) -> Arc<Bundle> {
        Arc::new(Bundle {
            x509_authorities: vec![X509Authority {
                der: self.issuer.der().into(),
                expires_at: self.issuer.certificate().not_after,
                tainted: false,
            }],
            ..Bundle::empty(self.domain.clone())
        })
    }

    fn bundles(&self) -> Arc<dyn BundleSource> {
        let bundle = self.bundle();
        Arc::new(move |domain: &TrustDomain| {
            (bundle.trust_domain == *domain).then(|| bundle.clone())
        })
    }

    fn clock(&self) -> Arc<dyn WallClock> {
        let now = self.now.clone();
        Arc::new(move || Timestamp::from_unix_seconds(now.load(Ordering::Relaxed)))
    }

    fn acceptor(&self, identity: &Identity) -> Acceptor {
        Acceptor::new(identity.clone(), self.bundles(), self.clock()).unwrap()
    }

    fn connector(&self, identity: Identity) -> Connector {
        Connector::new(
            self.domain.server_id(),
            identity,
            self.bundles(),
            self.clock(),
        )
        .unwrap()
    }
}

type Ends = (
    io::Result<ServerStream<DuplexStream>>,
    io::Result<ClientStream<DuplexStream>>,
);

/// One handshake. The client then waits for a byte, because in TLS 1.3 it is done before the
/// server has judged its certificate.
async fn shake(acceptor: &Acceptor, connector: &Connector) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = acceptor.accept(near).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let client = async {
        let mut stream = connector.connect("server.internal", far).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(server, client)
}

fn reason(result: &io::Result<impl Sized>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let world = world("example.org");
    let svid = world.svid("/spire/agent/x");
    let identity = Identity::new(&svid).unwrap();
    let acceptor = world.acceptor(&world.identity("/spire/server"));
    let (server, client) = shake(&acceptor, &world.connector(identity)).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    let expected = Peer {
        spiffe_id: svid.spiffe_id,
        serial: svid.serial,
        not_after: svid.not_after,
    };
    assert_eq!(Peer::of_client(&server), Ok(Some(expected)));
    assert_eq!(
        Peer::of_server(&client).unwrap().unwrap().spiffe_id,
        world.domain.server_id()
    );
    let (_, tls) = server.get_ref();
    assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        tls.negotiated_key_exchange_group().unwrap().name(),
        rustls::NamedGroup::X25519MLKEM768
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_in_as_nobody() {
    let world = world("example.org");
    let acceptor = world.acceptor(&world.identity("/spire/server"));
    let (server, _client) = shake(&acceptor, &world.connector(Identity::none())).await;
    assert_eq!(Peer::of_client(&server.unwrap()), Ok(None));
}

/// X509V-08, X509V-09.
#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let (ours, theirs) = (world("example.org"), world("other.org"));
    let acceptor = ours.acceptor(&ours.identity("/spire/server"));
    let stranger = ours.connector(theirs.identity("/w"));
    let (server, client) = shake(&acceptor, &stranger).await;
    assert!(reason(&server).contains("NoBundle"), "{}", reason(&server));
    assert!(client.is_err());
    // The same name, another authority.
    let impostor = ours.connector(world("example.org").identity("/w"));
    let (server, _) = shake(&acceptor, &impostor).await;
    assert!(server.is_err());
}

/// X509V-07, at the time of the clock that was passed in.
#[tokio::test]
async fn expired_certificates_are_refused_on_both_sides() {
    let world = world("example.org");
    let acceptor = world.acceptor(&world.identity("/spire/server"));
    let connector = world.connector(world.identity("/w"));
    let (server, _) = shake(&acceptor, &connector).await;
    assert!(server.is_ok());
    world.now.store(START + 3601, Ordering::Relaxed);
    let (server, client) = shake(&acceptor, &connector).await;
    assert!(server.is_err());
    assert!(reason(&client).contains("Expired"), "{}", reason(&client));
    let fresh = Acceptor::new(
        world.identity("/spire/server"),
        world.bundles(),
        Arc::new(|| Timestamp::from_unix_seconds(START + 3601)),
    )
    .unwrap();
    let patient = Connector::new(
        world.domain.server_id(),
        world.identity("/w"),
        world.bundles(),
        Arc::new(|| Timestamp::from_unix_seconds(START)),
    )
    .unwrap();
    let (server, _) = shake(&fresh, &patient).await;
    assert!(reason(&server).contains("Expired"), "{}", reason(&server));
}

#[tokio::test]
async fn a_server_is_known_by_its_exact_id() {
    let world = world("example.org");
    let acceptor = world.acceptor(&world.identity("/spire/server2"));
    let (_, client) = shake(&acceptor, &world.connector(Identity::none())).await;
    assert!(
        reason(&client).contains("WrongServer"),
        "{}",
        reason(&client)
    );
}

/// Believes any authority, but not any name, and only who holds the key.
#[tokio::test]
async fn an_insecure_bootstrap_checks_the_name_alone() {
    let (ours, theirs) = (world("example.org"), world("example.org"));
    let connector = Connector::insecure_bootstrap(ours.domain.server_id(), ours.clock()).unwrap();
    let acceptor = theirs.acceptor(&theirs.identity("/spire/server"));
    let (_, client) = shake(&acceptor, &connector).await;
    assert!(client.is_ok());
    let acceptor = theirs.acceptor(&theirs.identity("/w"));
    let (_, client) = shake(&acceptor, &connector).await;
    assert!(
        reason(&client).contains("WrongServer"),
        "{}",
        reason(&client)
    );
}

#[tokio::test]
async fn the_next_handshake_shows_the_rotated_certificate() {
    let world = world("example.org");
    let identity = world.identity("/spire/server");
    let acceptor = world.acceptor(&identity);
    let connector = world.connector(Identity::none());
    let (_, before) = shake(&acceptor, &connector).await;
    let next = world.svid("/spire/server");
    identity.set(&next).unwrap();
    let (_, after) = shake(&acceptor, &connector).await;
    let before = Peer::of_server(&before.unwrap()).unwrap().unwrap();
    let after = Peer::of_server(&after.unwrap()).unwrap().unwrap();
    assert_ne!(before.serial, after.serial);
    assert_eq!(after.serial, next.serial);
}

#[tokio::test]
async fn a_server_without_an_identity_refuses() {
    let world = world("example.org");
    let acceptor = world.acceptor(&Identity::none());
    let (server, client) = shake(&acceptor, &world.connector(Identity::none())).await;
    assert!(server.is_err() && client.is_err());
}

/// X509V-11: a bundle that is withdrawn counts from the next handshake, with nothing to resume.
#[tokio::test]
async fn nothing_is_resumed_and_withdrawn_bundles_count_at_once() {
    let world = world("example.org");
    let bundle = Arc::new(Mutex::new(Some(world.bundle())));
    let source = {
        let bundle = bundle.clone();
        move |_: &TrustDomain| bundle.lock().unwrap().clone()
    };
    let acceptor = Acceptor::new(
        world.identity("/spire/server"),
        Arc::new(source),
        world.clock(),
    )
    .unwrap();
    let client = eager_client(&world);
    for _ in 0..3 {
        let (server, _) = shake_with(&acceptor, &client).await;
        let server = server.unwrap();
        assert_eq!(
            server.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
    *bundle.lock().unwrap() = None;
    let (server, _) = shake_with(&acceptor, &client).await;
    assert!(reason(&server).contains("NoBundle"), "{}", reason(&server));
}

/// A client of somebody else's making, which would resume if it could.
fn eager_client(world: &World) -> tokio_rustls::TlsConnector {
    let svid = world.svid("/w");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = svid
        .key
        .expose(muster_crypto::Purpose::TlsHandshake)
        .clone();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(believer::Believer))
        .with_client_auth_cert(
            svid.chain.iter().map(|c| c.clone().into()).collect(),
            rustls::pki_types::PrivatePkcs8KeyDer::from(key).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

async fn shake_with(acceptor: &Acceptor, client: &tokio_rustls::TlsConnector) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = acceptor.accept(near).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let client = async {
        let name = rustls::pki_types::ServerName::try_from("server.internal").unwrap();
        let mut stream = client.connect(name, far).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(server, client)
}

/// X509V-01: two URI names, from a client that any authority would have to be tricked into.
#[tokio::test]
async fn a_client_with_two_names_is_refused() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let world = world("example.org");
    let ca_key = KeyPair::generate().unwrap();
    let time = |seconds| {
        x509_parser::time::ASN1Time::from_timestamp(seconds)
            .unwrap()
            .to_datetime()
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (ca.not_before, ca.not_after) = (time(START - 60), time(START + 60));
    let root = ca.self_signed(&ca_key).unwrap();
    let bundle = Arc::new(Bundle {
        x509_authorities: vec![X509Authority {
            der: root.der().to_vec().into(),
            expires_at: Timestamp::from_unix_seconds(START + 60),
            tainted: false,
        }],
        ..Bundle::empty(world.domain.clone())
    });
    let acceptor = Acceptor::new(
        world.identity("/spire/server"),
        Arc::new(move |_: &TrustDomain| Some(bundle.clone())),
        world.clock(),
    )
    .unwrap();
    for (names, expected) in [
        (vec!["spiffe://example.org/a"], "accepted"),
        (
            vec!["spiffe://example.org/a", "spiffe://example.org/b"],
            "UriCount(2)",
        ),
        (vec![], "UriCount(0)"),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = names
            .iter()
            .map(|n| SanType::URI((*n).try_into().unwrap()))
            .collect();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (leaf.not_before, leaf.not_after) = (time(START - 60), time(START + 60));
        let leaf = leaf
            .signed_by(&key, &rcgen::Issuer::from_params(&ca, &ca_key))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(believer::Believer))
            .with_client_auth_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let client = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (server, _) = shake_with(&acceptor, &client).await;
        assert!(reason(&server).contains(expected), "{}", reason(&server));
    }
}

/// TLS 1.2 is allowed, below it nothing is.
#[tokio::test]
async fn tls_1_2_works() {
    let world = world("example.org");
    let acceptor = world.acceptor(&world.identity("/spire/server"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(believer::Believer))
        .with_no_client_auth();
    let client = tokio_rustls::TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let (server, _) = shake_with(&acceptor, &client).await;
        let server = server.unwrap();
        let (_, tls) = server.get_ref();
        assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// A server verifier that believes everything: the tests that use it look at the server only.
mod believer {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Believer;

    impl ServerCertVerifier for Believer {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
