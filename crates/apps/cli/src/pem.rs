//! PEM and runs of DER, as files and the Workload API carry them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The label of a certificate.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a PKCS #8 key.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// One PEM block (RFC 7468), lines of 64 characters.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END " + label + "-----\n"
}

/// Certificates, one PEM block after the other.
pub(crate) fn certificates<C: AsRef<[u8]>>(ders: impl IntoIterator<Item = C>) -> String {
    ders.into_iter()
        .map(|der| encode(CERTIFICATE, der.as_ref()))
        .collect()
}

/// Splits DER values that stand one after the other (WAPI-22, WAPI-27); `None` if the bytes do not
/// divide into whole values.
pub(crate) fn split_der(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (value, rest) = bytes.split_at_checked(der_length(bytes)?)?;
        values.push(value);
        bytes = rest;
    }
    Some(values)
}

/// The length of the first DER value, its header included; certificates are SEQUENCEs.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return None;
    }
    let length = rest
        .get(..count)?
        .iter()
        .try_fold(0_usize, |length, byte| {
            length.checked_mul(256)?.checked_add(usize::from(*byte))
        })?;
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_lines_are_64_characters() {
        let text = encode("X", &[0; 49]);
        assert_eq!(
            text,
            format!(
                "-----BEGIN X-----\n{}\nAA==\n-----END X-----\n",
                "A".repeat(64)
            )
        );
    }

    #[test]
    fn der_values_are_told_apart() {
        let long = [&[0x30, 0x81, 0x80][..], &[7; 128]].concat();
        let both = [&[0x30, 0x01, 0x05][..], &long].concat();
        assert_eq!(
            split_der(&both).unwrap(),
            [&[0x30, 0x01, 0x05][..], &long[..]]
        );
        assert_eq!(split_der(&[]).unwrap(), Vec::<&[u8]>::new());
        for bad in [
            &[0x30][..],
            &[0x30, 0x02, 0x00],
            &[0x31, 0x00],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(split_der(bad), None, "{bad:?}");
        }
    }
}
