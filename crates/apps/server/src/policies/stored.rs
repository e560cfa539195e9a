//! Sets from the store, brought into force.
//!
//! Loading a large set takes a core for seconds, so it is done on a thread of its own, one set at a
//! time; the writer only checks the version. Nothing but a set that loaded takes the place of one that
//! decides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_cedar::{Limits, LoadError, PolicySet};
use muster_roll::Roll;
use muster_roll::agents::policies;
use muster_store::{Store, StoreError};
use tokio::sync::watch;
use tonic::Status;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::{BUILT_IN, InForce, Policies, small};
use crate::config::PolicyConfig;
use crate::metrics;
use crate::server::Server;

/// How often it looks whether the set in force is the newest: it always is, but after a commit of
/// which the server did not learn whether it took place.
const PERIOD: Duration = Duration::from_secs(10);

/// Where a set in force came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No set was ever stored.
    BuiltIn,
    /// A version of the store.
    Stored(u64),
    /// None of those that were stored loads.
    GuardsOnly,
}

impl Origin {
    /// The number of the version; 0 for one that was not stored.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Stored(number) => number,
            Self::BuiltIn | Self::GuardsOnly => 0,
        }
    }

    /// The word in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built_in",
            Self::Stored(_) => "stored",
            Self::GuardsOnly => "guards_only",
        }
    }
}

/// Why nothing could be brought into force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The store did not answer.
    #[error("the policies could not be read: {0}")]
    Store(#[from] StoreError),
    /// What is built in does not load, which a test rules out.
    #[error("the built-in policies do not load: {0}")]
    BuiltIn(#[from] LoadError),
}

/// A set that was loaded for a version, and is to take the place of older ones.
pub(crate) struct Fresh {
    /// The set.
    pub(crate) set: Arc<PolicySet>,
    /// Its version.
    pub(crate) number: u64,
}

/// Loads a text on a thread for such work.
pub(crate) async fn load(text: String) -> Result<Result<Arc<PolicySet>, LoadError>, Status> {
    let loading = tokio::task::spawn_blocking(move || {
        PolicySet::load(&text, &Limits::default()).map(Arc::new)
    });
    loading
        .await
        .map_err(|error| Status::internal(format!("the policies could not be loaded: {error}")))
}

impl Policies {
    /// The newest of the stored sets that loads is in force; what is built in, while none was stored.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        roll: &Roll,
        config: &PolicyConfig,
    ) -> Result<Self, OpenError> {
        let first = match newest(&*store, roll, 0).await? {
            Some(found) => found,
            None if policies::newest(roll.agents()) == 0 => InForce {
                set: small(BUILT_IN)?,
                origin: Origin::BuiltIn,
                seen: 0,
                problem: None,
            },
            None => {
                tracing::error!(
                    "none of the stored sets of policies loads: nothing is permitted to agents"
                );
                InForce {
                    set: small("")?,
                    origin: Origin::GuardsOnly,
                    seen: policies::newest(roll.agents()),
                    problem: Some("none of the sets that are stored loads".to_owned()),
                }
            }
        };
        Ok(Self::with(first, store, config))
    }

    /// Brings a set into force that was loaded and stored, unless a newer one is.
    pub(crate) fn install(&self, fresh: Fresh) {
        self.replace(InForce {
            set: fresh.set,
            origin: Origin::Stored(fresh.number),
            seen: fresh.number,
            problem: None,
        });
    }

    fn replace(&self, next: InForce) {
        static ORDER: Mutex<()> = Mutex::new(());
        let _one_by_one = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
        if next.seen <= self.current.load().seen {
            return;
        }
        tracing::info!(version = next.origin.number(), digest = %next.set.digest(), "policies in force");
        let healthy = next.problem.is_none();
        self.current.store(Arc::new(next));
        self.healthy.send_replace(healthy);
    }

    /// The text of a stored set.
    pub(crate) async fn text(&self, number: u64) -> Result<Option<String>, StoreError> {
        let text = self.store.policy_text(number).await?;
        Ok(text.map(|text| text.as_str().to_owned()))
    }
}

/// The newest stored set after version `seen` that loads; says loudly which did not.
async fn newest(store: &dyn Store, roll: &Roll, seen: u64) -> Result<Option<InForce>, StoreError> {
    let mut problem = None;
    for version in roll.agents().policies().rev() {
        if version.number <= seen {
            break;
        }
        let why = match store.policy_text(version.number).await? {
            None => "its text is gone".to_owned(),
            Some(text) => match load(text.as_str().to_owned()).await {
                Ok(Ok(set)) => {
                    return Ok(Some(InForce {
                        set,
                        origin: Origin::Stored(version.number),
                        seen: policies::newest(roll.agents()),
                        problem,
                    }));
                }
                Ok(Err(faults)) => faults.to_string(),
                Err(status) => status.message().to_owned(),
            },
        };
        metrics::policy_fault("stored");
        tracing::error!(
            version = version.number,
            error = why,
            "a stored set of policies does not load; an earlier one is in force"
        );
        problem.get_or_insert(format!("version {}: {why}", version.number));
    }
    Ok(None)
}

/// A reconciler: brings the newest stored set into force, and says which it is.
pub(crate) async fn reconcile(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let policies = &server.policies;
        let (roll, seen) = (server.roll.snapshot(), policies.in_force().seen);
        if policies::newest(roll.agents()) > seen {
            match newest(&*policies.store, &roll, seen).await {
                Ok(Some(found)) => policies.replace(found),
                // What is in force stays, and what is newer is wanting.
                Ok(None) => policies.replace(InForce {
                    set: policies.current(),
                    origin: policies.in_force().origin,
                    seen: policies::newest(roll.agents()),
                    problem: Some("no newer set loads".to_owned()),
                }),
                Err(error) => tracing::warn!(%error, "policies could not be read; trying again"),
            }
        }
        let in_force = policies.in_force();
        metrics::policies_in_force(in_force.origin.number(), policies::newest(roll.agents()));
    }
}

/// Tells those who watch the server's health whether the set in force is the one that operators want.
pub(crate) async fn tell_health(mut healthy: watch::Receiver<bool>, reporter: HealthReporter) {
    loop {
        let status = if *healthy.borrow_and_update() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter
            .set_service_status("muster.agent.v1.Policies", status)
            .await;
        if healthy.changed().await.is_err() {
            return;
        }
    }
}
