//! Who was signed for before whom, by the server's own account: its audit records say when each
//! request came, and their numbers in which order they were signed. What a node sees of that is
//! blurred by its own waiting.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use muster_audit::{Record, SvidKind};
use muster_model::{SpiffeId, Timestamp};
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;

use crate::Failure;

/// Records read at a time.
const PAGE: usize = 10_000;
/// Batches that are signed side by side on one core: one that has begun is not stopped for another.
const SIDE_BY_SIDE: usize = 2;

/// A batch, in the order in which batches were signed.
#[derive(Clone, Copy, Debug)]
struct Signed {
    expired: bool,
    /// When its request came, in Unix milliseconds.
    came_at: i64,
}

/// How many expired nodes were overtaken since `began`: an early renewal that came after their
/// request was signed before it. The server must be down.
pub(super) async fn overtaken(
    database: &Path,
    began: Timestamp,
    expired: &HashSet<SpiffeId>,
) -> Result<usize, Failure> {
    let store = SqliteStore::open(database)?;
    let mut signed = Vec::new();
    let mut places = HashMap::new();
    let mut after = 0;
    loop {
        let page = store.audit_after(after, PAGE).await?;
        let Some((last, _)) = page.last() else {
            break;
        };
        after = *last;
        for (_, record) in page {
            note(&record, began, expired, &mut places, &mut signed);
        }
    }
    if places.len() < expired.len() {
        return Err(format!(
            "the audit records tell of {} nodes in the storm, {} had expired",
            places.len(),
            expired.len()
        )
        .into());
    }
    Ok(count(&signed))
}

/// Notes the first record of each node: those of a batch stand together.
fn note(
    record: &Record,
    began: Timestamp,
    expired: &HashSet<SpiffeId>,
    places: &mut HashMap<SpiffeId, usize>,
    signed: &mut Vec<Signed>,
) {
    if SvidKind::issued(record) != Some(SvidKind::X509) || record.at_ms < began.unix_millis() {
        return;
    }
    let node = record.actor.spiffe_id.as_deref();
    let Some(node) = node.and_then(|id| SpiffeId::parse(id).ok()) else {
        return;
    };
    let is_expired = expired.contains(&node);
    places.entry(node).or_insert_with(|| {
        signed.push(Signed {
            expired: is_expired,
            came_at: record.at_ms,
        });
        signed.len()
    });
}

fn count(signed: &[Signed]) -> usize {
    let mut latest_early = i64::MIN;
    let mut count = 0;
    for (place, batch) in signed.iter().enumerate() {
        let before = place.checked_sub(SIDE_BY_SIDE + 1);
        if let Some(before) = before.and_then(|place| signed.get(place))
            && !before.expired
        {
            latest_early = latest_early.max(before.came_at);
        }
        if batch.expired && latest_early > batch.came_at {
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_node_is_overtaken_by_what_came_later_and_was_signed_before() {
        let check = |batches: &[(bool, i64)], expected| {
            let signed: Vec<Signed> = batches
                .iter()
                .map(|(expired, came_at)| Signed {
                    expired: *expired,
                    came_at: *came_at,
                })
                .collect();
            assert_eq!(count(&signed), expected, "{batches:?}");
        };
        let (early, expired) = (false, true);
        check(&[(early, 5), (early, 6), (early, 7), (expired, 4)], 1);
        // It came before, or at once.
        check(&[(early, 4), (early, 4), (early, 4), (expired, 4)], 0);
        // It was the expired one's neighbour.
        check(&[(early, 1), (early, 6), (early, 7), (expired, 4)], 0);
        // Another that had expired may come first.
        check(&[(expired, 5), (expired, 6), (expired, 7), (expired, 4)], 0);
        check(
            &[
                (early, 9),
                (expired, 1),
                (expired, 2),
                (expired, 3),
                (expired, 10),
            ],
            1,
        );
    }
}
