//! The agents of the roll: classes, instances, tasks, and who is known to be gone.
//!
//! Start at [`Agents`], the memory image; [`lifecycle`] says what leads where, [`rules`] what may
//! be written about a class, [`task`] what a child task may have, [`membership`] which identities a
//! class has in its hand, [`policies`] which sets of policies there are, [`sightings`] what becomes of
//! what nodes find, [`reconcile`] what is due without anybody's asking.

mod change;
pub mod instance;
pub mod lifecycle;
mod list;
pub mod membership;
pub mod policies;
pub mod reconcile;
pub mod rules;
pub mod sightings;
pub mod task;
mod tasks;
#[cfg(test)]
pub(crate) mod world;

use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use muster_model::{
    AgentClass, AgentInstance, ClassName, Departure, InstanceState, PersonId, PolicyVersion,
    Revision, SpiffeId, Timestamp,
};

pub use change::{AgentChange, LoadedAgents};
pub use list::{ClassFilter, InstanceFilter};
pub use tasks::TaskFilter;
use tasks::TaskTable;

/// A persistent multimap, for indexes.
#[derive(Clone)]
pub(crate) struct Multi<K, V>(OrdMap<K, OrdSet<V>>);

impl<K: Ord + Clone, V: Ord + Clone> Multi<K, V> {
    pub(crate) fn new() -> Self {
        Self(OrdMap::new())
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(set) = self.0.get_mut(key) {
            set.remove(value);
            if set.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn at<Q>(&self, key: &Q) -> std::iter::Flatten<std::option::IntoIter<&OrdSet<V>>>
    where
        Q: Ord + ?Sized,
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }
}

/// All that the roll knows about agents, as a value that is cheap to clone.
#[derive(Clone)]
pub struct Agents {
    classes: OrdMap<ClassName, Arc<AgentClass>>,
    /// Classes by their owner and by their sponsor.
    answering: Multi<PersonId, ClassName>,
    instances: OrdMap<SpiffeId, Arc<AgentInstance>>,
    by_class: Multi<ClassName, SpiffeId>,
    /// Instances that are thought to run, by node and by when they were last seen.
    live_by_node: Multi<SpiffeId, SpiffeId>,
    live_by_sight: Multi<Timestamp, SpiffeId>,
    /// Instances that are lost, by when they were last seen.
    lost_by_sight: Multi<Timestamp, SpiffeId>,
    /// Instances that an operator barred.
    barred: OrdSet<SpiffeId>,
    tasks: TaskTable,
    departures: OrdMap<PersonId, Arc<Departure>>,
    policies: OrdMap<u64, Arc<PolicyVersion>>,
    sightings: sightings::Sightings,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            classes: OrdMap::new(),
            answering: Multi::new(),
            instances: OrdMap::new(),
            by_class: Multi::new(),
            live_by_node: Multi::new(),
            live_by_sight: Multi::new(),
            lost_by_sight: Multi::new(),
            barred: OrdSet::new(),
            tasks: TaskTable::default(),
            departures: OrdMap::new(),
            policies: OrdMap::new(),
            sightings: sightings::Sightings::default(),
        }
    }
}

impl Agents {
    /// What a store held.
    pub(crate) fn load(loaded: LoadedAgents) -> Self {
        let mut agents = Self::default();
        for class in loaded.classes {
            agents.put_class(class);
        }
        for instance in loaded.instances {
            agents.put_instance(instance);
        }
        for task in loaded.tasks {
            agents.tasks.put(task);
        }
        for departure in loaded.departures {
            agents
                .departures
                .insert(departure.person.clone(), departure);
        }
        for version in loaded.policies {
            agents.policies.insert(version.number, version);
        }
        for sighting in loaded.sightings {
            agents.sightings.put(sighting);
        }
        agents
    }

    /// What a store would hold.
    pub fn saved(&self) -> LoadedAgents {
        LoadedAgents {
            classes: self.classes.values().cloned().collect(),
            instances: self.instances.values().cloned().collect(),
            tasks: self.tasks.rows().cloned().collect(),
            departures: self.departures.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
            sightings: self.sightings.all().cloned().collect(),
        }
    }

    /// Applies a change of the transaction that is committed as `revision`.
    pub(crate) fn apply(&mut self, revision: Revision, change: &AgentChange) {
        match change {
            AgentChange::PutClass(class) => {
                let mut class = Arc::clone(class);
                if class.changed_at != revision {
                    Arc::make_mut(&mut class).changed_at = revision;
                }
                self.put_class(class);
            }
            AgentChange::PutInstance(instance) => {
                let mut instance = Arc::clone(instance);
                if instance.changed_at != revision {
                    Arc::make_mut(&mut instance).changed_at = revision;
                }
                self.put_instance(instance);
            }
            AgentChange::DeleteInstance(id) => {
                if let Some(old) = self.instances.remove(id) {
                    self.unlink_instance(&old);
                }
            }
            AgentChange::PutTask(task) => {
                let mut task = Arc::clone(task);
                if task.changed_at != revision {
                    Arc::make_mut(&mut task).changed_at = revision;
                }
                self.tasks.put(task);
            }
            AgentChange::DeleteTask(id) => self.tasks.delete(*id),
            AgentChange::PutDeparture(departure) => {
                self.departures
                    .insert(departure.person.clone(), Arc::clone(departure));
            }
            AgentChange::DeleteDeparture(person) => {
                self.departures.remove(person);
            }
            AgentChange::PutPolicies { version, .. } => {
                let mut version = Arc::clone(version);
                if version.changed_at != revision {
                    Arc::make_mut(&mut version).changed_at = revision;
                }
                self.policies.insert(version.number, version);
            }
            AgentChange::DeletePolicies(number) => {
                self.policies.remove(number);
            }
            AgentChange::PutSighting(sighting) => {
                let mut sighting = Arc::clone(sighting);
                if sighting.changed_at != revision {
                    Arc::make_mut(&mut sighting).changed_at = revision;
                }
                self.sightings.put(sighting);
            }
            AgentChange::DeleteSighting(id) => self.sightings.remove(id),
        }
    }

    /// The class of that name.
    pub fn class(&self, name: &str) -> Option<&Arc<AgentClass>> {
        self.classes.get(name)
    }

    /// Every class, by ascending name.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<AgentClass>> {
        self.classes.values()
    }

    /// The classes that a person owns or sponsors, by ascending name.
    pub fn answered_for_by(&self, person: &PersonId) -> impl Iterator<Item = &Arc<AgentClass>> {
        self.answering
            .at(person)
            .filter_map(|name| self.classes.get(name))
    }

    /// The instance of that identity.
    pub fn instance(&self, id: &SpiffeId) -> Option<&Arc<AgentInstance>> {
        self.instances.get(id)
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// The instances of a class, by ascending identity.
    pub fn instances_of(&self, class: &str) -> impl Iterator<Item = &Arc<AgentInstance>> {
        self.by_class
            .at(class)
            .filter_map(|id| self.instances.get(id))
    }

    /// The instances that an operator barred, by ascending identity.
    pub fn barred(&self) -> impl Iterator<Item = &SpiffeId> {
        self.barred.iter()
    }

    /// Since when a person is known to be gone, and who said so.
    pub fn departure(&self, person: &PersonId) -> Option<&Arc<Departure>> {
        self.departures.get(person)
    }

    /// Everyone who is known to be gone, by ascending name.
    pub fn departures(&self) -> impl Iterator<Item = &Arc<Departure>> {
        self.departures.values()
    }

    /// The set of policies of that number.
    pub fn policy(&self, number: u64) -> Option<&Arc<PolicyVersion>> {
        self.policies.get(&number)
    }

    /// Every set of policies that is kept, by ascending number.
    pub fn policies(
        &self,
    ) -> impl DoubleEndedIterator<Item = &Arc<PolicyVersion>> + ExactSizeIterator {
        self.policies.values()
    }

    /// What nodes found that looks like agents.
    pub fn sightings(&self) -> &sightings::Sightings {
        &self.sightings
    }

    fn put_class(&mut self, class: Arc<AgentClass>) {
        if let Some(old) = self.classes.get(&class.name).cloned() {
            for person in [&old.spec.owner, &old.spec.sponsor] {
                self.answering.remove(person, &old.name);
            }
        }
        for person in [&class.spec.owner, &class.spec.sponsor] {
            self.answering.insert(person.clone(), class.name.clone());
        }
        self.classes.insert(class.name.clone(), class);
    }

    fn put_instance(&mut self, instance: Arc<AgentInstance>) {
        if let Some(old) = self.instances.get(&instance.id).cloned() {
            self.unlink_instance(&old);
        }
        let id = &instance.id;
        self.by_class.insert(instance.class.clone(), id.clone());
        match instance.state {
            InstanceState::Registered | InstanceState::Active => {
                self.live_by_sight.insert(instance.last_seen, id.clone());
                if let Some(node) = &instance.node {
                    self.live_by_node.insert(node.clone(), id.clone());
                }
            }
            InstanceState::Lost => self.lost_by_sight.insert(instance.last_seen, id.clone()),
            InstanceState::Quarantined | InstanceState::Retired => {
                self.barred.insert(id.clone());
            }
        }
        self.instances.insert(id.clone(), instance);
    }

    fn unlink_instance(&mut self, old: &AgentInstance) {
        self.by_class.remove(&old.class, &old.id);
        self.live_by_sight.remove(&old.last_seen, &old.id);
        self.lost_by_sight.remove(&old.last_seen, &old.id);
        self.barred.remove(&old.id);
        if let Some(node) = &old.node {
            self.live_by_node.remove(node, &old.id);
        }
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents")
            .field("classes", &self.classes.len())
            .field("instances", &self.instances.len())
            .field("tasks", &self.tasks.len())
            .field("departures", &self.departures.len())
            .field("sightings", &self.sightings.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
