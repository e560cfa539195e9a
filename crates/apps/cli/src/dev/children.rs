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
    Agent,
}

impl Which {
    /// The word in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Demo => "workload",
            Self::Agent => "agent",
        }
    }
}

/// Whatever was started so far.
#[derive(Default)]
pub(super) struct Children {
    pub(super) server: Option<Child>,
    pub(super) node: Option<Child>,
    pub(super) demo: Option<Child>,
    pub(super) agent: Option<Child>,
}

/// A process that has ended.
pub(super) enum Ended {
    /// One that should not have, or not so.
    Died(Which, Failure),
    /// The agent, whose work is done.
    AgentDone,
}

impl Children {
    pub(super) fn demo_pid(&self) -> Option<u32> {
        self.demo.as_ref().map(Child::pid)
    }

    /// Waits until one of them ends, and says which and how. It is no longer among them then.
    /// Never returns while all live.
    pub(super) async fn next_end(&mut self) -> Ended {
        let ended = tokio::select! {
            failure = death(self.server.as_mut()) => Ended::Died(Which::Server, failure),
            failure = death(self.node.as_mut()) => Ended::Died(Which::Node, failure),
            failure = death(self.demo.as_mut()) => Ended::Died(Which::Demo, failure),
            done = work(self.agent.as_mut()) => match done {
                Ok(()) => Ended::AgentDone,
                Err(failure) => Ended::Died(Which::Agent, failure),
            },
        };
        match ended {
            Ended::Died(Which::Server, _) => self.server = None,
            Ended::Died(Which::Node, _) => self.node = None,
            Ended::Died(Which::Demo, _) => self.demo = None,
            Ended::Died(Which::Agent, _) | Ended::AgentDone => self.agent = None,
        }
        ended
    }

    /// Whether there is still a server or a node, so that there is something to see.
    pub(super) fn any_daemon(&self) -> bool {
        self.server.is_some() || self.node.is_some()
    }

    /// Ends them, those first who need the others.
    pub(super) async fn stop(self) {
        for child in [self.agent, self.demo, self.node, self.server]
            .into_iter()
            .flatten()
        {
            child.stop().await;
        }
    }
}

async fn work(agent: Option<&mut Child>) -> Result<(), Failure> {
    match agent {
        Some(agent) => agent.done().await,
        None => future::pending().await,
    }
}

async fn death(child: Option<&mut Child>) -> Failure {
    match child {
        Some(child) => child.died().await,
        None => future::pending().await,
    }
}
