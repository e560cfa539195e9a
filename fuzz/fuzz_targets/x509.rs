//! Certificates and signing requests: any bytes are read or refused; what is read agrees with itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_svid::x509::{Certificate, MAX_CSR_LEN, SigningRequest};

fuzz_target!(|der: &[u8]| {
    if let Ok(certificate) = Certificate::parse(der)
        && let Ok(id) = certificate.spiffe_id()
    {
        assert!(id.as_str().starts_with("spiffe://"));
    }
    if SigningRequest::parse(der).is_ok() {
        assert!(der.len() <= MAX_CSR_LEN);
    }
});
