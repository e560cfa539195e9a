//! Identities by rule: nobody registered the processes that have them.

use std::time::Duration;

use muster_proto::muster::node::admin::v1::explain_response::Verdict;
use muster_proto::muster::node::admin::v1::{ExplainRequest, ExplainResponse, TryRuleRequest};
use muster_proto::workload::WitsvidRequest;
use tonic::Code;

use crate::double::Double;
use crate::jwt::ask;
use crate::rig::{Rig, Running, fetch_x509, next, uid, within};
use crate::rule_double::rule;
use crate::task_actor::Actor;
use crate::tasks::{open, tasks_at};
use crate::x509::check;

/// Each process has a name of its own.
const EACH: &str = "spiffe://{td}/agent/{class}/{instance}";
/// All processes of a user have one.
const USERS: &str = "spiffe://{td}/user/{unix:uid}";

/// A node that names this process's user by `template`.
async fn scene(template: &str, more: &str) -> (Double, Rig, Running) {
    let double = Double::start().await;
    double.put_rule(rule("readers", template, &[&uid()]));
    let mut rig = Rig::new(&double);
    rig.more = more.to_owned();
    let node = rig.run();
    rig.in_step(&double).await;
    (double, rig, node)
}

async fn explain(rig: &Rig, pid: u32) -> ExplainResponse {
    let request = ExplainRequest {
        pid: i32::try_from(pid).unwrap(),
        nearest: 0,
    };
    let answer = within("an explanation", async {
        rig.admin().await.explain(request).await
    });
    answer.await.unwrap().into_inner()
}

#[tokio::test]
async fn a_new_process_has_its_identity_without_an_entry_and_each_has_its_own() {
    let (double, rig, node) = scene(EACH, "").await;
    let (first, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    let own = check(&first)[0].spiffe_id.to_string();
    assert!(
        own.starts_with("spiffe://example.org/agent/reader/"),
        "{own}"
    );

    let socket = rig.workload_socket();
    let others = tokio::task::spawn_blocking(move || {
        let (mut one, mut other) = (Actor::start(), Actor::start());
        let names = [
            one.fetches(&socket),
            other.fetches(&socket),
            one.fetches(&socket),
        ];
        one.ends();
        other.ends();
        names
    });
    let [one, other, again] = within("two processes", others).await.unwrap();
    assert_eq!((one.len(), other.len()), (1, 1));
    assert_eq!(one, again, "a process has one name as long as it lives");
    assert!(one != other && one[0] != own && other[0] != own);
    // Nothing is left of the two: neither name nor key.
    rig.info(|info| info.x509_svids == 1).await;
    assert_eq!(double.shared.mind().rules.given.len(), 3);
    assert!(double.shared.mind().entries.is_empty());
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_call_is_held_until_its_rule_exists_and_its_stream_ends_with_it() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let call = tokio::spawn(async move { fetch_x509(&mut client).await });
    rig.info(|info| info.held_calls == 1).await;
    double.put_rule(rule("readers", EACH, &[&uid()]));
    let (answer, mut stream) = within("the answer", call).await.unwrap().unwrap();
    check(&answer);
    double.remove_rule("readers");
    let ended = next(&mut stream).await.err().unwrap();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert_eq!(rig.info(|info| info.x509_svids == 0).await.streams, 0);
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_entry_and_a_rule_are_told_together_and_an_entry_wins() {
    let (double, rig, node) = scene(USERS, "").await;
    double.add_entry("a", "/first", &[&uid()]);
    rig.in_step(&double).await;
    let (first, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    assert_eq!(check(&first).len(), 2);
    // An entry of nobody here takes the name.
    let named = format!("/user/{}", nix::unistd::geteuid());
    double.add_entry("b", &named, &["unix:uid:4294967294"]);
    let left = check(&next(&mut stream).await.unwrap());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].spiffe_id.path(), "/first");
    double.remove_entry("b");
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);
    assert!(node.stop().await);
}

#[tokio::test]
async fn at_the_bound_the_reason_is_told() {
    let (double, rig, node) = scene(EACH, "[workload_api]\nhold = \"200ms\"").await;
    double.shared.mind().rules.bound = Some(0);
    let mut client = rig.client().await;
    let refused = fetch_x509(&mut client).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("as many names as it may"),
        "{}",
        refused.message()
    );
    let refused = within("a refusal", client.fetch_jwtsvid(ask(&["a"], ""))).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("as many names as it may"));
    double.shared.mind().rules.bound = None;
    // Asked for again while somebody waits: the next call that is held long enough has it.
    let served = within("room", async {
        loop {
            if let Ok((answer, _)) = fetch_x509(&mut client).await {
                return answer;
            }
        }
    });
    check(&served.await);
    assert!(node.stop().await);
}

#[tokio::test]
async fn what_a_rule_gives_rotates_while_the_workload_watches() {
    let (double, rig, node) = scene(EACH, "").await;
    double.change(|mind| mind.x509_ttl = Duration::from_secs(2));
    let (first, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    let name = check(&first)[0].spiffe_id.clone();
    let mut last = first;
    for _ in 0..3 {
        let answer = next(&mut stream).await.unwrap();
        assert_eq!(check(&answer)[0].spiffe_id, name);
        assert_ne!(answer.svids[0].x509_svid_key, last.svids[0].x509_svid_key);
        last = answer;
    }
    assert!(double.heard("BatchNewX509Derived") >= 4);
    assert_eq!(double.heard("BatchNewX509SVID"), 0);
    assert!(node.stop().await);
}

#[tokio::test]
async fn tokens_by_rule_are_kept_between_calls() {
    let (double, rig, node) = scene(EACH, "[wit]\nenabled = true").await;
    double.change(|mind| {
        mind.wit_keys.push(crate::wit_double::WitKey::new());
        mind.sequence += 1;
    });
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let answer = within("a token", client.fetch_jwtsvid(ask(&["a"], ""))).await;
        tokens.push(answer.unwrap().into_inner().svids);
    }
    assert_eq!(tokens[0].len(), 1);
    assert!(tokens[0][0].spiffe_id.contains("/agent/reader/"));
    assert_eq!(tokens[0][0].svid, tokens[1][0].svid);
    assert_eq!(double.heard("NewJwtDerived"), 1);
    assert_eq!(
        double.heard("BatchNewX509Derived"),
        0,
        "nobody asked for one"
    );

    let request = WitsvidRequest::default();
    let stream = within("a stream", client.fetch_witsvid(request)).await;
    let answer = next(&mut stream.unwrap().into_inner()).await.unwrap();
    assert_eq!(answer.svids[0].spiffe_id, tokens[0][0].spiffe_id);
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_agent_that_a_rule_names_opens_a_task() {
    let (double, rig, node) = scene(EACH, "").await;
    let mut tasks = tasks_at(&rig.workload_socket()).await;
    let task = open(&mut tasks, "code.review", None).await.unwrap();
    let (own, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    assert_eq!(task.agent, check(&own)[0].spiffe_id.to_string());
    let opened = double.shared.mind().tasks.opened.pop().unwrap();
    let caller = opened.caller.expect("which process the caller is");
    assert_eq!(caller.pid, std::process::id());
    assert!(caller.start_time > 0 && caller.boot_id.len() == 36);
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_explanation_says_what_a_rule_gives_and_why_another_does_not() {
    let (double, rig, node) = scene(EACH, "").await;
    let served = explain(&rig, std::process::id()).await;
    assert_eq!(served.verdict(), Verdict::Served);
    assert!(served.identities[0].entry_id.starts_with("rule.readers."));

    double.remove_rule("readers");
    double.put_rule(rule("others", EACH, &[&uid(), "unix:gid:4294967294"]));
    double.put_rule(rule(
        "nameless",
        "spiffe://{td}/x/{docker:image_id}",
        &[&uid()],
    ));
    rig.in_step(&double).await;
    let refused = explain(&rig, std::process::id()).await;
    assert_eq!(refused.verdict(), Verdict::NoEntry);
    let rules: Vec<_> = refused
        .nearest_rules
        .iter()
        .map(|rule| (rule.rule.as_str(), rule.reason.as_str(), rule.missing.len()))
        .collect();
    assert_eq!(
        rules,
        [
            ("nameless", "FACT_MISSING", 0),
            ("others", "SELECTOR_MISSING", 1)
        ]
    );
    assert!(
        refused.summary.contains("the nearest rule is nameless"),
        "{}",
        refused.summary
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_node_that_restarts_in_an_outage_serves_what_rules_gave() {
    let (mut double, rig, node) = scene(EACH, "").await;
    let mut client = rig.client().await;
    let (before, _stream) = fetch_x509(&mut client).await.unwrap();
    let token = within("a token", client.fetch_jwtsvid(ask(&["a"], ""))).await;
    let token = token.unwrap().into_inner();
    double.down().await;
    assert!(node.stop().await);

    let node = rig.run();
    let info = rig.info(|info| info.x509_svids == 1).await;
    assert!(!info.connected);
    let mut client = rig.client().await;
    let (after, mut stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(before.svids[0].x509_svid, after.svids[0].x509_svid);
    let again = within("a token", client.fetch_jwtsvid(ask(&["a"], ""))).await;
    assert_eq!(
        again.unwrap().into_inner().svids[0].svid,
        token.svids[0].svid
    );
    double.remove_rule("readers");
    double.up().await;
    let ended = next(&mut stream).await.err().unwrap();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_dry_run_shows_what_a_rule_would_name_now() {
    let (double, rig, node) = scene(EACH, "").await;
    let mut admin = rig.admin().await;
    let own = i32::try_from(std::process::id()).unwrap();
    let all = within(
        "a dry run",
        admin.try_rule(TryRuleRequest {
            name: "readers".to_owned(),
            ..TryRuleRequest::default()
        }),
    );
    let all = all.await.unwrap().into_inner();
    assert!(all.named >= 1 && all.tried >= all.named && all.in_step);
    let this = all
        .processes
        .iter()
        .find(|process| process.pid == own)
        .unwrap();
    let (served, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    let name = check(&served)[0].spiffe_id.to_string();
    assert_eq!(
        this.result.as_ref().unwrap().spiffe_id,
        name,
        "as it is served"
    );

    // A rule that is written nowhere, and processes that it does not name.
    let spec = muster_wire::rule::write_spec(&rule("r", USERS, &[&uid(), "a:b"]).spec);
    let some = within(
        "a dry run",
        admin.try_rule(TryRuleRequest {
            spec: Some(spec),
            pids: vec![own, 0],
            ..TryRuleRequest::default()
        }),
    );
    let some = some.await.unwrap().into_inner();
    let reasons: Vec<_> = some
        .processes
        .iter()
        .map(|process| process.result.as_ref().unwrap().reason.as_str())
        .collect();
    assert_eq!(reasons, ["SELECTOR_MISSING", "NOT_RUNNING"]);
    assert_eq!((some.tried, some.named, some.not_attested), (1, 0, 1));

    let unknown = within(
        "a refusal",
        admin.try_rule(TryRuleRequest {
            name: "others".to_owned(),
            ..TryRuleRequest::default()
        }),
    );
    assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);
    assert_eq!(double.shared.mind().rules.signed.len(), 1);
    assert!(node.stop().await);
}
