//! The authorities as JSON and as a table.

use muster_proto::spire::api::server::localauthority::v1::AuthorityState;
use muster_proto::spire::api::types::Bundle;
use muster_svid::x509::Certificate;
use serde_json::{Map, Value, json};

use super::Kind;
use crate::output::Output;
use crate::time::rfc3339;

/// The authorities of one kind, as the server names them.
#[derive(Debug, Default)]
pub(super) struct States {
    pub active: Option<AuthorityState>,
    pub prepared: Option<AuthorityState>,
    pub old: Option<AuthorityState>,
}

/// An authority of a bundle.
struct InBundle {
    id: String,
    expires_at: i64,
    tainted: bool,
}

/// One authority, with what the server says of it.
struct Row {
    standing: &'static str,
    state: AuthorityState,
    /// Whether it is tainted; `None` is an authority that has left the bundle.
    tainted: Option<bool>,
}

/// The message of an authority.
pub(super) fn authority(state: &AuthorityState) -> Value {
    json!({
        "authority_id": state.authority_id,
        "expires_at": state.expires_at,
        "upstream_authority_subject_key_id": state.upstream_authority_subject_key_id,
    })
}

/// All kinds by name, each with its authorities by standing; "other" is what is in the bundle besides.
pub(super) fn document(kinds: &[(Kind, States)], bundle: &Bundle) -> Value {
    let mut document = Map::new();
    for (kind, states) in kinds {
        let mut of_kind = json!({ "active": null, "prepared": null, "old": null, "other": [] });
        for row in rows(*kind, states, bundle) {
            let mut value = authority(&row.state);
            if let Some(value) = value.as_object_mut() {
                value.insert("in_bundle".to_owned(), row.tainted.is_some().into());
                value.insert("tainted".to_owned(), (row.tainted == Some(true)).into());
            }
            let place = of_kind.get_mut(row.standing);
            match place {
                Some(Value::Array(others)) => others.push(value),
                Some(place) => *place = value,
                None => {}
            }
        }
        document.insert(kind.word().to_owned(), of_kind);
    }
    Value::Object(document)
}

/// The same as a table.
pub(super) fn table(kinds: &[(Kind, States)], bundle: &Bundle, output: Output) -> String {
    let cells = |kind: Kind, row: Row| {
        vec![
            kind.word().to_owned(),
            row.standing.to_owned(),
            row.state.authority_id,
            rfc3339(row.state.expires_at),
            match row.tainted {
                Some(true) => "tainted",
                Some(false) => "",
                None => "not in the bundle",
            }
            .to_owned(),
        ]
    };
    let rows: Vec<_> = kinds
        .iter()
        .flat_map(|(kind, states)| {
            let rows = rows(*kind, states, bundle);
            rows.into_iter().map(|row| cells(*kind, row))
        })
        .collect();
    output.table(
        &["KIND", "STANDING", "AUTHORITY ID", "EXPIRES", "NOTE"],
        &rows,
        "The server has no authority yet.",
    )
}

fn rows(kind: Kind, states: &States, bundle: &Bundle) -> Vec<Row> {
    let in_bundle = in_bundle(kind, bundle);
    let known = [
        ("active", &states.active),
        ("prepared", &states.prepared),
        ("old", &states.old),
    ];
    let mut rows: Vec<Row> = known
        .into_iter()
        .filter_map(|(standing, state)| {
            let state = state.clone()?;
            let found = in_bundle.iter().find(|a| a.id == state.authority_id);
            Some(Row {
                standing,
                state,
                tainted: found.map(|a| a.tainted),
            })
        })
        .collect();
    for other in in_bundle {
        if rows.iter().all(|row| row.state.authority_id != other.id) {
            rows.push(Row {
                standing: "other",
                state: AuthorityState {
                    authority_id: other.id,
                    expires_at: other.expires_at,
                    ..AuthorityState::default()
                },
                tainted: Some(other.tainted),
            });
        }
    }
    rows
}

fn in_bundle(kind: Kind, bundle: &Bundle) -> Vec<InBundle> {
    match kind {
        Kind::X509 => {
            let roots = bundle.x509_authorities.iter();
            roots
                .filter_map(|root| {
                    let certificate = Certificate::parse(&root.asn1).ok()?;
                    Some(InBundle {
                        id: certificate.subject_key_id_hex()?,
                        expires_at: certificate.not_after.unix_seconds(),
                        tainted: root.tainted,
                    })
                })
                .collect()
        }
        Kind::Jwt => {
            let keys = bundle.jwt_authorities.iter();
            keys.map(|key| InBundle {
                id: key.key_id.clone(),
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect()
        }
        Kind::Wit => {
            let keys = bundle.wit_authorities.iter();
            keys.map(|key| InBundle {
                id: key.key_id.clone(),
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::spire::api::types::JwtKey;

    use super::*;

    fn sample() -> (Vec<(Kind, States)>, Bundle) {
        let state = |id: &str| {
            Some(AuthorityState {
                authority_id: id.to_owned(),
                expires_at: 1_767_225_600,
                ..AuthorityState::default()
            })
        };
        let key = |id: &str, tainted| JwtKey {
            key_id: id.to_owned(),
            expires_at: 1_767_139_200,
            tainted,
            ..JwtKey::default()
        };
        let bundle = Bundle {
            jwt_authorities: vec![
                key("of-another", false),
                key("compromised", true),
                key("old", true),
                key("active", false),
            ],
            ..Bundle::default()
        };
        let jwt = States {
            active: state("active"),
            prepared: None,
            old: state("old"),
        };
        let x509 = States {
            active: state("00ff"),
            prepared: state("11ee"),
            old: None,
        };
        (vec![(Kind::X509, x509), (Kind::Jwt, jwt)], bundle)
    }

    #[test]
    fn authorities_for_people_and_scripts() {
        let (kinds, bundle) = sample();
        let output = Output::new(false);
        insta::assert_snapshot!("authority_table", table(&kinds, &bundle, output));
        let document = serde_json::to_string_pretty(&document(&kinds, &bundle)).unwrap();
        insta::assert_snapshot!("authority_json", document);
    }
}
