//! What is wrong with a value, and where.

/// Why a text is not what it should be; the words tell what would be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// It is missing.
    #[error("it is missing; give one")]
    Missing,
    /// Not the name of a class.
    #[error(
        "a class name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit, \
         such as \"invoice-reader\""
    )]
    ClassName,
    /// Not the name of a rule.
    #[error(
        "a rule name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit, \
         such as \"readers\""
    )]
    RuleName,
    /// Not the name of a person.
    #[error(
        "a person is \"mailto:\" with an address in lower case, such as \
         \"mailto:ana@example.org\", or the issuer and subject of an identity provider, such as \
         \"https://idp.example.org#00u1ab\""
    )]
    Person,
    /// Not a purpose of the vocabulary.
    #[error("a purpose is one of: {}", super::Purpose::WORDS)]
    Purpose,
    /// Not a tier or class.
    #[error("it is a whole number from 0 to 4")]
    Level,
    /// Not a scope (RFC 6749, section 3.3).
    #[error(
        "a scope has 1 to 128 visible ASCII characters without space, quote and backslash, such as \
         \"mail.read\""
    )]
    Scope,
    /// Not a resource (RFC 8707, section 2).
    #[error(
        "a resource is an absolute URI of at most 512 visible ASCII characters without a fragment, \
         such as \"https://api.example.org/\""
    )]
    Resource,
    /// Not a word.
    #[error(
        "it has 1 to 128 of letters, digits, '.', '_', ':', '/', '@' and '-', such as \"gpt-5\""
    )]
    Word,
    /// Not a line.
    #[error("it has 1 to {most} characters on one line; shorten it")]
    Line {
        /// How many characters are allowed.
        most: usize,
    },
    /// Not a longer text.
    #[error("it has at most {most} characters, and no control characters; shorten it")]
    Prose {
        /// How many characters are allowed.
        most: usize,
    },
    /// Not the SHA-256 of something.
    #[error("a SHA-256 has 64 lower-case hexadecimal digits")]
    Sha256,
    /// Two fields that exclude each other.
    #[error("it is given twice, as an instant and as a time from now; give one of both")]
    Contradiction,
    /// Not the ID of a boot.
    #[error("a boot is a UUID in lower case, as /proc/sys/kernel/random/boot_id has it")]
    BootId,
    /// Not the key of a sighting.
    #[error("the key of a sighting has 32 lower-case hexadecimal digits")]
    SightingKey,
    /// Not the ID of a task.
    #[error("a task ID is a ULID: 26 of 0-9 and A-Z without I, L, O and U, the first at most 7")]
    TaskId,
    /// Not one of the words that a field knows.
    #[error("it is one of: {words}")]
    Choice {
        /// The words.
        words: &'static str,
    },
    /// More values than a list may have.
    #[error("it has more than {most} values; name fewer")]
    TooMany {
        /// How many values are allowed.
        most: usize,
    },
    /// Not a selector.
    #[error("a selector is \"TYPE:VALUE\", such as \"unix:path:/usr/bin/agent\"")]
    Selector,
    /// Not a SPIFFE ID.
    #[error("a SPIFFE ID {0}")]
    SpiffeId(crate::IdError),
    /// Not the name of a trust domain.
    #[error("{0}; write its name, such as \"example.org\"")]
    TrustDomain(crate::IdError),
    /// Not a lifetime.
    #[error("it is a duration of whole seconds from 1 second to 30 days")]
    Lifetime,
    /// Not an instant.
    #[error("it is an instant after 1970")]
    Instant,
    /// Not a depth.
    #[error("it is a whole number from 0 to 16")]
    Depth,
}

impl TextFault {
    /// The error of a field that has this fault.
    #[must_use]
    pub fn at(self, field: &'static str, value: &str) -> FieldError {
        FieldError {
            field,
            value: shown(value),
            fault: self,
        }
    }
}

/// A field with a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field} {value:?}: {fault}")]
pub struct FieldError {
    /// The field by its name in the API and in class files.
    pub field: &'static str,
    /// The value, cut where it is long.
    pub value: String,
    /// What is wrong with it, and what would be good.
    pub fault: TextFault,
}

/// A value as an error shows it: callers choose these texts, and errors travel in HTTP/2 headers.
fn shown(value: &str) -> String {
    match value.char_indices().nth(128) {
        None => value.to_owned(),
        Some((at, _)) => format!("{}...", value.get(..at).unwrap_or_default()),
    }
}
