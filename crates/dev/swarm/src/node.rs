//! One simulated node.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use muster_model::{SpiffeId, Timestamp};
use muster_proto::muster::node::v1::node_view_client::NodeViewClient;
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse};
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use muster_tls::{Connector, Urgency};
use muster_wire::urgency::EXPIRES_AT;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tower::service_fn;

use crate::traffic::Counted;
use crate::{Failure, Traffic};

/// As `muster-node` does.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest message: a view of 10,000 entries.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// An attested node: an identity, and what it knows of its entries.
pub struct Node {
    /// Who it is.
    pub id: SpiffeId,
    /// What went over its sockets since it exists.
    pub traffic: Arc<Traffic>,
    /// Its entries by ID, as far as they were created by the swarm.
    pub entries: Vec<String>,
    pub(crate) connector: Connector,
    pub(crate) csr: Arc<[u8]>,
}

/// A connection of a node.
#[derive(Clone)]
pub struct Link {
    channel: Channel,
    csr: Arc<[u8]>,
}

/// What a node that speaks SPIRE's protocol remembers from question to question.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<String, i64>);

impl Node {
    /// Connects with the node's SVID, the handshake included.
    pub async fn connect(&self, address: &str) -> Result<Link, Failure> {
        self.connect_as(Urgency::CanWait, address).await
    }

    /// The same, for a node that says whether it can wait.
    pub async fn connect_as(&self, urgency: Urgency, address: &str) -> Result<Link, Failure> {
        let channel = channel(address, &self.connector, &self.traffic, urgency).await?;
        Ok(Link {
            channel,
            csr: Arc::clone(&self.csr),
        })
    }
}

impl Link {
    /// Opens the stream of our protocol.
    pub async fn watch(&self) -> Result<Streaming<WatchResponse>, Status> {
        let mut client =
            NodeViewClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        let request = WatchRequest {
            revision: 0,
            digest: Vec::new().into(),
            node_version: String::new(),
        };
        Ok(client.watch(request).await?.into_inner())
    }

    /// Asks as SPIRE's agent does every five seconds: which entries, the changed ones in full, and
    /// the bundle. Tells the IDs that are new.
    pub(crate) async fn sync(&self, known: &mut Known) -> Result<Vec<String>, Failure> {
        let mut client =
            EntryClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        let (ask, questions) = mpsc::channel(2);
        ask.send(SyncAuthorizedEntriesRequest::default()).await?;
        let mut answers = client
            .sync_authorized_entries(ReceiverStream::new(questions))
            .await?
            .into_inner();
        let mut stale = Vec::new();
        let mut now = BTreeMap::new();
        let mut new = Vec::new();
        let mut note = |id: String, revision: i64, now: &mut BTreeMap<String, i64>| {
            if !known.0.contains_key(&id) {
                new.push(id.clone());
            }
            now.insert(id, revision);
        };
        loop {
            let answer = answers.message().await?.ok_or("the sync ended early")?;
            for entry in answer.entries {
                note(entry.id, entry.revision_number, &mut now);
            }
            for revision in answer.entry_revisions {
                if known.0.get(&revision.id) == Some(&revision.revision_number) {
                    now.insert(revision.id, revision.revision_number);
                } else {
                    stale.push(revision.id);
                }
            }
            if !answer.more {
                break;
            }
        }
        if !stale.is_empty() {
            let wanted = stale.len();
            ask.send(SyncAuthorizedEntriesRequest {
                ids: stale,
                ..SyncAuthorizedEntriesRequest::default()
            })
            .await?;
            let mut came = 0;
            while came < wanted {
                let answer = answers.message().await?.ok_or("the sync ended early")?;
                came += answer.entries.len();
                for entry in answer.entries {
                    note(entry.id, entry.revision_number, &mut now);
                }
                if !answer.more {
                    break;
                }
            }
        }
        drop(ask);
        known.0 = now;
        BundleClient::new(self.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await?;
        Ok(new)
    }

    /// Has X509-SVIDs signed for `entries` in one call. `expires_at` is when the first of those
    /// that they replace expires; `None` leaves the header out, as SPIRE's agents do.
    pub async fn sign(
        &self,
        entries: &[String],
        expires_at: Option<Timestamp>,
    ) -> Result<usize, Status> {
        let params = entries
            .iter()
            .map(|id| NewX509svidParams {
                entry_id: id.clone(),
                csr: self.csr.to_vec().into(),
            })
            .collect();
        let mut request = Request::new(BatchNewX509svidRequest { params });
        if let Some(expires_at) = expires_at {
            let seconds = expires_at.unix_seconds().to_string();
            let value = seconds
                .parse()
                .map_err(|_| Status::internal("a number is no header"))?;
            request.metadata_mut().insert(EXPIRES_AT, value);
        }
        let mut client =
            SvidClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        let answer = client.batch_new_x509svid(request).await?.into_inner();
        let signed = answer
            .results
            .iter()
            .filter(|result| result.svid.is_some())
            .count();
        match answer.results.into_iter().find(|r| r.svid.is_none()) {
            None => Ok(signed),
            Some(refused) => {
                let status = refused.status.unwrap_or_default();
                Err(Status::new(status.code.into(), status.message))
            }
        }
    }
}

/// A connection, with the keepalive of `muster-node`.
pub(crate) async fn channel(
    address: &str,
    connector: &Connector,
    traffic: &Arc<Traffic>,
    urgency: Urgency,
) -> Result<Channel, Failure> {
    let shared = (address.to_owned(), connector.clone(), Arc::clone(traffic));
    let connect = service_fn(move |_uri| {
        let (address, connector, traffic) = shared.clone();
        async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            let shaking = connector.connect_as(urgency, &address, Counted::new(tcp, traffic));
            let tls = timeout(HANDSHAKE_TIMEOUT, shaking)
                .await
                .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    Ok(Endpoint::from_static("http://server")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connect)
        .await?)
}
