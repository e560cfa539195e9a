//! Who calls: from what the listener proved to a caller that policy can judge.

use muster_model::{SerialNumber, Timestamp};
use muster_policy::{Caller, NodeCheck, NodeRefusal};
use muster_roll::Roll;
use muster_roll::node::{self, Presented, Recognized};
use tonic::{Extensions, Status};

use crate::listen::TlsOrigin;
use crate::server::Server;

/// A caller, and the node certificate's next step if it is one.
pub(crate) struct Identified {
    /// The caller as policy sees it.
    pub caller: Caller,
    /// The node's renewed certificate was seen for the first time: it becomes the one in use.
    pub promote: Option<SerialNumber>,
}

/// Identifies the caller of a request from its connection.
///
/// A node's certificate is checked against the roll with each request, so that a ban or an eviction
/// holds for connections that are already open.
pub(crate) fn identify(
    extensions: &Extensions,
    roll: &Roll,
    server: &Server,
    now: Timestamp,
) -> Result<Identified, Status> {
    if let Some(local) = extensions.get::<muster_peer::PeerInfo>() {
        let caller = local.caller().map_err(|refusal| {
            Status::unauthenticated(format!("the calling process is not known: {refusal}"))
        })?;
        let caller = Caller::Local {
            pid: caller.pid(),
            uid: caller.uid(),
        };
        return Ok(Identified {
            caller,
            promote: None,
        });
    }
    let origin = extensions
        .get::<TlsOrigin>()
        .ok_or_else(|| Status::internal("the connection does not say where it comes from"))?;
    let Some(peer) = &origin.peer else {
        let caller = Caller::Remote {
            id: None,
            admin: false,
            downstream: false,
            node: NodeCheck::NoCertificate,
        };
        return Ok(Identified {
            caller,
            promote: None,
        });
    };
    let id = &peer.spiffe_id;
    let presented = Presented {
        serial: &peer.serial,
        expires_at: peer.not_after,
    };
    let row = roll.node(id).map(AsRef::as_ref);
    let (check, recognized) = match node::check(row, presented, now) {
        Ok(recognized) => (NodeCheck::Node, Some(recognized)),
        Err(NodeRefusal::Expired) => {
            match node::check_lapsed(row, presented, server.renew_grace, now) {
                Ok(recognized) => (NodeCheck::Lapsed, Some(recognized)),
                Err(_) => (NodeCheck::Refused(NodeRefusal::Expired), None),
            }
        }
        Err(refusal) => (NodeCheck::Refused(refusal), None),
    };
    let promote = (recognized == Some(Recognized::Next)).then(|| peer.serial.clone());
    // An expired certificate speaks for nobody, whatever its connection was when it was opened.
    let expired = now > peer.not_after;
    let caller = Caller::Remote {
        admin: !expired && (server.admin_ids.contains(id) || roll.is_admin(id)),
        downstream: !expired && roll.is_downstream(id),
        id: Some(id.clone()),
        node: check,
    };
    Ok(Identified { caller, promote })
}
