//! `muster node`: the attested nodes, and the one on this host.

mod debug;
mod explain;
mod local;
mod sightings;

use clap::{Args, Subcommand};
use muster_model::{SpiffeId, Timestamp};
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{
    BanAgentRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
};
use muster_proto::spire::api::types::Agent;
use muster_rt::{Clock, SystemClock};
use muster_wire::id;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs, id_text, selector_texts};
use crate::time::{distance, with_distance};
use crate::{daemon, json};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the attested nodes
    List(List),
    /// Show one node
    Show(One),
    /// Ban a node: it loses its identity and may not attest again until it is evicted
    Ban(One),
    /// Evict a node: it loses its identity and may attest again
    Evict(One),
    /// Say why a process has, or has not, an identity
    Explain(explain::Explain),
    /// Show how the node on this host stands, and what it holds
    Debug(debug::Debug),
    /// Show what looks like an agent on this host
    Sightings(sightings::Sightings),
    /// The node's daemon, as `muster dev` runs it
    #[command(hide = true)]
    Run(daemon::Run),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// SPIFFE ID of the node
    #[arg(value_name = "ID")]
    id: SpiffeId,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(list) => self::list(&list.server, output).await,
        Command::Show(one) => show(&one, output).await,
        Command::Ban(one) => {
            let id = Some(id::write(&one.id));
            client(&one.server)
                .await?
                .ban_agent(one.server.request(BanAgentRequest { id }))
                .await
                .map_err(|status| Failure::of_call(&format!("ban {}", one.id), &status))?;
            done(&one, "banned", output)
        }
        Command::Explain(explain) => explain::run(&explain, output).await,
        Command::Debug(debug) => debug::run(&debug, output).await,
        Command::Sightings(wanted) => sightings::run(&wanted, output).await,
        Command::Run(_) => Err(Failure::usage("`muster node run` stands alone")),
        Command::Evict(one) => {
            let id = Some(id::write(&one.id));
            client(&one.server)
                .await?
                .delete_agent(one.server.request(DeleteAgentRequest { id }))
                .await
                .map_err(|status| Failure::of_call(&format!("evict {}", one.id), &status))?;
            done(&one, "evicted", output)
        }
    }
}

async fn client(server: &ServerArgs) -> Result<AgentClient<Channel>, Failure> {
    Ok(AgentClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

async fn list(server: &ServerArgs, output: Output) -> Result<(), Failure> {
    let mut client = client(server).await?;
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_agents(server.request(ListAgentsRequest {
                filter: None,
                output_mask: None,
                page_size: PAGE,
                page_token,
            }))
            .await
            .map_err(|status| Failure::of_call("list the nodes", &status))?
            .into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let now = SystemClock::new().now().wall;
    output.answer(
        || json!({ "agents": agents.iter().map(json::agent).collect::<Value>() }),
        || {
            let rows: Vec<_> = agents.iter().map(|agent| row(agent, now)).collect();
            output.table(
                &["NODE", "ATTESTED BY", "SVID EXPIRES", "STATE", "VERSION"],
                &rows,
                "No node has joined. Create a token for one with `muster token create`.",
            )
        },
    )
}

fn row(agent: &Agent, now: Timestamp) -> Vec<String> {
    vec![
        id_text(agent.id.as_ref()),
        agent.attestation_type.clone(),
        if agent.x509svid_expires_at == 0 {
            "-".to_owned()
        } else {
            distance(agent.x509svid_expires_at, now)
        },
        state(agent, now).to_owned(),
        agent.agent_version.clone(),
    ]
}

fn state(agent: &Agent, now: Timestamp) -> &'static str {
    if agent.banned {
        "banned"
    } else if Timestamp::from_unix_seconds(agent.x509svid_expires_at) <= now {
        "expired"
    } else {
        "active"
    }
}

async fn show(one: &One, output: Output) -> Result<(), Failure> {
    let request = one.server.request(GetAgentRequest {
        id: Some(id::write(&one.id)),
        output_mask: None,
    });
    let agent = client(&one.server)
        .await?
        .get_agent(request)
        .await
        .map_err(|status| Failure::of_call(&format!("show {}", one.id), &status))?
        .into_inner();
    let now = SystemClock::new().now().wall;
    output.answer(
        || json::agent(&agent),
        || {
            output.fields(&[
                ("Node", id_text(agent.id.as_ref())),
                ("Attested by", agent.attestation_type.clone()),
                ("State", state(&agent, now).to_owned()),
                ("SVID serial", agent.x509svid_serial_number.clone()),
                (
                    "SVID expires",
                    with_distance(agent.x509svid_expires_at, now),
                ),
                (
                    "Can reattest",
                    if agent.can_reattest { "yes" } else { "no" }.to_owned(),
                ),
                ("Selectors", selector_texts(&agent.selectors).join(", ")),
                ("Version", agent.agent_version.clone()),
            ])
        },
    )
}

fn done(one: &One, what: &str, output: Output) -> Result<(), Failure> {
    output.answer(
        || json!({ "id": json::spiffe_id(Some(&id::write(&one.id))), "outcome": what }),
        || format!("{} is {what}.\n", one.id),
    )
}
