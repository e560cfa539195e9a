//! `/proc/PID/stat`: the program's name, which the process chooses, does not move the fields.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_peer::procfs::start_time;

fuzz_target!(|data: &[u8]| {
    let _any = start_time(data);
    let mut line = b"1 (".to_vec();
    line.extend(data);
    line.extend(b") S 1 1 1 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 4711 99 100\n");
    assert_eq!(start_time(&line), Ok(4711));
});
