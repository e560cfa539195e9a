//! Which workload attestors the node asks: `unix` always, the others as configured.

use std::sync::Arc;

use muster_attest::workload::docker::DockerAttestor;
use muster_attest::workload::unix::{UnixAttestor, UnixOptions};
use muster_plugin::workload::WorkloadAttestor;

use crate::config::MoreAttestors;

/// The attestors, in the order in which their facts are shown.
pub(crate) fn all(unix: UnixOptions, more: &MoreAttestors) -> Vec<Arc<dyn WorkloadAttestor>> {
    let mut attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![Arc::new(UnixAttestor::new(unix))];
    if let Some(docker) = &more.docker {
        attestors.push(Arc::new(DockerAttestor::new(docker.clone())));
    }
    attestors
}
