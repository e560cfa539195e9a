//! The authorities in an operator's hand: prepared, activated, tainted, revoked.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Event, Record};
use muster_crypto::KeyType;
use muster_keys::DiskKeys;
use muster_model::TrustDomain;
use muster_plugin::keys::{KeyId, KeyManager as _};
use muster_proto::spire::api::server::debug::v1::GetInfoRequest;
use muster_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use muster_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use muster_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateWitAuthorityRequest, ActivateX509AuthorityRequest,
    AuthorityState, GetJwtAuthorityStateRequest, GetWitAuthorityStateRequest,
    GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest, PrepareWitAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeWitAuthorityRequest,
    RevokeX509AuthorityRequest, RevokeX509UpstreamAuthorityRequest, TaintJwtAuthorityRequest,
    TaintWitAuthorityRequest, TaintX509AuthorityRequest, TaintX509UpstreamAuthorityRequest,
};
use muster_proto::spire::api::server::svid::v1::MintX509svidRequest;
use muster_proto::spire::api::types;
use muster_rt::{Clock as _, SystemClock};
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::{Certificate, build_csr};
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use muster_tls::{Connector, Identity};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    X509,
    Jwt,
    Wit,
}

/// One kind of authority, by its RPCs.
struct Hand(Kind, LocalAuthorityClient<Channel>);

/// Active, prepared, old.
type States = [Option<AuthorityState>; 3];

macro_rules! states {
    ($client:expr, $call:ident, $request:ident) => {
        $client.$call($request {}).await.map(|answer| {
            let answer = answer.into_inner();
            [answer.active, answer.prepared, answer.old]
        })
    };
}

macro_rules! order {
    ($client:expr, $call:ident, $request:expr, $field:ident) => {
        $client
            .$call($request)
            .await
            .map(|answer| answer.into_inner().$field.unwrap())
    };
}

impl Hand {
    fn of(server: &ServerProcess, kind: Kind) -> Self {
        Self(kind, LocalAuthorityClient::new(server.channel()))
    }

    async fn states(&mut self) -> Result<States, Status> {
        match self.0 {
            Kind::X509 => states!(
                self.1,
                get_x509_authority_state,
                GetX509AuthorityStateRequest
            ),
            Kind::Jwt => states!(self.1, get_jwt_authority_state, GetJwtAuthorityStateRequest),
            Kind::Wit => states!(self.1, get_wit_authority_state, GetWitAuthorityStateRequest),
        }
    }

    /// The IDs of active, prepared and old.
    async fn ids(&mut self) -> [Option<String>; 3] {
        let states = self.states().await.unwrap();
        states.map(|state| state.map(|state| state.authority_id))
    }

    async fn active(&mut self) -> String {
        self.ids().await[0].clone().unwrap()
    }

    async fn prepare(&mut self) -> Result<AuthorityState, Status> {
        let client = &mut self.1;
        match self.0 {
            Kind::X509 => order!(
                client,
                prepare_x509_authority,
                PrepareX509AuthorityRequest {},
                prepared_authority
            ),
            Kind::Jwt => order!(
                client,
                prepare_jwt_authority,
                PrepareJwtAuthorityRequest {},
                prepared_authority
            ),
            Kind::Wit => order!(
                client,
                prepare_wit_authority,
                PrepareWitAuthorityRequest {},
                prepared_authority
            ),
        }
    }

    async fn activate(&mut self, id: &str) -> Result<AuthorityState, Status> {
        let (client, authority_id) = (&mut self.1, id.to_owned());
        match self.0 {
            Kind::X509 => order!(
                client,
                activate_x509_authority,
                ActivateX509AuthorityRequest { authority_id },
                activated_authority
            ),
            Kind::Jwt => order!(
                client,
                activate_jwt_authority,
                ActivateJwtAuthorityRequest { authority_id },
                activated_authority
            ),
            Kind::Wit => order!(
                client,
                activate_wit_authority,
                ActivateWitAuthorityRequest { authority_id },
                activated_authority
            ),
        }
    }

    async fn taint(&mut self, id: &str) -> Result<AuthorityState, Status> {
        let (client, authority_id) = (&mut self.1, id.to_owned());
        match self.0 {
            Kind::X509 => order!(
                client,
                taint_x509_authority,
                TaintX509AuthorityRequest { authority_id },
                tainted_authority
            ),
            Kind::Jwt => order!(
                client,
                taint_jwt_authority,
                TaintJwtAuthorityRequest { authority_id },
                tainted_authority
            ),
            Kind::Wit => order!(
                client,
                taint_wit_authority,
                TaintWitAuthorityRequest { authority_id },
                tainted_authority
            ),
        }
    }

    async fn revoke(&mut self, id: &str) -> Result<AuthorityState, Status> {
        let (client, authority_id) = (&mut self.1, id.to_owned());
        match self.0 {
            Kind::X509 => order!(
                client,
                revoke_x509_authority,
                RevokeX509AuthorityRequest { authority_id },
                revoked_authority
            ),
            Kind::Jwt => order!(
                client,
                revoke_jwt_authority,
                RevokeJwtAuthorityRequest { authority_id },
                revoked_authority
            ),
            Kind::Wit => order!(
                client,
                revoke_wit_authority,
                RevokeWitAuthorityRequest { authority_id },
                revoked_authority
            ),
        }
    }

    /// Prepares the next and lets it sign; returns the one before and the new one.
    async fn rotate(&mut self) -> (String, String) {
        let old = self.active().await;
        let new = self.prepare().await.unwrap().authority_id;
        self.activate(&new).await.unwrap();
        (old, new)
    }
}

/// The IDs of a kind's authorities in the bundle, the tainted ones marked.
fn in_bundle(kind: Kind, bundle: &types::Bundle) -> Vec<String> {
    let mark = |id: String, tainted: bool| if tainted { format!("{id}!") } else { id };
    match kind {
        Kind::X509 => {
            let roots = bundle.x509_authorities.iter();
            let id = |der: &[u8]| Certificate::parse(der).unwrap().subject_key_id_hex();
            roots
                .map(|root| mark(id(&root.asn1).unwrap(), root.tainted))
                .collect()
        }
        Kind::Jwt => {
            let keys = bundle.jwt_authorities.iter();
            keys.map(|key| mark(key.key_id.clone(), key.tainted))
                .collect()
        }
        Kind::Wit => {
            let keys = bundle.wit_authorities.iter();
            keys.map(|key| mark(key.key_id.clone(), key.tainted))
                .collect()
        }
    }
}

fn said<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// What SPIRE's messages call things.
struct Words {
    title: &'static str,
    key: &'static str,
    /// An authority that cannot be revoked because nobody knows it.
    unknown: String,
}

impl Words {
    fn of(kind: Kind) -> Self {
        let (title, key) = match kind {
            Kind::X509 => ("X.509", "root CA"),
            Kind::Jwt => ("JWT", "key"),
            Kind::Wit => ("WIT", "key"),
        };
        let unknown = if kind == Kind::X509 {
            "invalid authority ID: only Old local authority can be revoked".to_owned()
        } else {
            format!("invalid authority ID: no {title} authority found with provided authority ID")
        };
        Self {
            title,
            key,
            unknown,
        }
    }
}

fn invalid(text: &str) -> (Code, String) {
    (Code::InvalidArgument, text.to_owned())
}

fn early(text: impl Into<String>) -> (Code, String) {
    (Code::FailedPrecondition, text.into())
}

/// A whole rotation by hand, with each order that is out of place on the way.
async fn a_rotation_by_hand(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).with("[wit]\nenabled = true");
    let server = ServerProcess::start(SERVER, config).await;
    let mut hand = Hand::of(&server, kind);
    let words = Words::of(kind);

    let [active, prepared, old] = hand.states().await.unwrap();
    assert_eq!((prepared, old), (None, None));
    let first = active.unwrap();
    assert!(first.expires_at > 0 && first.upstream_authority_subject_key_id.is_empty());
    let first = first.authority_id;
    assert_eq!(in_bundle(kind, &server.bundle().await), [first.as_str()]);

    only_an_active_one(&mut hand, &words, &first).await;
    let (thought, second) = a_second_thought(&mut hand, &words).await;
    assert_eq!(
        in_bundle(kind, &server.bundle().await),
        [first.as_str(), &second]
    );
    assert_eq!(
        hand.ids().await,
        [Some(first.clone()), Some(second.clone()), None]
    );
    a_compromise(&server, &mut hand, &words, (&first, &second)).await;

    let config = server.config().clone();
    assert!(server.stop().await.success());
    let who_and_what: Vec<_> = records(&config)
        .await
        .into_iter()
        .filter(|record| record.actor.class == "local")
        .map(|record| (record.event, record.subject))
        .collect();
    assert_eq!(
        who_and_what,
        [
            (Event::AuthorityPrepared, thought.clone()),
            (Event::AuthorityPrepared, second.clone()),
            (Event::AuthorityTainted, thought.clone()),
            (Event::AuthorityRevoked, thought),
            (Event::AuthorityActivated, second),
            (Event::AuthorityTainted, first.clone()),
            (Event::AuthorityRevoked, first),
        ]
    );
}

/// Nothing is prepared, nothing is old.
async fn only_an_active_one(hand: &mut Hand, words: &Words, first: &str) {
    assert_eq!(
        said(hand.activate("").await),
        invalid("no authority ID provided")
    );
    for id in ["nobody", first] {
        assert_eq!(
            said(hand.activate(id).await),
            invalid("unexpected authority ID")
        );
    }
    assert_eq!(
        said(hand.taint("").await),
        invalid("no authority ID provided")
    );
    assert_eq!(
        said(hand.taint("nobody").await),
        invalid("unexpected authority ID")
    );
    assert_eq!(
        said(hand.taint(first).await),
        invalid("unable to taint current local authority")
    );
    assert_eq!(
        said(hand.revoke("").await),
        invalid("invalid authority ID: no authority ID provided")
    );
    assert_eq!(said(hand.revoke("nobody").await), invalid(&words.unknown));
    assert_eq!(
        said(hand.revoke(first).await),
        invalid("invalid authority ID: unable to use current authority")
    );
}

/// The first one that was prepared never signs, and can be removed. Returns it and the next.
async fn a_second_thought(hand: &mut Hand, words: &Words) -> (String, String) {
    let thought = hand.prepare().await.unwrap().authority_id;
    assert_eq!(
        said(hand.taint(&thought).await),
        invalid(
            "only Old local authorities can be tainted: unsupported local authority status: PREPARED"
        )
    );
    let at_once = if hand.0 == Kind::X509 {
        words.unknown.as_str()
    } else {
        "invalid authority ID: unable to use a prepared key"
    };
    assert_eq!(said(hand.revoke(&thought).await), invalid(at_once));
    let second = hand.prepare().await.unwrap().authority_id;
    assert_eq!(
        said(hand.activate(&thought).await),
        invalid("unexpected authority ID")
    );
    hand.taint(&thought).await.unwrap();
    hand.revoke(&thought).await.unwrap();
    (thought, second)
}

/// The second one signs, the first one is tainted and revoked.
async fn a_compromise(
    server: &ServerProcess,
    hand: &mut Hand,
    words: &Words,
    (first, second): (&str, &str),
) {
    let (kind, title, key) = (hand.0, words.title, words.key);
    let named = |id: &str| Some(id.to_owned());
    let activated = hand.activate(second).await.unwrap();
    assert_eq!(activated.authority_id, second);
    assert_eq!(hand.ids().await, [named(second), None, named(first)]);
    assert_eq!(
        said(hand.activate(first).await),
        early(
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
        )
    );
    assert_eq!(
        said(hand.revoke(first).await),
        early(format!(
            "failed to revoke {title} authority: it is not possible to revoke an untainted {key}"
        ))
    );

    let before = server.bundle().await.sequence_number;
    let tainted = hand.taint(first).await.unwrap();
    assert_eq!(tainted.authority_id, first);
    let bundle = server.bundle().await;
    assert_eq!(bundle.sequence_number, before + 1, "BND-03");
    assert_eq!(
        in_bundle(kind, &bundle),
        [format!("{first}!"), second.to_owned()]
    );
    assert_eq!(
        said(hand.taint(first).await),
        early(format!(
            "failed to taint {title} authority: {key} is already tainted"
        ))
    );
    hand.revoke(first).await.unwrap();
    assert_eq!(in_bundle(kind, &server.bundle().await), [second]);
    assert_eq!(hand.ids().await, [named(second), None, None]);
    assert_eq!(said(hand.revoke(first).await), invalid(&words.unknown));
}

async fn records(config: &ServerConfig) -> Vec<Record> {
    let store = SqliteStore::open(config.dir.join("server/roll.sqlite")).unwrap();
    let rows = store.audit_after(0, 1000).await.unwrap();
    rows.into_iter().map(|(_, record)| record).collect()
}

#[tokio::test]
async fn an_x509_rotation_by_hand() {
    a_rotation_by_hand(Kind::X509).await;
}

#[tokio::test]
async fn a_jwt_rotation_by_hand() {
    a_rotation_by_hand(Kind::Jwt).await;
}

/// WIT-02: SPIRE serves none of these yet; ours does where the profile is on.
#[tokio::test]
async fn a_wit_rotation_by_hand() {
    a_rotation_by_hand(Kind::Wit).await;
}

#[tokio::test]
async fn what_the_server_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut wit = Hand::of(&server, Kind::Wit);
    assert_eq!(said(wit.states().await).0, Code::Unimplemented);
    assert_eq!(said(wit.prepare().await).0, Code::Unimplemented);
    assert_eq!(said(wit.activate("x").await).0, Code::Unimplemented);
    assert_eq!(said(wit.taint("x").await).0, Code::Unimplemented);
    assert_eq!(said(wit.revoke("x").await).0, Code::Unimplemented);

    let mut client = LocalAuthorityClient::new(server.channel());
    let without = (
        Code::FailedPrecondition,
        "upstream authority is not configured".to_owned(),
    );
    let request = TaintX509UpstreamAuthorityRequest {
        subject_key_id: "ab".into(),
    };
    assert_eq!(
        said(client.taint_x509_upstream_authority(request).await),
        without
    );
    let request = RevokeX509UpstreamAuthorityRequest {
        subject_key_id: "ab".into(),
    };
    assert_eq!(
        said(client.revoke_x509_upstream_authority(request).await),
        without
    );

    // Not everybody is an operator.
    let (bundle, token) = (server.bundle().await, server.join_token().await);
    let node = TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap();
    let mut client = LocalAuthorityClient::new(node.channel().await);
    let refused = client
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await;
    assert_eq!(said(refused).0, Code::PermissionDenied);
}

/// The authority that signed what the server shows in handshakes, and what it signs now.
async fn signers(server: &ServerProcess) -> String {
    let key = muster_crypto::PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = muster_model::SpiffeId::parse("spiffe://example.org/x").unwrap();
    let csr = build_csr(&key, Some(&id)).unwrap();
    let request = MintX509svidRequest {
        csr: csr.into(),
        ttl: 60,
    };
    let answer = server.svids().mint_x509svid(request).await.unwrap();
    let svid = answer.into_inner().svid.unwrap();
    let leaf = Certificate::parse(svid.cert_chain.first().unwrap()).unwrap();
    muster_crypto::digest::hex(&leaf.authority_key_id.unwrap())
}

/// A taint is in the bundle for good, and what was ordered stays ordered, also after a kill.
#[tokio::test]
async fn orders_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let (old, new) = Hand::of(&server, Kind::X509).rotate().await;
    let (old_jwt, new_jwt) = Hand::of(&server, Kind::Jwt).rotate().await;
    Hand::of(&server, Kind::X509).taint(&old).await.unwrap();
    Hand::of(&server, Kind::Jwt).taint(&old_jwt).await.unwrap();
    server.kill();

    let mut server = ServerProcess::start(SERVER, server.config().clone()).await;
    let bundle = server.bundle().await;
    assert_eq!(
        in_bundle(Kind::X509, &bundle),
        [format!("{old}!"), new.clone()]
    );
    assert_eq!(
        in_bundle(Kind::Jwt, &bundle),
        [format!("{old_jwt}!"), new_jwt]
    );
    let mut hand = Hand::of(&server, Kind::X509);
    assert_eq!(
        hand.ids().await,
        [Some(new.clone()), None, Some(old.clone())]
    );
    assert_eq!(signers(&server).await, new);
    hand.revoke(&old).await.unwrap();
    let third = hand.prepare().await.unwrap().authority_id;
    server.kill();

    let server = ServerProcess::start(SERVER, server.config().clone()).await;
    let mut hand = Hand::of(&server, Kind::X509);
    assert_eq!(hand.ids().await, [Some(new), Some(third.clone()), None]);
    hand.activate(&third).await.unwrap();
    assert_eq!(signers(&server).await, third);
}

/// The server shows another SVID at once: whoever has the bundle without the old root reaches it.
#[tokio::test]
async fn the_servers_own_svid_follows() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut hand = Hand::of(&server, Kind::X509);
    let (old, _) = hand.rotate().await;
    let before = server.bundle().await;
    hand.taint(&old).await.unwrap();
    hand.revoke(&old).await.unwrap();
    let after = server.bundle().await;
    assert_eq!(after.x509_authorities.len(), 1);
    // The task of the server's SVID was rung; a handshake fails until it has signed.
    let shown = async {
        while !trusts_the_server(&server, &after).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), shown)
        .await
        .unwrap();
    assert!(
        !trusts_the_server(&server, &only_old(&before, &old)).await,
        "the old root does not verify the server any more"
    );
}

/// Whether a client with this bundle believes that the server is the server.
async fn trusts_the_server(server: &ServerProcess, bundle: &types::Bundle) -> bool {
    let expiry = |der: &[u8]| Certificate::parse(der).ok().map(|c| c.not_after);
    let bundle = Arc::new(muster_wire::bundle::read(bundle, expiry).unwrap());
    let clock = SystemClock::new();
    let server_id = bundle.trust_domain.server_id();
    let connector = Connector::new(
        server_id,
        Identity::none(),
        Arc::new(move |_: &TrustDomain| Some(Arc::clone(&bundle))),
        Arc::new(move || clock.now().wall),
    )
    .unwrap();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    connector.connect("server", stream).await.is_ok()
}

/// SPIRE's debug API says what the server shows, and by whom it is signed.
#[tokio::test]
async fn the_server_says_how_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut client = DebugClient::new(server.channel());
    let info = client.get_info(GetInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    let ids: Vec<_> = info
        .svid_chain
        .iter()
        .map(|cert| cert.id.clone().unwrap().path)
        .collect();
    assert_eq!(ids, ["/spire/server", ""]);
    assert!(info.svid_chain.iter().all(|cert| cert.expires_at > 0));
    let counts = (
        info.agents_count,
        info.entries_count,
        info.federated_bundles_count,
    );
    assert_eq!(counts, (0, 0, 1));
}

fn only_old(bundle: &types::Bundle, old: &str) -> types::Bundle {
    let mut bundle = bundle.clone();
    bundle.x509_authorities.retain(|root| {
        let id = Certificate::parse(&root.asn1).unwrap().subject_key_id_hex();
        id.as_deref() == Some(old)
    });
    bundle
}

/// Killed after the key of the next authority was made and before its root was written, in each
/// standing that the slot's authority may have.
#[tokio::test]
async fn half_a_preparation_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut hand = Hand::of(&server, Kind::X509);
    let first = hand.active().await;
    let lost = hand.prepare().await.unwrap().authority_id;
    server.kill();
    replace_key(server.config(), "x509-CA-B").await;

    let mut server = ServerProcess::start(SERVER, server.config().clone()).await;
    let mut hand = Hand::of(&server, Kind::X509);
    assert_eq!(
        hand.ids().await,
        [Some(first.clone()), None, None],
        "nobody signs with a key that is not the root's"
    );
    // What was half made can be cleared away.
    hand.taint(&lost).await.unwrap();
    hand.revoke(&lost).await.unwrap();
    let (_, second) = hand.rotate().await;
    assert_eq!(signers(&server).await, second);
    server.kill();
    replace_key(server.config(), "x509-CA-A").await;

    let mut server = ServerProcess::start(SERVER, server.config().clone()).await;
    let mut hand = Hand::of(&server, Kind::X509);
    let still = [Some(second.clone()), None, Some(first.clone())];
    assert_eq!(hand.ids().await, still, "what retires needs no key");
    hand.taint(&first).await.unwrap();
    hand.revoke(&first).await.unwrap();

    // The key of the one that signs is lost: another takes its place, and it can be tainted.
    server.kill();
    replace_key(server.config(), "x509-CA-B").await;
    let server = ServerProcess::start(SERVER, server.config().clone()).await;
    let mut hand = Hand::of(&server, Kind::X509);
    let [active, _, old] = hand.ids().await;
    assert_eq!(old.as_ref(), Some(&second));
    assert_eq!(Some(signers(&server).await), active);
    hand.taint(&second).await.unwrap();
    hand.revoke(&second).await.unwrap();
    assert_eq!(
        in_bundle(Kind::X509, &server.bundle().await),
        [active.unwrap()]
    );
}

async fn replace_key(config: &ServerConfig, id: &str) {
    let keys = DiskKeys::open(&config.dir.join("server/keys.json"))
        .await
        .unwrap();
    let id = KeyId::parse(id).unwrap();
    keys.generate(&id, KeyType::EcP256).await.unwrap();
}
