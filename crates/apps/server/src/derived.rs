//! Identities by rule: what a node derived is derived again, and counted against the bounds of its
//! rule.
//!
//! The function that makes a name is `core/roll/naming`. Nothing is written here but the audit record
//! of what is signed, which [`crate::agents::put_on_record`] writes as for any other SVID.

mod names;

use std::sync::Arc;

use muster_model::{Entry, FieldError, Rule, SpiffeId, Timestamp};
use muster_proto::muster::node::v1::Derived;
use muster_roll::agents::membership::Withheld;
use muster_roll::matching::{self, RuleOfNode};
use muster_roll::{Roll, naming};
use muster_wire::rule as wire;
use tonic::{Code, Status};

use crate::agents::{self, refusal};
use crate::server::Server;

pub(crate) use names::Names;
use names::{Bounds, Full};

/// The identity that a node derived, in the form of an entry; or why it is not signed.
pub(crate) fn derive(
    roll: &Roll,
    node: &SpiffeId,
    derived: Option<&Derived>,
    now: Timestamp,
) -> Result<Entry, Status> {
    let derived = derived.ok_or_else(|| Status::invalid_argument("missing derivation"))?;
    let rule = rule_of_node(roll, node, &derived.rule)?;
    let facts = wire::read_facts(derived.facts.as_ref()).map_err(|error| field(&error))?;
    let name = naming::derive(&rule, roll.trust_domain(), node, &facts).map_err(|why| {
        let text = format!("rule {} gives the process no name: {why}", rule.name);
        refusal(Code::FailedPrecondition, text, why.reason())
    })?;
    if name.as_str() != derived.spiffe_id {
        let text = format!(
            "by rule {} the name is {name}, not the one that the node came to; its view may be behind",
            rule.name
        );
        return Err(refusal(Code::FailedPrecondition, text, "NAME_DIFFERS"));
    }
    yields(roll, &name)?;
    agents::check(roll, &name, rule.spec.class.as_ref(), now)?;
    naming::entry(&rule, name).ok_or_else(|| Status::internal("a name without an entry ID"))
}

/// The rule as the node has it.
fn rule_of_node(roll: &Roll, node: &SpiffeId, name: &str) -> Result<Arc<Rule>, Status> {
    match matching::rule_of_node(roll, node, name) {
        Some(RuleOfNode::InForce(rule)) => Ok(rule),
        Some(RuleOfNode::Withheld(class)) => Err(agents::not_signed(&Withheld::Class(class))),
        // The one answer that tells nothing of the rules of others.
        None => Err(refusal(
            Code::NotFound,
            "rule not found or not authorized",
            "RULE_NOT_FOUND",
        )),
    }
}

/// Entries have the names that they give; what rules may be written leaves no such case but one in
/// which the process has the entry anyway.
fn yields(roll: &Roll, name: &SpiffeId) -> Result<(), Status> {
    match roll.named(name).next() {
        None => Ok(()),
        Some(entry) => Err(refusal(
            Code::FailedPrecondition,
            format!("{name} is what entry {} gives; no rule does", entry.id),
            "NAME_OF_ENTRY",
        )),
    }
}

/// Whether a name that was derived at version `version` of its rule may still leave: asked once more
/// in the commit, so that nothing leaves after a change of the rule was acknowledged.
pub(crate) fn check_again(
    roll: &Roll,
    node: &SpiffeId,
    (rule, version): (&str, i64),
    name: &SpiffeId,
) -> Result<(), Status> {
    let found = rule_of_node(roll, node, rule)?;
    if i64::try_from(found.version) != Ok(version) {
        return Err(refusal(
            Code::FailedPrecondition,
            format!("rule {rule} was changed meanwhile"),
            "RULE_CHANGED",
        ));
    }
    yields(roll, name)
}

/// Counts a name that is about to be signed against the bounds of its rule. What an entry gives is
/// not counted.
pub(crate) fn count(
    server: &Server,
    roll: &Roll,
    (entry, node): (&Entry, &SpiffeId),
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), Status> {
    let Some(rule) = naming::rule_of_entry(&entry.id).and_then(|name| roll.rule(name)) else {
        return Ok(());
    };
    let bounds = Bounds {
        per_node: rule.spec.per_node,
        in_all: rule.spec.in_all,
    };
    let name = (&rule.name, node, &entry.spiffe_id);
    server
        .names
        .take(name, bounds, expires_at, now)
        .map_err(|full| {
            let (place, most, reason) = match full {
                Full::OnNode => ("on this node", bounds.per_node, "RULE_FULL_ON_NODE"),
                Full::InAll => ("on all nodes together", bounds.in_all, "RULE_FULL"),
            };
            let text = format!(
                "rule {} gives {most} names {place} already, as many as it may; raise the bound, or \
                 wait until some have expired",
                rule.name
            );
            refusal(Code::ResourceExhausted, text, reason)
        })
}

fn field(error: &FieldError) -> Status {
    refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD")
}
