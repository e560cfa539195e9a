//! Policies on agents and their tasks: the set in force, and the decisions by it.
//!
//! Start at [`Policies::decide`]. `facts.rs` says what is known about a request, `issue.rs` asks
//! before an identity is signed, `stored.rs` brings sets from the store into force. What a set is and
//! how it decides is `core/cedar`.

pub(crate) mod facts;
mod issue;
mod prepared;
mod record;
mod stored;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use muster_audit::{Decision as Verdict, Record};
use muster_cedar::facts::Situation;
use muster_cedar::{
    Action, Decision, Facts, FactsError, Limits, LoadError, Moment, PolicySet, PrincipalFacts,
    Recorded, RecordedRequest, ResourceFacts, decide,
};
use muster_crypto::random;
use muster_model::{TaskId, Timestamp};
use muster_store::Store;
use muster_wire::error_info::{MUSTER_DOMAIN, status_with};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Code, Status};

pub(crate) use issue::{may_issue, may_mint};
pub(crate) use record::{principal_id, resource_id};
pub(crate) use stored::{Fresh, Origin, load, reconcile, tell_health};

use self::prepared::Prepared;
use self::record::{Repeats, Ring};
use crate::config::PolicyConfig;
use crate::metrics;

/// The reason of what policies refuse, in a word.
pub(crate) const REFUSED: &str = "POLICY_REFUSED";

/// What is in force until a set has been stored: everything that the guards let pass.
pub(crate) const BUILT_IN: &str = "// What is in force until a set is put in force: everything that the guards let pass.\n\
     @id(\"default.permit\")\npermit (principal, action, resource);\n";

/// How many names of policies a record or a refusal has at the most; it counts the others.
const NAMES: usize = 32;

/// A set in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// The set.
    pub(crate) set: Arc<PolicySet>,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// The newest version that was looked at when it came into force: this set's own, or one that
    /// did not load.
    pub(crate) seen: u64,
    /// Why it is not that newest version.
    pub(crate) problem: Option<String>,
}

/// What may be decided, by what, and what was.
pub(crate) struct Policies {
    current: ArcSwap<InForce>,
    /// Whether the set in force is the one that operators want.
    healthy: watch::Sender<bool>,
    prepared: Prepared,
    ring: Ring,
    repeats: Repeats,
    moment: ArcSwap<Moment>,
    /// The beginning of the names of decisions, and how many were named.
    names: Mutex<([u8; 2], u64)>,
    /// Where texts are.
    store: Arc<dyn Store>,
    /// Sets that are loaded, or tried on a record, at a time: it takes a core for seconds.
    workshop: Arc<Semaphore>,
}

/// A request for a decision, in the facts that the server has.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Who asks.
    pub(crate) principal: PrincipalFacts,
    /// What for.
    pub(crate) action: Action,
    /// On what.
    pub(crate) resource: ResourceFacts,
    /// Everything else.
    pub(crate) situation: Situation,
}

/// What was decided, and by what name that is on record.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The decision.
    pub(crate) decision: Decision,
    /// Its name in the record of decisions, and in the audit log.
    pub(crate) id: String,
    /// The same was refused to the same, for the same reason, minutes ago: it is on record already.
    pub(crate) repeated: bool,
    action: Action,
}

impl Policies {
    /// With a set in force, and an empty record.
    fn with(first: InForce, store: Arc<dyn Store>, config: PolicyConfig) -> Self {
        let (healthy, _) = watch::channel(first.problem.is_none());
        Self {
            current: ArcSwap::from_pointee(first),
            healthy,
            prepared: Prepared::default(),
            ring: Ring::new(config.record),
            repeats: Repeats::default(),
            moment: ArcSwap::from_pointee(Moment::at(Timestamp::EPOCH)),
            names: Mutex::new((random::bytes(), 0)),
            store,
            workshop: Arc::new(Semaphore::new(1)),
        }
    }

    /// The set in force now. Who holds it decides by it, whatever comes into force meanwhile.
    pub(crate) fn current(&self) -> Arc<PolicySet> {
        Arc::clone(&self.current.load().set)
    }

    /// The same with where it came from.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// Whether the set in force is the one that operators want, from now on.
    pub(crate) fn healthy(&self) -> watch::Receiver<bool> {
        self.healthy.subscribe()
    }

    /// Decides, and keeps that on record. The instant counts to the second.
    pub(crate) fn decide(&self, question: &Question, now: Timestamp) -> Answer {
        let set = self.current();
        let now = self.moment(now);
        let id = self.name(now.timestamp());
        let decision = match self.prepare(question) {
            Ok((principal, resource)) => {
                let facts = Facts {
                    principal: &principal,
                    action: question.action,
                    resource: &resource,
                    situation: &question.situation,
                };
                decide(&set, &facts, &now)
            }
            Err(error) => Decision::of_bad_facts(&set, &error),
        };
        metrics::decided(question.action.as_str(), decision.allows());
        let repeated =
            !decision.allows() && self.repeats.again(question, &decision, now.timestamp());
        if !repeated && self.ring.keeps() {
            self.ring.note(&Recorded {
                request: RecordedRequest {
                    format: RecordedRequest::FORMAT,
                    id: id.clone(),
                    at: now.timestamp().unix_millis(),
                    principal: question.principal.clone(),
                    action: question.action,
                    resource: question.resource.clone(),
                    situation: question.situation.clone(),
                },
                set: decision.digest.to_string(),
                outcome: decision.clone().into(),
            });
        }
        Answer {
            decision,
            id,
            repeated,
            action: question.action,
        }
    }

    /// Waits for the place in which sets are loaded and tried.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.workshop)
            .acquire_owned()
            .await
            .map_err(|closed| Status::unavailable(closed.to_string()))
    }

    /// The last decisions on record as lines of JSON, the oldest first; 0 is all of them.
    pub(crate) fn recorded(&self, last: usize) -> Vec<Arc<str>> {
        self.ring.last(last)
    }

    fn prepare(
        &self,
        question: &Question,
    ) -> Result<(Arc<muster_cedar::Principal>, Arc<muster_cedar::Resource>), FactsError> {
        Ok((
            self.prepared.principal(&question.principal)?,
            self.prepared.resource(&question.resource)?,
        ))
    }

    /// The second in which an instant is: making one takes as long as a third of a decision.
    fn moment(&self, now: Timestamp) -> Arc<Moment> {
        let second = now.floor_to_second();
        let kept = self.moment.load();
        if kept.timestamp() == second {
            return Arc::clone(&kept);
        }
        let fresh = Arc::new(Moment::at(second));
        self.moment.store(Arc::clone(&fresh));
        fresh
    }

    /// A ULID: by its time the decisions sort, and no two have the same.
    fn name(&self, now: Timestamp) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.1 = names.1.wrapping_add(1);
        let mut bytes = [0; 10];
        let (start, count) = bytes.split_at_mut(2);
        start.copy_from_slice(&names.0);
        count.copy_from_slice(&names.1.to_be_bytes());
        TaskId::new(now, bytes).to_string()
    }
}

impl Answer {
    /// Whether it is allowed.
    pub(crate) fn allows(&self) -> bool {
        self.decision.allows()
    }

    /// The record of what was asked for, with what was decided about it.
    pub(crate) fn onto(&self, record: Record) -> Record {
        let decision = &self.decision;
        let mut record = record
            .with("decision_id", self.id.as_str())
            .with("policies", names(&decision.policies))
            .with("policy_set", decision.digest.to_string());
        if !decision.allows() {
            record = record.with("policy_reason", decision.reason.as_str());
            record.decision = Verdict::Refused;
        }
        record
    }

    /// What the caller is told that something is refused to `whom`.
    pub(crate) fn refusal(&self, whom: &dyn fmt::Display) -> Status {
        let decision = &self.decision;
        let (reason, by) = (decision.reason.as_str(), names(&decision.policies));
        let set = decision.digest.to_string();
        let policies = if by.is_empty() {
            String::new()
        } else {
            format!(" ({by})")
        };
        let failure = decision
            .failures
            .first()
            .map(|failure| format!(": {}", failure.message))
            .unwrap_or_default();
        let message = format!(
            "policy refuses {} to {whom}: {reason}{policies}{failure}; the set of policies is {}",
            self.action.as_str(),
            set.get(..12).unwrap_or_default(),
        );
        let details = [
            ("action", self.action.as_str()),
            ("decision_id", &self.id),
            ("policies", &by),
            ("policy_set", &set),
            ("reason", reason),
        ];
        status_with(
            MUSTER_DOMAIN,
            Code::PermissionDenied,
            message,
            REFUSED,
            &details,
        )
    }
}

/// The names of policies, in one line.
fn names(policies: &[String]) -> String {
    let shown: Vec<&str> = policies.iter().take(NAMES).map(String::as_str).collect();
    let text = shown.join(" ");
    match policies.len().saturating_sub(shown.len()) {
        0 => text,
        others => format!("{text} +{others}"),
    }
}

/// The set that a text is, loaded on this thread: only for short ones of our own.
fn small(text: &str) -> Result<Arc<PolicySet>, LoadError> {
    PolicySet::load(text, &Limits::default()).map(Arc::new)
}
