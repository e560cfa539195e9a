//! Updates of the Workload API, taken apart for people and for scripts.

use muster_crypto::Secret;
use muster_model::Timestamp;
use muster_proto::workload::X509svidResponse;
use muster_svid::x509::{Certificate, X509Svid};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::json;
use crate::output::{Output, counted};
use crate::pem::split_der;
use crate::time::{rfc3339, with_distance};

/// An X.509 update whose chains, keys and bundles could all be read.
pub(crate) struct X509Update {
    pub(crate) svids: Vec<X509Identity>,
    pub(crate) crl: Vec<Vec<u8>>,
    /// Foreign trust domains, by their IDs, in order, with their roots.
    pub(crate) federated: Vec<(String, Vec<Vec<u8>>)>,
}

/// One identity of the update.
pub(crate) struct X509Identity {
    pub(crate) svid: X509Svid,
    pub(crate) bundle: Vec<Vec<u8>>,
    pub(crate) hint: String,
    /// Key identifier of the authority that signed, hexadecimal; empty if the certificate does not
    /// name it.
    pub(crate) authority_id: String,
}

impl X509Update {
    /// Takes an update apart; one that is not as the Workload API has it is an error.
    pub(crate) fn read(update: &X509svidResponse) -> Result<Self, Failure> {
        let svids = update
            .svids
            .iter()
            .map(|svid| {
                let bad = |what: &str| {
                    Failure::failed(format!(
                        "the node sent {what} for {} that cannot be read",
                        svid.spiffe_id
                    ))
                };
                let chain = owned(&svid.x509_svid).ok_or_else(|| bad("a chain"))?;
                let leaf = chain
                    .first()
                    .and_then(|leaf| Certificate::parse(leaf).ok())
                    .ok_or_else(|| bad("a certificate"))?;
                let key = Secret::new(svid.x509_svid_key.to_vec());
                let loaded = X509Svid::load(chain, key).map_err(|error| {
                    Failure::failed(format!(
                        "the node sent an SVID for {} that is not good: {error}",
                        svid.spiffe_id
                    ))
                })?;
                Ok(X509Identity {
                    svid: loaded,
                    bundle: owned(&svid.bundle).ok_or_else(|| bad("a bundle"))?,
                    hint: svid.hint.clone(),
                    authority_id: leaf
                        .authority_key_id
                        .as_deref()
                        .map(muster_crypto::digest::hex)
                        .unwrap_or_default(),
                })
            })
            .collect::<Result<_, Failure>>()?;
        let mut federated = update
            .federated_bundles
            .iter()
            .map(|(name, bundle)| {
                let roots = owned(bundle).ok_or_else(|| {
                    Failure::failed(format!(
                        "the node sent a bundle for {name} that cannot be read"
                    ))
                })?;
                Ok((name.clone(), roots))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        federated.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self {
            svids,
            crl: update.crl.iter().map(|crl| crl.to_vec()).collect(),
            federated,
        })
    }

    /// The update with the Workload API's field names; without the keys.
    pub(crate) fn json(&self) -> Value {
        let svids: Vec<Value> = self
            .svids
            .iter()
            .map(|identity| {
                json!({
                    "spiffe_id": identity.svid.spiffe_id.as_str(),
                    "x509_svid": json::bytes(&identity.svid.chain_concatenated()),
                    "bundle": json::bytes(&identity.bundle.concat()),
                    "hint": identity.hint,
                    "serial_number": identity.svid.serial.as_str(),
                    "not_before": identity.svid.not_before.unix_seconds(),
                    "not_after": identity.svid.not_after.unix_seconds(),
                    "authority_id": identity.authority_id,
                })
            })
            .collect();
        let federated: Map<String, Value> = self
            .federated
            .iter()
            .map(|(name, roots)| (name.clone(), json::bytes(&roots.concat())))
            .collect();
        json!({
            "svids": svids,
            "crl": self.crl.iter().map(|crl| json::bytes(crl)).collect::<Value>(),
            "federated_bundles": federated,
        })
    }

    /// The update for people.
    pub(crate) fn text(&self, output: Output, now: Timestamp) -> String {
        let heading = format!("Received {}.\n", counted(self.svids.len(), "SVID", "SVIDs"));
        let identities = self.svids.iter().map(|identity| {
            let fields = output.fields(&[
                ("SPIFFE ID", identity.svid.spiffe_id.to_string()),
                ("Hint", identity.hint.clone()),
                ("Serial", identity.svid.serial.to_string()),
                (
                    "Valid from",
                    rfc3339(identity.svid.not_before.unix_seconds()),
                ),
                (
                    "Valid until",
                    with_distance(identity.svid.not_after.unix_seconds(), now),
                ),
                ("Signed by", identity.authority_id.clone()),
                ("Bundle", counted(identity.bundle.len(), "root", "roots")),
            ]);
            format!("\n{fields}")
        });
        let federated = self.federated.iter().map(|(name, roots)| {
            let roots = counted(roots.len(), "root", "roots");
            format!("\nBundle of {name}: {roots}.\n")
        });
        let parts = [heading].into_iter().chain(identities).chain(federated);
        parts.collect::<Vec<_>>().concat()
    }
}

fn owned(concatenated: &[u8]) -> Option<Vec<Vec<u8>>> {
    Some(
        split_der(concatenated)?
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect(),
    )
}
