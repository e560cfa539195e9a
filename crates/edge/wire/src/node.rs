//! Nodes on SPIRE's API, where they are called agents.

use muster_model::{Node, NodeStanding};
use muster_proto::spire::api::types;

use crate::{id, selector};

/// Writes the fields of a node that `mask` wants; no mask wants all. The ID is always written.
///
/// A banned node has no serial and no expiry, which is how SPIRE's tools tell.
pub fn write(node: &Node, mask: Option<&types::AgentMask>) -> types::Agent {
    let wants = |field: fn(&types::AgentMask) -> bool| mask.is_none_or(field);
    let mut message = types::Agent {
        id: Some(id::write(&node.id)),
        ..types::Agent::default()
    };
    if wants(|m| m.attestation_type) {
        message.attestation_type.clone_from(&node.attestation_type);
    }
    if let NodeStanding::Active {
        serial, expires_at, ..
    } = &node.standing
    {
        if wants(|m| m.x509svid_serial_number) {
            message.x509svid_serial_number = serial.to_string();
        }
        if wants(|m| m.x509svid_expires_at) {
            message.x509svid_expires_at = expires_at.unix_seconds();
        }
    }
    if wants(|m| m.selectors) {
        message.selectors = node.selectors.iter().map(selector::write).collect();
    }
    if wants(|m| m.banned) {
        message.banned = node.is_banned();
    }
    if wants(|m| m.can_reattest) {
        message.can_reattest = node.can_reattest;
    }
    if wants(|m| m.agent_version) {
        message.agent_version.clone_from(&node.agent_version);
    }
    message
}
