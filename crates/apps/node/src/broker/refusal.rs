//! Every status that a broker can get, in one place (BRK-09 to -11, BEP-05 to -08).
//!
//! The details carry `google.rpc.ErrorInfo` where the standard has a reason for it. What a broker
//! is told about a workload is no more than that.

use muster_model::SpiffeId;
use muster_roster::Refusal;
use muster_wire::error_info;
use tonic::{Code, Status};

use super::Asking;
use super::listen::Transport;
use super::reference::ReferenceFault;
use crate::target::TargetRefusal;
use crate::workload_api::caller::status_of;

const INVALID: &str = "WORKLOAD_REFERENCE_INVALID";
const NOT_FOUND: &str = "WORKLOAD_NOT_FOUND";
const NOT_ENTITLED: &str = "WORKLOAD_NOT_ENTITLED";

/// What this broker is not allowed, although it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Forbidden {
    #[error(
        "the broker may not name workloads in this way; see reference_types of its entry in [[broker.allowed]]"
    )]
    ReferenceType,
    #[error(
        "a pid that comes over TCP may be another machine's; use the Unix socket, or set allow_pid_over_tcp where only this machine reaches the port"
    )]
    PidOverTcp,
    #[error(
        "the broker may not have tokens for this audience; see audiences of its entry in [[broker.allowed]]"
    )]
    Audience,
    #[error(
        "the broker may not have this identity; see spiffe_ids of its entry in [[broker.allowed]]"
    )]
    Identity,
}

fn count(word: &'static str) {
    metrics::counter!("muster_node_broker_refused_total", "reason" => word).increment(1);
}

pub(super) fn no_header() -> Status {
    count("header");
    Status::invalid_argument("security header missing from request")
}

pub(super) fn unauthenticated(why: &str) -> Status {
    count("unauthenticated");
    Status::unauthenticated(why)
}

pub(super) fn expired() -> Status {
    unauthenticated("the broker's X509-SVID has expired; connect again with a fresh one")
}

pub(super) fn not_a_broker(id: &SpiffeId, transport: Transport) -> Status {
    count("not_allowed");
    tracing::warn!(spiffe_id = %id, socket = transport.word(), "refused: not an allowed broker");
    Status::permission_denied(format!("{id} is not an allowed broker"))
}

pub(super) fn reference(fault: &ReferenceFault) -> Status {
    count("reference");
    error_info::status(Code::InvalidArgument, fault.to_string(), INVALID)
}

pub(super) fn forbidden(asking: &Asking, forbidden: Forbidden) -> Status {
    count("policy");
    tracing::warn!(spiffe_id = %asking.id, socket = asking.transport.word(), reason = %forbidden, "a broker was refused");
    Status::permission_denied(forbidden.to_string())
}

/// The workload is not there, or not any more (BRK-09, BRK-30).
pub(super) fn gone() -> Status {
    count("not_found");
    error_info::status(
        Code::NotFound,
        "the referenced workload does not run",
        NOT_FOUND,
    )
}

pub(super) fn target(asking: &Asking, refusal: &TargetRefusal) -> Status {
    match refusal {
        TargetRefusal::NotRunning { .. } => gone(),
        TargetRefusal::NotVisible { .. } | TargetRefusal::Failed(_) => {
            count("attestation");
            tracing::warn!(spiffe_id = %asking.id, reason = %refusal, "a broker's workload was not attested");
            Status::unavailable("workload attestation failed")
        }
    }
}

/// The workload is another program than the one that was attested.
pub(super) fn changed() -> Status {
    count("changed");
    Status::unavailable("the workload executed another program; subscribe again")
}

/// What the roster refused: no entitlement is final (BRK-10, BRK-31), all else passes (BEP-06).
pub(super) fn roster(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NoIdentity | Refusal::EntitlementLost | Refusal::IdentityNotGranted => {
            count("not_entitled");
            error_info::status(
                Code::PermissionDenied,
                "no identity issued: the referenced workload is not entitled to what was asked for",
                NOT_ENTITLED,
            )
        }
        Refusal::OutOfStep
        | Refusal::NotSignedYet
        | Refusal::SigningFailed(_)
        | Refusal::BoundReached
        | Refusal::Overloaded => {
            count(refusal.word());
            status_of(refusal)
        }
    }
}
