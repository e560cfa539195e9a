//! Workload attestation: from a caller to facts.

pub mod docker;
pub mod plugin;
mod process;
pub mod systemd;
pub mod unix;

use std::sync::Arc;

use futures::future::join_all;
use muster_plugin::workload::{AttestError, Fact, Process, WorkloadAttestor};

pub use process::{process_of, process_of_held, verify};

/// What all attestors know about a process.
#[derive(Debug, Default)]
pub struct Known {
    /// What those that succeeded know.
    pub facts: Vec<Fact>,
    /// Those that failed: the process lacks their selectors.
    pub left_out: Vec<LeftOut>,
}

/// An attestor that could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The type of its selectors.
    pub kind: &'static str,
    /// What went wrong, and what to do about it.
    pub why: String,
    /// Whether another attempt may find what it did not.
    pub may_pass: bool,
}

/// Asks every attestor about `process` at once and returns what all of them know.
///
/// An attestor that fails is logged and left out; only when none succeeds there is an error. When
/// the process ends, or becomes another program or user meanwhile, there is an error whatever the
/// attestors found: the facts were true of different things. Bounded only by its attestors, so give it a deadline;
/// it may be dropped at any point.
pub async fn attest(
    attestors: &[Arc<dyn WorkloadAttestor>],
    process: &Process,
) -> Result<Known, AttestError> {
    let results = join_all(attestors.iter().map(|attestor| attestor.attest(process))).await;
    let mut known = Known::default();
    let mut failure = None;
    let mut succeeded = false;
    for (attestor, result) in attestors.iter().zip(results) {
        match result {
            Ok(found) => {
                succeeded = true;
                known.facts.extend(found);
            }
            Err(error) if error.is_about_the_process() => return Err(error),
            Err(error) => {
                tracing::warn!(pid = process.pid, %error, "a workload attestor is left out");
                known.left_out.push(LeftOut {
                    kind: attestor.kind(),
                    why: error.to_string(),
                    may_pass: matches!(error, AttestError::Away { .. }),
                });
                failure.get_or_insert(error);
            }
        }
    }
    if !succeeded {
        return Err(failure.unwrap_or(AttestError::NoAttestors));
    }
    verify(process)?;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use muster_model::Selector;
    use muster_plugin::workload::Evidence;

    use super::process::tests::own_process;
    use super::*;

    /// Answers with one fact, or fails.
    struct Scripted(&'static str, bool);

    #[async_trait]
    impl WorkloadAttestor for Scripted {
        fn kind(&self) -> &'static str {
            self.0
        }

        async fn attest(&self, _process: &Process) -> Result<Vec<Fact>, AttestError> {
            if self.1 {
                return Ok(vec![Fact {
                    selector: Selector::new(self.0, "x").unwrap(),
                    evidence: Evidence::ProcStatus,
                }]);
            }
            Err(AttestError::Failed {
                kind: self.0,
                reason: "as scripted".to_owned(),
                source: None,
            })
        }
    }

    async fn run(
        script: &[(&'static str, bool)],
    ) -> Result<(Vec<String>, Vec<LeftOut>), AttestError> {
        let attestors: Vec<Arc<dyn WorkloadAttestor>> = script
            .iter()
            .map(|(kind, good)| Arc::new(Scripted(kind, *good)) as _)
            .collect();
        let known = attest(&attestors, &own_process()).await?;
        let facts = known.facts.iter().map(|fact| fact.selector.to_string());
        Ok((facts.collect(), known.left_out))
    }

    #[tokio::test]
    async fn a_failing_attestor_is_left_out() {
        let (facts, left_out) = run(&[("a", true), ("b", false), ("c", true)])
            .await
            .unwrap();
        assert_eq!(facts, ["a:x", "c:x"]);
        let failed = LeftOut {
            kind: "b",
            why: "workload attestor b failed: as scripted".to_owned(),
            may_pass: false,
        };
        assert_eq!(left_out, [failed]);
    }

    #[tokio::test]
    async fn only_when_none_succeeds_it_is_an_error() {
        let error = run(&[("a", false), ("b", false)]).await.unwrap_err();
        assert!(
            matches!(error, AttestError::Failed { kind: "a", .. }),
            "{error}"
        );
        assert!(matches!(run(&[]).await, Err(AttestError::NoAttestors)));
    }
}
