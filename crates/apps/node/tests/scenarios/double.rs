//! A server's double: real TLS, real gRPC and real signatures, and it does what it is told,
//! lies included.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, Entry, EntryId, Revision, Selector, SpiffeId, Timestamp, TrustDomain};
use muster_policy::NodeRefusal;
use muster_proto::muster::node::v1::derived_svid_server::DerivedSvidServer;
use muster_proto::muster::node::v1::node_attestations_server::NodeAttestationsServer;
use muster_proto::muster::node::v1::node_refusals_server::NodeRefusalsServer;
use muster_proto::muster::node::v1::node_tasks_server::NodeTasksServer;
use muster_proto::muster::node::v1::node_view_server::NodeViewServer;
use muster_proto::muster::node::v1::{AttestedWorkload, RefusedProcess};
use muster_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use muster_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use muster_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use muster_roster::ViewDigest;
use muster_rt::{Clock, SystemClock};
use muster_svid::x509::X509Svid;
use muster_tls::{Acceptor, Identity};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;

use crate::authority::{Ca, JwtKey};
use crate::connection;
use crate::rig::within;
use crate::services::Services;
use crate::wit_double::WitKey;

pub(crate) const TOKEN: &str = "11111111-2222-3333-4444-555555555555";

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    trust_domain().with_path(path).unwrap()
}

/// What the double does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// SVIDs for another key than the one in the request.
    OtherKey,
    /// SVIDs of another authority than the one in the bundle.
    OtherAuthority,
    /// SVIDs that name somebody else.
    OtherIdentity,
    /// SVIDs that have expired.
    Expired,
    /// SVIDs of a trust domain that has nothing to do with it.
    OtherTrustDomain,
    /// An entry that is another node's.
    OtherNodesEntry,
    /// The own bundle is gone.
    BundleRemoved,
    /// An entry of a foreign trust domain.
    ForeignEntry,
    /// A bundle without authorities.
    EmptyBundle,
    /// A revision that goes back.
    RevisionBack,
    /// A digest of something else.
    Digest,
}

/// What the double knows and remembers.
pub(crate) struct Mind {
    pub(crate) cas: Vec<Ca>,
    pub(crate) jwt_keys: Vec<JwtKey>,
    /// Empty: the profile is off.
    pub(crate) wit_keys: Vec<WitKey>,
    pub(crate) wit_ttl: Duration,
    pub(crate) foreign: BTreeMap<TrustDomain, Bundle>,
    pub(crate) entries: BTreeMap<EntryId, Entry>,
    pub(crate) revision: u64,
    pub(crate) sequence: u64,
    /// Tokens that are still good.
    pub(crate) tokens: Vec<String>,
    /// Tokens that were used, and the keys that used them.
    pub(crate) joined: Vec<(String, Vec<u8>)>,
    /// What becomes of nodes that prove themselves.
    pub(crate) proof: crate::proof::Verdict,
    /// How long after its SVID has expired a node may renew it; of use from the next start on.
    pub(crate) grace: Duration,
    pub(crate) refusal: Option<NodeRefusal>,
    pub(crate) lie: Option<Lie>,
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) node_ttl: Duration,
    /// How old the first SVID of a node is when it gets it.
    pub(crate) first_age: Duration,
    /// RPCs that came, by name.
    pub(crate) heard: watch::Sender<Vec<&'static str>>,
    /// Revisions with which streams were opened.
    pub(crate) resumed: Vec<u64>,
    /// Public keys for which the node asked, SubjectPublicKeyInfo.
    pub(crate) node_keys: Vec<Vec<u8>>,
    /// The node's tasks, and what it said of their ends.
    pub(crate) tasks: crate::task_double::Tasks,
    /// Whom the node refused.
    pub(crate) refused: Vec<RefusedProcess>,
    /// Whom the node served.
    pub(crate) attested: Vec<AttestedWorkload>,
    /// The node's rules, and what was signed by them.
    pub(crate) rules: crate::rule_double::Rules,
    /// Where copies of the node's directory go, one at each RPC about the node itself.
    pub(crate) photographs: Option<(PathBuf, PathBuf)>,
}

impl Mind {
    pub(crate) fn bundle(&self) -> Bundle {
        let empty = self.lie == Some(Lie::EmptyBundle);
        Bundle {
            x509_authorities: self
                .cas
                .iter()
                .filter(|_| !empty)
                .map(|ca| ca.authority.clone())
                .collect(),
            jwt_authorities: self.jwt_keys.iter().map(JwtKey::authority).collect(),
            wit_authorities: self
                .wit_keys
                .iter()
                .map(|key| key.authority.clone())
                .collect(),
            sequence_number: self.sequence,
            ..Bundle::empty(trust_domain())
        }
    }

    pub(crate) fn digest(&self) -> ViewDigest {
        let mut digest = ViewDigest::default();
        self.entries.values().for_each(|e| digest.add_entry(e));
        self.rules.all.values().for_each(|r| digest.add_rule(r));
        let withheld = self.rules.withheld.iter();
        withheld.for_each(|name| digest.add_withheld(name));
        digest.add_bundle(&self.bundle());
        self.foreign.values().for_each(|b| digest.add_bundle(b));
        digest
    }

    /// As if the node were killed now: what is on its disk at this moment.
    pub(crate) fn photograph(&mut self, what: &'static str) {
        if let Some((from, to)) = &self.photographs {
            let number = std::fs::read_dir(to).unwrap().count();
            copy_directory(from, &to.join(format!("{number:02}-{what}")));
        }
        self.hear(what);
    }

    pub(crate) fn hear(&self, what: &'static str) {
        self.heard.send_modify(|heard| heard.push(what));
    }
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // A temporary file may be renamed under our eyes: that is what a kill would leave too.
        let _renamed = std::fs::copy(entry.path(), to.join(entry.file_name())).is_err();
    }
}

/// The double.
pub(crate) struct Double {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

pub(crate) struct Shared {
    mind: Mutex<Mind>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) clock: SystemClock,
}

impl Shared {
    pub(crate) fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }
}

impl Double {
    pub(crate) async fn start() -> Self {
        let clock = SystemClock::new();
        let now = clock.now().wall;
        let mind = Mind {
            cas: vec![Ca::new(&trust_domain(), now)],
            jwt_keys: vec![JwtKey::new()],
            wit_keys: Vec::new(),
            wit_ttl: Duration::from_hours(1),
            foreign: BTreeMap::new(),
            entries: BTreeMap::new(),
            revision: 1,
            sequence: 1,
            tokens: vec![TOKEN.to_owned()],
            joined: Vec::new(),
            proof: crate::proof::Verdict::default(),
            grace: Duration::ZERO,
            refusal: None,
            lie: None,
            x509_ttl: Duration::from_hours(1),
            jwt_ttl: Duration::from_mins(5),
            node_ttl: Duration::from_hours(1),
            first_age: Duration::ZERO,
            heard: watch::Sender::default(),
            resumed: Vec::new(),
            node_keys: Vec::new(),
            tasks: crate::task_double::Tasks::default(),
            refused: Vec::new(),
            attested: Vec::new(),
            rules: crate::rule_double::Rules::default(),
            photographs: None,
        };
        let mut double = Self {
            shared: Arc::new(Shared {
                mind: Mutex::new(mind),
                changed: watch::Sender::new(1),
                clock,
            }),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        double.up().await;
        double
    }

    /// Serves, again on the same port if it has one.
    pub(crate) async fn up(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                // The old listener's task may not have ended yet.
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.address = listener.local_addr().unwrap();
        let (cut, cut_receiver) = watch::channel(false);
        let shared = self.shared.clone();
        let acceptor = acceptor(&shared);
        let services = Services(shared);
        let incoming = connection::accept(listener, acceptor, cut_receiver.clone());
        let mut end = cut_receiver;
        let serve = Server::builder()
            .add_service(AgentServer::new(services.clone()))
            .add_service(BundleServer::new(services.clone()))
            .add_service(SvidServer::new(services.clone()))
            .add_service(NodeRefusalsServer::new(services.clone()))
            .add_service(NodeAttestationsServer::new(services.clone()))
            .add_service(NodeTasksServer::new(services.clone()))
            .add_service(DerivedSvidServer::new(services.clone()))
            .add_service(NodeViewServer::new(services))
            .serve_with_incoming_shutdown(incoming, async move {
                let _gone = end.wait_for(|cut| *cut).await.is_err();
            });
        let task = tokio::spawn(async move {
            let _cut = serve.await.is_err();
        });
        self.running = Some((cut, task));
    }

    /// Goes away without a word: every connection is cut.
    pub(crate) async fn down(&mut self) {
        if let Some((cut, task)) = self.running.take() {
            cut.send_replace(true);
            task.await.unwrap();
        }
    }

    /// Changes what the double knows, and tells the nodes that follow.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Mind) -> T) -> T {
        let (result, revision) = {
            let mut mind = self.shared.mind();
            let result = change(&mut mind);
            mind.revision += 1;
            (result, mind.revision)
        };
        self.shared.changed.send_replace(revision);
        result
    }

    /// An entry for callers with these selectors.
    pub(crate) fn add_entry(&self, name: &str, path: &str, selectors: &[&str]) {
        let entry = entry(name, path, selectors, self.shared.now());
        self.change(|mind| mind.entries.insert(entry.id.clone(), entry));
    }

    pub(crate) fn update_entry(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        self.change(|mind| {
            let entry = mind
                .entries
                .get_mut(&EntryId::parse(name).unwrap())
                .unwrap();
            change(entry);
            entry.revision_number += 1;
        });
    }

    pub(crate) fn remove_entry(&self, name: &str) {
        self.change(|mind| mind.entries.remove(&EntryId::parse(name).unwrap()));
    }

    /// A new CA, which signs from now on; it is in the bundle at the same time.
    pub(crate) fn rotate_ca(&self) {
        let now = self.shared.now();
        self.change(|mind| {
            mind.cas.push(Ca::new(&trust_domain(), now));
            mind.sequence += 1;
        });
    }

    /// The PEM of the first CA.
    pub(crate) fn bundle_pem(&self) -> String {
        use base64::Engine as _;
        let der = self.shared.mind().cas[0].authority.der.clone();
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// How often an RPC came.
    pub(crate) fn heard(&self, what: &str) -> usize {
        count(&self.shared.mind().heard.borrow(), what)
    }

    /// Waits until an RPC has come so often.
    pub(crate) async fn hears(&self, what: &'static str, times: usize) {
        let mut heard = self.shared.mind().heard.subscribe();
        let enough = heard.wait_for(|heard| count(heard, what) >= times);
        within(what, enough).await.unwrap();
    }
}

fn count(heard: &[&'static str], what: &str) -> usize {
    heard.iter().filter(|heard| **heard == what).count()
}

pub(crate) fn entry(name: &str, path: &str, selectors: &[&str], now: Timestamp) -> Entry {
    Entry {
        id: EntryId::parse(name).unwrap(),
        spiffe_id: id(path),
        parent_id: id("/nodes"),
        selectors: selectors
            .iter()
            .map(|s| s.parse::<Selector>().unwrap())
            .collect(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: std::collections::BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: vec![],
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: None,
        created_at: now.floor_to_second(),
        ordinal: 0,
        revision_number: 0,
        changed_at: Revision(0),
    }
}

fn acceptor(shared: &Arc<Shared>) -> Acceptor {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let now = shared.now();
    let chain = {
        let mind = shared.mind();
        let ttl = Duration::from_hours(1);
        vec![mind.cas[0].sign(&trust_domain().server_id(), key.public_key(), ttl, now)]
    };
    let identity = Identity::new(&X509Svid::new(chain, &key).unwrap()).unwrap();
    let grace = shared.mind().grace;
    let bundles = shared.clone();
    let clock = shared.clone();
    Acceptor::with_grace(
        identity,
        Arc::new(move |td: &TrustDomain| {
            (*td == trust_domain()).then(|| {
                let mind = bundles.mind();
                Arc::new(Bundle {
                    x509_authorities: mind.cas.iter().map(|ca| ca.authority.clone()).collect(),
                    ..Bundle::empty(trust_domain())
                })
            })
        }),
        Arc::new(move || clock.now()),
        grace,
    )
    .unwrap()
}
