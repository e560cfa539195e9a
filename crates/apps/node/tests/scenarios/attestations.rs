//! Whom the node serves, and what its server is told of it.

use muster_proto::envoy::service::discovery::v3::DiscoveryRequest;
use muster_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use muster_proto::muster::agent::v1::task_binding::To;
use muster_proto::muster::node::v1::AttestedWorkload;

use crate::double::Double;
use crate::jwt::ask;
use crate::rig::{Rig, client_of, fetch_x509, uid, within};
use crate::rule_double::rule;
use crate::task_actor::Actor;
use crate::tasks::{AGENT, open, scene, socket_of};

impl Double {
    /// Waits until the node has told that it served processes that are attested as `selector` too.
    async fn told_as(&self, selector: &str) -> AttestedWorkload {
        let mut heard = self.shared.mind().heard.subscribe();
        within("the server is told whom the node served", async {
            loop {
                if let Some(told) = self.attested(selector) {
                    return told;
                }
                heard.changed().await.unwrap();
            }
        })
        .await
    }

    fn attested(&self, selector: &str) -> Option<AttestedWorkload> {
        let mind = self.shared.mind();
        let is_it = |one: &&AttestedWorkload| {
            let mut texts = one.selectors.iter();
            texts.any(|one| format!("{}:{}", one.r#type, one.value) == selector)
        };
        mind.attested.iter().find(is_it).cloned()
    }
}

/// Three processes that are attested as the same, while nobody listens: one row, told when the server
/// is back; and a task has one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_served_is_told_of_by_user_and_selectors() {
    let (mut double, rig, node, mut tasks) = scene("").await;
    let agent = format!("spiffe://example.org{AGENT}");
    let mut child = Actor::start();
    let task = open(&mut tasks, "a", Some(To::ChildPid(child.pid())))
        .await
        .unwrap();
    rig.info(|info| info.x509_svids == 2).await;
    double.down().await;
    let socket = rig.workload_socket();
    let served = tokio::task::spawn_blocking(move || {
        let mut all = [Actor::start(), Actor::start(), Actor::start()];
        let ids = all.each_mut().map(|one| one.fetches(&socket));
        let pids = all.each_ref().map(Actor::pid);
        all.into_iter().for_each(Actor::ends);
        (ids, pids)
    });
    let (ids, pids) = within("three processes", served).await.unwrap();
    assert!(ids.iter().all(|ids| ids.concat() == agent), "{ids:?}");
    double.up().await;
    let told = double.told_as(&uid()).await;
    assert_eq!(told.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(told.spiffe_ids, [agent]);
    assert_eq!((told.count, told.others), (3, 0));
    assert_eq!((told.first_pid, told.last_pid), (pids[0], pids[2]));
    assert!(told.first_at.unwrap().seconds <= told.last_at.unwrap().seconds);
    assert_eq!(told.task, "");

    // Once more is told of in an hour. What is new is told of at once: the task.
    fetch_x509(&mut rig.client().await).await.unwrap();
    assert_eq!(child.fetches(&socket_of(&task)).concat(), task.spiffe_id);
    let told = double.told_as(&format!("muster:task:{}", task.id)).await;
    assert_eq!(
        (told.task, told.spiffe_ids, told.count),
        (task.id, vec![task.spiffe_id], 1)
    );
    assert_eq!(double.shared.mind().attested.len(), 2);
    assert!(node.stop().await);
}

/// A rule gives each process a name of its own: they are one row still, and a call that is refused is
/// in none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_a_rule_names_are_one_row() {
    let double = Double::start().await;
    double.put_rule(rule(
        "readers",
        "spiffe://{td}/agent/{class}/{instance}",
        &[&uid()],
    ));
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"".to_owned();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    // Refused: the caller has no such identity.
    let refused = client
        .fetch_jwtsvid(ask(&["a"], "spiffe://example.org/other"))
        .await;
    assert!(refused.is_err());
    double.told_of(std::process::id()).await;
    assert!(double.shared.mind().attested.is_empty());

    let socket = rig.workload_socket();
    let named = tokio::task::spawn_blocking(move || {
        let mut all = [
            Actor::start(),
            Actor::start(),
            Actor::start(),
            Actor::start(),
        ];
        let ids = all.each_mut().map(|one| one.fetches(&socket).concat());
        all.into_iter().for_each(Actor::ends);
        ids
    });
    let named = within("four processes", named).await.unwrap();
    let told = double.told_as(&uid()).await;
    assert!(told.spiffe_ids.contains(&named[0]), "{told:?}");
    assert!((1..=4).contains(&told.count));
    // What was not told yet waits, in the same row.
    double.remove_rule("readers");
    assert!(fetch_x509(&mut rig.client().await).await.is_err());
    assert_eq!(double.shared.mind().attested.len(), 1);
    assert!(node.stop().await);
}

/// A proxy is told of with the identities that it asked for by name, and not with all that it could
/// have.
#[tokio::test]
async fn a_proxy_is_told_of_with_what_it_asked_for() {
    let double = Double::start().await;
    double.add_entry("a", "/one", &[&uid()]);
    double.add_entry("b", "/other", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut proxy = SecretDiscoveryServiceClient::new(rig.channel().await);
    let wanted = "spiffe://example.org/other";
    let request = DiscoveryRequest {
        resource_names: vec![wanted.to_owned(), "ROOTCA".to_owned()],
        ..DiscoveryRequest::default()
    };
    let answer = within("an answer", proxy.fetch_secrets(request)).await;
    assert_eq!(answer.unwrap().into_inner().resources.len(), 2);
    let told = double.told_as(&uid()).await;
    assert_eq!((told.spiffe_ids, told.count), (vec![wanted.to_owned()], 1));
    assert!(node.stop().await);
}

/// What the roster refuses on a task's socket is told of with the task.
#[tokio::test]
async fn who_is_refused_on_a_task_s_socket_is_told_of_with_the_task() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    let mut client = client_of(&socket_of(&task)).await.unwrap();
    // Its agent's identity is not the task's.
    let agent = format!("spiffe://example.org{AGENT}");
    assert!(client.fetch_jwtsvid(ask(&["a"], &agent)).await.is_err());
    let told = double.told_of(std::process::id()).await;
    assert_eq!(
        (told.reason.as_str(), told.task),
        ("identity_not_granted", task.id)
    );
    assert!(node.stop().await);
}
