//! The client's end: a gRPC channel over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use muster_rt::endpoint::MAX_SOCKET_PATH;

/// Why no channel could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket has such a long path.
    #[error("socket path {path:?} has {length} bytes and the kernel allows {MAX_SOCKET_PATH}")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Nobody can be reached there.
    #[error("cannot connect to {path:?}: {source}{}", remedy(source))]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The other end does not speak HTTP/2.
    #[error("no gRPC server answers at {path:?}: {source}")]
    Transport {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: tonic::transport::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "; is the daemon running, and is this its socket?",
        Some(libc::ECONNREFUSED) => "; the socket is stale: the daemon that made it is gone",
        Some(libc::EACCES) => "; this user may not open the socket",
        _ => "",
    }
}

/// Connects to the gRPC server at `path` and waits until it answers; connects anew by itself when
/// the connection breaks.
///
/// Connect from the process that will call: the server refuses bytes of any other.
pub async fn connect(path: impl AsRef<Path>) -> Result<Channel, ConnectError> {
    let path = path.as_ref().to_owned();
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(ConnectError::PathTooLong { path, length });
    }
    // The first attempt is made outside the channel, whose errors hide their cause.
    let first = UnixStream::connect(&path)
        .await
        .map_err(|source| ConnectError::Io {
            path: path.clone(),
            source,
        })?;
    let mut first = Some(first);
    let target = path.clone();
    let connector = service_fn(move |_| {
        let first = first.take();
        let path = target.clone();
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint()
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport { path, source })
}

/// A channel to `path` that connects at its first call, and anew whenever the connection broke.
pub fn connect_lazy(path: impl AsRef<Path>) -> Channel {
    let path = path.as_ref().to_owned();
    endpoint().connect_with_connector_lazy(service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost").connect_timeout(Duration::from_secs(10))
}
