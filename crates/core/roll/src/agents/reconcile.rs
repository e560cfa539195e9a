//! What is due without anybody's asking: dates that have passed, persons who are gone, agents that
//! are no longer seen.
//!
//! A function of the roll and the time, which takes no other input: asked again when what it found
//! is written, it finds nothing.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{AgentClass, AgentInstance, Lifecycle, Note, Timestamp};

use super::Agents;
use super::instance;
use super::lifecycle::{ClassStep, InstanceStep};
use super::rules::{self, Deed};
use crate::Roll;
use crate::matching::seeing;

const DAY: Duration = Duration::from_hours(24);

/// Who does it, as records show.
pub const SERVER: &str = "the server";

/// How patient the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long before a review is due it is warned of.
    pub warn_before: Duration,
    /// An active class of which nothing was seen for so long is suspended.
    pub idle_after: Duration,
    /// An instance that was not seen for so long is lost.
    pub lost_after: Duration,
    /// An instance that was not seen for so long, and is lost, is forgotten.
    pub forget_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            warn_before: DAY * 14,
            idle_after: DAY * 90,
            lost_after: DAY,
            forget_after: DAY * 90,
        }
    }
}

/// Something that is due: the row as it is from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The review of a class comes nearer; it was noted that this was said.
    Warning(AgentClass),
    /// A class stands elsewhere now; its standing says why.
    Class(AgentClass),
    /// An instance is lost.
    Lost(AgentInstance),
    /// An instance is lost since long, and is forgotten.
    Forgotten(Arc<AgentInstance>),
}

/// What is due now, at most `most` of it; each row once.
pub fn due(roll: &Roll, settings: &Settings, now: Timestamp, most: usize) -> Vec<Due> {
    let agents = roll.agents();
    let mut found: Vec<Due> = agents
        .classes()
        .filter_map(|class| of_class(agents, class, settings, now))
        .take(most)
        .collect();
    let unseen = now.minus(settings.lost_after);
    let by_node = agents
        .live_by_node
        .0
        .iter()
        .filter(|(node, _)| seeing(roll, node).is_none())
        .flat_map(|(_, ids)| ids)
        .filter_map(|id| agents.instance(id))
        .map(|instance| (instance, InstanceStep::LoseNode));
    let by_sight = agents
        .live_by_sight
        .0
        .range(..unseen)
        .flat_map(|(_, ids)| ids)
        .filter_map(|id| agents.instance(id))
        // Those of lost nodes were found above.
        .filter(|instance| {
            let node = instance.node.as_ref();
            node.is_none_or(|node| seeing(roll, node).is_some())
        })
        .map(|instance| (instance, InstanceStep::NotSeen));
    let room = most.saturating_sub(found.len());
    found.extend(
        by_node
            .chain(by_sight)
            .filter_map(|(instance, step)| instance::step(instance, step).ok())
            .take(room)
            .map(Due::Lost),
    );
    let forgotten = agents
        .lost_by_sight
        .0
        .range(..now.minus(settings.forget_after))
        .flat_map(|(_, ids)| ids)
        .filter_map(|id| agents.instance(id).cloned());
    let room = most.saturating_sub(found.len());
    found.extend(forgotten.take(room).map(Due::Forgotten));
    found
}

/// The classes that nobody answers for any longer, in quarantine.
pub fn orphans(agents: &Agents, now: Timestamp) -> Vec<AgentClass> {
    let gone = agents.departures().map(|departure| &departure.person);
    let mut found: Vec<AgentClass> = gone
        .flat_map(|person| agents.answered_for_by(person))
        .filter_map(|class| orphaned(agents, class, now))
        .collect();
    // Both of a class may be gone.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    found
}

fn of_class(
    agents: &Agents,
    class: &AgentClass,
    settings: &Settings,
    now: Timestamp,
) -> Option<Due> {
    if let Some(orphan) = orphaned(agents, class, now) {
        return Some(Due::Class(orphan));
    }
    if class.standing.lifecycle != Lifecycle::Active {
        return None;
    }
    let step = if class.spec.valid_until <= now {
        ClassStep::Expire
    } else if class.spec.review_by <= now {
        ClassStep::ReviewOverdue
    } else if is_idle(agents, class, now.minus(settings.idle_after)) {
        ClassStep::FallIdle
    } else {
        let warned = class.review_warned == Some(class.spec.review_by);
        let near = class.spec.review_by <= now.plus(settings.warn_before);
        return (near && !warned).then(|| {
            Due::Warning(AgentClass {
                review_warned: Some(class.spec.review_by),
                ..class.clone()
            })
        });
    };
    stepped(class, step, now).map(Due::Class)
}

fn orphaned(agents: &Agents, class: &AgentClass, now: Timestamp) -> Option<AgentClass> {
    let step = if agents.departure(&class.spec.owner).is_some() {
        ClassStep::LoseOwner
    } else if agents.departure(&class.spec.sponsor).is_some() {
        ClassStep::LoseSponsor
    } else {
        return None;
    };
    stepped(class, step, now)
}

/// `None` where the lifecycle has no such step: then it was taken before, or never will be.
fn stepped(class: &AgentClass, step: ClassStep, now: Timestamp) -> Option<AgentClass> {
    let note = Note::parse("").ok()?;
    let by = SERVER;
    rules::stepped(class, step, Deed { by, note, now }).ok()
}

fn is_idle(agents: &Agents, class: &AgentClass, since: Timestamp) -> bool {
    class.standing.since <= since
        && class.last_reviewed.as_ref().is_none_or(|review| review.at <= since)
        // In most classes the first instance that is looked at was seen of late.
        && !agents
            .instances_of(class.name.as_str())
            .any(|instance| instance.last_seen > since)
}

#[cfg(test)]
mod tests;
