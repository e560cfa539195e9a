//! SPIFFE IDs on SPIRE's API: trust domain and path apart.

use muster_model::{IdError, SpiffeId, TrustDomain};
use muster_proto::spire::api::types;

/// Why a message is not the SPIFFE ID that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireIdError {
    /// The message is absent.
    #[error("request must specify SPIFFE ID")]
    Missing,
    /// The parts do not make a SPIFFE ID.
    #[error("\"spiffe://{trust_domain}{path}\" is malformed: {why}")]
    Malformed {
        /// The trust domain as received.
        trust_domain: String,
        /// The path as received.
        path: String,
        /// What is wrong.
        why: IdError,
    },
    /// The ID is well-formed and not in the server's trust domain.
    #[error("\"{id}\" is not a member of trust domain \"{expected}\"")]
    NotMember {
        /// The ID as received.
        id: SpiffeId,
        /// The server's trust domain.
        expected: TrustDomain,
    },
    /// The ID names the trust domain itself.
    #[error("\"{0}\" is not a member: path is empty")]
    NoPath(SpiffeId),
}

/// Reads an ID, in any trust domain, with or without a path.
pub fn any(message: Option<&types::Spiffeid>) -> Result<SpiffeId, WireIdError> {
    let message = message.ok_or(WireIdError::Missing)?;
    let malformed = |why| WireIdError::Malformed {
        trust_domain: message.trust_domain.clone(),
        path: message.path.clone(),
        why,
    };
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain).map_err(malformed)?;
    trust_domain.with_path(&message.path).map_err(malformed)
}

/// Reads an ID that has a path and lies in `expected`.
pub fn member(
    message: Option<&types::Spiffeid>,
    expected: &TrustDomain,
) -> Result<SpiffeId, WireIdError> {
    let id = any(message)?;
    if id.trust_domain() != expected {
        return Err(WireIdError::NotMember {
            id,
            expected: expected.clone(),
        });
    }
    if id.path().is_empty() {
        return Err(WireIdError::NoPath(id));
    }
    Ok(id)
}

/// Writes an ID.
pub fn write(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain().as_str().to_owned(),
        path: id.path().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(trust_domain: &str, path: &str) -> types::Spiffeid {
        types::Spiffeid {
            trust_domain: trust_domain.into(),
            path: path.into(),
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let td = TrustDomain::parse("example.org").unwrap();
        let read = |m: &types::Spiffeid| member(Some(m), &td);
        assert_eq!(
            read(&message("example.org", "/a")).unwrap().as_str(),
            "spiffe://example.org/a"
        );
        assert_eq!(member(None, &td), Err(WireIdError::Missing));
        assert!(matches!(
            read(&message("example.org", "")),
            Err(WireIdError::NoPath(_))
        ));
        assert!(matches!(
            read(&message("other.org", "/a")),
            Err(WireIdError::NotMember { .. })
        ));
        let why = |m: &types::Spiffeid| match read(m) {
            Err(WireIdError::Malformed { why, .. }) => why,
            other => panic!("expected a malformed ID, got {other:?}"),
        };
        assert_eq!(why(&message("", "/a")), IdError::EmptyTrustDomain);
        assert_eq!(why(&message("example.org", "a")), IdError::PathStart);
        assert_eq!(why(&message("example.org", "/a/")), IdError::EmptySegment);
    }

    #[test]
    fn written_and_read_again() {
        let id = SpiffeId::parse("spiffe://example.org/a/b").unwrap();
        assert_eq!(any(Some(&write(&id))), Ok(id));
    }
}
