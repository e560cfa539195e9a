use std::sync::Arc;

use muster_model::Template;

use super::*;
use crate::Change;
use crate::agents::{AgentChange, world as agents};
use crate::naming::derive;
use crate::world::{self, entry, id, roll as empty_roll, selectors, step, td};

fn roll() -> Roll {
    let mut roll = empty_roll();
    let mut class = agents::active(agents::class("reader"));
    class.spec.attestation = selectors(&["unix:supplementary_group:readers"]);
    let node = id("/spire/agent/0");
    let changes = [
        Change::PutNode(Arc::new(world::node("/spire/agent/0", &["s:a"]))),
        Change::Agent(AgentChange::PutClass(Arc::new(class))),
        Change::PutEntry(Arc::new(entry(
            "e",
            &node,
            &id("/svc/web"),
            &["unix:user:web"],
        ))),
        Change::PutEntry(Arc::new(entry(
            "f",
            &node,
            &id("/job/7"),
            &["unix:user:seven"],
        ))),
        Change::PutRule(Arc::new(world::rule(
            "there",
            &node,
            "spiffe://{td}/unit/{systemd:id}",
            &["unix:uid:1"],
        ))),
    ];
    step(&mut roll, &changes);
    roll
}

fn spec(template: &str) -> RuleSpec {
    let mut spec = world::rule("r", &id("/spire/agent/0"), template, &["unix:gid:100"]).spec;
    spec.class = Some(agents::name("reader"));
    spec
}

fn made(spec: RuleSpec) -> Result<Rule, RuleError> {
    let name = RuleName::parse("r").unwrap();
    create(
        &roll(),
        name,
        spec,
        "uid 0",
        Timestamp::from_unix_millis(1_999),
    )
}

#[test]
fn good_rules() {
    for template in [
        "spiffe://{td}/agent/{class}/{instance}",
        "spiffe://td/agent/reader/{unix:user}",
        "spiffe://{td}/svc-2/{unix:user}",
        "spiffe://{td}/job/x{unix:uid}",
        "spiffe://{td}/w",
        "spiffe://{td}/w/t/{instance}",
        "spiffe://{td}/w/{docker:label:app/name}/{docker:env:MODE}",
        // Every process of the class has it, and only this value of it is meant.
        "spiffe://{td}/w/{unix:supplementary_group}",
        // Whoever the rule would name so has it by entry e already.
        "spiffe://{td}/svc/{unix:user}",
        // The same facts, named the same way by another rule.
        "spiffe://{td}/unit/{systemd:id}",
    ] {
        let rule = made(spec(template)).unwrap();
        assert_eq!(
            (rule.version, rule.created_at.unix_seconds()),
            (1, 1),
            "{template}"
        );
    }
}

/// Each fault with its reason and its place, as operators see it.
#[test]
fn each_fault_of_a_template_has_its_place() {
    let check = |template: &str, reason: &str, at: usize| {
        let error = made(spec(template)).unwrap_err();
        assert_eq!(
            (error.reason(), error.at()),
            (reason, Some(at)),
            "{template}: {error}"
        );
    };
    check("spiffe://other/w", "FOREIGN_TRUST_DOMAIN", 9);
    check("spiffe://{td}/spire/agent/{instance}", "RESERVED_PATH", 14);
    check("spiffe://{td}/spire", "RESERVED_PATH", 14);
    check("spiffe://{td}/{unix:user}", "OPEN_PATH", 14);
    check("spiffe://{td}/s{unix:user}", "OPEN_PATH", 15);
    check(
        "spiffe://{td}/agent/{unix:user}/{instance}",
        "OPEN_PATH",
        20,
    );
    check("spiffe://{td}/agent/x{class}/{instance}", "OPEN_PATH", 21);
    check(
        "spiffe://{td}/w/t/01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "TASK_PATH",
        16,
    );
    check("spiffe://{td}/w/t/{unix:user}", "TASK_PATH", 16);
    check("spiffe://{td}/w/{unix:uuid}", "UNKNOWN_FACT", 16);
    check("spiffe://{td}/w/{gpu:model}", "UNKNOWN_FACT", 16);
    check("spiffe://{td}/w/{docker:label:}", "UNKNOWN_FACT", 16);
    check("spiffe://{td}/w/{muster:task}", "UNKNOWN_FACT", 16);
    check(
        "spiffe://{td}/w/{unix:supplementary_gid}",
        "FACT_AMBIGUOUS",
        16,
    );
    check("spiffe://{td}/job/{unix:uid}", "NAME_OF_ENTRY", 18);
    check("spiffe://{td}/job/7", "NAME_OF_ENTRY", 14);
    check("spiffe://{td}/unit/{unix:user}", "NAME_OF_RULE", 19);
    check("spiffe://{td}/unit/web.service", "NAME_OF_RULE", 19);
    let mut spec = spec("spiffe://{td}/agent/{class}/{instance}");
    spec.class = None;
    let error = made(spec).unwrap_err();
    assert_eq!((error.reason(), error.at()), ("CLASS_MISSING", Some(20)));
}

#[test]
fn other_faults_have_their_reasons() {
    let check = |change: fn(&mut RuleSpec), reason: &str| {
        let mut spec = spec("spiffe://{td}/w/{instance}");
        change(&mut spec);
        let error = made(spec).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    };
    check(
        |s| s.parent_id = td("other").with_path("/n").unwrap(),
        "INVALID_FIELD",
    );
    check(|s| s.parent_id = td("td").id(), "INVALID_FIELD");
    check(|s| s.parent_id = id("/spire/server"), "INVALID_FIELD");
    check(
        |s| s.class = Some(agents::name("nobody")),
        "CLASS_NOT_FOUND",
    );
    check(
        |s| s.federates_with = [td("stranger")].into(),
        "BUNDLE_NOT_FOUND",
    );
    check(|s| s.hint = "h".repeat(1025), "INVALID_FIELD");
    check(
        |s| s.dns_names = vec!["a.example".into(), "A.example".into()],
        "INVALID_FIELD",
    );
    check(|s| s.per_node = 0, "UNBOUNDED");
    check(|s| s.in_all = 0, "UNBOUNDED");
    check(|s| s.per_node = MAX_PER_NODE + 1, "UNBOUNDED");
    check(|s| (s.per_node, s.in_all) = (11, 10), "UNBOUNDED");
    let name = RuleName::parse("there").unwrap();
    let again = create(
        &roll(),
        name,
        spec("spiffe://{td}/w"),
        "uid 0",
        Timestamp::EPOCH,
    );
    assert_eq!(again.unwrap_err().reason(), "RULE_EXISTS");
    let roll = roll();
    assert_eq!(
        existing(&roll, "no", None).unwrap_err().reason(),
        "RULE_NOT_FOUND"
    );
    assert_eq!(
        existing(&roll, "there", Some(2)).unwrap_err().reason(),
        "VERSION_MISMATCH"
    );
    assert!(existing(&roll, "there", Some(1)).is_ok());
}

/// A fact of a plugin, whose value the rule itself says.
#[test]
fn what_the_rule_asks_for_is_known() {
    let mut wanted = spec("spiffe://{td}/w/{gpu:model}");
    wanted.selectors = selectors(&["gpu:model:x1"]);
    assert!(made(wanted.clone()).is_ok());
    wanted.selectors = selectors(&["gpu:model:x1", "gpu:model:x2"]);
    assert_eq!(made(wanted).unwrap_err().reason(), "FACT_AMBIGUOUS");
}

#[test]
fn an_entry_keeps_out_of_the_way_of_rules() {
    let roll = roll();
    let node = id("/spire/agent/0");
    let check = |spiffe_id: &str, given: &[&str], expected: Option<&str>| {
        let entry = entry("x", &node, &id(spiffe_id), given);
        let found = in_the_way(&roll, &entry).map(|rule| rule.name.to_string());
        assert_eq!(found.as_deref(), expected, "{spiffe_id}");
    };
    check("/unit/web.service", &["unix:uid:1"], None);
    check("/unit/web.service", &["systemd:id:web.service"], None);
    check(
        "/unit/web.service",
        &["systemd:id:web.service", "unix:uid:2"],
        Some("there"),
    );
    check("/unit/web.service", &["unix:uid:2"], Some("there"));
    check("/unit/web.service/x", &["unix:uid:2"], None);
    check("/units/web.service", &["unix:uid:2"], None);
}

proptest::proptest! {
    /// Of two rules that may stand beside each other, none gives a name of the other to a process
    /// that differs in what the name says.
    #[test]
    fn rules_that_do_not_meet_share_no_names(
        a in 0..8_usize,
        b in 0..8_usize,
        users in ("[ab]{1,2}", "[ab]{1,2}"),
        uids in (0..2_u8, 0..2_u8),
    ) {
        let templates = [
            "spiffe://{td}/w/{unix:user}",
            "spiffe://{td}/w/{unix:uid}",
            "spiffe://{td}/w/x{unix:user}",
            "spiffe://{td}/w/{unix:user}x",
            "spiffe://{td}/w/a",
            "spiffe://{td}/w/{unix:uid}/{unix:user}",
            "spiffe://{td}/w/0/{unix:user}",
            "spiffe://{td}/w/{node}",
        ];
        let node = id("/spire/agent/0");
        let rule = |name: &str, n: usize| world::rule(name, &node, templates[n], &["s:a"]);
        let (one, two) = (rule("one", a), rule("two", b));
        if Pattern::of(&one).meets(&Pattern::of(&two)) || one.spec.template == two.spec.template {
            return Ok(());
        }
        let facts = |user: &str, uid: u8| muster_model::Facts {
            selectors: selectors(&["s:a", &format!("unix:user:{user}"), &format!("unix:uid:{uid}")]),
            process: None,
        };
        let first = derive(&one, &td("td"), &node, &facts(&users.0, uids.0)).unwrap();
        let second = derive(&two, &td("td"), &node, &facts(&users.1, uids.1)).unwrap();
        proptest::prop_assert_ne!(first, second);
    }
}

#[test]
fn templates_are_kept_as_they_were_written() {
    let text = "spiffe://{td}/agent/{class}/{instance}";
    let rule = made(spec(text)).unwrap();
    assert_eq!(rule.spec.template, Template::parse(text).unwrap());
}
