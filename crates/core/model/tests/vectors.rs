//! SPIFFE ID vectors: what the standard accepts and refuses, by the ID of each vector.

use std::str::FromStr;

use muster_model::{SpiffeId, TrustDomain};

/// Vectors on which the standard contradicts itself or leaves a choice, and our choice (ID-06,
/// ID-15): upper case and over-long IDs are refused.
const OUR_CHOICE: bool = false;

/// ID-01 to ID-04 and ID-07 to ID-12, by the vectors; ID-05: nothing but lower case is ever parsed,
/// so nothing else is ever written.
#[test]
fn every_vector_is_decided_as_the_standard_says() {
    let text = include_str!("../../../../tests/vectors/spiffe-id-vectors.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let vectors = json["id_vectors"].as_array().unwrap();
    assert!(vectors.len() > 100, "the vector file lost its vectors");
    for vector in vectors {
        let input = vector["In"].as_str().unwrap();
        let accepted = match vector["Kind"].as_str().unwrap() {
            "id" => SpiffeId::from_str(input).is_ok(),
            "td" => TrustDomain::from_name_or_id(input).is_ok(),
            other => panic!("unknown kind {other}"),
        };
        let expected = match vector["exp"].as_str().unwrap() {
            "ACCEPT" => true,
            "REJECT" => false,
            "AMBIG" | "EITHER" => OUR_CHOICE,
            other => panic!("unknown expectation {other}"),
        };
        assert_eq!(
            accepted, expected,
            "{}: {input:?} ({})",
            vector["Id"], vector["why"]
        );
    }
}
