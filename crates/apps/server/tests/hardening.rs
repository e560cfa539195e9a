//! What the server gave up is given up, and it works without it.

use muster_proto::spire::api::server::entry::v1::CountEntriesRequest;
use muster_testkit::{ServerConfig, ServerProcess};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

#[tokio::test]
async fn the_server_gives_up_what_it_does_not_need_and_says_so() {
    for (more, seccomp) in [("", '2'), ("[hardening]\nsystem_calls = false", '0')] {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(dir.path()).with(more);
        let server = ServerProcess::start(SERVER, config).await;
        // Every thread, not only the first.
        for thread in std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains(&format!("Seccomp:\t{seccomp}")), "{status}");
        }
        // It writes: the roll, its journal, the keys.
        server.join_token().await;
        server
            .entries()
            .count_entries(CountEntriesRequest::default())
            .await
            .unwrap();
        assert!(server.stop().await.success());
    }
}

/// What was turned off is no reason not to serve, and what is misspelt is a fault.
#[tokio::test]
async fn each_measure_can_be_turned_off() {
    let dir = tempfile::tempdir().unwrap();
    let off = "[hardening]\nno_new_privileges = false\nprivate_memory = false\n\
         lock_memory = false\nsystem_calls = false\nwrites = false";
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path()).with(off)).await;
    assert!(server.stop().await.success());
    let misspelt = ServerConfig::new(dir.path()).with("[hardening]\nseccomp = false");
    let Err((status, _)) = ServerProcess::try_start(SERVER, misspelt).await else {
        panic!("an unknown key is a fault");
    };
    assert!(!status.success());
}
