//! Configuration files and endpoint addresses: any text gives a value or faults with a position.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_rt::config::{self, Document};
use muster_rt::endpoint::Endpoint;

fuzz_target!(|text: &str| {
    drop(Endpoint::parse(text));
    let Ok(document) = Document::parse("fuzz.toml", text) else {
        return;
    };
    let root = document.root();
    let ttl = root.optional("ttl", config::duration());
    let listen = root.optional("listen", config::socket_address());
    let path = root
        .table("store")
        .optional("path", config::absolute_path());
    if let Err(faults) = document.finish(|| Some((ttl, listen, path))) {
        assert!(!faults.to_string().is_empty());
    }
});
