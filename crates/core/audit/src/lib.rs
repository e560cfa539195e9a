//! The schema of the audit log: what a record says, under names that stay.
//!
//! Start at [`Record`]. [`Filter`] says which records somebody asks for, [`identity`] of which
//! agent, class and task one is, and [`ocsf`] how one reads in the Open Cybersecurity Schema
//! Framework.
//!
//! Every record is written in the transaction that it belongs to, by the store. The Merkle log
//! over these records is a later layer; the schema is made so that a record, once written, is
//! never changed.
//!
//! No field of a record ever holds key bytes or a token: a token is named by its SHA-256.

mod filter;
mod former;
pub mod identity;
pub mod ocsf;
mod record;
mod svid;

pub use filter::{Filter, Subtree};
pub use former::UnknownEvent;
pub use record::{Actor, Decision, Event, Record};
pub use svid::SvidKind;

#[cfg(test)]
mod names {
    //! The names of all events, as this crate's source has them.

    /// Every name, in the order of the source.
    pub(crate) fn all() -> Vec<&'static str> {
        let source = include_str!("record.rs");
        let events = source.split_once("pub enum Event {").unwrap().1;
        let events = events.split_once("\n}").unwrap().0;
        let names: Vec<&str> = events
            .split("rename = \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(names.len() > 40, "the test no longer finds the names");
        names
    }

    #[test]
    fn every_event_stands_in_the_documents() {
        let document = include_str!("../../../../docs/audit.md");
        let missing: Vec<&str> = all()
            .into_iter()
            .filter(|name| !document.contains(&format!("`{name}`")))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/audit.md does not have {missing:?}"
        );
    }
}
