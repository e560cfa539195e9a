//! Wrong process, never: each file is a way in which a process could get what belongs to another,
//! tried on a node that serves, with real processes and real sockets. Each must be refused, logged
//! with the attacker's pid, counted, and told to whoever watches.
//!
//! The attackers are this program, run again with a part to play (`actor`). What needs rights that
//! a machine may not give says so and is left out, unless `MUSTER_ATTACKS=all` is set, as
//! `cargo xtask attacks` does: then it fails (`needs`).

#[cfg(test)]
mod actor;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/authority.rs"]
mod authority;
#[cfg(test)]
#[path = "../scenarios/connection.rs"]
mod connection;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/double.rs"]
mod double;
#[cfg(test)]
mod executed;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod grouped;
#[cfg(test)]
mod hardening;
#[cfg(test)]
mod inherited;
#[cfg(test)]
mod needs;
#[cfg(test)]
mod observed;
#[cfg(test)]
mod pids;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/proof.rs"]
mod proof;
#[cfg(test)]
mod readers;
#[cfg(test)]
#[path = "../scenarios/refusals_double.rs"]
mod refusals_double;
#[cfg(test)]
mod replaced;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/rig.rs"]
mod rig;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/rule_double.rs"]
mod rule_double;
#[cfg(test)]
mod scene;
#[cfg(test)]
#[path = "../scenarios/services.rs"]
mod services;
#[cfg(test)]
mod setuid;
#[cfg(test)]
mod smuggled;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/task_actor.rs"]
mod task_actor;
#[cfg(test)]
#[path = "../scenarios/task_double.rs"]
mod task_double;
#[cfg(test)]
mod threat_model;
#[cfg(test)]
mod traced;
#[cfg(test)]
mod wire;
#[cfg(test)]
#[path = "../scenarios/wit_double.rs"]
mod wit_double;
