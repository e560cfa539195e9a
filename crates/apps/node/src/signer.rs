//! Has the server sign: keys are made here and stay here.

mod derived;
mod wit;

use std::sync::Arc;
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{EntryId, SerialNumber, SpiffeId, Timestamp};
use muster_policy::NodeRefusal;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, BatchNewX509svidResponse, NewJwtsvidRequest, NewJwtsvidResponse,
    NewX509svidParams, batch_new_x509svid_response,
};
use muster_roster::{Event, RequestId, SignFault, ToSign};
use muster_svid::x509::{X509Svid, build_csr};
use muster_wire::error_info::{self, MUSTER_DOMAIN};
use muster_wire::status as wire_status;
use muster_wire::trace::TraceId;
use muster_wire::urgency::EXPIRES_AT;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::driver::{Driver, Stopped};
use crate::material::{HeldJwt, HeldX509, Renewal};
use crate::upstream::{MESSAGE_MAX, Upstream};
use crate::words;

/// Counts what the server signed and is not what was asked for.
const SVID_REFUSED: &str = "muster_node_svid_refused_total";
/// The reason of a server whose policies refuse an identity.
const POLICY_REFUSED: &str = "POLICY_REFUSED";
/// The longest that one request to sign may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may put a batch off, all in all, before that counts as a failure.
const DEFERRED_MAX: Duration = Duration::from_mins(2);

/// Of workloads' keys, by the kind of SVID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyTypes {
    pub(crate) x509: KeyType,
    pub(crate) wit: KeyType,
}

type X509Results = Vec<(EntryId, Result<Arc<HeldX509>, SignFault>)>;

/// Makes keys and requests, sends them, checks the answers and tells the roster.
#[derive(Clone)]
pub(crate) struct Signer {
    upstream: Upstream,
    driver: Driver,
    key_type: KeyType,
    wit_key_type: KeyType,
    availability_target: Option<Duration>,
    /// Who the node is; nothing can be signed before that is known.
    node: watch::Receiver<Option<X509Svid>>,
    /// Statuses of the server that may mean that the node is finished.
    verdicts: watch::Sender<Option<Status>>,
}

impl Signer {
    pub(crate) fn new(
        upstream: Upstream,
        driver: Driver,
        key_types: KeyTypes,
        availability_target: Option<Duration>,
        node: watch::Receiver<Option<X509Svid>>,
        verdicts: watch::Sender<Option<Status>>,
    ) -> Self {
        Self {
            upstream,
            driver,
            key_type: key_types.x509,
            wit_key_type: key_types.wit,
            availability_target,
            node,
            verdicts,
        }
    }

    /// Answers an [`Action::SignX509`](muster_roster::Action::SignX509), in any case.
    pub(crate) fn sign_x509(&self, request: RequestId, entries: Vec<ToSign>) {
        let signer = self.clone();
        let entries_asked = entries.len();
        tokio::spawn(async move {
            let event = match signer.x509(entries).await {
                Ok(results) => {
                    let good = results.iter().filter(|(_, result)| result.is_ok()).count();
                    count("x509", "signed", good);
                    count("x509", "failed", results.len() - good);
                    Event::X509Signed { request, results }
                }
                Err(fault) => {
                    count("x509", "failed", entries_asked);
                    Event::X509SignFailed { request, fault }
                }
            };
            ignore_stopped(signer.driver.tell(event));
        });
    }

    /// Answers an [`Action::SignJwt`](muster_roster::Action::SignJwt), in any case.
    pub(crate) fn sign_jwt(&self, request: RequestId, entry: ToSign, audience: Arc<[String]>) {
        let signer = self.clone();
        tokio::spawn(async move {
            let result = signer.jwt(&entry, &audience).await.map(Arc::new);
            count("jwt", if result.is_ok() { "signed" } else { "failed" }, 1);
            ignore_stopped(signer.driver.tell(Event::JwtSigned { request, result }));
        });
    }

    async fn x509(&self, entries: Vec<ToSign>) -> Result<X509Results, SignFault> {
        derived::apart(entries, |part| self.x509_of(part)).await
    }

    /// Of entries only, or of names only.
    async fn x509_of(&self, entries: Vec<ToSign>) -> Result<X509Results, SignFault> {
        let renewal = Renewal {
            node: self.node_id()?,
            availability_target: self.availability_target,
        };
        let key_type = self.key_type;
        let count = entries.len();
        // RSA keys take seconds: never on a thread that serves.
        let keys = blocking(move || make_keys(count, key_type)).await??;
        let answer = if derived::are_derived(&entries) {
            self.x509_derived(&entries, &keys).await?
        } else {
            self.x509_of_entries(&entries, &keys).await?
        };
        let fault_of = derived::fault_of_items(&entries);
        let names: Vec<EntryId> = entries.into_iter().map(|e| e.entry).collect();
        if answer.results.len() != count {
            tracing::error!(
                asked = count,
                answered = answer.results.len(),
                "the server answered for another number of entries than was asked for"
            );
            return Err(SignFault::NotWhatWasAsked);
        }
        let authorities = self.upstream.trust().bundle();
        blocking(move || {
            let authorities = authorities
                .as_ref()
                .map_or(&[][..], |b| &b.x509_authorities);
            names
                .into_iter()
                .zip(keys)
                .zip(answer.results)
                .map(|((entry, (key, _)), result)| {
                    let held = read_x509(&entry, result, &key, fault_of)
                        .map(|svid| Arc::new(HeldX509::new(svid, authorities, &renewal)));
                    (entry, held)
                })
                .collect()
        })
        .await
    }

    async fn x509_of_entries(
        &self,
        entries: &[ToSign],
        keys: &Keys,
    ) -> Result<BatchNewX509svidResponse, SignFault> {
        let params: Vec<NewX509svidParams> = entries
            .iter()
            .zip(keys)
            .map(|(entry, (_, csr))| NewX509svidParams {
                entry_id: entry.entry.as_str().to_owned(),
                csr: csr.clone().into(),
            })
            .collect();
        let message = BatchNewX509svidRequest { params };
        let expires_at = first_expiry(entries);
        self.ask("BatchNewX509SVID", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).batch_new_x509svid(request).await }
        })
        .await
        .map_err(|no| no.fault)
    }

    /// Has the server sign. One that signs for others first is asked again when it says: the roster
    /// keeps what nobody waits for in a lane of its own, which nothing else needs meanwhile.
    async fn ask<T, Rpc>(
        &self,
        what: &'static str,
        rpc: impl Fn(Channel, TraceId) -> Rpc,
    ) -> Result<T, NotSigned>
    where
        Rpc: Future<Output = Result<Response<T>, Status>>,
    {
        let trace = TraceId::new();
        let mut waited = Duration::ZERO;
        loop {
            let shown = self.shown();
            let rpc = rpc(self.upstream.channel(), trace);
            let status = match tokio::time::timeout(RPC_TIMEOUT, rpc).await {
                Ok(Ok(answer)) => {
                    tracing::debug!(rpc = what, trace_id = %trace, "the server has signed");
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_elapsed) => return Err(no_answer(what, trace)),
            };
            match wire_status::retry_after(&status) {
                Some(wait) if waited + wait <= DEFERRED_MAX => {
                    tracing::debug!(
                        rpc = what,
                        seconds = wait.as_secs(),
                        "the server signs for others first; asking again"
                    );
                    tokio::time::sleep(wait).await;
                    waited += wait;
                }
                Some(_) | None => {
                    return Err(self.not_signed((what, trace), status, shown.as_ref()));
                }
            }
        }
    }

    async fn jwt(&self, entry: &ToSign, audience: &[String]) -> Result<HeldJwt, SignFault> {
        let node = self.node_id()?;
        let answer = match &entry.derived {
            Some(_) => self.jwt_derived(entry, audience).await?,
            None => self.jwt_of_entry(entry, audience).await?,
        };
        let token = answer.svid.map(|svid| svid.token).unwrap_or_default();
        let authorities = self.upstream.trust().bundle();
        let authorities = authorities.as_ref().map_or(&[][..], |b| &b.jwt_authorities);
        HeldJwt::new(token, authorities, &node).map_err(|error| {
            metrics::counter!(SVID_REFUSED, "kind" => "jwt").increment(1);
            tracing::error!(entry_id = %entry.entry, %error, "the server's token is not believed");
            SignFault::NotWhatWasAsked
        })
    }

    async fn jwt_of_entry(
        &self,
        entry: &ToSign,
        audience: &[String],
    ) -> Result<NewJwtsvidResponse, SignFault> {
        let message = NewJwtsvidRequest {
            entry_id: entry.entry.as_str().to_owned(),
            audience: audience.to_vec(),
        };
        let expires_at = first_expiry(std::slice::from_ref(entry));
        self.ask("NewJWTSVID", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).new_jwtsvid(request).await }
        })
        .await
        .map_err(|no| no.fault)
    }

    fn node_id(&self) -> Result<SpiffeId, SignFault> {
        let node = self.node.borrow();
        node.as_ref()
            .map(|svid| svid.spiffe_id.clone())
            .ok_or(SignFault::Unavailable)
    }

    /// The serial number of the node's own SVID.
    fn shown(&self) -> Option<SerialNumber> {
        self.node.borrow().as_ref().map(|svid| svid.serial.clone())
    }

    /// What a status comes to for a call that was made when the node's SVID had the number `shown`.
    fn not_signed(
        &self,
        (what, trace): (&'static str, TraceId),
        status: Status,
        shown: Option<&SerialNumber>,
    ) -> NotSigned {
        tracing::warn!(rpc = what, trace_id = %trace, code = ?status.code(), error = words::status(&status), "the server did not sign");
        let reason = error_info::reason_of(MUSTER_DOMAIN, &status);
        let fault = self.fault(reason.as_deref(), status, shown);
        NotSigned { fault, reason }
    }

    fn fault(
        &self,
        reason: Option<&str>,
        status: Status,
        shown: Option<&SerialNumber>,
    ) -> SignFault {
        if reason == Some(POLICY_REFUSED) {
            return SignFault::Denied;
        }
        let fault = fault_of(status.code());
        // An SVID that another attestation has replaced is refused, and that says nothing of the node.
        if wire_status::node_refusal(&status) == Some(NodeRefusal::NotActive)
            && shown != self.shown().as_ref()
        {
            return SignFault::Unavailable;
        }
        if status.code() == Code::PermissionDenied {
            self.verdicts.send_replace(Some(status));
        }
        fault
    }
}

/// Why a request was not answered with a signature.
struct NotSigned {
    fault: SignFault,
    /// The server's own word for it.
    reason: Option<String>,
}

fn client(channel: Channel) -> SvidClient<Channel> {
    SvidClient::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

/// When the first of the SVIDs that are to be replaced expires; 0 says that there is one without any.
fn first_expiry(entries: &[ToSign]) -> i64 {
    let expiries = entries
        .iter()
        .map(|e| e.expires_at.map_or(0, Timestamp::unix_seconds));
    expiries.min().unwrap_or(0)
}

/// A request that says how urgent it is, and of which trace it is a part.
fn dated<T>(message: T, expires_at: i64, trace: TraceId) -> Request<T> {
    let mut request = trace.request(message);
    request
        .metadata_mut()
        .insert(EXPIRES_AT, MetadataValue::from(expires_at));
    request
}

fn no_answer(what: &'static str, trace: TraceId) -> NotSigned {
    tracing::warn!(
        rpc = what,
        trace_id = %trace,
        seconds = RPC_TIMEOUT.as_secs(),
        "no answer in time"
    );
    NotSigned {
        fault: SignFault::Unavailable,
        reason: None,
    }
}

/// Keys with their CSRs.
type Keys = Vec<(PrivateKey, Vec<u8>)>;

fn make_keys(count: usize, key_type: KeyType) -> Result<Keys, SignFault> {
    let local = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a key or a request could not be made");
        SignFault::Local
    };
    (0..count)
        .map(|_| {
            let key = PrivateKey::generate(key_type).map_err(|e| local(&e))?;
            let csr = build_csr(&key, None).map_err(|e| local(&e))?;
            Ok((key, csr))
        })
        .collect()
}

fn read_x509(
    entry: &EntryId,
    result: batch_new_x509svid_response::Result,
    key: &PrivateKey,
    fault_of: fn(Code) -> SignFault,
) -> Result<X509Svid, SignFault> {
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        let code = Code::from_i32(status.code);
        tracing::warn!(entry_id = %entry, ?code, error = status.message, "the server did not sign an entry");
        return Err(fault_of(code));
    }
    let svid = result.svid.ok_or(SignFault::NotWhatWasAsked)?;
    let chain = svid.cert_chain.iter().map(|der| der.to_vec()).collect();
    X509Svid::new(chain, key).map_err(|error| {
        metrics::counter!(SVID_REFUSED, "kind" => "x509").increment(1);
        tracing::error!(entry_id = %entry, %error, "the server's X509-SVID is not believed");
        SignFault::NotWhatWasAsked
    })
}

/// The same of one item of a batch, where the node itself was let in: it is a policy that refuses.
fn fault_of_item(code: Code) -> SignFault {
    if code == Code::PermissionDenied {
        SignFault::Denied
    } else {
        fault_of(code)
    }
}

fn fault_of(code: Code) -> SignFault {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::OutOfRange
        | Code::AlreadyExists => SignFault::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => SignFault::Unavailable,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SignFault> {
    // A panic of the work, or a runtime that goes down.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_join| SignFault::Local)
}

/// Counts what was asked of the server.
fn count(kind: &'static str, outcome: &'static str, number: usize) {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    metrics::counter!("muster_node_signatures_total", "kind" => kind, "outcome" => outcome)
        .increment(number);
}

/// A loop that has ended needs no answer.
fn ignore_stopped(told: Result<(), Stopped>) {
    if let Err(stopped) = told {
        tracing::debug!(%stopped, "an answer came too late");
    }
}
