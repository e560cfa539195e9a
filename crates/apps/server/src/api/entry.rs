//! `spire.api.server.entry.v1.Entry`: registration entries.

use std::collections::HashMap;
use std::sync::Arc;

use muster_audit::Event;
use muster_crypto::random;
use muster_model::{Entry, EntryId};
use muster_policy as policy;
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest,
    BatchDeleteEntryResponse, BatchUpdateEntryRequest, BatchUpdateEntryResponse,
    CountEntriesRequest, CountEntriesResponse, EntryRevision, GetAuthorizedEntriesRequest,
    GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest, ListEntriesResponse,
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse, batch_create_entry_response,
    batch_delete_entry_response, batch_update_entry_response, entry_server,
};
use muster_proto::spire::api::types;
use muster_roll::{Roll, matching, rules};
use muster_store::Transaction;
use muster_wire::trace::TraceId;
use muster_wire::{entry as wire_entry, status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::api::entry_list::{count_filter, draft, entry_filter, page_limit, update_mask};
use crate::errors;
use crate::operation::{Operation, begin, operate};
use crate::server::Server;

/// Entries or revisions in one message of a sync (spire-behaviour 2.11).
const SYNC_PAGE: usize = 500;
/// Entries in one call that changes them.
const MAX_BATCH: usize = 10_000;

/// The service.
pub(crate) struct EntryService(pub Arc<Server>);

#[tonic::async_trait]
impl entry_server::Entry for EntryService {
    /// # Path
    ///
    /// `core/policy`, `core/roll` (filter and count).
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::CountEntries>, message: CountEntriesRequest| {
                let filter = entry_filter(count_filter(message.filter))?;
                Ok(CountEntriesResponse {
                    count: super::count(op.roll.count_entries(&filter)),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll` (filter and page), `edge/wire/entry.rs`.
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::ListEntries>, message: ListEntriesRequest| {
                let filter = entry_filter(message.filter)?;
                let after = match message.page_token.as_str() {
                    "" => 0,
                    token => token.parse().map_err(|_| {
                        Status::invalid_argument(format!(
                            "page token \"{token}\" is not one of this server"
                        ))
                    })?,
                };
                let page = op
                    .roll
                    .list_entries(&filter, after, page_limit(message.page_size)?);
                Ok(ListEntriesResponse {
                    entries: write_all(&page.rows, message.output_mask.as_ref()),
                    next_page_token: page
                        .next
                        .map_or_else(String::new, |ordinal| ordinal.to_string()),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll`, `edge/wire/entry.rs`.
    async fn get_entry(
        &self,
        request: Request<GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::GetEntry>, message: GetEntryRequest| {
                if message.id.is_empty() {
                    return Err(Status::invalid_argument("missing entry ID"));
                }
                let found = EntryId::parse(&message.id)
                    .ok()
                    .and_then(|id| op.roll.entry(&id).cloned());
                let entry = found.ok_or_else(|| Status::not_found("entry not found"))?;
                Ok(wire_entry::write(&entry, message.output_mask.as_ref()))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll/rules.rs` (what may be written), `apps/server/writer.rs`.
    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchCreateEntry>, message: BatchCreateEntryRequest| {
                check_batch(message.entries.len())?;
                let mask = message.output_mask;
                let written = server.roll.write(move |roll, transaction| {
                    create_all(roll, transaction, &op, message.entries)
                });
                let outcomes = written.await.map_err(|error| errors::write(&error))?;
                let results = outcomes
                    .into_iter()
                    .map(
                        |Outcome { status, entry }| batch_create_entry_response::Result {
                            status: Some(status),
                            entry: entry.map(|entry| wire_entry::write(&entry, mask.as_ref())),
                        },
                    )
                    .collect();
                Ok(BatchCreateEntryResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll/rules.rs` (what may be written), `apps/server/writer.rs`.
    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchUpdateEntry>, message: BatchUpdateEntryRequest| {
                check_batch(message.entries.len())?;
                let mask = message.output_mask;
                let fields = message.input_mask.as_ref().map(update_mask);
                let written = server.roll.write(move |roll, transaction| {
                    update_all(roll, transaction, &op, message.entries, fields.as_ref())
                });
                let outcomes = written.await.map_err(|error| errors::write(&error))?;
                let results = outcomes
                    .into_iter()
                    .map(
                        |Outcome { status, entry }| batch_update_entry_response::Result {
                            status: Some(status),
                            entry: entry.map(|entry| wire_entry::write(&entry, mask.as_ref())),
                        },
                    )
                    .collect();
                Ok(BatchUpdateEntryResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll`, `apps/server/writer.rs`.
    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchDeleteEntry>, message: BatchDeleteEntryRequest| {
                check_batch(message.ids.len())?;
                let written = server.roll.write(move |roll, transaction| {
                    let mut working = roll.clone();
                    message
                        .ids
                        .into_iter()
                        .map(|id| {
                            let status = delete_one(&mut working, transaction, &op, &id);
                            batch_delete_entry_response::Result {
                                status: Some(status),
                                id,
                            }
                        })
                        .collect()
                });
                let results = written.await.map_err(|error| errors::write(&error))?;
                Ok(BatchDeleteEntryResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/matching.rs`, `edge/wire/entry.rs`.
    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::GetAuthorizedEntries>,
                   message: GetAuthorizedEntriesRequest| {
                let entries = matching::authorized_entries(&op.roll, op.caller_id()?);
                Ok(GetAuthorizedEntriesResponse {
                    entries: write_all(&entries, message.output_mask.as_ref()),
                })
            },
        )
        .await
    }

    type SyncAuthorizedEntriesStream =
        ReceiverStream<Result<SyncAuthorizedEntriesResponse, Status>>;

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/matching.rs`, `edge/wire/entry.rs`.
    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let op = begin::<policy::SyncAuthorizedEntries>(
            &self.0,
            request.extensions(),
            TraceId::of(request.metadata()),
        )
        .await?;
        let entries = matching::authorized_entries(&op.roll, op.caller_id()?);
        let (sender, receiver) = mpsc::channel(4);
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = sync(requests, &entries, &sender).await {
                // The node may be gone already.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// The outcome of one item.
struct Outcome {
    status: types::Status,
    entry: Option<Arc<Entry>>,
}

impl Outcome {
    fn fault(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: status::item(code, message),
            entry: None,
        }
    }
}

fn check_batch(items: usize) -> Result<(), Status> {
    if items > MAX_BATCH {
        return Err(Status::invalid_argument(format!(
            "{items} items in one call; send at most {MAX_BATCH}"
        )));
    }
    Ok(())
}

fn write_all(entries: &[Arc<Entry>], mask: Option<&types::EntryMask>) -> Vec<types::Entry> {
    entries
        .iter()
        .map(|entry| wire_entry::write(entry, mask))
        .collect()
}

/// Applies to `working` what was just put into `transaction`, so that the next item of the batch
/// is judged against it.
pub(super) fn keep_up(working: &mut Roll, transaction: &Transaction) {
    if let Some(last) = transaction.changes().last() {
        working.apply(working.head(), std::slice::from_ref(last));
    }
}

fn create_all(
    roll: &Roll,
    transaction: &mut Transaction,
    op: &Operation<policy::BatchCreateEntry>,
    messages: Vec<types::Entry>,
) -> Vec<Outcome> {
    let mut working = roll.clone();
    messages
        .into_iter()
        .map(|message| {
            let entry = match create_one(&working, op, message) {
                Ok(entry) => entry,
                Err(outcome) => return outcome,
            };
            let record = op
                .record(Event::EntryCreated, entry.id.as_str())
                .with("spiffe_id", entry.spiffe_id.as_str())
                .with("parent_id", entry.parent_id.as_str());
            transaction.audit(record);
            transaction.put_entry(&op.permit, entry.clone());
            keep_up(&mut working, transaction);
            Outcome {
                status: status::ok(),
                entry: Some(Arc::new(entry)),
            }
        })
        .collect()
}

fn create_one(
    working: &Roll,
    op: &Operation<policy::BatchCreateEntry>,
    message: types::Entry,
) -> Result<Entry, Outcome> {
    let generated = EntryId::parse(&random::uuid())
        .map_err(|why| Outcome::fault(Code::Internal, format!("failed to create entry: {why}")))?;
    let entry = rules::create(
        working,
        &draft(message),
        generated,
        working.next_ordinal(),
        op.now,
    )
    .map_err(|why| {
        Outcome::fault(
            Code::InvalidArgument,
            format!("failed to convert entry: {why}"),
        )
    })?;
    // Idempotent: who creates what is there already gets what is there.
    let similar = working.duplicate(&entry.parent_id, &entry.spiffe_id, &entry.selectors);
    if let Some(existing) = similar.or_else(|| working.entry(&entry.id)) {
        return Err(Outcome {
            status: status::item(Code::AlreadyExists, "similar entry already exists"),
            entry: Some(Arc::clone(existing)),
        });
    }
    Ok(entry)
}

fn update_all(
    roll: &Roll,
    transaction: &mut Transaction,
    op: &Operation<policy::BatchUpdateEntry>,
    messages: Vec<types::Entry>,
    fields: Option<&rules::Mask>,
) -> Vec<Outcome> {
    let mut working = roll.clone();
    messages
        .into_iter()
        .map(|message| {
            if message.id.is_empty() {
                return Outcome::fault(
                    Code::InvalidArgument,
                    "failed to convert entry: missing entry ID",
                );
            }
            let existing = EntryId::parse(&message.id)
                .ok()
                .and_then(|id| working.entry(&id).cloned());
            let Some(existing) = existing else {
                return Outcome::fault(Code::NotFound, "failed to update entry: record not found");
            };
            let entry = match rules::update(&working, &existing, &draft(message), fields) {
                Ok(entry) => entry,
                Err(why) => {
                    return Outcome::fault(
                        Code::InvalidArgument,
                        format!("failed to convert entry: {why}"),
                    );
                }
            };
            let similar = working.duplicate(&entry.parent_id, &entry.spiffe_id, &entry.selectors);
            if similar.is_some_and(|other| other.id != entry.id) {
                return Outcome::fault(
                    Code::AlreadyExists,
                    "failed to update entry: similar entry already exists",
                );
            }
            let record = op
                .record(Event::EntryUpdated, entry.id.as_str())
                .with("spiffe_id", entry.spiffe_id.as_str())
                .with("revision_number", entry.revision_number.to_string());
            transaction.audit(record);
            transaction.put_entry(&op.permit, entry.clone());
            keep_up(&mut working, transaction);
            Outcome {
                status: status::ok(),
                entry: Some(Arc::new(entry)),
            }
        })
        .collect()
}

fn delete_one(
    working: &mut Roll,
    transaction: &mut Transaction,
    op: &Operation<policy::BatchDeleteEntry>,
    id: &str,
) -> types::Status {
    if id.is_empty() {
        return status::item(Code::InvalidArgument, "missing entry ID");
    }
    let existing = EntryId::parse(id)
        .ok()
        .and_then(|id| working.entry(&id).cloned());
    let Some(existing) = existing else {
        return status::item(Code::NotFound, "entry not found");
    };
    transaction.audit(
        op.record(Event::EntryDeleted, id)
            .with("spiffe_id", existing.spiffe_id.as_str()),
    );
    transaction.delete_entry(&op.permit, existing.id.clone());
    keep_up(working, transaction);
    status::ok()
}

/// One sync of a SPIRE agent: everything if it is little, otherwise revisions first and then what
/// the agent asks for.
async fn sync(
    mut requests: Streaming<SyncAuthorizedEntriesRequest>,
    entries: &[Arc<Entry>],
    answers: &mpsc::Sender<Result<SyncAuthorizedEntriesResponse, Status>>,
) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the node ended the sync");
    let Some(first) = requests.message().await? else {
        return Err(Status::invalid_argument(
            "the sync ended before its first message",
        ));
    };
    if !first.ids.is_empty() {
        return Err(Status::invalid_argument(
            "specifying IDs on initial request is not supported",
        ));
    }
    let mask = first.output_mask;
    if mask.as_ref().is_some_and(|mask| !mask.revision_number) {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    if entries.len() <= SYNC_PAGE {
        let all = SyncAuthorizedEntriesResponse {
            entries: write_all(entries, mask.as_ref()),
            ..Default::default()
        };
        return answers.send(Ok(all)).await.map_err(gone);
    }
    let mut pages = entries.chunks(SYNC_PAGE).peekable();
    while let Some(page) = pages.next() {
        let entry_revisions = page
            .iter()
            .map(|entry| EntryRevision {
                id: entry.id.as_str().to_owned(),
                revision_number: entry.revision_number,
                created_at: entry.created_at.unix_seconds(),
            })
            .collect();
        let more = pages.peek().is_some();
        let page = SyncAuthorizedEntriesResponse {
            entry_revisions,
            more,
            ..Default::default()
        };
        answers.send(Ok(page)).await.map_err(gone)?;
    }
    let by_id: HashMap<&str, &Arc<Entry>> = entries
        .iter()
        .map(|entry| (entry.id.as_str(), entry))
        .collect();
    while let Some(request) = requests.message().await? {
        let wanted: Vec<Arc<Entry>> = request
            .ids
            .iter()
            .filter_map(|id| by_id.get(id.as_str()))
            .map(|entry| Arc::clone(entry))
            .collect();
        let mut pages = wanted.chunks(SYNC_PAGE).peekable();
        if pages.peek().is_none() {
            answers
                .send(Ok(SyncAuthorizedEntriesResponse::default()))
                .await
                .map_err(gone)?;
        }
        while let Some(page) = pages.next() {
            let more = pages.peek().is_some();
            let page = SyncAuthorizedEntriesResponse {
                entries: write_all(page, mask.as_ref()),
                more,
                ..Default::default()
            };
            answers.send(Ok(page)).await.map_err(gone)?;
        }
    }
    Ok(())
}
