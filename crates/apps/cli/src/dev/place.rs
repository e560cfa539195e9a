//! Where a development trust domain keeps its state and its sockets.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use muster_rt::endpoint::MAX_SOCKET_PATH;
use muster_rt::files::{self, LockFile};
use tempfile::TempDir;

use crate::failure::Failure;

/// What the names of our temporary directories begin with.
const PREFIX: &str = "muster-dev-";
/// Held by the `muster dev` that uses the directory.
const LOCK: &str = "muster-dev.lock";

/// The directory of a trust domain, locked. Dropping it removes a temporary one.
pub(super) struct Place {
    base: PathBuf,
    // The lock goes before the directory that holds it.
    _lock: LockFile,
    temporary: Option<TempDir>,
}

impl Place {
    /// The directory that was asked for, or a temporary one.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, Failure> {
        match directory {
            Some(directory) => Self::kept(directory),
            None => Self::temporary(),
        }
    }

    fn kept(directory: &Path) -> Result<Self, Failure> {
        match DirBuilder::new().recursive(true).create(directory) {
            Ok(()) => {}
            Err(error) => {
                return Err(Failure::failed(format!(
                    "cannot create {}: {error}; pass another --dir",
                    directory.display()
                )));
            }
        }
        let base = directory.canonicalize().map_err(|error| {
            Failure::failed(format!("cannot use {}: {error}", directory.display()))
        })?;
        check_lengths(&base, "pass a shorter --dir")?;
        // Every uid must be able to reach the Workload API (WEP-17); what is private below has its
        // own directories.
        let mode = fs::metadata(&base)
            .map_err(|error| Failure::failed(format!("{}: {error}", base.display())))?
            .mode();
        if mode & 0o111 != 0o111 {
            set_mode(&base, (mode & 0o7777) | 0o111)?;
        }
        Self::lay_out(base, None)
    }

    fn temporary() -> Result<Self, Failure> {
        // The runtime directory may be another user's, after `su` for example.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute());
        let mut made = None;
        for root in runtime.into_iter().chain([std::env::temp_dir()]) {
            sweep(&root);
            match temporary_in(&root) {
                Ok(directory) => {
                    made = Some(Ok(directory));
                    break;
                }
                Err(failure) => made = Some(Err(failure)),
            }
        }
        let directory =
            made.unwrap_or_else(|| Err(Failure::failed("there is no place for temporary files")))?;
        let base = directory.path().to_owned();
        check_lengths(
            &base,
            "set TMPDIR or XDG_RUNTIME_DIR to a shorter path, or pass --dir",
        )?;
        Self::lay_out(base, Some(directory))
    }

    fn lay_out(base: PathBuf, temporary: Option<TempDir>) -> Result<Self, Failure> {
        let lock = LockFile::acquire(&base.join(LOCK))?;
        let place = Self {
            base,
            _lock: lock,
            temporary,
        };
        files::private_directory(&place.server_dir())?;
        files::private_directory(&place.node_dir())?;
        let run = place.base.join("run");
        match DirBuilder::new().mode(0o755).create(&run) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure::failed(format!(
                    "cannot create {}: {error}",
                    run.display()
                )));
            }
            Ok(()) | Err(_) => set_mode(&run, 0o755)?,
        }
        Ok(place)
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn server_dir(&self) -> PathBuf {
        self.base.join("server")
    }

    pub(super) fn node_dir(&self) -> PathBuf {
        self.base.join("node")
    }

    /// The agent's executable is in it; made when there is one.
    pub(super) fn agent_dir(&self) -> PathBuf {
        self.base.join("agent")
    }

    pub(super) fn server_socket(&self) -> PathBuf {
        server_socket(&self.base)
    }

    pub(super) fn node_socket(&self) -> PathBuf {
        node_socket(&self.base)
    }

    pub(super) fn broker_socket(&self) -> PathBuf {
        broker_socket(&self.base)
    }

    pub(super) fn workload_socket(&self) -> PathBuf {
        workload_socket(&self.base)
    }

    /// Ends the use of the directory; a temporary one is removed, and that it could not be is told.
    pub(super) fn close(self) -> Result<(), Failure> {
        let Some(directory) = self.temporary else {
            return Ok(());
        };
        directory.close().map_err(|error| {
            Failure::failed(format!(
                "cannot remove {}: {error}; remove it by hand",
                self.base.display()
            ))
        })
    }
}

fn temporary_in(root: &Path) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(root)
        .map_err(|error| {
            Failure::failed(format!(
                "cannot make a temporary directory in {}: {error}; set TMPDIR, or pass --dir",
                root.display()
            ))
        })
}

fn server_socket(base: &Path) -> PathBuf {
    base.join("server/api.sock")
}

fn node_socket(base: &Path) -> PathBuf {
    base.join("node/admin.sock")
}

fn broker_socket(base: &Path) -> PathBuf {
    base.join("node/broker.sock")
}

fn workload_socket(base: &Path) -> PathBuf {
    base.join("run/workload.sock")
}

/// The kernel takes no longer paths for sockets; the daemons would fail later and less clearly.
fn check_lengths(base: &Path, remedy: &str) -> Result<(), Failure> {
    for socket in [
        server_socket(base),
        node_socket(base),
        broker_socket(base),
        workload_socket(base),
    ] {
        let length = socket.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            return Err(Failure::usage(format!(
                "the socket {} would have a path of {length} bytes; the kernel takes at most \
                 {MAX_SOCKET_PATH}: {remedy}",
                socket.display()
            )));
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| {
        Failure::failed(format!(
            "cannot set the mode of {} to {mode:03o}: {error}; the Workload API must be reachable \
             through it",
            path.display()
        ))
    })
}

/// Removes what a killed `muster dev` left behind: directories of our name, ours, with a lock file
/// that nobody holds. What cannot be removed is left for the next time.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    let me = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == me);
        let lock = path.join(LOCK);
        if ours
            && lock.is_file()
            && let Ok(_held) = LockFile::acquire(&lock)
        {
            let _left_for_later = fs::remove_dir_all(&path).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_kept_directory_lets_everyone_to_the_workload_api_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("td");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, Permissions::from_mode(0o700)).unwrap();
        let place = Place::open(Some(&base)).unwrap();
        assert_eq!(mode(place.base()), 0o711);
        assert_eq!(mode(place.workload_socket().parent().unwrap()), 0o755);
        assert_eq!(mode(&place.server_dir()), 0o700);
        assert_eq!(mode(&place.node_dir()), 0o700);
        assert!(Place::open(Some(&base)).is_err(), "it is locked");
        place.close().unwrap();
        assert!(base.exists());
        assert!(Place::open(Some(&base)).is_ok());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_told_early() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("x".repeat(100));
        let failure = Place::open(Some(&base)).err().unwrap();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("at most 107"), "{failure}");
    }

    #[test]
    fn only_what_nobody_uses_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (dead, live, other) = (
            make("muster-dev-a"),
            make("muster-dev-b"),
            make("muster-dev-c"),
        );
        drop(LockFile::acquire(&dead.join(LOCK)).unwrap());
        let _held = LockFile::acquire(&live.join(LOCK)).unwrap();
        sweep(root.path());
        assert!(!dead.exists() && live.exists() && other.exists());
    }
}
