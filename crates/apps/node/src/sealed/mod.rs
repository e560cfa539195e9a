//! The node's memory, sealed: it survives the process and not the machine (ADR 4).
//!
//! A file in the data directory holds the view and the workloads' SVIDs with their keys, encrypted
//! with a key that only the kernel's keyring has. After a reboot, on another machine, or when the
//! last SVID in it has expired, that key is gone, and the file is noise. What does not open is
//! wiped: a node without memory asks its server again.

mod keeper;
mod snapshot;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_crypto::{BrokenSeal, KeyError, Purpose, SealingKey, Secret, digest};
use muster_model::{SpiffeId, TrustDomain};
use muster_peer::keyring;
use muster_rt::files::{self, FileError};

pub(crate) use keeper::Keeper;
pub(crate) use snapshot::{NodeMemory, SnapshotError, read, write};

/// The sealed file.
const FILE: &str = "sealed.bin";
/// What the file begins with: its kind and version.
const MAGIC: &[u8] = b"muster-node-state/1\n";
/// The largest sealed file that is read, in bytes: some hundred thousand entries.
const LARGEST: u64 = 256 << 20;
/// How long the key is kept at least: the view alone is of use to a restart.
const SHORTEST: Duration = Duration::from_mins(10);

/// Why there is no memory to take up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Forgotten {
    /// Nothing was sealed.
    #[error("nothing was sealed")]
    Nothing,
    /// The kernel has no key: another boot, another machine, or all has expired.
    #[error(
        "the kernel has no key for it: it is of another boot or machine, or all in it has expired"
    )]
    NoKey,
    /// It was changed, or is another node's.
    #[error(transparent)]
    Broken(#[from] BrokenSeal),
    /// It is not a sealed file of this version.
    #[error("it is not a sealed state of this version")]
    NotOurs,
    /// Its content is not understood.
    #[error(transparent)]
    Content(#[from] SnapshotError),
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel's keyring cannot be asked.
    #[error("the kernel's keyring cannot be used: {0}")]
    Keyring(io::Error),
}

/// Why the memory was not sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The kernel does not keep the key.
    #[error(
        "the kernel's keyring cannot be used ({0}): nothing survives a restart; allow the system calls add_key and keyctl, or set state.survive_restart = false"
    )]
    Keyring(io::Error),
    /// Encryption failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The sealed file of one data directory, and its key.
pub(crate) struct Seal {
    file: PathBuf,
    /// The key's name in the kernel's keyring.
    name: String,
    /// What a seal is bound to, besides the node: this boot and this trust domain.
    place: Vec<u8>,
    key: Option<SealingKey>,
}

impl Seal {
    /// The seal of a data directory.
    pub(crate) fn of(directory: &Path, trust_domain: &TrustDomain) -> Self {
        let whole = std::fs::canonicalize(directory).unwrap_or_else(|_gone| directory.to_owned());
        let path = digest::sha256(whole.as_os_str().as_encoded_bytes());
        // A boot that cannot be named is told from others by the key alone.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            file: directory.join(FILE),
            name: format!("muster-node:{}", digest::hex(&path)),
            place: [
                MAGIC,
                boot.trim().as_bytes(),
                b"\n",
                trust_domain.as_str().as_bytes(),
            ]
            .concat(),
            key: None,
        }
    }

    /// What was sealed for `node`. Whatever is not good is wiped.
    pub(crate) fn take_up(&mut self, node: &SpiffeId) -> Result<Secret<Vec<u8>>, Forgotten> {
        let opened = self.open(node);
        if let Err(why) = &opened
            && !matches!(why, Forgotten::Nothing)
        {
            self.wipe();
        }
        opened
    }

    fn open(&mut self, node: &SpiffeId) -> Result<Secret<Vec<u8>>, Forgotten> {
        let content = match files::read_private_within(&self.file, LARGEST) {
            Ok(content) => content,
            Err(error) if error.is_not_found() => return Err(Forgotten::Nothing),
            Err(error) => return Err(error.into()),
        };
        let sealed = content.strip_prefix(MAGIC).ok_or(Forgotten::NotOurs)?;
        let key = keyring::find(&self.name)
            .map_err(Forgotten::Keyring)?
            .and_then(|bytes| SealingKey::from_bytes(Secret::new(bytes.to_vec())))
            .ok_or(Forgotten::NoKey)?;
        let plain = key.open(&self.owner(node), sealed)?;
        self.key = Some(key);
        Ok(plain)
    }

    /// Seals `plain` for `node`, in place of what was sealed before. The key is kept for
    /// `lifetime`. When it returns, the file is on the disk.
    pub(crate) fn put(
        &mut self,
        node: &SpiffeId,
        plain: &[u8],
        lifetime: Duration,
    ) -> Result<(), SealError> {
        let lifetime = lifetime.max(SHORTEST);
        let known = match &self.key {
            // The key may have run out meanwhile, or been removed: then the file is noise too.
            Some(_) => keyring::prolong(&self.name, lifetime).is_ok(),
            None => false,
        };
        if !known {
            let key = SealingKey::generate();
            let bytes = key.bytes().expose(Purpose::Seal);
            keyring::put(&self.name, bytes, lifetime).map_err(SealError::Keyring)?;
            self.key = Some(key);
        }
        if let Some(key) = &self.key {
            let sealed = key.seal(&self.owner(node), plain)?;
            files::write_atomic(&self.file, &[MAGIC, &sealed].concat(), files::PRIVATE)?;
        }
        Ok(())
    }

    /// Removes what was sealed, and its key.
    pub(crate) fn wipe(&mut self) {
        self.key = None;
        if let Err(error) = keyring::remove(&self.name) {
            tracing::debug!(%error, "the key of the sealed state was not removed");
        }
        match files::remove_durably(&self.file) {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, "the sealed state was not removed");
            }
            _ => {}
        }
    }

    fn owner(&self, node: &SpiffeId) -> Vec<u8> {
        [&self.place, &b"\n"[..], node.as_str().as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{name}")).unwrap()
    }

    fn seal(directory: &Path, trust_domain: &str) -> Seal {
        Seal::of(directory, &TrustDomain::parse(trust_domain).unwrap())
    }

    /// Seals in one process's name and opens in the next one's, after `between`.
    fn taken_up(between: impl FnOnce(&Path), trust_domain: &str, name: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let mut first = seal(directory.path(), "example.org");
        let lifetime = Duration::from_mins(1);
        first.put(&node("a"), b"before", lifetime).unwrap();
        first.put(&node("a"), b"memory", lifetime).unwrap();
        let file = directory.path().join(FILE);
        let content = std::fs::read(&file).unwrap();
        assert!(!content.windows(6).any(|w| w == b"memory"));
        between(&file);
        let mut second = seal(directory.path(), trust_domain);
        let opened = second.take_up(&node(name));
        if opened.is_err() {
            assert!(!file.exists(), "what is refused is wiped");
            assert!(keyring::find(&second.name).unwrap().is_none());
        }
        let result = opened
            .map(|plain| assert_eq!(plain.expose(Purpose::Seal), b"memory"))
            .map_err(|why| format!("{why:?}"));
        second.wipe();
        result
    }

    #[test]
    fn what_was_sealed_is_taken_up_by_the_next_process() {
        assert_eq!(taken_up(|_| {}, "example.org", "a"), Ok(()));
    }

    #[test]
    fn what_is_changed_foreign_or_stale_is_refused_and_wiped() {
        let refused = |between: &dyn Fn(&Path), trust_domain: &str, name: &str, why: &str| {
            let found = taken_up(|file| between(file), trust_domain, name).unwrap_err();
            assert!(found.starts_with(why), "{found}, not {why}");
        };
        let nothing = |_: &Path| {};
        refused(&nothing, "example.org", "b", "Broken");
        refused(&nothing, "other.test", "a", "Broken");
        let change = |file: &Path| {
            let mut content = std::fs::read(file).unwrap();
            *content.last_mut().unwrap() ^= 1;
            files::write_atomic(file, &content, files::PRIVATE).unwrap();
        };
        refused(&change, "example.org", "a", "Broken");
        let other_version = |file: &Path| {
            files::write_atomic(file, b"muster-node-state/0\n", files::PRIVATE).unwrap();
        };
        refused(&other_version, "example.org", "a", "NotOurs");
        // As after a boot: the file is there and the kernel's key is not.
        let reboot = |file: &Path| {
            let directory = file.parent().unwrap();
            keyring::remove(&seal(directory, "example.org").name).unwrap();
        };
        refused(&reboot, "example.org", "a", "NoKey");
    }

    #[test]
    fn a_key_that_ran_out_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let mut seal = seal(directory.path(), "example.org");
        let lifetime = Duration::from_mins(1);
        seal.put(&node("a"), b"memory", lifetime).unwrap();
        keyring::remove(&seal.name).unwrap();
        seal.put(&node("a"), b"memory", lifetime).unwrap();
        assert!(seal.take_up(&node("a")).is_ok());
        seal.wipe();
    }
}
