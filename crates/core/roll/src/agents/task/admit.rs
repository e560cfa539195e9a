//! Whether a task may be opened on a node.

use std::sync::Arc;

use muster_model::{
    AgentClass, ClassName, Facts, Rule, RuleName, SelectorSet, SpiffeId, Task, TaskId, Timestamp,
};

use super::{TaskError, TaskRequest, open};
use crate::Roll;
use crate::agents::{Agents, membership};
use crate::matching::{applies, authorized_entry, rule_of_node, withheld_entry};
use crate::naming::{self, Pattern};

/// What a node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The task.
    pub request: TaskRequest,
    /// What is known about its caller.
    pub facts: Facts,
    /// The task that it is to be part of.
    pub parent: Option<TaskId>,
}

/// How many tasks that have not ended there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// On one node.
    pub per_node: usize,
    /// Of one class.
    pub per_class: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_node: 20_000,
            per_class: 100_000,
        }
    }
}

/// How a caller has the identity of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The class that its entry names.
    pub class: Option<ClassName>,
    /// The rule that gives it, where no entry does.
    pub rule: Option<RuleName>,
    /// The task that the caller is in, where it is the agent only as part of that.
    pub within: Option<TaskId>,
}

/// A task that may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The task.
    pub task: Task,
    /// The classes of its agent, that of the task first.
    pub classes: Vec<Arc<AgentClass>>,
    /// The task that it is part of, and the class of that task's agent.
    pub parent: Option<(Arc<Task>, Arc<AgentClass>)>,
}

/// How a caller on `node` of which `facts` are known has the identity `agent`; `None` where it
/// has not.
///
/// This is the one place that says so: whatever gives identities to processes, entries, rules and
/// tasks, is asked here.
pub fn given(roll: &Roll, node: &SpiffeId, agent: &SpiffeId, facts: &Facts) -> Option<Given> {
    // The name of a task is no agent's.
    if TaskId::in_path(agent).is_some() {
        return None;
    }
    let by_entry = roll
        .named(agent)
        .filter(|entry| applies(entry, &facts.selectors))
        .find(|entry| {
            authorized_entry(roll, node, &entry.id).is_some()
                // The refusal then says that the class is not active.
                || withheld_entry(roll, node, &entry.id).is_some()
        });
    if let Some(entry) = by_entry {
        return Some(Given {
            class: entry.class.clone(),
            rule: None,
            within: None,
        });
    }
    by_task(roll.agents(), node, agent, &facts.selectors)
        .or_else(|| by_rule(roll, node, agent, facts))
}

/// A rule of the node that comes to this name, also while its class is not active: the refusal then
/// says so. What an entry gives, no rule does.
fn by_rule(roll: &Roll, node: &SpiffeId, agent: &SpiffeId, facts: &Facts) -> Option<Given> {
    if roll.named(agent).next().is_some() {
        return None;
    }
    let names_it = |rule: &&Arc<Rule>| {
        let rule = naming::with_classes(roll.agents(), rule);
        let derived = naming::derive(&rule, roll.trust_domain(), node, facts);
        derived.as_ref() == Ok(agent) && rule_of_node(roll, node, rule.name.as_str()).is_some()
    };
    roll.rules()
        .filter(|rule| Pattern::of(rule).fits(agent))
        .find(names_it)
        .map(|rule| Given {
            class: rule.spec.class.clone(),
            rule: Some(rule.name.clone()),
            within: None,
        })
}

/// On the socket of a task its caller is attested as that task and nothing else.
fn by_task(
    agents: &Agents,
    node: &SpiffeId,
    agent: &SpiffeId,
    facts: &SelectorSet,
) -> Option<Given> {
    facts
        .iter()
        .filter(|fact| fact.kind() == "muster")
        .filter_map(|fact| TaskId::parse(fact.value().strip_prefix("task:")?).ok())
        .filter_map(|id| agents.task(id))
        .find(|task| task.is_open() && task.node == *node && task.instance == *agent)
        .map(|task| Given {
            class: Some(task.class.clone()),
            rule: task.rule.clone(),
            within: Some(task.id),
        })
}

/// The task that a node may open, or the first reason why not.
pub fn admit(
    roll: &Roll,
    asked: Asked,
    bounds: &Bounds,
    now: Timestamp,
) -> Result<Admitted, TaskError> {
    let agents = roll.agents();
    let Asked {
        request,
        facts,
        parent,
    } = asked;
    let (agent, node) = (request.instance.clone(), request.node.clone());
    let given = given(roll, &node, &agent, &facts).ok_or_else(|| TaskError::NotGiven {
        agent: agent.clone(),
    })?;
    let parent = match (given.within, parent) {
        (Some(within), Some(parent)) if within != parent => {
            return Err(TaskError::NotInParent { within });
        }
        (within, parent) => within.or(parent),
    };
    request.id.identity_under(&agent).map_err(TaskError::Name)?;
    let classes: Vec<Arc<AgentClass>> = membership::named(&agent, given.class.as_ref())
        .filter_map(|name| agents.class(name).cloned())
        .collect();
    let Some((first, others)) = classes.split_first() else {
        return Err(TaskError::NoClass(agent));
    };
    if let Some(barred) = agents.instance(&agent).filter(|found| found.is_barred()) {
        return Err(TaskError::Barred {
            id: agent,
            state: barred.state,
        });
    }
    let above = parent.map(|id| above(agents, &node, id)).transpose()?;
    let bounded = above.as_ref().map(|(task, _)| bounded(agents, task));
    let within = bounded
        .as_ref()
        .zip(above.as_ref())
        .map(|(task, (_, class))| (task, &**class));
    let mut task = open(first, within, request.clone(), now)?;
    task.rule = given.rule;
    // Who is of two classes may no more than both allow.
    for other in others {
        let also = open(other, within, request.clone(), now)?;
        task.deadline = task.deadline.min(also.deadline);
        task.budget = match (task.budget, also.budget) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    // Last: who asks for what it may not have learns that also in a flood.
    if agents.live_count_on(&node) >= bounds.per_node {
        let most = bounds.per_node;
        return Err(TaskError::TooManyOnNode { most });
    }
    for class in &classes {
        if agents.live_count_of(class.name.as_str()) >= bounds.per_class {
            return Err(TaskError::TooManyOfClass {
                class: class.name.clone(),
                most: bounds.per_class,
            });
        }
    }
    Ok(Admitted {
        task,
        classes,
        parent: above,
    })
}

/// A task above as a bound: with no more left to spend than the tasks above it have.
fn bounded(agents: &Agents, task: &Task) -> Task {
    let left = |task: &Task| task.budget.map(|budget| budget.saturating_sub(task.spent));
    let mut least = left(task);
    let mut next = task.parent.and_then(|id| agents.task(id));
    while let Some(above) = next {
        least = match (least, left(above)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        next = above.parent.and_then(|id| agents.task(id));
    }
    Task {
        budget: least,
        spent: 0,
        ..task.clone()
    }
}

/// The task above, if it is of the node, with the class of its agent.
fn above(
    agents: &Agents,
    node: &SpiffeId,
    id: TaskId,
) -> Result<(Arc<Task>, Arc<AgentClass>), TaskError> {
    let task = agents
        .task(id)
        .filter(|task| task.node == *node)
        .ok_or(TaskError::NoParent(id))?;
    let class = agents
        .class(task.class.as_str())
        .ok_or(TaskError::NoParent(id))?;
    Ok((Arc::clone(task), Arc::clone(class)))
}
