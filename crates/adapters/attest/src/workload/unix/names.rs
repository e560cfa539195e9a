//! Names of users and groups, which may take a directory service to find.

use std::collections::HashMap;
use std::hash::Hash;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_plugin::workload::Work;
use nix::unistd::{Gid, Group, Uid, User};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(30);
/// How long all questions about one process may take together.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many questions are asked at once; each takes a thread, and a dead directory service keeps it.
const AT_ONCE: usize = 4;
/// How many answers are kept.
const KEPT: usize = 4_096;

/// Something that may have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    User(u32),
    Group(u32),
}

/// Asks the system (`getpwuid_r(3)`, `getgrgid_r(3)`), off the event loop.
#[derive(Debug)]
pub(super) struct Names {
    known: Arc<Mutex<HashMap<Id, Answer>>>,
    places: Arc<Semaphore>,
    sources: Mutex<Sources>,
}

/// Whether the name service was asked, or all was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Yes,
    No,
}

/// The files that names come from where there is no directory service, as they were last seen:
/// when one changes, nothing that was known holds.
type Sources = [Option<Seen>; 2];
/// Device, inode, length, and when the content was written and the file changed.
type Seen = (u64, u64, u64, (i64, i64), (i64, i64));

fn sources() -> Sources {
    ["/etc/passwd", "/etc/group"].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((
            file.dev(),
            file.ino(),
            file.len(),
            (file.mtime(), file.mtime_nsec()),
            (file.ctime(), file.ctime_nsec()),
        ))
    })
}

#[derive(Clone, Debug)]
struct Answer {
    name: Option<String>,
    at: Instant,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            known: Arc::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            sources: Mutex::new(sources()),
        }
    }

    /// The names of `ids`, in their order; `None` for those that have none, or for which it could not
    /// be found out in time. A missing name only ever makes fewer entries match.
    pub(super) async fn of(&self, ids: &[Id], work: &Work) -> (Vec<Option<String>>, Asked) {
        self.forget_what_changed();
        let mut asked = Asked::No;
        let deadline = Instant::now() + PATIENCE;
        let mut names = Vec::with_capacity(ids.len());
        for id in ids {
            let name = if let Some(answer) = self.fresh(*id) {
                answer.name
            } else {
                asked = Asked::Yes;
                work.asked();
                self.ask(*id, deadline).await
            };
            names.push(name);
        }
        (names, asked)
    }

    fn forget_what_changed(&self) {
        let now = sources();
        let mut seen = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != now {
            *seen = now;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.clear();
        }
    }

    fn fresh(&self, id: Id) -> Option<Answer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&id)
            .filter(|answer| answer.at.elapsed() < FRESH)
            .cloned()
    }

    async fn ask(&self, id: Id, deadline: Instant) -> Option<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        let (known, places) = (Arc::clone(&self.known), Arc::clone(&self.places));
        let asked = async move {
            let place = places.acquire_owned().await.ok()?;
            tokio::task::spawn_blocking(move || {
                let name = look_up(id);
                // Kept even if nobody waits any more.
                keep(&known, id, name.clone());
                drop(place);
                name
            })
            .await
            .ok()?
        };
        let Ok(name) = timeout(left, asked).await else {
            tracing::warn!(
                ?id,
                "the name service does not answer; the name is left out"
            );
            return None;
        };
        name
    }
}

fn keep(known: &Mutex<HashMap<Id, Answer>>, id: Id, name: Option<String>) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= KEPT {
        known.retain(|_, answer| answer.at.elapsed() < FRESH);
    }
    if known.len() < KEPT {
        let at = Instant::now();
        known.insert(id, Answer { name, at });
    }
}

fn look_up(id: Id) -> Option<String> {
    let found = match id {
        Id::User(uid) => User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|u| u.name)),
        Id::Group(gid) => Group::from_gid(Gid::from_raw(gid)).map(|group| group.map(|g| g.name)),
    };
    match found {
        Ok(name) => name.filter(|name| !name.is_empty()),
        Err(errno) => {
            tracing::debug!(?id, %errno, "the name service failed; the name is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn known_and_unknown_names() {
        let names = Names::new();
        let ids = [Id::User(0), Id::Group(0), Id::User(4_000_000_123)];
        let expected = [Some("root".to_owned()), Some("root".to_owned()), None];
        assert_eq!(names.of(&ids, &Work::default()).await.0, expected);
        assert_eq!(names.of(&ids, &Work::default()).await.1, Asked::No);
        assert!(ids.iter().all(|id| names.fresh(*id).is_some()));
        tokio::time::advance(FRESH).await;
        assert!(ids.iter().all(|id| names.fresh(*id).is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_name_service_is_not_waited_for() {
        let names = Names::new();
        let _all = names.places.acquire_many(4).await.unwrap();
        assert_eq!(
            names
                .of(&[Id::User(0), Id::User(1)], &Work::default())
                .await
                .0,
            [None, None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_makes_all_unknown() {
        let names = Names::new();
        assert_eq!(
            names.of(&[Id::User(0)], &Work::default()).await.1,
            Asked::Yes
        );
        *names.sources.lock().unwrap() = [None, None];
        assert_eq!(
            names.of(&[Id::User(0)], &Work::default()).await.1,
            Asked::Yes
        );
        assert_eq!(
            names.of(&[Id::User(0)], &Work::default()).await.1,
            Asked::No
        );
    }
}
