//! Sets tried on requests, and the record that they are tried on.

use std::path::PathBuf;

use clap::Args;
use muster_proto::muster::agent::v1;
use muster_rt::files;
use serde_json::{Value, json};

use super::{PIECE, client, parts, pieces, read, view};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::server_api::ServerArgs;

#[derive(Args, Debug)]
pub(crate) struct Simulate {
    /// The set that decides, in Cedar; - is the standard input; default: what is in force
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A stored version as the set that decides
    #[arg(long, value_name = "N", conflicts_with = "file")]
    stored: Option<u64>,
    #[command(flatten)]
    on: On,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// The candidate, in Cedar; - is the standard input
    #[arg(value_name = "FILE", required_unless_present = "stored")]
    file: Option<PathBuf>,
    /// A stored version as the candidate
    #[arg(long, value_name = "N", conflicts_with = "file")]
    stored: Option<u64>,
    #[command(flatten)]
    on: On,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a set is tried on.
#[derive(Args, Debug)]
pub(crate) struct On {
    /// A record as `muster policy record` wrote it, in place of the server's own
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Only the last of the decisions that the server recorded
    #[arg(long, value_name = "N", conflicts_with = "record")]
    last: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Record {
    /// The file to write, readable by its owner only; default: the standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only the last ones
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a trial sends: pieces of a text, then of a record, each made a message.
fn gather<T>(
    file: Option<&PathBuf>,
    on: &On,
    message: impl Fn(String, Vec<String>) -> T,
) -> Result<Vec<T>, Failure> {
    let text = match file {
        Some(file) => pieces(&read(file)?),
        None => vec![String::new()],
    };
    let mut lines: Vec<Vec<String>> = Vec::new();
    if let Some(record) = &on.record {
        let all = read(record)?;
        let mut bytes = PIECE;
        for line in all.lines().filter(|line| !line.trim().is_empty()) {
            bytes = bytes.saturating_add(line.len());
            match lines.last_mut() {
                Some(part) if bytes < PIECE => part.push(line.to_owned()),
                Some(_) | None => {
                    bytes = line.len();
                    lines.push(vec![line.to_owned()]);
                }
            }
        }
        if lines.is_empty() {
            return Err(Failure::usage(format!(
                "{} has no lines; write a record with `muster policy record --out FILE`",
                record.display()
            )));
        }
    }
    let text = text.into_iter().map(|text| (text, Vec::new()));
    let lines = lines.into_iter().map(|lines| (String::new(), lines));
    let both = text.chain(lines);
    Ok(both.map(|(text, lines)| message(text, lines)).collect())
}

pub(super) async fn simulate(asked: &Simulate, output: Output) -> Result<(), Failure> {
    let on = &asked.on;
    let request = parts(gather(asked.file.as_ref(), on, |text, lines| {
        v1::SimulatePoliciesRequest {
            text,
            lines,
            version: asked.stored.unwrap_or_default(),
            last: on.last.unwrap_or_default(),
        }
    })?);
    let cannot = |status: tonic::Status| Failure::of_call("try the policies", &status);
    let mut stream = client(&asked.server)
        .await?
        .simulate(asked.server.request(request))
        .await
        .map_err(cannot)?
        .into_inner();
    let mut decided = Vec::new();
    while let Some(one) = stream.message().await.map_err(cannot)? {
        decided.push(one);
    }
    output.answer(
        || json!({ "decisions": decided.iter().map(view::simulated_json).collect::<Value>() }),
        || view::simulated(&decided, output),
    )
}

pub(super) async fn compare(asked: &Compare, output: Output) -> Result<(), Failure> {
    let on = &asked.on;
    let request = parts(gather(asked.file.as_ref(), on, |text, lines| {
        v1::ComparePoliciesRequest {
            text,
            lines,
            version: asked.stored.unwrap_or_default(),
            last: on.last.unwrap_or_default(),
        }
    })?);
    let found = client(&asked.server)
        .await?
        .compare(asked.server.request(request))
        .await
        .map_err(|status| Failure::of_call("compare the policies", &status))?
        .into_inner();
    output.answer(
        || view::compared_json(&found),
        || view::compared(&found, output),
    )
}

pub(super) async fn record(asked: &Record, output: Output) -> Result<(), Failure> {
    let request = asked.server.request(v1::ReadPolicyRecordRequest {
        last: asked.last.unwrap_or_default(),
    });
    let cannot = |status: tonic::Status| Failure::of_call("read the record", &status);
    let mut stream = client(&asked.server)
        .await?
        .read_record(request)
        .await
        .map_err(cannot)?
        .into_inner();
    let mut text = String::new();
    let mut decisions: u64 = 0;
    while let Some(one) = stream.message().await.map_err(cannot)? {
        text.push_str(&one.line);
        text.push('\n');
        decisions = decisions.saturating_add(1);
    }
    let Some(out) = &asked.out else {
        return output::write(&text);
    };
    // Who does what, where and for whom is in it.
    files::write_atomic(out, text.as_bytes(), 0o600)?;
    output.answer(
        || json!({ "decisions": decisions, "file": out.display().to_string() }),
        || format!("{decisions} decisions written to {}\n", out.display()),
    )
}
