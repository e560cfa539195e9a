//! A small world for property tests: few names, so that random changes meet each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_model::{
    Bundle, Entry, EntryId, InstanceState, JoinToken, Lifecycle, Node, NodeStanding, Revision,
    Rule, RuleName, RuleSpec, Selector, SelectorSet, SerialNumber, SpiffeId, Task, TaskId,
    TaskState, Template, Timestamp, TrustDomain, X509Authority,
};
use proptest::prelude::*;

use crate::agents::{self, AgentChange};
use crate::{Change, Roll};

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    td("td").with_path(path).unwrap()
}

pub(crate) fn entry_id(text: &str) -> EntryId {
    EntryId::parse(text).unwrap()
}

pub(crate) fn selectors(texts: &[&str]) -> SelectorSet {
    texts
        .iter()
        .map(|text| text.parse::<Selector>().unwrap())
        .collect()
}

pub(crate) fn roll() -> Roll {
    Roll::empty(td("td"))
}

pub(crate) fn entry(name: &str, parent: &SpiffeId, spiffe_id: &SpiffeId, given: &[&str]) -> Entry {
    Entry {
        id: entry_id(name),
        spiffe_id: spiffe_id.clone(),
        parent_id: parent.clone(),
        selectors: selectors(given),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: None,
        created_at: Timestamp::from_unix_seconds(1_700_000_000),
        ordinal: 0,
        revision_number: 0,
        changed_at: Revision::default(),
    }
}

pub(crate) fn rule(name: &str, parent: &SpiffeId, template: &str, given: &[&str]) -> Rule {
    Rule {
        name: RuleName::parse(name).unwrap(),
        spec: RuleSpec {
            parent_id: parent.clone(),
            selectors: selectors(given),
            template: Template::parse(template).unwrap(),
            class: None,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            hint: String::new(),
            dns_names: Vec::new(),
            per_node: 10,
            in_all: 100,
        },
        version: 1,
        created_at: Timestamp::from_unix_seconds(1_700_000_000),
        created_by: "uid 0".into(),
        updated_at: Timestamp::from_unix_seconds(1_700_000_000),
        updated_by: "uid 0".into(),
        changed_at: Revision::default(),
    }
}

pub(crate) fn active(serial: &str, expires: i64) -> NodeStanding {
    NodeStanding::Active {
        serial: SerialNumber::from_decimal(serial).unwrap(),
        expires_at: Timestamp::from_unix_seconds(expires),
        next: None,
    }
}

pub(crate) fn node(path: &str, given: &[&str]) -> Node {
    Node {
        id: id(path),
        attestation_type: "join_token".into(),
        standing: active("1", 100),
        can_reattest: false,
        selectors: selectors(given),
        agent_version: String::new(),
        joined: None,
        changed_at: Revision::default(),
    }
}

pub(crate) fn bundle(name: &str, sequence_number: u64) -> Bundle {
    Bundle {
        x509_authorities: vec![X509Authority {
            der: Arc::from(name.as_bytes()),
            expires_at: Timestamp::from_unix_seconds(1000),
            tainted: false,
        }],
        sequence_number,
        ..Bundle::empty(td(name))
    }
}

/// The names that entries of the world have and stand under.
pub(crate) fn name() -> impl Strategy<Value = SpiffeId> {
    prop_oneof![
        1 => Just(id("/spire/server")),
        3 => (0..2_u8).prop_map(|n| id(&format!("/spire/agent/{n}"))),
        6 => (0..5_u8).prop_map(|n| id(&format!("/w/{n}"))),
        3 => (0..2_u8, 0..2_u8).prop_map(|(class, n)| id(&format!("/agent/c{class}/{n}"))),
        1 => Just(SpiffeId::parse("spiffe://other/w/1").unwrap()),
    ]
}

fn some_selectors() -> impl Strategy<Value = SelectorSet> {
    prop::collection::btree_set(prop::sample::select(vec!["s:a", "s:b", "s:c"]), 1..3)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn some_domains() -> impl Strategy<Value = BTreeSet<TrustDomain>> {
    prop::collection::btree_set(prop::sample::select(vec!["td", "f1", "f2"]), 0..2)
        .prop_map(|names| names.into_iter().map(td).collect())
}

pub(crate) fn some_entry() -> impl Strategy<Value = Entry> {
    (
        0..8_u8,
        name(),
        prop_oneof![2 => Just(id("/spire/server")), 5 => name()],
        some_selectors(),
        some_domains(),
        (
            0..3_i64,
            any::<(bool, bool)>(),
            prop::option::of(0..4_i64),
            prop::option::weighted(0.2, 0..2_u8),
        ),
    )
        .prop_map(
            |(n, spiffe_id, parent, selectors, domains, (revision, roles, expires, class))| Entry {
                class: class.map(|n| agents::world::name(&format!("c{n}"))),
                selectors,
                federates_with: domains,
                revision_number: revision,
                admin: roles.0,
                downstream: roles.1,
                expires_at: expires.map(Timestamp::from_unix_seconds),
                ..entry(&format!("e{n}"), &parent, &spiffe_id, &[])
            },
        )
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let template = prop::sample::select(vec![
        "spiffe://{td}/agent/c0/{unix:user}",
        "spiffe://{td}/agent/{class}/{unix:uid}",
        "spiffe://{td}/w/{instance}",
    ]);
    (
        0..3_u8,
        name(),
        template,
        some_selectors(),
        prop::option::of(0..2_u8),
        (1..3_u64, some_domains()),
    )
        .prop_map(
            |(n, parent, template, selectors, class, (version, domains))| {
                let mut rule = rule(&format!("r{n}"), &parent, template, &[]);
                rule.spec.selectors = selectors;
                rule.spec.federates_with = domains;
                rule.spec.class = class.map(|n| agents::world::name(&format!("c{n}")));
                rule.version = version;
                rule
            },
        )
}

/// Any change; the ordinal of a new entry is put in by [`step`].
pub(crate) fn change() -> impl Strategy<Value = Change> {
    let node_path = || (0..2_u8).prop_map(|n| format!("/spire/agent/{n}"));
    prop_oneof![
        10 => some_entry().prop_map(|entry| Change::PutEntry(Arc::new(entry))),
        5 => (0..8_u8).prop_map(|n| Change::DeleteEntry(entry_id(&format!("e{n}")))),
        4 => (node_path(), some_selectors(), any::<bool>()).prop_map(|(path, selectors, banned)| {
            let standing = if banned { NodeStanding::Banned } else { active("1", 100) };
            Change::PutNode(Arc::new(Node { selectors, standing, ..node(&path, &[]) }))
        }),
        1 => node_path().prop_map(|path| Change::DeleteNode(id(&path))),
        2 => (prop::sample::select(vec!["td", "f1", "f2"]), 0..4_u64)
            .prop_map(|(name, sequence)| Change::PutBundle(Arc::new(bundle(name, sequence)))),
        1 => prop::sample::select(vec!["f1", "f2"]).prop_map(|name| Change::DeleteBundle(td(name))),
        1 => Just(Change::PutJoinToken(JoinToken { value: "t".into(), expires_at: Timestamp::EPOCH })),
        1 => Just(Change::DeleteJoinToken("t".into())),
        4 => some_rule().prop_map(|rule| Change::PutRule(Arc::new(rule))),
        2 => (0..3_u8).prop_map(|n| Change::DeleteRule(RuleName::parse(&format!("r{n}")).unwrap())),
        6 => some_agent().prop_map(Change::Agent),
        1 => Just(Change::PutJournal { name: "x509".into(), content: Arc::from(&b"x"[..]) }),
    ]
}

fn some_agent() -> impl Strategy<Value = AgentChange> {
    let lifecycle = prop::sample::select(Lifecycle::ALL.to_vec());
    let state = prop::sample::select(InstanceState::ALL.to_vec());
    let agent = || (0..2_u8, 0..2_u8).prop_map(|(class, n)| id(&format!("/agent/c{class}/{n}")));
    prop_oneof![
        4 => (0..2_u8, lifecycle, any::<bool>()).prop_map(|(n, lifecycle, asks)| {
            let mut class = agents::world::class(&format!("c{n}"));
            class.standing.lifecycle = lifecycle;
            if asks {
                class.spec.attestation = selectors(&["s:c"]);
            }
            AgentChange::PutClass(Arc::new(class))
        }),
        4 => (agent(), state).prop_map(|(id, state)| {
            AgentChange::PutInstance(Arc::new(agents::world::instance(&id, state)))
        }),
        1 => agent().prop_map(AgentChange::DeleteInstance),
        6 => some_task().prop_map(|task| AgentChange::PutTask(Arc::new(task))),
        1 => (0..8_u8).prop_map(|n| {
            AgentChange::DeleteTask(TaskId::new(agents::world::BEGIN, [n; 10]))
        }),
    ]
}

/// A task of few, each of which is one agent's on one node for ever.
fn some_task() -> impl Strategy<Value = Task> {
    let state = prop::sample::select(TaskState::ALL.to_vec());
    let state = prop_oneof![2 => Just(TaskState::Open), 1 => state];
    (0..8_u8, state, 0..2_u32).prop_map(|(n, state, edition)| Task {
        edition,
        spent: edition.into(),
        ..agents::world::task(
            n,
            &id(&format!("/agent/c{}/{}", n / 2 % 2, n / 4)),
            &id(&format!("/spire/agent/{}", n % 2)),
            state,
        )
    })
}

/// Steps of one to four changes.
pub(crate) fn history() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(change(), 1..5), 1..40)
}

/// Applies a step to the roll as the writer does, with ordinals as the roll gives them.
pub(crate) fn step(roll: &mut Roll, changes: &[Change]) -> Vec<Change> {
    let revision = roll.head().next();
    let mut probe = roll.clone();
    let mut numbered = Vec::new();
    for change in changes {
        let mut change = change.clone();
        if let Change::PutEntry(entry) = &mut change {
            let old = probe.entry(&entry.id).map(|old| old.ordinal);
            Arc::make_mut(entry).ordinal = old.unwrap_or_else(|| probe.next_ordinal());
        }
        probe.apply(revision, std::slice::from_ref(&change));
        numbered.push(change);
    }
    roll.apply(revision, &numbered);
    numbered
}
