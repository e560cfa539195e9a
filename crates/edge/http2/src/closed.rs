//! The streams that ended last: what may still come on them, and what may not (RFC 9113, 5.1).

/// How many are remembered. Only a client that sends fields behind bodies can be taken for one that
/// errs when more were reset while such fields were under way, and gRPC clients send none.
const REMEMBERED: usize = 8;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client had said all it would say, or had taken the call back.
    ByClient,
    /// It was reset here: the client may not have heard of it.
    Reset,
}

/// The last streams that ended.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    streams: [u32; REMEMBERED],
    /// A bit for each of them.
    resets: u8,
    next: usize,
}

impl Closed {
    pub(crate) fn insert(&mut self, stream: u32, end: End) {
        let known = self.streams.iter().position(|known| *known == stream);
        let at = known.unwrap_or(self.next % REMEMBERED);
        if known.is_none() {
            self.next = at + 1;
        }
        if let Some(place) = self.streams.get_mut(at) {
            *place = stream;
        }
        match end {
            End::ByClient => self.resets &= !(1 << at),
            End::Reset => self.resets |= 1 << at,
        }
    }

    /// How a stream ended; `None` if that is not remembered, or it never began.
    pub(crate) fn end(&self, stream: u32) -> Option<End> {
        let at = self.streams.iter().position(|known| *known == stream)?;
        Some(if self.resets & (1 << at) == 0 {
            End::ByClient
        } else {
            End::Reset
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered() {
        let mut closed = Closed::default();
        for stream in 1..=10 {
            let end = if stream % 2 == 0 {
                End::Reset
            } else {
                End::ByClient
            };
            closed.insert(stream, end);
        }
        assert_eq!(closed.end(2), None);
        assert_eq!(closed.end(3), Some(End::ByClient));
        assert_eq!(closed.end(10), Some(End::Reset));
        assert_eq!(closed.end(11), None);
        // Again, and in no other's place.
        closed.insert(10, End::ByClient);
        assert_eq!(closed.end(10), Some(End::ByClient));
        assert_eq!(closed.end(3), Some(End::ByClient));
    }
}
