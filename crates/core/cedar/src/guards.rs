//! The guards of `policies/builtin.cedar` once more, in Rust.
//!
//! They hold for almost no request, and evaluating a dozen of them would be half of the time of a
//! decision. So this says first whether any of them could hold; only then are they evaluated, for their
//! names. It may say so too often, never too seldom: `tests/sliced.rs` of `muster-policies` holds it
//! against Cedar, which evaluates them always.

use crate::facts::{ActsFor, AgentFacts, AgentState, ClassFacts, Lifecycle, Millis, Situation};
use crate::known::{PrincipalFacts, ResourceFacts};
use crate::slice::Guards;
use crate::value::within_years;
use crate::vocabulary::Action;
use crate::{Facts, Moment};

/// Whether some guard could hold.
pub(crate) fn look(facts: &Facts<'_>, now: &Moment) -> Guards {
    let now = within_years(now.timestamp().unix_millis());
    let clear = caller_is_clear(facts, now) && target_is_clear(facts, now);
    if clear {
        Guards::Clear
    } else {
        Guards::Evaluated
    }
}

fn caller_is_clear(facts: &Facts<'_>, now: Millis) -> bool {
    match facts.principal.facts() {
        PrincipalFacts::Agent(agent) => {
            agent_is_clear(agent, now)
                && asks_within(&agent.class, facts.situation)
                && within_task(facts.action, &agent.class, facts.situation)
                && within_parent(facts.situation)
                && within_delegation(&agent.class, facts.situation)
        }
        PrincipalFacts::Node(node) => !node.banned,
        PrincipalFacts::User(user) => !user.suspended,
    }
}

/// `guard.lifecycle`, `guard.review`, `guard.state`
fn agent_is_clear(agent: &AgentFacts, now: Millis) -> bool {
    in_use(&agent.class, now) && agent.state == AgentState::Active && !agent.node.banned
}

fn in_use(class: &ClassFacts, now: Millis) -> bool {
    let ends = class.valid_until.min(class.review_by);
    class.lifecycle == Lifecycle::Active && now < within_years(ends)
}

/// `guard.ceiling`
fn asks_within(class: &ClassFacts, situation: &Situation) -> bool {
    let asked = &situation.requested;
    asked.scopes.is_subset(&class.scopes)
        && asked.scopes.is_subset(&situation.scopes)
        && asked.data_class <= class.data_ceiling
        && (situation.task.is_none() || asked.seconds <= class.max_seconds)
        && asked.budget <= class.max_budget
}

/// `guard.data`, `guard.deadline`, `guard.lifetime`, `guard.budget`, `guard.depth`
fn within_task(action: Action, class: &ClassFacts, situation: &Situation) -> bool {
    let asked = &situation.requested;
    let issues = matches!(
        action,
        Action::SvidIssue | Action::TokenIssue | Action::TokenExchange
    );
    situation.delegation.depth <= class.max_depth
        && situation.task.as_ref().is_none_or(|task| {
            asked.data_class <= task.data_class
                && task.seconds_left > 0
                && (!issues || asked.seconds <= task.seconds_left)
                && task.spent <= task.budget
                && task.depth <= class.max_depth
        })
}

/// `guard.narrower`
fn within_parent(situation: &Situation) -> bool {
    let asked = &situation.requested;
    situation.parent.as_ref().is_none_or(|parent| {
        asked.scopes.is_subset(&parent.scopes)
            && asked.data_class <= parent.data_class
            && asked.seconds <= parent.seconds_left
            && asked.budget <= parent.budget_left
    })
}

/// `guard.delegation`
fn within_delegation(class: &ClassFacts, situation: &Situation) -> bool {
    let delegation = &situation.delegation;
    delegation.subject.as_ref().is_none_or(|subject| {
        !subject.suspended
            && class.acts_for == ActsFor::Users
            && situation
                .requested
                .scopes
                .is_subset(&delegation.subject_scopes)
    })
}

/// `guard.spawn.class`, `guard.spawn.narrower`, `guard.spawn.scopes`
fn target_is_clear(facts: &Facts<'_>, now: Millis) -> bool {
    if facts.action != Action::AgentSpawn {
        return true;
    }
    let ResourceFacts::AgentClass(class) = facts.resource.facts() else {
        return true; // the schema has no such request
    };
    let narrower = match facts.principal.facts() {
        PrincipalFacts::Agent(agent) => {
            class.data_ceiling <= agent.class.data_ceiling
                && class.risk_tier <= agent.class.risk_tier
        }
        PrincipalFacts::Node(_) | PrincipalFacts::User(_) => true,
    };
    narrower && in_use(class, now) && facts.situation.requested.scopes.is_subset(&class.scopes)
}
