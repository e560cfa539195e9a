//! All connections of a listener, until it is to end.

use std::future::Future;
use std::io;
use std::pin::pin;

use futures::{Stream, StreamExt as _};
use tokio::sync::watch;

/// Changes, or has no sender any more, when connections are to end.
pub type Ended = watch::Receiver<()>;

/// Gives every connection to `begin`, until `shutdown` resolves or there are no more connections;
/// then all that were begun are told that they are to end, and it returns when they have: when
/// every [`Ended`] that was given out is dropped.
pub async fn for_each<C>(
    connections: impl Stream<Item = io::Result<C>>,
    shutdown: impl Future<Output = ()>,
    mut begin: impl FnMut(C, Ended),
) {
    let (end, ended) = watch::channel(());
    {
        let mut connections = pin!(connections);
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                next = connections.next() => match next {
                    Some(Ok(connection)) => begin(connection, ended.clone()),
                    Some(Err(error)) => tracing::warn!(%error, "a connection was not accepted"),
                    None => break,
                },
            }
        }
        // The listening socket is closed here, before calls are waited for.
    }
    drop(ended);
    // No connection is open, or all hear of it.
    let _alone = end.send(()).is_err();
    end.closed().await;
}
