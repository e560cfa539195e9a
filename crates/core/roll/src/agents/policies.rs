//! Which sets of policies there are, and what the next one may be.
//!
//! What a set says is for `core/cedar`; here is only that each gets the next number, that of two
//! writers who saw the same version one is refused, and how many are kept.

use muster_model::{Note, PolicyVersion, Revision, Sha256, Timestamp};

use super::Agents;

/// How many versions are kept, the newest among them.
pub const KEPT: usize = 100;

/// A set that is to be put in force: one that loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSet {
    /// What it says.
    pub digest: Sha256,
    /// How many policies it has.
    pub policies: u64,
    /// How many bytes its text has.
    pub bytes: u64,
    /// The version whose text it has again, for a rollback.
    pub again: Option<u64>,
}

/// Why a set may not be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Somebody else was faster.
    #[error(
        "the newest set of policies is version {found}, not {wanted}; look at it with \
         `muster policy show`, and give its number"
    )]
    Version {
        /// The version that the caller saw; 0 is none.
        wanted: u64,
        /// The version that there is; 0 is none.
        found: u64,
    },
    /// There is no such version.
    #[error(
        "there is no version {wanted} of the policies; those that are kept are listed by \
         `muster policy versions`"
    )]
    NotFound {
        /// The version that was asked for.
        wanted: u64,
    },
    /// Why it was done is not said.
    #[error("say why: a reason for the record is missing")]
    NoReason,
}

impl PolicyError {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Version { .. } => "VERSION_MISMATCH",
            Self::NotFound { .. } => "POLICY_VERSION_NOT_FOUND",
            Self::NoReason => "REASON_MISSING",
        }
    }
}

/// The number of the newest version; 0 while none was stored.
pub fn newest(agents: &Agents) -> u64 {
    agents
        .policies()
        .next_back()
        .map_or(0, |version| version.number)
}

/// Whether the version that a caller saw is still the newest.
pub fn at_version(agents: &Agents, wanted: u64) -> Result<(), PolicyError> {
    let found = newest(agents);
    if wanted == found {
        Ok(())
    } else {
        Err(PolicyError::Version { wanted, found })
    }
}

/// The version of that number.
pub fn version(agents: &Agents, wanted: u64) -> Result<&PolicyVersion, PolicyError> {
    agents
        .policy(wanted)
        .map(AsRef::as_ref)
        .ok_or(PolicyError::NotFound { wanted })
}

/// The version that a set becomes. `seen` is the number of the one that the caller saw, 0 for none.
pub fn put(
    agents: &Agents,
    set: NewSet,
    seen: u64,
    (by, note): (&str, Note),
    now: Timestamp,
) -> Result<PolicyVersion, PolicyError> {
    if note.as_str().is_empty() {
        return Err(PolicyError::NoReason);
    }
    at_version(agents, seen)?;
    if let Some(again) = set.again {
        version(agents, again)?;
    }
    Ok(PolicyVersion {
        number: seen.saturating_add(1),
        digest: set.digest,
        policies: set.policies,
        bytes: set.bytes,
        again: set.again,
        at: now,
        by: by.to_owned(),
        note,
        changed_at: Revision::default(),
    })
}

/// The versions that are no longer kept once there is one more, by ascending number.
pub fn outlived(agents: &Agents) -> Vec<u64> {
    let all = agents.policies().len();
    let surplus = all.saturating_add(1).saturating_sub(KEPT);
    agents
        .policies()
        .take(surplus)
        .map(|version| version.number)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agents::AgentChange;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1000);

    fn set() -> NewSet {
        NewSet {
            digest: Sha256::parse(&"0a".repeat(32)).unwrap(),
            policies: 1,
            bytes: 9,
            again: None,
        }
    }

    fn why() -> (&'static str, Note) {
        ("uid 0", Note::parse("a test").unwrap())
    }

    fn apply(agents: &mut Agents, version: PolicyVersion) {
        for number in outlived(agents) {
            agents.apply(Revision(1), &AgentChange::DeletePolicies(number));
        }
        let put = AgentChange::PutPolicies {
            version: Arc::new(version),
            text: "text".into(),
        };
        agents.apply(Revision(1), &put);
    }

    #[test]
    fn of_two_who_saw_the_same_one_is_refused() {
        let mut agents = Agents::default();
        let first = put(&agents, set(), 0, why(), NOW).unwrap();
        let rival = put(&agents, set(), 0, why(), NOW);
        assert_eq!((first.number, rival.map(|r| r.number)), (1, Ok(1)));
        apply(&mut agents, first);
        let late = put(&agents, set(), 0, why(), NOW);
        assert_eq!(
            late,
            Err(PolicyError::Version {
                wanted: 0,
                found: 1
            })
        );
        let again = NewSet {
            again: Some(7),
            ..set()
        };
        let unknown = put(&agents, again, 1, why(), NOW);
        assert_eq!(unknown, Err(PolicyError::NotFound { wanted: 7 }));
        let silent = put(&agents, set(), 1, ("uid 0", Note::parse("").unwrap()), NOW);
        assert_eq!(silent, Err(PolicyError::NoReason));
    }

    #[test]
    fn the_last_hundred_are_kept() {
        let mut agents = Agents::default();
        for seen in 0..130 {
            let version = put(&agents, set(), seen, why(), NOW).unwrap();
            apply(&mut agents, version);
        }
        let numbers: Vec<u64> = agents.policies().map(|version| version.number).collect();
        assert_eq!(numbers, (31..=130).collect::<Vec<u64>>());
        assert_eq!(newest(&agents), 130);
    }
}
