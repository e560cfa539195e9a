//! Fields to a header block, without any table: static names where there are some, plain strings
//! else (RFC 7541, 6.2.2 and 6.2.3).

use http::{HeaderName, HeaderValue, StatusCode};

use super::statics;

const WITHOUT_INDEXING: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;
const SIZE_UPDATE: u8 = 0x20;
const INDEXED: u8 = 0x80;
/// The static table's first index of `:status`; seven of them have a value.
const STATUS: usize = 8;

/// Writes the `:status`.
pub(crate) fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    let known = statics::ENTRIES
        .iter()
        .position(|entry| *entry == (":status", status.as_str()));
    if let Some(at) = known {
        put_integer(out, INDEXED, 7, at + 1);
    } else {
        put_integer(out, WITHOUT_INDEXING, 4, STATUS);
        put_text(out, status.as_str().as_bytes());
    }
}

/// Writes a field.
pub(crate) fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let kind = if value.is_sensitive() {
        NEVER_INDEXED
    } else {
        WITHOUT_INDEXING
    };
    let known = statics::ENTRIES
        .iter()
        .position(|(known, _value)| *known == name.as_str());
    if let Some(at) = known {
        put_integer(out, kind, 4, at + 1);
    } else {
        out.push(kind);
        put_text(out, name.as_str().as_bytes());
    }
    put_text(out, value.as_bytes());
}

/// Says that the dynamic table has this size from now on; first in its block.
pub(crate) fn put_table_size(out: &mut Vec<u8>, size: usize) {
    put_integer(out, SIZE_UPDATE, 5, size);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Writes an integer with a prefix of `bits` bits (5.1).
fn put_integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    let octet = |value: usize| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    if value < mask {
        out.push(flags | octet(value));
        return;
    }
    out.push(flags | octet(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(octet(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(octet(rest));
}

#[cfg(test)]
mod tests {
    use httlib_hpack::Decoder;

    use super::*;

    #[test]
    fn others_read_what_is_written() {
        let mut block = Vec::new();
        put_table_size(&mut block, 0);
        put_status(&mut block, StatusCode::OK);
        let name = HeaderName::from_static("grpc-message");
        let long = HeaderValue::from_str(&"x".repeat(5000)).unwrap();
        put_field(&mut block, &name, &long);
        let mut secret = HeaderValue::from_static("s");
        secret.set_sensitive(true);
        put_field(&mut block, &http::header::SET_COOKIE, &secret);

        let mut fields = Vec::new();
        let mut decoder = Decoder::with_dynamic_size(4096);
        decoder.decode(&mut block, &mut fields).unwrap();
        let expected = [
            (&b":status"[..], &b"200"[..], 0),
            (b"grpc-message", long.as_bytes(), 0),
            (b"set-cookie", b"s", Decoder::NEVER_INDEXED),
        ];
        for (field, (name, value, flags)) in fields.iter().zip(expected) {
            assert_eq!((&*field.0, &*field.1), (name, value));
            assert_eq!(field.2 & Decoder::NEVER_INDEXED, flags);
        }
        assert_eq!(fields.len(), 3);
    }

    #[test]
    fn a_status_that_the_table_lacks() {
        let mut block = Vec::new();
        put_status(&mut block, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(block, [0x08, 0x03, b'4', b'1', b'5']);
    }
}
