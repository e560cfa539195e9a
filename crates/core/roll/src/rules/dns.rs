//! DNS names that may stand in an X509-SVID.

/// Why a text is not a DNS name for an X509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// The name is empty.
    #[error("it is empty; leave it out")]
    Empty,
    /// The name has a character outside ASCII.
    #[error("it is not ASCII; write international names in their \"xn--\" form")]
    NotAscii,
    /// A star stands somewhere else than alone in the first label, or there are several.
    #[error("a wildcard is one '*' alone in the first label, such as \"*.example.org\"")]
    Wildcard,
    /// The name ends with a dot.
    #[error("it ends with '.'; leave the last dot out")]
    TrailingDot,
    /// A label is empty or longer than 63 bytes, or the name is longer than 253.
    #[error("a label has 1 to 63 bytes, and the whole name at most 253")]
    Length,
    /// The name has capital letters.
    #[error("it has capital letters; write it in lower case")]
    NotLowerCase,
    /// The name breaks a rule of IDNA (UTS 46 in its strict form).
    #[error(
        "a label has only a-z, 0-9 and '-', does not begin or end with '-', and begins with \
         \"xn--\" only if the rest is a valid international label"
    )]
    Label,
}
