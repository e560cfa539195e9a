//! The ID that the log lines and the audit records of one operation have in common.
//!
//! A caller that is part of a trace says so in `traceparent` (W3C Trace Context), and its ID goes on
//! here; whoever does not gets a new one. Nothing is decided by it.

use std::fmt;

use muster_crypto::random;
use tonic::metadata::MetadataMap;

/// The header of W3C Trace Context: version, trace, parent and flags.
const HEADER: &str = "traceparent";

/// The ID of a trace: 16 bytes, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId([u8; 16]);

impl TraceId {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(random::serial())
    }

    /// The caller's, or a new one.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let said = metadata.get(HEADER).and_then(|value| value.to_str().ok());
        said.and_then(Self::parse).unwrap_or_else(Self::new)
    }

    /// Of later versions only what stands where version 0 has it counts.
    fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || trace.len() != 32 || parent.len() != 16 {
            return None;
        }
        // An upper-case digit is malformed.
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !trace.bytes().all(hex) {
            return None;
        }
        let id = u128::from_str_radix(trace, 16).ok()?;
        (id != 0).then(|| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_and_a_malformed_one_does_not() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let check = |header: &str, expected: bool| {
            let read = TraceId::parse(header).map(|read| read.to_string());
            assert_eq!(read.as_deref(), expected.then_some(id), "{header}");
        };
        check(&format!("00-{id}-b7ad6b7169203331-01"), true);
        check(&format!("cc-{id}-b7ad6b7169203331-01-more"), true);
        check(&format!("ff-{id}-b7ad6b7169203331-01"), false);
        check(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false);
        check(
            &format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            false,
        );
        check(&format!("00-{id}"), false);
        check("", false);
        assert_ne!(TraceId::new(), TraceId::new());
    }
}
