//! Identity rules, as rows.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{ClassName, Revision, Rule, RuleName, RuleSpec, Template, Timestamp};
use muster_policy::{Caller, CreateRule, DeleteRule, Permit, decide};
use muster_roll::{Change, Roll};

use super::{Place, commit, id, open, selectors, td};
use crate::Transaction;

/// Rules are written, replaced and deleted, and the log tells it.
pub(super) async fn run<P: Place>(place: &P) {
    let (plain, full) = (plain_rule(), full_rule());
    let replaced = Rule {
        version: 8,
        ..plain.clone()
    };
    let mut one = Transaction::new();
    one.put_rule(&create(), plain.clone());
    one.put_rule(&create(), full.clone());
    let mut two = Transaction::new();
    two.put_rule(&create(), replaced.clone());
    two.delete_rule(&delete(), full.name.clone());
    {
        let store = open(place).await;
        assert_eq!(commit(&*store, vec![one]).await, Revision(1));
        let loaded = store.load().await.expect("load");
        assert_eq!(loaded.rules, [at(1, &full), at(1, &plain)]);
        assert_eq!(commit(&*store, vec![two]).await, Revision(2));
    }
    let store = open(place).await;
    let loaded = store.load().await.expect("load");
    assert_eq!(loaded.rules, [at(2, &replaced)]);
    let roll = Roll::load(td("td"), loaded);
    assert_eq!(roll.rule("plain"), Some(&at(2, &replaced)));
    let log = store.changes_after(Revision(0), 9).await.expect("the log");
    let expected = [
        (
            Revision(1),
            vec![
                Change::PutRule(at(1, &plain)),
                Change::PutRule(at(1, &full)),
            ],
        ),
        (
            Revision(2),
            vec![
                Change::PutRule(at(2, &replaced)),
                Change::DeleteRule(full.name),
            ],
        ),
    ];
    assert_eq!(log, expected);
}

fn at(revision: u64, rule: &Rule) -> Arc<Rule> {
    Arc::new(Rule {
        changed_at: Revision(revision),
        ..rule.clone()
    })
}

/// A rule with no more than each has.
fn plain_rule() -> Rule {
    Rule {
        name: RuleName::parse("plain").expect("a name"),
        spec: RuleSpec {
            parent_id: id("/spire/agent/x/1"),
            selectors: selectors(&["unix:uid:7"]),
            template: Template::parse("spiffe://{td}/w/{unix:user}").expect("a template"),
            class: None,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            hint: String::new(),
            dns_names: Vec::new(),
            per_node: 1,
            in_all: 1,
        },
        version: 1,
        created_at: Timestamp::from_unix_seconds(1),
        created_by: "uid 0".into(),
        updated_at: Timestamp::from_unix_seconds(1),
        updated_by: "uid 0".into(),
        changed_at: Revision::default(),
    }
}

/// A rule with all that one can have.
fn full_rule() -> Rule {
    let plain = plain_rule();
    Rule {
        name: RuleName::parse("full").expect("a name"),
        spec: RuleSpec {
            selectors: selectors(&["unix:uid:7", "docker:label:a b:\u{e9}"]),
            template: Template::parse("spiffe://td/agent/{class}/{docker:label:a b}/{instance}")
                .expect("a template"),
            class: Some(ClassName::parse("full").expect("a name")),
            x509_svid_ttl: Some(Duration::from_secs(61)),
            jwt_svid_ttl: Some(Duration::from_secs(62)),
            federates_with: [td("f1"), td("f2")].into(),
            hint: "\u{1f511} hint".into(),
            dns_names: vec!["b.example".into(), "a.example".into()],
            per_node: 2,
            in_all: u32::MAX,
            ..plain.spec
        },
        version: 7,
        updated_at: Timestamp::from_unix_seconds(2),
        updated_by: "spiffe://td/ana".into(),
        ..plain
    }
}

fn create() -> Permit<CreateRule> {
    decide(&Caller::Local { pid: 1, uid: 0 }).expect("a local caller may")
}

fn delete() -> Permit<DeleteRule> {
    decide(&Caller::Local { pid: 1, uid: 0 }).expect("a local caller may")
}
