//! Has the server sign what a rule gives: it is told how the node came to the name, and derives it
//! again.

use muster_crypto::PrivateKey;
use muster_model::EntryId;
use muster_proto::muster::node::v1::derived_svid_client::DerivedSvidClient;
use muster_proto::muster::node::v1::{
    BatchNewWitDerivedRequest, BatchNewX509DerivedRequest, Derived, NewJwtDerivedRequest,
    NewWitDerived, NewX509Derived,
};
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidResponse, BatchNewX509svidResponse, NewJwtsvidResponse,
};
use muster_roster::{SignFault, ToSign};
use muster_wire::rule;
use tonic::Code;
use tonic::transport::Channel;

use super::wit::algorithm_of;
use super::{Keys, NotSigned, Signer, dated, fault_of_item, first_expiry};
use crate::upstream::MESSAGE_MAX;

/// The server's words for a rule that gives as many names as it may.
const FULL: [&str; 2] = ["RULE_FULL", "RULE_FULL_ON_NODE"];

/// What came of each, by entry.
type Results<T> = Vec<(EntryId, Result<T, SignFault>)>;

/// Has entries and names signed apart, at the same time. What one of the two requests comes to takes
/// nothing from the other; where there is no other, a failure is that of the whole.
pub(super) async fn apart<T, Signing>(
    entries: Vec<ToSign>,
    sign: impl Fn(Vec<ToSign>) -> Signing,
) -> Result<Results<T>, SignFault>
where
    Signing: Future<Output = Result<Results<T>, SignFault>>,
{
    let (names, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.derived.is_some());
    if names.is_empty() {
        return sign(entries).await;
    }
    if entries.is_empty() {
        return sign(names).await;
    }
    let asked = |part: &[ToSign]| part.iter().map(|e| e.entry.clone()).collect();
    let of_entries: Vec<EntryId> = asked(&entries);
    let of_names: Vec<EntryId> = asked(&names);
    match tokio::join!(sign(entries), sign(names)) {
        (Err(fault), Err(_)) => Err(fault),
        (entries, names) => {
            let failed = |ids: Vec<EntryId>, fault| ids.into_iter().map(move |id| (id, Err(fault)));
            let mut results = entries.unwrap_or_else(|fault| failed(of_entries, fault).collect());
            results.extend(names.unwrap_or_else(|fault| failed(of_names, fault).collect()));
            Ok(results)
        }
    }
}

/// Whether these are names; they are of one kind.
pub(super) fn are_derived(entries: &[ToSign]) -> bool {
    entries.first().is_some_and(|e| e.derived.is_some())
}

/// What the status of one item of a batch comes to.
pub(super) fn fault_of_items(entries: &[ToSign]) -> fn(Code) -> SignFault {
    if are_derived(entries) {
        fault_of_name
    } else {
        fault_of_item
    }
}

fn fault_of_name(code: Code) -> SignFault {
    if code == Code::ResourceExhausted {
        SignFault::BoundReached
    } else {
        of_a_name(fault_of_item(code))
    }
}

/// An entry has the name, or the rule is another by now: the caller's other identities do not wait
/// for that to change.
fn of_a_name(fault: SignFault) -> SignFault {
    if fault == SignFault::Refused {
        SignFault::NameRefused
    } else {
        fault
    }
}

fn client(channel: Channel) -> DerivedSvidClient<Channel> {
    DerivedSvidClient::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

/// How the node came to a name.
fn derivation(name: &ToSign) -> Derived {
    let derived = name.derived.as_ref();
    Derived {
        rule: derived.map(|d| d.rule.to_string()).unwrap_or_default(),
        facts: derived.map(|d| rule::write_facts(&d.facts)),
        spiffe_id: name.spiffe_id.as_str().to_owned(),
    }
}

impl Signer {
    pub(super) async fn x509_derived(
        &self,
        names: &[ToSign],
        keys: &Keys,
    ) -> Result<BatchNewX509svidResponse, SignFault> {
        let params = names
            .iter()
            .zip(keys)
            .map(|(name, (_, csr))| NewX509Derived {
                derived: Some(derivation(name)),
                csr: csr.clone().into(),
            });
        let message = BatchNewX509DerivedRequest {
            params: params.collect(),
        };
        let expires_at = first_expiry(names);
        self.ask("BatchNewX509Svid", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).batch_new_x509_svid(request).await }
        })
        .await
        .map_err(|no| no.fault)
    }

    pub(super) async fn wit_derived(
        &self,
        names: &[ToSign],
        keys: &[PrivateKey],
    ) -> Result<BatchNewWitsvidResponse, SignFault> {
        let params = names.iter().zip(keys).map(|(name, key)| NewWitDerived {
            derived: Some(derivation(name)),
            public_key: key.public_key().spki_der().to_vec().into(),
            signing_algorithm: algorithm_of(key),
        });
        let message = BatchNewWitDerivedRequest {
            params: params.collect(),
        };
        let expires_at = first_expiry(names);
        self.ask("BatchNewWitSvid", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).batch_new_wit_svid(request).await }
        })
        .await
        .map_err(|no| no.fault)
    }

    pub(super) async fn jwt_derived(
        &self,
        name: &ToSign,
        audience: &[String],
    ) -> Result<NewJwtsvidResponse, SignFault> {
        let message = NewJwtDerivedRequest {
            derived: Some(derivation(name)),
            audience: audience.to_vec(),
        };
        let expires_at = first_expiry(std::slice::from_ref(name));
        self.ask("NewJwtSvid", |channel, trace| {
            let request = dated(message.clone(), expires_at, trace);
            async move { client(channel).new_jwt_svid(request).await }
        })
        .await
        .map_err(|NotSigned { fault, reason }| {
            if reason.is_some_and(|reason| FULL.contains(&reason.as_str())) {
                SignFault::BoundReached
            } else {
                of_a_name(fault)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_status_of_a_name_comes_to() {
        for (code, expected) in [
            (Code::ResourceExhausted, SignFault::BoundReached),
            (Code::FailedPrecondition, SignFault::NameRefused),
            (Code::NotFound, SignFault::NameRefused),
            (Code::PermissionDenied, SignFault::Denied),
            (Code::Unavailable, SignFault::Unavailable),
        ] {
            assert_eq!(fault_of_name(code), expected, "{code:?}");
        }
        assert_ne!(
            fault_of_item(Code::ResourceExhausted),
            SignFault::BoundReached,
            "of an entry it says nothing of a rule"
        );
    }
}
