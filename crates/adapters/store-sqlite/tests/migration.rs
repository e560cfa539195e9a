//! A database of an earlier schema is brought up to date, and keeps what it had.

#![expect(clippy::unwrap_used, reason = "what a test needs, it expects")]

mod common;
#[path = "common/old.rs"]
mod old;

use std::path::Path;
use std::sync::Arc;

use common::{creation, entry, permit};
use muster_model::{
    Bundle, ClassName, Departure, JwtAuthority, Note, PersonId, Rule, Timestamp, TrustDomain,
    WitAuthority,
};
use muster_policy::{Caller, MarkPersonGone, UpdateRule, decide};
use muster_roll::agents::LoadedAgents;
use muster_store::{Store as _, Transaction};
use muster_store_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

fn own() -> Bundle {
    Bundle {
        jwt_authorities: vec![JwtAuthority {
            key_id: "k".into(),
            public_key: Arc::from(&b"\x01"[..]),
            expires_at: None,
            tainted: false,
        }],
        sequence_number: 3,
        ..Bundle::empty(TrustDomain::parse("td").unwrap())
    }
}

fn version(path: &Path) -> u32 {
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

async fn bundles(store: &SqliteStore) -> Vec<Bundle> {
    let loaded = store.load().await.unwrap();
    loaded.bundles.iter().map(|b| Bundle::clone(b)).collect()
}

fn put(bundle: Bundle) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.put_bundle(&permit(), bundle);
    transaction
}

/// Schema 1 knew no WIT keys: its documents have no such field, and the tables are the same.
#[tokio::test]
async fn from_schema_1_to_2() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.sqlite");
    {
        let store = SqliteStore::open(&path).unwrap();
        store.commit(vec![Arc::new(creation(1))]).await.unwrap();
        store.commit(vec![Arc::new(put(own()))]).await.unwrap();
    }
    {
        // What differs between a file that a program of schema 1 wrote and this one.
        let connection = Connection::open(&path).unwrap();
        let docs: String = connection
            .query_row("SELECT group_concat(doc) FROM bundles", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(!docs.contains("wit_authorities"), "{docs}");
        old::without_agents(&connection);
        connection.pragma_update(None, "user_version", 1).unwrap();
    }

    let store = SqliteStore::open(&path).unwrap();
    assert!(version(&path) >= 2);
    let found = bundles(&store).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].jwt_authorities, own().jwt_authorities);
    assert!(found[0].wit_authorities.is_empty());
    assert_eq!(store.load().await.unwrap().entries.len(), 1);

    // From here on the file may hold what schema 1 would not understand.
    let mut with_wit = own();
    with_wit.wit_authorities.push(WitAuthority {
        key_id: "w".into(),
        public_key: Arc::from(&b"\x02"[..]),
        expires_at: Some(Timestamp::from_unix_seconds(9)),
        tainted: true,
    });
    let wanted = with_wit.wit_authorities.clone();
    store.commit(vec![Arc::new(put(with_wit))]).await.unwrap();
    drop(store);
    let again = SqliteStore::open(&path).unwrap();
    assert_eq!(bundles(&again).await[0].wit_authorities, wanted);
}

/// In schema 4 rules named no foreign trust domains, tasks no rule, and sightings no providers: its
/// documents have no such fields, and the tables are the same.
#[tokio::test]
async fn from_schema_4_to_5() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.sqlite");
    drop(SqliteStore::open(&path).unwrap());
    {
        // What a program of schema 4 wrote.
        let connection = Connection::open(&path).unwrap();
        let rule = r#"{"parent_id":"spiffe://td/n","selectors":["unix:uid:7"],"template":"spiffe://{td}/w","per_node":1,"in_all":2,"version":1,"created_at_s":1,"created_by":"uid 0","updated_at_s":1,"updated_by":"uid 0"}"#;
        let task = r#"{"instance":"spiffe://td/agent/reader/1","class":"reader","node":"spiffe://td/n","binding":"process","pid":7,"start_time":1,"cgroup":0,"level":1,"root":"01ARZ3NDEKTSV4RRFFQ69G5FAV","kind":"read","data_class":0,"spent":0,"depth":0,"opened_at_ms":1000,"deadline_ms":2000,"state":"open","edition":0}"#;
        let sighting = r#"{"product":"claude-code","kind":"cli","confidence":"likely","evidence":[],"uid":0,"count":1,"pids":[7],"started_ms":1,"standing":"unregistered","first_seen_ms":1,"last_seen_ms":1}"#;
        for (table, key, id, doc) in [
            ("rules", "name", "readers", rule),
            ("tasks", "id", "01ARZ3NDEKTSV4RRFFQ69G5FAV", task),
            (
                "sightings",
                "id",
                "spiffe://td/n 00000000000000000000000000000000",
                sighting,
            ),
        ] {
            let sql = format!("INSERT INTO {table} ({key}, revision, doc) VALUES (?1, 0, ?2)");
            connection.execute(&sql, (id, doc)).unwrap();
        }
        connection.pragma_update(None, "user_version", 4).unwrap();
    }

    let store = SqliteStore::open(&path).unwrap();
    assert!(version(&path) >= 5);
    let loaded = store.load().await.unwrap();
    let rule = Rule::clone(&loaded.rules[0]);
    let spec = &rule.spec;
    assert!(spec.federates_with.is_empty() && spec.dns_names.is_empty() && spec.hint.is_empty());
    assert_eq!(loaded.agents.tasks[0].rule, None);
    assert!(loaded.agents.sightings[0].seen.providers.is_empty());

    // From here on the file may hold what schema 4 would not understand.
    let mut wider = rule.clone();
    wider.spec.federates_with = [TrustDomain::parse("friend").unwrap()].into();
    wider.spec.hint = "reader".into();
    wider.spec.dns_names = vec!["a.example".into()];
    let permit = decide::<UpdateRule>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
    let mut transaction = Transaction::new();
    transaction.put_rule(&permit, wider.clone());
    store.commit(vec![Arc::new(transaction)]).await.unwrap();
    drop(store);
    let again = SqliteStore::open(&path).unwrap().load().await.unwrap();
    assert_eq!(again.rules[0].spec, wider.spec);
}

/// Schema 3 had no tables about agents, and its entries no class.
#[tokio::test]
async fn from_schema_3_to_4() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.sqlite");
    {
        let store = SqliteStore::open(&path).unwrap();
        store.commit(vec![Arc::new(creation(1))]).await.unwrap();
    }
    {
        // What differs between a file that a program of schema 3 wrote and this one.
        let connection = Connection::open(&path).unwrap();
        old::without_agents(&connection);
        let doc: String = connection
            .query_row("SELECT doc FROM entries", [], |row| row.get(0))
            .unwrap();
        assert!(!doc.contains("agent_class"), "{doc}");
        connection.pragma_update(None, "user_version", 3).unwrap();
    }

    let store = SqliteStore::open(&path).unwrap();
    assert!(version(&path) >= 4);
    let loaded = store.load().await.unwrap();
    assert_eq!(
        (loaded.entries.len(), loaded.entries[0].class.clone()),
        (1, None)
    );
    assert_eq!(loaded.agents, LoadedAgents::default());
    // From here on the file holds agents.
    let permit = decide::<MarkPersonGone>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
    let gone = Departure {
        person: PersonId::parse("mailto:sam@example.org").unwrap(),
        at: Timestamp::from_unix_seconds(9),
        note: Note::parse("left").unwrap(),
        by: "uid 0".into(),
    };
    let mut transaction = Transaction::new();
    transaction.put_departure(&permit, gone.clone());
    let mut of_class = entry(2);
    of_class.class = Some(ClassName::parse("reader").unwrap());
    transaction.put_entry(&common::permit(), of_class.clone());
    store.commit(vec![Arc::new(transaction)]).await.unwrap();
    drop(store);
    let again = SqliteStore::open(&path).unwrap().load().await.unwrap();
    assert_eq!(*again.agents.departures[0], gone);
    assert_eq!(again.entries[1].class, of_class.class);
}
