//! The server's metrics: counters where things happen, gauges when a collector asks.
//! `docs/metrics.md` lists them.

use std::sync::Arc;

use muster_rt::metrics::{Gauges, Sample};
use tonic::Code;

use crate::writer::RollHandle;

/// The gauges of this server.
pub(crate) fn gauges(roll: RollHandle) -> Gauges {
    Arc::new(move || {
        let roll = roll.snapshot();
        crate::sightings::gauge(&roll);
        Box::pin(async move {
            let head = approximate(roll.head().0);
            let (tasks, live) = roll.agents().task_counts();
            vec![
                Sample::new("muster_server_revision", head),
                Sample::count("muster_server_entries", roll.entry_count()),
                Sample::count("muster_server_nodes", roll.node_count()),
                Sample::count("muster_server_tasks", live),
                Sample::count("muster_server_tasks_remembered", tasks.saturating_sub(live)),
            ]
        })
    })
}

/// Counts a request that was answered, by its method and code: both are closed sets.
pub(crate) fn answered(method: &'static str, code: Code) {
    metrics::counter!("muster_server_requests_total", "method" => method, "code" => muster_wire::status::word_of(code))
        .increment(1);
}

/// Counts SVIDs that were signed.
pub(crate) fn signed(kind: &'static str) {
    metrics::counter!("muster_server_signatures_total", "kind" => kind).increment(1);
}

/// Counts what became of a signing authority; both are closed sets.
pub(crate) fn authority_changed(kind: &'static str, change: &'static str) {
    metrics::counter!("muster_server_authority_changes_total", "kind" => kind, "change" => change)
        .increment(1);
}

/// Counts decisions of policies, by the action and the verdict: both are closed sets.
pub(crate) fn decided(action: &'static str, allowed: bool) {
    let verdict = if allowed { "allow" } else { "refuse" };
    metrics::counter!("muster_server_policy_decisions_total", "action" => action, "verdict" => verdict)
        .increment(1);
}

/// Counts sets of policies that did not load: what was put, and what is stored.
pub(crate) fn policy_fault(what: &'static str) {
    metrics::counter!("muster_server_policy_load_failures_total", "of" => what).increment(1);
}

/// Which set of policies is in force, and which is the newest; they differ when that does not load.
pub(crate) fn policies_in_force(number: u64, newest: u64) {
    metrics::gauge!("muster_server_policy_version").set(approximate(number));
    metrics::gauge!("muster_server_policy_newest_version").set(approximate(newest));
}

/// A node's stream that is open; it is counted until this is dropped.
pub(crate) struct Following(());

impl Following {
    /// Counts a stream from now on.
    pub(crate) fn begin() -> Self {
        metrics::gauge!("muster_server_nodes_connected").increment(1.0);
        Self(())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        metrics::gauge!("muster_server_nodes_connected").decrement(1.0);
    }
}

/// The number as a gauge has it: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; revisions stay below 2^53"
)]
fn approximate(number: u64) -> f64 {
    number as f64
}
