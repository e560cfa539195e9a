//! A house: teams, people, machines, classes, agents, services, tools; and requests in it.

use muster_cedar::facts::{
    ActsFor, AgentFacts, AgentState, Binding, ClassFacts, Consent, DelegationFacts, KeyCustody,
    Lifecycle, NodeFacts, ParentFacts, ProofFacts, Requested, ServerFacts, Situation, TaskFacts,
    TeamFacts, ToolFacts, UserFacts, Words,
};
use muster_cedar::{
    Action, Facts, FactsError, Moment, Principal, PrincipalFacts, RecordedRequest, Resource,
    ResourceFacts,
};
use muster_model::Timestamp;

use crate::Dice;

/// Noon of the last of November 2026 in UTC, in milliseconds since the Unix epoch.
pub(crate) const NOON: i64 = 1_796_040_000_000;
const DAY: i64 = 86_400_000;

pub(crate) const TEAMS: [&str; 4] = ["all", "pay", "pay-core", "web"];
pub(crate) const SCOPES: [&str; 6] = [
    "repo:read",
    "repo:write",
    "mail:send",
    "mail:read",
    "deploy",
    "ticket:close",
];
pub(crate) const KINDS: [&str; 7] = [
    "code",
    "code.review",
    "code.review.deep",
    "code.write",
    "mail",
    "mail.send",
    "ops",
];
const SELECTORS: [&str; 4] = [
    "unix:uid:1000",
    "unix:uid:0",
    "unix:gid:5",
    "systemd:unit:agent",
];

/// A small house.
#[derive(Clone, Debug)]
pub struct House {
    pub(crate) classes: Vec<ClassFacts>,
    pub(crate) agents: Vec<AgentFacts>,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) users: Vec<UserFacts>,
    pub(crate) servers: Vec<ServerFacts>,
    pub(crate) tools: Vec<ToolFacts>,
}

/// A request, prepared.
#[derive(Clone, Debug)]
pub struct Asked {
    principal: Principal,
    action: Action,
    resource: Resource,
    situation: Situation,
    /// When.
    pub now: Moment,
}

impl Asked {
    /// As a decision takes it.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            principal: &self.principal,
            action: self.action,
            resource: &self.resource,
            situation: &self.situation,
        }
    }

    /// As it is kept.
    pub fn record(&self, id: &str) -> RecordedRequest {
        RecordedRequest::of(id, &self.facts(), &self.now)
    }
}

fn words(list: Vec<String>) -> Words {
    list.into_iter().collect()
}

fn all(list: &[&str]) -> Words {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn team(name: &str) -> TeamFacts {
    let above: &[&str] = match name {
        "all" => &[],
        "pay-core" => &["pay", "all"],
        _ => &["all"],
    };
    TeamFacts {
        id: name.to_owned(),
        above: above.iter().map(|&name| name.to_owned()).collect(),
    }
}

impl House {
    /// A house with so many classes. A few of everything is out of order.
    pub fn new(dice: &mut Dice, classes: usize) -> Self {
        let users: Vec<UserFacts> = (0..6)
            .map(|number| UserFacts {
                id: format!("https://idp.example|u{number}"),
                team: dice.chance(80).then(|| team(dice.one::<&str>(&TEAMS))),
                clearance: grade(dice, 4),
                suspended: dice.chance(10),
            })
            .collect();
        let nodes: Vec<NodeFacts> = (0..4)
            .map(|number| NodeFacts {
                id: format!("spiffe://example.org/spire/agent/join_token/n{number}"),
                team: dice.chance(50).then(|| team(dice.one::<&str>(&TEAMS))),
                attested: words(dice.some(&SELECTORS, 50)),
                level: grade(dice, 4),
                banned: dice.chance(5),
            })
            .collect();
        let classes: Vec<ClassFacts> = (0..classes)
            .map(|number| class(dice, number, &users))
            .collect();
        let agents = (0..classes.len().clamp(4, 1000))
            .map(|number| agent(dice, number, &classes, &nodes))
            .collect();
        let servers: Vec<ServerFacts> = (0..3)
            .map(|number| ServerFacts {
                id: format!("https://api{number}.example"),
                team: dice.chance(50).then(|| team(dice.one::<&str>(&TEAMS))),
                data_class: grade(dice, 4),
                require_proof: dice.chance(50),
            })
            .collect();
        let tools = (0..4)
            .map(|number| ToolFacts {
                id: format!("tool{number}"),
                server: dice.one(&servers).clone(),
                data_class: grade(dice, 4),
                destructive: dice.chance(30),
                cost: dice.below(50),
                scopes: words(dice.some(&SCOPES, 30)),
            })
            .collect();
        Self {
            classes,
            agents,
            nodes,
            users,
            servers,
            tools,
        }
    }

    /// A request in it. Most are in order but for a thing or two.
    pub fn ask(&self, dice: &mut Dice) -> Result<Asked, FactsError> {
        let action = *dice.one(&Action::ALL);
        let agent = dice.one(&self.agents);
        let principal = match (action, dice.below(4)) {
            (Action::AgentSpawn, 0) => PrincipalFacts::Node(dice.one(&self.nodes).clone()),
            (Action::AgentSpawn, 1) => PrincipalFacts::User(dice.one(&self.users).clone()),
            _ => PrincipalFacts::Agent(Box::new(agent.clone())),
        };
        let kind = (*dice.one(&KINDS)).to_owned();
        let resource = match action {
            Action::AgentSpawn => {
                ResourceFacts::AgentClass(Box::new(dice.one(&self.classes).clone()))
            }
            Action::SvidIssue if dice.chance(50) => {
                ResourceFacts::AgentClass(Box::new(agent.class.clone()))
            }
            Action::TaskOpen | Action::TaskExtend | Action::SvidIssue => {
                ResourceFacts::TaskKind(kind.clone())
            }
            Action::TokenIssue | Action::TokenExchange | Action::ProofSign => {
                ResourceFacts::ResourceServer(dice.one(&self.servers).clone())
            }
            Action::ToolCall => ResourceFacts::Tool(Box::new(dice.one(&self.tools).clone())),
        };
        let outside = matches!(action, Action::AgentSpawn | Action::SvidIssue) && dice.chance(40);
        let situation = self.situation(dice, &agent.class, &kind, outside);
        Ok(Asked {
            principal: Principal::new(principal)?,
            action,
            resource: Resource::new(resource)?,
            situation,
            now: Moment::at(Timestamp::from_unix_millis(
                NOON.saturating_add(i64::try_from(dice.below(1000)).unwrap_or_default()),
            )),
        })
    }

    fn situation(
        &self,
        dice: &mut Dice,
        class: &ClassFacts,
        kind: &str,
        outside: bool,
    ) -> Situation {
        let scopes: Words = class
            .scopes
            .iter()
            .filter(|_| dice.chance(90))
            .cloned()
            .collect();
        let mut asked: Words = scopes.iter().filter(|_| dice.chance(60)).cloned().collect();
        if dice.chance(6) {
            asked.insert((*dice.one(&SCOPES)).to_owned());
        }
        let seconds = dice.below(600);
        let budget = dice.below(100);
        let data_class = grade(dice, u64::from(class.data_ceiling));
        let task = TaskFacts {
            id: format!("01J{:023}", dice.below(1000)),
            kind: kind.to_owned(),
            risk: grade(dice, 10),
            data_class: data_class.saturating_add(grade(dice, 1)),
            seconds_left: if dice.chance(4) {
                0
            } else {
                seconds.saturating_add(dice.below(60))
            },
            budget: budget.saturating_add(50),
            spent: dice.below(70),
            depth: u32::from(grade(dice, 2)),
        };
        let parent = dice.chance(40).then(|| ParentFacts {
            id: format!("01H{:023}", dice.below(1000)),
            kind: kind.to_owned(),
            scopes: if dice.chance(85) {
                scopes.clone()
            } else {
                Words::new()
            },
            data_class: data_class.saturating_add(grade(dice, 2)),
            seconds_left: seconds.saturating_add(dice.below(100)),
            budget_left: budget.saturating_add(dice.below(50)),
        });
        let subject = dice.chance(30).then(|| dice.one(&self.users).clone());
        Situation {
            task: (!outside).then_some(task),
            parent,
            delegation: DelegationFacts {
                depth: u32::from(grade(dice, 2)),
                actors: words(dice.some(&["spiffe://example.org/a", "spiffe://example.org/b"], 20)),
                subject,
                subject_scopes: if dice.chance(80) {
                    all(&SCOPES)
                } else {
                    Words::new()
                },
                consent: *dice.one(&[
                    Consent::Absent,
                    Consent::Standing,
                    Consent::Interactive,
                    Consent::Ciba,
                ]),
            },
            proof: ProofFacts {
                binding: *dice.one(&[
                    Binding::None,
                    Binding::Process,
                    Binding::Child,
                    Binding::Lease,
                    Binding::Cgroup,
                ]),
                key_custody: *dice.one(&[
                    KeyCustody::Process,
                    KeyCustody::Daemon,
                    KeyCustody::Proxy,
                ]),
                attested: words(dice.some(&SELECTORS, 50)),
                level: grade(dice, 4),
                age_seconds: dice.below(100),
            },
            scopes,
            requested: Requested {
                scopes: asked,
                data_class,
                seconds,
                budget,
            },
            approvals: words(dice.some(&["01J", "sha256:aa"], 20)),
        }
    }
}

/// 0 to `most`.
fn grade(dice: &mut Dice, most: u64) -> u8 {
    u8::try_from(dice.below(most.saturating_add(1))).unwrap_or_default()
}

fn class(dice: &mut Dice, number: usize, users: &[UserFacts]) -> ClassFacts {
    ClassFacts {
        id: format!("c{number}"),
        team: dice.chance(90).then(|| team(dice.one::<&str>(&TEAMS))),
        owner: dice.one(users).clone(),
        sponsor: dice.one(users).clone(),
        lifecycle: if dice.chance(92) {
            Lifecycle::Active
        } else {
            *dice.one(&[
                Lifecycle::Proposed,
                Lifecycle::Suspended,
                Lifecycle::Quarantined,
                Lifecycle::Retired,
            ])
        },
        risk_tier: grade(dice, 4),
        purposes: words(dice.some(&["review", "triage", "support"], 50)),
        models: words(dice.some(&["large", "small"], 60)),
        providers: words(dice.some(&["here", "there"], 60)),
        scopes: words(dice.some(&SCOPES, 70)),
        data_ceiling: grade(dice, 4),
        max_depth: u32::from(grade(dice, 2)).saturating_add(1),
        max_seconds: 700,
        max_budget: 200,
        acts_for: if dice.chance(80) {
            ActsFor::Users
        } else {
            *dice.one(&[ActsFor::Nobody, ActsFor::Agents])
        },
        consent: *dice.one(&[Consent::Absent, Consent::Standing, Consent::Interactive]),
        valid_until: if dice.chance(95) {
            i64::MAX
        } else {
            NOON.saturating_sub(DAY)
        },
        review_by: if dice.chance(95) {
            NOON.saturating_add(DAY)
        } else {
            NOON.saturating_sub(DAY)
        },
        version: dice.below(9),
    }
}

fn agent(
    dice: &mut Dice,
    number: usize,
    classes: &[ClassFacts],
    nodes: &[NodeFacts],
) -> AgentFacts {
    let class = dice.one(classes).clone();
    AgentFacts {
        id: format!("spiffe://example.org/agent/{}/{number}", class.id),
        class,
        node: dice.one(nodes).clone(),
        lineage: words(dice.some(&["c0", "c1"], 30)),
        model: (*dice.one(&["large", "small", ""])).to_owned(),
        provider: (*dice.one(&["here", "there", ""])).to_owned(),
        executable: format!("{:064x}", dice.below(4)),
        state: if dice.chance(95) {
            AgentState::Active
        } else {
            *dice.one(&[
                AgentState::Lost,
                AgentState::Quarantined,
                AgentState::Retired,
            ])
        },
    }
}
