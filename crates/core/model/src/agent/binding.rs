//! What a task's identity belongs to: a process, a control group, or a stream.

use std::fmt;

use super::TextFault;
use super::class::words;

words! {
    /// The kinds of binding.
    BindingKind {
        /// One process, the caller's own or one that it started.
        Process = "process",
        /// Every process of a control group.
        Cgroup = "cgroup",
        /// An open stream of the caller.
        Lease = "lease",
    }
}

/// What a task is bound to, as its node saw it. The server only keeps it: whether it lives, the node
/// knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundTo {
    /// Which kind.
    pub kind: BindingKind,
    /// The process, as the node's own pid namespace counts; of a lease, that of the caller.
    pub pid: u32,
    /// The start of the process in clock ticks since boot.
    pub start_time: u64,
    /// The boot of the node's kernel in which that was.
    pub boot: Option<BootId>,
    /// The control group, where it is one.
    pub cgroup: u64,
}

/// One boot of a kernel, as `/proc/sys/kernel/random/boot_id` names it: a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(u128);

impl BootId {
    /// Parses a UUID in lower case.
    pub fn parse(text: &str) -> Result<Self, TextFault> {
        let mut value: u128 = 0;
        if text.len() != 36 {
            return Err(TextFault::BootId);
        }
        for (at, byte) in text.bytes().enumerate() {
            let digit = match (at, byte) {
                (8 | 13 | 18 | 23, b'-') => continue,
                (8 | 13 | 18 | 23, _) => return Err(TextFault::BootId),
                (_, b'0'..=b'9') => byte - b'0',
                (_, b'a'..=b'f') => byte - b'a' + 10,
                _ => return Err(TextFault::BootId),
            };
            value = (value << 4) | u128::from(digit);
        }
        Ok(Self(value))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, digits: u32| (self.0 >> shift) & ((1 << (digits * 4)) - 1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 8),
            part(80, 4),
            part(64, 4),
            part(48, 4),
            part(0, 12)
        )
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_written_as_the_kernel_writes_it() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(BootId::parse(text).unwrap().to_string(), text);
        for bad in [
            "",
            "0f8fad5bd9cb469fa16570867728950e",
            "0F8FAD5B-D9CB-469F-A165-70867728950E",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "0f8fad5b-d9cb-469f-a165x70867728950e",
        ] {
            assert_eq!(BootId::parse(bad), Err(TextFault::BootId), "{bad}");
        }
    }
}
