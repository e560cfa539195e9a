//! Addresses of the Workload API (SPIFFE Workload Endpoint, section 4).

use std::fmt;
use std::net::SocketAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The environment variable by which a workload finds the Workload API (WEP-14).
pub const ENVIRONMENT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The longest path of a Unix socket in bytes: `sun_path` has 108, of which the last is zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// Where a Workload API listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP port on an IP address.
    Tcp(SocketAddr),
}

/// Why a text is not the address of a Workload API (WEP-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is no URI: it has no scheme, or a character that a URI may not have.
    #[error("an endpoint is a URI, such as unix:///run/muster/node/workload.sock")]
    NotUri,
    /// The scheme is neither `unix` nor `tcp`.
    #[error("an endpoint's scheme is \"unix\" or \"tcp\"")]
    Scheme,
    /// A query, a fragment or user information.
    #[error("an endpoint has no query, no fragment and no user information")]
    Extra,
    /// A `unix` URI with an authority: two slashes instead of one or three.
    #[error("a unix endpoint has no authority; write unix:///absolute/path")]
    UnixAuthority,
    /// A `unix` URI without an absolute path that names a socket.
    #[error("a unix endpoint has an absolute path; write unix:///absolute/path")]
    UnixPath,
    /// The path is longer than the kernel can take.
    #[error("the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes")]
    UnixPathTooLong,
    /// A `tcp` URI without an IP address, such as one with a host name.
    #[error("a tcp endpoint has an IP address, not a name; write tcp://127.0.0.1:PORT")]
    TcpHost,
    /// A `tcp` URI without a port from 1 to 65535.
    #[error("a tcp endpoint has a port; write tcp://127.0.0.1:PORT")]
    TcpPort,
    /// A `tcp` URI with a path, a lone slash included.
    #[error("a tcp endpoint has no path")]
    TcpPath,
}

impl Endpoint {
    /// Parses an address as WEP-15 has it: `unix` with an absolute path and no authority, or
    /// `tcp` with an IP address and a port, and nothing else.
    ///
    /// Where the standard leaves room, this is what we do: `unix:/path` is as good as
    /// `unix:///path`, since neither has an authority; the scheme is compared without regard to
    /// case, as RFC 3986 section 3.1 wants; a path's percent-encoded bytes are decoded; a
    /// trailing slash names a directory and is refused; so is port 0, where nothing can listen.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if !text.bytes().all(is_uri_byte) {
            return Err(EndpointError::NotUri);
        }
        let (scheme, rest) = text.split_once(':').ok_or(EndpointError::NotUri)?;
        if scheme.is_empty() || scheme.contains('/') {
            return Err(EndpointError::NotUri);
        }
        if rest.contains(['?', '#']) {
            return Err(EndpointError::Extra);
        }
        if scheme.eq_ignore_ascii_case("unix") {
            parse_unix(rest)
        } else if scheme.eq_ignore_ascii_case("tcp") {
            parse_tcp(rest)
        } else {
            Err(EndpointError::Scheme)
        }
    }

    /// A Unix socket, if the kernel can take the path.
    pub fn unix(path: &Path) -> Result<Self, EndpointError> {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(EndpointError::UnixPath);
        }
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(EndpointError::UnixPathTooLong);
        }
        Ok(Self::Unix(path.to_owned()))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

/// The address as [`Endpoint::parse`] reads it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => {
                f.write_str("unix://")?;
                for byte in path.as_os_str().as_encoded_bytes() {
                    if is_path_byte(*byte) {
                        write!(f, "{}", char::from(*byte))?;
                    } else {
                        write!(f, "%{byte:02X}")?;
                    }
                }
                Ok(())
            }
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

fn parse_unix(rest: &str) -> Result<Endpoint, EndpointError> {
    let path = match rest.strip_prefix("//") {
        Some(after) if after.starts_with('/') => after,
        Some("") => return Err(EndpointError::UnixPath),
        Some(authority) if authority.contains('@') => return Err(EndpointError::Extra),
        Some(_) => return Err(EndpointError::UnixAuthority),
        None => rest,
    };
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(EndpointError::UnixPath);
    }
    let bytes = percent_decode(path).ok_or(EndpointError::NotUri)?;
    // A path on this system is bytes, but one that is not UTF-8 could not be shown again.
    let path = String::from_utf8(bytes).map_err(|_| EndpointError::UnixPath)?;
    if path.contains('\0') {
        return Err(EndpointError::UnixPath);
    }
    Endpoint::unix(Path::new(&path))
}

fn parse_tcp(rest: &str) -> Result<Endpoint, EndpointError> {
    let authority = rest.strip_prefix("//").ok_or(EndpointError::TcpHost)?;
    if let Some((before, _)) = authority.split_once('/') {
        // Say first what is worse: a URI without host or port is not mended by losing its path.
        parse_tcp_authority(before)?;
        return Err(EndpointError::TcpPath);
    }
    parse_tcp_authority(authority).map(Endpoint::Tcp)
}

fn parse_tcp_authority(authority: &str) -> Result<SocketAddr, EndpointError> {
    if authority.contains('@') {
        return Err(EndpointError::Extra);
    }
    let (host, port) = if let Some(after) = authority.strip_prefix('[') {
        let (host, port) = after.split_once(']').ok_or(EndpointError::TcpHost)?;
        let host: Ipv6Addr = host.parse().map_err(|_| EndpointError::TcpHost)?;
        let port = port.strip_prefix(':').ok_or(EndpointError::TcpPort)?;
        (IpAddr::V6(host), port)
    } else {
        let (host, port) = match authority.rsplit_once(':') {
            Some(parts) => parts,
            None => (authority, ""),
        };
        let host: Ipv4Addr = host.parse().map_err(|_| EndpointError::TcpHost)?;
        (IpAddr::V4(host), port)
    };
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EndpointError::TcpPort);
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(host, port)),
        _ => Err(EndpointError::TcpPort),
    }
}

/// Decodes `%XX`; `None` if a percent sign has no two hexadecimal digits behind it.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

/// The characters that RFC 3986 lets a URI have, percent sign included.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

/// The characters that stand for themselves in a path.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WEP-15: each address of the shared vectors is accepted or refused as the standard says.
    #[test]
    fn the_socket_vectors() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../tests/vectors/spiffe-id-vectors.json"
        );
        let text = std::fs::read_to_string(file).unwrap();
        let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
        let vectors = vectors["socket_vectors"].as_array().unwrap();
        assert!(vectors.len() >= 30, "{} vectors", vectors.len());
        for vector in vectors {
            let input = vector["In"].as_str().unwrap();
            let accepted = vector["exp"] == "ACCEPT";
            let parsed = Endpoint::parse(input);
            assert_eq!(parsed.is_ok(), accepted, "{input}: {parsed:?}");
            if let Ok(endpoint) = parsed {
                assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let check = |text: &str, error| assert_eq!(Endpoint::parse(text), Err(error), "{text}");
        check("/run/workload.sock", EndpointError::NotUri);
        check("unix:///a b.sock", EndpointError::NotUri);
        check("http://127.0.0.1:80", EndpointError::Scheme);
        check("unix:///a?b=1", EndpointError::Extra);
        check("unix://john:doe@foo/path", EndpointError::Extra);
        check("unix://foo/path", EndpointError::UnixAuthority);
        check("unix:opaque", EndpointError::UnixPath);
        check("unix:/", EndpointError::UnixPath);
        check("unix:///%00", EndpointError::UnixPath);
        check("unix:///a%2", EndpointError::NotUri);
        check("tcp://foo:9000", EndpointError::TcpHost);
        check("tcp://127.0.0.1", EndpointError::TcpPort);
        check("tcp://127.0.0.1:0", EndpointError::TcpPort);
        check("tcp://127.0.0.1:65536", EndpointError::TcpPort);
        check("tcp://127.0.0.1:+80", EndpointError::TcpPort);
        check("tcp://127.0.0.1:8000/", EndpointError::TcpPath);
    }

    #[test]
    fn the_longest_path_and_one_past_it() {
        let path = |length: usize| format!("unix:///{}", "a".repeat(length - 1));
        assert!(Endpoint::parse(&path(MAX_SOCKET_PATH)).is_ok());
        assert_eq!(
            Endpoint::parse(&path(MAX_SOCKET_PATH + 1)),
            Err(EndpointError::UnixPathTooLong)
        );
    }

    #[test]
    fn a_path_is_decoded_and_shown_encoded() {
        let endpoint = Endpoint::parse("unix:///a%20b.sock").unwrap();
        assert_eq!(endpoint, Endpoint::Unix("/a b.sock".into()));
        assert_eq!(endpoint.to_string(), "unix:///a%20b.sock");
    }
}
