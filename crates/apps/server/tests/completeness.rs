//! Every RPC of the server stands in the permission table and in the documents; and nothing else
//! does.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use std::collections::BTreeSet;

use prost::Message;

/// The packages that the server answers for; the rest of the descriptors is the node's, and so is
/// `muster.agent.v1.Tasks`.
const SERVED: [&str; 4] = [
    "spire.api.server.",
    "muster.node.v1",
    "muster.server.",
    "muster.agent.v1",
];

fn served_methods() -> BTreeSet<String> {
    let descriptors =
        prost_types::FileDescriptorSet::decode(muster_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = BTreeSet::new();
    for file in &descriptors.file {
        let package = file.package();
        if !SERVED.iter().any(|prefix| package.starts_with(prefix)) {
            continue;
        }
        let of_node = |name: &str| package == "muster.agent.v1" && name == "Tasks";
        for service in file
            .service
            .iter()
            .filter(|service| !of_node(service.name()))
        {
            for method in &service.method {
                methods.insert(format!("/{package}.{}/{}", service.name(), method.name()));
            }
        }
    }
    methods
}

#[test]
fn every_rpc_stands_in_the_permission_table() {
    let table: BTreeSet<String> = muster_policy::ALL
        .iter()
        .map(|row| row.method.to_owned())
        .filter(|m| m.starts_with('/'))
        .collect();
    let served = served_methods();
    assert!(
        served.len() > 30,
        "the descriptors lost their services: {served:?}"
    );
    assert_eq!(table, served);
}

#[test]
fn every_rpc_stands_in_the_documents() {
    let documents = include_str!("../../../../docs/api.md");
    for method in served_methods() {
        let (service, rpc) = method.rsplit_once('/').unwrap();
        // In the section of its service: services share words.
        let heading = format!("\n## {}\n", service.trim_start_matches('/'));
        let (_, section) = documents.split_once(&heading).unwrap_or_default();
        let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
        let row = section
            .lines()
            .find(|line| line.contains(&format!("| `{rpc}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/api.md has no row for {rpc} of {service}"));
        let classes = muster_policy::ALL
            .iter()
            .find(|r| r.method == method)
            .unwrap()
            .allowed;
        for class in classes {
            let class = format!("{class:?}").to_lowercase();
            assert!(
                row.contains(&class),
                "docs/api.md does not say that {class} may call {rpc}: {row}"
            );
        }
    }
}
