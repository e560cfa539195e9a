//! What the server does about agents beside answering operators: it signs nothing that a class
//! withholds, notes which agents receive SVIDs, and acts upon dates.
//!
//! The rules are in `core/roll/agents`.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Event, Record, SvidKind, identity};
use muster_model::{
    AgentClass, Cause, ClassName, Entry, EntryId, InstanceState, Lifecycle, SpiffeId, Task, TaskId,
    Timestamp,
};
use muster_policy::{
    Caller, Instances, Permit, Principal, ReconcileAgents, SeeAgents, Writes, decide,
};
use muster_roll::agents::Agents;
use muster_roll::agents::instance::{self, Sight};
use muster_roll::agents::membership::{self, Withheld};
use muster_roll::agents::reconcile::{self, Due, Settings};
use muster_roll::agents::task::{self, Limits};
use muster_roll::{Roll, matching, naming};
use muster_store::Transaction;
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of, status_of};
use tonic::{Code, Status};

use crate::derived;
use crate::errors;
use crate::operation::{Operation, record};
use crate::policies;
use crate::server::Server;
use crate::writer::WriteError;

/// How often it looks for what is due.
const PERIOD: Duration = Duration::from_secs(10);
/// Rows changed in one transaction, so that a great many do not hold up other writers.
const ROWS: usize = 500;

/// A refusal of our own, with its reason for programs.
pub(crate) fn refusal(code: Code, message: impl Into<String>, reason: &str) -> Status {
    status_of(MUSTER_DOMAIN, code, message, reason)
}

/// Why nothing is signed for an identity that is withheld.
pub(crate) fn not_signed(why: &Withheld<'_>) -> Status {
    refusal(
        Code::FailedPrecondition,
        format!("nothing is signed: {why}"),
        why.reason(),
    )
}

/// Whether something may be signed for an identity now.
pub(crate) fn check(
    roll: &Roll,
    id: &SpiffeId,
    class: Option<&ClassName>,
    now: Timestamp,
) -> Result<(), Status> {
    match membership::withheld_at(roll.agents(), id, class, now) {
        Some(why) => Err(not_signed(&why)),
        None => Ok(()),
    }
}

/// The same for an identity that an operator names: entries and rules that give it may name a class.
pub(crate) fn check_minted(roll: &Roll, id: &SpiffeId, now: Timestamp) -> Result<(), Status> {
    check(roll, id, None, now)?;
    matching::classes_named(roll, id).try_for_each(|class| check(roll, id, Some(class), now))
}

/// How long what is signed for an entry lives: as long as the entry says, else as configured. What
/// the entry of a task says is the most that tasks have; a configuration with less counts for them.
pub(crate) fn lifetime(entry: &Entry, own: Option<Duration>, configured: Duration) -> Duration {
    match own {
        Some(most) if TaskId::in_path(&entry.spiffe_id).is_some() => most.min(configured),
        Some(own) => own,
        None => configured,
    }
}

/// A lifetime that does not go beyond the end of the class.
pub(crate) fn within(
    ttl: Duration,
    roll: &Roll,
    id: &SpiffeId,
    class: Option<&ClassName>,
    now: Timestamp,
) -> Duration {
    let agents = roll.agents();
    let ttl = match agents.task_named(id) {
        Some(task) => within_task(ttl, agents, task, now),
        None => ttl,
    };
    match membership::ends_at(agents, id, class) {
        Some(end) => ttl.min(end.since(now)),
        None => ttl,
    }
}

/// A lifetime that goes neither beyond a task nor beyond what it is part of (agent-identity 4.3).
fn within_task(ttl: Duration, agents: &Agents, task: &Task, now: Timestamp) -> Duration {
    let class = agents.class(task.class.as_str());
    let above = task.parent.and_then(|id| agents.task(id));
    let limits = Limits {
        requested: Some(ttl),
        class_max: class.map_or(task::X509_TTL, |class| class.spec.task_defaults.max_ttl),
        task_deadline: Some(task.deadline),
        parent_deadline: above.map(|above| above.deadline),
        subject_token: None,
        svid: None,
    };
    // In whole seconds, as credentials count: from the second in which it is signed.
    let (end, _) = task::expiry(&limits, now);
    end.floor_to_second().since(now.floor_to_second())
}

/// Something that was signed, and has not left yet.
pub(crate) struct Issued {
    /// What is written about it.
    record: Record,
    id: SpiffeId,
    class: Option<ClassName>,
    node: Option<SpiffeId>,
    /// The rule that gives it, at the version at which it was derived.
    rule: Option<(String, i64)>,
    /// Its place among the answers.
    place: usize,
}

impl Issued {
    /// For an entry of a node, or for a name that it derived by rule.
    pub(crate) fn for_node(entry: &Entry, node: &SpiffeId, place: usize, record: Record) -> Self {
        let (key, value) = given_by(entry);
        let record = record.with(key, value);
        Self {
            record: match TaskId::in_path(&entry.spiffe_id) {
                Some((_, task)) => record.with("task", task.to_string()),
                None => record,
            },
            id: entry.spiffe_id.clone(),
            class: entry.class.clone(),
            node: Some(node.clone()),
            rule: naming::rule_of_entry(&entry.id)
                .map(|rule| (rule.to_owned(), entry.revision_number)),
            place,
        }
    }

    /// For an operator.
    pub(crate) fn minted(id: &SpiffeId, record: Record) -> Self {
        Self {
            record,
            id: id.clone(),
            class: None,
            node: None,
            rule: None,
            place: 0,
        }
    }

    /// Says in the record where it goes, and of which agent and task it is.
    fn describe(&mut self, roll: &Roll) {
        let (agent, class) = self.agent(roll);
        let class = membership::classes(roll.agents(), agent, class).next();
        let class = class.map(|class| class.name.to_string());
        let mut add = |name: &str, value: &str| {
            self.record.detail.insert(name.to_owned(), value.to_owned());
        };
        if let Some(node) = &self.node {
            add("node", node.as_str());
        }
        if let Some(class) = class {
            add("class", &class);
            if let Some(task) = identity::task_of(self.id.as_str()) {
                add("task", task);
            }
        }
    }

    /// Whose it is: of a task, its agent's.
    fn agent<'a>(&'a self, roll: &'a Roll) -> (&'a SpiffeId, Option<&'a ClassName>) {
        match roll.agents().task_named(&self.id) {
            Some(task) => (&task.instance, Some(&task.class)),
            None => (&self.id, self.class.as_ref()),
        }
    }

    fn check(&self, roll: &Roll, now: Timestamp) -> Result<(), Status> {
        if let (Some(node), Some((rule, version))) = (&self.node, &self.rule) {
            derived::check_again(roll, node, (rule, *version), &self.id)?;
        }
        match self.node {
            Some(_) => check(roll, &self.id, self.class.as_ref(), now),
            None => check_minted(roll, &self.id, now),
        }
    }
}

/// Puts what was signed on the record; what a class has begun to withhold meanwhile is not handed
/// out: from the moment at which a suspension is acknowledged, nothing leaves any more.
///
/// Returns the places of what may not leave, and why.
pub(crate) async fn put_on_record(
    server: &Server,
    issued: Vec<Issued>,
) -> Result<Vec<(usize, Status)>, WriteError> {
    if issued.is_empty() {
        return Ok(Vec::new());
    }
    let now = server.clock.now().wall;
    // The table gives the server itself this action; without it, nobody is noted.
    let permit = decide::<SeeAgents>(&Caller::System("see agents")).ok();
    server
        .roll
        .write(move |roll, transaction| {
            let mut withheld = Vec::new();
            for mut one in issued {
                one.describe(roll);
                if let Err(why) = one.check(roll, now) {
                    transaction.audit(one.record.refused(why.message()));
                    withheld.push((one.place, why));
                    continue;
                }
                if let (Some(permit), Some(node)) = (&permit, &one.node) {
                    see(roll, transaction, permit, one.agent(roll), node, now);
                }
                transaction.audit(one.record);
            }
            withheld
        })
        .await
}

/// The same for one alone.
pub(crate) async fn put_one_on_record(server: &Server, issued: Issued) -> Result<(), Status> {
    let withheld = put_on_record(server, vec![issued])
        .await
        .map_err(|error| errors::write(&error))?;
    withheld
        .into_iter()
        .next()
        .map_or(Ok(()), |(_, why)| Err(why))
}

/// What gives an identity, as a record says it.
pub(crate) fn given_by(entry: &Entry) -> (&'static str, &str) {
    match naming::rule_of_entry(&entry.id) {
        Some(rule) => ("rule", rule),
        None => ("entry_id", entry.id.as_str()),
    }
}

/// What a node asks to have signed, as it named it.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The ID of an entry.
    Entry(String),
    /// The name of a rule, and the identity that it came to.
    Rule {
        /// The rule.
        rule: String,
        /// The identity.
        name: String,
    },
}

/// Notes that nothing was signed for an entry or by a rule, unless that may pass or is our own fault. What a policy
/// refuses is on record with its decision.
pub(crate) fn note_unsigned<A>(
    server: &Server,
    op: &Operation<A>,
    kind: SvidKind,
    source: &Source,
    why: &Status,
) {
    let decided = matches!(
        why.code(),
        Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::ResourceExhausted
    );
    let by_policy = reason_of(MUSTER_DOMAIN, why).is_some_and(|word| word == policies::REFUSED);
    if !decided || by_policy {
        return;
    }
    let mut record = match source {
        Source::Entry(entry_id) => {
            let id = EntryId::parse(entry_id).ok();
            let entry = id.as_ref().and_then(|id| op.roll.entry(id));
            let subject = entry.map_or(entry_id.as_str(), |entry| entry.spiffe_id.as_str());
            op.svid_record(kind, subject)
                .with("entry_id", entry_id.as_str())
        }
        Source::Rule { rule, name } => op
            .svid_record(kind, name.as_str())
            .with("rule", rule.as_str()),
    };
    if let Some(word) = reason_of(MUSTER_DOMAIN, why) {
        record = record.with("reason_code", word);
    }
    if let Some(node) = &op.permit.principal().id {
        record = record.with("node", node.as_str());
    }
    server.refusals.note(record.refused(why.message()));
}

/// Notes that an agent received an SVID, if it is one.
pub(crate) fn see<A: Writes<Instances>>(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<A>,
    (id, class): (&SpiffeId, Option<&ClassName>),
    node: &SpiffeId,
    now: Timestamp,
) {
    let agents = roll.agents();
    let Some(class) = membership::classes(agents, id, class).next() else {
        return;
    };
    let sight = Sight {
        id: id.clone(),
        class: class.name.clone(),
        node: node.clone(),
    };
    let known = agents.instance(id);
    let Some(row) = instance::seen(known.map(AsRef::as_ref), &sight, now) else {
        return;
    };
    let events: &[Event] = match known.map(|known| known.state) {
        None => &[Event::AgentRegistered, Event::AgentSeenFirst],
        Some(InstanceState::Registered) => &[Event::AgentSeenFirst],
        Some(InstanceState::Lost) => &[Event::AgentFound],
        Some(InstanceState::Active | InstanceState::Quarantined | InstanceState::Retired) => &[],
    };
    for event in events {
        let said = record(permit.principal(), now, *event, row.id.as_str());
        transaction.audit(
            said.with("class", row.class.as_str())
                .with("node", node.as_str()),
        );
    }
    transaction.put_instance(permit, row);
}

/// A reconciler: acts upon dates, and upon agents that are no longer seen. Idempotent, takes no
/// input.
pub(crate) async fn reconcile(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (now, settings) = (server.clock.now().wall, server.agents);
        if reconcile::due(&server.roll.snapshot(), &settings, now, 1).is_empty() {
            continue;
        }
        // The table gives the server itself this action; a refusal would be a fault of the table.
        let Ok(permit) = decide::<ReconcileAgents>(&Caller::System("reconcile agents")) else {
            continue;
        };
        let done = server
            .roll
            .write(move |roll, transaction| settle(roll, transaction, &permit, &settings, now));
        if let Err(error) = done.await {
            tracing::warn!(%error, "what is due about agents could not be written; trying again");
        }
    }
}

fn settle(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<ReconcileAgents>,
    settings: &Settings,
    now: Timestamp,
) {
    let principal = permit.principal();
    let said = |event, subject: &str| record(principal, now, event, subject);
    for due in reconcile::due(roll, settings, now, ROWS) {
        match due {
            Due::Warning(class) => {
                tracing::warn!(class = %class.name, owner = %class.spec.owner, "an agent class must be reviewed soon");
                transaction.audit(
                    said(Event::AgentReviewOverdue, class.name.as_str())
                        .with("stage", "warning")
                        .with("review_by", class.spec.review_by.unix_seconds().to_string())
                        .with("owner", class.spec.owner.as_str())
                        .with("sponsor", class.spec.sponsor.as_str()),
                );
                transaction.put_class(permit, class);
            }
            Due::Class(class) => {
                tracing::warn!(class = %class.name, lifecycle = %class.standing.lifecycle, cause = %class.standing.cause, "an agent class gives no identities any longer");
                for record in stood(principal, &class, now) {
                    transaction.audit(record);
                }
                transaction.put_class(permit, class);
            }
            Due::Lost(instance) => {
                transaction.audit(
                    said(Event::AgentLost, instance.id.as_str())
                        .with("class", instance.class.as_str())
                        .with("cause", instance.cause.as_str()),
                );
                transaction.put_instance(permit, instance);
            }
            Due::Forgotten(instance) => {
                transaction.audit(
                    said(Event::AgentForgotten, instance.id.as_str())
                        .with("class", instance.class.as_str()),
                );
                transaction.delete_instance(permit, instance.id.clone());
            }
        }
    }
}

/// The records of a class that stands elsewhere now: why, where that has a name of its own, and
/// where.
pub(crate) fn stood(principal: &Principal, class: &AgentClass, now: Timestamp) -> Vec<Record> {
    let standing = &class.standing;
    let why = match standing.cause {
        Cause::ReviewOverdue => Some(Event::AgentReviewOverdue),
        Cause::OwnerGone | Cause::SponsorGone => Some(Event::AgentOrphaned),
        Cause::Operator
        | Cause::Expired
        | Cause::Idle
        | Cause::Seen
        | Cause::NotSeen
        | Cause::NodeGone
        | Cause::ClassNotActive
        | Cause::AgentBarred
        | Cause::NameGone
        | Cause::DeadlinePassed
        | Cause::BudgetSpent
        | Cause::ParentEnded
        | Cause::NodeSilent => None,
    };
    let place = match standing.lifecycle {
        Lifecycle::Proposed => Event::ClassProposed,
        Lifecycle::Active => Event::ClassReinstated,
        Lifecycle::Suspended => Event::ClassSuspended,
        Lifecycle::Quarantined => Event::ClassQuarantined,
        Lifecycle::Retired => Event::ClassRetired,
    };
    why.into_iter()
        .chain([place])
        .map(|event| of_class(principal, class, event, now))
        .collect()
}

/// A record about a class.
pub(crate) fn of_class(
    principal: &Principal,
    class: &AgentClass,
    event: Event,
    now: Timestamp,
) -> Record {
    let standing = &class.standing;
    let said = record(principal, now, event, class.name.as_str())
        .with("lifecycle", standing.lifecycle.as_str())
        .with("cause", standing.cause.as_str())
        .with("version", class.version.to_string());
    if standing.note.as_str().is_empty() {
        said
    } else {
        said.with("reason", standing.note.as_str())
    }
}

#[cfg(test)]
mod tests {
    use muster_model::{Note, TrustDomain};
    use muster_proto::muster::agent::v1;
    use muster_roll::agents::lifecycle::ClassStep;
    use muster_roll::agents::rules::{self, Deed};

    use super::*;

    const BEGIN: Timestamp = Timestamp::from_unix_seconds(1000);

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    /// A roll with a class that is active, and reviewed by 2000.
    fn roll() -> Roll {
        let mut roll = Roll::empty(TrustDomain::parse("td").unwrap());
        let spec = muster_wire::agent::read_spec(&v1::ClassSpec {
            display_name: "Reader".into(),
            purposes: vec!["research".into()],
            owner: "mailto:olga@example.org".into(),
            sponsor: "mailto:sam@example.org".into(),
            valid_until: Some(at(3000)),
            review_by: Some(at(2000)),
            ..v1::ClassSpec::default()
        })
        .unwrap();
        let deed = || Deed {
            by: "uid 0",
            note: Note::parse("").unwrap(),
            now: BEGIN,
        };
        let name = ClassName::parse("reader").unwrap();
        let class = rules::propose(roll.agents(), name, spec, deed()).unwrap();
        let class = rules::step(roll.agents(), &class, ClassStep::Approve, None, deed()).unwrap();
        let mut transaction = Transaction::new();
        transaction.put_class(&permit(), class);
        roll.apply(roll.head().next(), transaction.changes());
        roll
    }

    fn permit() -> Permit<ReconcileAgents> {
        decide(&Caller::System("test")).unwrap()
    }

    /// What the reconciler writes at an instant, applied.
    fn settled(roll: &mut Roll, now: Timestamp) -> Vec<Event> {
        let mut transaction = Transaction::new();
        settle(roll, &mut transaction, &permit(), &Settings::default(), now);
        roll.apply(roll.head().next(), transaction.changes());
        assert!(
            transaction
                .records()
                .iter()
                .all(|record| record.actor.class == "system")
        );
        transaction
            .records()
            .iter()
            .map(|record| record.event)
            .collect()
    }

    #[test]
    fn each_thing_that_is_due_is_done_and_on_the_record_once() {
        let mut roll = roll();
        assert_eq!(settled(&mut roll, BEGIN), [Event::AgentReviewOverdue]);
        assert_eq!(settled(&mut roll, BEGIN), []);
        let date = Timestamp::from_unix_seconds(2000);
        assert_eq!(
            settled(&mut roll, date),
            [Event::AgentReviewOverdue, Event::ClassSuspended]
        );
        assert_eq!(settled(&mut roll, date), []);
    }

    #[test]
    fn nothing_is_signed_that_a_class_withholds_or_that_outlives_it() {
        let roll = roll();
        let id = |path: &str| roll.trust_domain().with_path(path).unwrap();
        let (agent, other) = (id("/agent/reader/1"), id("/web"));
        let end = Timestamp::from_unix_seconds(3000);
        let hour = Duration::from_hours(1);
        assert!(check(&roll, &agent, None, BEGIN).is_ok());
        assert_eq!(
            within(hour, &roll, &agent, None, BEGIN),
            Duration::from_secs(2000)
        );
        assert_eq!(within(hour, &roll, &other, None, BEGIN), hour);
        // Before the reconciler has come by.
        let refused = check(&roll, &agent, None, end).unwrap_err();
        let reason = reason_of(MUSTER_DOMAIN, &refused);
        assert_eq!(reason.as_deref(), Some("CLASS_EXPIRED"));
        assert!(check(&roll, &other, None, end).is_ok());
    }
}
