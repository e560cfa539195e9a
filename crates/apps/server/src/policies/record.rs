//! The last decisions, on record: bounded in number and in bytes, in memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_cedar::{Decision, PrincipalFacts, Recorded, ResourceFacts};
use muster_model::Timestamp;

use super::Question;

/// How many bytes of records are kept at the most, whatever their number.
const BYTES: usize = 32 * 1024 * 1024;
/// How long the same refusal is not put on record again.
const PAUSE: Duration = Duration::from_mins(10);
/// How many refusals are remembered before the older half is forgotten.
const REMEMBERED: usize = 4096;

/// The last decisions as lines of JSON.
pub(super) struct Ring {
    most: usize,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Ring {
    /// A record of the last `most` decisions.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            lines: Mutex::default(),
        }
    }

    /// Whether it keeps anything at all.
    pub(super) fn keeps(&self) -> bool {
        self.most > 0
    }

    /// Keeps a decision, and lets the oldest go that it has no room for.
    pub(super) fn note(&self, recorded: &Recorded) {
        let line: Arc<str> = match serde_json::to_string(recorded) {
            Ok(line) => line.into(),
            Err(error) => {
                tracing::error!(%error, "a decision could not be put on record");
                return;
            }
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.bytes = lines.bytes.saturating_add(line.len());
        lines.kept.push_back(line);
        while lines.kept.len() > self.most || lines.bytes > BYTES {
            let Some(oldest) = lines.kept.pop_front() else {
                break;
            };
            lines.bytes = lines.bytes.saturating_sub(oldest.len());
        }
    }

    /// The last ones, the oldest first; 0 is all.
    pub(super) fn last(&self, count: usize) -> Vec<Arc<str>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if count == 0 { usize::MAX } else { count };
        let skipped = lines.kept.len().saturating_sub(count);
        lines.kept.iter().skip(skipped).cloned().collect()
    }
}

/// What was refused of late. A node asks for what was refused again and again, and the record is for
/// what is new.
#[derive(Default)]
pub(super) struct Repeats {
    seen: Mutex<(HashMap<u64, Timestamp>, HashMap<u64, Timestamp>)>,
}

impl Repeats {
    /// Whether the same was refused to the same for the same reason within the last minutes.
    pub(super) fn again(&self, question: &Question, decision: &Decision, now: Timestamp) -> bool {
        let mut hasher = DefaultHasher::new();
        principal_id(&question.principal).hash(&mut hasher);
        question.action.hash(&mut hasher);
        resource_id(&question.resource).hash(&mut hasher);
        let task = question.situation.task.as_ref();
        task.map(|task| &task.id).hash(&mut hasher);
        decision.reason.as_str().hash(&mut hasher);
        decision.policies.hash(&mut hasher);
        decision.digest.hash(&mut hasher);
        let key = hasher.finish();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *seen;
        let last = young.get(&key).or_else(|| old.get(&key)).copied();
        if last.is_some_and(|last| now.since(last) < PAUSE) {
            return true;
        }
        if young.len() >= REMEMBERED {
            *old = std::mem::take(young);
        }
        young.insert(key, now);
        false
    }
}

/// Who asked, by name.
pub(crate) fn principal_id(facts: &PrincipalFacts) -> &str {
    match facts {
        PrincipalFacts::Agent(agent) => &agent.id,
        PrincipalFacts::Node(node) => &node.id,
        PrincipalFacts::User(user) => &user.id,
    }
}

/// What was acted on, by name.
pub(crate) fn resource_id(facts: &ResourceFacts) -> &str {
    match facts {
        ResourceFacts::AgentClass(class) => &class.id,
        ResourceFacts::TaskKind(kind) => kind,
        ResourceFacts::ResourceServer(server) => &server.id,
        ResourceFacts::Tool(tool) => &tool.id,
    }
}

#[cfg(test)]
mod tests {
    use muster_cedar::facts::{Situation, UserFacts};
    use muster_cedar::{Action, Limits, Outcome, PolicySet, Reason, RecordedRequest, Verdict};

    use super::*;

    fn question(user: &str) -> Question {
        Question {
            principal: PrincipalFacts::User(UserFacts {
                id: user.into(),
                ..UserFacts::default()
            }),
            action: Action::AgentSpawn,
            resource: ResourceFacts::TaskKind("code".into()),
            situation: Situation::default(),
        }
    }

    fn recorded(id: &str) -> Recorded {
        let question = question("ann");
        Recorded {
            request: RecordedRequest {
                format: RecordedRequest::FORMAT,
                id: id.into(),
                at: 0,
                principal: question.principal,
                action: question.action,
                resource: question.resource,
                situation: question.situation,
            },
            outcome: Outcome {
                verdict: Verdict::Refuse,
                reason: Reason::NotPermitted,
                policies: Vec::new(),
                failures: Vec::new(),
            },
            set: String::new(),
        }
    }

    #[test]
    fn the_oldest_are_let_go() {
        let ring = Ring::new(3);
        for id in ["a", "b", "c", "d"] {
            ring.note(&recorded(id));
        }
        let ids = |count| -> Vec<String> {
            ring.last(count)
                .iter()
                .map(|line| serde_json::from_str::<Recorded>(line).unwrap().request.id)
                .collect()
        };
        assert_eq!(ids(0), ["b", "c", "d"]);
        assert_eq!(ids(2), ["c", "d"]);
        // One that fills the room of all others.
        let long = "x".repeat(BYTES - 100);
        ring.note(&recorded(&long));
        assert_eq!(ids(0).len(), 0);
        assert_eq!(
            ring.lines.lock().unwrap().bytes,
            0,
            "what is too long for the record is not kept"
        );
        assert!(!Ring::new(0).keeps());
    }

    #[test]
    fn the_same_refusal_is_new_once_in_a_while() {
        let set = PolicySet::load("", &Limits::default()).unwrap();
        let decision = Decision {
            verdict: Verdict::Refuse,
            reason: Reason::NotPermitted,
            policies: Vec::new(),
            failures: Vec::new(),
            digest: set.digest(),
        };
        let repeats = Repeats::default();
        let at = |seconds| Timestamp::from_unix_seconds(seconds);
        assert!(!repeats.again(&question("ann"), &decision, at(0)));
        assert!(repeats.again(&question("ann"), &decision, at(599)));
        assert!(!repeats.again(&question("bob"), &decision, at(599)));
        assert!(!repeats.again(&question("ann"), &decision, at(600)));
        let other = Decision {
            policies: vec!["no".into()],
            ..decision
        };
        assert!(!repeats.again(&question("ann"), &other, at(601)));
    }
}
