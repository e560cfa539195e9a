//! `muster policy`: what agents may do, as sets of policies that are stored, tried and compared.

mod trials;
mod view;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::policies_client::PoliciesClient;
use serde_json::json;
use tokio_stream::Stream;
use tonic::transport::Channel;

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::server_api::{MAX_MESSAGE, ServerArgs};

/// How many bytes of a text one message has.
const PIECE: usize = 1 << 20;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Put a set of policies in force
    Put(Put),
    /// Show a set of policies, and what is in force
    Show(Show),
    /// List the sets of policies that are kept
    Versions(Versions),
    /// Put an earlier set in force again, as a new version
    Rollback(Rollback),
    /// Check a text: what `put` would say of it
    Validate(Validate),
    /// Print the words that policies may use, or the guards that are part of every set
    Schema(Schema),
    /// Have a set decide requests: given ones, or the last that the server recorded
    Simulate(trials::Simulate),
    /// Find the decisions on record that another set would have made otherwise
    Compare(trials::Compare),
    /// Write down the decisions that the server has on record, one a line
    Record(trials::Record),
}

#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The text, in Cedar; - is the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The newest version that you saw; default: the one that is there now
    #[arg(long, value_name = "N")]
    at_version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The version; default: what is in force
    #[arg(value_name = "N")]
    version: Option<u64>,
    /// Print the text and nothing else
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Versions {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Rollback {
    /// The version to go back to
    #[arg(value_name = "N")]
    version: u64,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The newest version that you saw; default: the one that is there now
    #[arg(long, value_name = "N")]
    at_version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Validate {
    /// The text, in Cedar; - is the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Schema {
    /// Print the guards instead
    #[arg(long)]
    guards: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Put(put) => self::put(&put, output).await,
        Command::Show(show) => self::show(&show, output).await,
        Command::Versions(list) => versions(&list, output).await,
        Command::Rollback(back) => rollback(&back, output).await,
        Command::Validate(validate) => self::validate(&validate, output).await,
        Command::Schema(schema) => self::schema(&schema, output).await,
        Command::Simulate(simulate) => trials::simulate(&simulate, output).await,
        Command::Compare(compare) => trials::compare(&compare, output).await,
        Command::Record(record) => trials::record(&record, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<PoliciesClient<Channel>, Failure> {
    Ok(PoliciesClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

/// A file, or the standard input.
fn read(file: &Path) -> Result<String, Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", file.display()));
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(cannot)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(cannot)
}

/// A text in pieces that fit a message; at least one, and none divides a character.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let mut end = PIECE.min(rest.len());
        while !rest.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let (piece, more) = rest.split_at(end);
        pieces.push(piece.to_owned());
        rest = more;
        if rest.is_empty() {
            return pieces;
        }
    }
}

/// Messages that a request has.
fn parts<M: Send + 'static>(messages: Vec<M>) -> impl Stream<Item = M> + Send + 'static {
    tokio_stream::iter(messages)
}

async fn newest(
    client: &mut PoliciesClient<Channel>,
    (seen, server): (Option<u64>, &ServerArgs),
) -> Result<u64, Failure> {
    if let Some(seen) = seen {
        return Ok(seen);
    }
    let request = server.request(v1::ListPolicyVersionsRequest {});
    let answer = client
        .list_versions(request)
        .await
        .map_err(|status| Failure::of_call("list the policies", &status))?
        .into_inner();
    Ok(answer.versions.first().map_or(0, |newest| newest.number))
}

async fn put(put: &Put, output: Output) -> Result<(), Failure> {
    let text = read(&put.file)?;
    let mut client = client(&put.server).await?;
    let expected_version = newest(&mut client, (put.at_version, &put.server)).await?;
    let messages = pieces(&text)
        .into_iter()
        .map(|text| v1::PutPoliciesRequest {
            expected_version,
            reason: put.reason.clone(),
            text,
        })
        .collect();
    let version = client
        .put(put.server.request(parts(messages)))
        .await
        .map_err(|status| Failure::of_call("put the policies in force", &status))?
        .into_inner();
    output.answer(
        || view::version_json(&version),
        || format!("in force: {}", view::version(&version, output)),
    )
}

async fn rollback(back: &Rollback, output: Output) -> Result<(), Failure> {
    let mut client = client(&back.server).await?;
    let expected_version = newest(&mut client, (back.at_version, &back.server)).await?;
    let request = back.server.request(v1::RollbackPoliciesRequest {
        version: back.version,
        expected_version,
        reason: back.reason.clone(),
    });
    let version = client
        .rollback(request)
        .await
        .map_err(|status| {
            Failure::of_call(&format!("go back to version {}", back.version), &status)
        })?
        .into_inner();
    output.answer(
        || view::version_json(&version),
        || format!("in force: {}", view::version(&version, output)),
    )
}

async fn show(show: &Show, output: Output) -> Result<(), Failure> {
    let request = show.server.request(v1::GetPoliciesRequest {
        version: show.version.unwrap_or_default(),
    });
    let answer = client(&show.server)
        .await?
        .get(request)
        .await
        .map_err(|status| Failure::of_call("show the policies", &status))?
        .into_inner();
    if show.text && !output.is_json() {
        return output::write(&answer.text);
    }
    output.answer(
        || {
            json!({
                "in_force": view::in_force_json(answer.in_force.as_ref()),
                "version": answer.version.as_ref().map(view::version_json),
                "text": answer.text,
            })
        },
        || view::set(&answer, output),
    )
}

async fn versions(list: &Versions, output: Output) -> Result<(), Failure> {
    let request = list.server.request(v1::ListPolicyVersionsRequest {});
    let answer = client(&list.server)
        .await?
        .list_versions(request)
        .await
        .map_err(|status| Failure::of_call("list the policies", &status))?
        .into_inner();
    output.answer(
        || {
            json!({
                "in_force": view::in_force_json(answer.in_force.as_ref()),
                "versions": answer.versions.iter().map(view::version_json).collect::<Vec<_>>(),
            })
        },
        || view::versions(&answer, output),
    )
}

async fn validate(validate: &Validate, output: Output) -> Result<(), Failure> {
    let text = read(&validate.file)?;
    let messages = pieces(&text)
        .into_iter()
        .map(|text| v1::ValidatePoliciesRequest { text })
        .collect();
    let answer = client(&validate.server)
        .await?
        .validate(validate.server.request(parts(messages)))
        .await
        .map_err(|status| Failure::of_call("check the policies", &status))?
        .into_inner();
    output.answer(
        || view::checked_json(&answer),
        || view::checked(&answer, &validate.file),
    )?;
    if answer.loads {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}

async fn schema(schema: &Schema, output: Output) -> Result<(), Failure> {
    let request = schema.server.request(v1::GetPolicySchemaRequest {});
    let answer = client(&schema.server)
        .await?
        .get_schema(request)
        .await
        .map_err(|status| Failure::of_call("read the schema of policies", &status))?
        .into_inner();
    output.answer(
        || json!({ "schema": answer.schema, "guards": answer.guards }),
        || {
            if schema.guards {
                answer.guards.clone()
            } else {
                answer.schema.clone()
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(pieces(""), [""]);
        let text = "\u{e9}".repeat(PIECE);
        let cut = pieces(&format!("x{text}"));
        assert!(cut.len() == 3 && cut.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(cut.concat(), format!("x{text}"));
    }
}
