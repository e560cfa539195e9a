//! `[sightings]`: looking for processes that look like AI agents.

use std::time::Duration;

use muster_model::{Confidence, SightingKind, Word};
use muster_rt::config::{self, Table};
use muster_sighting::Custom;

/// The shortest time between two sweeps.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_hours(24);

const SURE: &[(&str, Confidence)] = &[
    ("possible", Confidence::Possible),
    ("likely", Confidence::Likely),
    ("certain", Confidence::Certain),
];

/// What to look for, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SightingsConfig {
    /// How long between two sweeps; 0 is never, but when asked.
    pub interval: Duration,
    /// How sure a finding must be to be reported.
    pub at_least: Confidence,
    /// Signatures beside those of the table.
    pub own: Vec<Custom>,
}

impl SightingsConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let interval = table.default(
            "interval",
            config::duration_within(Duration::ZERO..=LONGEST),
            Duration::from_mins(1),
        );
        if !interval.is_zero() && interval < SHORTEST {
            table.reject(
                "interval",
                "a sweep looks at every process of the machine",
                "give at least \"1s\", or \"0s\" for none",
            );
        }
        Self {
            interval,
            at_least: table.default("at_least", config::one_of(SURE), Confidence::Likely),
            own: table
                .tables("signature")
                .iter()
                .filter_map(signature)
                .collect(),
        }
    }
}

fn signature(table: &Table<'_>) -> Option<Custom> {
    let kinds: Vec<(&str, SightingKind)> = SightingKind::ALL
        .iter()
        .map(|kind| (kind.as_str(), *kind))
        .collect();
    let texts = |key: &str| table.default(key, config::list(config::string()), Vec::new());
    let product = table.required(
        "name",
        config::text("a name such as \"house-agent\"", Word::parse),
    );
    let kind = table.required("kind", config::one_of(&kinds));
    let (executables, scripts) = (texts("executables"), texts("scripts"));
    let (modules, libraries) = (texts("modules"), texts("libraries"));
    let variables = texts("variables");
    let ports = table.default(
        "ports",
        config::list(config::integer(1..=65_535)),
        Vec::new(),
    );
    let custom = Custom {
        product: product?,
        kind: kind?,
        executables,
        scripts,
        modules,
        libraries,
        variables,
        ports,
    };
    if let Err(why) = custom.check() {
        table.reject("name", why.to_string(), "see docs/sightings.md");
        return None;
    }
    Some(custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const LEAST: &str = "trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n";

    #[test]
    fn the_documented_defaults() {
        let found = Config::parse("node.toml", LEAST).unwrap().sightings;
        assert_eq!(found.interval, Duration::from_mins(1));
        assert_eq!(found.at_least, Confidence::Likely);
        assert!(found.own.is_empty());
    }

    #[test]
    fn signatures_of_ones_own_are_read_and_checked() {
        let text = "[sightings]\ninterval = \"0s\"\nat_least = \"certain\"\n\
            [[sightings.signature]]\nname = \"house\"\nkind = \"framework\"\n\
            scripts = [\"house/*.py\"]\nports = [9000]\n";
        let found = Config::parse("node.toml", &format!("{LEAST}{text}"))
            .unwrap()
            .sightings;
        assert!(found.interval.is_zero());
        assert_eq!(found.own[0].scripts, ["house/*.py"]);
        for (bad, word) in [
            ("[sightings]\ninterval = \"10ms\"\n", "1s"),
            (
                "[[sightings.signature]]\nname = \"x\"\nkind = \"cli\"\n",
                "known by nothing",
            ),
            (
                "[[sightings.signature]]\nname = \"x\"\nkind = \"cli\"\nscripts = [\"*\"]\n",
                "everything",
            ),
            (
                "[[sightings.signature]]\nname = \"x\"\nkind = \"toaster\"\n",
                "kind",
            ),
        ] {
            let faults = Config::parse("node.toml", &format!("{LEAST}{bad}")).unwrap_err();
            assert!(faults.to_string().contains(word), "{faults}");
        }
    }
}
