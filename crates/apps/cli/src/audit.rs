//! `muster audit`: what was done in the trust domain, and what is being done.

use clap::{Args, Subcommand, ValueEnum};
use muster_model::{SpiffeId, TaskId, Timestamp};
use muster_proto::muster::server::admin::v1::audit_client::AuditClient;
use muster_proto::muster::server::admin::v1::tail_response::Told;
use muster_proto::muster::server::admin::v1::{
    ListRecordsRequest, NumberedRecord, RecordFilter, TailRequest, TailResponse,
};
use muster_rt::duration;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::server_api::{MAX_MESSAGE, ServerArgs};
use crate::task::task_id;
use crate::time::{now, parse_instant};

/// The most records that the server puts in one answer.
const PAGE: u32 = 1000;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the last records of the audit log, and follow it
    Tail(Tail),
}

#[derive(Args, Debug)]
pub(crate) struct Tail {
    /// Only what has to do with this agent, or with agents of this class
    #[arg(long, value_name = "SPIFFE-ID|CLASS", help_heading = "Filter")]
    agent: Option<String>,
    /// Only what has to do with this task, or with one that is part of it
    #[arg(long, value_name = "ULID", value_parser = task_id, help_heading = "Filter")]
    task: Option<TaskId>,
    /// Only what was allowed, or what was refused
    #[arg(long, value_name = "DECISION", help_heading = "Filter")]
    decision: Option<Decision>,
    /// Only events of this name, or that begin so: "svid" is all that begin with "svid."
    #[arg(long, value_name = "NAME", help_heading = "Filter")]
    event: Option<String>,
    /// Only what this node did, and what was done to it or on it
    #[arg(long, value_name = "SPIFFE-ID", help_heading = "Filter")]
    node: Option<SpiffeId>,
    /// Only what happened since: a duration ago, RFC 3339, or seconds since 1970; shows all of it
    /// unless --limit says otherwise
    #[arg(long, value_name = "WHEN", value_parser = parse_since, help_heading = "Filter")]
    since: Option<Since>,
    /// How many past records to show; 20 by default
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with each new record as it becomes durable, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How records are written; --json is -o json
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "text"
    )]
    format: Format,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decision {
    Allowed,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line each, for people
    Text,
    /// An object a line
    Json,
    /// An event of the Open Cybersecurity Schema Framework a line
    Ocsf,
}

/// An instant in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// Seconds since 1970.
    At(i64),
    /// So long ago.
    Ago(std::time::Duration),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = duration::parse(text) {
        return Ok(Since::Ago(ago));
    }
    parse_instant(text)
        .map(Since::At)
        .map_err(|why| format!("{why}, or a duration, such as \"10m\" for ten minutes ago"))
}

impl Since {
    fn millis(self, now: Timestamp) -> i64 {
        match self {
            Self::At(seconds) => seconds.saturating_mul(1000),
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                // 0 would be no bound.
                now.unix_millis().saturating_sub(ago).max(1)
            }
        }
    }
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Tail(tail) => tail.run(output).await,
    }
}

impl Tail {
    async fn run(&self, output: Output) -> Result<(), Failure> {
        let mut client = audit_client(&self.server).await?;
        let format = if output.is_json() && self.format == Format::Text {
            Format::Json
        } else {
            self.format
        };
        let filter = self.filter();
        // First the stream, then the past up to where it began: nothing falls between the two.
        let (stream, before) = if self.follow {
            let (stream, began_after) = follow(&mut client, &filter, format).await?;
            (Some(stream), began_after.saturating_add(1))
        } else {
            (None, 0)
        };
        let most = self
            .limit
            .unwrap_or(if self.since.is_some() { u64::MAX } else { 20 });
        let mut past = self
            .list(
                &mut client,
                &filter,
                format,
                Span {
                    before,
                    after: 0,
                    most,
                },
            )
            .await?;
        past.reverse();
        for record in &past {
            output::write(&line(record, format, output))?;
        }
        match stream {
            Some(stream) => {
                self.go_on(&mut client, stream, &filter, (format, output))
                    .await
            }
            None if past.is_empty() && format == Format::Text => output::write("No record.\n"),
            None => Ok(()),
        }
    }

    fn filter(&self) -> RecordFilter {
        let decision = match self.decision {
            None => "",
            Some(Decision::Allowed) => "allowed",
            Some(Decision::Refused) => "refused",
        };
        RecordFilter {
            agent: self.agent.clone().unwrap_or_default(),
            task: self.task.map(|id| id.to_string()).unwrap_or_default(),
            decision: decision.to_owned(),
            event: self.event.clone().unwrap_or_default(),
            node: self
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            since_ms: self.since.map_or(0, |since| since.millis(now())),
        }
    }

    /// Past records, newest first.
    async fn list(
        &self,
        client: &mut AuditClient<Channel>,
        filter: &RecordFilter,
        format: Format,
        span: Span,
    ) -> Result<Vec<NumberedRecord>, Failure> {
        let mut records: Vec<NumberedRecord> = Vec::new();
        let mut before = span.before;
        loop {
            let found = u64::try_from(records.len()).unwrap_or(u64::MAX);
            let wanted = span.most.saturating_sub(found).min(u64::from(PAGE));
            if wanted == 0 {
                return Ok(records);
            }
            let request = ListRecordsRequest {
                filter: Some(filter.clone()),
                before,
                after: span.after,
                limit: u32::try_from(wanted).unwrap_or(PAGE),
                ocsf: format == Format::Ocsf,
            };
            let page = client
                .list_records(self.server.request(request))
                .await
                .map_err(|status| Failure::of_call("read the audit log", &status))?
                .into_inner();
            records.extend(page.records);
            before = page.next_before;
            if before == 0 {
                return Ok(records);
            }
        }
    }

    /// Writes what comes, in order; what was missed is fetched and written in its place.
    async fn go_on(
        &self,
        client: &mut AuditClient<Channel>,
        mut stream: Streaming<TailResponse>,
        filter: &RecordFilter,
        (format, output): (Format, Output),
    ) -> Result<(), Failure> {
        loop {
            let message = stream
                .message()
                .await
                .map_err(|status| Failure::of_call("follow the audit log", &status))?;
            let Some(message) = message else {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the server closed the stream; run the command again",
                ));
            };
            match message.told {
                Some(Told::Record(record)) => output::write(&line(&record, format, output))?,
                Some(Told::Missed(missed)) => {
                    let span = Span {
                        before: missed.last.saturating_add(1),
                        after: missed.first.saturating_sub(1),
                        most: u64::MAX,
                    };
                    let records = self.list(client, filter, format, span).await?;
                    for record in records.iter().rev() {
                        output::write(&line(record, format, output))?;
                    }
                }
                Some(Told::BeganAfter(_)) | None => {}
            }
        }
    }
}

/// The records of an agent class and its agents, as they become durable.
pub(crate) struct Trail {
    stream: Streaming<TailResponse>,
}

impl Trail {
    /// What is recorded from now on.
    pub(crate) async fn of_class(server: &ServerArgs, class: &str) -> Result<Self, Failure> {
        let mut client = audit_client(server).await?;
        let (stream, _) = follow(&mut client, &of_agent(class), Format::Text).await?;
        Ok(Self { stream })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Result<NumberedRecord, Failure> {
        loop {
            let message = self
                .stream
                .message()
                .await
                .map_err(|status| Failure::of_call("follow the audit log", &status))?;
            match message.and_then(|message| message.told) {
                Some(Told::Record(record)) => return Ok(*record),
                Some(Told::BeganAfter(_)) => {}
                Some(Told::Missed(missed)) => {
                    return Err(Failure::failed(format!(
                        "the records from {} to {} came too fast to be read",
                        missed.first, missed.last
                    )));
                }
                None => {
                    return Err(Failure::new(
                        Exit::Unavailable,
                        "the server closed the audit log",
                    ));
                }
            }
        }
    }
}

/// The number of the newest record of an agent class and its agents; 0 where there is none.
pub(crate) async fn newest_of_class(server: &ServerArgs, class: &str) -> Result<u64, Failure> {
    let request = ListRecordsRequest {
        filter: Some(of_agent(class)),
        limit: 1,
        ..ListRecordsRequest::default()
    };
    let page = audit_client(server)
        .await?
        .list_records(server.request(request))
        .await
        .map_err(|status| Failure::of_call("read the audit log", &status))?
        .into_inner();
    Ok(page.records.first().map_or(0, |newest| newest.sequence))
}

async fn audit_client(server: &ServerArgs) -> Result<AuditClient<Channel>, Failure> {
    Ok(AuditClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

fn of_agent(agent: &str) -> RecordFilter {
    RecordFilter {
        agent: agent.to_owned(),
        ..RecordFilter::default()
    }
}

/// Which past records are asked for.
#[derive(Clone, Copy)]
struct Span {
    /// 0 is from the newest on.
    before: u64,
    after: u64,
    most: u64,
}

/// The stream, and the number of the newest record when it began.
async fn follow(
    client: &mut AuditClient<Channel>,
    filter: &RecordFilter,
    format: Format,
) -> Result<(Streaming<TailResponse>, u64), Failure> {
    let request = TailRequest {
        filter: Some(filter.clone()),
        ocsf: format == Format::Ocsf,
    };
    let failed = |status: &tonic::Status| Failure::of_call("follow the audit log", status);
    let mut stream = client
        .tail(Request::new(request))
        .await
        .map_err(|status| failed(&status))?
        .into_inner();
    let first = stream.message().await.map_err(|status| failed(&status))?;
    match first.and_then(|message| message.told) {
        Some(Told::BeganAfter(began)) => Ok((stream, began)),
        Some(Told::Record(_) | Told::Missed(_)) | None => Err(Failure::failed(
            "the server does not say where the log stood; it is of another version",
        )),
    }
}

fn line(record: &NumberedRecord, format: Format, output: Output) -> String {
    match format {
        Format::Text => text(record, output),
        Format::Json => format!("{}\n", shape(record)),
        Format::Ocsf => format!("{}\n", record.ocsf),
    }
}

/// A record as JSON: as the server keeps it, and its number.
pub(crate) fn shape(record: &NumberedRecord) -> Value {
    let actor = record.actor.clone().unwrap_or_default();
    let detail: std::collections::BTreeMap<_, _> = record.detail.iter().collect();
    json!({
        "sequence": record.sequence,
        "at_ms": record.at_ms,
        "event": record.event,
        "actor": {
            "class": actor.class,
            "spiffe_id": actor.spiffe_id,
            "pid": actor.pid,
            "uid": actor.uid,
        },
        "decision": record.decision,
        "subject": record.subject,
        "detail": detail,
    })
}

/// What of a record's details a line shows after the reason, where they are there.
const SHOWN: [&str; 14] = [
    "svid",
    "class",
    "task",
    "parent",
    "kind",
    "cause",
    "expires_at",
    "audience",
    "policies",
    "pid",
    "uid",
    "executable",
    "count",
    "node",
];

/// A record as a line for people.
pub(crate) fn text(record: &NumberedRecord, output: Output) -> String {
    let actor = record.actor.clone().unwrap_or_default();
    let node = actor.spiffe_id.clone();
    let who = match (actor.spiffe_id.as_str(), actor.pid, actor.uid) {
        ("", Some(pid), Some(uid)) => format!("{} pid {pid} uid {uid}", actor.class),
        ("", _, _) => actor.class,
        (id, _, _) => short(id).to_owned(),
    };
    let refused = record.decision == "refused";
    let mark = if refused {
        output.bold("refused")
    } else {
        "      -".to_owned()
    };
    let mut said: Vec<String> = Vec::new();
    if let Some(reason) = record.detail.get("reason").filter(|text| !text.is_empty()) {
        said.push(format!("{reason:?}"));
    }
    for name in SHOWN {
        if let Some(value) = record.detail.get(name).filter(|text| !text.is_empty()) {
            // A node that speaks for itself was named as the one who did it, and what the subject
            // says need not be said again.
            if (name == "node" && *value == node) || says(&record.subject, value) {
                continue;
            }
            let value = match name {
                "expires_at" => value
                    .parse()
                    .map_or_else(|_| value.clone(), crate::time::rfc3339),
                _ => short(value).to_owned(),
            };
            said.push(format!("{name}={value}"));
        }
    }
    format!(
        "{}  {:<24}  {mark}  {}  by {who}  {}",
        instant(record.at_ms),
        record.event,
        short(&record.subject),
        said.join(" "),
    )
    .trim_end()
    .to_owned()
        + "\n"
}

/// Whether a subject is `value`, or a SPIFFE ID with it as a part of its path.
fn says(subject: &str, value: &str) -> bool {
    subject.split('/').any(|part| part == value)
}

/// A SPIFFE ID without its trust domain, which is the same for all.
fn short(text: &str) -> &str {
    text.strip_prefix("spiffe://")
        .and_then(|rest| rest.find('/').and_then(|at| rest.get(at..)))
        .unwrap_or(text)
}

/// RFC 3339 in UTC, with milliseconds.
fn instant(at_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{at_ms} ms after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use muster_proto::muster::server::admin::v1::Actor;

    use super::*;

    fn record() -> NumberedRecord {
        NumberedRecord {
            sequence: 41,
            at_ms: 1_767_225_600_123,
            event: "svid.issued".into(),
            actor: Some(Actor {
                class: "node".into(),
                spiffe_id: "spiffe://td/spire/agent/join_token/n".into(),
                pid: None,
                uid: None,
            }),
            decision: "allowed".into(),
            subject: "spiffe://td/agent/reader/1".into(),
            detail: HashMap::from([
                ("svid".into(), "x509".into()),
                ("expires_at".into(), "1767225900".into()),
                ("class".into(), "reader".into()),
                ("serial_number".into(), "17".into()),
            ]),
            ocsf: String::new(),
        }
    }

    #[test]
    fn a_record_is_a_line() {
        let plain = Output::new(true);
        let mut refused = record();
        refused.decision = "refused".into();
        refused.detail = HashMap::from([("reason".into(), "no such class".into())]);
        refused.actor = Some(Actor {
            class: "local".into(),
            spiffe_id: String::new(),
            pid: Some(7),
            uid: Some(0),
        });
        let text = format!("{}{}", text(&record(), plain), text(&refused, plain));
        insta::assert_snapshot!(text);
        insta::assert_snapshot!(shape(&record()).to_string());
    }

    #[test]
    fn since_is_an_instant_or_a_while_ago() {
        let now = Timestamp::from_unix_seconds(1000);
        let check = |text: &str, expected: i64| {
            assert_eq!(parse_since(text).unwrap().millis(now), expected, "{text}");
        };
        check("10m", 400_000);
        check("1970-01-01T00:10:00Z", 600_000);
        check("600", 600_000);
        check("99d", 1);
        assert!(parse_since("yesterday").is_err());
    }
}
