//! Decisions: who made them and why; what each guard is for; what is recorded and asked again.

#![expect(
    clippy::unwrap_used,
    reason = "a test may; clippy sees the functions that are marked as tests only"
)]

use muster_cedar::facts::{
    ActsFor, AgentFacts, AgentState, ClassFacts, DelegationFacts, Lifecycle, NodeFacts,
    ParentFacts, Requested, Situation, TaskFacts, TeamFacts, UserFacts, Words,
};
use muster_cedar::{
    Action, Decision, Facts, Limits, Moment, Outcome, PolicySet, Principal, PrincipalFacts, Reason,
    RecordedRequest, Resource, ResourceFacts, Verdict, compare, decide, decide_unsliced, simulate,
};
use muster_model::Timestamp;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_796_000_000);
const LATER: i64 = 1_796_000_001_000;

const SET: &str = r#"
@id("review.open")
permit (
  principal in Muster::AgentClass::"reviewer",
  action in [Muster::Action::"task.open", Muster::Action::"svid.issue"],
  resource in Muster::TaskKind::"code"
)
when { context has task && context.task.risk <= 3 };

@id("team.open")
permit (
  principal in Muster::Team::"all",
  action == Muster::Action::"task.open",
  resource == Muster::TaskKind::"code.review"
);

@id("spawn")
permit (principal, action == Muster::Action::"agent.spawn", resource);

@id("no.night")
forbid (principal, action, resource)
when { context.proof.level == 0 };

@id("overflows")
permit (principal, action == Muster::Action::"task.extend", resource)
when { context.task.budget * 9000000000000000000 > 0 };
"#;

fn words(list: &[&str]) -> Words {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn user(id: &str) -> UserFacts {
    UserFacts {
        id: id.into(),
        clearance: 2,
        ..UserFacts::default()
    }
}

/// A request in good order, to be changed.
struct Case {
    agent: AgentFacts,
    action: Action,
    resource: ResourceFacts,
    situation: Situation,
}

impl Case {
    fn new() -> Self {
        let class = ClassFacts {
            id: "reviewer".into(),
            team: Some(TeamFacts {
                id: "pay".into(),
                above: vec!["all".into()],
            }),
            owner: user("o"),
            sponsor: user("s"),
            lifecycle: Lifecycle::Active,
            risk_tier: 1,
            scopes: words(&["repo:read", "repo:write"]),
            data_ceiling: 2,
            max_depth: 2,
            max_seconds: 600,
            max_budget: 100,
            acts_for: ActsFor::Users,
            valid_until: LATER,
            review_by: LATER,
            ..ClassFacts::default()
        };
        let agent = AgentFacts {
            id: "spiffe://example.org/agent/reviewer/1".into(),
            class,
            node: NodeFacts {
                id: "spiffe://example.org/spire/agent/x".into(),
                ..NodeFacts::default()
            },
            ..AgentFacts::default()
        };
        let mut situation = Situation {
            task: Some(TaskFacts {
                id: "01J".into(),
                kind: "code.review".into(),
                risk: 2,
                data_class: 1,
                seconds_left: 300,
                budget: 50,
                depth: 1,
                ..TaskFacts::default()
            }),
            scopes: words(&["repo:read", "repo:write"]),
            requested: Requested {
                scopes: words(&["repo:read"]),
                data_class: 1,
                seconds: 300,
                budget: 50,
            },
            ..Situation::default()
        };
        situation.proof.level = 2;
        Self {
            agent,
            action: Action::TaskOpen,
            resource: ResourceFacts::TaskKind("code.review".into()),
            situation,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::new();
        change(&mut case);
        case
    }

    fn principal(&self) -> PrincipalFacts {
        PrincipalFacts::Agent(Box::new(self.agent.clone()))
    }

    fn record(&self, id: &str) -> RecordedRequest {
        self.asked(self.principal(), |facts, now| {
            RecordedRequest::of(id, facts, now)
        })
    }

    fn asked<T>(&self, principal: PrincipalFacts, then: impl Fn(&Facts<'_>, &Moment) -> T) -> T {
        let principal = Principal::new(principal).unwrap();
        let resource = Resource::new(self.resource.clone()).unwrap();
        let facts = Facts {
            principal: &principal,
            action: self.action,
            resource: &resource,
            situation: &self.situation,
        };
        then(&facts, &Moment::at(NOW))
    }

    fn decide(&self) -> Decision {
        self.decide_for(self.principal())
    }

    /// Decided both ways, which agree.
    #[track_caller]
    fn decide_for(&self, principal: PrincipalFacts) -> Decision {
        let set = PolicySet::load(SET, &Limits::default()).unwrap();
        self.asked(principal, |facts, now| {
            let decision = decide(&set, facts, now);
            let whole = decide_unsliced(&set, facts, now);
            if decision.reason != Reason::BadFacts {
                assert_eq!(decision, whole);
            }
            decision
        })
    }
}

#[track_caller]
fn check(case: &Case, reason: Reason, policies: &[&str]) {
    let decision = case.decide();
    assert_eq!(
        (decision.reason, decision.policies.as_slice()),
        (
            reason,
            &*policies.iter().map(|&id| id.to_owned()).collect::<Vec<_>>()
        ),
        "{decision:?}"
    );
    assert_eq!(decision.allows(), reason == Reason::Permitted);
}

#[test]
fn every_decision_names_the_policies_that_made_it() {
    check(
        &Case::new(),
        Reason::Permitted,
        &["review.open", "team.open"],
    );
    let risky = |case: &mut Case| {
        if let Some(task) = &mut case.situation.task {
            task.risk = 9;
        }
    };
    check(&Case::with(risky), Reason::Permitted, &["team.open"]);
    let other = Case::with(|case| {
        risky(case);
        case.resource = ResourceFacts::TaskKind("code.write".into());
    });
    check(&other, Reason::NotPermitted, &[]);
    let dark = Case::with(|case| case.situation.proof.level = 0);
    check(&dark, Reason::Forbidden, &["no.night"]);
}

#[test]
fn a_policy_that_cannot_be_evaluated_refuses() {
    let case = Case::with(|case| case.action = Action::TaskExtend);
    let decision = case.decide();
    assert_eq!(decision.reason, Reason::PolicyFailed);
    assert_eq!(decision.verdict, Verdict::Refuse);
    assert_eq!(decision.policies, ["overflows"]);
    assert!(
        decision.failures[0].message.contains("overflow"),
        "{decision:?}"
    );
    // One that has no say does no harm.
    assert!(Case::new().decide().failures.is_empty());
}

/// Each guard, and the one thing that it refuses.
#[test]
fn each_guard_refuses_what_it_is_for() {
    type Change = fn(&mut Case);
    let parent = || ParentFacts {
        id: "01H".into(),
        kind: "code".into(),
        scopes: words(&["repo:read"]),
        data_class: 1,
        seconds_left: 300,
        budget_left: 50,
    };
    let with_parent = Case::with(|case| case.situation.parent = Some(parent()));
    check(
        &with_parent,
        Reason::Permitted,
        &["review.open", "team.open"],
    );
    let cases: [(&str, Change); 24] = [
        ("guard.lifecycle", |c| {
            c.agent.class.lifecycle = Lifecycle::Suspended;
        }),
        ("guard.lifecycle", |c| {
            c.agent.class.lifecycle = Lifecycle::Proposed;
        }),
        ("guard.lifecycle", |c| {
            c.agent.class.valid_until = NOW.unix_millis();
        }),
        ("guard.review", |c| {
            c.agent.class.review_by = NOW.unix_millis();
        }),
        ("guard.state", |c| c.agent.state = AgentState::Quarantined),
        ("guard.state", |c| c.agent.node.banned = true),
        ("guard.ceiling", |c| c.agent.class.scopes = Words::new()),
        ("guard.ceiling", |c| c.situation.scopes = Words::new()),
        ("guard.ceiling", |c| c.agent.class.data_ceiling = 0),
        ("guard.ceiling", |c| c.agent.class.max_seconds = 299),
        ("guard.ceiling", |c| c.agent.class.max_budget = 49),
        ("guard.narrower", |c| {
            change_parent(c, |p| p.scopes = Words::new());
        }),
        ("guard.narrower", |c| change_parent(c, |p| p.data_class = 0)),
        ("guard.narrower", |c| {
            change_parent(c, |p| p.seconds_left = 299);
        }),
        ("guard.narrower", |c| {
            change_parent(c, |p| p.budget_left = 49);
        }),
        ("guard.data", |c| change_task(c, |t| t.data_class = 0)),
        ("guard.deadline", |c| change_task(c, |t| t.seconds_left = 0)),
        ("guard.lifetime", |c| {
            c.action = Action::SvidIssue;
            change_task(c, |t| t.seconds_left = 299);
        }),
        ("guard.budget", |c| change_task(c, |t| t.spent = 51)),
        ("guard.depth", |c| change_task(c, |t| t.depth = 3)),
        ("guard.depth", |c| c.situation.delegation.depth = 3),
        ("guard.delegation", |c| {
            change_subject(c, |_, who| who.suspended = true);
        }),
        ("guard.delegation", |c| {
            change_subject(c, |with, _| with.subject_scopes = Words::new());
        }),
        ("guard.delegation", |c| {
            change_subject(c, |_, _| ());
            c.agent.class.acts_for = ActsFor::Agents;
        }),
    ];
    for (guard, change) in cases {
        let mut case = Case::new();
        case.situation.parent = Some(parent());
        change(&mut case);
        check(&case, Reason::Guarded, &[guard]);
    }
    // How long tasks may last is nothing to an identity outside of any.
    let outside = Case::with(|case| {
        case.action = Action::SvidIssue;
        case.situation.task = None;
        case.agent.class.max_seconds = 299;
    });
    assert_ne!(outside.decide().reason, Reason::Guarded);
    let mut delegated = Case::new();
    change_subject(&mut delegated, |_, _| ());
    check(&delegated, Reason::Permitted, &["review.open", "team.open"]);
}

fn change_task(case: &mut Case, change: fn(&mut TaskFacts)) {
    change(case.situation.task.as_mut().unwrap());
}

fn change_parent(case: &mut Case, change: fn(&mut ParentFacts)) {
    change(case.situation.parent.as_mut().unwrap());
}

fn change_subject(case: &mut Case, change: fn(&mut DelegationFacts, &mut UserFacts)) {
    let mut subject = user("https://idp.example|ann");
    let delegation = &mut case.situation.delegation;
    delegation.subject_scopes = words(&["repo:read"]);
    change(delegation, &mut subject);
    delegation.subject = Some(subject);
}

#[test]
fn guards_of_starting_an_agent() {
    type Change = fn(&mut ClassFacts);
    let spawn = |change: Change| {
        Case::with(|case| {
            let mut class = ClassFacts {
                id: "worker".into(),
                ..case.agent.class.clone()
            };
            change(&mut class);
            case.action = Action::AgentSpawn;
            case.resource = ResourceFacts::AgentClass(Box::new(class));
        })
    };
    check(&spawn(|_| ()), Reason::Permitted, &["spawn"]);
    let cases: [(&str, Change); 6] = [
        ("guard.spawn.class", |c| c.lifecycle = Lifecycle::Retired),
        ("guard.spawn.class", |c| c.valid_until = NOW.unix_millis()),
        ("guard.spawn.class", |c| c.review_by = 0),
        ("guard.spawn.narrower", |c| c.data_ceiling = 3),
        ("guard.spawn.narrower", |c| c.risk_tier = 2),
        ("guard.spawn.scopes", |c| c.scopes = Words::new()),
    ];
    for (guard, change) in cases {
        check(&spawn(change), Reason::Guarded, &[guard]);
    }
    let node = |banned| {
        let facts = NodeFacts {
            banned,
            ..Case::new().agent.node
        };
        spawn(|_| ()).decide_for(PrincipalFacts::Node(facts))
    };
    assert!(node(false).allows());
    assert_eq!(node(true).policies, ["guard.spawn.node"]);
    let person = |suspended| {
        let facts = UserFacts {
            suspended,
            ..user("ann")
        };
        spawn(|_| ()).decide_for(PrincipalFacts::User(facts))
    };
    assert!(person(false).allows());
    assert_eq!(person(true).policies, ["guard.spawn.user"]);
}

#[test]
fn facts_that_do_not_fit_together_are_refused() {
    let reason = |case: &Case| {
        let decision = case.decide();
        assert!(decision.policies.is_empty(), "{decision:?}");
        assert_eq!(decision.failures.len(), 1, "{decision:?}");
        decision.reason
    };
    // The schema has no such request.
    let case = Case::with(|case| case.action = Action::ToolCall);
    assert_eq!(reason(&case), Reason::BadFacts);
    let case = Case::with(|case| case.situation.task = None);
    assert_eq!(reason(&case), Reason::BadFacts);
    // One class in two versions, one on each side.
    let case = Case::with(|case| {
        case.action = Action::AgentSpawn;
        let class = ClassFacts {
            version: 2,
            ..case.agent.class.clone()
        };
        case.resource = ResourceFacts::AgentClass(Box::new(class));
    });
    assert_eq!(reason(&case), Reason::BadFacts);
    // One person with two clearances.
    let mut facts = Case::new().agent;
    facts.class.owner = UserFacts {
        clearance: 4,
        ..facts.class.sponsor.clone()
    };
    let error = Principal::new(PrincipalFacts::Agent(Box::new(facts))).unwrap_err();
    assert_eq!(error.subject, "spiffe://example.org/agent/reviewer/1");
    // A team above itself.
    let round = TeamFacts {
        id: "a".into(),
        above: vec!["b".into(), "a".into()],
    };
    let facts = UserFacts {
        team: Some(round),
        ..user("o")
    };
    Principal::new(PrincipalFacts::User(facts)).unwrap_err();
}

#[test]
fn a_record_decides_as_the_request_did_and_keeps_its_form() {
    let set = PolicySet::load(SET, &Limits::default()).unwrap();
    let case = Case::new();
    let record = case.record("audit-1");
    let text = serde_json::to_string(&record).unwrap();
    let read: RecordedRequest = serde_json::from_str(&text).unwrap();
    assert_eq!(read, record);
    assert_eq!(read.decide(&set).unwrap(), case.decide());
    insta::assert_snapshot!(serde_json::to_string_pretty(&record).unwrap());
    let with_more = text.replacen('{', "{\"weather\":1,", 1);
    serde_json::from_str::<RecordedRequest>(&with_more).unwrap_err();
    let newer = RecordedRequest {
        format: 2,
        ..record
    };
    assert!(
        newer
            .decide(&set)
            .unwrap_err()
            .to_string()
            .contains("form 2")
    );
}

#[test]
fn a_candidate_is_tried_on_what_was_asked() {
    let limits = Limits::default();
    let set = PolicySet::load(SET, &limits).unwrap();
    let records = [
        Case::new().record("fine"),
        Case::with(|case| case.situation.proof.level = 0).record("dark"),
        Case::with(|case| case.resource = ResourceFacts::TaskKind("mail".into())).record("mail"),
        Case::with(|case| case.agent.state = AgentState::Lost).record("lost"),
    ];
    assert!(compare(&set, &set, &records).changes_nothing());
    let candidate = SET
        .replace("\"no.night\"", "\"no.night\") @doc(\"nobody minds\"")
        .replace("context.proof.level == 0", "context.proof.level == 2")
        + "@id(\"mail\") permit (principal, action, resource == Muster::TaskKind::\"mail\");";
    let candidate = PolicySet::load(&candidate, &limits).unwrap();
    let found = compare(&set, &candidate, &records);
    assert_eq!(found.decided, 4);
    let ids = |list: &[muster_cedar::Change]| -> Vec<String> {
        list.iter().map(|change| change.id.clone()).collect()
    };
    assert_eq!(ids(&found.newly_allowed), ["dark"]);
    assert_eq!(ids(&found.newly_refused), ["fine"]);
    // Refused before and after, by more policies.
    assert_eq!(ids(&found.otherwise), ["mail", "lost"]);
    let change = &found.newly_refused[0];
    assert_eq!(change.from.policies, ["review.open", "team.open"]);
    assert_eq!(
        (change.to.reason, &*change.to.policies),
        (Reason::Forbidden, &["no.night".to_owned()][..])
    );
    // The same against what was decided at the time.
    let past: Vec<(RecordedRequest, Outcome)> = records
        .iter()
        .map(|record| (record.clone(), record.decide(&set).unwrap().into()))
        .collect();
    assert_eq!(simulate(&candidate, &past), found);
}
