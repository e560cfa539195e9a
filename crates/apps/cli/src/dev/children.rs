//! The processes of the trust domain together.

use std::future;

use super::child::Child;
use crate::failure::Failure;

/// Whatever was started so far.
#[derive(Default)]
pub(super) struct Children {
    pub(super) server: Option<Child>,
    pub(super) node: Option<Child>,
    pub(super) demo: Option<Child>,
}

impl Children {
    pub(super) fn demo_pid(&self) -> Option<u32> {
        self.demo.as_ref().map(Child::pid)
    }

    /// Waits until one of them dies, and says which and how. Never returns while all live.
    pub(super) async fn first_death(&mut self) -> Failure {
        tokio::select! {
            failure = death(self.server.as_mut()) => failure,
            failure = death(self.node.as_mut()) => failure,
            failure = death(self.demo.as_mut()) => failure,
        }
    }

    /// Ends them, those first who need the others.
    pub(super) async fn stop(self) {
        for child in [self.demo, self.node, self.server].into_iter().flatten() {
            child.stop().await;
        }
    }
}

async fn death(child: Option<&mut Child>) -> Failure {
    match child {
        Some(child) => child.died().await,
        None => future::pending().await,
    }
}
