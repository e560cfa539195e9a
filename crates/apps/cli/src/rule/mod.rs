//! `muster rule`: one row that names processes by a template over what they were attested as.

mod fields;
mod on_node;
mod tries;
mod view;

use clap::{Args, Subcommand};
use muster_model::{ClassName, RuleName, SpiffeId};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::rules_client::RulesClient;
use muster_wire::error_info::{MUSTER_DOMAIN, metadata_of};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::failure::Failure;
use crate::output::{Output, counted};
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Write a rule: the nodes that see it name processes by it at once
    Create(Box<fields::Create>),
    /// Show one rule, and how many names it gives
    Show(One),
    /// List rules
    List(List),
    /// Change a rule: only what is given; names that it no longer gives are withdrawn
    Update(Box<fields::Update>),
    /// Delete a rule: its names are withdrawn from every node
    Delete(Delete),
    /// Say what a rule, written or not, would make of processes; nothing is written
    Try(Box<tries::Try>),
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// Name of the rule
    #[arg(value_name = "RULE")]
    name: RuleName,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only rules under this parent
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// Only rules whose names are of this class
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// Name of the rule
    #[arg(value_name = "RULE")]
    name: RuleName,
    /// Only if the rule is at this version
    #[arg(long, value_name = "NUMBER")]
    at_version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let request = create.request();
            let template = request
                .spec
                .as_ref()
                .map_or("", |spec| spec.template.as_str())
                .to_owned();
            let server = &create.server;
            let request = server.request(request);
            let answer = client(server).await?.create_rule(request).await;
            told(answer, "create the rule", &template, output)
        }
        Command::Show(one) => {
            let rule = get(&one.server, &one.name).await?;
            output.answer(|| view::to_json(&rule), || view::full(&rule, output))
        }
        Command::List(list) => self::list(&list, output).await,
        Command::Update(update) => self::update(&update, output).await,
        Command::Delete(delete) => self::delete(&delete, output).await,
        Command::Try(wanted) => tries::run(&wanted, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<RulesClient<Channel>, Failure> {
    Ok(RulesClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

async fn get(server: &ServerArgs, name: &RuleName) -> Result<v1::Rule, Failure> {
    let request = server.request(v1::GetRuleRequest {
        name: name.to_string(),
    });
    let answer = client(server).await?.get_rule(request).await;
    answer
        .map(Response::into_inner)
        .map_err(|status| Failure::of_call(&format!("find the rule {name}"), &status))
}

async fn list(list: &List, output: Output) -> Result<(), Failure> {
    let mut client = client(&list.server).await?;
    let mut rules = Vec::new();
    let mut page_token = String::new();
    loop {
        let text = |id: Option<&dyn ToString>| id.map(ToString::to_string).unwrap_or_default();
        let request = v1::ListRulesRequest {
            parent_id: text(list.parent_id.as_ref().map(|id| id as &dyn ToString)),
            class: text(list.class.as_ref().map(|name| name as &dyn ToString)),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .list_rules(list.server.request(request))
            .await
            .map_err(|status| Failure::of_call("list the rules", &status))?
            .into_inner();
        rules.extend(page.rules);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.answer(
        || json!({ "rules": rules.iter().map(view::to_json).collect::<Value>() }),
        || view::table(&rules, output),
    )
}

async fn update(update: &fields::Update, output: Output) -> Result<(), Failure> {
    let version = match update.at_version {
        Some(version) => version,
        None => get(&update.server, &update.name).await?.version,
    };
    let request = update.request(version)?;
    let template = request
        .spec
        .as_ref()
        .map_or("", |spec| spec.template.as_str())
        .to_owned();
    let request = update.server.request(request);
    let answer = client(&update.server).await?.update_rule(request).await;
    told(answer, "update the rule", &template, output)
}

async fn delete(delete: &Delete, output: Output) -> Result<(), Failure> {
    let request = delete.server.request(v1::DeleteRuleRequest {
        name: delete.name.to_string(),
        version: delete.at_version,
    });
    let gone = client(&delete.server)
        .await?
        .delete_rule(request)
        .await
        .map_err(|status| Failure::of_call("delete the rule", &status))?
        .into_inner();
    output.answer(
        || json!({ "name": delete.name.to_string(), "names": gone.names, "nodes": gone.nodes }),
        || {
            format!(
                "Rule {} is deleted; {} withdrawn.\n",
                delete.name,
                names(gone.names, gone.nodes)
            )
        },
    )
}

/// Tells how a rule stands after it was written.
fn told(
    answer: Result<Response<v1::Rule>, Status>,
    what: &str,
    template: &str,
    output: Output,
) -> Result<(), Failure> {
    let rule = answer
        .map_err(|status| failure(what, template, &status))?
        .into_inner();
    output.answer(
        || view::to_json(&rule),
        || format!("Rule {} is at version {}.\n", rule.name, rule.version),
    )
}

/// A refusal; where it is about a place in the template, the place is shown.
fn failure(what: &str, template: &str, status: &Status) -> Failure {
    let place = metadata_of(MUSTER_DOMAIN, status)
        .get("at")
        .and_then(|at| at.parse::<usize>().ok());
    let Some(before) = place.and_then(|at| template.get(..at)) else {
        return Failure::of_call(what, status);
    };
    let shown = format!("\n  {template}\n  {}^", " ".repeat(before.chars().count()));
    Failure::new(
        crate::failure::exit_of(status.code()),
        format!(
            "cannot {what}: {}{shown}",
            crate::failure::described(status)
        ),
    )
}

/// How many names on how many nodes, in words.
fn names(names: u64, nodes: u64) -> String {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    format!(
        "{} on {}",
        counted(count(names), "name", "names"),
        counted(count(nodes), "node", "nodes")
    )
}
