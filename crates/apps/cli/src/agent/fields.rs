//! What is written about a class, as flags.

use clap::Args;
use muster_model::{
    ClassName, Consent, DataClass, Line, MayActFor, PersonId, Prose, Purpose, Resource, RiskTier,
    Scope, Selector, Word,
};
use muster_proto::muster::agent::v1;
use muster_wire::selector;

use super::{file, view};
use crate::failure::Failure;
use crate::server_api::ServerArgs;
use crate::time::{Ttl, When, parse_ttl, parse_when};

fn words<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn risk_tier(text: &str) -> Result<RiskTier, String> {
    let number: u8 = text
        .parse()
        .map_err(|_| "it is a whole number from 0 to 4")?;
    RiskTier::new(number).map_err(|fault| fault.to_string())
}

fn data_class(text: &str) -> Result<DataClass, String> {
    let number: u8 = text
        .parse()
        .map_err(|_| "it is a whole number from 0 to 4")?;
    DataClass::new(number).map_err(|fault| fault.to_string())
}

fn may_act_for(word: &str) -> Result<MayActFor, String> {
    MayActFor::from_word(word).ok_or_else(|| format!("it is one of: {}", MayActFor::WORDS))
}

fn consent(word: &str) -> Result<Consent, String> {
    Consent::from_word(word).ok_or_else(|| format!("it is one of: {}", Consent::WORDS))
}

/// What flags say; what is not given stays as it is.
#[derive(Args, Debug)]
pub(super) struct Fields {
    /// Name for people; by default the name of the class
    #[arg(long, value_name = "TEXT")]
    display_name: Option<Line>,
    /// What its agents do, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<Prose>,
    /// What its agents are for, a word of the vocabulary; repeatable
    #[arg(long, value_name = "PURPOSE", value_parser = Purpose::parse)]
    purpose: Vec<Purpose>,
    /// Who runs it.
    #[arg(
        long,
        value_name = "PERSON",
        help = "Who runs it, such as mailto:ana@example.org or https://idp.example.org#00u1ab"
    )]
    owner: Option<PersonId>,
    /// Who is accountable for it; not the owner
    #[arg(long, value_name = "PERSON")]
    sponsor: Option<PersonId>,
    /// The team
    #[arg(long, value_name = "TEAM")]
    team: Option<Word>,
    /// How much harm its agents can do, 0 to 4
    #[arg(long, value_name = "TIER", value_parser = risk_tier)]
    risk_tier: Option<RiskTier>,
    /// The most sensitive data that they may have, 0 to 4
    #[arg(long, value_name = "CLASS", value_parser = data_class)]
    data_ceiling: Option<DataClass>,
    /// A model that they may use; repeatable
    #[arg(long, value_name = "MODEL")]
    model: Vec<Word>,
    /// A provider of models that they may use; repeatable
    #[arg(long, value_name = "PROVIDER")]
    provider: Vec<Word>,
    /// A scope that they may ask for; repeatable
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<Scope>,
    /// A resource that they may ask for; repeatable
    #[arg(long, value_name = "URI")]
    resource: Vec<Resource>,
    /// For whom they may act: none, users, agents
    #[arg(long, value_name = "WHOM", value_parser = may_act_for)]
    may_act_for: Option<MayActFor>,
    /// How deep tasks may stand below the first, 0 to 16
    #[arg(long, value_name = "DEPTH", value_parser = clap::value_parser!(u32).range(0..=16))]
    max_depth: Option<u32>,
    /// How users agree: standing, interactive, ciba
    #[arg(long, value_name = "HOW", value_parser = consent)]
    consent: Option<Consent>,
    /// How long a task lives that does not say
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    task_ttl: Option<Ttl>,
    /// How long a task may live
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    task_max_ttl: Option<Ttl>,
    /// How much a task may spend, in units of your choice
    #[arg(long, value_name = "UNITS")]
    task_budget: Option<u64>,
    /// What a process is attested as that is an agent of the class; repeatable
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<Selector>,
    /// When the class ends: an instant, or a duration from now such as 365d
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    valid_until: Option<When>,
    /// When someone must have looked at it again: an instant, or a duration from now
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    review_by: Option<When>,
}

impl Fields {
    /// Puts what was given into the spec, and says which fields that were.
    fn apply(&self, spec: &mut v1::ClassSpec) -> Vec<&'static str> {
        let mut given = Vec::new();
        let mut text = |field: &'static str, place: &mut String, value: Option<String>| {
            if let Some(value) = value {
                *place = value;
                given.push(field);
            }
        };
        let as_text = |value: Option<&PersonId>| value.map(ToString::to_string);
        text(
            "display_name",
            &mut spec.display_name,
            self.display_name.as_ref().map(ToString::to_string),
        );
        text(
            "description",
            &mut spec.description,
            self.description.as_ref().map(ToString::to_string),
        );
        text("owner", &mut spec.owner, as_text(self.owner.as_ref()));
        text("sponsor", &mut spec.sponsor, as_text(self.sponsor.as_ref()));
        text(
            "team",
            &mut spec.team,
            self.team.as_ref().map(ToString::to_string),
        );
        let lists = [
            ("purposes", &mut spec.purposes, words(&self.purpose)),
            (
                "allowed_models",
                &mut spec.allowed_models,
                words(&self.model),
            ),
            (
                "allowed_providers",
                &mut spec.allowed_providers,
                words(&self.provider),
            ),
        ];
        for (field, place, values) in lists {
            if !values.is_empty() {
                *place = values;
                given.push(field);
            }
        }
        if let Some(tier) = self.risk_tier {
            spec.risk_tier = tier.number().into();
            given.push("risk_tier");
        }
        if let Some(class) = self.data_ceiling {
            spec.data_ceiling = class.number().into();
            given.push("data_ceiling");
        }
        let permissions = spec.permissions.get_or_insert_default();
        if !self.scope.is_empty() {
            permissions.scopes = words(&self.scope);
            given.push("permissions");
        }
        if !self.resource.is_empty() {
            permissions.resources = words(&self.resource);
            given.push("permissions");
        }
        given.extend(self.apply_delegation(spec.delegation.get_or_insert_default()));
        given.extend(self.apply_tasks(spec.task_defaults.get_or_insert_default()));
        if !self.selector.is_empty() {
            spec.attestation = self.selector.iter().map(selector::write).collect();
            given.push("attestation");
        }
        if let Some(when) = self.valid_until {
            spec.valid_until = Some(when.from(view::now()));
            given.push("valid_until");
        }
        if let Some(when) = self.review_by {
            spec.review_by = Some(when.from(view::now()));
            given.push("review_by");
        }
        given.dedup();
        given
    }

    fn apply_delegation(&self, delegation: &mut v1::Delegation) -> Option<&'static str> {
        if let Some(whom) = self.may_act_for {
            delegation.may_act_for = whom.to_string();
        }
        if let Some(depth) = self.max_depth {
            delegation.max_depth = depth;
        }
        if let Some(how) = self.consent {
            delegation.consent = how.to_string();
        }
        let given =
            self.may_act_for.is_some() || self.max_depth.is_some() || self.consent.is_some();
        given.then_some("delegation")
    }

    fn apply_tasks(&self, tasks: &mut v1::TaskDefaults) -> Option<&'static str> {
        let seconds = |ttl: Ttl| prost_types::Duration {
            seconds: ttl.0.into(),
            nanos: 0,
        };
        if let Some(ttl) = self.task_ttl {
            tasks.ttl = Some(seconds(ttl));
        }
        if let Some(ttl) = self.task_max_ttl {
            tasks.max_ttl = Some(seconds(ttl));
        }
        if self.task_budget.is_some() {
            tasks.budget = self.task_budget;
        }
        let given =
            self.task_ttl.is_some() || self.task_max_ttl.is_some() || self.task_budget.is_some();
        given.then_some("task_defaults")
    }
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the class; with --file, what the file says
    #[arg(value_name = "CLASS", required_unless_present = "file")]
    name: Option<ClassName>,
    #[command(flatten)]
    fields: Fields,
    /// Read the class from a TOML file, or from standard input with "-"; see docs/agents.md
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    file: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Create {
    pub(super) fn request(&self) -> Result<v1::CreateClassRequest, Failure> {
        let (name, mut spec) = match (&self.name, &self.file) {
            (_, Some(file)) => file::read(file)?,
            (Some(name), None) => {
                let spec = v1::ClassSpec {
                    display_name: name.to_string(),
                    ..v1::ClassSpec::default()
                };
                (name.clone(), spec)
            }
            (None, None) => return Err(Failure::usage("the name of the class is missing")),
        };
        // Flags beside a file say more than the file.
        self.fields.apply(&mut spec);
        Ok(v1::CreateClassRequest {
            name: name.to_string(),
            spec: Some(spec),
            reason: self.reason.clone(),
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Name of the class
    #[arg(value_name = "CLASS")]
    pub(super) name: ClassName,
    #[command(flatten)]
    fields: Fields,
    /// Take all that a TOML file says, or standard input with "-"
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// Empty a field, by its name in class files: team, description, allowed_models,
    /// allowed_providers, permissions, attestation; repeatable
    #[arg(long, value_name = "FIELD", value_parser = ["team", "description", "allowed_models", "allowed_providers", "permissions", "attestation"])]
    clear: Vec<String>,
    /// Only if the class is at this version; by default, the one that it has now
    #[arg(long, value_name = "NUMBER")]
    at_version: Option<u64>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Update {
    pub(super) fn request(
        &self,
        current: &v1::AgentClass,
    ) -> Result<v1::UpdateClassRequest, Failure> {
        let (mut spec, mut paths) = match &self.file {
            Some(file) => {
                let (name, spec) = file::read(file)?;
                if name != self.name {
                    return Err(Failure::usage(format!(
                        "{file} is about class {name}, and {} was to be updated",
                        self.name
                    )));
                }
                let all = muster_wire::agent::SPEC_FIELDS;
                (spec, all.iter().map(ToString::to_string).collect())
            }
            None => (current.spec.clone().unwrap_or_default(), Vec::new()),
        };
        for field in &self.clear {
            muster_wire::agent::take_field(&mut spec, field, &v1::ClassSpec::default());
            paths.push(field.clone());
        }
        paths.extend(self.fields.apply(&mut spec).into_iter().map(str::to_owned));
        if paths.is_empty() {
            return Err(Failure::usage(
                "nothing to change was given; see `muster agent class update --help`",
            ));
        }
        paths.sort_unstable();
        paths.dedup();
        Ok(v1::UpdateClassRequest {
            name: self.name.to_string(),
            spec: Some(spec),
            mask: Some(prost_types::FieldMask { paths }),
            version: self.at_version.unwrap_or(current.version),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct UpdateLine {
        #[command(flatten)]
        update: Update,
    }

    fn update(flags: &str) -> Result<v1::UpdateClassRequest, Failure> {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        let current = v1::AgentClass {
            name: "reader".into(),
            spec: Some(v1::ClassSpec {
                team: "old".into(),
                permissions: Some(v1::Permissions {
                    scopes: vec!["a".into()],
                    resources: vec!["urn:x".into()],
                }),
                ..v1::ClassSpec::default()
            }),
            version: 7,
            ..v1::AgentClass::default()
        };
        UpdateLine::try_parse_from(words)
            .unwrap()
            .update
            .request(&current)
    }

    #[test]
    fn an_update_sends_only_what_is_given() {
        let sent = update("reader --scope b --risk-tier 3 --clear team").unwrap();
        assert_eq!(
            sent.mask.unwrap().paths,
            ["permissions", "risk_tier", "team"]
        );
        let spec = sent.spec.unwrap();
        assert_eq!(
            (spec.risk_tier, spec.team.as_str(), sent.version),
            (3, "", 7)
        );
        // The other half of a group keeps its value.
        let permissions = spec.permissions.unwrap();
        assert_eq!(
            (permissions.scopes, permissions.resources),
            (vec!["b".into()], vec!["urn:x".into()])
        );
        assert_eq!(
            update("reader --task-ttl 5m --at-version 3")
                .unwrap()
                .version,
            3
        );
        assert!(update("reader").is_err());
    }

    #[test]
    fn a_flag_is_checked_where_it_is_typed() {
        for flags in [
            "reader --owner ana",
            "reader --purpose everything",
            "reader --risk-tier 5",
            "reader --max-depth 17",
            "reader --consent maybe",
            "Reader --team x",
        ] {
            let words = std::iter::once("x").chain(flags.split_whitespace());
            assert!(UpdateLine::try_parse_from(words).is_err(), "{flags}");
        }
    }
}
