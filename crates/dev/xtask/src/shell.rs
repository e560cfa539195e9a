//! Programs that we start: where things are, how long they may take, how they end.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a chore fails with: a sentence for the person who ran it.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How often one looks for what will come.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap_or(here).to_path_buf()
}

/// The folder that cargo builds into: `CARGO_TARGET_DIR`, else `target` at the root.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Builds the binaries of these packages for release.
pub(crate) fn build_release(packages: &[&str]) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--release", "--bins"]);
    for package in packages {
        build.args(["--package", package]);
    }
    let status = build.stdin(Stdio::null()).status()?;
    succeeded("cargo build --release", status)
}

/// The release binary of that name.
pub(crate) fn release_binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// Says why a program that ended badly is a failure.
pub(crate) fn succeeded(what: &str, status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    Err(format!("{what}: {status}").into())
}

/// Runs a program that must succeed; what it printed is shown only if it does not.
pub(crate) fn quietly(command: &mut Command) -> Result<String, Failure> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{what}: {error}; is it installed and on PATH?"))?;
    if !output.status.success() {
        return Err(format!("{what}: {}\n{}", output.status, tail(&output)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of what a program printed, errors last.
pub(crate) fn tail(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    last_lines(&text, 20)
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// A program that runs while we listen to it.
pub(crate) struct Talker {
    name: String,
    child: Child,
    // A mutex only so that a program can be known to several threads.
    lines: Mutex<Receiver<String>>,
    errors: JoinHandle<String>,
}

/// How a program ended.
pub(crate) struct Ended {
    /// What it printed and nobody had asked for before.
    pub(crate) output: String,
    /// The last lines of its errors.
    pub(crate) errors: String,
    /// Whether it ended with 0, by itself.
    pub(crate) well: bool,
    /// How it ended, for a person.
    pub(crate) how: String,
}

impl Talker {
    /// Starts the program; its input stays open until [`Talker::close_input`].
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let stdout = child.stdout.take().ok_or("a program without output")?;
        let mut stderr = child.stderr.take().ok_or("a program without errors")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Read to the end whether or not anyone listens, so that the pipe never fills.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            drop(stderr.read_to_end(&mut text));
            last_lines(&String::from_utf8_lossy(&text), 20)
        });
        Ok(Self {
            name,
            child,
            lines: Mutex::new(lines),
            errors,
        })
    }

    /// The next line that the program prints, unless it is silent for so long, or ends.
    pub(crate) fn line_within(&self, limit: Duration) -> Option<String> {
        self.lines.lock().ok()?.recv_timeout(limit).ok()
    }

    /// Writes a line to the program's standard input.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        let input = self.child.stdin.as_mut().ok_or("its input has ended")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// The program's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the program's standard input.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Waits for the program until the deadline, then kills it.
    pub(crate) fn finish_within(self, limit: Duration) -> Result<Ended, Failure> {
        let Self {
            name,
            mut child,
            lines,
            errors,
        } = self;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || drop(sender.send(child.wait())));
        let (status, killed) = if let Ok(status) = ended.recv_timeout(limit) {
            (status?, false)
        } else {
            kill(pid, Signal::SIGKILL)?;
            (ended.recv()??, true)
        };
        let how = if killed {
            format!("{name}: killed after {} s", limit.as_secs())
        } else {
            format!("{name}: {status}")
        };
        Ok(Ended {
            output: lines
                .into_inner()
                .map_err(|_| "a thread that listened panicked")?
                .iter()
                .fold(String::new(), |text, line| text + &line + "\n"),
            errors: errors.join().unwrap_or_default(),
            well: status.success() && !killed,
            how,
        })
    }
}

/// Looks again and again until `look` finds what it wants; an error is what is still missing.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let watch = Stopwatch::start();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(missing) if watch.elapsed() > within => {
                return Err(format!("{what}, within {} s: {missing}", within.as_secs()).into());
            }
            Err(_) => thread::sleep(BETWEEN_LOOKS),
        }
    }
}

/// Whether a program of that name is on `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|folder| folder.join(OsStr::new(program)).is_file())
}

/// Measures how long a chore takes.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "a chore tells a person how long it took; no decision hangs on it"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start, for deadlines.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Whole seconds since the start.
    pub(crate) fn seconds(self) -> u64 {
        self.0.elapsed().as_secs()
    }
}
