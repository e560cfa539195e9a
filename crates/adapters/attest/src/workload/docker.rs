//! Containers of docker and podman: image, labels and environment.
//!
//! The selectors are SPIRE's: `label:KEY:VALUE`, `env:NAME=VALUE`, `image_id:NAME` and
//! `image_config_digest:sha256:...`, all of type `docker`, whichever engine it is.
//!
//! Three sources must agree before there is a fact: the kernel's `/proc/PID/cgroup` names a
//! container; the engine says that this container runs, and which is its first process; and the
//! kernel shows *that* process in the same control group, with this one in it or below. The last
//! step is what SPIRE leaves out, and what a control group that a user named after somebody else's
//! container does not survive.
//!
//! A further difference: the digest is that of the image which the container was started from, not of
//! the one that its name means now.

mod cgroup;
mod engine;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use muster_model::Selector;
use muster_peer::HeldProcess;
use muster_plugin::workload::{AttestError, Evidence, Fact, Process, WorkloadAttestor};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::cgroup::{CgroupError, Claim, ContainerId, Engine, Membership};
use self::engine::{Container, Endpoint};
use super::process::{read, still_runs};

/// The attestor's name and the type of its selectors.
pub const KIND: &str = "docker";
/// What values begin with that are variables of the environment.
const ENVIRONMENT: &str = "env:";

/// How long the description of a container is believed. It cannot change while the container runs;
/// this bounds what an engine that was replaced may have said.
const FRESH: Duration = Duration::from_secs(30);
/// How many descriptions are kept.
const KEPT: usize = 1_024;
/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// Where the engines listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOptions {
    /// Docker's socket.
    pub docker_socket: PathBuf,
    /// The socket of root's podman.
    pub podman_socket: PathBuf,
    /// The sockets of users' own podman. `None`: containers of users are not attested, since what a
    /// user's engine says about them is what that user wants it to say.
    pub user_podman_socket: Option<SocketTemplate>,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            docker_socket: "/var/run/docker.sock".into(),
            podman_socket: "/run/podman/podman.sock".into(),
            user_podman_socket: None,
        }
    }
}

/// A path in which `%d` stands for a user's number, such as `/run/user/%d/podman/podman.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketTemplate {
    before: String,
    after: String,
}

/// The text is no socket template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an absolute path with %d once, in the place of the user's number")]
pub struct NotATemplate;

impl SocketTemplate {
    /// Parses the path.
    pub fn parse(text: &str) -> Result<Self, NotATemplate> {
        let (before, after) = text.split_once("%d").ok_or(NotATemplate)?;
        if !before.starts_with('/') || before.contains('%') || after.contains('%') {
            return Err(NotATemplate);
        }
        Ok(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }

    fn path(&self, uid: u32) -> PathBuf {
        format!("{}{uid}{}", self.before, self.after).into()
    }
}

impl fmt::Display for SocketTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%d{}", self.before, self.after)
    }
}

/// The `docker` attestor.
#[derive(Debug)]
pub struct DockerAttestor {
    options: DockerOptions,
    places: Semaphore,
    known: Mutex<HashMap<(Endpoint, ContainerId), Known>>,
}

/// A container, and its first process: as long as that runs, the container is the same.
#[derive(Clone, Debug)]
struct Known {
    container: Arc<Container>,
    first: HeldProcess,
    at: Instant,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH && self.first.is_alive()
    }
}

impl DockerAttestor {
    /// An attestor that asks the engines of `options`.
    pub fn new(options: DockerOptions) -> Self {
        Self {
            options,
            places: Semaphore::new(AT_ONCE),
            known: Mutex::default(),
        }
    }

    fn endpoint(&self, process: &Process, engine: Engine) -> Result<Endpoint, AttestError> {
        let (socket, owner) = match (engine, &self.options.user_podman_socket) {
            (Engine::Docker, _) => (self.options.docker_socket.clone(), None),
            (Engine::Podman, _) => (self.options.podman_socket.clone(), None),
            (Engine::UserPodman { uid }, Some(template)) => (template.path(uid), Some(uid)),
            (Engine::UserPodman { uid }, None) => {
                return Err(failed(
                    process,
                    &format!(
                        "it is in a container of user {uid}'s own podman, which only that user vouches for; set attest.docker.user_podman_socket to believe it"
                    ),
                ));
            }
        };
        Ok(Endpoint { socket, owner })
    }

    async fn container(
        &self,
        process: &Process,
        endpoint: Endpoint,
        id: &ContainerId,
    ) -> Result<Known, AttestError> {
        let key = (endpoint, id.clone());
        if let Some(known) = self.remembered(&key) {
            return Ok(known);
        }
        let place = self.places.acquire().await;
        process.work.asked();
        let container = engine::inspect(&key.0, id).await.map_err(|error| {
            if error.is_away() {
                AttestError::Away {
                    kind: KIND,
                    reason: format!("process {}: {error}", process.pid),
                }
            } else {
                failed(process, &error.to_string())
            }
        })?;
        drop(place);
        let first = HeldProcess::by_number(container.pid).map_err(|error| {
            failed(
                process,
                &format!(
                    "the first process of container {id} is {} to its engine, and the node cannot see it ({error}); run the node in the host's pid namespace",
                    container.pid
                ),
            )
        })?;
        let known = Known {
            container: Arc::new(container),
            first,
            at: Instant::now(),
        };
        self.remember(key, known.clone());
        Ok(known)
    }

    fn remembered(&self, key: &(Endpoint, ContainerId)) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|known| known.is_fresh()).cloned()
    }

    fn remember(&self, key: (Endpoint, ContainerId), container: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is let go at once: each keeps a descriptor open.
        known.retain(|_, known| known.is_fresh());
        if known.len() < KEPT {
            known.insert(key, container);
        }
    }
}

/// Whether the container's first process is where this process says that its container is.
fn agree(process: &Process, known: &Known, claim: &Claim) -> Result<(), AttestError> {
    let unreadable = |error: String| {
        failed(
            process,
            &format!("the first process of container {}: {error}", claim.id),
        )
    };
    let dir = known
        .first
        .proc_dir()
        .map_err(|error| unreadable(error.to_string()))?;
    let content = dir
        .read("cgroup")
        .map_err(|error| unreadable(error.to_string()))?;
    let first = Membership::parse(&content).map_err(|error| unreadable(error.to_string()))?;
    if !is_inside(&membership(process)?, &first, claim) {
        return Err(failed(
            process,
            &format!(
                "its control group is named after the container {}, but the container is in another one; the name is not the engine's",
                claim.id
            ),
        ));
    }
    Ok(())
}

/// Whether a process with the groups `own` and this `claim` is in the container whose first process
/// has the groups `first`. Both ways: it is in the groups that the container is known by, and the
/// container is in those that it names.
fn is_inside(own: &Membership, first: &Membership, claim: &Claim) -> bool {
    let theirs = first.claim().ok().flatten();
    theirs.is_some_and(|theirs| {
        theirs.id == claim.id && theirs.engine == claim.engine && own.is_within(&theirs)
    }) && first.is_within(claim)
}

/// The control groups that the process is in now.
fn membership(process: &Process) -> Result<Membership, AttestError> {
    let content = read(process, KIND, "cgroup")?;
    still_runs(process)?;
    Membership::parse(&content).map_err(|error| {
        failed(
            process,
            &format!("/proc/{}/cgroup is not understood: {error}", process.pid),
        )
    })
}

fn failed(process: &Process, reason: &str) -> AttestError {
    AttestError::Failed {
        kind: KIND,
        reason: format!("process {}: {reason}", process.pid),
        source: None,
    }
}

/// A selector as it can be put on a record: of a variable of a container's environment only the name,
/// as its value may be a secret.
pub fn without_value(selector: &Selector) -> Selector {
    let variable = selector
        .value()
        .strip_prefix(ENVIRONMENT)
        .filter(|_| selector.kind() == KIND);
    let bare = variable.and_then(|variable| {
        // What has no `=` may be a secret that somebody put there by mistake.
        let name = variable.split_once('=').map_or("", |(name, _)| name);
        Selector::new(KIND, format!("{ENVIRONMENT}{name}")).ok()
    });
    bare.unwrap_or_else(|| selector.clone())
}

/// What is known about a container, each once, in a fixed order.
fn facts(container: &Container, evidence: Evidence) -> Vec<Fact> {
    let labels = container
        .labels
        .iter()
        .map(|(key, value)| format!("label:{key}:{value}"));
    let environment = container
        .environment
        .iter()
        .map(|one| format!("{ENVIRONMENT}{one}"));
    let image = (!container.image.is_empty()).then(|| format!("image_id:{}", container.image));
    let digest = (!container.image_digest.is_empty())
        .then(|| format!("image_config_digest:{}", container.image_digest));
    let mut values: Vec<String> = labels
        .chain(environment)
        .chain(image)
        .chain(digest)
        .collect();
    values.sort_unstable();
    values.dedup();
    values
        .into_iter()
        .filter_map(|value| Selector::new(KIND, value).ok())
        .map(|selector| Fact { selector, evidence })
        .collect()
}

#[async_trait]
impl WorkloadAttestor for DockerAttestor {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError> {
        let claim = membership(process)?
            .claim()
            .map_err(|error| failed(process, &error.to_string()))?;
        let Some(claim) = claim else {
            return Ok(Vec::new());
        };
        let endpoint = self.endpoint(process, claim.engine)?;
        let evidence = match endpoint.owner {
            None => Evidence::ContainerEngine,
            Some(_) => Evidence::UserContainerEngine,
        };
        let known = self.container(process, endpoint, &claim.id).await?;
        // Last, and also of a container that was known: the engine may have taken a while.
        agree(process, &known, &claim)?;
        if !known.first.is_alive() {
            return Err(failed(
                process,
                &format!("container {} has ended", claim.id),
            ));
        }
        Ok(facts(&known.container, evidence))
    }
}

#[cfg(test)]
mod tests;
