//! What the reading thread does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use muster_audit::Record;
use muster_model::{Entry, EntryId, Revision, SpiffeId};
use muster_roll::{Change, Loaded};
use muster_store::StoreError;
use rusqlite::{Connection, params};

use crate::agents;
use crate::codec::{self, Names, Row};
use crate::error::Fault;

/// Everything, as of one revision.
pub(crate) fn load(connection: &mut Connection) -> Result<Loaded, Fault> {
    // One transaction: all tables as of the same commit.
    let snapshot = connection.transaction()?;
    let (head, next_ordinal): (u64, u64) =
        snapshot.query_row("SELECT head, next_ordinal FROM history", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let mut loaded = Loaded {
        head: Revision(head),
        next_ordinal,
        ..Loaded::default()
    };
    loaded.entries = entries(&snapshot)?;
    rows(&snapshot, "SELECT id, revision, doc FROM nodes", |row| {
        loaded.nodes.push(codec::read_node(row)?);
        Ok(())
    })?;
    rows(
        &snapshot,
        "SELECT value, revision, doc FROM join_tokens",
        |row| {
            loaded.join_tokens.push(codec::read_join_token(row)?);
            Ok(())
        },
    )?;
    rows(
        &snapshot,
        "SELECT trust_domain, revision, doc FROM bundles",
        |row| {
            loaded.bundles.push(codec::read_bundle(row)?);
            Ok(())
        },
    )?;
    let query = "SELECT name, revision, doc FROM rules ORDER BY name";
    rows(&snapshot, query, |row| {
        loaded.rules.push(codec::rules::read(row)?);
        Ok(())
    })?;
    loaded.agents = agents::load(&snapshot)?;
    loaded.journals = journals(&snapshot)?;
    Ok(loaded)
}

/// Rows that are decoded together.
const CHUNK: usize = 4096;
/// Chunks that wait to be decoded at the most.
const CHUNKS_WAITING: usize = 8;
/// Threads that decode beside the one that reads; more would wait for it.
const DECODERS: usize = 3;

/// Rows of entries as they were read, one after the other in one text.
#[derive(Default)]
struct Chunk {
    text: String,
    /// Where key and document of each row end, and its revision.
    rows: Vec<(usize, usize, Revision)>,
}

impl Chunk {
    fn add(&mut self, row: Row<'_>) {
        self.text.push_str(row.key);
        let key = self.text.len();
        self.text.push_str(row.doc);
        self.rows.push((key, self.text.len(), row.revision));
    }

    fn decode(&self, names: &mut Names) -> Result<Vec<Arc<Entry>>, Fault> {
        let mut from = 0;
        self.rows
            .iter()
            .map(|(key, doc, revision)| {
                let row = Row {
                    key: self.text.get(from..*key).unwrap_or_default(),
                    doc: self.text.get(*key..*doc).unwrap_or_default(),
                    revision: *revision,
                };
                from = *doc;
                codec::read_entry(row, names)
            })
            .collect()
    }
}

/// The entries of a chunk, and its place among the chunks.
type Decoded = (usize, Vec<Arc<Entry>>);

/// All entries in the order of creation: read here, decoded on other cores meanwhile.
fn entries(snapshot: &Connection) -> Result<Vec<Arc<Entry>>, Fault> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (chunks, waiting) = mpsc::sync_channel::<(usize, Chunk)>(CHUNKS_WAITING);
    let waiting = Mutex::new(waiting);
    let decode = || -> Result<Vec<Decoded>, Fault> {
        let mut names = Names::default();
        let mut decoded = Vec::new();
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok((place, chunk)) = next else {
                return Ok(decoded);
            };
            decoded.push((place, chunk.decode(&mut names)?));
        }
    };
    thread::scope(|scope| {
        let decoders: Vec<_> = (0..cores.saturating_sub(1).clamp(1, DECODERS))
            .map(|_| scope.spawn(decode))
            .collect();
        let mut chunk = Chunk::default();
        let mut place = 0;
        let read = rows(
            snapshot,
            "SELECT id, revision, doc FROM entries ORDER BY ordinal",
            |row| {
                chunk.add(row);
                if chunk.rows.len() >= CHUNK {
                    // A decoder that failed tells below; the others go on until the end.
                    chunks.send((place, std::mem::take(&mut chunk))).ok();
                    place += 1;
                }
                Ok(())
            },
        );
        chunks.send((place, chunk)).ok();
        drop(chunks);
        let mut decoded = Vec::new();
        for decoder in decoders {
            let part = decoder
                .join()
                .map_err(|_| Fault::Answer(StoreError::Closed))?;
            decoded.extend(part?);
        }
        read?;
        decoded.sort_unstable_by_key(|(place, _)| *place);
        Ok(decoded.into_iter().flat_map(|(_, part)| part).collect())
    })
}

pub(crate) fn rows(
    connection: &Connection,
    query: &str,
    mut take: impl FnMut(Row<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(Row {
            key: text(row, 0)?,
            revision: Revision(row.get(1)?),
            doc: text(row, 2)?,
        })?;
    }
    Ok(())
}

fn text<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<&'a str, Fault> {
    row.get_ref(column)?
        .as_str()
        .map_err(|error| Fault::Sqlite(error.into()))
}

fn journals(connection: &Connection) -> Result<BTreeMap<String, Arc<[u8]>>, Fault> {
    let mut statement = connection.prepare_cached("SELECT name, content FROM journals")?;
    let mut rows = statement.query([])?;
    let mut journals = BTreeMap::new();
    while let Some(row) = rows.next()? {
        journals.insert(row.get(0)?, Arc::from(row.get::<_, Vec<u8>>(1)?));
    }
    Ok(journals)
}

/// The changes after a revision, of at most `limit` transactions.
pub(crate) fn changes_after(
    connection: &mut Connection,
    revision: Revision,
    limit: usize,
) -> Result<Vec<(Revision, Vec<Change>)>, Fault> {
    let snapshot = connection.transaction()?;
    let forgotten: u64 =
        snapshot.query_row("SELECT forgotten FROM history", [], |row| row.get(0))?;
    if revision.0 < forgotten {
        return Err(Fault::Answer(StoreError::Forgotten {
            asked: revision,
            oldest: Revision(forgotten),
        }));
    }
    // Revisions have no gaps, so that a number of transactions is a range of revisions.
    let last = revision
        .0
        .saturating_add(u64::try_from(limit).unwrap_or(u64::MAX))
        .min(i64::MAX.unsigned_abs());
    let mut statement = snapshot.prepare_cached(
        "SELECT revision, kind, key, doc, content FROM changes
         WHERE revision > ?1 AND revision <= ?2 ORDER BY revision, position",
    )?;
    let mut rows = statement.query(params![revision.0.min(last), last])?;
    let mut found: Vec<(Revision, Vec<Change>)> = Vec::new();
    let mut names = Names::default();
    while let Some(row) = rows.next()? {
        let revision = Revision(row.get(0)?);
        let change = read_change(row, revision, &mut names)?;
        match found.last_mut() {
            Some((last, changes)) if *last == revision => changes.push(change),
            Some(_) | None => found.push((revision, vec![change])),
        }
    }
    Ok(found)
}

fn read_change(
    row: &rusqlite::Row<'_>,
    revision: Revision,
    names: &mut Names,
) -> Result<Change, Fault> {
    let (kind, key) = (text(row, 1)?, text(row, 2)?);
    let fault = |cause: String| codec::fault("changes", revision.to_string(), cause);
    let put = row
        .get_ref(3)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?
        .map(|doc| Row { key, revision, doc });
    let content = || -> Result<Option<String>, Fault> {
        let bytes: Option<Vec<u8>> = row.get(4)?;
        bytes
            .map(|bytes| String::from_utf8(bytes).map_err(|why| fault(why.to_string())))
            .transpose()
    };
    let text = if kind == "policies" { content()? } else { None };
    if let Some(change) = agents::read_change(kind, key, (put, text), revision)? {
        return Ok(Change::Agent(change));
    }
    Ok(match (kind, put) {
        ("entry", Some(row)) => Change::PutEntry(codec::read_entry(row, names)?),
        ("entry", None) => {
            Change::DeleteEntry(EntryId::parse(key).map_err(|why| fault(why.to_string()))?)
        }
        ("node", Some(row)) => Change::PutNode(codec::read_node(row)?),
        ("node", None) => {
            Change::DeleteNode(SpiffeId::parse(key).map_err(|why| fault(why.to_string()))?)
        }
        ("join_token", Some(row)) => Change::PutJoinToken(codec::read_join_token(row)?),
        ("join_token", None) => Change::DeleteJoinToken(key.to_owned()),
        ("bundle", Some(row)) => Change::PutBundle(codec::read_bundle(row)?),
        ("bundle", None) => Change::DeleteBundle(codec::trust_domain(key).map_err(fault)?),
        ("rule", Some(row)) => Change::PutRule(codec::rules::read(row)?),
        ("rule", None) => Change::DeleteRule(codec::rules::read_name(key).map_err(fault)?),
        ("journal", None) => Change::PutJournal {
            name: key.to_owned(),
            content: Arc::from(row.get::<_, Vec<u8>>(4)?),
        },
        (other, _) => return Err(fault(format!("unknown kind of change {other:?}"))),
    })
}

/// The audit records after a number.
pub(crate) fn audit_after(
    connection: &mut Connection,
    sequence: u64,
    limit: usize,
) -> Result<Vec<(u64, Record)>, Fault> {
    let newer = "SELECT sequence, record FROM audit WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
    audit_records(connection, newer, sequence, limit)
}

/// The audit records before a number, newest first.
pub(crate) fn audit_before(
    connection: &mut Connection,
    sequence: u64,
    limit: usize,
) -> Result<Vec<(u64, Record)>, Fault> {
    let older =
        "SELECT sequence, record FROM audit WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2";
    audit_records(connection, older, sequence, limit)
}

fn audit_records(
    connection: &Connection,
    query: &str,
    sequence: u64,
    limit: usize,
) -> Result<Vec<(u64, Record)>, Fault> {
    let mut statement = connection.prepare_cached(query)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![sequence.min(i64::MAX.unsigned_abs()), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence: u64 = row.get(0)?;
        let record = serde_json::from_str(text(row, 1)?)
            .map_err(|error| codec::fault("audit", sequence.to_string(), error.to_string()))?;
        found.push((sequence, record));
    }
    Ok(found)
}
