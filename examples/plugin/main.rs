//! A workload attestor as a program of its own: which Linux namespaces a process is in.
//!
//! `muster-node` starts it as `node.toml` says (docs/plugins.md):
//!
//! ```toml
//! [[attest.plugin]]
//! name = "namespace"
//! command = ["/usr/local/bin/muster-plugin-namespace"]
//! ```
//!
//! An entry can then ask for `namespace:net:4026531840`.

use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};

use muster_peer::pidfd;
use muster_proto::muster::plugin::v1::workload_attestor_server::{
    WorkloadAttestor, WorkloadAttestorServer,
};
use muster_proto::muster::plugin::v1::{AttestRequest, AttestResponse};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

struct Namespaces;

#[tonic::async_trait]
impl WorkloadAttestor for Namespaces {
    async fn attest(
        &self,
        request: Request<AttestRequest>,
    ) -> Result<Response<AttestResponse>, Status> {
        let request = request.into_inner();
        let selector_values = values(&request)
            .map_err(|error| Status::unavailable(format!("process {}: {error}", request.pid)))?;
        Ok(Response::new(AttestResponse { selector_values }))
    }
}

fn values(request: &AttestRequest) -> Result<Vec<String>, Box<dyn Error>> {
    let process = hold(request)?;
    let mut values = Vec::new();
    for kind in ["net", "pid", "mnt"] {
        // The kernel's text, such as `net:[4026531840]`.
        let link = fs::read_link(format!("/proc/{}/ns/{kind}", request.pid))?;
        let link = link.to_string_lossy();
        let number = link.trim_start_matches(kind).trim_matches([':', '[', ']']);
        values.push(format!("{kind}:{number}"));
    }
    // Last: what was read is about the process that is held, and not about a later one with its
    // number, if that process runs now.
    if !pidfd::is_alive(process.as_fd()) {
        return Err("the process has ended".into());
    }
    Ok(values)
}

/// A pidfd of the process that the node means. Its number may belong to another one by now: the
/// inode number of the pidfd tells, or, before Linux 6.9, when the process started.
fn hold(request: &AttestRequest) -> Result<OwnedFd, Box<dyn Error>> {
    let process = pidfd::open(u32::try_from(request.pid)?)?;
    let is_meant = match pidfd::inode(&process)? {
        Some(inode) if request.pidfd_inode != 0 => inode.get() == request.pidfd_inode,
        Some(_) | None => start_time(request.pid)? == request.start_time,
    };
    if is_meant {
        Ok(process)
    } else {
        Err("the number belongs to another process now".into())
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in brackets, and may itself
/// contain spaces and brackets.
fn start_time(pid: i32) -> Result<u64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name in stat")?;
    let field = fields.split(' ').nth(19).ok_or("no start time in stat")?;
    Ok(field.parse()?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::var_os("MUSTER_PLUGIN_SOCKET")
        .ok_or("MUSTER_PLUGIN_SOCKET is not set; muster-node sets it")?;
    // The node keeps our standard input open; it ends when the node does, however that ends.
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    let listener = UnixListener::bind(socket)?;
    Server::builder()
        .add_service(WorkloadAttestorServer::new(Namespaces))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}
