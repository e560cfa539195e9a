//! The little DER that keys, signatures and certificate envelopes need (X.690).
//!
//! Certificates are parsed by `x509-parser` and built by `rcgen`; this module only opens and
//! closes the outermost shells, where those two give no access.

/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// SEQUENCE, constructed.
pub const SEQUENCE: u8 = 0x30;

/// Appends one tag-length-value whose value is `parts` one after the other.
pub fn write(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.reserve(len + 6);
    out.push(tag);
    if let Some(short) = u8::try_from(len).ok().filter(|l| *l < 0x80) {
        out.push(short);
    } else {
        let bytes = len.to_be_bytes();
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        let significant = bytes.get(zeros..).unwrap_or_default();
        // A length has at most eight bytes, so the count fits the low seven bits.
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(0x7e));
        out.extend_from_slice(significant);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// One tag-length-value whose value is `parts` one after the other.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, tag, parts);
    out
}

/// An INTEGER from the big-endian bytes of a number that is not negative.
pub fn unsigned_integer(magnitude: &[u8]) -> Vec<u8> {
    let digits = trim_leading_zeros(magnitude);
    match digits.first() {
        None => tlv(INTEGER, &[&[0]]),
        Some(top) if *top >= 0x80 => tlv(INTEGER, &[&[0], digits]),
        Some(_) => tlv(INTEGER, &[digits]),
    }
}

/// `bytes` without the zeros at its head.
pub fn trim_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Reads tag-length-values one after the other; `None` is malformed input.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value, which must have this tag; returns the value without its header.
    pub fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, _, value) = self.next()?;
        (found == tag).then_some(value)
    }

    /// The next value, which must have this tag; returns it with its header.
    pub fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, element, _) = self.next()?;
        (found == tag).then_some(element)
    }

    /// The magnitude of the next value, an INTEGER that is not negative, without leading zeros.
    pub fn unsigned_integer(&mut self) -> Option<&'a [u8]> {
        let value = self.value(INTEGER)?;
        match value {
            [] => None,
            [0] => Some(&[]),
            // DER: no superfluous zero, and no sign bit.
            [0, next, ..] if *next < 0x80 => None,
            [0, magnitude @ ..] => Some(magnitude),
            [top, ..] => (*top < 0x80).then_some(value),
        }
    }

    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let start = self.rest;
        let (&tag, after_tag) = start.split_first()?;
        let (&first, mut body) = after_tag.split_first()?;
        let len = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            // 0x80 is the indefinite form, which DER forbids; four bytes are 4 GiB.
            if count == 0 || count > 4 {
                return None;
            }
            let (digits, rest) = body.split_at_checked(count)?;
            body = rest;
            let len = digits
                .iter()
                .fold(0usize, |len, digit| (len << 8) | usize::from(*digit));
            // DER: the shortest form only.
            if len < 0x80 || digits.first() == Some(&0) {
                return None;
            }
            len
        };
        let (value, rest) = body.split_at_checked(len)?;
        self.rest = rest;
        let element = start.get(..start.len() - rest.len())?;
        Some((tag, element, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_at_each_form() {
        for len in [0usize, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let body = vec![7; len];
            let encoded = tlv(SEQUENCE, &[&body]);
            let mut reader = Reader::new(&encoded);
            assert_eq!(reader.value(SEQUENCE), Some(&body[..]), "{len}");
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn what_is_not_der_is_refused() {
        for bad in [
            &[0x30][..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x01, 0],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 2, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
        ] {
            assert_eq!(Reader::new(bad).value(SEQUENCE), None, "{bad:?}");
        }
        assert_eq!(Reader::new(&[2, 2, 0, 1]).unsigned_integer(), None);
        assert_eq!(Reader::new(&[2, 1, 0x80]).unsigned_integer(), None);
        assert_eq!(Reader::new(&[2, 0]).unsigned_integer(), None);
    }

    proptest! {
        #[test]
        fn integers_return(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let encoded = unsigned_integer(&bytes);
            prop_assert_eq!(
                Reader::new(&encoded).unsigned_integer(),
                Some(trim_leading_zeros(&bytes))
            );
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.element(SEQUENCE).is_some() || reader.unsigned_integer().is_some() {}
        }
    }
}
