//! What downstream servers ask for, and what operators add to the own bundle: CA certificates below
//! the own authority, and keys of others in the own bundle (spire-behaviour 2.3).
//!
//! A downstream server signs for the whole trust domain: an entry with `downstream` is given to
//! nobody else.

use std::sync::Arc;

use muster_audit::Event;
use muster_crypto::PublicKey;
use muster_model::{Bundle, TrustDomain, X509Authority};
use muster_policy::{self as policy, Bundles, Writes};
use muster_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
    PublishWitAuthorityRequest, PublishWitAuthorityResponse,
};
use muster_proto::spire::api::server::svid::v1::{
    NewDownstreamX509caRequest, NewDownstreamX509caResponse,
};
use muster_proto::spire::api::types;
use muster_roll::bundle::{self as rules, Addition, AdditionError};
use muster_svid::x509::{Certificate, SigningRequest};
use muster_wire::{bundle as wire_bundle, entry};
use tonic::{Request, Response, Status};

use crate::admission::Asking;
use crate::api::svid::parse_csr;
use crate::api::{not_served, wit};
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;
use crate::signer::SignedX509;

/// Signs a CA certificate for a downstream server.
pub(super) async fn new_x509_ca(
    server: &Arc<Server>,
    request: Request<NewDownstreamX509caRequest>,
) -> Result<Response<NewDownstreamX509caResponse>, Status> {
    let asking = Asking::of(&request);
    operate(
        server,
        request,
        async |op: Operation<policy::NewDownstreamX509Ca>, message: NewDownstreamX509caRequest| {
            let caller = op.caller_id()?;
            let csr = parse_csr(&message.csr)?;
            check_name(&csr, &server.trust_domain)?;
            let ttl = entry::read_ttl(message.preferred_ttl).unwrap_or(server.authority_ttl);
            let signed = {
                let _turn = asking.turn(server, &op, 1).await?;
                let signing = server.signer.sign_downstream(&csr.public_key, ttl, op.now);
                signing
                    .await
                    .map_err(|error| error.status("downstream X.509 CA"))?
            };
            let record = op
                .record(Event::CaIssued, caller.as_str())
                .with("serial_number", signed.leaf.serial.as_str())
                .with(
                    "subject_key_id",
                    signed.leaf.subject_key_id_hex().unwrap_or_default(),
                )
                .with(
                    "expires_at",
                    signed.leaf.not_after.unix_seconds().to_string(),
                )
                .with("authority_id", signed.authority_id.as_str());
            // On the record before the answer leaves.
            let recorded = server.roll.audit(vec![record]).await;
            recorded.map_err(|error| errors::write(&error))?;
            tracing::info!(
                spiffe_id = %caller, serial_number = %signed.leaf.serial, authority_id = signed.authority_id,
                "CA certificate signed for a downstream server"
            );
            answer(server, signed)
        },
    )
    .await
}

fn answer(server: &Server, signed: SignedX509) -> Result<NewDownstreamX509caResponse, Status> {
    // The newest: the authority that signed is in it.
    let roll = server.roll.snapshot();
    let own = roll
        .own_bundle()
        .ok_or_else(|| Status::not_found("bundle not found"))?;
    Ok(NewDownstreamX509caResponse {
        ca_cert_chain: signed.chain.into_iter().map(Into::into).collect(),
        x509_authorities: own
            .x509_authorities
            .iter()
            .map(|root| root.der.to_vec().into())
            .collect(),
    })
}

/// A request that names another trust domain comes from a server whose configuration is wrong: it
/// would only notice when its first SVID is refused.
fn check_name(csr: &SigningRequest, ours: &TrustDomain) -> Result<(), Status> {
    let id = ours.id();
    match csr.uri_names.iter().find(|uri| **uri != id.as_str()) {
        None => Ok(()),
        Some(other) => Err(Status::invalid_argument(format!(
            "CSR URI SAN \"{other}\" is not \"{}\"; set the downstream server's trust domain to \"{ours}\"",
            id.as_str()
        ))),
    }
}

/// Puts a downstream server's JWT key into the bundle.
pub(super) async fn publish_jwt(
    server: &Arc<Server>,
    request: Request<PublishJwtAuthorityRequest>,
) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<policy::PublishJwtAuthority>, message: PublishJwtAuthorityRequest| {
            let key = message
                .jwt_authority
                .ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
            let given = types::Bundle {
                jwt_authorities: vec![key],
                ..types::Bundle::default()
            };
            let addition = read(server, given, "invalid JWT authority")?;
            let own = append(server, op, addition, Event::AuthorityPublished).await?;
            let jwt_authorities = wire_bundle::write(&own, None).jwt_authorities;
            Ok(PublishJwtAuthorityResponse { jwt_authorities })
        },
    )
    .await
}

/// Puts a downstream server's WIT key into the bundle. SPIRE does not serve this yet.
pub(super) async fn publish_wit(
    server: &Arc<Server>,
    request: Request<PublishWitAuthorityRequest>,
) -> Result<Response<PublishWitAuthorityResponse>, Status> {
    if !server.wit {
        return not_served::<policy::PublishWitAuthority, _, _>(server, request, wit::PROFILE)
            .await;
    }
    operate(
        server,
        request,
        async |op: Operation<policy::PublishWitAuthority>, message: PublishWitAuthorityRequest| {
            let key = message
                .wit_authority
                .ok_or_else(|| Status::invalid_argument("missing WIT authority"))?;
            let given = types::Bundle {
                wit_authorities: vec![key],
                ..types::Bundle::default()
            };
            let addition = read(server, given, "invalid WIT authority")?;
            let own = append(server, op, addition, Event::AuthorityPublished).await?;
            let wit_authorities = wire_bundle::write(&own, None).wit_authorities;
            Ok(PublishWitAuthorityResponse { wit_authorities })
        },
    )
    .await
}

/// Adds what an operator gives to the own bundle.
pub(super) async fn append_bundle(
    server: &Arc<Server>,
    request: Request<AppendBundleRequest>,
) -> Result<Response<types::Bundle>, Status> {
    operate(
        server,
        request,
        async |op: Operation<policy::AppendBundle>, message: AppendBundleRequest| {
            let given = types::Bundle {
                x509_authorities: message.x509_authorities,
                jwt_authorities: message.jwt_authorities,
                wit_authorities: message.wit_authorities,
                ..types::Bundle::default()
            };
            let nothing = given.x509_authorities.is_empty()
                && given.jwt_authorities.is_empty()
                && given.wit_authorities.is_empty();
            if nothing {
                return Err(Status::invalid_argument("no authorities to append"));
            }
            if !given.wit_authorities.is_empty() && !server.wit {
                return Err(Status::invalid_argument(
                    "WIT authorities are not taken while wit.enabled is false",
                ));
            }
            let addition = read(server, given, "failed to convert authorities")?;
            let own = append(server, op, addition, Event::BundleAppended).await?;
            Ok(wire_bundle::write(&own, message.output_mask.as_ref()))
        },
    )
    .await
}

/// Reads authorities that others give. A taint is not taken from them: that is an order of its own.
fn read(server: &Server, mut given: types::Bundle, failed: &str) -> Result<Addition, Status> {
    let invalid = |why: String| Status::invalid_argument(format!("{failed}: {why}"));
    server
        .trust_domain
        .as_str()
        .clone_into(&mut given.trust_domain);
    let not_after = |der: &[u8]| Certificate::parse(der).ok().map(|c| c.not_after);
    let read = wire_bundle::read(&given, not_after).map_err(|why| invalid(why.to_string()))?;
    let mut addition = Addition {
        x509: read.x509_authorities,
        jwt: read.jwt_authorities,
        wit: read.wit_authorities,
    };
    for (index, root) in addition.x509.iter_mut().enumerate() {
        root.tainted = false;
        check_root(root, &server.trust_domain)
            .map_err(|why| invalid(format!("X.509 authority {index} {why}")))?;
    }
    for key in &mut addition.jwt {
        key.tainted = false;
        check_key(&key.public_key)
            .map_err(|why| invalid(format!("the key of JWT authority \"{}\" {why}", key.key_id)))?;
    }
    for key in &mut addition.wit {
        key.tainted = false;
        check_key(&key.public_key)
            .map_err(|why| invalid(format!("the key of WIT authority \"{}\" {why}", key.key_id)))?;
    }
    Ok(addition)
}

/// A root must be a CA, and may name no other trust domain (X509I-05, X509I-06).
fn check_root(root: &X509Authority, ours: &TrustDomain) -> Result<(), String> {
    let certificate =
        Certificate::parse(&root.der).map_err(|why| format!("is not understood: {why}"))?;
    if !certificate.is_ca {
        return Err("is not the certificate of a CA".to_owned());
    }
    if certificate.subject_key_id.is_none() {
        return Err("has no subject key identifier, by which it could be revoked".to_owned());
    }
    let id = ours.id();
    match certificate
        .uri_names
        .iter()
        .find(|uri| **uri != id.as_str())
    {
        None => Ok(()),
        Some(other) => Err(format!("is of \"{other}\", not of \"{}\"", id.as_str())),
    }
}

fn check_key(spki_der: &[u8]) -> Result<(), String> {
    PublicKey::from_spki_der(spki_der)
        .map(|_key| ())
        .map_err(|why| format!("is not understood: {why}"))
}

/// Adds to the own bundle and returns it as it is then.
async fn append<A: Writes<Bundles> + 'static>(
    server: &Server,
    op: Operation<A>,
    addition: Addition,
    event: Event,
) -> Result<Arc<Bundle>, Status> {
    let written = server.roll.write(move |roll, transaction| {
        let own = roll.own_bundle().map_or_else(
            || Arc::new(Bundle::empty(roll.trust_domain().clone())),
            Arc::clone,
        );
        let names = named(&addition);
        let Some(longer) = rules::appended(&own, addition)? else {
            return Ok(own);
        };
        let record = op.record(event, roll.trust_domain().as_str());
        transaction.audit(record.with("authority_ids", names));
        transaction.put_bundle(&op.permit, longer.clone());
        Ok(Arc::new(longer))
    });
    let outcome = written.await.map_err(|error| errors::write(&error))?;
    outcome.map_err(|error: AdditionError| match error {
        AdditionError::KeyIdTaken(_) => Status::already_exists(error.to_string()),
        AdditionError::Full(_) => Status::resource_exhausted(error.to_string()),
    })
}

/// What is added, for the record.
fn named(addition: &Addition) -> String {
    let x509 = addition.x509.iter().map(|root| {
        let certificate = Certificate::parse(&root.der).ok();
        let id = certificate.and_then(|c| c.subject_key_id_hex());
        format!("x509:{}", id.unwrap_or_default())
    });
    let jwt = addition.jwt.iter().map(|key| format!("jwt:{}", key.key_id));
    let wit = addition.wit.iter().map(|key| format!("wit:{}", key.key_id));
    x509.chain(jwt).chain(wit).collect::<Vec<_>>().join(" ")
}
