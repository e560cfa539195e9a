//! The file that a process runs: its path and its digest.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use muster_crypto::digest::Sha256;
use muster_peer::procfs::ExecutableId;
use muster_plugin::workload::{AttestError, Change, FileId, Process};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat2, readlinkat_raw, statx,
};
use tokio::sync::{OnceCell, Semaphore};

use super::names::Asked;
use super::{DigestLimit, KIND};
use crate::workload::process::{failed, file_id, open};

/// How many files are looked at at once.
const LOOKED_AT: usize = 16;
/// How many files are hashed at once, of which one user has one: whoever starts large new programs
/// all the time keeps itself waiting, and not its neighbours.
const HASHED: usize = 2;
/// How many digests are kept.
const KEPT: usize = 1_024;
/// How much is read at once, in bytes.
const BLOCK: usize = 128 * 1024;

/// A file and its state: while all of it is the same, so is the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            id: FileId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is known about a running file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) path: Option<SeenPath>,
    /// Lower-case hexadecimal.
    pub(super) sha256: Option<String>,
    /// Whether anything was waited for to know it.
    pub(super) asked: Asked,
}

/// A path, by whose view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SeenPath {
    /// It names the running file in the node's view as well.
    Own(String),
    /// Only the process sees the file there.
    Foreign(String),
}

type Slot = Arc<OnceCell<[u8; 32]>>;

/// Looks at executables, off the event loop, and remembers digests.
#[derive(Debug)]
pub(super) struct Executables {
    looking: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
    /// Each user's place among those that hash.
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
    digests: Mutex<Digests>,
}

#[derive(Debug, Default)]
struct Digests {
    known: HashMap<State, Slot>,
    order: VecDeque<State>,
}

impl Executables {
    pub(super) fn new() -> Self {
        Self {
            looking: Arc::new(Semaphore::new(LOOKED_AT)),
            hashing: Arc::new(Semaphore::new(HASHED)),
            users: Mutex::default(),
            digests: Mutex::default(),
        }
    }

    pub(super) async fn of(
        &self,
        process: &Process,
        limit: DigestLimit,
    ) -> Result<Executable, AttestError> {
        if let Some(known) = self.at_once(process, limit)? {
            return Ok(known);
        }
        let subject = process.clone();
        let (file, state, path) =
            blocking(&self.looking, process, move || look(&subject)).await??;
        let sha256 = match limit {
            DigestLimit::Never => None,
            DigestLimit::AtMost(most) if state.size > most => {
                return Err(AttestError::Failed {
                    kind: KIND,
                    reason: format!(
                        "the executable of process {} has {} bytes and workload_size_limit is {most}; raise the limit, or set it to 0 for none, or to -1 for no digests",
                        process.pid, state.size
                    ),
                    source: None,
                });
            }
            DigestLimit::AtMost(_) | DigestLimit::Unlimited => {
                Some(self.digest(process, file, state).await?)
            }
        };
        Ok(Executable {
            path,
            sha256,
            asked: Asked::Yes,
        })
    }

    /// What is known without waiting for anything: of a file that was hashed before, at a path that
    /// the kernel need not ask a file system about. `None` when it takes a closer look.
    fn at_once(
        &self,
        process: &Process,
        limit: DigestLimit,
    ) -> Result<Option<Executable>, AttestError> {
        let Ok(state) = glance(process) else {
            return Ok(None);
        };
        check_program(process, state.id)?;
        let sha256 = match limit {
            DigestLimit::Never => None,
            DigestLimit::AtMost(most) if state.size > most => return Ok(None),
            DigestLimit::AtMost(_) | DigestLimit::Unlimited => match self.known(state) {
                Some(digest) => Some(muster_crypto::digest::hex(&digest)),
                None => return Ok(None),
            },
        };
        let Ok(path) = link(process) else {
            return Ok(None);
        };
        let Ok(seen) = cached_id(&path) else {
            return Ok(None);
        };
        Ok(Some(Executable {
            path: seen_path(&path, state.id, Some(seen)),
            sha256,
            asked: Asked::No,
        }))
    }

    fn known(&self, state: State) -> Option<[u8; 32]> {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.known.get(&state)?.get().copied()
    }

    /// The digest of `file`, computed once however many ask.
    async fn digest(
        &self,
        process: &Process,
        file: File,
        state: State,
    ) -> Result<String, AttestError> {
        let slot = self.slot(state);
        let digest = slot
            .get_or_try_init(|| async {
                let user = self.place_of(process.uid);
                // Never closed: as long as it waits, it waits for its turn.
                let _turn = user.acquire().await.ok();
                process.work.hashed(state.size);
                blocking(&self.hashing, process, move || hash(file, state))
                    .await?
                    .map_err(|error| failed(process, KIND, "exe", error))
            })
            .await?;
        Ok(muster_crypto::digest::hex(digest))
    }

    fn place_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = users.get(&uid).and_then(Weak::upgrade) {
            return place;
        }
        users.retain(|_, place| place.strong_count() > 0);
        let place = Arc::new(Semaphore::new(1));
        users.insert(uid, Arc::downgrade(&place));
        place
    }

    fn slot(&self, state: State) -> Slot {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = digests.known.get(&state) {
            return Arc::clone(slot);
        }
        if digests.order.len() >= KEPT
            && let Some(oldest) = digests.order.pop_front()
        {
            digests.known.remove(&oldest);
        }
        let slot = Slot::default();
        digests.known.insert(state, Arc::clone(&slot));
        digests.order.push_back(state);
        slot
    }
}

/// Does `work` where it may take its time, in one of `places`.
async fn blocking<T: Send + 'static>(
    places: &Arc<Semaphore>,
    process: &Process,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AttestError> {
    let stopped = |reason: String| AttestError::Failed {
        kind: KIND,
        reason: format!("process {}: {reason}", process.pid),
        source: None,
    };
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(|error| stopped(error.to_string()))?;
    tokio::task::spawn_blocking(move || {
        let result = work();
        drop(place);
        result
    })
    .await
    .map_err(|error| stopped(error.to_string()))
}

/// Opens the running file through the kernel's link, which no path lookup can redirect.
fn look(process: &Process) -> Result<(File, State, Option<SeenPath>), AttestError> {
    let failed = |error| failed(process, KIND, "exe", error);
    let file = open(process, KIND, "exe")?;
    let state = State::of(&file.metadata().map_err(failed)?);
    check_program(process, state.id)?;
    let path = link(process).map_err(failed)?;
    let seen = std::fs::metadata(&path).map(|metadata| State::of(&metadata).id);
    Ok((file, state, seen_path(&path, state.id, seen.ok())))
}

/// The path of the running file, as the process sees it.
///
/// Into a buffer on the stack, for the reason of `procfs::read_file`; the kernel writes no longer one
/// here.
fn link(process: &Process) -> io::Result<PathBuf> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (path, _rest) = readlinkat_raw(&process.dir, "exe", &mut buffer)?;
    Ok(PathBuf::from(OsStr::from_bytes(path)))
}

fn check_program(process: &Process, found: FileId) -> Result<(), AttestError> {
    if process.executable.is_some_and(|id| id != found) {
        return Err(AttestError::Changed {
            pid: process.pid,
            change: Change::Program,
        });
    }
    Ok(())
}

/// The state of the running file as the kernel knows it, without asking its file system.
fn glance(process: &Process) -> io::Result<State> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = statx(&process.dir, "exe", flags, StatxFlags::BASIC_STATS)?;
    Ok(State {
        id: FileId {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        },
        size: found.stx_size,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into()),
    })
}

/// The file that a path names in the node's view, if the kernel has all of the path in its memory.
fn cached_id(path: &Path) -> io::Result<FileId> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED)?;
    ExecutableId::of(&file).map(file_id)
}

/// Judges a path. One that is not UTF-8 cannot be a selector; lossy conversion could make it
/// another's.
fn seen_path(path: &Path, running: FileId, in_our_view: Option<FileId>) -> Option<SeenPath> {
    let text = path.to_str()?.to_owned();
    Some(if in_our_view == Some(running) {
        SeenPath::Own(text)
    } else {
        SeenPath::Foreign(text)
    })
}

fn hash(mut file: File, state: State) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut left = state.size;
    loop {
        let read = match file.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // A file that grows while it is read has no end.
        left = left.checked_sub(read as u64).ok_or_else(changed)?;
        hasher.update(block.get(..read).unwrap_or_default());
    }
    if left != 0 || State::of(&file.metadata()?) != state {
        return Err(changed());
    }
    Ok(hasher.finish())
}

fn changed() -> io::Error {
    io::Error::other("the executable changed while it was hashed")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::workload::process::tests::{end, own_process, process_by_pid, spawn};

    fn state(file: &File) -> State {
        State::of(&file.metadata().unwrap())
    }

    #[test]
    fn digests_are_of_the_content() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let state = state(&file);
        let digest = hash(file, state).unwrap();
        assert_eq!(digest, muster_crypto::digest::sha256(b"abc"));
    }

    #[test]
    fn a_file_that_changes_meanwhile_has_no_digest() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let before = state(&file);
        file.write_all(b"d").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert!(hash(file, before).is_err());
    }

    #[tokio::test]
    async fn many_that_ask_at_once_hash_once() {
        let executables = Executables::new();
        let process = own_process();
        let one = || executables.of(&process, DigestLimit::Unlimited);
        let (a, b, c) = tokio::join!(one(), one(), one());
        assert_eq!(a.unwrap(), b.unwrap());
        let path = std::env::current_exe()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let content = std::fs::read(&path).unwrap();
        let digest = muster_crypto::digest::hex(&muster_crypto::digest::sha256(&content));
        let expected = Executable {
            path: Some(SeenPath::Own(path)),
            sha256: Some(digest),
            asked: Asked::Yes,
        };
        assert_eq!(c.unwrap(), expected);
        assert_eq!(executables.digests.lock().unwrap().known.len(), 1);

        // Who comes later is told the same without waiting.
        let again = executables.at_once(&process, DigestLimit::Unlimited);
        let expected = Executable {
            asked: Asked::No,
            ..expected
        };
        assert_eq!(again.unwrap(), Some(expected));
    }

    /// Nothing that was known of another file, or of the path before, is told at once.
    #[tokio::test]
    async fn what_is_told_at_once_is_of_the_file_and_path_of_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let copied = std::process::Command::new("cp")
            .arg("/bin/cat")
            .arg(&path)
            .status();
        assert!(copied.unwrap().success());
        let child = spawn(&path);
        let executables = Executables::new();
        let process = process_by_pid(child.id());
        let limit = DigestLimit::Unlimited;
        assert_eq!(executables.at_once(&process, limit).unwrap(), None);
        let looked = executables.of(&process, limit).await.unwrap();
        let known = executables.at_once(&process, limit).unwrap().unwrap();
        assert_eq!((&known.path, &known.sha256), (&looked.path, &looked.sha256));
        assert!(matches!(known.path, Some(SeenPath::Own(_))), "{known:?}");

        // Another file takes its path: the change of the running file is seen, and its digest is
        // not known until it is hashed again.
        let other = folder.path().join("other");
        std::fs::write(&other, b"another").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(executables.at_once(&process, limit).unwrap(), None);
        let looked = executables.of(&process, limit).await.unwrap();
        assert_eq!(looked.sha256, known.sha256);
        assert!(
            matches!(looked.path, Some(SeenPath::Foreign(_))),
            "{looked:?}"
        );

        let mut process = process;
        process.executable = Some(FileId {
            device: 1,
            inode: 1,
        });
        let changed = executables.at_once(&process, limit).unwrap_err();
        assert!(matches!(changed, AttestError::Changed { .. }), "{changed}");
        end(child);
    }

    /// While one user's large file is hashed, another's is not kept waiting, nor is a look.
    #[tokio::test]
    async fn a_user_hashes_one_file_at_a_time() {
        let executables = Executables::new();
        let mut process = own_process();
        process.uid = 7;
        let place = executables.place_of(7);
        let held = place.acquire().await.unwrap();
        executables.of(&process, DigestLimit::Never).await.unwrap();
        let waits = executables.of(&process, DigestLimit::Unlimited);
        let mut waits = std::pin::pin!(waits);
        let (reached, goes_on) =
            tokio::join!(async { futures::poll!(waits.as_mut()).is_ready() }, async {
                executables.place_of(8).try_acquire().is_ok()
            });
        assert!(!reached && goes_on);
        drop(held);
        waits.await.unwrap();
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let executables = Executables::new();
        for size in 0..2 * KEPT as u64 {
            executables.slot(State {
                id: FileId {
                    device: 1,
                    inode: 1,
                },
                size,
                modified: (0, 0),
                changed: (0, 0),
            });
        }
        let digests = executables.digests.lock().unwrap();
        assert_eq!((digests.known.len(), digests.order.len()), (KEPT, KEPT));
    }
}
