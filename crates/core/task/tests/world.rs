//! The machine in a world where everything happens in any order: callers, processes, streams, the
//! server, its view of the node, the clocks, and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_model::{Now, TaskId, TaskState, Timestamp};
use muster_task::{
    Action, Binding, Cause, Config, End, Ended, Event, LeaseId, Listed, Opened, Past, Phase,
    ProcessId, Seen, Standing, Tasks, What,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    /// Opens a task: below one of the others, perhaps; bound to a process, a group or a stream.
    Open {
        below: Option<u8>,
        binding: u8,
        ttl: u16,
    },
    Enter(u8),
    Leave(u8),
    /// A new view, with half of the entries.
    Replace(u64),
    Listen(u8, bool),
    Exit(u8),
    Empty(u8),
    Release(u8),
    Complete(u8),
    Fail(u8),
    Told(bool),
    Answer(Option<u8>),
    ServerEnds(u8),
    Extend(u8, u16),
    Reconcile(u64),
    Link,
    Wait(u16),
    Step(i16),
    Restart(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<Option<u8>>(), any::<u8>(), 0_u16..400).prop_map(|(below, binding, ttl)| Op::Open { below, binding, ttl }),
        4 => any::<u8>().prop_map(Op::Enter),
        1 => any::<u8>().prop_map(Op::Leave),
        1 => any::<u64>().prop_map(Op::Replace),
        4 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(id, well)| Op::Listen(id, well)),
        1 => any::<u8>().prop_map(Op::Exit),
        1 => any::<u8>().prop_map(Op::Empty),
        1 => any::<u8>().prop_map(Op::Release),
        1 => any::<u8>().prop_map(Op::Complete),
        1 => any::<u8>().prop_map(Op::Fail),
        2 => any::<bool>().prop_map(Op::Told),
        2 => any::<Option<u8>>().prop_map(Op::Answer),
        1 => any::<u8>().prop_map(Op::ServerEnds),
        1 => (any::<u8>(), 0_u16..400).prop_map(|(id, ttl)| Op::Extend(id, ttl)),
        1 => any::<u64>().prop_map(Op::Reconcile),
        1 => Just(Op::Link),
        3 => (0_u16..200).prop_map(Op::Wait),
        1 => (-300_i16..300).prop_map(Op::Step),
        1 => any::<u64>().prop_map(Op::Restart),
    ]
}

/// What the driver would have done and what the rest of the world knows.
struct World {
    machine: Tasks,
    now: Now,
    next: u8,
    tasks: Vec<Opened>,
    sockets: BTreeSet<TaskId>,
    journal: BTreeMap<TaskId, Option<End>>,
    watched: BTreeSet<ProcessId>,
    groups: BTreeSet<u64>,
    /// Sockets that were asked for and of which nothing was said yet.
    pending: BTreeSet<TaskId>,
    telling: Option<Vec<Ended>>,
    asking: Option<Vec<TaskId>>,
    over: BTreeSet<TaskId>,
    /// Ends that are the node's own, and those that the server has heard.
    own_ends: BTreeSet<TaskId>,
    heard: BTreeSet<TaskId>,
    in_force: BTreeSet<TaskId>,
}

fn process(number: u8) -> ProcessId {
    ProcessId {
        pid: 100 + u32::from(number % 4),
        start_time: u64::from(number % 3),
    }
}

impl World {
    fn new() -> Self {
        Self {
            machine: Tasks::new(Config {
                keep_most: 8,
                ..Config::default()
            }),
            now: Now {
                wall: Timestamp::from_unix_seconds(1_000_000),
                mono: Duration::from_secs(1_000),
            },
            next: 0,
            tasks: Vec::new(),
            sockets: BTreeSet::new(),
            journal: BTreeMap::new(),
            watched: BTreeSet::new(),
            groups: BTreeSet::new(),
            pending: BTreeSet::new(),
            telling: None,
            asking: None,
            over: BTreeSet::new(),
            own_ends: BTreeSet::new(),
            heard: BTreeSet::new(),
            in_force: BTreeSet::new(),
        }
    }

    fn pick(&self, number: u8) -> Option<TaskId> {
        let count = self.tasks.len();
        (count > 0).then(|| self.tasks[usize::from(number) % count].id)
    }

    fn hear(&mut self, event: Event) {
        self.machine.handle(event, self.now);
        while let Some(action) = self.machine.poll_action() {
            self.perform(action);
            self.check_sockets();
        }
        assert!(self.machine.poll_action().is_none());
        self.check();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Remember(id) => {
                assert!(!matches!(self.journal.get(&id), Some(Some(_))), "{id}");
                self.journal.insert(id, None);
            }
            Action::RememberEnd(ended) => {
                self.own_ends.insert(ended.id);
                self.journal.insert(ended.id, Some(ended.end));
            }
            Action::Forget(id) => {
                self.journal.remove(&id);
            }
            Action::OpenSocket(id) => {
                assert_eq!(self.journal.get(&id), Some(&None), "remembered first");
                assert!(!self.over.contains(&id));
                assert!(self.sockets.insert(id), "opened once");
                self.pending.insert(id);
            }
            Action::CloseSocket(id) => {
                self.sockets.remove(&id);
                self.pending.remove(&id);
                self.in_force.remove(&id);
            }
            Action::Withdraw(id) => assert!(!self.sockets.contains(&id), "closed first"),
            Action::WatchProcess(process) => assert!(self.watched.insert(process)),
            Action::UnwatchProcess(process) => assert!(self.watched.remove(&process)),
            Action::WatchCgroup(group) => assert!(self.groups.insert(group)),
            Action::UnwatchCgroup(group) => assert!(self.groups.remove(&group)),
            Action::Tell(ended) => assert!(self.telling.replace(ended).is_none(), "one at a time"),
            Action::Ask(ids) => assert!(self.asking.replace(ids).is_none(), "one at a time"),
            Action::News(id, What::Ended) => {
                assert!(self.over.insert(id), "ends once");
            }
            Action::News(id, what) => {
                assert!(!self.over.contains(&id), "{what:?} after its end");
                if matches!(what, What::Opened | What::Resumed) {
                    assert!(self.sockets.contains(&id) && !self.pending.contains(&id));
                    self.in_force.insert(id);
                }
            }
            Action::Drop(id) => assert!(self.over.contains(&id)),
        }
    }

    /// No socket is open without a live task; a kill may come between two actions.
    fn check_sockets(&self) {
        for id in &self.sockets {
            assert_eq!(self.journal.get(id), Some(&None), "{id} has a socket");
        }
    }

    fn check(&self) {
        let live: BTreeMap<TaskId, (&Opened, Phase)> = self
            .machine
            .live()
            .map(|(opened, phase)| (opened.id, (opened, phase)))
            .collect();
        for (id, (opened, phase)) in &live {
            assert!(!self.over.contains(id), "{id} came back");
            if let Some(parent) = opened.parent {
                assert!(live.contains_key(&parent), "{id} outlives its parent");
            }
            // The end ahead.
            let back = self.machine.poll_timeout().expect("an end ahead");
            let due = opened.deadline.since(self.now.wall);
            assert!(back <= self.now.mono + due, "nobody comes back for {id}");
            assert_eq!(*phase == Phase::Open, self.in_force.contains(id));
            assert_eq!(*phase == Phase::Suspended, !self.sockets.contains(id));
            if let Some(process) = opened.binding.process() {
                assert!(self.watched.contains(&process));
            }
            if let Some(group) = opened.binding.cgroup() {
                assert!(self.groups.contains(&group));
            }
            assert_eq!(self.journal.get(id), Some(&None));
            assert!(matches!(self.machine.see(*id), Some(Seen::Live(..))));
        }
        let bound = |process: &ProcessId| {
            let mut of = live.values();
            of.any(|(opened, _)| opened.binding.process() == Some(*process))
        };
        assert!(
            self.watched.iter().all(bound),
            "nobody is watched for nothing"
        );
        assert!(self.sockets.iter().all(|id| live.contains_key(id)));
        // Every end that is the node's own is in the journal until the server has heard of it.
        for id in self.own_ends.difference(&self.heard) {
            assert!(
                matches!(self.journal.get(id), Some(Some(_))),
                "{id} is lost"
            );
        }
        assert!(self.machine.ended().count() <= 8);
    }

    fn standing(&self, id: TaskId, stands: Listed) -> Standing {
        let opened = self.tasks.iter().find(|task| task.id == id).unwrap();
        Standing {
            id,
            deadline: opened.deadline,
            spent: 0,
            stands,
        }
    }

    fn ended(&self) -> Listed {
        Listed::Ended(End {
            state: TaskState::Revoked,
            cause: "operator".into(),
            at: self.now.wall,
            exit_status: None,
        })
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Open {
                below,
                binding,
                ttl,
            } => {
                self.next = self.next.wrapping_add(1);
                let id = TaskId::new(
                    Timestamp::from_unix_millis(i64::from(self.next)),
                    [self.tasks.len().to_le_bytes()[0]; 10],
                );
                if self.tasks.iter().any(|task| task.id == id) {
                    return;
                }
                let opened = Opened {
                    id,
                    parent: below.and_then(|number| self.pick(number)),
                    deadline: self.now.wall.plus(Duration::from_secs(ttl.into())),
                    spent: 0,
                    opener: process(binding),
                    binding: match binding % 3 {
                        0 => Binding::Process(process(binding)),
                        1 => Binding::Cgroup(u64::from(binding % 4)),
                        _ => Binding::Lease(
                            LeaseId(id.made_at().unix_millis().unsigned_abs()),
                            process(binding),
                        ),
                    },
                };
                self.tasks.push(opened.clone());
                self.hear(Event::Opened(opened));
            }
            Op::Enter(number) => self.about(number, Event::Entered),
            Op::Leave(number) => self.about(number, Event::Left),
            Op::Replace(which) => {
                let entries = self.half(which);
                self.hear(Event::View(entries.into_iter().collect()));
            }
            Op::Listen(number, well) => {
                let Some(id) = self.pick(number) else { return };
                // An answer that comes late is about a socket that is there, or of no use.
                if self.pending.remove(&id) && !well {
                    self.sockets.remove(&id);
                    // The driver has nothing to close then.
                    self.sockets.insert(id);
                }
                self.hear(if well {
                    Event::Listening(id)
                } else {
                    Event::NotListening(id)
                });
            }
            Op::Exit(number) => self.hear(Event::ProcessExited(process(number), Some(0))),
            Op::Empty(number) => self.hear(Event::CgroupEmptied(u64::from(number % 4))),
            Op::Release(number) => self.hear(Event::LeaseEnded(LeaseId(number.into()))),
            Op::Complete(number) => self.about(number, Event::Completed),
            Op::Fail(number) => self.about(number, |id| Event::Failed(id, Cause::OwnWord)),
            Op::Told(well) => {
                let Some(told) = self.telling.take() else {
                    return self.hear(Event::NotTold);
                };
                if well {
                    self.heard.extend(told.iter().map(|ended| ended.id));
                    self.hear(Event::Told);
                } else {
                    self.hear(Event::NotTold);
                }
            }
            Op::Answer(number) => {
                let Some(asked) = self.asking.take() else {
                    return self.hear(Event::NotAnswered);
                };
                let Some(number) = number else {
                    return self.hear(Event::NotAnswered);
                };
                let known = asked
                    .into_iter()
                    .filter(|id| id.made_at().unix_millis() % 5 != 0);
                let standings = known
                    .map(|id| {
                        let stands = match number % 3 {
                            0 => Listed::Open,
                            1 => Listed::Suspended,
                            _ => self.ended(),
                        };
                        self.standing(id, stands)
                    })
                    .collect();
                self.hear(Event::Answered(standings));
            }
            Op::ServerEnds(number) => {
                let Some(id) = self.pick(number) else { return };
                let standing = self.standing(id, self.ended());
                self.hear(Event::Stands(vec![standing]));
            }
            Op::Extend(number, ttl) => {
                let Some(id) = self.pick(number) else { return };
                let deadline = self.now.wall.plus(Duration::from_secs(ttl.into()));
                for task in &mut self.tasks {
                    if task.id == id {
                        task.deadline = deadline;
                    }
                }
                let standing = self.standing(id, Listed::Open);
                self.hear(Event::Stands(vec![standing]));
            }
            Op::Reconcile(which) => {
                let listed = self.half(which);
                let listed = listed.into_iter().map(|id| self.standing(id, Listed::Open));
                let listed = listed.collect();
                self.hear(Event::Reconciled(listed));
            }
            Op::Link => self.hear(Event::LinkUp),
            Op::Wait(seconds) => {
                self.now = self.now.plus(Duration::from_secs(seconds.into()));
                self.hear(Event::Tick);
                assert!(
                    self.machine
                        .live()
                        .all(|(task, _)| task.deadline > self.now.wall)
                );
            }
            Op::Step(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs().into());
                self.now.wall = if seconds < 0 {
                    self.now.wall.minus(by)
                } else {
                    self.now.wall.plus(by)
                };
                self.hear(Event::Tick);
            }
            Op::Restart(which) => self.restart(which),
        }
    }

    fn about(&mut self, number: u8, event: impl FnOnce(TaskId) -> Event) {
        if let Some(id) = self.pick(number) {
            self.hear(event(id));
        }
    }

    fn half(&self, which: u64) -> Vec<TaskId> {
        let chosen = |number: usize| which >> (number % 64) & 1 == 1;
        let all = self.tasks.iter().enumerate();
        all.filter(|(number, _)| chosen(*number))
            .map(|(_, task)| task.id)
            .collect()
    }

    /// The process is killed: what is left is the journal and the sockets' files, which go.
    fn restart(&mut self, which: u64) {
        self.machine = Tasks::new(Config {
            keep_most: 8,
            ..Config::default()
        });
        self.sockets.clear();
        self.pending.clear();
        self.in_force.clear();
        self.watched.clear();
        self.groups.clear();
        (self.telling, self.asking) = (None, None);
        let lives: BTreeSet<TaskId> = self.half(which).into_iter().collect();
        let journal = self.journal.clone();
        for (id, end) in journal {
            let event = match end {
                Some(end) => Event::RecalledEnd(Ended { id, end }),
                None => {
                    let opened = self
                        .tasks
                        .iter()
                        .find(|task| task.id == id)
                        .unwrap()
                        .clone();
                    let past = if lives.contains(&id) {
                        Past::Lives
                    } else {
                        Past::Gone
                    };
                    Event::Recalled(opened, past)
                }
            };
            self.machine.handle(event, self.now);
            while let Some(action) = self.machine.poll_action() {
                self.perform(action);
                self.check_sockets();
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
    }
}

fn id(number: u8) -> TaskId {
    TaskId::new(Timestamp::from_unix_millis(number.into()), [0; 10])
}

/// In force with everything that it takes.
fn open(world: &mut World, number: u8, parent: Option<u8>, binding: Binding) {
    let opened = Opened {
        id: id(number),
        parent: parent.map(id),
        deadline: world.now.wall.plus(Duration::from_mins(5)),
        spent: 0,
        opener: process(0),
        binding,
    };
    world.tasks.push(opened.clone());
    // The view may be faster than the answer.
    world.hear(Event::Entered(id(number)));
    world.hear(Event::Opened(opened));
    world.pending.remove(&id(number));
    world.hear(Event::Listening(id(number)));
    assert!(world.in_force.contains(&id(number)));
}

fn end_of(world: &World, number: u8) -> (TaskState, String) {
    match world.machine.see(id(number)) {
        Some(Seen::Ended(_, end)) => (end.state, end.cause.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_family_ends_with_its_head_and_the_server_hears_of_that_one() {
    let mut world = World::new();
    open(&mut world, 1, None, Binding::Process(process(1)));
    open(&mut world, 2, Some(1), Binding::Process(process(2)));
    open(
        &mut world,
        3,
        Some(2),
        Binding::Lease(LeaseId(7), process(3)),
    );
    world.hear(Event::ProcessExited(process(1), Some(256)));
    assert_eq!(world.machine.live().count(), 0);
    assert_eq!(
        end_of(&world, 1),
        (TaskState::ProcessExited, "process_exited".into())
    );
    assert_eq!(
        end_of(&world, 3),
        (TaskState::Revoked, "parent_ended".into())
    );
    let told = world.telling.take().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].id, told[0].end.exit_status), (id(1), Some(256)));
    world.hear(Event::NotTold);
    assert!(world.telling.is_none(), "not at once");
    world.hear(Event::LinkUp);
    assert_eq!(world.telling.take(), Some(told), "until it is heard");
    world.heard.insert(id(1));
    world.hear(Event::Told);
    assert!(world.journal.is_empty());
}

#[test]
fn a_task_that_is_suspended_resumes_with_its_entry() {
    let mut world = World::new();
    open(&mut world, 1, None, Binding::Process(process(1)));
    world.hear(Event::Left(id(1)));
    assert!(world.sockets.is_empty());
    assert_eq!(world.asking.take(), Some(vec![id(1)]));
    let standing = world.standing(id(1), Listed::Suspended);
    world.hear(Event::Answered(vec![standing]));
    assert!(
        world
            .machine
            .live()
            .all(|(_, phase)| phase == Phase::Suspended)
    );
    world.hear(Event::Entered(id(1)));
    world.pending.remove(&id(1));
    world.hear(Event::Listening(id(1)));
    assert!(world.in_force.contains(&id(1)));
}

#[test]
fn what_does_not_come_into_force_fails() {
    let mut world = World::new();
    world.run(Op::Open {
        below: None,
        binding: 0,
        ttl: 300,
    });
    world.run(Op::Wait(9));
    assert_eq!(world.machine.live().count(), 1);
    world.run(Op::Wait(1));
    let ends: Vec<_> = world
        .machine
        .ended()
        .map(|(_, end)| end.cause.to_string())
        .collect();
    assert_eq!(ends, ["not_in_force"]);
}

#[test]
fn a_civil_clock_that_is_set_back_prolongs_nothing() {
    let mut world = World::new();
    open(&mut world, 1, None, Binding::Process(process(1)));
    world.run(Op::Step(-250));
    world.run(Op::Wait(299));
    assert_eq!(world.machine.live().count(), 1);
    world.now = world.now.plus(Duration::from_secs(1));
    world.hear(Event::Tick);
    assert_eq!(
        end_of(&world, 1),
        (TaskState::Expired, "deadline_passed".into())
    );
}

#[test]
fn the_server_s_own_orphans_are_ended() {
    let mut world = World::new();
    open(&mut world, 1, None, Binding::Process(process(1)));
    let stranger = Opened {
        id: id(9),
        ..world.tasks[0].clone()
    };
    world.tasks.push(stranger);
    let listed = [1, 9].map(|number| world.standing(id(number), Listed::Open));
    world.hear(Event::Reconciled(listed.into()));
    let told = world.telling.take().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].id, &*told[0].end.cause), (id(9), "node_restarted"));
}
