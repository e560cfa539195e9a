//! What goes wrong with files, and what is said about it.

#![expect(clippy::unwrap_used, reason = "what a test needs, it expects")]

mod common;
#[path = "common/old.rs"]
mod old;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::creation;
use muster_model::Revision;
use muster_store::{Disposition, Store as _, StoreError};
use muster_store_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

async fn filled(path: &Path, entries: u64) {
    let store = SqliteStore::open(path).unwrap();
    for ordinal in 1..=entries {
        store
            .commit(vec![Arc::new(creation(ordinal))])
            .await
            .unwrap();
    }
}

/// What opening and loading comes to.
async fn reopened(path: &Path) -> Result<usize, StoreError> {
    let store = SqliteStore::open(path)?;
    Ok(store.load().await?.entries.len())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The error names the file, what is wrong and what to do.
fn assert_corrupt(outcome: Result<usize, StoreError>, path: &Path, cause: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(error.disposition(), Disposition::Operator);
    let text = error.to_string();
    for part in [path.to_str().unwrap(), cause, "backup"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[tokio::test]
async fn everything_is_readable_by_the_owner_only() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    let store = SqliteStore::open(&path).unwrap();
    store.commit(vec![Arc::new(creation(1))]).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix:?}");
    }
    drop(store);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    drop(SqliteStore::open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    let text = "not a database at all, ".repeat(500);
    fs::write(&path, &text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_corrupt(reopened(&path).await, &path, "not a database");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(mode(&path), 0o644);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE other (x)")
        .unwrap();
    let before = fs::read(&path).unwrap();
    assert_corrupt(reopened(&path).await, &path, "another program");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    filled(&path, 200).await;
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / 2).unwrap();
    assert_corrupt(reopened(&path).await, &path, "malformed");
}

#[tokio::test]
async fn damaged_pages_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    filled(&path, 200).await;
    let mut bytes = fs::read(&path).unwrap();
    let (first, last) = (4096, bytes.len());
    bytes[first..last].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    assert_corrupt(reopened(&path).await, &path, "malformed");
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    filled(&path, 3).await;
    let spoil = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    spoil("UPDATE entries SET doc = json_set(doc, '$.spiffe_id', 'spiffe://TD/x') WHERE id = 'e2'");
    assert_corrupt(
        reopened(&path).await,
        &path,
        "entries \"e2\": SPIFFE ID \"spiffe://TD/x\"",
    );
    // What a newer program may have added must not be lost silently.
    spoil("UPDATE entries SET doc = json_set(doc, '$.spiffe_id', 'spiffe://td/x', '$.new', 1)");
    assert_corrupt(reopened(&path).await, &path, "unknown field `new`");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    filled(&path, 1).await;
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let before = fs::read(&path).unwrap();
    let error = reopened(&path).await.unwrap_err();
    let expected = StoreError::NewerSchema {
        path: path.canonicalize().unwrap(),
        found: 99,
        known: 5,
    };
    assert_eq!(error, expected);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_of_the_first_version_is_taken_up() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    filled(&path, 1).await;
    let version = |set: Option<u32>| {
        let connection = Connection::open(&path).unwrap();
        if let Some(version) = set {
            old::without_agents(&connection);
            connection
                .pragma_update(None, "user_version", version)
                .unwrap();
        }
        connection
            .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
            .unwrap()
    };
    // A node as the first version wrote it: without the use of its token.
    let node = r#"{"attestation_type":"join_token","current":{"serial":"7","expires_at_ms":1},"selectors":[]}"#;
    Connection::open(&path)
        .unwrap()
        .execute(
            "INSERT INTO nodes VALUES ('spiffe://example.org/spire/agent/join_token/x', 1, ?1)",
            [node],
        )
        .unwrap();
    version(Some(1));
    assert_eq!(reopened(&path).await, Ok(1));
    assert_eq!(version(None), 5);
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    fs::write(&path, "").unwrap();
    assert_eq!(reopened(&path).await, Ok(0));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("missing").join("roll.db");
    let text = reopened(&path).await.unwrap_err().to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("create its folder"),
        "{text}"
    );
    let text = reopened(dir.path()).await.unwrap_err().to_string();
    assert!(text.contains("not a file"), "{text}");
}

#[tokio::test]
async fn a_second_server_is_refused_whichever_way_it_comes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    // A link that leads to a file which is not there yet.
    let link = dir.path().join("link.db");
    symlink(&path, &link).unwrap();
    let other_dir = TempDir::new().unwrap();
    let linked_dir = other_dir.path().join("data");
    symlink(dir.path(), &linked_dir).unwrap();
    let first = SqliteStore::open(&link).unwrap();
    assert_eq!(first.path(), path.canonicalize().unwrap());
    let ways = [
        path.clone(),
        link,
        dir.path().join(".").join("roll.db"),
        linked_dir.join("roll.db"),
    ];
    for way in &ways {
        let refused = SqliteStore::open(way).unwrap_err();
        let expected = StoreError::Locked {
            path: path.canonicalize().unwrap(),
            by: Some(std::process::id()),
        };
        assert_eq!(refused, expected, "{}", way.display());
    }
    // The one that was there first works on, and leaves the file to the next.
    first.commit(vec![Arc::new(creation(1))]).await.unwrap();
    drop(first);
    assert_eq!(reopened(&path).await, Ok(1));
}

#[tokio::test]
async fn a_full_disk_takes_nothing_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    let store = SqliteStore::open(&path).unwrap();
    store.commit(vec![Arc::new(creation(1))]).await.unwrap();
    // As full as can be: no page more than there is.
    store.limit_size(1).await.unwrap();
    let mut acknowledged = 1;
    let error = loop {
        let batch = (acknowledged + 1..=acknowledged + 3).map(|n| Arc::new(creation(n)));
        match store.commit(batch.collect()).await {
            Ok(head) => {
                acknowledged += 3;
                assert_eq!(head, Revision(acknowledged));
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(error.disposition(), Disposition::RetryLater);
    let held = |loaded: muster_store::Loaded| (loaded.head, loaded.entries.len() as u64);
    let expected = (Revision(acknowledged), acknowledged);
    assert_eq!(held(store.load().await.unwrap()), expected);
    store.limit_size(u64::MAX).await.unwrap();
    let next = Arc::new(creation(acknowledged + 1));
    assert_eq!(
        store.commit(vec![next]).await,
        Ok(Revision(acknowledged + 1))
    );
    drop(store);
    assert_eq!(
        reopened(&path).await,
        Ok(usize::try_from(acknowledged).unwrap() + 1)
    );
}

/// Where the child of the next test looks; only set for the child.
const PLACES: &str = "MUSTER_TEST_READ_ONLY";
/// A user that owns nothing else.
const NOBODY: u32 = 65534;

/// A file, a folder with a file and a folder without one, none of which may be written. Root may
/// write everywhere, so a child process looks as somebody else.
#[tokio::test]
async fn what_cannot_be_written_is_refused() {
    if let Ok(places) = std::env::var(PLACES) {
        for name in ["file", "folder", "empty"] {
            let path = Path::new(&places).join(name).join("roll.db");
            let error = reopened(&path).await.unwrap_err();
            assert!(
                matches!(error, StoreError::ReadOnly { .. }),
                "{name}: {error:?}"
            );
            assert_eq!(error.disposition(), Disposition::Operator);
            assert!(error.to_string().contains("write access"), "{error}");
        }
        return;
    }
    let dir = TempDir::new().unwrap();
    for name in ["file", "folder", "empty"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    filled(&dir.path().join("file/roll.db"), 1).await;
    filled(&dir.path().join("folder/roll.db"), 1).await;
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program);
    child
        .args(["--exact", "what_cannot_be_written_is_refused"])
        .env(PLACES, dir.path());
    if fs::metadata(dir.path()).unwrap().uid() == 0 {
        child.uid(NOBODY).gid(NOBODY);
        for name in ["", "file", "folder", "empty"] {
            chown(dir.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for name in ["file", "folder"] {
            for file in fs::read_dir(dir.path().join(name)).unwrap() {
                chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
    }
    let set = |name: &str, mode| {
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    set("file/roll.db", 0o400);
    set("folder", 0o500);
    set("empty", 0o500);
    let output = child.output().unwrap();
    // So that the folder can be removed.
    set("folder", 0o700);
    set("empty", 0o700);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
    assert_eq!(reopened(&dir.path().join("folder/roll.db")).await, Ok(1));
}
