//! The `[sds]` table: how the node serves Envoy.

use muster_rt::config::{self, Table};

/// The presets of names.
const PRESETS: &[(&str, Preset)] = &[("spire", Preset::Spire), ("istio", Preset::Istio)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Preset {
    Spire,
    Istio,
}

/// How the Secret Discovery Service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdsConfig {
    /// Whether it is served at all.
    pub enabled: bool,
    /// The name of the caller's first X509-SVID.
    pub default_svid_name: String,
    /// The name of the own trust domain's bundle; none when no name is left for it.
    pub default_bundle_name: Option<String>,
    /// The name of all bundles together.
    pub default_all_bundles_name: String,
    /// Whether proxies that say nothing get a plain list of authorities, and not the
    /// configuration of Envoy's SPIFFE validator.
    pub disable_spiffe_cert_validation: bool,
}

impl SdsConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let preset = table.default("preset", config::one_of(PRESETS), Preset::Spire);
        // Istio's proxies ask for `ROOTCA` only, and are to know foreign domains by it.
        let (bundle, all) = match preset {
            Preset::Spire => (Some("ROOTCA"), "ALL"),
            Preset::Istio => (None, "ROOTCA"),
        };
        let name = |key: &'static str| {
            table.optional(key, config::text("a name that is not empty", not_empty))
        };
        let read = Self {
            enabled: table.default("enabled", config::boolean(), true),
            default_svid_name: name("default_svid_name").unwrap_or_else(|| "default".to_owned()),
            default_bundle_name: name("default_bundle_name").or_else(|| bundle.map(str::to_owned)),
            default_all_bundles_name: name("default_all_bundles_name")
                .unwrap_or_else(|| all.to_owned()),
            disable_spiffe_cert_validation: table.default(
                "disable_spiffe_cert_validation",
                config::boolean(),
                false,
            ),
        };
        let names = [
            ("default_svid_name", Some(&read.default_svid_name)),
            ("default_bundle_name", read.default_bundle_name.as_ref()),
            (
                "default_all_bundles_name",
                Some(&read.default_all_bundles_name),
            ),
        ];
        for (n, (key, value)) in names.iter().enumerate() {
            let Some(value) = value else { continue };
            if names.iter().take(n).any(|(_, other)| *other == Some(value)) {
                table.reject(
                    key,
                    format!("{value:?} names two things"),
                    "give each of the default names a value of its own",
                );
            }
            if value.starts_with("spiffe://") {
                table.reject(
                    key,
                    format!("{value:?} would hide the SPIFFE ID of that name"),
                    "choose a name that is no SPIFFE ID",
                );
            }
        }
        read
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("the name is empty")
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn read(table: &str) -> Result<super::SdsConfig, String> {
        let text = format!(
            "trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n[sds]\n{table}\n"
        );
        Config::parse("node.toml", &text)
            .map(|config| config.sds)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn presets_and_names() {
        let spire = read("").unwrap();
        assert!(spire.enabled && !spire.disable_spiffe_cert_validation);
        assert_eq!(spire.default_svid_name, "default");
        assert_eq!(spire.default_bundle_name.as_deref(), Some("ROOTCA"));
        assert_eq!(spire.default_all_bundles_name, "ALL");
        let istio = read("preset = \"istio\"").unwrap();
        assert_eq!(istio.default_bundle_name, None);
        assert_eq!(istio.default_all_bundles_name, "ROOTCA");
        for (bad, word) in [
            ("default_svid_name = \"ALL\"", "two things"),
            ("default_svid_name = \"\"", "default_svid_name"),
            ("default_svid_name = \"spiffe://a/b\"", "hide"),
            ("preset = \"linkerd\"", "preset"),
            (
                "preset = \"istio\"\ndefault_bundle_name = \"ROOTCA\"",
                "two things",
            ),
        ] {
            let faults = read(bad).unwrap_err();
            assert!(faults.contains(word), "{faults}");
        }
    }
}
