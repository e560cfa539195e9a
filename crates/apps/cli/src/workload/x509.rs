//! `muster workload fetch x509`.

use std::path::PathBuf;

use clap::Args;
use muster_proto::workload::X509svidResponse;
use muster_rt::{Clock, SystemClock};

use super::files::Directory;
use super::stream::{self, Then};
use super::{WorkloadArgs, view};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::time::rough;

/// Private keys are not printed, neither as text nor as JSON: they leave through --write only.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// Stay, and show each update; goes on when the node is away for a while
    #[arg(long)]
    watch: bool,
    /// Write svid.N.pem, svid.N.key, bundle.N.pem and federated_bundle.N.M.pem into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    workload: WorkloadArgs,
}

pub(super) async fn fetch(fetch: Fetch, output: Output) -> Result<(), Failure> {
    let mut directory = fetch.write.map(Directory::open).transpose()?;
    let mut show = |update: &X509svidResponse| {
        let update = view::X509Update::read(update)?;
        if let Some(directory) = &mut directory {
            directory.write_x509(&update)?;
        }
        let now = SystemClock::new().now().wall;
        output.answer(|| update.json(), || update.text(output, now))
    };
    if !fetch.watch {
        return show(&stream::first(&fetch.workload).await?);
    }
    stream::watch(
        &fetch.workload,
        |update| show(&update).map(|()| Then::Continue),
        |failure, pause| {
            output::note(&format!("muster: {failure} (again in {})", rough(pause)));
        },
    )
    .await
}
