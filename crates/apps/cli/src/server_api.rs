//! The server's admin socket: how to reach it, and SPIRE's messages as the domain's types.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_proto::spire::api::types;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::failure::Failure;
use crate::time::{Ttl, parse_ttl};

/// The largest answer that is read, in bytes: a page of 500 entries with many long selectors.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// How many items a page of a list has.
pub(crate) const PAGE: i32 = 500;

/// Where the server is, for commands that speak to it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// Admin socket of the server
    #[arg(
        long,
        value_name = "PATH",
        env = "MUSTER_SERVER_SOCKET",
        hide_env_values = true,
        default_value = "/run/muster/server/api.sock",
        help_heading = "Connection"
    )]
    pub(crate) server_socket: PathBuf,
    /// How long to wait for each answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_ttl, help_heading = "Connection")]
    timeout: Ttl,
}

impl ServerArgs {
    pub(crate) fn at(server_socket: PathBuf) -> Self {
        Self {
            server_socket,
            timeout: Ttl(30),
        }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, Failure> {
        muster_peer::connect(&self.server_socket)
            .await
            .map_err(|error| Failure::of_connect(&error, "muster-server", "--server-socket"))
    }

    /// A request that ends with an error when the answer does not come in time.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(u64::from(
            self.timeout.0.max(1).unsigned_abs(),
        )));
        request
    }
}

/// An ID from a message as text; what a server sends is shown as it is.
pub(crate) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Selectors as people write them.
pub(crate) fn selector_texts(selectors: &[types::Selector]) -> Vec<String> {
    selectors
        .iter()
        .map(|selector| format!("{}:{}", selector.r#type, selector.value))
        .collect()
}

/// The status of an item of a batch, if it is not good.
pub(crate) fn item_error(status: Option<&types::Status>) -> Option<Status> {
    match status {
        None => Some(Status::internal("the server gave no status for this item")),
        Some(status) if status.code == 0 => None,
        Some(status) => Some(Status::new(
            tonic::Code::from_i32(status.code),
            status.message.clone(),
        )),
    }
}
