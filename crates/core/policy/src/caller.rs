//! Who asks, as far as it is proven.

use muster_model::SpiffeId;

/// The classes of callers that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Anyone who reaches the port, with or without a certificate.
    Any,
    /// A process on the server's host that may open the admin socket.
    Local,
    /// An identity that administers: listed in the configuration, or of an admin entry.
    Admin,
    /// An identity of a downstream entry.
    Downstream,
    /// An attested node whose certificate is the one in use.
    Node,
    /// An attested node whose certificate, the one in use, has expired no longer ago than the
    /// server's configuration allows.
    Lapsed,
    /// The server itself, in its own periodic work.
    System,
}

/// Why a certificate in a node's name does not speak for an attested node (spire-behaviour 2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// The certificate has expired.
    #[error("the node's SVID has expired")]
    Expired,
    /// No node of that ID is attested.
    #[error("the node is not attested")]
    NotAttested,
    /// The certificate's serial is neither the current nor the next one.
    #[error("the node's SVID is not the one in use")]
    NotActive,
    /// An operator banned the node.
    #[error("the node is banned")]
    Banned,
    /// The node can attest again and must do so instead of renewing.
    #[error("the node must attest again")]
    MustReattest,
}

/// Whether a remote caller is a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeCheck {
    /// The caller showed no certificate.
    NoCertificate,
    /// The caller is the attested node of its ID.
    Node,
    /// It would be, had its certificate not expired, within the grace that is configured.
    Lapsed,
    /// The caller's certificate does not speak for an attested node.
    Refused(NodeRefusal),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process at the admin socket.
    Local {
        /// Its process ID, as the kernel gave it.
        pid: u32,
        /// Its user ID.
        uid: u32,
    },
    /// A TLS client.
    Remote {
        /// The verified SPIFFE ID, if a certificate was shown.
        id: Option<SpiffeId>,
        /// Whether the ID administers.
        admin: bool,
        /// Whether the ID is of a downstream entry.
        downstream: bool,
        /// Whether the ID is of an attested node.
        node: NodeCheck,
    },
    /// The server itself; the text names the work.
    System(&'static str),
}

impl Caller {
    /// Whether the caller is of `class`.
    pub(crate) fn is(&self, class: Class) -> bool {
        match (class, self) {
            (Class::Any, Self::Local { .. } | Self::Remote { .. })
            | (Class::Local, Self::Local { .. })
            | (Class::System, Self::System(_)) => true,
            (Class::Admin, Self::Remote { admin, .. }) => *admin,
            (Class::Downstream, Self::Remote { downstream, .. }) => *downstream,
            (Class::Node, Self::Remote { node, .. }) => *node == NodeCheck::Node,
            (Class::Lapsed, Self::Remote { node, .. }) => *node == NodeCheck::Lapsed,
            (
                Class::Any
                | Class::Local
                | Class::Admin
                | Class::Downstream
                | Class::Node
                | Class::Lapsed
                | Class::System,
                _,
            ) => false,
        }
    }
}
