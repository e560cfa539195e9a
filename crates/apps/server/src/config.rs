//! `server.toml`: what was written, and what it means.
//!
//! `docs/configuration.md` lists every key; a test holds the two together.

mod agents;
mod hardening;
mod node;
mod policy;
mod sightings;
mod wit;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_crypto::KeyType;
use muster_model::{SpiffeId, TrustDomain};
use muster_roll::agents::reconcile::Settings;
use muster_rt::config::{self, Document, Faults, Table};
use muster_rt::{metrics, telemetry};
use muster_svid::x509::Subject;

use crate::tasks;

pub use self::hardening::HardeningConfig;
pub use self::node::NodeConfig;
pub use self::policy::PolicyConfig;
pub use self::sightings::SightingsConfig;
pub use self::wit::WitConfig;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// Shortest lifetime of anything: below it, nothing could be renewed in time.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_hours(24 * 365 * 10);

/// Everything that the server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose authority the server is.
    pub trust_domain: TrustDomain,
    /// Keys and the roll live here, unless placed elsewhere.
    pub data_dir: PathBuf,
    /// The TCP port of the API.
    pub listen: SocketAddr,
    /// The Unix socket of operators.
    pub admin_socket: PathBuf,
    /// Identities that administer the server over TLS.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// The signing authorities.
    pub authority: AuthorityConfig,
    /// Lifetimes of what is signed.
    pub svid: SvidConfig,
    /// WIT-SVIDs.
    pub wit: WitConfig,
    /// Where the signing keys are kept.
    pub keys: KeysConfig,
    /// The SQLite file of the roll.
    pub database: PathBuf,
    /// What the daemon gives up at its start.
    pub hardening: HardeningConfig,
    /// How patient the server is with agents.
    pub agents: Settings,
    /// How many tasks there may be, and how long they are remembered.
    pub tasks: tasks::Settings,
    /// What is kept of decisions about agents.
    pub policy: PolicyConfig,
    /// How much is kept of what nodes find.
    pub sightings: SightingsConfig,
    /// What nodes may do beyond the ordinary.
    pub node: NodeConfig,
    /// Where the figures are served.
    pub metrics: metrics::Settings,
    /// Log level and format.
    pub log: telemetry::Settings,
}

/// The signing authorities.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// Lifetime of the X.509 CA and of the JWT and WIT keys.
    pub ttl: Duration,
    /// Key type of the X.509 CA.
    pub x509_key_type: KeyType,
    /// Key type of the JWT key.
    pub jwt_key_type: KeyType,
    /// Key type of the WIT key, where there is one.
    pub wit_key_type: KeyType,
    /// Subject of the X.509 CA.
    pub subject: Subject,
    /// `iss` of JWT-SVIDs, if any.
    pub jwt_issuer: Option<String>,
}

/// Lifetimes of what is signed.
#[derive(Clone, Copy, Debug)]
pub struct SvidConfig {
    /// X509-SVIDs of entries that say nothing else.
    pub x509_ttl: Duration,
    /// JWT-SVIDs of entries that say nothing else.
    pub jwt_ttl: Duration,
    /// WIT-SVIDs of entries that give no lifetime for X509-SVIDs.
    pub wit_ttl: Duration,
    /// X509-SVIDs of nodes.
    pub node_ttl: Duration,
}

/// Where the signing keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysConfig {
    /// In memory: every restart begins new authorities.
    Memory,
    /// In a private file.
    Disk(PathBuf),
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
        let data_dir = root.default(
            "data_dir",
            config::absolute_path(),
            PathBuf::from("/var/lib/muster/server"),
        );
        let listen = root.default(
            "listen",
            config::socket_address(),
            SocketAddr::from(([0, 0, 0, 0], 8081)),
        );
        let admin_socket = root.default(
            "admin_socket",
            config::absolute_path(),
            PathBuf::from("/run/muster/server/api.sock"),
        );
        let admin_ids = root.default(
            "admin_ids",
            config::list(config::text(
                "a SPIFFE ID such as \"spiffe://example.org/admin\"",
                SpiffeId::parse,
            )),
            Vec::new(),
        );

        let authority = read_authority(&root.table("authority"));
        let svid = read_svid(&root.table("svid"));
        let wit = wit::read(&root.table("wit"));
        let keys = read_keys(&root.table("keys"), &data_dir);
        let database = root.table("store").default(
            "path",
            config::absolute_path(),
            data_dir.join("roll.sqlite"),
        );
        let hardening = HardeningConfig::read(&root.table("hardening"));
        let agents = agents::read(&root.table("agents"));
        let tasks = agents::read_tasks(&root.table("agents"));
        let policy = policy::read(&root.table("policy"));
        let sightings = SightingsConfig::read(&root.table("sightings"));
        let node = NodeConfig::read(&root.table("node"));
        let metrics = metrics::Settings::read(&root.table("metrics"));
        let log = telemetry::Settings::read(&root.table("log"));

        document.finish(|| {
            Some(Self {
                trust_domain: trust_domain?,
                data_dir,
                listen,
                admin_socket,
                admin_ids: admin_ids.into_iter().collect(),
                authority,
                svid,
                wit,
                keys,
                database,
                hardening,
                agents,
                tasks,
                policy,
                sightings,
                node,
                metrics,
                log,
            })
        })
    }

    /// What an operator should know about the configuration although it is valid.
    pub fn warnings(&self) -> Vec<String> {
        let safe = (self.authority.ttl / 6).min(7 * 24 * HOUR);
        let wit = self
            .wit
            .enabled
            .then_some(("svid.wit_ttl", self.svid.wit_ttl));
        [("svid.x509_ttl", self.svid.x509_ttl), ("svid.jwt_ttl", self.svid.jwt_ttl), ("svid.node_ttl", self.svid.node_ttl)]
            .into_iter()
            .chain(wit)
            .filter(|(_, ttl)| *ttl > safe)
            .map(|(key, ttl)| {
                format!(
                    "{key} = {} is more than a sixth of authority.ttl = {}: what is signed late in an authority's \
                     life will be cut short; set authority.ttl to at least {}",
                    muster_rt::duration::Shown(ttl),
                    muster_rt::duration::Shown(self.authority.ttl),
                    muster_rt::duration::Shown(ttl.saturating_mul(6)),
                )
            })
            .chain(self.metrics.warning())
            .collect()
    }
}

fn lifetime() -> config::Reader<'static, Duration> {
    config::duration_within(SHORTEST..=LONGEST)
}

fn read_authority(table: &Table<'_>) -> AuthorityConfig {
    let x509_key_type = table.default(
        "x509_key_type",
        config::one_of(X509_KEY_TYPES),
        KeyType::EcP256,
    );
    let jwt_key_type = table.default(
        "jwt_key_type",
        config::one_of(JWT_KEY_TYPES),
        jwt_default(x509_key_type),
    );
    let wit_key_type = table.default(
        "wit_key_type",
        config::one_of(JWT_KEY_TYPES),
        jwt_default(x509_key_type),
    );
    let named = table.table("subject");
    let defaults = Subject::default_ca();
    let subject = Subject {
        country: named
            .optional("country", config::string())
            .or(defaults.country),
        organization: named
            .optional("organization", config::string())
            .or(defaults.organization),
        common_name: named
            .optional("common_name", config::string())
            .or(defaults.common_name),
        ..Subject::default()
    };
    AuthorityConfig {
        ttl: table.default("ttl", lifetime(), 24 * HOUR),
        x509_key_type,
        jwt_key_type,
        wit_key_type,
        subject,
        jwt_issuer: table.optional("jwt_issuer", config::string()),
    }
}

fn read_svid(table: &Table<'_>) -> SvidConfig {
    let x509_ttl = table.default("x509_ttl", lifetime(), HOUR);
    SvidConfig {
        x509_ttl,
        jwt_ttl: table.default("jwt_ttl", lifetime(), 5 * MINUTE),
        wit_ttl: table.default("wit_ttl", lifetime(), HOUR),
        node_ttl: table.default("node_ttl", lifetime(), x509_ttl),
    }
}

fn read_keys(table: &Table<'_>, data_dir: &Path) -> KeysConfig {
    let in_memory = table.default(
        "kind",
        config::one_of(&[("disk", false), ("memory", true)]),
        false,
    );
    let file = table.default("path", config::absolute_path(), data_dir.join("keys.json"));
    if in_memory && table.has("path") {
        table.reject(
            "path",
            "keys in memory have no file",
            "remove the key, or set kind = \"disk\"",
        );
    }
    if in_memory {
        KeysConfig::Memory
    } else {
        KeysConfig::Disk(file)
    }
}

/// Key types that every SPIFFE client verifies (X509I-17).
const X509_KEY_TYPES: &[(&str, KeyType)] = &[
    ("ec-p256", KeyType::EcP256),
    ("ec-p384", KeyType::EcP384),
    ("ed25519", KeyType::Ed25519),
    ("rsa-2048", KeyType::Rsa2048),
    ("rsa-4096", KeyType::Rsa4096),
];

/// Ed25519 is not among the algorithms of JWT-SVIDs and WIT-SVIDs (JWTI-03, WIT-03).
const JWT_KEY_TYPES: &[(&str, KeyType)] = &[
    ("ec-p256", KeyType::EcP256),
    ("ec-p384", KeyType::EcP384),
    ("rsa-2048", KeyType::Rsa2048),
    ("rsa-4096", KeyType::Rsa4096),
];

fn jwt_default(x509: KeyType) -> KeyType {
    match x509 {
        KeyType::Ed25519 => KeyType::EcP256,
        KeyType::EcP256 | KeyType::EcP384 | KeyType::Rsa2048 | KeyType::Rsa4096 => x509,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_is_enough_and_the_rest_has_defaults() {
        let config = Config::parse("server.toml", "trust_domain = \"example.org\"").unwrap();
        assert_eq!(config.listen.port(), 8081);
        assert_eq!(
            config.database,
            PathBuf::from("/var/lib/muster/server/roll.sqlite")
        );
        assert_eq!(config.svid.node_ttl, HOUR);
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn every_fault_is_shown_at_once() {
        let text = "trust_domian = \"example.org\"\nlisten = \"nowhere\"\n[authority]\njwt_key_type = \"ed25519\"\n";
        let faults = Config::parse("server.toml", text).unwrap_err();
        insta::assert_snapshot!(faults.to_string());
    }

    #[test]
    fn a_lifetime_that_outlives_its_authority_is_warned_about() {
        let text = "trust_domain = \"td\"\n[authority]\nttl = \"1h\"\n[svid]\nx509_ttl = \"30m\"\n";
        let config = Config::parse("server.toml", text).unwrap();
        let warnings = config.warnings();
        assert_eq!(
            warnings.len(),
            2,
            "the node's SVID has the same lifetime: {warnings:?}"
        );
        assert!(
            warnings.iter().all(|w| w.contains("at least 3h")),
            "{warnings:?}"
        );
    }
}
