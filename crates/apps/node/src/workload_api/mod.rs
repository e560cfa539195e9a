//! The SPIFFE Workload API.
//!
//! [`WorkloadApi`] checks the security header, attests the caller and hands over to one function
//! per RPC; `grpc` writes the answers.

pub(crate) mod answers;
pub(crate) mod caller;
pub(crate) mod grpc;
pub(crate) mod jwt;
mod patience;
mod streams;
mod wit;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, HeaderMap, Request, Response};
use muster_model::TrustDomain;
use muster_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509svidRequest,
};
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use self::caller::{CallerAttestor, Place};
pub(crate) use self::caller::{TOO_MANY_CALLS, describe_target};
use self::patience::Patience;
use crate::config::WitConfig;
use crate::driver::Driver;

/// The service's name on the wire: the standard's file has no package.
pub(crate) const NAME: &str = "SpiffeWorkloadAPI";
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The service. Clones share everything.
#[derive(Clone)]
pub(crate) struct WorkloadApi(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    driver: Driver,
    callers: CallerAttestor,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    /// Whether the WIT profile is served.
    wit: bool,
}

impl NamedService for WorkloadApi {
    const NAME: &'static str = NAME;
}

impl WorkloadApi {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        driver: Driver,
        callers: CallerAttestor,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
        wit: WitConfig,
    ) -> Self {
        Self(Arc::new(Inner {
            trust_domain,
            driver,
            callers,
            clock,
            shutdown,
            wit: wit.enabled,
        }))
    }
}

impl Service<Request<Body>> for WorkloadApi {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            // What is known before the first message goes out without a message (WAPI-16).
            Ok(api.answer(request).await.unwrap_or_else(Status::into_http))
        })
    }
}

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Status> {
        // Before anything is done for the caller, attestation included (WEP-04).
        check_security_header(request.headers())?;
        let place = self.callers.place(request.extensions())?;
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut caller = request.extensions().clone();
        if let Some(patience) = Patience::of(request.headers()) {
            caller.insert(patience);
        }
        match method.as_str() {
            "FetchX509SVID" => {
                grpc::read::<X509svidRequest>(request).await?;
                self.fetch_x509_svid(&caller, place).await
            }
            "FetchX509Bundles" => {
                grpc::read::<X509BundlesRequest>(request).await?;
                self.fetch_x509_bundles(&caller, place).await
            }
            "FetchJWTBundles" => {
                grpc::read::<JwtBundlesRequest>(request).await?;
                self.fetch_jwt_bundles(&caller, place).await
            }
            "FetchJWTSVID" => {
                let message = grpc::read::<JwtsvidRequest>(request).await?;
                self.until_shutdown(self.fetch_jwt_svid(&caller, &place, message))
                    .await
            }
            "ValidateJWTSVID" => {
                let message = grpc::read::<ValidateJwtsvidRequest>(request).await?;
                self.until_shutdown(self.validate_jwt_svid(&caller, &place, message))
                    .await
            }
            // WIT-01: a profile that is off says so, and only after the header was checked.
            "FetchWITSVID" => {
                let message = grpc::read::<WitsvidRequest>(request).await?;
                self.check_wit_profile()?;
                self.fetch_wit_svid(&caller, message, place).await
            }
            "FetchWITBundles" => {
                grpc::read::<WitBundlesRequest>(request).await?;
                self.check_wit_profile()?;
                self.fetch_wit_bundles(&caller, place).await
            }
            // WEP-12, WAPI-02.
            _ => Err(Status::unimplemented(format!(
                "{NAME} has no method {method:?}"
            ))),
        }
    }

    /// The way to the roster for a call of this caller.
    fn driver_for(&self, caller: &CallerFacts) -> Driver {
        let patience = caller.get::<Patience>().map(|patience| patience.0);
        self.driver.patient(patience)
    }

    /// A call that is still being answered when the node shuts down is told so.
    async fn until_shutdown(
        &self,
        work: impl Future<Output = Result<Response<Body>, Status>>,
    ) -> Result<Response<Body>, Status> {
        tokio::select! {
            answer = work => answer,
            _reason = self.shutdown.begun() => Err(shutting_down()),
        }
    }
}

/// What every call is told that is open when the node shuts down (WAPI-14).
pub(crate) fn shutting_down() -> Status {
    Status::unavailable("the node is shutting down; connect again")
}

/// Exactly one value, and exactly `true` (WEP-04, WEP-05).
pub(crate) fn check_security_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

/// What a request brings along besides its message.
type CallerFacts = Extensions;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// WEP-04, WEP-05.
    #[test]
    fn the_security_header_is_true_and_there_once() {
        let check = |values: &[&'static str], accepted: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(SECURITY_HEADER, HeaderValue::from_static(value));
            }
            let result = check_security_header(&headers);
            assert_eq!(result.is_ok(), accepted, "{values:?}");
            if let Err(status) = result {
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
                assert_eq!(status.message(), "security header missing from request");
            }
        };
        check(&["true"], true);
        for bad in [
            "",
            "True",
            "TRUE",
            "1",
            "true ",
            " true",
            "true,true",
            "false",
        ] {
            check(&[bad], false);
        }
        check(&[], false);
        check(&["true", "true"], false);
        check(&["false", "true"], false);
    }
}
