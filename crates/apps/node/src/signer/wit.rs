//! Has the server bind WIT-SVIDs to keys that are made here.

use std::sync::Arc;

use muster_crypto::{JwsAlgorithm, PrivateKey};
use muster_model::EntryId;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, NewWitsvidParams, batch_new_witsvid_response,
};
use muster_roster::{Event, RequestId, SignFault, ToSign};
use tonic::Code;

use super::{Signer, blocking, client, dated, derived, first_expiry, ignore_stopped};
use crate::material::HeldWit;

type Results = Vec<(EntryId, Result<Arc<HeldWit>, SignFault>)>;

impl Signer {
    /// Answers an [`Action::SignWit`](muster_roster::Action::SignWit), in any case.
    pub(crate) fn sign_wit(&self, request: RequestId, entries: Vec<ToSign>) {
        let signer = self.clone();
        tokio::spawn(async move {
            let event = match signer.wit(entries).await {
                Ok(results) => Event::WitSigned { request, results },
                Err(fault) => Event::WitSignFailed { request, fault },
            };
            ignore_stopped(signer.driver.tell(event));
        });
    }

    async fn wit(&self, entries: Vec<ToSign>) -> Result<Results, SignFault> {
        derived::apart(entries, |part| self.wit_of(part)).await
    }

    /// Of entries only, or of names only.
    async fn wit_of(&self, entries: Vec<ToSign>) -> Result<Results, SignFault> {
        let node = self.node_id()?;
        let key_type = self.wit_key_type;
        let count = entries.len();
        // RSA keys take seconds: never on a thread that serves.
        let keys = blocking(move || {
            (0..count)
                .map(|_| PrivateKey::generate(key_type))
                .collect::<Result<Vec<_>, _>>()
        })
        .await?
        .map_err(|error| {
            tracing::error!(%error, "a key could not be made");
            SignFault::Local
        })?;
        let answer = if derived::are_derived(&entries) {
            self.wit_derived(&entries, &keys).await?
        } else {
            self.wit_of_entries(&entries, &keys).await?
        };
        let fault_of = derived::fault_of_items(&entries);
        let names: Vec<EntryId> = entries.into_iter().map(|e| e.entry).collect();
        if answer.results.len() != count {
            tracing::error!(
                asked = count,
                answered = answer.results.len(),
                "the server answered for another number of entries than was asked for"
            );
            return Err(SignFault::NotWhatWasAsked);
        }
        let authorities = self.upstream.trust().bundle();
        blocking(move || {
            let authorities = authorities.as_ref().map_or(&[][..], |b| &b.wit_authorities);
            names
                .into_iter()
                .zip(keys)
                .zip(answer.results)
                .map(|((entry, key), result)| {
                    let held = token(&entry, result, fault_of).and_then(|token| {
                        HeldWit::new(token, &key, authorities, &node).map_err(|error| {
                            tracing::error!(entry_id = %entry, %error, "the server's WIT-SVID is not believed");
                            SignFault::NotWhatWasAsked
                        })
                    });
                    (entry, held.map(Arc::new))
                })
                .collect()
        })
        .await
    }

    async fn wit_of_entries(
        &self,
        entries: &[ToSign],
        keys: &[PrivateKey],
    ) -> Result<BatchNewWitsvidResponse, SignFault> {
        let params = entries
            .iter()
            .zip(keys)
            .map(|(entry, key)| NewWitsvidParams {
                entry_id: entry.entry.as_str().to_owned(),
                public_key: key.public_key().spki_der().to_vec().into(),
                signing_algorithm: algorithm_of(key),
            })
            .collect();
        let message = BatchNewWitsvidRequest { params };
        let expires_at = first_expiry(entries);
        self.ask("BatchNewWITSVID", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).batch_new_witsvid(request).await }
        })
        .await
        .map_err(|no| no.fault)
    }
}

/// The JWS algorithm that a key signs with.
pub(super) fn algorithm_of(key: &PrivateKey) -> String {
    let algorithm = JwsAlgorithm::for_key(key.algorithm()).map(JwsAlgorithm::as_str);
    algorithm.unwrap_or_default().to_owned()
}

/// The token of one entry. SPIRE's servers give no status with a success.
fn token(
    entry: &EntryId,
    result: batch_new_witsvid_response::Result,
    fault_of: fn(Code) -> SignFault,
) -> Result<String, SignFault> {
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        let code = Code::from_i32(status.code);
        tracing::warn!(entry_id = %entry, ?code, error = status.message, "the server did not sign an entry");
        return Err(fault_of(code));
    }
    result
        .svid
        .map(|svid| svid.token)
        .ok_or(SignFault::NotWhatWasAsked)
}
