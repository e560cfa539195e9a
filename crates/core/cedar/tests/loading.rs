//! What a text has to be to become a set, what a fault says, and what stays in force.

#![expect(
    clippy::unwrap_used,
    reason = "a test may; clippy sees the functions that are marked as tests only"
)]

use muster_cedar::{FaultKind, Limits, Loaded, Place, PolicySet, Slot};

const FINE: &str = r#"@id("a")
permit (principal, action == Muster::Action::"task.open", resource in Muster::TaskKind::"code")
when { context.task.risk <= 3 };
"#;

fn load(text: &str) -> Result<PolicySet, muster_cedar::LoadError> {
    PolicySet::load(text, &Limits::default())
}

#[track_caller]
fn refuses(text: &str, expected: &[(FaultKind, usize, usize, Option<&str>)]) -> String {
    let error = load(text).unwrap_err();
    let found: Vec<_> = error
        .faults
        .iter()
        .map(|fault| {
            let Place { line, column } = fault.place;
            (fault.kind, line, column, fault.policy.as_deref())
        })
        .collect();
    assert_eq!(found, expected, "{error}");
    assert!(
        error.faults.iter().all(|fault| !fault.message.is_empty()),
        "{error}"
    );
    error.to_string()
}

#[test]
fn faults_of_syntax_say_where() {
    let text = format!("{FINE}\n@id(\"b\")\npermit (principal, action resource);\n");
    refuses(&text, &[(FaultKind::Syntax, 6, 27, None)]);
    refuses("permit", &[(FaultKind::Syntax, 1, 7, None)]);
    refuses(
        "@id(\"a\") permit(principal, action, resource) when { \"x };",
        &[(FaultKind::Syntax, 1, 53, None)],
    );
}

#[test]
fn each_policy_has_one_name_of_its_own() {
    let text = format!("{FINE}\npermit (principal, action, resource);\n\n {FINE}");
    let said = refuses(
        &text,
        &[
            (FaultKind::NoId, 5, 1, None),
            (FaultKind::SameId, 7, 2, Some("a")),
        ],
    );
    assert!(said.contains("line 1, column 1 has the same @id"), "{said}");
    assert!(said.contains("@id(\"a-name\")"), "{said}");
    for id in ["", "two words", "ä", &"a".repeat(129)] {
        let text = FINE.replace("\"a\"", &format!("{id:?}"));
        refuses(&text, &[(FaultKind::BadId, 1, 1, None)]);
    }
    let text = FINE.replace("\"a\"", "\"guard.mine\"");
    refuses(&text, &[(FaultKind::ReservedId, 1, 1, None)]);
}

#[test]
fn templates_are_not_taken() {
    let text = format!("{FINE}\n@id(\"t\") permit (principal == ?principal, action, resource);");
    let said = refuses(&text, &[(FaultKind::Template, 5, 1, None)]);
    assert!(said.contains("instead of the slot"), "{said}");
}

#[test]
fn what_does_not_fit_the_schema_is_refused_with_its_place() {
    // A fact that does not exist; Cedar knows a word that is near.
    let text = format!(
        "{FINE}{}",
        FINE.replace("\"a\"", "\"b\"").replace("risk", "rsik")
    );
    let said = refuses(&text, &[(FaultKind::Type, 6, 8, Some("b"))]);
    assert!(said.contains("rsik"), "{said}");
    // A number and a text.
    let text = FINE.replace("<= 3", "<= \"3\"");
    refuses(&text, &[(FaultKind::Type, 3, 29, Some("a"))]);
    // A type that does not exist.
    let text = FINE.replace("principal,", "principal is Muster::Robot,");
    let error = load(&text).unwrap_err();
    assert!(
        error
            .faults
            .iter()
            .all(|fault| fault.kind == FaultKind::Type),
        "{error}"
    );
    // A kind of task is in no class, and nobody opens a task of a tool: such a policy would be one that
    // never has a say.
    for other in [
        "resource in Muster::AgentClass::\"code\"",
        "resource is Muster::Tool",
    ] {
        let text = FINE.replace("resource in Muster::TaskKind::\"code\"", other);
        let said = refuses(&text, &[(FaultKind::Type, 1, 1, Some("a"))]);
        assert!(said.contains("the table of actions"), "{said}");
    }
    // Text that shows in another order than it is read.
    let text = FINE.replace("TaskKind::\"code\"", "TaskKind::\"\u{202e}edoc\"");
    let error = load(&text).unwrap_err();
    assert_eq!(error.faults[0].kind, FaultKind::Deceptive, "{error}");
    // A task is not always there.
    let text = FINE.replace("task.open", "svid.issue");
    let said = load(&text).unwrap_err().to_string();
    assert!(said.contains("context has task"), "{said}");
    // Nothing is known of a person who is named, only of one who is concerned.
    let text = FINE.replace("context.task.risk <= 3", "Muster::User::\"x\".suspended");
    let error = load(&text).unwrap_err();
    assert!(
        error
            .faults
            .iter()
            .all(|fault| fault.kind == FaultKind::Type),
        "{error}"
    );
}

#[test]
fn the_first_bound_is_reached_long_before_the_end_of_the_stack() {
    // Each is as deep as the limits let it be; a thread of a test has two mebibytes.
    let limits = Limits::default();
    let with = |condition: &str| {
        format!("@id(\"deep\") permit (principal, action, resource) when {{ {condition} }};")
    };
    let brackets = limits.nesting - 1;
    let steps = limits.steps - 10;
    for condition in [
        format!("{}true{}", "(".repeat(brackets), ")".repeat(brackets)),
        format!("{}1{} == 1", "[".repeat(brackets), "]".repeat(brackets)),
        format!("{}1{} == 1", "{a: ".repeat(brackets), "}".repeat(brackets)),
        format!("{}true", "if true then true else ".repeat(brackets - 1)),
        format!("true{}", " && true".repeat(steps)),
        format!("false{}", " || false".repeat(steps)),
        format!("1{} > 0", " + 1".repeat(steps)),
        format!("context{}", ".a".repeat(steps)),
        format!("context has a{}", ".a".repeat(steps)),
        format!("{}true", "!".repeat(steps)),
        format!("{}1 == 1", "-".repeat(steps)),
        format!("true{}", " == true".repeat(steps)),
    ] {
        // Accepted or refused, but answered.
        if let Err(error) = load(&with(&condition)) {
            let bounded = error
                .faults
                .iter()
                .any(|fault| fault.kind == FaultKind::TooDeep);
            assert!(!bounded, "{error}");
        }
    }
    let over = format!("true{}", " && true".repeat(limits.steps));
    refuses(&with(&over), &[(FaultKind::TooDeep, 1, 1, None)]);
    let over = format!("{}true", "(".repeat(100_000));
    let error = load(&with(&over)).unwrap_err();
    assert_eq!(error.faults[0].kind, FaultKind::TooDeep);
}

#[test]
fn a_crowd_in_one_scope_is_refused() {
    let limits = Limits {
        same_scope: 12,
        ..Limits::default()
    };
    let crowd: Vec<String> = (0..20)
        .map(|number| {
            format!(
                "@id(\"p{number}\") permit (principal in Muster::Team::\"t\", action, resource)\n\
                 when {{ principal == Muster::Agent::\"a{number}\" }};\n"
            )
        })
        .collect();
    let crowd = crowd.concat();
    let error = PolicySet::load(&crowd, &limits).unwrap_err();
    assert_eq!(error.faults[0].kind, FaultKind::Crowded);
    assert_eq!(error.faults[0].policy.as_deref(), Some("p12"));
    assert_eq!(error.faults[0].place.line, 25);
    assert!(
        error.to_string().contains("instead of in a condition"),
        "{error}"
    );
}

#[test]
fn a_policy_that_can_never_hold_is_pointed_out() {
    let text = FINE.replace(
        "context.task.risk <= 3",
        "principal is Muster::Agent && principal is Muster::Node",
    );
    let set = load(&text).unwrap();
    let warning = &set.warnings()[0];
    assert_eq!(warning.policy.as_deref(), Some("a"));
    assert!(warning.message.contains("impossible"), "{warning}");
}

#[test]
fn the_digest_is_of_what_a_set_says() {
    let both = |text: &str| load(text).unwrap().digest();
    let other = "@id(\"b\") forbid (principal, action, resource);";
    let one = both(&format!("{FINE}{other}"));
    assert_eq!(one, both(&format!("// first\n{other}\n\n\n{FINE} // last")));
    assert_ne!(one, both(FINE));
    assert_ne!(both(FINE), both(&FINE.replace("<= 3", "<= 4")));
    assert_ne!(both(FINE), both(&FINE.replace("\"a\"", "\"b\"")));
    assert_ne!(both(""), both(FINE));
    assert_eq!(one.to_string().len(), 64);
}

#[test]
fn what_does_not_load_replaces_nothing() {
    let limits = Limits::default();
    let mut slot = Slot::guards_only(&limits).unwrap();
    let guards = slot.current().digest();
    assert!(slot.current().is_empty());
    assert!(slot.current().ids().all(|id| id.starts_with("guard.")));
    let new = load(FINE).unwrap().digest();
    assert_eq!(
        slot.load(FINE, &limits).unwrap(),
        Loaded::Replaced { old: guards, new }
    );
    let held = slot.current().clone();
    for broken in [
        "permit",
        "permit (principal, action, resource);",
        &FINE.replace("risk", "x"),
    ] {
        slot.load(broken, &limits).unwrap_err();
        assert_eq!(slot.current().digest(), new);
    }
    assert_eq!(
        slot.load(&format!("//\n{FINE}"), &limits).unwrap(),
        Loaded::Same(new)
    );
    slot.load("", &limits).unwrap();
    assert_eq!(slot.current().digest(), guards);
    assert_eq!(held.digest(), new);
    assert_eq!(held.len(), 1);
}
