//! The processes of the trust domain together.

use std::future;

use super::child::Child;
use crate::failure::Failure;

/// One of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Server,
    Node,
    Demo,
}

impl Which {
    /// The word in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Demo => "workload",
        }
    }
}

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

    /// Waits until one of them dies, and says which and how. It is no longer among them then.
    /// Never returns while all live.
    pub(super) async fn next_death(&mut self) -> (Which, Failure) {
        let (which, failure) = tokio::select! {
            failure = death(self.server.as_mut()) => (Which::Server, failure),
            failure = death(self.node.as_mut()) => (Which::Node, failure),
            failure = death(self.demo.as_mut()) => (Which::Demo, failure),
        };
        match which {
            Which::Server => self.server = None,
            Which::Node => self.node = None,
            Which::Demo => self.demo = None,
        }
        (which, failure)
    }

    /// Whether there is still a server or a node, so that there is something to see.
    pub(super) fn any_daemon(&self) -> bool {
        self.server.is_some() || self.node.is_some()
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
