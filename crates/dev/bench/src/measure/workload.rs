//! The bench as a workload of its own.

use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{X509svidRequest, X509svidResponse};
use nix::unistd::getuid;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Failure;
use crate::caller::{create, entry, with_header};
use crate::subject::Domain;

const REGISTERED_WITHIN: Duration = Duration::from_mins(1);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The path of the bench's own identity.
const PATH: &str = "/bench/self";

/// Gives the bench an entry, and waits until it is served.
pub(super) async fn register(domain: &Domain) -> Result<(), Failure> {
    let mut api = EntryClient::new(muster_peer::connect(&domain.server.admin_socket).await?);
    let own = entry(
        &domain.node_id,
        PATH,
        &[("unix", format!("uid:{}", getuid()))],
    );
    create(&mut api, vec![own]).await?;
    let wait = async {
        while open(domain).await.is_err() {
            sleep(ASK_AGAIN).await;
        }
    };
    timeout(REGISTERED_WITHIN, wait)
        .await
        .map_err(|_| "the bench's own entry is not served".into())
}

/// A stream of X509-SVIDs on a connection of its own, its first answer read.
pub(super) async fn open(domain: &Domain) -> Result<Open, Failure> {
    let channel = muster_peer::connect(&domain.workload_socket).await?;
    let mut api = SpiffeWorkloadApiClient::new(channel);
    let mut stream = api
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await?
        .into_inner();
    let first = stream.message().await?.ok_or("the stream ended with OK")?;
    if first.svids.is_empty() {
        return Err("an answer without SVID".into());
    }
    Ok(Open {
        _stream: stream,
        _api: api,
    })
}

/// An open stream.
pub(super) struct Open {
    _stream: Streaming<X509svidResponse>,
    _api: SpiffeWorkloadApiClient<Channel>,
}
