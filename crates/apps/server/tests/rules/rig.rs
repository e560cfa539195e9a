//! A server, a node, and what a node derives by rule.

use std::time::Duration;

use muster_audit::Record;
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Rule, TrustDomain};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::policies_client::PoliciesClient;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::agent::v1::rules_client::RulesClient;
use muster_proto::muster::agent::v1::task_ledger_client::TaskLedgerClient;
use muster_proto::muster::node::v1::derived_svid_client::DerivedSvidClient;
use muster_proto::muster::node::v1::node_tasks_client::NodeTasksClient;
use muster_proto::muster::node::v1::{
    BatchNewX509DerivedRequest, Derived, NewJwtDerivedRequest, NewX509Derived, OpenRequest,
    WatchRequest, WatchResponse,
};
use muster_proto::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, CountEntriesRequest};
use muster_proto::spire::api::server::svid::v1::batch_new_x509svid_response::Result as Item;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintJwtsvidRequest, NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_roll::naming;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::{Certificate, build_csr};
use muster_testkit::{ServerConfig, ServerProcess, TestNode, from_now};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use muster_wire::rule as wire;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
pub(crate) const BOOT: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    server: ServerProcess,
    pub(crate) node: TestNode,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
        let node = attest(&server).await;
        Self { dir, server, node }
    }

    pub(crate) async fn restart(&mut self) {
        self.server.kill();
        let config = ServerConfig::new(self.dir.path());
        self.server = ServerProcess::start(SERVER, config).await;
        self.node = self.node.clone().at(self.server.address());
    }

    /// Stops the server; what is on record.
    pub(crate) async fn stop(self) -> Vec<Record> {
        self.server.stop().await;
        let store = SqliteStore::open(ServerConfig::new(self.dir.path()).roll()).unwrap();
        let all = store.audit_after(0, 100_000).await.unwrap();
        all.into_iter().map(|(_, record)| record).collect()
    }

    pub(crate) async fn another_node(&self) -> TestNode {
        attest(&self.server).await
    }

    pub(crate) fn api(&self) -> RulesClient<Channel> {
        RulesClient::new(self.server.channel())
    }

    fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.server.channel())
    }

    pub(crate) async fn tasks(&self) -> NodeTasksClient<Channel> {
        NodeTasksClient::new(self.node.channel().await)
    }

    /// What a node asks for a caller of which these facts are known, which is the agent.
    pub(crate) fn open_request(agent: &Derived, caller: Option<v1::ProcessMark>) -> OpenRequest {
        OpenRequest {
            agent: agent.spiffe_id.clone(),
            facts: agent.facts.clone().unwrap().selectors,
            level: 2,
            age: None,
            task: Some(v1::OpenTaskRequest {
                kind: "read".into(),
                permissions: Some(v1::Permissions::default()),
                ..v1::OpenTaskRequest::default()
            }),
            bound_to: Some(v1::BoundTo {
                kind: "process".into(),
                pid: 1,
                start_time: 1000,
                boot_id: BOOT.into(),
                cgroup_id: 0,
            }),
            caller,
        }
    }

    /// Opens a task of an agent that a rule names.
    pub(crate) async fn open(&self, agent: &Derived) -> v1::Task {
        let caller = agent.facts.clone().unwrap().process;
        let request = Self::open_request(agent, caller);
        let opened = self.tasks().await.open(request).await.unwrap();
        opened.into_inner().task.unwrap()
    }

    /// Where a task stands, and why.
    pub(crate) async fn state_of(&self, task: &v1::Task) -> (String, String) {
        let mut ledger = TaskLedgerClient::new(self.server.channel());
        let request = v1::GetLedgerRequest {
            id: task.id.clone(),
        };
        let task = ledger.get_task(request).await.unwrap().into_inner();
        (task.state, task.cause)
    }

    /// The bundles of foreign trust domains.
    pub(crate) fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.server.channel())
    }

    /// A bundle of a foreign trust domain: the server's own roots under another name.
    pub(crate) async fn set_bundle(&self, name: &str) {
        let bundle = types::Bundle {
            trust_domain: name.into(),
            ..self.server.bundle().await
        };
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let answer = self.bundles().batch_set_federated_bundle(request).await;
        let status = answer.unwrap().into_inner().results.remove(0).status;
        assert_eq!(status.unwrap().code, 0);
    }

    /// An active class that asks for a group.
    pub(crate) async fn class(&self, name: &str) {
        let create = v1::CreateClassRequest {
            name: name.into(),
            spec: Some(v1::ClassSpec {
                display_name: "Reader".into(),
                purposes: vec!["research".into()],
                owner: "mailto:olga@example.org".into(),
                sponsor: "mailto:sam@example.org".into(),
                attestation: vec![selector("unix:group:readers")],
                valid_until: Some(from_now(3600)),
                review_by: Some(from_now(1800)),
                ..v1::ClassSpec::default()
            }),
            reason: String::new(),
        };
        self.registry().create_class(create).await.unwrap();
        self.registry().approve_class(step(name)).await.unwrap();
    }

    pub(crate) async fn suspend(&self, name: &str) {
        self.registry().suspend_class(step(name)).await.unwrap();
    }

    pub(crate) async fn reinstate(&self, name: &str) {
        self.registry().reinstate_class(step(name)).await.unwrap();
    }

    pub(crate) async fn quarantine(&self, id: &str) {
        let step = agent_step(id);
        self.registry().quarantine_instance(step).await.unwrap();
    }

    pub(crate) async fn release(&self, id: &str) {
        let step = agent_step(id);
        self.registry().release_instance(step).await.unwrap();
    }

    pub(crate) async fn instances(&self, class: &str) -> Vec<v1::AgentInstance> {
        let request = v1::ListInstancesRequest {
            class: class.into(),
            ..v1::ListInstancesRequest::default()
        };
        let answer = self.registry().list_instances(request).await.unwrap();
        answer.into_inner().instances
    }

    pub(crate) async fn create(&self, name: &str, spec: v1::RuleSpec) -> Result<v1::Rule, Status> {
        let request = v1::CreateRuleRequest {
            name: name.into(),
            spec: Some(spec),
        };
        Ok(self.api().create_rule(request).await?.into_inner())
    }

    pub(crate) async fn rule(&self, name: &str) -> Result<v1::Rule, Status> {
        let request = v1::GetRuleRequest { name: name.into() };
        Ok(self.api().get_rule(request).await?.into_inner())
    }

    /// Changes a rule as a whole.
    pub(crate) async fn set(&self, name: &str, version: u64, change: impl Fn(&mut v1::RuleSpec)) {
        let mut spec = self.rule(name).await.unwrap().spec.unwrap();
        change(&mut spec);
        let request = v1::UpdateRuleRequest {
            name: name.into(),
            spec: Some(spec),
            mask: None,
            version,
        };
        self.api().update_rule(request).await.unwrap();
    }

    pub(crate) async fn list(&self) -> Vec<String> {
        let request = v1::ListRulesRequest::default();
        let answer = self.api().list_rules(request).await.unwrap().into_inner();
        answer.rules.into_iter().map(|rule| rule.name).collect()
    }

    pub(crate) async fn put_policies(&self, text: &str) {
        let request = v1::PutPoliciesRequest {
            expected_version: 0,
            reason: "a test".into(),
            text: text.into(),
        };
        let mut policies = PoliciesClient::new(self.server.channel());
        policies.put(tokio_stream::iter([request])).await.unwrap();
    }

    pub(crate) async fn entry(&self, path: &str, given: &str) {
        self.try_entry(path, given).await.unwrap();
    }

    pub(crate) async fn try_entry(&self, path: &str, given: &str) -> Result<(), String> {
        let entry = types::Entry {
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            }),
            parent_id: Some(muster_wire::id::write(self.node.id())),
            selectors: vec![selector(given)],
            ..types::Entry::default()
        };
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let answer = self.server.entries().batch_create_entry(request).await;
        let result = answer.unwrap().into_inner().results.remove(0);
        match result.status.unwrap() {
            status if status.code == 0 => Ok(()),
            status => Err(status.message),
        }
    }

    /// Has a token minted by an operator.
    pub(crate) async fn mint(&self, path: &str) -> Result<(), Status> {
        let request = MintJwtsvidRequest {
            id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            }),
            audience: vec!["x".into()],
            ttl: 60,
        };
        self.server.svids().mint_jwtsvid(request).await.map(drop)
    }

    pub(crate) async fn entries(&self) -> i32 {
        let request = CountEntriesRequest::default();
        let answer = self.server.entries().count_entries(request).await;
        answer.unwrap().into_inner().count
    }

    pub(crate) async fn watch(&self, from: WatchRequest) -> Streaming<WatchResponse> {
        let mut views = self.node.views().await;
        views.watch(from).await.unwrap().into_inner()
    }

    pub(crate) fn derived(&self, rule: &v1::Rule, facts: &v1::Facts) -> Derived {
        derived(self, rule, facts)
    }

    /// Has an X509-SVID signed: whose it is and when it ends, or the code of the item.
    pub(crate) async fn sign(&self, derived: Derived) -> Result<(String, i64), Code> {
        read(self.item(derived).await)
    }

    /// Has an X509-SVID signed: the certificate, and the hint.
    pub(crate) async fn certificate(&self, derived: Derived) -> (Certificate, String) {
        let svid = self.item(derived).await.svid.unwrap();
        let leaf = Certificate::parse(svid.cert_chain.first().unwrap()).unwrap();
        (leaf, svid.hint)
    }

    async fn item(&self, derived: Derived) -> Item {
        let request = BatchNewX509DerivedRequest {
            params: vec![NewX509Derived {
                derived: Some(derived),
                csr: csr().into(),
            }],
        };
        let mut svids = DerivedSvidClient::new(self.node.channel().await);
        let answer = svids.batch_new_x509_svid(request).await.unwrap();
        answer.into_inner().results.remove(0)
    }

    pub(crate) async fn sign_entry(&self, entry_id: &str) -> Result<(String, i64), Code> {
        let request = BatchNewX509svidRequest {
            params: vec![NewX509svidParams {
                entry_id: entry_id.into(),
                csr: csr().into(),
            }],
        };
        let answer = self.node.svids().await.batch_new_x509svid(request).await;
        read(answer.unwrap().into_inner().results.remove(0))
    }

    /// Has a JWT-SVID signed: whose it is.
    pub(crate) async fn token(&self, derived: Derived) -> Result<String, Status> {
        token_as(&self.node, derived).await
    }
}

pub(crate) async fn token_as(node: &TestNode, derived: Derived) -> Result<String, Status> {
    let request = NewJwtDerivedRequest {
        derived: Some(derived),
        audience: vec!["x".into()],
    };
    let mut svids = DerivedSvidClient::new(node.channel().await);
    let answer = svids.new_jwt_svid(request).await?.into_inner();
    let id = answer.svid.unwrap().id.unwrap();
    Ok(format!("spiffe://{}{}", id.trust_domain, id.path))
}

/// What a node comes to, by the function that the server calls too.
pub(crate) fn derived(rig: &Rig, rule: &v1::Rule, facts: &v1::Facts) -> Derived {
    let read: Rule = wire::read(rule).unwrap();
    let td = TrustDomain::parse("example.org").unwrap();
    let known = wire::read_facts(Some(facts)).unwrap();
    let name = naming::derive(&read, &td, rig.node.id(), &known).unwrap();
    Derived {
        rule: rule.name.clone(),
        facts: Some(facts.clone()),
        spiffe_id: name.to_string(),
    }
}

/// A rule of the class "reader" as its node has it.
pub(crate) fn in_force(rule: &v1::Rule) -> v1::Rule {
    let mut rule = rule.clone();
    let spec = rule.spec.as_mut().unwrap();
    spec.selectors.push(selector("unix:group:readers"));
    rule
}

/// A rule under the node for whoever has the uid.
pub(crate) fn spec(rig: &Rig, template: &str) -> v1::RuleSpec {
    v1::RuleSpec {
        parent_id: rig.node.id().to_string(),
        selectors: vec![selector("unix:uid:7")],
        template: template.into(),
        class: "reader".into(),
        per_node: 100,
        in_all: 1000,
        ..v1::RuleSpec::default()
    }
}

/// A process that is what the rule and the class ask for.
pub(crate) fn facts(pid: u32) -> v1::Facts {
    v1::Facts {
        selectors: vec![selector("unix:uid:7"), selector("unix:group:readers")],
        process: Some(v1::ProcessMark {
            boot_id: BOOT.into(),
            pid,
            start_time: 1000,
        }),
    }
}

pub(crate) fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

pub(crate) async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    let news = tokio::time::timeout(Duration::from_mins(1), stream.message()).await;
    news.expect("news in time").unwrap().expect("a step")
}

pub(crate) fn why(status: &Status) -> (Code, String) {
    (
        status.code(),
        reason_of(MUSTER_DOMAIN, status).unwrap_or_default(),
    )
}

async fn attest(server: &ServerProcess) -> TestNode {
    let (token, bundle) = (server.join_token().await, server.bundle().await);
    TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap()
}

fn csr() -> Vec<u8> {
    build_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), None).unwrap()
}

fn read(result: Item) -> Result<(String, i64), Code> {
    let code = Code::from_i32(result.status.unwrap().code);
    if code != Code::Ok {
        return Err(code);
    }
    let svid = result.svid.unwrap();
    let leaf = Certificate::parse(svid.cert_chain.first().unwrap()).unwrap();
    let id = svid.id.unwrap();
    Ok((
        format!("spiffe://{}{}", id.trust_domain, id.path),
        leaf.not_after.unix_seconds(),
    ))
}

fn step(name: &str) -> v1::ClassStepRequest {
    v1::ClassStepRequest {
        name: name.into(),
        reason: "a test".into(),
        version: None,
    }
}

fn agent_step(id: &str) -> v1::InstanceStepRequest {
    v1::InstanceStepRequest {
        spiffe_id: id.into(),
        reason: "a test".into(),
    }
}
