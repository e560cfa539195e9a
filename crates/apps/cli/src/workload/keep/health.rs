//! Whether the files can be relied upon: over HTTP for probes, as a file for everything else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_model::Timestamp;
use muster_rt::files::{self, PUBLIC};
use muster_rt::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::time::rfc3339;

/// How many probes are answered at a time; the rest waits in the kernel's queue.
const PROBES: usize = 16;
/// How long a probe may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request that is read, in bytes.
const MAX_REQUEST: usize = 4096;

/// What is known, shared with those who ask.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    generation: u64,
    expires: Option<Timestamp>,
    hook_failed: bool,
}

impl Health {
    /// A new generation is there.
    pub(super) fn published(&self, expires: Timestamp) {
        let mut facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        facts.generation += 1;
        facts.expires = Some(expires);
    }

    /// How the hook of the newest generation ended.
    pub(super) fn hook_ended(&self, outcome: &Result<(), Failure>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hook_failed = outcome.is_err();
    }

    /// When the newest generation expires.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expires
    }

    /// Why the files cannot be relied upon; none if they can.
    pub(super) fn complaint(&self, now: Timestamp) -> Option<&'static str> {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match facts.expires {
            None => Some("no generation yet"),
            Some(expires) if expires <= now => Some("what is in the files has expired"),
            Some(_) if facts.hook_failed => Some("the hook failed for the newest generation"),
            Some(_) => None,
        }
    }

    fn json(&self, now: Timestamp) -> Value {
        let complaint = self.complaint(now);
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "ready": complaint.is_none(),
            "reason": complaint,
            "generations": facts.generation,
            "expires_at": facts.expires.map(|at| rfc3339(at.unix_seconds())),
        })
    }

    /// Makes the health file be there or not, as it should be.
    pub(super) fn show(&self, file: &Path, now: Timestamp) -> Result<(), Failure> {
        if self.complaint(now).is_some() {
            files::remove_durably(file)?;
        } else {
            files::write_atomic(file, format!("{}\n", self.json(now)).as_bytes(), PUBLIC)?;
        }
        Ok(())
    }

    /// Answers probes until the task is ended.
    pub(super) async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(PROBES));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: others must end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let health = self.clone();
            tokio::spawn(async move {
                let _too_slow_or_gone = tokio::time::timeout(PATIENCE, health.answer(stream))
                    .await
                    .is_err();
                drop(place);
            });
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        let mut piece = [0_u8; 512];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
            let read = stream.read(&mut piece).await?;
            if read == 0 {
                return Ok(());
            }
            request.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
        let now = SystemClock::new().now().wall;
        let status = match request.split(|byte| *byte == b' ').nth(1) {
            Some(b"/live") => "200 OK",
            Some(b"/ready") if self.complaint(now).is_none() => "200 OK",
            Some(b"/ready") => "503 Service Unavailable",
            _ => "404 Not Found",
        };
        let body = format!("{}\n", self.json(now));
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}

/// The listener for probes.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::failed(format!(
            "cannot listen at {address} (--health-listen): {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_with_a_generation_that_lives_and_a_hook_that_worked() {
        let health = Health::default();
        let at = Timestamp::from_unix_seconds;
        assert_eq!(health.complaint(at(0)), Some("no generation yet"));
        health.published(at(100));
        assert_eq!(health.complaint(at(99)), None);
        assert!(health.complaint(at(100)).is_some());
        health.hook_ended(&Err(Failure::failed("no")));
        assert!(health.complaint(at(99)).is_some());
        health.hook_ended(&Ok(()));
        assert_eq!(health.complaint(at(99)), None);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("healthy");
        health.show(&file, at(99)).unwrap();
        assert!(file.exists());
        health.show(&file, at(100)).unwrap();
        assert!(!file.exists());
    }
}
