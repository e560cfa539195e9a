//! `[wit]`: whether WIT-SVIDs are signed (WIT-02: not unless the operator says so).

use muster_rt::config::{self, Table};
use muster_svid::wit::check_issuer;

/// How WIT-SVIDs are signed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WitConfig {
    /// Whether there is a WIT authority, and WIT-SVIDs are signed.
    pub enabled: bool,
    /// `iss` of WIT-SVIDs, if any.
    pub issuer: Option<String>,
}

pub(super) fn read(table: &Table<'_>) -> WitConfig {
    let enabled = table.default("enabled", config::boolean(), false);
    let issuer = table.optional(
        "issuer",
        // WIT-10.
        config::text(
            "an issuer that is no http or https URL, such as \"spiffe://example.org\"",
            |text: &str| check_issuer(text).map(|()| text.to_owned()),
        ),
    );
    if table.has("issuer") && !enabled {
        table.reject(
            "issuer",
            "no WIT-SVIDs are signed",
            "set enabled = true, or remove issuer",
        );
    }
    WitConfig { enabled, issuer }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"example.org\"\n{more}");
        Config::parse("server.toml", &text).map_err(|faults| faults.to_string())
    }

    /// WIT-02, WIT-10.
    #[test]
    fn off_by_default_and_no_discoverable_issuer() {
        assert!(!parse("").unwrap().wit.enabled);
        let on = parse("[wit]\nenabled = true\nissuer = \"spiffe://example.org\"").unwrap();
        assert_eq!(on.wit.issuer.as_deref(), Some("spiffe://example.org"));
        for issuer in ["https://example.org", "HTTP://example.org", ""] {
            let fault =
                parse(&format!("[wit]\nenabled = true\nissuer = \"{issuer}\"")).unwrap_err();
            assert!(fault.contains("issuer"), "{fault}");
        }
        let idle = parse("[wit]\nissuer = \"urn:x\"").unwrap_err();
        assert!(idle.contains("enabled = true"), "{idle}");
        let fault = parse("[authority]\nwit_key_type = \"ed25519\"").unwrap_err();
        assert!(fault.contains("wit_key_type"), "{fault}");
    }
}
