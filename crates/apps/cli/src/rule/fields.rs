//! The flags of `rule create`, `rule update` and `rule try`.

use clap::{Args, ValueEnum};
use muster_model::{ClassName, RuleName, Selector, SpiffeId, TrustDomain};
use muster_proto::muster::agent::v1;
use muster_wire::selector;

use crate::failure::Failure;
use crate::server_api::ServerArgs;
use crate::time::{Ttl, parse_ttl};

/// What flags say; what is not given stays as it is.
#[derive(Args, Debug)]
pub(super) struct Fields {
    /// The node, node alias or other name under which the processes must run
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// What a process must be attested as; repeatable, all must hold
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<Selector>,
    /// How names are made.
    #[arg(
        long,
        value_name = "TEMPLATE",
        help = "How names are made, such as \"spiffe://{td}/agent/{class}/{instance}\"; placeholders are \
                {class}, {node}, {instance} and facts such as {unix:uid}"
    )]
    template: Option<String>,
    /// The agent class that the identities are of; what it asks of a process must hold too
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    /// Lifetime of X509-SVIDs; 0s is the server's default
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    x509_ttl: Option<Ttl>,
    /// Lifetime of JWT-SVIDs; 0s is the server's default
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    jwt_ttl: Option<Ttl>,
    /// A foreign trust domain whose bundle the processes receive; repeatable
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = TrustDomain::from_name_or_id)]
    federates_with: Vec<TrustDomain>,
    /// A word by which a process tells several identities apart
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// A DNS name for X509-SVIDs, the same for every process; repeatable, the first is also the
    /// common name
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// How many names it may give on one node at a time
    #[arg(long, value_name = "NUMBER")]
    per_node: Option<u32>,
    /// How many names it may give on all nodes together; by default as many as on one node
    #[arg(long, value_name = "NUMBER")]
    in_all: Option<u32>,
}

impl Fields {
    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        let mut spec = v1::RuleSpec::default();
        self.apply(&mut spec).is_empty()
    }

    /// The template, if one is given.
    pub(super) fn template(&self) -> &str {
        self.template.as_deref().unwrap_or_default()
    }

    /// Puts what was given into the spec, and says which fields that were.
    fn apply(&self, spec: &mut v1::RuleSpec) -> Vec<&'static str> {
        let mut given = Vec::new();
        if let Some(id) = &self.parent_id {
            spec.parent_id = id.to_string();
            given.push("parent_id");
        }
        if !self.selector.is_empty() {
            spec.selectors = self.selector.iter().map(selector::write).collect();
            given.push("selectors");
        }
        if let Some(template) = &self.template {
            spec.template.clone_from(template);
            given.push("template");
        }
        if let Some(class) = &self.class {
            spec.class = class.to_string();
            given.push("class");
        }
        let ttl = |Ttl(seconds): Ttl| {
            let seconds = i64::from(seconds);
            (seconds != 0).then_some(prost_types::Duration { seconds, nanos: 0 })
        };
        if let Some(time) = self.x509_ttl {
            spec.x509_svid_ttl = ttl(time);
            given.push("x509_svid_ttl");
        }
        if let Some(time) = self.jwt_ttl {
            spec.jwt_svid_ttl = ttl(time);
            given.push("jwt_svid_ttl");
        }
        if !self.federates_with.is_empty() {
            spec.federates_with = self
                .federates_with
                .iter()
                .map(ToString::to_string)
                .collect();
            given.push("federates_with");
        }
        if let Some(hint) = &self.hint {
            spec.hint.clone_from(hint);
            given.push("hint");
        }
        if !self.dns.is_empty() {
            spec.dns_names.clone_from(&self.dns);
            given.push("dns_names");
        }
        if let Some(most) = self.per_node {
            spec.per_node = most;
            given.push("per_node");
        }
        if let Some(most) = self.in_all {
            spec.in_all = most;
            given.push("in_all");
        }
        given
    }

    /// A whole spec of what was given.
    pub(super) fn spec(&self) -> v1::RuleSpec {
        let mut spec = v1::RuleSpec::default();
        self.apply(&mut spec);
        if self.in_all.is_none() {
            spec.in_all = spec.per_node;
        }
        spec
    }
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the rule: 1 to 63 of a-z, 0-9 and '-'
    #[arg(value_name = "RULE")]
    name: RuleName,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Create {
    pub(super) fn request(&self) -> v1::CreateRuleRequest {
        v1::CreateRuleRequest {
            name: self.name.to_string(),
            spec: Some(self.fields.spec()),
        }
    }
}

/// What `rule update --clear` can empty.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Clear {
    /// All DNS names
    Dns,
    /// All foreign trust domains
    FederatesWith,
    /// The hint
    Hint,
}

impl Clear {
    /// The field of the API.
    const fn field(self) -> &'static str {
        match self {
            Self::Dns => "dns_names",
            Self::FederatesWith => "federates_with",
            Self::Hint => "hint",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Name of the rule
    #[arg(value_name = "RULE")]
    pub(super) name: RuleName,
    #[command(flatten)]
    fields: Fields,
    /// Empty a field; repeatable
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Clear>,
    /// Only if the rule is at this version; by default the one that is there
    #[arg(long, value_name = "NUMBER")]
    pub(super) at_version: Option<u64>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Update {
    pub(super) fn request(&self, version: u64) -> Result<v1::UpdateRuleRequest, Failure> {
        let mut spec = v1::RuleSpec::default();
        let mut given = self.fields.apply(&mut spec);
        let empty = self.clear.iter().map(|clear| clear.field());
        // What is given and emptied has what is given.
        given.extend(
            empty
                .filter(|field| !given.contains(field))
                .collect::<Vec<_>>(),
        );
        if given.is_empty() {
            return Err(Failure::usage("nothing to change; give at least one flag"));
        }
        Ok(v1::UpdateRuleRequest {
            name: self.name.to_string(),
            spec: Some(spec),
            mask: Some(prost_types::FieldMask {
                paths: given.into_iter().map(str::to_owned).collect(),
            }),
            version,
        })
    }
}
