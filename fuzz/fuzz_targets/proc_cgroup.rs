//! `/proc/PID/cgroup`: a container that is found is one that the process is within.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_attest::workload::docker::Membership;

fuzz_target!(|data: &[u8]| {
    let Ok(membership) = Membership::parse(data) else {
        return;
    };
    if let Ok(Some(claim)) = membership.claim() {
        assert!(membership.is_within(&claim));
        assert_eq!(claim.id.as_str().len(), 64);
        let text = String::from_utf8_lossy(data);
        assert!(text.contains(claim.id.as_str()));
    }
});
