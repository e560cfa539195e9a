//! What any Unix process shows: its user, its groups and, when asked for, its executable.
//!
//! The selectors are SPIRE's: `uid`, `user`, `gid`, `group`, `supplementary_gid`,
//! `supplementary_group`, and, with `discover_workload_path`, `path` and `sha256`. Ids are the
//! effective ones.
//!
//! One difference, for a reason: the path that the kernel shows is the one in the *process's*
//! view of the file system, and in a mount namespace of its own (which needs no privilege) a
//! process can run anything as `/usr/bin/payments`. So `path` is a fact only when it names the
//! running file in the node's view too. [`ForeignPaths::Accept`] restores SPIRE's behaviour.

mod executable;
mod names;
mod status;

use async_trait::async_trait;
use muster_model::Selector;
use muster_plugin::workload::{AttestError, Change, Evidence, Fact, Process, WorkloadAttestor};

use self::executable::{Executables, SeenPath};
use self::names::{Asked, Id, Names};
pub use self::status::{Ids, Status, StatusError};
use super::process::{read, still_runs};

/// The attestor's name and the type of its selectors.
pub const KIND: &str = "unix";

/// What to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixOptions {
    /// Whether, and how, to look at the executable; SPIRE's `discover_workload_path`.
    pub executable: Option<ExecutableOptions>,
    /// What to do with processes that another one steers.
    pub traced: Traced,
}

/// What to do with a process that is traced (`ptrace(2)`): its tracer can make it say anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traced {
    /// It has no facts.
    #[default]
    Refuse,
    /// As if it were not, as with SPIRE; for machines on which people debug.
    Accept,
}

/// How to look at executables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutableOptions {
    /// How large an executable is hashed; SPIRE's `workload_size_limit`.
    pub digest: DigestLimit,
    /// What to do with paths that only the process sees.
    pub foreign_paths: ForeignPaths,
}

/// Which executables are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestLimit {
    /// None.
    Never,
    /// All.
    #[default]
    Unlimited,
    /// Those of at most so many bytes; a larger one is an error of the attestor.
    AtMost(u64),
}

impl From<i64> for DigestLimit {
    /// As SPIRE writes it: below 0 none, 0 all, else the limit in bytes.
    fn from(limit: i64) -> Self {
        match u64::try_from(limit) {
            Err(_) => Self::Never,
            Ok(0) => Self::Unlimited,
            Ok(limit) => Self::AtMost(limit),
        }
    }
}

/// What to do with the path of an executable that is not to be found there in the node's view of
/// the file system: of a container, of a mount namespace, of a file that was replaced or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignPaths {
    /// It is no fact.
    #[default]
    Omit,
    /// It is a fact, as with SPIRE, though the process may have arranged it.
    Accept,
}

/// The `unix` attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    options: UnixOptions,
    names: Names,
    executables: Executables,
}

impl UnixAttestor {
    /// An attestor that finds out what `options` say.
    pub fn new(options: UnixOptions) -> Self {
        Self {
            options,
            names: Names::new(),
            executables: Executables::new(),
        }
    }

    /// Whether it had to ask, which takes time.
    async fn add_ids(&self, process: &Process, status: &Status, facts: &mut Vec<Fact>) -> Asked {
        let uid = status.uids.effective;
        let gid = status.gids.effective;
        let mut ids = vec![Id::User(uid), Id::Group(gid)];
        ids.extend(status.groups.iter().map(|gid| Id::Group(*gid)));
        let (names, asked) = self.names.of(&ids, &process.work).await;
        let mut names = names.into_iter();

        let mut add = |number: &str, name: &str, id: u32, evidence: Evidence| {
            push(facts, number, &id.to_string(), evidence);
            if let Some(found) = names.next().flatten() {
                push(facts, name, &found, Evidence::NameService);
            }
        };
        add("uid", "user", uid, Evidence::KernelCredentials);
        add("gid", "group", gid, Evidence::KernelCredentials);
        for gid in &status.groups {
            add(
                "supplementary_gid",
                "supplementary_group",
                *gid,
                Evidence::ProcStatus,
            );
        }
        asked
    }

    async fn add_executable(
        &self,
        process: &Process,
        options: ExecutableOptions,
        facts: &mut Vec<Fact>,
    ) -> Result<Asked, AttestError> {
        let executable = self.executables.of(process, options.digest).await?;
        match executable.path {
            Some(SeenPath::Own(path)) => push(facts, "path", &path, Evidence::ExecutablePath),
            Some(SeenPath::Foreign(path)) => match options.foreign_paths {
                ForeignPaths::Omit => tracing::debug!(
                    pid = process.pid,
                    path,
                    "the path is not a fact: the node sees another file there, or none"
                ),
                ForeignPaths::Accept => {
                    push(facts, "path", &path, Evidence::ForeignExecutablePath);
                }
            },
            None => {}
        }
        if let Some(digest) = executable.sha256 {
            push(facts, "sha256", &digest, Evidence::ExecutableDigest);
        }
        Ok(executable.asked)
    }
}

/// Adds `unix:NAME:VALUE`, once: two groups may share a name.
fn push(facts: &mut Vec<Fact>, name: &str, value: &str, evidence: Evidence) {
    // A selector needs a value, and this one has at least a name and a colon.
    if let Ok(selector) = Selector::new(KIND, format!("{name}:{value}"))
        && facts.iter().all(|fact| fact.selector != selector)
    {
        facts.push(Fact { selector, evidence });
    }
}

/// Reads whose process it is, and compares with what the kernel said on the connection.
fn credentials(process: &Process, traced: Traced) -> Result<Status, AttestError> {
    let content = read(process, KIND, "status")?;
    still_runs(process)?;
    let status = Status::parse(&content).map_err(|error| AttestError::Failed {
        kind: KIND,
        reason: format!("/proc/{}/status is not understood: {error}", process.pid),
        source: None,
    })?;
    if traced == Traced::Refuse && status.tracer != 0 {
        return Err(AttestError::Traced {
            pid: process.pid,
            tracer: status.tracer,
        });
    }
    let sent = process.sender.is_none_or(|sender| {
        status.uids.may_send_as(sender.uid) && status.gids.may_send_as(sender.gid)
    });
    if status.uids.effective != process.uid || status.gids.effective != process.gid || !sent {
        return Err(AttestError::Changed {
            pid: process.pid,
            change: Change::Credentials,
        });
    }
    Ok(status)
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError> {
        let status = credentials(process, self.options.traced)?;
        let mut facts = Vec::new();
        let mut asked = vec![self.add_ids(process, &status, &mut facts).await];
        if let Some(options) = self.options.executable {
            asked.push(self.add_executable(process, options, &mut facts).await?);
        }
        // Both may have taken a while. If neither did, what was read is still this instant's.
        if asked.contains(&Asked::Yes) && credentials(process, self.options.traced)? != status {
            return Err(AttestError::Changed {
                pid: process.pid,
                change: Change::Credentials,
            });
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use muster_plugin::workload::{SenderIds, conformance};

    use super::*;
    use crate::workload::process::tests::{end, own_process, process_by_pid, spawn};

    fn attestor(digest: impl Into<DigestLimit>) -> UnixAttestor {
        UnixAttestor::new(UnixOptions {
            executable: Some(ExecutableOptions {
                digest: digest.into(),
                ..ExecutableOptions::default()
            }),
            ..UnixOptions::default()
        })
    }

    fn selectors(facts: &[Fact]) -> Vec<String> {
        facts.iter().map(|fact| fact.selector.to_string()).collect()
    }

    /// By another process: while this one had the copy open for writing, a child that another
    /// test starts at that moment would keep it open, and busy.
    fn copy_of_cat(to: &Path) {
        let status = std::process::Command::new("cp")
            .arg("/bin/cat")
            .arg(to)
            .status();
        assert!(status.unwrap().success());
    }

    #[tokio::test]
    async fn keeps_what_the_port_asks() {
        let child = spawn("cat");
        let gone = process_by_pid(child.id());
        end(child);
        for attestor in [UnixAttestor::new(UnixOptions::default()), attestor(0)] {
            conformance::check(&attestor, &own_process(), &gone)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn users_and_groups_and_how_they_are_known() {
        let facts = UnixAttestor::new(UnixOptions::default())
            .attest(&own_process())
            .await
            .unwrap();
        let status = Status::parse(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        let evidence = |selector: &str| {
            facts
                .iter()
                .find(|fact| fact.selector.to_string() == selector)
                .map(|fact| fact.evidence)
        };
        let uid = format!("unix:uid:{}", nix::unistd::geteuid());
        assert_eq!(evidence(&uid), Some(Evidence::KernelCredentials));
        let gid = format!("unix:gid:{}", nix::unistd::getegid());
        assert_eq!(evidence(&gid), Some(Evidence::KernelCredentials));
        for group in &status.groups {
            let group = format!("unix:supplementary_gid:{group}");
            assert_eq!(evidence(&group), Some(Evidence::ProcStatus));
        }
        if nix::unistd::geteuid().is_root() {
            assert_eq!(evidence("unix:user:root"), Some(Evidence::NameService));
        }
        // Only when asked for.
        assert!(
            selectors(&facts)
                .iter()
                .all(|s| !s.starts_with("unix:path"))
        );
        assert!(
            selectors(&facts)
                .iter()
                .all(|s| !s.starts_with("unix:sha256"))
        );
    }

    /// Hashing and asking are charged to who has it done first, and to nobody afterwards.
    #[tokio::test]
    async fn work_is_charged_once() {
        let attestor = attestor(0);
        let first = own_process();
        attestor.attest(&first).await.unwrap();
        let size = std::fs::metadata("/proc/self/exe").unwrap().len();
        // And the names of the user and of at least one group.
        let least = u32::try_from(size >> 19).unwrap() + 2;
        assert!(first.work.units() >= least, "{:?} of {least}", first.work);
        let second = own_process();
        attestor.attest(&second).await.unwrap();
        assert_eq!(second.work.units(), 0);
    }

    #[tokio::test]
    async fn path_and_digest_as_the_limit_says() {
        let own = own_process();
        let size = i64::try_from(std::fs::metadata("/proc/self/exe").unwrap().len()).unwrap();
        let path = format!("unix:path:{}", std::env::current_exe().unwrap().display());
        for (limit, hashed) in [(-1, false), (0, true), (size, true)] {
            let found = selectors(&attestor(limit).attest(&own).await.unwrap());
            assert!(found.contains(&path), "{found:?}");
            assert_eq!(
                found.iter().any(|s| s.starts_with("unix:sha256:")),
                hashed,
                "{limit}"
            );
        }
        let error = attestor(size - 1).attest(&own).await.unwrap_err();
        assert!(
            matches!(error, AttestError::Failed { kind: "unix", .. }),
            "{error}"
        );
        assert!(error.to_string().contains("workload_size_limit"), "{error}");
    }

    /// A program that was replaced, or removed, is attested by what runs: its digest is the old
    /// one's, and the path, which now names another file, is no fact.
    #[tokio::test]
    async fn a_replaced_executable_does_not_lend_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        copy_of_cat(&path);
        let child = spawn(&path);
        let process = process_by_pid(child.id());
        let attestor = attestor(0);
        let before = selectors(&attestor.attest(&process).await.unwrap());
        assert!(before.contains(&format!("unix:path:{}", path.display())));

        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "another program").unwrap();
        let renamed = selectors(&attestor.attest(&process).await.unwrap());
        assert!(!renamed.contains(&format!("unix:path:{}", path.display())));
        std::fs::remove_file(dir.path().join("old")).unwrap();
        let removed = selectors(&attestor.attest(&process).await.unwrap());
        assert!(
            removed.iter().all(|s| !s.starts_with("unix:path")),
            "{removed:?}"
        );
        let digest = |all: &[String]| all.iter().find(|s| s.starts_with("unix:sha256")).cloned();
        assert!(digest(&before).is_some());
        assert_eq!(digest(&before), digest(&removed));

        let spires = UnixAttestor::new(UnixOptions {
            executable: Some(ExecutableOptions {
                digest: DigestLimit::Never,
                foreign_paths: ForeignPaths::Accept,
            }),
            ..UnixOptions::default()
        });
        let facts = spires.attest(&process).await.unwrap();
        let path = facts
            .iter()
            .find(|fact| fact.selector.value().starts_with("path:"))
            .unwrap();
        assert_eq!(path.evidence, Evidence::ForeignExecutablePath);
        end(child);
    }

    #[tokio::test]
    async fn other_users_than_the_kernel_said_are_refused() {
        let attestor = UnixAttestor::new(UnixOptions::default());
        let own = own_process();
        let credentials = [
            Process {
                uid: own.uid + 1,
                ..own.clone()
            },
            Process {
                gid: own.gid + 1,
                ..own.clone()
            },
            Process {
                sender: Some(SenderIds {
                    uid: own.uid + 1,
                    gid: own.gid,
                }),
                ..own.clone()
            },
        ];
        for process in credentials {
            let error = attestor.attest(&process).await.unwrap_err();
            let expected = Change::Credentials;
            assert!(matches!(error, AttestError::Changed { change, .. } if change == expected));
        }
    }

    #[test]
    fn limits_are_written_as_spire_does() {
        assert_eq!(DigestLimit::from(-1), DigestLimit::Never);
        assert_eq!(DigestLimit::from(0), DigestLimit::Unlimited);
        assert_eq!(DigestLimit::from(7), DigestLimit::AtMost(7));
    }
}
