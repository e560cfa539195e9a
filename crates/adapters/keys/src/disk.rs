//! Keys in one file that only its owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{KeyType, PrivateKey, PublicKey, Purpose, Secret, SignatureScheme};
use muster_plugin::keys::{KeyId, KeyManager, KeyManagerError, NamedKey};
use nix::unistd::geteuid;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::ring::{KeyRing, Keys, blocking, generate};

/// The form of the file that this program writes and reads.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes: thousands of keys.
const MAX_FILE_LEN: u64 = 16 * 1024 * 1024;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskKeysError {
    /// Others than the owner can get at the file.
    #[error("the key file {} has mode {mode:04o}: others may read private keys. Run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else.
    #[error("the key file {} belongs to uid {owner}, this process runs as uid {ours}. Run: chown {ours} {}", path.display(), path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// Not a plain file.
    #[error("the key file {} is not a regular file: name another path, or move it away", path.display())]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// The content cannot be understood.
    #[error("the key file {} is damaged: {reason}. Restore it from a backup, or move it away to start with new keys", path.display())]
    Corrupt {
        /// The key file.
        path: PathBuf,
        /// What is wrong; never a part of the content.
        reason: String,
    },
    /// A newer program wrote the file.
    #[error("the key file {} has version {found}, this program knows {VERSION}: run the newer program", path.display())]
    Version {
        /// The key file.
        path: PathBuf,
        /// The version that it says.
        found: u32,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<DiskKeysError> for KeyManagerError {
    fn from(error: DiskKeysError) -> Self {
        match error {
            // A full disk or a folder that is away may come right by itself.
            DiskKeysError::Io { .. } => Self::Unavailable(error.to_string()),
            DiskKeysError::Permissions { .. }
            | DiskKeysError::Owner { .. }
            | DiskKeysError::NotAFile { .. }
            | DiskKeysError::Corrupt { .. }
            | DiskKeysError::Version { .. } => Self::Broken(error.to_string()),
        }
    }
}

/// A key manager that keeps its keys in one JSON file: mode 0600, PKCS #8 in base64 by name.
///
/// The file is replaced as a whole: a crash leaves the old keys or the new ones, never a part.
pub struct DiskKeys {
    path: PathBuf,
    ring: Arc<KeyRing>,
    /// One change at a time; readers do not wait for it.
    changing: Arc<Mutex<()>>,
}

impl DiskKeys {
    /// Opens the key file; where there is none, starts without keys and makes the file with the
    /// first one. The folder must exist.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, KeyManagerError> {
        let path = path.into();
        let from = path.clone();
        let keys = blocking(move || load(&from)).await??;
        Ok(Self {
            path,
            ring: Arc::new(KeyRing::new(keys)),
            changing: Arc::default(),
        })
    }

    /// Makes a change to the keys that are there when its turn comes; `edit` says whether there is
    /// something to change.
    async fn change(
        &self,
        edit: impl FnOnce(&mut Keys) -> bool + Send,
    ) -> Result<(), KeyManagerError> {
        let turn = self.changing.clone().lock_owned().await;
        let mut keys = (*self.ring.snapshot()).clone();
        if !edit(&mut keys) {
            return Ok(());
        }
        let (path, ring) = (self.path.clone(), self.ring.clone());
        blocking(move || {
            // Whoever asked may be gone by now; the turn ends with the write all the same.
            let _turn = turn;
            // Persist before publish: a key that signs is on the disk.
            store(&path, &keys)?;
            ring.replace(keys);
            Ok::<_, DiskKeysError>(())
        })
        .await??;
        Ok(())
    }
}

#[async_trait]
impl KeyManager for DiskKeys {
    async fn generate(&self, id: &KeyId, key_type: KeyType) -> Result<PublicKey, KeyManagerError> {
        let key = generate(key_type).await?;
        let public = key.public_key().clone();
        self.change(|keys| {
            keys.insert(id.clone(), key);
            true
        })
        .await?;
        Ok(public)
    }

    async fn list(&self) -> Result<Vec<NamedKey>, KeyManagerError> {
        Ok(self.ring.list())
    }

    async fn public_key(&self, id: &KeyId) -> Result<PublicKey, KeyManagerError> {
        self.ring.public_key(id)
    }

    async fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyManagerError> {
        self.ring.sign(id, scheme, message).await
    }

    async fn remove(&self, id: &KeyId) -> Result<(), KeyManagerError> {
        self.change(|keys| keys.remove(id).is_some()).await
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileContent {
    version: u32,
    keys: std::collections::BTreeMap<String, String>,
}

fn load(path: &Path) -> Result<Keys, DiskKeysError> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Keys::new()),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(DiskKeysError::NotAFile { path: path.into() });
        }
        Err(error) => return Err(io_error("open", path)(error)),
    };
    check_access(path, &file)?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_LEN).read_to_string(&mut text);
    let text = Secret::new(text);
    match read {
        Ok(_length) => parse(path, text.expose(Purpose::Sign)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(corrupt(path, "it is not text"))
        }
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Looks at the open file, not at its name, which may point elsewhere by now.
fn check_access(path: &Path, file: &File) -> Result<(), DiskKeysError> {
    let path = path.to_path_buf();
    let metadata = file.metadata().map_err(io_error("look at", &path))?;
    if !metadata.is_file() {
        return Err(DiskKeysError::NotAFile { path });
    }
    let ours = geteuid().as_raw();
    if metadata.uid() != ours {
        return Err(DiskKeysError::Owner {
            path,
            owner: metadata.uid(),
            ours,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DiskKeysError::Permissions { path, mode });
    }
    Ok(())
}

fn parse(path: &Path, text: &str) -> Result<Keys, DiskKeysError> {
    // serde_json's messages may quote the text, which is secret: only the place is told.
    let content: FileContent = serde_json::from_str(text).map_err(|e| {
        let reason = format!(
            "it is not the JSON of a key file at line {}, column {}",
            e.line(),
            e.column()
        );
        corrupt(path, &reason)
    })?;
    if content.version != VERSION {
        return Err(DiskKeysError::Version {
            path: path.into(),
            found: content.version,
        });
    }
    let mut keys = Keys::new();
    for (name, encoded) in content.keys {
        let encoded = Secret::new(encoded);
        let id = KeyId::parse(&name).map_err(|e| corrupt(path, &e.to_string()))?;
        let pkcs8 = STANDARD
            .decode(encoded.expose(Purpose::Sign))
            .map(Secret::new)
            .map_err(|_base64| corrupt(path, &format!("key {id} is not base64")))?;
        let key = PrivateKey::from_pkcs8_der(&pkcs8)
            .map_err(|e| corrupt(path, &format!("key {id}: {e}")))?;
        keys.insert(id, Arc::new(key));
    }
    Ok(keys)
}

fn store(path: &Path, keys: &Keys) -> Result<(), DiskKeysError> {
    let text = encode(keys).map_err(|e| corrupt(path, &e))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = folder.join(name);
    // Left behind by a crash; its name is ours.
    match fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &temporary)(error)),
    }
    let written = write_and_rename(&temporary, path, &text);
    if written.is_err() {
        // The error that matters is already at hand.
        drop(fs::remove_file(&temporary));
    }
    written?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync", folder))
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    text: &Secret<String>,
) -> Result<(), DiskKeysError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(io_error("create", temporary))?;
    file.write_all(text.expose(Purpose::WriteToDisk).as_bytes())
        .map_err(io_error("write", temporary))?;
    file.sync_all().map_err(io_error("sync", temporary))?;
    fs::rename(temporary, path).map_err(io_error("replace", path))
}

/// The file's text. Names and base64 need no escapes, and writing it by hand leaves no copy of a
/// key outside a [`Secret`].
fn encode(keys: &Keys) -> Result<Secret<String>, String> {
    let mut encoded = Vec::with_capacity(keys.len());
    for (id, key) in keys {
        let pkcs8 = key.to_pkcs8_der().map_err(|e| format!("key {id}: {e}"))?;
        let text = STANDARD.encode(pkcs8.expose(Purpose::WriteToDisk));
        encoded.push((id, Secret::new(text)));
    }
    let length: usize = encoded
        .iter()
        .map(|(id, text)| id.as_str().len() + text.expose(Purpose::WriteToDisk).len() + 16)
        .sum();
    // Room for all from the start: a string that grows leaves copies behind.
    let mut out = String::with_capacity(length + 64);
    out.push_str("{\n  \"version\": 1,\n  \"keys\": {");
    for (at, (id, text)) in encoded.iter().enumerate() {
        out.push_str(if at == 0 { "\n    \"" } else { ",\n    \"" });
        out.push_str(id.as_str());
        out.push_str("\": \"");
        out.push_str(text.expose(Purpose::WriteToDisk));
        out.push('"');
    }
    out.push_str("\n  }\n}\n");
    Ok(Secret::new(out))
}

fn corrupt(path: &Path, reason: &str) -> DiskKeysError {
    DiskKeysError::Corrupt {
        path: path.into(),
        reason: reason.to_owned(),
    }
}

fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DiskKeysError + 'a {
    move |source| DiskKeysError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use muster_plugin::keys::conformance;

    use super::*;

    fn id(text: &str) -> KeyId {
        KeyId::parse(text).unwrap()
    }

    fn fresh(path: PathBuf) -> DiskKeys {
        DiskKeys {
            ring: Arc::new(KeyRing::new(load(&path).unwrap())),
            path,
            changing: Arc::default(),
        }
    }

    async fn fault(path: &Path) -> String {
        DiskKeys::open(path).await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn keeps_the_promise() {
        let folder = tempfile::tempdir().unwrap();
        let count = AtomicUsize::new(0);
        conformance::run(|| {
            let n = count.fetch_add(1, Ordering::Relaxed);
            fresh(folder.path().join(format!("keys-{n}.json")))
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn keys_survive_a_restart_and_only_their_owner_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let keys = DiskKeys::open(&path).await.unwrap();
        for key_type in [KeyType::EcP256, KeyType::Ed25519, KeyType::Rsa2048] {
            keys.generate(&id(key_type.as_str()), key_type)
                .await
                .unwrap();
        }
        keys.remove(&id("ed25519")).await.unwrap();
        let before = keys.list().await.unwrap();
        drop(keys);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["keys.json"], "nothing is left beside the file");
        let again = DiskKeys::open(&path).await.unwrap();
        assert_eq!(again.list().await.unwrap(), before);
        let signature = again
            .sign(&id("ec-p256"), SignatureScheme::EcdsaP256Sha256, b"m")
            .await
            .unwrap();
        assert_eq!(
            before[0]
                .public_key
                .verify(SignatureScheme::EcdsaP256Sha256, b"m", &signature),
            Ok(())
        );
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = fault(&path).await;
        assert!(message.contains("mode 0640"), "{message}");
        assert!(message.contains("chmod 600"), "{message}");
    }

    #[tokio::test]
    async fn a_file_of_another_owner_is_refused() {
        if !geteuid().is_root() {
            // Only root can give a file away.
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let message = fault(&path).await;
        assert!(message.contains("belongs to uid 12345"), "{message}");
    }

    #[tokio::test]
    async fn damage_is_named_and_never_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        for (content, expected) in [
            ("", "line 1, column 0"),
            ("{\"version\":1,\"keys\":{\"a\":\"hunter2", "line 1"),
            (
                "{\"version\":1,\"keys\":{\"a\":\"hunter2!\"}}",
                "key a is not base64",
            ),
            (
                "{\"version\":1,\"keys\":{\"a\":\"aHVudGVyMg==\"}}",
                "key a: ",
            ),
            ("{\"version\":1,\"keys\":{\"../a\":\"\"}}", "not a key ID"),
            ("{\"version\":2,\"keys\":{}}", "version 2"),
            ("{\"version\":1,\"keys\":{},\"hunter2\":1}", "line 1"),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let message = fault(&path).await;
            assert!(message.contains(expected), "{content}: {message}");
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(fault(&path).await.contains("not text"));
    }

    #[tokio::test]
    async fn what_is_not_a_plain_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        for path in [folder.path(), link.as_path()] {
            let message = fault(path).await;
            assert!(message.contains("not a regular file"), "{message}");
        }
    }

    /// A change that cannot be written did not happen.
    #[tokio::test]
    async fn a_failed_write_leaves_the_old_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("keys.json");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let keys = DiskKeys::open(&path).await.unwrap();
        let first = keys.generate(&id("a"), KeyType::EcP256).await.unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let error = keys.generate(&id("a"), KeyType::EcP256).await.unwrap_err();
        assert!(
            matches!(error, KeyManagerError::Unavailable(ref m) if m.contains("keys.json.new")),
            "{error}"
        );
        assert_eq!(keys.public_key(&id("a")).await, Ok(first));
    }

    /// Callers that go away in the middle of a change leave a whole file and a true list.
    #[tokio::test]
    async fn callers_that_give_up_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let keys = DiskKeys::open(&path).await.unwrap();
        for n in 0..50 {
            let name = id(&format!("k{n}"));
            tokio::select! {
                biased;
                result = keys.generate(&name, KeyType::EcP256) => { result.unwrap(); }
                () = tokio::task::yield_now() => {}
            }
        }
        keys.generate(&id("last"), KeyType::EcP256).await.unwrap();
        let again = DiskKeys::open(&path).await.unwrap();
        assert_eq!(again.list().await.unwrap(), keys.list().await.unwrap());
    }

    /// What a crash between writing and renaming leaves is cleared away.
    #[tokio::test]
    async fn a_leftover_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(folder.path().join("keys.json.new"), "half").unwrap();
        let keys = DiskKeys::open(&path).await.unwrap();
        keys.generate(&id("a"), KeyType::EcP256).await.unwrap();
        assert_eq!(
            DiskKeys::open(&path)
                .await
                .unwrap()
                .list()
                .await
                .unwrap()
                .len(),
            1
        );
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,120}", name in "[a-z/]{0,8}", key in "[A-Za-z0-9+/=]{0,60}") {
            let path = Path::new("keys.json");
            proptest::prop_assert!(parse(path, &text).is_err());
            let content = format!("{{\"version\":1,\"keys\":{{\"{name}\":\"{key}\"}}}}");
            proptest::prop_assert!(parse(path, &content).is_err());
        }
    }
}
