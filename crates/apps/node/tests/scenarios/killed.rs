//! A node that is killed, for real, before each change of its files, from an empty directory until it
//! has joined and renewed and ended: it always comes back, as the same node and without another
//! token.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::double::Double;
use crate::rig::{Rig, uid, within};
use crate::tracer::Traced;

/// What the node keeps of itself, if it keeps anything.
fn kept(data_dir: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(data_dir.join("node.json")).ok()?;
    Some(serde_json::from_str(&text).expect("it is whole at any time"))
}

/// Whether the node keeps an SVID and waits for none.
fn is_settled(data_dir: &Path) -> bool {
    kept(data_dir).is_some_and(|kept| !kept["current"].is_null() && kept["pending_key"].is_null())
}

#[tokio::test]
async fn a_node_that_is_killed_before_any_change_of_its_files_comes_back() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    // The first SVID is due for renewal when it comes.
    double.change(|mind| mind.first_age = Duration::from_mins(50));
    let mut last = 0;
    let all = loop {
        last += 1;
        let token = format!("token-{last}");
        double.change(|mind| mind.tokens.push(token.clone()));
        let mut rig = Rig::new(&double);
        let bundle = rig.path("bundle.pem");
        rig.join = format!("token = \"{token}\"\nbundle = \"{}\"", bundle.display());
        let (config, log) = (rig.path("node.toml"), rig.path("node.log"));
        std::fs::write(&config, rig.config()).unwrap();

        let renewals = double.heard("RenewAgent");
        let node = Traced::start(&config, &log, &rig.data_dir(), last);
        within("the node renews or is killed", async {
            let renewed = || double.heard("RenewAgent") > renewals && is_settled(&rig.data_dir());
            while !(node.has_ended() || renewed()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        node.terminate();
        let ended = tokio::task::spawn_blocking(|| node.ended()).await.unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        if !ended.killed {
            assert!(ended.status.success(), "{ended:?}\n{}", said());
            break ended.changes;
        }

        let had = kept(&rig.data_dir()).is_some_and(|kept| !kept["current"].is_null());
        let attested = double.heard("AttestAgent");
        let node = rig.run();
        let info = rig.in_step(&double).await;
        let expected = format!("/spire/agent/join_token/{token}");
        assert!(
            info.node_id.ends_with(&expected),
            "{last}: {}",
            info.node_id
        );
        if had {
            let again = double.heard("AttestAgent") - attested;
            assert_eq!(again, 0, "{last}: it had an SVID\n{}", said());
        }
        assert!(node.stop().await, "{last}");
    };
    // Key, bundle and SVID to join, the same to renew, and each is made, written, synced and renamed.
    eprintln!("killed before each of {all} changes");
    assert!(all >= 24, "{all}");
}
