//! From a request to what its caller is attested as.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use muster_attest::workload::{Known, process_of};
use muster_model::{SelectorSet, SpiffeId, TaskId};
use muster_peer::{Assurance, CallPlace, Caller, HeldProcess, PeerInfo, Refusal as PeerRefusal};
use muster_plugin::workload::{AttestError, Fact, WorkloadAttestor};
use muster_proto::muster::node::admin::v1 as admin;
use muster_roster::{Refusal, SignFault, Who};
use muster_rt::Clock;
use muster_rt::sparing::Sparing;
use muster_wire::selector;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::attestations::{Attestations, Given};
use crate::events::Events;
use crate::mark;
use crate::refusals::Refusals;
use crate::target::{AttestedTarget, facts_of};
use crate::tasks::OnTask;

/// The reason of whoever gets no place among the open calls.
pub(crate) const TOO_MANY_CALLS: &str = "too_many_calls";
/// The text that clients know an attestation that failed by.
const ATTESTATION_FAILED: &str = "workload attestation failed";

/// The reason of who is put off because an attestor could not be asked.
const ATTESTOR_AWAY: &str = "attestor_away";

// What a caller can provoke as often as it likes is logged as often as a person can read it.
static NOT_ATTESTED: Sparing = Sparing::new(20, Duration::from_secs(1));
static REFUSED: Sparing = Sparing::new(50, Duration::from_secs(1));
static NOT_THE_SAME: Sparing = Sparing::new(20, Duration::from_secs(1));
static OVER_LIMIT: Sparing = Sparing::new(10, Duration::from_secs(10));

/// A call's place: among its user's calls, and among all.
pub(crate) struct Place {
    own: Option<CallPlace>,
    _all: OwnedSemaphorePermit,
}

impl Place {
    /// Charges the caller's user for more work than an ordinary call, in units of about a
    /// millisecond.
    pub(crate) fn charge(&self, units: u32) {
        if let Some(own) = &self.own {
            own.charge(units);
        }
    }
}

/// A caller whose facts are known. Small, because there is one in each of thousands of streams.
pub(crate) struct Attested {
    pub(crate) caller: Caller,
    /// What it is attested as.
    selectors: Arc<SelectorSet>,
    /// On whose socket it called.
    on: Option<OnTask>,
    /// An attestor could not be asked: it may be more than it is attested as.
    lacks_facts: bool,
}

impl Attested {
    /// What it is attested as, and which process it is. On a task's socket a caller is the task, and
    /// no process by which a rule could name it.
    pub(crate) fn who(&self) -> Who {
        Who {
            selectors: Arc::clone(&self.selectors),
            process: match self.on {
                Some(_) => None,
                None => mark::of(self.caller.process()),
            },
        }
    }

    /// The task on whose socket it called.
    pub(crate) fn task(&self) -> Option<TaskId> {
        self.on.as_ref().map(OnTask::id)
    }
}

/// What all services find out with who calls, and where they tell it.
#[derive(Clone)]
pub(crate) struct Attesting {
    pub(crate) attestors: Vec<Arc<dyn WorkloadAttestor>>,
    pub(crate) events: Events,
    pub(crate) refusals: Refusals,
    pub(crate) attestations: Attestations,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Lets calls in, and attests who made them.
pub(crate) struct CallerAttestor {
    with: Attesting,
    calls: Arc<Semaphore>,
}

impl CallerAttestor {
    /// For a service of which `max_calls` may be open at the same time.
    pub(crate) fn new(with: Attesting, max_calls: usize) -> Self {
        Self {
            with,
            calls: Arc::new(Semaphore::new(max_calls.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// A place among the calls that are open at the same time, from the allowance of the caller's
    /// user; who gets none is told to come again, before it is attested, and it is on the record.
    pub(crate) fn place(&self, extensions: &Extensions) -> Result<Place, Status> {
        let peer = extensions.get::<PeerInfo>();
        let all = self.calls.clone().try_acquire_owned().map_err(|_full| {
            let text = "too many calls are open; try again later";
            self.limited(extensions, TOO_MANY_CALLS, text.to_owned())
        })?;
        let own = peer
            .map(PeerInfo::admit_call)
            .transpose()
            .map_err(|over| self.limited(extensions, over.word(), over.to_string()))?;
        Ok(Place { own, _all: all })
    }

    fn limited(&self, extensions: &Extensions, reason: &'static str, text: String) -> Status {
        if let Some(Ok(caller)) = extensions.get::<PeerInfo>().map(PeerInfo::caller) {
            let (pid, uid) = (caller.pid(), caller.uid());
            if let Some(held_back) = OVER_LIMIT.pass(reason) {
                tracing::warn!(pid, uid, reason, held_back, "a call is over a limit");
            }
            let task = extensions.get::<OnTask>().map(OnTask::id);
            self.with.refusals.limited(pid, uid, reason, task);
        }
        Status::unavailable(text)
    }

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
        let peer = extensions.get::<PeerInfo>().ok_or_else(|| {
            tracing::error!("a request came over a connection that does not know its peer");
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        let caller = peer.caller().map_err(|refusal| {
            if let Some(held_back) = NOT_ATTESTED.pass(refusal.word()) {
                tracing::warn!(reason = %refusal, held_back, "caller not attested");
            }
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        // On a task's socket only those get so far to whom the task is bound: they are the task, and
        // nothing else that they may be.
        if let Some(on) = extensions.get::<OnTask>() {
            return self.attest_task(caller, on);
        }
        let known = self.facts(&caller, place).await.map_err(|error| {
            if let Some(held_back) = NOT_ATTESTED.pass(error.word()) {
                tracing::warn!(pid = caller.pid(), uid = caller.uid(), %error, held_back, "caller not attested");
            }
            metrics::counter!("muster_node_attestations_total", "outcome" => "failed").increment(1);
            match error {
                AttestError::Gone { .. } | AttestError::Away { .. } => {
                    let refusals = &self.with.refusals;
                    refusals.put_off(caller.pid(), caller.uid(), error.word());
                }
                AttestError::Changed { .. }
                | AttestError::Traced { .. }
                | AttestError::Failed { .. }
                | AttestError::NoAttestors => self.refused(&caller, error.word(), None),
            }
            Status::unavailable(ATTESTATION_FAILED)
        })?;
        let lacks_facts = known.left_out.iter().any(|left_out| left_out.may_pass);
        let facts = known.facts;
        metrics::counter!("muster_node_attestations_total", "outcome" => "done").increment(1);
        tracing::debug!(
            pid = caller.pid(),
            uid = caller.uid(),
            facts = facts.len(),
            "caller attested"
        );
        let Attesting { events, clock, .. } = &self.with;
        if events.is_watched() {
            let attested = admin::event::What::Attested(describe(&caller, &facts));
            events.tell(attested, clock.now().wall);
        }
        let selectors = facts.into_iter().map(|fact| fact.selector).collect();
        Ok(Attested {
            caller,
            selectors: Arc::new(selectors),
            on: None,
            lacks_facts,
        })
    }

    fn attest_task(&self, caller: Caller, on: &OnTask) -> Result<Attested, Status> {
        if !on.is_live() {
            self.refused(&caller, "task_ended", Some(on.id()));
            return Err(Status::permission_denied(
                "no identity issued: the task has ended",
            ));
        }
        let attested = Attested {
            caller,
            selectors: on.selectors(),
            on: Some(on.clone()),
            lacks_facts: false,
        };
        self.still_the_same(&attested)?;
        metrics::counter!("muster_node_attestations_total", "outcome" => "done").increment(1);
        Ok(attested)
    }

    async fn facts(&self, caller: &Caller, place: &Place) -> Result<Known, AttestError> {
        let process = process_of(caller)?;
        let known = facts_of(&self.with.attestors, &process).await;
        if let Some(own) = &place.own {
            own.charge(process.work.units());
        }
        known
    }

    /// Notes that a caller was answered, with `ids`; `given` is what its call has been given so far.
    pub(crate) fn served<'a>(
        &self,
        attested: &mut Attested,
        ids: impl Iterator<Item = &'a SpiffeId> + Clone,
        given: &mut Given,
    ) {
        let who = (attested.caller.pid(), attested.caller.uid());
        let (task, selectors) = (attested.task(), &mut attested.selectors);
        self.with
            .attestations
            .served(who, selectors, task, ids, given);
    }

    /// What a refused caller is told, and everyone who watches.
    pub(crate) fn refuse(&self, attested: &Attested, refusal: Refusal, what: &str) -> Status {
        let caller = &attested.caller;
        let is_final = matches!(refusal, Refusal::NoIdentity | Refusal::IdentityNotGranted);
        if is_final && attested.lacks_facts {
            return self.incomplete(caller, what);
        }
        if let Some(held_back) = REFUSED.pass(refusal.word()) {
            tracing::info!(
                pid = caller.pid(),
                uid = caller.uid(),
                reason = refusal.word(),
                rpc = what,
                held_back,
                "caller refused"
            );
        }
        match refusal {
            Refusal::NoIdentity
            | Refusal::EntitlementLost
            | Refusal::IdentityNotGranted
            | Refusal::SigningFailed(SignFault::Denied) => {
                self.refused(caller, refusal.word(), attested.task());
            }
            Refusal::OutOfStep
            | Refusal::NotSignedYet
            | Refusal::SigningFailed(_)
            | Refusal::BoundReached
            | Refusal::Overloaded => {
                let refusals = &self.with.refusals;
                refusals.put_off(caller.pid(), caller.uid(), refusal.word());
            }
        }
        status_of(refusal)
    }

    /// What is known of the caller gives it nothing, and an attestor that may know more could not
    /// be asked: that is no denial, which some clients take for the last word (WAPI-52).
    fn incomplete(&self, caller: &Caller, rpc: &str) -> Status {
        let (pid, uid) = (caller.pid(), caller.uid());
        if let Some(held_back) = REFUSED.pass(ATTESTOR_AWAY) {
            tracing::info!(
                pid,
                uid,
                reason = ATTESTOR_AWAY,
                rpc,
                held_back,
                "caller put off"
            );
        }
        self.with.refusals.put_off(pid, uid, ATTESTOR_AWAY);
        Status::unavailable(
            "what is known of the caller gives it no identity, and an attestor that may know more could not be asked; try again",
        )
    }

    fn refused(&self, caller: &Caller, reason: &'static str, task: Option<TaskId>) {
        let refusals = &self.with.refusals;
        refusals.report(caller.pid(), caller.uid(), reason, task);
    }

    /// Whether the caller is still the process that was attested (WEP-09). Asked before each
    /// message of a stream: what runs in the process now gets no keys that another program asked
    /// for.
    pub(crate) fn still_the_same(&self, attested: &Attested) -> Result<(), Status> {
        let caller = &attested.caller;
        caller.verify().map_err(|refusal| {
            if let Some(held_back) = NOT_THE_SAME.pass(refusal.word()) {
                tracing::warn!(pid = caller.pid(), uid = caller.uid(), reason = %refusal, held_back, "a stream ends: its caller is not what it was");
            }
            if matches!(refusal, PeerRefusal::Gone { .. }) {
                let refusals = &self.with.refusals;
                refusals.put_off(caller.pid(), caller.uid(), refusal.word());
            } else {
                self.refused(caller, refusal.word(), attested.task());
            }
            // A task that has ended is a denial, and all else may pass.
            if matches!(refusal, PeerRefusal::NotBound { .. }) {
                return Status::permission_denied(
                    "no identity issued: the socket is not for this process any more",
                );
            }
            Status::unavailable(ATTESTATION_FAILED)
        })
    }
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
        Refusal::SigningFailed(SignFault::NameRefused) => Status::permission_denied(
            "no identity issued: the server lets no rule give the caller that name",
        ),
        Refusal::BoundReached | Refusal::SigningFailed(SignFault::BoundReached) => {
            Status::unavailable(
                "the identity rule that names the caller gives as many names as it may; try again later",
            )
        }
        Refusal::SigningFailed(SignFault::Denied) => {
            Status::permission_denied("no identity issued: a policy of the server refuses it")
        }
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
        executable: executable(caller.process()).unwrap_or_default(),
        facts: write_facts(facts),
        level: level(caller.assurance()).to_owned(),
    }
}

/// A process that did not call, for people.
pub(crate) fn describe_target(target: &AttestedTarget) -> admin::Attested {
    admin::Attested {
        pid: i32::try_from(target.process.pid()).unwrap_or(-1),
        uid: target.uid,
        gid: target.gid,
        executable: executable(&target.process).unwrap_or_default(),
        facts: write_facts(&target.facts),
        level: level(Assurance::OpenedPidfd).to_owned(),
    }
}

fn write_facts(facts: &[Fact]) -> Vec<admin::Fact> {
    facts
        .iter()
        .map(|fact| admin::Fact {
            selector: Some(selector::write(&fact.selector)),
            how: fact.evidence.to_string(),
        })
        .collect()
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
fn executable(process: &HeldProcess) -> Option<String> {
    let dir = process.proc_dir().ok()?.into_fd();
    let path = nix::fcntl::readlinkat(&dir, "exe").ok()?;
    Some(path.to_string_lossy().into_owned())
}
