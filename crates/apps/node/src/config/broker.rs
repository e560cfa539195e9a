//! `[broker]` and `[delegated]`: who may ask on behalf of workloads, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use muster_model::{SpiffeId, TrustDomain};
use muster_rt::config::{self, Table};

const REFERENCES: &[(&str, ReferenceType)] = &[
    ("pid", ReferenceType::Pid),
    ("kubernetes", ReferenceType::Kubernetes),
];

/// How a broker may name a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceType {
    /// `spiffe.broker.WorkloadPIDReference`.
    Pid,
    /// `spiffe.broker.KubernetesObjectReference`.
    Kubernetes,
}

impl ReferenceType {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Whether a profile of the Broker API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Served.
    On,
    /// `UNIMPLEMENTED`.
    Off,
}

/// The SPIFFE Broker API. There is none unless `[broker]` is in the file (BRK-01).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// The Unix socket, in a folder of its own.
    pub socket: Option<PathBuf>,
    /// The TCP address.
    pub listen: Option<SocketAddr>,
    /// SubscribeToX509SVID and SubscribeToX509Bundles.
    pub x509: Profile,
    /// FetchJWTSVID and SubscribeToJWTBundles.
    pub jwt: Profile,
    /// Who may call, and for what; nobody else may.
    pub allowed: BTreeMap<SpiffeId, Broker>,
}

/// What one broker may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// How it may name workloads.
    pub references: BTreeSet<ReferenceType>,
    /// Where it may name them by pid.
    pub pid: PidReach,
    /// The identities that it may have; every one when `None`.
    pub spiffe_ids: Option<BTreeSet<SpiffeId>>,
    /// The audiences that it may have tokens for; every one when `None`.
    pub audiences: Option<BTreeSet<String>>,
}

/// From where a pid is believed to be one of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidReach {
    /// From the Unix socket.
    UnixOnly,
    /// From TCP as well: the operator answers for it that only this machine reaches the port.
    TcpToo,
}

impl BrokerConfig {
    /// Reads the table, if there is one.
    pub(super) fn read(root: &Table<'_>, workload_socket: &Path) -> Option<Self> {
        let table = root.optional_table("broker")?;
        let socket: Option<PathBuf> = table.optional("socket", config::absolute_path());
        let listen = table.optional("listen", config::socket_address());
        if !table.has("socket") && !table.has("listen") {
            root.reject(
                "broker",
                "the Broker API has no place to listen at",
                "give it socket = \"/run/muster/node/broker/broker.sock\", or listen, or both",
            );
        }
        if let Some(socket) = &socket {
            check_socket(&table, socket, workload_socket);
        }
        let profile = |key| {
            if table.default(key, config::boolean(), true) {
                Profile::On
            } else {
                Profile::Off
            }
        };
        let (x509, jwt) = (profile("x509"), profile("jwt"));
        let mut allowed = BTreeMap::new();
        let tables = table.tables("allowed");
        if tables.is_empty() {
            table.reject(
                "allowed",
                "no broker may call",
                "name at least one: [[broker.allowed]] with id = \"spiffe://...\"; or remove [broker]",
            );
        }
        for entry in &tables {
            let broker = Broker::read(entry);
            let Some(id) = entry.required("id", spiffe_id()) else {
                continue;
            };
            if allowed.insert(id.clone(), broker).is_some() {
                entry.reject(
                    "id",
                    format!("{id} is there twice"),
                    "put all of it in one table",
                );
            }
        }
        Some(Self {
            socket,
            listen,
            x509,
            jwt,
            allowed,
        })
    }
}

/// A socket that workloads can reach is no place for brokers (BEP-10).
fn check_socket(table: &Table<'_>, socket: &Path, workload_socket: &Path) {
    if socket.parent() == workload_socket.parent() {
        table.reject(
            "socket",
            "the socket is in the folder of the Workload API, which every workload can reach",
            "give it a folder of its own, such as /run/muster/node/broker",
        );
    }
    let length = socket.as_os_str().len();
    if length > muster_peer::MAX_SOCKET_PATH {
        table.reject(
            "socket",
            format!(
                "the path has {length} bytes and the kernel allows {}",
                muster_peer::MAX_SOCKET_PATH
            ),
            "choose a shorter path, such as one under /run",
        );
    }
}

impl Broker {
    fn read(table: &Table<'_>) -> Self {
        let references = table.default(
            "reference_types",
            config::list(config::one_of(REFERENCES)),
            vec![ReferenceType::Pid],
        );
        if references.is_empty() {
            table.reject(
                "reference_types",
                "the broker may name no workload",
                "list \"pid\", \"kubernetes\" or both, or remove the broker",
            );
        }
        let tcp = table.default("allow_pid_over_tcp", config::boolean(), false);
        Self {
            references: references.into_iter().collect(),
            pid: if tcp {
                PidReach::TcpToo
            } else {
                PidReach::UnixOnly
            },
            spiffe_ids: table
                .optional("spiffe_ids", config::list(spiffe_id()))
                .map(|ids| ids.into_iter().collect()),
            audiences: table
                .optional("audiences", config::list(config::string()))
                .map(|all| all.into_iter().collect()),
        }
    }
}

fn spiffe_id() -> config::Reader<'static, SpiffeId> {
    config::text(
        "a SPIFFE ID such as \"spiffe://example.org/proxy\"",
        SpiffeId::parse,
    )
}

/// Reads `[delegated] authorized`: the delegates; nobody by default.
pub(super) fn read_delegates(
    root: &Table<'_>,
    trust_domain: Option<&TrustDomain>,
) -> BTreeSet<SpiffeId> {
    let table = root.table("delegated");
    let delegates: Vec<SpiffeId> = table.default("authorized", config::list(spiffe_id()), vec![]);
    let foreign = delegates
        .iter()
        .find(|id| trust_domain.is_some_and(|td| id.trust_domain() != td));
    if let Some(id) = foreign {
        table.reject(
            "authorized",
            format!("{id} is of a foreign trust domain, and a delegate is a workload of this node"),
            "name IDs of the node's own trust domain",
        );
    }
    delegates.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n{more}\n");
        Config::parse("node.toml", &text).map_err(|faults| faults.to_string())
    }

    /// BRK-01.
    #[test]
    fn there_is_no_broker_listener_by_default() {
        let config = parse("").unwrap();
        assert_eq!(config.broker, None);
        assert!(config.delegates.is_empty());
    }

    #[test]
    fn a_broker_may_little_by_default() {
        let config = parse(
            "[broker]\nsocket = \"/run/b/b.sock\"\n[[broker.allowed]]\nid = \"spiffe://other.org/proxy\"",
        )
        .unwrap();
        let config = config.broker.unwrap();
        assert_eq!((config.x509, config.jwt), (Profile::On, Profile::On));
        let broker = config.allowed.values().next().unwrap();
        assert_eq!(
            broker.references.iter().copied().collect::<Vec<_>>(),
            [ReferenceType::Pid]
        );
        assert_eq!(broker.pid, PidReach::UnixOnly);
        assert_eq!((&broker.spiffe_ids, &broker.audiences), (&None, &None));
    }

    /// BEP-10, BRK-20.
    #[test]
    fn what_would_be_unsafe_or_useless_is_refused() {
        const ALLOWED: &str = "[[broker.allowed]]\nid = \"spiffe://example.org/proxy\"";
        for (text, word) in [
            (format!("[broker]\n{ALLOWED}"), "no place to listen"),
            (
                "[broker]\nlisten = \"127.0.0.1:1\"".into(),
                "no broker may call",
            ),
            (
                format!("[broker]\nsocket = \"/run/muster/node/b.sock\"\n{ALLOWED}"),
                "folder of the Workload API",
            ),
            (
                format!("[broker]\nlisten = \"127.0.0.1:1\"\n{ALLOWED}\n{ALLOWED}"),
                "twice",
            ),
            (
                format!(
                    "[broker]\nlisten = \"127.0.0.1:1\"\n{ALLOWED}\nreference_types = [\"pod\"]"
                ),
                "none of the known words",
            ),
            (
                format!("[broker]\nlisten = \"127.0.0.1:1\"\n{ALLOWED}\nreference_types = []"),
                "may name no workload",
            ),
            (
                "[delegated]\nauthorized = [\"spiffe://other.org/x\"]".into(),
                "foreign trust domain",
            ),
        ] {
            let found = parse(&text).unwrap_err();
            assert!(found.contains(word), "{found}");
        }
    }
}
