//! Names of users and groups, which may take a directory service to find.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
        }
    }

    /// The names of `ids`, in their order; `None` for those that have none, or for which it could not
    /// be found out in time. A missing name only ever makes fewer entries match.
    pub(super) async fn of(&self, ids: &[Id]) -> Vec<Option<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut names = Vec::with_capacity(ids.len());
        for id in ids {
            let name = match self.fresh(*id) {
                Some(answer) => answer.name,
                None => self.ask(*id, deadline).await,
            };
            names.push(name);
        }
        names
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
        assert_eq!(names.of(&ids).await, expected);
        assert!(ids.iter().all(|id| names.fresh(*id).is_some()));
        tokio::time::advance(FRESH).await;
        assert!(ids.iter().all(|id| names.fresh(*id).is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_name_service_is_not_waited_for() {
        let names = Names::new();
        let _all = names.places.acquire_many(4).await.unwrap();
        assert_eq!(names.of(&[Id::User(0), Id::User(1)]).await, [None, None]);
    }
}
