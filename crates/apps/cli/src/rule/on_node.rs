//! `muster rule try --node-socket`: what a rule would make of the processes that run on a node now.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use serde_json::{Value, json};
use tonic::{Request, Response};

use super::{failure, tries, view};
use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::MAX_MESSAGE;

/// How long to wait for an answer: every process of a host may have to be attested.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) async fn run(
    socket: &Path,
    message: admin::TryRuleRequest,
    output: Output,
) -> Result<(), Failure> {
    let channel = muster_peer::connect(socket)
        .await
        .map_err(|error| Failure::of_connect(&error, "muster-node", "--node-socket"))?;
    let mut client = NodeAdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let template = message.spec.as_ref().map(|spec| spec.template.clone());
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    let answer = client.try_rule(request).await.map(Response::into_inner);
    let answer =
        answer.map_err(|status| failure("try the rule", &template.unwrap_or_default(), &status))?;
    output.answer(|| to_json(&answer), || text(&answer, output))
}

fn to_json(answer: &admin::TryRuleResponse) -> Value {
    let processes = answer.processes.iter().map(|process| {
        json!({
            "pid": process.pid,
            "uid": process.uid,
            "executable": process.executable,
            "result": process.result.as_ref().map(tries::to_json),
        })
    });
    json!({
        "rule": answer.rule.as_ref().map(view::to_json),
        "processes": processes.collect::<Value>(),
        "tried": answer.tried,
        "named": answer.named,
        "not_attested": answer.not_attested,
        "in_step": answer.in_step,
    })
}

fn text(answer: &admin::TryRuleResponse, output: Output) -> String {
    let rows: Vec<_> = answer
        .processes
        .iter()
        .map(|process| {
            vec![
                process.pid.to_string(),
                process.executable.clone(),
                process.result.as_ref().map(tries::line).unwrap_or_default(),
            ]
        })
        .collect();
    let mut text = output.table(
        &["PID", "EXECUTABLE", "NAME"],
        &rows,
        "The rule names no process that runs on the node now.",
    );
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "Tried on {} processes, of which it names {}; {} were not attested.",
        answer.tried, answer.named, answer.not_attested
    );
    if !answer.in_step {
        text.push_str("The node is not in step with its server: it may know too little.\n");
    }
    text
}
