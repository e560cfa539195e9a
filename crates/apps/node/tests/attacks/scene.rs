//! A node that serves, and what it tells of those it refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::event::What;
use muster_rt::{Clock, SystemClock};
use tonic::Streaming;

use crate::double::Double;
use crate::observed;
use crate::rig::{Rig, Running, next, within};

/// A node and its server, with nobody registered yet. Strangers are denied at once.
pub(crate) struct Scene {
    pub(crate) double: Double,
    pub(crate) rig: Rig,
    node: Running,
    events: Streaming<admin::Event>,
}

impl Scene {
    pub(crate) async fn begin() -> Self {
        Self::begin_with("[workload_api]\nhold = \"0s\"\n[attest.unix]\ndiscover_path = true").await
    }

    /// With these tables in its configuration.
    pub(crate) async fn begin_with(more: &str) -> Self {
        Self::begin_by(SystemClock::shared(), more).await
    }

    /// The same, and its time is that of `clock`.
    pub(crate) async fn begin_by(clock: Arc<dyn Clock>, more: &str) -> Self {
        observed::begin();
        let double = Double::start().await;
        let mut rig = Rig::new(&double);
        rig.more = more.into();
        // Other users come here too.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(rig.dir.path(), open).unwrap();
        let node = rig.run_by(clock);
        rig.in_step(&double).await;
        let events = rig
            .admin()
            .await
            .watch_events(admin::WatchEventsRequest {})
            .await
            .unwrap()
            .into_inner();
        Self {
            double,
            rig,
            node,
            events,
        }
    }

    /// Registers `path` for `selectors` and waits until the node knows.
    pub(crate) async fn register(&self, path: &str, selectors: &[&str]) {
        let name = path.trim_start_matches('/').replace('/', "-");
        self.double.add_entry(&name, path, selectors);
        self.rig.in_step(&self.double).await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.rig.workload_socket()
    }

    /// Waits until the node has refused process `pid`, and checks that it is for `reason`, logged
    /// and counted.
    pub(crate) async fn refused(&mut self, pid: u32, reason: &str) {
        self.refused_for_one_of(pid, &[reason]).await;
    }

    /// The same, where it depends on the moment what is noticed first.
    pub(crate) async fn refused_for_one_of(&mut self, pid: u32, reasons: &[&str]) {
        let wanted = i32::try_from(pid).unwrap();
        let what = format!("process {pid} is refused: {reasons:?}");
        let refused = within(&what, async {
            loop {
                if let Some(What::Refused(refused)) = next(&mut self.events).await.unwrap().what
                    && refused.pid == wanted
                {
                    return refused;
                }
            }
        })
        .await;
        let reason = refused.reason.as_str();
        assert!(
            reasons.contains(&reason),
            "{reason} is not one of {reasons:?}"
        );
        assert!(observed::refused(reason) > 0, "{reason} is counted");
        let logged = observed::logged(pid);
        assert!(
            logged.iter().any(|line| line.contains("refused")
                || line.contains("not attested")
                || line.contains("is not what it was")),
            "process {pid} is in the log: {logged:?}"
        );
    }

    /// The same, and the server is told of it.
    pub(crate) async fn refused_and_told(&mut self, pid: u32, reason: &str) {
        self.refused(pid, reason).await;
        assert_eq!(self.double.told_of(pid).await.reason, reason);
    }

    pub(crate) async fn end(self) {
        assert!(self.node.stop().await);
    }
}
