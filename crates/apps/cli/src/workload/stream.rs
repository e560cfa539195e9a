//! The stream of X.509 updates: each as it comes, over reconnects when asked to.

use std::time::Duration;

use muster_proto::workload::{X509svidRequest, X509svidResponse};
use tonic::{Code, Status};

use super::WorkloadArgs;
use crate::failure::{Exit, Failure};

/// The first and the longest pause before another attempt.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Whether the stream shall go on after an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Continue,
    Stop,
}

/// Asks once for the current X509-SVIDs.
pub(crate) async fn first(args: &WorkloadArgs) -> Result<X509svidResponse, Failure> {
    let mut client = args.connect().await?;
    let answer = tokio::time::timeout(args.timeout(), async {
        let mut stream = client
            .fetch_x509svid(X509svidRequest {})
            .await?
            .into_inner();
        stream
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("the node closed the stream without an answer"))
    });
    match answer.await {
        Ok(Ok(update)) => Ok(update),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Failure::new(
            Exit::Unavailable,
            "no answer from the node in time; try again or pass a longer --timeout",
        )),
    }
}

/// Hands every update to `update`, for ever: when the node is not ready or goes away, another
/// attempt follows after a pause that grows up to 15 s (WEP-11). `pausing` is told why.
///
/// What no other attempt would mend ends it: no identity, a request that the node refuses.
pub(crate) async fn watch(
    args: &WorkloadArgs,
    mut update: impl FnMut(X509svidResponse) -> Result<Then, Failure>,
    mut pausing: impl FnMut(&Failure, Duration),
) -> Result<(), Failure> {
    let mut pause = PAUSES.0;
    let mut connected_once = false;
    loop {
        let failure = match args.connect().await {
            // A socket that never was there is a mistake on the command line.
            Err(failure) if !connected_once => return Err(failure),
            Err(failure) => failure,
            Ok(mut client) => {
                connected_once = true;
                let broken = match client.fetch_x509svid(X509svidRequest {}).await {
                    Err(status) => status,
                    Ok(stream) => {
                        let mut stream = stream.into_inner();
                        loop {
                            match stream.message().await {
                                Ok(Some(message)) => {
                                    pause = PAUSES.0;
                                    if update(message)? == Then::Stop {
                                        return Ok(());
                                    }
                                }
                                Ok(None) => {
                                    break Status::unavailable("the node closed the stream");
                                }
                                Err(status) => break status,
                            }
                        }
                    }
                };
                if !may_pass(broken.code()) {
                    return Err(refused(&broken));
                }
                refused(&broken)
            }
        };
        pausing(&failure, pause);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Whether the same call may succeed later without anyone changing anything.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
    )
}

/// A refusal of the Workload API, with the remedy where there is one.
pub(crate) fn refused(status: &Status) -> Failure {
    let mut failure = Failure::of_call("fetch from the Workload API", status);
    if status.code() == Code::PermissionDenied {
        failure = Failure::new(
            Exit::Denied,
            format!(
                "{failure}; no entry matches this process: register one with `muster entry create`"
            ),
        );
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_final_and_an_absence_is_not() {
        assert!(may_pass(Code::Unavailable));
        assert!(!may_pass(Code::PermissionDenied));
        assert!(!may_pass(Code::InvalidArgument));
        let failure = refused(&Status::permission_denied("no identity issued"));
        assert_eq!(failure.exit, Exit::Denied);
        assert!(failure.to_string().contains("muster entry create"));
    }
}
