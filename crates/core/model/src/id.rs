//! SPIFFE IDs and trust domain names (SPIFFE-ID standard, sections 2.1 to 2.4).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE ID in bytes (SPIFFE-ID 2.3; ID-14, ID-15).
const MAX_ID_LEN: usize = 2048;
/// The longest trust domain name in bytes (SPIFFE-ID 2.3; ID-16).
const MAX_TRUST_DOMAIN_LEN: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or a trust domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not begin with `spiffe://` in lower case (ID-01, ID-06).
    #[error("must begin with \"spiffe://\" in lower case")]
    Scheme,
    /// The trust domain is empty (ID-02).
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A character that a trust domain may not have (ID-03 to ID-07).
    #[error("a trust domain has only a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter,
    /// The trust domain is longer than 255 bytes (ID-16).
    #[error("a trust domain has at most 255 bytes")]
    TrustDomainTooLong,
    /// The path has an empty segment or ends with a slash (ID-10).
    #[error("a path has no empty segment and no trailing slash")]
    EmptySegment,
    /// A path segment is `.` or `..` (ID-11).
    #[error("a path segment is neither \".\" nor \"..\"")]
    DotSegment,
    /// A character that a path may not have (ID-07, ID-09, ID-12).
    #[error("a path segment has only letters, digits, '.', '-' and '_'")]
    PathCharacter,
    /// The path does not begin with a slash.
    #[error("a path begins with '/'")]
    PathStart,
    /// The whole ID is longer than 2048 bytes (ID-15).
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
}

/// The name of a trust domain, such as `example.org`: lower case, no scheme.
///
/// It is compared byte for byte and never looked up: a name that looks like an IP address or a
/// DNS name is nothing but a name (ID-08).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// Parses a bare name, or takes the trust domain out of a valid SPIFFE ID.
    ///
    /// People write both; where a name is stored or compared, use [`TrustDomain::parse`].
    pub fn from_name_or_id(text: &str) -> Result<Self, IdError> {
        if text.contains(':') {
            SpiffeId::parse(text).map(|id| id.trust_domain)
        } else {
            Self::parse(text)
        }
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://NAME`, without a slash: the key of bundle maps and the CA's own ID (ID-18, ID-19).
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}", self.0).into(),
            trust_domain: self.clone(),
        }
    }

    /// The ID with `path` (which begins with a slash, or is empty) in this trust domain.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, IdError> {
        check_path(path)?;
        if SCHEME.len() + self.0.len() + path.len() > MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        Ok(SpiffeId {
            text: format!("{SCHEME}{}{path}", self.0).into(),
            trust_domain: self.clone(),
        })
    }

    /// `spiffe://NAME/spire/server`: the exact ID by which nodes know their server.
    pub fn server_id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}/spire/server", self.0).into(),
            trust_domain: self.clone(),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

/// A SPIFFE ID: `spiffe://TRUST-DOMAIN/PATH`, or the trust domain's own ID without a path.
///
/// A value of this type is valid; parsing never normalises, it only refuses (ID-11, ID-13).
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the whole text, with or without a path.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (name, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let trust_domain = TrustDomain::parse(name)?;
        check_path(path)?;
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }

    /// The whole ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or the empty text for a trust domain's own ID.
    pub fn path(&self) -> &str {
        self.text
            .get(SCHEME.len() + self.trust_domain.0.len()..)
            .unwrap_or_default()
    }

    /// Whether the path is reserved for Muster and SPIRE themselves: `/spire` and below.
    pub fn is_reserved(&self) -> bool {
        let path = self.path();
        path == "/spire" || path.starts_with("/spire/")
    }

    /// Whether the path is that of a node: below `/spire/agent/`.
    pub fn is_node(&self) -> bool {
        self.path().starts_with("/spire/agent/")
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for SpiffeId {}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::EmptyTrustDomain);
    }
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if !name.bytes().all(allowed) {
        return Err(IdError::TrustDomainCharacter);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(IdError::TrustDomainTooLong);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(IdError::PathStart)?;
    for segment in segments.split('/') {
        match segment {
            "" => return Err(IdError::EmptySegment),
            "." | ".." => return Err(IdError::DotSegment),
            _ => {}
        }
        if !segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        {
            return Err(IdError::PathCharacter);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::parse("spiffe://example.org/a/b").unwrap();
        assert_eq!(
            (id.trust_domain().as_str(), id.path()),
            ("example.org", "/a/b")
        );
        assert_eq!(id.trust_domain().id().as_str(), "spiffe://example.org");
        assert_eq!(id.trust_domain().id().path(), "");
        assert_eq!(id.trust_domain().with_path("/a/b"), Ok(id));
    }

    #[test]
    fn lengths_at_the_limit_and_one_past_it() {
        let name = "a".repeat(255);
        assert!(TrustDomain::parse(&name).is_ok());
        assert_eq!(
            TrustDomain::parse(&format!("{name}a")),
            Err(IdError::TrustDomainTooLong)
        );
        let fill = "b".repeat(2048 - "spiffe://td/".len());
        assert!(SpiffeId::parse(&format!("spiffe://td/{fill}")).is_ok());
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://td/{fill}b")),
            Err(IdError::TooLong)
        );
        let td = TrustDomain::parse("td").unwrap();
        assert_eq!(td.with_path(&format!("/{fill}b")), Err(IdError::TooLong));
    }

    /// ID-04 and ID-12: all 256 byte values, in both positions.
    #[test]
    fn every_byte_value_in_name_and_path() {
        for byte in 0..=u8::MAX {
            let Ok(text) = String::from_utf8(vec![b'x', byte]) else {
                continue;
            };
            let lower =
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
            assert_eq!(
                TrustDomain::parse(&text).is_ok(),
                lower,
                "trust domain with byte {byte:#x}"
            );
            let segment = byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let id = SpiffeId::parse(&format!("spiffe://td/{text}"));
            assert_eq!(id.is_ok(), segment, "path with byte {byte:#x}");
        }
    }

    #[test]
    fn reserved_paths() {
        let id = |p: &str| SpiffeId::parse(&format!("spiffe://td{p}")).unwrap();
        assert!(id("/spire").is_reserved() && id("/spire/server").is_reserved());
        assert!(!id("/spirea").is_reserved() && !id("/a/spire").is_reserved());
        assert!(id("/spire/agent/x").is_node() && !id("/spire/server").is_node());
    }

    proptest::proptest! {
        /// ID-13: what was parsed is kept byte for byte, and parsing what is printed changes nothing.
        #[test]
        fn a_parsed_id_prints_as_it_was_written(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,8}){0,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                proptest::prop_assert_eq!(id.as_str(), text.as_str());
                proptest::prop_assert_eq!(SpiffeId::parse(id.as_str()), Ok(id));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,64}") {
            drop(SpiffeId::parse(&text));
            drop(SpiffeId::parse(&format!("spiffe://{text}")));
        }
    }
}
