//! How a node lives: attested, renewed, banned, gone (spire-behaviour 1.6, 2.9).
//!
//! Every function says what the node is from now on; the caller writes that to the store.

use muster_model::{
    JoinToken, Node, NodeStanding, Revision, SelectorSet, SerialNumber, SpiffeId, Timestamp,
};
use muster_policy::NodeRefusal;

use crate::Roll;

/// A certificate that a caller presented, as far as a node's standing depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// Its serial number.
    pub serial: &'a SerialNumber,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A certificate that was issued to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Which of a node's certificates was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognized {
    /// The one in use.
    Current,
    /// The renewed one, for the first time: write [`promoted`] before anything else is done.
    Next,
}

/// What an attestor concluded about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The node's SPIFFE ID.
    pub id: SpiffeId,
    /// The attestor's name.
    pub attestation_type: String,
    /// What the node was attested as.
    pub selectors: SelectorSet,
    /// Whether the node can attest again by itself.
    pub can_reattest: bool,
}

/// Whether the presented certificate speaks for `node`, the row of the certificate's ID if there
/// is one. The order of the questions is SPIRE's (2.9): the refusal is the first that fits.
pub fn check(
    node: Option<&Node>,
    presented: Presented<'_>,
    now: Timestamp,
) -> Result<Recognized, NodeRefusal> {
    if now > presented.expires_at {
        return Err(NodeRefusal::Expired);
    }
    match &node.ok_or(NodeRefusal::NotAttested)?.standing {
        NodeStanding::Banned => Err(NodeRefusal::Banned),
        NodeStanding::Active { serial, .. } if serial == presented.serial => {
            Ok(Recognized::Current)
        }
        NodeStanding::Active {
            next: Some((next, _)),
            ..
        } if next == presented.serial => Ok(Recognized::Next),
        NodeStanding::Active { .. } => Err(NodeRefusal::NotActive),
    }
}

/// The node once its renewed certificate was seen: that one is in use, the old one is no longer
/// good. A node without a renewed certificate stays as it is.
#[must_use]
pub fn promoted(node: &Node) -> Node {
    let mut node = node.clone();
    if let NodeStanding::Active {
        next: Some((serial, expires_at)),
        ..
    } = node.standing
    {
        node.standing = NodeStanding::Active {
            serial,
            expires_at,
            next: None,
        };
    }
    node
}

/// Whether a node of that row, if there is one, may attest now.
pub fn may_attest(previous: Option<&Node>) -> Result<(), NodeRefusal> {
    match previous {
        Some(node) if node.is_banned() => Err(NodeRefusal::Banned),
        Some(_) | None => Ok(()),
    }
}

/// The node after an attestation. Certificates from before are no longer good, also when they have
/// not expired; the version that its daemon reported is kept.
pub fn after_attest(
    previous: Option<&Node>,
    attested: Attested,
    issued: Issued,
) -> Result<Node, NodeRefusal> {
    may_attest(previous)?;
    Ok(Node {
        id: attested.id,
        attestation_type: attested.attestation_type,
        standing: NodeStanding::Active {
            serial: issued.serial,
            expires_at: issued.expires_at,
            next: None,
        },
        can_reattest: attested.can_reattest,
        selectors: attested.selectors,
        agent_version: previous.map_or_else(String::new, |node| node.agent_version.clone()),
        changed_at: Revision::default(),
    })
}

/// Whether the node may renew with its certificate instead of attesting again.
pub fn may_renew(node: &Node) -> Result<(), NodeRefusal> {
    match node.standing {
        NodeStanding::Banned => Err(NodeRefusal::Banned),
        NodeStanding::Active { .. } if node.can_reattest => Err(NodeRefusal::MustReattest),
        NodeStanding::Active { .. } => Ok(()),
    }
}

/// The node after a renewal: the old certificate stays good until the new one is first seen. A
/// renewed certificate that was never used is replaced.
pub fn after_renew(node: &Node, issued: Issued) -> Result<Node, NodeRefusal> {
    may_renew(node)?;
    let mut node = node.clone();
    if let NodeStanding::Active { next, .. } = &mut node.standing {
        *next = Some((issued.serial, issued.expires_at));
    }
    Ok(node)
}

/// The node after an operator banned it: no certificate of it is good, and it may not attest.
#[must_use]
pub fn banned(node: &Node) -> Node {
    Node {
        standing: NodeStanding::Banned,
        ..node.clone()
    }
}

/// When the newest of the node's certificates expires; a banned node has none.
pub fn expires_at(node: &Node) -> Option<Timestamp> {
    match &node.standing {
        NodeStanding::Active {
            expires_at, next, ..
        } => Some(
            next.as_ref()
                .map_or(*expires_at, |(_, renewed)| (*renewed).max(*expires_at)),
        ),
        NodeStanding::Banned => None,
    }
}

/// What presenting a join token comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// The token is good: delete it in the transaction that admits the node.
    Good,
    /// The token is known and too old: delete it all the same, then refuse.
    Expired,
    /// There is no such token, or it was used: refuse.
    Unknown,
}

/// What presenting the join token `value` at `now` comes to. A token that is known is deleted
/// first, and only then asked for its age: presenting it uses it up (2.14).
pub fn redeem(roll: &Roll, value: &str, now: Timestamp) -> TokenUse {
    match roll.join_token(value) {
        None => TokenUse::Unknown,
        Some(token) if is_expired(token, now) => TokenUse::Expired,
        Some(_) => TokenUse::Good,
    }
}

/// Whether a join token is too old at `now`.
pub fn is_expired(token: &JoinToken, now: Timestamp) -> bool {
    now >= token.expires_at
}
