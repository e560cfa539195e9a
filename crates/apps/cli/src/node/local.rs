//! The admin socket of the node on this host.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::server_api::MAX_MESSAGE;

/// How long to wait for an answer: attestation has ten seconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Where the node is, for commands that speak to it.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// Admin socket of the node
    #[arg(
        long,
        value_name = "PATH",
        env = "MUSTER_NODE_SOCKET",
        hide_env_values = true,
        default_value = "/run/muster/node/private/admin.sock",
        help_heading = "Connection"
    )]
    node_socket: PathBuf,
}

impl NodeArgs {
    pub(crate) async fn channel(&self) -> Result<Channel, Failure> {
        muster_peer::connect(&self.node_socket)
            .await
            .map_err(|error| Failure::of_connect(&error, "muster-node", "--node-socket"))
    }

    pub(crate) async fn client(&self) -> Result<NodeAdminClient<Channel>, Failure> {
        Ok(NodeAdminClient::new(self.channel().await?).max_decoding_message_size(MAX_MESSAGE))
    }

    /// A request that ends with an error when the answer does not come in time.
    #[expect(clippy::unused_self, reason = "reads as `ServerArgs::request` does")]
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(TIMEOUT);
        request
    }
}
