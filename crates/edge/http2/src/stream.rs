//! What a connection knows of a stream that is open (RFC 9113, 5.1).

use std::sync::Arc;

use crate::error::Code;
use crate::inbound::Inbound;

/// How much the other side may still send, on a stream or a connection (6.9.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit {
    /// What it may send at most before anything is taken, in bytes.
    window: u32,
    /// What it may still send, in bytes.
    left: u32,
    /// What was taken and not given back yet, in bytes.
    owed: u32,
}

impl Credit {
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window,
            left: window,
            owed: 0,
        }
    }

    /// So much came; `None` if it was more than it might be.
    pub(crate) fn spend(&mut self, octets: u32) -> Option<()> {
        self.left = self.left.checked_sub(octets)?;
        Some(())
    }

    /// So much of what came was taken, and may come again.
    pub(crate) fn owe(&mut self, octets: u32) {
        self.owed += octets;
    }

    /// By how much the window is to be widened, if that is worth a frame.
    pub(crate) fn due(&mut self) -> Option<u32> {
        if self.owed < self.window / 2 {
            return None;
        }
        let due = std::mem::take(&mut self.owed);
        self.left += due;
        Some(due)
    }
}

/// A stream on which one side has not ended yet.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    /// How much the client takes, in bytes; negative when it thought better of it (6.9.2).
    pub(crate) window: i64,
    /// How the body comes; `None` when the client has ended and all of it was taken.
    pub(crate) receiving: Option<Receiving>,
}

impl Stream {
    /// The client's side, unless it has ended.
    pub(crate) fn receiving(&mut self) -> Option<&mut Receiving> {
        self.receiving
            .as_mut()
            .filter(|receiving| !receiving.has_ended)
    }

    /// Nothing more will come on it.
    pub(crate) fn break_off(&self) {
        if let Some(receiving) = &self.receiving {
            receiving.inbound.break_off();
        }
    }
}

/// The client's side of a stream.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) credit: Credit,
    /// What is still to come by the client's own word, in bytes.
    pub(crate) promised: Option<u64>,
    /// What came and was not taken yet, in bytes.
    pub(crate) unread: u32,
    pub(crate) has_ended: bool,
}

impl Receiving {
    /// A frame of so much `data`, which counts as `length` bytes with its padding; `ends` says that
    /// it is the last.
    pub(crate) fn take(&mut self, data: &[u8], length: u32, ends: bool) -> Result<(), Code> {
        self.credit.spend(length).ok_or(Code::FlowControl)?;
        if let Some(promised) = &mut self.promised {
            let came = u64::try_from(data.len()).unwrap_or(u64::MAX);
            *promised = promised.checked_sub(came).ok_or(Code::Protocol)?;
            // RFC 9113, 8.1.1.
            if ends && *promised > 0 {
                return Err(Code::Protocol);
            }
        }
        self.unread += length;
        let kept = self.inbound.push(data);
        // What nobody takes comes back at once: padding, and what nobody wants.
        let came = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.inbound
            .give_back(if kept { length - came } else { length });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_given_back_in_large_pieces() {
        let mut credit = Credit::new(100);
        assert_eq!(credit.spend(100), Some(()));
        assert_eq!(credit.spend(1), None);
        credit.owe(49);
        assert_eq!(credit.due(), None);
        credit.owe(1);
        assert_eq!(credit.due(), Some(50));
        assert_eq!(credit.spend(50), Some(()));
        assert_eq!(credit.spend(1), None);
    }
}
