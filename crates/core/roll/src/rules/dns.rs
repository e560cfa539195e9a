//! DNS names that may stand in an X509-SVID.

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

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

/// Whether `name` may stand in an X509-SVID: ASCII, lower case, as UTS 46 writes it in its strict
/// form (length, hyphens, joiners and direction checked), with at most one wildcard, which is the
/// whole first label (spire-behaviour 2.10).
pub fn check(name: &str) -> Result<(), DnsNameError> {
    if name.is_empty() {
        return Err(DnsNameError::Empty);
    }
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if labels.contains('*') {
        return Err(DnsNameError::Wildcard);
    }
    if labels.ends_with('.') {
        return Err(DnsNameError::TrailingDot);
    }
    if name.len() > 253
        || labels
            .split('.')
            .any(|label| label.is_empty() || label.len() > 63)
    {
        return Err(DnsNameError::Length);
    }
    if labels.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(DnsNameError::NotLowerCase);
    }
    let written = Uts46::new()
        .to_ascii(
            labels.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::Check,
            DnsLength::Verify,
        )
        .map_err(|_| DnsNameError::Label)?;
    if written != labels {
        return Err(DnsNameError::Label);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected| assert_eq!(check(name), expected, "{name:?}");
        let long_label = "a".repeat(64);
        let long_name = format!("{}a", "abcdefg.".repeat(32));
        for good in [
            "a",
            "example.org",
            "*.example.org",
            "xn--bcher-kva.example",
            "1.2.3.4",
            "a-b.example",
        ] {
            check(good, Ok(()));
        }
        for (bad, why) in [
            ("", DnsNameError::Empty),
            ("bücher.example", DnsNameError::NotAscii),
            ("*", DnsNameError::Wildcard),
            ("*a.example", DnsNameError::Wildcard),
            ("a.*.example", DnsNameError::Wildcard),
            ("*.*.example", DnsNameError::Wildcard),
            ("example.org.", DnsNameError::TrailingDot),
            ("*.", DnsNameError::Length),
            (".example", DnsNameError::Length),
            ("a..b", DnsNameError::Length),
            (long_label.as_str(), DnsNameError::Length),
            (long_name.as_str(), DnsNameError::Length),
            ("Example.org", DnsNameError::NotLowerCase),
            ("-a.example", DnsNameError::Label),
            ("a-.example", DnsNameError::Label),
            ("ab--c.example", DnsNameError::Label),
            ("a_b.example", DnsNameError::Label),
            ("a b.example", DnsNameError::Label),
            ("a/b", DnsNameError::Label),
            // Not the shortest form of what it encodes, not Punycode, and a capital inside.
            ("xn--a", DnsNameError::Label),
            ("xn--zzzzzzzz9999.example", DnsNameError::Label),
            ("xn--Bcher-kva.example", DnsNameError::NotLowerCase),
        ] {
            check(bad, Err(why));
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_has_one_answer(name in "\\PC{0,40}") {
            let first = check(&name);
            proptest::prop_assert_eq!(check(&name), first);
        }

        #[test]
        fn plain_host_names_are_good(name in "[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){0,3}") {
            proptest::prop_assert_eq!(check(&name), Ok(()));
        }
    }
}
