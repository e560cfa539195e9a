//! Trees of tasks on two nodes, to which anything happens at random.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    Cause, DataClass, Facts, Lifecycle, Permissions, Scope, SelectorSet, SpiffeId, Task, TaskId,
    TaskState, Timestamp, Word,
};
use proptest::prelude::*;

use super::{
    Asked, Bounds, Due, End, Ends, Patience, TaskRequest, admit, due, entry, extend, follow, spend,
};
use crate::agents::lifecycle::TaskStep;
use crate::agents::{AgentChange, world};
use crate::world::{active, entry as some_entry, id, node, roll, selectors, step};
use crate::{Change, NodeView, Roll};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);
const BOUNDS: Bounds = Bounds {
    per_node: 12,
    per_class: 20,
};
const PATIENCE: Patience = Patience {
    keep_ended: Duration::from_hours(1),
    most_ended: 10,
};

/// Something that happens; tasks are named by their place among all that were opened.
#[derive(Clone, Debug)]
enum Happening {
    Open {
        node: usize,
        parent: Option<usize>,
        in_it: bool,
        scopes: Vec<&'static str>,
        data: u8,
        budget: Option<u64>,
        lasts: Option<u64>,
    },
    Extend(usize, u64),
    Spend(usize, u64),
    End(Vec<(usize, TaskStep)>),
    Class(Lifecycle),
    Node(usize, i64),
    Time(u64),
}

fn some_happening() -> impl Strategy<Value = Happening> {
    let scopes = prop::sample::subsequence(vec!["a", "b", "c", "z"], 0..3);
    let steps = prop::sample::select(vec![
        TaskStep::Complete,
        TaskStep::Fail,
        TaskStep::Exit,
        TaskStep::LoseParent,
    ]);
    let lifecycle = prop::sample::select(vec![Lifecycle::Active, Lifecycle::Suspended]);
    prop_oneof![
        10 => (
            0..2_usize,
            prop::option::weighted(0.7, 0..40_usize),
            any::<bool>(),
            scopes,
            0..4_u8,
            prop::option::of(0..60_u64),
            prop::option::of(1..3000_u64),
        ).prop_map(|(node, parent, in_it, scopes, data, budget, lasts)| {
            Happening::Open { node, parent, in_it, scopes, data, budget, lasts }
        }),
        2 => (0..40_usize, 0..4000_u64).prop_map(|(n, lasts)| Happening::Extend(n, lasts)),
        3 => (0..40_usize, 0..30_u64).prop_map(|(n, amount)| Happening::Spend(n, amount)),
        3 => prop::collection::vec((0..40_usize, steps), 1..4).prop_map(Happening::End),
        1 => lifecycle.prop_map(Happening::Class),
        1 => (0..2_usize, -100..5000_i64).prop_map(|(n, until)| Happening::Node(n, until)),
        2 => (1..900_u64).prop_map(Happening::Time),
    ]
}

struct World {
    roll: Roll,
    now: Timestamp,
    views: Vec<NodeView>,
    tasks: Vec<TaskId>,
}

fn node_id(n: usize) -> SpiffeId {
    id(&format!("/spire/agent/{n}"))
}

fn agent_id(n: usize) -> SpiffeId {
    id(&format!("/agent/reader/{n}"))
}

impl World {
    fn new() -> Self {
        let mut roll = roll();
        let mut class = world::active(world::class("reader"));
        class.spec.permissions = permissions(&["a", "b", "c"]);
        class.spec.delegation.max_depth = 3;
        class.spec.task_defaults.budget = Some(50);
        let mut rows = vec![Change::Agent(AgentChange::PutClass(Arc::new(class)))];
        for n in 0..2 {
            let mut there = node(&format!("/spire/agent/{n}"), &[]);
            there.standing = active("1", NOW.unix_seconds() + 100_000);
            rows.push(Change::PutNode(Arc::new(there)));
            let agent = some_entry(&format!("e{n}"), &node_id(n), &agent_id(n), &["unix:uid:1"]);
            rows.push(Change::PutEntry(Arc::new(agent)));
        }
        step(&mut roll, &rows);
        let views = (0..2).map(|n| NodeView::of(&roll, &node_id(n))).collect();
        Self {
            roll,
            now: NOW,
            views,
            tasks: Vec::new(),
        }
    }

    /// As the writer does it: with what follows, in one step.
    fn write(&mut self, mut changes: Vec<Change>) {
        let follows = follow(&self.roll, &changes, self.now);
        changes.extend(follows.into_iter().map(put));
        let changes = step(&mut self.roll, &changes);
        for view in &mut self.views {
            view.update(&self.roll, &changes);
        }
    }

    fn find(&self, n: usize) -> Option<Arc<Task>> {
        let id = self.tasks.get(n % self.tasks.len().max(1))?;
        self.roll.agents().task(*id).cloned()
    }

    fn happen(&mut self, happening: Happening) {
        let agents = self.roll.agents().clone();
        match happening {
            Happening::Open {
                node,
                parent,
                in_it,
                scopes,
                data,
                budget,
                lasts,
            } => {
                let parent = parent.and_then(|n| self.find(n));
                let count = u8::try_from(self.tasks.len()).unwrap();
                let request = TaskRequest {
                    id: TaskId::new(self.now, [count; 10]),
                    instance: agent_id(node),
                    kind: Word::parse("read").unwrap(),
                    purpose: None,
                    permissions: permissions(&scopes),
                    data_class: DataClass::new(data).unwrap(),
                    budget,
                    deadline: lasts.map(|lasts| self.now.plus(Duration::from_secs(lasts))),
                    node: node_id(node),
                    bound_to: world::bound_to(),
                    level: 1,
                };
                let attested: SelectorSet = match &parent {
                    Some(task) if in_it => selectors(&[&format!("muster:task:{}", task.id)]),
                    _ => selectors(&["unix:uid:1"]),
                };
                let asked = Asked {
                    request,
                    facts: Facts {
                        selectors: attested,
                        process: None,
                    },
                    parent: parent.as_ref().filter(|_| !in_it).map(|task| task.id),
                };
                if let Ok(admitted) = admit(&self.roll, asked, &BOUNDS, self.now) {
                    let task = admitted.task;
                    if let Some(parent) = &parent {
                        assert!(parent.is_open() && parent.node == task.node);
                        assert_eq!(task.parent, Some(parent.id));
                    }
                    self.tasks.push(task.id);
                    self.write(vec![put(task)]);
                }
            }
            Happening::Extend(n, lasts) => {
                let Some(task) = self.find(n) else { return };
                let until = self.now.plus(Duration::from_secs(lasts));
                if let Ok(rows) = extend(&agents, &task, until, self.now) {
                    self.write(rows.into_iter().map(put).collect());
                }
            }
            Happening::Spend(n, amount) => {
                let Some(task) = self.find(n) else { return };
                if let Ok(spending) = spend(&agents, &task, amount, self.now) {
                    self.write(spending.rows.into_iter().map(put).collect());
                }
            }
            Happening::End(all) => {
                let mut ends = Ends::default();
                for (n, step) in all {
                    let Some(task) = self.find(n) else { return };
                    ends.end(&task, &End::by_server(step, Cause::Operator, self.now));
                }
                ends.cascade(&agents, self.now);
                self.write(ends.into_rows().map(put).collect());
            }
            Happening::Class(lifecycle) => {
                let mut class = (**agents.class("reader").unwrap()).clone();
                class.standing.lifecycle = lifecycle;
                self.write(vec![Change::Agent(AgentChange::PutClass(Arc::new(class)))]);
            }
            Happening::Node(n, until) => {
                let mut there = (**self.roll.node(&node_id(n)).unwrap()).clone();
                there.standing = active("1", self.now.unix_seconds() + until);
                self.write(vec![Change::PutNode(Arc::new(there))]);
            }
            Happening::Time(seconds) => {
                self.now = self.now.plus(Duration::from_secs(seconds));
                let found = due(&self.roll, &PATIENCE, self.now, 100);
                let rows = found.into_iter().map(|due| match due {
                    Due::Ended(row) | Due::Suspended(row) | Due::Resumed(row) => put(row),
                    Due::Forgotten(id) => Change::Agent(AgentChange::DeleteTask(id)),
                });
                self.write(rows.collect());
            }
        }
    }

    fn check(&self) {
        let agents = self.roll.agents();
        let class = agents.class("reader").unwrap();
        let all: Vec<&Arc<Task>> = self
            .tasks
            .iter()
            .filter_map(|id| agents.task(*id))
            .collect();
        for task in &all {
            assert!(
                !task.is_live() || class.is_active(),
                "{} outlived its class",
                task.id
            );
            assert_eq!(task.is_live(), task.ended_at.is_none());
            let Some(above) = task.parent.and_then(|id| agents.task(id)) else {
                // What it is part of is forgotten no sooner than it ended, and it ended with it.
                assert!(task.parent.is_none() || !task.is_live());
                continue;
            };
            assert!(
                !task.is_live() || above.is_live(),
                "{} is below an end",
                task.id
            );
            assert!(task.permissions.scopes.is_subset(&above.permissions.scopes));
            assert!(task.data_class <= above.data_class);
            assert!(!task.is_live() || task.deadline <= above.deadline);
            assert!(task.depth == above.depth + 1 && task.root == above.root);
            assert!(task.budget <= above.budget && task.budget.is_some());
            assert!(task.spent <= above.spent && task.node == above.node);
            assert!(
                !task.is_live()
                    || task.spent < task.budget.unwrap_or(u64::MAX)
                    || task.budget == Some(0)
            );
        }
        let live = all.iter().filter(|task| task.is_live());
        assert_eq!(agents.task_counts(), (all.len(), live.clone().count()));
        assert_eq!(agents.live_count_of("reader"), live.count());
        for (n, view) in self.views.iter().enumerate() {
            assert_eq!(*view, NodeView::of(&self.roll, &node_id(n)));
            let mut seen: Vec<_> = view
                .entries()
                .filter(|entry| TaskId::in_path(&entry.spiffe_id).is_some())
                .map(|entry| (**entry).clone())
                .collect();
            seen.sort_by(|one, other| one.id.cmp(&other.id));
            let open = all.iter().filter(|task| {
                task.node == node_id(n) && task.state == TaskState::Open && class.is_active()
            });
            let mut expected: Vec<_> = open.filter_map(|task| entry(task)).collect();
            expected.sort_by(|one, other| one.id.cmp(&other.id));
            assert_eq!(seen, expected);
            assert!(agents.live_count_on(&node_id(n)) <= BOUNDS.per_node);
        }
    }
}

fn put(task: Task) -> Change {
    Change::Agent(AgentChange::PutTask(Arc::new(task)))
}

fn permissions(names: &[&str]) -> Permissions {
    Permissions {
        scopes: names
            .iter()
            .map(|name| Scope::parse(name).unwrap())
            .collect(),
        ..Permissions::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever happens: a child is narrower than what is above it, nothing is open below what has
    /// ended, and a node sees exactly its open tasks.
    #[test]
    fn a_tree_keeps_its_order(happenings in prop::collection::vec(some_happening(), 1..60)) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening);
            world.check();
        }
        // What is due is done once: asked again when it is written, nothing is found.
        let now = world.now;
        world.happen(Happening::Time(1));
        prop_assert!(due(&world.roll, &PATIENCE, now, 1).is_empty());
    }
}

#[test]
fn a_silent_node_pauses_its_tasks_and_wakes_them() {
    let mut world = World::new();
    let open = || Happening::Open {
        node: 0,
        parent: None,
        in_it: false,
        scopes: vec![],
        data: 0,
        budget: None,
        lasts: Some(3000),
    };
    world.happen(open());
    let state = |world: &World| world.find(0).unwrap().state;
    world.happen(Happening::Node(0, 5));
    world.happen(Happening::Time(10));
    assert_eq!(state(&world), TaskState::Suspended);
    assert_eq!(world.find(0).unwrap().cause, Some(Cause::NodeSilent.into()));
    world.check();
    world.happen(Happening::Node(0, 5000));
    world.happen(Happening::Time(1));
    assert_eq!(state(&world), TaskState::Open);
    world.check();
    // A pause does not stop the clock.
    world.happen(Happening::Node(0, 1));
    world.happen(Happening::Time(2));
    world.happen(Happening::Time(3000));
    assert_eq!(state(&world), TaskState::Expired);
    // And what ended is forgotten in the end.
    world.happen(Happening::Time(3601));
    assert!(world.find(0).is_none());
}
