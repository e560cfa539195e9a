//! Memory that stays out of the swap.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// `CAP_IPC_LOCK` of `linux/capability.h`.
const CAP_IPC_LOCK: u32 = 14;

/// Locks what is in memory and what will be, page by page as it is touched.
///
/// Only without a limit: with one, an allocation that passes it would fail at any later time, and
/// a daemon that ends for it protects nothing.
pub(super) fn lock() -> Result<(), String> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|errno| format!("RLIMIT_MEMLOCK: {errno}"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
            .map_err(|errno| format!("RLIMIT_MEMLOCK: {errno}"))?;
    }
    if hard != RLIM_INFINITY && !may_lock_anything() {
        return Err(format!(
            "RLIMIT_MEMLOCK is {hard} bytes; set LimitMEMLOCK=infinity"
        ));
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
        .map_err(|errno| format!("mlockall: {errno}"))
}

/// Whether limits on locked memory do not bind us.
fn may_lock_anything() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| effective(&status) & (1 << CAP_IPC_LOCK) != 0)
}

/// The effective capabilities in `/proc/PID/status`; none if it does not say.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000004000\n"), 1 << 14);
        assert_eq!(effective("CapEff:\tx\n"), 0);
        assert_eq!(effective(""), 0);
    }
}
