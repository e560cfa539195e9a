//! `muster entry`: which selectors under which parent get which SPIFFE ID.

mod data;
mod fields;
mod view;

use clap::{Args, Subcommand, ValueEnum};
use muster_model::{EntryId, Selector, SpiffeId};
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
    ListEntriesRequest, list_entries_request,
};
use muster_proto::spire::api::types::selector_match::MatchBehavior;
use muster_proto::spire::api::types::{Entry, SelectorMatch, Status};
use muster_wire::{id, selector};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::failure::{Exit, Failure, described, exit_of};
use crate::json;
use crate::output::{self, Output};
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs, item_error};

/// How many entries a batch has: more would make one answer wait for a long transaction.
const BATCH: usize = 500;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Create an entry from flags, or many from a file
    Create(Box<fields::Create>),
    /// List entries
    List(Box<List>),
    /// Show one entry
    Show(Show),
    /// Change an entry: only what is given
    Update(Box<fields::Update>),
    /// Delete entries
    Delete(Delete),
}

/// How the selectors of an entry compare to those given.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Match {
    /// The entry has these selectors and no other
    Exact,
    /// The entry's selectors are all among these
    Subset,
    /// The entry has all of these, and maybe more
    Superset,
    /// The entry has at least one of these
    Any,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only entries that give this SPIFFE ID
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Only entries under this parent
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// Only entries whose selectors compare to these as --match says; repeatable
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<Selector>,
    /// How --selector compares
    #[arg(long = "match", value_name = "HOW", default_value = "superset")]
    matching: Match,
    /// Only entries with this hint
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// Only entries that may sign for a downstream server
    #[arg(long)]
    downstream: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// ID of the entry
    #[arg(value_name = "ENTRY-ID")]
    id: EntryId,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// IDs of the entries
    #[arg(value_name = "ENTRY-ID", required = true)]
    ids: Vec<EntryId>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let entries = create.entries()?;
            let outcomes = self::create(&create.server, entries).await?;
            report(&outcomes, "created", output)
        }
        Command::List(list) => {
            let entries = self::list(&list).await?;
            output.answer(
                || json!({ "entries": entries.iter().map(json::entry).collect::<Value>() }),
                || view::table(&entries, output),
            )
        }
        Command::Show(show) => {
            let entry = get(&show.server, &show.id).await?;
            output.answer(|| json::entry(&entry), || view::full(&entry, output))
        }
        Command::Update(update) => {
            let outcomes = self::update(&update).await?;
            report(&outcomes, "updated", output)
        }
        Command::Delete(delete) => self::delete(&delete, output).await,
    }
}

/// What became of one item of a batch.
struct Outcome {
    status: Option<Status>,
    entry: Option<Entry>,
}

async fn client(server: &ServerArgs) -> Result<EntryClient<Channel>, Failure> {
    Ok(EntryClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

/// Creates entries; the failure of one does not stop the others.
async fn create(server: &ServerArgs, entries: Vec<Entry>) -> Result<Vec<Outcome>, Failure> {
    let mut client = client(server).await?;
    let mut outcomes = Vec::with_capacity(entries.len());
    for batch in entries.chunks(BATCH) {
        let request = server.request(BatchCreateEntryRequest {
            entries: batch.to_vec(),
            output_mask: None,
        });
        let results = client
            .batch_create_entry(request)
            .await
            .map_err(|status| Failure::of_call("create entries", &status))?
            .into_inner()
            .results;
        outcomes.extend(results.into_iter().map(|result| Outcome {
            status: result.status,
            entry: result.entry,
        }));
    }
    Ok(outcomes)
}

/// Creates one entry and gives it as the server wrote it. One that is already there is as good.
pub(crate) async fn ensure(server: &ServerArgs, entry: Entry) -> Result<Entry, Failure> {
    let outcome = create(server, vec![entry])
        .await?
        .pop()
        .ok_or_else(|| Failure::failed("the server did not answer for the entry"))?;
    match (item_error(outcome.status.as_ref()), outcome.entry) {
        (None, Some(entry)) => Ok(entry),
        (Some(error), Some(entry)) if error.code() == tonic::Code::AlreadyExists => Ok(entry),
        (Some(error), _) => Err(Failure::of_call("create the entry", &error)),
        (None, None) => Err(Failure::failed("the server did not return the entry")),
    }
}

async fn list(list: &List) -> Result<Vec<Entry>, Failure> {
    let filter = list_entries_request::Filter {
        by_spiffe_id: list.spiffe_id.as_ref().map(id::write),
        by_parent_id: list.parent_id.as_ref().map(id::write),
        by_selectors: (!list.selector.is_empty()).then(|| SelectorMatch {
            selectors: list.selector.iter().map(selector::write).collect(),
            r#match: match list.matching {
                Match::Exact => MatchBehavior::MatchExact,
                Match::Subset => MatchBehavior::MatchSubset,
                Match::Superset => MatchBehavior::MatchSuperset,
                Match::Any => MatchBehavior::MatchAny,
            }
            .into(),
        }),
        by_federates_with: None,
        by_hint: list.hint.clone(),
        by_downstream: list.downstream.then_some(true),
    };
    let mut client = client(&list.server).await?;
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_entries(list.server.request(ListEntriesRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: PAGE,
                page_token,
            }))
            .await
            .map_err(|status| Failure::of_call("list the entries", &status))?
            .into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(entries);
        }
    }
}

async fn get(server: &ServerArgs, id: &EntryId) -> Result<Entry, Failure> {
    let request = server.request(GetEntryRequest {
        id: id.to_string(),
        output_mask: None,
    });
    client(server)
        .await?
        .get_entry(request)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::of_call(&format!("find the entry {id}"), &status))
}

async fn update(update: &fields::Update) -> Result<Vec<Outcome>, Failure> {
    // Both extra attributes stand under one bit of the mask: the one that is not named must be
    // sent as it is.
    let current = if update.names_one_attribute() {
        get(&update.server, &update.id).await?.additional_attributes
    } else {
        None
    };
    let (entry, mask) = update.entry_and_mask(current)?;
    let request = update.server.request(BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask: Some(mask),
        output_mask: None,
    });
    let results = client(&update.server)
        .await?
        .batch_update_entry(request)
        .await
        .map_err(|status| Failure::of_call("update the entry", &status))?
        .into_inner()
        .results;
    Ok(results
        .into_iter()
        .map(|result| Outcome {
            status: result.status,
            entry: result.entry,
        })
        .collect())
}

async fn delete(delete: &Delete, output: Output) -> Result<(), Failure> {
    let mut client = client(&delete.server).await?;
    let mut results = Vec::new();
    for batch in delete.ids.chunks(BATCH) {
        let request = delete.server.request(BatchDeleteEntryRequest {
            ids: batch.iter().map(ToString::to_string).collect(),
        });
        let answer = client
            .batch_delete_entry(request)
            .await
            .map_err(|status| Failure::of_call("delete entries", &status))?;
        results.extend(answer.into_inner().results);
    }
    output.answer(
        || {
            let results: Value = results
                .iter()
                .map(|result| json!({ "status": json::status(result.status.as_ref()), "id": result.id }))
                .collect();
            json!({ "results": results })
        },
        || {
            results
                .iter()
                .filter(|result| item_error(result.status.as_ref()).is_none())
                .map(|result| format!("Entry {} is deleted.\n", result.id))
                .collect::<Vec<_>>()
                .concat()
        },
    )?;
    let ids = results.iter().map(|result| result.id.as_str());
    verdict(ids.zip(results.iter().map(|result| result.status.as_ref())))
}

/// Tells what became of each entry; fails if one of them failed.
fn report(outcomes: &[Outcome], what: &str, output: Output) -> Result<(), Failure> {
    output.answer(
        || {
            let results: Value = outcomes
                .iter()
                .map(|outcome| {
                    json!({
                        "status": json::status(outcome.status.as_ref()),
                        "entry": outcome.entry.as_ref().map(json::entry),
                    })
                })
                .collect();
            json!({ "results": results })
        },
        || {
            let good: Vec<&Entry> = outcomes
                .iter()
                .filter(|outcome| item_error(outcome.status.as_ref()).is_none())
                .filter_map(|outcome| outcome.entry.as_ref())
                .collect();
            match good.as_slice() {
                [] => String::new(),
                [one] => format!("Entry {} is {what}.\n\n{}", one.id, view::full(one, output)),
                many => format!(
                    "{} are {what}.\n",
                    output::counted(many.len(), "entry", "entries")
                ),
            }
        },
    )?;
    let names: Vec<String> = outcomes
        .iter()
        .enumerate()
        .map(|(index, outcome)| match &outcome.entry {
            Some(entry) if !entry.id.is_empty() => format!("{} (item {index})", entry.id),
            _ => format!("(item {index})"),
        })
        .collect();
    verdict(
        names
            .iter()
            .map(String::as_str)
            .zip(outcomes.iter().map(|outcome| outcome.status.as_ref())),
    )
}

/// Says which items failed; the exit code is that of the first.
fn verdict<'s>(items: impl Iterator<Item = (&'s str, Option<&'s Status>)>) -> Result<(), Failure> {
    let mut first: Option<Exit> = None;
    for (name, status) in items {
        if let Some(error) = item_error(status) {
            output::note(&format!("muster: entry {name}: {}", described(&error)));
            first.get_or_insert(exit_of(error.code()));
        }
    }
    first.map_or(Ok(()), |exit| Err(Failure::told(exit)))
}
