//! A request in a request: what an `:authority` that nobody judges must not let through.

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::rig::uid;
use crate::scene::Scene;
use crate::wire::{PREFACE, Reader, Seen, call, field, fields, frame};

const CALL_WITHOUT_HEADER: usize = 6;

/// What comes of these bytes after a preface.
fn say(scene: &Scene, bytes: &[u8]) -> Seen {
    let mut socket = UnixStream::connect(scene.socket()).unwrap();
    // The node may end the connection while it is still being spoken to.
    drop(socket.write_all(&[PREFACE, bytes].concat()));
    Reader::new(socket).next()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_through_the_authority() {
    let scene = Scene::begin().await;
    scene.register("/first", &[&uid()]).await;
    // For comparison: paths as authorities are what half of all clients send.
    for authority in [&b"localhost"[..], b"/run/muster/w.sock", b"%2Frun%2Fw.sock"] {
        let seen = say(&scene, &call(1, &fields(authority)));
        assert!(matches!(seen, Seen::Answer(_)), "{seen:?}");
    }
    // A header in the authority is none.
    for authority in [
        &b"/\r\nworkload.spiffe.io: true"[..],
        b"/\nworkload.spiffe.io: true",
        b"/\0workload.spiffe.io\0true",
        b"/\x10\x12workload.spiffe.io\x04true",
        b"%0d%0aworkload.spiffe.io: true",
    ] {
        let without = &fields(authority)[..CALL_WITHOUT_HEADER];
        let seen = say(&scene, &call(1, without));
        assert!(!matches!(seen, Seen::Answer(_)), "{authority:?}: {seen:?}");
    }
    // Nor do two authorities, or one too late, make a request.
    let mut twice = fields(b"/");
    twice.insert(3, field(b":authority", b"/"));
    let mut late = fields(b"/");
    late.rotate_left(4);
    for fields in [twice, late] {
        let seen = say(&scene, &call(1, &fields));
        assert!(
            matches!(seen, Seen::Reset(_) | Seen::Closed),
            "{fields:?}: {seen:?}"
        );
    }
    scene.end().await;
}

/// A frame whose length lies, and a block that is cut by another frame, hide nothing either:
/// the connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_inside_of_frames_are_not_requests() {
    let scene = Scene::begin().await;
    scene.register("/first", &[&uid()]).await;
    let whole = call(1, &fields(b"/"));
    let without = fields(b"/")[..CALL_WITHOUT_HEADER].concat();
    let hidden = [
        // A call in the payload of a frame of an unknown kind, and of a ping that is too long.
        frame(0xfa, 0, 0, &whole),
        frame(6, 0, 0, &whole),
        // The header comes in a frame that is no continuation of the block.
        [
            frame(1, 0, 1, &without),
            frame(0, 0, 1, &field(b"workload.spiffe.io", b"true")),
            frame(9, 4, 1, &field(b"workload.spiffe.io", b"true")),
        ]
        .concat(),
        // The continuation is another stream's.
        [
            frame(1, 0, 1, &without),
            frame(9, 4, 3, &field(b"workload.spiffe.io", b"true")),
        ]
        .concat(),
        // Padding that is longer than its frame.
        frame(1, 4 | 8, 1, &[&[0xff], &fields(b"/").concat()[..]].concat()),
    ];
    for bytes in hidden {
        // The end of what is said, so that nobody waits for more.
        let end = frame(6, 0, 0, &[0; 9]);
        let seen = say(&scene, &[bytes.clone(), end].concat());
        assert!(
            matches!(seen, Seen::Reset(_) | Seen::Closed),
            "{bytes:?}: {seen:?}"
        );
    }
    scene.end().await;
}
