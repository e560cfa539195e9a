//! The old process's half.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use muster_peer::{Connection, Incoming, descriptors};
use muster_rt::lifecycle::{Reason, Shutdown, tell_successor};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{ENVIRONMENT_VARIABLE, HandoverError, Kind, Managed, PATIENCE, READY, TAKE, failed};
use crate::driver::Driver;
use crate::sealed;
use crate::tasks::Desk;

/// How long connections that were accepted before the successor answered may go on: long enough
/// for each to have its first answer.
const LINGER: Duration = Duration::from_secs(1);
/// How long a successor that gave up may take to say why, and to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How the program is started anew, and the signal that says when.
pub(crate) struct Upgrade {
    program: PathBuf,
    arguments: Vec<OsString>,
    signal: Signal,
}

impl Upgrade {
    /// Notes how this process was started, and listens for SIGUSR2.
    ///
    /// The program's path is looked up now: later, another file may have its name, and that file
    /// is the one to start.
    pub(crate) fn on_signal() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
            signal: signal(SignalKind::user_defined2())?,
        })
    }

    /// Hands the node on whenever it is asked to, until one handover succeeds.
    pub(crate) async fn run(mut self, node: Predecessor) -> Result<(), HandoverError> {
        loop {
            tokio::select! {
                _reason = node.shutdown.begun() => return Ok(()),
                asked = self.signal.recv() => if asked.is_none() {
                    return Ok(());
                },
            }
            tracing::info!(program = %self.program.display(), "handing the node on");
            match self.hand_on(&node).await {
                Ok(pid) => {
                    tracing::info!(successor = pid, "the successor answers");
                    tell_successor(pid);
                    node.door.send_replace(true);
                    tokio::time::sleep(LINGER).await;
                    node.shutdown.begin(Reason::HandedOn);
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(%error, "the handover failed; this node goes on");
                    node.driver.keep_sealing();
                    node.pause.over().await;
                    // After that, for only now is the directory this node's again.
                    node.tasks.go_on();
                }
            }
        }
    }

    async fn hand_on(&self, node: &Predecessor) -> Result<u32, HandoverError> {
        let (link, child) = self.start(node)?;
        let mut child = Ended(Some(child));
        match agree(link, node).await {
            // From here on it is on its own.
            Ok(()) => child.0.take().and_then(|child| child.id()).ok_or_else(gone),
            Err(error) => {
                child.end().await;
                Err(error)
            }
        }
    }

    fn start(&self, node: &Predecessor) -> Result<(UnixStream, Child), HandoverError> {
        let step = "start the successor";
        let (link, other) = UnixStream::pair().map_err(failed(step))?;
        link.set_read_timeout(Some(PATIENCE))
            .map_err(failed(step))?;
        link.set_write_timeout(Some(PATIENCE))
            .map_err(failed(step))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env(ENVIRONMENT_VARIABLE, node.managed.as_str())
            // It names this process; the successor is watched from when it is the main one.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .map_err(failed(step))?;
        let kinds: Vec<u8> = node.sockets.iter().map(|(kind, _)| kind.byte()).collect();
        let sockets: Vec<_> = node.sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
        descriptors::send(link.as_fd(), &kinds, &sockets).map_err(failed(step))?;
        Ok((link, child))
    }
}

/// Steps 2 to 4.
async fn agree(link: UnixStream, node: &Predecessor) -> Result<(), HandoverError> {
    let mut link = expect(link, TAKE, "hear from the successor").await?;
    let memory = node.let_go().await?;
    link = blocking(move || {
        let step = "hand the memory on";
        let length = u64::try_from(memory.len()).unwrap_or(0);
        link.write_all(&length.to_be_bytes())
            .map_err(failed(step))?;
        link.write_all(&memory).map_err(failed(step))?;
        Ok(link)
    })
    .await?;
    expect(link, READY, "wait until the successor answers").await?;
    Ok(())
}

/// What is handed on.
pub(crate) struct Predecessor {
    /// The listening sockets.
    pub(crate) sockets: Vec<(Kind, OwnedFd)>,
    pub(crate) managed: Managed,
    pub(crate) driver: Driver,
    pub(crate) tasks: Desk,
    pub(crate) pause: Pause,
    /// Closes the doors of all sockets.
    pub(crate) door: watch::Sender<bool>,
    pub(crate) shutdown: Shutdown,
}

impl Predecessor {
    /// Stops writing, lets go of the data directory, and gives the memory.
    async fn let_go(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, HandoverError> {
        let step = "let go of the node's state";
        self.pause.begin().await;
        self.tasks.rest().await;
        let memory = self.driver.memory().await.map_err(|_stopped| gone())?;
        let Some(memory) = memory else {
            return Ok(zeroize::Zeroizing::default());
        };
        blocking(move || {
            sealed::write(&memory).map_err(|error| failed(step)(io::Error::other(error)))
        })
        .await
    }
}

/// A successor that is ended unless it is let go.
struct Ended(Option<Child>);

impl Ended {
    /// Ends it, after its last words if it is ending by itself. It holds the lock of the data
    /// directory until it is gone.
    async fn end(&mut self) {
        let Some(child) = &mut self.0 else { return };
        if tokio::time::timeout(LAST_WORDS, child.wait())
            .await
            .is_err()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "the successor was not ended");
        }
        self.0 = None;
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ended = child.start_kill().is_ok();
        }
    }
}

async fn expect(
    mut link: UnixStream,
    wanted: u8,
    step: &'static str,
) -> Result<UnixStream, HandoverError> {
    blocking(move || {
        let mut byte = [0];
        link.read_exact(&mut byte).map_err(|error| {
            let ended = error.kind() == io::ErrorKind::UnexpectedEof;
            let error = if ended {
                io::Error::other("it ended; what it said last says why")
            } else {
                error
            };
            failed(step)(error)
        })?;
        if byte != [wanted] {
            return Err(failed(step)(io::Error::from(io::ErrorKind::InvalidData)));
        }
        Ok(link)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HandoverError> + Send + 'static,
) -> Result<T, HandoverError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_cancelled| Err(gone()))
}

fn gone() -> HandoverError {
    failed("hand the node on")(io::Error::from(io::ErrorKind::Interrupted))
}

/// Asks the link to rest: it writes nothing, and the data directory is free. Clones share it.
#[derive(Clone)]
pub(crate) struct Pause {
    wanted: watch::Sender<bool>,
    granted: watch::Sender<bool>,
}

impl Pause {
    /// Nobody rests.
    pub(crate) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(false),
            granted: watch::Sender::new(false),
        }
    }

    /// Resolves when the link rests.
    async fn begin(&self) {
        self.wanted.send_replace(true);
        wait_for(&self.granted, true).await;
    }

    /// Resolves when the link goes on.
    async fn over(&self) {
        self.wanted.send_replace(false);
        wait_for(&self.granted, false).await;
    }

    /// Resolves when the link is to rest.
    pub(crate) async fn asked(&self) {
        wait_for(&self.wanted, true).await;
    }

    /// Says that the link rests, and resolves when it may go on.
    pub(crate) async fn rest(&self) {
        self.granted.send_replace(true);
        wait_for(&self.wanted, false).await;
    }

    /// Says that the link goes on.
    pub(crate) fn goes_on(&self) {
        self.granted.send_replace(false);
    }
}

async fn wait_for(flag: &watch::Sender<bool>, state: bool) {
    // `flag` holds a sender, so the channel cannot close while we wait.
    let _closed = flag
        .subscribe()
        .wait_for(|now| *now == state)
        .await
        .is_err();
}

/// The connections of a socket, until the successor accepts them.
pub(crate) struct Door {
    incoming: Option<Incoming>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Door {
    /// Lets connections in until `closed` says true. Then the socket is closed here, its file
    /// stays, and the stream rests: its end would end the connections that were let in.
    pub(crate) fn new(incoming: Incoming, closed: &watch::Sender<bool>) -> Self {
        Self {
            incoming: Some(incoming),
            closed: Box::pin(Self::closed(closed)),
        }
    }

    /// Resolves when the doors are closed: from then on the successor lets everybody in.
    pub(crate) fn closed(
        closed: &watch::Sender<bool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let closed = closed.clone();
        async move { wait_for(&closed, true).await }
    }
}

impl Stream for Door {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let door = &mut *self;
        let Some(incoming) = &mut door.incoming else {
            return Poll::Pending;
        };
        if door.closed.as_mut().poll(context).is_ready() {
            incoming.leave_file();
            door.incoming = None;
            return Poll::Pending;
        }
        Pin::new(incoming).poll_next(context)
    }
}
