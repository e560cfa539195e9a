//! Which identities an agent class has in its hand.
//!
//! An identity is of a class if its path says so, `/agent/CLASS/...`, and there is such a class, or
//! if its entry names the class. It can be of two; then both have a say. While one of them is not
//! active, or the agent itself is barred, nodes do not see the entry, and nothing is signed.

use std::fmt;

use muster_model::{
    AgentClass, AgentInstance, ClassName, Entry, InstanceState, Lifecycle, SpiffeId, Task, TaskId,
    Timestamp,
};

use super::Agents;

/// Why an identity is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld<'a> {
    /// Its class does not give identities.
    Class(&'a AgentClass),
    /// Its class has reached its end, and is about to be suspended.
    Expired(&'a AgentClass),
    /// The agent itself is barred.
    Instance(&'a AgentInstance),
    /// It is a task's, and that is not open.
    Task(&'a Task),
    /// It is a task's, whose deadline has passed.
    Overdue(&'a Task),
    /// It has the form of a task's, and there is no such task.
    NoTask,
}

impl Withheld<'_> {
    /// The reason in a word that programs can act on; it is stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Class(class) => match class.standing.lifecycle {
                Lifecycle::Proposed => "CLASS_PROPOSED",
                Lifecycle::Active | Lifecycle::Suspended => "CLASS_SUSPENDED",
                Lifecycle::Quarantined => "CLASS_QUARANTINED",
                Lifecycle::Retired => "CLASS_RETIRED",
            },
            Self::Expired(_) => "CLASS_EXPIRED",
            Self::Task(task) if task.is_live() => "TASK_SUSPENDED",
            Self::Task(_) | Self::Overdue(_) => "TASK_ENDED",
            Self::NoTask => "TASK_NOT_FOUND",
            Self::Instance(instance) => match instance.state {
                InstanceState::Retired => "AGENT_RETIRED",
                InstanceState::Registered
                | InstanceState::Active
                | InstanceState::Lost
                | InstanceState::Quarantined => "AGENT_QUARANTINED",
            },
        }
    }
}

impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(
                f,
                "agent class {} is {} ({})",
                class.name, class.standing.lifecycle, class.standing.cause
            ),
            Self::Expired(class) => write!(f, "agent class {} has reached its end", class.name),
            Self::Instance(instance) => write!(
                f,
                "agent {} is {} ({})",
                instance.id, instance.state, instance.cause
            ),
            Self::Task(task) => {
                write!(f, "task {} is {}", task.id, task.state)?;
                task.cause
                    .as_ref()
                    .map_or(Ok(()), |cause| write!(f, " ({cause})"))
            }
            Self::Overdue(task) => write!(f, "the deadline of task {} has passed", task.id),
            Self::NoTask => f.write_str("it is the name of a task, and there is no such task"),
        }
    }
}

/// The classes that an identity with this entry's class may be of: at most two, and they need not
/// be there.
pub fn named<'e>(
    id: &'e SpiffeId,
    class: Option<&'e ClassName>,
) -> impl Iterator<Item = &'e str> + use<'e> {
    let explicit = class.map(ClassName::as_str);
    let in_path = ClassName::in_path(id).filter(|name| explicit != Some(name));
    explicit.into_iter().chain(in_path)
}

/// The classes that an identity is of.
pub fn classes<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
) -> impl Iterator<Item = &'a AgentClass> {
    named(id, class).filter_map(|name| agents.class(name).map(AsRef::as_ref))
}

/// Why an identity is withheld, if it is. That of a task is also withheld with its agent's.
pub fn withheld<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
) -> Option<Withheld<'a>> {
    if TaskId::in_path(id).is_some() {
        return match agents.task_named(id) {
            None => Some(Withheld::NoTask),
            Some(task) if !task.is_open() => Some(Withheld::Task(task)),
            Some(task) => of_agent(agents, &task.instance, Some(&task.class)),
        };
    }
    of_agent(agents, id, class)
}

fn of_agent<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
) -> Option<Withheld<'a>> {
    let mut is_agent = false;
    for class in classes(agents, id, class) {
        is_agent = true;
        if !class.is_active() {
            return Some(Withheld::Class(class));
        }
    }
    if !is_agent {
        return None;
    }
    agents
        .instance(id)
        .filter(|instance| instance.is_barred())
        .map(|instance| Withheld::Instance(instance))
}

/// The same at an instant: a class that has reached its end gives nothing from that instant on, and
/// neither does a task, also before the server has noticed.
pub fn withheld_at<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
    now: Timestamp,
) -> Option<Withheld<'a>> {
    let overdue = || {
        let task = agents.task_named(id)?;
        // Credentials count in whole seconds: with less than one left, there is nothing to give.
        (task.deadline.floor_to_second() <= now.floor_to_second())
            .then_some(Withheld::Overdue(task))
    };
    let expired = || {
        classes(agents, id, class)
            .find(|class| class.spec.valid_until <= now)
            .map(Withheld::Expired)
    };
    withheld(agents, id, class)
        .or_else(overdue)
        .or_else(expired)
}

/// When the classes of an identity end, and its task if it is one's: nothing that is signed for it
/// is good for longer.
pub fn ends_at(agents: &Agents, id: &SpiffeId, class: Option<&ClassName>) -> Option<Timestamp> {
    let task = agents.task_named(id).map(|task| task.deadline);
    classes(agents, id, class)
        .map(|class| class.spec.valid_until)
        .chain(task)
        .min()
}

/// Whether nodes may see an entry, as far as agents are concerned. No entry that somebody wrote has
/// the name of a task.
pub fn is_granted(agents: &Agents, entry: &Entry) -> bool {
    TaskId::in_path(&entry.spiffe_id).is_none()
        && withheld(agents, &entry.spiffe_id, entry.class.as_ref()).is_none()
}

/// Whether the node of a task may see it.
pub fn is_task_granted(agents: &Agents, task: &Task) -> bool {
    task.is_open() && of_agent(agents, &task.instance, Some(&task.class)).is_none()
}
