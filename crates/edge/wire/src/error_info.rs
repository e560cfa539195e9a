//! `google.rpc.ErrorInfo`: why, in a word that programs can act on.

use std::collections::BTreeMap;

use prost::Message;
use tonic::{Code, Status};

use crate::status::RichStatus;

const TYPE: &str = "type.googleapis.com/google.rpc.ErrorInfo";
/// The domain of the SPIFFE standards' own reasons.
pub const SPIFFE_DOMAIN: &str = "spiffe.io";
/// The domain of reasons of our own.
pub const MUSTER_DOMAIN: &str = "muster";

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Eq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// A status that carries `reason` of [`SPIFFE_DOMAIN`] as its detail, in `grpc-status-details-bin`
/// (BRK-11).
pub fn status(code: Code, message: impl Into<String>, reason: &str) -> Status {
    status_of(SPIFFE_DOMAIN, code, message, reason)
}

/// A status that carries `reason` of `domain` as its detail.
pub fn status_of(domain: &str, code: Code, message: impl Into<String>, reason: &str) -> Status {
    status_with(domain, code, message, reason, &[])
}

/// The same with more about the reason, by name.
pub fn status_with(
    domain: &str,
    code: Code,
    message: impl Into<String>,
    reason: &str,
    metadata: &[(&str, &str)],
) -> Status {
    let message = message.into();
    let text = |text: &str| text.to_owned();
    let info = ErrorInfo {
        reason: reason.to_owned(),
        domain: domain.to_owned(),
        metadata: metadata
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
    };
    let rich = RichStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: TYPE.to_owned(),
            value: info.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, rich.encode_to_vec().into())
}

/// The reason of [`SPIFFE_DOMAIN`] that a status carries.
pub fn reason(status: &Status) -> Option<String> {
    reason_of(SPIFFE_DOMAIN, status)
}

/// The reason of `domain` that a status carries.
pub fn reason_of(domain: &str, status: &Status) -> Option<String> {
    info_of(domain, status).map(|info| info.reason)
}

/// What a status says more about its reason of `domain`, by name.
pub fn metadata_of(domain: &str, status: &Status) -> BTreeMap<String, String> {
    info_of(domain, status)
        .map(|info| info.metadata)
        .unwrap_or_default()
}

fn info_of(domain: &str, status: &Status) -> Option<ErrorInfo> {
    let rich = RichStatus::decode(status.details()).ok()?;
    rich.details
        .iter()
        .filter(|detail| detail.type_url == TYPE)
        .filter_map(|detail| ErrorInfo::decode(&*detail.value).ok())
        .find(|info| info.domain == domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BRK-11: field numbers are the standard's, so the bytes are known.
    #[test]
    fn the_detail_is_read_back_and_looks_as_others_expect() {
        let status = status(Code::NotFound, "gone", "WORKLOAD_NOT_FOUND");
        assert_eq!(reason(&status).as_deref(), Some("WORKLOAD_NOT_FOUND"));
        let bytes = status.details();
        let mut expected = vec![8, 5, 18, 4];
        expected.extend(b"gone");
        assert!(bytes.starts_with(&expected), "{bytes:?}");
        assert!(bytes.ends_with(b"\x0a\x12WORKLOAD_NOT_FOUND\x12\x09spiffe.io"));
        assert_eq!(reason(&Status::not_found("gone")), None);
        let more = status_with(MUSTER_DOMAIN, Code::Aborted, "no", "WHY", &[("by", "me")]);
        assert_eq!(metadata_of(MUSTER_DOMAIN, &more)["by"], "me");
        assert_eq!(metadata_of(SPIFFE_DOMAIN, &more).len(), 0);
    }
}
