//! What a server says to a node: any message is taken entry by entry, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_proto::muster::node::v1::WatchResponse;
use muster_wire::{bundle, entry};
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(step) = WatchResponse::decode(bytes) else {
        return;
    };
    for message in &step.entries {
        if let Ok(read) = entry::read(message) {
            assert!(!read.selectors.is_empty(), "it would match everyone");
        }
    }
    for message in &step.bundles {
        drop(bundle::read(message, |_| None));
    }
});
