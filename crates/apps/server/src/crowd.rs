//! More nodes than memory has room for take turns (`docs/adr/0005-storm.md`).
//!
//! A connection costs some 26 KiB, most of it the buffers of TLS. Where a server is held to less
//! memory than its nodes need at once, those who sit longest and have nothing under way are
//! asked to leave, and told when to come back; they serve their workloads from what they hold
//! meanwhile. What is refused is memory, never a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::Notify;

/// How long a node may stay at least, so that it gets its view and asks for its SVIDs; from then on
/// it stays for as long as it has something under way.
const SHORTEST_STAY: Duration = Duration::from_secs(3);
/// How long a node that was asked to leave stays away, and once more as much, spread.
const AWAY: Duration = Duration::from_mins(1);
/// What a connection costs, in bytes, with its share of a busy heap.
const CONNECTION: u64 = 32 * 1024;
/// What is kept for all else (requests, signatures under way, the kernel's part of sockets): a
/// quarter of what is left, within these bounds, in bytes.
const RESERVE: (u64, u64) = (32 * 1024 * 1024, 96 * 1024 * 1024);
/// The fewest connections, whatever memory there is.
const FEWEST: usize = 256;
/// The most, whatever memory there is: descriptors are bounded too.
pub(crate) const MOST: usize = 16_384;

/// A connection as those see it that may have to close it.
#[derive(Default)]
pub(crate) struct Line {
    busy: AtomicUsize,
    closed: AtomicBool,
    reader: AtomicWaker,
}

/// A request under way on a connection: until it is dropped the connection is not closed.
pub(crate) struct Busy(Arc<Line>);

impl Line {
    /// Keeps the connection open for a request.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Ends the connection as if the client had.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Ready once the connection is to end; wakes the reader then.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.closed.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The nodes that follow their view, in the order in which they came.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<Mutex<Seats>>);

#[derive(Default)]
struct Seats {
    taken: BTreeMap<u64, Taken>,
    next: u64,
}

struct Taken {
    since: Duration,
    line: Arc<Line>,
    leave: Arc<Notify>,
}

/// A node's place; given up when dropped.
pub(crate) struct Seat {
    crowd: Crowd,
    number: u64,
    leave: Arc<Notify>,
    line: Arc<Line>,
}

impl Crowd {
    /// Takes a place for a stream on `line`; `now` is monotonic.
    pub(crate) fn sit(&self, line: Arc<Line>, now: Duration) -> Seat {
        let leave = Arc::new(Notify::new());
        let mut seats = self.seats();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(
            number,
            Taken {
                since: now,
                line: Arc::clone(&line),
                leave: Arc::clone(&leave),
            },
        );
        Seat {
            crowd: self.clone(),
            number,
            leave,
            line,
        }
    }

    /// Asks up to `wanted` nodes to leave, those first that came first; returns how many were
    /// asked. Who came just now or has a request under way is not asked.
    pub(crate) fn make_room(&self, wanted: usize, now: Duration) -> usize {
        let mut seats = self.seats();
        let leaving: Vec<u64> = seats
            .taken
            .iter()
            .take_while(|(_, taken)| now.saturating_sub(taken.since) >= SHORTEST_STAY)
            .filter(|(_, taken)| !taken.line.is_busy())
            .map(|(number, _)| *number)
            .take(wanted)
            .collect();
        for number in &leaving {
            if let Some(taken) = seats.taken.remove(number) {
                taken.leave.notify_one();
            }
        }
        leaving.len()
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Resolves when the node must leave, with the time that it is to stay away.
    pub(crate) async fn asked_to_leave(&self) -> Duration {
        self.leave.notified().await;
        // The golden ratio spreads any run of numbers evenly.
        let share = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        AWAY + AWAY * u32::try_from(share).unwrap_or(0) / 1024
    }

    /// The node's connection.
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.seats().taken.remove(&self.number);
    }
}

/// How many connections the memory that is left has room for.
pub(crate) fn connections() -> usize {
    memory_left().map_or(MOST, room)
}

fn room(left: u64) -> usize {
    let (least, most) = RESERVE;
    let reserve = (left / 4).clamp(least, most);
    let room = left.saturating_sub(reserve) / CONNECTION;
    usize::try_from(room).unwrap_or(MOST).clamp(FEWEST, MOST)
}

/// Nine tenths of what the process is held to by its control group, of either version, less what is
/// resident now: the roll, above all. `None` where nothing holds it.
fn memory_left() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = limits(&groups, Path::new("/sys/fs/cgroup")).min()?;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some((limit / 10 * 9).saturating_sub(pages * 4096))
}

/// The limits that hold for a process in `groups`, the text of `/proc/PID/cgroup`.
fn limits<'a>(groups: &'a str, root: &'a Path) -> impl Iterator<Item = u64> + 'a {
    groups.lines().filter_map(move |line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let file = if controllers.is_empty() {
            root.join(path).join("memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            root.join("memory").join(path).join("memory.limit_in_bytes")
        } else {
            return None;
        };
        // "max" in version 2, a number of almost 2^63 in version 1: no limit.
        let limit: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        (limit < 1 << 50).then_some(limit)
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn whoever_sits_longest_and_has_nothing_under_way_leaves() {
        let crowd = Crowd::default();
        let lines: Vec<Arc<Line>> = (0..4).map(|_| Arc::default()).collect();
        let seats: Vec<Seat> = (0..4)
            .zip(&lines)
            .map(|(second, line)| crowd.sit(Arc::clone(line), at(second)))
            .collect();
        let leaving = |number: usize| seats[number].asked_to_leave().now_or_never().is_some();
        assert_eq!(
            crowd.make_room(9, at(2)),
            0,
            "nobody leaves before the shortest stay"
        );
        let busy = lines[0].busy();
        assert_eq!(crowd.make_room(1, at(10)), 1);
        assert!(leaving(1) && !leaving(0) && !leaving(2));
        drop(busy);
        assert_eq!(crowd.make_room(1, at(10)), 1);
        assert!(leaving(0));
        drop(seats);
        assert_eq!(crowd.make_room(9, at(99)), 0);
    }

    #[test]
    fn those_who_left_do_not_come_back_together() {
        let crowd = Crowd::default();
        let seats: Vec<Seat> = (0..100).map(|_| crowd.sit(Arc::default(), at(0))).collect();
        crowd.make_room(100, at(60));
        let mut waits: Vec<Duration> = seats
            .iter()
            .filter_map(|seat| seat.asked_to_leave().now_or_never())
            .collect();
        waits.sort_unstable();
        assert_eq!(waits.len(), 100);
        assert!(waits[0] >= AWAY && waits[99] <= 2 * AWAY);
        assert!(
            waits
                .windows(2)
                .all(|pair| pair[1].saturating_sub(pair[0]) < at(2))
        );
    }

    #[test]
    fn memory_becomes_connections() {
        assert_eq!(room(0), FEWEST);
        let (least, most) = RESERVE;
        assert_eq!(room(least + 1000 * CONNECTION), 1000);
        assert_eq!(room(most + 9216 * CONNECTION), 9216);
        assert_eq!(room(u64::MAX), MOST);
    }

    #[test]
    fn limits_of_both_versions_are_read() {
        let root = tempfile::TempDir::new().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("a/memory.max", "1048576\n");
        write("b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "4096\n");
        write("memory/d/memory.limit_in_bytes", "9223372036854771712\n");
        let check = |groups: &str, expected: Option<u64>| {
            assert_eq!(limits(groups, root.path()).min(), expected, "{groups}");
        };
        check("0::/a\n", Some(1_048_576));
        check("0::/b\n", None);
        check("4:memory:/c\n0::/\n", Some(4096));
        check("5:cpu,memory:/c\n3:cpuset:/\n", Some(4096));
        check("4:memory:/d\n", None);
        check("", None);
    }
}
