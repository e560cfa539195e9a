//! `muster workload`: what any workload can do at the Workload API of its node.

mod files;
mod jwt;
mod keep;
pub(crate) mod stream;
pub(crate) mod view;
mod wit;
mod x509;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_rt::endpoint::Endpoint;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::server_api::MAX_MESSAGE;
use crate::time::{Ttl, parse_ttl};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Fetch this process's own identities
    #[command(subcommand)]
    Fetch(Fetch),
    /// Ask the node whether a token is good
    #[command(subcommand)]
    Validate(Validate),
    /// Keep this process's identity in files
    Watch(Box<keep::Watch>),
    /// Run a command with its identity in files that are kept current
    Run(Box<keep::Run>),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Fetch {
    /// X509-SVIDs and the bundles that verify others
    X509(x509::Fetch),
    /// JWT-SVIDs for an audience
    Jwt(jwt::Fetch),
    /// WIT-SVIDs, each with a key of its own; the node must have the WIT profile on
    Wit(wit::Fetch),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Validate {
    /// A JWT-SVID that somebody presented
    Jwt(jwt::Validate),
}

/// Where the Workload API is (WEP-14: what is given explicitly beats the environment).
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkloadArgs {
    /// Address of the Workload API
    #[arg(
        long,
        value_name = "ADDR",
        env = "SPIFFE_ENDPOINT_SOCKET",
        hide_env_values = true,
        default_value = "unix:///run/muster/node/workload.sock",
        value_parser = Endpoint::parse,
        help_heading = "Connection"
    )]
    pub(crate) socket: Endpoint,
    /// How long to wait for the first answer; a node holds a call for 10s by default while an
    /// entry may still come
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_ttl, help_heading = "Connection")]
    timeout: Ttl,
}

/// What puts the security header into each call (WEP-04).
pub(crate) type Header = fn(Request<()>) -> Result<Request<()>, Status>;

/// A client that sends the security header with each call (WEP-04).
pub(crate) type Client =
    SpiffeWorkloadApiClient<tonic::service::interceptor::InterceptedService<Channel, Header>>;

/// The exit code is a child's own where there is one.
pub(crate) async fn run(command: Command, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Fetch(Fetch::X509(fetch)) => x509::fetch(fetch, output).await?,
        Command::Fetch(Fetch::Jwt(fetch)) => jwt::fetch(fetch, output).await?,
        Command::Fetch(Fetch::Wit(fetch)) => wit::fetch(fetch, output).await?,
        Command::Validate(Validate::Jwt(validate)) => jwt::validate(validate, output).await?,
        Command::Watch(watch) => return keep::watch(*watch).await,
        Command::Run(run) => return keep::run(*run).await,
    }
    Ok(ExitCode::SUCCESS)
}

impl WorkloadArgs {
    pub(crate) fn at(socket: Endpoint) -> Self {
        Self {
            socket,
            timeout: Ttl(30),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout.0.max(1).unsigned_abs()))
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let header: Header = security_header;
        Ok(
            SpiffeWorkloadApiClient::with_interceptor(self.channel().await?, header)
                .max_decoding_message_size(MAX_MESSAGE),
        )
    }

    /// A channel to the node, without the security header.
    pub(crate) async fn channel(&self) -> Result<Channel, Failure> {
        match &self.socket {
            Endpoint::Unix(path) => muster_peer::connect(path)
                .await
                .map_err(|error| Failure::of_connect(&error, "muster-node", "--socket")),
            Endpoint::Tcp(address) => tcp(*address).await,
        }
    }
}

async fn tcp(address: std::net::SocketAddr) -> Result<Channel, Failure> {
    let unreachable = |error: tonic::transport::Error| {
        Failure::new(
            Exit::Unavailable,
            format!(
                "cannot connect to {address}: {error}; start muster-node, or pass its address \
                 with --socket"
            ),
        )
    };
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(unreachable)?
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await
        .map_err(unreachable)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the signature is that of an interceptor"
)]
pub(crate) fn security_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}
