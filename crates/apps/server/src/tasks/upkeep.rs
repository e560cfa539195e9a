//! A reconciler: ends tasks whose deadline has passed or whose node is gone, pauses those of nodes
//! that are silent, and forgets what ended long ago. Idempotent, takes no input.

use std::sync::Arc;
use std::time::Duration;

use muster_model::Timestamp;
use muster_policy::{Caller, Permit, ReconcileTasks, decide};
use muster_roll::Roll;
use muster_roll::agents::task::{self, Due, Patience};
use muster_store::Transaction;

use super::{event_of, of_task};
use crate::operation::record;
use crate::server::Server;

/// How often it looks; a look costs little when nothing is due. Nothing is signed beyond a deadline
/// in any case.
const PERIOD: Duration = Duration::from_secs(1);
/// Rows changed in one transaction, so that a great many do not hold up other writers.
const ROWS: usize = 1000;

/// Reconciles for ever.
pub(crate) async fn reconcile(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (now, patience) = (server.clock.now().wall, server.tasks.patience);
        // Until nothing is left: in a flood more falls due in a second than one transaction takes.
        while !task::due(&server.roll.snapshot(), &patience, now, 1).is_empty() {
            // The table gives the server itself this action; a refusal would be a fault of it.
            let Ok(permit) = decide::<ReconcileTasks>(&Caller::System("reconcile tasks")) else {
                break;
            };
            let done = server
                .roll
                .write(move |roll, transaction| settle(roll, transaction, &permit, &patience, now));
            if let Err(error) = done.await {
                tracing::warn!(%error, "what is due about tasks could not be written; trying again");
                break;
            }
        }
    }
}

fn settle(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<ReconcileTasks>,
    patience: &Patience,
    now: Timestamp,
) {
    for due in task::due(roll, patience, now, ROWS) {
        match due {
            Due::Ended(row) | Due::Suspended(row) | Due::Resumed(row) => {
                let said = record(permit.principal(), now, event_of(&row), row.id.to_string());
                transaction.audit(of_task(said, &row));
                transaction.put_task(permit, row);
            }
            // Its end is on record for good.
            Due::Forgotten(id) => transaction.delete_task(permit, id),
        }
    }
}
