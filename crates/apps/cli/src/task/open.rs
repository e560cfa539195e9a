//! What a task is to be, as flags; the same for `muster task open` and `muster run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_crypto::digest;
use muster_model::{ClassName, SpiffeId, TaskId};
use muster_proto::muster::agent::v1::{OpenTaskRequest, Permissions, TaskBinding};

use super::{lifetime, task_id};
use crate::failure::Failure;
use crate::time::{When, now, parse_when};

#[derive(Args, Debug)]
pub(crate) struct Wishes {
    /// Which of this process's agents opens it; not needed where it is one only
    #[arg(long, value_name = "SPIFFE-ID", help_heading = "Task")]
    agent: Option<SpiffeId>,
    /// The class of that agent
    #[arg(long, value_name = "CLASS", help_heading = "Task")]
    class: Option<ClassName>,
    /// What kind of work it is, in a word
    #[arg(
        long = "task",
        visible_alias = "kind",
        value_name = "KIND",
        default_value = "command",
        help_heading = "Task"
    )]
    kind: String,
    /// How long it may live; by default as long as its class says
    #[arg(long, value_name = "DURATION", value_parser = lifetime, conflicts_with = "deadline", help_heading = "Task")]
    ttl: Option<Duration>,
    /// When it ends at the latest: a duration from now, RFC 3339, or seconds since 1970
    #[arg(long, value_name = "WHEN", value_parser = parse_when, help_heading = "Task")]
    deadline: Option<When>,
    /// A scope that it may ask for; repeatable
    #[arg(long, value_name = "SCOPE", help_heading = "Task")]
    scope: Vec<String>,
    /// A resource that it may ask for; repeatable
    #[arg(long, value_name = "URI", help_heading = "Task")]
    resource: Vec<String>,
    /// The most sensitive data that it may have, 0 to 4
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4), help_heading = "Task")]
    data_class: u32,
    /// How much it may spend, in the units of its class; by default what is left above
    #[arg(long, value_name = "N", help_heading = "Task")]
    budget: Option<u64>,
    /// The instruction that it works on; its SHA-256 is recorded, and never its text
    #[arg(long, value_name = "FILE", help_heading = "Task")]
    purpose_file: Option<PathBuf>,
    /// The task that it is part of, where that is not the task of the socket
    #[arg(long, value_name = "ULID", value_parser = task_id, help_heading = "Task")]
    parent: Option<TaskId>,
}

impl Wishes {
    /// The request, for this binding.
    pub(crate) fn request(&self, binding: TaskBinding) -> Result<OpenTaskRequest, Failure> {
        let purpose_sha256 = match &self.purpose_file {
            None => String::new(),
            Some(file) => {
                let text = std::fs::read(file).map_err(|error| {
                    Failure::failed(format!(
                        "cannot read the instruction in {}: {error}",
                        file.display()
                    ))
                })?;
                digest::hex(&digest::sha256(&text))
            }
        };
        let text = |value: Option<String>| value.unwrap_or_default();
        let permissions = Permissions {
            scopes: self.scope.clone(),
            resources: self.resource.clone(),
        };
        Ok(OpenTaskRequest {
            agent: text(self.agent.as_ref().map(ToString::to_string)),
            class: text(self.class.as_ref().map(ToString::to_string)),
            kind: self.kind.clone(),
            purpose_sha256,
            permissions: Some(permissions),
            data_class: self.data_class,
            budget: self.budget,
            deadline: self.deadline.map(|when| when.from(now())),
            ttl: self.ttl.and_then(|ttl| ttl.try_into().ok()),
            parent: text(self.parent.map(|id| id.to_string())),
            binding: Some(binding),
        })
    }
}
