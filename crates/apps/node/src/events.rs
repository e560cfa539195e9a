//! What happens on the node, for whoever watches.

use muster_model::{Timestamp, TrustDomain};
use muster_proto::muster::node::admin::v1 as admin;
use muster_roster::Note;
use tokio::sync::broadcast;

/// How many events a slow watcher may be behind before it misses some.
const CAPACITY: usize = 4096;

/// The events of the node. Clones share them.
#[derive(Clone)]
pub(crate) struct Events(broadcast::Sender<admin::Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    /// Follows the events from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<admin::Event> {
        self.0.subscribe()
    }

    /// Whether anybody watches: what nobody sees need not be put together.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells all watchers.
    pub(crate) fn tell(&self, what: admin::event::What, at: Timestamp) {
        if self.is_watched() {
            let event = admin::Event {
                at: Some(timestamp(at)),
                what: Some(what),
            };
            // The last watcher may have just left.
            drop(self.0.send(event));
        }
    }

    /// Tells what the roster noted, as far as it is an event.
    pub(crate) fn note(&self, note: Note, at: Timestamp) {
        if let Note::Issued {
            entry,
            spiffe_id,
            serial,
            not_before,
            not_after,
            authority_id,
            renew_at,
            previous,
        } = note
        {
            let issued = admin::Issued {
                entry_id: entry.as_str().to_owned(),
                spiffe_id: spiffe_id.as_str().to_owned(),
                serial_number: serial.as_str().to_owned(),
                not_before: Some(timestamp(not_before)),
                not_after: Some(timestamp(not_after)),
                authority_id,
                renew_at: Some(timestamp(renew_at)),
                previous_serial_number: previous.map(|s| s.as_str().to_owned()).unwrap_or_default(),
            };
            self.tell(admin::event::What::Issued(issued), at);
        }
    }
}

/// An instant as protobuf writes it.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.unix_millis().rem_euclid(1000);
    prost_types::Timestamp {
        seconds: at.unix_seconds(),
        nanos: i32::try_from(millis * 1_000_000).unwrap_or(0),
    }
}

/// The key of bundle maps (WAPI-30, ID-19).
pub(crate) fn map_key(trust_domain: &TrustDomain) -> String {
    trust_domain.id().as_str().to_owned()
}
