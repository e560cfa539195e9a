//! The words that policies may use: the schema, and its names as Cedar values, made once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema, Validator};
use serde::{Deserialize, Serialize};

/// The published schema, in Cedar's own notation.
pub const SCHEMA: &str = include_str!("../schema/muster.cedarschema");

/// The guards that are part of every set.
pub const BUILTIN: &str = include_str!("../policies/builtin.cedar");

/// What the built-in policies' names begin with, and no other's may.
pub const RESERVED: &str = "guard.";

/// How far policies may look from the caller, the resource and the context: to the owner of a class
/// (`principal.class.owner.clearance`), and no further, because no further facts are given.
pub(crate) const REACH: u32 = 3;

/// What is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// A task is opened.
    #[serde(rename = "task.open")]
    TaskOpen,
    /// A task gets more time or budget.
    #[serde(rename = "task.extend")]
    TaskExtend,
    /// An agent is started.
    #[serde(rename = "agent.spawn")]
    AgentSpawn,
    /// An identity is issued.
    #[serde(rename = "svid.issue")]
    SvidIssue,
    /// A token is issued.
    #[serde(rename = "token.issue")]
    TokenIssue,
    /// A token is exchanged.
    #[serde(rename = "token.exchange")]
    TokenExchange,
    /// A proof of possession is signed.
    #[serde(rename = "proof.sign")]
    ProofSign,
    /// A tool is called.
    #[serde(rename = "tool.call")]
    ToolCall,
}

impl Action {
    /// Every action of the schema.
    pub const ALL: [Self; 8] = [
        Self::TaskOpen,
        Self::TaskExtend,
        Self::AgentSpawn,
        Self::SvidIssue,
        Self::TokenIssue,
        Self::TokenExchange,
        Self::ProofSign,
        Self::ToolCall,
    ];

    /// The name in the schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TaskOpen => "task.open",
            Self::TaskExtend => "task.extend",
            Self::AgentSpawn => "agent.spawn",
            Self::SvidIssue => "svid.issue",
            Self::TokenIssue => "token.issue",
            Self::TokenExchange => "token.exchange",
            Self::ProofSign => "proof.sign",
            Self::ToolCall => "tool.call",
        }
    }
}

/// The types of the schema.
#[expect(
    clippy::enum_variant_names,
    reason = "the names are those of the schema"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Team,
    User,
    Node,
    AgentClass,
    Agent,
    TaskKind,
    ResourceServer,
    Tool,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Team,
        Self::User,
        Self::Node,
        Self::AgentClass,
        Self::Agent,
        Self::TaskKind,
        Self::ResourceServer,
        Self::Tool,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Team => "Muster::Team",
            Self::User => "Muster::User",
            Self::Node => "Muster::Node",
            Self::AgentClass => "Muster::AgentClass",
            Self::Agent => "Muster::Agent",
            Self::TaskKind => "Muster::TaskKind",
            Self::ResourceServer => "Muster::ResourceServer",
            Self::Tool => "Muster::Tool",
        }
    }
}

/// The schema as Cedar understands it.
pub(crate) struct Vocabulary {
    pub(crate) schema: Schema,
    pub(crate) validator: Validator,
    types: BTreeMap<Kind, EntityTypeName>,
    pub(crate) actions: BTreeMap<Action, EntityUid>,
    /// Who may ask for what on what.
    askable: BTreeSet<(Action, Kind, Kind)>,
}

impl Vocabulary {
    #[expect(
        clippy::expect_used,
        reason = "the schema is part of the program, and the first test of this module reads it"
    )]
    fn shipped() -> Self {
        let (schema, _warnings) =
            Schema::from_cedarschema_str(SCHEMA).expect("the shipped schema is a schema");
        let name = |of: &str| -> EntityTypeName {
            of.parse().expect("two plain words are the name of a type")
        };
        let types: BTreeMap<Kind, EntityTypeName> = Kind::ALL
            .into_iter()
            .map(|kind| (kind, name(kind.as_str())))
            .collect();
        let of_action = name("Muster::Action");
        let actions: BTreeMap<Action, EntityUid> = Action::ALL
            .into_iter()
            .map(|action| {
                let id = EntityId::new(action.as_str());
                let uid = EntityUid::from_type_name_and_id(of_action.clone(), id);
                (action, uid)
            })
            .collect();
        let kind_of = |name: &EntityTypeName| {
            let found = types.iter().find(|(_, known)| *known == name);
            found.map(|(kind, _)| *kind)
        };
        let askable = schema
            .request_envs()
            .filter_map(|asked| {
                let (action, _) = actions.iter().find(|(_, uid)| *uid == asked.action())?;
                Some((
                    *action,
                    kind_of(asked.principal())?,
                    kind_of(asked.resource())?,
                ))
            })
            .collect();
        Self {
            validator: Validator::new(schema.clone()),
            schema,
            types,
            actions,
            askable,
        }
    }

    /// The action as an entity of the schema.
    #[expect(
        clippy::indexing_slicing,
        reason = "the map has every action, which the test of this module shows"
    )]
    pub(crate) fn action(&self, action: Action) -> &EntityUid {
        &self.actions[&action]
    }

    /// The name of a type.
    #[expect(
        clippy::indexing_slicing,
        reason = "the map has every type, which the test of this module shows"
    )]
    pub(crate) fn type_name(&self, kind: Kind) -> &EntityTypeName {
        &self.types[&kind]
    }

    /// The type of that name.
    pub(crate) fn kind(&self, name: &EntityTypeName) -> Option<Kind> {
        let found = self.types.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind)
    }

    /// Whether the schema lets such a one ask for that on such a thing.
    pub(crate) fn may_be_asked(&self, action: Action, principal: Kind, resource: Kind) -> bool {
        self.askable.contains(&(action, principal, resource))
    }
}

/// The one vocabulary of the program.
pub(crate) static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::shipped);

/// The entity of a type with a name.
pub(crate) fn uid(kind: Kind, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(VOCABULARY.type_name(kind).clone(), EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_names_the_actions_and_types_that_we_name() {
        let vocabulary = &*VOCABULARY;
        let sorted = |names: Vec<String>| -> BTreeSet<String> { names.into_iter().collect() };
        let named = Action::ALL
            .into_iter()
            .map(|action| vocabulary.action(action).to_string());
        let there = vocabulary.schema.actions().map(ToString::to_string);
        assert_eq!(sorted(named.collect()), sorted(there.collect()));
        let named = Kind::ALL
            .into_iter()
            .map(|kind| vocabulary.type_name(kind).to_string());
        let there = vocabulary.schema.entity_types().map(ToString::to_string);
        assert_eq!(sorted(named.collect()), sorted(there.collect()));
    }

    #[test]
    fn who_may_ask_for_what_is_what_the_schema_says() {
        let lines: Vec<String> = VOCABULARY
            .askable
            .iter()
            .map(|(action, principal, resource)| {
                format!("{:14} {principal:?} -> {resource:?}", action.as_str())
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        task.open      Agent -> TaskKind
        task.extend    Agent -> TaskKind
        agent.spawn    User -> AgentClass
        agent.spawn    Node -> AgentClass
        agent.spawn    Agent -> AgentClass
        svid.issue     Agent -> AgentClass
        svid.issue     Agent -> TaskKind
        token.issue    Agent -> ResourceServer
        token.exchange Agent -> ResourceServer
        proof.sign     Agent -> ResourceServer
        tool.call      Agent -> Tool
        ");
    }
}
