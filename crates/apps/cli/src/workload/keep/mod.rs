//! `muster workload watch` and `muster workload run`: identities as files, for programs that read
//! nothing else.
//!
//! [`source`] says what has come from the node, [`contents`] what files that means, and
//! [`generation`] puts them in place all at once. [`Engine`] decides when: not while a hook runs, not
//! sooner than the settings allow, and never a generation that says the same as the one before. What
//! comes meanwhile waits, and only the newest of it becomes a generation.
//!
//! Deliberately not here: anything that takes a file away because the node is gone or refuses. What
//! is on the disk stays until something newer replaces it.

mod child;
mod contents;
mod generation;
mod health;
mod hook;
mod settings;
mod source;

use std::ffi::OsString;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::Args;
use muster_crypto::digest::Sha256;
use muster_model::Timestamp;
use muster_rt::{Clock, SystemClock};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

use self::child::Child;
use self::contents::Materials;
use self::generation::{Content, Directory};
use self::health::Health;
use self::hook::{Bounds, Hook};
use self::settings::{Action, Options, Settings};
use self::source::{Source, Update};
use super::WorkloadArgs;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::process;
use crate::time::{rfc3339, rough};

/// How long the engine sleeps at most: a clock that is set forward is noticed by then.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// Keeps the files of this process's identity current until it is told to end.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// End when the first generation is there; fail if it is not after --timeout
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    workload: WorkloadArgs,
}

/// Runs a command when the first files are there, and keeps them current while it runs.
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) async fn watch(watch: Watch) -> Result<ExitCode, Failure> {
    let settings = watch.options.settle()?;
    let needs_child = match &settings.action {
        Action::Restart => Some("restart"),
        Action::Signal(_, None) => Some("signal:NAME without a @PIDFILE"),
        Action::Signal(_, Some(_)) | Action::Exec(_) | Action::Nothing => None,
    };
    if let Some(action) = needs_child {
        return Err(Failure::usage(format!(
            "--on-renew {action} is about a child, and `muster workload watch` has none; use \
             `muster workload run`"
        )));
    }
    let timeout = watch.workload.timeout();
    let mut engine = Engine::new(settings, None)?;
    let source = Source::start(&watch.workload, &engine.settings);
    if !watch.once {
        return engine.run(source, Until::Told).await;
    }
    match tokio::time::timeout(timeout, engine.run(source, Until::First)).await {
        Ok(ended) => ended,
        // What went wrong last is the better story than that time is up.
        Err(_) => Err(engine.trouble.take().unwrap_or_else(|| {
            Failure::new(
                Exit::Unavailable,
                "the files are not there in time; pass a longer --timeout",
            )
        })),
    }
}

pub(super) async fn run(run: Run) -> Result<ExitCode, Failure> {
    let mut engine = Engine::new(run.options.settle()?, Some(run.command))?;
    let source = Source::start(&run.workload, &engine.settings);
    engine.run(source, Until::Told).await
}

/// When the engine is done by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The first generation is there, and its hook is done.
    First,
    /// A signal or the child's end says so.
    Told,
}

struct Engine {
    settings: Settings,
    clock: SystemClock,
    directory: Directory,
    health: Health,
    materials: Materials,
    /// What the newest generation was made of.
    fingerprint: Option<[u8; 32]>,
    /// Something has come since.
    stale: bool,
    /// When the next generation may be made, in monotonic time.
    not_before: Duration,
    /// The directory had no generation when we came.
    fresh: bool,
    hook: Option<JoinHandle<Result<(), Failure>>>,
    command: Option<Vec<OsString>>,
    child: Option<Child>,
    /// The child is being restarted, and is killed at this monotonic time.
    kill_at: Option<Duration>,
    trouble: Option<Failure>,
}

/// What the engine waits for.
enum Happening {
    Update(Update),
    Signal(Signal),
    ChildEnded(ExitStatus),
    HookEnded(Result<(), Failure>),
    Time,
}

impl Engine {
    fn new(settings: Settings, command: Option<Vec<OsString>>) -> Result<Self, Failure> {
        let clock = SystemClock::new();
        let directory = Directory::open(&settings.directory, settings.keep, clock.now().mono)?;
        Ok(Self {
            fresh: !directory.has_generation(),
            settings,
            clock,
            directory,
            health: Health::default(),
            materials: Materials::default(),
            fingerprint: None,
            stale: false,
            not_before: Duration::ZERO,
            hook: None,
            command,
            child: None,
            kill_at: None,
            trouble: None,
        })
    }

    async fn run(&mut self, mut source: Source, until: Until) -> Result<ExitCode, Failure> {
        let mut signals = process::signals()?;
        // Ends with this function.
        let mut tasks = JoinSet::new();
        if let Some(address) = self.settings.health_listen {
            let listener = health::listen(address).await?;
            tasks.spawn(self.health.clone().serve(listener));
        }
        self.show_health()?;
        loop {
            let happening = self.next(&mut source.updates, &mut signals).await?;
            if let Some(code) = self.handle(happening, &source)? {
                return Ok(code);
            }
            self.advance()?;
            if until == Until::First && self.fingerprint.is_some() && self.hook.is_none() {
                let now = self.clock.now().wall;
                return match self.health.complaint(now) {
                    None => Ok(ExitCode::SUCCESS),
                    Some(complaint) => Err(Failure::failed(complaint)),
                };
            }
        }
    }

    async fn next(
        &mut self,
        updates: &mut mpsc::Receiver<Update>,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<Happening, Failure> {
        let pause = self.pause();
        let happening = tokio::select! {
            Some(signal) = signals.recv() => Happening::Signal(signal),
            status = child_ended(&mut self.child) => Happening::ChildEnded(status?),
            outcome = hook_ended(&mut self.hook) => Happening::HookEnded(outcome),
            Some(update) = updates.recv() => Happening::Update(update),
            () = tokio::time::sleep(pause) => Happening::Time,
        };
        Ok(happening)
    }

    /// How long nothing is to be done unless something happens.
    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let may_publish = self.stale && self.idle();
        [
            may_publish.then(|| self.not_before.saturating_sub(now.mono)),
            self.directory
                .prune_at()
                .map(|at| at.saturating_sub(now.mono)),
            self.kill_at.map(|at| at.saturating_sub(now.mono)),
            self.health
                .expires()
                .filter(|at| *at > now.wall)
                .map(|at| at.since(now.wall)),
        ]
        .into_iter()
        .flatten()
        .fold(LONGEST_SLEEP, Duration::min)
    }

    /// Neither a hook nor a restart is under way: only then a new generation is made, so that those
    /// that the hook speaks to are not overtaken while they read.
    fn idle(&self) -> bool {
        self.hook.is_none() && self.kill_at.is_none()
    }

    fn handle(
        &mut self,
        happening: Happening,
        source: &Source,
    ) -> Result<Option<ExitCode>, Failure> {
        match happening {
            Happening::Update(update) => self.take(update, source),
            Happening::Signal(signal) => return Ok(self.signalled(signal)),
            Happening::ChildEnded(status) => {
                self.child = None;
                if self.kill_at.take().is_none() {
                    return Ok(Some(ExitCode::from(process::exit_code(status))));
                }
                self.start_child()?;
                self.health.hook_ended(&Ok(()));
            }
            Happening::HookEnded(outcome) => {
                self.hook = None;
                self.health.hook_ended(&outcome);
                self.show_health()?;
            }
            Happening::Time => self.show_health()?,
        }
        Ok(None)
    }

    fn take(&mut self, update: Update, source: &Source) {
        match update {
            Update::X509(update) => match contents::chosen(&self.settings, &update) {
                Ok(identity) => {
                    let id = identity.svid.spiffe_id.clone();
                    source.subject.send_replace(Some(id));
                    self.materials.x509 = Some(update);
                    self.stale = true;
                }
                Err(failure) => self.complain(failure, None),
            },
            Update::Token {
                file,
                token,
                expires,
            } => {
                self.materials.tokens.insert(file, (token, expires));
                self.stale = true;
            }
            Update::Jwks(documents) => {
                self.materials.jwks = Some(documents);
                self.stale = true;
            }
            Update::Trouble(failure, pause) => self.complain(failure, Some(pause)),
        }
    }

    /// Tells what is wrong, and what that means for the files.
    fn complain(&mut self, failure: Failure, again_in: Option<Duration>) {
        let again =
            again_in.map_or_else(String::new, |pause| format!(" (again in {})", rough(pause)));
        let kept = match self.health.expires() {
            Some(expires) => format!(
                "; the files stay, and are good until {}",
                rfc3339(expires.unix_seconds())
            ),
            None => String::new(),
        };
        output::note(&format!("muster: {failure}{kept}{again}"));
        self.trouble = Some(failure);
    }

    fn signalled(&mut self, signal: Signal) -> Option<ExitCode> {
        let ends = matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT);
        match &self.child {
            Some(child) => {
                if !process::sent_by_terminal(signal) {
                    child.signal(signal);
                }
                // A restart that is under way becomes the end.
                if ends {
                    self.kill_at = None;
                }
                None
            }
            None if ends && self.command.is_some() => Some(ExitCode::from(
                u8::try_from(128 + signal as i32).unwrap_or(1),
            )),
            None if ends => Some(ExitCode::SUCCESS),
            None => None,
        }
    }

    /// Does what is due.
    fn advance(&mut self) -> Result<(), Failure> {
        let now = self.clock.now().mono;
        self.directory.prune(now)?;
        if self.kill_at.is_some_and(|at| at <= now)
            && let Some(child) = &self.child
        {
            output::note("muster: the child does not end and is killed");
            child.signal(Signal::SIGKILL);
            self.kill_at = Some(now + self.settings.stop_timeout.max(Duration::from_secs(1)));
        }
        if self.stale && self.idle() && self.not_before <= now {
            self.publish(now)?;
        }
        Ok(())
    }

    fn publish(&mut self, now: Duration) -> Result<(), Failure> {
        self.stale = false;
        let (files, expires) = match contents::files(&self.settings, &self.materials) {
            Ok(Some(files)) => files,
            Ok(None) => return Ok(()),
            Err(failure) => {
                self.complain(failure, None);
                return Ok(());
            }
        };
        let fingerprint = fingerprint(&files);
        if self.fingerprint == Some(fingerprint) {
            return Ok(());
        }
        let first = self.fingerprint.is_none();
        self.not_before =
            now + interval(self.settings.min_interval, expires, self.clock.now().wall);
        let generation = match self.directory.publish(&files, now) {
            Ok(generation) => generation,
            // A full disk may have room again; a first generation that fails is a mistake to mend.
            Err(failure) if !first => {
                self.stale = true;
                self.not_before = now + LONGEST_SLEEP;
                self.complain(failure, Some(LONGEST_SLEEP));
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        self.fingerprint = Some(fingerprint);
        self.trouble = None;
        self.health.published(expires);
        tell(&generation, expires);
        self.react(first, generation, now)?;
        self.show_health()
    }

    /// The one reaction to a new generation.
    fn react(&mut self, first: bool, generation: PathBuf, now: Duration) -> Result<(), Failure> {
        if self.command.is_some() && self.child.is_none() {
            return self.start_child();
        }
        if first && self.fresh && self.settings.skip_first {
            return Ok(());
        }
        let hook = match (&self.settings.action, &self.child) {
            (Action::Nothing, _) => return Ok(()),
            (Action::Restart, child) => {
                if let Some(child) = child {
                    child.signal(Signal::SIGTERM);
                    self.kill_at = Some(now + self.settings.stop_timeout);
                }
                return Ok(());
            }
            (Action::Signal(signal, None), child) => {
                if let Some(child) = child {
                    child.signal(*signal);
                }
                return Ok(());
            }
            (Action::Signal(signal, Some(file)), _) => Hook::SignalFile(*signal, file.clone()),
            (Action::Exec(words), _) => Hook::Exec(words.clone()),
        };
        let bounds = Bounds {
            attempts: self.settings.hook_attempts,
            timeout: self.settings.hook_timeout,
        };
        self.hook = Some(tokio::spawn(async move {
            hook::run(&hook, &generation, bounds).await
        }));
        Ok(())
    }

    fn start_child(&mut self) -> Result<(), Failure> {
        if let Some(command) = &self.command {
            self.child = Some(Child::start(command)?);
        }
        Ok(())
    }

    fn show_health(&self) -> Result<(), Failure> {
        match &self.settings.health_file {
            Some(file) => self.health.show(file, self.clock.now().wall),
            None => Ok(()),
        }
    }
}

fn tell(generation: &Path, expires: Timestamp) {
    output::note(&format!(
        "muster: {} is there, good until {}",
        generation.display(),
        rfc3339(expires.unix_seconds())
    ));
}

async fn child_ended(child: &mut Option<Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.ended().await,
        None => pending().await,
    }
}

async fn hook_ended(hook: &mut Option<JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    match hook {
        Some(running) => running
            .await
            .unwrap_or_else(|error| Err(Failure::failed(format!("the hook's task: {error}")))),
        None => pending().await,
    }
}

/// How long after a generation the next one may come at the earliest: what was asked for, and never
/// so long that it costs a short-lived SVID much of its life.
fn interval(asked: Duration, expires: Timestamp, now: Timestamp) -> Duration {
    asked.min(expires.since(now) / 8)
}

/// Tells whether two generations would say the same. PKCS #12 stores have a new salt each time, and
/// say nothing that the PEM files do not.
fn fingerprint(files: &[Content]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| !contents::is_store(&file.name)) {
        let head = format!("{}\0{}\0", file.name, file.bytes.len());
        hash.update(head.as_bytes());
        let bytes: &Zeroizing<Vec<u8>> = &file.bytes;
        hash.update(bytes);
    }
    hash.finish()
}
