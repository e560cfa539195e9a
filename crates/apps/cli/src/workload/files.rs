//! The directory that `--write` keeps up to date.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use muster_crypto::Purpose;
use muster_rt::files::{self, write_atomic};
use zeroize::Zeroizing;

use super::view::X509Update;
use super::wit;
use crate::failure::Failure;
use crate::pem;

/// A directory of SVID files. Each file is replaced as a whole, so that a reader never sees half.
pub(super) struct Directory {
    path: PathBuf,
    /// What the last update wrote: what the next one does not write again is removed.
    written: BTreeSet<String>,
}

impl Directory {
    pub(super) fn open(path: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&path).map_err(|error| {
            Failure::failed(format!("cannot create {}: {error}", path.display()))
        })?;
        Ok(Self {
            path,
            written: BTreeSet::new(),
        })
    }

    pub(super) fn write_x509(&mut self, update: &X509Update) -> Result<(), Failure> {
        let mut now = BTreeSet::new();
        for (n, identity) in update.svids.iter().enumerate() {
            // What verifies others comes first, and the key before the certificate: whoever reloads
            // when the certificate changes finds the rest in place.
            let roots = pem::certificates(&identity.bundle);
            self.write(&mut now, format!("bundle.{n}.pem"), &roots, files::PUBLIC)?;
            for (m, (_, roots)) in update.federated.iter().enumerate() {
                let name = format!("federated_bundle.{n}.{m}.pem");
                self.write(&mut now, name, &pem::certificates(roots), files::PUBLIC)?;
            }
            let key = Zeroizing::new(pem::encode(
                pem::PRIVATE_KEY,
                identity.svid.key.expose(Purpose::WriteToDisk),
            ));
            self.write(&mut now, format!("svid.{n}.key"), &key, files::PRIVATE)?;
            let chain = pem::certificates(identity.svid.chain.iter());
            self.write(&mut now, format!("svid.{n}.pem"), &chain, files::PUBLIC)?;
        }
        self.finish(now)
    }

    /// Writes tokens, one a file: each is as good as a password for its audience.
    pub(super) fn write_tokens(&mut self, tokens: &[String]) -> Result<(), Failure> {
        let mut now = BTreeSet::new();
        for (n, token) in tokens.iter().enumerate() {
            self.write(
                &mut now,
                format!("jwt_svid.{n}.token"),
                token,
                files::PRIVATE,
            )?;
        }
        self.finish(now)
    }

    /// Writes tokens, each with the key to which it is bound. The key goes first: a reader that sees
    /// the new token finds its key.
    pub(super) fn write_wits(&mut self, identities: &[wit::Identity]) -> Result<(), Failure> {
        let mut now = BTreeSet::new();
        for (n, identity) in identities.iter().enumerate() {
            let key = identity.key_for_disk();
            self.write(&mut now, format!("wit_svid.{n}.jwk"), key, files::PRIVATE)?;
            let token = format!("wit_svid.{n}.token");
            self.write(&mut now, token, &identity.token, files::PRIVATE)?;
        }
        self.finish(now)
    }

    fn write(
        &self,
        now: &mut BTreeSet<String>,
        name: String,
        content: &str,
        mode: u32,
    ) -> Result<(), Failure> {
        write_atomic(&self.path.join(&name), content.as_bytes(), mode)?;
        now.insert(name);
        Ok(())
    }

    fn finish(&mut self, now: BTreeSet<String>) -> Result<(), Failure> {
        for gone in self.written.difference(&now) {
            files::remove_durably(&self.path.join(gone))?;
        }
        self.written = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn tokens_are_private_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Directory::open(dir.path().join("new")).unwrap();
        files
            .write_tokens(&["a".to_owned(), "b".to_owned()])
            .unwrap();
        files.write_tokens(&["c".to_owned()]).unwrap();
        let first = dir.path().join("new/jwt_svid.0.token");
        assert_eq!(fs::read_to_string(&first).unwrap(), "c");
        assert_eq!(fs::metadata(&first).unwrap().mode() & 0o777, 0o600);
        assert!(!dir.path().join("new/jwt_svid.1.token").exists());
    }
}
