//! How a node joins, comes back, renews itself and ends.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use muster_policy::NodeRefusal;
use tonic::Code;

use crate::double::{Double, TOKEN, copy_directory, id};
use crate::rig::{PATIENCE, Rig, fetch_x509, uid, within};

#[tokio::test]
async fn a_node_joins_with_a_token_and_comes_back_without() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    let node = rig.run();
    let first = rig.in_step(&double).await;
    assert_eq!(
        first.node_id,
        id(&format!("/spire/agent/join_token/{TOKEN}")).as_str()
    );
    assert!(node.stop().await);
    for file in ["node.json", "bundle.json"] {
        let mode = std::fs::metadata(rig.data_dir().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    rig.join = String::new();
    let node = rig.run();
    let second = rig.in_step(&double).await;
    assert_eq!(second.serial_number, first.serial_number);
    assert_eq!(double.heard("AttestAgent"), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_token_can_be_in_a_file_and_the_server_can_be_believed_blindly() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    let file = rig.path("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    rig.join = format!(
        "token_file = \"{}\"\ninsecure_bootstrap = true",
        file.display()
    );
    let node = rig.run();
    rig.in_step(&double).await;
    assert_eq!(double.heard("GetBundle"), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_server_that_the_bundle_does_not_know_is_not_joined() {
    let double = Double::start().await;
    let other = Double::start().await;
    let rig = Rig::new(&double);
    std::fs::write(rig.path("bundle.pem"), other.bundle_pem()).unwrap();
    let node = rig.run();
    let mut client = rig.client().await;
    // The socket is there, and its answer is "not yet" (WEP-11).
    let call = tokio::spawn(async move { fetch_x509(&mut client).await.map(|_| ()) });
    rig.info(|info| info.held_calls == 1).await;
    assert_eq!(
        double.heard("AttestAgent"),
        0,
        "the token never left the node"
    );
    assert!(node.stop().await);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn without_a_token_or_a_good_one_the_node_says_so_and_ends() {
    let double = Double::start().await;
    for (token, heard) in [("", 0), ("token = \"not-one\"", 1)] {
        let mut rig = Rig::new(&double);
        let bundle = rig.path("bundle.pem");
        rig.join = format!("{token}\nbundle = \"{}\"", bundle.display());
        assert!(!rig.run().ended().await);
        assert_eq!(double.heard("AttestAgent"), heard);
    }
}

#[tokio::test]
async fn a_node_that_starts_before_its_server_waits_for_it() {
    let mut double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    double.down().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let call = tokio::spawn(async move { fetch_x509(&mut client).await.map(|_| ()) });
    rig.info(|info| info.held_calls == 1).await;
    double.up().await;
    within("the held call is answered", call)
        .await
        .unwrap()
        .unwrap();
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_node_renews_itself_with_a_new_key_each_time() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(2));
    let rig = Rig::new(&double);
    let node = rig.run();
    let first = rig.in_step(&double).await;
    let mut serials = BTreeSet::from([first.serial_number]);
    for _ in 0..2 {
        let known = serials.clone();
        let info = rig
            .info(move |info| !known.contains(&info.serial_number))
            .await;
        assert_eq!(info.node_id, first.node_id);
        serials.insert(info.serial_number);
    }
    rig.info(|info| info.connected).await;
    assert!(node.stop().await);
    let keys = double.shared.mind().node_keys.clone();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
}

#[tokio::test]
async fn a_node_whose_authority_is_tainted_renews_at_once() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let first = rig.in_step(&double).await.serial_number;
    double.rotate_ca();
    double.change(|mind| {
        mind.cas[0].authority.tainted = true;
        mind.sequence += 1;
    });
    rig.info(|info| info.serial_number != first).await;
    assert_eq!(double.heard("RenewAgent"), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_node_that_the_server_refuses_comes_in_again_or_ends() {
    for refusal in [
        NodeRefusal::Banned,
        NodeRefusal::NotAttested,
        NodeRefusal::NotActive,
        NodeRefusal::Expired,
        NodeRefusal::MustReattest,
    ] {
        let double = Double::start().await;
        let mut rig = Rig::new(&double);
        let node = rig.run();
        rig.in_step(&double).await;
        double.change(|mind| mind.refusal = Some(refusal));
        assert!(!node.ended().await, "{refusal:?}");
        let kept = std::fs::read_to_string(rig.data_dir().join("node.json")).unwrap();
        // A credential goes when its successor is there; only a ban takes it away before.
        let removed = kept.contains("\"current\": null");
        assert_eq!(removed, refusal == NodeRefusal::Banned, "{refusal:?}");

        // A new token lets it in again.
        double.change(|mind| mind.tokens.push("new-token".into()));
        let bundle = rig.path("bundle.pem");
        rig.join = format!("token = \"new-token\"\nbundle = \"{}\"", bundle.display());
        let node = rig.run();
        rig.in_step(&double).await;
        assert!(node.stop().await);
    }
}

/// As if the node were killed at each moment at which the server hears from it.
#[tokio::test]
async fn whenever_the_node_is_killed_it_can_come_back() {
    let mut double = Double::start().await;
    double.change(|mind| {
        mind.node_ttl = Duration::from_secs(4);
        // Its short SVID may have expired when it comes back.
        mind.grace = Duration::from_hours(1);
    });
    double.down().await;
    double.up().await;
    let rig = Rig::new(&double);
    let photographs = rig.path("photographs");
    std::fs::create_dir(&photographs).unwrap();
    double.change(|mind| mind.photographs = Some((rig.data_dir(), photographs.clone())));
    let node = rig.run();
    let joined = rig.in_step(&double).await;
    rig.info(|info| info.serial_number != joined.serial_number)
        .await;
    double.hears("Watch", 2).await;
    assert!(node.stop().await);
    double.change(|mind| {
        mind.photographs = None;
        mind.node_ttl = Duration::from_hours(1);
    });

    let mut names: Vec<String> = std::fs::read_dir(&photographs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(
        names.iter().any(|n| n.ends_with("AttestAgent")),
        "{names:?}"
    );
    assert!(names.iter().any(|n| n.ends_with("RenewAgent")), "{names:?}");
    assert!(
        names.iter().filter(|n| n.ends_with("Watch")).count() >= 2,
        "{names:?}"
    );
    for name in names {
        let content = std::fs::read_to_string(photographs.join(&name).join("node.json")).unwrap();
        // The key is on the disk before its CSR leaves.
        let waits = !content.contains("\"pending_key\": null");
        assert_eq!(waits, !name.ends_with("Watch"), "{name}");

        for cut in [Cut::Between, Cut::WithinAWrite, Cut::AfterTheBundle] {
            let mut again = Rig::new(&double);
            copy_directory(&photographs.join(&name), &again.data_dir());
            cut.apply(&rig.data_dir(), &again.data_dir());
            // Killed before the first SVID, a node comes with the token that it has used already,
            // and with the same key. After that it needs none.
            if !name.ends_with("AttestAgent") {
                again.join = String::new();
            }
            let node = again.run();
            let came_in = again.in_step(&double).await;
            assert_eq!(came_in.node_id, joined.node_id, "{name}, {cut:?}");
            assert!(node.stop().await, "{name}, {cut:?}");
        }
    }
}

/// Where in the writing of a step the kill falls. The durable writes of joining and of renewing
/// are the key, the bundle and the SVID, each of them one rename.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// After a rename, before the next write.
    Between,
    /// Before a rename: the temporary file is there, and torn.
    WithinAWrite,
    /// The answer has come, its bundle is written and its SVID is not.
    AfterTheBundle,
}

impl Cut {
    fn apply(self, whole: &Path, killed: &Path) {
        let private = |name: &str, content: &[u8]| {
            let path = killed.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        match self {
            Self::Between => {}
            Self::WithinAWrite => private(".node.json.1.0.muster-tmp", b"{\"trust_dom"),
            Self::AfterTheBundle => {
                private(
                    "bundle.json",
                    &std::fs::read(whole.join("bundle.json")).unwrap(),
                );
            }
        }
    }
}

#[tokio::test]
async fn a_directory_serves_one_node_of_one_trust_domain() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut second = Rig::new(&double);
    second.more = String::new();
    let config = rig
        .config()
        .replace("w.sock", "w2.sock")
        .replace("a.sock", "a2.sock");
    let start = |text: &str| {
        let config = muster_node::config::Config::parse("node.toml", text).unwrap();
        let shutdown = muster_rt::lifecycle::Shutdown::new();
        let level = muster_rt::telemetry::LevelControl::detached(config.log.level);
        muster_node::serve(config, level, muster_rt::SystemClock::shared(), shutdown)
    };
    let error = tokio::time::timeout(PATIENCE, start(&config))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(node.stop().await);
    let foreign = config.replace("\"example.org\"", "\"other.test\"");
    let error = tokio::time::timeout(PATIENCE, start(&foreign))
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().contains("belongs to trust domain"),
        "{error}"
    );

    std::fs::write(rig.data_dir().join("node.json"), "{").unwrap();
    let error = tokio::time::timeout(PATIENCE, start(&config))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("join again"), "{error}");
}
