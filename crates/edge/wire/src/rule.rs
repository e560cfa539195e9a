//! Identity rules on Muster's API.

use std::time::Duration;

use muster_model::{
    BootId, ClassName, Facts, FieldError, MAX_LIST, ProcessMark, Revision, Rule, RuleName,
    RuleSpec, SpiffeId, Template, TemplateError, TextFault, Timestamp, TrustDomain,
};
use muster_proto::muster::agent::v1;

use crate::agent::{first_bad, instant, lifetime, needed, optional, write_duration, write_time};
use crate::selector;

/// How many selectors a process may have: a few dozen are usual.
const MAX_FACTS: usize = 512;

/// What is wrong with a rule as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// A field.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The template, at a place of it.
    #[error("invalid template {text:?} {error}")]
    Template {
        /// The template, cut where it is long.
        text: String,
        /// What is wrong, and where.
        error: TemplateError,
    },
}

/// Writes a rule.
pub fn write(rule: &Rule) -> v1::Rule {
    v1::Rule {
        name: rule.name.to_string(),
        spec: Some(write_spec(&rule.spec)),
        version: rule.version,
        created_at: Some(write_time(rule.created_at)),
        created_by: rule.created_by.clone(),
        updated_at: Some(write_time(rule.updated_at)),
        updated_by: rule.updated_by.clone(),
        names: 0,
        nodes: 0,
        withheld: String::new(),
    }
}

/// Writes what operators wrote about a rule.
pub fn write_spec(spec: &RuleSpec) -> v1::RuleSpec {
    v1::RuleSpec {
        parent_id: spec.parent_id.to_string(),
        selectors: spec.selectors.iter().map(selector::write).collect(),
        template: spec.template.to_string(),
        class: spec
            .class
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        x509_svid_ttl: spec.x509_svid_ttl.map(write_duration),
        jwt_svid_ttl: spec.jwt_svid_ttl.map(write_duration),
        per_node: spec.per_node,
        in_all: spec.in_all,
        federates_with: spec
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        hint: spec.hint.clone(),
        dns_names: spec.dns_names.clone(),
    }
}

/// Reads a rule, as a node gets it from its server.
pub fn read(message: &v1::Rule) -> Result<Rule, RuleFault> {
    let spec = message
        .spec
        .as_ref()
        .ok_or_else(|| TextFault::Missing.at("spec", ""))?;
    Ok(Rule {
        name: read_name(&message.name)?,
        spec: read_spec(spec)?,
        version: message.version,
        created_at: whole(instant("created_at", message.created_at)?),
        created_by: message.created_by.clone(),
        updated_at: whole(instant("updated_at", message.updated_at)?),
        updated_by: message.updated_by.clone(),
        changed_at: Revision::default(),
    })
}

fn whole(at: Timestamp) -> Timestamp {
    at.floor_to_second()
}

/// Reads the name of a rule, which must be there.
pub fn read_name(text: &str) -> Result<RuleName, FieldError> {
    needed("name", text, RuleName::parse)
}

/// Reads what an operator wrote about a rule; the first fault is the error. Whether it may be
/// written, the roll says.
pub fn read_spec(message: &v1::RuleSpec) -> Result<RuleSpec, RuleFault> {
    let parent = |text: &str| SpiffeId::parse(text).map_err(TextFault::SpiffeId);
    let parent_id = needed("parent_id", &message.parent_id, parent)?;
    let count = message.selectors.len();
    if count == 0 {
        return Err(TextFault::Missing.at("selectors", "").into());
    }
    if count > MAX_LIST {
        let fault = TextFault::TooMany { most: MAX_LIST };
        return Err(fault.at("selectors", &count.to_string()).into());
    }
    let selectors = selector::read_set(&message.selectors)
        .map_err(|_| TextFault::Selector.at("selectors", &first_bad(&message.selectors)))?;
    if message.template.is_empty() {
        return Err(TextFault::Missing.at("template", "").into());
    }
    let template = Template::parse(&message.template).map_err(|error| RuleFault::Template {
        text: message.template.chars().take(256).collect(),
        error,
    })?;
    Ok(RuleSpec {
        parent_id,
        selectors,
        template,
        class: optional("class", &message.class, ClassName::parse)?,
        x509_svid_ttl: read_ttl("x509_svid_ttl", message.x509_svid_ttl)?,
        jwt_svid_ttl: read_ttl("jwt_svid_ttl", message.jwt_svid_ttl)?,
        federates_with: listed("federates_with", &message.federates_with)?
            .iter()
            .map(|name| {
                TrustDomain::from_name_or_id(name)
                    .map_err(|why| TextFault::TrustDomain(why).at("federates_with", name))
            })
            .collect::<Result<_, _>>()?,
        hint: message.hint.clone(),
        dns_names: listed("dns_names", &message.dns_names)?.to_vec(),
        per_node: message.per_node,
        in_all: message.in_all,
    })
}

/// A list that is not too long.
fn listed<'m>(field: &'static str, list: &'m [String]) -> Result<&'m [String], FieldError> {
    if list.len() > MAX_LIST {
        return Err(TextFault::TooMany { most: MAX_LIST }.at(field, &list.len().to_string()));
    }
    Ok(list)
}

fn read_ttl(
    field: &'static str,
    ttl: Option<prost_types::Duration>,
) -> Result<Option<Duration>, FieldError> {
    // The default is never taken: what is absent is not read.
    ttl.map(|ttl| lifetime(field, Some(ttl), Duration::ZERO))
        .transpose()
}

/// The fields of a rule that an update can name.
pub const SPEC_FIELDS: [&str; 11] = [
    "parent_id",
    "selectors",
    "template",
    "class",
    "x509_svid_ttl",
    "jwt_svid_ttl",
    "per_node",
    "in_all",
    "federates_with",
    "hint",
    "dns_names",
];

/// Takes the field of that name over from `new`; `false` where there is no such field.
pub fn take_field(spec: &mut v1::RuleSpec, field: &str, new: &v1::RuleSpec) -> bool {
    match field {
        "parent_id" => spec.parent_id.clone_from(&new.parent_id),
        "selectors" => spec.selectors.clone_from(&new.selectors),
        "template" => spec.template.clone_from(&new.template),
        "class" => spec.class.clone_from(&new.class),
        "x509_svid_ttl" => spec.x509_svid_ttl = new.x509_svid_ttl,
        "jwt_svid_ttl" => spec.jwt_svid_ttl = new.jwt_svid_ttl,
        "per_node" => spec.per_node = new.per_node,
        "in_all" => spec.in_all = new.in_all,
        "federates_with" => spec.federates_with.clone_from(&new.federates_with),
        "hint" => spec.hint.clone_from(&new.hint),
        "dns_names" => spec.dns_names.clone_from(&new.dns_names),
        _ => return false,
    }
    true
}

/// Writes what is known about a process.
pub fn write_facts(facts: &Facts) -> v1::Facts {
    v1::Facts {
        selectors: facts.selectors.iter().map(selector::write).collect(),
        process: facts.process.as_ref().map(write_mark),
    }
}

/// Reads what is known about a process.
pub fn read_facts(message: Option<&v1::Facts>) -> Result<Facts, FieldError> {
    let message = message.ok_or_else(|| TextFault::Missing.at("facts", ""))?;
    let count = message.selectors.len();
    if count > MAX_FACTS {
        let fault = TextFault::TooMany { most: MAX_FACTS };
        return Err(fault.at("facts.selectors", &count.to_string()));
    }
    Ok(Facts {
        selectors: selector::read_set(&message.selectors).map_err(|_| {
            TextFault::Selector.at("facts.selectors", &first_bad(&message.selectors))
        })?,
        process: message.process.as_ref().map(read_mark).transpose()?,
    })
}

/// Writes which process it is.
pub fn write_mark(mark: &ProcessMark) -> v1::ProcessMark {
    v1::ProcessMark {
        boot_id: mark.boot.to_string(),
        pid: mark.pid,
        start_time: mark.start_time,
    }
}

/// Reads which process it is.
pub fn read_mark(message: &v1::ProcessMark) -> Result<ProcessMark, FieldError> {
    Ok(ProcessMark {
        boot: needed("process.boot_id", &message.boot_id, BootId::parse)?,
        pid: message.pid,
        start_time: message.start_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rule {
            name: RuleName::parse("readers").unwrap(),
            spec: RuleSpec {
                parent_id: SpiffeId::parse("spiffe://td/spire/agent/x").unwrap(),
                selectors: ["unix:uid:7".parse().unwrap()].into(),
                template: Template::parse("spiffe://{td}/agent/{class}/{instance}").unwrap(),
                class: Some(ClassName::parse("reader").unwrap()),
                x509_svid_ttl: Some(Duration::from_mins(5)),
                jwt_svid_ttl: None,
                federates_with: [TrustDomain::parse("friend").unwrap()].into(),
                hint: "reader".into(),
                dns_names: vec!["b.example".into(), "a.example".into()],
                per_node: 100,
                in_all: 1000,
            },
            version: 3,
            created_at: Timestamp::from_unix_seconds(9),
            created_by: "root".into(),
            updated_at: Timestamp::from_unix_seconds(10),
            updated_by: "spiffe://td/ana".into(),
            changed_at: Revision::default(),
        }
    }

    #[test]
    fn written_and_read_again() {
        assert_eq!(read(&write(&rule())), Ok(rule()));
        let facts = Facts {
            selectors: ["unix:uid:7".parse().unwrap()].into(),
            process: Some(ProcessMark {
                boot: BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap(),
                pid: 42,
                start_time: 1000,
            }),
        };
        assert_eq!(read_facts(Some(&write_facts(&facts))), Ok(facts));
    }

    #[test]
    fn each_field_can_be_taken_over_and_each_fault_is_named() {
        let mut spec = v1::RuleSpec::default();
        for field in SPEC_FIELDS {
            assert!(
                take_field(&mut spec, field, &write_spec(&rule().spec)),
                "{field}"
            );
        }
        assert_eq!(spec, write_spec(&rule().spec));
        assert!(!take_field(&mut spec, "name", &v1::RuleSpec::default()));

        let check = |change: fn(&mut v1::RuleSpec), expected: &str| {
            let mut spec = write_spec(&rule().spec);
            change(&mut spec);
            let fault = read_spec(&spec).unwrap_err().to_string();
            assert!(fault.starts_with(expected), "{fault}");
        };
        check(
            |s| s.parent_id.clear(),
            "invalid parent_id \"\": it is missing",
        );
        check(
            |s| s.parent_id = "x".into(),
            "invalid parent_id \"x\": a SPIFFE ID must",
        );
        check(
            |s| s.selectors.clear(),
            "invalid selectors \"\": it is missing",
        );
        check(
            |s| s.selectors[0].value.clear(),
            "invalid selectors \"unix:\": a selector",
        );
        check(
            |s| s.template.clear(),
            "invalid template \"\": it is missing",
        );
        check(
            |s| s.template = "spiffe://{td}/{x}".into(),
            "invalid template \"spiffe://{td}/{x}\" at byte 14: there is no placeholder \"x\"",
        );
        check(|s| s.class = "X".into(), "invalid class \"X\"");
        check(
            |s| s.federates_with = vec!["Friend".into()],
            "invalid federates_with \"Friend\": a trust domain",
        );
        check(
            |s| s.dns_names = vec![String::new(); 65],
            "invalid dns_names \"65\": ",
        );
    }
}
