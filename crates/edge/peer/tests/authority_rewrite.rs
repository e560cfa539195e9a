//! The rewriter against an HPACK codec that is not ours: the same fields, the same frames, and
//! another authority.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what it expects, in its helpers as well"
)]

use bytes::BytesMut;
use httlib_hpack::{Decoder, Encoder};
use muster_peer::authority::{BlockError, MAX_HEADER_BLOCK, RewriteError, Rewriter};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

type Field = (Vec<u8>, Vec<u8>, u8);

/// What a server sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    Headers {
        flags: u8,
        stream: u32,
        priority: Vec<u8>,
        fields: Vec<(Vec<u8>, Vec<u8>, bool)>,
    },
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Decodes what a server would receive.
fn read(mut wire: &[u8]) -> Vec<Seen> {
    let mut decoder = Decoder::with_dynamic_size(4096);
    let mut seen = Vec::new();
    let mut open: Option<(u8, u32, Vec<u8>, Vec<u8>)> = None;
    wire = wire.strip_prefix(PREFACE).unwrap();
    while !wire.is_empty() {
        let length = usize::from(wire[0]) << 16 | usize::from(wire[1]) << 8 | usize::from(wire[2]);
        let (kind, flags) = (wire[3], wire[4]);
        let stream = u32::from_be_bytes(wire[5..9].try_into().unwrap());
        let mut payload = wire[9..9 + length].to_vec();
        wire = &wire[9 + length..];
        match (kind, &mut open) {
            (1, None) => {
                if flags & PADDED != 0 {
                    let padding = usize::from(payload.remove(0));
                    payload.truncate(payload.len() - padding);
                }
                let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
                let priority: Vec<u8> = payload.drain(..priority).collect();
                open = Some((flags & !(PADDED | END_HEADERS), stream, priority, payload));
            }
            (9, Some((_, of, _, block))) => {
                assert_eq!(stream, *of);
                block.extend(payload);
            }
            (_, None) => {
                seen.push(Seen::Frame {
                    kind,
                    flags,
                    stream,
                    payload,
                });
                continue;
            }
            _ => panic!("frame {kind} within a header block"),
        }
        if flags & END_HEADERS != 0 {
            let (flags, stream, priority, mut block) = open.take().unwrap();
            let mut fields = Vec::new();
            decoder.decode(&mut block, &mut fields).unwrap();
            let fields = fields
                .into_iter()
                .map(|(name, value, flags)| (name, value, flags & Decoder::NEVER_INDEXED != 0))
                .collect();
            seen.push(Seen::Headers {
                flags,
                stream,
                priority,
                fields,
            });
        }
    }
    assert!(open.is_none());
    seen
}

fn expected(mut seen: Vec<Seen>) -> Vec<Seen> {
    for item in &mut seen {
        if let Seen::Headers { fields, .. } = item {
            for (name, value, _) in fields {
                if name == b":authority" {
                    *value = b"localhost".to_vec();
                }
            }
        }
    }
    seen
}

/// Feeds `wire` in pieces.
fn rewrite(wire: &[u8], cuts: &[Index]) -> Result<Vec<u8>, RewriteError> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    places.push(wire.len());
    places.sort_unstable();
    let mut rewriter = Rewriter::new();
    let (mut result, mut at) = (Vec::new(), 0);
    for place in places {
        while at < place {
            let mut out = BytesMut::new();
            at += rewriter.push(&wire[at..place], &mut out)?;
            result.extend_from_slice(&out);
        }
    }
    Ok(result)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b":authority".to_vec()),
        2 => select(vec![":path", ":method", "user-agent", "te", "authorization", "x-own"])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..40),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => select(vec![
            "", "localhost", "/tmp/a.sock", "tmp%2Fa.sock", "http://[", "a b", "\u{e9}", "POST",
        ]).prop_map(|value| value.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..60),
        // Larger than the table.
        1 => vec(any::<u8>(), 3900..4300),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    let flags = select(vec![
        0,
        Encoder::WITH_INDEXING,
        Encoder::NEVER_INDEXED,
        Encoder::BEST_FORMAT,
        Encoder::WITH_INDEXING | Encoder::BEST_FORMAT,
        Encoder::WITH_INDEXING | Encoder::HUFFMAN_NAME,
        Encoder::WITH_INDEXING | Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE,
        Encoder::WITH_INDEXING | Encoder::HUFFMAN_VALUE | Encoder::BEST_FORMAT,
        Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE,
    ]);
    (name(), value(), flags)
}

#[derive(Clone, Debug)]
enum Sent {
    Other {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    Headers {
        fields: Vec<Field>,
        flags: u8,
        stream: u32,
        padding: Option<u8>,
        priority: Option<[u8; 5]>,
        cuts: Vec<Index>,
    },
    Resize(u32),
}

fn sent() -> impl Strategy<Value = Sent> {
    let kind = select(vec![0_u8, 2, 3, 4, 6, 7, 8, 10, 200]);
    prop_oneof![
        1 => (kind, any::<u8>(), any::<u32>(), vec(any::<u8>(), 0..50))
            .prop_map(|(kind, flags, stream, payload)| Sent::Other { kind, flags, stream, payload }),
        3 => (
            vec(field(), 0..8),
            select(vec![0_u8, 1]),
            0..=0x7fff_ffff_u32,
            proptest::option::of(any::<u8>()),
            proptest::option::of(any::<[u8; 5]>()),
            vec(any::<Index>(), 0..4),
        ).prop_map(|(fields, flags, stream, padding, priority, cuts)| Sent::Headers {
            fields, flags, stream, padding, priority, cuts,
        }),
        1 => (0..=4096_u32).prop_map(Sent::Resize),
    ]
}

fn wire(sent: &[Sent]) -> Vec<u8> {
    let mut encoder = Encoder::with_dynamic_size(4096);
    let mut wire = PREFACE.to_vec();
    let mut block = Vec::new();
    for item in sent {
        match item {
            Sent::Other {
                kind,
                flags,
                stream,
                payload,
            } => {
                wire.extend(frame(*kind, *flags, *stream, payload));
            }
            // Goes to the beginning of the next block.
            Sent::Resize(size) => {
                if block.is_empty() {
                    encoder.update_max_dynamic_size(*size, &mut block).unwrap();
                }
            }
            Sent::Headers {
                fields,
                flags,
                stream,
                padding,
                priority,
                cuts,
            } => {
                for field in fields {
                    encoder.encode(field.clone(), &mut block).unwrap();
                }
                let block = std::mem::take(&mut block);
                let mut places: Vec<_> =
                    cuts.iter().map(|cut| cut.index(block.len() + 1)).collect();
                places.push(block.len());
                places.sort_unstable();
                let mut payload = Vec::new();
                let mut flags = *flags;
                if let Some(padding) = padding {
                    payload.push(*padding);
                    flags |= PADDED;
                }
                if let Some(priority) = priority {
                    payload.extend(priority);
                    flags |= PRIORITY;
                }
                let mut at = 0;
                for (index, place) in places.iter().enumerate() {
                    payload.extend(&block[at..*place]);
                    at = *place;
                    let (kind, mut flags) = if index == 0 { (1, flags) } else { (9, 0) };
                    if index == 0 {
                        payload.extend(vec![0; usize::from(padding.unwrap_or(0))]);
                    }
                    if index + 1 == places.len() {
                        flags |= END_HEADERS;
                    }
                    wire.extend(frame(kind, flags, *stream, &payload));
                    payload.clear();
                }
            }
        }
    }
    wire
}

proptest! {
    /// Whatever the fields, their coding, the division into frames and into reads: a server sees
    /// the same but for the authority. Nothing can be smuggled.
    #[test]
    fn only_the_authority_differs(
        sent in vec(sent(), 0..12),
        cuts in vec(any::<Index>(), 0..40),
    ) {
        let wire = wire(&sent);
        let rewritten = rewrite(&wire, &cuts).unwrap();
        prop_assert_eq!(read(&rewritten), expected(read(&wire)));
    }

    /// Hostile bytes end in an error or pass; they never panic, and nothing grows.
    #[test]
    fn hostile_bytes_do_no_harm(
        mut tail in vec(any::<u8>(), 0..2000),
        sent in vec(sent(), 0..4),
        flips in vec((any::<Index>(), any::<u8>()), 0..6),
        cuts in vec(any::<Index>(), 0..10),
    ) {
        let mut wire = wire(&sent);
        wire.append(&mut tail);
        for (place, value) in flips {
            let place = place.index(wire.len());
            wire[place] = value;
        }
        if let Ok(rewritten) = rewrite(&wire, &cuts) {
            prop_assert!(rewritten.len() <= wire.len() + 700 * MAX_HEADER_BLOCK);
        }
    }

    #[test]
    fn other_protocols_pass_untouched(
        seen in 0..PREFACE.len(),
        tail in vec(any::<u8>(), 1..200),
        cuts in vec(any::<Index>(), 0..10),
    ) {
        let mut wire = PREFACE[..seen].to_vec();
        wire.extend(&tail);
        prop_assume!(!wire.starts_with(PREFACE));
        prop_assert_eq!(rewrite(&wire, &cuts).unwrap(), wire);
    }
}

fn headers(block: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(1, END_HEADERS, 1, block)].concat()
}

fn refused(wire: &[u8]) -> RewriteError {
    rewrite(wire, &[]).unwrap_err()
}

/// The five forms of WEP-07, byte by byte.
#[test]
fn the_forms_that_clients_send() {
    let check = |block: &[u8], rewritten: &[u8]| {
        assert_eq!(rewrite(&headers(block), &[]).unwrap(), headers(rewritten));
    };
    let replaced = b"\x01\x09localhost";
    // Missing.
    check(b"\x83\x86", b"\x83\x86");
    // Empty, as the static table has it, and as a literal.
    check(b"\x81", replaced);
    check(b"\x41\x00", replaced);
    // Raw and percent-encoded paths, with an indexed name and a literal one.
    check(b"\x01\x0b/tmp/a.sock", replaced);
    check(b"\x40\x0a:authority\x0ctmp%2Fa.sock", replaced);
    // Never-indexed stays so.
    check(b"\x11\x01/", b"\x11\x09localhost");
    // Huffman-coded name (and an empty value).
    check(b"\x00\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f\x00", replaced);
    // Entered into the table and referred to: whole, and by its name.
    check(b"\x41\x01/\xbe\x7e\x01%", &replaced.repeat(3));
    // Another name is not an authority.
    check(b"\x00\x0a:authoritx\x01/", b"\x00\x0a:authoritx\x01/");
    check(b"\x00\x0b:authority2\x01/", b"\x00\x0b:authority2\x01/");
}

#[test]
fn what_ends_the_connection() {
    let block = |block: &[u8]| {
        let error = refused(&headers(block));
        let RewriteError::Block(error) = error else {
            panic!("{error}")
        };
        error
    };
    assert_eq!(block(b"\x41"), BlockError::Truncated);
    assert_eq!(block(b"\x01\x05ab"), BlockError::Truncated);
    assert_eq!(block(b"\x80"), BlockError::NoSuchEntry);
    assert_eq!(block(b"\xbe"), BlockError::NoSuchEntry);
    assert_eq!(block(b"\x7e\x00"), BlockError::NoSuchEntry);
    assert_eq!(block(b"\x3f"), BlockError::Truncated);
    assert_eq!(
        block(b"\xff\xff\xff\xff\xff\x00"),
        BlockError::IntegerTooLarge
    );
    assert_eq!(block(b"\x3f\xe2\x1f"), BlockError::TableTooLarge);
    assert_eq!(block(b"\x02\x81\xff"), BlockError::BadHuffman);

    let after = |frames: &[Vec<u8>]| refused(&[PREFACE.to_vec(), frames.concat()].concat());
    assert_eq!(after(&[frame(9, 4, 1, b"")]), RewriteError::Orphan);
    assert_eq!(
        after(&[frame(5, 4, 1, b"\0\0\0\x02")]),
        RewriteError::PushPromise
    );
    let interleaved = |kind| RewriteError::Interleaved { kind };
    assert_eq!(
        after(&[frame(1, 0, 1, b""), frame(0, 0, 1, b"")]),
        interleaved(0)
    );
    assert_eq!(
        after(&[frame(1, 0, 1, b""), frame(1, 4, 1, b"")]),
        interleaved(1)
    );
    assert_eq!(
        after(&[frame(1, 0, 1, b""), frame(9, 4, 3, b"")]),
        interleaved(9)
    );
    for (flags, payload) in [(PADDED, &b""[..]), (PADDED, b"\x01"), (PRIORITY, b"1234")] {
        assert_eq!(
            after(&[frame(1, flags | 4, 1, payload)]),
            RewriteError::BadPadding
        );
    }
    assert_eq!(
        after(&[frame(1, PADDED | PRIORITY, 1, b"\x0112345")]),
        RewriteError::BadPadding
    );
}

/// A few octets that would unfold to megabytes, and a block without an end.
#[test]
fn header_bombs_are_bounded() {
    let mut bomb = b"\x40\x01x\x7f\x81\x1e".to_vec();
    bomb.extend([b'y'; 4000 - 32]);
    bomb.extend([0xbe; 1000]);
    let limit = MAX_HEADER_BLOCK;
    assert_eq!(
        refused(&headers(&bomb)),
        RewriteError::Block(BlockError::TooLarge { limit })
    );

    let mut rewriter = Rewriter::new();
    let mut out = BytesMut::new();
    rewriter
        .push(&[PREFACE, &frame(1, 0, 1, b"")].concat(), &mut out)
        .unwrap();
    let endless = frame(9, 0, 1, &[0; 16_384]);
    let error = (0..5).find_map(|_| rewriter.push(&endless, &mut out).err());
    assert_eq!(error, Some(RewriteError::HeaderBlockTooLarge));

    let mut rewriter = Rewriter::new();
    rewriter
        .push(&[PREFACE, &frame(1, 0, 1, b"")].concat(), &mut out)
        .unwrap();
    let empty = frame(9, 0, 1, b"");
    let error = (0..200).find_map(|_| rewriter.push(&empty, &mut out).err());
    assert_eq!(error, Some(RewriteError::TooManyFrames));
    assert_eq!(out.len(), 2 * PREFACE.len());
}

/// Blocks that unfold, one after the other: the output is produced as it is taken.
#[test]
fn output_waits_to_be_taken() {
    let mut wire = PREFACE.to_vec();
    let mut first = b"\x40\x01x\x7f\x81\x1e".to_vec();
    first.extend([b'y'; 4000 - 32]);
    wire.extend(frame(1, END_HEADERS, 1, &first));
    for _ in 0..500 {
        wire.extend(frame(1, END_HEADERS, 1, &[0xbe; 15]));
    }
    let mut rewriter = Rewriter::new();
    let (mut at, mut total) = (0, 0);
    while at < wire.len() {
        let mut out = BytesMut::new();
        at += rewriter.push(&wire[at..], &mut out).unwrap();
        assert!(out.len() <= 2 * MAX_HEADER_BLOCK);
        total += out.len();
    }
    assert!(total > 500 * 15 * 3900);
}

/// A block that grows past a frame is divided as `h2` wants it.
#[test]
fn long_blocks_are_divided() {
    let mut first = b"\x40\x01x\x7f\x81\x1e".to_vec();
    first.extend([b'y'; 4000 - 32]);
    first.extend([0xbe; 11]);
    let wire = headers(&first);
    let rewritten = rewrite(&wire, &[]).unwrap();
    assert!(rewritten.len() > 3 * 16_384 - 5000);
    assert_eq!(read(&rewritten), read(&wire));
    let mut frames = rewritten.strip_prefix(PREFACE).unwrap();
    while !frames.is_empty() {
        let length = u32::from_be_bytes([0, frames[0], frames[1], frames[2]]) as usize;
        assert!(length <= 16_384);
        frames = &frames[9 + length..];
    }
}
