//! The Huffman code (RFC 7541, 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers, and each length begins
//! where the one before ended, shifted. So the number of codes of each length, and the symbols in
//! the order of their codes, are the whole of it.

use super::BlockError;

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

/// The octets in the order of their codes.
const SYMBOLS: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57,
    61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71,
    72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119,
    120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91,
    93, 126, 94, 125, 60, 96, 123, 92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161,
    167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156,
    160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233, 1,
    135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174,
    175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225,
    236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242,
    243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252,
    253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 127, 220, 249, 10, 13, 22,
];

const LONGEST: u32 = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Length {
    bits: u32,
    /// The first 30-bit window that begins with a code of this length.
    from: u64,
    /// The first that no longer begins with one of this length or a shorter one.
    limit: u64,
    /// Where its first symbol stands among [`SYMBOLS`].
    first: usize,
}

const TABLE: [Length; 21] = table();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler, where a wrong index is an error; counts are below 257"
)]
const fn table() -> [Length; 21] {
    let mut table = [Length {
        bits: 0,
        from: 0,
        limit: 0,
        first: 0,
    }; 21];
    let (mut used, mut first) = (0, 0);
    let mut at = 0;
    while at < LENGTHS.len() {
        let (bits, count) = LENGTHS[at];
        let limit = used + (count << (LONGEST - bits));
        table[at] = Length {
            bits,
            from: used,
            limit,
            first,
        };
        used = limit;
        first += count as usize;
        at += 1;
    }
    table
}

/// Appends what `coded` stands for to `out`, which may not become longer than `most`.
///
/// A coding is not valid that contains the end-of-string symbol, or ends with more than seven bits
/// of padding or with padding that is not all ones.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>, most: usize) -> Result<(), BlockError> {
    let mut octets = coded.iter();
    // The lowest `available` bits of `window` are the bits not yet used.
    let (mut window, mut available) = (0_u64, 0_u32);
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
            return Ok(());
        }
        let length = TABLE
            .iter()
            .find(|length| next < length.limit)
            .ok_or(BlockError::BadHuffman)?;
        available = available
            .checked_sub(length.bits)
            .ok_or(BlockError::BadHuffman)?;
        let nth = usize::try_from((next - length.from) >> (LONGEST - length.bits)).ok();
        // The end-of-string symbol is the only one beyond them.
        let symbol = nth
            .and_then(|nth| SYMBOLS.get(length.first + nth))
            .ok_or(BlockError::BadHuffman)?;
        if out.len() >= most {
            return Err(BlockError::TooLarge { limit: most });
        }
        out.push(*symbol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, BlockError> {
        let mut out = Vec::new();
        decode(coded, &mut out, 1024).map(|()| out)
    }

    #[test]
    fn the_code_is_complete() {
        assert_eq!(TABLE.last().map(|length| length.limit), Some(1 << 30));
        assert_eq!(LENGTHS.iter().map(|(_, count)| count).sum::<u64>(), 257);
        let mut symbols = SYMBOLS;
        symbols.sort_unstable();
        assert!(symbols.iter().copied().eq(0..=255));
    }

    /// The strings of RFC 7541, C.4 and C.6.
    #[test]
    fn the_examples_of_the_standard() {
        let check = |coded: &[u8], text: &str| {
            assert_eq!(decoded(coded).as_deref(), Ok(text.as_bytes()), "{text}");
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
        let bad = Err(BlockError::BadHuffman);
        // Eight bits of padding.
        assert_eq!(decoded(&[0xff]), bad);
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), bad);
        // Padding that is not all ones: "0" (five zero bits) and then 000.
        assert_eq!(decoded(&[0x00]), bad);
        assert_eq!(decoded(&[0x07]).as_deref(), Ok(&b"0"[..]));
        // The end-of-string symbol.
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), bad);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), bad);
    }

    #[test]
    fn the_budget_is_kept() {
        let mut out = Vec::new();
        let coded = &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        let error = decode(coded, &mut out, 7).unwrap_err();
        assert_eq!(error, BlockError::TooLarge { limit: 7 });
    }
}
