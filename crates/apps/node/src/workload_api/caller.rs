//! From a request to what its caller is attested as.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use muster_attest::workload::{attest, process_of};
use muster_model::SelectorSet;
use muster_peer::{Assurance, Caller, OverLimit, PeerInfo};
use muster_plugin::workload::{AttestError, Fact, WorkloadAttestor};
use muster_proto::muster::node::admin::v1 as admin;
use muster_roster::Refusal;
use muster_rt::Clock;
use muster_rt::sparing::Sparing;
use muster_wire::selector;
use tokio::time::Instant;
use tonic::Status;

use super::Place;
use crate::events::Events;

/// The text that clients know an attestation that failed by.
const ATTESTATION_FAILED: &str = "workload attestation failed";
/// The longest that the attestors may take together.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(10);

// What a caller can provoke as often as it likes is logged as often as a person can read it.
static NOT_ATTESTED: Sparing = Sparing::new(20, Duration::from_secs(1));
static REFUSED: Sparing = Sparing::new(50, Duration::from_secs(1));
static OVER_LIMIT: Sparing = Sparing::new(1, Duration::from_secs(10));

/// A caller whose facts are known.
pub(crate) struct Attested {
    pub(crate) caller: Caller,
    pub(crate) selectors: Arc<SelectorSet>,
}

/// Attests callers.
pub(crate) struct CallerAttestor {
    pub(crate) attestors: Vec<Arc<dyn WorkloadAttestor>>,
    pub(crate) events: Events,
    pub(crate) clock: Arc<dyn Clock>,
}

impl CallerAttestor {
    /// Attests the process that sent the request (WEP-08). What cannot be attested now is
    /// UNAVAILABLE, never a denial (WAPI-52).
    ///
    /// What it takes is charged to `place`: a first call that has an executable of a hundred
    /// megabytes hashed is not as cheap as another.
    pub(crate) async fn attest(
        &self,
        extensions: &Extensions,
        place: &Place,
    ) -> Result<Attested, Status> {
        let begun = Instant::now();
        let attested = self.attest_now(extensions).await;
        if let Some(own) = &place.own {
            own.charge(begun.elapsed());
        }
        attested
    }

    async fn attest_now(&self, extensions: &Extensions) -> Result<Attested, Status> {
        let peer = extensions.get::<PeerInfo>().ok_or_else(|| {
            tracing::error!("a request came over a connection that does not know its peer");
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        let caller = peer.caller().map_err(|refusal| {
            if let Some(held_back) = NOT_ATTESTED.pass() {
                tracing::warn!(reason = %refusal, held_back, "caller not attested");
            }
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        let facts = self.facts(&caller).await.map_err(|error| {
            if let Some(held_back) = NOT_ATTESTED.pass() {
                tracing::warn!(pid = caller.pid(), uid = caller.uid(), %error, held_back, "caller not attested");
            }
            self.refused(&caller, "attestation_failed");
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        tracing::debug!(
            pid = caller.pid(),
            uid = caller.uid(),
            facts = facts.len(),
            "caller attested"
        );
        if self.events.is_watched() {
            let attested = admin::event::What::Attested(describe(&caller, &facts));
            self.events.tell(attested, self.clock.now().wall);
        }
        let selectors = facts.into_iter().map(|fact| fact.selector).collect();
        Ok(Attested {
            caller,
            selectors: Arc::new(selectors),
        })
    }

    async fn facts(&self, caller: &Caller) -> Result<Vec<Fact>, AttestError> {
        let process = process_of(caller)?;
        tokio::time::timeout(ATTEST_TIMEOUT, attest(&self.attestors, &process))
            .await
            .unwrap_or_else(|_elapsed| {
                Err(AttestError::Failed {
                    kind: "any",
                    reason: format!("no answer within {} s", ATTEST_TIMEOUT.as_secs()),
                    source: None,
                })
            })
    }

    /// What a refused caller is told, and everyone who watches.
    pub(crate) fn refuse(&self, caller: &Caller, refusal: Refusal, what: &str) -> Status {
        if let Some(held_back) = REFUSED.pass() {
            tracing::info!(
                pid = caller.pid(),
                uid = caller.uid(),
                reason = refusal.word(),
                rpc = what,
                held_back,
                "caller refused"
            );
        }
        self.refused(caller, refusal.word());
        status_of(refusal)
    }

    /// What a caller is told whose user has used up its allowance.
    pub(super) fn over_limit(&self, extensions: &Extensions, over: OverLimit) -> Status {
        metrics::counter!("muster_node_refused_total", "reason" => over.word()).increment(1);
        if let Some(held_back) = OVER_LIMIT.pass() {
            let caller = extensions
                .get::<PeerInfo>()
                .and_then(|peer| peer.caller().ok());
            tracing::warn!(
                pid = caller.as_ref().map(Caller::pid),
                uid = caller.as_ref().map(Caller::uid),
                reason = over.word(),
                held_back,
                "a call is over its user's allowance"
            );
        }
        Status::unavailable(over.to_string())
    }

    fn refused(&self, caller: &Caller, reason: &str) {
        let refused = admin::event::What::Refused(admin::Refused {
            pid: i32::try_from(caller.pid()).unwrap_or(-1),
            uid: caller.uid(),
            reason: reason.to_owned(),
        });
        self.events.tell(refused, self.clock.now().wall);
    }
}

/// Whether the caller is still the process that was attested (WEP-09).
pub(crate) fn still_the_same(caller: &Caller) -> Result<(), Status> {
    caller.verify().map_err(|refusal| {
        tracing::warn!(pid = caller.pid(), uid = caller.uid(), reason = %refusal, "a stream ends: its caller is not what it was");
        Status::unavailable(ATTESTATION_FAILED)
    })
}

/// The one place where refusals become statuses.
///
/// PERMISSION_DENIED only when the answer is really "no identity" (WAPI-19, WAPI-21, WAPI-37,
/// WAPI-39), with the text that clients look for (WAPI-20); UNAVAILABLE for all that may pass
/// (WAPI-42, WEP-11).
pub(crate) fn status_of(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NoIdentity | Refusal::EntitlementLost => {
            Status::permission_denied("no identity issued")
        }
        Refusal::IdentityNotGranted => Status::permission_denied(
            "no identity issued: the caller has none with the SPIFFE ID that was asked for",
        ),
        Refusal::OutOfStep => Status::unavailable(
            "the node is not in step with its server, and no identity is known for the caller yet",
        ),
        Refusal::NotSignedYet => Status::unavailable("the caller's identities are not signed yet"),
        Refusal::SigningFailed(_) => {
            Status::unavailable("could not fetch JWT-SVID: the server did not sign it")
        }
        Refusal::Overloaded => Status::unavailable("the node has too much to do; try again later"),
    }
}

fn describe(caller: &Caller, facts: &[Fact]) -> admin::Attested {
    admin::Attested {
        pid: i32::try_from(caller.pid()).unwrap_or(-1),
        uid: caller.uid(),
        gid: caller.gid(),
        executable: executable(caller).unwrap_or_default(),
        facts: facts
            .iter()
            .map(|fact| admin::Fact {
                selector: Some(selector::write(&fact.selector)),
                how: fact.evidence.to_string(),
            })
            .collect(),
        level: level(caller.assurance()).to_owned(),
    }
}

/// How surely the process is known, in words.
fn level(assurance: Assurance) -> &'static str {
    match assurance {
        Assurance::OpenedPidfd => "pidfd opened by number",
        Assurance::ConnectorPidfd => "pidfd of the process that connected",
        Assurance::SenderPidfd => "pidfd of the sender",
    }
}

/// The path of the executable as the process sees it; for people, not a fact.
fn executable(caller: &Caller) -> Option<String> {
    let dir = caller.proc_dir().ok()?.into_fd();
    let path = nix::fcntl::readlinkat(&dir, "exe").ok()?;
    Some(path.to_string_lossy().into_owned())
}
