//! From fields to a request (RFC 9113, 8.2 and 8.3).

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::HEADER_LIST_MAX;
use crate::hpack::FIELD_OVERHEAD;

/// The fields of one header block, as they come.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    method: Option<Method>,
    scheme: bool,
    authority: bool,
    path: Option<PathAndQuery>,
    headers: HeaderMap,
    /// As RFC 9113, 6.5.2 counts.
    size: usize,
    is_malformed: bool,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is malformed: a stream error (8.1.1).
    Malformed,
    /// Its fields are more than is taken.
    TooLarge,
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// What the client says that the body has, in bytes.
    pub(crate) length: Option<u64>,
}

impl Fields {
    /// The next field.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + FIELD_OVERHEAD;
        // Nothing is kept of a request that is not answered.
        if self.is_malformed || self.size > HEADER_LIST_MAX {
            return;
        }
        if self.take(name, value).is_none() {
            self.is_malformed = true;
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if let Some(pseudo) = name.strip_prefix(b":") {
            return self.take_pseudo(pseudo, value);
        }
        // Refuses upper case.
        let name = HeaderName::from_lowercase(name).ok()?;
        if is_of_a_connection(&name) || (name == TE && value != b"trailers") {
            return None;
        }
        let value = HeaderValue::from_bytes(value).ok()?;
        self.headers.try_append(name, value).ok()?;
        Some(())
    }

    /// Pseudo-header fields come once each, and before all others.
    fn take_pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let first = match name {
            b"method" => {
                let method = Method::from_bytes(value).ok()?;
                self.method.replace(method).is_none()
            }
            b"scheme" => !std::mem::replace(&mut self.scheme, !value.is_empty()),
            // Whatever it says: see the head of the crate.
            b"authority" => !std::mem::replace(&mut self.authority, true),
            b"path" => {
                // A fragment is never sent, and would be cut off in silence.
                let is_path = (value.starts_with(b"/") && !value.contains(&b'#')) || value == b"*";
                let path = is_path.then(|| PathAndQuery::try_from(value).ok())??;
                self.path.replace(path).is_none()
            }
            _ => return None,
        };
        (first && self.headers.is_empty()).then_some(())
    }

    /// All have come: a request's.
    pub(crate) fn request(self) -> Result<Head, Wrong> {
        self.check_size()?;
        let (Some(method), true, Some(path)) = (self.method, self.scheme, self.path) else {
            return Err(Wrong::Malformed);
        };
        if method == Method::CONNECT {
            return Err(Wrong::Malformed);
        }
        let length = length(&self.headers)?;
        Ok(Head {
            method,
            uri: Uri::from(path),
            headers: self.headers,
            length,
        })
    }

    /// All have come: those behind a body.
    pub(crate) fn trailers(self) -> Result<HeaderMap, Wrong> {
        self.check_size()?;
        let is_plain =
            self.method.is_none() && self.path.is_none() && !self.scheme && !self.authority;
        if is_plain {
            Ok(self.headers)
        } else {
            Err(Wrong::Malformed)
        }
    }

    fn check_size(&self) -> Result<(), Wrong> {
        if self.is_malformed {
            Err(Wrong::Malformed)
        } else if self.size > HEADER_LIST_MAX {
            Err(Wrong::TooLarge)
        } else {
            Ok(())
        }
    }
}

/// RFC 9113, 8.2.2.
fn is_of_a_connection(name: &HeaderName) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name)
        || ["keep-alive", "proxy-connection"].contains(&name.as_str())
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Wrong> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let number = value.to_str().ok().filter(|_| is_number);
    let number = number.and_then(|text| text.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Wrong::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a")];

    fn fields(all: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in all {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn any_authority_will_do() {
        for authority in ["", "localhost", "/run/a.sock", "%2Frun", "a b", "\u{e9}"] {
            let mut all = REQUEST.to_vec();
            all.push((":authority", authority));
            all.push(("te", "trailers"));
            let head = fields(&all).request().unwrap();
            assert_eq!((head.uri.path(), head.uri.authority()), ("/a", None));
            assert_eq!(head.headers.len(), 1);
        }
    }

    #[test]
    fn malformed_requests() {
        let check = |more: &[(&str, &str)]| {
            let all = [&REQUEST[..], more].concat();
            let wrong = fields(&all).request().unwrap_err();
            assert_eq!(wrong, Wrong::Malformed, "{more:?}");
        };
        check(&[(":path", "/b")]);
        check(&[(":method", "GET")]);
        check(&[(":scheme", "http")]);
        check(&[(":authority", "a"), (":authority", "a")]);
        check(&[(":status", "200")]);
        check(&[(":other", "")]);
        check(&[("a", ""), (":authority", "a")]);
        check(&[("Upper", "")]);
        check(&[("", "")]);
        check(&[("a b", "")]);
        check(&[("a", "b\nc")]);
        check(&[("a", "b\0c")]);
        check(&[("connection", "close")]);
        check(&[("keep-alive", "1")]);
        check(&[("proxy-connection", "1")]);
        check(&[("transfer-encoding", "chunked")]);
        check(&[("upgrade", "x")]);
        check(&[("te", "gzip")]);
        check(&[("te", "trailers, deflate")]);
        check(&[("content-length", "x")]);
        check(&[("content-length", "+1")]);
        check(&[("content-length", "")]);
        check(&[("content-length", "1"), ("content-length", "1")]);
        for (at, _) in REQUEST.iter().enumerate() {
            let mut all = REQUEST.to_vec();
            all.remove(at);
            assert_eq!(fields(&all).request().unwrap_err(), Wrong::Malformed);
        }
        for path in ["", "a", "http://a/b", "/a b", "/a#b", "/a\u{7f}"] {
            let all = [(":method", "GET"), (":scheme", "http"), (":path", path)];
            let wrong = fields(&all).request().unwrap_err();
            assert_eq!(wrong, Wrong::Malformed, "{path:?}");
        }
        let all = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(fields(&all).request().unwrap_err(), Wrong::Malformed);
    }

    #[test]
    fn too_many_fields_are_not_kept() {
        let mut all = fields(&REQUEST);
        for _ in 0..1000 {
            all.add(b"name", &[b'x'; 100]);
        }
        assert!(all.headers.len() < 200);
        assert_eq!(all.request().unwrap_err(), Wrong::TooLarge);
    }

    #[test]
    fn trailers_have_no_pseudo_fields() {
        assert_eq!(fields(&[("a", "b")]).trailers().unwrap().len(), 1);
        for field in [REQUEST[0], REQUEST[1], REQUEST[2], (":authority", "")] {
            assert_eq!(fields(&[field]).trailers(), Err(Wrong::Malformed));
        }
    }
}
