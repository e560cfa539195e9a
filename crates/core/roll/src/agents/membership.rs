//! Which identities an agent class has in its hand.
//!
//! An identity is of a class if its path says so, `/agent/CLASS/...`, and there is such a class, or
//! if its entry names the class. It can be of two; then both have a say. While one of them is not
//! active, or the agent itself is barred, nodes do not see the entry, and nothing is signed.

use std::fmt;

use muster_model::{
    AgentClass, AgentInstance, ClassName, Entry, InstanceState, Lifecycle, SpiffeId, Timestamp,
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
}

impl Withheld<'_> {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Class(class) => match class.standing.lifecycle {
                Lifecycle::Proposed => "CLASS_PROPOSED",
                Lifecycle::Active | Lifecycle::Suspended => "CLASS_SUSPENDED",
                Lifecycle::Quarantined => "CLASS_QUARANTINED",
                Lifecycle::Retired => "CLASS_RETIRED",
            },
            Self::Expired(_) => "CLASS_EXPIRED",
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

/// Why an identity is withheld, if it is.
pub fn withheld<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
) -> Option<Withheld<'a>> {
    let mut of_agent = false;
    for class in classes(agents, id, class) {
        of_agent = true;
        if !class.is_active() {
            return Some(Withheld::Class(class));
        }
    }
    if !of_agent {
        return None;
    }
    agents
        .instance(id)
        .filter(|instance| instance.is_barred())
        .map(|instance| Withheld::Instance(instance))
}

/// The same at an instant: a class that has reached its end gives nothing from that instant on,
/// also before the server has noticed.
pub fn withheld_at<'a>(
    agents: &'a Agents,
    id: &'a SpiffeId,
    class: Option<&'a ClassName>,
    now: Timestamp,
) -> Option<Withheld<'a>> {
    withheld(agents, id, class).or_else(|| {
        classes(agents, id, class)
            .find(|class| class.spec.valid_until <= now)
            .map(Withheld::Expired)
    })
}

/// When the classes of an identity end: nothing that is signed for it is good for longer.
pub fn ends_at(agents: &Agents, id: &SpiffeId, class: Option<&ClassName>) -> Option<Timestamp> {
    classes(agents, id, class)
        .map(|class| class.spec.valid_until)
        .min()
}

/// Whether nodes may see an entry, as far as agents are concerned.
pub fn is_granted(agents: &Agents, entry: &Entry) -> bool {
    withheld(agents, &entry.spiffe_id, entry.class.as_ref()).is_none()
}
