//! The one door of entropy.
//!
//! Pure code never comes here: it is handed what it needs (a serial number, an ID) by the
//! programs, so that it can be tested with chosen values.

use aws_lc_rs::rand;

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Fills `out` with random bytes.
///
/// # Panics
///
/// When the provider has no entropy, in which case it has ended the process already.
#[expect(
    clippy::expect_used,
    reason = "AWS-LC ends the process itself when its generator fails; there is no way to go on without entropy"
)]
pub fn fill(out: &mut [u8]) {
    rand::fill(out).expect("the random number generator works");
}

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

/// A certificate serial number, uniform over 1 to 2^128-1, big-endian (X509I-19).
pub fn serial() -> [u8; 16] {
    loop {
        let serial = bytes();
        if serial != [0; 16] {
            return serial;
        }
    }
}

/// `len` characters, uniform over `A-Z a-z 0-9` (SPIRE's key IDs have 32).
pub fn alphanumeric(len: usize) -> String {
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let pool: [u8; 64] = bytes();
        // 248 is four times 62: anything above would favour the first letters.
        let letters = pool.iter().filter(|b| **b < 248).filter_map(|b| {
            ALPHANUMERIC
                .get(usize::from(b % 62))
                .copied()
                .map(char::from)
        });
        text.extend(letters.take(len - text.len()));
    }
    text
}

/// 16 bytes of a random UUID (RFC 9562, version 4).
pub fn uuid_bytes() -> [u8; 16] {
    let mut uuid: [u8; 16] = bytes();
    for (at, byte) in uuid.iter_mut().enumerate() {
        match at {
            6 => *byte = (*byte & 0x0f) | 0x40,
            8 => *byte = (*byte & 0x3f) | 0x80,
            _ => {}
        }
    }
    uuid
}

/// A random UUID as text, such as `0b7b1d0e-4c11-4a53-9d9b-2d5c7a3f9a10`.
pub fn uuid() -> String {
    let hex = crate::digest::hex(&uuid_bytes());
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let id = alphanumeric(32);
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(id, alphanumeric(32));
        assert_eq!(alphanumeric(200).len(), 200);

        let uuid = uuid();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uuid.as_bytes()[19]));
        assert_ne!(serial(), serial());
    }
}
