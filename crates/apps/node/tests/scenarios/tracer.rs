//! A process that is killed before one of its own system calls: the one that would change a file in
//! its directory for the Nth time.
//!
//! The tracer is a debugger (ptrace); the process knows nothing of it, and nothing in it is made for
//! it. All of a tracer's work must be done by one thread, so it has one.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a traced process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How many of its system calls would have changed a file.
    pub(crate) changes: usize,
    /// Whether it was killed before one of them.
    pub(crate) killed: bool,
    pub(crate) status: ExitStatus,
}

/// A traced process.
pub(crate) struct Traced {
    pid: Pid,
    end: JoinHandle<Ended>,
}

impl Traced {
    /// Starts a node that ends before its `last`th change of a file below `directory`.
    pub(crate) fn start(config: &Path, log: &Path, directory: &Path, last: usize) -> Self {
        let (config, log, directory) = (config.to_owned(), log.to_owned(), directory.to_owned());
        let (started, pid) = mpsc::channel();
        let end = std::thread::spawn(move || {
            let child = stopped(&config, &log);
            let leader = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let tracer = Tracer {
                leader,
                directory,
                last,
                within: BTreeSet::new(),
                changes: 0,
                killed: false,
            };
            tracer.run(child, &started)
        });
        Self {
            pid: pid.recv().unwrap(),
            end,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_finished()
    }

    /// Asks it to end. It may have been killed already.
    pub(crate) fn terminate(&self) {
        let _gone = kill(self.pid, Signal::SIGTERM).is_err();
    }

    pub(crate) fn ended(self) -> Ended {
        self.end.join().unwrap()
    }
}

/// A shell that becomes the node once it reads a line.
fn stopped(config: &Path, log: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "read _; exec \"$0\" run --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_muster-node"))
        .arg(config)
        .stdin(Stdio::piped())
        .stderr(std::fs::File::create(log).unwrap())
        .spawn()
        .unwrap()
}

struct Tracer {
    leader: Pid,
    directory: PathBuf,
    last: usize,
    /// Threads that are within a system call.
    within: BTreeSet<Pid>,
    changes: usize,
    killed: bool,
}

impl Tracer {
    fn run(mut self, mut child: Child, started: &mpsc::Sender<Pid>) -> Ended {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.leader, options).unwrap();
        ptrace::interrupt(self.leader).unwrap();
        started.send(self.leader).unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"\n").unwrap();
        // Of this thread's children and tracees only: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    break ExitStatus::from_raw(code << 8);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    break ExitStatus::from_raw(signal as i32);
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => self.at_system_call(pid),
                // A new thread, a new program, or the stop that was asked for.
                Ok(WaitStatus::PtraceEvent(pid, ..)) => {
                    self.within.remove(&pid);
                    resume(pid, None);
                }
                Ok(WaitStatus::Stopped(pid, signal)) => resume(pid, Some(signal)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => panic!("cannot wait for the node: {errno}"),
            }
        };
        Ended {
            changes: self.changes,
            killed: self.killed,
            status,
        }
    }

    fn at_system_call(&mut self, pid: Pid) {
        let enters = self.within.insert(pid);
        if !enters {
            self.within.remove(&pid);
        } else if self.changes_a_file(pid) {
            self.changes += 1;
            if self.changes == self.last {
                self.killed = true;
                kill(self.leader, Signal::SIGKILL).unwrap();
            }
        }
        resume(pid, None);
    }

    /// Whether the system call that a thread enters would change a file, or what the disk has of it.
    fn changes_a_file(&self, pid: Pid) -> bool {
        // A thread that is killed meanwhile has none.
        let Ok(registers) = ptrace::getregs(pid) else {
            return false;
        };
        let first = registers.rdi;
        let call = i64::try_from(registers.orig_rax).unwrap_or(-1);
        match call {
            libc::SYS_openat => registers.rdx & u64::from(libc::O_CREAT.unsigned_abs()) != 0,
            libc::SYS_rename
            | libc::SYS_renameat
            | libc::SYS_renameat2
            | libc::SYS_unlink
            | libc::SYS_unlinkat
            | libc::SYS_mkdir
            | libc::SYS_mkdirat => true,
            libc::SYS_write
            | libc::SYS_ftruncate
            | libc::SYS_fchmod
            | libc::SYS_fsync
            | libc::SYS_fdatasync => self.is_below(pid, first),
            _ => false,
        }
    }

    fn is_below(&self, pid: Pid, descriptor: u64) -> bool {
        std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))
            .is_ok_and(|file| file.starts_with(&self.directory))
    }
}

fn resume(pid: Pid, signal: Option<Signal>) {
    // It may have been killed meanwhile.
    let _gone = ptrace::syscall(pid, signal).is_err();
}
