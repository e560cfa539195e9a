//! Whether the server is to be told, before the next handshake, that the node cannot wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use muster_model::{Revision, Timestamp};
use muster_roster::Stats;
use muster_rt::Clock;
use muster_tls::Urgency;

/// An identity that ends so soon does not wait.
const SOON: Duration = Duration::from_mins(1);

/// When the first of the identities ends that the node serves or shows; clones share it.
#[derive(Clone)]
pub(crate) struct Haste {
    /// In Unix seconds; 0 while one is missing.
    first_end: Arc<AtomicI64>,
    clock: Arc<dyn Clock>,
}

impl Haste {
    /// That of a node that has nothing yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            first_end: Arc::default(),
            clock,
        }
    }

    /// Notes how the node stands, whose own SVID ends at `own`.
    pub(crate) fn note(&self, stats: &Stats, own: Option<Timestamp>) {
        let at = first_end(stats, own).unix_seconds();
        self.first_end.store(at, Ordering::Relaxed);
    }

    /// What to tell the server now.
    pub(crate) fn urgency(&self) -> Urgency {
        let soon = self.clock.now().wall.plus(SOON).unix_seconds();
        if self.first_end.load(Ordering::Relaxed) <= soon {
            Urgency::Now
        } else {
            Urgency::CanWait
        }
    }
}

/// The beginning of time, if an identity is missing.
fn first_end(stats: &Stats, own: Option<Timestamp>) -> Timestamp {
    // Before its first view a node does not know what is missing.
    if stats.revision == Revision::default() || stats.x509_missing > 0 {
        return Timestamp::EPOCH;
    }
    let ends = own.into_iter().chain(stats.first_x509_expiry);
    ends.min().unwrap_or(Timestamp::EPOCH)
}

#[cfg(test)]
mod tests {
    use muster_model::Now;

    use super::*;

    struct Stopped(Timestamp);

    impl Clock for Stopped {
        fn now(&self) -> Now {
            Now {
                wall: self.0,
                mono: Duration::ZERO,
            }
        }
    }

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_node_cannot_wait_that_serves_nothing_good_for_long() {
        let good = Stats {
            connected: false,
            in_step: false,
            revision: Revision(7),
            entries: 2,
            rules: 0,
            names: 0,
            x509_svids: 2,
            x509_missing: 0,
            jwt_svids: 0,
            wit_svids: 0,
            streams: 0,
            waiting: 0,
            first_x509_expiry: Some(at(5000)),
            first_jwt_expiry: None,
        };
        let haste = Haste::new(Arc::new(Stopped(at(1000))));
        assert_eq!(haste.urgency(), Urgency::Now, "it has nothing yet");
        let check = |stats: &Stats, own: Option<i64>, expected| {
            haste.note(stats, own.map(at));
            assert_eq!(haste.urgency(), expected, "{stats:?} {own:?}");
        };
        check(&good, Some(4000), Urgency::CanWait);
        check(&good, Some(1060), Urgency::Now);
        let soon = Some(at(990));
        let expired = Stats {
            first_x509_expiry: soon,
            ..good
        };
        check(&expired, Some(4000), Urgency::Now);
        let missing = Stats {
            x509_missing: 1,
            ..good
        };
        check(&missing, Some(4000), Urgency::Now);
        let unknown = Stats {
            revision: Revision::default(),
            ..good
        };
        check(&unknown, Some(4000), Urgency::Now);
        let idle = Stats {
            first_x509_expiry: None,
            ..good
        };
        check(&idle, Some(4000), Urgency::CanWait);
    }
}
