//! `/proc/PID/status`: a name without line ends does not pass for a field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_attest::workload::unix::Status;

fuzz_target!(|data: &[u8]| {
    let _any = Status::parse(data);
    if data.contains(&b'\n') {
        return;
    }
    let mut file = b"Name:\t".to_vec();
    file.extend(data);
    file.extend(b"\nTracerPid:\t11\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 9 \n");
    let status = Status::parse(&file).expect("the kernel's own fields");
    assert_eq!((status.uids.effective, status.gids.effective), (2, 6));
    assert_eq!((status.groups, status.tracer), (vec![9, 10], 11));
});
