//! The bench as a workload of its own.

use std::path::Path;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{X509svidRequest, X509svidResponse};
use nix::unistd::getuid;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

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
        while open(&domain.workload_socket).await.is_err() {
            sleep(ASK_AGAIN).await;
        }
    };
    timeout(REGISTERED_WITHIN, wait)
        .await
        .map_err(|_| "the bench's own entry is not served".into())
}

/// A stream of X509-SVIDs on a connection of its own, its first answer read.
pub(super) async fn open(socket: &Path) -> Result<Open, Failure> {
    let channel = muster_peer::connect(socket).await?;
    let mut api = SpiffeWorkloadApiClient::new(channel);
    let mut stream = api
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await?
        .into_inner();
    let first = stream.message().await?.ok_or("the stream ended with OK")?;
    let svid = first.svids.first().ok_or("an answer without SVID")?;
    Ok(Open {
        spiffe_id: svid.spiffe_id.clone(),
        stream,
        _api: api,
    })
}

/// An open stream.
pub(super) struct Open {
    /// Of the first SVID.
    pub(super) spiffe_id: String,
    stream: Streaming<X509svidResponse>,
    _api: SpiffeWorkloadApiClient<Channel>,
}

impl Open {
    /// Reads on until the stream ends; how it did.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            match self.stream.message().await {
                Ok(Some(_renewed)) => {}
                Ok(None) => return Status::ok("the stream ended with OK"),
                Err(status) => return status,
            }
        }
    }
}
