//! A process as attestors see it, and whether it is still the same.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use muster_peer::{Caller, ExecutableId, HeldProcess, ProcDir, ProcError, pidfd, procfs};
use muster_plugin::workload::{AttestError, Change, FileId, PidfdFrom, Process, SenderIds, Work};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::unix::Status;

/// The most that is read of a file in `/proc/PID`, in bytes; `status` grows with the groups.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The caller of a connection, for attestors.
pub fn process_of(caller: &Caller) -> Result<Process, AttestError> {
    let held = caller.process();
    let sender = SenderIds {
        uid: caller.sender_uid(),
        gid: caller.sender_gid(),
    };
    Ok(Process {
        sender: Some(sender),
        ..known(held, directory(held)?, caller.uid(), caller.gid())
    })
}

/// A process that did not call, for attestors: its user and group are those that it has now.
pub fn process_of_held(held: &HeldProcess) -> Result<Process, AttestError> {
    let dir = directory(held)?;
    let content = dir.read("status").map_err(|error| proc_error(&error))?;
    let status = Status::parse(&content).map_err(|error| AttestError::Failed {
        kind: "proc",
        reason: format!("/proc/{}/status is not understood: {error}", held.pid()),
        source: None,
    })?;
    Ok(known(
        held,
        dir,
        status.uids.effective,
        status.gids.effective,
    ))
}

fn known(held: &HeldProcess, dir: ProcDir, uid: u32, gid: u32) -> Process {
    Process {
        pid: held.pid(),
        uid,
        gid,
        sender: None,
        start_time: held.start_time(),
        executable: held.executable_id().map(file_id),
        dir: Arc::new(dir.into_fd()),
        pidfd: Arc::clone(held.pidfd()),
        pidfd_from: if held.is_named_by_kernel() {
            PidfdFrom::Kernel
        } else {
            PidfdFrom::Number
        },
        work: Work::default(),
    }
}

fn directory(held: &HeldProcess) -> Result<ProcDir, AttestError> {
    held.proc_dir().map_err(|error| proc_error(&error))
}

fn proc_error(error: &ProcError) -> AttestError {
    match error {
        ProcError::Gone { pid } => AttestError::Gone { pid: *pid },
        ProcError::Unreadable { .. } | ProcError::Malformed { .. } => AttestError::Failed {
            kind: "proc",
            reason: error.to_string(),
            source: None,
        },
    }
}

pub(super) fn file_id(id: ExecutableId) -> FileId {
    FileId {
        device: id.device,
        inode: id.inode,
    }
}

/// Whether `process` still runs, and still the program that it ran. Ask after facts were
/// collected and before they are believed.
///
/// The start time needs no second look where the kernel gave the pidfd: it is of the process and not
/// of its number, and the directory was opened while it ran.
pub fn verify(process: &Process) -> Result<(), AttestError> {
    if process.pidfd_from == PidfdFrom::Number {
        verify_start(process)?;
    }
    let executable = ExecutableId::at(&process.dir, "exe").ok().map(file_id);
    // Last: what was read above is the process's own if it runs now.
    still_runs(process)?;
    if executable != process.executable {
        return Err(AttestError::Changed {
            pid: process.pid,
            change: Change::Program,
        });
    }
    Ok(())
}

fn verify_start(process: &Process) -> Result<(), AttestError> {
    let stat = read(process, "proc", "stat")?;
    let start_time = procfs::start_time(&stat).map_err(|error| AttestError::Failed {
        kind: "proc",
        reason: format!("/proc/{}/stat is not understood: {error}", process.pid),
        source: None,
    })?;
    if start_time == process.start_time {
        Ok(())
    } else {
        Err(AttestError::Gone { pid: process.pid })
    }
}

pub(super) fn still_runs(process: &Process) -> Result<(), AttestError> {
    if pidfd::is_alive(process.pidfd.as_fd()) {
        Ok(())
    } else {
        Err(AttestError::Gone { pid: process.pid })
    }
}

/// Opens a file of the process's directory, for attestor `kind`.
pub(super) fn open(
    process: &Process,
    kind: &'static str,
    name: &'static str,
) -> Result<File, AttestError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(&process.dir, name, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| failed(process, kind, name, errno.into()))
}

/// Reads a file of the process's directory.
pub(super) fn read(
    process: &Process,
    kind: &'static str,
    name: &'static str,
) -> Result<Vec<u8>, AttestError> {
    procfs::read_file(open(process, kind, name)?, FILE_LIMIT)
        .map_err(|error| failed(process, kind, name, error))
}

/// A file of the process's directory could not be used; because the process ended, most often.
pub(super) fn failed(
    process: &Process,
    kind: &'static str,
    name: &'static str,
    source: io::Error,
) -> AttestError {
    if let Err(gone) = still_runs(process) {
        return gone;
    }
    AttestError::Failed {
        kind,
        reason: format!(
            "/proc/{}/{name}: {source}; the node needs the right to read other users' processes (root, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)",
            process.pid
        ),
        source: Some(source),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use muster_peer::{Limits, ListenOptions, Listener};
    use tokio::io::AsyncReadExt;
    use tokio_stream::StreamExt;

    use super::*;

    /// A process that was named by its number.
    pub(crate) fn process_by_pid(pid: u32) -> Process {
        process_of_held(&HeldProcess::by_number(pid).unwrap()).unwrap()
    }

    pub(crate) fn own_process() -> Process {
        process_by_pid(std::process::id())
    }

    /// A program that runs until its input ends.
    pub(crate) fn spawn(program: impl AsRef<std::ffi::OsStr>) -> Child {
        Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_caller_becomes_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
        let mut incoming = listener.incoming(Limits::default()).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut &client, b"hello").unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        connection.read_u8().await.unwrap();
        let caller = connection.peer().caller().unwrap();
        let process = process_of(&caller).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert_eq!(process.executable, own_process().executable);
        assert_eq!(process.start_time, own_process().start_time);
        verify(&process).unwrap();
    }

    #[test]
    fn an_ended_process_is_gone() {
        let child = spawn("cat");
        let process = process_by_pid(child.id());
        verify(&process).unwrap();
        end(child);
        assert!(matches!(verify(&process), Err(AttestError::Gone { .. })));
    }

    #[test]
    fn another_program_or_start_is_noticed() {
        let mut process = own_process();
        process.start_time += 1;
        assert!(matches!(verify(&process), Err(AttestError::Gone { .. })));
        let mut process = own_process();
        process.executable = Some(FileId {
            device: 1,
            inode: 1,
        });
        let change = Change::Program;
        assert!(
            matches!(verify(&process), Err(AttestError::Changed { change: c, .. }) if c == change)
        );
    }
}
