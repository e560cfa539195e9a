//! What would have been: recorded requests, decided again by another set.

use serde::{Deserialize, Serialize};

use muster_model::Timestamp;

use crate::decide::{Decision, Facts, Failure, Reason, Verdict, decide};
use crate::facts::{Millis, Situation};
use crate::known::{FactsError, Principal, PrincipalFacts, Resource, ResourceFacts};
use crate::set::PolicySet;
use crate::value::Moment;
use crate::vocabulary::Action;

/// A request with every fact that the decision saw, in a form to be kept.
///
/// The form is versioned by [`RecordedRequest::FORMAT`]; a field that this version does not know is an
/// error, because a decision that ignored it could differ from the one that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedRequest {
    /// [`RecordedRequest::FORMAT`]
    pub format: u32,
    /// By what name the record is known: of an audit record, of a task.
    pub id: String,
    /// When it was decided, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Who asked.
    pub principal: PrincipalFacts,
    /// What for.
    pub action: Action,
    /// On what.
    pub resource: ResourceFacts,
    /// Everything else that was known.
    pub situation: Situation,
}

impl RecordedRequest {
    /// The number of this form of records.
    pub const FORMAT: u32 = 1;

    /// Records what was asked.
    pub fn of(id: impl Into<String>, facts: &Facts<'_>, now: &Moment) -> Self {
        Self {
            format: Self::FORMAT,
            id: id.into(),
            at: now.timestamp().unix_millis(),
            principal: facts.principal.facts().clone(),
            action: facts.action,
            resource: facts.resource.facts().clone(),
            situation: facts.situation.clone(),
        }
    }

    /// Decides it by a set, at the time of the record.
    pub fn decide(&self, set: &PolicySet) -> Result<Decision, FactsError> {
        self.with(|facts, now| decide(set, facts, now))
    }

    /// Prepares the facts and does something with them.
    pub fn with<T>(&self, then: impl FnOnce(&Facts<'_>, &Moment) -> T) -> Result<T, FactsError> {
        if self.format != Self::FORMAT {
            return Err(FactsError {
                subject: self.id.clone(),
                why: format!("the record has form {}, not {}", self.format, Self::FORMAT),
            });
        }
        let principal = Principal::new(self.principal.clone())?;
        let resource = Resource::new(self.resource.clone())?;
        let facts = Facts {
            principal: &principal,
            action: self.action,
            resource: &resource,
            situation: &self.situation,
        };
        Ok(then(
            &facts,
            &Moment::at(Timestamp::from_unix_millis(self.at)),
        ))
    }
}

/// A decision without the set that it was made by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// Allowed or refused.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policies that made it so.
    pub policies: Vec<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        Self {
            verdict: decision.verdict,
            reason: decision.reason,
            policies: decision.policies,
            failures: decision.failures,
        }
    }
}

/// A request with what was decided about it, and by which set: one line of a record of decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recorded {
    /// What was asked, with every fact that the decision saw.
    pub request: RecordedRequest,
    /// What was decided.
    pub outcome: Outcome,
    /// The digest of the set that decided, in hexadecimal.
    pub set: String,
}

impl Recorded {
    /// Records a decision under a name.
    pub fn of(id: impl Into<String>, facts: &Facts<'_>, now: &Moment, decision: &Decision) -> Self {
        Self {
            request: RecordedRequest::of(id, facts, now),
            outcome: Outcome {
                verdict: decision.verdict,
                reason: decision.reason,
                policies: decision.policies.clone(),
                failures: decision.failures.clone(),
            },
            set: decision.digest.to_string(),
        }
    }
}

/// How a request comes out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The record's name.
    pub id: String,
    /// What was asked for.
    pub action: Action,
    /// What was decided by the one set.
    pub from: Outcome,
    /// What would be decided by the other.
    pub to: Outcome,
}

/// What two sets make of the same requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// How many requests were decided by both.
    pub decided: usize,
    /// Requests that would be allowed and were not.
    pub newly_allowed: Vec<Change>,
    /// Requests that would be refused and were not.
    pub newly_refused: Vec<Change>,
    /// Requests that come out the same, for another reason or by other policies.
    pub otherwise: Vec<Change>,
    /// Records that could not be decided, and why.
    pub undecidable: Vec<(String, String)>,
}

impl Comparison {
    /// Whether every request that was decided comes out the same, if not by the same policies.
    pub fn changes_nothing(&self) -> bool {
        self.newly_allowed.is_empty() && self.newly_refused.is_empty()
    }

    fn add(&mut self, record: &RecordedRequest, from: Outcome, to: Outcome) {
        self.decided = self.decided.saturating_add(1);
        if from == to {
            return;
        }
        let list = match (from.verdict, to.verdict) {
            (Verdict::Refuse, Verdict::Allow) => &mut self.newly_allowed,
            (Verdict::Allow, Verdict::Refuse) => &mut self.newly_refused,
            (Verdict::Allow, Verdict::Allow) | (Verdict::Refuse, Verdict::Refuse) => {
                &mut self.otherwise
            }
        };
        list.push(Change {
            id: record.id.clone(),
            action: record.action,
            from,
            to,
        });
    }
}

/// Decides each record by both sets.
pub fn compare<'r>(
    from: &PolicySet,
    to: &PolicySet,
    records: impl IntoIterator<Item = &'r RecordedRequest>,
) -> Comparison {
    let mut comparison = Comparison::default();
    for record in records {
        let both = record.with(|facts, now| (decide(from, facts, now), decide(to, facts, now)));
        match both {
            Ok((from, to)) => comparison.add(record, from.into(), to.into()),
            Err(error) => comparison
                .undecidable
                .push((record.id.clone(), error.to_string())),
        }
    }
    comparison
}

/// Decides each record by a candidate, against what was decided at the time.
pub fn simulate<'r>(
    candidate: &PolicySet,
    records: impl IntoIterator<Item = &'r (RecordedRequest, Outcome)>,
) -> Comparison {
    let mut comparison = Comparison::default();
    for (record, was) in records {
        match record.decide(candidate) {
            Ok(decision) => comparison.add(record, was.clone(), decision.into()),
            Err(error) => comparison
                .undecidable
                .push((record.id.clone(), error.to_string())),
        }
    }
    comparison
}
