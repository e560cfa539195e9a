//! `[wit]`: whether the Workload API serves WIT-SVIDs (WIT-02: not unless the operator says so).

use muster_crypto::KeyType;
use muster_rt::config::{self, Table};

use super::LARGEST_CACHE;

/// Ed25519 is not among the algorithms of WIT-SVIDs (WIT-07).
const KEY_TYPES: &[(&str, KeyType)] = &[
    ("ec-p256", KeyType::EcP256),
    ("ec-p384", KeyType::EcP384),
    ("rsa-2048", KeyType::Rsa2048),
    ("rsa-4096", KeyType::Rsa4096),
];

/// How WIT-SVIDs are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WitConfig {
    /// Whether they are.
    pub enabled: bool,
    /// Key type of the workloads' keys.
    pub key_type: KeyType,
    /// The most to keep for entries that nobody streams any more.
    pub cache_max: usize,
}

pub(super) fn read(table: &Table<'_>) -> WitConfig {
    let enabled = table.default("enabled", config::boolean(), false);
    for key in ["key_type", "cache_max"] {
        if !enabled && table.has(key) {
            table.reject(
                key,
                "the WIT profile is off",
                "set enabled = true, or remove the key",
            );
        }
    }
    WitConfig {
        enabled,
        key_type: table.default("key_type", config::one_of(KEY_TYPES), KeyType::EcP256),
        cache_max: table.default("cache_max", config::integer(0..=LARGEST_CACHE), 1000),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n{more}");
        Config::parse("node.toml", &text).map_err(|faults| faults.to_string())
    }

    /// WIT-02, WIT-07.
    #[test]
    fn off_by_default_and_only_keys_that_sign_tokens() {
        assert!(!parse("").unwrap().wit.enabled);
        assert!(parse("[wit]\nenabled = true").unwrap().wit.enabled);
        let ed25519 = parse("[wit]\nenabled = true\nkey_type = \"ed25519\"").unwrap_err();
        assert!(ed25519.contains("ec-p256"), "{ed25519}");
        let idle = parse("[wit]\ncache_max = 5").unwrap_err();
        assert!(idle.contains("enabled = true"), "{idle}");
    }
}
