//! `muster authority`: what signs, what will sign next, what signed before, and the operator's hand
//! on them. `docs/authorities.md` says when to do which.

mod view;

use std::fmt;

use clap::{Args, Subcommand, ValueEnum};
use muster_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use muster_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateWitAuthorityRequest, ActivateX509AuthorityRequest,
    AuthorityState, GetJwtAuthorityStateRequest, GetWitAuthorityStateRequest,
    GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest, PrepareWitAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeWitAuthorityRequest,
    RevokeX509AuthorityRequest, TaintJwtAuthorityRequest, TaintWitAuthorityRequest,
    TaintX509AuthorityRequest,
};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::view::States;
use crate::bundle;
use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::ServerArgs;
use crate::time::rfc3339;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the authorities: which signs, which is next, which signed before
    Show(Show),
    /// Make the next authority and put it into the bundle; it does not sign yet
    Prepare(Prepare),
    /// Let the prepared authority sign
    Activate(Named),
    /// Declare an authority compromised that no longer signs: what it signed is replaced at once
    Taint(Named),
    /// Remove a tainted authority from the bundle: what it signed is refused from then on
    Revoke(Named),
}

/// A kind of authority.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// CA certificates, which sign X509-SVIDs
    X509,
    /// Keys that sign JWT-SVIDs
    Jwt,
    /// Keys that sign WIT-SVIDs
    Wit,
}

impl Kind {
    /// As it is typed.
    fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
            Self::Wit => "WIT",
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// Which kind; without it, all that the server has
    kind: Option<Kind>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Prepare {
    /// Which kind
    kind: Kind,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Named {
    /// Which kind
    kind: Kind,
    /// The authority, as `muster authority show` names it
    #[arg(value_name = "ID")]
    authority_id: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Show(show) => self::show(&show, output).await,
        Command::Prepare(prepare) => self::prepare(&prepare, output).await,
        Command::Activate(named) => order(Verb::Activate, named, output).await,
        Command::Taint(named) => order(Verb::Taint, named, output).await,
        Command::Revoke(named) => order(Verb::Revoke, named, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<LocalAuthorityClient<Channel>, Failure> {
    Ok(LocalAuthorityClient::new(server.connect().await?))
}

async fn show(show: &Show, output: Output) -> Result<(), Failure> {
    let mut client = client(&show.server).await?;
    let mut kinds = Vec::new();
    for kind in [Kind::X509, Kind::Jwt, Kind::Wit] {
        if show.kind.is_some_and(|wanted| wanted != kind) {
            continue;
        }
        match states(&mut client, &show.server, kind).await {
            Ok(states) => kinds.push((kind, states)),
            // A kind that was not asked for, and that the server does not have.
            Err(status) if show.kind.is_none() && status.code() == Code::Unimplemented => {}
            Err(status) => {
                return Err(Failure::of_call(
                    &format!("show the {kind} authorities"),
                    &status,
                ));
            }
        }
    }
    let bundle = bundle::fetch(&show.server).await?;
    output.answer(
        || view::document(&kinds, &bundle),
        || view::table(&kinds, &bundle, output),
    )
}

/// Calls an RPC and takes the answer's fields.
macro_rules! ask {
    ($client:ident, $server:ident, $call:ident, $request:expr, $($field:ident),+) => {{
        let answer = $client.$call($server.request($request)).await?.into_inner();
        Ok(($(answer.$field),+))
    }};
}

async fn states(
    client: &mut LocalAuthorityClient<Channel>,
    server: &ServerArgs,
    kind: Kind,
) -> Result<States, Status> {
    let states: Result<_, Status> = async {
        match kind {
            Kind::X509 => ask!(
                client,
                server,
                get_x509_authority_state,
                GetX509AuthorityStateRequest {},
                active,
                prepared,
                old
            ),
            Kind::Jwt => ask!(
                client,
                server,
                get_jwt_authority_state,
                GetJwtAuthorityStateRequest {},
                active,
                prepared,
                old
            ),
            Kind::Wit => ask!(
                client,
                server,
                get_wit_authority_state,
                GetWitAuthorityStateRequest {},
                active,
                prepared,
                old
            ),
        }
    }
    .await;
    let (active, prepared, old) = states?;
    Ok(States {
        active,
        prepared,
        old,
    })
}

async fn prepare(prepare: &Prepare, output: Output) -> Result<(), Failure> {
    let (kind, server) = (prepare.kind, &prepare.server);
    let mut client = client(server).await?;
    let prepared: Result<_, Status> = async {
        match kind {
            Kind::X509 => ask!(
                client,
                server,
                prepare_x509_authority,
                PrepareX509AuthorityRequest {},
                prepared_authority
            ),
            Kind::Jwt => ask!(
                client,
                server,
                prepare_jwt_authority,
                PrepareJwtAuthorityRequest {},
                prepared_authority
            ),
            Kind::Wit => ask!(
                client,
                server,
                prepare_wit_authority,
                PrepareWitAuthorityRequest {},
                prepared_authority
            ),
        }
    }
    .await;
    let prepared = prepared
        .map_err(|status| Failure::of_call(&format!("prepare the next {kind} authority"), &status))?
        .unwrap_or_default();
    output.answer(
        || json!({ "prepared_authority": view::authority(&prepared) }),
        || {
            let id = &prepared.authority_id;
            format!(
                "{kind} authority {id} is prepared; it ends at {}.\n\
                 `muster authority activate {} {id}` lets it sign; in time it begins by itself.\n",
                rfc3339(prepared.expires_at),
                kind.word(),
            )
        },
    )
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Activate,
    Taint,
    Revoke,
}

async fn order(verb: Verb, named: Named, output: Output) -> Result<(), Failure> {
    let Named {
        kind,
        authority_id,
        server,
    } = named;
    let word = match verb {
        Verb::Activate => "activate",
        Verb::Taint => "taint",
        Verb::Revoke => "revoke",
    };
    let mut client = client(&server).await?;
    let what = format!("{word} {kind} authority \"{authority_id}\"");
    let done = send(&mut client, &server, verb, kind, authority_id)
        .await
        .map_err(|status| Failure::of_call(&what, &status))?
        .unwrap_or_default();
    let id = &done.authority_id;
    match verb {
        Verb::Activate => output.answer(
            || json!({ "activated_authority": view::authority(&done) }),
            || {
                let end = rfc3339(done.expires_at);
                format!("{kind} authority {id} signs from now on; it ends at {end}.\n")
            },
        ),
        Verb::Taint => output.answer(
            || json!({ "tainted_authority": view::authority(&done) }),
            || {
                format!(
                    "{kind} authority {id} is tainted: the nodes replace what it signed.\n\
                     When they have, `muster authority revoke {} {id}` removes it.\n",
                    kind.word()
                )
            },
        ),
        Verb::Revoke => output.answer(
            || json!({ "revoked_authority": view::authority(&done) }),
            || format!("{kind} authority {id} has left the bundle: what it signed is refused.\n"),
        ),
    }
}

async fn send(
    client: &mut LocalAuthorityClient<Channel>,
    server: &ServerArgs,
    verb: Verb,
    kind: Kind,
    authority_id: String,
) -> Result<Option<AuthorityState>, Status> {
    match (verb, kind) {
        (Verb::Activate, Kind::X509) => ask!(
            client,
            server,
            activate_x509_authority,
            ActivateX509AuthorityRequest { authority_id },
            activated_authority
        ),
        (Verb::Activate, Kind::Jwt) => ask!(
            client,
            server,
            activate_jwt_authority,
            ActivateJwtAuthorityRequest { authority_id },
            activated_authority
        ),
        (Verb::Activate, Kind::Wit) => ask!(
            client,
            server,
            activate_wit_authority,
            ActivateWitAuthorityRequest { authority_id },
            activated_authority
        ),
        (Verb::Taint, Kind::X509) => ask!(
            client,
            server,
            taint_x509_authority,
            TaintX509AuthorityRequest { authority_id },
            tainted_authority
        ),
        (Verb::Taint, Kind::Jwt) => ask!(
            client,
            server,
            taint_jwt_authority,
            TaintJwtAuthorityRequest { authority_id },
            tainted_authority
        ),
        (Verb::Taint, Kind::Wit) => ask!(
            client,
            server,
            taint_wit_authority,
            TaintWitAuthorityRequest { authority_id },
            tainted_authority
        ),
        (Verb::Revoke, Kind::X509) => ask!(
            client,
            server,
            revoke_x509_authority,
            RevokeX509AuthorityRequest { authority_id },
            revoked_authority
        ),
        (Verb::Revoke, Kind::Jwt) => ask!(
            client,
            server,
            revoke_jwt_authority,
            RevokeJwtAuthorityRequest { authority_id },
            revoked_authority
        ),
        (Verb::Revoke, Kind::Wit) => ask!(
            client,
            server,
            revoke_wit_authority,
            RevokeWitAuthorityRequest { authority_id },
            revoked_authority
        ),
    }
}
