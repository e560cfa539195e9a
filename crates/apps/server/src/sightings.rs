//! What nodes find that looks like agents: reports put on the record, what is over forgotten.
//!
//! The rules are in `core/roll/agents/sightings.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Event, Record};
use muster_model::{Sighting, SpiffeId, Timestamp, Word};
use muster_policy::{Caller, Permit, Principal, PruneSightings, ReportSightings, decide};
use muster_roll::Roll;
use muster_roll::agents::sightings::{self, Changed, News, Settled};
use muster_store::Transaction;

use crate::operation::record;
use crate::server::Server;

/// How often it is looked for what is over.
const PERIOD: Duration = Duration::from_mins(1);
/// Rows changed in one transaction, so that a great many do not hold up other writers.
const ROWS: usize = 500;

/// Writes what follows from a report of `node`.
pub(crate) fn put(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<ReportSightings>,
    node: &SpiffeId,
    settled: &Settled,
    now: Timestamp,
) {
    for id in &settled.forgotten {
        transaction.delete_sighting(permit, id.clone());
    }
    for Changed {
        row,
        news,
        hands_down_more,
    } in &settled.changed
    {
        if let Some(said) = told(permit.principal(), row, *news, now) {
            transaction.audit(said);
        }
        if *hands_down_more {
            transaction.audit(handed_down(permit.principal(), row, now));
        }
        transaction.put_sighting(permit, row.clone());
    }
    if settled.dropped > 0 {
        metrics::counter!("muster_server_sightings_dropped_total")
            .increment(u64::try_from(settled.dropped).unwrap_or(u64::MAX));
        tracing::warn!(
            node_id = %node,
            dropped = settled.dropped,
            sightings = roll.agents().sightings().of(node).count(),
            "a node found more than is kept of one; raise sightings.per_node"
        );
    }
}

/// Judges the sightings anew that a transaction changes the classes of; the record names the server.
///
/// The writer calls it for every transaction, so that no way to such a change can forget it.
pub(crate) fn follow(roll: &Roll, transaction: &mut Transaction) {
    let first = transaction.records().first();
    let now = first.map_or(Timestamp::EPOCH, |record| {
        Timestamp::from_unix_millis(record.at_ms)
    });
    let changed = sightings::follow(roll, transaction.changes(), now);
    if changed.is_empty() {
        return;
    }
    // The table gives the server itself this action; a refusal would be a fault of the table.
    let permit: Permit<PruneSightings> = match decide(&Caller::System("judge sightings")) {
        Ok(permit) => permit,
        Err(denial) => {
            tracing::error!(%denial, "sightings stand as they did before their class changed");
            return;
        }
    };
    for Changed { row, news, .. } in changed {
        if let Some(said) = told(permit.principal(), &row, news, now) {
            transaction.audit(said);
        }
        transaction.put_sighting(&permit, row);
    }
}

/// The record of what is new about a sighting, if that is worth one.
fn told(principal: &Principal, row: &Sighting, news: News, now: Timestamp) -> Option<Record> {
    let event = match news {
        News::New | News::Back | News::Standing => Event::AgentSighted,
        News::Gone => Event::AgentSightingGone,
        News::Nothing => return None,
    };
    let said = of(principal, row, event, now);
    Some(match news {
        News::Back => said.with("stage", "back"),
        News::Standing => said.with("stage", "standing"),
        News::New | News::Gone | News::Nothing => said,
    })
}

/// The record of secrets that a sighting hands down: the most that were seen at a time.
fn handed_down(principal: &Principal, row: &Sighting, now: Timestamp) -> Record {
    let inherited = &row.seen.inherited;
    let variables: BTreeSet<&str> = inherited.iter().map(|one| one.variable.as_str()).collect();
    let variables: Vec<&str> = variables.into_iter().collect();
    let rows = inherited
        .iter()
        .map(|one| format!("{} {} {}", one.variable, one.by, one.count));
    let rows: Vec<String> = rows.collect();
    of(principal, row, Event::SecretInherited, now)
        .with("variables", variables.join(" "))
        .with("inherited", rows.join(", "))
}

/// A record about a sighting. Its node is the subject, as it is the node that says so.
pub(crate) fn of(principal: &Principal, row: &Sighting, event: Event, now: Timestamp) -> Record {
    let seen = &row.seen;
    let mut said = record(principal, now, event, row.node.as_str())
        .with("key", seen.key.as_str())
        .with("product", seen.product.as_str())
        .with("kind", seen.kind.as_str())
        .with("confidence", seen.confidence.as_str())
        .with("standing", row.standing.as_str())
        .with("uid", seen.uid.to_string())
        .with("executable", seen.executable.as_str());
    if !seen.unit.is_empty() {
        said = said.with("unit", seen.unit.as_str());
    }
    if !seen.providers.is_empty() {
        let providers: Vec<&str> = seen.providers.iter().map(Word::as_str).collect();
        said = said.with("providers", providers.join(" "));
    }
    if let Some(id) = seen.identities.first() {
        said = said.with("identity", id.as_str());
    }
    said
}

/// A reconciler: forgets what is gone for long, and notes what nobody will tell of any more. Takes
/// no input.
pub(crate) async fn prune(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (now, forget_after) = (server.clock.now().wall, server.sightings.forget_after);
        let (forgotten, orphaned) = sightings::due(&server.roll.snapshot(), forget_after, now, 1);
        if forgotten.is_empty() && orphaned.is_empty() {
            continue;
        }
        // The table gives the server itself this action; a refusal would be a fault of the table.
        let Ok(permit) = decide::<PruneSightings>(&Caller::System("prune sightings")) else {
            continue;
        };
        let done = server.roll.write(move |roll, transaction| {
            let (forgotten, orphaned) = sightings::due(roll, forget_after, now, ROWS);
            for id in forgotten {
                transaction.delete_sighting(&permit, id);
            }
            for row in orphaned {
                let said = of(permit.principal(), &row, Event::AgentSightingGone, now);
                transaction.audit(said.with("cause", "node_gone"));
                transaction.put_sighting(&permit, row);
            }
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "sightings could not be pruned; trying again");
        }
    }
}

/// Sets the gauges, by kind and state; both are closed sets.
pub(crate) fn gauge(roll: &Roll) {
    for (kind, state, count) in roll.agents().sightings().counts() {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!("muster_server_sightings", "kind" => kind.as_str(), "state" => state.as_str())
            .set(count);
    }
}
