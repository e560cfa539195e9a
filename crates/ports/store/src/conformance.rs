//! The suite that every adapter passes: call [`run`] from a test of the adapter.

#![expect(
    clippy::expect_used,
    reason = "a suite says what it expects, and a surprise ends the test"
)]

mod agents;
mod rules;
mod sightings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use muster_audit::{Actor, Decision, Event, Record};
use muster_model::{
    Bundle, ClassName, Entry, EntryId, JoinToken, Joined, JwtAuthority, Node, NodeStanding,
    Revision, Selector, SelectorSet, SerialNumber, SpiffeId, Timestamp, TrustDomain, WitAuthority,
    X509Authority,
};
use muster_policy::{Caller, Permit, Prune, RotateAuthority, decide};
use muster_roll::{Change, Loaded, Roll};

use crate::{Retention, Store, StoreError, Transaction};

/// Where a store is kept while the suite runs.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the store that is kept here, which is empty at first. The suite drops what it opened
    /// before it opens again.
    async fn open(&self) -> Result<Box<dyn Store>, StoreError>;
}

/// Runs every check, each on a new place.
pub async fn run<P: Place>(place: impl Fn() -> P) {
    an_empty_store(&place()).await;
    every_noun_comes_back(&place()).await;
    revisions_have_no_gaps(&place()).await;
    the_log_tells_how_the_rows_came_to_be(&place()).await;
    audit_records_are_numbered(&place()).await;
    a_batch_is_all_or_nothing(&place()).await;
    ordinals_are_not_given_again(&place()).await;
    the_log_is_shortened(&place()).await;
    commits_at_the_same_time(&place()).await;
    rules::run(&place()).await;
    agents::run(place).await;
}

async fn open<P: Place>(place: &P) -> Box<dyn Store> {
    place.open().await.expect("open the store")
}

async fn commit(store: &dyn Store, batch: Vec<Transaction>) -> Revision {
    let batch = batch.into_iter().map(Arc::new).collect();
    store.commit(batch).await.expect("commit")
}

async fn an_empty_store<P: Place>(place: &P) {
    let store = open(place).await;
    let loaded = store.load().await.expect("load");
    assert_eq!(loaded.head, Revision(0));
    assert_eq!(Roll::load(td("td"), loaded).next_ordinal(), 1);
    assert_eq!(store.changes_after(Revision(0), 9).await, Ok(Vec::new()));
    assert_eq!(store.audit_after(0, 9).await, Ok(Vec::new()));
    assert_eq!(commit(&*store, Vec::new()).await, Revision(0));
}

async fn every_noun_comes_back<P: Place>(place: &P) {
    let (entries, nodes, token, bundle) =
        (full_entries(), full_nodes(), join_token(), full_bundle());
    let mut one = Transaction::new();
    for entry in &entries {
        one.put_entry(&permit(), entry.clone());
    }
    for node in &nodes {
        one.put_node(&permit(), node.clone());
    }
    one.put_join_token(&permit(), token.clone());
    one.put_bundle(&permit(), bundle.clone());
    one.put_journal(&rotation(), "x509", &b"\x00\xffjournal"[..]);
    {
        let store = open(place).await;
        assert_eq!(commit(&*store, vec![one]).await, Revision(1));
    }
    let store = open(place).await;
    let loaded = store.load().await.expect("load");
    assert_eq!(loaded.head, Revision(1));
    let at = Revision(1);
    let expected: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            Arc::new(Entry {
                changed_at: at,
                ..entry
            })
        })
        .collect();
    assert_eq!(sorted(loaded.entries), expected);
    let mut found = loaded.nodes;
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let expected: Vec<_> = nodes
        .into_iter()
        .map(|node| {
            Arc::new(Node {
                changed_at: at,
                ..node
            })
        })
        .collect();
    assert_eq!(found, expected);
    // `Debug` hides the token, so that a failure here does not print it.
    assert!(loaded.join_tokens == [token.clone()]);
    let expected = Bundle {
        changed_at: at,
        ..bundle.clone()
    };
    assert_eq!(loaded.bundles, [Arc::new(expected)]);
    let journal = loaded.journals.get("x509").map(|content| &content[..]);
    assert_eq!(journal, Some(&b"\x00\xffjournal"[..]));

    // Replaced, and gone.
    let mut two = Transaction::new();
    two.put_entry(
        &permit(),
        Entry {
            hint: "other".into(),
            revision_number: 1,
            ..plain_entry("a", 1)
        },
    );
    two.delete_entry(&permit(), entry_id("b"));
    two.delete_entry(&permit(), entry_id("never-there"));
    two.delete_node(&permit(), id("/spire/agent/x/1"));
    two.delete_join_token(&permit(), token.value);
    two.delete_bundle(&permit(), bundle.trust_domain);
    two.put_journal(&rotation(), "x509", &b"second"[..]);
    assert_eq!(commit(&*store, vec![two]).await, Revision(2));
    drop(store);
    let loaded = open(place).await.load().await.expect("load");
    let (kept, revisions): (Vec<_>, Vec<_>) = sorted(loaded.entries)
        .iter()
        .map(|entry| (entry.id.to_string(), entry.changed_at))
        .unzip();
    assert_eq!((kept, revisions), (vec!["a".into()], vec![Revision(2)]));
    assert_eq!(loaded.nodes.len(), 1);
    assert_eq!((loaded.join_tokens.len(), loaded.bundles.len()), (0, 0));
    let journal = loaded.journals.get("x509").map(|content| &content[..]);
    assert_eq!(journal, Some(&b"second"[..]));
}

async fn revisions_have_no_gaps<P: Place>(place: &P) {
    let store = open(place).await;
    let put = |names: &[(&str, u64)]| {
        let mut transaction = Transaction::new();
        for (name, ordinal) in names {
            transaction.put_entry(&permit(), plain_entry(name, *ordinal));
        }
        transaction
    };
    let mut audit_only = Transaction::new();
    audit_only.audit(record("x", 1));
    let batch = vec![
        put(&[("c", 1), ("a", 2)]),
        audit_only.clone(),
        put(&[("b", 3)]),
    ];
    assert_eq!(commit(&*store, batch).await, Revision(2));
    assert_eq!(commit(&*store, vec![audit_only]).await, Revision(2));
    assert_eq!(commit(&*store, vec![put(&[("d", 4)])]).await, Revision(3));
    let names = |log: Vec<(Revision, Vec<Change>)>| -> Vec<(u64, Vec<String>)> {
        log.into_iter()
            .map(|(revision, changes)| {
                let names = changes.iter().map(|change| {
                    let Change::PutEntry(entry) = change else {
                        return format!("{change:?}");
                    };
                    assert_eq!(entry.changed_at, revision);
                    entry.id.to_string()
                });
                (revision.0, names.collect())
            })
            .collect()
    };
    let expected = |rows: &[(u64, &[&str])]| -> Vec<(u64, Vec<String>)> {
        rows.iter()
            .map(|(revision, names)| (*revision, names.iter().map(ToString::to_string).collect()))
            .collect()
    };
    let all = store.changes_after(Revision(0), 9).await.expect("changes");
    assert_eq!(
        names(all),
        expected(&[(1, &["c", "a"]), (2, &["b"]), (3, &["d"])])
    );
    // A limit counts transactions, and each comes whole.
    let some = store.changes_after(Revision(0), 1).await.expect("changes");
    assert_eq!(names(some), expected(&[(1, &["c", "a"])]));
    let some = store.changes_after(Revision(1), 1).await.expect("changes");
    assert_eq!(names(some), expected(&[(2, &["b"])]));
    let none = store.changes_after(Revision(3), 9).await.expect("changes");
    assert_eq!(names(none), expected(&[]));
}

async fn the_log_tells_how_the_rows_came_to_be<P: Place>(place: &P) {
    let mut steps = Vec::new();
    for n in 1..=20_u64 {
        let mut step = Transaction::new();
        step.put_entry(&permit(), plain_entry(&format!("e{n}"), n));
        if n % 3 == 0 {
            step.delete_entry(&permit(), entry_id(&format!("e{}", n / 2)));
        }
        if n % 4 == 0 {
            for node in full_nodes() {
                step.put_node(&permit(), node);
            }
            step.put_bundle(
                &permit(),
                Bundle {
                    sequence_number: n,
                    ..full_bundle()
                },
            );
            step.put_join_token(&permit(), join_token());
            step.put_journal(&rotation(), "jwt", n.to_be_bytes().to_vec());
        }
        if n % 8 == 0 {
            step.delete_join_token(&permit(), join_token().value);
            step.delete_node(&permit(), id("/spire/agent/x/1"));
            step.delete_bundle(&permit(), full_bundle().trust_domain);
        }
        steps.push(step);
    }
    // What the server computes while it commits.
    let mut expected = Roll::empty(td("td"));
    for step in &steps {
        expected.apply(expected.head().next(), step.changes());
    }
    {
        let store = open(place).await;
        commit(&*store, steps).await;
    }
    let store = open(place).await;
    let loaded = Roll::load(td("td"), store.load().await.expect("load"));
    assert_same(&loaded, &expected);
    // What another server computes that follows the log.
    let mut followed = Roll::empty(td("td"));
    loop {
        let news = store
            .changes_after(followed.head(), 3)
            .await
            .expect("changes");
        if news.is_empty() {
            break;
        }
        for (revision, changes) in news {
            assert_eq!(revision, followed.head().next());
            followed.apply(revision, &changes);
        }
    }
    assert_same(&followed, &expected);
}

async fn audit_records_are_numbered<P: Place>(place: &P) {
    {
        let store = open(place).await;
        let mut first = Transaction::new();
        first.audit(record("a", 1));
        first.audit(record("b", 2).with("serial_number", "17"));
        let mut second = Transaction::new();
        second.put_entry(&permit(), plain_entry("e", 1));
        second.audit(record("c", 3));
        commit(&*store, vec![first, second]).await;
    }
    let store = open(place).await;
    let mut third = Transaction::new();
    third.audit(record("d", 4));
    commit(&*store, vec![third]).await;
    let all = store.audit_after(0, 9).await.expect("audit");
    let expected = [
        (1, record("a", 1)),
        (2, record("b", 2).with("serial_number", "17")),
        (3, record("c", 3)),
        (4, record("d", 4)),
    ];
    assert_eq!(all, expected);
    assert_eq!(
        store.audit_after(2, 1).await.expect("audit"),
        expected[2..3]
    );
    assert_eq!(store.audit_after(4, 9).await.expect("audit"), []);
    let newest = store.audit_before(u64::MAX, 2).await.expect("audit");
    assert_eq!(newest, [expected[3].clone(), expected[2].clone()]);
    let older = store.audit_before(3, 9).await.expect("audit");
    assert_eq!(older, [expected[1].clone(), expected[0].clone()]);
    assert_eq!(store.audit_before(1, 9).await.expect("audit"), []);
}

async fn a_batch_is_all_or_nothing<P: Place>(place: &P) {
    let store = open(place).await;
    let mut base = Transaction::new();
    base.put_entry(&permit(), plain_entry("a", 1));
    commit(&*store, vec![base]).await;
    // Another entry with the first one's ordinal, and the first one with another ordinal.
    for wrong in [plain_entry("b", 1), plain_entry("a", 7)] {
        let mut good = Transaction::new();
        good.put_entry(&permit(), plain_entry("good", 2));
        good.audit(record("good", 1));
        let mut bad = Transaction::new();
        bad.put_entry(&permit(), wrong);
        bad.audit(record("bad", 1));
        let refused = store.commit(vec![Arc::new(good), Arc::new(bad)]).await;
        assert!(
            matches!(refused, Err(StoreError::Conflict { .. })),
            "{refused:?}"
        );
    }
    let loaded = store.load().await.expect("load");
    assert_eq!((loaded.head, loaded.entries.len()), (Revision(1), 1));
    assert_eq!(store.audit_after(0, 9).await, Ok(Vec::new()));
    let mut next = Transaction::new();
    next.put_entry(&permit(), plain_entry("c", 2));
    assert_eq!(commit(&*store, vec![next]).await, Revision(2));
}

async fn ordinals_are_not_given_again<P: Place>(place: &P) {
    {
        let store = open(place).await;
        let mut one = Transaction::new();
        one.put_entry(&permit(), plain_entry("a", 1));
        one.put_entry(&permit(), plain_entry("b", 2));
        one.delete_entry(&permit(), entry_id("b"));
        commit(&*store, vec![one]).await;
    }
    let loaded = open(place).await.load().await.expect("load");
    assert_eq!(Roll::load(td("td"), loaded).next_ordinal(), 3);
}

async fn the_log_is_shortened<P: Place>(place: &P) {
    let forever = |revisions| Retention {
        revisions,
        since: Timestamp::EPOCH,
    };
    let store = open(place).await;
    for n in 1..=10_u64 {
        let mut one = Transaction::new();
        one.put_entry(&permit(), plain_entry(&format!("e{n}"), n));
        one.audit(record("x", i64::try_from(n).expect("small")));
        commit(&*store, vec![one]).await;
    }
    assert_eq!(store.prune_changes(forever(100)).await, Ok(0));
    assert_eq!(store.prune_changes(forever(8)).await, Ok(2));
    assert_eq!(store.prune_changes(forever(8)).await, Ok(0));
    let since = Retention {
        revisions: 100,
        since: Timestamp::from_unix_millis(5),
    };
    assert_eq!(store.prune_changes(since).await, Ok(2));
    assert_eq!(
        store.changes_after(Revision(3), 9).await,
        Err(StoreError::Forgotten {
            asked: Revision(3),
            oldest: Revision(4)
        })
    );
    let rest = store.changes_after(Revision(4), 9).await.expect("changes");
    let revisions: Vec<u64> = rest.iter().map(|(revision, _)| revision.0).collect();
    assert_eq!(revisions, [5, 6, 7, 8, 9, 10]);
    // To nothing at all; the rows, the audit records and the count of revisions stay.
    assert_eq!(store.prune_changes(forever(0)).await, Ok(6));
    let loaded = store.load().await.expect("load");
    assert_eq!((loaded.head, loaded.entries.len()), (Revision(10), 10));
    assert_eq!(store.audit_after(0, 99).await.expect("audit").len(), 10);
    let mut next = Transaction::new();
    next.put_entry(&permit(), plain_entry("next", 11));
    assert_eq!(commit(&*store, vec![next]).await, Revision(11));
    let rest = store.changes_after(Revision(10), 9).await.expect("changes");
    assert_eq!(rest.len(), 1);
}

async fn commits_at_the_same_time<P: Place>(place: &P) {
    let store = open(place).await;
    let commits = (1..=50_u64).map(|n| {
        let mut one = Transaction::new();
        one.put_entry(&permit(), plain_entry(&format!("e{n}"), n));
        store.commit(vec![Arc::new(one)])
    });
    let heads: Result<BTreeSet<Revision>, _> = join_all(commits).await.into_iter().collect();
    assert_eq!(heads, Ok((1..=50).map(Revision).collect()));
}

/// Two rolls are the same if all that they hold is.
fn assert_same(found: &Roll, expected: &Roll) {
    let saved = |roll: &Roll| Loaded {
        head: roll.head(),
        next_ordinal: roll.next_ordinal(),
        entries: roll.entries_after(0).cloned().collect(),
        nodes: roll.nodes().cloned().collect(),
        join_tokens: roll.join_tokens().cloned().collect(),
        bundles: roll.bundles().cloned().collect(),
        agents: roll.agents().saved(),
        rules: roll.rules().cloned().collect(),
        journals: roll
            .journals()
            .map(|(name, content)| (name.to_owned(), Arc::clone(content)))
            .collect(),
    };
    let (found, expected) = (saved(found), saved(expected));
    assert_eq!(found.entries, expected.entries);
    assert!(found == expected, "{found:?} instead of {expected:?}");
}

fn sorted(mut entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    entries.sort_by_key(|entry| entry.ordinal);
    entries
}

fn permit() -> Permit<Prune> {
    decide(&Caller::System("conformance")).expect("the server may prune")
}

fn rotation() -> Permit<RotateAuthority> {
    decide(&Caller::System("conformance")).expect("the server may rotate")
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a name")
}

fn id(path: &str) -> SpiffeId {
    td("td").with_path(path).expect("a path")
}

fn entry_id(text: &str) -> EntryId {
    EntryId::parse(text).expect("an ID")
}

fn selectors(texts: &[&str]) -> SelectorSet {
    texts
        .iter()
        .map(|text| text.parse::<Selector>().expect("a selector"))
        .collect()
}

fn record(subject: &str, at_ms: i64) -> Record {
    Record {
        at_ms,
        event: Event::EntryCreated,
        actor: Actor::default(),
        decision: Decision::Allowed,
        subject: subject.to_owned(),
        detail: std::collections::BTreeMap::new(),
    }
}

fn plain_entry(name: &str, ordinal: u64) -> Entry {
    Entry {
        id: entry_id(name),
        spiffe_id: id("/w"),
        parent_id: id("/spire/agent/x/1"),
        selectors: selectors(&["unix:uid:1"]),
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
        ordinal,
        revision_number: 0,
        changed_at: Revision::default(),
    }
}

/// One entry with nothing set, one with everything.
fn full_entries() -> Vec<Entry> {
    let full = Entry {
        spiffe_id: SpiffeId::parse("spiffe://td.elsewhere/w").expect("an ID"),
        parent_id: id("/spire/server"),
        selectors: selectors(&[
            "unix:path:/a \"quoted\"\\:b",
            "unix:user:\u{fc}\n",
            "k8s:ns:x",
        ]),
        x509_svid_ttl: Some(Duration::from_millis(1_500)),
        jwt_svid_ttl: Some(Duration::from_hours(1)),
        federates_with: BTreeSet::from([td("f1"), td("f2")]),
        admin: true,
        downstream: true,
        expires_at: Some(Timestamp::from_unix_millis(1_800_000_000_123)),
        dns_names: vec!["b.example".into(), "a.example".into()],
        store_svid: true,
        hint: "\u{1f511} hint".into(),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
        class: ClassName::parse("reader").ok(),
        revision_number: i64::MAX,
        ..plain_entry("b", 2)
    };
    vec![plain_entry("a", 1), full]
}

/// A node that is banned, and one with all that a node can have; by ascending ID.
fn full_nodes() -> Vec<Node> {
    let serial = |text: &str| SerialNumber::from_decimal(text).expect("a number");
    let banned = Node {
        id: id("/spire/agent/x/0"),
        attestation_type: "x".into(),
        standing: NodeStanding::Banned,
        can_reattest: false,
        selectors: SelectorSet::new(),
        agent_version: String::new(),
        joined: None,
        changed_at: Revision::default(),
    };
    let full = Node {
        id: id("/spire/agent/x/1"),
        standing: NodeStanding::Active {
            serial: serial("340282366920938463463374607431768211455"),
            expires_at: Timestamp::from_unix_millis(1),
            next: Some((serial("7"), Timestamp::from_unix_millis(2))),
        },
        can_reattest: true,
        selectors: selectors(&["x:a", "x:b:c"]),
        agent_version: "1.2.3".into(),
        joined: Some(Joined {
            key: "00ff".into(),
            at: Timestamp::from_unix_millis(1_700_000_000_001),
        }),
        ..banned.clone()
    };
    vec![banned, full]
}

fn join_token() -> JoinToken {
    JoinToken {
        value: "4f6c3c5e-token".into(),
        expires_at: Timestamp::from_unix_millis(1_700_000_600_000),
    }
}

fn full_bundle() -> Bundle {
    Bundle {
        trust_domain: td("f1"),
        x509_authorities: vec![
            X509Authority {
                der: Arc::from(&b"\x30\x00\xff"[..]),
                expires_at: Timestamp::from_unix_millis(5),
                tainted: true,
            },
            X509Authority {
                der: Arc::from(&b""[..]),
                expires_at: Timestamp::MAX,
                tainted: false,
            },
        ],
        jwt_authorities: vec![
            JwtAuthority {
                key_id: "k1".into(),
                public_key: Arc::from(&b"\x01"[..]),
                expires_at: Some(Timestamp::from_unix_millis(6)),
                tainted: false,
            },
            JwtAuthority {
                key_id: "k2".into(),
                public_key: Arc::from(&b"\x02"[..]),
                expires_at: None,
                tainted: true,
            },
        ],
        wit_authorities: vec![WitAuthority {
            key_id: "w1".into(),
            public_key: Arc::from(&b"\x03"[..]),
            expires_at: Some(Timestamp::from_unix_millis(7)),
            tainted: true,
        }],
        refresh_hint: 300,
        sequence_number: 42,
        changed_at: Revision::default(),
    }
}
