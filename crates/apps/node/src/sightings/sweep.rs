//! Going through the processes of the machine, on a thread of its own.
//!
//! Most processes are known from the sweep before: then one read of their `stat` says that they are
//! the same and run the same program. Libraries come later than the process, so that one that is
//! known is looked at again, after ever more sweeps.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Confidence, Inherited};
use muster_peer::{Processes, process};
use muster_rt::Clock;
use muster_sighting::proc::stat::{self, Stat};
use muster_sighting::{Bearer, Finding, Kin, Kinship, Signatures};
use tokio::sync::{mpsc, oneshot};

use super::look::{Looked, Looker, Place};

/// How long the thread works before it rests.
const WORK: Duration = Duration::from_millis(20);
/// How long it rests then: at most a quarter of a core is used.
const REST: Duration = Duration::from_millis(60);
/// The most sweeps that a known process is not looked at again.
const LONGEST_CALM: u32 = 64;
/// The most processes that are found: more are counted.
const MOST_FOUND: usize = 4096;

/// A process that looks like an agent.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) finding: Arc<Finding>,
    pub(super) place: Arc<Place>,
    /// The secrets that it hands down to what it started.
    pub(super) inherited: Vec<Inherited>,
}

/// What a sweep came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Swept {
    /// By ascending number.
    pub(super) found: Vec<Found>,
    /// Processes that there are, threads of the kernel left out.
    pub(super) processes: usize,
    /// Those that were read; the others are known.
    pub(super) looked_at: usize,
    /// Time that the thread worked.
    pub(super) worked: Duration,
    /// What was found and is too much.
    pub(super) left_out: usize,
    /// When the machine was booted, in seconds since 1970.
    pub(super) boot_time: i64,
}

/// The thread that sweeps. It ends with the last handle.
pub(super) struct Thread(mpsc::Sender<oneshot::Sender<Swept>>);

impl Thread {
    /// Starts it.
    pub(super) fn start(
        signatures: Signatures,
        at_least: Confidence,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<Swept>>(1);
        std::thread::Builder::new()
            .name("sightings".to_owned())
            .spawn(move || {
                if let Err(error) = process::yield_to_others() {
                    tracing::debug!(%error, "the search for agents keeps its priority");
                }
                let mut sweep = Sweep::new(signatures, at_least, clock);
                while let Some(reply) = asked.blocking_recv() {
                    // Nobody waits any longer when the node is ending.
                    drop(reply.send(sweep.run(&|| asked.is_closed())));
                }
            })?;
        Ok(Self(ask))
    }

    /// One sweep; `None` when the thread has ended.
    pub(super) async fn sweep(&self) -> Option<Swept> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        answer.await.ok()
    }
}

/// A process that was looked at.
struct Known {
    identity: Identity,
    /// It may be another one by now, if the one that started it has ended.
    parent: u32,
    finding: Option<(Arc<Finding>, Arc<Place>)>,
    /// What it has of secrets.
    bears: Option<Box<Bearer>>,
    /// Sweeps until it is looked at again, and how many that were the last time.
    calm: u32,
    calmed: u32,
}

impl Known {
    fn kin(&self) -> Kin<'_> {
        Kin {
            parent: self.parent,
            start_time: self.identity.start_time,
            bears: self.bears.as_deref(),
        }
    }
}

/// What is the same as long as a process is, and runs the same program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    start_time: u64,
    image: [u64; 3],
    /// Device and inode of the program, where the kernel does not show where it lies in memory.
    executable: Option<(u64, u64)>,
}

impl Identity {
    fn of(pid: u32, stat: &Stat) -> Self {
        let executable = || {
            let found = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
            Some((found.dev(), found.ino()))
        };
        Self {
            start_time: stat.start_time,
            image: stat.image,
            executable: if stat.shows_image() {
                None
            } else {
                executable()
            },
        }
    }
}

struct Sweep {
    looker: Looker,
    at_least: Confidence,
    clock: Arc<dyn Clock>,
    known: HashMap<u32, Known>,
}

impl Sweep {
    fn new(signatures: Signatures, at_least: Confidence, clock: Arc<dyn Clock>) -> Self {
        Self {
            looker: Looker::new(signatures, Processes::default()),
            at_least,
            clock,
            known: HashMap::new(),
        }
    }

    fn run(&mut self, is_over: &dyn Fn() -> bool) -> Swept {
        let mut swept = Swept {
            boot_time: fs::read("/proc/stat")
                .ok()
                .and_then(|content| stat::boot_time(&content))
                .unwrap_or(0),
            ..Swept::default()
        };
        self.looker.begin();
        let mut known = std::mem::take(&mut self.known);
        let mut begun = self.clock.now().mono;
        for pid in numbers() {
            let worked = self.clock.now().mono.saturating_sub(begun);
            if worked >= WORK {
                swept.worked += worked;
                if is_over() {
                    return swept;
                }
                std::thread::sleep(REST);
                begun = self.clock.now().mono;
            }
            let Some((is, parent, before)) = identify(pid, known.remove(&pid)) else {
                continue;
            };
            swept.processes += 1;
            let now = match before {
                Some(mut before) if before.calm > 0 => {
                    before.calm -= 1;
                    before.parent = parent;
                    before
                }
                before => {
                    swept.looked_at += 1;
                    let Some(now) = self.look(pid, (is, parent), before.as_ref()) else {
                        continue;
                    };
                    now
                }
            };
            if let Some((finding, place)) = &now.finding {
                if swept.found.len() < MOST_FOUND {
                    swept.found.push(Found {
                        pid,
                        start_time: is.start_time,
                        finding: Arc::clone(finding),
                        place: Arc::clone(place),
                        inherited: Vec::new(),
                    });
                } else {
                    swept.left_out += 1;
                }
            }
            self.known.insert(pid, now);
        }
        self.join_heirs(&mut swept.found);
        swept.worked += self.clock.now().mono.saturating_sub(begun);
        swept
    }

    /// Says of what was found which secrets it hands down: what is known of all others is compared, and
    /// nothing is read.
    fn join_heirs(&self, found: &mut [Found]) {
        let bears = |one: &Found| self.known.get(&one.pid)?.bears.as_ref();
        if !found.iter().any(|one| bears(one).is_some()) {
            return;
        }
        let all: BTreeMap<u32, Kin<'_>> = self
            .known
            .iter()
            .map(|(pid, known)| (*pid, known.kin()))
            .collect();
        let mut inherited = muster_sighting::inherited(&all);
        for one in found {
            one.inherited = inherited.remove(&one.pid).unwrap_or_default();
        }
    }

    /// Reads a process; `None` where it has ended or become another meanwhile.
    fn look(
        &mut self,
        pid: u32,
        (is, parent): (Identity, u32),
        before: Option<&Known>,
    ) -> Option<Known> {
        let looked = self.looker.look(pid, is.start_time)?;
        let Looked {
            finding,
            place,
            secrets,
        } = looked;
        let sure = finding.filter(|finding| finding.first.confidence >= self.at_least);
        let bears = (!secrets.is_empty()).then(|| {
            Box::new(Bearer {
                kinship: Kinship::of(place.executable.as_str(), sure.as_ref()),
                executable: place.executable.clone(),
                secrets,
            })
        });
        let calmed = before.map_or(0, |before| (before.calmed * 2 + 1).min(LONGEST_CALM));
        Some(Known {
            identity: is,
            parent,
            bears,
            finding: sure.map(|finding| (Arc::new(finding), Arc::new(place))),
            calm: calmed,
            calmed,
        })
    }
}

/// Which process has a number now, its parent, and what is known of that one; `None` where there is none that
/// could be an agent.
fn identify(pid: u32, before: Option<Known>) -> Option<(Identity, u32, Option<Known>)> {
    let content = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = stat::parse(&content)?;
    if stat.kernel_thread || stat.zombie {
        return None;
    }
    let is = Identity::of(pid, &stat);
    let same = before.filter(|before| before.identity == is);
    Some((is, stat.parent, same))
}

/// The numbers of all processes but this one.
fn numbers() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests;
