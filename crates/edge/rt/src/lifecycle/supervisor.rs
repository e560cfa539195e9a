//! Essential tasks: the first to end stops all, and the exit code tells the truth.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, future};

use sd_notify::NotifyState;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use super::{Ready, Reason, Shutdown};

/// What an essential task ends with when it cannot go on.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// Runs the tasks that the program cannot live without.
pub struct Supervisor {
    shutdown: Shutdown,
    ready: Ready,
    drain: Duration,
    tasks: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, &'static str>,
}

/// How an essential task failed.
#[derive(Debug)]
pub enum Failure {
    /// It gave up with an error.
    Failed {
        /// The task's name.
        task: &'static str,
        /// Why it gave up.
        error: TaskError,
    },
    /// It panicked.
    Panicked {
        /// The task's name.
        task: &'static str,
        /// What the panic said, if it said anything.
        message: String,
    },
    /// It ended although nobody had asked it to.
    Ended {
        /// The task's name.
        task: &'static str,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { task, error } => {
                write!(f, "the task {task} failed: {error}")?;
                let mut cause = error.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            Self::Panicked { task, message } => write!(f, "the task {task} panicked: {message}"),
            Self::Ended { task } => write!(f, "the task {task} ended by itself"),
        }
    }
}

/// How it all ended.
#[derive(Debug)]
pub struct Verdict {
    /// What failed, in the order in which it did.
    pub failures: Vec<Failure>,
    /// Tasks that were still running when the deadline of the drain had passed.
    pub stuck: Vec<&'static str>,
}

impl Verdict {
    /// Zero only if every task ended well, and in time, after it was asked to.
    pub fn exit_code(&self) -> ExitCode {
        if self.failures.is_empty() && self.stuck.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Supervisor {
    /// A supervisor without tasks. `drain` is how long tasks may take to end once the shutdown
    /// has begun.
    pub fn new(shutdown: Shutdown, ready: Ready, drain: Duration) -> Self {
        Self {
            shutdown,
            ready,
            drain,
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Starts an essential task. It must end soon after the shutdown has begun, and not before.
    pub fn essential<E: Into<TaskError>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self
            .tasks
            .spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Waits for the end: a shutdown, or the first task that ends; then drains.
    ///
    /// Tells systemd when all parts are ready, when the end begins, and, if the unit has a
    /// watchdog, that the runtime still turns.
    pub async fn run(mut self) -> Verdict {
        let mut failures = Vec::new();
        let mut watchdog = watchdog();
        let shutdown = self.shutdown.clone();
        let ready = self.ready.clone();
        {
            let mut begun = pin!(shutdown.begun());
            let mut all_ready = pin!(ready.all());
            let mut told = false;
            loop {
                tokio::select! {
                    _reason = &mut begun => break,
                    Some(joined) = self.tasks.join_next_with_id() => {
                        if let Some(failure) = self.judge(joined) {
                            tracing::error!("{failure}; stopping");
                            failures.push(failure);
                        }
                        shutdown.begin(Reason::TaskEnded);
                        break;
                    }
                    () = &mut all_ready, if !told => {
                        told = true;
                        notify(&NotifyState::Ready);
                    }
                    () = tick(watchdog.as_mut()) => notify(&NotifyState::Watchdog),
                }
            }
        }
        // One that is handed on does not stop, as far as its manager can tell.
        if shutdown.reason() != Some(Reason::HandedOn) {
            notify(&NotifyState::Stopping);
        }
        let drain = self.drain;
        let in_time = tokio::time::timeout(drain, async {
            while let Some(joined) = self.tasks.join_next_with_id().await {
                if let Some(failure) = self.judge(joined) {
                    tracing::error!("{failure} while stopping");
                    failures.push(failure);
                }
            }
        })
        .await;
        let mut stuck: Vec<_> = self.names.into_values().collect();
        stuck.sort_unstable();
        if in_time.is_err() {
            tracing::error!(tasks = ?stuck, "tasks did not end in time and are cut off");
        }
        Verdict { failures, stuck }
    }

    /// What the end of a task means; `None` if it ended well because it was asked to.
    fn judge(&mut self, joined: Result<(Id, Result<(), TaskError>), JoinError>) -> Option<Failure> {
        match joined {
            Ok((id, result)) => {
                let task = self.names.remove(&id)?;
                match result {
                    Err(error) => Some(Failure::Failed { task, error }),
                    Ok(()) if self.shutdown.reason().is_none() => Some(Failure::Ended { task }),
                    Ok(()) => None,
                }
            }
            Err(error) => {
                let task = self.names.remove(&error.id())?;
                Some(Failure::Panicked {
                    task,
                    message: panic_message(error),
                })
            }
        }
    }
}

fn panic_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(no message)".to_owned()),
        Err(error) => error.to_string(),
    }
}

/// Half the interval that systemd wants to hear from us in, if it does.
fn watchdog() -> Option<Interval> {
    let every = sd_notify::watchdog_enabled()? / 2;
    if every.is_zero() {
        return None;
    }
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

async fn tick(watchdog: Option<&mut Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => future::pending().await,
    }
}

/// Tells systemd, if there is one that wants to know, that the service goes on in another process,
/// which tells about itself from then on.
pub fn tell_successor(pid: u32) {
    notify(&NotifyState::MainPid(pid));
}

/// Tells systemd, if there is one that wants to know.
fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd cannot be told about the state of the service");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn supervisor(drain: Duration) -> (Shutdown, Supervisor) {
        let shutdown = Shutdown::new();
        let supervisor = Supervisor::new(shutdown.clone(), Ready::new(), drain);
        (shutdown, supervisor)
    }

    async fn until(shutdown: Shutdown) -> io::Result<()> {
        shutdown.begun().await;
        Ok(())
    }

    fn is_success(verdict: &Verdict) -> bool {
        format!("{:?}", verdict.exit_code()) == format!("{:?}", ExitCode::SUCCESS)
    }

    #[tokio::test]
    async fn all_end_well_when_asked() {
        let (shutdown, mut supervisor) = supervisor(LONG);
        supervisor.essential("a", until(shutdown.clone()));
        supervisor.essential("b", until(shutdown.clone()));
        shutdown.begin(Reason::Terminate);
        let verdict = supervisor.run().await;
        assert!(is_success(&verdict), "{verdict:?}");
    }

    #[tokio::test]
    async fn the_first_to_fail_stops_the_others() {
        let (shutdown, mut supervisor) = supervisor(LONG);
        supervisor.essential("good", until(shutdown.clone()));
        supervisor.essential("bad", async { Err(io::Error::other("the disk is full")) });
        let verdict = supervisor.run().await;
        assert_eq!(shutdown.reason(), Some(Reason::TaskEnded));
        assert!(!is_success(&verdict));
        assert_eq!(
            verdict.failures[0].to_string(),
            "the task bad failed: the disk is full"
        );
        assert_eq!(verdict.failures.len(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let (shutdown, mut supervisor) = supervisor(LONG);
        supervisor.essential("good", until(shutdown.clone()));
        supervisor.essential("bad", async { broken() });
        let verdict = supervisor.run().await;
        assert!(!is_success(&verdict));
        assert_eq!(
            verdict.failures[0].to_string(),
            "the task bad panicked: out of range"
        );
    }

    fn broken() -> io::Result<()> {
        panic!("out of range")
    }

    #[tokio::test]
    async fn to_end_unasked_is_a_failure() {
        let (_shutdown, mut supervisor) = supervisor(LONG);
        supervisor.essential("short", async { Ok::<(), io::Error>(()) });
        let verdict = supervisor.run().await;
        assert!(matches!(
            verdict.failures.as_slice(),
            [Failure::Ended { task: "short" }]
        ));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_cut_off_and_named() {
        let (shutdown, mut supervisor) = supervisor(Duration::from_millis(1));
        supervisor.essential("slow", future::pending::<Result<(), io::Error>>());
        supervisor.essential("good", until(shutdown.clone()));
        shutdown.begin(Reason::Interrupt);
        let verdict = supervisor.run().await;
        assert_eq!(verdict.stuck, ["slow"]);
        assert!(!is_success(&verdict));
    }
}
