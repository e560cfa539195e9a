//! Registration entries over the admin socket, as SPIRE's tools use them.
#![expect(
    clippy::unwrap_used,
    clippy::unnecessary_wraps,
    reason = "the helpers of a test fail by panicking"
)]

use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetEntryRequest, ListEntriesRequest, count_entries_request, list_entries_request,
};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess};
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    })
}

fn entry(path: &str, selector: &str) -> types::Entry {
    types::Entry {
        spiffe_id: id(path),
        parent_id: id("/node"),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: selector.into(),
        }],
        ..Default::default()
    }
}

async fn create(
    server: &ServerProcess,
    entries: Vec<types::Entry>,
) -> Vec<(Code, Option<types::Entry>)> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results
        .into_iter()
        .map(|r| (Code::from_i32(r.status.unwrap().code), r.entry))
        .collect()
}

#[tokio::test]
async fn the_life_of_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;

    // Each item has its own outcome, in the order of the request.
    let mut bad = entry("/spire/reserved", "uid:1");
    let twin = entry("/a", "uid:1");
    let outcomes = create(
        &server,
        vec![entry("/a", "uid:1"), bad.clone(), twin.clone()],
    )
    .await;
    let codes: Vec<Code> = outcomes.iter().map(|(code, _)| *code).collect();
    assert_eq!(
        codes,
        [Code::Ok, Code::InvalidArgument, Code::AlreadyExists]
    );
    let first = outcomes[0].1.clone().unwrap();
    assert_eq!(
        outcomes[2].1.as_ref().unwrap().id,
        first.id,
        "the twin is answered with the entry that is there"
    );
    assert_eq!(first.revision_number, 0);
    assert!(first.created_at > 0);
    bad.parent_id = None;
    assert_eq!(create(&server, vec![bad]).await[0].0, Code::InvalidArgument);

    update_with_and_without_mask(&server, &first).await;
    delete_once(&server, &first.id).await;
}

async fn update_with_and_without_mask(server: &ServerProcess, first: &types::Entry) {
    // No mask replaces everything, and counts even where nothing differs.
    let mut changed = first.clone();
    changed.hint = "h".into();
    changed.x509_svid_ttl = 77;
    for revision in 1..=2 {
        let request = BatchUpdateEntryRequest {
            entries: vec![changed.clone()],
            ..Default::default()
        };
        let result = server
            .entries()
            .batch_update_entry(request)
            .await
            .unwrap()
            .into_inner()
            .results
            .remove(0);
        let updated = result.entry.unwrap();
        assert_eq!(
            (
                updated.revision_number,
                updated.hint.as_str(),
                updated.x509_svid_ttl
            ),
            (revision, "h", 77)
        );
        assert_eq!(updated.created_at, first.created_at);
    }
    // A mask changes what it names.
    let request = BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: first.id.clone(),
            hint: "other".into(),
            ..Default::default()
        }],
        input_mask: Some(types::EntryMask {
            hint: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let result = server
        .entries()
        .batch_update_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results
        .remove(0);
    let updated = result.entry.unwrap();
    assert_eq!(
        (
            updated.hint.as_str(),
            updated.x509_svid_ttl,
            updated.revision_number
        ),
        ("other", 77, 3)
    );
}

async fn delete_once(server: &ServerProcess, id: &str) {
    let request = BatchDeleteEntryRequest {
        ids: vec![id.to_owned(), id.to_owned(), String::new()],
    };
    let results = server
        .entries()
        .batch_delete_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<Code> = results
        .iter()
        .map(|r| Code::from_i32(r.status.as_ref().unwrap().code))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::NotFound, Code::InvalidArgument]);
    let missing = server
        .entries()
        .get_entry(GetEntryRequest {
            id: id.to_owned(),
            output_mask: None,
        })
        .await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn lists_are_filtered_masked_and_paged_in_the_order_of_creation() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let entries = (0..25)
        .map(|n| entry(&format!("/w/{n}"), &format!("uid:{}", n % 2)))
        .collect();
    assert!(
        create(&server, entries)
            .await
            .iter()
            .all(|(code, _)| *code == Code::Ok)
    );

    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListEntriesRequest {
            page_size: 10,
            page_token: token,
            output_mask: Some(types::EntryMask {
                spiffe_id: true,
                ..Default::default()
            }),
            filter: None,
        };
        let page = server
            .entries()
            .list_entries(request)
            .await
            .unwrap()
            .into_inner();
        assert!(
            page.entries
                .iter()
                .all(|e| e.parent_id.is_none() && !e.id.is_empty()),
            "the mask holds"
        );
        seen.extend(page.entries.into_iter().map(|e| e.spiffe_id.unwrap().path));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("/w/{n}")).collect::<Vec<_>>());

    let by_selector = |value: &str, how: types::selector_match::MatchBehavior| ListEntriesRequest {
        filter: Some(list_entries_request::Filter {
            by_selectors: Some(types::SelectorMatch {
                selectors: vec![types::Selector {
                    r#type: "unix".into(),
                    value: value.into(),
                }],
                r#match: how.into(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let exact = by_selector("uid:1", types::selector_match::MatchBehavior::MatchExact);
    assert_eq!(
        server
            .entries()
            .list_entries(exact)
            .await
            .unwrap()
            .into_inner()
            .entries
            .len(),
        12
    );
    let count = server
        .entries()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(count.count, 25);
    let foreign = ListEntriesRequest {
        page_token: "soon".into(),
        ..Default::default()
    };
    let refused = server.entries().list_entries(foreign).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// SPIRE's command line always says whether it wants downstream entries alone; if not, it means all.
#[tokio::test]
async fn a_false_downstream_filter_asks_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut below = entry("/w/below", "uid:0");
    below.downstream = true;
    create(&server, vec![entry("/w/1", "uid:1"), below]).await;
    for (downstream, wanted) in [(None, 2), (Some(false), 2), (Some(true), 1)] {
        let request = ListEntriesRequest {
            filter: Some(list_entries_request::Filter {
                by_downstream: downstream,
                ..Default::default()
            }),
            ..Default::default()
        };
        let listed = server.entries().list_entries(request).await.unwrap();
        assert_eq!(listed.into_inner().entries.len(), wanted, "{downstream:?}");
        let request = CountEntriesRequest {
            filter: Some(count_entries_request::Filter {
                by_downstream: downstream,
                ..Default::default()
            }),
        };
        let counted = server.entries().count_entries(request).await.unwrap();
        assert_eq!(counted.into_inner().count, i32::try_from(wanted).unwrap());
    }
}

/// What SPIRE's controller manager does every ten minutes to learn which fields a server keeps.
#[tokio::test]
async fn the_controller_managers_probe_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let path = "/spire-controller-manager/unsupported-fields-test";
    let probe = types::Entry {
        spiffe_id: id(path),
        parent_id: id(path),
        selectors: vec![types::Selector {
            r#type: "a".into(),
            value: "1".into(),
        }],
        x509_svid_ttl: 60,
        jwt_svid_ttl: 60,
        store_svid: true,
        hint: "hint".into(),
        ..Default::default()
    };
    let (code, back) = create(&server, vec![probe.clone()]).await.remove(0);
    assert_eq!(code, Code::Ok);
    let back = back.unwrap();
    let comparable = types::Entry {
        id: String::new(),
        created_at: 0,
        ..back
    };
    assert_eq!(comparable, probe);
}
