//! The new process's half.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use muster_peer::descriptors;
use zeroize::Zeroizing;

use super::{
    ENVIRONMENT_VARIABLE, HandoverError, Kind, LARGEST, Managed, PATIENCE, READY, TAKE, failed,
};

/// What a node gets from the one before.
pub(crate) struct Inherited {
    link: UnixStream,
    /// The listening sockets, until they are taken.
    pub(crate) sockets: InheritedSockets,
}

/// The listening sockets of the node before.
#[derive(Default)]
pub(crate) struct InheritedSockets {
    sockets: Vec<(Kind, OwnedFd)>,
    /// Which of them are a service manager's.
    pub(crate) managed: Managed,
}

impl InheritedSockets {
    /// The socket of a kind, if there is one and it was not taken yet.
    pub(crate) fn take(&mut self, kind: Kind) -> Option<OwnedFd> {
        let place = self.sockets.iter().position(|(found, _)| *found == kind)?;
        Some(self.sockets.swap_remove(place).1)
    }
}

impl Inherited {
    /// Takes the sockets, if this process was started as a successor.
    pub(crate) fn receive() -> Result<Option<Self>, HandoverError> {
        let Some(managed) = std::env::var_os(ENVIRONMENT_VARIABLE) else {
            return Ok(None);
        };
        let managed = Managed::parse(&managed.to_string_lossy());
        let step = "take the sockets of the node before";
        let stdin = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(failed(step))?;
        // Nobody else is to read or inherit it.
        let null = std::fs::File::open("/dev/null").map_err(failed(step))?;
        nix::unistd::dup2_stdin(&null).map_err(|errno| failed(step)(errno.into()))?;
        let link = UnixStream::from(stdin);
        link.set_read_timeout(Some(PATIENCE))
            .map_err(failed(step))?;
        link.set_write_timeout(Some(PATIENCE))
            .map_err(failed(step))?;
        let mut kinds = [0; Kind::ALL.len()];
        let received = descriptors::receive(link.as_fd(), &mut [IoSliceMut::new(&mut kinds)])
            .map_err(failed(step))?;
        let kinds: Vec<Kind> = kinds.into_iter().map_while(Kind::of_byte).collect();
        let is_whole = kinds.len() == received.len()
            && [Kind::Workload, Kind::Admin]
                .iter()
                .all(|kind| kinds.contains(kind));
        if !is_whole {
            let cause = std::io::Error::from(std::io::ErrorKind::InvalidData);
            return Err(failed(step)(cause));
        }
        Ok(Some(Self {
            link,
            sockets: InheritedSockets {
                sockets: kinds.into_iter().zip(received).collect(),
                managed,
            },
        }))
    }

    /// Asks for the data directory and the memory; when it returns, both are this process's. An
    /// empty memory is one of a node that knew nothing yet.
    pub(crate) fn take(&mut self) -> Result<Zeroizing<Vec<u8>>, HandoverError> {
        let step = "take over from the node before";
        self.link.write_all(&[TAKE]).map_err(failed(step))?;
        let mut length = [0; 8];
        self.link.read_exact(&mut length).map_err(failed(step))?;
        let length = u64::from_be_bytes(length);
        let length = usize::try_from(length.min(LARGEST)).unwrap_or(0);
        let mut memory = Zeroizing::new(vec![0; length]);
        self.link.read_exact(&mut memory).map_err(failed(step))?;
        tracing::info!(bytes = length, "took over from the node before");
        Ok(memory)
    }

    /// Tells the node before that this one answers now.
    pub(crate) fn ready(mut self) -> Result<(), HandoverError> {
        tracing::debug!(fd = self.link.as_raw_fd(), "telling the node before");
        let step = "tell the node before that this one answers";
        self.link.write_all(&[READY]).map_err(failed(step))
    }
}
