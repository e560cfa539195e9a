//! Which process of which boot a process is: what rules that name each process go by.

use std::sync::LazyLock;

use muster_model::{BootId, ProcessMark};
use muster_peer::HeldProcess;

/// Read once: the kernel in which the node runs does not change.
static BOOT: LazyLock<Option<BootId>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    BootId::parse(text.trim()).ok()
});

/// The boot of the kernel in which the node runs; `None` where /proc does not tell.
pub(crate) fn boot() -> Option<BootId> {
    *BOOT
}

/// A process as rules name it; `None` where /proc does not tell the boot.
pub(crate) fn of(process: &HeldProcess) -> Option<ProcessMark> {
    Some(ProcessMark {
        boot: boot()?,
        pid: process.pid(),
        start_time: process.start_time(),
    })
}
