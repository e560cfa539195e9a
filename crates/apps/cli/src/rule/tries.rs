//! `muster rule try`: what a rule would make of a process.

use std::path::PathBuf;

use clap::Args;
use muster_model::{BootId, Facts, ProcessMark, RuleName, Selector, SpiffeId};
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::admin::v1 as admin;
use muster_wire::rule;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{client, failure, on_node, view};
use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::ServerArgs;

#[derive(Args, Debug)]
pub(crate) struct Try {
    /// Name of the rule; of one that is not written yet any, or none
    #[arg(value_name = "RULE")]
    name: Option<RuleName>,
    /// The node on which the process would run
    #[arg(long, value_name = "ID")]
    node: Option<SpiffeId>,
    /// What the process is attested as; repeatable
    #[arg(
        long = "fact",
        value_name = "TYPE:VALUE",
        required_unless_present = "node_socket"
    )]
    facts: Vec<Selector>,
    /// Number of the process, for templates with {instance}
    #[arg(long, value_name = "PID", requires_all = ["start_time", "boot"])]
    pid: Option<u32>,
    /// Start of the process in clock ticks since boot
    #[arg(long, value_name = "TICKS", requires_all = ["pid", "boot"])]
    start_time: Option<u64>,
    /// Boot of the node, as /proc/sys/kernel/random/boot_id has it
    #[arg(long, value_name = "UUID", value_parser = BootId::parse, requires_all = ["pid", "start_time"])]
    boot: Option<BootId>,
    /// Try it on the processes that run now on the node with this admin socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["facts", "node", "pid"])]
    node_socket: Option<PathBuf>,
    /// Only on this process of that node; repeatable
    #[arg(long = "process", value_name = "PID", requires = "node_socket")]
    processes: Vec<i32>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    server: ServerArgs,
}

impl Try {
    fn facts(&self) -> Facts {
        Facts {
            selectors: self.facts.iter().cloned().collect(),
            process: match (self.boot, self.pid, self.start_time) {
                (Some(boot), Some(pid), Some(start_time)) => Some(ProcessMark {
                    boot,
                    pid,
                    start_time,
                }),
                _ => None,
            },
        }
    }
}

pub(super) async fn run(wanted: &Try, output: Output) -> Result<(), Failure> {
    let text = |id: Option<&dyn ToString>| id.map(ToString::to_string).unwrap_or_default();
    if let Some(socket) = &wanted.node_socket {
        let request = admin::TryRuleRequest {
            name: text(wanted.name.as_ref().map(|name| name as &dyn ToString)),
            spec: (!wanted.fields.is_empty()).then(|| wanted.fields.spec()),
            pids: wanted.processes.clone(),
            limit: 0,
        };
        return on_node::run(socket, request, output).await;
    }
    let request = v1::TryRuleRequest {
        name: text(wanted.name.as_ref().map(|name| name as &dyn ToString)),
        spec: (!wanted.fields.is_empty()).then(|| wanted.fields.spec()),
        node_id: text(wanted.node.as_ref().map(|id| id as &dyn ToString)),
        facts: vec![rule::write_facts(&wanted.facts())],
    };
    let request = wanted.server.request(request);
    let answer = client(&wanted.server).await?.try_rule(request).await;
    let answer = answer
        .map_err(|status| failure("try the rule", wanted.fields.template(), &status))?
        .into_inner();
    output.answer(
        || {
            json!({
                "rule": answer.rule.as_ref().map(view::to_json),
                "seen_by_node": answer.seen_by_node,
                "results": answer.results.iter().map(to_json).collect::<Value>(),
            })
        },
        || {
            let mut lines: Vec<String> = answer.results.iter().map(line).collect();
            if answer.seen_by_node == Some(false) {
                lines.push("The node does not see the rule: it stands under none of its names, or a class keeps it back.".into());
            }
            lines.join("\n") + "\n"
        },
    )
}

pub(super) fn to_json(tried: &v1::Tried) -> Value {
    json!({ "spiffe_id": tried.spiffe_id, "reason": tried.reason, "why": tried.why })
}

pub(super) fn line(tried: &v1::Tried) -> String {
    match (tried.spiffe_id.as_str(), tried.reason.as_str()) {
        (name, "") => name.to_owned(),
        ("", reason) => format!("No name ({reason}): {}.", tried.why),
        (name, reason) => format!("Not {name} ({reason}): {}.", tried.why),
    }
}
