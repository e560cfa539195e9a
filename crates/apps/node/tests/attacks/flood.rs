//! A neighbour that asks for more than its share.

use std::sync::{Arc, Mutex};

use muster_model::Now;
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::explain_response::Verdict;
use muster_rt::{Clock, SystemClock};

use crate::actor::{self, Actor, FLOOD};
use crate::needs;
use crate::observed;
use crate::rig::fetch_x509;
use crate::scene::Scene;

/// What a user may connect at once.
const BURST: usize = 100;

/// A clock that can be stopped: then nothing is earned any more.
struct Stoppable {
    real: SystemClock,
    stopped: Mutex<Option<Now>>,
}

impl Stoppable {
    fn stop(&self) {
        *self.stopped.lock().unwrap() = Some(self.real.now());
    }
}

impl Clock for Stoppable {
    fn now(&self) -> Now {
        let stopped = *self.stopped.lock().unwrap();
        stopped.unwrap_or_else(|| self.real.now())
    }
}

/// Of a flood, exactly the allowance is let in; another user's call is answered all the same, and
/// whoever asks is told why the flooder is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_user_leaves_the_calls_of_another_alone() {
    if !needs::root() {
        return;
    }
    let clock = Arc::new(Stoppable {
        real: SystemClock::new(),
        stopped: Mutex::default(),
    });
    let limits = format!(
        "[workload_api]\nhold = \"0s\"\n[limits]\nconnects_per_second = {BURST}\nconnects_burst = {BURST}\n"
    );
    let mut scene = Scene::begin_by(clock.clone(), &limits).await;
    scene.register("/root", &["unix:uid:0"]).await;
    let program = scene.rig.path("flooder");
    actor::copy_to(&program);
    clock.stop();

    let mut command = needs::as_nobody(program.to_str().unwrap());
    command.args(actor::ARGUMENTS);
    actor::in_part(&mut command, "flooder", &scene.socket());
    let mut flooder = Actor::start(&mut command);
    flooder.hear(&format!("{} closed", FLOOD - BURST));
    assert_eq!(
        observed::refused("connect_rate"),
        u64::try_from(FLOOD - BURST).unwrap()
    );
    scene.refused(flooder.pid(), "connect_rate").await;

    let mut neighbour = scene.rig.client().await;
    fetch_x509(&mut neighbour).await.unwrap();
    let explained = scene
        .rig
        .admin()
        .await
        .explain(admin::ExplainRequest {
            pid: i32::try_from(flooder.pid()).unwrap(),
            nearest: 0,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(explained.verdict(), Verdict::Limited);
    assert!(
        explained.summary.contains("connects_per_second"),
        "{}",
        explained.summary
    );
    flooder.end();
    scene.end().await;
}
