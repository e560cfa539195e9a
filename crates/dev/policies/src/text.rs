//! Random policies, as text: each fits the schema, some cannot be evaluated for some requests.

use std::fmt::Write as _;

use crate::Dice;
use crate::house::{House, KINDS, SCOPES, TEAMS};

/// What is asked of whom on what, as the schema has it.
const ASKABLE: [(&str, Who, What); 9] = [
    ("task.open", Who::Agent, What::Kind),
    ("task.extend", Who::Agent, What::Kind),
    ("agent.spawn", Who::Agent, What::Class),
    ("agent.spawn", Who::Node, What::Class),
    ("agent.spawn", Who::User, What::Class),
    ("svid.issue", Who::Agent, What::Class),
    ("svid.issue", Who::Agent, What::Kind),
    ("token.exchange", Who::Agent, What::Server),
    ("tool.call", Who::Agent, What::Tool),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    Node,
    User,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Kind,
    Class,
    Server,
    Tool,
}

/// So many policies of every sort.
pub fn policies(dice: &mut Dice, house: &House, count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let (action, who, what) = *dice.one(&ASKABLE);
        let effect = if dice.chance(75) { "permit" } else { "forbid" };
        let principal = principal(dice, house, who);
        let action = actions(dice, action);
        let resource = resource(dice, house, what);
        // Writing to a String cannot fail.
        let _infallible = write!(
            text,
            "@id(\"p{number}\")\n{effect} (\n  {principal},\n  {action},\n  {resource}\n)"
        );
        for _ in 0..dice.below(3) {
            let word = if dice.chance(70) { "when" } else { "unless" };
            let condition = condition(dice);
            let _infallible = write!(text, "\n{word} {{ {condition} }}");
        }
        text.push_str(";\n\n");
    }
    text
}

/// A large set as a large house would write it: for each class, which kinds of tasks it may open and
/// what it may start, and now and then a rule for a team or for everyone.
pub fn many(dice: &mut Dice, house: &House, count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let class = dice.one(&house.classes);
        let (kind, team) = (*dice.one(&KINDS), *dice.one(&TEAMS));
        let risk = dice.below(10);
        let who = format!("principal in Muster::AgentClass::\"{}\"", class.id);
        let policy = match number % 50 {
            // Few, however large the house: these concern everyone.
            0 if number < 500 => format!(
                "forbid (principal, action == Muster::Action::\"tool.call\", resource)\nwhen {{ \
                 resource.destructive && context.task.risk > {risk} }};"
            ),
            1 | 2 if number < 500 => format!(
                "permit (principal in Muster::Team::\"{team}\", action == \
                 Muster::Action::\"task.open\", resource in Muster::TaskKind::\"{kind}\")\nwhen {{ \
                 context.task.risk <= {risk} }};"
            ),
            3..=9 => {
                let started = dice.one(&house.classes);
                format!(
                    "permit ({who}, action == Muster::Action::\"agent.spawn\", resource == \
                     Muster::AgentClass::\"{}\")\nwhen {{ context.delegation.depth < 2 }};",
                    started.id
                )
            }
            10..=15 => format!(
                "forbid ({who}, action == Muster::Action::\"task.open\", resource in \
                 Muster::TaskKind::\"{kind}\")\nwhen {{ context.task.risk > {} && \
                 !context.approvals.contains(context.task.id) }};",
                risk.saturating_add(3)
            ),
            _ => format!(
                "permit ({who}, action in [Muster::Action::\"task.open\", \
                 Muster::Action::\"svid.issue\"], resource in Muster::TaskKind::\"{kind}\")\nwhen {{ \
                 context.proof.level >= 1 && context has task && context.task.risk <= {risk} }};"
            ),
        };
        let _infallible = write!(text, "@id(\"m{number}\")\n{policy}\n\n");
    }
    text
}

fn principal(dice: &mut Dice, house: &House, who: Who) -> String {
    let team = *dice.one(&TEAMS);
    let class = &dice.one(&house.classes).id;
    match (who, dice.below(8)) {
        (_, 0 | 1) => "principal".to_owned(),
        (_, 2) => format!("principal in Muster::Team::\"{team}\""),
        (Who::Agent, 3) => "principal is Muster::Agent".to_owned(),
        (Who::Agent, 4) => format!(
            "principal == Muster::Agent::\"{}\"",
            dice.one(&house.agents).id
        ),
        (Who::Agent, 5) => format!("principal is Muster::Agent in Muster::Team::\"{team}\""),
        (Who::Agent, _) => format!("principal in Muster::AgentClass::\"{class}\""),
        (Who::Node, 3 | 4) => "principal is Muster::Node".to_owned(),
        (Who::Node, _) => format!(
            "principal == Muster::Node::\"{}\"",
            dice.one(&house.nodes).id
        ),
        (Who::User, 3 | 4) => "principal is Muster::User".to_owned(),
        (Who::User, _) => format!(
            "principal == Muster::User::\"{}\"",
            dice.one(&house.users).id
        ),
    }
}

fn actions(dice: &mut Dice, action: &str) -> String {
    match dice.below(6) {
        0 => "action".to_owned(),
        1 | 2 => format!(
            "action in [Muster::Action::\"{action}\", Muster::Action::\"{}\"]",
            dice.one(&ASKABLE).0
        ),
        _ => format!("action == Muster::Action::\"{action}\""),
    }
}

fn resource(dice: &mut Dice, house: &House, what: What) -> String {
    let team = *dice.one(&TEAMS);
    let kind = *dice.one(&KINDS);
    let server = &dice.one(&house.servers).id;
    match (what, dice.below(7)) {
        (_, 0 | 1) => "resource".to_owned(),
        (What::Kind, 2) => "resource is Muster::TaskKind".to_owned(),
        (What::Kind, 3) => format!("resource == Muster::TaskKind::\"{kind}\""),
        (What::Kind, _) => format!("resource in Muster::TaskKind::\"{kind}\""),
        (What::Class, 2) => format!("resource is Muster::AgentClass in Muster::Team::\"{team}\""),
        (What::Class, 3) => format!("resource in Muster::Team::\"{team}\""),
        (What::Class, _) => format!(
            "resource == Muster::AgentClass::\"{}\"",
            dice.one(&house.classes).id
        ),
        (What::Server, 2) => "resource is Muster::ResourceServer".to_owned(),
        (What::Server, _) | (What::Tool, 2) => {
            format!("resource in Muster::ResourceServer::\"{server}\"")
        }
        (What::Tool, _) => format!(
            "resource == Muster::Tool::\"{}\"",
            dice.one(&house.tools).id
        ),
    }
}

/// A condition that fits every request of the schema.
fn condition(dice: &mut Dice) -> String {
    let scope = *dice.one(&SCOPES);
    let number = dice.below(8);
    match dice.below(13) {
        0 => format!("context has task && context.task.risk <= {number}"),
        1 => format!("context.requested.scopes.contains(\"{scope}\")"),
        2 => format!("context.requested.scopes.containsAny([\"{scope}\", \"deploy\"])"),
        3 => format!("context.proof.level >= {}", number % 4),
        4 => "context.proof.attested.contains(\"unix:uid:1000\")".to_owned(),
        5 => {
            "context.delegation has subject && context.delegation.subject.clearance >= 2".to_owned()
        }
        6 => "context has parent && context.parent.kind like \"code*\"".to_owned(),
        7 => "context.now < datetime(\"2026-11-30T12:00:00.500Z\")".to_owned(),
        8 => "principal is Muster::Agent && principal.class.owner in Muster::Team::\"pay\""
            .to_owned(),
        9 => format!("principal is Muster::Agent && principal.class.riskTier < {number}"),
        10 => "resource is Muster::AgentClass && resource.purposes.contains(\"review\")".to_owned(),
        // More than 64 bits hold, for most budgets: not to be evaluated.
        11 => "context has task && context.task.budget * 100000000000000000 > 7".to_owned(),
        _ => format!(
            "if context.delegation.depth > 0 then context.delegation.consent == \"standing\" \
             else context.proof.keyCustody != \"process\" || {number} > 5"
        ),
    }
}
