//! Policies on agents and their tasks, in force: what `core/cedar` decides by, and from which facts.

pub(crate) mod facts;

use std::sync::Arc;

use arc_swap::ArcSwap;
use muster_cedar::{Limits, LoadError, PolicySet};

/// What is in force until a set has been stored: everything that the guards let pass.
pub(crate) const DEFAULT: &str = "@id(\"default.permit\")\npermit (principal, action, resource);\n";

/// The set in force.
pub(crate) struct Policies {
    current: ArcSwap<PolicySet>,
}

impl Policies {
    /// The built-in set.
    pub(crate) fn built_in() -> Result<Self, LoadError> {
        let set = PolicySet::load(DEFAULT, &Limits::default())?;
        Ok(Self {
            current: ArcSwap::from_pointee(set),
        })
    }

    /// The set in force now. Who holds it decides by it, whatever comes into force meanwhile.
    pub(crate) fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }
}
