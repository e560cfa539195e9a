//! From the first task to the exit code: signals, supervision, readiness, systemd.
//!
//! A program makes a [`Shutdown`] and a [`Ready`], hands clones to its tasks, gives the tasks that
//! it cannot live without to a [`Supervisor`], and ends with the exit code of the [`Verdict`]:
//!
//! ```
//! use std::process::ExitCode;
//! use std::time::Duration;
//! use muster_rt::lifecycle::{self, Ready, Shutdown, Supervisor};
//!
//! fn main() -> ExitCode {
//!     lifecycle::block_on(async {
//!         let shutdown = Shutdown::new();
//!         let ready = Ready::new();
//!         let listening = ready.expect("socket");
//!         let mut supervisor = Supervisor::new(shutdown.clone(), ready, Duration::from_secs(10));
//!         supervisor.essential("socket", async move {
//!             listening.declare();
//! #           shutdown.begin(lifecycle::Reason::Asked);
//!             shutdown.begun().await;
//!             Ok::<(), std::io::Error>(())
//!         });
//!         supervisor.run().await.exit_code()
//!     })
//! }
//! ```

mod ready;
mod shutdown;
mod supervisor;

use std::future::Future;
use std::process::ExitCode;

pub use self::ready::{Pending, Ready};
pub use self::shutdown::{Reason, Shutdown};
pub use self::supervisor::{Failure, Supervisor, TaskError, Verdict, tell_successor};

/// Runs the whole program on a runtime of its own and gives its exit code.
///
/// Work that still blocks a thread when `main` is done does not hold the exit up: whoever drains
/// with a deadline has decided that before.
pub fn block_on(main: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start; are threads or memory limited?");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(main);
    runtime.shutdown_background();
    code
}
