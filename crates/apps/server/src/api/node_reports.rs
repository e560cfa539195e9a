//! What nodes tell of their callers: how much of it goes on the record, and how what does not is
//! counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_audit::Record;
use muster_model::{FieldError, SpiffeId, Task, TaskId};
use muster_roll::Roll;
use muster_rt::ration::Ration;
use tonic::{Code, Status};

use crate::agents::refusal;
use crate::errors;
use crate::server::Server;

/// What a node may put on the record: twice what one of ours tells.
const RATION: Ration = Ration::new(Duration::from_millis(500), 128);
/// When this many nodes are known, those that owe nothing are forgotten.
const SWEEP_AT: usize = 4096;

/// What nodes have told of late, by what they tell.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) refusals: Rations,
    pub(crate) attestations: Rations,
}

/// What each node has told of late.
#[derive(Default)]
pub(crate) struct Rations(Mutex<BTreeMap<SpiffeId, Ration>>);

impl Rations {
    /// How many of `wanted` records `node` may have written now, on the monotonic clock.
    pub(super) fn take(&self, node: &SpiffeId, wanted: usize, now: Duration) -> usize {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= SWEEP_AT {
            nodes.retain(|_, ration| !ration.is_full(now));
        }
        let ration = nodes.entry(node.clone()).or_insert(RATION);
        let count = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .min(ration.left(now));
        ration.take(count, now);
        usize::try_from(count).unwrap_or(wanted)
    }
}

/// Everything is read before anything is written.
pub(super) fn read_all<M, T>(
    messages: &[M],
    most: usize,
    (what, reason): (&str, &'static str),
    read: impl Fn(&M) -> Result<T, FieldError>,
) -> Result<Vec<T>, Status> {
    let count = messages.len();
    if count > most {
        return Err(refusal(
            Code::InvalidArgument,
            format!("{count} {what} at once; tell at most {most}"),
            reason,
        ));
    }
    let read = |one| {
        read(one)
            .map_err(|error| refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD"))
    };
    messages.iter().map(read).collect()
}

/// Writes records, and with the first how many times something happened of which there is none; where
/// there is no record to say so, `lost` counts it.
pub(super) async fn put_on_record(
    server: &Server,
    mut records: Vec<Record>,
    unreported: u64,
    lost: &'static str,
) -> Result<(), Status> {
    if let Some(first) = records.first_mut().filter(|_| unreported > 0) {
        first
            .detail
            .insert("unreported".to_owned(), unreported.to_string());
    } else if unreported > 0 {
        metrics::counter!(lost).increment(unreported);
    }
    if records.is_empty() {
        return Ok(());
    }
    let written = server.roll.audit(records).await;
    written.map_err(|error| errors::write(&error))
}

/// The task of which a node tells. Of another node's task a node tells nothing.
pub(super) fn task_of<'r>(roll: &'r Roll, node: &SpiffeId, id: Option<TaskId>) -> Option<&'r Task> {
    let task = roll.agents().task(id?)?;
    (task.node == *node).then_some(task)
}

/// What a record says of the task on whose socket something happened.
pub(super) fn on_task(said: Record, task: &Task) -> Record {
    let said = said
        .with("task", task.id.to_string())
        .with("agent", task.instance.as_str())
        .with("class", task.class.as_str())
        .with("root", task.root.to_string());
    match task.parent {
        Some(parent) => said.with("parent", parent.to_string()),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_tells_too_much_takes_nothing_from_another() {
        let rations = Rations::default();
        let node =
            |name: &str| SpiffeId::parse(&format!("spiffe://td/spire/agent/{name}")).unwrap();
        let now = Duration::from_secs(100);
        assert_eq!(rations.take(&node("a"), 64, now), 64);
        assert_eq!(rations.take(&node("a"), 100, now), 64);
        assert_eq!(rations.take(&node("a"), 64, now), 0);
        assert_eq!(rations.take(&node("b"), 64, now), 64);
        let later = now + Duration::from_secs(2);
        assert_eq!(rations.take(&node("a"), 64, later), 4);
    }
}
