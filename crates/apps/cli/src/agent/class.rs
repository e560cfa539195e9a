//! `muster agent class`.

use clap::{Args, Subcommand};
use muster_model::{ClassName, Lifecycle, PersonId, Purpose, Word};
use muster_proto::muster::agent::v1;
use serde_json::{Value, json};
use tonic::{Code, Response, Status};

use super::fields::{Create, Update};
use super::{client, shape, view};
use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::{PAGE, ServerArgs};
use crate::time::{When, parse_when};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Propose a class, from flags or from a file
    Create(Box<Create>),
    /// Change what is written about a class: only what is given, or all that a file says
    Update(Box<Update>),
    /// Show one class
    Show(One),
    /// List classes
    List(List),
    /// Let the agents of a proposed class have identities
    Approve(Step),
    /// Pause a class: its identities are withdrawn from every node at once
    Suspend(Step),
    /// The same for a class that is suspected
    Quarantine(Step),
    /// Let a class have identities again, once what it was stopped for is put right
    Reinstate(Step),
    /// End a class for good; its name is never given again
    Retire(Step),
    /// Record that someone looked at a class, and when the next review is due
    Review(Review),
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// Name of the class
    #[arg(value_name = "CLASS")]
    name: ClassName,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only classes that stand there: proposed, active, suspended, quarantined, retired; repeatable
    #[arg(long, value_name = "LIFECYCLE", value_parser = lifecycle)]
    lifecycle: Vec<Lifecycle>,
    /// Only classes that this person owns or sponsors
    #[arg(long, value_name = "PERSON")]
    person: Option<PersonId>,
    /// Only classes of this team
    #[arg(long, value_name = "TEAM")]
    team: Option<Word>,
    /// Only classes with this purpose
    #[arg(long, value_name = "PURPOSE", value_parser = Purpose::parse)]
    purpose: Option<Purpose>,
    /// Only classes whose review is due before then: an instant, or a duration from now
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    review_before: Option<When>,
    #[command(flatten)]
    server: ServerArgs,
}

fn lifecycle(word: &str) -> Result<Lifecycle, String> {
    Lifecycle::from_word(word).ok_or_else(|| format!("it is one of: {}", Lifecycle::WORDS))
}

#[derive(Args, Debug)]
pub(crate) struct Step {
    /// Name of the class
    #[arg(value_name = "CLASS")]
    name: ClassName,
    /// Why, for the record; needed to suspend, quarantine or retire
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Only if the class is at this version
    #[arg(long, value_name = "NUMBER")]
    at_version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Review {
    /// Name of the class
    #[arg(value_name = "CLASS")]
    name: ClassName,
    /// Who vouches for the class
    #[arg(long, value_name = "PERSON")]
    by: PersonId,
    /// When the next review is due: an instant, or a duration from now
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    next: When,
    /// What was found, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Only if the class is at this version
    #[arg(long, value_name = "NUMBER")]
    at_version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let request = create.server.request(create.request()?);
            let answer = client(&create.server).await?.create_class(request).await;
            told(answer, "propose the class", output)
        }
        Command::Update(update) => self::update(&update, output).await,
        Command::Show(one) => {
            let class = get(&one.server, &one.name).await?;
            output.answer(
                || shape::class(&class),
                || view::class(&class, output, view::now()),
            )
        }
        Command::List(list) => self::list(&list, output).await,
        Command::Approve(step) => {
            let answer = client(&step.server)
                .await?
                .approve_class(step.request())
                .await;
            told(answer, "approve the class", output)
        }
        Command::Suspend(step) => {
            let answer = client(&step.server)
                .await?
                .suspend_class(step.request())
                .await;
            told(answer, "suspend the class", output)
        }
        Command::Quarantine(step) => {
            let answer = client(&step.server)
                .await?
                .quarantine_class(step.request())
                .await;
            told(answer, "quarantine the class", output)
        }
        Command::Reinstate(step) => {
            let answer = client(&step.server)
                .await?
                .reinstate_class(step.request())
                .await;
            told(answer, "reinstate the class", output)
        }
        Command::Retire(step) => {
            let answer = client(&step.server)
                .await?
                .retire_class(step.request())
                .await;
            told(answer, "retire the class", output)
        }
        Command::Review(review) => {
            let request = v1::ReviewClassRequest {
                name: review.name.to_string(),
                reviewer: review.by.to_string(),
                review_by: Some(review.next.from(view::now())),
                version: review.at_version,
                reason: review.reason.clone(),
            };
            let request = review.server.request(request);
            let answer = client(&review.server).await?.review_class(request).await;
            told(answer, "record the review", output)
        }
    }
}

impl Step {
    fn request(&self) -> tonic::Request<v1::ClassStepRequest> {
        self.server.request(v1::ClassStepRequest {
            name: self.name.to_string(),
            reason: self.reason.clone(),
            version: self.at_version,
        })
    }
}

/// Tells where a class stands after it was written.
fn told(
    answer: Result<Response<v1::AgentClass>, Status>,
    what: &str,
    output: Output,
) -> Result<(), Failure> {
    let class = answer
        .map_err(|status| Failure::of_call(what, &status))?
        .into_inner();
    output.answer(
        || shape::class(&class),
        || {
            format!(
                "Class {} is {}, version {}.\n",
                class.name, class.lifecycle, class.version
            )
        },
    )
}

async fn get(server: &ServerArgs, name: &ClassName) -> Result<v1::AgentClass, Failure> {
    let request = server.request(v1::GetClassRequest {
        name: name.to_string(),
    });
    client(server)
        .await?
        .get_class(request)
        .await
        .map(Response::into_inner)
        .map_err(|status| Failure::of_call(&format!("find the class {name}"), &status))
}

/// Has a class active: proposes and approves it. One of that name that is there already is left as
/// it is; if it cannot be active, that is an error.
pub(crate) async fn ensure_active(
    server: &ServerArgs,
    name: &ClassName,
    spec: v1::ClassSpec,
) -> Result<v1::AgentClass, Failure> {
    let mut client = client(server).await?;
    let request = server.request(v1::CreateClassRequest {
        name: name.to_string(),
        spec: Some(spec),
        reason: String::new(),
    });
    let class = match client.create_class(request).await {
        Ok(class) => class.into_inner(),
        Err(status) if status.code() == Code::AlreadyExists => get(server, name).await?,
        Err(status) => return Err(Failure::of_call("propose the class", &status)),
    };
    match class.lifecycle.as_str() {
        "active" => Ok(class),
        "proposed" => {
            let request = server.request(v1::ClassStepRequest {
                name: name.to_string(),
                ..v1::ClassStepRequest::default()
            });
            let approved = client.approve_class(request).await;
            approved
                .map(Response::into_inner)
                .map_err(|status| Failure::of_call("approve the class", &status))
        }
        other => Err(Failure::failed(format!(
            "agent class {name} is {other}, so it has no tasks; `muster agent class show {name}` \
             says why"
        ))),
    }
}

async fn update(update: &Update, output: Output) -> Result<(), Failure> {
    // Lists and groups of settings that flags change in part are sent whole.
    let current = get(&update.server, &update.name).await?;
    let request = update.server.request(update.request(&current)?);
    let answer = client(&update.server).await?.update_class(request).await;
    told(answer, "update the class", output)
}

async fn list(list: &List, output: Output) -> Result<(), Failure> {
    let mut client = client(&list.server).await?;
    let mut classes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListClassesRequest {
            lifecycles: list.lifecycle.iter().map(ToString::to_string).collect(),
            person: list
                .person
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            team: list
                .team
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            purpose: list
                .purpose
                .map(|purpose| purpose.to_string())
                .unwrap_or_default(),
            review_before: list.review_before.map(|when| when.from(view::now())),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .list_classes(list.server.request(request))
            .await
            .map_err(|status| Failure::of_call("list the classes", &status))?
            .into_inner();
        classes.extend(page.classes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.answer(
        || json!({ "classes": classes.iter().map(shape::class).collect::<Value>() }),
        || view::classes(&classes, output, view::now()),
    )
}
