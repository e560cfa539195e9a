//! Whom the node attested and served: told by user and selectors, however many processes that were.
//!
//! A call costs one look-up in a table; thousands of processes that are attested as the same are one
//! row, and one record in an hour.

use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use muster_attest::workload::docker;
use muster_model::{SelectorSet, SpiffeId, TaskId, Timestamp};
use muster_proto::muster::node::v1::ReportAttestationsRequest;
use muster_proto::muster::node::v1::node_attestations_client::NodeAttestationsClient;
use muster_rt::Clock;
use muster_rt::ration::Ration;
use muster_svid::x509::X509Svid;
use muster_wire::attestation::{self, Attestation, MOST_IDS, MOST_SELECTOR_BYTES, MOST_SELECTORS};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::reports::{Batch, Notes, Reporter, Tally, Terms, Topic};
use crate::upstream::Upstream;

/// Processes of one user that are attested as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Of the rest, made before anybody is locked out.
    hash: u64,
    uid: u32,
    selectors: Arc<SelectorSet>,
    /// On whose socket.
    task: Option<TaskId>,
}

impl Hash for Served {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The calls of one row.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    /// Those of the row: one set for all open streams that are attested as the same.
    selectors: Arc<SelectorSet>,
    count: u64,
    pids: (u32, u32),
    at: (Timestamp, Timestamp),
    ids: Vec<SpiffeId>,
    others: u64,
}

impl Calls {
    fn none(selectors: &Arc<SelectorSet>, pid: u32, at: Timestamp) -> Self {
        Self {
            selectors: Arc::clone(selectors),
            count: 0,
            pids: (pid, pid),
            at: (at, at),
            ids: Vec::new(),
            others: 0,
        }
    }

    /// Another answer: the first of a call if `count` is 1, a further one of an open stream if it is 0.
    fn answer<'a>(
        &mut self,
        count: u64,
        pid: u32,
        at: Timestamp,
        ids: impl Iterator<Item = &'a SpiffeId>,
    ) {
        if self.is_empty() {
            (self.pids.0, self.at.0) = (pid, at);
        }
        (self.pids.1, self.at.1) = (pid, at);
        self.count = self.count.saturating_add(count);
        ids.for_each(|id| self.give(id));
    }

    fn give(&mut self, id: &SpiffeId) {
        if self.ids.contains(id) {
            return;
        }
        if self.ids.len() < MOST_IDS {
            self.ids.push(id.clone());
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

impl Tally for Calls {
    fn count(&self) -> u64 {
        self.count
    }

    fn is_empty(&self) -> bool {
        self.count == 0 && self.ids.is_empty() && self.others == 0
    }

    fn add(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        if later.is_empty() {
            return;
        }
        self.count = self.count.saturating_add(later.count);
        self.pids.1 = later.pids.1;
        self.at.1 = later.at.1;
        self.others = self.others.saturating_add(later.others);
        for id in &later.ids {
            self.give(id);
        }
    }

    fn take(&mut self) -> Self {
        let none = Self::none(&self.selectors, self.pids.1, self.at.1);
        std::mem::replace(self, none)
    }
}

/// Whom the node attested and served.
pub(crate) enum Attested {}

impl Topic for Attested {
    type Who = Served;
    type Tally = Calls;
    type Report = ReportAttestationsRequest;

    const TERMS: Terms = Terms {
        kept: 1024,
        batch: 32,
        // A thousand nodes with fifty kinds of workload each, all busy: 14 records in a second.
        again: Duration::from_hours(1),
        ration: Ration::new(Duration::from_secs(1), 64),
    };
    const WHAT: &'static str = "whom this node attested and served";

    fn rank(_who: &Served) -> u8 {
        0
    }

    fn report(batch: &Batch<Served, Calls>) -> ReportAttestationsRequest {
        let told = batch.rows.iter().map(told);
        ReportAttestationsRequest {
            attested: told.map(|one| attestation::write(&one)).collect(),
            unreported: batch.unreported,
        }
    }

    async fn tell(
        channel: Channel,
        request: Request<ReportAttestationsRequest>,
    ) -> Result<u64, Status> {
        let mut client = NodeAttestationsClient::new(channel);
        let answer = client.report_attestations(request).await?;
        Ok(answer.into_inner().unrecorded)
    }
}

/// Where notes of them are left; clones are the same.
#[derive(Clone)]
pub(crate) struct Attestations {
    notes: Notes<Attested>,
    hashing: RandomState,
}

/// What a call has been given so far: an open stream that is given the same again is no news.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given(Option<u64>);

impl Attestations {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            notes: Notes::new(clock),
            hashing: RandomState::new(),
        }
    }

    /// Notes that process `pid` of `uid`, attested as `selectors`, was answered with `ids`. A call is
    /// counted when it is answered first, and afterwards told of only where it is given others. Of equal
    /// sets of selectors it is given one.
    pub(crate) fn served<'a>(
        &self,
        (pid, uid): (u32, u32),
        selectors: &mut Arc<SelectorSet>,
        task: Option<TaskId>,
        ids: impl Iterator<Item = &'a SpiffeId> + Clone,
        given: &mut Given,
    ) {
        let now = self.hash_all(ids.clone());
        let before = given.0.replace(now);
        if before == Some(now) {
            return;
        }
        let who = Served {
            hash: self.hashing.hash_one((uid, &**selectors)),
            uid,
            selectors: Arc::clone(selectors),
            task,
        };
        let at = self.notes.clock().now().wall;
        let count = u64::from(before.is_none());
        let again = ids.clone();
        self.notes.note(
            &who,
            |calls| {
                selectors.clone_from(&calls.selectors);
                calls.answer(count, pid, at, again);
            },
            || {
                let mut calls = Calls::none(&who.selectors, pid, at);
                calls.answer(count, pid, at, ids);
                calls
            },
        );
    }

    fn hash_all<'a>(&self, ids: impl Iterator<Item = &'a SpiffeId>) -> u64 {
        let mut hasher = self.hashing.build_hasher();
        ids.for_each(|id| id.as_str().hash(&mut hasher));
        hasher.finish()
    }

    /// The loop that tells the server.
    pub(crate) fn reporter(
        &self,
        upstream: Upstream,
        node: watch::Receiver<Option<X509Svid>>,
    ) -> Reporter<Attested> {
        self.notes.reporter(upstream, node)
    }
}

/// A row as the server is told it.
fn told((who, calls): &(Served, Calls)) -> Attestation {
    let mut room = MOST_SELECTOR_BYTES;
    let selectors: SelectorSet = who
        .selectors
        .iter()
        .filter(|selector| !selector.as_str().chars().any(char::is_control))
        .map(docker::without_value)
        .take_while(|selector| {
            let rest = room.checked_sub(selector.as_str().len());
            room = rest.unwrap_or(0);
            rest.is_some()
        })
        .take(MOST_SELECTORS)
        .collect();
    let left_out = who.selectors.len().saturating_sub(selectors.len());
    Attestation {
        uid: who.uid,
        selectors_left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
        selectors,
        task: who.task,
        count: calls.count,
        pids: calls.pids,
        at: calls.at,
        ids: calls.ids.clone(),
        others: calls.others,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use muster_model::Now;
    use proptest::prelude::*;

    use super::*;

    /// A clock that is set by hand, in seconds.
    #[derive(Default)]
    struct ByHand(AtomicU64);

    impl Clock for ByHand {
        fn now(&self) -> Now {
            let since = Duration::from_secs(self.0.load(Ordering::SeqCst));
            Now {
                wall: Timestamp::from_unix_seconds(1_767_225_600).plus(since),
                mono: Duration::from_secs(1000) + since,
            }
        }
    }

    fn set(texts: &[&str]) -> Arc<SelectorSet> {
        Arc::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap()
    }

    fn told_now(attestations: &Attestations) -> Vec<Attestation> {
        let Ok(batch) = attestations.notes.due() else {
            return Vec::new();
        };
        attestations.notes.told(&batch);
        batch.rows.iter().map(told).collect()
    }

    fn call(to: &Attestations, pid: u32, selectors: &Arc<SelectorSet>, ids: &[SpiffeId]) {
        let given = &mut Given::default();
        to.served((pid, 1000), &mut selectors.clone(), None, ids.iter(), given);
    }

    #[test]
    fn thousands_of_equal_processes_are_one_row_in_an_hour() {
        let clock = Arc::new(ByHand::default());
        let attestations = Attestations::new(clock.clone());
        let selectors = set(&["unix:uid:1000"]);
        call(&attestations, 1, &selectors, &[id("1")]);
        let first = told_now(&attestations);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].count, first[0].pids), (1, (1, 1)));
        assert_eq!(first[0].ids, [id("1")]);
        for pid in 2..=2001 {
            clock.0.store(u64::from(pid), Ordering::SeqCst);
            // Each is attested anew: the same facts, and a set of its own.
            call(
                &attestations,
                pid,
                &set(&["unix:uid:1000"]),
                &[id(&pid.to_string())],
            );
            assert_eq!(told_now(&attestations), []);
        }
        clock.0.store(3600, Ordering::SeqCst);
        let [all] = told_now(&attestations).try_into().unwrap();
        assert_eq!((all.count, all.pids), (2000, (2, 2001)));
        assert_eq!((all.ids.len(), all.others), (MOST_IDS, 2000 - 16));
        let began = Timestamp::from_unix_seconds(1_767_225_600);
        assert_eq!(all.at.0, began.plus(Duration::from_secs(2)));
        assert_eq!(all.at.1, began.plus(Duration::from_secs(2001)));
        // Another user, other selectors: somebody else.
        let given = &mut Given::default();
        attestations.served(
            (7, 1001),
            &mut selectors.clone(),
            None,
            [id("x")].iter(),
            given,
        );
        call(
            &attestations,
            8,
            &set(&["unix:uid:1000", "unix:gid:5"]),
            &[],
        );
        assert_eq!(told_now(&attestations).len(), 2);
    }

    /// What an open stream is told again is no news; what it is given besides is.
    #[test]
    fn a_stream_counts_once_and_is_told_of_again_with_other_identities() {
        let clock = Arc::new(ByHand::default());
        let attestations = Attestations::new(clock.clone());
        let (mut selectors, mut given) = (set(&["unix:uid:1000"]), Given::default());
        let mut tell = |ids: &[SpiffeId]| {
            attestations.served((7, 1000), &mut selectors, None, ids.iter(), &mut given);
        };
        tell(&[id("a")]);
        tell(&[id("a")]);
        assert_eq!(told_now(&attestations)[0].count, 1);
        // Renewed after hours: nothing.
        clock.0.store(10_000, Ordering::SeqCst);
        tell(&[id("a")]);
        assert!(attestations.notes.due().is_err());
        tell(&[id("a"), id("b")]);
        let [again] = told_now(&attestations).try_into().unwrap();
        assert_eq!((again.count, again.pids), (0, (7, 7)));
        assert_eq!(again.ids, [id("a"), id("b")]);
    }

    /// Thousands of open streams have one set of selectors, not one each.
    #[test]
    fn equal_sets_become_one() {
        let attestations = Attestations::new(Arc::new(ByHand::default()));
        let answer = || {
            let (mut selectors, given) = (set(&["unix:uid:1000"]), &mut Given::default());
            attestations.served((7, 1000), &mut selectors, None, [].iter(), given);
            selectors
        };
        let (first, second) = (answer(), answer());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(told_now(&attestations).len(), 1);
        assert!(Arc::ptr_eq(&first, &answer()));
    }

    #[test]
    fn what_is_told_is_bounded_and_has_no_values_of_variables() {
        let long = "x".repeat(MOST_SELECTOR_BYTES);
        let mut texts = vec!["docker:env:OPENAI_API_KEY=sk-hunter2".to_owned()];
        texts.extend((0..200).map(|n| format!("docker:label:{n:03}:v")));
        texts.push(format!("unix:path:/{long}"));
        texts.push("unix:path:/\u{1b}[2J".to_owned());
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let attestations = Attestations::new(Arc::new(ByHand::default()));
        call(&attestations, 1, &set(&texts), &[]);
        let [one] = told_now(&attestations).try_into().unwrap();
        assert_eq!((one.selectors.len(), one.selectors_left_out), (128, 75));
        let written = attestation::write(&one);
        assert!(!format!("{written:?}").contains("hunter2"));
        assert_eq!(written.selectors[0].value, "env:OPENAI_API_KEY");
        assert_eq!(attestation::read(&written), Ok(one));
    }

    proptest! {
        /// However calls and reports come: each call is told once, in a row or as a number, and what
        /// is told can be read.
        #[test]
        fn each_call_is_told_once(steps in proptest::collection::vec((0..40_u32, 0..3_u64, 0..20_u32), 0..200)) {
            let clock = Arc::new(ByHand::default());
            let attestations = Attestations::new(clock.clone());
            let (mut calls, mut heard) = (0, 0);
            for (who, wait, name) in steps {
                calls += 1;
                let selectors = set(&[&format!("unix:uid:{who}")]);
                call(&attestations, who, &selectors, &[id(&name.to_string())]);
                clock.0.fetch_add(wait * 1000, Ordering::SeqCst);
                if wait == 1 {
                    heard += told_now(&attestations).iter().map(|one| one.count).sum::<u64>();
                }
            }
            loop {
                match attestations.notes.due() {
                    Ok(batch) => {
                        attestations.notes.told(&batch);
                        for one in batch.rows.iter().map(told) {
                            prop_assert_eq!(attestation::read(&attestation::write(&one)), Ok(one.clone()));
                            heard += one.count;
                        }
                    }
                    Err(Some(_)) => {
                        clock.0.fetch_add(3600, Ordering::SeqCst);
                    }
                    Err(None) => break,
                }
            }
            prop_assert_eq!(calls, heard);
        }
    }
}
