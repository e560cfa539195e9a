//! Bundles of foreign trust domains over the admin socket, as SPIRE's tools write them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers of a test fail by panicking"
)]

use muster_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::bundle::v1::{
    BatchCreateFederatedBundleRequest, BatchDeleteFederatedBundleRequest,
    BatchSetFederatedBundleRequest, BatchUpdateFederatedBundleRequest, GetBundleRequest,
    GetFederatedBundleRequest, ListFederatedBundlesRequest,
};
use muster_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, GetEntryRequest};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess};
use tonic::Code;
use tonic::transport::Channel;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

fn item(status: Option<&types::Status>) -> (Code, String) {
    let status = status.unwrap();
    (Code::from_i32(status.code), status.message.clone())
}

/// The server's own roots, as if they were another domain's.
async fn bundle(client: &mut BundleClient<Channel>, name: &str) -> types::Bundle {
    let own = client
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .unwrap()
        .into_inner();
    types::Bundle {
        trust_domain: name.into(),
        sequence_number: 3,
        refresh_hint: 60,
        ..own
    }
}

async fn set(client: &mut BundleClient<Channel>, bundle: types::Bundle) -> (Code, String) {
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![bundle],
        output_mask: None,
    };
    let answer = client.batch_set_federated_bundle(request).await.unwrap();
    item(answer.into_inner().results[0].status.as_ref())
}

async fn get(client: &mut BundleClient<Channel>, name: &str) -> Result<types::Bundle, Code> {
    let request = GetFederatedBundleRequest {
        trust_domain: name.into(),
        output_mask: None,
    };
    let answer = client.get_federated_bundle(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|s| s.code())
}

async fn delete(client: &mut BundleClient<Channel>, name: &str, mode: Mode) -> (Code, String) {
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![name.into()],
        mode: mode.into(),
    };
    let answer = client.batch_delete_federated_bundle(request).await.unwrap();
    let result = answer.into_inner().results.remove(0);
    assert_eq!(result.trust_domain, name);
    item(result.status.as_ref())
}

#[tokio::test]
async fn the_life_of_a_foreign_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut client = BundleClient::new(server.channel());
    let foreign = bundle(&mut client, "other.test").await;

    assert_eq!(set(&mut client, foreign.clone()).await.0, Code::Ok);
    let create = |bundle: types::Bundle| BatchCreateFederatedBundleRequest {
        bundle: vec![bundle],
        output_mask: None,
    };
    let again = client
        .batch_create_federated_bundle(create(foreign.clone()))
        .await
        .unwrap();
    let (code, text) = item(again.into_inner().results[0].status.as_ref());
    assert_eq!(
        (code, text.as_str()),
        (Code::AlreadyExists, "bundle already exists")
    );
    assert_eq!(get(&mut client, "other.test").await.unwrap(), foreign);

    // Another content under the same number gets the next one; the same content nothing.
    assert_eq!(set(&mut client, foreign.clone()).await.0, Code::Ok);
    assert_eq!(
        get(&mut client, "other.test")
            .await
            .unwrap()
            .sequence_number,
        3
    );
    let less = types::Bundle {
        jwt_authorities: Vec::new(),
        ..foreign.clone()
    };
    assert_eq!(set(&mut client, less).await.0, Code::Ok);
    assert_eq!(
        get(&mut client, "other.test")
            .await
            .unwrap()
            .sequence_number,
        4
    );

    // A mask changes what it names, in the bundle and in the answer.
    let update = BatchUpdateFederatedBundleRequest {
        bundle: vec![types::Bundle {
            refresh_hint: 99,
            x509_authorities: Vec::new(),
            ..foreign.clone()
        }],
        input_mask: Some(types::BundleMask {
            refresh_hint: true,
            ..Default::default()
        }),
        output_mask: Some(types::BundleMask {
            refresh_hint: true,
            ..Default::default()
        }),
    };
    let updated = client
        .batch_update_federated_bundle(update.clone())
        .await
        .unwrap()
        .into_inner();
    let shown = updated.results[0].bundle.as_ref().unwrap();
    assert_eq!((shown.refresh_hint, shown.x509_authorities.len()), (99, 0));
    assert_eq!(
        get(&mut client, "other.test")
            .await
            .unwrap()
            .x509_authorities
            .len(),
        1
    );
    let mut missing = update;
    missing.bundle[0].trust_domain = "absent.test".into();
    let answer = client
        .batch_update_federated_bundle(missing)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(item(answer.results[0].status.as_ref()).0, Code::NotFound);

    assert_eq!(
        delete(&mut client, "other.test", Mode::Restrict).await.0,
        Code::Ok
    );
    assert_eq!(get(&mut client, "other.test").await, Err(Code::NotFound));
}

#[tokio::test]
async fn what_is_wrong_with_a_bundle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut client = BundleClient::new(server.channel());
    let foreign = bundle(&mut client, "other.test").await;
    for (name, change, expected) in [
        ("example.org", None, "own trust domain is not allowed"),
        ("Not A Name", None, "trust domain argument is not valid"),
        ("third.test", Some("x509"), "X.509 authority 0"),
        ("third.test", Some("jwt"), "JWT authority \"k\""),
    ] {
        let mut wrong = foreign.clone();
        wrong.trust_domain = name.into();
        match change {
            Some("x509") => wrong.x509_authorities[0].asn1 = vec![1, 2].into(),
            Some(_) => {
                wrong.jwt_authorities = vec![types::JwtKey {
                    key_id: "k".into(),
                    public_key: vec![3].into(),
                    ..Default::default()
                }];
            }
            None => {}
        }
        let (code, text) = set(&mut client, wrong).await;
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.contains(expected), "{text}");
    }

    assert_eq!(get(&mut client, "third.test").await, Err(Code::NotFound));
    for (name, expected) in [
        ("absent.test", Code::NotFound),
        ("example.org", Code::InvalidArgument),
    ] {
        let refused = delete(&mut client, name, Mode::Delete).await;
        assert_eq!(refused.0, expected, "{}", refused.1);
    }
}

#[tokio::test]
async fn bundles_are_listed_by_name_and_survive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut client = BundleClient::new(server.channel());
    let foreign = bundle(&mut client, "other.test").await;
    assert_eq!(set(&mut client, foreign.clone()).await.0, Code::Ok);

    // Pages by name, without the own one.
    for name in ["a.test", "z.test"] {
        let mut more = foreign.clone();
        more.trust_domain = name.into();
        assert_eq!(set(&mut client, more).await.0, Code::Ok);
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListFederatedBundlesRequest {
            output_mask: Some(types::BundleMask::default()),
            page_size: 2,
            page_token,
        };
        let page = client
            .list_federated_bundles(request)
            .await
            .unwrap()
            .into_inner();
        names.extend(page.bundles.into_iter().map(|b| b.trust_domain));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a.test", "other.test", "z.test"]);
    assert_eq!(
        delete(&mut client, "z.test", Mode::Restrict).await.0,
        Code::Ok
    );

    // All of it survives the server.
    let config = server.config().clone();
    assert!(server.stop().await.success());
    let server = ServerProcess::start(SERVER, config).await;
    let mut client = BundleClient::new(server.channel());
    assert_eq!(
        get(&mut client, "other.test").await.unwrap().refresh_hint,
        60
    );
    assert_eq!(get(&mut client, "z.test").await, Err(Code::NotFound));
}

#[tokio::test]
async fn entries_that_federate_decide_how_a_bundle_goes() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut client = BundleClient::new(server.channel());
    for name in ["first.test", "second.test"] {
        let foreign = bundle(&mut client, name).await;
        assert_eq!(set(&mut client, foreign).await.0, Code::Ok);
    }
    let id = |path: &str| types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    };
    let entry = types::Entry {
        id: "e".into(),
        spiffe_id: Some(id("/w")),
        parent_id: Some(id("/node")),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        federates_with: vec!["first.test".into(), "second.test".into()],
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    server.entries().batch_create_entry(request).await.unwrap();
    let read = async || {
        let request = GetEntryRequest {
            id: "e".into(),
            output_mask: None,
        };
        let answer = server.entries().get_entry(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|s| s.code())
    };
    let (code, text) = delete(&mut client, "first.test", Mode::Restrict).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        text.contains("federated with 1 registration entries"),
        "{text}"
    );
    assert_eq!(
        delete(&mut client, "first.test", Mode::Dissociate).await.0,
        Code::Ok
    );
    let left = read().await.unwrap();
    assert_eq!(left.federates_with, ["second.test"]);
    assert_eq!(left.revision_number, 1);
    assert_eq!(
        delete(&mut client, "second.test", Mode::Delete).await.0,
        Code::Ok
    );
    assert_eq!(read().await.unwrap_err(), Code::NotFound);
}
