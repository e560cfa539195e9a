//! Rows about agents.

use std::time::Duration;

use muster_model::{
    AgentClass, AgentInstance, BindingKind, BootId, BoundTo, Cause, ClassName, ClassSpec,
    ClassStanding, Consent, DataClass, Delegation, Departure, InstanceState, Lifecycle, Line,
    MayActFor, Note, Permissions, PersonId, PolicyVersion, Prose, Purpose, Resource, Reviewed,
    Revision, RiskTier, RuleName, Scope, Sha256, Task, TaskDefaults, TaskId, TaskState, Timestamp,
    Word,
};
use muster_policy::{
    Caller, MarkPersonGone, Permit, PruneSightings, PutPolicies, ReconcileAgents, ReconcileTasks,
    decide,
};
use muster_roll::Roll;

use super::sightings::{full_sighting, plain_sighting};
use super::{Place, assert_same, commit, id, open, selectors, td};
use crate::Transaction;

/// Runs every check about agents.
pub(super) async fn run<P: Place>(place: impl Fn() -> P) {
    every_row_comes_back(&place()).await;
}

async fn every_row_comes_back<P: Place>(place: &P) {
    let mut one = Transaction::new();
    for class in [plain_class(), full_class()] {
        one.put_class(&permit(), class);
    }
    for instance in [plain_instance(), full_instance()] {
        one.put_instance(&permit(), instance);
    }
    for task in [plain_task(), full_task()] {
        one.put_task(&tasks(), task);
    }
    for sighting in [plain_sighting(), full_sighting()] {
        one.put_sighting(&sightings(), sighting);
    }
    one.put_departure(&persons(), departure("mailto:olga@example.org"));
    one.put_departure(&persons(), departure("https://idp.example.org#00u1ab"));
    one.put_policies(&author(), policies(1, None), "// one\n".into());
    one.put_policies(&author(), policies(2, Some(1)), "// \u{e9}\n".into());
    // Replaced, and gone.
    let mut two = Transaction::new();
    let mut changed = full_class();
    changed.version += 1;
    changed.review_warned = None;
    two.put_class(&permit(), changed);
    two.delete_instance(&permit(), plain_instance().id);
    two.delete_task(&tasks(), plain_task().id);
    two.delete_policies(&author(), 1);
    two.delete_sighting(&sightings(), plain_sighting().id());
    two.delete_departure(&persons(), departure("mailto:olga@example.org").person);
    let mut expected = Roll::empty(td("td"));
    {
        let store = open(place).await;
        expected.apply(Revision(1), one.changes());
        assert_eq!(commit(&*store, vec![one]).await, Revision(1));
        let loaded = Roll::load(td("td"), store.load().await.expect("load"));
        assert_same(&loaded, &expected);
        expected.apply(Revision(2), two.changes());
        assert_eq!(commit(&*store, vec![two]).await, Revision(2));
    }
    let store = open(place).await;
    let loaded = Roll::load(td("td"), store.load().await.expect("load"));
    assert_same(&loaded, &expected);
    let agents = loaded.agents().saved();
    let counts = (
        agents.classes.len(),
        agents.instances.len(),
        agents.tasks.len(),
        agents.departures.len(),
        agents.policies.len(),
        agents.sightings.len(),
    );
    assert_eq!(counts, (2, 1, 1, 1, 1, 1));
    let text = |number| store.policy_text(number);
    assert_eq!(text(1).await.expect("an answer"), None);
    let second = text(2).await.expect("an answer").expect("a text");
    assert_eq!(second.as_str(), "// \u{e9}\n");
    // What another server computes that follows the log.
    let mut followed = Roll::empty(td("td"));
    let log = store.changes_after(Revision(0), 9).await.expect("changes");
    for (revision, changes) in log {
        followed.apply(revision, &changes);
    }
    assert_same(&followed, &expected);
}

fn permit() -> Permit<ReconcileAgents> {
    decide(&Caller::System("conformance")).expect("the server may reconcile")
}

fn tasks() -> Permit<ReconcileTasks> {
    decide(&Caller::System("conformance")).expect("the server may reconcile")
}

fn sightings() -> Permit<PruneSightings> {
    decide(&Caller::System("conformance")).expect("the server may prune")
}

fn persons() -> Permit<MarkPersonGone> {
    decide(&Caller::Local { pid: 1, uid: 0 }).expect("an operator may")
}

fn author() -> Permit<PutPolicies> {
    decide(&Caller::Local { pid: 1, uid: 0 }).expect("an operator may")
}

fn policies(number: u64, again: Option<u64>) -> PolicyVersion {
    PolicyVersion {
        number,
        digest: Sha256::parse(&"0b".repeat(32)).expect("a digest"),
        policies: 3,
        bytes: 7,
        again,
        at: Timestamp::from_unix_millis(1_700_000_000_001),
        by: "uid 0".into(),
        note: note("why"),
        changed_at: Revision::default(),
    }
}

fn name(text: &str) -> ClassName {
    ClassName::parse(text).expect("a name")
}

fn person(text: &str) -> PersonId {
    PersonId::parse(text).expect("a person")
}

fn word(text: &str) -> Word {
    Word::parse(text).expect("a word")
}

fn note(text: &str) -> Note {
    Note::parse(text).expect("a note")
}

fn plain_class() -> AgentClass {
    AgentClass {
        name: name("plain"),
        spec: ClassSpec {
            display_name: Line::parse("Plain").expect("a line"),
            description: Prose::parse("").expect("a text"),
            purposes: [Purpose::Testing].into(),
            owner: person("mailto:olga@example.org"),
            sponsor: person("mailto:sam@example.org"),
            team: None,
            risk_tier: RiskTier::default(),
            data_ceiling: DataClass::default(),
            allowed_models: [].into(),
            allowed_providers: [].into(),
            permissions: Permissions::default(),
            delegation: Delegation {
                may_act_for: MayActFor::None,
                max_depth: 0,
                consent: Consent::Interactive,
            },
            task_defaults: TaskDefaults {
                ttl: Duration::from_secs(1),
                max_ttl: Duration::from_secs(2),
                budget: None,
            },
            attestation: selectors(&[]),
            valid_until: Timestamp::from_unix_millis(1_800_000_000_001),
            review_by: Timestamp::from_unix_millis(1_800_000_000_000),
        },
        standing: ClassStanding {
            lifecycle: Lifecycle::Proposed,
            since: Timestamp::from_unix_millis(1_700_000_000_001),
            cause: Cause::Operator,
            note: note(""),
            by: "uid 0".into(),
        },
        last_reviewed: None,
        review_warned: None,
        created_by: "uid 0".into(),
        created_at: Timestamp::from_unix_millis(1_700_000_000_001),
        version: 1,
        changed_at: Revision::default(),
    }
}

/// A class with all that a class can have.
fn full_class() -> AgentClass {
    let plain = plain_class();
    AgentClass {
        name: name("full"),
        spec: ClassSpec {
            description: Prose::parse("Two\nlines: \"\u{e9}\"").expect("a text"),
            purposes: Purpose::ALL.iter().copied().collect(),
            owner: person("https://idp.example.org#00u1ab"),
            team: Some(word("payments")),
            risk_tier: RiskTier::MAX,
            data_ceiling: DataClass::MAX,
            allowed_models: [word("m:1"), word("m/2")].into(),
            allowed_providers: [word("local")].into(),
            permissions: Permissions {
                scopes: [Scope::parse("mail.read").expect("a scope")].into(),
                resources: [Resource::parse("https://api.example.org/").expect("a URI")].into(),
            },
            delegation: Delegation {
                may_act_for: MayActFor::Agents,
                max_depth: 16,
                consent: Consent::Ciba,
            },
            task_defaults: TaskDefaults {
                budget: Some(u64::MAX),
                ..plain.spec.task_defaults
            },
            attestation: selectors(&["unix:path:/usr/bin/agent", "unix:uid:7"]),
            ..plain.spec
        },
        standing: ClassStanding {
            lifecycle: Lifecycle::Quarantined,
            cause: Cause::OwnerGone,
            note: note("it wrote to strangers"),
            ..plain.standing
        },
        last_reviewed: Some(Reviewed {
            by: person("mailto:ida@example.org"),
            at: Timestamp::from_unix_millis(5),
        }),
        review_warned: Some(Timestamp::from_unix_millis(6)),
        version: 7,
        ..plain
    }
}

fn plain_instance() -> AgentInstance {
    AgentInstance {
        id: id("/agent/plain/1"),
        class: name("plain"),
        node: None,
        parent: None,
        executable: None,
        first_seen: Timestamp::from_unix_millis(1),
        last_seen: Timestamp::from_unix_millis(2),
        state: InstanceState::Registered,
        cause: Cause::Operator,
        changed_at: Revision::default(),
    }
}

fn full_instance() -> AgentInstance {
    AgentInstance {
        id: id("/agent/full/1"),
        class: name("full"),
        node: Some(id("/spire/agent/x/1")),
        parent: Some(id("/agent/plain/1")),
        executable: Some(Sha256::parse(&"0f".repeat(32)).expect("a digest")),
        state: InstanceState::Lost,
        cause: Cause::NotSeen,
        ..plain_instance()
    }
}

fn plain_task() -> Task {
    let id_of = TaskId::new(Timestamp::from_unix_millis(1), [1; 10]);
    Task {
        id: id_of,
        instance: id("/agent/plain/1"),
        class: name("plain"),
        node: id("/spire/agent/x/1"),
        rule: None,
        bound_to: BoundTo {
            kind: BindingKind::Process,
            pid: 7,
            start_time: 1,
            boot: None,
            cgroup: 0,
        },
        level: 0,
        parent: None,
        root: id_of,
        kind: word("read"),
        purpose: None,
        permissions: Permissions::default(),
        data_class: DataClass::default(),
        budget: None,
        spent: 0,
        depth: 0,
        opened_at: Timestamp::from_unix_millis(1),
        deadline: Timestamp::from_unix_millis(9),
        state: TaskState::Open,
        cause: None,
        ended_at: None,
        exit_status: None,
        edition: 0,
        changed_at: Revision::default(),
    }
}

fn full_task() -> Task {
    let plain = plain_task();
    Task {
        id: TaskId::new(Timestamp::from_unix_millis(2), [2; 10]),
        parent: Some(plain.id),
        rule: Some(RuleName::parse("full").expect("a name")),
        bound_to: BoundTo {
            kind: BindingKind::Cgroup,
            pid: u32::MAX,
            start_time: u64::MAX,
            boot: BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e").ok(),
            cgroup: u64::MAX,
        },
        level: 3,
        edition: 5,
        purpose: Some(Sha256::parse(&"a0".repeat(32)).expect("a digest")),
        permissions: full_class().spec.permissions,
        data_class: DataClass::MAX,
        budget: Some(9),
        spent: 3,
        depth: 1,
        state: TaskState::ProcessExited,
        cause: Some(word("killed_by_oom")),
        ended_at: Some(Timestamp::from_unix_millis(8)),
        exit_status: Some(-9),
        ..plain
    }
}

fn departure(who: &str) -> Departure {
    Departure {
        person: person(who),
        at: Timestamp::from_unix_millis(3),
        note: note("left the house"),
        by: "uid 0".into(),
    }
}
