//! `[node]`: what nodes may do beyond the ordinary.

use std::time::Duration;

use muster_attest::node::plugin;
use muster_attest::plugin::{PluginOptions, read_list};
use muster_rt::config::{self, Table};

/// The longest grace: a key that was in use so long ago has had time to be found.
const LONGEST_GRACE: Duration = Duration::from_hours(24 * 30);

/// What nodes may do beyond the ordinary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// How long after its SVID has expired a node may still renew it, by proof of its key; zero is
    /// not at all, as in SPIRE.
    pub renew_grace: Duration,
    /// Programs that attest nodes, beside join tokens.
    pub plugins: Vec<PluginOptions>,
}

impl NodeConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            renew_grace: table.default(
                "renew_grace",
                config::duration_within(Duration::ZERO..=LONGEST_GRACE),
                Duration::ZERO,
            ),
            plugins: read_list(table, plugin::name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn read(text: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"example.org\"\n{text}\n");
        Config::parse("server.toml", &text).map_err(|faults| faults.to_string())
    }

    #[test]
    fn plugins() {
        let text = "[[node.plugin]]\nname = \"x509pop\"\ncommand = [\"/p\", \"server\"]\n[[node.plugin]]\nname = \"b\"\nsocket = \"/s\"";
        let names: Vec<&str> = read(text)
            .unwrap()
            .node
            .plugins
            .iter()
            .map(|plugin| plugin.name.as_str())
            .collect();
        assert_eq!(names, ["x509pop", "b"]);
        for (text, word) in [
            ("name = \"join_token\"\nsocket = \"/s\"", "itself"),
            ("name = \"a\"", "either"),
            (
                "name = \"a\"\nsocket = \"/s\"\n[[node.plugin]]\nname = \"a\"\nsocket = \"/t\"",
                "two plugins",
            ),
        ] {
            let found = read(&format!("[[node.plugin]]\n{text}")).unwrap_err();
            assert!(found.contains(word), "{found}");
        }
    }
}
