//! The command as a person and a script meet it: real processes, real sockets.

#[cfg(test)]
mod agents;
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
mod sightings;
