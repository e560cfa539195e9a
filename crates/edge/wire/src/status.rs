//! From our refusals to gRPC statuses, and back where a node acts on them.

use std::time::Duration;

use muster_policy::{Denial, NodeRefusal};
use muster_proto::spire::api::types;
use muster_proto::spire::api::types::permission_denied_details::Reason;
use prost::Message;
use tonic::{Code, Status};

/// `google.rpc.Status`, the envelope of status details in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RichStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`: when the caller may ask again.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

const RETRY_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";
/// No server may keep a node away for longer than this by one answer.
const RETRY_MAX: Duration = Duration::from_mins(5);
const DETAILS_TYPE: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// The code's name, as gRPC writes it.
pub const fn word_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The status of one item of a batch.
pub fn item(code: Code, message: impl Into<String>) -> types::Status {
    types::Status {
        code: code.into(),
        message: message.into(),
    }
}

/// The status of an item that went well.
pub fn ok() -> types::Status {
    item(Code::Ok, "OK")
}

/// A denial as gRPC says it: PERMISSION_DENIED, with the reason that nodes switch on.
pub fn denied(denial: &Denial) -> Status {
    match denial.node {
        None => Status::permission_denied(denial.to_string()),
        Some(refusal) => node_refused(denial.to_string(), refusal),
    }
}

/// PERMISSION_DENIED with `refusal` as its detail.
pub fn node_refused(message: String, refusal: NodeRefusal) -> Status {
    let reason = match refusal {
        NodeRefusal::Expired => Reason::AgentExpired,
        NodeRefusal::NotAttested => Reason::AgentNotAttested,
        NodeRefusal::NotActive => Reason::AgentNotActive,
        NodeRefusal::Banned => Reason::AgentBanned,
        NodeRefusal::MustReattest => Reason::AgentMustReattest,
    };
    let details = types::PermissionDeniedDetails {
        reason: reason.into(),
    };
    let rich = RichStatus {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: DETAILS_TYPE.into(),
            value: details.encode_to_vec(),
        }],
    };
    Status::with_details(Code::PermissionDenied, message, rich.encode_to_vec().into())
}

/// RESOURCE_EXHAUSTED, with the time after which the caller is to ask again as its detail.
///
/// A client that does not know the detail backs off as it does after any failure.
pub fn later(message: impl Into<String>, wait: Duration) -> Status {
    let message = message.into();
    let delay = RetryInfo {
        retry_delay: prost_types::Duration::try_from(wait).ok(),
    };
    let rich = RichStatus {
        code: Code::ResourceExhausted.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: RETRY_TYPE.into(),
            value: delay.encode_to_vec(),
        }],
    };
    Status::with_details(
        Code::ResourceExhausted,
        message,
        rich.encode_to_vec().into(),
    )
}

/// After how long a server that refuses for now wants to be asked again, five minutes at the most;
/// `None` if the status does not say.
pub fn retry_after(status: &Status) -> Option<Duration> {
    if !matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
        return None;
    }
    let rich = RichStatus::decode(status.details()).ok()?;
    let detail = rich
        .details
        .iter()
        .find(|d| d.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(detail.value.as_slice())
        .ok()?
        .retry_delay?;
    Some(Duration::try_from(delay).ok()?.min(RETRY_MAX))
}

/// The reason in a PERMISSION_DENIED status of a server, if it gives one.
pub fn node_refusal(status: &Status) -> Option<NodeRefusal> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let rich = RichStatus::decode(status.details()).ok()?;
    let details = rich.details.iter().find(|d| {
        d.type_url
            .ends_with("/spire.api.types.PermissionDeniedDetails")
    })?;
    match types::PermissionDeniedDetails::decode(details.value.as_slice())
        .ok()?
        .reason()
    {
        Reason::Unknown => None,
        Reason::AgentExpired => Some(NodeRefusal::Expired),
        Reason::AgentNotAttested => Some(NodeRefusal::NotAttested),
        Reason::AgentNotActive => Some(NodeRefusal::NotActive),
        Reason::AgentBanned => Some(NodeRefusal::Banned),
        Reason::AgentMustReattest => Some(NodeRefusal::MustReattest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_wire() {
        for refusal in [
            NodeRefusal::Expired,
            NodeRefusal::NotAttested,
            NodeRefusal::NotActive,
            NodeRefusal::Banned,
            NodeRefusal::MustReattest,
        ] {
            let status = denied(&Denial {
                method: "/x/y",
                node: Some(refusal),
            });
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(status.message(), "authorization denied for method /x/y");
            assert_eq!(node_refusal(&status), Some(refusal));
        }
    }

    #[test]
    fn a_caller_is_told_when_to_come_again() {
        let check = |wait, told| {
            let status = later("full", wait);
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(retry_after(&status), Some(told));
        };
        check(Duration::from_millis(1500), Duration::from_millis(1500));
        check(Duration::from_hours(9), RETRY_MAX);
        assert_eq!(retry_after(&Status::resource_exhausted("full")), None);
        assert_eq!(node_refusal(&later("full", Duration::ZERO)), None);
    }

    #[test]
    fn a_status_without_detail_gives_no_reason() {
        assert_eq!(
            node_refusal(&denied(&Denial {
                method: "/x/y",
                node: None
            })),
            None
        );
        let garbage = Status::with_details(Code::PermissionDenied, "", vec![0xff, 0xff].into());
        assert_eq!(node_refusal(&garbage), None);
    }
}
