//! SPIRE in its default shape: SQLite, keys on disk, join token, the `unix` attestor; its rate
//! limits off, so that the program is measured and not the limit.

use std::fs;
use std::path::Path;

use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{CreateJoinTokenRequest, ListAgentsRequest};
use muster_proto::spire::api::types::AgentMask;
use muster_wire::id;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{
    Domain, PATIENCE, POLL, Prepared, Server, TRUST_DOMAIN, folder, free_port, pid, serving, spawn,
};
use crate::Failure;

pub(super) async fn start(binaries: &Path) -> Result<Domain, Failure> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    let port = free_port()?;
    let admin_socket = at("server.sock");
    let server_config = write_server(folder.path(), port)?;
    let log = at("log");
    let server = spawn(
        Command::new(binaries.join("spire-server"))
            .args(["run", "-config"])
            .arg(server_config),
        &log,
    )?;
    timeout(PATIENCE, serving(&admin_socket))
        .await
        .map_err(|_| "spire-server does not serve")?;

    let channel = muster_peer::connect(&admin_socket).await?;
    let mut agents = AgentClient::new(channel);
    let token = agents
        .create_join_token(CreateJoinTokenRequest {
            ttl: 600,
            ..CreateJoinTokenRequest::default()
        })
        .await?
        .into_inner()
        .value;
    let workload_socket = at("agent.sock");
    let agent_config = at("agent.conf");
    fs::write(
        &agent_config,
        format!(
            r#"agent {{
  data_dir = "{}"
  log_level = "ERROR"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{}"
  trust_domain = "{TRUST_DOMAIN}"
  insecure_bootstrap = true
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
            at("agent").display(),
            workload_socket.display(),
        ),
    )?;
    let agent = spawn(
        Command::new(binaries.join("spire-agent"))
            .args(["run", "-config"])
            .arg(agent_config)
            .args(["-joinToken", &token]),
        &log,
    )?;
    let ready = async {
        while !workload_socket.exists() {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, ready)
        .await
        .map_err(|_| "spire-agent does not serve")?;
    let listed = agents
        .list_agents(ListAgentsRequest {
            output_mask: Some(AgentMask::default()),
            ..ListAgentsRequest::default()
        })
        .await?
        .into_inner();
    let agent_id = listed.agents.first().and_then(|agent| agent.id.as_ref());
    Ok(Domain {
        server: Server {
            pid: pid(&server)?,
            admin_socket,
            address: format!("127.0.0.1:{port}"),
        },
        node: pid(&agent)?,
        node_id: id::any(agent_id)?,
        workload_socket,
        admin_socket: None,
        _processes: vec![agent, server],
        _folder: folder,
    })
}

pub(super) fn prepare_server(binaries: &Path) -> Result<Prepared, Failure> {
    let folder = folder()?;
    let config = write_server(folder.path(), free_port()?)?;
    Ok(Prepared {
        program: binaries.join("spire-server"),
        arguments: vec!["run".into(), "-config".into(), config],
        admin_socket: folder.path().join("server.sock"),
        folder,
    })
}

fn write_server(folder: &Path, port: u16) -> Result<std::path::PathBuf, Failure> {
    let data = folder.join("server");
    fs::create_dir_all(&data)?;
    let config = folder.join("server.conf");
    fs::write(
        &config,
        format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "{}"
  log_level = "ERROR"
  socket_path = "{}"
  ratelimit {{
    attestation = false
    signing = false
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{}"
    }}
  }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#,
            data.display(),
            folder.join("server.sock").display(),
            data.join("datastore.sqlite3").display(),
            data.join("keys.json").display(),
        ),
    )?;
    Ok(config)
}
