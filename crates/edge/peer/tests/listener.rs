//! The socket file: what it replaces, what it leaves alone, and what it leaves behind.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;

use muster_peer::{BindError, ListenOptions, Listener, MAX_SOCKET_PATH};

fn bind(path: &Path) -> Result<Listener, BindError> {
    Listener::bind(path, &ListenOptions::default())
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// WEP-17: every user can open it, whatever the umask; the folders on the way as well.
#[test]
fn modes_are_as_asked_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/api.sock");
    let listener = bind(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o777);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    assert_eq!(names(path.parent().unwrap()), ["api.sock"]);
    assert_eq!(listener.path(), Some(&*path));
    UnixStream::connect(&path).unwrap();
    drop(listener);
    assert!(names(path.parent().unwrap()).is_empty());

    let options = ListenOptions {
        mode: 0o600,
        ..ListenOptions::default()
    };
    let _listener = Listener::bind(&path, &options).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_path_that_no_client_could_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let room = MAX_SOCKET_PATH - dir.path().as_os_str().len() - 1;
    let longest = dir.path().join("x".repeat(room));
    let _listener = bind(&longest).unwrap();
    UnixStream::connect(&longest).unwrap();

    let error = bind(&dir.path().join("x".repeat(room + 1))).unwrap_err();
    assert!(
        matches!(error, BindError::PathTooLong { length: 108, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("choose a shorter path"),
        "{error}"
    );
}

/// WEP-16, WEP-17: restart after `kill -9`.
#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    // The standard library leaves the file behind, as a killed daemon would.
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err());
    let _listener = bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(names(dir.path()), ["api.sock"]);
}

#[test]
fn a_live_socket_is_left_alone_and_its_server_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let _first = bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(error, BindError::InUse { pid: Some(pid), .. } if pid == own),
        "{error}"
    );
    UnixStream::connect(&path).unwrap();
    assert_eq!(names(dir.path()), ["api.sock"]);

    let datagram = dir.path().join("datagram.sock");
    let _live = UnixDatagram::bind(&datagram).unwrap();
    assert!(matches!(
        bind(&datagram),
        Err(BindError::InUse { pid: None, .. })
    ));
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for path in [&file, &link, &folder] {
        assert!(
            matches!(bind(path), Err(BindError::NotASocket { .. })),
            "{path:?}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(names(dir.path()).len(), 3);

    let error = bind(&file.join("api.sock")).unwrap_err();
    assert!(matches!(error, BindError::Io { .. }), "{error}");
    assert!(matches!(
        bind(Path::new("/")),
        Err(BindError::NoFileName { .. })
    ));
}

#[test]
fn a_successors_file_survives_its_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let old = bind(&path).unwrap();
    // Somebody moves the file away and another daemon takes the name.
    fs::remove_file(&path).unwrap();
    let _new = bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    drop(old);
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.ino(), inode);
    UnixStream::connect(&path).unwrap();
}

/// Eight daemons start at once over a stale file, over and over: one serves, the others are told.
#[test]
fn of_many_that_start_at_once_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    for round in 0..50 {
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let barrier = Barrier::new(8);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        bind(&path)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        UnixStream::connect(&path).unwrap();
        drop(results);
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}
