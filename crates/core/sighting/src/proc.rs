//! The formats of `/proc`, as pure functions over bytes. None of them fails: a line that is not
//! what the kernel writes is left out, since what processes choose to be called is in these files.

pub mod cgroup;
pub mod cmdline;
pub mod environ;
pub mod maps;
pub mod net;
pub mod stat;
pub mod status;
