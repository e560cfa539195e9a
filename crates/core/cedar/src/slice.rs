//! Which policies could have a say in a request, found without looking at the others.
//!
//! A policy whose scope does not fit contributes nothing to Cedar's answer, neither a decision nor an
//! error: the scope comes first in its condition, and the rest is then not evaluated. So policies are
//! put into drawers by their scope, once, when a set is loaded, and a request opens those drawers that
//! its own names, types and everything above them fit. What is in them is evaluated by Cedar's own
//! evaluator, and combined as Cedar combines: a forbid that holds decides, else a permit that holds,
//! else nothing does.
//!
//! `tests/sliced.rs` of `muster-policies` holds this against Cedar's authorizer over the whole set.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Decision as CedarDecision, Effect, Entities,
    EntityUid, Policy, PolicySet as CedarSet, PrincipalConstraint, Request, ResourceConstraint,
};
use cedar_policy_core::ast::{
    Expr, Literal, Policy as CorePolicy, Request as CoreRequest, SlotEnv, ValueKind,
};
use cedar_policy_core::entities::Entities as CoreEntities;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;

use crate::Action;
use crate::facts::Words;
use crate::vocabulary::{Kind, RESERVED, VOCABULARY};

/// What one side of a scope demands, by number, so that looking a pair of them up is cheap.
type Number = u32;

/// Nothing at all is demanded.
const ANYONE: Number = 0;

/// One side of a request: its type, and the thing itself with everything above it.
pub(crate) struct Side<'a> {
    pub(crate) kind: Kind,
    pub(crate) names: &'a [EntityUid],
}

/// A policy, ready to be evaluated: its condition is put together once and not for each request.
pub(crate) struct Candidate {
    id: String,
    effect: Effect,
    /// Without the scope, where the drawer says all that the scope says; `None` holds always.
    condition: Option<Expr>,
    guard: bool,
}

/// The drawers.
#[derive(Default)]
pub(crate) struct Index {
    kinds: HashMap<Kind, Number>,
    /// This very one, or anything in it: a request looks under its own name and those above it.
    names: HashMap<EntityUid, Number>,
    drawers: HashMap<(Action, Number, Number), Vec<Arc<Candidate>>>,
}

impl Index {
    /// Puts a policy into its drawers; gives back the number of policies in the fullest of them.
    pub(crate) fn add(&mut self, policy: &Policy) -> usize {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => ANYONE,
            PrincipalConstraint::Is(kind) => self.of_kind(VOCABULARY.kind(&kind)),
            PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::In(uid)
            | PrincipalConstraint::IsIn(_, uid) => self.of_name(uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => ANYONE,
            ResourceConstraint::Is(kind) => self.of_kind(VOCABULARY.kind(&kind)),
            ResourceConstraint::Eq(uid)
            | ResourceConstraint::In(uid)
            | ResourceConstraint::IsIn(_, uid) => self.of_name(uid),
        };
        let wanted = policy.action_constraint();
        let candidate = Arc::new(Candidate {
            id: AsRef::<str>::as_ref(policy.id()).to_owned(),
            effect: policy.effect(),
            condition: condition(policy),
            guard: AsRef::<str>::as_ref(policy.id()).starts_with(RESERVED),
        });
        let mut fullest = 0;
        for (action, uid) in &VOCABULARY.actions {
            let fits = match &wanted {
                ActionConstraint::Any => true,
                // The schema has no groups of actions, so that to be in one is to be it.
                ActionConstraint::Eq(one) => one == uid,
                ActionConstraint::In(some) => some.contains(uid),
            };
            if fits {
                let drawer = self
                    .drawers
                    .entry((*action, principal, resource))
                    .or_default();
                drawer.push(Arc::clone(&candidate));
                fullest = fullest.max(drawer.len());
            }
        }
        fullest
    }

    fn next(&self) -> Number {
        let used = self.kinds.len().saturating_add(self.names.len());
        Number::try_from(used.saturating_add(1)).unwrap_or(Number::MAX)
    }

    /// A type that the schema does not have is no reason to leave a policy out.
    fn of_kind(&mut self, kind: Option<Kind>) -> Number {
        let next = self.next();
        kind.map_or(ANYONE, |kind| *self.kinds.entry(kind).or_insert(next))
    }

    fn of_name(&mut self, uid: EntityUid) -> Number {
        let next = self.next();
        *self.names.entry(uid).or_insert(next)
    }

    /// The number of every demand that this side meets and some policy makes.
    fn met(&self, side: &Side<'_>) -> Vec<Number> {
        let of_kind = self.kinds.get(&side.kind);
        let named = side.names.iter().filter_map(|uid| self.names.get(uid));
        of_kind
            .into_iter()
            .chain(named)
            .copied()
            .chain([ANYONE])
            .collect()
    }

    /// Evaluates what is in the drawers that the request opens.
    pub(crate) fn ask(
        &self,
        action: Action,
        principal: &Side<'_>,
        resource: &Side<'_>,
        request: &Request,
        entities: &CoreEntities,
        guards: Guards,
    ) -> Answer {
        let mut answer = Answer::default();
        let request = AsRef::<CoreRequest>::as_ref(request).clone();
        let evaluator = Evaluator::new(request, entities, Extensions::all_available());
        let slots = SlotEnv::new();
        let (principals, resources) = (self.met(principal), self.met(resource));
        let pairs = principals.iter().flat_map(|principal| {
            resources
                .iter()
                .map(move |resource| (*principal, *resource))
        });
        let candidates = pairs
            .filter_map(|(principal, resource)| self.drawers.get(&(action, principal, resource)))
            .flatten()
            .filter(|candidate| guards == Guards::Evaluated || !candidate.guard);
        for candidate in candidates {
            let value = match &candidate.condition {
                None => Ok(ValueKind::Lit(Literal::Bool(true))),
                Some(condition) => evaluator
                    .interpret(condition, &slots)
                    .map(|value| value.value),
            };
            let id = || candidate.id.clone();
            match (value, candidate.effect) {
                (Ok(ValueKind::Lit(Literal::Bool(false))), _) => {}
                (Ok(ValueKind::Lit(Literal::Bool(true))), Effect::Permit) => {
                    answer.permits.insert(id());
                }
                (Ok(ValueKind::Lit(Literal::Bool(true))), Effect::Forbid) => {
                    answer.forbids.insert(id());
                }
                // No condition that was validated is anything but true or false.
                (Ok(_), _) => answer.errors.push((id(), "it is no condition".to_owned())),
                (Err(error), _) => answer.errors.push((id(), error.to_string())),
            }
        }
        answer
    }
}

/// Whether the guards are evaluated, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guards {
    /// They are.
    Evaluated,
    /// None of them would hold.
    Clear,
}

/// What is left of a condition in the drawer of its policy.
fn condition(policy: &Policy) -> Option<Expr> {
    let core = AsRef::<CorePolicy>::as_ref(policy);
    // A drawer holds what is equal to a name with what is under it, and does not look at the type.
    let told_by_drawer = !matches!(
        policy.principal_constraint(),
        PrincipalConstraint::Eq(_) | PrincipalConstraint::IsIn(..)
    ) && !matches!(
        policy.resource_constraint(),
        ResourceConstraint::Eq(_) | ResourceConstraint::IsIn(..)
    );
    if told_by_drawer {
        core.non_scope_constraints().cloned()
    } else {
        Some(core.condition())
    }
}

/// Which policies hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The permits that hold; complete only where no forbid does.
    pub(crate) permits: Words,
    /// The forbids that hold.
    pub(crate) forbids: Words,
    /// The policies that could not be evaluated, and why.
    pub(crate) errors: Vec<(String, String)>,
}

impl Answer {
    /// What Cedar's own authorizer says of a whole set.
    pub(crate) fn of_whole(set: &CedarSet, request: &Request, entities: &Entities) -> Self {
        let response = Authorizer::new().is_authorized(request, set, entities);
        let named = response
            .diagnostics()
            .reason()
            .map(|id| AsRef::<str>::as_ref(id).to_owned())
            .collect();
        let (permits, forbids) = match response.decision() {
            CedarDecision::Allow => (named, Words::new()),
            CedarDecision::Deny => (Words::new(), named),
        };
        let errors = response
            .diagnostics()
            .errors()
            .map(|error| {
                let AuthorizationError::PolicyEvaluationError(error) = error;
                let policy = AsRef::<str>::as_ref(error.policy_id()).to_owned();
                (policy, error.inner().to_string())
            })
            .collect();
        Self {
            permits,
            forbids,
            errors,
        }
    }
}
