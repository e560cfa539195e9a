//! The streaming calls: FetchX509SVID, FetchX509Bundles, FetchJWTBundles.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream;
use http::Response;
use tonic::Status;
use tonic::body::Body;

use super::answers::Answer;
use super::caller::Attested;
use super::{CallerFacts, Inner, Place, grpc, shutting_down};
use crate::attestations::Given;
use crate::driver::{Stopped, Subscription};

impl Inner {
    /// # Path
    ///
    /// `adapters/attest` (who the caller is), `core/roster` (what it gets and when),
    /// `core/svid/x509` (what an SVID is).
    pub(super) async fn fetch_x509_svid(
        self: Arc<Self>,
        caller: &CallerFacts,
        place: Place,
    ) -> Result<Response<Body>, Status> {
        let attested = self.callers.attest(caller, &place).await?;
        let subscription = self
            .driver_for(caller)
            .x509_svids(attested.who())
            .map_err(stopped)?;
        let follow = Follow::new(self, attested, subscription, place, "FetchX509SVID");
        follow.answer().await
    }

    /// # Path
    ///
    /// `adapters/attest`, `core/roster`.
    pub(super) async fn fetch_x509_bundles(
        self: Arc<Self>,
        caller: &CallerFacts,
        place: Place,
    ) -> Result<Response<Body>, Status> {
        let attested = self.callers.attest(caller, &place).await?;
        let subscription = self
            .driver_for(caller)
            .x509_bundles(attested.who())
            .map_err(stopped)?;
        let follow = Follow::new(self, attested, subscription, place, "FetchX509Bundles");
        follow.answer().await
    }

    /// # Path
    ///
    /// `adapters/attest`, `core/roster`, `core/svid/bundle.rs` (what a key set is).
    pub(super) async fn fetch_jwt_bundles(
        self: Arc<Self>,
        caller: &CallerFacts,
        place: Place,
    ) -> Result<Response<Body>, Status> {
        let attested = self.callers.attest(caller, &place).await?;
        let subscription = self
            .driver_for(caller)
            .jwt_bundles(attested.who())
            .map_err(stopped)?;
        let follow = Follow::new(self, attested, subscription, place, "FetchJWTBundles");
        follow.answer().await
    }
}

pub(super) fn stopped(_stopped: Stopped) -> Status {
    shutting_down()
}

/// A stream under way. Small, because there are thousands: what it waits for is polled where it
/// lies, and the loop ends it when the node shuts down.
pub(super) struct Follow<T> {
    api: Arc<Inner>,
    attested: Attested,
    subscription: Subscription<T>,
    exited: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    given: Given,
    _place: Place,
    rpc: &'static str,
}

impl<T: Answer> Follow<T> {
    pub(super) fn new(
        api: Arc<Inner>,
        attested: Attested,
        subscription: Subscription<T>,
        place: Place,
        rpc: &'static str,
    ) -> Self {
        let process = attested.caller.clone();
        Self {
            api,
            attested,
            subscription,
            exited: Box::pin(async move { process.exited().await }),
            given: Given::default(),
            _place: place,
            rpc,
        }
    }

    /// The response: its first message as soon as there is one, then the others.
    pub(super) async fn answer(mut self) -> Result<Response<Body>, Status> {
        let first = poll_fn(|cx| self.poll(cx)).await?;
        let mut follow = Some(self);
        let rest = stream::poll_fn(move |cx| {
            let Some(open) = &mut follow else {
                return Poll::Ready(None);
            };
            let next = ready!(open.poll(cx));
            if next.is_err() {
                // Whatever the stream held is let go before its end is on the wire.
                follow = None;
            }
            Poll::Ready(Some(next))
        });
        Ok(grpc::streaming(first, rest))
    }

    /// The next message, or why there is none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        if let Poll::Ready(exited) = self.exited.as_mut().poll(cx) {
            return Poll::Ready(Err(match exited {
                Ok(()) => Status::unavailable("the process that opened the stream has ended"),
                Err(error) => {
                    tracing::error!(pid = self.attested.caller.pid(), %error, "a process cannot be watched");
                    Status::unavailable("workload attestation failed")
                }
            }));
        }
        loop {
            // The roster is gone only when the node is.
            let told = ready!(self.subscription.answers.poll_told(cx))
                .map_err(|_closed| shutting_down())?;
            if let Some(refusal) = told.end {
                let status = self.api.callers.refuse(&self.attested, refusal, self.rpc);
                return Poll::Ready(Err(status));
            }
            if let Some(latest) = told.latest {
                let callers = &self.api.callers;
                callers.still_the_same(&self.attested)?;
                let frame = latest.frame()?;
                callers.served(&mut self.attested, latest.ids(), &mut self.given);
                return Poll::Ready(Ok(frame));
            }
        }
    }
}
