//! `spire.api.server.svid.v1.SVID`: signing.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Record, SvidKind};
use muster_crypto::{digest, random};
use muster_model::{Entry, EntryId, SpiffeId, Timestamp};
use muster_policy as policy;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest,
    BatchNewX509svidResponse, MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest,
    MintWitsvidResponse, MintX509svidRequest, MintX509svidResponse, NewDownstreamX509caRequest,
    NewDownstreamX509caResponse, NewJwtsvidRequest, NewJwtsvidResponse,
    batch_new_x509svid_response, svid_server,
};
use muster_proto::spire::api::types;
use muster_roll::agents::task;
use muster_roll::{Roll, matching, rules};
use muster_svid::x509::SigningRequest;
use muster_wire::{id, status};
use tonic::{Request, Response, Status};

use crate::admission::Asking;
use crate::agents::{self, Issued, Source};
use crate::api::{batch, downstream, wit};
use crate::derived;
use crate::operation::{Operation, operate};
use crate::policies;
use crate::server::Server;
use crate::signer::{Leaf, SignedJwt, SignedX509};

/// How many certificates one call may ask for: SPIRE's agents ask for 500 at most.
const MAX_BATCH: usize = 1000;

/// The service.
pub(crate) struct SvidService(pub Arc<Server>);

#[tonic::async_trait]
impl svid_server::Svid for SvidService {
    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/matching.rs` (which entries are the node's),
    /// `apps/server/signer.rs`, `core/svid/x509`.
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::BatchNewX509Svid>, message: BatchNewX509svidRequest| {
                check_count(message.params.len())?;
                let node = op.caller_id()?;
                let wanted = message.params.iter().map(|params| Wanted {
                    entry: named(&op.roll, node, &params.entry_id, op.now),
                    source: Source::Entry(params.entry_id.clone()),
                    csr: &params.csr,
                });
                sign_batch(server, &op, &asking, wanted.collect()).await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/matching.rs`, `apps/server/signer.rs`, `core/svid/jwt`.
    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::NewJwtSvid>, message: NewJwtsvidRequest| {
                let node = op.caller_id()?;
                let entry =
                    named(&op.roll, node, &message.entry_id, op.now).inspect_err(|why| {
                        let source = Source::Entry(message.entry_id.clone());
                        agents::note_unsigned(server, &op, SvidKind::Jwt, &source, why);
                    })?;
                sign_jwt_for(server, &op, &asking, &entry, &message.audience).await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/svid/x509/csr.rs`, `apps/server/signer.rs`.
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::MintX509Svid>, message: MintX509svidRequest| {
                let csr = parse_csr(&message.csr)?;
                let [uri] = csr.uri_names.as_slice() else {
                    return Err(Status::invalid_argument(format!(
                        "CSR must have exactly one URI SAN, the SPIFFE ID; it has {}",
                        csr.uri_names.len()
                    )));
                };
                let spiffe_id = SpiffeId::parse(uri).map_err(|why| {
                    Status::invalid_argument(format!("CSR URI SAN \"{uri}\" is invalid: {why}"))
                })?;
                if spiffe_id.trust_domain() != &server.trust_domain {
                    return Err(Status::invalid_argument(format!(
                        "CSR URI SAN \"{uri}\" is not a member of trust domain \"{}\"",
                        server.trust_domain
                    )));
                }
                for name in &csr.dns_names {
                    rules::check_dns_name(name).map_err(|why| {
                        Status::invalid_argument(format!(
                            "CSR DNS name \"{name}\" is not valid: {why}"
                        ))
                    })?;
                }
                let ttl =
                    muster_wire::entry::read_ttl(message.ttl).unwrap_or(server.lifetimes.x509_ttl);
                agents::check_minted(&op.roll, &spiffe_id, op.now)?;
                let ttl = agents::within(ttl, &op.roll, &spiffe_id, None, op.now);
                let kind = SvidKind::X509;
                let permitted = policies::may_mint(server, &op, kind, &spiffe_id, ttl)?;
                let leaf = Leaf {
                    spiffe_id: &spiffe_id,
                    public_key: &csr.public_key,
                    dns_names: &csr.dns_names,
                    subject: (!csr.subject.is_empty()).then_some(&csr.subject),
                    ttl,
                };
                let turn = asking.turn(server, &op, 1).await?;
                let signed = server
                    .signer
                    .sign_x509(&leaf, op.now)
                    .await
                    .map_err(|e| e.status("X509-SVID"))?;
                drop(turn);
                let record = permitted.onto(x509_record(&op, &spiffe_id, &signed));
                agents::put_one_on_record(server, Issued::minted(&spiffe_id, record)).await?;
                Ok(MintX509svidResponse {
                    svid: Some(write_x509(&spiffe_id, signed, "")),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/signer.rs`, `core/svid/jwt`.
    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::MintJwtSvid>, message: MintJwtsvidRequest| {
                let spiffe_id = id::member(message.id.as_ref(), &server.trust_domain)
                    .map_err(|why| Status::invalid_argument(format!("invalid SPIFFE ID: {why}")))?;
                agents::check_minted(&op.roll, &spiffe_id, op.now)?;
                let ttl =
                    muster_wire::entry::read_ttl(message.ttl).unwrap_or(server.lifetimes.jwt_ttl);
                let claims = (message.audience.as_slice(), None);
                let signed =
                    sign_jwt(server, &op, &asking, (&spiffe_id, None), claims, ttl).await?;
                Ok(MintJwtsvidResponse {
                    svid: Some(write_jwt(&spiffe_id, signed, "")),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `api/wit.rs`, `apps/server/signer.rs`, `core/svid/wit`.
    async fn mint_witsvid(
        &self,
        request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        wit::mint(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/matching.rs`, `api/wit.rs`, `apps/server/signer.rs`,
    /// `core/svid/wit`.
    async fn batch_new_witsvid(
        &self,
        request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        wit::batch_new(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (downstream servers may), `api/downstream.rs`, `core/svid/x509/below.rs`.
    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        downstream::new_x509_ca(&self.0, request).await
    }
}

/// The outcome of a certificate that was not signed.
fn refused(fault: &Status) -> batch_new_x509svid_response::Result {
    batch_new_x509svid_response::Result {
        status: Some(status::item(fault.code(), fault.message())),
        svid: None,
    }
}

/// Whether a batch has a size that is served.
pub(super) fn check_count(params: usize) -> Result<(), Status> {
    match params {
        0 => Err(Status::invalid_argument("missing parameters")),
        1..=MAX_BATCH => Ok(()),
        _ => Err(Status::invalid_argument(format!(
            "{params} certificates asked for in one call; ask for at most {MAX_BATCH}"
        ))),
    }
}

/// A certificate that a node asks for.
pub(super) struct Wanted<'a> {
    /// What gives the identity, or why nothing does.
    pub(super) entry: Result<Arc<Entry>, Status>,
    /// As the node named it.
    pub(super) source: Source,
    /// The request.
    pub(super) csr: &'a [u8],
}

/// Signs for the calling node, each with its own outcome.
pub(super) async fn sign_batch<A: Sync>(
    server: &Server,
    op: &Operation<A>,
    asking: &Asking,
    wanted: Vec<Wanted<'_>>,
) -> Result<BatchNewX509svidResponse, Status> {
    let results = batch::sign_each(server, op, asking, &wanted).await?;
    let results = results.into_iter().map(|result| match result {
        Ok(svid) => batch_new_x509svid_response::Result {
            status: Some(status::ok()),
            svid: Some(svid),
        },
        Err(fault) => refused(&fault),
    });
    Ok(BatchNewX509svidResponse {
        results: results.collect(),
    })
}

impl batch::Wanted for Wanted<'_> {
    type Svid = types::X509svid;
    const KIND: SvidKind = SvidKind::X509;

    fn source(&self) -> &Source {
        &self.source
    }

    async fn sign<A: Sync>(
        &self,
        server: &Server,
        op: &Operation<A>,
        asking: &Asking,
        node: &SpiffeId,
        place: usize,
    ) -> Result<(types::X509svid, Issued), Status> {
        let entry = self.entry.as_ref().map_err(Status::clone)?;
        let ttl = agents::lifetime(entry, entry.x509_svid_ttl, server.lifetimes.x509_ttl);
        let csr = parse_csr(self.csr)?;
        let class = entry.class.as_ref();
        let ttl = agents::within(ttl, &op.roll, &entry.spiffe_id, class, op.now);
        let permitted = policies::may_issue(server, op, SvidKind::X509, (entry, node), ttl)?;
        derived::count(server, &op.roll, (entry, node), op.now.plus(ttl), op.now)?;
        let leaf = Leaf {
            spiffe_id: &entry.spiffe_id,
            public_key: &csr.public_key,
            dns_names: &entry.dns_names,
            subject: None,
            ttl,
        };
        let signed = server
            .signer
            .sign_x509(&leaf, op.now)
            .await
            .map_err(|e| e.status("X509-SVID"))?;
        let record = asking.onto(permitted.onto(x509_record(op, &entry.spiffe_id, &signed)));
        let issued = Issued::for_node(entry, node, place, record);
        Ok((write_x509(&entry.spiffe_id, signed, &entry.hint), issued))
    }
}

/// Signs a token for the calling node.
pub(super) async fn sign_jwt_for<A>(
    server: &Server,
    op: &Operation<A>,
    asking: &Asking,
    entry: &Entry,
    audience: &[String],
) -> Result<NewJwtsvidResponse, Status> {
    let node = op.caller_id()?;
    let ttl = agents::lifetime(entry, entry.jwt_svid_ttl, server.lifetimes.jwt_ttl);
    let token_id = entry.jwt_svid_include_jti.then(random::uuid_bytes);
    let given = (&entry.spiffe_id, Some((entry, node)));
    let signed = sign_jwt(server, op, asking, given, (audience, token_id), ttl).await?;
    let svid = write_jwt(&entry.spiffe_id, signed, &entry.hint);
    Ok(NewJwtsvidResponse { svid: Some(svid) })
}

/// The entry that a node names.
pub(super) fn named(
    roll: &Roll,
    node: &SpiffeId,
    entry_id: &str,
    now: Timestamp,
) -> Result<Arc<Entry>, Status> {
    if entry_id.is_empty() {
        return Err(Status::invalid_argument("missing entry ID"));
    }
    entry_of_node(roll, node, entry_id, now)
}

/// The entry that the node may have signed, or the one answer that tells nothing of others.
fn entry_of_node(
    roll: &Roll,
    node: &SpiffeId,
    entry_id: &str,
    now: Timestamp,
) -> Result<Arc<Entry>, Status> {
    let unknown = || Status::not_found("entry not found or not authorized");
    let id = EntryId::parse(entry_id).map_err(|_| unknown())?;
    if let Some(entry) = matching::withheld_entry(roll, node, &id) {
        agents::check(roll, &entry.spiffe_id, entry.class.as_ref(), now)?;
        return Err(agents::refusal(
            tonic::Code::FailedPrecondition,
            "nothing is signed: an agent class withholds what the entry stands under",
            "PARENT_WITHHELD",
        ));
    }
    let entry = match matching::authorized_entry(roll, node, &id) {
        Some(entry) => Arc::clone(entry),
        None => matching::task_of_node(roll, node, &id)
            .and_then(|task| task::entry(task))
            .map(Arc::new)
            .ok_or_else(unknown)?,
    };
    agents::check(roll, &entry.spiffe_id, entry.class.as_ref(), now)?;
    Ok(entry)
}

pub(super) fn parse_csr(der: &[u8]) -> Result<SigningRequest, Status> {
    if der.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    SigningRequest::parse(der)
        .map_err(|why| Status::invalid_argument(format!("malformed CSR: {why}")))
}

async fn sign_jwt<A>(
    server: &Server,
    op: &Operation<A>,
    asking: &Asking,
    (spiffe_id, given): (&SpiffeId, Option<(&Entry, &SpiffeId)>),
    (audience, token_id): (&[String], Option<[u8; 16]>),
    ttl: Duration,
) -> Result<SignedJwt, Status> {
    if audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument(
            "at least one audience is required",
        ));
    }
    let class = given.and_then(|(entry, _)| entry.class.as_ref());
    let ttl = agents::within(ttl, &op.roll, spiffe_id, class, op.now);
    let kind = SvidKind::Jwt;
    let permitted = match given {
        Some(given) => {
            let permitted = policies::may_issue(server, op, kind, given, ttl)?;
            derived::count(server, &op.roll, given, op.now.plus(ttl), op.now)?;
            permitted
        }
        None => policies::may_mint(server, op, kind, spiffe_id, ttl)?,
    };
    let turn = asking.turn(server, op, 1).await?;
    let signed = server
        .signer
        .sign_jwt(spiffe_id, audience, ttl, token_id, op.now)
        .await
        .map_err(|e| e.status("JWT-SVID"))?;
    drop(turn);
    let record = op
        .svid_record(kind, spiffe_id.as_str())
        .with(
            "token_sha256",
            digest::hex(&digest::sha256(signed.svid.token.as_bytes())),
        )
        .with("audience", audience.join(" "))
        .with(
            "expires_at",
            signed.svid.expires_at.unix_seconds().to_string(),
        )
        .with("authority_id", signed.authority_id.as_str());
    let record = permitted.onto(record);
    let issued = match given {
        Some((entry, node)) => Issued::for_node(entry, node, 0, asking.onto(record)),
        None => Issued::minted(spiffe_id, record),
    };
    agents::put_one_on_record(server, issued).await?;
    Ok(signed)
}

pub(super) fn x509_record<A>(
    op: &Operation<A>,
    spiffe_id: &SpiffeId,
    signed: &SignedX509,
) -> Record {
    op.svid_record(SvidKind::X509, spiffe_id.as_str())
        .with("serial_number", signed.leaf.serial.as_str())
        .with(
            "expires_at",
            signed.leaf.not_after.unix_seconds().to_string(),
        )
        .with("authority_id", signed.authority_id.as_str())
}

pub(super) fn write_x509(spiffe_id: &SpiffeId, signed: SignedX509, hint: &str) -> types::X509svid {
    types::X509svid {
        id: Some(id::write(spiffe_id)),
        expires_at: signed.leaf.not_after.unix_seconds(),
        cert_chain: signed.chain.into_iter().map(Into::into).collect(),
        hint: hint.to_owned(),
    }
}

fn write_jwt(spiffe_id: &SpiffeId, signed: SignedJwt, hint: &str) -> types::Jwtsvid {
    types::Jwtsvid {
        id: Some(id::write(spiffe_id)),
        token: signed.svid.token,
        issued_at: signed.svid.issued_at.unix_seconds(),
        expires_at: signed.svid.expires_at.unix_seconds(),
        hint: hint.to_owned(),
    }
}
