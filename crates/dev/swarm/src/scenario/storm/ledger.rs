//! What of a core's time others left to the server: a machine that is measured may be busy with
//! something else, and what it takes from a server that wants to run is neither lost nor won. What
//! others use while the server has nothing to do was the server's to use.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use tokio::time::sleep;

use crate::Failure;
use crate::clock::Stopwatch;
use crate::proc::Pid;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// How much of a core others had taken, by instants.
#[derive(Default)]
pub(super) struct Ledger(Vec<Entry>);

#[derive(Clone, Copy)]
struct Entry {
    at: Duration,
    others: Duration,
}

/// A ledger that is being written; it ends with this value.
pub(super) struct Keeper {
    ledger: Arc<Mutex<Ledger>>,
    task: tokio::task::JoinHandle<()>,
}

impl Keeper {
    /// Keeps the ledger of `core`, on which `server` runs; without a core, others are taken to use
    /// nothing.
    pub(super) fn start(core: Option<usize>, server: Pid, clock: Arc<Stopwatch>) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let written = Arc::clone(&ledger);
        let task = tokio::spawn(async move {
            let mut before = None;
            let mut others = Duration::ZERO;
            // It ends with the server.
            while let Ok(now) = Look::at(core, server) {
                if let Some(before) = before.replace(now) {
                    others += now.taken_since(before);
                }
                let at = clock.elapsed();
                note(&written, Entry { at, others });
                sleep(LOOK).await;
            }
        });
        Self { ledger, task }
    }

    /// The ledger until now.
    pub(super) fn close(self) -> Ledger {
        self.task.abort();
        std::mem::take(&mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn note(ledger: &Mutex<Ledger>, entry: Entry) {
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    ledger.0.push(entry);
}

impl Ledger {
    /// The time between two instants that others left.
    pub(super) fn left(&self, from: Duration, to: Duration) -> Duration {
        let others = self.others(to).saturating_sub(self.others(from));
        to.saturating_sub(from).saturating_sub(others)
    }

    /// What others had used at an instant: on the line between the looks before and after it.
    fn others(&self, at: Duration) -> Duration {
        let after = self.0.partition_point(|entry| entry.at < at);
        let Some(next) = self.0.get(after) else {
            return self.0.last().map_or(Duration::ZERO, |last| last.others);
        };
        let Some(before) = after.checked_sub(1).and_then(|index| self.0.get(index)) else {
            return next.others;
        };
        let span = next.at.saturating_sub(before.at).as_secs_f64();
        let share = at.saturating_sub(before.at).as_secs_f64() / span.max(f64::EPSILON);
        before.others + next.others.saturating_sub(before.others).mul_f64(share)
    }
}

/// Counters at one moment, since the machine or the process started.
#[derive(Clone, Copy)]
struct Look {
    /// What all but the server used of the core.
    others: Duration,
    /// How long the server's threads were ready to run and did not.
    kept_waiting: Duration,
}

impl Look {
    fn at(core: Option<usize>, server: Pid) -> Result<Self, Failure> {
        Ok(Self {
            others: core.map_or(Ok(Duration::ZERO), |core| others(core, server))?,
            kept_waiting: server.kept_waiting()?,
        })
    }

    /// What others took: no more than they used, and no more than the server was kept from. Its own
    /// threads keep each other waiting as well.
    fn taken_since(self, before: Self) -> Duration {
        let used = self.others.saturating_sub(before.others);
        used.min(self.kept_waiting.saturating_sub(before.kept_waiting))
    }
}

/// What all but the server has used of a core since the machine started.
fn others(core: usize, server: Pid) -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/stat")?;
    let own = server.cpu()?;
    let second = sysconf(SysconfVar::CLK_TCK)?.ok_or("the kernel names no clock tick")?;
    Ok(used(&stat, core, u64::try_from(second)?)?.saturating_sub(own))
}

/// The time of programs, of the kernel on their behalf, and of other machines, on a core, by
/// `/proc/stat`. Interrupts are left out: those of a server's own connections are among them.
fn used(stat: &str, core: usize, ticks_by_second: u64) -> Result<Duration, Failure> {
    let name = format!("cpu{core}");
    let line = stat
        .lines()
        .find(|line| line.split(' ').next() == Some(&name))
        .ok_or_else(|| format!("/proc/stat without {name}"))?;
    let mut ticks = 0;
    // user nice system idle iowait irq softirq steal
    for (place, field) in line.split_whitespace().skip(1).take(8).enumerate() {
        if matches!(place, 0..=2 | 7) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 1000 / ticks_by_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_others_use_is_not_left() {
        let entry = |at_ms, others_ms| Entry {
            at: at(at_ms),
            others: at(others_ms),
        };
        let ledger = Ledger(vec![entry(1000, 50), entry(2000, 50), entry(4000, 1050)]);
        assert_eq!(ledger.left(at(1000), at(2000)), at(1000));
        assert_eq!(ledger.left(at(2000), at(4000)), at(1000));
        assert_eq!(ledger.left(at(2000), at(3000)), at(500));
        assert_eq!(ledger.left(at(1500), at(3000)), at(1000));
        // Nothing is known of what was before, or comes after.
        assert_eq!(ledger.left(at(0), at(1000)), at(1000));
        assert_eq!(ledger.left(at(4000), at(5000)), at(1000));
        assert_eq!(Ledger::default().left(at(1), at(3)), at(2));
    }

    #[test]
    fn what_others_use_while_the_server_rests_is_not_taken_from_it() {
        let look = |others, kept_waiting| Look {
            others: at(others),
            kept_waiting: at(kept_waiting),
        };
        let before = look(1000, 200);
        assert_eq!(look(1100, 200).taken_since(before), at(0));
        assert_eq!(look(1100, 230).taken_since(before), at(30));
        // Its own threads kept each other waiting.
        assert_eq!(look(1010, 300).taken_since(before), at(10));
    }

    #[test]
    fn a_core_is_told_from_another() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 100 100 100 100 4 0 0\ncpu11 5 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(used(stat, 1, 100).unwrap(), at(100));
        assert_eq!(used(stat, 11, 100).unwrap(), at(50));
        assert!(used(stat, 2, 100).is_err());
    }
}
