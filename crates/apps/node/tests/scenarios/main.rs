//! The node against a double of its server: real sockets, real TLS, real gRPC.

#[cfg(test)]
mod activation;
#[cfg(test)]
mod attestations;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod broker_client;
#[cfg(test)]
mod connection;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod delegated;
#[cfg(test)]
mod denials;
#[cfg(test)]
mod double;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod join;
#[cfg(test)]
mod jwt;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod killed;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod reattest;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod refusals_double;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod rule_double;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod sds;
#[cfg(test)]
mod services;
#[cfg(test)]
mod task_actor;
#[cfg(test)]
mod task_double;
#[cfg(test)]
mod task_ends;
#[cfg(test)]
mod task_json;
#[cfg(test)]
mod tasks;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tracer;
#[cfg(test)]
mod wit;
#[cfg(test)]
mod wit_double;
#[cfg(test)]
mod x509;
