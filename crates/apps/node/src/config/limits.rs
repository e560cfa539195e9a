//! `[limits]`: what each neighbour may ask of the Workload API.

use muster_peer::{Allowance, Rate};
use muster_rt::config::{self, Table};

/// What may be written for a rate or a burst.
const RATE: std::ops::RangeInclusive<i64> = 1..=10_000_000;

/// What each user, and each user in a control group, may ask of the Workload API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections that one user's processes hold open.
    pub connections_per_user: usize,
    /// New connections and calls.
    pub allowance: Allowance,
}

/// Reads the table. What is not written follows from the socket's own limits: three quarters of
/// all connections and calls, so that one user cannot keep the others out.
pub(super) fn read(table: &Table<'_>, max_connections: usize, max_calls: usize) -> LimitsConfig {
    let part = |all: usize| all - all / 4;
    let default = Allowance::default();
    let rate = |per_second: &str, burst: &str, default: Rate| Rate {
        per_second: table.default(per_second, config::integer(RATE), default.per_second),
        burst: table.default(burst, config::integer(RATE), default.burst),
    };
    LimitsConfig {
        connections_per_user: table.default(
            "connections_per_user",
            config::integer(1..=1_000_000),
            part(max_connections),
        ),
        allowance: Allowance {
            connections: rate("connects_per_second", "connects_burst", default.connections),
            calls: rate("calls_per_second", "calls_burst", default.calls),
            open_calls: table.default(
                "calls_per_user",
                config::integer(1..=10_000_000),
                part(max_calls),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn limits(text: &str) -> super::LimitsConfig {
        let least = "trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n";
        Config::parse("node.toml", &format!("{least}{text}"))
            .unwrap()
            .limits
    }

    #[test]
    fn the_documented_defaults() {
        let found = limits("");
        assert_eq!(found.connections_per_user, 12_288);
        assert_eq!(found.allowance, muster_peer::Allowance::default());
        let found = limits("[workload_api]\nmax_connections = 400\n");
        assert_eq!(found.connections_per_user, 300);
    }

    #[test]
    fn what_is_written_counts() {
        let found =
            limits("[limits]\nconnects_per_second = 5\ncalls_burst = 6\ncalls_per_user = 7\n");
        assert_eq!(found.allowance.connections.per_second, 5);
        assert_eq!(found.allowance.calls.burst, 6);
        assert_eq!(found.allowance.open_calls, 7);
    }
}
