//! The demonstration workload: a real process that knows nothing but the address of its socket.

use clap::Args;
use muster_model::Bundle;
use muster_model::X509Authority;
use muster_proto::workload::X509svidResponse;
use muster_rt::endpoint::Endpoint;
use muster_rt::{Clock, SystemClock};
use muster_svid::x509::{Certificate, Role, verify};
use serde::{Deserialize, Serialize};

use crate::daemon;
use crate::failure::Failure;
use crate::output;
use crate::workload::WorkloadArgs;
use crate::workload::stream::{self, Then};
use crate::workload::view::{X509Identity, X509Update};

/// Fetches its SVIDs over the Workload API, checks them, and reports each update on a line.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Address of the Workload API
    #[arg(long)]
    socket: Endpoint,
    /// End when this process, which must be our parent, ends
    #[arg(long)]
    die_with: i32,
}

/// What the workload reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(super) enum Report {
    /// An identity arrived, or a new SVID for it.
    Received {
        spiffe_id: String,
        serial_number: String,
        not_before: i64,
        not_after: i64,
        /// Whether chain, key and bundle prove the identity; else why not.
        verified: Result<(), String>,
        /// When it arrived, in milliseconds since 1970.
        at_ms: i64,
    },
    /// It has to wait and will ask again.
    Waiting { reason: String },
}

pub(crate) async fn run(demo: Demo) -> Result<(), Failure> {
    if !daemon::die_with(demo.die_with) {
        return Err(Failure::failed("the parent process is gone"));
    }
    let args = WorkloadArgs::at(demo.socket);
    loop {
        let outcome = stream::watch(
            &args,
            |update| report(&update),
            |failure, _| {
                waiting(failure);
            },
        )
        .await;
        match outcome {
            // An entry may still come: a workload that is told no asks again.
            Err(failure) if failure.exit == crate::failure::Exit::Denied => {
                waiting(&failure);
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
}

fn waiting(failure: &Failure) {
    // Whoever does not read our reports has gone, and we go with it.
    let _gone = say(&Report::Waiting {
        reason: failure.to_string(),
    })
    .is_err();
}

fn report(update: &X509svidResponse) -> Result<Then, Failure> {
    let clock = SystemClock::new();
    let update = X509Update::read(update)?;
    for identity in &update.svids {
        let now = clock.now().wall;
        say(&Report::Received {
            spiffe_id: identity.svid.spiffe_id.to_string(),
            serial_number: identity.svid.serial.to_string(),
            not_before: identity.svid.not_before.unix_seconds(),
            not_after: identity.svid.not_after.unix_seconds(),
            verified: check(identity, now),
            at_ms: now.unix_millis(),
        })?;
    }
    Ok(Then::Continue)
}

fn say(report: &Report) -> Result<(), Failure> {
    let line = serde_json::to_string(report)
        .map_err(|error| Failure::failed(format!("cannot write a report: {error}")))?;
    output::write(&format!("{line}\n"))
}

/// Verifies the SVID as a peer would, with the bundle that came along.
pub(super) fn check(identity: &X509Identity, now: muster_model::Timestamp) -> Result<(), String> {
    let mut bundle = Bundle::empty(identity.svid.spiffe_id.trust_domain().clone());
    for root in &identity.bundle {
        let certificate = Certificate::parse(root).map_err(|error| error.to_string())?;
        bundle.x509_authorities.push(X509Authority {
            der: root.as_slice().into(),
            expires_at: certificate.not_after,
            tainted: false,
        });
    }
    for role in [Role::Server, Role::Client] {
        verify(&identity.svid.chain, &bundle, role, now).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_pipe() {
        let report = Report::Received {
            spiffe_id: "spiffe://example.org/demo".to_owned(),
            serial_number: "7".to_owned(),
            not_before: 1,
            not_after: 2,
            verified: Err("expired".to_owned()),
            at_ms: 1500,
        };
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
