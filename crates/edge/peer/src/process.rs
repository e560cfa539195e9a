//! What the daemon does to itself, as far as the system allows.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one and returns it. Every connection
/// takes two descriptors.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Has the kernel use small pages for this process's memory.
///
/// A huge page is resident as a whole: where huge pages are on for every process, what lies
/// untouched between the allocations of thousands of connections would become resident as well, at
/// once or when the kernel tidies up.
pub fn keep_pages_small() -> Result<(), Errno> {
    prctl::set_thp_disable(true)
}

/// Lets every other thread of the machine go first, for the calling thread alone and for good.
pub fn yield_to_others() -> std::io::Result<()> {
    crate::sys::lower_priority()
}

/// Keeps other processes of the same user from reading this one's memory (ptrace, `/proc/PID/mem`),
/// and the kernel from writing it to a core file. Call it before any secret is in memory.
pub fn keep_memory_private() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}
