//! `muster node sightings`: what looks like an agent on this host.

use clap::Args;
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::node_sightings_client::NodeSightingsClient;
use muster_rt::{Clock, SystemClock};
use serde_json::{Value, json};
use tonic::Request;

use super::local::NodeArgs;
use crate::agent::sightings::{seen, seen_json};
use crate::failure::Failure;
use crate::output::{Output, counted};
use crate::server_api::MAX_MESSAGE;
use crate::time::{rfc3339, with_distance};

/// How long to wait: a sweep pauses, so as to be in nobody's way.
const TIMEOUT: std::time::Duration = std::time::Duration::from_mins(1);

#[derive(Args, Debug)]
pub(crate) struct Sightings {
    /// Look now, and tell the server what is new
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    local: NodeArgs,
}

pub(super) async fn run(wanted: &Sightings, output: Output) -> Result<(), Failure> {
    let channel = wanted.local.channel().await?;
    let mut client = NodeSightingsClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut request = Request::new(admin::ListLocalSightingsRequest { now: wanted.now });
    request.set_timeout(TIMEOUT);
    let answer = client
        .list_local_sightings(request)
        .await
        .map_err(|status| Failure::of_call("ask the node what it sees", &status))?
        .into_inner();
    output.answer(|| to_json(&answer), || text(&answer, output))
}

fn text(answer: &admin::ListLocalSightingsResponse, output: Output) -> String {
    let now = SystemClock::new().now().wall;
    let Some(swept_at) = answer.swept_at else {
        return "The node has not looked yet; `muster node sightings --now` has it look.\n".into();
    };
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut text = output.fields(&[
        ("Looked", with_distance(swept_at.seconds, now)),
        (
            "At",
            format!(
                "{}, {} of them new",
                counted(count(answer.processes), "process", "processes"),
                answer.looked_at
            ),
        ),
        (
            "Server knows",
            if answer.reported { "yes" } else { "no" }.to_owned(),
        ),
    ]);
    for one in &answer.sightings {
        text.push('\n');
        let mut fields = seen(&one.seen.clone().unwrap_or_default(), now);
        fields.push(("Standing", one.standing.clone()));
        text.push_str(&output.fields(&fields));
    }
    text
}

fn to_json(answer: &admin::ListLocalSightingsResponse) -> Value {
    let worked = answer.worked.unwrap_or_default();
    json!({
        "sightings": answer.sightings.iter().map(|one| json!({
            "standing": one.standing,
            "seen": seen_json(&one.seen.clone().unwrap_or_default()),
        })).collect::<Value>(),
        "swept_at": answer.swept_at.map(|at| rfc3339(at.seconds)),
        "processes": answer.processes,
        "looked_at": answer.looked_at,
        "worked_ms": worked.seconds.saturating_mul(1000).saturating_add(i64::from(worked.nanos / 1_000_000)),
        "left_out": answer.left_out,
        "reported": answer.reported,
    })
}
