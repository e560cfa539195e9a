use muster_model::{BootId, ClassName, ProcessMark, RuleSpec, Template, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::naming::Pattern;

const BOOT: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn td() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn node(n: u8) -> SpiffeId {
    td().with_path(&format!("/spire/agent/{n}")).unwrap()
}

fn rule(template: &str, selectors: &[&str]) -> Rule {
    Rule {
        name: RuleName::parse("readers").unwrap(),
        spec: RuleSpec {
            parent_id: node(0),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            template: Template::parse(template).unwrap(),
            class: Some(ClassName::parse("reader").unwrap()),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            hint: String::new(),
            dns_names: Vec::new(),
            per_node: 10,
            in_all: 10,
        },
        version: 1,
        created_at: Timestamp::from_unix_seconds(1),
        created_by: "root".into(),
        updated_at: Timestamp::from_unix_seconds(1),
        updated_by: "root".into(),
        changed_at: Revision::default(),
    }
}

fn mark(pid: u32, start_time: u64) -> ProcessMark {
    ProcessMark {
        boot: BootId::parse(BOOT).unwrap(),
        pid,
        start_time,
    }
}

fn facts(selectors: &[&str], process: Option<ProcessMark>) -> Facts {
    Facts {
        selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
        process,
    }
}

/// The digests were computed elsewhere. They are part of the contract between nodes and servers: a
/// change renames the world.
#[test]
fn names_are_what_they_were() {
    let check = |template: &str, facts: &Facts, expected: &str| {
        let name = derive(&rule(template, &["unix:uid:7"]), &td(), &node(0), facts).unwrap();
        assert_eq!(name.as_str(), expected, "{template}");
    };
    let all = facts(
        &[
            "unix:uid:7",
            "unix:user:svc_web",
            "unix:path:/usr/bin/a",
            "unix:supplementary_gid:1",
            "systemd:id:agent@7.service",
            "docker:label:app:web",
            "docker:env:MODE=x y",
        ],
        Some(mark(42, 1000)),
    );
    check("spiffe://{td}/svc", &all, "spiffe://td/svc");
    check("spiffe://td/svc/{unix:uid}", &all, "spiffe://td/svc/7");
    check(
        "spiffe://{td}/u/{unix:user}-x",
        &all,
        "spiffe://td/u/svc_web-x",
    );
    check(
        "spiffe://{td}/p/{unix:path}",
        &all,
        "spiffe://td/p/_x2fusr_x2fbin_x2fa",
    );
    check(
        "spiffe://{td}/s/{systemd:id}",
        &all,
        "spiffe://td/s/agent_x407.service",
    );
    check(
        "spiffe://{td}/d/{docker:label:app}",
        &all,
        "spiffe://td/d/web",
    );
    check(
        "spiffe://{td}/d/{docker:env:MODE}",
        &all,
        "spiffe://td/d/x_x20y",
    );
    check(
        "spiffe://{td}/agent/{class}/{instance}",
        &all,
        "spiffe://td/agent/reader/cc3d789baaf1af57e9665ed8",
    );
    check(
        "spiffe://{td}/n/{node}",
        &all,
        "spiffe://td/n/7f86ad49f1e486bf034cea4a",
    );
}

#[test]
fn each_refusal_has_its_reason() {
    let check = |template: &str, given: &Facts, expected: &NoName, word: &str| {
        let rule = rule(template, &["unix:uid:7"]);
        assert_eq!(
            derive(&rule, &td(), &node(0), given).as_ref(),
            Err(expected)
        );
        assert_eq!(expected.reason(), word);
    };
    let placeholder = |text: &str| {
        let template = Template::parse(&format!("spiffe://{{td}}/a/{text}")).unwrap();
        let part = template.parts().next().unwrap();
        part.placeholder.clone()
    };
    let bare = facts(&["unix:uid:7"], None);
    check(
        "spiffe://{td}/a",
        &facts(&["unix:uid:8"], None),
        &NoName::Lacks("unix:uid:7".parse().unwrap()),
        "SELECTOR_MISSING",
    );
    check(
        "spiffe://{td}/a/{instance}",
        &bare,
        &NoName::NoProcess,
        "PROCESS_UNKNOWN",
    );
    check(
        "spiffe://{td}/a/{unix:user}",
        &bare,
        &NoName::NoFact(placeholder("{unix:user}")),
        "FACT_MISSING",
    );
    check(
        "spiffe://{td}/a/{unix:supplementary_gid}",
        &facts(
            &[
                "unix:uid:7",
                "unix:supplementary_gid:1",
                "unix:supplementary_gid:2",
            ],
            None,
        ),
        &NoName::SeveralValues(placeholder("{unix:supplementary_gid}")),
        "FACT_AMBIGUOUS",
    );
    // Nodes say what they like; the names of a rule are those that its check knew.
    for (fact, template) in [
        ("unix:gid:web", "{unix:gid}"),
        ("unix:gid:07", "{unix:gid}"),
        ("unix:sha256:ab", "{unix:sha256}"),
    ] {
        check(
            &format!("spiffe://{{td}}/a/{template}"),
            &facts(&["unix:uid:7", fact], None),
            &NoName::NoSuchValue(placeholder(template)),
            "FACT_NOT_VALID",
        );
    }
    check(
        "spiffe://other/a",
        &bare,
        &NoName::Foreign(TrustDomain::parse("other").unwrap()),
        "FOREIGN_TRUST_DOMAIN",
    );
    let long = format!("unix:path:/{}", "a".repeat(2048));
    check(
        "spiffe://{td}/a/{unix:path}",
        &facts(&["unix:uid:7", &long], None),
        &NoName::NotAnId(IdError::TooLong),
        "NAME_NOT_VALID",
    );
    // Which facts say, and no rule that was checked.
    check(
        "spiffe://{td}/{unix:user}/agent/x",
        &facts(&["unix:uid:7", "unix:user:spire"], None),
        &NoName::Reserved(td().with_path("/spire/agent/x").unwrap()),
        "RESERVED_PATH",
    );
    let task = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    check(
        "spiffe://{td}/a/t/{unix:user}",
        &facts(&["unix:uid:7", &format!("unix:user:{task}")], None),
        &NoName::TaskName(td().with_path(&format!("/a/t/{task}")).unwrap()),
        "TASK_PATH",
    );
}

#[test]
fn a_value_that_the_rule_asks_for_is_the_one_that_is_meant() {
    let rule = rule(
        "spiffe://{td}/g/{unix:supplementary_gid}",
        &["unix:supplementary_gid:2"],
    );
    let facts = facts(
        &["unix:supplementary_gid:1", "unix:supplementary_gid:2"],
        None,
    );
    let name = derive(&rule, &td(), &node(0), &facts).unwrap();
    assert_eq!(name.as_str(), "spiffe://td/g/2");
}

#[test]
fn an_entry_that_nobody_wrote() {
    let rule = rule("spiffe://{td}/a", &["unix:uid:7"]);
    let name = td().with_path("/a").unwrap();
    let entry = entry(&rule, name.clone()).unwrap();
    assert_eq!(rule_of_entry(&entry.id), Some("readers"));
    assert_eq!(entry.spiffe_id, name);
    for other in [
        "rule.readers",
        "rule.readers.x",
        "rule.UP.0123456789abcdef01234567",
        "e",
    ] {
        let id = EntryId::parse(other).unwrap();
        assert_eq!(rule_of_entry(&id), None, "{other}");
    }
}

fn a_template() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        Just("a".to_owned()),
        Just("t".to_owned()),
        Just("spire".to_owned()),
        Just("{class}".to_owned()),
        Just("{node}".to_owned()),
        Just("x{instance}".to_owned()),
        Just("{unix:user}".to_owned()),
        Just("{unix:path}.y".to_owned()),
        Just("{docker:label:app}".to_owned()),
    ];
    prop::collection::vec(segment, 1..5)
        .prop_map(|segments| format!("spiffe://{{td}}/{}", segments.join("/")))
}

fn some_facts() -> impl Strategy<Value = Facts> {
    let value = prop_oneof![
        "[a-c._/]{1,3}",
        Just("spire".to_owned()),
        Just("..".to_owned()),
        Just("01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned()),
        ".{1,6}",
    ];
    (
        prop::collection::vec(value, 3),
        prop::option::weighted(0.9, (0..3_u32, 0..3_u64)),
    )
        .prop_map(|(values, process)| Facts {
            selectors: ["user:", "path:", "label:app:"]
                .iter()
                .zip(values)
                .map(|(key, value)| {
                    let kind = if key.starts_with("label") {
                        "docker"
                    } else {
                        "unix"
                    };
                    Selector::new(kind, format!("{key}{value}")).unwrap()
                })
                .chain(["unix:uid:7".parse().unwrap()])
                .collect(),
            process: process.map(|(pid, start)| mark(pid, start)),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No name outside of the trust domain, below /spire or among tasks, and none that the rule's
    /// pattern does not have; and the same name each time.
    #[test]
    fn names_lie_where_they_may(template in a_template(), facts in some_facts()) {
        let rule = rule(&template, &["unix:uid:7"]);
        let derived = derive(&rule, &td(), &node(0), &facts);
        if let Ok(name) = &derived {
            prop_assert_eq!(name.trust_domain(), &td());
            prop_assert!(!name.is_reserved() && TaskId::in_path(name).is_none());
            prop_assert!(Pattern::of(&rule).fits(name), "{} does not fit", name);
        }
        prop_assert_eq!(derive(&rule.clone(), &td(), &node(0), &facts.clone()), derived);
    }

    /// What does not stand in the template does not matter.
    #[test]
    fn other_facts_change_nothing(template in a_template(), facts in some_facts(), other in "[a-z]{1,5}") {
        let rule = rule(&template, &["unix:uid:7"]);
        let mut more = facts.clone();
        more.selectors.extend([Selector::new("plugin", other).unwrap()]);
        prop_assert_eq!(
            derive(&rule, &td(), &node(0), &facts),
            derive(&rule, &td(), &node(0), &more)
        );
    }

    /// Two processes share a name only where they agree in all that it says.
    #[test]
    fn who_differs_is_named_otherwise(
        template in a_template(),
        one in some_facts(),
        two in some_facts(),
        nodes in (0..2_u8, 0..2_u8),
    ) {
        let rule = rule(&template, &["unix:uid:7"]);
        let name = |n: u8, facts: &Facts| derive(&rule, &td(), &node(n), facts);
        let (Ok(a), Ok(b)) = (name(nodes.0, &one), name(nodes.1, &two)) else {
            return Ok(());
        };
        let same = rule.spec.template.parts().all(|part| match &part.placeholder {
            Placeholder::Class => true,
            Placeholder::Node => nodes.0 == nodes.1,
            Placeholder::Instance => nodes.0 == nodes.1 && one.process == two.process,
            Placeholder::Fact { kind, key } => {
                one.values(kind, key).collect::<Vec<_>>() == two.values(kind, key).collect::<Vec<_>>()
            }
        });
        prop_assert_eq!(a == b, same, "{} and {}", a, b);
    }
}
