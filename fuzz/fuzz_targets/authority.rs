//! The authority rewriter, judged by an HPACK decoder that is not ours: whatever a client sends,
//! a server sees the same frames and fields but for the authority, however the bytes are cut; and
//! nothing grows without bound.
//!
//! Input: one byte that says how to cut, then what follows the HTTP/2 preface.

#![no_main]

use bytes::BytesMut;
use httlib_hpack::Decoder;
use libfuzzer_sys::fuzz_target;
use muster_peer::authority::{MAX_HEADER_BLOCK, RewriteError, Rewriter};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What a server sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen<'a> {
    Frame(u8, u8, [u8; 4], &'a [u8]),
    Headers {
        flags: u8,
        stream: [u8; 4],
        priority: Vec<u8>,
        fields: Vec<(Vec<u8>, Vec<u8>, bool)>,
    },
    /// The stream ends within a frame or a header block.
    Cut,
}

struct OpenBlock {
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    block: Vec<u8>,
}

/// Reads a stream that the rewriter found valid; `None` when the judge cannot decode a block.
fn read(mut wire: &[u8]) -> Option<Vec<Seen<'_>>> {
    let mut decoder = Decoder::with_dynamic_size(4096);
    let mut seen = Vec::new();
    let mut open: Option<OpenBlock> = None;
    while let Some((head, rest)) = wire.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags, stream) = (head[3], head[4], [head[5], head[6], head[7], head[8]]);
        let whole = rest.len() >= length;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        wire = rest;
        if kind != 1 && kind != 9 {
            // What of it came was passed on at once.
            seen.push(Seen::Frame(kind, flags, stream, payload));
            continue;
        }
        if !whole {
            break;
        }
        let mut block = if let Some(mut block) = open.take() {
            assert_eq!(kind, 9);
            block.block.extend(payload);
            block
        } else {
            assert_eq!(kind, 1);
            let mut payload = payload.to_vec();
            if flags & PADDED != 0 {
                let padding = usize::from(payload.remove(0));
                payload.truncate(payload.len() - padding);
            }
            let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
            OpenBlock {
                flags: flags & !(PADDED | END_HEADERS),
                stream,
                priority: payload.drain(..priority).collect(),
                block: payload,
            }
        };
        if flags & END_HEADERS == 0 {
            open = Some(block);
            continue;
        }
        let mut fields = Vec::new();
        decoder.decode(&mut block.block, &mut fields).ok()?;
        seen.push(Seen::Headers {
            flags: block.flags,
            stream: block.stream,
            priority: block.priority,
            fields: fields
                .into_iter()
                .map(|(name, value, flags)| (name, value, flags & Decoder::NEVER_INDEXED != 0))
                .collect(),
        });
    }
    seen.push(Seen::Cut);
    Some(seen)
}

fn rewrite(wire: &[u8], chunk: usize) -> Result<Vec<u8>, RewriteError> {
    let mut rewriter = Rewriter::new();
    let mut result = Vec::new();
    for mut piece in wire.chunks(chunk) {
        while !piece.is_empty() {
            let mut out = BytesMut::new();
            let used = rewriter.push(piece, &mut out)?;
            assert!(out.len() <= 2 * MAX_HEADER_BLOCK + piece.len());
            piece = &piece[used..];
            result.extend_from_slice(&out);
        }
    }
    Ok(result)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, tail)) = data.split_first() else {
        return;
    };
    let wire = [PREFACE, tail].concat();
    let whole = rewrite(&wire, wire.len());
    assert_eq!(whole, rewrite(&wire, usize::from(*cut) + 1));
    let Ok(rewritten) = whole else {
        return;
    };
    let rewritten = rewritten.strip_prefix(PREFACE).expect("the preface passes");
    let Some(mut expected) = read(tail) else {
        return;
    };
    for item in &mut expected {
        if let Seen::Headers { fields, .. } = item {
            for (name, value, _) in fields {
                if name == b":authority" {
                    *value = b"localhost".to_vec();
                }
            }
        }
    }
    assert_eq!(
        read(rewritten).expect("the judge decodes what it could before"),
        expected
    );
});
