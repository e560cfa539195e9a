//! `muster agent sightings`: what looks like an agent on the nodes, and how to register it.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use muster_model::{Heir, SightingKey, SightingKind, SightingState, SpiffeId, Timestamp};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::sightings_client::SightingsClient;
use muster_rt::{Clock, SystemClock};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::output::{Output, counted};
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs, selector_texts};
use crate::time::{parse_instant, rfc3339, with_distance};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Sightings {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only those without an identity, with one of a wrong class, or started for a provider that the
    /// class does not allow
    #[arg(long)]
    unregistered: bool,
    /// Only those on this node
    #[arg(long, value_name = "ID")]
    node: Option<SpiffeId>,
    /// Only of this kind: cli, framework, sdk, mcp_server, mcp_client, a2a; repeatable
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<SightingKind>,
    /// Only in this state: new, acknowledged, registered, gone; repeatable; all but gone by default
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<SightingState>,
    /// Only what was first seen then or later: RFC 3339, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    since: Option<i64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Note that a sighting is known, and why it is left as it is
    Acknowledge(Acknowledge),
}

#[derive(Args, Debug)]
struct Acknowledge {
    /// Key of the sighting
    #[arg(value_name = "KEY")]
    key: SightingKey,
    /// The node that found it
    #[arg(long, value_name = "ID")]
    node: SpiffeId,
    /// Why it is left as it is, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    server: ServerArgs,
}

fn kind(word: &str) -> Result<SightingKind, String> {
    SightingKind::from_word(word).ok_or_else(|| format!("it is one of: {}", SightingKind::WORDS))
}

fn state(word: &str) -> Result<SightingState, String> {
    SightingState::from_word(word).ok_or_else(|| format!("it is one of: {}", SightingState::WORDS))
}

pub(super) async fn run(sightings: &Sightings, output: Output) -> Result<(), Failure> {
    match &sightings.command {
        None => list(sightings, output).await,
        Some(Command::Acknowledge(known)) => acknowledge(known, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<SightingsClient<Channel>, Failure> {
    Ok(SightingsClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

async fn list(wanted: &Sightings, output: Output) -> Result<(), Failure> {
    let mut client = client(&wanted.server).await?;
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSightingsRequest {
            unregistered: wanted.unregistered,
            node_id: wanted
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            kinds: wanted.kind.iter().map(ToString::to_string).collect(),
            states: wanted.state.iter().map(ToString::to_string).collect(),
            since: wanted
                .since
                .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .list_sightings(wanted.server.request(request))
            .await
            .map_err(|status| Failure::of_call("list the sightings", &status))?
            .into_inner();
        found.extend(page.sightings);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let now = SystemClock::new().now().wall;
    output.answer(
        || json!({ "sightings": found.iter().map(to_json).collect::<Value>() }),
        || {
            if found.is_empty() {
                return "Nothing that looks like an agent.\n".to_owned();
            }
            let blocks: Vec<String> = found.iter().map(|one| text(one, output, now)).collect();
            blocks.join("\n")
        },
    )
}

async fn acknowledge(known: &Acknowledge, output: Output) -> Result<(), Failure> {
    let request = known.server.request(v1::AcknowledgeSightingRequest {
        node_id: known.node.to_string(),
        key: known.key.to_string(),
        reason: known.reason.clone(),
    });
    let row = client(&known.server)
        .await?
        .acknowledge_sighting(request)
        .await
        .map_err(|status| Failure::of_call("acknowledge the sighting", &status))?
        .into_inner();
    output.answer(
        || to_json(&row),
        || format!("Sighting {} is {}.\n", known.key, row.state),
    )
}

/// The command that gives a sighting an identity: exact, so that it can be pasted into a shell.
fn command(register: &v1::Registration) -> String {
    let mut words = vec![
        "muster".to_owned(),
        "entry".to_owned(),
        "create".to_owned(),
        "--parent-id".to_owned(),
        quoted(&register.parent_id),
        "--spiffe-id".to_owned(),
        quoted(&register.spiffe_id),
    ];
    for selector in selector_texts(&register.selectors) {
        words.push("--selector".to_owned());
        words.push(quoted(&selector));
    }
    words.join(" ")
}

/// A word as a POSIX shell takes it for itself.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn text(row: &v1::Sighting, output: Output, now: Timestamp) -> String {
    let mut fields = seen(&row.seen.clone().unwrap_or_default(), now);
    let expected = match row.expected_class.as_str() {
        "" => String::new(),
        class => format!(", expected of class {class}"),
    };
    let acknowledged = match row.acknowledged_by.as_str() {
        "" => String::new(),
        by => format!(
            "{}, by {by}: {}",
            with_distance(seconds(row.acknowledged_at), now),
            row.reason
        ),
    };
    fields.extend([
        ("Where", row.node_id.clone()),
        ("First seen", with_distance(seconds(row.first_seen), now)),
        (
            "Gone",
            row.gone_at
                .map(|at| with_distance(at.seconds, now))
                .unwrap_or_default(),
        ),
        (
            "State",
            format!("{}, {}{expected}", row.state, row.standing),
        ),
        ("Not allowed", row.providers_not_allowed.join(", ")),
        ("Acknowledged", acknowledged),
    ]);
    if let Some(register) = &row.register {
        fields.push(("Register", command(register)));
        fields.push(("But", register.caution.clone()));
    }
    output.fields(&fields)
}

/// What a node tells, in lines.
pub(crate) fn seen(seen: &v1::Sighted, now: Timestamp) -> Vec<(&'static str, String)> {
    let evidence: Vec<String> = seen
        .evidence
        .iter()
        .map(|one| format!("{} {}", one.clue, one.rule))
        .collect();
    let started_by: Vec<String> = seen.started_by.iter().map(starter).collect();
    let numbers = |list: &[u32]| {
        list.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let user = match seen.user.as_str() {
        "" => format!("uid {}", seen.uid),
        user => format!("{user} (uid {})", seen.uid),
    };
    vec![
        ("Sighting", seen.key.clone()),
        (
            "Looks like",
            format!("{} ({}), {}", seen.product, seen.kind, seen.confidence),
        ),
        ("And like", seen.also.join(", ")),
        ("Because of", evidence.join(", ")),
        ("Who", user),
        ("Executable", seen.executable.clone()),
        ("Arguments", seen.shape.clone()),
        ("Unit", seen.unit.clone()),
        ("Started by", started_by.join(" < ")),
        ("Listens on", numbers(&seen.ports)),
        ("Providers", seen.providers.join(", ")),
        (
            "Processes",
            format!("{} ({})", seen.count, numbers(&seen.pids)),
        ),
        ("Since", with_distance(seconds(seen.started), now)),
        ("Identities", seen.identities.join(", ")),
        ("Hands down", handed_down(&seen.inherited)),
    ]
}

/// Which secrets what it started has as well, and what that is: by variable.
fn handed_down(inherited: &[v1::Inherited]) -> String {
    let mut by_variable: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in inherited {
        let (name, plural) = match Heir::from_word(&one.by) {
            Some(Heir::Shell) => ("shell", "shells"),
            Some(Heir::McpServer) => ("MCP server", "MCP servers"),
            Some(Heir::Tool) => ("other program", "other programs"),
            None => (one.by.as_str(), one.by.as_str()),
        };
        let count = usize::try_from(one.count).unwrap_or(usize::MAX);
        let to = by_variable.entry(&one.variable).or_default();
        to.push(counted(count, name, plural));
    }
    let of_one = |(variable, to): (&str, Vec<String>)| format!("{variable} to {}", to.join(", "));
    let all: Vec<String> = by_variable.into_iter().map(of_one).collect();
    all.join("; ")
}

fn starter(starter: &v1::Starter) -> String {
    let name = if starter.executable.is_empty() {
        "?"
    } else {
        &starter.executable
    };
    match starter.login.filter(|login| *login != starter.uid) {
        Some(login) => format!("{name} (uid {}, login {login})", starter.uid),
        None => format!("{name} (uid {})", starter.uid),
    }
}

fn to_json(row: &v1::Sighting) -> Value {
    let time = |at: Option<prost_types::Timestamp>| at.map(|at| rfc3339(at.seconds));
    json!({
        "node_id": row.node_id,
        "state": row.state,
        "standing": row.standing,
        "classes": row.classes,
        "expected_class": row.expected_class,
        "providers_not_allowed": row.providers_not_allowed,
        "first_seen": time(row.first_seen),
        "last_seen": time(row.last_seen),
        "gone_at": time(row.gone_at),
        "acknowledged_by": row.acknowledged_by,
        "reason": row.reason,
        "seen": seen_json(&row.seen.clone().unwrap_or_default()),
        "register": row.register.as_ref().map(|register| json!({
            "command": command(register),
            "parent_id": register.parent_id,
            "spiffe_id": register.spiffe_id,
            "selectors": selector_texts(&register.selectors),
            "class": register.class,
            "caution": register.caution,
        })),
    })
}

/// What a node tells, for programs.
pub(crate) fn seen_json(seen: &v1::Sighted) -> Value {
    json!({
        "key": seen.key,
        "product": seen.product,
        "kind": seen.kind,
        "confidence": seen.confidence,
        "also": seen.also,
        "evidence": seen.evidence.iter().map(|one| json!({ "clue": one.clue, "rule": one.rule })).collect::<Value>(),
        "executable": seen.executable,
        "shape": seen.shape,
        "uid": seen.uid,
        "user": seen.user,
        "unit": seen.unit,
        "started_by": seen.started_by.iter().map(|one| json!({
            "executable": one.executable, "uid": one.uid, "login": one.login,
        })).collect::<Value>(),
        "ports": seen.ports,
        "providers": seen.providers,
        "count": seen.count,
        "pids": seen.pids,
        "started": seen.started.map(|at| rfc3339(at.seconds)),
        "facts": selector_texts(&seen.facts),
        "identities": seen.identities,
        "inherited": seen.inherited.iter().map(|one| json!({
            "variable": one.variable, "by": one.by, "count": one.count,
        })).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted() {
        for (word, shown) in [
            ("unix:uid:0", "unix:uid:0"),
            ("unix:path:/opt/my agent", "'unix:path:/opt/my agent'"),
            ("a'b", r"'a'\''b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }
}
