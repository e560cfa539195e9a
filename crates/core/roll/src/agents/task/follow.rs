//! What becomes of tasks because of other changes.

use muster_model::{Cause, InstanceState, SpiffeId, Task, Timestamp};

use super::{End, Ends, ground};
use crate::agents::lifecycle::TaskStep;
use crate::agents::{AgentChange, Agents};
use crate::{Change, Roll};

/// The rows of the tasks that end because of changes that are about to be made to `roll`: their class
/// is no longer active, their agent is barred or lost, their node is banned or gone, or nothing gives
/// their agent's name there any more. They are written in the transaction of those changes, so that no
/// instant lies between.
pub fn follow(roll: &Roll, changes: &[Change], now: Timestamp) -> Vec<Task> {
    let agents = roll.agents();
    let mut ends = Ends::default();
    for change in changes {
        match change {
            Change::Agent(AgentChange::PutClass(class)) if !class.is_active() => {
                let of_class = agents.live_tasks_of(class.name.as_str());
                revoke(
                    &mut ends,
                    of_class.map(AsRef::as_ref),
                    Cause::ClassNotActive,
                    now,
                );
            }
            Change::Agent(AgentChange::PutInstance(instance)) => {
                let cause = match instance.state {
                    InstanceState::Registered | InstanceState::Active => continue,
                    InstanceState::Lost => instance.cause,
                    InstanceState::Quarantined | InstanceState::Retired => Cause::AgentBarred,
                };
                let of_agent = agents.tasks_of(&instance.id);
                revoke(&mut ends, of_agent.map(AsRef::as_ref), cause, now);
            }
            Change::PutNode(node) if node.is_banned() => lose(&mut ends, agents, &node.id, now),
            Change::DeleteNode(id) => lose(&mut ends, agents, id, now),
            Change::PutNode(_)
            | Change::PutEntry(_)
            | Change::DeleteEntry(_)
            | Change::PutJoinToken(_)
            | Change::DeleteJoinToken(_)
            | Change::PutBundle(_)
            | Change::DeleteBundle(_)
            | Change::PutRule(_)
            | Change::DeleteRule(_)
            | Change::PutJournal { .. }
            | Change::Agent(
                AgentChange::PutClass(_)
                | AgentChange::DeleteInstance(_)
                | AgentChange::PutTask(_)
                | AgentChange::DeleteTask(_)
                | AgentChange::PutDeparture(_)
                | AgentChange::DeleteDeparture(_)
                | AgentChange::PutPolicies { .. }
                | AgentChange::DeletePolicies(_)
                | AgentChange::PutSighting(_)
                | AgentChange::DeleteSighting(_),
            ) => {}
        }
    }
    for task in ground::lost(roll, changes) {
        revoke(&mut ends, std::iter::once(&*task), Cause::NameGone, now);
    }
    if !ends.is_empty() {
        ends.cascade(agents, now);
    }
    ends.into_rows().collect()
}

fn lose(ends: &mut Ends, agents: &Agents, node: &SpiffeId, now: Timestamp) {
    let on_node = agents.live_tasks_on(node).map(AsRef::as_ref);
    revoke(ends, on_node, Cause::NodeGone, now);
}

fn revoke<'a>(
    ends: &mut Ends,
    tasks: impl Iterator<Item = &'a Task>,
    cause: Cause,
    now: Timestamp,
) {
    let end = End::by_server(TaskStep::Revoke, cause, now);
    for task in tasks {
        ends.end(task, &end);
    }
}
