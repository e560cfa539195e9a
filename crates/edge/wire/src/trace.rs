//! The ID that the log lines and the audit records of one operation have in common, on the node and on
//! the server.
//!
//! A caller that is part of a trace says so in `traceparent` (W3C Trace Context), and its ID goes on
//! here; whoever does not gets a new one. Nothing is decided by it.

use std::fmt;

use http::{HeaderMap, HeaderValue};
use muster_crypto::random;
use tonic::Request;
use tonic::metadata::MetadataMap;

/// The header of W3C Trace Context: version, trace, parent and flags.
const HEADER: &str = "traceparent";

/// The ID of a trace: 16 bytes, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "no two of them are the same")]
    pub fn new() -> Self {
        Self(random::serial())
    }

    /// The caller's, or a new one.
    pub fn of(metadata: &MetadataMap) -> Self {
        Self::of_headers(metadata.as_ref())
    }

    /// The same of a request that may not be gRPC.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let said = headers.get(HEADER).map(HeaderValue::to_str);
        let said = said.and_then(Result::ok).and_then(Self::parse);
        said.unwrap_or_else(Self::new)
    }

    /// Of later versions only what stands where version 0 has it counts, and more may follow.
    fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let mut digits = |count: usize| {
            let part = parts.next().filter(|part| part.len() == count)?;
            // An upper-case digit is malformed.
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            part.bytes().all(hex).then_some(part)
        };
        let (version, trace, parent) = (digits(2)?, digits(32)?, digits(16)?);
        let _flags = digits(2)?;
        let number = |text: &str| u128::from_str_radix(text, 16).ok().filter(|id| *id != 0);
        let (id, _parent) = (number(trace)?, number(parent)?);
        let whole = version != "00" || parts.next().is_none();
        (version != "ff" && whole).then(|| Self(id.to_be_bytes()))
    }

    /// A request that is part of the trace. Spans are not recorded: its parent is one that nobody has
    /// seen, and the flags say so.
    pub fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let [_, _, _, _, _, _, _, _, parent @ ..] = random::serial();
        let parent = u64::from_be_bytes(parent) | 1;
        // Hexadecimal digits and dashes are always a header.
        if let Ok(value) = format!("00-{self}-{parent:016x}-00").parse() {
            request.metadata_mut().insert(HEADER, value);
        }
        request
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
        let parent = "b7ad6b7169203331";
        check(&format!("00-{id}-{parent}-01-more"), false);
        check(&format!("00-{id}-{parent}"), false);
        check(&format!("00-{id}-{parent}-1"), false);
        check(&format!("00-{id}-{}-01", "0".repeat(16)), false);
        check(&format!("00-{id}-{}-01", "x".repeat(16)), false);
        check(&format!("0x-{id}-{parent}-01"), false);
        check(&format!("00-{id}"), false);
        check("", false);
        assert_ne!(TraceId::new(), TraceId::new());
    }

    #[test]
    fn what_is_asked_for_in_a_trace_is_part_of_it() {
        let trace = TraceId::new();
        assert_eq!(TraceId::of(trace.request(()).metadata()), trace);
        assert_ne!(TraceId::of(&MetadataMap::new()), trace);
    }
}
