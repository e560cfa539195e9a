//! A task's socket, found in `SPIFFE_ENDPOINT_SOCKET` alone.

use std::collections::BTreeSet;
use std::error::Error;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spiffe::{SpiffeId, WorkloadApiClient, WorkloadApiError, X509Context};
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::checks::{ANSWER_WITHIN, AUDIENCE, ROTATION_WITHIN, answered, serial, verify};
use crate::{Outcome, report};

type Failure = Box<dyn Error + Send + Sync>;
type Updates = Pin<Box<dyn Stream<Item = Result<X509Context, WorkloadApiError>> + Send>>;

const GIVEN: [&str; 6] = [
    "x509-svid",
    "x509-bundles",
    "jwt-svid",
    "jwt-bundles",
    "jwt-valid",
    "jwt-tampered",
];
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(60);

/// One stream of the task's X.509 contexts, from its first to its end.
struct Watch {
    api: WorkloadApiClient,
    updates: Updates,
    id: SpiffeId,
    /// Of the SVID that came last: the serial number, and until when it is valid.
    latest: (String, i64),
}

/// Runs the checks of these names for a task of this agent.
pub async fn run(agent: &str, checks: &[&str]) {
    let mut watch = Watch::start(agent).await;
    for name in checks {
        let outcome = match &mut watch {
            Ok(watch) => watch.check(name).await,
            Err(error) => Err(format!("no watch: {error}").into()),
        };
        report(name, outcome);
    }
}

impl Watch {
    async fn start(agent: &str) -> Result<Self, Failure> {
        let api = WorkloadApiClient::connect_env().await?;
        let mut updates: Updates = Box::pin(api.stream_x509_contexts().await?);
        let first = next(&mut updates, ANSWER_WITHIN).await?;
        let svid = first.default_svid().ok_or("an update without SVID")?;
        let id = svid.spiffe_id().clone();
        if !id.to_string().starts_with(&format!("{agent}/t/")) {
            return Err(format!("{id} is no task of {agent}").into());
        }
        let latest = proven(&first, &id)?;
        Ok(Self {
            api,
            updates,
            id,
            latest,
        })
    }

    async fn check(&mut self, name: &str) -> Outcome {
        match name {
            "task-given" => self.given().await,
            "task-rotated" => self.rotated().await,
            "task-withdrawn" => self.withdrawn().await,
            _ => Err(format!("unknown check {name:?}").into()),
        }
    }

    async fn given(&self) -> Outcome {
        for name in GIVEN {
            let outcome = answered(&self.api, &self.id, name).await;
            outcome.map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(format!("{}, by X.509 and JWT", self.id))
    }

    async fn rotated(&mut self) -> Outcome {
        let began = Instant::now();
        let mut serials = BTreeSet::from([self.latest.0.clone()]);
        while serials.len() < 3 {
            let update = next(&mut self.updates, ROTATION_WITHIN).await?;
            let latest = proven(&update, &self.id)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            if i64::try_from(now)? >= self.latest.1 {
                return Err("the next serial came too late".into());
            }
            serials.insert(latest.0.clone());
            self.latest = latest;
        }
        Ok(format!(
            "{} serials on one stream in {} s, each in time",
            serials.len(),
            began.elapsed().as_secs()
        ))
    }

    /// Says that it watches, and sees the end: of the stream, and of every answer.
    async fn withdrawn(&mut self) -> Outcome {
        println!("{}", json!({"watching": self.id.to_string()}));
        let ended = async {
            loop {
                match self.updates.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        };
        match timeout(WITHDRAWN_WITHIN, ended).await? {
            Some(WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)) => {}
            Some(error) => return Err(format!("the stream ended with {error}").into()),
            None => return Err("the stream ended with OK".into()),
        }
        let calls = async {
            Ok::<_, String>([
                refused("X.509", async || self.api.fetch_x509_svid().await.map(drop)).await?,
                refused("JWT", async || {
                    self.api.fetch_jwt_svid([AUDIENCE], None).await.map(drop)
                })
                .await?,
                refused("bundles", async || {
                    self.api.fetch_x509_bundles().await.map(drop)
                })
                .await?,
            ])
        };
        let told = BTreeSet::from(timeout(ANSWER_WITHIN, calls).await??);
        let told = Vec::from_iter(told).join(", ");
        Ok(format!(
            "the stream ended with PermissionDenied, new calls with {told}"
        ))
    }
}

async fn next(updates: &mut Updates, within: Duration) -> Result<X509Context, Failure> {
    let update = timeout(within, updates.next()).await?;
    Ok(update.ok_or("the stream ended with OK")??)
}

/// Proves an update; says its serial number, and until when it is valid in Unix seconds.
fn proven(update: &X509Context, id: &SpiffeId) -> Result<(String, i64), Failure> {
    let svid = verify(update, id)?;
    let der = svid.leaf().as_bytes();
    let (_, certificate) = X509Certificate::from_der(der)?;
    Ok((serial(der)?, certificate.validity().not_after.timestamp()))
}

/// How new calls are refused; an error if one is not, or otherwise.
///
/// A call that was given to the connection in the moment in which that closed never left the
/// program: hyper cancels it, and tonic does not try it on a new connection. Then it is made again.
async fn refused(
    what: &str,
    call: impl AsyncFn() -> Result<(), WorkloadApiError>,
) -> Result<&'static str, String> {
    loop {
        return match call().await {
            Err(WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)) => {
                Ok("PermissionDenied")
            }
            Err(WorkloadApiError::Transport(TransportError::Status(status))) => {
                match status.code() {
                    GrpcStatusCode::Unavailable => Ok("Unavailable"),
                    GrpcStatusCode::Cancelled => continue,
                    _ => Err(format!("a new call for {what}: {status}")),
                }
            }
            Err(error) => Err(format!("a new call for {what}: {error}")),
            Ok(()) => Err(format!("a new call for {what} was answered")),
        };
    }
}
