//! A real `muster dev` and the means to ask it.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The command under test, with nothing of the developer's own environment that it would obey.
pub(crate) fn muster() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    for name in [
        "XDG_RUNTIME_DIR",
        "SPIFFE_ENDPOINT_SOCKET",
        "MUSTER_SERVER_SOCKET",
        "MUSTER_LOG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// An example of this package: cargo builds them before it runs tests, beside the folder of this one.
pub(crate) fn example(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not built; run cargo build -p muster-cli --example {name}",
        program.display()
    );
    program
}

/// A trust domain that serves, in its own world of temporary files.
pub(crate) struct Dev {
    process: Option<Child>,
    lines: Option<BufReader<ChildStdout>>,
    pub(crate) ready: Value,
    /// Where it makes its temporary directory.
    pub(crate) tmp: Option<TempDir>,
}

impl Dev {
    /// Starts `muster dev --json` and reads its first line.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let tmp = tempfile::tempdir_in("/tmp").unwrap();
        let mut process = muster()
            .args(["dev", "--json"])
            .args(flags)
            .env("TMPDIR", tmp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let ready = next_line(&mut lines).expect("muster dev ended before it was ready");
        assert_eq!(ready["event"], "ready", "{ready}");
        Self {
            process: Some(process),
            lines: Some(lines),
            ready,
            tmp: Some(tmp),
        }
    }

    /// Reads lines until one of this kind.
    pub(crate) fn until(&mut self, event: &str) -> Value {
        self.all_until(event).pop().unwrap()
    }

    /// Reads until there was one line for each of these, in whatever order: the node tells of what is
    /// issued and the workload of what it receives, and neither waits for the other.
    pub(crate) fn until_each<const N: usize>(
        &mut self,
        wanted: [&dyn Fn(&Value) -> bool; N],
    ) -> [Value; N] {
        let mut found = [const { None }; N];
        while found.iter().any(Option::is_none) {
            let line = next_line(self.lines.as_mut().unwrap())
                .unwrap_or_else(|| panic!("muster dev ended with {found:?}"));
            for (place, is_wanted) in found.iter_mut().zip(&wanted) {
                if place.is_none() && is_wanted(&line) {
                    *place = Some(line.clone());
                }
            }
        }
        found.map(Option::unwrap)
    }

    /// As [`until`](Self::until), and gives all lines, that one last.
    pub(crate) fn all_until(&mut self, event: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = next_line(self.lines.as_mut().unwrap())
                .unwrap_or_else(|| panic!("muster dev ended before {event:?}: {lines:?}"));
            let found = line["event"] == event;
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    /// A directory that goes with the trust domain.
    pub(crate) fn scratch(&self) -> &Path {
        self.tmp.as_ref().unwrap().path()
    }

    /// Closes our end of its standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.lines = None;
    }

    pub(crate) fn pid(&self, whose: &str) -> u32 {
        u32::try_from(self.ready[whose].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn path(&self, whose: &str) -> PathBuf {
        PathBuf::from(self.ready[whose].as_str().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits for the end: exit code (none if killed) and standard error.
    pub(crate) fn wait(mut self) -> (Option<i32>, String, TempDir) {
        let output = self.process.take().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said, self.tmp.take().unwrap())
    }

    /// Runs a command against the server of this trust domain.
    pub(crate) fn ask(&self, words: &[&str]) -> Output {
        muster()
            .args(words)
            .env("MUSTER_SERVER_SOCKET", self.path("server_admin_socket"))
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", self.path("workload_socket").display()),
            )
            .output()
            .unwrap()
    }

    /// The same with `--json`; the command must succeed.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let output = self.ask(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A test that fails leaves nothing running: the children die with their parent.
impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

fn next_line(lines: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}

/// A handle on a process by which its end can be awaited.
pub(crate) fn watch(pid: u32) -> OwnedFd {
    muster_peer::pidfd::open(pid).unwrap()
}

/// Waits until a process has ended.
pub(crate) fn assert_gone(process: &OwnedFd) {
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let gone = poll(&mut polled, PollTimeout::from(10_000_u16)).unwrap();
    assert_eq!(gone, 1, "the process did not end within 10 s");
}

/// Names in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The blocks of a page of the documents in one language.
pub(crate) fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    page.split(&format!("\n```{language}\n"))
        .skip(1)
        .map(|rest| rest.split_once("\n```").unwrap().0)
        .collect()
}

/// What a command said on its standard error.
pub(crate) fn said(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
