//! The streaming calls: for as long as the workload runs, and no longer (BRK-29).

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::Response;
use muster_rt::Clock;
use muster_rt::lifecycle::Reason;
use tonic::Status;
use tonic::body::Body;

use super::call::{Attested, Parts, ended, refuse, shutting_down, still_the_same};
use super::{Asking, refusal};
use crate::driver::Subscription;
use crate::workload_api::grpc;

/// A stream under way.
pub(super) struct Follow<T> {
    call: Attested,
    clock: Arc<dyn Clock>,
    subscription: Subscription<T>,
    exited: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    shutdown: Pin<Box<dyn Future<Output = Reason> + Send>>,
    rpc: &'static str,
}

impl<T: Send + Sync + 'static> Follow<T> {
    pub(super) fn new(
        parts: &Parts,
        call: Attested,
        subscription: Subscription<T>,
        rpc: &'static str,
    ) -> Self {
        let process = call.workload.process.clone();
        let shutdown = parts.shutdown.clone();
        Self {
            call,
            clock: parts.clock.clone(),
            subscription,
            exited: Box::pin(async move { process.exited().await }),
            shutdown: Box::pin(async move { shutdown.begun().await }),
            rpc,
        }
    }

    /// The response: its first message as soon as there is one, then the others (BRK-23).
    pub(super) async fn answer(
        mut self,
        frame: fn(&Asking, &T) -> Result<Bytes, Status>,
    ) -> Result<Response<Body>, Status> {
        let first = self.next(frame).await?;
        let rest = stream::unfold(Some(self), move |follow| async move {
            let mut follow = follow?;
            match follow.next(frame).await {
                Ok(bytes) => Some((Ok(bytes), Some(follow))),
                // Whatever the stream held is let go before its end is on the wire.
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(grpc::streaming(first, rest))
    }

    /// The next message, or why there is none.
    async fn next(
        &mut self,
        frame: fn(&Asking, &T) -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        loop {
            let told = tokio::select! {
                biased;
                _reason = &mut self.shutdown => return Err(shutting_down()),
                exited = &mut self.exited => return Err(ended(exited)),
                // The roster is gone only when the node is.
                told = self.subscription.answers.told() => {
                    told.map_err(|_closed| shutting_down())?
                }
            };
            if let Some(refused) = told.end {
                return Err(refuse(&self.call, refused, self.rpc));
            }
            if let Some(latest) = told.latest {
                // A connection must not outlive what it was let in with.
                if self.call.asking.not_after <= self.clock.now().wall {
                    return Err(refusal::expired());
                }
                still_the_same(&self.call)?;
                return frame(&self.call.asking, &latest);
            }
        }
    }
}
