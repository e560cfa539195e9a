//! Templates of identity rules: the first line is a template, the others are what a process is
//! attested as, and nobody checked either.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::{
    BootId, ClassName, Facts, ProcessMark, Revision, Rule, RuleName, RuleSpec, Selector, SpiffeId,
    TaskId, Template, Timestamp, TrustDomain,
};
use muster_roll::naming::{self, Pattern};

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let Ok(template) = Template::parse(lines.next().unwrap_or_default()) else {
        return;
    };
    // What was read is all that was written.
    let mut again = String::from("spiffe://");
    match template.domain() {
        Some(domain) => again.push_str(domain.as_str()),
        None => again.push_str("{td}"),
    }
    for segment in template.segments() {
        again.push('/');
        again.push_str(&segment.before);
        if let Some(part) = &segment.part {
            assert_eq!(again.len(), part.at);
            again.push_str(&part.placeholder.to_string());
        }
        again.push_str(&segment.after);
    }
    assert_eq!(again, template.as_str());
    assert_eq!(Template::parse(&again).as_ref(), Ok(&template));

    let facts: Facts = Facts {
        selectors: lines
            .clone()
            .filter_map(|line| line.parse::<Selector>().ok())
            .collect(),
        process: (lines.count() % 2 == 0).then(mark),
    };
    let domain = TrustDomain::parse("td").unwrap();
    let node = SpiffeId::parse("spiffe://td/spire/agent/x/1").unwrap();
    let rule = rule(template, &node, &facts);
    let Ok(name) = naming::derive(&rule, &domain, &node, &facts) else {
        return;
    };
    assert_eq!(SpiffeId::parse(name.as_str()).as_ref(), Ok(&name));
    assert_eq!(name.trust_domain(), &domain);
    assert!(!name.path().is_empty() && !name.is_reserved(), "{name}");
    assert_eq!(TaskId::in_path(&name), None);
    // What the check of rules takes for all names of a rule has it.
    assert!(Pattern::of(&rule).fits(&name), "{name}");
    assert_eq!(
        naming::derive(&rule, &domain, &node, &facts).as_ref(),
        Ok(&name)
    );
    let entry = naming::entry(&rule, name).unwrap();
    assert_eq!(naming::rule_of_entry(&entry.id), Some("r"));
});

fn mark() -> ProcessMark {
    ProcessMark {
        boot: BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap(),
        pid: 42,
        start_time: 1000,
    }
}

/// A rule that asks for the first half of what the process is.
fn rule(template: Template, parent: &SpiffeId, facts: &Facts) -> Rule {
    let half = facts.selectors.len().div_ceil(2);
    Rule {
        name: RuleName::parse("r").unwrap(),
        spec: RuleSpec {
            parent_id: parent.clone(),
            selectors: facts.selectors.iter().take(half).cloned().collect(),
            template,
            class: Some(ClassName::parse("reader").unwrap()),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            hint: String::new(),
            dns_names: Vec::new(),
            per_node: 1,
            in_all: 1,
        },
        version: 1,
        created_at: Timestamp::from_unix_seconds(1),
        created_by: String::new(),
        updated_at: Timestamp::from_unix_seconds(1),
        updated_by: String::new(),
        changed_at: Revision::default(),
    }
}
