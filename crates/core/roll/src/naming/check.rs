//! Which rules may be written.

use std::sync::Arc;

use muster_model::{
    Entry, Placeholder, Revision, Rule, RuleName, RuleSpec, Segment, SpiffeId, TaskId, Timestamp,
};

use super::error::{RuleError, TemplateWrong};
use super::facts::{self, Values};
use super::pattern::Pattern;
use crate::Roll;

/// How many rules there may be: each node that has a rule looks at it for every new process.
pub const MAX_RULES: usize = 1000;
/// The highest bound on one node.
pub const MAX_PER_NODE: u32 = 1_000_000;
/// The highest bound on all nodes together.
pub const MAX_IN_ALL: u32 = 10_000_000;

/// A new rule, or the first fault in it. `by` is whoever writes it.
pub fn create(
    roll: &Roll,
    name: RuleName,
    spec: RuleSpec,
    by: &str,
    now: Timestamp,
) -> Result<Rule, RuleError> {
    if roll.rule(name.as_str()).is_some() {
        return Err(RuleError::Exists(name));
    }
    if roll.rule_count() >= MAX_RULES {
        return Err(RuleError::TooMany { most: MAX_RULES });
    }
    let now = now.floor_to_second();
    checked(
        roll,
        Rule {
            name,
            spec,
            version: 1,
            created_at: now,
            created_by: by.to_owned(),
            updated_at: now,
            updated_by: by.to_owned(),
            changed_at: Revision::default(),
        },
    )
}

/// The rule that `known` becomes with another `spec`, or the first fault in it.
pub fn update(
    roll: &Roll,
    known: &Rule,
    spec: RuleSpec,
    by: &str,
    now: Timestamp,
) -> Result<Rule, RuleError> {
    checked(
        roll,
        Rule {
            spec,
            version: known.version.saturating_add(1),
            updated_at: now.floor_to_second(),
            updated_by: by.to_owned(),
            ..known.clone()
        },
    )
}

/// The rule of that name, at the version that the caller saw; `None` is any.
pub fn existing<'a>(
    roll: &'a Roll,
    name: &str,
    seen: Option<u64>,
) -> Result<&'a Arc<Rule>, RuleError> {
    let rule = roll
        .rule(name)
        .ok_or_else(|| RuleError::NotFound(name.chars().take(128).collect()))?;
    match seen {
        Some(seen) if seen != rule.version => Err(RuleError::VersionMismatch {
            name: rule.name.clone(),
            seen,
            actual: rule.version,
        }),
        Some(_) | None => Ok(rule),
    }
}

/// The rule that could give the name of an entry to a process that the entry does not mean.
pub(crate) fn in_the_way<'a>(roll: &'a Roll, entry: &Entry) -> Option<&'a Arc<Rule>> {
    roll.rules().find(|rule| {
        let pattern = Pattern::of(rule);
        pattern.fits(&entry.spiffe_id) && !is_entitled(rule, &pattern, entry)
    })
}

/// Whether every process to which the rule would give the name of the entry has it by the entry
/// already.
fn is_entitled(rule: &Rule, pattern: &Pattern, entry: &Entry) -> bool {
    entry.parent_id == rule.spec.parent_id
        && entry.selectors.iter().all(|selector| {
            rule.spec.selectors.contains(selector) || pattern.implies(&entry.spiffe_id, selector)
        })
}

fn checked(roll: &Roll, rule: Rule) -> Result<Rule, RuleError> {
    parent(roll, &rule.spec.parent_id)?;
    if let Some(class) = &rule.spec.class
        && roll.agents().class(class.as_str()).is_none()
    {
        return Err(RuleError::NoClass(class.to_string()));
    }
    bounds(&rule.spec)?;
    crate::rules::of_rule(roll, &rule.spec)?;
    template(roll, &rule).map_err(|(at, why)| RuleError::Template {
        template: rule.spec.template.to_string(),
        at,
        why,
    })?;
    Ok(rule)
}

fn parent(roll: &Roll, parent: &SpiffeId) -> Result<(), RuleError> {
    let stands = parent.trust_domain() == roll.trust_domain()
        && !parent.path().is_empty()
        && parent != roll.server_id();
    if stands {
        Ok(())
    } else {
        Err(RuleError::Parent(parent.to_string()))
    }
}

fn bounds(spec: &RuleSpec) -> Result<(), RuleError> {
    for (field, value, most) in [
        ("per_node", spec.per_node, MAX_PER_NODE),
        ("in_all", spec.in_all, MAX_IN_ALL),
    ] {
        if value == 0 || value > most {
            return Err(RuleError::Unbounded { field, value, most });
        }
    }
    if spec.in_all < spec.per_node {
        return Err(RuleError::BoundsCross {
            per_node: spec.per_node,
            in_all: spec.in_all,
        });
    }
    Ok(())
}

/// A fault of a template and where it begins.
type Fault = (usize, TemplateWrong);

fn template(roll: &Roll, rule: &Rule) -> Result<(), Fault> {
    let template = &rule.spec.template;
    if let Some(domain) = template.domain()
        && domain != roll.trust_domain()
    {
        let own = roll.trust_domain().clone();
        return Err((template.domain_at(), TemplateWrong::Foreign { own }));
    }
    path(rule)?;
    // What its classes ask for pins facts as its own selectors do.
    let asked = super::asked(roll.agents(), rule);
    for part in template.parts() {
        if let Placeholder::Fact { kind, key } = &part.placeholder {
            let pinned = asked.pinned(kind, key).take(2).count();
            let wrong = match (pinned, facts::known(kind, key)) {
                (1, _) | (0, Some(Values::One)) => continue,
                (0, None) => TemplateWrong::UnknownFact(part.placeholder.clone()),
                (0, Some(Values::Several)) => {
                    TemplateWrong::SeveralValues(part.placeholder.clone())
                }
                _ => TemplateWrong::SeveralAsked(part.placeholder.clone()),
            };
            return Err((part.at, wrong));
        }
    }
    collisions(roll, rule)
}

/// What the path alone says.
fn path(rule: &Rule) -> Result<(), Fault> {
    let segments = rule.spec.template.segments();
    let Some(first) = segments.first() else {
        return Ok(());
    };
    if let Some(part) = &first.part {
        return Err((part.at, TemplateWrong::OpenBeginning));
    }
    if first.before == "spire" {
        return Err((first.at, TemplateWrong::Reserved));
    }
    for part in rule.spec.template.parts() {
        if part.placeholder == Placeholder::Class && rule.spec.class.is_none() {
            return Err((part.at, TemplateWrong::NoClass));
        }
    }
    if let [agent, class, _, ..] = segments
        && agent.before == "agent"
        && let Some(part) = &class.part
        && !is_whole(class, &Placeholder::Class)
    {
        return Err((part.at, TemplateWrong::OpenClass));
    }
    if let [.., t, last] = segments
        && t.part.is_none()
        && t.before == "t"
        && could_be_a_task(last)
    {
        return Err((t.at, TemplateWrong::TaskName));
    }
    Ok(())
}

fn is_whole(segment: &Segment, placeholder: &Placeholder) -> bool {
    segment.before.is_empty()
        && segment.after.is_empty()
        && segment
            .part
            .as_ref()
            .is_some_and(|part| part.placeholder == *placeholder)
}

/// Whether a segment could be a ULID. Digests and classes are written in lower case, ULIDs in upper.
fn could_be_a_task(last: &Segment) -> bool {
    match &last.part {
        None => TaskId::parse(&last.before).is_ok(),
        Some(part) => matches!(part.placeholder, Placeholder::Fact { .. }),
    }
}

fn collisions(roll: &Roll, rule: &Rule) -> Result<(), Fault> {
    let pattern = Pattern::of(rule);
    let template = &rule.spec.template;
    let first = template.segments().first().map_or(0, |segment| segment.at);
    let open = template.parts().next().map_or(first, |part| part.at);
    let taken = roll.entries_after(0).find(|entry| {
        entry.spiffe_id.trust_domain() == roll.trust_domain()
            && pattern.fits(&entry.spiffe_id)
            && !is_entitled(rule, &pattern, entry)
    });
    if let Some(entry) = taken {
        let wrong = TemplateWrong::NameOfEntry {
            name: entry.spiffe_id.clone(),
            entry: entry.id.clone(),
        };
        return Err((open, wrong));
    }
    for other in roll.rules().filter(|other| other.name != rule.name) {
        let others = Pattern::of(other);
        if pattern.meets(&others) {
            let place = pattern.first_difference(&others);
            let at = template.segments().get(place).map_or(open, |s| s.at);
            let wrong = TemplateWrong::NameOfRule {
                rule: other.name.clone(),
                template: other.spec.template.to_string(),
            };
            return Err((at, wrong));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
