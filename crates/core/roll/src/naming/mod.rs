//! Identity rules: how a name follows from a rule and the facts about a process, and which rules may
//! be written.
//!
//! Start at [`derive()`], the one function that node and server both call: a rule is derived twice,
//! once where the process was attested and once where its identity is signed, and what differs is
//! refused. A name depends on nothing but the rule, the trust domain, the node and the facts.
//! [`in_force`] says what a node has of a rule, [`check`] what may be written.
//!
//! Deliberately not here: which nodes have a rule (`matching.rs`, `view.rs`), who counts the names
//! that it gave (`apps/server`).

pub mod check;
mod derive;
mod digest;
mod error;
mod escape;
mod facts;
mod pattern;
mod table;

use std::borrow::Cow;
use std::sync::Arc;

use muster_model::{AgentClass, ClassName, Placeholder, Rule, RuleSpec};

use crate::agents::Agents;

pub use derive::{NoName, derive, entry, rule_of_entry};
pub use digest::{digest_text, withheld_text};
pub use error::{RuleError, TemplateWrong};
pub use escape::escape;
pub use facts::{Values, known};
pub(crate) use pattern::OwnDigest;
pub use pattern::Pattern;
pub(crate) use table::Rules;

/// The classes that the names of a rule may be of: at most two, and they need not be there. They
/// do not depend on facts, which `check` sees to.
pub fn classes(rule: &Rule) -> impl Iterator<Item = &str> {
    let explicit = rule.spec.class.as_ref().map(ClassName::as_str);
    let in_path = class_in_path(rule).filter(|name| explicit != Some(*name));
    explicit.into_iter().chain(in_path)
}

/// The class that the path says, `/agent/CLASS/...`.
fn class_in_path(rule: &Rule) -> Option<&str> {
    let [first, second, _, ..] = rule.spec.template.segments() else {
        return None;
    };
    if first.before != "agent" || first.part.is_some() {
        return None;
    }
    match &second.part {
        None => Some(&second.before),
        Some(part) if part.placeholder == Placeholder::Class => {
            let whole = second.before.is_empty() && second.after.is_empty();
            rule.spec
                .class
                .as_ref()
                .map(ClassName::as_str)
                .filter(|_| whole)
        }
        Some(_) => None,
    }
}

/// The first class that keeps the names of a rule back.
pub fn withheld<'a>(agents: &'a Agents, rule: &'a Rule) -> Option<&'a AgentClass> {
    classes(rule)
        .filter_map(|name| agents.class(name).map(AsRef::as_ref))
        .find(|class| !class.is_active())
}

/// A rule as nodes have it: what its classes ask of a process is among its selectors. `None` while
/// one of them is not active.
pub fn in_force(agents: &Agents, rule: &Arc<Rule>) -> Option<Arc<Rule>> {
    if withheld(agents, rule).is_some() {
        return None;
    }
    Some(with_classes(agents, rule))
}

/// A rule with what its classes ask of a process among its selectors, whether they are active or not.
pub fn with_classes(agents: &Agents, rule: &Arc<Rule>) -> Arc<Rule> {
    match asked(agents, rule) {
        Cow::Borrowed(_) => Arc::clone(rule),
        Cow::Owned(spec) => Arc::new(Rule {
            spec,
            ..Rule::clone(rule)
        }),
    }
}

/// What operators wrote, with what the classes ask of a process among the selectors.
fn asked<'a>(agents: &Agents, rule: &'a Rule) -> Cow<'a, RuleSpec> {
    let more: Vec<_> = classes(rule)
        .filter_map(|name| agents.class(name))
        .flat_map(|class| class.spec.attestation.iter())
        .filter(|selector| !rule.spec.selectors.contains(selector))
        .cloned()
        .collect();
    if more.is_empty() {
        return Cow::Borrowed(&rule.spec);
    }
    let mut spec = rule.spec.clone();
    spec.selectors.extend(more);
    Cow::Owned(spec)
}
