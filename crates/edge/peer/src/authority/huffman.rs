//! How many octets a Huffman-coded string stands for (RFC 7541, 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers, and each length begins
//! where the one before ended, shifted. So the number of codes of each length is all that is
//! needed to find where symbols end, and which symbols they are does not matter here.

/// Length in bits, and how many codes have it. Those of 30 bits include the end-of-string symbol,
/// which is the last of all and must not appear.
const LENGTHS: [(u32, u64); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

const LONGEST: u32 = 30;

/// For each length, the first 30-bit window that no longer begins with a code of that length or a
/// shorter one.
const LIMITS: [(u32, u64); 21] = limits();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, where a wrong index is an error"
)]
const fn limits() -> [(u32, u64); 21] {
    let mut limits = LENGTHS;
    let mut used = 0;
    let mut at = 0;
    while at < LENGTHS.len() {
        let (length, count) = LENGTHS[at];
        used += count << (LONGEST - length);
        limits[at] = (length, used);
        at += 1;
    }
    limits
}

/// The number of octets that `coded` stands for, or `None` if it is not a valid coding: it
/// contains the end-of-string symbol, or ends with more than seven bits of padding or with padding
/// that is not all ones.
pub(super) fn decoded_len(coded: &[u8]) -> Option<usize> {
    let mut octets = coded.iter();
    // The lowest `available` bits of `window` are the bits not yet used.
    let (mut window, mut available) = (0_u64, 0_u32);
    let mut symbols = 0;
    loop {
        while available < LONGEST {
            let Some(octet) = octets.next() else { break };
            window = (window << 8) | u64::from(*octet);
            available += 8;
        }
        let mask = (1_u64 << available) - 1;
        // Missing bits read as ones, as padding would.
        let next = if available >= LONGEST {
            (window & mask) >> (available - LONGEST)
        } else {
            let missing = LONGEST - available;
            ((window & mask) << missing) | ((1 << missing) - 1)
        };
        if available < 8 && window & mask == mask {
            return Some(symbols);
        }
        if next == (1 << LONGEST) - 1 {
            return None;
        }
        let (length, _) = LIMITS.iter().find(|(_, limit)| next < *limit)?;
        available = available.checked_sub(*length)?;
        symbols += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete() {
        assert_eq!(LIMITS.last(), Some(&(30, 1 << 30)));
        assert_eq!(LENGTHS.iter().map(|(_, count)| count).sum::<u64>(), 257);
    }

    /// The strings of RFC 7541, C.4 and C.6.
    #[test]
    fn the_examples_of_the_standard() {
        let check = |coded: &[u8], text: &str| {
            assert_eq!(decoded_len(coded), Some(text.len()), "{text}");
        };
        check(b"", "");
        check(
            &[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
            ],
            "www.example.com",
        );
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache");
        check(
            &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f],
            "custom-key",
        );
        check(&[0x64, 0x02], "302");
        check(
            &[
                0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82,
                0xae, 0x43, 0xd3,
            ],
            "https://www.example.com",
        );
        // 28 bits each.
        check(&[0xff, 0xff, 0xfe, 0x2f, 0xff, 0xff, 0xe2], "\u{2}\u{2}");
    }

    #[test]
    fn invalid_codings() {
        // Eight bits of padding.
        assert_eq!(decoded_len(&[0xff]), None);
        assert_eq!(decoded_len(&[0x64, 0x02, 0xff]), None);
        // Padding that is not all ones: "0" (five zero bits) and then 000.
        assert_eq!(decoded_len(&[0x00]), None);
        assert_eq!(decoded_len(&[0x07]), Some(1));
        // The end-of-string symbol.
        assert_eq!(decoded_len(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded_len(&[0xff, 0xff, 0xff, 0xfc]), None);
    }
}
