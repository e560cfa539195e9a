//! Files that must be private, whole and there after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;

/// What temporary files end with, so that those of a killed process can be told and removed.
const TEMPORARY: &str = ".muster-tmp";

/// The largest private file that is read.
const MAX_PRIVATE_BYTES: u64 = 1 << 20;

/// Permissions of a file that only its owner may read: keys, tokens.
pub const PRIVATE: u32 = 0o600;

/// Permissions of a file that everyone may read: certificates, bundles.
pub const PUBLIC: u32 = 0o644;

/// A file or a directory that cannot be used, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "create", "read", ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else stands where a directory belongs.
    #[error("{} is not a directory; move it away or choose another path", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Something else stands where a file belongs: a directory, a link, a device.
    #[error("{} is not a regular file; move it away or choose another path", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
    },
    /// Another user could replace what we keep there.
    #[error(
        "{} belongs to uid {owner}, but this process runs as uid {me}; \
         run `chown {me} {}` or choose another path", path.display(), path.display()
    )]
    WrongOwner {
        /// The path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// Others have more rights than they may.
    #[error(
        "{} has mode {mode:03o}, which lets others in; run `chmod {wanted:03o} {}`",
        path.display(), path.display()
    )]
    TooOpen {
        /// The path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that it should have.
        wanted: u32,
    },
    /// The file is larger than anything that belongs there.
    #[error("{} has more than {} bytes; it cannot be what it should be", path.display(), most)]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// How many it may have.
        most: u64,
    },
    /// Another process holds the lock.
    #[error(
        "{} is held by another process{}; stop that process or choose another directory",
        path.display(), holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that wrote itself into it, if it can be read.
        holder: Option<u32>,
    },
}

impl FileError {
    /// Whether the file does not exist, which is often no error at all.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io {
        action,
        path,
        source,
    }
}

/// Replaces a file so that readers, and the time after a power cut, see the old or the new
/// content, whole. The permission bits are exactly `mode`, whatever the umask.
///
/// When it returns, the new content is on the disk.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let parent = parent_of(path);
    let name = path
        .file_name()
        .ok_or_else(|| FileError::NotFile { path: path.into() })?;
    let temporary = parent.join(format!(
        ".{}.{}.{}{TEMPORARY}",
        name.to_string_lossy(),
        process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    let written = write_new(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(failed("write", path));
    if written.is_err() {
        // The first error is the one to tell; what is left over is swept up later.
        let _left_over = fs::remove_file(&temporary).is_err();
        return written;
    }
    sync_directory(parent)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Removes the temporary files that a killed [`write_atomic`] left in a directory.
///
/// Only for a directory that no other process writes to: call it under the lock.
pub fn sweep_temporaries(directory: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY) {
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Removes a file so that it is gone after a power cut too; one that does not exist is no error.
pub fn remove_durably(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
        Ok(()) => sync_directory(parent_of(path)),
    }
}

/// Makes sure that a directory exists, belongs to us, and that nobody else can write to it.
///
/// A new directory has mode 0700; its missing parents are made as the umask has it. An existing
/// directory is never changed: what an operator set up is the operator's to mend.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(failed("create", parent))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_directory(parent)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create", path)(error)),
    }
    let found = fs::metadata(path).map_err(failed("examine", path))?;
    if !found.is_dir() {
        return Err(FileError::NotDirectory { path: path.into() });
    }
    check_owner(path, &found)?;
    check_mode(path, &found, 0o022, 0o700)
}

/// Reads a file that only we may read: it must be a regular file, ours, with no rights for group
/// and others. A link is not followed.
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    read_private_within(path, MAX_PRIVATE_BYTES)
}

/// The same for a file that may have up to `most` bytes.
pub fn read_private_within(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == nix::errno::Errno::ELOOP as i32 => {
                FileError::NotFile { path: path.into() }
            }
            _ => failed("read", path)(error),
        })?;
    let found = file.metadata().map_err(failed("examine", path))?;
    if !found.is_file() {
        return Err(FileError::NotFile { path: path.into() });
    }
    check_owner(path, &found)?;
    check_mode(path, &found, 0o077, PRIVATE)?;
    let mut content = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(failed("read", path))?;
    if content.len() as u64 > most {
        return Err(FileError::TooLarge {
            path: path.into(),
            most,
        });
    }
    Ok(content)
}

/// A lock on a directory or a database that one process at a time may use.
///
/// The kernel lets go of the lock when the process ends, however it ends; the file stays.
#[derive(Debug)]
pub struct LockFile {
    _held: File,
}

impl LockFile {
    /// Takes the lock without waiting, and writes our process ID into the file.
    pub fn acquire(path: &Path) -> Result<Self, FileError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut written = String::new();
                let holder = file
                    .read_to_string(&mut written)
                    .ok()
                    .and_then(|_| written.trim().parse().ok());
                return Err(FileError::Held {
                    path: path.into(),
                    holder,
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", process::id()))
            .map_err(failed("write", path))?;
        Ok(Self { _held: file })
    }
}

/// Puts the names in a directory on the disk.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", path))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_owner(path: &Path, found: &fs::Metadata) -> Result<(), FileError> {
    let me = nix::unistd::geteuid().as_raw();
    if found.uid() == me {
        Ok(())
    } else {
        Err(FileError::WrongOwner {
            path: path.into(),
            owner: found.uid(),
            me,
        })
    }
}

fn check_mode(
    path: &Path,
    found: &fs::Metadata,
    forbidden: u32,
    wanted: u32,
) -> Result<(), FileError> {
    let mode = found.mode() & 0o7777;
    if mode & forbidden == 0 {
        Ok(())
    } else {
        Err(FileError::TooOpen {
            path: path.into(),
            mode,
            wanted,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_all_and_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"one", PUBLIC).unwrap();
        write_atomic(&path, b"two", PRIVATE).unwrap();
        assert_eq!(read_private(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), b"").unwrap();
        assert!(matches!(
            write_atomic(&path, b"new", PRIVATE),
            Err(FileError::Io {
                action: "write",
                ..
            })
        ));
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".key.123.0.muster-tmp"), b"").unwrap();
        fs::write(dir.path().join("key"), b"").unwrap();
        sweep_temporaries(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_private_directory_is_made_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_directory(&path).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);

        fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        let error = private_directory(&path).unwrap_err();
        assert!(matches!(error, FileError::TooOpen { mode: 0o770, .. }));
        assert!(error.to_string().contains("chmod 700"), "{error}");

        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(
            private_directory(&file),
            Err(FileError::NotDirectory { .. })
        ));
    }

    #[test]
    fn a_private_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"k", 0o640).unwrap();
        let error = read_private(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        write_atomic(&target, b"k", PRIVATE).unwrap();
        let link = dir.path().join("link");
        symlink(&target, &link).unwrap();
        assert!(matches!(
            read_private(&link),
            Err(FileError::NotFile { .. })
        ));
        assert!(matches!(
            read_private(dir.path()),
            Err(FileError::NotFile { .. })
        ));
        assert!(
            read_private(&dir.path().join("none"))
                .unwrap_err()
                .is_not_found()
        );

        write_atomic(&target, &vec![0; 1 << 21], PRIVATE).unwrap();
        assert!(matches!(
            read_private(&target),
            Err(FileError::TooLarge { .. })
        ));
    }

    #[test]
    fn the_wrong_owner_is_told_with_the_remedy() {
        let error = FileError::WrongOwner {
            path: "/var/lib/muster".into(),
            owner: 0,
            me: 1000,
        };
        assert!(error.to_string().contains("chown 1000 /var/lib/muster"));
    }

    #[test]
    fn a_lock_is_held_by_one_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = LockFile::acquire(&path).unwrap();
        let error = LockFile::acquire(&path).unwrap_err();
        assert!(
            matches!(error, FileError::Held { holder: Some(pid), .. } if pid == process::id()),
            "{error}"
        );
        drop(lock);
        LockFile::acquire(&path).unwrap();
    }
}
