//! Reading one process.
//!
//! Arguments and environment are read into a buffer of fixed size, compared there, and wiped: no
//! allocation ever holds them, and nothing of them is in what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

use muster_model::{Shown, Sighted, Starter, Word};
use muster_peer::{HeldProcess, ProcDir, Processes};
use muster_sighting::proc::{cgroup, cmdline, environ, maps, net, stat, status};
use muster_sighting::{Finding, Look, Signatures, holds_secret, providers};
use nix::fcntl::readlinkat;
use zeroize::{Zeroize as _, Zeroizing};

/// The most that is read of arguments and of an environment, in bytes.
const BUFFER: usize = 256 * 1024;
/// The most that is read of other files, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;
/// The most files that a process maps, and descriptors that it has, of which any are looked at.
const MOST: usize = 4096;
/// How far up it is looked who started a process.
const GENERATIONS: usize = 8;

/// What is told of a process beside what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) executable: Shown,
    pub(super) uid: u32,
    pub(super) unit: Shown,
    pub(super) started_by: Vec<Starter>,
    pub(super) ports: Vec<u16>,
    pub(super) providers: Vec<Word>,
}

/// What a look came to.
pub(super) struct Looked {
    pub(super) finding: Option<Finding>,
    pub(super) place: Place,
    /// Names of variables of its first environment that a rule knows, and that hold secrets.
    pub(super) secrets: Vec<Shown>,
}

/// Reads processes, one after the other.
pub(super) struct Looker {
    signatures: Signatures,
    processes: Processes,
    buffer: Zeroizing<Vec<u8>>,
    /// The sockets that listen, by network namespace; known for one sweep.
    listening: BTreeMap<Vec<u8>, BTreeMap<u64, u16>>,
}

impl Looker {
    pub(super) fn new(signatures: Signatures, processes: Processes) -> Self {
        Self {
            signatures,
            processes,
            buffer: Zeroizing::new(vec![0; BUFFER]),
            listening: BTreeMap::new(),
        }
    }

    /// A sweep begins.
    pub(super) fn begin(&mut self) {
        self.listening.clear();
    }

    /// Reads the process that has this number and started then; `None` where that one is no more,
    /// or executed another program meanwhile.
    pub(super) fn look(&mut self, pid: u32, start_time: u64) -> Option<Looked> {
        let held = self.processes.by_number(pid).ok()?;
        if held.start_time() != start_time {
            return None;
        }
        let dir = held.proc_dir().ok()?;
        let executable = link(&dir, "exe");
        let libraries = mapped(&dir);
        let variables = self.variables(&dir);
        let ports = self.ports(&dir);
        let finding = self.judge(&dir, executable.as_deref(), &libraries, &variables, &ports);
        let status = read(&dir, "status");
        let place = Place {
            executable: Shown::of(executable.as_deref().unwrap_or_default()),
            uid: status::effective_uid(&status)?,
            unit: Shown::of(&cgroup::unit(&read(&dir, "cgroup")).unwrap_or_default()),
            started_by: match finding {
                Some(_) => started_by(&held),
                None => Vec::new(),
            },
            ports: ports.into_iter().take(Sighted::MOST).collect(),
            providers: providers(&variables),
        };
        // What was read is of one process and one program, or it is not believed.
        held.verify().ok()?;
        let secrets = variables.iter().filter(|name| holds_secret(name));
        Some(Looked {
            finding,
            place,
            secrets: secrets.map(|name| Shown::of(name)).collect(),
        })
    }

    fn judge(
        &mut self,
        dir: &ProcDir,
        executable: Option<&str>,
        libraries: &BTreeSet<String>,
        variables: &BTreeSet<String>,
        ports: &BTreeSet<u16>,
    ) -> Option<Finding> {
        let length = self.fill(dir, "cmdline");
        let finding = {
            let words = cmdline::words(self.buffer.get(..length).unwrap_or_default());
            self.signatures.judge(&Look {
                executable,
                words: &words,
                libraries,
                variables,
                ports,
            })
        };
        if let Some(used) = self.buffer.get_mut(..length) {
            used.zeroize();
        }
        finding
    }

    fn variables(&mut self, dir: &ProcDir) -> BTreeSet<String> {
        let length = self.fill(dir, "environ");
        let Some(used) = self.buffer.get_mut(..length) else {
            return BTreeSet::new();
        };
        let signatures = &self.signatures;
        environ::take_names(used, |name| signatures.knows_variable(name))
    }

    /// Fills the buffer with the beginning of a file, and tells how much of it. What cannot be read
    /// is empty: other users' processes are hidden from a node without privilege.
    fn fill(&mut self, dir: &ProcDir, name: &'static str) -> usize {
        let Ok(mut file) = dir.open_file(name) else {
            return 0;
        };
        let mut length = 0;
        while let Some(room) = self
            .buffer
            .get_mut(length..)
            .filter(|room| !room.is_empty())
        {
            match file.read(room) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        length
    }

    /// The TCP ports on which a process listens: its sockets, among those of its network namespace.
    fn ports(&mut self, dir: &ProcDir) -> BTreeSet<u16> {
        let Ok(namespace) = readlinkat(dir, "ns/net") else {
            return BTreeSet::new();
        };
        let listening = self
            .listening
            .entry(namespace.as_bytes().to_vec())
            .or_insert_with(|| {
                let tables = ["net/tcp", "net/tcp6"].map(|name| read(dir, name));
                let all = tables.iter().flat_map(|table| net::listening(table));
                all.map(|socket| (socket.inode, socket.port)).collect()
            });
        if listening.is_empty() {
            return BTreeSet::new();
        }
        let descriptors = format!("/proc/self/fd/{}/fd", dir.as_fd().as_raw_fd());
        let Ok(entries) = fs::read_dir(descriptors) else {
            return BTreeSet::new();
        };
        entries
            .flatten()
            .take(MOST)
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter_map(|link| net::socket(link.as_os_str().as_bytes()))
            .filter_map(|inode| listening.get(&inode).copied())
            .collect()
    }
}

/// The text of a link of the directory.
fn link(dir: &ProcDir, name: &str) -> Option<String> {
    let text = readlinkat(dir, name).ok()?;
    Some(text.to_string_lossy().into_owned())
}

/// A file that holds nothing secret.
fn read(dir: &ProcDir, name: &'static str) -> Vec<u8> {
    let mut content = Vec::new();
    let mut take = |file: File| file.take(LARGEST).read_to_end(&mut content);
    // What cannot be read is empty.
    let _length = dir.open_file(name).map(&mut take);
    content
}

fn mapped(dir: &ProcDir) -> BTreeSet<String> {
    let table = read(dir, "maps");
    maps::files(&table).take(MOST).map(str::to_owned).collect()
}

/// The processes above one, the nearest first. A parent has begun before its child: another process
/// that has its number by now did not.
fn started_by(held: &HeldProcess) -> Vec<Starter> {
    let mut above = Vec::new();
    let of = |pid: u32| stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?);
    let mut child = of(held.pid());
    while let Some(now) = child.filter(|now| now.parent > 0 && above.len() < GENERATIONS) {
        let pid = now.parent;
        let Some(parent) = of(pid).filter(|parent| parent.start_time <= now.start_time) else {
            break;
        };
        let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let Some(uid) = status::effective_uid(&file("status")) else {
            break;
        };
        above.push(Starter {
            executable: Shown::of(&name),
            uid,
            login: status::login_uid(&file("loginuid")),
        });
        child = Some(parent);
    }
    above
}
