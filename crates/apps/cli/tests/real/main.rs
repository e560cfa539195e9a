//! The command as a person and a script meet it: real processes, real sockets.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod common;
#[cfg(test)]
mod dev;
#[cfg(test)]
mod files;
#[cfg(test)]
mod plugin;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod run;
#[cfg(test)]
mod sightings;
#[cfg(test)]
mod tasks_node;
