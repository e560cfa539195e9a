//! The desk at which orders about the authorities are taken: they are carried out one after the
//! other, by the task that owns the ladders.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::Authorities;

/// How many orders may wait; operators are few.
const QUEUE: usize = 16;

/// Work in progress on the authorities.
type Work<'a, R> = Pin<Box<dyn Future<Output = R> + Send + 'a>>;

/// An order, as [`Authorities::run`] carries it out.
pub(crate) type Order = Box<dyn for<'a> FnOnce(&'a mut Authorities) -> Work<'a, ()> + Send>;

/// Where handlers leave their orders; clones share it.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<Order>);

impl Desk {
    /// A desk, and the orders that are left there.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, queue) = mpsc::channel(QUEUE);
        (Self(orders), queue)
    }

    /// Waits for the turn of `order` and returns what came of it. An order that is begun is carried
    /// out, also when its caller has gone.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        order: impl for<'a> FnOnce(&'a mut Authorities) -> Work<'a, R> + Send + 'static,
    ) -> Result<R, Status> {
        let (answer, wait) = oneshot::channel();
        let order: Order = Box::new(move |authorities| {
            Box::pin(async move {
                // A caller that no longer waits has nothing to be told.
                drop(answer.send(order(authorities).await));
            })
        });
        let closed = || Status::unavailable("the server is shutting down");
        self.0.send(order).await.map_err(|_order| closed())?;
        wait.await.map_err(|_gone| closed())
    }
}
