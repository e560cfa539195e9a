//! What the node keeps on disk: its key and SVID, and the bundle by which it knows its server.
//!
//! One file holds key and SVID together and is only ever replaced as a whole, so that a stop at
//! any point leaves the old pair or the new one. A key is there before anyone is asked to sign it;
//! an SVID is there before the one it follows is given up.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{KeyError, PrivateKey, Purpose, Secret};
use muster_model::{Bundle, TrustDomain};
use muster_rt::files::{self, FileError, LockFile};
use muster_svid::bundle::{BundleError, decode_spiffe, encode_spiffe};
use muster_svid::x509::{SvidError, X509Svid};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

const IDENTITY: &str = "node.json";
const BUNDLE: &str = "bundle.json";
const LOCK: &str = "lock";

/// Why the node's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not say what it should.
    #[error("{} cannot be read ({why}); restore it, or remove it and join again with a new token", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file belongs to a node of another trust domain.
    #[error(
        "{} belongs to trust domain \"{found}\" and the configuration says \"{expected}\"; set trust_domain back, or data_dir to a new directory",
        path.display()
    )]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: TrustDomain,
    },
}

/// The identity file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    trust_domain: String,
    /// The SVID in use.
    current: Option<KeyAndChain>,
    /// Whether the node proves itself again for the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reattests: bool,
    /// A key whose signature was asked for; PKCS #8 DER, base64.
    pending_key: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyAndChain {
    /// PKCS #8 DER, base64.
    key: String,
    /// DER, base64, leaf first.
    chain: Vec<String>,
}

impl Drop for IdentityFile {
    fn drop(&mut self) {
        self.pending_key.zeroize();
        if let Some(current) = &mut self.current {
            current.key.zeroize();
        }
    }
}

/// The node's state directory, held by this process alone.
pub(crate) struct State {
    directory: PathBuf,
    trust_domain: TrustDomain,
    current: Option<X509Svid>,
    reattests: bool,
    pending: Option<PrivateKey>,
    lock: Option<LockFile>,
}

impl State {
    /// Opens the directory, and takes it for this process.
    pub(crate) fn open(directory: &Path, trust_domain: TrustDomain) -> Result<Self, StateError> {
        files::private_directory(directory)?;
        let lock = LockFile::acquire(&directory.join(LOCK))?;
        files::sweep_temporaries(directory)?;
        let mut state = Self {
            directory: directory.to_owned(),
            trust_domain,
            current: None,
            reattests: false,
            pending: None,
            lock: Some(lock),
        };
        state.load()?;
        Ok(state)
    }

    /// Lets another process have the directory.
    pub(crate) fn release(&mut self) {
        self.lock = None;
    }

    /// Takes the directory back, with what is in it now.
    pub(crate) fn regain(&mut self) -> Result<(), StateError> {
        self.lock = Some(LockFile::acquire(&self.directory.join(LOCK))?);
        self.current = None;
        self.reattests = false;
        self.pending = None;
        self.load()
    }

    /// The SVID in use, as far as the node has one. It may have expired.
    pub(crate) fn svid(&self) -> Option<&X509Svid> {
        self.current.as_ref()
    }

    /// Whether the server wants the node to prove itself again rather than to renew its SVID.
    pub(crate) fn reattests(&self) -> bool {
        self.reattests
    }

    /// Notes that the server wants the node to prove itself again; the next SVID keeps it.
    pub(crate) fn must_reattest(&mut self) {
        self.reattests = true;
    }

    /// Keeps a key that is about to be signed. When it returns, the key is on the disk.
    pub(crate) fn keep_pending(&mut self, key: PrivateKey) -> Result<(), StateError> {
        self.pending = Some(key);
        self.write()
    }

    /// The key that waits for its signature.
    pub(crate) fn pending(&self) -> Option<&PrivateKey> {
        self.pending.as_ref()
    }

    /// Takes a new SVID into use. When it returns, the SVID is on the disk and the one before it
    /// is not needed any more. `reattests` says how the one after it is had.
    pub(crate) fn keep_svid(&mut self, svid: X509Svid, reattests: bool) -> Result<(), StateError> {
        let before = self.current.replace(svid);
        let reattested = std::mem::replace(&mut self.reattests, reattests);
        let pending = self.pending.take();
        let written = self.write();
        if written.is_err() {
            // What is on the disk is what counts.
            self.current = before;
            self.reattests = reattested;
            self.pending = pending;
        }
        written
    }

    /// Forgets the SVID, after the server has said that it is good for nothing.
    pub(crate) fn forget_svid(&mut self) -> Result<(), StateError> {
        self.current = None;
        self.reattests = false;
        self.write()
    }

    /// The bundle that was kept, if one was.
    pub(crate) fn bundle(&self) -> Result<Option<Bundle>, StateError> {
        let path = self.directory.join(BUNDLE);
        let document = match files::read_private(&path) {
            Ok(document) => document,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        decode_spiffe(self.trust_domain.clone(), &document)
            .map(Some)
            .map_err(|error: BundleError| StateError::Corrupt {
                path,
                why: error.to_string(),
            })
    }

    /// Where the bundle is kept: it is written by whoever learns of a new one first.
    pub(crate) fn bundle_file(&self) -> BundleFile {
        BundleFile(self.directory.join(BUNDLE))
    }

    fn load(&mut self) -> Result<(), StateError> {
        let path = self.directory.join(IDENTITY);
        let content = match files::read_private(&path) {
            Ok(content) => Zeroizing::new(content),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let corrupt = |why: String| StateError::Corrupt {
            path: path.clone(),
            why,
        };
        let file: IdentityFile = serde_json::from_slice(&content)
            // The position is told and the content, which is secret, is not.
            .map_err(|e| corrupt(format!("line {}, column {}", e.line(), e.column())))?;
        if file.trust_domain != self.trust_domain.as_str() {
            return Err(StateError::OtherTrustDomain {
                path: path.clone(),
                found: file.trust_domain.clone(),
                expected: self.trust_domain.clone(),
            });
        }
        if let Some(pair) = &file.current {
            let svid = read_pair(pair).map_err(&corrupt)?;
            self.current = Some(svid);
            self.reattests = file.reattests;
        }
        if let Some(key) = &file.pending_key {
            let der = decode(key).map_err(&corrupt)?;
            let key = PrivateKey::from_pkcs8_der(&Secret::new(der))
                .map_err(|e: KeyError| corrupt(e.to_string()))?;
            self.pending = Some(key);
        }
        Ok(())
    }

    fn write(&self) -> Result<(), StateError> {
        let path = self.directory.join(IDENTITY);
        let corrupt = |why: String| StateError::Corrupt {
            path: path.clone(),
            why,
        };
        let pending_key = match &self.pending {
            Some(key) => {
                let der = key.to_pkcs8_der().map_err(|e| corrupt(e.to_string()))?;
                Some(STANDARD.encode(der.expose(Purpose::WriteToDisk)))
            }
            None => None,
        };
        let file = IdentityFile {
            trust_domain: self.trust_domain.as_str().to_owned(),
            current: self.current.as_ref().map(|svid| KeyAndChain {
                key: STANDARD.encode(svid.key.expose(Purpose::WriteToDisk)),
                chain: svid.chain.iter().map(|der| STANDARD.encode(der)).collect(),
            }),
            reattests: self.reattests && self.current.is_some(),
            pending_key,
        };
        let content =
            Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(|e| corrupt(e.to_string()))?);
        files::write_atomic(&path, &content, files::PRIVATE)?;
        Ok(())
    }
}

/// The file of the bundle.
#[derive(Clone, Debug)]
pub(crate) struct BundleFile(PathBuf);

impl BundleFile {
    /// Keeps a bundle. When it returns, the bundle is on the disk.
    pub(crate) fn write(&self, bundle: &Bundle) -> Result<(), StateError> {
        files::write_atomic(&self.0, &encode_spiffe(bundle), files::PRIVATE)?;
        Ok(())
    }
}

fn read_pair(pair: &KeyAndChain) -> Result<X509Svid, String> {
    let key = Secret::new(decode(&pair.key)?);
    let chain = pair
        .chain
        .iter()
        .map(|text| decode(text))
        .collect::<Result<Vec<_>, _>>()?;
    X509Svid::load(chain, key).map_err(|e: SvidError| e.to_string())
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text)
        .map_err(|_base64| "base64 that is none".to_owned())
}
