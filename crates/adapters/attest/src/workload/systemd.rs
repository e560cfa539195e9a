//! Units of systemd: which service or scope a process belongs to.
//!
//! The selectors are SPIRE's, `id:UNIT` and `fragment_path:FILE`, and `slice:SLICE` beside them.
//!
//! systemd finds the unit by the control group of the process, in which no user can put itself; a
//! group that a user makes below its own is the user's unit (`user@UID.service`). It is asked by
//! pidfd where it can answer that (254 and newer). Older ones are asked by number, and the answer
//! counts only if the process still runs when it comes: as long as it does, the number is its own.

mod bus;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use muster_model::Selector;
use muster_plugin::workload::{AttestError, Evidence, Fact, Process, WorkloadAttestor};
use tokio::time::timeout;

use self::bus::{Bus, BusError, By, Unit};
use super::process::still_runs;

/// The attestor's name and the type of its selectors.
pub const KIND: &str = "systemd";

/// How long systemd may take for everything about one process.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where systemd is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdOptions {
    /// The socket of the system bus.
    pub bus_socket: PathBuf,
}

impl Default for SystemdOptions {
    fn default() -> Self {
        Self {
            bus_socket: "/run/dbus/system_bus_socket".into(),
        }
    }
}

/// The `systemd` attestor.
#[derive(Debug)]
pub struct SystemdAttestor {
    bus: Bus,
}

impl SystemdAttestor {
    /// An attestor that asks over the bus of `options`.
    pub fn new(options: SystemdOptions) -> Self {
        Self {
            bus: Bus::new(options.bus_socket),
        }
    }
}

fn failed(process: &Process, reason: &str) -> AttestError {
    AttestError::Failed {
        kind: KIND,
        reason: format!("process {}: {reason}", process.pid),
        source: None,
    }
}

fn away(process: &Process, reason: &str) -> AttestError {
    AttestError::Away {
        kind: KIND,
        reason: format!("process {}: {reason}", process.pid),
    }
}

fn facts(unit: &Unit, by: By) -> Vec<Fact> {
    let evidence = match by {
        By::Pidfd => Evidence::ServiceManager,
        By::Number => Evidence::ServiceManagerByNumber,
    };
    // A transient unit has no file, and a slice is in no slice.
    [
        ("id", &unit.id),
        ("fragment_path", &unit.fragment_path),
        ("slice", &unit.slice),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .filter_map(|(name, value)| Selector::new(KIND, format!("{name}:{value}")).ok())
    .map(|selector| Fact { selector, evidence })
    .collect()
}

#[async_trait]
impl WorkloadAttestor for SystemdAttestor {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError> {
        still_runs(process)?;
        process.work.asked();
        let found = timeout(PATIENCE, self.bus.unit_of(process.pid, &process.pidfd)).await;
        // Whatever the answer was: about a process that has ended it may be another's.
        still_runs(process)?;
        match found {
            Ok(Ok((unit, by))) => Ok(facts(&unit, by)),
            Ok(Err(BusError::NoUnit)) => Ok(Vec::new()),
            Ok(Err(error @ BusError::Unreachable { .. })) => Err(away(process, &error.to_string())),
            Ok(Err(error)) => Err(failed(process, &error.to_string())),
            Err(_elapsed) => Err(away(
                process,
                &format!("systemd did not answer within {} s", PATIENCE.as_secs()),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
