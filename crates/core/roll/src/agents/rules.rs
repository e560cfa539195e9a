//! What may be written about a class.
//!
//! Every function says what the class is from now on; the caller writes that to the store. Who may
//! ask for it at all is in `core/policy`.

use muster_model::{
    AgentClass, ClassName, ClassSpec, ClassStanding, Delegation, Departure, Lifecycle, MAX_LIST,
    Note, PersonId, Reviewed, Revision, TaskDefaults, TextFault, Timestamp,
};

use super::Agents;
use super::lifecycle::{self, ClassStep};

/// Which of the two who answer for a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who runs it.
    Owner,
    /// Who is accountable.
    Sponsor,
    /// Who vouches for it at a review.
    Reviewer,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Sponsor => "sponsor",
            Self::Reviewer => "reviewer",
        })
    }
}

/// Why something may not be written about a class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// There is a class of that name.
    #[error("agent class {0} is there already; choose another name, or update that one")]
    AlreadyExists(ClassName),
    /// There is no class of that name.
    #[error("there is no agent class {0:?}; `muster agent class list` shows all")]
    NotFound(String),
    /// Someone else wrote the class meanwhile.
    #[error(
        "agent class {name} is at version {found}, and version {wanted} was to be changed; look at \
         it again and repeat with version {found}"
    )]
    Version {
        /// The class.
        name: ClassName,
        /// The version that the caller saw.
        wanted: u64,
        /// The version that it has.
        found: u64,
    },
    /// A field is out of its bounds.
    #[error("{0}")]
    Field(#[from] muster_model::FieldError),
    /// Nobody would be accountable.
    #[error(
        "owner and sponsor are both {0}; who is accountable for a class does not run it as well"
    )]
    OwnerIsSponsor(PersonId),
    /// A person who is named is known to be gone.
    #[error(
        "{role} {person} is known to be gone; name another, or take that back with \
         `muster agent person back`"
    )]
    PersonGone {
        /// In which part.
        role: Role,
        /// Who.
        person: PersonId,
    },
    /// The class would end before it began.
    #[error("valid_until has passed already; give an instant that is still to come")]
    ValidUntilPassed,
    /// The review would be overdue at once.
    #[error("review_by has passed already; give an instant that is still to come")]
    ReviewByPassed,
    /// The review would never take place.
    #[error("review_by is after valid_until; review the class before it ends")]
    ReviewAfterEnd,
    /// A task that says nothing would live longer than a task may.
    #[error("task_defaults.ttl is longer than task_defaults.max_ttl; shorten it")]
    TtlOverMaximum,
    /// The class is over.
    #[error("agent class {0} is retired, for good; create another under a new name")]
    Retired(ClassName),
    /// The step does not lead anywhere from where the class stands.
    #[error("agent class {name} is {lifecycle}: it cannot {}", step.as_str())]
    NotPossible {
        /// The class.
        name: ClassName,
        /// Where it stands.
        lifecycle: Lifecycle,
        /// The step.
        step: ClassStep,
    },
    /// Why it was done is not said.
    #[error("say why: a reason for the record is missing")]
    NoReason,
}

impl ClassError {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AlreadyExists(_) => "CLASS_EXISTS",
            Self::NotFound(_) => "CLASS_NOT_FOUND",
            Self::Version { .. } => "VERSION_MISMATCH",
            Self::Field(_) => "INVALID_FIELD",
            Self::OwnerIsSponsor(_) => "OWNER_IS_SPONSOR",
            Self::PersonGone { .. } => "PERSON_GONE",
            Self::ValidUntilPassed => "VALID_UNTIL_PASSED",
            Self::ReviewByPassed => "REVIEW_BY_PASSED",
            Self::ReviewAfterEnd => "REVIEW_AFTER_END",
            Self::TtlOverMaximum => "TTL_OVER_MAXIMUM",
            Self::Retired(_) => "CLASS_RETIRED",
            Self::NotPossible { .. } => "STEP_NOT_POSSIBLE",
            Self::NoReason => "REASON_MISSING",
        }
    }
}

/// Who does something, why, and when.
#[derive(Clone, Debug)]
pub struct Deed<'a> {
    /// Who, as records show it.
    pub by: &'a str,
    /// Why, as the operator put it.
    pub note: Note,
    /// When.
    pub now: Timestamp,
}

/// The class that is proposed.
pub fn propose(
    agents: &Agents,
    name: ClassName,
    spec: ClassSpec,
    deed: Deed<'_>,
) -> Result<AgentClass, ClassError> {
    if agents.class(name.as_str()).is_some() {
        return Err(ClassError::AlreadyExists(name));
    }
    check(agents, &spec, deed.now)?;
    Ok(AgentClass {
        name,
        spec,
        standing: ClassStanding {
            lifecycle: Lifecycle::Proposed,
            since: deed.now,
            cause: muster_model::Cause::Operator,
            note: deed.note,
            by: deed.by.to_owned(),
        },
        last_reviewed: None,
        review_warned: None,
        created_by: deed.by.to_owned(),
        created_at: deed.now,
        version: 1,
        changed_at: Revision::default(),
    })
}

/// The class with what is written about it replaced by `spec`. `version` is the one that the caller
/// saw.
pub fn change(
    agents: &Agents,
    existing: &AgentClass,
    spec: ClassSpec,
    version: u64,
    now: Timestamp,
) -> Result<AgentClass, ClassError> {
    living(existing)?;
    at_version(existing, Some(version))?;
    check(agents, &spec, now)?;
    Ok(AgentClass {
        spec,
        version: existing.version.saturating_add(1),
        ..existing.clone()
    })
}

/// The class after an operator's step. Without a version the step is taken whatever was written
/// meanwhile: who must stop a class should not have to look first.
pub fn step(
    agents: &Agents,
    existing: &AgentClass,
    step: ClassStep,
    version: Option<u64>,
    deed: Deed<'_>,
) -> Result<AgentClass, ClassError> {
    living(existing)?;
    at_version(existing, version)?;
    match step {
        ClassStep::Approve | ClassStep::Reinstate => {
            if lifecycle::class(existing.standing.lifecycle, step).is_some() {
                check(agents, &existing.spec, deed.now)?;
            }
        }
        ClassStep::Suspend | ClassStep::Quarantine | ClassStep::Retire => {
            if deed.note.as_str().is_empty() {
                return Err(ClassError::NoReason);
            }
        }
        ClassStep::ReviewOverdue
        | ClassStep::Expire
        | ClassStep::FallIdle
        | ClassStep::LoseOwner
        | ClassStep::LoseSponsor => {}
    }
    stepped(existing, step, deed)
}

/// The class after a review: someone vouches for it, and says when the next review is due.
pub fn review(
    agents: &Agents,
    existing: &AgentClass,
    reviewer: PersonId,
    review_by: Timestamp,
    version: Option<u64>,
    now: Timestamp,
) -> Result<AgentClass, ClassError> {
    living(existing)?;
    at_version(existing, version)?;
    present(agents, Role::Reviewer, &reviewer)?;
    let mut class = existing.clone();
    class.spec.review_by = review_by;
    check_dates(&class.spec, now)?;
    class.last_reviewed = Some(Reviewed {
        by: reviewer,
        at: now,
    });
    class.review_warned = None;
    class.version = existing.version.saturating_add(1);
    Ok(class)
}

/// The row of a person who is gone.
pub fn departed(person: PersonId, deed: Deed<'_>) -> Departure {
    Departure {
        person,
        at: deed.now,
        note: deed.note,
        by: deed.by.to_owned(),
    }
}

/// The class after a step that its lifecycle has, and nothing else asked.
pub(super) fn stepped(
    existing: &AgentClass,
    step: ClassStep,
    deed: Deed<'_>,
) -> Result<AgentClass, ClassError> {
    let from = existing.standing.lifecycle;
    let lifecycle = lifecycle::class(from, step).ok_or_else(|| ClassError::NotPossible {
        name: existing.name.clone(),
        lifecycle: from,
        step,
    })?;
    Ok(AgentClass {
        standing: ClassStanding {
            lifecycle,
            since: deed.now,
            cause: step.cause(),
            note: deed.note,
            by: deed.by.to_owned(),
        },
        version: existing.version.saturating_add(1),
        ..existing.clone()
    })
}

fn living(class: &AgentClass) -> Result<(), ClassError> {
    match class.standing.lifecycle {
        Lifecycle::Retired => Err(ClassError::Retired(class.name.clone())),
        Lifecycle::Proposed | Lifecycle::Active | Lifecycle::Suspended | Lifecycle::Quarantined => {
            Ok(())
        }
    }
}

fn at_version(class: &AgentClass, wanted: Option<u64>) -> Result<(), ClassError> {
    match wanted {
        Some(wanted) if wanted != class.version => Err(ClassError::Version {
            name: class.name.clone(),
            wanted,
            found: class.version,
        }),
        Some(_) | None => Ok(()),
    }
}

/// What must hold for a class that is written or let in.
fn check(agents: &Agents, spec: &ClassSpec, now: Timestamp) -> Result<(), ClassError> {
    if spec.purposes.is_empty() {
        return Err(TextFault::Missing.at("purpose", "").into());
    }
    let lists = [
        ("allowed_models", spec.allowed_models.len()),
        ("allowed_providers", spec.allowed_providers.len()),
        ("permissions.scopes", spec.permissions.scopes.len()),
        ("permissions.resources", spec.permissions.resources.len()),
        ("attestation.selectors", spec.attestation.len()),
    ];
    for (field, length) in lists {
        if length > MAX_LIST {
            let fault = TextFault::TooMany { most: MAX_LIST };
            return Err(fault.at(field, &length.to_string()).into());
        }
    }
    if spec.delegation.max_depth > Delegation::DEEPEST {
        let depth = spec.delegation.max_depth.to_string();
        return Err(TextFault::Depth.at("delegation.max_depth", &depth).into());
    }
    for (field, ttl) in [
        ("task_defaults.ttl", spec.task_defaults.ttl),
        ("task_defaults.max_ttl", spec.task_defaults.max_ttl),
    ] {
        if ttl.as_secs() == 0 || ttl.subsec_nanos() != 0 || ttl > TaskDefaults::LONGEST {
            return Err(TextFault::Lifetime.at(field, &format!("{ttl:?}")).into());
        }
    }
    if spec.task_defaults.ttl > spec.task_defaults.max_ttl {
        return Err(ClassError::TtlOverMaximum);
    }
    if spec.owner == spec.sponsor {
        return Err(ClassError::OwnerIsSponsor(spec.owner.clone()));
    }
    present(agents, Role::Owner, &spec.owner)?;
    present(agents, Role::Sponsor, &spec.sponsor)?;
    check_dates(spec, now)
}

fn check_dates(spec: &ClassSpec, now: Timestamp) -> Result<(), ClassError> {
    if spec.valid_until <= now {
        return Err(ClassError::ValidUntilPassed);
    }
    if spec.review_by <= now {
        return Err(ClassError::ReviewByPassed);
    }
    if spec.review_by > spec.valid_until {
        return Err(ClassError::ReviewAfterEnd);
    }
    Ok(())
}

fn present(agents: &Agents, role: Role, person: &PersonId) -> Result<(), ClassError> {
    match agents.departure(person) {
        Some(_) => Err(ClassError::PersonGone {
            role,
            person: person.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
