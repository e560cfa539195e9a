//! `muster agent tree`: who answers, which agents run, their tasks and those that are part of them,
//! and what each holds until when.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use muster_model::{ClassName, SpiffeId, TaskId, Timestamp};
use muster_proto::muster::agent::v1::{
    AgentClass, AgentInstance, GetClassRequest, GetInstanceRequest, ListInstancesRequest,
    ListLedgerRequest, Task,
};
use muster_proto::muster::server::admin::v1::audit_client::AuditClient;
use muster_proto::muster::server::admin::v1::{Held, ListHeldRequest};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use super::{shape, task};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs};
use crate::time::{now, with_distance};

#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// An agent class, the identity of an agent, or the ULID of a task
    #[arg(value_name = "CLASS|SPIFFE-ID|ULID", value_parser = whom)]
    id: Whom,
    /// Also tasks that have ended, until the server forgets them
    #[arg(long)]
    ended: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Whose tree.
#[derive(Clone, Debug)]
enum Whom {
    Class(ClassName),
    Agent(SpiffeId),
    Task(TaskId),
}

fn whom(text: &str) -> Result<Whom, String> {
    if text.starts_with("spiffe://") {
        let id = SpiffeId::parse(text).map_err(|why| why.to_string())?;
        // The identity of a task is as good as its ULID.
        let task = id
            .path()
            .rsplit_once("/t/")
            .map(|(_, task)| TaskId::parse(task));
        return Ok(match task {
            Some(Ok(task)) => Whom::Task(task),
            Some(Err(_)) | None => Whom::Agent(id),
        });
    }
    if let Ok(task) = TaskId::parse(text) {
        return Ok(Whom::Task(task));
    }
    ClassName::parse(text)
        .map(Whom::Class)
        .map_err(|why| format!("it is none of an agent class, a SPIFFE ID and a ULID: {why}"))
}

/// What a tree is drawn of.
struct Grown {
    class: Option<AgentClass>,
    /// By identity; one that is not on the roll, but whose tasks are, has no row.
    agents: BTreeMap<String, Option<AgentInstance>>,
    /// By the task that they are part of, or else by their agent.
    tasks: BTreeMap<String, Vec<Task>>,
    /// By identity.
    held: BTreeMap<String, Vec<Held>>,
    incomplete: bool,
}

impl Tree {
    pub(crate) async fn run(&self, output: Output) -> Result<(), Failure> {
        let channel = self.server.connect().await?;
        let grown = self.grow(&channel).await?;
        if grown.incomplete {
            output::note(
                "muster: the server does not remember all that was issued; what is not shown may \
                 be held all the same",
            );
        }
        output.answer(|| grown.value(), || grown.draw(output, now()))
    }

    async fn grow(&self, channel: &Channel) -> Result<Grown, Failure> {
        let mut ledger = task::client(channel.clone());
        let mut wanted = ListLedgerRequest::default();
        if !self.ended {
            wanted.states = task::LIVE.map(str::to_owned).to_vec();
        }
        let (class, agent, only) = match &self.id {
            Whom::Class(name) => (name.to_string(), None, None),
            Whom::Agent(id) => {
                let class = self.instance(channel, id.as_str()).await?;
                let class = class.map(|agent| agent.class).unwrap_or_default();
                (class, Some(id.to_string()), None)
            }
            Whom::Task(id) => {
                let task = task::find(&mut ledger, &self.server, *id).await?;
                (task.class.clone(), Some(task.agent.clone()), Some(task))
            }
        };
        match &agent {
            Some(id) => wanted.agent.clone_from(id),
            None => wanted.class.clone_from(&class),
        }
        let mut tasks = task::all(&mut ledger, &self.server, wanted).await?;
        if let Some(top) = only {
            tasks.retain(|task| task.id != top.id);
            tasks = below(top, tasks);
        }
        let mut agents = BTreeMap::new();
        match &agent {
            Some(id) => {
                agents.insert(id.clone(), self.instance(channel, id).await?);
            }
            None => {
                for one in self.instances(channel, &class).await? {
                    agents.insert(one.spiffe_id.clone(), Some(one));
                }
            }
        }
        for task in &tasks {
            agents.entry(task.agent.clone()).or_default();
        }
        let (held, incomplete) = self
            .held(channel, agent.as_deref().unwrap_or(&class))
            .await?;
        if let (Some(id), true) = (&agent, tasks.is_empty())
            && agents.get(id).is_none_or(Option::is_none)
            && !held.contains_key(id)
        {
            return Err(Failure::new(
                crate::failure::Exit::NotFound,
                format!("the server knows no agent {id}, no task of it and nothing that it holds"),
            ));
        }
        Ok(Grown {
            class: self.class(channel, &class).await?,
            agents,
            tasks: by_parent(tasks),
            held,
            incomplete,
        })
    }

    async fn class(&self, channel: &Channel, name: &str) -> Result<Option<AgentClass>, Failure> {
        if name.is_empty() {
            return Ok(None);
        }
        let request = GetClassRequest { name: name.into() };
        let answer = super::registry(channel.clone())
            .get_class(self.server.request(request))
            .await
            .map_err(|status| Failure::of_call(&format!("find the class {name}"), &status))?;
        Ok(Some(answer.into_inner()))
    }

    async fn instance(
        &self,
        channel: &Channel,
        id: &str,
    ) -> Result<Option<AgentInstance>, Failure> {
        let request = GetInstanceRequest {
            spiffe_id: id.into(),
        };
        let answer = super::registry(channel.clone())
            .get_instance(self.server.request(request))
            .await;
        match answer {
            Ok(agent) => Ok(Some(agent.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Failure::of_call(&format!("find the agent {id}"), &status)),
        }
    }

    async fn instances(
        &self,
        channel: &Channel,
        class: &str,
    ) -> Result<Vec<AgentInstance>, Failure> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListInstancesRequest {
                class: class.into(),
                page_size: PAGE,
                page_token,
                ..ListInstancesRequest::default()
            };
            let page = super::registry(channel.clone())
                .list_instances(self.server.request(request))
                .await
                .map_err(|status| Failure::of_call("list the agents", &status))?
                .into_inner();
            found.extend(page.instances);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn held(
        &self,
        channel: &Channel,
        agent: &str,
    ) -> Result<(BTreeMap<String, Vec<Held>>, bool), Failure> {
        let mut client = AuditClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
        let mut incomplete = false;
        let mut page_token = String::new();
        loop {
            let request = ListHeldRequest {
                agent: agent.into(),
                page_size: PAGE,
                page_token,
            };
            let page = client
                .list_held(self.server.request(request))
                .await
                .map_err(|status| Failure::of_call("ask what agents hold", &status))?
                .into_inner();
            incomplete |= page.incomplete;
            for one in page.held {
                held.entry(one.spiffe_id.clone()).or_default().push(one);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok((held, incomplete));
            }
        }
    }
}

/// A task, and those of `others` that are part of it, at any depth.
fn below(top: Task, others: Vec<Task>) -> Vec<Task> {
    let mut found = vec![top];
    // By ascending ID, so that a task comes after the one that it is part of.
    for task in others {
        if found.iter().any(|above| above.id == task.parent) {
            found.push(task);
        }
    }
    found
}

/// Tasks by what they hang below: the task that they are part of, where it is drawn, or their agent.
fn by_parent(tasks: Vec<Task>) -> BTreeMap<String, Vec<Task>> {
    let ids: std::collections::BTreeSet<String> =
        tasks.iter().map(|task| task.id.clone()).collect();
    let mut out: BTreeMap<String, Vec<Task>> = BTreeMap::new();
    for task in tasks {
        let above = if ids.contains(&task.parent) {
            task.parent.clone()
        } else {
            task.agent.clone()
        };
        out.entry(above).or_default().push(task);
    }
    out
}

impl Grown {
    fn held(&self, id: &str) -> &[Held] {
        self.held.get(id).map_or(&[], Vec::as_slice)
    }

    fn below(&self, id: &str) -> &[Task] {
        self.tasks.get(id).map_or(&[], Vec::as_slice)
    }

    fn value(&self) -> Value {
        let agents: Value = self
            .agents
            .iter()
            .map(|(id, row)| {
                json!({
                    "spiffe_id": id,
                    "agent": row.as_ref().map_or(Value::Null, shape::agent),
                    "holds": self.held(id).iter().map(held).collect::<Value>(),
                    "tasks": self.tasks_value(id),
                })
            })
            .collect();
        json!({
            "class": self.class.as_ref().map_or(Value::Null, shape::class),
            "agents": agents,
            "incomplete": self.incomplete,
        })
    }

    fn tasks_value(&self, id: &str) -> Value {
        self.below(id)
            .iter()
            .map(|task| {
                json!({
                    "task": crate::task::shape::task(task),
                    "holds": self.held(&task.spiffe_id).iter().map(held).collect::<Value>(),
                    "tasks": self.tasks_value(&task.id),
                })
            })
            .collect()
    }

    fn draw(&self, output: Output, now: Timestamp) -> String {
        let mut text = String::new();
        if let Some(class) = &self.class {
            let spec = class.spec.clone().unwrap_or_default();
            text = format!(
                "{}  answers for class {}, {}; sponsor {}\n",
                output.bold(&spec.owner),
                output.bold(&class.name),
                class.lifecycle,
                spec.sponsor
            );
        }
        let mut drawn = String::new();
        for (place, (id, row)) in self.agents.iter().enumerate() {
            let last = place + 1 == self.agents.len();
            let state = row
                .as_ref()
                .map_or("not on the roll", |row| row.state.as_str());
            let node = row.as_ref().map_or("", |row| row.node_id.as_str());
            let on = if node.is_empty() {
                String::new()
            } else {
                format!("  on {node}")
            };
            let line = format!("{}  {state}{on}", output.bold(id));
            self.branch(&mut drawn, (&line, id, id), ("", last), now);
        }
        if self.agents.is_empty() {
            drawn.push_str("`-- no agent was seen yet\n");
        }
        text + &drawn
    }

    /// One line, what it holds, and what hangs below it; `key` is what its tasks hang below.
    fn branch(
        &self,
        out: &mut String,
        (line, id, key): (&str, &str, &str),
        (indent, last): (&str, bool),
        now: Timestamp,
    ) {
        let (knot, on) = if last {
            ("`-- ", "    ")
        } else {
            ("|-- ", "|   ")
        };
        let deeper = format!("{indent}{on}");
        let tasks = self.below(key);
        let bar = if tasks.is_empty() { "    " } else { "|   " };
        // Writing to a text cannot fail.
        let _written = writeln!(out, "{indent}{knot}{line}").is_ok();
        for one in self.held(id) {
            let until = with_distance(one.expires_at, now);
            let _written = writeln!(out, "{deeper}{bar}holds {} until {until}", one.kind).is_ok();
        }
        for (place, task) in tasks.iter().enumerate() {
            let last = place + 1 == tasks.len();
            let line = task_line(task, now);
            let below = (line.as_str(), task.spiffe_id.as_str(), task.id.as_str());
            self.branch(out, below, (&deeper, last), now);
        }
    }
}

fn task_line(task: &Task, now: Timestamp) -> String {
    let seconds = |at: Option<&prost_types::Timestamp>| at.map_or(0, |at| at.seconds);
    let end = if task.ended_at.is_some() {
        format!(
            "{} {}",
            task.cause,
            with_distance(seconds(task.ended_at.as_ref()), now)
        )
    } else {
        format!(
            "until {}",
            with_distance(seconds(task.deadline.as_ref()), now)
        )
    };
    let mut said = format!("task {} {} {}, {end}", task.id, task.kind, task.state);
    if let Some(budget) = task.budget {
        let _written = write!(said, ", {} of {budget} spent", task.spent).is_ok();
    }
    let permissions = task.permissions.clone().unwrap_or_default();
    if !permissions.scopes.is_empty() {
        let _written = write!(said, ", may {}", permissions.scopes.join(" ")).is_ok();
    }
    said
}

fn held(held: &Held) -> Value {
    json!({
        "kind": held.kind,
        "issued_at": held.issued_at,
        "expires_at": held.expires_at,
        "node_id": held.node_id,
        "name": held.name,
        "sequence": held.sequence,
    })
}

#[cfg(test)]
mod tests {
    use muster_proto::muster::agent::v1::{ClassSpec, Permissions};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_767_225_000);
    const FIRST: &str = "01JDQ8Z0000000000000000000";
    const SECOND: &str = "01JDQ8Z0000000000000000001";
    const THIRD: &str = "01JDQ8Z0000000000000000002";
    const AGENT: &str = "spiffe://td/agent/reader/1";

    fn task(id: &str, parent: &str) -> Task {
        Task {
            id: id.into(),
            spiffe_id: format!("{AGENT}/t/{id}"),
            agent: AGENT.into(),
            class: "reader".into(),
            parent: parent.into(),
            kind: "code.review".into(),
            permissions: Some(Permissions {
                scopes: vec!["repo.read".into()],
                resources: Vec::new(),
            }),
            budget: Some(10),
            spent: 3,
            state: "open".into(),
            deadline: Some(prost_types::Timestamp {
                seconds: 1_767_225_600,
                nanos: 0,
            }),
            ..Task::default()
        }
    }

    fn held(id: &str) -> (String, Vec<Held>) {
        let one = Held {
            spiffe_id: id.into(),
            kind: "x509".into(),
            expires_at: 1_767_225_300,
            ..Held::default()
        };
        (id.into(), vec![one])
    }

    fn grown() -> Grown {
        let class = AgentClass {
            name: "reader".into(),
            spec: Some(ClassSpec {
                owner: "mailto:olga@example.org".into(),
                sponsor: "mailto:sam@example.org".into(),
                ..ClassSpec::default()
            }),
            lifecycle: "active".into(),
            ..AgentClass::default()
        };
        let row = AgentInstance {
            spiffe_id: AGENT.into(),
            class: "reader".into(),
            state: "active".into(),
            node_id: "spiffe://td/spire/agent/join_token/n".into(),
            ..AgentInstance::default()
        };
        let tasks = vec![task(FIRST, ""), task(SECOND, FIRST), task(THIRD, "")];
        Grown {
            class: Some(class),
            agents: BTreeMap::from([
                (AGENT.to_owned(), Some(row)),
                ("spiffe://td/agent/reader/2".to_owned(), None),
            ]),
            tasks: by_parent(tasks),
            held: BTreeMap::from([held(AGENT), held(&format!("{AGENT}/t/{SECOND}"))]),
            incomplete: false,
        }
    }

    #[test]
    fn the_tree_is_drawn() {
        insta::assert_snapshot!(grown().draw(Output::new(true), NOW));
        let value = grown().value();
        let below = &value["agents"][0]["tasks"][0]["tasks"][0];
        assert_eq!(below["task"]["id"], SECOND);
        assert_eq!(below["holds"][0]["kind"], "x509");
    }

    #[test]
    fn a_tree_begins_at_any_task() {
        let others = vec![task(SECOND, FIRST), task(THIRD, SECOND)];
        let found = below(task(FIRST, ""), others);
        assert_eq!(found.len(), 3);
        let found = below(
            task(THIRD, SECOND),
            vec![task(FIRST, ""), task(SECOND, FIRST)],
        );
        assert_eq!(found.len(), 1);
        assert_eq!(by_parent(found)[AGENT].len(), 1);
    }

    #[test]
    fn what_is_named_is_told_apart() {
        assert!(matches!(whom("reader"), Ok(Whom::Class(_))));
        assert!(matches!(whom(AGENT), Ok(Whom::Agent(_))));
        assert!(matches!(whom(FIRST), Ok(Whom::Task(_))));
        assert!(matches!(
            whom(&format!("{AGENT}/t/{FIRST}")),
            Ok(Whom::Task(_))
        ));
        assert!(whom("No Class").is_err());
    }
}
