//! Identity rules: what operators may write, what is signed by them and for whom, and what takes the
//! identities back.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test fail by panicking"
)]

#[path = "rules/ends.rs"]
mod ends;
#[path = "rules/federation.rs"]
mod federation;
#[path = "rules/rig.rs"]
mod rig;

use std::slice::from_ref;

use muster_audit::{Decision, Event};
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::v1::WatchRequest;
use muster_wire::error_info::{MUSTER_DOMAIN, metadata_of};
use rig::{Rig, derived, facts, in_force, next, spec, why};
use tonic::Code;

const BY_PROCESS: &str = "spiffe://{td}/agent/{class}/{instance}";

/// One row, and each process has a name of its own; nothing is written for it but its record.
#[tokio::test]
async fn many_processes_by_one_rule() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let mut stream = rig.watch(WatchRequest::default()).await;
    let first = next(&mut stream).await;
    assert!(first.rules.is_empty());

    let rule = rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    assert_eq!((rule.version, rule.names), (1, 0));
    let step = next(&mut stream).await;
    assert_eq!(step.rules.len(), 1);
    // What the class asks for is among what the node is told.
    let told: Vec<String> = step.rules[0]
        .spec
        .as_ref()
        .unwrap()
        .selectors
        .iter()
        .map(|s| format!("{}:{}", s.r#type, s.value))
        .collect();
    assert_eq!(told, ["unix:group:readers", "unix:uid:7"]);

    let mut names = std::collections::BTreeSet::new();
    for pid in 1..=5 {
        let derived = rig.derived(&step.rules[0], &facts(pid));
        let (id, _) = rig.sign(derived.clone()).await.unwrap();
        assert_eq!(id, derived.spiffe_id);
        assert!(id.starts_with("spiffe://example.org/agent/reader/"), "{id}");
        names.insert(id);
    }
    assert_eq!(names.len(), 5);
    // The same process again is the same name.
    let again = rig.derived(&step.rules[0], &facts(1));
    assert!(names.contains(&rig.sign(again.clone()).await.unwrap().0));
    let token = rig.token(again.clone()).await.unwrap();
    assert_eq!(token, again.spiffe_id);
    let shown = rig.rule("readers").await.unwrap();
    assert_eq!((shown.names, shown.nodes), (5, 1));
    // Agents so named are known, without anybody's registering them.
    assert_eq!(rig.instances("reader").await.len(), 5);
    assert_eq!(rig.entries().await, 0);

    let records = rig.stop().await;
    let issued: Vec<_> = records
        .iter()
        .filter(|r| {
            r.event == Event::SvidIssued
                && r.detail["svid"] == "x509"
                && r.decision == Decision::Allowed
        })
        .filter(|r| names.contains(&r.subject))
        .collect();
    assert_eq!(issued.len(), 6);
    assert!(issued.iter().all(|r| r.detail["rule"] == "readers"
        && r.detail["class"] == "reader"
        && !r.detail.contains_key("entry_id")));
    let written = records.iter().find(|r| r.event == Event::RuleCreated);
    assert_eq!(written.unwrap().detail["template"], BY_PROCESS);
}

/// Refused with the reason and the place, on record, and nothing half done.
#[tokio::test]
async fn what_may_not_be_written_is_refused_with_its_reason() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    rig.entry("/svc/web", "unix:user:www").await;
    let mut stream = rig.watch(WatchRequest::default()).await;
    next(&mut stream).await;
    let mut expected = Vec::new();
    for (name, template, word, at) in [
        (
            "other-domain",
            "spiffe://other/w",
            "FOREIGN_TRUST_DOMAIN",
            "9",
        ),
        (
            "reserved",
            "spiffe://{td}/spire/agent/{instance}",
            "RESERVED_PATH",
            "14",
        ),
        ("open", "spiffe://{td}/{unix:user}", "OPEN_PATH", "14"),
        (
            "unknown",
            "spiffe://{td}/w/{unix:shoe}",
            "UNKNOWN_FACT",
            "16",
        ),
        (
            "ambiguous",
            "spiffe://{td}/w/{unix:supplementary_gid}",
            "FACT_AMBIGUOUS",
            "16",
        ),
        (
            "misspelt",
            "spiffe://{td}/w/{instanze}",
            "UNKNOWN_PLACEHOLDER",
            "16",
        ),
        ("task", "spiffe://{td}/w/t/{unix:user}", "TASK_PATH", "16"),
        (
            "collides",
            "spiffe://{td}/svc/{unix:user}",
            "NAME_OF_ENTRY",
            "18",
        ),
    ] {
        let refused = rig.create(name, spec(&rig, template)).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, word.to_owned()),
            "{refused}"
        );
        assert_eq!(metadata_of(MUSTER_DOMAIN, &refused)["at"], at, "{template}");
        expected.push((name.to_owned(), word.to_owned()));
    }
    let mut unbounded = spec(&rig, BY_PROCESS);
    unbounded.per_node = 0;
    let refused = rig.create("unbounded", unbounded).await.unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::InvalidArgument, "UNBOUNDED".to_owned())
    );
    expected.push(("unbounded".into(), "UNBOUNDED".into()));
    assert_eq!(rig.list().await, Vec::<String>::new());

    // An entry that would take a rule's name is refused as well; others live beside it.
    rig.create("units", spec(&rig, "spiffe://{td}/unit/{systemd:id}"))
        .await
        .unwrap();
    let entry = rig.try_entry("/unit/web.service", "unix:user:www").await;
    let text = entry.unwrap_err();
    assert!(text.contains("identity rule units could give it"), "{text}");
    rig.entry("/units/web.service", "unix:user:www").await;
    // The node heard of the rule that was written, and of nothing else.
    let step = next(&mut stream).await;
    assert_eq!(step.rules.len(), 1);

    // Two writers who saw the same version.
    let team = |version| v1::UpdateRuleRequest {
        name: "units".into(),
        spec: Some(v1::RuleSpec {
            per_node: 7,
            ..v1::RuleSpec::default()
        }),
        mask: Some(prost_types::FieldMask {
            paths: vec!["per_node".into()],
        }),
        version,
    };
    let mut api = rig.api();
    let second = api.update_rule(team(1)).await.unwrap().into_inner();
    assert_eq!((second.version, second.spec.unwrap().per_node), (2, 7));
    let late = api.update_rule(team(1)).await.unwrap_err();
    assert_eq!(why(&late), (Code::Aborted, "VERSION_MISMATCH".to_owned()));

    let records = rig.stop().await;
    let refused: Vec<(String, String)> = records
        .iter()
        .filter(|r| r.event == Event::RuleCreated && r.decision == Decision::Refused)
        .map(|r| (r.subject.clone(), r.detail["reason"].clone()))
        .collect();
    assert_eq!(refused, expected);
}

/// The server trusts no name: it derives it again.
#[tokio::test]
async fn what_differs_is_not_signed() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let rule = rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    let rule = in_force(&rule);
    let good = rig.derived(&rule, &facts(1));
    let refused = async |change: &dyn Fn(&mut muster_proto::muster::node::v1::Derived)| {
        let mut bad = good.clone();
        change(&mut bad);
        why(&rig.token(bad).await.unwrap_err())
    };
    let failed = |word: &str| (Code::FailedPrecondition, word.to_owned());
    let other = "spiffe://example.org/agent/reader/0123456789abcdef01234567";
    assert_eq!(
        refused(&|d| d.spiffe_id = other.into()).await,
        failed("NAME_DIFFERS")
    );
    assert_eq!(
        refused(&|d| d.facts.as_mut().unwrap().process.as_mut().unwrap().pid += 1).await,
        failed("NAME_DIFFERS")
    );
    assert_eq!(
        refused(&|d| d.facts.as_mut().unwrap().process = None).await,
        failed("PROCESS_UNKNOWN")
    );
    // Less than the class asks for.
    assert_eq!(
        refused(&|d| d.facts.as_mut().unwrap().selectors.truncate(1)).await,
        failed("SELECTOR_MISSING")
    );
    assert_eq!(
        refused(&|d| d.rule = "others".into()).await,
        (Code::NotFound, "RULE_NOT_FOUND".to_owned())
    );
    // Another node, under which the rule does not stand.
    let stranger = rig.another_node().await;
    let from = rig::token_as(&stranger, good.clone()).await.unwrap_err();
    assert_eq!(why(&from), (Code::NotFound, "RULE_NOT_FOUND".to_owned()));
    rig.sign(good).await.unwrap();
    let records = rig.stop().await;
    let refusals = records.iter().filter(|r| {
        r.event == Event::SvidIssued
            && r.detail["svid"] == "jwt"
            && r.decision == Decision::Refused
            && r.detail.contains_key("reason_code")
    });
    assert_eq!(refusals.count(), 6);
}

/// Suspending the class, quarantining one agent, changing and deleting the rule each take back what
/// they concern, on the node and at the server.
#[tokio::test]
async fn identities_are_taken_back() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let mut stream = rig.watch(WatchRequest::default()).await;
    next(&mut stream).await;
    rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    let rule = next(&mut stream).await.rules.remove(0);
    let (one, two) = (rig.derived(&rule, &facts(1)), rig.derived(&rule, &facts(2)));
    rig.sign(one.clone()).await.unwrap();
    rig.sign(two.clone()).await.unwrap();

    // One agent alone.
    rig.quarantine(&one.spiffe_id).await;
    let step = next(&mut stream).await;
    assert_eq!(step.withheld_names, from_ref(&one.spiffe_id));
    assert!(step.rules.is_empty() && step.removed_rules.is_empty());
    let barred = rig.token(one.clone()).await.unwrap_err();
    assert_eq!(
        why(&barred),
        (Code::FailedPrecondition, "AGENT_QUARANTINED".to_owned())
    );
    rig.sign(two.clone()).await.unwrap();
    rig.release(&one.spiffe_id).await;
    assert_eq!(
        next(&mut stream).await.released_names,
        from_ref(&one.spiffe_id)
    );

    // The class.
    rig.suspend("reader").await;
    assert_eq!(next(&mut stream).await.removed_rules, ["readers"]);
    let suspended = rig.token(two.clone()).await.unwrap_err();
    assert_eq!(
        why(&suspended),
        (Code::FailedPrecondition, "CLASS_SUSPENDED".to_owned())
    );
    assert_eq!(
        rig.rule("readers").await.unwrap().withheld,
        "CLASS_SUSPENDED"
    );
    rig.reinstate("reader").await;
    assert_eq!(next(&mut stream).await.rules, from_ref(&rule));
    rig.sign(two.clone()).await.unwrap();

    // The rule: what it no longer gives is refused, what it gives is signed.
    let mut narrower = spec(&rig, BY_PROCESS);
    narrower.template = "spiffe://{td}/agent/{class}/v2/{instance}".into();
    let update = v1::UpdateRuleRequest {
        name: "readers".into(),
        spec: Some(narrower),
        mask: None,
        version: 1,
    };
    rig.api().update_rule(update).await.unwrap();
    let changed = next(&mut stream).await.rules.remove(0);
    assert_eq!(changed.version, 2);
    let differs = rig.token(two.clone()).await.unwrap_err();
    assert_eq!(
        why(&differs),
        (Code::FailedPrecondition, "NAME_DIFFERS".to_owned())
    );
    rig.sign(rig.derived(&changed, &facts(2))).await.unwrap();

    // A node that was away learns what it missed.
    let revision = next_revision(&rig).await;
    let delete = v1::DeleteRuleRequest {
        name: "readers".into(),
        version: Some(2),
    };
    let deleted = rig.api().delete_rule(delete).await.unwrap().into_inner();
    assert_eq!((deleted.names, deleted.nodes), (3, 1));
    assert_eq!(next(&mut stream).await.removed_rules, ["readers"]);
    let mut resumed = rig.watch(revision).await;
    assert_eq!(next(&mut resumed).await.removed_rules, ["readers"]);
    let gone = rig
        .token(rig.derived(&changed, &facts(2)))
        .await
        .unwrap_err();
    assert_eq!(why(&gone), (Code::NotFound, "RULE_NOT_FOUND".to_owned()));
}

/// Where a node stands that has seen everything so far.
async fn next_revision(rig: &Rig) -> WatchRequest {
    let step = next(&mut rig.watch(WatchRequest::default()).await).await;
    WatchRequest {
        revision: step.revision,
        digest: step.digest,
        ..WatchRequest::default()
    }
}

/// The bounds count what has not expired; who has a name keeps it.
#[tokio::test]
async fn bounds_hold() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let mut bounded = spec(&rig, BY_PROCESS);
    (bounded.per_node, bounded.in_all) = (2, 2);
    let rule = rig.create("readers", bounded).await.unwrap();
    let rule = in_force(&rule);
    let of = |pid| rig.derived(&rule, &facts(pid));
    rig.sign(of(1)).await.unwrap();
    rig.token(of(2)).await.unwrap();
    let full = rig.token(of(3)).await.unwrap_err();
    assert_eq!(
        why(&full),
        (Code::ResourceExhausted, "RULE_FULL_ON_NODE".to_owned())
    );
    assert!(full.message().contains("raise the bound"), "{full}");
    assert_eq!(rig.sign(of(3)).await.unwrap_err(), Code::ResourceExhausted);
    rig.sign(of(1)).await.unwrap();
    rig.sign(of(2)).await.unwrap();
    let raise = v1::UpdateRuleRequest {
        name: "readers".into(),
        spec: Some(v1::RuleSpec {
            per_node: 2,
            in_all: 4,
            ..v1::RuleSpec::default()
        }),
        mask: Some(prost_types::FieldMask {
            paths: vec!["per_node".into(), "in_all".into()],
        }),
        version: 1,
    };
    rig.api().update_rule(raise).await.unwrap();
    assert_eq!(rig.sign(of(3)).await.unwrap_err(), Code::ResourceExhausted);
    rig.set("readers", 2, |spec| spec.per_node = 3).await;
    rig.sign(of(3)).await.unwrap();
}

/// A policy has a say, as for entries.
#[tokio::test]
async fn policies_are_asked() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let rule = rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    let of = rig.derived(&in_force(&rule), &facts(1));
    rig.sign(of.clone()).await.unwrap();
    rig.put_policies(
        "@id(\"none\") forbid(principal, action == Muster::Action::\"svid.issue\", resource);",
    )
    .await;
    let refused = rig.token(of.clone()).await.unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::PermissionDenied, "POLICY_REFUSED".to_owned())
    );
    assert_eq!(rig.sign(of).await.unwrap_err(), Code::PermissionDenied);
}

/// An agent that has its name by a rule opens tasks, and their identities are signed.
#[tokio::test]
async fn an_agent_by_rule_opens_tasks() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let rule = rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    let agent = rig.derived(&in_force(&rule), &facts(1));
    let process = agent.facts.clone().unwrap().process;
    let mut tasks = rig.tasks().await;
    // Whose process it is not known to be, it is not the agent.
    let refused = tasks
        .open(Rig::open_request(&agent, None))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let opened = tasks
        .open(Rig::open_request(&agent, process.clone()))
        .await
        .unwrap();
    let opened = opened.into_inner();
    let task = opened.task.unwrap();
    assert_eq!(task.agent, agent.spiffe_id);
    assert!(
        task.spiffe_id
            .starts_with(&format!("{}/t/", agent.spiffe_id))
    );
    rig.sign_entry(&opened.entry.unwrap().id).await.unwrap();
    // With its class it ends.
    rig.suspend("reader").await;
    let refused = tasks
        .open(Rig::open_request(&agent, process))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

/// A name that a rule could give is of its class also where an operator has it signed.
#[tokio::test]
async fn an_operator_mints_nothing_that_a_class_withholds() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    rig.create("users", spec(&rig, "spiffe://{td}/w/{unix:user}"))
        .await
        .unwrap();
    rig.mint("/w/ana").await.unwrap();
    rig.suspend("reader").await;
    let withheld = rig.mint("/w/ana").await.unwrap_err();
    assert_eq!(
        why(&withheld),
        (Code::FailedPrecondition, "CLASS_SUSPENDED".to_owned())
    );
    rig.mint("/x/ana").await.unwrap();
}

/// What a rule would make of processes, written or not.
#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let mut strange = facts(2);
    strange.selectors.truncate(1);
    let request = v1::TryRuleRequest {
        name: String::new(),
        spec: Some(spec(&rig, BY_PROCESS)),
        node_id: rig.node.id().to_string(),
        facts: vec![facts(1), strange],
    };
    let tried = rig.api().try_rule(request.clone()).await.unwrap();
    let tried = tried.into_inner();
    assert_eq!(tried.seen_by_node, Some(true));
    assert!(
        tried.results[0]
            .spiffe_id
            .starts_with("spiffe://example.org/agent/reader/")
    );
    assert_eq!(tried.results[0].reason, "");
    assert_eq!(tried.results[1].reason, "SELECTOR_MISSING");
    assert_eq!(
        tried.results[1].why,
        "the process is not attested as unix:group:readers"
    );
    assert_eq!(rig.list().await, Vec::<String>::new());
    // Written under the same name, it names them so.
    let rule = rig.create("try", spec(&rig, BY_PROCESS)).await.unwrap();
    let derived = derived(&rig, &in_force(&rule), &facts(1));
    assert_eq!(derived.spiffe_id, tried.results[0].spiffe_id);
    let mut bad = request;
    bad.spec = Some(spec(&rig, "spiffe://{td}/spire/x"));
    let refused = rig.api().try_rule(bad).await.unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::InvalidArgument, "RESERVED_PATH".to_owned())
    );
}

/// Rules outlive the server, and a node goes on where it was.
#[tokio::test]
async fn rules_survive_a_restart() {
    let mut rig = Rig::start().await;
    rig.class("reader").await;
    let rule = rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap();
    let of = rig.derived(&in_force(&rule), &facts(1));
    rig.sign(of.clone()).await.unwrap();
    let at = next_revision(&rig).await;
    rig.restart().await;
    assert_eq!(rig.rule("readers").await.unwrap().spec, rule.spec);
    assert!(next(&mut rig.watch(at).await).await.rules.is_empty());
    rig.sign(of).await.unwrap();
}
