//! `muster bundle`: what the trust domain's signatures are verified with.

use clap::{Args, Subcommand, ValueEnum};
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::types;
use muster_svid::x509::Certificate;

use crate::failure::Failure;
use crate::json;
use crate::output::{self, Output};
use crate::pem;
use crate::server_api::{MAX_MESSAGE, ServerArgs};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the bundle of the server's trust domain
    Show(Show),
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// The X.509 roots as PEM
    Pem,
    /// The SPIFFE bundle document: X.509 roots, JWT keys and WIT keys as a JWK set
    Spiffe,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// How to write the bundle; with --json and no --format, the server's message
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    let Command::Show(show) = command;
    let bundle = fetch(&show.server).await?;
    match show.format {
        None if output.is_json() => output.answer(|| json::bundle(&bundle), String::new),
        None | Some(Format::Pem) => output::write(&roots(&bundle)),
        Some(Format::Spiffe) => {
            let bundle = read(&bundle)?;
            let document = muster_svid::bundle::encode_spiffe(&bundle);
            output::write(&format!("{}\n", String::from_utf8_lossy(&document)))
        }
    }
}

/// Asks the server for its bundle.
pub(crate) async fn fetch(server: &ServerArgs) -> Result<types::Bundle, Failure> {
    BundleClient::new(server.connect().await?)
        .max_decoding_message_size(MAX_MESSAGE)
        .get_bundle(server.request(GetBundleRequest { output_mask: None }))
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::of_call("get the bundle", &status))
}

/// The X.509 roots as PEM.
pub(crate) fn roots(bundle: &types::Bundle) -> String {
    pem::certificates(bundle.x509_authorities.iter().map(|root| &root.asn1))
}

fn read(bundle: &types::Bundle) -> Result<muster_model::Bundle, Failure> {
    let expiry = |der: &[u8]| Certificate::parse(der).ok().map(|c| c.not_after);
    muster_wire::bundle::read(bundle, expiry)
        .map_err(|error| Failure::failed(format!("the server's bundle cannot be read: {error}")))
}
