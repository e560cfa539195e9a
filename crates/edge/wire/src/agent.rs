//! Agents on Muster's API.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_model::{
    AgentClass, AgentInstance, ClassSpec, Consent, DataClass, Delegation, Departure, FieldError,
    Line, MAX_LIST, MayActFor, Permissions, PersonId, Prose, Purpose, Resource, RiskTier, Scope,
    TaskDefaults, TextFault, Timestamp, Word,
};
use muster_proto::muster::agent::v1;

use crate::selector;

/// How long a task lives whose class does not say.
const TTL: Duration = Duration::from_mins(10);
/// How long a task may live whose class does not say.
const MAX_TTL: Duration = Duration::from_hours(1);

/// Writes a class.
pub fn write_class(class: &AgentClass) -> v1::AgentClass {
    let reviewed = class.last_reviewed.as_ref();
    v1::AgentClass {
        name: class.name.to_string(),
        spec: Some(write_spec(&class.spec)),
        lifecycle: class.standing.lifecycle.to_string(),
        since: Some(write_time(class.standing.since)),
        cause: class.standing.cause.to_string(),
        reason: class.standing.note.to_string(),
        by: class.standing.by.clone(),
        last_reviewed_by: reviewed
            .map(|reviewed| reviewed.by.to_string())
            .unwrap_or_default(),
        last_reviewed_at: reviewed.map(|reviewed| write_time(reviewed.at)),
        created_by: class.created_by.clone(),
        created_at: Some(write_time(class.created_at)),
        version: class.version,
        instances: 0,
    }
}

/// Writes what operators wrote about a class.
pub fn write_spec(spec: &ClassSpec) -> v1::ClassSpec {
    v1::ClassSpec {
        display_name: spec.display_name.to_string(),
        description: spec.description.to_string(),
        purposes: texts(&spec.purposes),
        owner: spec.owner.to_string(),
        sponsor: spec.sponsor.to_string(),
        team: spec
            .team
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        risk_tier: spec.risk_tier.number().into(),
        data_ceiling: spec.data_ceiling.number().into(),
        allowed_models: texts(&spec.allowed_models),
        allowed_providers: texts(&spec.allowed_providers),
        permissions: Some(v1::Permissions {
            scopes: texts(&spec.permissions.scopes),
            resources: texts(&spec.permissions.resources),
        }),
        delegation: Some(v1::Delegation {
            may_act_for: spec.delegation.may_act_for.to_string(),
            max_depth: spec.delegation.max_depth.into(),
            consent: spec.delegation.consent.to_string(),
        }),
        task_defaults: Some(v1::TaskDefaults {
            ttl: Some(write_duration(spec.task_defaults.ttl)),
            max_ttl: Some(write_duration(spec.task_defaults.max_ttl)),
            budget: spec.task_defaults.budget,
        }),
        attestation: spec.attestation.iter().map(selector::write).collect(),
        valid_until: Some(write_time(spec.valid_until)),
        review_by: Some(write_time(spec.review_by)),
    }
}

/// Reads what an operator wrote about a class; the first field that is at fault is the error.
pub fn read_spec(message: &v1::ClassSpec) -> Result<ClassSpec, FieldError> {
    let permissions = message.permissions.clone().unwrap_or_default();
    let delegation = message.delegation.clone().unwrap_or_default();
    let tasks = message.task_defaults.unwrap_or_default();
    let attestation = selector::read_set(&message.attestation)
        .map_err(|_| TextFault::Selector.at("attestation", &first_bad(&message.attestation)))?;
    if message.purposes.is_empty() {
        return Err(TextFault::Missing.at("purposes", ""));
    }
    Ok(ClassSpec {
        display_name: needed("display_name", &message.display_name, Line::parse)?,
        description: one("description", &message.description, Prose::parse)?,
        purposes: set("purposes", &message.purposes, Purpose::parse)?,
        owner: needed("owner", &message.owner, PersonId::parse)?,
        sponsor: needed("sponsor", &message.sponsor, PersonId::parse)?,
        team: optional("team", &message.team, Word::parse)?,
        risk_tier: number("risk_tier", message.risk_tier, RiskTier::new)?,
        data_ceiling: number("data_ceiling", message.data_ceiling, DataClass::new)?,
        allowed_models: set("allowed_models", &message.allowed_models, Word::parse)?,
        allowed_providers: set("allowed_providers", &message.allowed_providers, Word::parse)?,
        permissions: Permissions {
            scopes: set("permissions.scopes", &permissions.scopes, Scope::parse)?,
            resources: set(
                "permissions.resources",
                &permissions.resources,
                Resource::parse,
            )?,
        },
        delegation: Delegation {
            may_act_for: choice(
                "delegation.may_act_for",
                &delegation.may_act_for,
                MayActFor::None,
                MayActFor::from_word,
                MayActFor::WORDS,
            )?,
            max_depth: number("delegation.max_depth", delegation.max_depth, |depth| {
                u8::try_from(depth)
                    .ok()
                    .filter(|depth| *depth <= Delegation::DEEPEST)
                    .ok_or(TextFault::Depth)
            })?,
            consent: choice(
                "delegation.consent",
                &delegation.consent,
                Consent::Interactive,
                Consent::from_word,
                Consent::WORDS,
            )?,
        },
        task_defaults: TaskDefaults {
            ttl: lifetime("task_defaults.ttl", tasks.ttl, TTL)?,
            max_ttl: lifetime("task_defaults.max_ttl", tasks.max_ttl, MAX_TTL)?,
            budget: tasks.budget,
        },
        attestation,
        valid_until: instant("valid_until", message.valid_until)?,
        review_by: instant("review_by", message.review_by)?,
    })
}

/// The fields of a class that an update can name.
pub const SPEC_FIELDS: [&str; 16] = [
    "display_name",
    "description",
    "purposes",
    "owner",
    "sponsor",
    "team",
    "risk_tier",
    "data_ceiling",
    "allowed_models",
    "allowed_providers",
    "permissions",
    "delegation",
    "task_defaults",
    "attestation",
    "valid_until",
    "review_by",
];

/// Takes the field of that name over from `new`; `false` where there is no such field.
pub fn take_field(spec: &mut v1::ClassSpec, field: &str, new: &v1::ClassSpec) -> bool {
    match field {
        "display_name" => spec.display_name.clone_from(&new.display_name),
        "description" => spec.description.clone_from(&new.description),
        "purposes" => spec.purposes.clone_from(&new.purposes),
        "owner" => spec.owner.clone_from(&new.owner),
        "sponsor" => spec.sponsor.clone_from(&new.sponsor),
        "team" => spec.team.clone_from(&new.team),
        "risk_tier" => spec.risk_tier = new.risk_tier,
        "data_ceiling" => spec.data_ceiling = new.data_ceiling,
        "allowed_models" => spec.allowed_models.clone_from(&new.allowed_models),
        "allowed_providers" => spec.allowed_providers.clone_from(&new.allowed_providers),
        "permissions" => spec.permissions.clone_from(&new.permissions),
        "delegation" => spec.delegation.clone_from(&new.delegation),
        "task_defaults" => spec.task_defaults = new.task_defaults,
        "attestation" => spec.attestation.clone_from(&new.attestation),
        "valid_until" => spec.valid_until = new.valid_until,
        "review_by" => spec.review_by = new.review_by,
        _ => return false,
    }
    true
}

/// Writes an instance.
pub fn write_instance(instance: &AgentInstance) -> v1::AgentInstance {
    let text =
        |id: Option<&muster_model::SpiffeId>| id.map(ToString::to_string).unwrap_or_default();
    v1::AgentInstance {
        spiffe_id: instance.id.to_string(),
        class: instance.class.to_string(),
        node_id: text(instance.node.as_ref()),
        parent_id: text(instance.parent.as_ref()),
        executable_sha256: instance
            .executable
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        first_seen: Some(write_time(instance.first_seen)),
        last_seen: Some(write_time(instance.last_seen)),
        state: instance.state.to_string(),
        cause: instance.cause.to_string(),
    }
}

/// Writes a person who is gone.
pub fn write_departure(departure: &Departure) -> v1::PersonGone {
    v1::PersonGone {
        person: departure.person.to_string(),
        since: Some(write_time(departure.at)),
        reason: departure.note.to_string(),
        by: departure.by.clone(),
    }
}

/// Writes an instant.
pub fn write_time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_seconds(),
        nanos: i32::try_from(at.unix_millis().rem_euclid(1000) * 1_000_000).unwrap_or(0),
    }
}

/// Reads an instant that must be there.
pub fn instant(
    field: &'static str,
    at: Option<prost_types::Timestamp>,
) -> Result<Timestamp, FieldError> {
    let at = at.ok_or_else(|| TextFault::Missing.at(field, ""))?;
    if at.seconds <= 0 || at.nanos < 0 {
        return Err(TextFault::Instant.at(field, &at.seconds.to_string()));
    }
    let whole = Timestamp::from_unix_seconds(at.seconds);
    let millis = u64::try_from(at.nanos / 1_000_000).unwrap_or(0);
    Ok(whole.plus(Duration::from_millis(millis)))
}

/// Reads a text that must be there.
pub fn needed<T>(
    field: &'static str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, TextFault>,
) -> Result<T, FieldError> {
    if text.is_empty() {
        return Err(TextFault::Missing.at(field, ""));
    }
    one(field, text, parse)
}

/// Reads a text; what is empty is not there.
pub fn optional<T>(
    field: &'static str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, TextFault>,
) -> Result<Option<T>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    one(field, text, parse).map(Some)
}

/// Reads a text, also an empty one.
pub fn one<T>(
    field: &'static str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, TextFault>,
) -> Result<T, FieldError> {
    parse(text).map_err(|fault| fault.at(field, text))
}

/// Reads a list as a set; duplicates fold.
pub fn set<T: Ord>(
    field: &'static str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, TextFault>,
) -> Result<BTreeSet<T>, FieldError> {
    if texts.len() > MAX_LIST {
        return Err(TextFault::TooMany { most: MAX_LIST }.at(field, &texts.len().to_string()));
    }
    texts.iter().map(|text| one(field, text, &parse)).collect()
}

/// Reads a word of a vocabulary; an empty text is `default`.
pub fn choice<T>(
    field: &'static str,
    text: &str,
    default: T,
    read: impl Fn(&str) -> Option<T>,
    words: &'static str,
) -> Result<T, FieldError> {
    if text.is_empty() {
        return Ok(default);
    }
    read(text).ok_or_else(|| TextFault::Choice { words }.at(field, text))
}

pub(crate) fn number<T>(
    field: &'static str,
    number: u32,
    read: impl Fn(u32) -> Result<T, TextFault>,
) -> Result<T, FieldError> {
    read(number).map_err(|fault| fault.at(field, &number.to_string()))
}

pub(crate) fn lifetime(
    field: &'static str,
    wanted: Option<prost_types::Duration>,
    default: Duration,
) -> Result<Duration, FieldError> {
    let Some(wanted) = wanted else {
        return Ok(default);
    };
    u64::try_from(wanted.seconds)
        .ok()
        .filter(|_| wanted.nanos == 0)
        .map(Duration::from_secs)
        .filter(|ttl| !ttl.is_zero() && *ttl <= TaskDefaults::LONGEST)
        .ok_or_else(|| TextFault::Lifetime.at(field, &format!("{}s", wanted.seconds)))
}

pub(crate) fn write_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

pub(crate) fn texts<T: ToString>(values: &BTreeSet<T>) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(crate) fn first_bad(selectors: &[muster_proto::spire::api::types::Selector]) -> String {
    selectors
        .iter()
        .find(|message| selector::read(message).is_err())
        .map(|message| format!("{}:{}", message.r#type, message.value))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> v1::ClassSpec {
        v1::ClassSpec {
            display_name: "Reader".into(),
            description: "Reads.".into(),
            purposes: vec!["coding".into(), "research".into()],
            owner: "mailto:olga@example.org".into(),
            sponsor: "https://idp.example.org#sam".into(),
            team: "payments".into(),
            risk_tier: 2,
            data_ceiling: 3,
            allowed_models: vec!["m:1".into()],
            allowed_providers: vec!["local".into()],
            permissions: Some(v1::Permissions {
                scopes: vec!["mail.read".into()],
                resources: vec!["https://api.example.org/".into()],
            }),
            delegation: Some(v1::Delegation {
                may_act_for: "users".into(),
                max_depth: 2,
                consent: "ciba".into(),
            }),
            task_defaults: Some(v1::TaskDefaults {
                ttl: Some(write_duration(TTL)),
                max_ttl: Some(write_duration(MAX_TTL)),
                budget: Some(7),
            }),
            attestation: vec![selector::write(&"unix:uid:1".parse().unwrap())],
            valid_until: Some(write_time(Timestamp::from_unix_millis(2_000_500))),
            review_by: Some(write_time(Timestamp::from_unix_seconds(1000))),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let spec = read_spec(&full()).unwrap();
        assert_eq!(write_spec(&spec), full());
        let mut bare = full();
        (bare.delegation, bare.task_defaults, bare.permissions) = (None, None, None);
        let spec = read_spec(&bare).unwrap();
        assert_eq!(
            (spec.task_defaults.ttl, spec.delegation.may_act_for),
            (TTL, MayActFor::None)
        );
    }

    #[test]
    fn each_fault_names_its_field() {
        let check = |change: &dyn Fn(&mut v1::ClassSpec), field: &str| {
            let mut message = full();
            change(&mut message);
            assert_eq!(read_spec(&message).unwrap_err().field, field);
        };
        check(&|m| m.display_name.clear(), "display_name");
        check(&|m| m.description = "\u{7}".into(), "description");
        check(&|m| m.purposes.clear(), "purposes");
        check(&|m| m.purposes.push("everything".into()), "purposes");
        check(&|m| m.owner = "olga".into(), "owner");
        check(&|m| m.sponsor.clear(), "sponsor");
        check(&|m| m.team = "a b".into(), "team");
        check(&|m| m.risk_tier = 5, "risk_tier");
        check(&|m| m.data_ceiling = 260, "data_ceiling");
        check(
            &|m| m.allowed_models = vec!["m".into(); 65],
            "allowed_models",
        );
        check(
            &|m| m.permissions.as_mut().unwrap().scopes.push(" ".into()),
            "permissions.scopes",
        );
        check(
            &|m| m.delegation.as_mut().unwrap().max_depth = 17,
            "delegation.max_depth",
        );
        check(
            &|m| m.delegation.as_mut().unwrap().consent = "no".into(),
            "delegation.consent",
        );
        check(
            &|m| m.task_defaults.as_mut().unwrap().ttl = Some(prost_types::Duration::default()),
            "task_defaults.ttl",
        );
        check(
            &|m| m.attestation = vec![muster_proto::spire::api::types::Selector::default()],
            "attestation",
        );
        check(&|m| m.valid_until = None, "valid_until");
        check(
            &|m| m.review_by = Some(prost_types::Timestamp::default()),
            "review_by",
        );
    }

    #[test]
    fn every_field_can_be_taken_over() {
        let mut spec = v1::ClassSpec::default();
        for field in SPEC_FIELDS {
            assert!(take_field(&mut spec, field, &full()), "{field}");
        }
        assert_eq!(spec, full());
        assert!(!take_field(&mut spec, "name", &full()));
    }
}
