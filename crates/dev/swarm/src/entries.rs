//! Entries for the nodes of a fleet.

use std::sync::Arc;

use muster_model::SpiffeId;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest,
};
use muster_proto::spire::api::types::{self, Entry, Selector};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{Failure, Fleet, Node, Running, TRUST_DOMAIN};

const CALLERS: usize = 8;
const BATCH: usize = 50;

/// An entry under `parent`, of a workload that `unix` attests.
pub(crate) fn entry(parent: &SpiffeId, number: usize) -> Entry {
    let selector = |value: String| Selector {
        r#type: "unix".into(),
        value,
    };
    Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: format!("/swarm/workload/{number}"),
        }),
        parent_id: Some(muster_wire::id::write(parent)),
        selectors: vec![
            selector(format!("uid:{}", number % 50_000)),
            selector("group:swarm".into()),
        ],
        ..Entry::default()
    }
}

/// Creates entries, all of which must be accepted; tells their IDs.
pub(crate) async fn create(
    api: &mut EntryClient<Channel>,
    entries: Vec<Entry>,
) -> Result<Vec<String>, Failure> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: Some(types::EntryMask::default()),
    };
    let results = api.batch_create_entry(request).await?.into_inner().results;
    let mut ids = Vec::with_capacity(results.len());
    for result in results {
        let status = result.status.unwrap_or_default();
        if status.code != 0 {
            return Err(format!("an entry is refused: {}", status.message).into());
        }
        ids.push(result.entry.unwrap_or_default().id);
    }
    Ok(ids)
}

/// Deletes entries.
pub(crate) async fn delete(
    api: &mut EntryClient<Channel>,
    ids: Vec<String>,
) -> Result<(), Failure> {
    api.batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await?;
    Ok(())
}

/// Gives each node `each` entries of its own.
pub(crate) async fn give(server: &Running, fleet: &mut Fleet, each: usize) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for (number, node) in fleet.nodes.iter().enumerate() {
        for entry in 0..each {
            wanted.push((number, Arc::clone(node), number * each + entry));
        }
    }
    let mut callers = JoinSet::new();
    for part in wanted.chunks(wanted.len().div_ceil(CALLERS).max(1)) {
        let part = part.to_vec();
        let mut api = EntryClient::new(muster_peer::connect(&server.admin_socket).await?);
        callers.spawn(async move {
            let mut given = Vec::with_capacity(part.len());
            for batch in part.chunks(BATCH) {
                let entries = batch.iter().map(|(_, n, i)| entry(&n.id, *i)).collect();
                let ids = create(&mut api, entries).await?;
                given.extend(batch.iter().map(|(number, _, _)| *number).zip(ids));
            }
            Ok::<_, Failure>(given)
        });
    }
    drop(wanted);
    let mut all: Vec<Vec<String>> = vec![Vec::new(); fleet.nodes.len()];
    while let Some(given) = callers.join_next().await {
        for (number, id) in given?? {
            if let Some(ids) = all.get_mut(number) {
                ids.push(id);
            }
        }
    }
    for (node, ids) in fleet.nodes.iter_mut().zip(all) {
        let node: &mut Node =
            Arc::get_mut(node).ok_or("a node is used while it is given entries")?;
        node.entries = ids;
    }
    Ok(())
}
