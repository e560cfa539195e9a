//! What becomes of tasks because of other changes, in the transaction of those changes.

use std::collections::BTreeMap;

use muster_audit::{Decision, Record};
use muster_model::Timestamp;
use muster_policy::{Caller, FollowTasks, Permit, decide};
use muster_roll::Roll;
use muster_roll::agents::task;
use muster_store::Transaction;

use super::{event_of, of_task};
use crate::operation::record;

/// Ends the tasks that a transaction takes the ground from: their class is suspended, their agent
/// quarantined, their node banned. The record names who did that.
///
/// The writer calls it for every transaction, so that no way to such a change can forget it.
pub(crate) fn follow(roll: &Roll, transaction: &mut Transaction) {
    let first = transaction.records().first();
    let now = first.map_or(Timestamp::EPOCH, |record| {
        Timestamp::from_unix_millis(record.at_ms)
    });
    let rows = task::follow(roll, transaction.changes(), now);
    if rows.is_empty() {
        return;
    }
    let actor = first.map(|record| record.actor.clone());
    // The table gives the server itself this action; a refusal would be a fault of the table.
    let permit: Permit<FollowTasks> = match decide(&Caller::System("follow tasks")) {
        Ok(permit) => permit,
        Err(denial) => {
            tracing::error!(%denial, "tasks that ought to end go on");
            return;
        }
    };
    for row in rows {
        let by_server = record(permit.principal(), now, event_of(&row), row.id.to_string());
        let said = Record {
            actor: actor.clone().unwrap_or(by_server.actor),
            decision: Decision::Allowed,
            detail: BTreeMap::new(),
            ..by_server
        };
        transaction.audit(of_task(said, &row));
        transaction.put_task(&permit, row);
    }
}
