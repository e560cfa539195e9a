use std::sync::Arc;

use super::*;
use crate::Change;
use crate::world::{bundle, entry_id, id, roll as empty_roll, step};

fn roll() -> Roll {
    let mut roll = empty_roll();
    step(
        &mut roll,
        &[Change::PutBundle(Arc::new(bundle("friend", 1)))],
    );
    roll
}

fn raw(trust_domain: &str, path: &str) -> RawId {
    RawId {
        trust_domain: trust_domain.into(),
        path: path.into(),
    }
}

fn draft() -> EntryDraft {
    EntryDraft {
        spiffe_id: Some(raw("td", "/w")),
        parent_id: Some(raw("td", "/spire/agent/x")),
        selectors: vec![("unix".into(), "uid:1".into())],
        ..EntryDraft::default()
    }
}

fn made(draft: &EntryDraft) -> Result<Entry, EntryError> {
    create(
        &roll(),
        draft,
        entry_id("generated"),
        7,
        Timestamp::from_unix_millis(1_999),
    )
}

#[test]
fn a_plain_entry() {
    let entry = made(&draft()).unwrap();
    assert_eq!(entry.id, entry_id("generated"));
    assert_eq!(
        (entry.ordinal, entry.revision_number, entry.created_at),
        (7, 0, Timestamp::from_unix_seconds(1))
    );
    assert_eq!(entry.parent_id, id("/spire/agent/x"));
    assert_eq!((entry.x509_svid_ttl, entry.expires_at), (None, None));
}

#[test]
fn every_field_is_taken_over() {
    let full = EntryDraft {
        id: "mine".into(),
        parent_id: Some(raw("td", "/spire/server")),
        x509_svid_ttl: 60,
        jwt_svid_ttl: 30,
        federates_with: vec!["friend".into(), "spiffe://friend".into()],
        admin: true,
        downstream: true,
        expires_at: 99,
        dns_names: vec!["b.example".into(), "*.a.example".into()],
        store_svid: true,
        hint: "h".repeat(1024),
        jwt_svid_include_jti: true,
        ..draft()
    };
    let entry = made(&full).unwrap();
    assert_eq!(entry.id, entry_id("mine"));
    assert_eq!(entry.x509_svid_ttl, Some(Duration::from_mins(1)));
    assert_eq!(entry.jwt_svid_ttl, Some(Duration::from_secs(30)));
    assert_eq!(entry.federates_with.len(), 1);
    assert!(entry.admin && entry.downstream && entry.store_svid && entry.jwt_svid_include_jti);
    assert_eq!(entry.expires_at, Some(Timestamp::from_unix_seconds(99)));
    // The order is the caller's: the first name becomes the common name.
    assert_eq!(entry.dns_names, ["b.example", "*.a.example"]);
}

/// Every rule of 2.10 and what is said when it is broken.
#[test]
fn each_fault_is_named() {
    let pair = |kind: &str, value: &str| vec![(kind.to_owned(), value.to_owned())];
    let faults: &[&dyn Fn(&mut EntryDraft)] = &[
        &|d| d.id = "a/b".into(),
        &|d| d.id = "x".repeat(300),
        &|d| d.parent_id = None,
        &|d| d.spiffe_id = None,
        &|d| d.parent_id = Some(raw("td", "")),
        &|d| d.spiffe_id = Some(raw("td", "")),
        &|d| d.spiffe_id = Some(raw("td", "/a//b")),
        &|d| d.spiffe_id = Some(raw("TD", "/a")),
        &|d| d.spiffe_id = Some(raw("", "/a")),
        &|d| d.spiffe_id = Some(raw("other", "/a")),
        &|d| d.parent_id = Some(raw("other", "/a")),
        &|d| d.spiffe_id = Some(raw("td", "/spire")),
        &|d| d.spiffe_id = Some(raw("td", "/spire/agent/x")),
        &|d| d.selectors = Vec::new(),
        &|d| d.selectors = pair("", "x"),
        &|d| d.selectors = pair("a:b", "x"),
        &|d| d.selectors = pair("a", ""),
        &|d| d.x509_svid_ttl = -1,
        &|d| d.jwt_svid_ttl = -1,
        &|d| d.federates_with = vec!["Friend".into()],
        &|d| d.federates_with = vec!["stranger".into()],
        &|d| d.expires_at = -1,
        &|d| d.dns_names = vec!["good.example".into(), "bad_.example".into()],
        &|d| d.hint = "h".repeat(1025),
        &|d| (d.store_svid, d.disable_x509_svid_prefetch) = (true, true),
        &|d| {
            d.store_svid = true;
            d.selectors = [pair("vault", "a"), pair("disk", "b")].concat();
        },
    ];
    let mut table = String::new();
    for fault in faults {
        let mut broken = draft();
        fault(&mut broken);
        table.push_str(&made(&broken).unwrap_err().to_string());
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

#[test]
fn an_update_counts_even_when_nothing_differs() {
    let before = made(&draft()).unwrap();
    let after = update(&roll(), &before, &draft(), None).unwrap();
    assert_eq!(
        after,
        Entry {
            revision_number: 1,
            ..before
        }
    );
}

#[test]
fn an_update_without_a_mask_replaces_everything() {
    let before = made(&EntryDraft {
        hint: "old".into(),
        admin: true,
        x509_svid_ttl: 60,
        ..draft()
    })
    .unwrap();
    let after = update(&roll(), &before, &draft(), None).unwrap();
    assert_eq!(
        (after.hint.as_str(), after.admin, after.x509_svid_ttl),
        ("", false, None)
    );
    assert_eq!(
        (after.id, after.created_at, after.ordinal),
        (before.id, before.created_at, before.ordinal)
    );
}

#[test]
fn a_mask_takes_only_what_it_names() {
    let before = made(&draft()).unwrap();
    // What the mask does not name is not even looked at.
    let other = EntryDraft {
        hint: "new".into(),
        spiffe_id: None,
        x509_svid_ttl: -1,
        ..EntryDraft::default()
    };
    let after = update(&roll(), &before, &other, Some(&Mask::from([Field::Hint]))).unwrap();
    assert_eq!(
        after,
        Entry {
            hint: "new".into(),
            revision_number: 1,
            ..before.clone()
        }
    );
    for field in Field::ALL {
        let same = update(&roll(), &before, &draft(), Some(&Mask::from([field]))).unwrap();
        assert_eq!(
            same,
            Entry {
                revision_number: 1,
                ..before.clone()
            }
        );
    }
}

/// Rules about two fields hold for the entry that comes out, whichever field the mask names.
#[test]
fn a_mask_does_not_get_around_the_rules() {
    let before = made(&EntryDraft {
        disable_x509_svid_prefetch: true,
        ..draft()
    })
    .unwrap();
    let change = EntryDraft {
        store_svid: true,
        ..EntryDraft::default()
    };
    assert_eq!(
        update(
            &roll(),
            &before,
            &change,
            Some(&Mask::from([Field::StoreSvid]))
        ),
        Err(EntryError::StoredWithoutPrefetch)
    );
}
