//! What operators may ask lists for.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use muster_model::{
    AgentClass, AgentInstance, ClassName, InstanceState, Lifecycle, PersonId, Purpose, SpiffeId,
    Timestamp, Word,
};

use super::Agents;
use crate::Page;
use crate::roll::page;

/// Which classes a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassFilter {
    /// Where they stand; empty is anywhere.
    pub lifecycles: BTreeSet<Lifecycle>,
    /// Who owns or sponsors them.
    pub person: Option<PersonId>,
    /// The team.
    pub team: Option<Word>,
    /// A purpose that they have.
    pub purpose: Option<Purpose>,
    /// The review is due before then.
    pub review_before: Option<Timestamp>,
}

impl ClassFilter {
    fn admits(&self, class: &AgentClass) -> bool {
        let spec = &class.spec;
        let answers = |person: &PersonId| spec.owner == *person || spec.sponsor == *person;
        (self.lifecycles.is_empty() || self.lifecycles.contains(&class.standing.lifecycle))
            && self.person.as_ref().is_none_or(answers)
            && (self.team.is_none() || self.team == spec.team)
            && self
                .purpose
                .is_none_or(|purpose| spec.purposes.contains(&purpose))
            && self.review_before.is_none_or(|then| spec.review_by < then)
    }
}

/// Which instances a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// The class.
    pub class: Option<ClassName>,
    /// The node on which they were last seen.
    pub node: Option<SpiffeId>,
    /// Where they stand; empty is anywhere.
    pub states: BTreeSet<InstanceState>,
}

impl InstanceFilter {
    fn admits(&self, instance: &AgentInstance) -> bool {
        self.class
            .as_ref()
            .is_none_or(|class| instance.class == *class)
            && (self.node.is_none() || self.node == instance.node)
            && (self.states.is_empty() || self.states.contains(&instance.state))
    }
}

impl Agents {
    /// One page of the classes that `filter` admits, by ascending name, after the class `after`.
    /// A `limit` of 0 is no limit.
    pub fn list_classes(
        &self,
        filter: &ClassFilter,
        after: Option<&ClassName>,
        limit: usize,
    ) -> Page<AgentClass, ClassName> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self
            .classes
            .range::<(Bound<&ClassName>, Bound<&ClassName>), ClassName>((start, Bound::Unbounded))
            .map(|(_, class)| class)
            .filter(|class| filter.admits(class));
        page(found, limit, |class| class.name.clone())
    }

    /// One page of the instances that `filter` admits, by ascending identity, after `after`.
    /// A `limit` of 0 is no limit.
    pub fn list_instances(
        &self,
        filter: &InstanceFilter,
        after: Option<&SpiffeId>,
        limit: usize,
    ) -> Page<AgentInstance, SpiffeId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (start, Bound::Unbounded);
        let admitted = |instance: &&Arc<AgentInstance>| filter.admits(instance);
        let token = |instance: &AgentInstance| instance.id.clone();
        if let Some(class) = &filter.class {
            let of_class = self.by_class.0.get(class).into_iter();
            let found = of_class
                .flat_map(|ids| ids.range::<(Bound<&SpiffeId>, Bound<&SpiffeId>), SpiffeId>(range))
                .filter_map(|id| self.instances.get(id));
            return page(found.filter(admitted), limit, token);
        }
        let found = self
            .instances
            .range::<(Bound<&SpiffeId>, Bound<&SpiffeId>), SpiffeId>(range)
            .map(|(_, instance)| instance);
        page(found.filter(admitted), limit, token)
    }
}
