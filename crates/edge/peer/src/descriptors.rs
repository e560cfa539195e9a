//! Descriptors sent from one of our own processes to another, over a socket pair of theirs.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::sys;

/// Sends `descriptors` along with `bytes`, which must not be empty.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero));
    }
    Ok(())
}

/// Receives one message and the descriptors that came along; each is closed on `exec`.
pub fn receive(socket: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> io::Result<Vec<OwnedFd>> {
    sys::receive_descriptors(socket, buffers)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_sent_arrives_and_works() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut kept, given) = UnixStream::pair().unwrap();
        send(here.as_fd(), b"x", &[given.as_fd(), given.as_fd()]).unwrap();
        drop(given);
        let mut byte = [0];
        let received = receive(there.as_fd(), &mut [IoSliceMut::new(&mut byte)]).unwrap();
        assert_eq!((byte[0], received.len()), (b'x', 2));
        let mut ends = received.into_iter().map(UnixStream::from);
        ends.next().unwrap().write_all(b"hello").unwrap();
        drop(ends);
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
