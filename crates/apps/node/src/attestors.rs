//! Which workload attestors the node asks, `unix` always, the others as configured; and by which
//! program it is attested itself, if it is by one.

use std::path::Path;
use std::sync::Arc;

use muster_attest::node::plugin::PluginNode;
use muster_attest::plugin::PluginOptions;
use muster_attest::workload::docker::DockerAttestor;
use muster_attest::workload::plugin;
use muster_attest::workload::systemd::SystemdAttestor;
use muster_attest::workload::unix::{UnixAttestor, UnixOptions};
use muster_model::TrustDomain;
use muster_plugin::node::NodeAttestor;
use muster_plugin::workload::WorkloadAttestor;
use muster_rt::files::{self, FileError};

use crate::config::MoreAttestors;

/// The folder in `data_dir` where the plugins that the node starts have their sockets.
const PLUGINS: &str = "plugins";

/// The attestors, in the order in which their facts are shown. Plugins are started at once.
pub(crate) fn all(
    unix: UnixOptions,
    more: &MoreAttestors,
    data_dir: &Path,
) -> Result<Vec<Arc<dyn WorkloadAttestor>>, FileError> {
    let mut attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![Arc::new(UnixAttestor::new(unix))];
    if let Some(docker) = &more.docker {
        attestors.push(Arc::new(DockerAttestor::new(docker.clone())));
    }
    if let Some(systemd) = &more.systemd {
        attestors.push(Arc::new(SystemdAttestor::new(systemd.clone())));
    }
    if !more.plugins.is_empty() {
        let folder = data_dir.join(PLUGINS);
        files::private_directory(&folder)?;
        attestors.extend(plugin::all(&more.plugins, &folder));
    }
    Ok(attestors)
}

/// The program that proves what the node is. It is started at once.
pub(crate) fn of_node(
    options: Option<&PluginOptions>,
    data_dir: &Path,
    trust_domain: &TrustDomain,
) -> Result<Option<Arc<dyn NodeAttestor>>, FileError> {
    let Some(options) = options else {
        return Ok(None);
    };
    let folder = data_dir.join(PLUGINS);
    files::private_directory(&folder)?;
    let plugin = PluginNode::new(options.clone(), &folder, trust_domain.clone());
    Ok(Some(Arc::new(plugin)))
}
