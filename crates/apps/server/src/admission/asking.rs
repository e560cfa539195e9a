//! A request to sign, as far as it says how urgent it is.

use std::time::Duration;

use muster_audit::{Event, Record};
use muster_model::Timestamp;
use muster_wire::urgency::EXPIRES_AT;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::admission::Turn;
use crate::admission::queue::SOON;
use crate::crowd::Busy;
use crate::listen::TlsOrigin;
use crate::operation::Operation;
use crate::server::Server;

/// A caller that does not say (SPIRE's agents and operators never do) comes after those that hold
/// nothing, and before those that have long.
const UNSAID: Duration = SOON;
/// A hint further away is as good as this one.
const FURTHEST: Duration = Duration::from_hours(24);

/// What is known of a request before it is read. Its connection stays open as long as this lives:
/// who waits for SVIDs is not asked to leave.
pub(crate) struct Asking {
    /// In Unix seconds.
    expires_at: Option<i64>,
    _busy: Option<Busy>,
}

impl Asking {
    /// Looks at `request`.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let origin = request.extensions().get::<TlsOrigin>();
        Self {
            expires_at: said(request.metadata()),
            _busy: origin.map(|origin| origin.line.busy()),
        }
    }

    /// The record of what is issued, as a renewal if the caller says that it holds what is replaced.
    /// Of a batch it says so only if that is true of all.
    pub(crate) fn onto(&self, mut record: Record) -> Record {
        if self.expires_at.is_some_and(|seconds| seconds > 0) {
            record.event = Event::SvidRenewed;
        }
        record
    }

    /// Waits for a turn to make `signatures`, or says when to come again. Between the parts of a
    /// batch, whoever is due earlier goes first.
    pub(crate) async fn turn<A>(
        &self,
        server: &Server,
        op: &Operation<A>,
        signatures: usize,
    ) -> Result<Turn, Status> {
        // A process at the admin socket has no name of its own.
        let caller = match &op.permit.principal().id {
            Some(id) => id.clone(),
            None => server.trust_domain.server_id(),
        };
        let now = server.clock.now().wall;
        let due = due(self.expires_at, op.now);
        server.admission.turn(&caller, due, signatures, now).await
    }
}

fn said(metadata: &MetadataMap) -> Option<i64> {
    metadata.get(EXPIRES_AT)?.to_str().ok()?.parse().ok()
}

/// When a request that came at `now` is due, as far as its caller says.
///
/// Nothing but the order depends on it, and an order of arrivals is the most that can be gained:
/// what claims to be late is due now. Whoever always claims so stands among those who really are,
/// with at most so many requests as any other.
fn due(expires_at: Option<i64>, now: Timestamp) -> Timestamp {
    match expires_at {
        None => now.plus(UNSAID),
        Some(seconds) => Timestamp::from_unix_seconds(seconds.max(0))
            .max(now)
            .min(now.plus(FURTHEST)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_hint_is_held_within_what_is_harmless() {
        let check = |text: Option<&'static str>, expected: i64| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = text {
                metadata.insert(EXPIRES_AT, text.parse().unwrap());
            }
            assert_eq!(due(said(&metadata), at(1000)), at(expected), "{text:?}");
        };
        check(Some("1500"), 1500);
        check(Some("0"), 1000);
        check(Some("-9223372036854775808"), 1000);
        check(Some("9223372036854775807"), 1000 + 86_400);
        check(Some("999"), 1000);
        check(Some("soon"), 1060);
        check(None, 1060);
    }
}
