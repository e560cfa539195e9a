//! What leads where: the lifecycles of classes, instances and tasks.
//!
//! Each is a table, and a test prints it whole: the diff of the printed table is the review.

use muster_model::{Cause, InstanceState, Lifecycle, TaskState};

/// Who may take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Only an operator.
    Operator,
    /// Only the server, in its periodic work or when it sees something.
    Server,
    /// Only the node on which it runs.
    Node,
    /// The node, or an operator.
    NodeOrOperator,
}

/// A step in the life of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassStep {
    /// An operator lets it have identities for the first time.
    Approve,
    /// An operator pauses it.
    Suspend,
    /// An operator suspects it.
    Quarantine,
    /// An operator lets it have identities again.
    Reinstate,
    /// An operator ends it.
    Retire,
    /// The date of its review has passed.
    ReviewOverdue,
    /// The end of its validity was reached.
    Expire,
    /// Nothing of it was seen for long.
    FallIdle,
    /// Its owner is gone.
    LoseOwner,
    /// Its sponsor is gone.
    LoseSponsor,
}

impl ClassStep {
    /// Every step.
    pub const ALL: [Self; 10] = [
        Self::Approve,
        Self::Suspend,
        Self::Quarantine,
        Self::Reinstate,
        Self::Retire,
        Self::ReviewOverdue,
        Self::Expire,
        Self::FallIdle,
        Self::LoseOwner,
        Self::LoseSponsor,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Suspend => "suspend",
            Self::Quarantine => "quarantine",
            Self::Reinstate => "reinstate",
            Self::Retire => "retire",
            Self::ReviewOverdue => "review overdue",
            Self::Expire => "expire",
            Self::FallIdle => "fall idle",
            Self::LoseOwner => "lose owner",
            Self::LoseSponsor => "lose sponsor",
        }
    }

    /// Who may take it.
    pub const fn by(self) -> By {
        match self {
            Self::Approve | Self::Suspend | Self::Quarantine | Self::Reinstate | Self::Retire => {
                By::Operator
            }
            Self::ReviewOverdue
            | Self::Expire
            | Self::FallIdle
            | Self::LoseOwner
            | Self::LoseSponsor => By::Server,
        }
    }

    /// Why a class stands where the step has led.
    pub const fn cause(self) -> Cause {
        match self {
            Self::Approve | Self::Suspend | Self::Quarantine | Self::Reinstate | Self::Retire => {
                Cause::Operator
            }
            Self::ReviewOverdue => Cause::ReviewOverdue,
            Self::Expire => Cause::Expired,
            Self::FallIdle => Cause::Idle,
            Self::LoseOwner => Cause::OwnerGone,
            Self::LoseSponsor => Cause::SponsorGone,
        }
    }
}

/// Where a step leads from there; `None` where it cannot be taken.
pub const fn class(from: Lifecycle, step: ClassStep) -> Option<Lifecycle> {
    use ClassStep as S;
    use Lifecycle as L;

    match (from, step) {
        (L::Proposed, S::Approve) | (L::Suspended | L::Quarantined, S::Reinstate) => {
            Some(L::Active)
        }
        (L::Active, S::Suspend | S::ReviewOverdue | S::Expire | S::FallIdle) => Some(L::Suspended),
        // A class that is paused can still turn out to be worse; not the other way round.
        (L::Active | L::Suspended, S::Quarantine | S::LoseOwner | S::LoseSponsor) => {
            Some(L::Quarantined)
        }
        (L::Proposed | L::Active | L::Suspended | L::Quarantined, S::Retire) => Some(L::Retired),
        (L::Proposed | L::Active | L::Suspended | L::Quarantined | L::Retired, _) => None,
    }
}

/// A step in the life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceStep {
    /// It received an SVID.
    Seen,
    /// It was not seen for long.
    NotSeen,
    /// Its node is gone.
    LoseNode,
    /// An operator suspects it.
    Quarantine,
    /// An operator lifts that.
    Release,
    /// An operator ends it.
    Retire,
}

impl InstanceStep {
    /// Every step.
    pub const ALL: [Self; 6] = [
        Self::Seen,
        Self::NotSeen,
        Self::LoseNode,
        Self::Quarantine,
        Self::Release,
        Self::Retire,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::NotSeen => "not seen",
            Self::LoseNode => "lose node",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Retire => "retire",
        }
    }

    /// Who may take it.
    pub const fn by(self) -> By {
        match self {
            Self::Seen | Self::NotSeen | Self::LoseNode => By::Server,
            Self::Quarantine | Self::Release | Self::Retire => By::Operator,
        }
    }

    /// Why an instance stands where the step has led.
    pub const fn cause(self) -> Cause {
        match self {
            Self::Seen => Cause::Seen,
            Self::NotSeen => Cause::NotSeen,
            Self::LoseNode => Cause::NodeGone,
            Self::Quarantine | Self::Release | Self::Retire => Cause::Operator,
        }
    }
}

/// Where a step leads from there; `None` where it cannot be taken.
pub const fn instance(from: InstanceState, step: InstanceStep) -> Option<InstanceState> {
    use InstanceState as I;
    use InstanceStep as S;

    match (from, step) {
        // Lost is a guess, and being seen is a fact; a quarantine is an operator's word, and stays.
        (I::Registered | I::Active | I::Lost, S::Seen) | (I::Quarantined, S::Release) => {
            Some(I::Active)
        }
        (I::Registered | I::Active, S::NotSeen | S::LoseNode) => Some(I::Lost),
        (I::Registered | I::Active | I::Lost, S::Quarantine) => Some(I::Quarantined),
        (I::Registered | I::Active | I::Lost | I::Quarantined, S::Retire) => Some(I::Retired),
        (I::Registered | I::Active | I::Lost | I::Quarantined | I::Retired, _) => None,
    }
}

/// A step in the life of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStep {
    /// Its class no longer gives identities, or its node is out of reach.
    Suspend,
    /// That is over.
    Resume,
    /// It says that it is done.
    Complete,
    /// It says that it could not be done.
    Fail,
    /// Its deadline has passed.
    PassDeadline,
    /// Its budget is spent.
    SpendBudget,
    /// An operator ends it.
    Revoke,
    /// The task that it is part of has ended.
    LoseParent,
    /// Its process has ended.
    Exit,
}

impl TaskStep {
    /// Every step.
    pub const ALL: [Self; 9] = [
        Self::Suspend,
        Self::Resume,
        Self::Complete,
        Self::Fail,
        Self::PassDeadline,
        Self::SpendBudget,
        Self::Revoke,
        Self::LoseParent,
        Self::Exit,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::PassDeadline => "pass deadline",
            Self::SpendBudget => "spend budget",
            Self::Revoke => "revoke",
            Self::LoseParent => "lose parent",
            Self::Exit => "exit",
        }
    }

    /// Who may take it.
    pub const fn by(self) -> By {
        match self {
            Self::Suspend | Self::Resume | Self::PassDeadline => By::Server,
            Self::Complete | Self::Fail | Self::SpendBudget | Self::Exit => By::Node,
            Self::Revoke => By::Operator,
            Self::LoseParent => By::NodeOrOperator,
        }
    }
}

/// Where a step leads from there; `None` where it cannot be taken.
pub const fn task(from: TaskState, step: TaskStep) -> Option<TaskState> {
    use TaskState as T;
    use TaskStep as S;

    match (from, step) {
        (T::Open, S::Suspend) => Some(T::Suspended),
        (T::Suspended, S::Resume) => Some(T::Open),
        // A pause gives nothing that an end would have to take back.
        (T::Open | T::Suspended, S::Complete) => Some(T::Completed),
        (T::Open | T::Suspended, S::Fail) => Some(T::Failed),
        (T::Open | T::Suspended, S::PassDeadline | S::SpendBudget) => Some(T::Expired),
        (T::Open | T::Suspended, S::Revoke | S::LoseParent) => Some(T::Revoked),
        (T::Open | T::Suspended, S::Exit) => Some(T::ProcessExited),
        (
            T::Open
            | T::Suspended
            | T::Completed
            | T::Failed
            | T::Expired
            | T::Revoked
            | T::ProcessExited,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// One table: a line for each step, a column for each place to start from.
    fn table<F: Copy + std::fmt::Display, S: Copy>(
        from: &[F],
        steps: &[S],
        word: fn(S) -> &'static str,
        by: fn(S) -> By,
        lead: fn(F, S) -> Option<F>,
    ) -> String {
        let mut text = format!("{:<16}{:<16}", "step", "by");
        for state in from {
            write!(text, "{:<16}", state.to_string()).unwrap();
        }
        for step in steps {
            write!(
                text,
                "\n{:<16}{:<16}",
                word(*step),
                format!("{:?}", by(*step))
            )
            .unwrap();
            for state in from {
                let to = lead(*state, *step).map_or("-".to_owned(), |to| to.to_string());
                write!(text, "{to:<16}").unwrap();
            }
        }
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!(
            "class",
            table(
                Lifecycle::ALL,
                &ClassStep::ALL,
                ClassStep::as_str,
                ClassStep::by,
                class
            )
        );
        insta::assert_snapshot!(
            "instance",
            table(
                InstanceState::ALL,
                &InstanceStep::ALL,
                InstanceStep::as_str,
                InstanceStep::by,
                instance
            )
        );
        insta::assert_snapshot!(
            "task",
            table(
                TaskState::ALL,
                &TaskStep::ALL,
                TaskStep::as_str,
                TaskStep::by,
                task
            )
        );
    }

    #[test]
    fn the_end_is_the_end() {
        for step in ClassStep::ALL {
            assert_eq!(class(Lifecycle::Retired, step), None);
        }
        for step in InstanceStep::ALL {
            assert_eq!(instance(InstanceState::Retired, step), None);
        }
        let ended = TaskState::ALL
            .iter()
            .filter(|state| !matches!(state, TaskState::Open | TaskState::Suspended));
        for state in ended {
            for step in TaskStep::ALL {
                assert_eq!(task(*state, step), None);
            }
        }
    }
}
