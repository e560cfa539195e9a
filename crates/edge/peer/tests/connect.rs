//! The client's end of a socket.

#[tokio::test]
async fn clients_are_told_why_they_cannot_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let message = |result: Result<_, muster_peer::ConnectError>| result.unwrap_err().to_string();
    assert!(message(muster_peer::connect(&path).await).contains("is the daemon running"));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(message(muster_peer::connect(&path).await).contains("the socket is stale"));
    let long = dir.path().join("x".repeat(108));
    assert!(message(muster_peer::connect(&long).await).contains("allows 107"));
}
