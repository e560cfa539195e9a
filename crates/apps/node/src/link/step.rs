//! From the messages of a stream to the steps of the node's view.

use muster_model::{EntryId, Revision, SpiffeId, TrustDomain};
use muster_proto::muster::node::v1::WatchResponse;
use muster_roster::{NamingStep, Step, ViewDigest};
use muster_wire::{bundle as wire_bundle, entry as wire_entry, rule as wire_rule};

use crate::join;

/// The most rows that one step may bring before it is complete.
const STEP_ROWS_MAX: usize = 2_000_000;

/// Whether an entry with this parent is surely not the node's.
///
/// The parent of an entry is a node, or an alias that nodes have by their selectors, which only the
/// server knows. The names of nodes are recognised: nothing else is named so.
fn is_another_nodes(parent: &SpiffeId, own: &TrustDomain, node: Option<&SpiffeId>) -> bool {
    parent.trust_domain() == own
        && parent.path().starts_with("/spire/agent/")
        && node.is_some_and(|node| node != parent)
}

/// Adds what a message says of identity rules.
fn add_naming(
    naming: &mut NamingStep,
    message: &WatchResponse,
    own: &TrustDomain,
    node: Option<&SpiffeId>,
) -> Result<(), String> {
    for rule in &message.rules {
        let rule = wire_rule::read(rule).map_err(|e| format!("rule {:?}: {e}", rule.name))?;
        let parent = &rule.spec.parent_id;
        if is_another_nodes(parent, own, node) {
            return Err(format!("rule {} is for another node, {parent}", rule.name));
        }
        naming.rules.push(rule);
    }
    for name in &message.removed_rules {
        let name = wire_rule::read_name(name).map_err(|e| format!("a removed rule: {e}"))?;
        naming.removed_rules.push(name);
    }
    let read = |name: &String| SpiffeId::parse(name).map_err(|e| format!("a barred name: {e}"));
    for name in &message.withheld_names {
        naming.withheld.push(read(name)?);
    }
    for name in &message.released_names {
        naming.released.push(read(name)?);
    }
    let rows = naming.rules.len()
        + naming.removed_rules.len()
        + naming.withheld.len()
        + naming.released.len();
    if rows > STEP_ROWS_MAX {
        return Err(format!(
            "a step has more than {STEP_ROWS_MAX} rules and barred names"
        ));
    }
    Ok(())
}

/// A step that one message holds.
pub(crate) fn read_step(message: &WatchResponse, own: &TrustDomain) -> Result<Step, String> {
    Gathered::default()
        .add(message, own, None)?
        .ok_or_else(|| "the step is not complete".to_owned())
}

/// The messages of a step that is not complete yet.
#[derive(Default)]
pub(super) struct Gathered(Option<Step>);

impl Gathered {
    /// Adds a message; the step when it is complete.
    pub(super) fn add(
        &mut self,
        message: &WatchResponse,
        own: &TrustDomain,
        node: Option<&SpiffeId>,
    ) -> Result<Option<Step>, String> {
        let digest = ViewDigest::from_bytes(&message.digest)
            .ok_or("the digest of the view does not have 32 bytes")?;
        let step = self.0.get_or_insert_with(|| Step {
            revision: Revision(message.revision),
            replace: message.replace,
            entries: Vec::new(),
            removed_entries: Vec::new(),
            bundles: Vec::new(),
            removed_bundles: Vec::new(),
            naming: NamingStep::default(),
            digest,
        });
        // A message of another step would silently lose the one that was not completed.
        if step.revision.0 != message.revision || step.replace != message.replace {
            return Err("a step was not completed before the next one began".to_owned());
        }
        step.digest = digest;
        for entry in &message.entries {
            let entry = wire_entry::read(entry).map_err(|e| e.to_string())?;
            if is_another_nodes(&entry.parent_id, own, node) {
                return Err(format!(
                    "entry {} is for another node, {}",
                    entry.id, entry.parent_id
                ));
            }
            step.entries.push(entry);
        }
        for id in &message.removed_entries {
            let id = EntryId::parse(id).map_err(|e| format!("a removed entry: {e}"))?;
            step.removed_entries.push(id);
        }
        for bundle in &message.bundles {
            let bundle = wire_bundle::read(bundle, join::not_after).map_err(|e| e.to_string())?;
            step.bundles.push(bundle);
        }
        for name in &message.removed_bundles {
            let name =
                TrustDomain::from_name_or_id(name).map_err(|e| format!("a removed bundle: {e}"))?;
            if name == *own {
                return Err("the server removed the bundle of its own trust domain".to_owned());
            }
            step.removed_bundles.push(name);
        }
        add_naming(&mut step.naming, message, own, node)?;
        if step.entries.len() + step.removed_entries.len() > STEP_ROWS_MAX {
            return Err(format!("a step has more than {STEP_ROWS_MAX} entries"));
        }
        Ok(message.complete.then(|| self.0.take()).flatten())
    }
}
