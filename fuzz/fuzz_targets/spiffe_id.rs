//! SPIFFE IDs: what is accepted is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        assert_eq!(id.to_string().parse::<SpiffeId>().as_ref(), Ok(&id));
    }
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(
            domain.to_string().parse::<TrustDomain>().as_ref(),
            Ok(&domain)
        );
    }
});
