//! A directory whose files change together.
//!
//! ```text
//! DIR/..gen-7/svid.pem      a generation: real files, never changed once it has its name
//! DIR/current -> ..gen-7    replaced by one rename(2): the only moment that counts
//! DIR/svid.pem -> current/svid.pem
//! ```
//!
//! A reader that resolves `current` once (a directory descriptor, `realpath`) finds all files of
//! one generation behind it; so does one that reads a single file. The generations before it stay
//! for a while, for readers that have resolved them already.
//!
//! Every file, the generation's directory and DIR are synced, in that order, before the next step
//! builds upon them: after a power cut or a kill at any point `current` names a whole generation,
//! the old or the new one. What such an end leaves besides is removed by the next start.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_rt::files::{LockFile, sync_directory};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The link to the newest generation.
pub(super) const CURRENT: &str = "current";
const GENERATION: &str = "..gen-";
const UNFINISHED: &str = "..new-";
const NEXT_LINK: &str = "..link";
const LOCK: &str = "..lock";

/// How many replaced generations are kept at most, however young they are.
const MOST_KEPT: usize = 16;

/// One file of a generation.
pub(super) struct Content {
    /// Its name: one path component.
    pub(super) name: String,
    /// Its bytes, wiped on drop because some are keys.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits, exactly.
    pub(super) mode: u32,
    /// Owner and group, where they shall not be ours.
    pub(super) owner: Owner,
}

/// Whom a file shall belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// The directory, held by this process alone.
pub(super) struct Directory {
    path: PathBuf,
    keep: Duration,
    number: u64,
    current: Option<PathBuf>,
    /// Replaced generations and when they were, in monotonic time; the oldest first.
    retired: VecDeque<(PathBuf, Duration)>,
    links: BTreeSet<String>,
    _lock: LockFile,
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let told = format!("cannot {action} {}", path.display());
    move |error| Failure::failed(format!("{told}: {error}"))
}

impl Directory {
    /// Takes the directory, made with mode 0755 if it is not there, and removes what a killed
    /// process left. Generations that were replaced before stay for `keep` from `now`.
    pub(super) fn open(path: &Path, keep: Duration, now: Duration) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(failed("find", path))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| {
                let blocked = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotADirectory];
                if blocked.contains(&error.kind()) {
                    return Failure::failed(format!(
                        "cannot create {}: part of {} is a file; name a path of directories",
                        path.display(),
                        parent.display()
                    ));
                }
                failed("create", parent)(error)
            })?;
        }
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &path)(error));
            }
            Ok(()) | Err(_) => check(&path)?,
        }
        let lock = LockFile::acquire(&path.join(LOCK))?;
        let mut directory = Self {
            current: None,
            keep,
            number: 0,
            retired: VecDeque::new(),
            links: BTreeSet::new(),
            path,
            _lock: lock,
        };
        directory.take_stock(now)?;
        Ok(directory)
    }

    /// Whether there is a generation.
    pub(super) fn has_generation(&self) -> bool {
        self.current.is_some()
    }

    fn take_stock(&mut self, now: Duration) -> Result<(), Failure> {
        let current = fs::read_link(self.path.join(CURRENT)).ok();
        let mut generations = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed("read", &self.path))? {
            let path = entry.map_err(failed("read", &self.path))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with(UNFINISHED) {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            } else if name == NEXT_LINK {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            } else if let Some(number) = name.strip_prefix(GENERATION) {
                generations.push((number.parse::<u64>().unwrap_or(0), path));
            } else if fs::read_link(&path).is_ok_and(|to| to == link_target(name)) {
                self.links.insert(name.to_owned());
            }
        }
        generations.sort();
        for (number, path) in generations {
            self.number = self.number.max(number);
            if current.as_deref().map(|to| self.path.join(to)).as_deref() == Some(&path) {
                self.current = Some(path);
            } else {
                self.retired.push_back((path, now));
            }
        }
        Ok(())
    }

    /// Makes these files the newest generation and returns its directory. On an error the
    /// generation before is as it was.
    pub(super) fn publish(&mut self, files: &[Content], now: Duration) -> Result<PathBuf, Failure> {
        for file in files {
            self.check_name(&file.name)?;
        }
        let number = self.number + 1;
        let unfinished = self.path.join(format!("{UNFINISHED}{number}"));
        let finished = self.path.join(format!("{GENERATION}{number}"));
        if let Err(failure) = build(&unfinished, files) {
            // The first failure is the one to tell; the next start sweeps up what is left.
            let _left_over = fs::remove_dir_all(&unfinished).is_err();
            return Err(failure);
        }
        fs::rename(&unfinished, &finished).map_err(failed("create", &finished))?;
        self.number = number;
        // The generation must be found under its name before a link to it may be.
        sync_directory(&self.path)?;
        if let Err(failure) = self.point(CURRENT, Path::new(&format!("{GENERATION}{number}"))) {
            self.retired.push_back((finished, now));
            return Err(failure);
        }
        if let Some(old) = self.current.replace(finished.clone()) {
            self.retired.push_back((old, now));
        }
        let names: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
        for name in names.difference(&self.links) {
            self.point(name, &link_target(name))?;
        }
        for name in self.links.difference(&names) {
            let link = self.path.join(name);
            fs::remove_file(&link).map_err(failed("remove", &link))?;
        }
        self.links = names;
        sync_directory(&self.path)?;
        self.prune(now)?;
        Ok(finished)
    }

    /// Removes the generations that were replaced long enough ago.
    pub(super) fn prune(&mut self, now: Duration) -> Result<(), Failure> {
        while let Some((path, since)) = self.retired.front() {
            if self.retired.len() <= MOST_KEPT && now.saturating_sub(*since) < self.keep {
                break;
            }
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", path)(error));
                }
                Ok(()) | Err(_) => {}
            }
            self.retired.pop_front();
        }
        Ok(())
    }

    /// When [`Directory::prune`] has something to do, in monotonic time.
    pub(super) fn prune_at(&self) -> Option<Duration> {
        let (_, since) = self.retired.front()?;
        Some(*since + self.keep)
    }

    /// Replaces or makes a link in one step.
    fn point(&self, name: &str, target: &Path) -> Result<(), Failure> {
        let temporary = self.path.join(NEXT_LINK);
        let link = self.path.join(name);
        symlink(target, &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .map_err(failed("replace", &link))
    }

    /// A name must be free, or a link of ours: what somebody else put there is not ours to remove.
    fn check_name(&self, name: &str) -> Result<(), Failure> {
        check_file_name(name).map_err(Failure::usage)?;
        let path = self.path.join(name);
        let taken = !self.links.contains(name) && fs::symlink_metadata(&path).is_ok();
        if taken {
            return Err(Failure::failed(format!(
                "{} is there already and is no link of ours; move it away or choose another \
                 directory",
                path.display()
            )));
        }
        Ok(())
    }
}

/// Whether a generation may have a file of that name; says why not.
pub(super) fn check_file_name(name: &str) -> Result<(), String> {
    let fine = !name.is_empty()
        && name.len() <= 200
        && name != CURRENT
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if fine {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name for a file here; use up to 200 letters, digits and \"-_.\", not \
         {CURRENT:?}, and no dot in front"
    ))
}

fn link_target(name: &str) -> PathBuf {
    Path::new(CURRENT).join(name)
}

/// A directory in which another user could exchange our files is refused.
fn check(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let found = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if !found.is_dir() {
        return Err(Failure::failed(format!(
            "{shown} is not a directory (links are not followed here); name the directory itself"
        )));
    }
    let me = nix::unistd::geteuid().as_raw();
    if found.uid() != me {
        return Err(Failure::failed(format!(
            "{shown} belongs to uid {}, but this process runs as uid {me}; run `chown {me} \
             {shown}` or name a directory below it",
            found.uid()
        )));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o1002 == 0o1002 {
        return Err(Failure::failed(format!(
            "{shown} has mode {mode:04o}: it is everybody's; name a directory below it, such as \
             {shown}/identity"
        )));
    }
    if mode & 0o022 != 0 {
        return Err(Failure::failed(format!(
            "{shown} has mode {mode:04o}: others could exchange the files in it; run `chmod go-w \
             {shown}` or name a directory below it"
        )));
    }
    Ok(())
}

/// Writes all files into a new directory, on the disk when it returns.
fn build(path: &Path, files: &[Content]) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    DirBuilder::new()
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .map_err(failed("create", path))?;
    for file in files {
        let to = path.join(&file.name);
        write(&to, file).map_err(failed("write", &to))?;
    }
    sync_directory(path)?;
    Ok(())
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    // Nobody else may open the file before it has its owner and its mode.
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&content.bytes)?;
    let Owner { uid, gid } = content.owner;
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::fchown(&file, uid, gid)?;
    }
    file.set_permissions(Permissions::from_mode(content.mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
