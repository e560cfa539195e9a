//! Tasks over the server's API: opened, seen, signed for, ended, refused, and after a restart.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "the helpers of a test fail by panicking, and a story is told in one piece"
)]

#[path = "tasks/attestations.rs"]
mod attestations;
#[path = "tasks/denials.rs"]
mod denials;
#[path = "tasks/many.rs"]
mod many;
#[path = "tasks/rig.rs"]
mod rig;

use muster_audit::{Decision, Event};
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::v1::{
    EndRequest, Ended, ExtendRequest, ListRequest, SpendRequest, WatchRequest,
};
use muster_proto::spire::api::server::agent::v1::BanAgentRequest;
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, GetAuthorizedEntriesRequest, ListEntriesRequest,
};
use muster_proto::spire::api::types;
use muster_testkit::{TestNode, from_now, now};
use rig::{Rig, asked, next, part, reason, why};
use tonic::Code;

fn ended(id: &str, state: &str) -> Ended {
    Ended {
        id: id.into(),
        state: state.into(),
        cause: "done".into(),
        ..Ended::default()
    }
}

#[tokio::test]
async fn an_open_task_is_an_entry_of_its_node_until_it_ends() {
    let rig = Rig::start().await;
    let mut tasks = rig.tasks().await;
    let mut stream = rig.watch(WatchRequest::default()).await;
    let first = next(&mut stream).await;

    let opened = tasks.open(rig.request()).await.unwrap().into_inner();
    let task = opened.task.unwrap();
    assert_eq!(task.state, "open");
    assert_eq!(task.spiffe_id, format!("{}/t/{}", rig.agent, task.id));
    let entry = opened.entry.unwrap();
    assert_eq!(entry.id, task.id);

    // The node hears of it, as it was answered.
    let news = next(&mut stream).await;
    assert_eq!(news.entries, std::slice::from_ref(&entry));
    assert!(news.revision >= opened.revision);
    let selector = entry.selectors.first().unwrap();
    assert_eq!(
        (selector.r#type.as_str(), selector.value.as_str()),
        ("muster", format!("task:{}", task.id).as_str())
    );
    assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl), (300, 60));

    // It is signed for, for its node only, and never beyond its deadline.
    let deadline = task.deadline.unwrap().seconds;
    let (id, not_after) = rig.sign(&task.id).await.unwrap();
    assert_eq!(id, task.spiffe_id);
    assert!(not_after <= deadline && not_after <= now() + 300);
    assert!(rig.token(&task.id).await.unwrap() <= now() + 60);
    let other = rig.another_node().await;
    assert_eq!(rig::sign_as(&other, &task.id).await, Err(Code::NotFound));

    // SPIRE's tools see no tasks.
    let mut entries = rig.server.entries();
    let listed = entries.list_entries(ListEntriesRequest::default());
    let listed = listed.await.unwrap().into_inner().entries;
    assert!(listed.iter().all(|entry| entry.id != task.id));
    let mut authorized = rig.node.entries().await;
    let authorized = authorized.get_authorized_entries(GetAuthorizedEntriesRequest::default());
    let authorized = authorized.await.unwrap().into_inner().entries;
    assert!(authorized.iter().all(|entry| entry.id != task.id));

    // Ended: gone from the view, nothing is signed, and to end it again changes nothing.
    let request = || EndRequest {
        ended: vec![
            ended(&task.id, "completed"),
            ended("01ARZ3NDEKTSV4RRFFQ69G5FAV", "failed"),
        ],
    };
    let done = tasks.end(request()).await.unwrap().into_inner().tasks;
    assert_eq!(done.len(), 1);
    assert_eq!(
        (done[0].state.as_str(), done[0].cause.as_str()),
        ("completed", "done")
    );
    assert_eq!(
        next(&mut stream).await.removed_entries,
        std::slice::from_ref(&task.id)
    );
    assert_eq!(rig.sign(&task.id).await, Err(Code::FailedPrecondition));
    let again = EndRequest {
        ended: vec![ended(&task.id, "failed")],
    };
    let again = tasks.end(again).await.unwrap().into_inner().tasks;
    assert_eq!(again, done);

    // After a break: what was opened and ended meanwhile.
    drop(stream);
    let second = tasks.open(rig.request()).await.unwrap().into_inner();
    let second = second.task.unwrap();
    let break_at = WatchRequest {
        revision: opened.revision,
        digest: news.digest.clone(),
        node_version: String::new(),
    };
    let mut stream = rig.watch(break_at).await;
    let missed = next(&mut stream).await;
    assert!(!missed.replace, "a short break costs only what changed");
    assert_eq!(missed.removed_entries, [task.id]);
    let ids: Vec<&str> = missed
        .entries
        .iter()
        .map(|entry| entry.id.as_str())
        .collect();
    assert_eq!(ids, [second.id.as_str()]);
    let request = EndRequest {
        ended: vec![ended(&second.id, "process_exited")],
    };
    tasks.end(request).await.unwrap();
    assert_eq!(next(&mut stream).await.digest, first.digest);
}

#[tokio::test]
async fn where_all_identities_are_shorter_those_of_tasks_are() {
    let rig = Rig::with("[svid]\nx509_ttl = \"2m\"\njwt_ttl = \"30s\"").await;
    let opened = rig.tasks().await.open(rig.request()).await.unwrap();
    let task = opened.into_inner().task.unwrap();
    let (_, not_after) = rig.sign(&task.id).await.unwrap();
    assert!(not_after <= now() + 120, "{not_after}");
    assert!(rig.token(&task.id).await.unwrap() <= now() + 30);
}

#[tokio::test]
async fn a_task_is_narrower_than_all_above_it_and_ends_with_them() {
    let rig = Rig::start().await;
    let mut tasks = rig.tasks().await;
    let root = rig.open(asked()).await.unwrap();
    let child = v1::OpenTaskRequest {
        parent: root.id.clone(),
        budget: Some(40),
        ..part()
    };
    let child = rig.open(child).await.unwrap();
    assert_eq!(
        (child.depth, child.root.as_str(), child.parent.as_str()),
        (1, root.id.as_str(), root.id.as_str())
    );
    assert!(child.deadline.unwrap().seconds <= root.deadline.unwrap().seconds);

    // On a task's socket a caller is that task and nothing else.
    let within = |parent: &str| {
        let mut request = rig.request();
        request.facts = vec![types::Selector {
            r#type: "muster".into(),
            value: format!("task:{}", child.id),
        }];
        request.task = Some(v1::OpenTaskRequest {
            parent: parent.into(),
            budget: None,
            ..part()
        });
        request
    };
    let below = tasks
        .open(within(""))
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(
        (below.parent.as_str(), below.budget),
        (child.id.as_str(), Some(40))
    );
    let elsewhere = tasks.open(within(&root.id)).await.unwrap_err();
    assert_eq!(
        why(&elsewhere),
        reason(Code::PermissionDenied, "PARENT_NOT_CALLERS")
    );
    let deeper = v1::OpenTaskRequest {
        parent: below.id.clone(),
        budget: None,
        ..part()
    };
    let deeper = rig.open(deeper).await.unwrap_err();
    assert_eq!(why(&deeper), reason(Code::FailedPrecondition, "TOO_DEEP"));

    // Spending counts all the way up; who spends the last ends with all that is part of it.
    let spend = |id: &str, amount| SpendRequest {
        id: id.into(),
        amount,
    };
    let account = tasks
        .spend(spend(&below.id, 15))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((account.task.unwrap().spent, account.ended.len()), (15, 0));
    let later = v1::OpenTaskRequest {
        parent: child.id.clone(),
        budget: Some(26),
        ..part()
    };
    let later = rig.open(later).await.unwrap_err();
    assert_eq!(
        why(&later),
        reason(Code::FailedPrecondition, "BUDGET_NOT_ALLOWED")
    );
    let account = tasks
        .spend(spend(&child.id, 25))
        .await
        .unwrap()
        .into_inner();
    let gone: Vec<(&str, &str)> = account
        .ended
        .iter()
        .map(|task| (task.id.as_str(), task.cause.as_str()))
        .collect();
    let mut expected = vec![
        (child.id.as_str(), "budget_spent"),
        (below.id.as_str(), "parent_ended"),
    ];
    expected.sort_unstable();
    assert_eq!(gone, expected);
    let over = tasks.spend(spend(&below.id, 1)).await.unwrap_err();
    assert_eq!(
        why(&over),
        reason(Code::FailedPrecondition, "TASK_NOT_OPEN")
    );

    // A deadline that comes nearer comes nearer for all below.
    let child = v1::OpenTaskRequest {
        parent: root.id.clone(),
        budget: None,
        ..part()
    };
    let child = rig.open(child).await.unwrap();
    let soon = from_now(30);
    let extend = |id: &str, deadline| ExtendRequest {
        id: id.into(),
        deadline: Some(deadline),
    };
    tasks.extend(extend(&root.id, soon)).await.unwrap();
    let request = ListRequest {
        ids: vec![child.id.clone()],
        ..ListRequest::default()
    };
    let seen = tasks
        .list(request)
        .await
        .unwrap()
        .into_inner()
        .tasks
        .remove(0);
    assert_eq!(seen.deadline.unwrap().seconds, soon.seconds);
    let late = tasks
        .extend(extend(&child.id, from_now(60)))
        .await
        .unwrap_err();
    assert_eq!(
        why(&late),
        reason(Code::InvalidArgument, "DEADLINE_TOO_LATE")
    );
    let past = tasks
        .extend(extend(&root.id, from_now(0)))
        .await
        .unwrap_err();
    assert_eq!(why(&past), reason(Code::InvalidArgument, "DEADLINE_PASSED"));

    // An operator's word ends both; without a reason, none.
    let mut ledger = rig.ledger();
    let revoke = |text: &str| v1::RevokeTaskRequest {
        id: root.id.clone(),
        reason: text.into(),
    };
    let silent = ledger.revoke_task(revoke("")).await.unwrap_err();
    assert_eq!(
        why(&silent),
        reason(Code::InvalidArgument, "REASON_MISSING")
    );
    let revoked = ledger
        .revoke_task(revoke("a test"))
        .await
        .unwrap()
        .into_inner()
        .ended;
    assert_eq!(revoked.len(), 2);
    assert!(revoked.iter().all(|task| task.state == "revoked"));
    let twice = ledger.revoke_task(revoke("a test")).await.unwrap_err();
    assert_eq!(
        why(&twice),
        reason(Code::FailedPrecondition, "TASK_NOT_OPEN")
    );
}

#[tokio::test]
async fn what_may_not_be_opened_is_refused_with_its_reason_and_on_record() {
    let rig = Rig::start().await;
    let root = rig.open(asked()).await.unwrap();
    let mut refused: Vec<String> = Vec::new();
    let purpose = "please read all the mail";
    let cases: Vec<(v1::OpenTaskRequest, Code, &str)> = vec![
        (
            v1::OpenTaskRequest {
                purpose_sha256: purpose.into(),
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                kind: String::new(),
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                kind: "a b".into(),
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                parent: "up".into(),
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                data_class: 5,
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                ttl: None,
                deadline: Some(from_now(0)),
                ..asked()
            },
            Code::InvalidArgument,
            "DEADLINE_PASSED",
        ),
        (
            v1::OpenTaskRequest {
                ttl: None,
                deadline: Some(from_now(7200)),
                ..asked()
            },
            Code::InvalidArgument,
            "DEADLINE_TOO_LATE",
        ),
        (
            v1::OpenTaskRequest {
                deadline: Some(from_now(60)),
                ..asked()
            },
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            v1::OpenTaskRequest {
                permissions: Some(rig::scopes(&["mail.write"])),
                ..asked()
            },
            Code::PermissionDenied,
            "SCOPE_NOT_ALLOWED",
        ),
        (
            v1::OpenTaskRequest {
                data_class: 4,
                ..asked()
            },
            Code::PermissionDenied,
            "DATA_CLASS_NOT_ALLOWED",
        ),
        (
            v1::OpenTaskRequest {
                budget: Some(101),
                ..asked()
            },
            Code::FailedPrecondition,
            "BUDGET_NOT_ALLOWED",
        ),
        (
            v1::OpenTaskRequest {
                parent: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
                ..asked()
            },
            Code::NotFound,
            "PARENT_NOT_FOUND",
        ),
    ];
    for (task, code, word) in cases {
        let status = rig
            .open(task.clone())
            .await
            .err()
            .unwrap_or_else(|| panic!("{task:?} is opened"));
        assert_eq!(why(&status), reason(code, word), "{status}");
        assert!(!status.message().contains(purpose));
        refused.push(word.to_owned());
    }
    let mut tasks = rig.tasks().await;
    let mut stranger = rig.request();
    stranger.facts.clear();
    let mut nobody = rig.request();
    nobody.agent = "spiffe://example.org/agent/reader/9".into();
    let mut task = rig.request();
    task.agent = root.spiffe_id.clone();
    for request in [stranger, nobody, task] {
        let status = tasks.open(request).await.unwrap_err();
        assert_eq!(
            why(&status),
            reason(Code::PermissionDenied, "AGENT_NOT_GIVEN")
        );
        refused.push("AGENT_NOT_GIVEN".into());
    }
    // Of another node's task nothing is to be learned.
    let other = rig.another_node().await;
    let mut others = rig::tasks_of(&other).await;
    let end = EndRequest {
        ended: vec![ended(&root.id, "failed")],
    };
    assert!(others.end(end).await.unwrap().into_inner().tasks.is_empty());
    let unknown = others
        .spend(SpendRequest {
            id: root.id.clone(),
            amount: 1,
        })
        .await
        .unwrap_err();
    assert_eq!(why(&unknown), reason(Code::NotFound, "TASK_NOT_FOUND"));
    refused.push("TASK_NOT_FOUND".into());
    // Nor does anybody give the name of a task, or its ID, to an entry.
    let entry = |id: &str, path: &str| types::Entry {
        id: id.into(),
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        }),
        parent_id: Some(muster_wire::id::write(rig.node.id())),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..types::Entry::default()
    };
    let path = root.spiffe_id.strip_prefix("spiffe://example.org").unwrap();
    let entries = vec![entry("", path), entry(&root.id, "/mine")];
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = rig
        .server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    for result in results {
        let status = result.status.unwrap();
        assert_eq!(
            Code::from_i32(status.code),
            Code::InvalidArgument,
            "{}",
            status.message
        );
    }
    // Nothing half done: the first is the only one.
    let open = tasks
        .list(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(open, [root]);
    let records = rig.stop().await;
    let mut noted: Vec<String> = records
        .iter()
        .filter(|record| record.event == Event::TaskRefused)
        .map(|record| {
            assert_eq!(record.decision, Decision::Refused);
            assert!(!format!("{record:?}").contains(purpose));
            record.detail["reason"].clone()
        })
        .collect();
    noted.sort();
    refused.sort();
    assert_eq!(noted, refused);
}

#[tokio::test]
async fn what_takes_the_ground_from_a_task_ends_it_at_once() {
    let rig = Rig::start().await;
    let mut stream = rig.watch(WatchRequest::default()).await;
    next(&mut stream).await;
    let state_of = async |id: &str| {
        let request = v1::GetLedgerRequest { id: id.into() };
        let task = rig.ledger().get_task(request).await.unwrap().into_inner();
        (task.state, task.cause)
    };
    let revoked = |cause: &str| ("revoked".to_owned(), cause.to_owned());
    let mut registry = rig.registry();

    let task = rig.open(asked()).await.unwrap();
    next(&mut stream).await;
    registry.suspend_class(rig::step("reader")).await.unwrap();
    // In the transaction of the suspension.
    assert_eq!(state_of(&task.id).await, revoked("class_not_active"));
    let gone = next(&mut stream).await.removed_entries;
    assert!(gone.contains(&task.id) && gone.len() == 2, "{gone:?}");
    assert_eq!(rig.sign(&task.id).await, Err(Code::FailedPrecondition));
    let paused = rig.open(asked()).await.unwrap_err();
    assert_eq!(
        why(&paused),
        reason(Code::FailedPrecondition, "CLASS_NOT_ACTIVE")
    );
    registry.reinstate_class(rig::step("reader")).await.unwrap();
    next(&mut stream).await;

    let task = rig.open(asked()).await.unwrap();
    next(&mut stream).await;
    let one = v1::InstanceStepRequest {
        spiffe_id: rig.agent.clone(),
        reason: "a test".into(),
    };
    registry.quarantine_instance(one.clone()).await.unwrap();
    assert_eq!(state_of(&task.id).await, revoked("agent_barred"));
    assert!(next(&mut stream).await.removed_entries.contains(&task.id));
    registry.release_instance(one).await.unwrap();
    next(&mut stream).await;

    // The entry that names the agent: what it gives is gone, and what is opened under another is not.
    let task = rig.open(asked()).await.unwrap();
    next(&mut stream).await;
    let entry = rig.entry().await;
    rig.delete_entry(&entry).await;
    assert_eq!(state_of(&task.id).await, revoked("name_gone"));
    let gone = next(&mut stream).await.removed_entries;
    assert!(
        gone.contains(&task.id) && gone.contains(&entry.id),
        "{gone:?}"
    );
    rig.put_entry(entry).await;
    next(&mut stream).await;

    // The deadline ends it also where the node says nothing.
    let short = v1::OpenTaskRequest {
        ttl: Some(rig::seconds(2)),
        ..asked()
    };
    let short = rig.open(short).await.unwrap();
    next(&mut stream).await;
    assert_eq!(
        next(&mut stream).await.removed_entries,
        std::slice::from_ref(&short.id)
    );
    assert_eq!(
        state_of(&short.id).await,
        ("expired".to_owned(), "deadline_passed".to_owned())
    );

    let task = rig.open(asked()).await.unwrap();
    let id = Some(muster_wire::id::write(rig.node.id()));
    rig.server
        .agents()
        .ban_agent(BanAgentRequest { id })
        .await
        .unwrap();
    assert_eq!(state_of(&task.id).await, revoked("node_gone"));

    let records = rig.stop().await;
    let by = |event: Event, cause: &str| {
        let record = records
            .iter()
            .find(|record| record.event == event && record.detail["cause"] == cause);
        record.unwrap().actor.class.clone()
    };
    // Who did it.
    for cause in ["class_not_active", "agent_barred", "name_gone", "node_gone"] {
        assert_eq!(by(Event::TaskRevoked, cause), "local", "{cause}");
    }
    assert_eq!(by(Event::TaskExpired, "deadline_passed"), "system");
}

#[tokio::test]
async fn a_restart_keeps_tasks_and_their_bounds() {
    let mut rig = Rig::with("[agents]\nmax_tasks_per_node = 3\nmax_ended_tasks = 1\n").await;
    let first = rig.open(asked()).await.unwrap();
    let second = v1::OpenTaskRequest {
        parent: first.id.clone(),
        ..part()
    };
    let second = rig.open(second).await.unwrap();
    rig.restart().await;
    let mut tasks = rig.tasks().await;
    let listed = tasks
        .list(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(listed, [first.clone(), second.clone()]);
    let mut stream = rig.watch(WatchRequest::default()).await;
    let view = next(&mut stream).await;
    assert_eq!(view.entries.len(), 3, "two tasks and their agent");
    rig.sign(&second.id).await.unwrap();

    let third = rig.open(asked()).await.unwrap();
    next(&mut stream).await;
    let flood = rig.open(asked()).await.unwrap_err();
    assert_eq!(
        why(&flood),
        reason(Code::ResourceExhausted, "TOO_MANY_ON_NODE")
    );
    let request = EndRequest {
        ended: vec![ended(&first.id, "completed")],
    };
    let done = tasks.end(request).await.unwrap().into_inner().tasks;
    assert_eq!(done.len(), 2);
    next(&mut stream).await;
    // Of those that have ended one is remembered; which, the clock and the order say.
    let ended = ListRequest {
        ids: vec![first.id.clone(), second.id],
        ..ListRequest::default()
    };
    let remembered = async |mut tasks: rig::Tasks| {
        loop {
            let found = tasks.list(ended.clone()).await.unwrap().into_inner().tasks;
            if found.len() == 1 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let wait = std::time::Duration::from_mins(1);
    tokio::time::timeout(wait, remembered(tasks.clone()))
        .await
        .expect("one is forgotten");
    let open = tasks
        .list(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(open, [third]);
}

#[tokio::test]
async fn operators_see_the_tasks_of_all_nodes() {
    let rig = Rig::start().await;
    let first = rig.open(asked()).await.unwrap();
    let second = rig.open(asked()).await.unwrap();
    let mut ledger = rig.ledger();
    let mut list = async |request: v1::ListLedgerRequest| {
        let page = ledger.list_tasks(request).await.unwrap().into_inner();
        let ids: Vec<String> = page.tasks.into_iter().map(|task| task.id).collect();
        (ids, page.next_page_token)
    };
    let all = v1::ListLedgerRequest::default;
    let both = (vec![first.id.clone(), second.id.clone()], String::new());
    assert_eq!(list(all()).await, both);
    for request in [
        v1::ListLedgerRequest {
            agent: rig.agent.clone(),
            ..all()
        },
        v1::ListLedgerRequest {
            class: "reader".into(),
            states: vec!["open".into()],
            ..all()
        },
        v1::ListLedgerRequest {
            node_id: rig.node.id().to_string(),
            states: vec!["open".into()],
            ..all()
        },
    ] {
        assert_eq!(list(request).await, both);
    }
    let page = list(v1::ListLedgerRequest {
        page_size: 1,
        ..all()
    })
    .await;
    assert_eq!(page, (vec![first.id.clone()], first.id.clone()));
    let page = list(v1::ListLedgerRequest {
        page_size: 1,
        page_token: first.id.clone(),
        ..all()
    })
    .await;
    assert_eq!(page, (vec![second.id.clone()], String::new()));
    let page = list(v1::ListLedgerRequest {
        root: second.id.clone(),
        ..all()
    })
    .await;
    assert_eq!(page, (vec![second.id], String::new()));
    let none = list(v1::ListLedgerRequest {
        states: vec!["failed".into()],
        ..all()
    })
    .await;
    assert_eq!(none, (vec![], String::new()));
    // A node is no operator, and an operator no node.
    let mut as_node = v1::task_ledger_client::TaskLedgerClient::new(node_channel(&rig.node).await);
    let refused = as_node.list_tasks(all()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut as_operator = rig::Tasks::new(rig.server.channel());
    let refused = as_operator.list(ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

async fn node_channel(node: &TestNode) -> tonic::transport::Channel {
    node.channel().await
}
