//! Which kind of SVID a record is about.

use crate::{Event, Record};

/// A kind of SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SvidKind {
    /// A certificate.
    X509,
    /// A bearer token.
    Jwt,
    /// A token that is bound to a key.
    Wit,
}

impl SvidKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::X509, Self::Jwt, Self::Wit];

    /// As records and messages have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The detail that names one SVID of this kind.
    pub const fn named_by(self) -> &'static str {
        match self {
            Self::X509 => "serial_number",
            Self::Jwt => "token_sha256",
            Self::Wit => "token_id",
        }
    }

    /// The kind that a record says was issued to somebody, if it is about that.
    pub fn issued(record: &Record) -> Option<Self> {
        // Whatever other events there are, now or later: they issue nothing.
        let issues = record.event == Event::SvidIssued || record.event == Event::SvidRenewed;
        issues.then(|| Self::parse(record.said("svid"))).flatten()
    }
}
