//! Messages as JSON, with the field names of the protobuf files.
//!
//! Times are numbers of seconds since 1970, bytes are standard base64; every field is there, also
//! when it is empty, so that scripts need no defaults.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster_proto::spire::api::types;
use serde_json::{Value, json};

pub(crate) fn bytes(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

pub(crate) fn spiffe_id(id: Option<&types::Spiffeid>) -> Value {
    id.map_or(
        Value::Null,
        |id| json!({ "trust_domain": id.trust_domain, "path": id.path }),
    )
}

pub(crate) fn selectors(selectors: &[types::Selector]) -> Value {
    selectors
        .iter()
        .map(|selector| json!({ "type": selector.r#type, "value": selector.value }))
        .collect()
}

pub(crate) fn status(status: Option<&types::Status>) -> Value {
    status.map_or(
        Value::Null,
        |status| json!({ "code": status.code, "message": status.message }),
    )
}

pub(crate) fn entry(entry: &types::Entry) -> Value {
    let attributes = entry.additional_attributes.unwrap_or_default();
    json!({
        "id": entry.id,
        "spiffe_id": spiffe_id(entry.spiffe_id.as_ref()),
        "parent_id": spiffe_id(entry.parent_id.as_ref()),
        "selectors": selectors(&entry.selectors),
        "x509_svid_ttl": entry.x509_svid_ttl,
        "federates_with": entry.federates_with,
        "admin": entry.admin,
        "downstream": entry.downstream,
        "expires_at": entry.expires_at,
        "dns_names": entry.dns_names,
        "revision_number": entry.revision_number,
        "store_svid": entry.store_svid,
        "jwt_svid_ttl": entry.jwt_svid_ttl,
        "hint": entry.hint,
        "muster_agent_class": entry.muster_agent_class,
        "created_at": entry.created_at,
        "additional_attributes": {
            "disable_x509_svid_prefetch": attributes.disable_x509_svid_prefetch,
            "jwt_svid_include_jti": attributes.jwt_svid_include_jti,
        },
    })
}

pub(crate) fn agent(agent: &types::Agent) -> Value {
    json!({
        "id": spiffe_id(agent.id.as_ref()),
        "attestation_type": agent.attestation_type,
        "x509svid_serial_number": agent.x509svid_serial_number,
        "x509svid_expires_at": agent.x509svid_expires_at,
        "selectors": selectors(&agent.selectors),
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "agent_version": agent.agent_version,
    })
}

pub(crate) fn bundle(bundle: &types::Bundle) -> Value {
    let x509: Vec<Value> = bundle
        .x509_authorities
        .iter()
        .map(|authority| json!({ "asn1": bytes(&authority.asn1), "tainted": authority.tainted }))
        .collect();
    let key = |public_key: &[u8], key_id: &str, expires_at: i64, tainted: bool| {
        json!({
            "public_key": bytes(public_key),
            "key_id": key_id,
            "expires_at": expires_at,
            "tainted": tainted,
        })
    };
    let jwt: Vec<Value> = bundle
        .jwt_authorities
        .iter()
        .map(|k| key(&k.public_key, &k.key_id, k.expires_at, k.tainted))
        .collect();
    let wit: Vec<Value> = bundle
        .wit_authorities
        .iter()
        .map(|k| key(&k.public_key, &k.key_id, k.expires_at, k.tainted))
        .collect();
    json!({
        "trust_domain": bundle.trust_domain,
        "x509_authorities": x509,
        "jwt_authorities": jwt,
        "wit_authorities": wit,
        "refresh_hint": bundle.refresh_hint,
        "sequence_number": bundle.sequence_number,
    })
}
