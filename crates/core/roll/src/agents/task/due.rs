//! What is due about tasks without anybody's asking: deadlines, nodes that are silent or gone, and
//! what ended long ago.
//!
//! A function of the roll and the time, which takes no other input: asked again when what it found
//! is written, it finds nothing.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{Cause, Node, NodeStanding, SpiffeId, Task, TaskId, Timestamp};

use super::{End, Ends, step};
use crate::Roll;
use crate::agents::lifecycle::TaskStep;
use crate::matching::seeing;

/// How long tasks are remembered that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For so long.
    pub keep_ended: Duration,
    /// But no more than so many: in a flood, those that ended first are forgotten earlier.
    pub most_ended: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            keep_ended: Duration::from_hours(24),
            most_ended: 100_000,
        }
    }
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A task has ended: its deadline has passed, its node is gone, or what it is part of has ended.
    Ended(Task),
    /// A task is paused, because its node let its SVID expire.
    Suspended(Task),
    /// Its node is back.
    Resumed(Task),
    /// A task ended long ago, and is forgotten.
    Forgotten(TaskId),
}

/// What is due now, about `most` of it; each row once.
pub fn due(roll: &Roll, patience: &Patience, now: Timestamp, most: usize) -> Vec<Due> {
    let agents = roll.agents();
    let mut ends = Ends::default();
    let end = End::by_server(TaskStep::PassDeadline, Cause::DeadlinePassed, now);
    for task in agents.overdue_tasks(now).take(most) {
        // Whenever it is noticed: the deadline was its end.
        let at = task.deadline;
        ends.end(task, &End { at, ..end.clone() });
    }
    let mut paused = Vec::new();
    let gone = End::by_server(TaskStep::Revoke, Cause::NodeGone, now);
    for id in agents.nodes_with_tasks() {
        let on_node = || agents.live_tasks_on(id);
        match presence(roll, id, now) {
            Presence::There => {}
            Presence::Silent => {
                let open = on_node().filter(|task| task.is_open()).take(most);
                let cause = || Some(Cause::NodeSilent.into());
                let suspend = |task: &Arc<Task>| step(task, TaskStep::Suspend, cause());
                paused.extend(open.filter_map(suspend).map(Due::Suspended));
            }
            Presence::Gone => on_node().take(most).for_each(|task| {
                ends.end(task, &gone);
            }),
        }
    }
    let back = agents
        .suspended_tasks()
        .filter(|task| presence(roll, &task.node, now) == Presence::There)
        .filter_map(|task| step(task, TaskStep::Resume, None));
    paused.extend(back.take(most).map(Due::Resumed));
    if !ends.is_empty() {
        ends.cascade(agents, now);
    }
    // What ends is not paused as well.
    paused.retain(|due| match due {
        Due::Suspended(task) | Due::Resumed(task) => !ends.has(task.id),
        Due::Ended(_) | Due::Forgotten(_) => true,
    });
    let mut found: Vec<Due> = ends.into_rows().map(Due::Ended).collect();
    found.append(&mut paused);
    let (all, live) = agents.task_counts();
    let too_many = all.saturating_sub(live).saturating_sub(patience.most_ended);
    let old = now.minus(patience.keep_ended);
    let forgotten = agents
        .ended_tasks()
        .enumerate()
        .take_while(|(place, task)| {
            *place < too_many || task.ended_at.unwrap_or(task.deadline) <= old
        })
        .map(|(_, task)| Due::Forgotten(task.id));
    found.extend(forgotten.take(most));
    found
}

/// How a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Silent,
    Gone,
}

fn presence(roll: &Roll, id: &SpiffeId, now: Timestamp) -> Presence {
    match seeing(roll, id) {
        None => Presence::Gone,
        Some(node) if good_until(node) <= now => Presence::Silent,
        Some(_) => Presence::There,
    }
}

/// When the last SVID of a node ends that it can hold.
fn good_until(node: &Node) -> Timestamp {
    match &node.standing {
        NodeStanding::Banned => Timestamp::EPOCH,
        NodeStanding::Active {
            expires_at, next, ..
        } => next
            .as_ref()
            .map_or(*expires_at, |(_, next)| (*next).max(*expires_at)),
    }
}
