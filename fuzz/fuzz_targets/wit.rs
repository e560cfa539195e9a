//! WIT-SVIDs: without a key of theirs, none is ever valid; and what the key sets say returns.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::{Bundle, Timestamp, TrustDomain};
use muster_svid::bundle::{decode_wit_jwks, encode_wit_jwks};
use muster_svid::wit::{self, ParsedWit};

fuzz_target!(|text: &str| {
    if let Ok(wit) = ParsedWit::parse(text) {
        drop((wit.issued_at(), wit.token_id().map(str::to_owned)));
    }
    let nobody = |_: &TrustDomain| None::<Bundle>;
    assert!(wit::validate(text, nobody, Timestamp::EPOCH).is_err());
    if let Ok(keys) = decode_wit_jwks(text.as_bytes()) {
        assert_eq!(decode_wit_jwks(encode_wit_jwks(&keys).as_bytes()), Ok(keys));
    }
});
