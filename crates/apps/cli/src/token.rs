//! `muster token`: one-time secrets by which nodes join.

use clap::{Args, Subcommand};
use muster_model::SpiffeId;
use muster_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::types::JoinToken;
use muster_wire::id;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::ServerArgs;
use crate::time::{Ttl, parse_ttl, rfc3339};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a token with which one node can join once
    Create(Create),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// How long the token can be used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_ttl)]
    ttl: Ttl,
    /// A further name for the node that joins, besides the one made from the token
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    let Command::Create(create) = command;
    let token = mint(&create.server, create.ttl, create.spiffe_id.as_ref()).await?;
    output.answer(
        || json!({ "value": token.value, "expires_at": token.expires_at }),
        || {
            output.fields(&[
                ("Token", token.value.clone()),
                ("Expires", rfc3339(token.expires_at)),
            ])
        },
    )
}

/// Creates a token that is good for `ttl`.
pub(crate) async fn mint(
    server: &ServerArgs,
    ttl: Ttl,
    alias: Option<&SpiffeId>,
) -> Result<JoinToken, Failure> {
    if ttl.0 == 0 {
        return Err(Failure::usage(
            "--ttl is 0s; a token that no one can use is not made",
        ));
    }
    let request = server.request(CreateJoinTokenRequest {
        ttl: ttl.0,
        token: String::new(),
        agent_id: alias.map(id::write),
    });
    AgentClient::new(server.connect().await?)
        .create_join_token(request)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::of_call("create a join token", &status))
}
