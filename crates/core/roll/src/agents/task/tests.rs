use proptest::prelude::*;

use muster_model::{Lifecycle, Resource, Scope};

use super::*;
use crate::agents::world::{self, class, id};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);

fn scopes(names: &[&str]) -> Permissions {
    Permissions {
        scopes: names
            .iter()
            .map(|name| Scope::parse(name).unwrap())
            .collect(),
        ..Permissions::default()
    }
}

fn request(n: u8) -> TaskRequest {
    TaskRequest {
        id: TaskId::new(NOW, [n; 10]),
        instance: id("/agent/reader/1"),
        kind: Word::parse("read").unwrap(),
        purpose: None,
        permissions: scopes(&["a", "b"]),
        data_class: DataClass::new(2_u8).unwrap(),
        budget: Some(50),
        deadline: None,
        node: id("/spire/agent/0"),
        bound_to: world::bound_to(),
        level: 1,
    }
}

fn reader() -> AgentClass {
    let mut class = world::active(class("reader"));
    class.spec.permissions = scopes(&["a", "b", "c"]);
    class.spec.data_ceiling = DataClass::new(3_u8).unwrap();
    class.spec.delegation.max_depth = 2;
    class.spec.task_defaults.budget = Some(100);
    class
}

#[test]
fn a_root_task_takes_what_it_does_not_say_from_its_class() {
    let class = reader();
    let task = open(
        &class,
        None,
        TaskRequest {
            budget: None,
            ..request(1)
        },
        NOW,
    )
    .unwrap();
    assert_eq!(
        (task.depth, task.root, task.budget),
        (0, task.id, Some(100))
    );
    assert_eq!(task.deadline, NOW.plus(class.spec.task_defaults.ttl));
}

#[test]
fn each_refusal_has_its_reason() {
    let class = reader();
    let parent = open(&class, None, request(1), NOW).unwrap();
    let refused = |parent: Option<&Task>, class: &AgentClass, change: &dyn Fn(&mut TaskRequest)| {
        let mut wanted = request(2);
        wanted.budget = None;
        change(&mut wanted);
        let error = open(class, parent.map(|task| (task, class)), wanted, NOW).unwrap_err();
        error.reason()
    };
    let above = Some(&parent);
    assert_eq!(
        refused(None, &class, &|r| r.permissions = scopes(&["z"])),
        "SCOPE_NOT_ALLOWED"
    );
    assert_eq!(
        refused(above, &class, &|r| r.permissions = scopes(&["c"])),
        "SCOPE_NOT_ALLOWED"
    );
    assert_eq!(
        refused(None, &class, &|r| r.data_class = DataClass::MAX),
        "DATA_CLASS_NOT_ALLOWED"
    );
    assert_eq!(
        refused(above, &class, &|r| r.data_class =
            DataClass::new(3_u8).unwrap()),
        "DATA_CLASS_NOT_ALLOWED"
    );
    assert_eq!(
        refused(None, &class, &|r| r.deadline = Some(NOW)),
        "DEADLINE_PASSED"
    );
    assert_eq!(
        refused(above, &class, &|r| r.deadline =
            Some(parent.deadline.plus(Duration::from_secs(1)))),
        "DEADLINE_TOO_LATE"
    );
    assert_eq!(
        refused(None, &class, &|r| r.budget = Some(101)),
        "BUDGET_NOT_ALLOWED"
    );
    assert_eq!(
        refused(above, &class, &|r| r.budget = Some(51)),
        "BUDGET_NOT_ALLOWED"
    );
    assert_eq!(refused(above, &class, &|r| r.id = parent.id), "TASK_CYCLE");
    let resource = Resource::parse("https://api/").unwrap();
    let asks = |r: &mut TaskRequest| r.permissions.resources = [resource.clone()].into();
    assert_eq!(refused(None, &class, &asks), "RESOURCE_NOT_ALLOWED");
    let deep = Task {
        depth: 2,
        ..parent.clone()
    };
    assert_eq!(refused(Some(&deep), &class, &|_| {}), "TOO_DEEP");
    let done = Task {
        state: TaskState::Completed,
        ..parent.clone()
    };
    assert_eq!(refused(Some(&done), &class, &|_| {}), "PARENT_NOT_OPEN");
    let mut paused = class.clone();
    paused.standing.lifecycle = Lifecycle::Suspended;
    assert_eq!(refused(None, &paused, &|_| {}), "CLASS_NOT_ACTIVE");
}

#[test]
fn a_credential_ends_with_the_nearest_bound() {
    let at = |seconds| Some(NOW.plus(Duration::from_secs(seconds)));
    let all = Limits {
        requested: Some(Duration::from_mins(1)),
        class_max: Duration::from_mins(1),
        task_deadline: at(60),
        parent_deadline: at(60),
        subject_token: at(60),
        svid: at(60),
    };
    let check = |limits: Limits, seconds, bound| {
        assert_eq!(expiry(&limits, NOW), (at(seconds).unwrap(), bound));
    };
    check(all, 60, Bound::Class);
    check(
        Limits {
            requested: Some(Duration::from_secs(9)),
            ..all
        },
        9,
        Bound::Requested,
    );
    check(
        Limits {
            task_deadline: at(8),
            ..all
        },
        8,
        Bound::Task,
    );
    check(
        Limits {
            parent_deadline: at(7),
            ..all
        },
        7,
        Bound::Parent,
    );
    check(
        Limits {
            subject_token: at(6),
            ..all
        },
        6,
        Bound::SubjectToken,
    );
    check(Limits { svid: at(5), ..all }, 5, Bound::Svid);
}

fn some_permissions() -> impl Strategy<Value = Permissions> {
    prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c", "d"]), 0..4)
        .prop_map(|names| scopes(&names.into_iter().collect::<Vec<_>>()))
}

prop_compose! {
    fn some_request()(
        n in 1..=u8::MAX,
        permissions in some_permissions(),
        data in 0..=4_u8,
        budget in prop::option::of(0..120_u64),
        ends in prop::option::of(-10..5000_i64),
    ) -> TaskRequest {
        TaskRequest {
            permissions,
            data_class: DataClass::new(data).unwrap(),
            budget,
            deadline: ends.map(|s| Timestamp::from_unix_seconds(NOW.unix_seconds() + s)),
            ..request(n)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Whatever is asked for: what is opened is within its class, and narrower than all above it.
    #[test]
    fn a_child_is_narrower_in_everything(
        requests in prop::collection::vec((some_request(), 0..3_u64), 1..8),
        most in 0..4_u8,
    ) {
        let mut class = reader();
        class.spec.delegation.max_depth = most;
        let mut chain: Vec<Task> = Vec::new();
        let mut now = NOW;
        for (wanted, spent) in requests {
            now = now.plus(Duration::from_secs(1));
            let parent = chain.last_mut().map(|task| {
                task.spent = task.budget.map_or(spent, |budget| spent.min(budget));
                &*task
            });
            let Ok(task) = open(&class, parent.map(|task| (task, &class)), wanted, now) else {
                continue;
            };
            let spec = &class.spec;
            prop_assert!(task.permissions.scopes.is_subset(&spec.permissions.scopes));
            prop_assert!(task.data_class <= spec.data_ceiling && task.depth <= most);
            prop_assert!(task.deadline > now && task.deadline <= now.plus(spec.task_defaults.max_ttl));
            prop_assert!(task.deadline <= spec.valid_until && task.budget <= Some(100) && task.budget.is_some());
            for above in &chain {
                prop_assert!(task.permissions.scopes.is_subset(&above.permissions.scopes));
                prop_assert!(task.permissions.resources.is_subset(&above.permissions.resources));
                prop_assert!(task.data_class <= above.data_class);
                prop_assert!(task.deadline <= above.deadline);
                prop_assert!(task.depth > above.depth && task.root == above.root);
                prop_assert!(task.budget <= above.budget.map(|most| most - above.spent));
            }
            chain.push(task);
        }
    }
}
