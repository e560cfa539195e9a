//! Identity rules: one row that names processes by a template over what they were attested as.
//!
//! A [`Rule`] is to many processes what an entry is to one: nothing is written for a process that it
//! names. How a name follows from rule and [`Facts`], and which rules may be written, is in
//! `core/roll/naming`.

mod template;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{
    BootId, ClassName, Revision, RuleName, Selector, SelectorSet, SpiffeId, Timestamp, TrustDomain,
};

pub use template::{Part, Placeholder, Segment, Template, TemplateError, TemplateFault};

/// What operators write about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// The node, node alias or other name under which the processes must run, as for entries.
    pub parent_id: SpiffeId,
    /// What a process must be attested as, at least; never empty. In the view of a node those of the
    /// classes are among them, so that a node needs to know no classes.
    pub selectors: SelectorSet,
    /// How its names are made.
    pub template: Template,
    /// The agent class that the identities are of, where their path alone does not say.
    pub class: Option<ClassName>,
    /// Lifetime of X509-SVIDs; `None` is the server's default.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs; `None` is the server's default.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles the processes receive.
    pub federates_with: BTreeSet<TrustDomain>,
    /// An operator's word by which a process tells several identities apart; empty is none.
    pub hint: String,
    /// DNS names put into X509-SVIDs, in this order; the first is also the common name. The same for
    /// every process of the rule.
    pub dns_names: Vec<String>,
    /// How many names it may give on one node at a time; never 0.
    pub per_node: u32,
    /// How many names it may give on all nodes together at a time; never less than `per_node`.
    pub in_all: u32,
}

/// An identity rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique on the server.
    pub name: RuleName,
    /// What operators wrote.
    pub spec: RuleSpec,
    /// Counts the writes, from 1: who writes names the version that they saw.
    pub version: u64,
    /// When it was created, in whole seconds.
    pub created_at: Timestamp,
    /// Who created it: a SPIFFE ID, or a local user.
    pub created_by: String,
    /// When it was last written, in whole seconds.
    pub updated_at: Timestamp,
    /// Who last wrote it.
    pub updated_by: String,
    /// The transaction that last wrote it.
    pub changed_at: Revision,
}

/// One process of one boot of a node's kernel. While that boot lasts, no other process has the same
/// three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessMark {
    /// The boot.
    pub boot: BootId,
    /// The process, as the node's own pid namespace counts.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start_time: u64,
}

/// What is known about a process, as far as names can depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Facts {
    /// What it was attested as.
    pub selectors: SelectorSet,
    /// Which process it is, where the node knows: of a caller that somebody else only describes by
    /// selectors, it does not.
    pub process: Option<ProcessMark>,
}

impl Facts {
    /// The values of the fact `KIND:KEY`, by the form of the kind's selectors: those of
    /// `docker:env:NAME` stand after `=`, all others after `:`.
    pub fn values<'a>(&'a self, kind: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        values(&self.selectors, kind, key)
    }
}

/// The values of the fact `KIND:KEY` in a set of selectors, see [`Facts::values`].
fn values<'a>(
    selectors: &'a SelectorSet,
    kind: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a str> {
    let mark = if kind == "docker" && key.starts_with("env:") {
        '='
    } else {
        ':'
    };
    selectors
        .iter()
        .filter(move |selector| selector.kind() == kind)
        .filter_map(move |selector: &Selector| {
            selector.value().strip_prefix(key)?.strip_prefix(mark)
        })
}

impl RuleSpec {
    /// The values that the rule's own selectors give to a fact: a fact with one here has that value
    /// for every process of the rule.
    pub fn pinned<'a>(&'a self, kind: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        values(&self.selectors, kind, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_facts() {
        let facts = Facts {
            selectors: [
                "unix:uid:7",
                "unix:supplementary_gid:1",
                "unix:supplementary_gid:2",
                "docker:label:app:web",
                "docker:env:MODE=a=b",
                "docker:env:MODE_TWO=c",
            ]
            .map(|text| text.parse().unwrap())
            .into(),
            process: None,
        };
        let check = |kind: &str, key: &str, expected: &[&str]| {
            assert_eq!(facts.values(kind, key).collect::<Vec<_>>(), expected);
        };
        check("unix", "uid", &["7"]);
        check("unix", "supplementary_gid", &["1", "2"]);
        check("unix", "gid", &[]);
        check("docker", "label:app", &["web"]);
        check("docker", "env:MODE", &["a=b"]);
        check("docker", "env:MODE_TWO", &["c"]);
    }
}
