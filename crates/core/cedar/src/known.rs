//! Facts as Cedar entities, prepared once for each caller and each target and used by many decisions.
//!
//! Who keeps a [`Principal`] or a [`Resource`] makes a new one when its facts change; it is a few
//! kilobytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entities, Entity, EntityUid, RestrictedExpression};
use cedar_policy_core::ast::Entity as CoreEntity;
use serde::{Deserialize, Serialize};

use crate::facts::{
    AgentFacts, ClassFacts, NodeFacts, ServerFacts, TeamFacts, ToolFacts, UserFacts,
};
use crate::slice::Side;
use crate::value::{date, flag, long, number, word, words};
use crate::vocabulary::{Kind, uid};

/// Facts that contradict each other, or that Cedar does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the facts of {subject:?} do not fit together: {why}")]
pub struct FactsError {
    /// Whose facts.
    pub subject: String,
    /// Why not.
    pub why: String,
}

/// Who asks, as facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PrincipalFacts {
    /// A running agent.
    Agent(Box<AgentFacts>),
    /// A machine.
    Node(NodeFacts),
    /// A person.
    User(UserFacts),
}

/// What is acted on, as facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceFacts {
    /// A class of agents.
    AgentClass(Box<ClassFacts>),
    /// A kind of task, such as `code.review`.
    TaskKind(String),
    /// A service that accepts tokens.
    ResourceServer(ServerFacts),
    /// A tool.
    Tool(Box<ToolFacts>),
}

/// Who asks, prepared.
#[derive(Clone, Debug)]
pub struct Principal {
    facts: PrincipalFacts,
    known: Known,
}

/// What is acted on, prepared.
#[derive(Clone, Debug)]
pub struct Resource {
    facts: ResourceFacts,
    known: Known,
}

impl Principal {
    /// Prepares a caller. An error says that two of its facts contradict each other, such as an owner
    /// and a sponsor of the same name with different clearances.
    pub fn new(facts: PrincipalFacts) -> Result<Self, FactsError> {
        let mut all = Gathered::default();
        let (kind, own) = match &facts {
            PrincipalFacts::Agent(facts) => (Kind::Agent, all.agent(facts)?),
            PrincipalFacts::Node(facts) => (Kind::Node, all.node(facts)?),
            PrincipalFacts::User(facts) => (Kind::User, all.user(facts)?),
        };
        let known = all.known(kind, own)?;
        Ok(Self { facts, known })
    }

    /// What it was made of.
    pub fn facts(&self) -> &PrincipalFacts {
        &self.facts
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }
}

impl Resource {
    /// Prepares a target. Errors as for [`Principal::new`].
    pub fn new(facts: ResourceFacts) -> Result<Self, FactsError> {
        let mut all = Gathered::default();
        let (kind, own) = match &facts {
            ResourceFacts::AgentClass(facts) => (Kind::AgentClass, all.class(facts)?),
            ResourceFacts::TaskKind(name) => (Kind::TaskKind, all.kind(name)),
            ResourceFacts::ResourceServer(facts) => (Kind::ResourceServer, all.server(facts)?),
            ResourceFacts::Tool(facts) => (Kind::Tool, all.tool(facts)?),
        };
        let known = all.known(kind, own)?;
        Ok(Self { facts, known })
    }

    /// What it was made of.
    pub fn facts(&self) -> &ResourceFacts {
        &self.facts
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }
}

/// An entity with everything that policies can reach from it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    /// Itself first, then everything above it.
    names: Vec<EntityUid>,
    pub(crate) uid: EntityUid,
    pub(crate) entities: Entities,
    /// The same one by one, to be put beside those of the other side of a request.
    pub(crate) shared: Vec<Arc<CoreEntity>>,
}

impl Known {
    pub(crate) fn side(&self) -> Side<'_> {
        Side {
            kind: self.kind,
            names: &self.names,
        }
    }
}

/// A person on whose behalf something is asked.
pub(crate) fn subject(facts: &UserFacts) -> Result<Known, FactsError> {
    let mut all = Gathered::default();
    let own = all.user(facts)?;
    all.known(Kind::User, own)
}

/// Each entity with all of its ancestors in it, as Cedar has just computed them.
fn shared(entities: &Entities) -> Vec<Arc<CoreEntity>> {
    entities
        .iter()
        .map(|entity| Arc::new(AsRef::<CoreEntity>::as_ref(entity).clone()))
        .collect()
}

/// The entities on the way.
#[derive(Default)]
struct Gathered {
    entities: Vec<Entity>,
}

type Attributes<const N: usize> = [(&'static str, RestrictedExpression); N];

impl Gathered {
    fn known(self, kind: Kind, own: EntityUid) -> Result<Known, FactsError> {
        // Cedar refuses two entities of one name that differ, and a team that is above itself.
        let entities =
            Entities::from_entities(self.entities, None).map_err(|error| FactsError {
                subject: own.id().unescaped().to_owned(),
                why: error.to_string(),
            })?;
        let above: Vec<EntityUid> = entities
            .ancestors(&own)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let names = std::iter::once(own.clone()).chain(above).collect();
        Ok(Known {
            kind,
            names,
            uid: own,
            shared: shared(&entities),
            entities,
        })
    }

    fn put<const N: usize>(
        &mut self,
        own: &EntityUid,
        attributes: Attributes<N>,
        above: Option<EntityUid>,
    ) -> Result<(), FactsError> {
        let attributes: HashMap<String, RestrictedExpression> = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let above: HashSet<EntityUid> = above.into_iter().collect();
        let entity = Entity::new(own.clone(), attributes, above).map_err(|error| FactsError {
            subject: own.id().unescaped().to_owned(),
            why: error.to_string(),
        })?;
        self.entities.push(entity);
        Ok(())
    }

    fn team(&mut self, facts: Option<&TeamFacts>) -> Option<EntityUid> {
        let facts = facts?;
        let mut above: Option<EntityUid> = None;
        let chain = std::iter::once(&facts.id).chain(&facts.above);
        for id in chain.rev() {
            let own = uid(Kind::Team, id);
            let parents = above.into_iter().collect();
            self.entities
                .push(Entity::new_no_attrs(own.clone(), parents));
            above = Some(own);
        }
        above
    }

    fn user(&mut self, facts: &UserFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::User, &facts.id);
        let team = self.team(facts.team.as_ref());
        self.put(
            &own,
            [
                ("clearance", long(facts.clearance)),
                ("suspended", flag(facts.suspended)),
            ],
            team,
        )?;
        Ok(own)
    }

    fn node(&mut self, facts: &NodeFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::Node, &facts.id);
        let team = self.team(facts.team.as_ref());
        self.put(
            &own,
            [
                ("attested", words(&facts.attested)),
                ("level", long(facts.level)),
                ("banned", flag(facts.banned)),
            ],
            team,
        )?;
        Ok(own)
    }

    fn class(&mut self, facts: &ClassFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::AgentClass, &facts.id);
        let team = self.team(facts.team.as_ref());
        let owner = self.user(&facts.owner)?;
        let sponsor = self.user(&facts.sponsor)?;
        self.put(
            &own,
            [
                ("owner", RestrictedExpression::new_entity_uid(owner)),
                ("sponsor", RestrictedExpression::new_entity_uid(sponsor)),
                ("lifecycle", word(facts.lifecycle.as_str())),
                ("riskTier", long(facts.risk_tier)),
                ("purposes", words(&facts.purposes)),
                ("models", words(&facts.models)),
                ("providers", words(&facts.providers)),
                ("scopes", words(&facts.scopes)),
                ("dataCeiling", long(facts.data_ceiling)),
                ("maxDepth", long(facts.max_depth)),
                ("maxSeconds", number(facts.max_seconds)),
                ("maxBudget", number(facts.max_budget)),
                ("actsFor", word(facts.acts_for.as_str())),
                ("consent", word(facts.consent.as_str())),
                ("validUntil", date(facts.valid_until)),
                ("reviewBy", date(facts.review_by)),
                ("version", number(facts.version)),
            ],
            team,
        )?;
        Ok(own)
    }

    fn agent(&mut self, facts: &AgentFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::Agent, &facts.id);
        let class = self.class(&facts.class)?;
        let node = self.node(&facts.node)?;
        self.put(
            &own,
            [
                ("class", RestrictedExpression::new_entity_uid(class.clone())),
                ("node", RestrictedExpression::new_entity_uid(node)),
                ("lineage", words(&facts.lineage)),
                ("model", word(&facts.model)),
                ("provider", word(&facts.provider)),
                ("executable", word(&facts.executable)),
                ("state", word(facts.state.as_str())),
            ],
            Some(class),
        )?;
        Ok(own)
    }

    /// `code.review` is in `code`.
    fn kind(&mut self, name: &str) -> EntityUid {
        let own = uid(Kind::TaskKind, name);
        let above = name
            .rsplit_once('.')
            .map(|(above, _)| self.kind(above))
            .into_iter()
            .collect();
        self.entities.push(Entity::new_no_attrs(own.clone(), above));
        own
    }

    fn server(&mut self, facts: &ServerFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::ResourceServer, &facts.id);
        let team = self.team(facts.team.as_ref());
        self.put(
            &own,
            [
                ("dataClass", long(facts.data_class)),
                ("requireProof", flag(facts.require_proof)),
            ],
            team,
        )?;
        Ok(own)
    }

    fn tool(&mut self, facts: &ToolFacts) -> Result<EntityUid, FactsError> {
        let own = uid(Kind::Tool, &facts.id);
        let server = self.server(&facts.server)?;
        self.put(
            &own,
            [
                ("dataClass", long(facts.data_class)),
                ("destructive", flag(facts.destructive)),
                ("cost", number(facts.cost)),
                ("scopes", words(&facts.scopes)),
            ],
            Some(server),
        )?;
        Ok(own)
    }
}
