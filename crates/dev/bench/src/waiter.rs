//! A workload of its own process and uid that asks for its SVID before it has an entry.
//!
//! It prints `waiting` once it has asked, then `NANOSECONDS DENIALS` when it holds its SVID.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_proto::workload::X509svidRequest;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::time::sleep;
use tonic::Code;

use crate::Failure;
use crate::caller::with_header;
use crate::clock::shared_nanoseconds;

/// How soon it asks again after a denial.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Long enough for a request to reach a node on the same machine.
const ASKED: Duration = Duration::from_millis(100);

/// Where to ask, and as whom.
#[derive(Args)]
pub(crate) struct Options {
    /// The Workload API socket.
    socket: PathBuf,
    /// Become this user first.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
}

/// Becomes the user, asks, waits, tells.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    become_user(options.uid)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (at, denials) = runtime.block_on(wait(options))?;
    println!("{at} {denials}");
    Ok(())
}

/// Becomes the user `uid`, with no other groups, if there is one to become.
pub(crate) fn become_user(uid: Option<u32>) -> Result<(), Failure> {
    if let Some(uid) = uid {
        setgroups(&[])?;
        setgid(Gid::from_raw(uid))?;
        setuid(Uid::from_raw(uid))?;
    }
    Ok(())
}

async fn wait(options: &Options) -> Result<(u64, u32), Failure> {
    let channel = muster_peer::connect(&options.socket).await?;
    tokio::spawn(async {
        sleep(ASKED).await;
        println!("waiting");
    });
    let mut denials = 0;
    loop {
        let mut api = SpiffeWorkloadApiClient::new(channel.clone());
        let first = async {
            let answer = api.fetch_x509svid(with_header(X509svidRequest {})).await?;
            answer.into_inner().message().await
        };
        match first.await {
            Ok(Some(answer)) if !answer.svids.is_empty() => {
                return Ok((shared_nanoseconds(), denials));
            }
            Ok(_) => return Err("an answer without SVID".into()),
            Err(status) if status.code() == Code::PermissionDenied => {
                denials += 1;
                sleep(ASK_AGAIN).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}
