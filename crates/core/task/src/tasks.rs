//! The machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use muster_model::{Now, TaskId, TaskState, Timestamp};

use crate::event::{
    Action, Binding, Cause, End, Ended, Event, LeaseId, Listed, Opened, Past, ProcessId, Standing,
    What,
};
use crate::mail::Mail;
use crate::time::{Agenda, When};

/// What the machine is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a task that was opened may take to be in force.
    pub patience: Duration,
    /// How long a task that has ended can be asked about.
    pub keep: Duration,
    /// How many that have ended can be asked about at the most; the oldest make room.
    pub keep_most: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            keep: Duration::from_mins(10),
            keep_most: 4096,
        }
    }
}

/// How far a live task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its socket or its identity is not there yet.
    Opening,
    /// It is in force.
    Open,
    /// It has no identity for now, and no socket.
    Suspended,
}

/// A task as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// It is live.
    Live(&'a Opened, Phase),
    /// It has ended.
    Ended(&'a Opened, &'a End),
}

/// A live task.
#[derive(Debug)]
struct Live {
    opened: Opened,
    phase: Phase,
    listening: bool,
    /// Whether it was in force before.
    resumes: bool,
    /// Whether its entry counts as there although no view has shown it: an earlier run saw it.
    presumed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Deadline(TaskId),
    Impatience(TaskId),
    Drop(TaskId),
    TellAgain,
    AskAgain,
}

/// The machine: see the crate's documentation.
#[derive(Debug, Default)]
pub struct Tasks {
    config: Config,
    now: Option<Now>,
    live: BTreeMap<TaskId, Live>,
    ended: BTreeMap<TaskId, (Opened, End)>,
    /// The order in which they ended.
    ended_order: VecDeque<TaskId>,
    /// Live tasks by the one that they are part of.
    below: BTreeSet<(TaskId, TaskId)>,
    /// Live tasks by what they end with.
    of_process: BTreeSet<(ProcessId, TaskId)>,
    of_cgroup: BTreeSet<(u64, TaskId)>,
    of_lease: BTreeMap<LeaseId, TaskId>,
    /// Tasks whose entry is in the node's view, live or not.
    entries: BTreeSet<TaskId>,
    tell: Mail<End>,
    ask: Mail<()>,
    agenda: Agenda<Alarm>,
    actions: VecDeque<Action>,
}

impl Tasks {
    /// A machine without tasks.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Hears `event`. Afterwards [`Tasks::poll_action`] may have something to do and
    /// [`Tasks::poll_timeout`] another instant.
    ///
    /// Events about tasks that the machine does not know are no-ops.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.now = Some(now);
        while let Some(alarm) = self.agenda.pop(now) {
            self.on_alarm(alarm, now);
        }
        self.on_event(event, now);
        if let Some(batch) = self.tell.next() {
            let ended = batch.into_iter().map(|(id, end)| Ended { id, end });
            self.actions.push_back(Action::Tell(ended.collect()));
        }
        if let Some(batch) = self.ask.next() {
            let ids = batch.into_iter().map(|(id, ())| id);
            self.actions.push_back(Action::Ask(ids.collect()));
        }
    }

    /// The next thing to do. Call it until it returns `None` after each [`Tasks::handle`], and do
    /// things in the order given; calling it more often does no harm.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The monotonic instant at which to hand in [`Event::Tick`] if nothing else happens before;
    /// `None` when only an event can change anything. Ask again after each [`Tasks::handle`]; a tick
    /// that comes too early or too often is a no-op.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.agenda.next(self.now?)
    }

    /// A task, if it is live or ended lately.
    pub fn see(&self, id: TaskId) -> Option<Seen<'_>> {
        if let Some(live) = self.live.get(&id) {
            return Some(Seen::Live(&live.opened, live.phase));
        }
        let (opened, end) = self.ended.get(&id)?;
        Some(Seen::Ended(opened, end))
    }

    /// The live tasks, by ascending ID.
    pub fn live(&self) -> impl Iterator<Item = (&Opened, Phase)> {
        self.live.values().map(|live| (&live.opened, live.phase))
    }

    /// Tasks that ended lately, by ascending ID.
    pub fn ended(&self) -> impl Iterator<Item = (&Opened, &End)> {
        self.ended.values().map(|(opened, end)| (opened, end))
    }

    fn on_alarm(&mut self, alarm: Alarm, now: Now) {
        match alarm {
            Alarm::Deadline(id) => {
                self.end_by(id, TaskState::Expired, Cause::DeadlinePassed, None, now);
            }
            Alarm::Impatience(id) => {
                let waits = self.live.get(&id).map(|live| live.phase);
                if waits == Some(Phase::Opening) {
                    self.end_by(id, TaskState::Failed, Cause::NotInForce, None, now);
                }
            }
            Alarm::Drop(id) => self.drop_ended(id),
            Alarm::TellAgain => self.tell.go_on(),
            Alarm::AskAgain => self.ask.go_on(),
        }
    }

    fn on_event(&mut self, event: Event, now: Now) {
        match event {
            Event::Tick => {}
            Event::Opened(opened) => self.on_opened(opened, now),
            Event::Recalled(opened, past) => self.on_recalled(opened, past, now),
            Event::RecalledEnd(ended) => self.tell.post(ended.id, ended.end),
            Event::Listening(id) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.listening = live.phase != Phase::Suspended;
                }
                self.come_into_force(id);
            }
            Event::NotListening(id) => {
                if self.live.contains_key(&id) {
                    self.end_by(id, TaskState::Failed, Cause::NoSocket, None, now);
                }
            }
            Event::Entered(id) => {
                self.entries.insert(id);
                self.entered(id);
            }
            Event::Left(id) => {
                self.entries.remove(&id);
                self.left(id);
            }
            Event::View(entries) => self.on_view(entries),
            Event::ProcessExited(process, status) => {
                let bound = of(&self.of_process, process);
                for id in bound {
                    let is_lease = self
                        .live
                        .get(&id)
                        .is_some_and(|live| matches!(live.opened.binding, Binding::Lease(..)));
                    // The process of a lease is not the task's own: how it ended says nothing of it.
                    let status = status.filter(|_| !is_lease);
                    let state = TaskState::ProcessExited;
                    self.end_by(id, state, Cause::ProcessExited, status, now);
                }
            }
            Event::CgroupEmptied(cgroup) => {
                for id in of(&self.of_cgroup, cgroup) {
                    let state = TaskState::ProcessExited;
                    self.end_by(id, state, Cause::CgroupEmptied, None, now);
                }
            }
            Event::LeaseEnded(lease) => {
                if let Some(id) = self.of_lease.get(&lease).copied() {
                    let state = TaskState::ProcessExited;
                    self.end_by(id, state, Cause::LeaseEnded, None, now);
                }
            }
            Event::Completed(id) => {
                self.end_by(id, TaskState::Completed, Cause::OwnWord, None, now);
            }
            Event::Failed(id, cause) => self.end_by(id, TaskState::Failed, cause, None, now),
            Event::Told => {
                for id in self.tell.heard() {
                    self.actions.push_back(Action::Forget(id));
                }
            }
            Event::NotTold => {
                if let Some(wait) = self.tell.unheard() {
                    self.agenda.set(Alarm::TellAgain, When::after(wait, now));
                }
            }
            Event::Stands(standings) => {
                for standing in standings {
                    self.on_standing(standing, now);
                }
            }
            Event::Answered(standings) => self.on_answered(standings, now),
            Event::NotAnswered => {
                if let Some(wait) = self.ask.unheard() {
                    self.agenda.set(Alarm::AskAgain, When::after(wait, now));
                }
            }
            Event::Reconciled(standings) => self.on_reconciled(standings, now),
            Event::LinkUp => {
                for alarm in [Alarm::TellAgain, Alarm::AskAgain] {
                    self.agenda.clear(alarm);
                }
                self.tell.go_on();
                self.ask.go_on();
            }
        }
    }

    fn on_opened(&mut self, opened: Opened, now: Now) {
        let id = opened.id;
        if self.live.contains_key(&id) || self.ended.contains_key(&id) {
            return;
        }
        let orphaned = opened
            .parent
            .is_some_and(|parent| !self.live.contains_key(&parent));
        self.take_in(opened, false, now);
        self.actions.push_back(Action::OpenSocket(id));
        self.agenda.set(
            Alarm::Impatience(id),
            When::after(self.config.patience, now),
        );
        // It is taken in first in any case: whoever waits for it hears of its end.
        if orphaned {
            self.end_by(id, TaskState::Revoked, Cause::ParentEnded, None, now);
        }
        self.end_if_due(id, now);
    }

    fn on_recalled(&mut self, opened: Opened, past: Past, now: Now) {
        let id = opened.id;
        if self.live.contains_key(&id) || self.ended.contains_key(&id) {
            return;
        }
        let orphaned = opened
            .parent
            .is_some_and(|parent| !self.live.contains_key(&parent));
        let is_lease = matches!(opened.binding, Binding::Lease(..));
        self.take_in(opened, true, now);
        if orphaned {
            self.end_by(id, TaskState::Revoked, Cause::ParentEnded, None, now);
        } else if past == Past::Gone || is_lease {
            let state = TaskState::ProcessExited;
            self.end_by(id, state, Cause::NodeRestarted, None, now);
        }
        self.end_if_due(id, now);
        if self.live.contains_key(&id) {
            self.actions.push_back(Action::OpenSocket(id));
        }
    }

    /// A deadline that has passed already has no alarm to come.
    fn end_if_due(&mut self, id: TaskId, now: Now) {
        let due = self
            .live
            .get(&id)
            .is_some_and(|live| live.opened.deadline <= now.wall);
        if due {
            self.end_by(id, TaskState::Expired, Cause::DeadlinePassed, None, now);
        }
    }

    fn take_in(&mut self, opened: Opened, recalled: bool, now: Now) {
        let id = opened.id;
        self.actions.push_back(Action::Remember(id));
        if let Some(parent) = opened.parent {
            self.below.insert((parent, id));
        }
        if let Some(process) = opened.binding.process() {
            if of(&self.of_process, process).is_empty() {
                self.actions.push_back(Action::WatchProcess(process));
            }
            self.of_process.insert((process, id));
        }
        if let Some(cgroup) = opened.binding.cgroup() {
            if of(&self.of_cgroup, cgroup).is_empty() {
                self.actions.push_back(Action::WatchCgroup(cgroup));
            }
            self.of_cgroup.insert((cgroup, id));
        }
        if let Binding::Lease(lease, _) = opened.binding {
            self.of_lease.insert(lease, id);
        }
        self.agenda
            .set(Alarm::Deadline(id), When::at(opened.deadline, now));
        let live = Live {
            opened,
            phase: Phase::Opening,
            listening: false,
            resumes: recalled,
            presumed: recalled,
        };
        self.live.insert(id, live);
    }

    fn come_into_force(&mut self, id: TaskId) {
        let entered = self.entries.contains(&id);
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        if live.phase == Phase::Opening && live.listening && (entered || live.presumed) {
            live.phase = Phase::Open;
            let what = if live.resumes {
                What::Resumed
            } else {
                What::Opened
            };
            live.resumes = true;
            self.agenda.clear(Alarm::Impatience(id));
            self.actions.push_back(Action::News(id, what));
        }
    }

    fn entered(&mut self, id: TaskId) {
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        live.presumed = false;
        if live.phase == Phase::Suspended {
            live.phase = Phase::Opening;
            self.actions.push_back(Action::OpenSocket(id));
        }
        self.come_into_force(id);
    }

    /// The server has taken the task's identity back, and knows why.
    fn left(&mut self, id: TaskId) {
        if self.suspend(id) {
            self.ask.post(id, ());
        }
    }

    /// Takes the socket from a task that had an identity.
    fn suspend(&mut self, id: TaskId) -> bool {
        let Some(live) = self.live.get_mut(&id) else {
            return false;
        };
        // Before its entry came for the first time, its absence says nothing.
        if live.phase == Phase::Opening && !live.resumes {
            return false;
        }
        live.presumed = false;
        if live.phase != Phase::Suspended {
            live.phase = Phase::Suspended;
            live.listening = false;
            self.actions.push_back(Action::CloseSocket(id));
        }
        true
    }

    fn on_view(&mut self, entries: BTreeSet<TaskId>) {
        let before = std::mem::replace(&mut self.entries, entries);
        let gone: Vec<TaskId> = self
            .live
            .iter()
            .filter(|(id, live)| {
                !self.entries.contains(id) && (before.contains(id) || live.presumed)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.left(id);
        }
        let here: Vec<TaskId> = self.entries.difference(&before).copied().collect();
        for id in here {
            self.entered(id);
        }
    }

    fn on_standing(&mut self, standing: Standing, now: Now) {
        let id = standing.id;
        match standing.stands {
            Listed::Ended(end) => {
                if let Some((_, known)) = self.ended.get_mut(&id) {
                    // It was ended before by another's word, which counts.
                    *known = end;
                } else {
                    self.end(id, end, Whose::Servers, now);
                }
                return;
            }
            Listed::Suspended => {
                if self.suspend(id) {
                    self.entries.remove(&id);
                }
            }
            Listed::Open => {
                if self.entries.contains(&id) {
                    self.entered(id);
                }
            }
        }
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let before = (live.opened.deadline, live.opened.spent);
        (live.opened.deadline, live.opened.spent) = (standing.deadline, standing.spent);
        if before == (standing.deadline, standing.spent) {
            return;
        }
        self.actions.push_back(Action::Remember(id));
        if before.0 != standing.deadline {
            self.agenda
                .set(Alarm::Deadline(id), When::at(standing.deadline, now));
            self.actions.push_back(Action::News(id, What::Extended));
        }
        if before.1 != standing.spent {
            self.actions.push_back(Action::News(id, What::Spent));
        }
        self.end_if_due(id, now);
    }

    fn on_answered(&mut self, standings: Vec<Standing>, now: Now) {
        let answered: BTreeSet<TaskId> = standings.iter().map(|standing| standing.id).collect();
        for standing in standings {
            self.on_standing(standing, now);
        }
        // Those that the server does not have: nobody can use them any more.
        for id in self.ask.heard() {
            let unknown = !answered.contains(&id);
            if unknown && self.live.contains_key(&id) {
                let end = End {
                    state: TaskState::Revoked,
                    cause: "unknown".into(),
                    at: now.wall,
                    exit_status: None,
                };
                self.end(id, end, Whose::Servers, now);
            }
        }
    }

    fn on_reconciled(&mut self, standings: Vec<Standing>, now: Now) {
        let listed: BTreeSet<TaskId> = standings.iter().map(|standing| standing.id).collect();
        for standing in standings {
            let id = standing.id;
            if self.live.contains_key(&id) {
                self.on_standing(standing, now);
            } else if !self.tell.has(id) {
                // An answer to this node was lost, or its journal was.
                let end = self.ended.get(&id).map_or_else(
                    || End {
                        state: TaskState::ProcessExited,
                        cause: Cause::NodeRestarted.as_str().into(),
                        at: now.wall,
                        exit_status: None,
                    },
                    |(_, end)| end.clone(),
                );
                self.tell.post(id, end);
            }
        }
        let missing = self.live.keys().filter(|id| !listed.contains(id));
        for id in missing.copied().collect::<Vec<_>>() {
            self.ask.post(id, ());
        }
    }

    fn end_by(
        &mut self,
        id: TaskId,
        state: TaskState,
        cause: Cause,
        exit_status: Option<i32>,
        now: Now,
    ) {
        let end = End {
            state,
            cause: cause.as_str().into(),
            at: now.wall,
            exit_status,
        };
        self.end(id, end, Whose::Ours, now);
    }

    /// Ends a live task and all that are part of it. Those go with it for the server too, so that it
    /// is told of the first one only.
    fn end(&mut self, id: TaskId, end: End, whose: Whose, now: Now) {
        if !self.live.contains_key(&id) {
            return;
        }
        let mut family = vec![id];
        let mut next = 0;
        while let Some(above) = family.get(next).copied() {
            family.extend(of(&self.below, above));
            next += 1;
        }
        let gone: Vec<Live> = family.iter().filter_map(|id| self.let_go(*id)).collect();
        if whose == Whose::Ours {
            let ended = Ended {
                id,
                end: end.clone(),
            };
            self.actions.push_back(Action::RememberEnd(ended));
            self.tell.post(id, end.clone());
        } else {
            self.actions.push_back(Action::Forget(id));
        }
        for live in gone {
            let member = live.opened.id;
            let its_end = if member == id {
                end.clone()
            } else {
                self.actions.push_back(Action::Forget(member));
                End {
                    state: TaskState::Revoked,
                    cause: Cause::ParentEnded.as_str().into(),
                    at: end.at,
                    exit_status: None,
                }
            };
            self.ended.insert(member, (live.opened, its_end));
            self.ended_order.push_back(member);
            self.agenda
                .set(Alarm::Drop(member), When::after(self.config.keep, now));
            self.actions.push_back(Action::News(member, What::Ended));
        }
        while self.ended.len() > self.config.keep_most
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.drop_ended(oldest);
        }
    }

    /// Takes from a live task all that makes it one.
    fn let_go(&mut self, id: TaskId) -> Option<Live> {
        let live = self.live.remove(&id)?;
        if live.phase != Phase::Suspended {
            self.actions.push_back(Action::CloseSocket(id));
        }
        self.actions.push_back(Action::Withdraw(id));
        self.agenda.clear(Alarm::Deadline(id));
        self.agenda.clear(Alarm::Impatience(id));
        if let Some(parent) = live.opened.parent {
            self.below.remove(&(parent, id));
        }
        if let Some(process) = live.opened.binding.process() {
            self.of_process.remove(&(process, id));
            if of(&self.of_process, process).is_empty() {
                self.actions.push_back(Action::UnwatchProcess(process));
            }
        }
        if let Some(cgroup) = live.opened.binding.cgroup() {
            self.of_cgroup.remove(&(cgroup, id));
            if of(&self.of_cgroup, cgroup).is_empty() {
                self.actions.push_back(Action::UnwatchCgroup(cgroup));
            }
        }
        if let Binding::Lease(lease, _) = live.opened.binding {
            self.of_lease.remove(&lease);
        }
        Some(live)
    }

    fn drop_ended(&mut self, id: TaskId) {
        self.agenda.clear(Alarm::Drop(id));
        if self.ended.remove(&id).is_some() {
            if self.ended_order.front() == Some(&id) {
                self.ended_order.pop_front();
            }
            self.actions.push_back(Action::Drop(id));
        }
    }
}

/// By whose word a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The node's: the server is to be told.
    Ours,
    /// The server's.
    Servers,
}

/// The tasks of `key`.
fn of<K: Copy + Ord>(index: &BTreeSet<(K, TaskId)>, key: K) -> Vec<TaskId> {
    index
        .range((key, first())..)
        .take_while(|(of, _)| *of == key)
        .map(|(_, id)| *id)
        .collect()
}

/// Before all others.
fn first() -> TaskId {
    TaskId::new(Timestamp::EPOCH, [0; 10])
}
