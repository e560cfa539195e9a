//! The decision.

use cedar_policy::{Context, Entities, Request, Schema};
use cedar_policy_core::entities::{Entities as CoreEntities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use serde::{Deserialize, Serialize};

use crate::facts::Situation;
use crate::guards;
use crate::known::{FactsError, Known, Principal, Resource, subject as subject_known};
use crate::set::{PolicySet, SetDigest};
use crate::slice::Answer;
use crate::value::{Moment, context, context_evaluated};
use crate::vocabulary::{Action, RESERVED, VOCABULARY};

/// Allowed or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Some policy permits it and none forbids it.
    Allow,
    /// Everything else.
    Refuse,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The policies named permit it.
    Permitted,
    /// A guard of the house forbids it; the policies named include it.
    Guarded,
    /// The policies named forbid it.
    Forbidden,
    /// No policy permits it.
    NotPermitted,
    /// A policy that has a say in it could not be evaluated.
    PolicyFailed,
    /// The facts do not fit together, or not with the schema.
    BadFacts,
}

impl Reason {
    /// The stable name, as records have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Guarded => "guarded",
            Self::Forbidden => "forbidden",
            Self::NotPermitted => "not_permitted",
            Self::PolicyFailed => "policy_failed",
            Self::BadFacts => "bad_facts",
        }
    }
}

/// Something that went wrong on the way to a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// The policy, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What went wrong.
    pub message: String,
}

/// What was decided, why, by which policies of which set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed or refused.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policies that made it so, in alphabetical order.
    pub policies: Vec<String>,
    /// What went wrong; a decision with failures is a refusal.
    pub failures: Vec<Failure>,
    /// The set that was asked.
    pub digest: SetDigest,
}

impl Decision {
    /// Whether it is allowed.
    pub fn allows(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    fn of(answer: Answer, digest: SetDigest) -> Self {
        let mut failures: Vec<Failure> = answer
            .errors
            .into_iter()
            .map(|(policy, message)| Failure {
                policy: Some(policy),
                message,
            })
            .collect();
        failures.sort_by(|one, other| one.policy.cmp(&other.policy));
        let guarded = |id: &String| id.starts_with(RESERVED);
        let (verdict, reason, policies) = if !answer.forbids.is_empty() {
            let reason = if answer.forbids.iter().any(guarded) {
                Reason::Guarded
            } else {
                Reason::Forbidden
            };
            (Verdict::Refuse, reason, answer.forbids)
        } else if !failures.is_empty() {
            // Cedar would go on as if that policy were not there. It may have been the forbid.
            let failed = failures.iter().filter_map(|failure| failure.policy.clone());
            (Verdict::Refuse, Reason::PolicyFailed, failed.collect())
        } else if answer.permits.is_empty() {
            (Verdict::Refuse, Reason::NotPermitted, answer.permits)
        } else {
            (Verdict::Allow, Reason::Permitted, answer.permits)
        };
        Self {
            verdict,
            reason,
            policies: policies.into_iter().collect(),
            failures,
            digest,
        }
    }

    /// The refusal of a request whose facts do not fit together, so that no policy can be asked.
    pub fn of_bad_facts(set: &PolicySet, error: &FactsError) -> Self {
        Self::bad_facts(error.to_string(), set.digest())
    }

    fn bad_facts(message: String, digest: SetDigest) -> Self {
        let failure = Failure {
            policy: None,
            message,
        };
        Self {
            verdict: Verdict::Refuse,
            reason: Reason::BadFacts,
            policies: Vec::new(),
            failures: vec![failure],
            digest,
        }
    }
}

/// A request for a decision: who wants to do what to what, and everything else that is known.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// What for.
    pub action: Action,
    /// On what.
    pub resource: &'a Resource,
    /// Everything else.
    pub situation: &'a Situation,
}

/// Decides, at the instant `now`.
///
/// Refuses by default, when a policy forbids it, when a policy that has a say cannot be evaluated, and
/// when the facts do not fit together. Looks only at the policies whose scope fits.
pub fn decide(set: &PolicySet, facts: &Facts<'_>, now: &Moment) -> Decision {
    sliced(set, facts, now).unwrap_or_else(|message| Decision::bad_facts(message, set.digest()))
}

fn sliced(set: &PolicySet, facts: &Facts<'_>, now: &Moment) -> Result<Decision, String> {
    facts.check()?;
    let principal = facts.principal.known();
    let resource = facts.resource.known();
    let subject = facts.subject()?;
    let subject_uid = subject.as_ref().map(|subject| subject.uid.clone());
    let more = resource
        .shared
        .iter()
        .chain(subject.iter().flat_map(|subject| &subject.shared))
        .cloned();
    // Every entity came with all of its ancestors, so that nothing is left to be closed. Two of one
    // name that differ are still an error.
    let entities = AsRef::<CoreEntities>::as_ref(&principal.entities)
        .clone()
        .add_entities(
            more,
            None::<&NoEntitiesSchema>,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        )
        .map_err(|error| error.to_string())?;
    // The schema is not asked again: the types of the facts are those of the schema, which
    // `tests/sliced.rs` shows, where the other way of asking does ask it.
    let context = context(facts.situation, subject_uid, now);
    let request = facts.request(context, None)?;
    let answer = set.index.ask(
        facts.action,
        &principal.side(),
        &resource.side(),
        &request,
        &entities,
        guards::look(facts, now),
    );
    Ok(Decision::of(answer, set.digest()))
}

/// The same decision by Cedar's public interface alone, from the whole set, every value evaluated and
/// checked against the schema: what [`decide`] is tested against. Its cost grows with the set.
pub fn decide_unsliced(set: &PolicySet, facts: &Facts<'_>, now: &Moment) -> Decision {
    Asked::of(facts, now).map_or_else(
        |message| Decision::bad_facts(message, set.digest()),
        |asked| {
            let answer = Answer::of_whole(&set.whole, &asked.request, &asked.entities);
            Decision::of(answer, set.digest())
        },
    )
}

impl Facts<'_> {
    /// Whether the schema knows such a request.
    fn check(&self) -> Result<(), String> {
        let (principal, resource) = (self.principal.known().kind, self.resource.known().kind);
        if !VOCABULARY.may_be_asked(self.action, principal, resource) {
            let action = self.action.as_str();
            return Err(format!(
                "the schema has no {action} by {principal:?} on {resource:?}"
            ));
        }
        let outside = matches!(self.action, Action::AgentSpawn | Action::SvidIssue);
        if self.situation.task.is_none() && !outside {
            return Err(format!("{} needs a task", self.action.as_str()));
        }
        Ok(())
    }

    fn subject(&self) -> Result<Option<Known>, String> {
        let subject = self.situation.delegation.subject.as_ref();
        subject
            .map(|facts| subject_known(facts).map_err(|error| error.to_string()))
            .transpose()
    }

    fn request(&self, context: Context, schema: Option<&Schema>) -> Result<Request, String> {
        Request::new(
            self.principal.known().uid.clone(),
            VOCABULARY.action(self.action).clone(),
            self.resource.known().uid.clone(),
            context,
            schema,
        )
        .map_err(|error| error.to_string())
    }
}

/// A request as Cedar's public interface takes it, checked against the schema.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

impl Asked {
    pub(crate) fn of(facts: &Facts<'_>, now: &Moment) -> Result<Self, String> {
        facts.check()?;
        let subject = facts.subject()?;
        let subject_uid = subject.as_ref().map(|subject| subject.uid.clone());
        let known = [facts.principal.known(), facts.resource.known()];
        let all = known
            .into_iter()
            .chain(&subject)
            .flat_map(|known| known.entities.iter().cloned());
        let entities = Entities::from_entities(all, Some(&VOCABULARY.schema))
            .map_err(|error| error.to_string())?;
        let context = context_evaluated(facts.situation, subject_uid, now)?;
        let request = facts.request(context, Some(&VOCABULARY.schema))?;
        Ok(Self { request, entities })
    }
}
