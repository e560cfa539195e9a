//! Node attestors.

pub mod join_token;
