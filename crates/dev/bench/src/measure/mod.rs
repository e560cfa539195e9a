//! What is measured. Start at [`all`]; each measurement is a module of its own.

mod agents;
mod arrival;
mod connections;
mod entries;
mod gone;
mod live_tasks;
mod neighbours;
mod policy;
mod rules;
mod sightings;
mod signing;
mod streams;
mod suspended;
mod swarm;
mod tasks;
mod tokens;
mod workload;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::clock::Stopwatch;
use crate::subject::Kind;

/// The measurements, by the names that `--only` takes.
pub(crate) const NAMES: [&str; 18] = [
    "arrival",
    "signing",
    "connections",
    "neighbours",
    "gone",
    "streams",
    "tokens",
    "entries",
    "sightings",
    "rules",
    "policy",
    "tasks",
    "suspended",
    "swarm-idle",
    "swarm-churn",
    "swarm-storm",
    "swarm-streams",
    "restart",
];

/// Those that are played by a swarm, on servers of their own, and only when they are named: they
/// take minutes.
const SWARMS: [(&str, &str); 4] = [
    ("swarm-idle", "idle"),
    ("swarm-churn", "churn"),
    ("swarm-storm", "storm"),
    ("restart", "restart"),
];

/// How much of each is done.
pub(crate) struct Sizes {
    /// Workloads that wait for their entry.
    pub(crate) waiters: usize,
    /// For how long signatures are asked for.
    pub(crate) signing: Duration,
    /// Tokens fetched, one after another.
    pub(crate) tokens: usize,
    /// Connections opened, one after another.
    pub(crate) connections: usize,
    /// For how long a neighbour floods.
    pub(crate) flood: Duration,
    /// Processes that end while they hold a stream.
    pub(crate) gone: usize,
    /// Streams open at once.
    pub(crate) streams: usize,
    /// Entries under one parent.
    pub(crate) entries: usize,
    /// How long a peer may take for its entries.
    pub(crate) peer_entries: Duration,
    /// Decisions by each set of policies, one after another.
    pub(crate) decisions: usize,
    /// Processes among which a node looks for agents.
    pub(crate) sighted: usize,
    /// Tasks opened, one after another.
    pub(crate) tasks: usize,
    /// For how long tasks come and go.
    pub(crate) come_and_go: Duration,
    /// Tasks that are live at once.
    pub(crate) live: usize,
    /// Nodes with agents of a class that is suspended.
    pub(crate) suspended: usize,
    /// Workloads that come under one identity rule.
    pub(crate) newcomers: usize,
    /// How many a swarm has.
    pub(crate) swarm: Swarm,
}

/// The size of a swarm: the same for all that are measured in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swarm {
    /// Thousands, as the bars mean it.
    Full,
    /// As many as SPIRE weathers within minutes.
    Beside,
    /// As many as are there in seconds.
    Quick,
}

impl Sizes {
    /// The counts that the bars are meant for.
    pub(crate) const FULL: Self = Self {
        waiters: 1000,
        signing: Duration::from_secs(10),
        tokens: 20_000,
        connections: 3000,
        flood: Duration::from_secs(10),
        gone: 200,
        streams: 10_000,
        entries: 100_000,
        peer_entries: Duration::from_mins(2),
        decisions: 20_000,
        sighted: 500,
        tasks: 1000,
        come_and_go: Duration::from_secs(10),
        live: 10_000,
        suspended: 100,
        newcomers: 10_000,
        swarm: Swarm::Full,
    };
    /// The same in under a minute.
    pub(crate) const QUICK: Self = Self {
        waiters: 40,
        signing: Duration::from_secs(1),
        tokens: 2000,
        connections: 200,
        flood: Duration::from_secs(3),
        gone: 20,
        streams: 200,
        entries: 5000,
        peer_entries: Duration::from_secs(10),
        decisions: 2000,
        sighted: 100,
        tasks: 50,
        come_and_go: Duration::from_secs(2),
        live: 300,
        suspended: 5,
        newcomers: 100,
        swarm: Swarm::Quick,
    };
}

/// A bar that a figure should clear.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// Something that was measured.
#[derive(Clone, Serialize)]
pub(crate) struct Figure {
    /// What it is, unique in a run.
    pub(crate) what: String,
    /// Its value.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: Cow<'static, str>,
    /// Whether more is better, for the ratio; `None` where there is nothing to compare.
    pub(crate) more_is_better: Option<bool>,
    /// What it should be.
    pub(crate) bar: Option<Bar>,
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit: unit.into(),
            more_is_better: None,
            bar: None,
        }
    }

    /// A time in milliseconds: less is better.
    fn time(what: impl Into<String>, value: f64) -> Self {
        Self {
            more_is_better: Some(false),
            ..Self::new(what, value, "ms")
        }
    }

    /// A rate by the second: more is better.
    fn rate(what: impl Into<String>, value: f64) -> Self {
        Self {
            more_is_better: Some(true),
            ..Self::new(what, value, "/s")
        }
    }

    /// Memory in MiB: less is better.
    fn memory(what: impl Into<String>, value: f64) -> Self {
        Self {
            more_is_better: Some(false),
            ..Self::new(what, value, "MiB")
        }
    }

    fn at_most(mut self, limit: f64) -> Self {
        self.bar = Some(Bar::AtMost(limit));
        self
    }

    fn at_least(mut self, limit: f64) -> Self {
        self.bar = Some(Bar::AtLeast(limit));
        self
    }
}

/// Runs every wanted measurement on one kind of processes, one after another.
pub(crate) async fn all(
    kind: &Kind,
    sizes: &Sizes,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let told = |name: &str, watch: &Stopwatch| {
        println!(
            "{}: {name} took {:.0} s",
            kind.name(),
            watch.elapsed().as_secs_f64()
        );
    };
    let domain_names = [
        "signing",
        "arrival",
        "connections",
        "neighbours",
        "gone",
        "streams",
        "sightings",
        "rules",
        "tokens",
    ];
    if domain_names.iter().any(|name| wanted(name)) {
        let domain = kind.start().await?;
        workload::register(&domain).await?;
        // Signing comes before there are a thousand entries, tokens last: they kill the server.
        for name in domain_names {
            // SPIRE's agent knows no neighbours, and would only show how long a flood lasts.
            let ours_only =
                matches!(name, "neighbours" | "gone" | "sightings" | "rules") && !kind.is_ours();
            if !wanted(name) || ours_only {
                continue;
            }
            let watch = Stopwatch::start();
            let outcome = match name {
                "signing" => signing::measure(&domain, sizes).await,
                "arrival" => arrival::measure(&domain, sizes).await,
                "connections" => connections::measure(&domain, sizes).await,
                "neighbours" => neighbours::measure(&domain, sizes).await,
                "gone" => gone::measure(&domain, sizes).await,
                "streams" => streams::measure(kind, &domain, sizes).await,
                "sightings" => sightings::measure(&domain, sizes).await,
                "rules" => rules::measure(&domain, sizes).await,
                _ => tokens::measure(&domain, sizes).await,
            };
            figures.extend(outcome.map_err(|error| format!("{} {name}: {error}", kind.name()))?);
            told(name, &watch);
        }
    }
    if wanted("swarm-streams") {
        let watch = Stopwatch::start();
        for layout in swarm::LAYOUTS {
            // A node that has held thousands of streams would hide what the next ones cost.
            let domain = kind.start().await?;
            workload::register(&domain).await?;
            let outcome = swarm::streams(kind, &domain, sizes, layout).await;
            figures.extend(outcome.map_err(|error| format!("{}: {error}", kind.name()))?);
        }
        told("swarm-streams", &watch);
    }
    if wanted("entries") {
        let watch = Stopwatch::start();
        let outcome = entries::measure(kind, sizes).await;
        figures.extend(outcome.map_err(|error| format!("{} entries: {error}", kind.name()))?);
        told("entries", &watch);
    }
    // No process takes part, so that there is nothing to compare with.
    if wanted("policy") && kind.is_ours() {
        let watch = Stopwatch::start();
        figures.extend(policy::measure(sizes).await?);
        told("policy", &watch);
    }
    if let Kind::Muster(muster) = kind {
        for name in ["tasks", "suspended"] {
            if !wanted(name) {
                continue;
            }
            let watch = Stopwatch::start();
            let outcome = of_agents(name, muster, sizes).await;
            figures.extend(outcome.map_err(|error| format!("Muster {name}: {error}"))?);
            told(name, &watch);
        }
    }
    for (name, scenario) in SWARMS {
        // Only our own database can be filled before a start.
        if wanted(name) && (scenario != "restart" || kind.is_ours()) {
            let watch = Stopwatch::start();
            let outcome = swarm::measure(kind, scenario, sizes).await;
            figures.extend(outcome.map_err(|error| format!("{} {name}: {error}", kind.name()))?);
            told(name, &watch);
        }
    }
    Ok(figures)
}

/// What only Muster has, on servers and nodes of its own.
async fn of_agents(name: &str, muster: &Path, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    if name == "suspended" {
        return suspended::measure(muster, sizes).await;
    }
    let mut figures = tasks::measure(muster, sizes).await?;
    figures.extend(live_tasks::measure(muster, sizes).await?);
    Ok(figures)
}
