//! The place of the set that is in force.

use std::sync::Arc;

use crate::fault::LoadError;
use crate::scan::Limits;
use crate::set::{PolicySet, SetDigest};

/// Holds a set that loaded. Nothing but a set that loads ever takes its place.
#[derive(Clone, Debug)]
pub struct Slot {
    current: Arc<PolicySet>,
}

/// What became of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It is in force.
    Replaced {
        /// The set that was in force before.
        old: SetDigest,
        /// The set that is now.
        new: SetDigest,
    },
    /// It says what the set in force says already.
    Same(SetDigest),
}

impl Slot {
    /// A slot with the guards alone: everything is refused.
    pub fn guards_only(limits: &Limits) -> Result<Self, LoadError> {
        PolicySet::load("", limits).map(Self::with)
    }

    /// A slot with a set.
    pub fn with(set: PolicySet) -> Self {
        Self {
            current: Arc::new(set),
        }
    }

    /// The set in force. Who holds it decides by it, whatever is loaded meanwhile.
    pub fn current(&self) -> &Arc<PolicySet> {
        &self.current
    }

    /// Loads a text and puts it in force. With an error, the set that was in force stays.
    pub fn load(&mut self, text: &str, limits: &Limits) -> Result<Loaded, LoadError> {
        Ok(self.put(PolicySet::load(text, limits)?))
    }

    /// Puts a set in force that was loaded elsewhere, which takes no time.
    pub fn put(&mut self, set: PolicySet) -> Loaded {
        let (old, new) = (self.current.digest(), set.digest());
        if old == new {
            return Loaded::Same(old);
        }
        self.current = Arc::new(set);
        Loaded::Replaced { old, new }
    }
}
