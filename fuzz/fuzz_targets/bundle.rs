//! Bundle documents: what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::TrustDomain;
use muster_svid::bundle;

fuzz_target!(|document: &[u8]| {
    drop(bundle::decode_jwks(document));
    let Ok(trust_domain) = TrustDomain::parse("example.org") else {
        return;
    };
    if let Ok(read) = bundle::decode_spiffe(trust_domain.clone(), document) {
        let again = bundle::decode_spiffe(trust_domain, &bundle::encode_spiffe(&read));
        assert_eq!(again.as_ref(), Ok(&read));
    }
});
