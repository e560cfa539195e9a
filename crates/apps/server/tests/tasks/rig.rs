//! A server with a class of agents, a node, and an agent on it.

use std::time::Duration;

use muster_audit::Record;
use muster_crypto::{KeyType, PrivateKey};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::policies_client::PoliciesClient;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::agent::v1::task_ledger_client::TaskLedgerClient;
use muster_proto::muster::node::v1::node_tasks_client::NodeTasksClient;
use muster_proto::muster::node::v1::{OpenRequest, WatchRequest, WatchResponse};
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, ListEntriesRequest,
};
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::{Certificate, build_csr};
use muster_testkit::{ServerConfig, ServerProcess, TestNode, from_now};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

pub(crate) type Tasks = NodeTasksClient<Channel>;

pub(crate) struct Rig {
    dir: TempDir,
    toml: String,
    pub(crate) server: ServerProcess,
    pub(crate) node: TestNode,
    pub(crate) agent: String,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more in the server's configuration.
    pub(crate) async fn with(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(dir.path()).with(toml);
        let server = ServerProcess::start(SERVER, config).await;
        let token = server.join_token().await;
        let bundle = server.bundle().await;
        let node = TestNode::attest(server.address(), &bundle, &token);
        let node = node.await.unwrap();
        let agent = "spiffe://example.org/agent/reader/1".to_owned();
        let toml = toml.to_owned();
        let rig = Self {
            dir,
            toml,
            server,
            node,
            agent,
        };
        let mut registry = rig.registry();
        registry.create_class(class()).await.unwrap();
        registry.approve_class(step("reader")).await.unwrap();
        let entry = types::Entry {
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: "/agent/reader/1".into(),
            }),
            parent_id: Some(muster_wire::id::write(rig.node.id())),
            selectors: vec![uid()],
            ..types::Entry::default()
        };
        rig.put_entry(entry).await;
        rig
    }

    /// Writes an entry.
    pub(crate) async fn put_entry(&self, entry: types::Entry) {
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let answer = self.server.entries().batch_create_entry(request).await;
        let status = answer.unwrap().into_inner().results.remove(0).status;
        assert_eq!(status.unwrap().code, 0);
    }

    /// The entry that names the agent.
    pub(crate) async fn entry(&self) -> types::Entry {
        let request = ListEntriesRequest::default();
        let answer = self.server.entries().list_entries(request).await;
        answer.unwrap().into_inner().entries.remove(0)
    }

    pub(crate) async fn delete_entry(&self, entry: &types::Entry) {
        let request = BatchDeleteEntryRequest {
            ids: vec![entry.id.clone()],
        };
        let answer = self.server.entries().batch_delete_entry(request).await;
        let status = answer.unwrap().into_inner().results.remove(0).status;
        assert_eq!(status.unwrap().code, 0);
    }

    /// Stops the server, and starts it again on what it left.
    pub(crate) async fn restart(&mut self) {
        self.server.kill();
        let config = ServerConfig::new(self.dir.path()).with(&self.toml);
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

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.server.channel())
    }

    pub(crate) fn ledger(&self) -> TaskLedgerClient<Channel> {
        TaskLedgerClient::new(self.server.channel())
    }

    /// Puts a set of policies in force.
    pub(crate) async fn put_policies(&self, text: &str) {
        let request = v1::PutPoliciesRequest {
            expected_version: 0,
            reason: "a test".into(),
            text: text.into(),
        };
        let mut policies = PoliciesClient::new(self.server.channel());
        policies.put(tokio_stream::iter([request])).await.unwrap();
    }

    pub(crate) async fn tasks(&self) -> Tasks {
        tasks_of(&self.node).await
    }

    pub(crate) async fn another_node(&self) -> TestNode {
        let token = self.server.join_token().await;
        let bundle = self.server.bundle().await;
        let node = TestNode::attest(self.server.address(), &bundle, &token);
        node.await.unwrap()
    }

    /// What a node asks for a caller that is the agent.
    pub(crate) fn request(&self) -> OpenRequest {
        OpenRequest {
            agent: self.agent.clone(),
            facts: vec![uid()],
            level: 2,
            age: None,
            task: Some(asked()),
            caller: None,
            bound_to: Some(v1::BoundTo {
                kind: "process".into(),
                pid: 7,
                start_time: 9,
                boot_id: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
                cgroup_id: 0,
            }),
        }
    }

    pub(crate) async fn open(&self, task: v1::OpenTaskRequest) -> Result<v1::Task, Status> {
        let request = OpenRequest {
            task: Some(task),
            ..self.request()
        };
        let opened = self.tasks().await.open(request).await?;
        Ok(opened.into_inner().task.unwrap())
    }

    pub(crate) async fn watch(&self, from: WatchRequest) -> Streaming<WatchResponse> {
        let mut views = self.node.views().await;
        views.watch(from).await.unwrap().into_inner()
    }

    pub(crate) async fn sign(&self, entry_id: &str) -> Result<(String, i64), Code> {
        sign_as(&self.node, entry_id).await
    }

    /// When a JWT-SVID ends that is asked for.
    pub(crate) async fn token(&self, entry_id: &str) -> Result<i64, Status> {
        let request = NewJwtsvidRequest {
            entry_id: entry_id.into(),
            audience: vec!["x".into()],
        };
        let answer = self.node.svids().await.new_jwtsvid(request).await?;
        Ok(answer.into_inner().svid.unwrap().expires_at)
    }
}

pub(crate) async fn tasks_of(node: &TestNode) -> Tasks {
    NodeTasksClient::new(node.channel().await)
}

/// Asks for an X509-SVID as a node does: whose it is and when it ends, or the status of the item.
pub(crate) async fn sign_as(node: &TestNode, entry_id: &str) -> Result<(String, i64), Code> {
    let csr = build_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), None).unwrap();
    let request = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: entry_id.into(),
            csr: csr.into(),
        }],
    };
    let answer = node.svids().await.batch_new_x509svid(request).await;
    let result = answer.unwrap().into_inner().results.remove(0);
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

pub(crate) async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    let news = tokio::time::timeout(Duration::from_mins(1), stream.message()).await;
    news.expect("news in time").unwrap().expect("a step")
}

/// A task that the class allows.
pub(crate) fn asked() -> v1::OpenTaskRequest {
    v1::OpenTaskRequest {
        kind: "mail.read".into(),
        purpose_sha256: "0a".repeat(32),
        permissions: Some(scopes(&["mail.read"])),
        data_class: 1,
        ttl: Some(seconds(600)),
        ..v1::OpenTaskRequest::default()
    }
}

/// The same for a part of another, which lasts as long as that.
pub(crate) fn part() -> v1::OpenTaskRequest {
    v1::OpenTaskRequest {
        ttl: None,
        ..asked()
    }
}

pub(crate) fn scopes(names: &[&str]) -> v1::Permissions {
    v1::Permissions {
        scopes: names.iter().map(|name| (*name).to_owned()).collect(),
        resources: vec![],
    }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

pub(crate) fn step(name: &str) -> v1::ClassStepRequest {
    v1::ClassStepRequest {
        name: name.into(),
        reason: "a test".into(),
        version: None,
    }
}

pub(crate) fn why(status: &Status) -> (Code, String) {
    let reason = reason_of(MUSTER_DOMAIN, status);
    (status.code(), reason.unwrap_or_default())
}

pub(crate) fn reason(code: Code, word: &str) -> (Code, String) {
    (code, word.to_owned())
}

fn uid() -> types::Selector {
    types::Selector {
        r#type: "unix".into(),
        value: "uid:1".into(),
    }
}

fn class() -> v1::CreateClassRequest {
    let spec = v1::ClassSpec {
        display_name: "Reader".into(),
        purposes: vec!["research".into()],
        owner: "mailto:olga@example.org".into(),
        sponsor: "mailto:sam@example.org".into(),
        risk_tier: 1,
        data_ceiling: 2,
        permissions: Some(scopes(&["mail.read", "mail.list"])),
        delegation: Some(v1::Delegation {
            may_act_for: "none".into(),
            max_depth: 2,
            consent: "interactive".into(),
        }),
        task_defaults: Some(v1::TaskDefaults {
            ttl: Some(seconds(600)),
            max_ttl: Some(seconds(1800)),
            budget: Some(100),
        }),
        valid_until: Some(from_now(3600)),
        review_by: Some(from_now(1800)),
        ..v1::ClassSpec::default()
    };
    v1::CreateClassRequest {
        name: "reader".into(),
        spec: Some(spec),
        reason: String::new(),
    }
}
