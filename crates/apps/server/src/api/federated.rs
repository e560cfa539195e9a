//! Bundles of foreign trust domains, as operators write them (`Bundle` service).

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_audit::Event;
use muster_crypto::PublicKey;
use muster_model::{Bundle, Entry, Rule, TrustDomain};
use muster_policy::{
    BatchCreateFederatedBundle, BatchDeleteFederatedBundle, BatchSetFederatedBundle,
    BatchUpdateFederatedBundle, Bundles, Writes,
};
use muster_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use muster_proto::spire::api::types;
use muster_roll::{Roll, bundle as rules};
use muster_store::Transaction;
use muster_svid::x509::Certificate;
use muster_wire::{bundle as wire_bundle, status};
use tonic::{Code, Status};

use crate::api::entry::keep_up;
use crate::api::registry::by;
use crate::api::rules::described;
use crate::operation::Operation;

/// Bundles in one call that changes them.
const MAX_BATCH: usize = 1000;

/// How a bundle is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// It must not be there.
    Create,
    /// It must be there; the fields of the mask change, all without one.
    Update(Option<types::BundleMask>),
    /// Whether it is there or not.
    Set,
}

impl Way {
    fn verb(self) -> &'static str {
        match self {
            Self::Create => "creating",
            Self::Update(_) => "updating",
            Self::Set => "setting",
        }
    }
}

/// The outcome of one bundle.
pub(crate) struct Outcome {
    pub(crate) status: types::Status,
    pub(crate) bundle: Option<Arc<Bundle>>,
}

/// Refuses a call with more items than are looked at.
pub(crate) fn check_batch(items: usize) -> Result<(), Status> {
    if items > MAX_BATCH {
        return Err(Status::invalid_argument(format!(
            "{items} bundles in one call; send at most {MAX_BATCH}"
        )));
    }
    Ok(())
}

/// An action that writes foreign bundles.
pub(crate) trait WritesBundles: muster_policy::Action + Writes<Bundles> {}
impl WritesBundles for BatchCreateFederatedBundle {}
impl WritesBundles for BatchUpdateFederatedBundle {}
impl WritesBundles for BatchSetFederatedBundle {}

/// Writes the bundles one after the other; each is judged against those before it.
pub(crate) fn put_all<A: WritesBundles>(
    roll: &Roll,
    transaction: &mut Transaction,
    op: &Operation<A>,
    way: Way,
    messages: &[types::Bundle],
) -> Vec<Outcome> {
    let mut working = roll.clone();
    let mut one = |message: &types::Bundle| -> Result<Arc<Bundle>, types::Status> {
        let bundle = judge(&working, way, message)?;
        let known = working.bundle(&bundle.trust_domain);
        if known.is_none_or(|known| !rules::same_content(known, &bundle)) {
            let record = op
                .record(Event::BundleSet, bundle.trust_domain.as_str())
                .with("sequence_number", bundle.sequence_number.to_string());
            transaction.audit(record);
            transaction.put_bundle(&op.permit, bundle.clone());
            keep_up(&mut working, transaction);
        }
        Ok(Arc::new(bundle))
    };
    messages
        .iter()
        .map(|message| match one(message) {
            Ok(bundle) => Outcome {
                status: status::ok(),
                bundle: Some(bundle),
            },
            Err(status) => Outcome {
                status,
                bundle: None,
            },
        })
        .collect()
}

fn judge(roll: &Roll, way: Way, message: &types::Bundle) -> Result<Bundle, types::Status> {
    let invalid = |what: String| status::item(Code::InvalidArgument, what);
    let name = foreign(roll, &message.trust_domain, || {
        format!(
            "{} a federated bundle for the server's own trust domain is not allowed",
            way.verb()
        )
    })?;
    let not_after = |der: &[u8]| Certificate::parse(der).ok().map(|c| c.not_after);
    let given = wire_bundle::read(message, not_after)
        .map_err(|why| invalid(format!("failed to convert bundle: {why}")))?;
    let jwt = given
        .jwt_authorities
        .iter()
        .map(|key| ("JWT", &key.key_id, &key.public_key));
    let wit = given
        .wit_authorities
        .iter()
        .map(|key| ("WIT", &key.key_id, &key.public_key));
    for (kind, id, key) in jwt.chain(wit) {
        if let Err(why) = PublicKey::from_spki_der(key) {
            return Err(invalid(format!(
                "failed to convert bundle: the key of {kind} authority \"{id}\" is not understood: {why}"
            )));
        }
    }
    match (way, roll.bundle(&name)) {
        (Way::Create, Some(_)) => Err(status::item(Code::AlreadyExists, "bundle already exists")),
        (Way::Update(_), None) => Err(status::item(Code::NotFound, "bundle not found")),
        (Way::Create | Way::Set, None) => Ok(given),
        (Way::Set | Way::Update(None), Some(known)) => Ok(rules::replaced(known, given)),
        (Way::Update(Some(mask)), Some(known)) => {
            let mut bundle = Bundle::clone(known);
            if mask.x509_authorities {
                bundle.x509_authorities = given.x509_authorities;
            }
            if mask.jwt_authorities {
                bundle.jwt_authorities = given.jwt_authorities;
            }
            if mask.wit_authorities {
                bundle.wit_authorities = given.wit_authorities;
            }
            if mask.refresh_hint {
                bundle.refresh_hint = given.refresh_hint;
            }
            if mask.sequence_number {
                bundle.sequence_number = given.sequence_number;
            }
            Ok(rules::replaced(known, bundle))
        }
    }
}

fn foreign(
    roll: &Roll,
    name: &str,
    own: impl FnOnce() -> String,
) -> Result<TrustDomain, types::Status> {
    let invalid = |what: String| status::item(Code::InvalidArgument, what);
    let name = TrustDomain::from_name_or_id(name)
        .map_err(|why| invalid(format!("trust domain argument is not valid: {why}")))?;
    if name == *roll.trust_domain() {
        return Err(invalid(own()));
    }
    Ok(name)
}

/// Removes the bundles of the named trust domains.
pub(crate) fn delete_all(
    roll: &Roll,
    transaction: &mut Transaction,
    op: &Operation<BatchDeleteFederatedBundle>,
    mode: Mode,
    names: &[String],
) -> Vec<types::Status> {
    let mut working = roll.clone();
    names
        .iter()
        .map(|name| {
            delete_one(&mut working, transaction, op, mode, name)
                .err()
                .unwrap_or_else(status::ok)
        })
        .collect()
}

fn delete_one(
    working: &mut Roll,
    transaction: &mut Transaction,
    op: &Operation<BatchDeleteFederatedBundle>,
    mode: Mode,
    name: &str,
) -> Result<(), types::Status> {
    let name = foreign(working, name, || {
        "removing the bundle for the server trust domain is not allowed".to_owned()
    })?;
    if working.bundle(&name).is_none() {
        return Err(status::item(Code::NotFound, "bundle not found"));
    }
    let federated: Vec<Arc<Entry>> = working
        .entries_after(0)
        .filter(|entry| entry.federates_with.contains(&name))
        .cloned()
        .collect();
    let by_rule: Vec<Arc<Rule>> = working
        .rules()
        .filter(|rule| rule.spec.federates_with.contains(&name))
        .cloned()
        .collect();
    if mode == Mode::Restrict && !(federated.is_empty() && by_rule.is_empty()) {
        // Where there are no rules, the words are SPIRE's.
        let rules = match by_rule.len() {
            0 => String::new(),
            count => format!(" and {count} identity rules"),
        };
        return Err(status::item(
            Code::FailedPrecondition,
            format!(
                "failed to delete federated bundle: cannot delete bundle; federated with {} registration entries{rules}",
                federated.len()
            ),
        ));
    }
    for rule in by_rule {
        if mode == Mode::Delete {
            let record = op.record(Event::RuleDeleted, rule.name.as_str());
            transaction.audit(described(record, &rule));
            transaction.delete_rule(&op.permit, rule.name.clone());
        } else {
            dissociate_rule(transaction, op, &rule, &name);
        }
        keep_up(working, transaction);
    }
    for entry in federated {
        if mode == Mode::Delete {
            delete_entry(transaction, op, &entry);
        } else {
            dissociate(transaction, op, &entry, &name);
        }
        keep_up(working, transaction);
    }
    transaction.audit(op.record(Event::BundleDeleted, name.as_str()));
    transaction.delete_bundle(&op.permit, name);
    keep_up(working, transaction);
    Ok(())
}

fn delete_entry(
    transaction: &mut Transaction,
    op: &Operation<BatchDeleteFederatedBundle>,
    entry: &Entry,
) {
    let record = op
        .record(Event::EntryDeleted, entry.id.as_str())
        .with("spiffe_id", entry.spiffe_id.as_str());
    transaction.audit(record);
    transaction.delete_entry(&op.permit, entry.id.clone());
}

fn dissociate(
    transaction: &mut Transaction,
    op: &Operation<BatchDeleteFederatedBundle>,
    entry: &Entry,
    name: &TrustDomain,
) {
    let federates_with: BTreeSet<TrustDomain> = entry
        .federates_with
        .iter()
        .filter(|other| *other != name)
        .cloned()
        .collect();
    let record = op
        .record(Event::EntryUpdated, entry.id.as_str())
        .with("spiffe_id", entry.spiffe_id.as_str());
    transaction.audit(record);
    transaction.put_entry(
        &op.permit,
        Entry {
            federates_with,
            revision_number: entry.revision_number.saturating_add(1),
            ..entry.clone()
        },
    );
}

fn dissociate_rule(
    transaction: &mut Transaction,
    op: &Operation<BatchDeleteFederatedBundle>,
    rule: &Rule,
    name: &TrustDomain,
) {
    let mut rule = rule.clone();
    rule.spec.federates_with.remove(name);
    rule.version = rule.version.saturating_add(1);
    rule.updated_at = op.now.floor_to_second();
    rule.updated_by = by(op.permit.principal());
    let record = op.record(Event::RuleUpdated, rule.name.as_str());
    transaction.audit(described(record, &rule));
    transaction.put_rule(&op.permit, rule);
}

/// A page of foreign bundles, by name: those after `after`, `limit` of them (0 is all), and the
/// token of the next page.
pub(crate) fn page(roll: &Roll, after: &str, limit: usize) -> (Vec<Arc<Bundle>>, String) {
    let mut rows: Vec<Arc<Bundle>> = roll
        .bundles()
        .filter(|bundle| bundle.trust_domain != *roll.trust_domain())
        .filter(|bundle| bundle.trust_domain.as_str() > after)
        .cloned()
        .collect();
    rows.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    if limit == 0 || rows.len() <= limit {
        return (rows, String::new());
    }
    rows.truncate(limit);
    let next = rows
        .last()
        .map(|last| last.trust_domain.as_str().to_owned());
    (rows, next.unwrap_or_default())
}
