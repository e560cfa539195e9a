//! `/proc/PID/stat`: one line of numbers; the second field is a name in parentheses which the
//! process chooses, and which may hold anything.

/// `PF_KTHREAD` of the kernel's `sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What is read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    /// The parent's number; 0 where it has none.
    pub parent: u32,
    /// When it started, in clock ticks since boot (field 22).
    pub start_time: u64,
    /// Whether it is a thread of the kernel (field 9).
    pub kernel_thread: bool,
    /// Whether it has ended and nobody asked how (field 3).
    pub zombie: bool,
    /// Where its program and its arguments lie in memory (fields 26, 28 and 48). They change when it
    /// executes another program, or the same one anew; without the right to look they are 0 or 1.
    pub image: [u64; 3],
}

impl Stat {
    /// Whether the kernel shows where the program lies.
    pub fn shows_image(&self) -> bool {
        self.image.iter().all(|address| *address > 1)
    }
}

/// Reads the line; `None` where it is not one.
pub fn parse(stat: &[u8]) -> Option<Stat> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of them is the third of the line.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: field(4)?.parse().ok()?,
        start_time: number(22)?,
        kernel_thread: number(9)? & KERNEL_THREAD != 0,
        zombie: matches!(field(3)?, "Z" | "X" | "x"),
        image: [26, 28, 48].map(|at| number(at).unwrap_or(0)),
    })
}

/// When the machine was booted, in seconds since 1970 (`btime` of `/proc/stat`).
pub fn boot_time(stat: &[u8]) -> Option<i64> {
    stat.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|seconds| seconds.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_hold_anything() {
        let line = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 990 1 2 3 5001 5002 5003 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 2 3 6001 6002 6003 6004 0\n";
        let stat = parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                parent: 7,
                start_time: 990,
                kernel_thread: false,
                zombie: false,
                image: [5001, 5003, 6001],
            }
        );
        assert!(stat.shows_image());
        for bad in [&b""[..], b"42 (x", b"42 (x) S", b"42 (x) S one"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn boot_times() {
        assert_eq!(
            boot_time(b"cpu 1 2\nbtime 1700000000\nx 1\n"),
            Some(1_700_000_000)
        );
        assert_eq!(boot_time(b"btime x\n"), None);
    }
}
