//! `muster agent`: AI agents, what kinds there are, and who answers for them.

pub(crate) mod class;
mod fields;
pub(crate) mod file;
mod shape;
pub(crate) mod sightings;
mod task;
mod tree;
mod view;

use clap::{Args, Subcommand};
use muster_model::{ClassName, InstanceState, PersonId, SpiffeId};
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::agent::v1::{
    AgentClass, AgentInstance, GetInstanceRequest, InstanceStepRequest, ListInstancesRequest,
    ListPersonsGoneRequest, MarkPersonRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Agent classes: what a kind of agent is for, what it may do, who answers for it
    #[command(subcommand)]
    Class(class::Command),
    /// List agents that run, or ran
    List(List),
    /// Show one agent
    Show(One),
    /// Withdraw the identity of one agent that is suspected
    Quarantine(Step),
    /// Let an agent that was quarantined have its identity again
    Release(Step),
    /// End one agent for good: its identity is never given again
    Retire(Step),
    /// Tasks of all agents on all nodes
    #[command(subcommand)]
    Task(task::Command),
    /// Draw who answers for an agent, its tasks and theirs, what each holds and until when
    Tree(tree::Tree),
    /// What looks like an agent on the nodes, and how to register it
    Sightings(sightings::Sightings),
    /// Persons who own and sponsor classes
    #[command(subcommand)]
    Person(Person),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only agents of this class
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    /// Only agents that were last seen on this node
    #[arg(long, value_name = "ID")]
    node: Option<SpiffeId>,
    /// Only agents in this state: registered, active, lost, quarantined, retired; repeatable
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<InstanceState>,
    #[command(flatten)]
    server: ServerArgs,
}

fn state(word: &str) -> Result<InstanceState, String> {
    InstanceState::from_word(word).ok_or_else(|| format!("it is one of: {}", InstanceState::WORDS))
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// Identity of the agent
    #[arg(value_name = "SPIFFE-ID")]
    id: SpiffeId,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Step {
    /// Identity of the agent
    #[arg(value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Person {
    /// Note that a person is gone: what nobody answers for any longer is quarantined
    Gone(Mark),
    /// Note that a person is back; what was quarantined stays so until it is reinstated
    Back(Mark),
    /// List who is known to be gone
    List(Persons),
}

#[derive(Args, Debug)]
pub(crate) struct Mark {
    /// Who, as classes name them
    #[arg(value_name = "PERSON")]
    person: PersonId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Persons {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Class(command) => class::run(command, output).await,
        Command::List(list) => self::list(&list, output).await,
        Command::Show(one) => show(&one, output).await,
        Command::Quarantine(step) => {
            let mut client = client(&step.server).await?;
            let answer = client.quarantine_instance(step.request()).await;
            told(answer, "quarantine the agent", output)
        }
        Command::Release(step) => {
            let mut client = client(&step.server).await?;
            let answer = client.release_instance(step.request()).await;
            told(answer, "release the agent", output)
        }
        Command::Retire(step) => {
            let mut client = client(&step.server).await?;
            let answer = client.retire_instance(step.request()).await;
            told(answer, "retire the agent", output)
        }
        Command::Task(command) => task::run(command, output).await,
        Command::Tree(tree) => tree.run(output).await,
        Command::Sightings(wanted) => sightings::run(&wanted, output).await,
        Command::Person(Person::Gone(mark)) => gone(&mark, output).await,
        Command::Person(Person::Back(mark)) => back(&mark, output).await,
        Command::Person(Person::List(persons)) => self::persons(&persons, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<RegistryClient<Channel>, Failure> {
    Ok(registry(server.connect().await?))
}

fn registry(channel: Channel) -> RegistryClient<Channel> {
    RegistryClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

async fn list(list: &List, output: Output) -> Result<(), Failure> {
    let mut client = client(&list.server).await?;
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListInstancesRequest {
            class: list
                .class
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            node_id: list
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            states: list.state.iter().map(ToString::to_string).collect(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .list_instances(list.server.request(request))
            .await
            .map_err(|status| Failure::of_call("list the agents", &status))?
            .into_inner();
        agents.extend(page.instances);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.answer(
        || json!({ "agents": agents.iter().map(shape::agent).collect::<Value>() }),
        || view::agents(&agents, output, view::now()),
    )
}

async fn show(one: &One, output: Output) -> Result<(), Failure> {
    let request = one.server.request(GetInstanceRequest {
        spiffe_id: one.id.to_string(),
    });
    let agent = client(&one.server)
        .await?
        .get_instance(request)
        .await
        .map_err(|status| Failure::of_call(&format!("find the agent {}", one.id), &status))?
        .into_inner();
    output.answer(
        || shape::agent(&agent),
        || view::agent(&agent, output, view::now()),
    )
}

impl Step {
    fn request(&self) -> tonic::Request<InstanceStepRequest> {
        self.server.request(InstanceStepRequest {
            spiffe_id: self.id.to_string(),
            reason: self.reason.clone(),
        })
    }
}

/// Tells where an agent stands after it was written.
fn told(
    answer: Result<Response<AgentInstance>, Status>,
    what: &str,
    output: Output,
) -> Result<(), Failure> {
    let agent = answer
        .map_err(|status| Failure::of_call(what, &status))?
        .into_inner();
    output.answer(
        || shape::agent(&agent),
        || format!("Agent {} is {}.\n", agent.spiffe_id, agent.state),
    )
}

async fn gone(mark: &Mark, output: Output) -> Result<(), Failure> {
    let request = mark.server.request(MarkPersonRequest {
        person: mark.person.to_string(),
        reason: mark.reason.clone(),
    });
    let answer = client(&mark.server)
        .await?
        .mark_person_gone(request)
        .await
        .map_err(|status| Failure::of_call("note that", &status))?
        .into_inner();
    output.answer(
        || {
            let classes: Value = answer.quarantined.iter().map(shape::class).collect();
            json!({ "person": mark.person.as_str(), "quarantined": classes })
        },
        || {
            let line =
                |class: &AgentClass| format!("Class {} is {}.\n", class.name, class.lifecycle);
            let classes: Vec<String> = answer.quarantined.iter().map(line).collect();
            format!("{} is known to be gone.\n{}", mark.person, classes.concat())
        },
    )
}

async fn back(mark: &Mark, output: Output) -> Result<(), Failure> {
    let request = mark.server.request(MarkPersonRequest {
        person: mark.person.to_string(),
        reason: mark.reason.clone(),
    });
    client(&mark.server)
        .await?
        .mark_person_returned(request)
        .await
        .map_err(|status| Failure::of_call("note that", &status))?;
    output.answer(
        || json!({ "person": mark.person.as_str(), "outcome": "returned" }),
        || {
            format!(
                "{} is back. Classes that were quarantined meanwhile stay so; reinstate each with \
                 `muster agent class reinstate`.\n",
                mark.person
            )
        },
    )
}

async fn persons(persons: &Persons, output: Output) -> Result<(), Failure> {
    let request = persons.server.request(ListPersonsGoneRequest {});
    let gone = client(&persons.server)
        .await?
        .list_persons_gone(request)
        .await
        .map_err(|status| Failure::of_call("list the persons", &status))?
        .into_inner()
        .persons;
    output.answer(
        || json!({ "persons": gone.iter().map(shape::person).collect::<Value>() }),
        || view::persons(&gone, output),
    )
}
