//! What names a workload: parsed before anything else is asked.

use muster_proto::spiffe::broker::{
    KubernetesObjectReference, KubernetesObjectType, WorkloadPidReference, WorkloadReference,
};
use prost::Message;

const PID: &str = "spiffe.broker.WorkloadPIDReference";
const KUBERNETES: &str = "spiffe.broker.KubernetesObjectReference";

/// The kinds of Kubernetes' own API that are not in a namespace, with their groups. A kind that is
/// neither here nor in [`NAMESPACED`] is one that only its cluster knows.
const CLUSTER_SCOPED: &[(&str, &str)] = &[
    ("componentstatuses", "core"),
    ("namespaces", "core"),
    ("nodes", "core"),
    ("persistentvolumes", "core"),
    ("clusterroles", "rbac.authorization.k8s.io"),
    ("clusterrolebindings", "rbac.authorization.k8s.io"),
    ("customresourcedefinitions", "apiextensions.k8s.io"),
    ("storageclasses", "storage.k8s.io"),
];
/// The kinds of Kubernetes' own API under which workloads run, all in a namespace.
const NAMESPACED: &[(&str, &str)] = &[
    ("configmaps", "core"),
    ("endpoints", "core"),
    ("persistentvolumeclaims", "core"),
    ("pods", "core"),
    ("podtemplates", "core"),
    ("replicationcontrollers", "core"),
    ("secrets", "core"),
    ("serviceaccounts", "core"),
    ("services", "core"),
    ("controllerrevisions", "apps"),
    ("daemonsets", "apps"),
    ("deployments", "apps"),
    ("replicasets", "apps"),
    ("statefulsets", "apps"),
    ("cronjobs", "batch"),
    ("jobs", "batch"),
];

/// A reference of a known type, well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// A process of this machine.
    Pid(u32),
    /// A Kubernetes object. Nothing resolves it yet, so nothing of it is kept.
    Kubernetes,
}

/// Why a reference names no workload (BRK-04, BRK-05).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReferenceFault {
    /// There is none.
    #[error("the request has no workload reference")]
    Missing,
    /// It is of no type.
    #[error("the workload reference has no type URL")]
    NoType,
    /// It is of a type that we do not know.
    #[error("workload references of type {0:?} are not known here")]
    UnknownType(String),
    /// Its bytes are not of its type.
    #[error("the workload reference is not a {0}")]
    Malformed(&'static str),
    /// It is no pid.
    #[error("{0} is not a pid: a pid is positive")]
    NotAPid(i32),
    /// The kind of object is not said.
    #[error("the Kubernetes reference needs type.plural and type.group (\"core\" for core kinds)")]
    NoKind,
    /// The object is not said.
    #[error("the Kubernetes reference needs a key or a uid")]
    NoObject,
    /// The key has no name.
    #[error("the key of the Kubernetes reference has no name")]
    NoName,
    /// The kind is in a namespace.
    #[error("{0} are in a namespace, and the key of the Kubernetes reference has none")]
    NoNamespace(String),
    /// The kind is not in a namespace.
    #[error("{0} are not in a namespace, and the key of the Kubernetes reference has one")]
    Namespace(String),
    /// The UID is not one.
    #[error("the uid of the Kubernetes reference is not a UUID")]
    NotAUuid,
    /// The reference is good, and this node cannot follow it.
    #[error("this node resolves no Kubernetes objects; name the workload by its pid")]
    NoKubernetes,
}

impl Reference {
    /// Parses a request's reference.
    pub(super) fn parse(reference: Option<WorkloadReference>) -> Result<Self, ReferenceFault> {
        let any = reference
            .and_then(|reference| reference.reference)
            .ok_or(ReferenceFault::Missing)?;
        // BRK-06: the name is what follows the last slash; the host before it says nothing.
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        match name {
            "" => Err(ReferenceFault::NoType),
            PID => pid(&any.value),
            KUBERNETES => kubernetes(&any.value),
            _ => Err(ReferenceFault::UnknownType(any.type_url.clone())),
        }
    }
}

/// BRK-08.
fn pid(bytes: &[u8]) -> Result<Reference, ReferenceFault> {
    let message =
        WorkloadPidReference::decode(bytes).map_err(|_| ReferenceFault::Malformed(PID))?;
    u32::try_from(message.pid)
        .ok()
        .filter(|pid| *pid != 0)
        .map(Reference::Pid)
        .ok_or(ReferenceFault::NotAPid(message.pid))
}

/// BRK-12, BRK-13, BRK-14 and BRK-15.
fn kubernetes(bytes: &[u8]) -> Result<Reference, ReferenceFault> {
    let message = KubernetesObjectReference::decode(bytes)
        .map_err(|_| ReferenceFault::Malformed(KUBERNETES))?;
    let kind = message
        .r#type
        .filter(|kind| !kind.plural.is_empty() && !kind.group.is_empty())
        .ok_or(ReferenceFault::NoKind)?;
    if message.key.is_none() && message.uid.is_empty() {
        return Err(ReferenceFault::NoObject);
    }
    if let Some(key) = &message.key {
        if key.name.is_empty() {
            return Err(ReferenceFault::NoName);
        }
        let named = |kind: &KubernetesObjectType| format!("{}/{}", kind.plural, kind.group);
        if key.namespace.is_empty() && is_among(NAMESPACED, &kind) {
            return Err(ReferenceFault::NoNamespace(named(&kind)));
        }
        if !key.namespace.is_empty() && is_among(CLUSTER_SCOPED, &kind) {
            return Err(ReferenceFault::Namespace(named(&kind)));
        }
    }
    if !message.uid.is_empty() && !is_uuid(&message.uid) {
        return Err(ReferenceFault::NotAUuid);
    }
    Ok(Reference::Kubernetes)
}

fn is_among(kinds: &[(&str, &str)], kind: &KubernetesObjectType) -> bool {
    kinds.contains(&(kind.plural.as_str(), kind.group.as_str()))
}

/// Five groups of hexadecimal digits, as RFC 9562 writes them.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12]
        && groups
            .iter()
            .all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use muster_proto::spiffe::broker::KubernetesObjectKey;

    use super::*;

    const UID: &str = "a1b2c3d4-0000-4000-8000-00000000abcd";

    #[expect(clippy::unnecessary_wraps, reason = "it is a field of a message")]
    fn packed(type_url: &str, value: Vec<u8>) -> Option<WorkloadReference> {
        Some(WorkloadReference {
            reference: Some(prost_types::Any {
                type_url: type_url.to_owned(),
                value,
            }),
        })
    }

    fn pid(pid: i32) -> Result<Reference, ReferenceFault> {
        let value = WorkloadPidReference { pid }.encode_to_vec();
        Reference::parse(packed(&format!("type.googleapis.com/{PID}"), value))
    }

    /// BRK-08.
    #[test]
    fn a_pid_is_positive() {
        assert_eq!(pid(1), Ok(Reference::Pid(1)));
        assert_eq!(pid(i32::MAX), Ok(Reference::Pid(i32::MAX.unsigned_abs())));
        for bad in [0, -1, i32::MIN] {
            assert_eq!(pid(bad), Err(ReferenceFault::NotAPid(bad)));
        }
    }

    /// BRK-04, BRK-05.
    #[test]
    fn what_names_nothing_is_invalid() {
        assert_eq!(Reference::parse(None), Err(ReferenceFault::Missing));
        let empty = Some(WorkloadReference { reference: None });
        assert_eq!(Reference::parse(empty), Err(ReferenceFault::Missing));
        for no_type in ["", "type.googleapis.com/"] {
            let reference = packed(no_type, Vec::new());
            assert_eq!(Reference::parse(reference), Err(ReferenceFault::NoType));
        }
        let other = "type.googleapis.com/google.protobuf.Empty";
        assert_eq!(
            Reference::parse(packed(other, Vec::new())),
            Err(ReferenceFault::UnknownType(other.to_owned()))
        );
        for name in [PID, KUBERNETES] {
            let garbage = packed(&format!("type.googleapis.com/{name}"), vec![0xff; 9]);
            assert_eq!(
                Reference::parse(garbage),
                Err(ReferenceFault::Malformed(name))
            );
        }
    }

    /// BRK-06.
    #[test]
    fn the_name_alone_tells_the_type() {
        let value = WorkloadPidReference { pid: 7 }.encode_to_vec();
        for prefix in ["", "/", "type.googleapis.com/", "example.org/types/"] {
            let reference = packed(&format!("{prefix}{PID}"), value.clone());
            assert_eq!(Reference::parse(reference), Ok(Reference::Pid(7)));
        }
    }

    /// BRK-12, BRK-13, BRK-14, BRK-15.
    #[test]
    fn kubernetes_references_have_their_shape() {
        use ReferenceFault as Fault;
        let check = |kind: Option<(&str, &str)>,
                     key: Option<(&str, &str)>,
                     uid: &str,
                     expected: Result<(), Fault>| {
            let message = KubernetesObjectReference {
                r#type: kind.map(|(plural, group)| KubernetesObjectType {
                    plural: plural.to_owned(),
                    group: group.to_owned(),
                }),
                key: key.map(|(namespace, name)| KubernetesObjectKey {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }),
                uid: uid.to_owned(),
            };
            let url = format!("type.googleapis.com/{KUBERNETES}");
            let found = Reference::parse(packed(&url, message.encode_to_vec()));
            assert_eq!(
                found,
                expected.map(|()| Reference::Kubernetes),
                "{message:?}"
            );
        };
        let pods = Some(("pods", "core"));
        check(pods, Some(("ns", "web-0")), UID, Ok(()));
        check(pods, Some(("ns", "web-0")), "", Ok(()));
        check(pods, None, UID, Ok(()));
        check(pods, None, &UID.to_uppercase(), Ok(()));
        check(Some(("nodes", "core")), Some(("", "n1")), "", Ok(()));
        check(Some(("things", "example.com")), Some(("", "t")), "", Ok(()));
        check(
            Some(("things", "example.com")),
            Some(("ns", "t")),
            "",
            Ok(()),
        );
        check(None, None, UID, Err(Fault::NoKind));
        check(Some(("", "core")), None, UID, Err(Fault::NoKind));
        check(Some(("pods", "")), None, UID, Err(Fault::NoKind));
        check(pods, None, "", Err(Fault::NoObject));
        check(pods, Some(("ns", "")), "", Err(Fault::NoName));
        check(
            pods,
            Some(("", "web-0")),
            "",
            Err(Fault::NoNamespace("pods/core".into())),
        );
        check(
            Some(("nodes", "core")),
            Some(("ns", "n1")),
            "",
            Err(Fault::Namespace("nodes/core".into())),
        );
        for bad in ["abc", &UID[1..], "a1b2c3d4-0000-4000-8000-00000000abcg"] {
            check(pods, None, bad, Err(Fault::NotAUuid));
        }
    }
}
