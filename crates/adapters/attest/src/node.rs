//! Node attestors.

pub mod join_token;
pub mod plugin;
