//! Whom the node refused: told by process and reason.

use std::time::Duration;

use muster_model::{Shown, TaskId, Timestamp, Word};
use muster_proto::muster::node::v1::ReportRefusalsRequest;
use muster_proto::muster::node::v1::node_refusals_client::NodeRefusalsClient;
use muster_rt::ration::Ration;
use muster_wire::denial::{self, Denial, DenialKind};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::reports::{Batch, Notes, Tally, Terms, Topic};

/// A process that was refused, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Refused {
    /// In a word.
    pub(crate) reason: &'static str,
    /// 0 for a process that is not visible here.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// On whose socket.
    pub(crate) task: Option<TaskId>,
}

/// How many times, and what is known beside.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    executable: Shown,
    count: u64,
    last: Timestamp,
}

impl Tally for Times {
    fn count(&self) -> u64 {
        self.count
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, later: Self) {
        self.count = self.count.saturating_add(later.count);
        self.last = self.last.max(later.last);
    }

    fn take(&mut self) -> Self {
        let taken = self.clone();
        self.count = 0;
        taken
    }
}

/// Whom the node refused.
pub(crate) enum Refusals {}

/// Where notes of them are left.
pub(crate) type Denials = Notes<Refusals>;

impl Topic for Refusals {
    type Who = Refused;
    type Tally = Times;
    type Report = ReportRefusalsRequest;

    const TERMS: Terms = Terms {
        kept: 1024,
        batch: 32,
        again: Duration::from_mins(10),
        // In the long run one in a second: what fills no disk of a server with a thousand nodes.
        ration: Ration::new(Duration::from_secs(1), 64),
    };
    const WHAT: &'static str = "whom this node refused";

    /// Attempts to be somebody else first.
    fn rank(who: &Refused) -> u8 {
        match DenialKind::of(who.reason) {
            DenialKind::Impersonation => 0,
            DenialKind::ExeChanged => 1,
            DenialKind::Denied => 2,
        }
    }

    fn report(batch: &Batch<Refused, Times>) -> ReportRefusalsRequest {
        let denials = batch.rows.iter().filter_map(denial);
        ReportRefusalsRequest {
            refused: denials.map(|denial| denial::write(&denial)).collect(),
            unreported: batch.unreported,
        }
    }

    async fn tell(
        channel: Channel,
        request: Request<ReportRefusalsRequest>,
    ) -> Result<u64, Status> {
        let mut client = NodeRefusalsClient::new(channel);
        let answer = client.report_refusals(request).await?;
        Ok(answer.into_inner().unrecorded)
    }
}

impl Denials {
    /// Notes that a process was refused.
    pub(crate) fn refused(&self, who: Refused) {
        let last = self.clock().now().wall;
        let once = |executable| Times {
            executable,
            count: 1,
            last,
        };
        self.note(
            &who,
            |times| times.add(once(Shown::empty())),
            // Only of whoever is new, and has a place.
            || once(executable(who.pid)),
        );
    }
}

/// A row as the server is told it. The reasons of the house are all words.
fn denial((who, times): &(Refused, Times)) -> Option<Denial> {
    Some(Denial {
        reason: Word::parse(who.reason).ok()?,
        pid: who.pid,
        uid: who.uid,
        executable: times.executable.clone(),
        task: who.task,
        count: times.count,
        last_at: times.last,
    })
}

/// Where the executable is of the process that has this number now: for people. Nothing holds the
/// process, so it may be another one already.
fn executable(pid: u32) -> Shown {
    if pid == 0 {
        return Shown::empty();
    }
    std::fs::read_link(format!("/proc/{pid}/exe")).map_or_else(
        |_| Shown::empty(),
        |path| Shown::of(&path.to_string_lossy()),
    )
}
