//! The page of conformance is complete, and the tests that it names exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use muster_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

#[cfg(test)]
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

#[cfg(test)]
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_requirement_has_its_row_and_every_named_test_exists() {
    let page = fs::read_to_string(root().join("docs/conformance-node.md")).unwrap();
    let mut code = String::new();
    for folder in ["apps/node", "core/roster", "edge/http2", "edge/peer"] {
        sources(&root().join("crates").join(folder), &mut code);
    }
    let mut faults = Vec::new();
    let mut rows = BTreeSet::new();
    for line in page.lines().filter(|l| l.starts_with("| W")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (id, shown) = (cells[1], cells[4]);
        if !rows.insert(id.to_owned()) {
            faults.push(format!("{id} is there twice"));
        }
        for (n, name) in shown.split('`').enumerate() {
            if n % 2 == 1 && !code.contains(&format!("fn {name}(")) {
                faults.push(format!("{id}: there is no test {name}"));
            }
        }
        if shown.is_empty() {
            faults.push(format!("{id} is neither shown nor excused"));
        }
    }
    let wanted = (1..=53)
        .map(|n| format!("WAPI-{n:02}"))
        .chain((1..=18).map(|n| format!("WEP-{n:02}")));
    for id in wanted {
        if !rows.contains(&id) {
            faults.push(format!("{id} has no row"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// WAPI-02, WAPI-03: the methods, and each field with its number, type and multiplicity, as the
/// standard has them (`d` is a message, `s` text, `b` bytes, `*` repeated).
#[test]
fn the_service_is_the_standards() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let file = set
        .file
        .iter()
        .find(|f| f.package().is_empty() && f.name().contains("workload"))
        .unwrap();
    let methods: Vec<String> = file.service[0]
        .method
        .iter()
        .map(|m| {
            let stream = if m.server_streaming() { "stream " } else { "" };
            format!(
                "{}({}) {stream}{}",
                m.name(),
                m.input_type(),
                m.output_type()
            )
        })
        .collect();
    assert_eq!(file.service[0].name(), "SpiffeWorkloadAPI");
    assert_eq!(
        methods,
        [
            "FetchX509SVID(.X509SVIDRequest) stream .X509SVIDResponse",
            "FetchX509Bundles(.X509BundlesRequest) stream .X509BundlesResponse",
            "FetchJWTSVID(.JWTSVIDRequest) .JWTSVIDResponse",
            "FetchJWTBundles(.JWTBundlesRequest) stream .JWTBundlesResponse",
            "ValidateJWTSVID(.ValidateJWTSVIDRequest) .ValidateJWTSVIDResponse",
            "FetchWITSVID(.WITSVIDRequest) stream .WITSVIDResponse",
            "FetchWITBundles(.WITBundlesRequest) stream .WITBundlesResponse",
        ]
    );
    let mut fields = Vec::new();
    for message in &file.message_type {
        for field in &message.field {
            let kind = match field.r#type {
                Some(9) => "s",
                Some(11) => "d",
                Some(12) => "b",
                other => panic!("type {other:?} is not in the standard"),
            };
            let repeated = field.label() == prost_types::field_descriptor_proto::Label::Repeated;
            let many = if repeated { "*" } else { "" };
            let (of, name, number) = (message.name(), field.name(), field.number());
            fields.push(format!("{of}.{name}={number}{kind}{many}"));
        }
    }
    fields.sort();
    let expected = [
        "JWTBundlesResponse.bundles=1d*",
        "JWTSVID.hint=3s",
        "JWTSVID.spiffe_id=1s",
        "JWTSVID.svid=2s",
        "JWTSVIDRequest.audience=1s*",
        "JWTSVIDRequest.spiffe_id=2s",
        "JWTSVIDResponse.svids=1d*",
        "ValidateJWTSVIDRequest.audience=1s",
        "ValidateJWTSVIDRequest.svid=2s",
        "ValidateJWTSVIDResponse.claims=2d",
        "ValidateJWTSVIDResponse.spiffe_id=1s",
        "WITBundlesResponse.bundles=1d*",
        "WITSVID.hint=4s",
        "WITSVID.spiffe_id=1s",
        "WITSVID.wit_svid=2s",
        "WITSVID.wit_svid_key=3s",
        "WITSVIDRequest.spiffe_id=1s",
        "WITSVIDResponse.svids=1d*",
        "X509BundlesResponse.bundles=2d*",
        "X509BundlesResponse.crl=1b*",
        "X509SVID.bundle=4b",
        "X509SVID.hint=5s",
        "X509SVID.spiffe_id=1s",
        "X509SVID.x509_svid=2b",
        "X509SVID.x509_svid_key=3b",
        "X509SVIDResponse.crl=2b*",
        "X509SVIDResponse.federated_bundles=3d*",
        "X509SVIDResponse.svids=1d*",
    ];
    assert_eq!(fields, expected);
}
