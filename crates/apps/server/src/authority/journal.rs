//! What the roll remembers of the authorities: a ladder's rungs as JSON.

use muster_crypto::PublicKey;
use muster_model::Timestamp;
use muster_plugin::keys::KeyManager;
use muster_roll::Roll;
use muster_svid::ladder::{Ladder, Rung, Slot, Standing};
use muster_svid::x509::Certificate;
use serde::{Deserialize, Serialize};

use super::{AuthorityError, Kind, Material};

/// One rung.
#[derive(Serialize, Deserialize)]
struct JournalRung {
    slot: String,
    standing: String,
    issued_at_ms: i64,
    not_after_ms: i64,
    authority_id: String,
    /// The CA certificate, or the SubjectPublicKeyInfo: DER.
    der: Vec<u8>,
}

/// The ladder of a kind as the roll remembers it. An authority whose key is lost can sign nothing
/// more: it has retired.
pub(super) async fn remembered(
    kind: Kind,
    roll: &Roll,
    keys: &dyn KeyManager,
) -> Result<Ladder<Material>, AuthorityError> {
    let unreadable = |cause: String| AuthorityError::Journal {
        kind: kind.name(),
        cause,
    };
    let Some(journal) = roll.journal(kind.name()) else {
        return Ok(Ladder::default());
    };
    let mut rungs = Vec::new();
    for rung in read_journal(journal).map_err(unreadable)? {
        let public_key = match kind {
            Kind::X509 => Certificate::parse(&rung.material.der)
                .ok()
                .and_then(|c| c.public_key().ok()),
            Kind::Jwt | Kind::Wit => PublicKey::from_spki_der(&rung.material.der).ok(),
        };
        let held = keys.public_key(&kind.key_id(rung.slot)?).await.ok();
        if held.is_some() && held == public_key {
            rungs.push(rung);
            continue;
        }
        if rung.standing != Standing::Retiring {
            tracing::warn!(
                kind = kind.name(),
                authority_id = rung.material.authority_id,
                "the key manager no longer has the key of this authority; a new one takes its place"
            );
        }
        // What it signed is still about: an operator may have to taint and to revoke it. One that
        // was prepared signed nothing.
        if rung.standing != Standing::Prepared {
            rungs.push(Rung {
                standing: Standing::Retiring,
                ..rung
            });
        }
    }
    Ladder::from_rungs(rungs).map_err(|error| unreadable(error.to_string()))
}

pub(super) fn write_journal(ladder: &Ladder<Material>) -> Result<Vec<u8>, String> {
    let rungs: Vec<JournalRung> = ladder
        .rungs()
        .iter()
        .map(|rung| JournalRung {
            slot: rung.slot.to_string(),
            standing: match rung.standing {
                Standing::Prepared => "prepared",
                Standing::Active => "active",
                Standing::Retiring => "retiring",
            }
            .to_owned(),
            issued_at_ms: rung.issued_at.unix_millis(),
            not_after_ms: rung.not_after.unix_millis(),
            authority_id: rung.material.authority_id.clone(),
            der: rung.material.der.clone(),
        })
        .collect();
    serde_json::to_vec(&rungs).map_err(|error| error.to_string())
}

fn read_journal(journal: &[u8]) -> Result<Vec<Rung<Material>>, String> {
    let rungs: Vec<JournalRung> =
        serde_json::from_slice(journal).map_err(|error| error.to_string())?;
    rungs
        .into_iter()
        .map(|rung| {
            Ok(Rung {
                slot: match rung.slot.as_str() {
                    "A" => Slot::A,
                    "B" => Slot::B,
                    other => return Err(format!("unknown slot \"{other}\"")),
                },
                standing: match rung.standing.as_str() {
                    "prepared" => Standing::Prepared,
                    "active" => Standing::Active,
                    "retiring" => Standing::Retiring,
                    other => return Err(format!("unknown standing \"{other}\"")),
                },
                issued_at: Timestamp::from_unix_millis(rung.issued_at_ms),
                not_after: Timestamp::from_unix_millis(rung.not_after_ms),
                material: Material {
                    authority_id: rung.authority_id,
                    der: rung.der,
                },
            })
        })
        .collect()
}
