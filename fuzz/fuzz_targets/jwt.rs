//! Tokens: without a key of theirs, none is ever valid.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_crypto::ParsedJws;
use muster_model::{Bundle, Timestamp, TrustDomain};
use muster_svid::jwt;

fuzz_target!(|token: &str| {
    drop(ParsedJws::parse(token));
    let nobody = |_: &TrustDomain| None::<Bundle>;
    assert!(jwt::validate(token, "a", nobody, Timestamp::EPOCH).is_err());
});
