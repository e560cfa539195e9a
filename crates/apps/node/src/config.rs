//! `node.toml`: what was written, and what it means.

mod attest;
mod broker;
mod hardening;
mod limits;
mod sds;
mod sightings;
mod state;
mod tasks;
mod wit;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use muster_attest::node::plugin as node_plugin;
use muster_attest::plugin::{self, PluginOptions};
use muster_attest::workload::unix::{DigestLimit, ExecutableOptions, Traced, UnixOptions};
use muster_crypto::{KeyType, Secret};
use muster_model::{SpiffeId, TrustDomain};
use muster_peer::harden;
use muster_rt::config::{self, Document, Faults, Table};
use muster_rt::{metrics, telemetry};
use muster_svid::lifetime::AVAILABILITY_TARGET_MIN;

pub use self::attest::MoreAttestors;
pub use self::broker::{Broker, BrokerConfig, PidReach, Profile, ReferenceType};
pub use self::limits::LimitsConfig;
pub use self::sds::SdsConfig;
pub use self::sightings::SightingsConfig;
pub use self::state::StateConfig;
pub use self::tasks::TasksConfig;
pub use self::wit::WitConfig;

/// The longest that a call may be held: beyond it no client waits any more.
const LONGEST_HOLD: Duration = Duration::from_mins(5);
/// The most SVIDs that a cache may be told to keep.
const LARGEST_CACHE: i64 = 10_000_000;
/// The longest availability target: no certificate lives longer than that.
const LONGEST_TARGET: Duration = Duration::from_hours(24 * 3650);
const KEY_TYPES: &[(&str, KeyType)] = &[
    ("ec-p256", KeyType::EcP256),
    ("ec-p384", KeyType::EcP384),
    ("ed25519", KeyType::Ed25519),
    ("rsa-2048", KeyType::Rsa2048),
    ("rsa-4096", KeyType::Rsa4096),
];

/// Everything that the node is told.
#[derive(Debug)]
pub struct Config {
    /// The trust domain that the node belongs to.
    pub trust_domain: TrustDomain,
    /// Where its server listens.
    pub server: ServerAddress,
    /// The node's key, SVID and bundle live here.
    pub data_dir: PathBuf,
    /// The Workload API.
    pub workload_socket: PathBuf,
    /// The operator's socket.
    pub admin_socket: PathBuf,
    /// How the node joins.
    pub join: Join,
    /// What the `unix` attestor finds out.
    pub unix: UnixOptions,
    /// The workload attestors beside it.
    pub attestors: MoreAttestors,
    /// How the Workload API answers.
    pub workload_api: WorkloadApiConfig,
    /// What each neighbour may ask for.
    pub limits: LimitsConfig,
    /// How Envoy is served.
    pub sds: SdsConfig,
    /// The Broker API, if it is served.
    pub broker: Option<BrokerConfig>,
    /// Who may use the Delegated Identity API.
    pub delegates: BTreeSet<SpiffeId>,
    /// Tasks of agents.
    pub tasks: TasksConfig,
    /// Keys and caches.
    pub svid: SvidConfig,
    /// WIT-SVIDs.
    pub wit: WitConfig,
    /// What the daemon gives up at its start.
    pub hardening: harden::Options,
    /// What looks like agents, and how often that is looked for.
    pub sightings: SightingsConfig,
    /// What of the node's memory outlives its process.
    pub state: StateConfig,
    /// Where the figures are served.
    pub metrics: metrics::Settings,
    /// Log level and format.
    pub log: telemetry::Settings,
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The text is not a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a host and a port")]
pub struct NotAnAddress;

impl FromStr for ServerAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAnAddress)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let is_v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = !bare.is_empty()
            && bare
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        // Without brackets an IPv6 address swallows its port.
        if !(is_name || (is_v6 && host.starts_with('['))) {
            return Err(NotAnAddress);
        }
        let port = port.parse().ok().filter(|p| *p != 0).ok_or(NotAnAddress)?;
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How the node joins its trust domain, as long as it has no SVID.
#[derive(Debug)]
pub struct Join {
    /// The join token, if there is one.
    pub token: Option<Token>,
    /// The program that proves what the node is, if there is one.
    pub plugin: Option<PluginOptions>,
    /// How the node knows its server the first time.
    pub trust: FirstTrust,
}

/// Where the join token is.
#[derive(Debug)]
pub enum Token {
    /// In the configuration.
    Given(Secret<String>),
    /// In a file.
    File(PathBuf),
}

/// How the node knows its server the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstTrust {
    /// By a bundle: PEM certificates or a SPIFFE bundle document.
    Bundle(PathBuf),
    /// Not at all: whoever answers is believed. The operator asked for it.
    Insecure,
    /// Nothing was configured: only a node that has joined before can start.
    Nothing,
}

/// How the Workload API answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// How long a call without a match is held.
    pub hold: Duration,
    /// Whether callers without identity get the trust domain's own bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Calls at the same time, on all connections.
    pub max_calls: usize,
    /// Calls at the same time on one connection.
    pub max_calls_per_connection: u32,
    /// How long a client may leave its socket full before its connection is closed.
    pub unread_timeout: Duration,
}

/// Keys and caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvidConfig {
    /// Key type of X509-SVIDs.
    pub key_type: KeyType,
    /// How much life X509-SVIDs must have left when the server is lost; at least 24 hours.
    pub availability_target: Option<Duration>,
    /// The most X509-SVIDs to hold for entries that nobody streams.
    pub x509_cache_max: usize,
    /// The most JWT-SVIDs to hold.
    pub jwt_cache_max: usize,
}

impl Config {
    /// Reads and checks a file; every fault in it is in the error.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        Self::from_document(Document::read(path)?)
    }

    /// Checks a text; `source` is its name in faults.
    pub fn parse(source: &str, text: &str) -> Result<Self, Faults> {
        Self::from_document(Document::parse(source, text)?)
    }

    fn from_document(document: Document) -> Result<Self, Faults> {
        let root = document.root();
        let trust_domain = root.required(
            "trust_domain",
            config::text("a trust domain such as \"example.org\"", TrustDomain::parse),
        );
        let server = root.required(
            "server",
            config::text(
                "the server's host and port, such as \"muster.example.org:8081\"",
                ServerAddress::from_str,
            ),
        );
        let path = |key: &str, default: &str| {
            root.default(key, config::absolute_path(), PathBuf::from(default))
        };
        let data_dir = path("data_dir", "/var/lib/muster/node");
        let workload_socket = path("workload_socket", "/run/muster/node/workload.sock");
        let admin_socket = path("admin_socket", "/run/muster/node/private/admin.sock");
        if workload_socket == admin_socket {
            root.reject(
                "admin_socket",
                "the operator's socket and the Workload API are the same file",
                "give one of them another path",
            );
        }
        for (key, socket) in [
            ("workload_socket", &workload_socket),
            ("admin_socket", &admin_socket),
        ] {
            let length = socket.as_os_str().len();
            if length > muster_peer::MAX_SOCKET_PATH {
                root.reject(
                    key,
                    format!(
                        "the path has {length} bytes and the kernel allows {}",
                        muster_peer::MAX_SOCKET_PATH
                    ),
                    "choose a shorter path, such as one under /run",
                );
            }
        }
        let join = read_join(&root.table("join"));
        let unix = read_unix(&root.table("attest").table("unix"));
        let attestors = MoreAttestors::read(&root.table("attest"));
        let workload_api = read_workload_api(&root.table("workload_api"));
        let limits = limits::read(
            &root.table("limits"),
            workload_api.max_connections,
            workload_api.max_calls,
        );
        let sds = SdsConfig::read(&root.table("sds"));
        let broker = BrokerConfig::read(&root, &workload_socket);
        let delegates = broker::read_delegates(&root, trust_domain.as_ref());
        let tasks = tasks::read(&root.table("tasks"), &workload_socket);
        let svid = read_svid(&root.table("svid"));
        let wit = wit::read(&root.table("wit"));
        let hardening = hardening::read(&root.table("hardening"));
        let sightings = SightingsConfig::read(&root.table("sightings"));
        let state = StateConfig::read(&root.table("state"));
        let metrics = metrics::Settings::read(&root.table("metrics"));
        let log = telemetry::Settings::read(&root.table("log"));
        document.finish(|| {
            Some(Self {
                trust_domain: trust_domain?,
                server: server?,
                data_dir,
                workload_socket,
                admin_socket,
                join,
                unix,
                attestors,
                workload_api,
                limits,
                sds,
                broker,
                delegates,
                tasks,
                svid,
                wit,
                hardening,
                sightings,
                state,
                metrics,
                log,
            })
        })
    }
}

fn read_join(table: &Table<'_>) -> Join {
    let token = table.optional(
        "token",
        config::secret("a join token", |text: &str| {
            if text.trim().is_empty() {
                Err("the token is empty")
            } else {
                Ok(Secret::new(text.trim().to_owned()))
            }
        }),
    );
    let file = table.optional("token_file", config::absolute_path());
    if table.has("token") && table.has("token_file") {
        table.reject(
            "token_file",
            "the token is given twice",
            "remove token or token_file",
        );
    }
    let plugin = table.optional_table("plugin");
    if plugin.is_some() && (table.has("token") || table.has("token_file")) {
        table.reject(
            "plugin",
            "a node joins by a token or by a plugin",
            "remove the token, or join.plugin",
        );
    }
    let plugin = plugin.and_then(|table| plugin::read(&table, node_plugin::name));
    let bundle = table.optional("bundle", config::absolute_path());
    let insecure = table.default("insecure_bootstrap", config::boolean(), false);
    if insecure && table.has("bundle") {
        table.reject(
            "insecure_bootstrap",
            "there is a bundle to know the server by, and it would not be used",
            "remove insecure_bootstrap",
        );
    }
    Join {
        token: token.map(Token::Given).or(file.map(Token::File)),
        plugin,
        trust: match bundle {
            Some(path) => FirstTrust::Bundle(path),
            None if insecure => FirstTrust::Insecure,
            None => FirstTrust::Nothing,
        },
    }
}

fn read_unix(table: &Table<'_>) -> UnixOptions {
    let discover = table.default("discover_path", config::boolean(), false);
    // As SPIRE has it: below 0 no file is hashed, 0 is no limit.
    let limit: Option<i64> = table.optional("size_limit", config::integer(-1..=i64::MAX));
    if !discover && table.has("size_limit") {
        table.reject(
            "size_limit",
            "executables are not looked at",
            "set discover_path = true, or remove size_limit",
        );
    }
    UnixOptions {
        executable: discover.then(|| ExecutableOptions {
            digest: limit.map(DigestLimit::from).unwrap_or_default(),
            ..ExecutableOptions::default()
        }),
        traced: if table.default("allow_traced", config::boolean(), false) {
            Traced::Accept
        } else {
            Traced::Refuse
        },
    }
}

fn read_workload_api(table: &Table<'_>) -> WorkloadApiConfig {
    WorkloadApiConfig {
        hold: table.default(
            "hold",
            config::duration_within(Duration::ZERO..=LONGEST_HOLD),
            Duration::from_secs(10),
        ),
        allow_unauthenticated_verifiers: table.default(
            "allow_unauthenticated_verifiers",
            config::boolean(),
            false,
        ),
        max_connections: table.default("max_connections", config::integer(1..=1_000_000), 16_384),
        max_calls: table.default("max_calls", config::integer(1..=10_000_000), 65_536),
        max_calls_per_connection: table.default(
            "max_calls_per_connection",
            config::integer(1..=1_000_000),
            1_024,
        ),
        unread_timeout: table.default(
            "unread_timeout",
            config::duration_within(Duration::from_millis(100)..=LONGEST_HOLD),
            Duration::from_secs(30),
        ),
    }
}

fn read_svid(table: &Table<'_>) -> SvidConfig {
    SvidConfig {
        key_type: table.default("key_type", config::one_of(KEY_TYPES), KeyType::EcP256),
        availability_target: table.optional(
            "availability_target",
            config::duration_within(AVAILABILITY_TARGET_MIN..=LONGEST_TARGET),
        ),
        x509_cache_max: table.default("x509_cache_max", config::integer(0..=LARGEST_CACHE), 1000),
        jwt_cache_max: table.default("jwt_cache_max", config::integer(0..=LARGEST_CACHE), 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n";

    fn faults(text: &str) -> String {
        Config::parse("node.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = Config::parse("node.toml", LEAST).unwrap();
        assert_eq!(
            config.workload_socket,
            Path::new("/run/muster/node/workload.sock")
        );
        assert_eq!(
            config.admin_socket,
            Path::new("/run/muster/node/private/admin.sock")
        );
        assert_eq!(config.data_dir, Path::new("/var/lib/muster/node"));
        assert_eq!(config.workload_api.hold, Duration::from_secs(10));
        assert_eq!(config.svid.key_type, KeyType::EcP256);
        assert_eq!(
            (config.svid.x509_cache_max, config.svid.jwt_cache_max),
            (1000, 1000)
        );
        assert_eq!(config.join.trust, FirstTrust::Nothing);
        assert_eq!(config.unix, UnixOptions::default());
        assert!(!config.workload_api.allow_unauthenticated_verifiers);
    }

    #[test]
    fn a_token_is_never_shown() {
        let text = format!("{LEAST}[join]\ntoken = \"hunter2\"\n");
        let config = Config::parse("node.toml", &text).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let text = format!("{LEAST}[join]\ntoken = [\"hunter2\"]\n");
        assert!(!faults(&text).contains("hunter2"));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (text, word) in [
            ("[join]\ntoken = \"x\"\ntoken_file = \"/x\"", "twice"),
            (
                "[join]\nbundle = \"/x\"\ninsecure_bootstrap = true",
                "insecure_bootstrap",
            ),
            (
                "[join]\ntoken = \"x\"\n[join.plugin]\nname = \"a\"\nsocket = \"/s\"",
                "by a token or by a plugin",
            ),
            ("[join.plugin]\nname = \"a\"", "either"),
            (
                "[join.plugin]\nname = \"join_token\"\nsocket = \"/s\"",
                "itself",
            ),
            ("[attest.unix]\nsize_limit = 1", "discover_path"),
            (
                "admin_socket = \"/run/muster/node/workload.sock\"",
                "same file",
            ),
            ("[workload_api]\nhould = \"1s\"", "hold"),
        ] {
            let found = faults(&format!("{LEAST}{text}\n"));
            assert!(found.contains(word), "{found}");
        }
        let long = format!("{LEAST}workload_socket = \"/{}\"\n", "x".repeat(120));
        assert!(faults(&long).contains("121 bytes"));
    }

    #[test]
    fn addresses() {
        let check = |text: &str, shown: Option<&str>| {
            let parsed = text.parse::<ServerAddress>().ok();
            assert_eq!(parsed.map(|a| a.to_string()).as_deref(), shown, "{text}");
        };
        check("localhost:8081", Some("localhost:8081"));
        check("10.0.0.1:1", Some("10.0.0.1:1"));
        check("[::1]:8081", Some("[::1]:8081"));
        for bad in [
            "",
            "localhost",
            "localhost:0",
            "localhost:x",
            "::1:8081",
            ":8081",
            "a b:1",
            "https://a:1",
        ] {
            check(bad, None);
        }
    }
}
