//! Tasks: opened, bound, and served on sockets of their own.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::task_binding::To;
use muster_proto::muster::agent::v1::tasks_client::TasksClient;
use muster_proto::workload::{JwtsvidRequest, WitsvidRequest, X509BundlesRequest};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::double::Double;
use crate::rig::{
    Client, Header, Rig, Running, channel, client_of, fetch_x509, header, next, uid, within,
};
use crate::task_actor::{Actor, asks_on};
use crate::x509::check;

pub(crate) type Tasks = TasksClient<InterceptedService<Channel, Header>>;

/// The identity of the agent that this process is.
pub(crate) const AGENT: &str = "/agent/reader/1";
const TASK: &str = "/muster/v1/task";

pub(crate) async fn tasks_at(path: &Path) -> Tasks {
    TasksClient::with_interceptor(channel(path).await, header as Header)
}

pub(crate) fn socket_of(task: &api::Task) -> PathBuf {
    PathBuf::from(&task.socket)
}

pub(crate) fn ask(kind: &str, to: Option<To>) -> api::OpenTaskRequest {
    api::OpenTaskRequest {
        kind: kind.to_owned(),
        binding: to.map(|to| api::TaskBinding { to: Some(to) }),
        ..api::OpenTaskRequest::default()
    }
}

pub(crate) async fn open(
    tasks: &mut Tasks,
    kind: &str,
    to: Option<To>,
) -> Result<api::Task, Status> {
    let opened = within("a task", tasks.open(ask(kind, to))).await?;
    Ok(opened.into_inner())
}

pub(crate) fn reason(status: &Status) -> String {
    reason_of(MUSTER_DOMAIN, status).unwrap_or_else(|| panic!("no reason: {status:?}"))
}

/// A node that serves this process as an agent.
pub(crate) async fn scene(more: &str) -> (Double, Rig, Running, Tasks) {
    let double = Double::start().await;
    double.add_entry("agent", AGENT, &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = more.to_owned();
    let node = rig.run();
    rig.in_step(&double).await;
    let tasks = tasks_at(&rig.workload_socket()).await;
    (double, rig, node, tasks)
}

async fn spiffe_id(client: &mut Client) -> Result<String, Status> {
    let (answer, _stream) = fetch_x509(client).await?;
    Ok(check(&answer)[0].spiffe_id.to_string())
}

#[tokio::test]
async fn a_task_s_socket_is_a_whole_workload_api() {
    let (double, rig, node, mut tasks) = scene("[wit]\nenabled = true").await;
    double.change(|mind| {
        mind.wit_keys.push(crate::wit_double::WitKey::new());
        mind.sequence += 1;
    });
    let task = open(&mut tasks, "code.review", None).await.unwrap();
    assert_eq!(task.state, "open");
    let expected = format!("spiffe://example.org{AGENT}/t/{}", task.id);
    assert_eq!(task.spiffe_id, expected);
    let bound = task.bound_to.clone().unwrap();
    assert_eq!(
        (bound.kind.as_str(), bound.pid),
        ("process", std::process::id())
    );
    let socket = socket_of(&task);
    let file = std::fs::metadata(&socket).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o600);
    assert_eq!(file.uid(), nix::unistd::geteuid().as_raw());

    // What the node said of its caller.
    {
        let mind = double.shared.mind();
        let asked = &mind.tasks.opened[0];
        assert_eq!(asked.agent, format!("spiffe://example.org{AGENT}"));
        assert!(
            asked
                .facts
                .iter()
                .any(|fact| format!("{}:{}", fact.r#type, fact.value) == uid())
        );
        assert_eq!(asked.level, 3);
    }

    let mut client = client_of(&socket).await.unwrap();
    assert_eq!(spiffe_id(&mut client).await.unwrap(), expected);
    let tokens = client
        .fetch_jwtsvid(JwtsvidRequest {
            audience: vec!["a".into()],
            spiffe_id: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tokens.svids.len(), 1);
    assert_eq!(tokens.svids[0].spiffe_id, expected);
    let mut wits = client
        .fetch_witsvid(WitsvidRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut wits).await.unwrap().svids[0].spiffe_id, expected);
    let mut bundles = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        next(&mut bundles)
            .await
            .unwrap()
            .bundles
            .contains_key("spiffe://example.org")
    );

    // On the main socket the process is what it always was.
    let mut client = rig.client().await;
    assert_eq!(
        spiffe_id(&mut client).await.unwrap(),
        format!("spiffe://example.org{AGENT}")
    );

    // On the task's socket an empty ID is that task, and a new one is part of it.
    let mut own = tasks_at(&socket).await;
    let got = own
        .get(api::GetTaskRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got, task);
    let below = open(&mut own, "file.read", None).await.unwrap();
    assert_eq!(
        (below.parent, below.root),
        (task.id.clone(), task.id.clone())
    );
    {
        let mind = double.shared.mind();
        let facts = &mind.tasks.opened[1].facts;
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].value, format!("task:{}", task.id));
    }
    let listed = tasks
        .list(api::ListTasksRequest::default())
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<&str> = listed.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, [task.id.as_str(), below.id.as_str()]);
    assert!(node.stop().await);
    assert!(!socket.exists(), "a node that stops leaves no socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_a_child_is_the_child_s_alone() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let (mut child, mut sibling) = (Actor::start(), Actor::start());
    let task = open(&mut tasks, "a", Some(To::ChildPid(child.pid())))
        .await
        .unwrap();
    assert_eq!(task.bound_to.as_ref().unwrap().pid, child.pid());
    let socket = socket_of(&task);
    assert_eq!(child.asks(&socket, TASK), Some(200));
    assert_eq!(child.asks(&socket, TASK), Some(200), "again");
    // Its parent opened it, and is not it; another child is nobody.
    assert_eq!(sibling.asks(&socket, TASK), None);
    // From its first byte: it may not even come to a call.
    if let Ok(mut client) = client_of(&socket).await {
        assert!(spiffe_id(&mut client).await.is_err());
    }
    let seen = tasks
        .get(api::GetTaskRequest {
            id: task.id.clone(),
        })
        .await;
    assert_eq!(seen.unwrap().into_inner().id, task.id);

    // Nobody is the parent of its own parent, or of a stranger's process.
    for (pid, expected) in [
        (std::os::unix::process::parent_id(), "NOT_DESCENDANT"),
        (1, "NOT_DESCENDANT"),
        (std::process::id(), "NOT_DESCENDANT"),
        (4_194_304, "PROCESS_GONE"),
        (0, "INVALID_FIELD"),
    ] {
        let refused = open(&mut tasks, "a", Some(To::ChildPid(pid)))
            .await
            .unwrap_err();
        assert_eq!(reason(&refused), expected, "{pid}: {refused:?}");
    }
    // A grandchild is a descendant.
    let grandchild = sibling.starts_another();
    let below = open(&mut tasks, "a", Some(To::ChildPid(grandchild)))
        .await
        .unwrap();
    assert_eq!(below.bound_to.unwrap().pid, grandchild);
    sibling.ends();

    // Its end is the task's end.
    let pid = child.pid();
    child.ends();
    double.hears("EndTasks", 1).await;
    within("its socket is gone", async {
        while socket.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let gone = open(&mut tasks, "a", Some(To::ChildPid(pid)))
        .await
        .unwrap_err();
    assert_eq!(reason(&gone), "PROCESS_GONE");
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_connection_that_is_inherited_is_refused() {
    let (_double, _rig, node, mut tasks) = scene("").await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    let socket = socket_of(&task);
    let connect = || UnixStream::connect(&socket).unwrap();
    let own = tokio::task::spawn_blocking({
        let connection = connect();
        move || crate::task_actor::ask(&connection, TASK)
    });
    assert_eq!(
        own.await.unwrap(),
        Some(200),
        "who it is bound to is served"
    );
    let inherited = connect();
    let answered = tokio::task::spawn_blocking(move || asks_on(inherited, TASK));
    assert_eq!(answered.await.unwrap(), None);
    assert!(node.stop().await);
}

#[tokio::test]
async fn refusals_have_reasons() {
    let (double, rig, node, mut tasks) =
        scene("[workload_api]\nhold = \"0s\"\n[tasks]\nmax = 2").await;
    let mut bare = TasksClient::new(rig.channel().await);
    let refused = bare.open(ask("a", None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason(&refused), "SECURITY_HEADER_MISSING");

    let get = |id: &str| api::GetTaskRequest { id: id.to_owned() };
    let refused = tasks.get(get("nonsense")).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    let refused = tasks
        .get(get("01ARZ3NDEKTSV4RRFFQ69G5FAV"))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::NotFound, "TASK_NOT_FOUND")
    );

    // The server's own reasons are passed on.
    double.shared.mind().tasks.refusal = Some((Code::PermissionDenied, "SCOPE_NOT_ALLOWED"));
    let refused = open(&mut tasks, "a", None).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "SCOPE_NOT_ALLOWED")
    );

    double.add_entry("second", "/agent/reader/2", &[&uid()]);
    rig.in_step(&double).await;
    let refused = open(&mut tasks, "a", None).await.unwrap_err();
    assert_eq!(reason(&refused), "AGENT_AMBIGUOUS");
    let named = |agent: &str| api::OpenTaskRequest {
        agent: agent.to_owned(),
        ..ask("a", None)
    };
    let refused = tasks
        .open(named("spiffe://example.org/agent/other/1"))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "AGENT_NOT_YOURS");
    let second = "spiffe://example.org/agent/reader/2";
    let task = tasks.open(named(second)).await.unwrap().into_inner();
    assert_eq!(task.agent, second);

    let refused = tasks
        .open(api::OpenTaskRequest {
            parent: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
            ..named(second)
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "PARENT_NOT_BOUND");
    let refused = open(&mut tasks, "a", Some(To::Cgroup("/there is none".into())))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "CGROUP_UNAVAILABLE");
    tasks.open(named(second)).await.unwrap();
    let refused = tasks.open(named(second)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_TASKS")
    );

    // Over at once here: no entry comes.
    double.remove_entry("agent");
    double.remove_entry("second");
    rig.in_step(&double).await;
    let refused = open(&mut tasks, "a", None).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "NO_IDENTITY")
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_opening_is_held_until_the_agent_s_entry_exists() {
    let (double, rig, node, mut tasks) = scene("").await;
    double.remove_entry("agent");
    rig.in_step(&double).await;
    let opening = tokio::spawn(async move { open(&mut tasks, "code.review", None).await });
    rig.info(|info| info.held_calls == 1).await;
    double.add_entry("late", AGENT, &[&uid()]);
    let task = within("the task", opening).await.unwrap().unwrap();
    assert_eq!(task.agent, format!("spiffe://example.org{AGENT}"));
    assert!(node.stop().await);
}
