//! A thread that owns a connection.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use muster_store::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::Fault;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread that owns a connection and does one job after the other on it.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` only while the worker is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Worker {
    /// Starts a thread of that name.
    pub(crate) fn start(
        name: &str,
        mut connection: Connection,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| StoreError::Unavailable {
                path: path.to_owned(),
                cause: format!("cannot start a thread: {error}"),
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            path: path.to_owned(),
        })
    }

    /// Does `job` after all that were given before, and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever no longer waits has nothing to be told.
            drop(answer.send(job(connection)));
        });
        self.jobs
            .as_ref()
            .ok_or(StoreError::Closed)?
            .send(job)
            .map_err(|_| StoreError::Closed)?;
        wait.await
            .map_err(|_| StoreError::Closed)?
            .map_err(|fault| fault.at(&self.path))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was seen by whoever waited for the job.
            drop(thread.join());
        }
    }
}
