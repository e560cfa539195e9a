//! A reconciler: removes what has expired. Idempotent, takes no input.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::Event;
use muster_model::{JoinToken, Timestamp};
use muster_policy::{Caller, Permit, Prune, decide};
use muster_roll::{Roll, bundle, node};
use muster_store::{Retention, Store, Transaction};

use crate::operation::record;
use crate::server::Server;

/// How often it looks. Each look costs a few index reads when nothing has expired.
const PERIOD: Duration = Duration::from_secs(10);
/// Rows removed in one transaction, so that a great many do not hold up other writers.
const ROWS: usize = 500;

/// How much of the change log stays: what a second server or a restored backup may have missed.
const CHANGES_KEPT: u64 = 100_000;
/// How often the change log is shortened.
const CHANGES_PERIOD: Duration = Duration::from_mins(10);

/// Shortens the change log for ever.
pub(crate) async fn shorten_change_log(store: Arc<dyn Store>) {
    let mut ticks = tokio::time::interval(CHANGES_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let keep = Retention {
            revisions: CHANGES_KEPT,
            since: Timestamp::EPOCH,
        };
        match store.prune_changes(keep).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::debug!(forgotten, "change log shortened"),
            Err(error) => {
                tracing::warn!(%error, "the change log could not be shortened; trying again");
            }
        }
    }
}

/// Prunes for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = server.clock.now().wall;
        if !due(&server.roll.snapshot(), now) {
            continue;
        }
        // The table gives the server itself this action; a refusal would be a fault of the table.
        let Ok(permit) = decide::<Prune>(&Caller::System("prune")) else {
            continue;
        };
        let pruned = server
            .roll
            .write(move |roll, transaction| prune(roll, transaction, &permit, now));
        if let Err(error) = pruned.await {
            tracing::warn!(%error, "what has expired could not be removed; trying again");
        }
    }
}

fn due(roll: &Roll, now: Timestamp) -> bool {
    roll.expired_entries(now).next().is_some()
        || roll.join_tokens().any(|token| node::is_expired(token, now))
        || roll
            .bundles()
            .any(|b| !matches!(bundle::pruned(b, now), Ok(None)))
}

fn prune(roll: &Roll, transaction: &mut Transaction, permit: &Permit<Prune>, now: Timestamp) {
    for entry in roll.expired_entries(now).take(ROWS) {
        let gone = record(
            permit.principal(),
            now,
            Event::EntryDeleted,
            entry.id.as_str(),
        );
        transaction.audit(
            gone.with("spiffe_id", entry.spiffe_id.as_str())
                .with("reason", "expired"),
        );
        transaction.delete_entry(permit, entry.id.clone());
    }
    let stale: Vec<&JoinToken> = roll
        .join_tokens()
        .filter(|t| node::is_expired(t, now))
        .take(ROWS)
        .collect();
    for token in stale {
        let digest =
            muster_crypto::digest::hex(&muster_crypto::digest::sha256(token.value.as_bytes()));
        transaction.audit(record(
            permit.principal(),
            now,
            Event::JoinTokenPruned,
            digest,
        ));
        transaction.delete_join_token(permit, token.value.clone());
    }
    for old in roll.bundles() {
        match bundle::pruned(old, now) {
            Ok(None) => {}
            Ok(Some(pruned)) => {
                let gone = record(
                    permit.principal(),
                    now,
                    Event::BundlePruned,
                    old.trust_domain.as_str(),
                );
                transaction.audit(
                    gone.with("x509_removed", pruned.x509_removed.to_string())
                        .with("jwt_removed", pruned.jwt_removed.to_string())
                        .with("wit_removed", pruned.wit_removed.to_string()),
                );
                transaction.put_bundle(permit, pruned.bundle);
            }
            Err(error) => {
                tracing::error!(trust_domain = %old.trust_domain, %error, "the bundle was left as it is");
            }
        }
    }
}
