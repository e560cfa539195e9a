//! Opening the file, and the tables in it.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{Fault, corrupt, io};

/// Marks the file as ours, for `file` and for whoever opens something else by mistake: "mstr".
const APPLICATION_ID: i32 = 0x6d73_7472;

/// How long a backup or a database shell may hold the file before a write fails.
const BUSY: Duration = Duration::from_secs(5);

/// The steps from an empty file to the newest schema; the file's `user_version` counts those done.
/// A step that was released is never changed: a new field or table is a new step.
const MIGRATIONS: &[&str] = &[
    "
    -- One row: where the history stands.
    CREATE TABLE history (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        -- The newest revision; 0 is the empty roll.
        head INTEGER NOT NULL,
        -- The newest revision that `changes` no longer has.
        forgotten INTEGER NOT NULL,
        -- The ordinal of the next new entry.
        next_ordinal INTEGER NOT NULL
    ) STRICT;
    INSERT INTO history VALUES (1, 0, 0, 1);

    -- The roll as it is at `head`; `doc` is JSON, and `revision` wrote the row.
    CREATE TABLE entries (
        ordinal INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT;
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE join_tokens (
        value TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE bundles (
        trust_domain TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT;
    CREATE TABLE journals (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        content BLOB NOT NULL
    ) STRICT;

    -- How it came to be: what each transaction put (`doc` or `content`) or deleted (neither).
    CREATE TABLE changes (
        revision INTEGER NOT NULL,
        position INTEGER NOT NULL,
        -- When, by the transaction's first audit record, in Unix milliseconds.
        at_ms INTEGER,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        doc TEXT,
        content BLOB,
        PRIMARY KEY (revision, position)
    ) STRICT, WITHOUT ROWID;

    -- Who did what; numbered from 1 without gaps, never changed, never deleted.
    CREATE TABLE audit (
        sequence INTEGER PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT;
",
    "
    -- 2: the documents of `bundles` may have `wit_authorities`. No table changes; the number keeps
    -- out programs that do not know the field.
    SELECT 1;
",
    "
    -- 3: node documents may have `joined`. An older program would refuse them, and is told by the
    -- version rather than by the first such row.
    SELECT 1;
",
    "
    -- 4: agents and identity rules. Documents of `entries` may have `agent_class`.
    CREATE TABLE rules (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE agent_classes (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT;
    CREATE TABLE agents (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tasks (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT;
    CREATE TABLE persons_gone (
        person TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Sets of policies; the greatest number is the one that operators want in force.
    CREATE TABLE policies (
        number INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL,
        text TEXT NOT NULL
    );
    -- What nodes found that looks like agents; the key is the node's ID and the node's key for it.
    CREATE TABLE sightings (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL
    ) STRICT;
",
    "
    -- 5: documents of `rules` may have `federates_with`, `hint` and `dns_names`, those of `tasks` a
    -- `rule`, those of `sightings` `providers`.
    SELECT 1;
",
];

/// Finds the real place of the database at `path`, and creates an empty file there if there is
/// none: readable by its owner only, before anything is in it.
pub(crate) fn place(path: &Path) -> Result<PathBuf, StoreError> {
    let at_path = |error| io(path, &error);
    if !path.exists() {
        // Through a symbolic link that leads nowhere yet, this creates what it points to.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(at_path)?;
    }
    let path = path.canonicalize().map_err(at_path)?;
    if !path.is_file() {
        return Err(StoreError::Unavailable {
            cause: "not a file; give the path of a file".to_owned(),
            path,
        });
    }
    Ok(path)
}

/// Opens the connection that writes, and brings the tables up to date.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let prepare = || -> Result<Connection, Fault> {
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if connection.is_readonly("main")? {
            return Err(Fault::Answer(StoreError::ReadOnly {
                path: path.to_owned(),
                cause: "the file is read-only".to_owned(),
            }));
        }
        // Nothing is written to a file before it is known to be ours.
        let done = identify(&connection, path)?;
        keep_private(path).map_err(|error| Fault::Answer(io(path, &error)))?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fault::Answer(StoreError::Unavailable {
                path: path.to_owned(),
                cause: format!(
                    "its file system allows no write-ahead log (journal mode {mode:?}); use a local disk"
                ),
            }));
        }
        connection.pragma_update(None, "synchronous", "full")?;
        // A log that grew during a long read shrinks again.
        connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        migrate(&mut connection, done)?;
        Ok(connection)
    };
    prepare().map_err(|fault| fault.at(path))
}

/// Takes the file away from everybody but its owner. SQLite gives the write-ahead log the same mode.
fn keep_private(path: &Path) -> std::io::Result<()> {
    let mode = path.metadata()?.permissions().mode();
    let others = mode & 0o077;
    if others != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Opens a connection that only reads, once the one that writes is open.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|fault| fault.at(path))
}

fn connect(path: &Path, how: OpenFlags) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(path, how | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // KiB, negative as SQLite wants it.
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// How many migrations the file has seen; refuses files that are not ours, or from the future.
fn identify(connection: &Connection, path: &Path) -> Result<u32, Fault> {
    let pragma = |name: &str| -> Result<i32, rusqlite::Error> {
        connection.pragma_query_value(None, name, |row| row.get(0))
    };
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if tables == 0 && application == 0 && version == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Fault::Answer(corrupt(
            path,
            "a SQLite database of another program".to_owned(),
        )));
    }
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    match u32::try_from(version) {
        Ok(found) if found <= known => Ok(found),
        found => Err(Fault::Answer(StoreError::NewerSchema {
            path: path.to_owned(),
            found: found.unwrap_or(u32::MAX),
            known,
        })),
    }
}

/// Takes all steps that are missing, or none.
fn migrate(connection: &mut Connection, done: u32) -> Result<(), Fault> {
    let steps = MIGRATIONS
        .iter()
        .skip(usize::try_from(done).unwrap_or(usize::MAX));
    if steps.len() == 0 {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()?;
    Ok(())
}
