//! `muster bundle`: what signatures are verified with, the trust domain's own and those of others.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use muster_model::TrustDomain;
use muster_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest,
    ListFederatedBundlesRequest,
};
use muster_proto::spire::api::types;
use muster_svid::bundle_file;
use muster_svid::x509::Certificate;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::json;
use crate::output::{self, Output};
use crate::pem;
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs, item_error};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the bundle of the server's trust domain
    Show(Show),
    /// List the bundles of foreign trust domains
    List(List),
    /// Add or replace the bundle of a foreign trust domain
    Set(Set),
    /// Remove the bundle of a foreign trust domain
    Delete(Delete),
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

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Whose bundle it is, such as other.example
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// The bundle: PEM certificates or a SPIFFE bundle document; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum OnEntries {
    /// Refuse while an entry or a rule federates with the trust domain
    Restrict,
    /// Delete such entries and rules as well
    Delete,
    /// Keep such entries and rules, and let them federate with it no longer
    Dissociate,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// Whose bundle it is
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// What becomes of entries and rules that federate with the trust domain
    #[arg(long, value_name = "MODE", default_value = "restrict")]
    entries: OnEntries,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Show(show) => self::show(&show, output).await,
        Command::List(list) => self::list(&list.server, output).await,
        Command::Set(set) => self::set(&set, output).await,
        Command::Delete(delete) => self::delete(&delete, output).await,
    }
}

async fn client(server: &ServerArgs) -> Result<BundleClient<Channel>, Failure> {
    Ok(BundleClient::new(server.connect().await?).max_decoding_message_size(MAX_MESSAGE))
}

async fn list(server: &ServerArgs, output: Output) -> Result<(), Failure> {
    let mut client = client(server).await?;
    let mut bundles = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListFederatedBundlesRequest {
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let page = client
            .list_federated_bundles(server.request(request))
            .await
            .map_err(|status| Failure::of_call("list the foreign bundles", &status))?
            .into_inner();
        bundles.extend(page.bundles);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.answer(
        || json!({ "bundles": bundles.iter().map(json::bundle).collect::<Value>() }),
        || {
            let row = |bundle: &types::Bundle| {
                vec![
                    bundle.trust_domain.clone(),
                    bundle.x509_authorities.len().to_string(),
                    bundle.jwt_authorities.len().to_string(),
                    bundle.sequence_number.to_string(),
                ]
            };
            let rows: Vec<_> = bundles.iter().map(row).collect();
            output.table(
                &["TRUST DOMAIN", "X.509", "JWT", "SEQUENCE"],
                &rows,
                "No foreign bundle is here. Add one with `muster bundle set`.",
            )
        },
    )
}

async fn set(set: &Set, output: Output) -> Result<(), Failure> {
    let content = read_input(&set.file)?;
    let bundle = bundle_file::read(&content, set.trust_domain.clone()).map_err(|error| {
        Failure::failed(format!("{} is no bundle: {error}", set.file.display()))
    })?;
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![muster_wire::bundle::write(&bundle, None)],
        output_mask: None,
    };
    let mut results = client(&set.server)
        .await?
        .batch_set_federated_bundle(set.server.request(request))
        .await
        .map_err(|status| Failure::of_call("set the bundle", &status))?
        .into_inner()
        .results;
    let result = results.pop().unwrap_or_default();
    if let Some(status) = item_error(result.status.as_ref()) {
        return Err(Failure::of_call("set the bundle", &status));
    }
    let bundle = result.bundle.unwrap_or_default();
    output.answer(
        || json::bundle(&bundle),
        || format!("The bundle of {} is set.\n", set.trust_domain),
    )
}

async fn delete(delete: &Delete, output: Output) -> Result<(), Failure> {
    let mode = match delete.entries {
        OnEntries::Restrict => Mode::Restrict,
        OnEntries::Delete => Mode::Delete,
        OnEntries::Dissociate => Mode::Dissociate,
    };
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![delete.trust_domain.as_str().to_owned()],
        mode: mode.into(),
    };
    let mut results = client(&delete.server)
        .await?
        .batch_delete_federated_bundle(delete.server.request(request))
        .await
        .map_err(|status| Failure::of_call("delete the bundle", &status))?
        .into_inner()
        .results;
    let status = results.pop().unwrap_or_default().status;
    if let Some(status) = item_error(status.as_ref()) {
        return Err(Failure::of_call("delete the bundle", &status));
    }
    output.answer(
        || json!({ "trust_domain": delete.trust_domain.as_str(), "outcome": "deleted" }),
        || format!("The bundle of {} is deleted.\n", delete.trust_domain),
    )
}

/// The longest bundle that is read, in bytes.
const MAX_BUNDLE: u64 = 4 << 20;

fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_BUNDLE)
            .read_to_end(&mut content)
    } else {
        File::open(path).and_then(|file| file.take(MAX_BUNDLE).read_to_end(&mut content))
    };
    match read {
        Ok(_) => Ok(content),
        Err(error) => Err(Failure::failed(format!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}

async fn show(show: &Show, output: Output) -> Result<(), Failure> {
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
