//! Muster: `muster dev` for server and node, `muster-server` for a server alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use muster_model::SpiffeId;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Domain, PATIENCE, Prepared, Server, TRUST_DOMAIN, append, folder, spawn_with};
use crate::Failure;
use crate::process::Pid;

/// The first line of `muster dev --json`.
#[derive(Deserialize)]
struct Ready {
    server_address: String,
    server_admin_socket: PathBuf,
    workload_socket: PathBuf,
    node_admin_socket: PathBuf,
    node_id: String,
    server_pid: i32,
    node_pid: i32,
}

pub(super) async fn start(muster: &Path) -> Result<Domain, Failure> {
    let folder = folder()?;
    let log = folder.path().join("log");
    let mut dev = spawn_with(
        Command::new(muster)
            .args(["dev", "--no-demo", "--json", "--trust-domain", TRUST_DOMAIN])
            .args(["--x509-ttl", "1h", "--jwt-ttl", "5m", "--ca-ttl", "24h"])
            .arg("--dir")
            .arg(folder.path().join("d")),
        Stdio::piped(),
        append(&log)?.into(),
    )?;
    let output = dev.stdout.take().ok_or("muster dev has no output")?;
    let mut lines = BufReader::new(output).lines();
    let first = timeout(PATIENCE, lines.next_line())
        .await
        .map_err(|_| "muster dev is not ready")??;
    let Some(first) = first else {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(format!("muster dev ended:\n{said}").into());
    };
    tokio::spawn(async move {
        // Read to the end, so that the pipe never fills.
        while let Ok(Some(_)) = lines.next_line().await {}
    });
    let ready: Ready = serde_json::from_str(&first)
        .map_err(|error| format!("the first line of muster dev: {error}: {first}"))?;
    Ok(Domain {
        server: Server {
            pid: Pid(ready.server_pid),
            admin_socket: ready.server_admin_socket,
            address: ready.server_address,
        },
        node: Pid(ready.node_pid),
        node_id: SpiffeId::parse(&ready.node_id)?,
        workload_socket: ready.workload_socket,
        admin_socket: Some(ready.node_admin_socket),
        _processes: vec![dev],
        _folder: folder,
    })
}

pub(super) fn prepare_server(muster: &Path) -> Result<Prepared, Failure> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    let config = at("server.toml");
    let admin_socket = at("api.sock");
    let (data, admin) = (at("data"), admin_socket.display());
    let text = format!(
        r#"trust_domain = "{TRUST_DOMAIN}"
listen = "127.0.0.1:0"
data_dir = "{}"
admin_socket = "{admin}"

[log]
level = "warn"
"#,
        data.display(),
    );
    fs::write(&config, text)?;
    Ok(Prepared {
        program: muster.with_file_name("muster-server"),
        arguments: vec!["run".into(), "--config".into(), config],
        admin_socket,
        folder,
    })
}
