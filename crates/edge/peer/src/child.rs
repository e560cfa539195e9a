//! A child process that exists, and can be named, before it becomes another program.
//!
//! Start at [`Waiting::fork`]. The child waits until it is told to go on; meanwhile its pid can be
//! bound to something, such as a task. It goes on with one more variable in its environment, and as
//! little else from here as possible: no privileges to gain (`PR_SET_NO_NEW_PRIVS`), no descriptors
//! but the standard ones, no blocked signals. If it is never told, it ends and nothing was run.
//!
//! `fork` copies one thread only. All that the child does until `execve` is a system call on memory
//! that was made ready before; it allocates nothing and takes no lock.

use std::ffi::{CStr, CString, NulError, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

/// The longest variable that is given at the last moment, in bytes with its end.
const LATE: usize = 1024;
/// `CLOSE_RANGE_CLOEXEC` of `linux/close_range.h` (5.11).
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// A program, made ready to be executed.
#[derive(Debug)]
pub struct Program {
    /// Where it may be; the first that can be executed is.
    places: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    dies_with_us: bool,
}

impl Program {
    /// A program with its arguments, the first of which is its own name, and its environment as
    /// "NAME=VALUE". A NUL byte in any of them is an error.
    pub fn new<T: AsRef<OsStr>>(
        places: &[T],
        arguments: &[T],
        environment: &[T],
    ) -> Result<Self, NulError> {
        let texts = |texts: &[T]| -> Result<Vec<CString>, NulError> {
            texts
                .iter()
                .map(|text| CString::new(text.as_ref().as_bytes()))
                .collect()
        };
        Ok(Self {
            places: texts(places)?,
            arguments: texts(arguments)?,
            environment: texts(environment)?,
            dies_with_us: false,
        })
    }

    /// The same, killed when the thread that forks it ends.
    #[must_use]
    pub fn dying_with_us(mut self) -> Self {
        self.dies_with_us = true;
        self
    }
}

/// Why a child that waited did not become its program; it has ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel does not let it give something up.
    #[error("the kernel refuses the child {what}: {source}")]
    Refused {
        /// What it was to give up.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("it cannot be executed: {0}")]
    Exec(io::Error),
    /// The child ended before it was told to go on.
    #[error("the child ended before it could start: {0}")]
    Gone(io::Error),
    /// The variable that was to be added is too long, or has a NUL byte.
    #[error("the variable to be added is longer than {LATE} bytes or has a NUL byte")]
    Variable,
}

/// What the child was doing when it failed, as the first byte of its last word.
const STEPS: [&str; 4] = [
    "",
    "to give up gaining privileges",
    "to be ended with its parent",
    "to close what it inherited",
];
const EXEC: u8 = 4;

/// A child that waits. When it is dropped, the child ends, and nothing was run.
#[derive(Debug)]
pub struct Waiting {
    pid: Pid,
    /// Closing it ends the child; absent once it was told.
    go: Option<File>,
    /// What went wrong; its end when nothing did.
    word: File,
}

impl Waiting {
    /// Forks a child that will become `program`.
    pub fn fork(program: &Program) -> io::Result<Self> {
        let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (word_read, word_write) = pipe2(OFlag::O_CLOEXEC)?;
        let mut late = vec![0_u8; LATE];
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).collect()
        };
        let mut arguments = pointers(&program.arguments);
        arguments.push(ptr::null());
        let mut environment = pointers(&program.environment);
        environment.push(late.as_ptr().cast());
        environment.push(ptr::null());
        // SAFETY: the call takes nothing; what the child may do is said below.
        let parent = unsafe { libc::getpid() };
        // SAFETY: in the child, only `Child::run` happens, which never returns and makes system
        // calls only, on memory that is alive until then.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let child = Child {
                unneeded: [go_write.as_raw_fd(), word_read.as_raw_fd()],
                go: go_read.as_raw_fd(),
                word: word_write.as_raw_fd(),
                parent: program.dies_with_us.then_some(parent),
                late: &mut late,
                places: &program.places,
                arguments: &arguments,
                environment: &environment,
            };
            child.run();
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let file = |descriptor: OwnedFd| File::from(descriptor);
        Ok(Self {
            pid: Pid::from_raw(pid),
            go: Some(file(go_write)),
            word: file(word_read),
        })
    }

    /// The child's pid; it stays its own until the child is waited for.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Has the child become its program, with one more variable, "NAME=VALUE"; returns its pid once
    /// it has. From then on the caller waits for its end.
    pub fn go(mut self, variable: &[u8]) -> Result<u32, StartError> {
        if variable.len() >= LATE || variable.is_empty() || variable.contains(&0) {
            return Err(StartError::Variable);
        }
        let mut message = variable.to_vec();
        message.push(0);
        if let Some(mut go) = self.go.take() {
            go.write_all(&message).map_err(StartError::Gone)?;
        }
        let mut word = Vec::new();
        self.word.read_to_end(&mut word).map_err(StartError::Gone)?;
        let pid = self.pid();
        let Some((step, number)) = word.split_first() else {
            // Its program has taken over: nobody here waits for it.
            std::mem::forget(self);
            return Ok(pid);
        };
        let number = number
            .try_into()
            .map(i32::from_ne_bytes)
            .unwrap_or_default();
        let source = io::Error::from_raw_os_error(number);
        Err(match STEPS.get(usize::from(*step)) {
            Some(what) if *step < EXEC => StartError::Refused { what, source },
            Some(_) | None => StartError::Exec(source),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.go = None;
        // Without a word it ends at once; that it was waited for already is no fault.
        let _waited = waitpid(self.pid, None).is_ok();
    }
}

/// The child's part, between `fork` and `execve`.
struct Child<'a> {
    /// The parent's ends of the pipes.
    unneeded: [RawFd; 2],
    go: RawFd,
    word: RawFd,
    /// Whose end is the child's, too.
    parent: Option<libc::pid_t>,
    /// Where the last variable comes to stand; `environment` points to it.
    late: &'a mut [u8],
    places: &'a [CString],
    arguments: &'a [*const libc::c_char],
    environment: &'a [*const libc::c_char],
}

impl Child<'_> {
    fn run(mut self) -> ! {
        for descriptor in self.unneeded {
            // SAFETY: our own copies, which nobody uses here.
            unsafe { libc::close(descriptor) };
        }
        if !self.told() {
            // SAFETY: ends the process; no destructor of the parent's runs.
            unsafe { libc::_exit(0) };
        }
        if let Some(step) = self.give_up() {
            self.fail(step);
        }
        for place in self.places {
            self.execute(place);
        }
        self.fail(EXEC)
    }

    /// Waits for the word to go on, which is the last variable; false when there is none.
    fn told(&mut self) -> bool {
        let mut length = 0;
        while let Some(rest) = self.late.get_mut(length..)
            && !rest.is_empty()
        {
            // SAFETY: `rest` is ours and as long as is said.
            let read = unsafe { libc::read(self.go, rest.as_mut_ptr().cast(), rest.len()) };
            match usize::try_from(read) {
                Ok(0) => return false,
                Ok(read) => length += read,
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => return false,
            }
            let end = length.checked_sub(1).and_then(|last| self.late.get(last));
            if end == Some(&0) {
                return true;
            }
        }
        false
    }

    /// Gives up what the program must not have; the step that failed, if one did.
    fn give_up(&self) -> Option<u8> {
        // SAFETY: system calls that take integers, and pointers to values on the stack.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Some(1);
            }
            if let Some(parent) = self.parent {
                let asked = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) == 0;
                // It may have ended before it was asked for.
                if !asked || libc::getppid() != parent {
                    return Some(2);
                }
            }
            // The standard library ignores it, which the program would inherit.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            let closed = libc::syscall(
                libc::SYS_close_range,
                libc::c_uint::try_from(libc::STDERR_FILENO + 1).unwrap_or(3),
                libc::c_uint::MAX,
                CLOSE_RANGE_CLOEXEC,
            );
            (closed != 0).then_some(3)
        }
    }

    /// Returns only when that cannot be executed.
    fn execute(&self, place: &CStr) {
        // SAFETY: all texts end with NUL, both lists with a null pointer, and all are alive.
        unsafe {
            libc::execve(
                place.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            );
        }
    }

    /// Says what failed, and ends.
    fn fail(&self, step: u8) -> ! {
        let [a, b, c, d] = errno().to_ne_bytes();
        let word = [step, a, b, c, d];
        // SAFETY: `word` is as long as is said; then the process ends.
        unsafe {
            libc::write(self.word, word.as_ptr().cast(), word.len());
            libc::_exit(127);
        }
    }
}

fn errno() -> libc::c_int {
    nix::errno::Errno::last_raw()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::wait::WaitStatus;

    use super::*;

    fn shell(script: &str) -> Program {
        Program::new(
            &["/nowhere/sh", "/bin/sh"],
            &["sh", "-c", script],
            &["PATH=/usr/bin:/bin"],
        )
        .unwrap()
    }

    fn ended(pid: u32) -> WaitStatus {
        waitpid(Pid::from_raw(i32::try_from(pid).unwrap()), None).unwrap()
    }

    #[test]
    fn it_exists_before_it_runs_and_gets_the_last_variable() {
        let program = shell("test \"$LATE\" = 'x y' && exit 7");
        let waiting = Waiting::fork(&program).unwrap();
        let pidfd = crate::pidfd::open(waiting.pid()).unwrap();
        assert!(crate::pidfd::is_alive(pidfd.as_fd()));
        let pid = waiting.go(b"LATE=x y").unwrap();
        assert!(matches!(ended(pid), WaitStatus::Exited(_, 7)));
    }

    #[test]
    fn what_is_not_told_to_go_on_runs_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("there");
        let program = shell(&format!("touch {}", file.display()));
        let waiting = Waiting::fork(&program).unwrap();
        let pidfd = crate::pidfd::open(waiting.pid()).unwrap();
        drop(waiting);
        assert!(!crate::pidfd::is_alive(pidfd.as_fd()));
        assert!(!file.exists());
        for bad in [&b""[..], b"A=\0", &[b'x'; LATE]] {
            let waiting = Waiting::fork(&program).unwrap();
            assert!(matches!(waiting.go(bad), Err(StartError::Variable)));
        }
        assert!(!file.exists());
    }

    #[test]
    fn it_keeps_nothing_of_ours() {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // Open across `exec`, as a careless library leaves it.
        nix::fcntl::fcntl(
            &theirs,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .unwrap();
        let program = shell(
            "grep -q '^NoNewPrivs:.1$' /proc/$$/status || exit 1
             ignored=$(sed -n 's/^SigIgn:.//p' /proc/$$/status)
             [ $((0x$ignored & 0x1000)) = 0 ] || exit 2
             for f in /proc/$$/fd/*; do [ ${f##*/} -gt 2 ] && [ -e $f ] && exit 4; done
             [ $(env | grep -c -v -e ^LATE= -e ^PATH= -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=) = 0 ]",
        );
        let pid = Waiting::fork(&program.dying_with_us())
            .unwrap()
            .go(b"LATE=1")
            .unwrap();
        let pid_ended = ended(pid);
        assert!(
            matches!(pid_ended, WaitStatus::Exited(_, 0)),
            "{pid_ended:?}"
        );
        // A shell blocks signals of its own while it starts others: this program looks at itself.
        let words = ["grep", "-q", "^SigBlk:.0*$", "/proc/self/status"];
        let program = Program::new(&["/usr/bin/grep", "/bin/grep"], &words, &["A=b"]).unwrap();
        let pid = Waiting::fork(&program).unwrap().go(b"LATE=1").unwrap();
        assert!(matches!(ended(pid), WaitStatus::Exited(_, 0)));
    }

    #[test]
    fn what_cannot_be_executed_says_so() {
        let program = Program::new(&["/etc/passwd"], &["x"], &["A=b"]).unwrap();
        let outcome = Waiting::fork(&program).unwrap().go(b"LATE=1");
        let Err(StartError::Exec(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
