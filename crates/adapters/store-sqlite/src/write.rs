//! What the writing thread does.

use std::sync::Arc;

use muster_model::{Entry, Revision};
use muster_roll::Change;
use muster_store::{Retention, Transaction};
use rusqlite::{Connection, TransactionBehavior, params};

use crate::agents;
use crate::codec;
use crate::error::Fault;

/// How many revisions are deleted from the log at once.
const PRUNE_PIECE: u64 = 1000;

/// Where the history stands.
struct History {
    head: Revision,
    next_ordinal: u64,
}

/// Commits a batch as one SQLite transaction; an error rolls all of it back.
pub(crate) fn commit(
    connection: &mut Connection,
    batch: &[Arc<Transaction>],
) -> Result<Revision, Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut history = transaction
        .prepare_cached("SELECT head, next_ordinal FROM history")?
        .query_row([], |row| {
            Ok(History {
                head: Revision(row.get(0)?),
                next_ordinal: row.get(1)?,
            })
        })?;
    let before = history.head;
    for one in batch {
        write_changes(&transaction, one, &mut history)?;
        write_records(&transaction, one)?;
    }
    if history.head != before {
        transaction
            .prepare_cached("UPDATE history SET head = ?1, next_ordinal = ?2")?
            .execute(params![history.head.0, history.next_ordinal])?;
    }
    transaction.commit()?;
    Ok(history.head)
}

fn write_changes(
    connection: &Connection,
    transaction: &Transaction,
    history: &mut History,
) -> Result<(), Fault> {
    if transaction.is_audit_only() {
        return Ok(());
    }
    history.head = history.head.next();
    let revision = history.head;
    let at_ms = transaction.records().first().map(|record| record.at_ms);
    let mut log = connection.prepare_cached(
        "INSERT INTO changes (revision, position, at_ms, kind, key, doc, content)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (position, change) in transaction.changes().iter().enumerate() {
        let mut doc = None;
        let mut content = None;
        let logged;
        let (kind, key) = match change {
            Change::PutEntry(entry) => {
                doc = Some(put_entry(connection, revision, entry)?);
                history.next_ordinal = history.next_ordinal.max(entry.ordinal.saturating_add(1));
                ("entry", entry.id.as_str())
            }
            Change::DeleteEntry(id) => {
                delete(connection, "DELETE FROM entries WHERE id = ?1", id.as_str())?;
                ("entry", id.as_str())
            }
            Change::PutNode(node) => {
                let query = "INSERT OR REPLACE INTO nodes (id, revision, doc) VALUES (?1, ?2, ?3)";
                let row = (node.id.as_str(), codec::write_node(node)?);
                doc = Some(put(connection, query, revision, row)?);
                ("node", node.id.as_str())
            }
            Change::DeleteNode(id) => {
                delete(connection, "DELETE FROM nodes WHERE id = ?1", id.as_str())?;
                ("node", id.as_str())
            }
            Change::PutJoinToken(token) => {
                let query =
                    "INSERT OR REPLACE INTO join_tokens (value, revision, doc) VALUES (?1, ?2, ?3)";
                let row = (token.value.as_str(), codec::write_join_token(token)?);
                doc = Some(put(connection, query, revision, row)?);
                ("join_token", token.value.as_str())
            }
            Change::DeleteJoinToken(value) => {
                delete(
                    connection,
                    "DELETE FROM join_tokens WHERE value = ?1",
                    value,
                )?;
                ("join_token", value.as_str())
            }
            Change::PutBundle(bundle) => {
                let query = "INSERT OR REPLACE INTO bundles (trust_domain, revision, doc) VALUES (?1, ?2, ?3)";
                let row = (bundle.trust_domain.as_str(), codec::write_bundle(bundle)?);
                doc = Some(put(connection, query, revision, row)?);
                ("bundle", bundle.trust_domain.as_str())
            }
            Change::DeleteBundle(name) => {
                let query = "DELETE FROM bundles WHERE trust_domain = ?1";
                delete(connection, query, name.as_str())?;
                ("bundle", name.as_str())
            }
            Change::PutRule(rule) => {
                let query =
                    "INSERT OR REPLACE INTO rules (name, revision, doc) VALUES (?1, ?2, ?3)";
                let row = (rule.name.as_str(), codec::rules::write(rule)?);
                doc = Some(put(connection, query, revision, row)?);
                ("rule", rule.name.as_str())
            }
            Change::DeleteRule(name) => {
                delete(
                    connection,
                    "DELETE FROM rules WHERE name = ?1",
                    name.as_str(),
                )?;
                ("rule", name.as_str())
            }
            Change::Agent(change) => {
                logged = agents::write(connection, revision, change)?;
                doc.clone_from(&logged.doc);
                content = logged.text.as_ref().map(|text| text.as_str().as_bytes());
                (logged.kind, logged.key.as_str())
            }
            Change::PutJournal {
                name,
                content: bytes,
            } => {
                content = Some(&bytes[..]);
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO journals (name, revision, content) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![name, revision.0, content])?;
                ("journal", name.as_str())
            }
        };
        log.execute(params![
            revision.0, position, at_ms, kind, key, doc, content
        ])?;
    }
    Ok(())
}

/// Writes a row that is a document under its key, and returns the document.
fn put(
    connection: &Connection,
    query: &str,
    revision: Revision,
    (key, doc): (&str, String),
) -> Result<String, Fault> {
    let mut statement = connection.prepare_cached(query)?;
    statement.execute(params![key, revision.0, doc])?;
    Ok(doc)
}

/// Deletes the row of a key.
fn delete(connection: &Connection, query: &str, key: &str) -> Result<(), Fault> {
    connection.prepare_cached(query)?.execute([key])?;
    Ok(())
}

/// Writes an entry and returns its document.
fn put_entry(connection: &Connection, revision: Revision, entry: &Entry) -> Result<String, Fault> {
    let doc = codec::write_entry(entry)?;
    let written = connection
        .prepare_cached(
            "INSERT INTO entries (ordinal, id, revision, doc) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, doc = excluded.doc
             WHERE ordinal = excluded.ordinal",
        )?
        .execute(params![entry.ordinal, entry.id.as_str(), revision.0, doc])?;
    if written != 1 {
        return Err(Fault::Conflict(format!(
            "entry {} has another place in the order of creation than {}",
            entry.id, entry.ordinal
        )));
    }
    Ok(doc)
}

fn write_records(connection: &Connection, transaction: &Transaction) -> Result<(), Fault> {
    if transaction.records().is_empty() {
        return Ok(());
    }
    // Records are never deleted, so that SQLite's next number is the last one plus one.
    let mut insert = connection.prepare_cached("INSERT INTO audit (record) VALUES (?1)")?;
    for record in transaction.records() {
        let text =
            serde_json::to_string(record).map_err(|error| Fault::Conflict(error.to_string()))?;
        insert.execute([text])?;
    }
    Ok(())
}

/// Forgets some of the oldest revisions that are not to be kept, and says how many; 0 is the end.
pub(crate) fn prune_changes(connection: &mut Connection, keep: Retention) -> Result<u64, Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (head, forgotten): (u64, u64) =
        transaction.query_row("SELECT head, forgotten FROM history", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let piece = forgotten.saturating_add(PRUNE_PIECE).min(head);
    // Within the piece, everything before the first revision that is young enough.
    let first_young: Option<u64> = transaction.query_row(
        "SELECT min(revision) FROM changes WHERE revision <= ?1 AND (at_ms >= ?2 OR at_ms IS NULL)",
        params![piece, keep.since.unix_millis()],
        |row| row.get(0),
    )?;
    let too_old = first_young.map_or(piece, |revision| revision.saturating_sub(1));
    let too_many = head.saturating_sub(keep.revisions).min(piece);
    let last = too_old.max(too_many).max(forgotten);
    transaction.execute("DELETE FROM changes WHERE revision <= ?1", [last])?;
    transaction.execute("UPDATE history SET forgotten = ?1", [last])?;
    transaction.commit()?;
    Ok(last - forgotten)
}

/// Limits the size of the file.
pub(crate) fn limit_size(connection: &mut Connection, bytes: u64) -> Result<(), Fault> {
    let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = i64::try_from((bytes / page.max(1)).clamp(1, u64::from(u32::MAX) - 2)).unwrap_or(1);
    // SQLite answers with the limit that holds: never less than what is used already.
    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    Ok(())
}
