//! Facts as parts of a path.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A value as it stands in a path, so that no two values are written alike.
///
/// A value of letters, digits, `.`, `-` and `_` is written as it is, unless it is `.` or `..` or
/// looks as if it had been escaped (`_x` and two lower-case hexadecimal digits). In any other, each
/// byte that is not a letter, a digit, `.` or `-` becomes `_x` and its two hexadecimal digits, `_`
/// too: `agent@7.service` is `agent_x407.service`, `/usr/bin/a_b` is `_x2fusr_x2fbin_x2fa_x5fb`.
pub fn escape(value: &str) -> Cow<'_, str> {
    let dots = matches!(value, "." | "..");
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    if !dots && !looks_escaped(value) && value.bytes().all(|b| plain(b) || b == b'_') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len() + 12);
    for byte in value.bytes() {
        if plain(byte) && !dots {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "_x{byte:02x}");
        }
    }
    Cow::Owned(text)
}

/// Whether there is `_x` with two lower-case hexadecimal digits.
fn looks_escaped(value: &str) -> bool {
    let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    value
        .as_bytes()
        .windows(4)
        .any(|four| matches!(four, [b'_', b'x', high, low] if digit(high) && digit(low)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        for (value, expected) in [
            ("web", "web"),
            ("svc_web-1.2", "svc_web-1.2"),
            ("_xzz", "_xzz"),
            ("_x2", "_x2"),
            ("_x2f", "_x5fx2f"),
            (".", "_x2e"),
            ("..", "_x2e_x2e"),
            ("...", "..."),
            ("agent@7.service", "agent_x407.service"),
            ("/usr/bin/a_b", "_x2fusr_x2fbin_x2fa_x5fb"),
            ("\u{e9} b", "_xc3_xa9_x20b"),
        ] {
            assert_eq!(escape(value), expected, "{value}");
        }
    }

    /// The value that was written so.
    fn unescape(text: &str) -> String {
        if !looks_escaped(text) {
            return text.to_owned();
        }
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let [first, more @ ..] = rest {
            if *first == b'_' {
                let hex = std::str::from_utf8(&more[1..3]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &more[3..];
            } else {
                bytes.push(*first);
                rest = more;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_leads_back(value in prop_oneof![".{1,12}", "[_x0-9a-f.]{1,12}"]) {
            let text = escape(&value).into_owned();
            prop_assert_eq!(unescape(&text), value);
            let id = format!("spiffe://td/{text}");
            prop_assert!(muster_model::SpiffeId::parse(&id).is_ok(), "{}", id);
        }
    }
}
