//! Calls of what this server does not know, such as SPIRE's federation service.

use std::convert::Infallible;

use http::Request;
use muster_model::Shown;
use tonic::Status;
use tonic::service::Routes;

/// SPIRE's service for federation between servers, which its command line calls.
const FEDERATION: &str = "/spire.api.server.trustdomain.v1.TrustDomain/";

/// The services, and a word for whoever calls another: tonic's own answer has none.
pub(crate) fn told_apart(services: Routes) -> Routes {
    let told = tower::service_fn(async |request: Request<_>| {
        let status = not_known(request.uri().path());
        Ok::<_, Infallible>(status.into_http::<tonic::body::Body>())
    });
    Routes::from(services.into_axum_router().fallback_service(told))
}

fn not_known(path: &str) -> Status {
    let remedy = if path.starts_with(FEDERATION) {
        "federation between servers is not built, set the bundles of other trust domains instead"
    } else {
        "look for it in docs/api.md, and whether the server is as new as the caller"
    };
    let path = Shown::of(path);
    Status::unimplemented(format!("this server has no method \"{path}\": {remedy}"))
}
