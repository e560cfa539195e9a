//! The socket file: made whole before it is seen, replaced in one step, removed only by its owner.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use muster_rt::endpoint::MAX_SOCKET_PATH;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::gate::{Gate, Limits};
use crate::incoming::{Incoming, SharedLimits};
use crate::sys::{self, PassPidfd};

/// How a socket file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The socket file's mode, whatever the umask.
    pub mode: u32,
    /// The mode of folders that have to be made on the way, whatever the umask.
    pub dir_mode: u32,
    /// The socket file's owner, when it is not to be ours.
    pub owner: Option<Owner>,
    /// Connections that the kernel keeps for us until we accept them.
    pub backlog: u16,
    /// What becomes of a socket of that name that somebody serves.
    pub taken: Taken,
}

/// What becomes of a live socket whose name is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It stays, and binding fails.
    Keep,
    /// It loses its name: who has the folder to itself knows that its server is on its way out.
    Replace,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Default for ListenOptions {
    /// A socket for every user, as the Workload API wants (WEP-17).
    fn default() -> Self {
        Self {
            mode: 0o777,
            dir_mode: 0o755,
            owner: None,
            backlog: 4_096,
            taken: Taken::Keep,
        }
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit into a socket address, so no client could connect to it.
    #[error(
        "socket path {path:?} has {length} bytes and the kernel allows {MAX_SOCKET_PATH}; choose a shorter path, such as one under /run"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The path names no file in a folder.
    #[error("socket path {path:?} names no file; give the path of the socket, not of its folder")]
    NoFileName {
        /// The path.
        path: PathBuf,
    },
    /// Something else than a socket has that name. It is left alone.
    #[error("{path:?} exists and is not a socket; move it away or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A live process serves that socket.
    #[error("socket {path:?} is served by {}; stop it or choose another path", server(*pid))]
    InUse {
        /// The path.
        path: PathBuf,
        /// The process that listens, when the kernel says.
        pid: Option<u32>,
    },
    /// A step failed.
    #[error("cannot {step} for socket {path:?}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

fn server(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// A Unix socket that listens. Its file goes away with it, unless another has taken its folder.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    file: Option<SocketFile>,
}

impl Listener {
    /// Binds `path`.
    ///
    /// The socket is made under a temporary name in the same folder and renamed when it is
    /// complete, so clients find at any time the old file or the new one, with its final mode
    /// (WEP-16). A socket file that nobody serves is replaced; a live one and anything that is
    /// not a socket are errors.
    pub fn bind(path: impl AsRef<Path>, options: &ListenOptions) -> Result<Self, BindError> {
        let path = path.as_ref();
        check_length(path)?;
        let folder = Folder::open(path, options)?;
        let socket = new_socket().map_err(|errno| folder.failed("make a socket", errno))?;
        let temporary = folder.temporary_name();
        let address = folder.address(&temporary)?;
        bind(socket.as_raw_fd(), &address).map_err(|errno| folder.failed("bind", errno))?;
        match folder.publish(&socket, &temporary, options) {
            Ok(file) => Ok(Self {
                socket,
                file: Some(file),
            }),
            Err(error) => {
                folder.unlink_quietly(&temporary);
                Err(error)
            }
        }
    }

    /// Takes over a socket that already listens, such as one handed on by a service manager or an
    /// older daemon. Its file, if any, is left alone when the listener ends.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        prepare(&socket)?;
        let flags = nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(Self { socket, file: None })
    }

    /// Takes over a socket that already listens, with its file, which goes away with it: the one
    /// at `path`, if that is a socket.
    pub fn adopt_at(
        socket: OwnedFd,
        path: impl AsRef<Path>,
        options: &ListenOptions,
    ) -> Result<Self, BindError> {
        let folder = Folder::open(path.as_ref(), options)?;
        let mut listener = Self::adopt(socket).map_err(|source| BindError::Io {
            path: folder.path.clone(),
            step: "take over the socket",
            source,
        })?;
        let present = folder
            .identify(&folder.name)
            .map_err(|errno| folder.failed("look at the file", errno))?;
        if let Some(present) = present.filter(|present| present.is_socket) {
            listener.file = Some(SocketFile {
                dir: folder.dir,
                name: folder.name,
                path: folder.path,
                identity: present.identity,
            });
        }
        Ok(listener)
    }

    /// The socket once more, to be handed on to another process.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The path it was bound to; `None` for an adopted socket.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// The connections, for `tonic::transport::Server::serve_with_incoming`. Needs a tokio runtime.
    pub fn incoming(self, limits: Limits) -> io::Result<Incoming> {
        Incoming::new(self.socket, self.file, Gate::new(limits))
    }

    /// The connections, within limits that other listeners share. The file is left to the caller:
    /// no descriptor is kept for it.
    pub fn incoming_within(self, limits: &SharedLimits) -> io::Result<Incoming> {
        if let Some(file) = self.file {
            file.leave();
        }
        Incoming::new(self.socket, None, limits.gate())
    }
}

/// Fails on paths that no client could connect to.
pub(crate) fn check_length(path: &Path) -> Result<(), BindError> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(BindError::PathTooLong {
            path: path.to_owned(),
            length,
        });
    }
    Ok(())
}

fn new_socket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Sets on the listening socket what accepted connections inherit, before anyone can connect: what
/// is sent before we accept carries its sender as well.
fn prepare(socket: &OwnedFd) -> io::Result<()> {
    sys::pass_credentials(socket.as_fd())?;
    match sys::pass_pidfd(socket.as_fd(), PassPidfd::Yes) {
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => return Err(error),
        _ => {}
    }
    // Best effort: an older kernel delivers descriptors, and we close them. Closing one that its
    // sender chose can take long (a hung FUSE mount), so not receiving them is better.
    drop(sys::refuse_descriptors(socket.as_fd()));
    Ok(())
}

/// The folder that the socket goes to, and the name in it.
struct Folder {
    dir: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Folder {
    fn open(path: &Path, options: &ListenOptions) -> Result<Self, BindError> {
        let name = path.file_name().ok_or_else(|| BindError::NoFileName {
            path: path.to_owned(),
        })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |step, source| BindError::Io {
            path: path.to_owned(),
            step,
            source,
        };
        make_folders(parent, options.dir_mode)
            .map_err(|source| failed("make the folder", source))?;
        let dir = File::open(parent).map_err(|source| failed("open the folder", source))?;
        if !dir.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(failed(
                "open the folder",
                io::Error::from(io::ErrorKind::NotADirectory),
            ));
        }
        Ok(Self {
            dir: dir.into(),
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    fn failed(&self, step: &'static str, errno: impl Into<io::Error>) -> BindError {
        BindError::Io {
            path: self.path.clone(),
            step,
            source: errno.into(),
        }
    }

    /// A name that nobody else uses; recognisable in `ss -x`, where it stays the socket's name.
    fn temporary_name(&self) -> OsString {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let suffix = format!(".{}-{next}", std::process::id());
        let kept: Vec<u8> = self.name.as_bytes().iter().copied().take(48).collect();
        let mut name = OsString::from(".");
        name.push(std::ffi::OsStr::from_bytes(&kept));
        name.push(suffix);
        name
    }

    /// The address of a file in the folder, by the folder's descriptor: as long as it is, it fits,
    /// and nobody can put another folder in its place meanwhile.
    fn address(&self, name: &OsString) -> Result<UnixAddr, BindError> {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
        path.push(name);
        UnixAddr::new(&path).map_err(|errno| self.failed("make an address", errno))
    }

    fn publish(
        &self,
        socket: &OwnedFd,
        temporary: &OsString,
        options: &ListenOptions,
    ) -> Result<SocketFile, BindError> {
        let name = temporary.as_os_str();
        let mode = Mode::from_bits_truncate(options.mode);
        fchmodat(&self.dir, name, mode, FchmodatFlags::FollowSymlink)
            .map_err(|errno| self.failed("set the mode", errno))?;
        if let Some(owner) = options.owner {
            fchownat(
                &self.dir,
                name,
                Some(Uid::from_raw(owner.uid)),
                Some(Gid::from_raw(owner.gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .map_err(|errno| self.failed("set the owner", errno))?;
        }
        prepare(socket).map_err(|error| self.failed("prepare the socket", error))?;
        let backlog = Backlog::new(i32::from(options.backlog))
            .map_err(|errno| self.failed("listen", errno))?;
        listen(socket, backlog).map_err(|errno| self.failed("listen", errno))?;
        let own = self
            .identify(temporary)
            .map_err(|errno| self.failed("look at the file", errno))?
            .ok_or_else(|| self.failed("look at the file", Errno::ENOENT))?;
        self.put_in_place(temporary, options)?;
        Ok(SocketFile {
            dir: self
                .dir
                .try_clone()
                .map_err(|error| self.failed("keep the folder", error))?,
            name: self.name.clone(),
            path: self.path.clone(),
            identity: own.identity,
        })
    }

    fn put_in_place(&self, temporary: &OsString, options: &ListenOptions) -> Result<(), BindError> {
        // Each round meets a change that another process made in between; they cannot go on.
        for _ in 0..8 {
            let Some(present) = self
                .identify(&self.name)
                .map_err(|errno| self.failed("look at the file", errno))?
            else {
                match self.rename(temporary, RenameFlags::RENAME_NOREPLACE) {
                    Ok(()) => return Ok(()),
                    Err(Errno::EEXIST) => continue,
                    Err(errno) => return Err(self.failed("name the socket", errno)),
                }
            };
            if !present.is_socket {
                return Err(BindError::NotASocket {
                    path: self.path.clone(),
                });
            }
            if options.taken == Taken::Keep && self.is_served()? {
                continue;
            }
            match self.rename(temporary, RenameFlags::RENAME_EXCHANGE) {
                Ok(()) => {}
                Err(Errno::ENOENT) => continue,
                // Some file systems cannot exchange.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    return self
                        .rename(temporary, RenameFlags::empty())
                        .map_err(|errno| self.failed("replace the stale socket", errno));
                }
                Err(errno) => return Err(self.failed("replace the stale socket", errno)),
            }
            // What was replaced must be what was found dead.
            if self.identify(temporary).ok().flatten() == Some(present) {
                self.unlink_quietly(temporary);
                return Ok(());
            }
            self.rename(temporary, RenameFlags::RENAME_EXCHANGE)
                .map_err(|errno| self.failed("give back another's socket", errno))?;
        }
        Err(BindError::InUse {
            path: self.path.clone(),
            pid: None,
        })
    }

    fn rename(&self, temporary: &OsString, flags: RenameFlags) -> nix::Result<()> {
        renameat2(
            &self.dir,
            temporary.as_os_str(),
            &self.dir,
            self.name.as_os_str(),
            flags,
        )
    }

    /// Asks by connecting. `false`: the file is stale; an error names who serves it. `true`: the
    /// file has gone or changed meanwhile, look again.
    fn is_served(&self) -> Result<bool, BindError> {
        let probe = new_socket().map_err(|errno| self.failed("make a socket", errno))?;
        let address = self.address(&self.name)?;
        let pid = match connect(probe.as_raw_fd(), &address) {
            Ok(()) => getsockopt(&probe, sockopt::PeerCredentials)
                .ok()
                .and_then(|cred| u32::try_from(cred.pid()).ok())
                .filter(|pid| *pid != 0),
            Err(Errno::ECONNREFUSED) => return Ok(false),
            Err(Errno::ENOENT) => return Ok(true),
            // A full backlog, or a socket of another type: somebody lives there.
            Err(Errno::EAGAIN | Errno::EPROTOTYPE) => None,
            Err(errno) => return Err(self.failed("see whether it is served", errno)),
        };
        Err(BindError::InUse {
            path: self.path.clone(),
            pid,
        })
    }

    fn identify(&self, name: &OsString) -> nix::Result<Option<Present>> {
        identify(&self.dir, name)
    }

    fn unlink_quietly(&self, name: &OsString) {
        unlink_quietly(&self.dir, name);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Present {
    identity: (u64, u64),
    is_socket: bool,
}

fn identify(dir: &OwnedFd, name: &OsString) -> nix::Result<Option<Present>> {
    match fstatat(dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Present {
            identity: (stat.st_dev, stat.st_ino),
            is_socket: SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK,
        })),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn unlink_quietly(dir: &OwnedFd, name: &OsString) {
    if let Err(errno) = unlinkat(dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        tracing::debug!(%errno, ?name, "socket file not removed");
    }
}

/// Makes missing folders, each with `mode`, whatever the umask.
fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_folders(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => std::fs::set_permissions(path, PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file of a bound socket; removed with it, if it is still the same file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    dir: OwnedFd,
    name: OsString,
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Leaves the file alone from now on.
    pub(crate) fn leave(mut self) {
        // No file has this identity: the name stays.
        self.identity = (u64::MAX, u64::MAX);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match identify(&self.dir, &self.name) {
            Ok(Some(present)) if present.identity == self.identity => {
                unlink_quietly(&self.dir, &self.name);
            }
            _ => {}
        }
    }
}
