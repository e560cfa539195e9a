//! The kernel interfaces that no safe wrapper offers. All `unsafe` of the house is in
//! this file and in `child.rs`.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, OnceLock};

use nix::sys::socket::{SockFlag, accept4};
use nix::sys::statfs::{FsType, fstatfs};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `SCM_PIDFD` of `linux/socket.h` (6.5).
const SCM_PIDFD: libc::c_int = 0x04;

/// `SO_PASSRIGHTS` of `asm-generic/socket.h` (6.16); `libc` does not have it for every target.
const SO_PASSRIGHTS: libc::c_int = 83;

/// `PID_FS_MAGIC` of `linux/magic.h`.
const PIDFS: FsType = FsType(0x5049_4446);
/// `PIDFD_GET_INFO` of `linux/pidfd.h` (6.13): `_IOWR(0xFF, 11, struct pidfd_info)` of 64 bytes.
const PIDFD_GET_INFO: u64 = 0xC040_FF0B;
/// `PIDFD_INFO_CGROUPID`: the control group is asked for, and known.
const PIDFD_INFO_CGROUPID: u64 = 1 << 2;
/// The bit of `struct pidfd_info` that asks for the exit status, from Linux 6.15 on.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The length of an integer option.
const INT: libc::socklen_t = 4;
/// The most descriptors one message carries (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;
/// Room for credentials, one pidfd and the most descriptors that a sender can attach, with
/// alignment to spare, in eight-byte words.
const CONTROL_WORDS: usize = (SCM_MAX_FD * size_of::<libc::c_int>() + 256) / 8;

/// Takes over a descriptor that this process was started with; it is closed on `exec` from now on.
///
/// Nobody else may own it: its number comes from who started us, and each is taken once.
pub(crate) fn inherited(descriptor: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an integer; a descriptor that is not open gives EBADF.
    let set = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as just seen, and the caller says that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The sender's identity as the kernel attached it to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The thread group, in our pid namespace; 0 when it is not visible there.
    pub(crate) pid: i32,
    /// The real uid, unless the sender named another of its own.
    pub(crate) uid: u32,
    /// The real gid, unless the sender named another of its own.
    pub(crate) gid: u32,
}

/// What a message said about its sender's pidfd.
#[derive(Debug)]
pub(crate) enum SenderPidfd {
    /// The kernel did not attach one.
    Absent,
    /// The sender.
    Here(OwnedFd),
    /// The kernel could not make one any more: the sender is gone.
    Gone,
}

/// One `recvmsg`.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes written to the buffer; 0 is the end of the stream.
    pub(crate) len: usize,
    /// Who sent them; `None` when the kernel attached nothing.
    pub(crate) credentials: Option<Credentials>,
    /// The sender's pidfd.
    pub(crate) pidfd: SenderPidfd,
    /// How many descriptors came along; they are closed already.
    pub(crate) descriptors: usize,
    /// Whether control data did not fit or could not be installed (`MSG_CTRUNC`).
    pub(crate) truncated: bool,
}

/// Reads once from a non-blocking socket, with everything that the kernel says about the sender.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero `msghdr` is a valid value of that plain C structure.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;

    // SAFETY: `message` points to `iov` and `control`, which outlive the call and are as long as
    // it says; the descriptor is borrowed, hence open.
    let read = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT,
        )
    };
    let len = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let mut received = Received {
        len,
        credentials: None,
        pidfd: SenderPidfd::Absent,
        descriptors: 0,
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    };

    // SAFETY: the kernel filled `message`; the macros walk only within `msg_controllen`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: `header` came from the CMSG macros and is not null, so a whole `cmsghdr` lies
        // there, aligned, because `control` is aligned to eight bytes.
        let (level, kind, total) = unsafe {
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                (*header).cmsg_len,
            )
        };
        // SAFETY: as above; only the address is computed.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: CMSG_LEN only computes.
        let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
        #[expect(
            clippy::unnecessary_cast,
            reason = "cmsg_len is size_t with glibc and socklen_t with musl"
        )]
        let payload = (total as usize).saturating_sub(overhead);
        if level == libc::SOL_SOCKET {
            match kind {
                libc::SCM_CREDENTIALS if payload >= size_of::<libc::ucred>() => {
                    // SAFETY: the payload holds a whole `ucred`; unaligned reads are allowed.
                    let cred: libc::ucred = unsafe { ptr::read_unaligned(data.cast()) };
                    received.credentials = Some(Credentials {
                        pid: cred.pid,
                        uid: cred.uid,
                        gid: cred.gid,
                    });
                }
                SCM_PIDFD if payload >= size_of::<libc::c_int>() => {
                    // SAFETY: the payload holds a whole int.
                    let fd: libc::c_int = unsafe { ptr::read_unaligned(data.cast()) };
                    received.pidfd = if fd < 0 {
                        SenderPidfd::Gone
                    } else {
                        // SAFETY: the kernel installed this descriptor for us in this call and
                        // nobody else knows it.
                        SenderPidfd::Here(unsafe { OwnedFd::from_raw_fd(fd) })
                    };
                }
                libc::SCM_RIGHTS => {
                    for index in 0..payload / size_of::<libc::c_int>() {
                        // SAFETY: `index` stays within the payload's ints.
                        let fd: libc::c_int = unsafe {
                            ptr::read_unaligned(data.add(index * size_of::<libc::c_int>()).cast())
                        };
                        if fd >= 0 {
                            // SAFETY: installed for us in this call; dropping closes it.
                            drop(unsafe { OwnedFd::from_raw_fd(fd) });
                            received.descriptors += 1;
                        }
                    }
                }
                _ => {}
            }
        }
        // SAFETY: `header` is the current header of `message`.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(received)
}

fn set_flag(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a live int of the length given; the descriptor is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            INT,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks the kernel to attach the sender's credentials to what `socket` (or a connection that it
/// accepts) receives.
pub(crate) fn pass_credentials(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_flag(socket, libc::SO_PASSCRED, 1)
}

/// Asks for the sender's pidfd with what `socket` receives, or stops asking. Linux 6.5 and later;
/// older kernels answer `ENOPROTOOPT`.
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>, wanted: PassPidfd) -> io::Result<()> {
    set_flag(
        socket,
        libc::SO_PASSPIDFD,
        match wanted {
            PassPidfd::Yes => 1,
            PassPidfd::No => 0,
        },
    )
}

/// Whether messages should carry the sender's pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassPidfd {
    /// From now on.
    Yes,
    /// No longer.
    No,
}

/// Makes the kernel refuse descriptors that others try to send to `socket`. Linux 6.16 and later.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_flag(socket, SO_PASSRIGHTS, 0)
}

/// The pidfd of the process that connected (or listened, on a client's socket).
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = INT;
    // SAFETY: `fd` and `length` are live and as large as they say.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: the kernel installed this descriptor for us in this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `pidfd_open(2)` (5.3).
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call with two integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = libc::c_int::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us in this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether pidfds live in a file system of their own, in which every process has its own inode
/// (Linux 6.9).
pub(crate) fn has_pidfs() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let Ok(own) = i32::try_from(std::process::id()) else {
            return false;
        };
        pidfd_open(own)
            .ok()
            .and_then(|pidfd| fstatfs(&pidfd).ok())
            .is_some_and(|stat| stat.filesystem_type() == PIDFS)
    })
}

/// The control group of a pidfd's process, by its number in the unified hierarchy; `None` when
/// the kernel does not tell (before Linux 6.13) or the process has ended.
pub(crate) fn cgroup(pidfd: BorrowedFd<'_>) -> Option<u64> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_CGROUPID,
        ..PidfdInfo::default()
    };
    // SAFETY: `info` is live, and as large as the request number says.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_CGROUPID != 0).then_some(info.cgroup)
}

/// The status with which a pidfd's process ended, as `waitpid` gives it; `None` when the kernel does
/// not tell (before Linux 6.15), or its parent has not taken note of its end yet.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: as above.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    let told = result == 0 && info.mask & PIDFD_INFO_EXIT != 0;
    info.others
        .last()
        .filter(|_| told)
        .map(|code| code.cast_signed())
}

/// The first version of `struct pidfd_info` (`linux/pidfd.h`), 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    others: [u32; 12],
}

/// Accepts one connection, non-blocking and closed on exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the kernel made this descriptor for us in this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Hands a socket to the runtime's event loop.
pub(crate) fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and `AsyncFd` owns
    // it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Has the runtime's event loop watch a pidfd for the end of its process.
pub(crate) fn watch_pidfd(pidfd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: as above; the descriptor stays open while any `Arc` lives, and `AsyncFd` owns one.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Has the runtime's event loop watch a file of the kernel's for changes, such as `cgroup.events`.
pub(crate) fn watch_changes(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `watch`.
    unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn send(from: &UnixStream, text: &[u8], descriptors: &[i32]) {
        sendmsg::<()>(
            from.as_raw_fd(),
            &[IoSlice::new(text)],
            &[ControlMessage::ScmRights(descriptors)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }

    /// On a socket that lets descriptors through, as those of older kernels do.
    #[test]
    fn descriptors_are_closed_as_they_come() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        pass_credentials(ours.as_fd()).unwrap();
        let (watched, given) = UnixStream::pair().unwrap();
        send(&theirs, b"x", &[given.as_raw_fd(); SCM_MAX_FD]);
        drop(given);
        let mut buffer = [0; 8];
        let received = receive(ours.as_fd(), &mut buffer).unwrap();
        assert_eq!((received.len, received.descriptors), (1, SCM_MAX_FD));
        assert!(!received.truncated);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(
            received.credentials.map(|credentials| credentials.pid),
            Some(own)
        );
        // Nobody holds the other end any more.
        watched.set_nonblocking(true).unwrap();
        assert_eq!(std::io::Read::read(&mut &watched, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_pidfd_comes_as_long_as_it_is_asked_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        pass_credentials(ours.as_fd()).unwrap();
        let mut buffer = [0; 8];
        for wanted in [PassPidfd::Yes, PassPidfd::No] {
            if pass_pidfd(ours.as_fd(), wanted).is_err() {
                // Linux before 6.5.
                return;
            }
            std::io::Write::write_all(&mut &theirs, b"x").unwrap();
            let received = receive(ours.as_fd(), &mut buffer).unwrap();
            match wanted {
                PassPidfd::Yes => assert!(matches!(received.pidfd, SenderPidfd::Here(_))),
                PassPidfd::No => assert!(matches!(received.pidfd, SenderPidfd::Absent)),
            }
        }
    }
}

/// Gives the calling thread the lowest priority of ordinary ones (`setpriority(2)`: on Linux it is
/// the thread's own).
pub(crate) fn lower_priority() -> io::Result<()> {
    // SAFETY: it takes numbers only.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What is asked of `keyctl(2)`.
#[derive(Debug)]
pub(crate) enum Keyctl<'a> {
    /// A `user` key of that name, linked to another keyring when found.
    Search {
        keyring: i32,
        name: &'a std::ffi::CStr,
        link_to: i32,
    },
    /// A key's payload; the answer is its length.
    Read(i32, &'a mut [u8]),
    /// A key's permissions.
    SetPermissions(i32, u32),
    /// A key's lifetime from now, in seconds.
    SetTimeout(i32, u32),
    /// Forget a key at once.
    Invalidate(i32),
}

/// One `keyctl(2)`.
pub(crate) fn keyctl(operation: Keyctl<'_>) -> io::Result<libc::c_long> {
    /// An integer as the kernel takes it: sign-extended to a register.
    fn number(value: i32) -> libc::c_long {
        libc::c_long::from(value)
    }
    let unsigned = |value: u32| libc::c_ulong::from(value);
    // SAFETY: the names end with NUL, the buffer's length is its own, and the kernel writes no
    // further; all outlive the call.
    let result = unsafe {
        match operation {
            Keyctl::Search {
                keyring,
                name,
                link_to,
            } => libc::syscall(
                libc::SYS_keyctl,
                10_i64,
                number(keyring),
                c"user".as_ptr(),
                name.as_ptr(),
                number(link_to),
            ),
            Keyctl::Read(key, buffer) => libc::syscall(
                libc::SYS_keyctl,
                11_i64,
                number(key),
                buffer.as_mut_ptr(),
                buffer.len(),
            ),
            Keyctl::SetPermissions(key, mask) => {
                libc::syscall(libc::SYS_keyctl, 5_i64, number(key), unsigned(mask))
            }
            Keyctl::SetTimeout(key, seconds) => {
                libc::syscall(libc::SYS_keyctl, 15_i64, number(key), unsigned(seconds))
            }
            Keyctl::Invalidate(key) => libc::syscall(libc::SYS_keyctl, 21_i64, number(key)),
        }
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Adds a `user` key to a keyring, or replaces the payload of the one of that name.
pub(crate) fn add_key(name: &std::ffi::CStr, payload: &[u8], keyring: i32) -> io::Result<()> {
    // SAFETY: the names end with NUL, and the payload's length is its own; all outlive the call.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            libc::c_long::from(keyring),
        )
    };
    if key < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// One `recvmsg` that keeps the descriptors that came along.
pub(crate) fn receive_descriptors(
    socket: BorrowedFd<'_>,
    buffers: &mut [io::IoSliceMut<'_>],
) -> io::Result<Vec<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 8]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just installed them for us, and nobody else knows them.
            received.extend(
                descriptors
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(received)
}
