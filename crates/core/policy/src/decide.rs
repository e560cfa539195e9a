//! The decision.

use std::marker::PhantomData;

use muster_model::SpiffeId;

use crate::{Action, Caller, Class, NodeCheck, NodeRefusal};

/// Who was permitted, and as what: the actor of audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The class by which the caller was permitted.
    pub class: Class,
    /// The verified SPIFFE ID of a remote caller.
    pub id: Option<SpiffeId>,
    /// Process and user of a local caller.
    pub process: Option<(u32, u32)>,
    /// The server's own work.
    pub work: Option<&'static str>,
}

/// Proof that a caller was allowed an action of type `A`.
///
/// Only [`decide`] makes one.
#[derive(Debug)]
pub struct Permit<A> {
    principal: Principal,
    action: PhantomData<fn() -> A>,
}

impl<A> Permit<A> {
    /// Who was permitted.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }
}

/// Why a caller may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authorization denied for method {method}")]
pub struct Denial {
    /// The method that was asked for.
    pub method: &'static str,
    /// Why the caller is not a node, where only that was missing.
    pub node: Option<NodeRefusal>,
}

/// Decides whether `caller` may do the action `A`.
///
/// The classes are tried in the order of the action's row; the first that fits is the one that the
/// permit names.
pub fn decide<A: Action>(caller: &Caller) -> Result<Permit<A>, Denial> {
    let Some(class) = A::ROW
        .allowed
        .iter()
        .copied()
        .find(|class| caller.is(*class))
    else {
        let node = match caller {
            Caller::Remote {
                node: NodeCheck::Refused(why),
                ..
            } if A::ROW.allowed.contains(&Class::Node) => Some(*why),
            Caller::Remote {
                node: NodeCheck::Lapsed,
                ..
            } if A::ROW.allowed.contains(&Class::Node) => Some(NodeRefusal::Expired),
            Caller::Remote { .. } | Caller::Local { .. } | Caller::System(_) => None,
        };
        return Err(Denial {
            method: A::ROW.method,
            node,
        });
    };
    let principal = match caller {
        Caller::Local { pid, uid } => Principal {
            class,
            id: None,
            process: Some((*pid, *uid)),
            work: None,
        },
        Caller::Remote { id, .. } => Principal {
            class,
            id: id.clone(),
            process: None,
            work: None,
        },
        Caller::System(work) => Principal {
            class,
            id: None,
            process: None,
            work: Some(work),
        },
    };
    Ok(Permit {
        principal,
        action: PhantomData,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::ALL;

    fn remote(admin: bool, downstream: bool, node: NodeCheck) -> Caller {
        Caller::Remote {
            id: SpiffeId::parse("spiffe://example.org/x").ok(),
            admin,
            downstream,
            node,
        }
    }

    /// The golden authorization matrix: its diff is the review.
    #[test]
    fn matrix() {
        let refused = || NodeCheck::Refused(NodeRefusal::NotAttested);
        let callers = [
            ("local", Caller::Local { pid: 7, uid: 0 }),
            (
                "anonymous",
                Caller::Remote {
                    id: None,
                    admin: false,
                    downstream: false,
                    node: NodeCheck::NoCertificate,
                },
            ),
            ("workload", remote(false, false, refused())),
            ("admin", remote(true, false, refused())),
            ("downstream", remote(false, true, refused())),
            ("node", remote(false, false, NodeCheck::Node)),
            ("lapsed", remote(false, false, NodeCheck::Lapsed)),
            (
                "banned",
                remote(false, false, NodeCheck::Refused(NodeRefusal::Banned)),
            ),
            ("system", Caller::System("test")),
        ];
        let mut table = String::new();
        for row in ALL {
            write!(table, "{:<66}", row.method).unwrap();
            for (name, caller) in &callers {
                let as_what = row.allowed.iter().find(|class| caller.is(**class));
                let cell =
                    as_what.map_or("-".to_owned(), |class| format!("{class:?}").to_lowercase());
                write!(table, " {name}={cell}").unwrap();
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_denial_names_the_method_and_why_the_node_is_refused() {
        let denial = decide::<crate::NewJwtSvid>(&remote(
            false,
            false,
            NodeCheck::Refused(NodeRefusal::Banned),
        ));
        let denial = denial.unwrap_err();
        assert_eq!(denial.node, Some(NodeRefusal::Banned));
        assert_eq!(
            denial.to_string(),
            "authorization denied for method /spire.api.server.svid.v1.SVID/NewJWTSVID"
        );
        // A detail about nodes says nothing to a caller who wanted something that nodes may not do.
        let denial = decide::<crate::ListEntries>(&remote(
            false,
            false,
            NodeCheck::Refused(NodeRefusal::Banned),
        ));
        assert_eq!(denial.unwrap_err().node, None);
    }
}
