//! Why a process has no identity: one scenario for each answer; and SPIRE's own admin services.

use std::process::{Child, Command, Stdio};

use muster_proto::envoy::service::discovery::v3::DiscoveryRequest;
use muster_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::explain_response::Verdict;
use muster_proto::muster::node::admin::v1::identity::State;
use muster_proto::spire::agent::debug::v1::GetInfoRequest;
use muster_proto::spire::agent::debug::v1::debug_client::DebugClient;
use muster_proto::spire::api::agent::logger::v1::logger_client::LoggerClient;
use muster_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use muster_proto::spire::api::types::LogLevel;
use tonic::Code;

use crate::double::{Double, Lie};
use crate::rig::{Rig, fetch_x509, uid, within};

/// A process that waits for the end of its input.
fn bystander() -> Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

pub(crate) async fn explain(rig: &Rig, pid: i32) -> admin::ExplainResponse {
    let request = admin::ExplainRequest { pid, nearest: 0 };
    rig.admin()
        .await
        .explain(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn each_reason_has_its_verdict() {
    let mut double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut child = bystander();

    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::NoEntry, "{}", answer.summary);
    assert!(
        answer.summary.contains("no entry at all"),
        "{}",
        answer.summary
    );
    let process = answer.process.as_ref().unwrap();
    assert!(
        process.executable.ends_with("cat"),
        "{}",
        process.executable
    );
    assert!(answer.in_step && answer.connected && answer.last_in_step.is_some());

    // The selector that differs, and what the process has instead.
    double.add_entry("far", "/far", &["unix:uid:4242", "unix:gid:4242"]);
    double.add_entry("near", "/near", &[&uid(), "unix:user:nobody-here"]);
    rig.in_step(&double).await;
    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::NoEntry);
    let near = &answer.nearest[0];
    assert_eq!((near.entry_id.as_str(), near.missing.len()), ("near", 1));
    let missing = &near.missing[0];
    assert_eq!(missing.wanted.as_ref().unwrap().value, "user:nobody-here");
    assert!(missing.has.iter().all(|s| s.value.starts_with("user:")));
    assert!(
        answer.summary.contains("unix:user:nobody-here"),
        "{}",
        answer.summary
    );
    assert_eq!(answer.nearest[1].missing.len(), 2);

    // An entry that only an external store is for.
    double.add_entry("stored", "/stored", &[&uid()]);
    double.update_entry("stored", |entry| entry.store_svid = true);
    rig.in_step(&double).await;
    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::NoEntry);
    assert!(answer.summary.contains("store_svid"), "{}", answer.summary);
    assert_eq!(answer.identities[0].state(), State::StoredOutside);
    double.remove_entry("stored");

    // Not signed, then served.
    double.change(|mind| mind.lie = Some(Lie::OtherKey));
    double.add_entry("mine", "/mine", &[&uid()]);
    rig.in_step(&double).await;
    let answer = within("a failure to sign", async {
        loop {
            let answer = explain(&rig, pid(&child)).await;
            if answer.identities.iter().any(|i| i.state() == State::Failed) {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(answer.verdict(), Verdict::NotSigned, "{}", answer.summary);
    double.change(|mind| mind.lie = None);
    // The other two are fetched ahead.
    rig.info(|info| info.x509_svids == 3).await;
    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::Served, "{}", answer.summary);
    assert!(answer.summary.contains("spiffe://example.org/mine"));
    assert!(!answer.identities[0].serial_number.is_empty());

    // The server away: what is known is still served, and what is not may exist.
    double.down().await;
    rig.info(|info| !info.connected).await;
    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::Served);
    assert!(answer.summary.contains("not in step"), "{}", answer.summary);

    drop(child.stdin.take());
    child.wait().unwrap();
    let answer = explain(&rig, pid(&child)).await;
    assert_eq!(answer.verdict(), Verdict::NotRunning, "{}", answer.summary);
    let request = admin::ExplainRequest { pid: 0, nearest: 0 };
    let refused = rig.admin().await.explain(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_node_that_is_behind_says_so_and_held_calls_are_counted() {
    let mut double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    double.down().await;
    rig.info(|info| !info.connected).await;
    let mut client = rig.client().await;
    let held = tokio::spawn(async move { fetch_x509(&mut client).await.map(|_| ()) });
    rig.info(|info| info.held_calls == 1).await;
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::NodeBehind, "{}", answer.summary);
    assert_eq!(answer.held_calls, 1);
    assert!(answer.last_in_step.is_some());
    assert!(node.stop().await);
    assert!(held.await.unwrap().is_err());
}

/// An entry matches, nothing is held for it, and the server that would sign is away.
#[tokio::test]
async fn a_server_that_is_away_is_why_nothing_is_signed() {
    let mut double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[svid]\nx509_cache_max = 0\n".into();
    double.add_entry("a", "/a", &[&uid()]);
    let node = rig.run();
    rig.in_step(&double).await;
    double.down().await;
    rig.info(|info| !info.connected).await;
    let mut client = rig.client().await;
    let held = tokio::spawn(async move { fetch_x509(&mut client).await.map(|_| ()) });
    rig.info(|info| info.held_calls == 1).await;
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::NotSigned, "{}", answer.summary);
    assert!(answer.summary.contains("not reached"), "{}", answer.summary);
    assert!(node.stop().await);
    assert!(held.await.unwrap().is_err());
}

#[tokio::test]
async fn what_was_refused_is_remembered() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"\n".into();
    let node = rig.run();
    rig.in_step(&double).await;
    assert!(fetch_x509(&mut rig.client().await).await.is_err());
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.refusals[0].reason, "no_identity");
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_limit_that_refused_a_call_is_the_answer() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nmax_calls = 1\n".into();
    double.add_entry("a", "/a", &[&uid()]);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let (_first, stream) = fetch_x509(&mut client).await.unwrap();
    let refused = fetch_x509(&mut client).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::Limited, "{}", answer.summary);
    assert!(answer.summary.contains("max_calls"), "{}", answer.summary);
    assert_eq!(answer.refusals[0].reason, "too_many_calls");
    drop(stream);
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_attestor_that_failed_is_why_its_selectors_are_missing() {
    let double = Double::start().await;
    double.add_entry("a", "/a", &[&uid(), "systemd:id:pay.service"]);
    let mut rig = Rig::new(&double);
    let bus = rig.path("nobody.sock").display().to_string();
    rig.more = format!("[attest.systemd]\nbus_socket = \"{bus}\"\n");
    let node = rig.run();
    rig.in_step(&double).await;
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::NotAttested, "{}", answer.summary);
    assert!(
        answer.summary.contains("systemd") && answer.summary.contains(&bus),
        "{}",
        answer.summary
    );
    assert_eq!(answer.left_out[0].attestor, "systemd");

    // It is told of, and not blamed, where nothing asks for its selectors.
    double.update_entry("a", |entry| {
        let unix = entry.selectors.iter().filter(|s| s.kind() == "unix");
        entry.selectors = unix.cloned().collect();
    });
    rig.in_step(&double).await;
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::Served, "{}", answer.summary);
    assert!(answer.summary.contains(&bus), "{}", answer.summary);
    assert!(node.stop().await);
}

/// What a user may ask for in a while bounds the Workload API and SDS alike, and explain names it.
#[tokio::test]
async fn a_users_allowance_of_calls_is_the_answer() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[limits]\ncalls_per_second = 1\ncalls_burst = 3\n".into();
    double.add_entry("a", "/a", &[&uid()]);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let mut sds = SecretDiscoveryServiceClient::new(rig.channel().await);
    // Calls are answered faster than they are earned.
    within("a refusal", async {
        while fetch_x509(&mut client).await.is_ok() {}
    })
    .await;
    let refused = within("a refusal", async {
        loop {
            if let Err(status) = sds.fetch_secrets(DiscoveryRequest::default()).await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = explain(&rig, own).await;
    assert_eq!(answer.verdict(), Verdict::Limited, "{}", answer.summary);
    assert!(
        answer.summary.contains("calls_per_second"),
        "{}",
        answer.summary
    );
    assert_eq!(answer.refusals[0].reason, "call_rate");
    assert!(node.stop().await);
}

/// WAPI-32: of two entries with one hint the older one counts; and what the node holds is listed
/// with its bounds (the soft cap of the X.509 cache counts what nobody streams).
#[tokio::test]
async fn an_inspection_lists_identities_bundles_and_caches() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nallow_unauthenticated_verifiers = true\n\
                [svid]\nx509_cache_max = 2\navailability_target = \"24h\"\n"
        .into();
    for name in ["a", "b", "c"] {
        double.add_entry(name, &format!("/{name}"), &[&uid()]);
    }
    double.update_entry("a", |entry| entry.hint = "same".into());
    double.update_entry("b", |entry| entry.hint = "same".into());
    let node = rig.run();
    rig.in_step(&double).await;
    rig.info(|info| info.x509_svids == 2).await;
    let inspect = async || {
        let request = admin::InspectRequest { limit: 0 };
        rig.admin()
            .await
            .inspect(request)
            .await
            .unwrap()
            .into_inner()
    };
    let cache = |held, subscribed| {
        Some(admin::Cache {
            held,
            cap: 2,
            subscribed,
        })
    };
    let idle = inspect().await;
    assert_eq!((idle.entries, idle.x509), (3, cache(2, 0)));
    assert_eq!(idle.availability_target_seconds, 24 * 3600);
    assert!(idle.allow_unauthenticated_verifiers && idle.first_expiry.is_some());
    assert_eq!(idle.bundles[0].trust_domain, "example.org");
    assert_eq!(
        (
            idle.bundles[0].x509_authorities,
            idle.bundles[0].tainted_authorities
        ),
        (1, 0)
    );

    // Whoever streams gets all of them, beyond the cap; afterwards it holds again.
    let mut client = rig.client().await;
    let (first, stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(
        first.svids.len(),
        2,
        "one of three gives way to an older hint"
    );
    assert_eq!(inspect().await.x509, cache(3, 3));
    let own = i32::try_from(std::process::id()).unwrap();
    let states: Vec<State> = explain(&rig, own)
        .await
        .identities
        .iter()
        .map(admin::Identity::state)
        .collect();
    assert_eq!(states, [State::Held, State::HintTaken, State::Held]);
    drop((stream, client));
    within("the cap holds again", async {
        while inspect().await.x509 != cache(2, 0) {}
    })
    .await;
    assert!(node.stop().await);
}

#[tokio::test]
async fn spires_debug_service_tells_chain_age_and_counts() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    double.add_entry("a", "/a", &[&uid()]);
    let node = rig.run();
    rig.info(|info| info.x509_svids == 1).await;
    let mut debug = DebugClient::new(rig.admin_channel().await);
    let info = debug
        .get_info(GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.cached_x509_svids_count, 1);
    assert_eq!(info.cached_jwt_svids_count, 0);
    assert!((0..60).contains(&info.uptime), "{}", info.uptime);
    assert!(info.last_sync_success >= double.shared.now().unix_seconds() - 60);
    let ids: Vec<String> = info
        .svid_chain
        .iter()
        .map(|cert| {
            cert.id
                .as_ref()
                .map(|id| id.path.clone())
                .unwrap_or_default()
        })
        .collect();
    assert_eq!(ids.len(), 2, "the SVID and the root that verifies it");
    assert!(
        ids[0].starts_with("/spire/agent/") && ids[1].is_empty(),
        "{ids:?}"
    );
    assert!(info.svid_chain[0].expires_at > double.shared.now().unix_seconds());
    assert!(!info.svid_chain[1].subject.is_empty());
    assert!(node.stop().await);
}

#[tokio::test]
async fn spires_logger_service_changes_the_level_and_brings_it_back() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut logger = LoggerClient::new(rig.admin_channel().await);
    let get = logger.get_logger(GetLoggerRequest {}).await.unwrap();
    assert_eq!(get.get_ref().current_level(), LogLevel::Info);
    for level in [LogLevel::Trace, LogLevel::Panic] {
        let request = SetLogLevelRequest {
            new_level: level.into(),
        };
        let set = logger.set_log_level(request).await.unwrap().into_inner();
        assert_eq!(
            (set.current_level(), set.launch_level()),
            (level, LogLevel::Info)
        );
    }
    for wrong in [0, 8, -1] {
        let request = SetLogLevelRequest { new_level: wrong };
        let refused = logger.set_log_level(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{wrong}");
    }
    let reset = logger
        .reset_log_level(ResetLogLevelRequest {})
        .await
        .unwrap();
    assert_eq!(reset.get_ref().current_level(), LogLevel::Info);
    assert!(node.stop().await);
}
